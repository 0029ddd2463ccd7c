"""Recordings over HTTP: timeline and gaps of a channel, starting and stopping, events, evidence, deleting files."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime
from typing import Annotated

from pydantic import AwareDatetime, Field, model_validator

from gateway.clock import Clock
from gateway.http.channels import ChannelFinder
from gateway.http.errors import Problem, not_found
from gateway.http.routes import Call, Model, View, route
from gateway.http.server import note_audit
from gateway.http.views import AnyCode, WhichDevice
from gateway.registry import Registry
from gateway.services.access import Role
from gateway.services.recording_parts import Recording
from gateway.storage.recordings import Mark, StoredSegment

MOST_DAYS = 366
LONGEST_ORDER_S = 366 * 86_400
SegmentId = Annotated[str, Field(pattern=r"^[0-9A-Za-z_-]{1,64}$")]
YearMonth = Annotated[str, Field(pattern=r"^20\d\d-(0[1-9]|1[0-2])$")]


class TimeRange(WhichDevice):
    """Query of a part of the timeline."""

    start: AwareDatetime = Field(description="ISO 8601 with zone; included.")
    end: AwareDatetime = Field(description="ISO 8601 with zone; not included.")

    @model_validator(mode="after")
    def _ordered(self) -> TimeRange:
        seconds = (self.end - self.start).total_seconds()
        if not 0 < seconds <= MOST_DAYS * 86_400:
            raise ValueError(f"end must lie after start, by at most {MOST_DAYS} days")
        return self


class RangeView(View):
    start: datetime
    end: datetime
    kinds: list[str] = Field(description="Of: continuous, event, manual.")
    segments: int
    bytes: int
    locked: bool = Field(description="Part of it is evidence that is not deleted by itself.")
    open: bool = Field(description="It is growing.")


class GapView(View):
    start: datetime
    end: datetime
    cause: str = Field(
        description="`no_plan`, `offline`, `no_disk`, `gateway_down`, the reason of a failed play, or `unknown`."
    )


class MarkView(View):
    mark_id: str
    kind: str = Field(description="event or evidence.")
    start: datetime
    end: datetime
    label: str
    locked: bool
    who: str
    created_at: datetime


class TimelineView(View):
    """What is recorded of a channel, and what is not."""

    device_id: str
    channel_id: str
    ranges: list[RangeView]
    gaps: list[GapView] = Field(
        description="Longer than a second; nothing is said of the future. Plans count as they are now."
    )
    marks: list[MarkView]


class SegmentView(View):
    """One recorded file."""

    segment_id: str
    start: datetime
    end: datetime
    kind: str
    storage_class: str
    bytes: int
    frames: int
    video_codec: str
    audio_codec: str
    width: int
    height: int
    complete: bool = Field(description="False: it is being written.")
    cause: str = Field(description="Why it was closed.")
    locked: bool
    disk_id: str
    local: bool
    remote: bool = Field(description="It is in the object storage.")


class SegmentList(View):
    items: list[SegmentView]


class MonthView(View):
    """Seconds recorded in each hour (Beijing time) of the days that have any."""

    month: str
    days: dict[str, list[int]]


class RecordingState(View):
    """What is done for a channel at this moment."""

    device_id: str
    channel_id: str
    kind: str | None = Field(
        description="continuous, manual, event (standby until something happens); null: nothing."
    )
    wanted: str | None = Field(description="What plans and orders want.")
    failure: str = Field(description="Why it is not recorded although it should be.")
    ordered_until: datetime | None = Field(description="End of an operator's order.")


class StartOrder(Model):
    seconds: float | None = Field(
        default=None, gt=0, le=LONGEST_ORDER_S, description="null: until it is stopped."
    )


class EventOrder(Model):
    seconds_before: float = Field(default=0, ge=0, le=300)
    seconds_after: float = Field(default=30, gt=0, le=3600)
    label: str = Field(default="", max_length=255)


class LockOrder(Model):
    start: AwareDatetime
    end: AwareDatetime
    label: str = Field(min_length=1, max_length=255, description="Why it is kept.")


class LockView(MarkView):
    segments: int = Field(description="Files it covers now; files that are entered later are covered too.")


class UrlView(View):
    url: str
    expires_s: int


class RecordingResource:
    """Everything about one channel's recordings and single files."""

    def __init__(self, *, registry: Registry, recording: Recording, clock: Clock | None = None) -> None:
        self._finder = ChannelFinder(registry)
        self._recording = recording
        self._clock = clock or Clock()

    # -- looking ---------------------------------------------------------------------------------------------

    @route(
        "GET",
        "/api/channels/{channel_id}/recordings",
        summary="Timeline: recorded ranges, gaps with their cause, marks",
        role=Role.VIEWER,
        tag="recordings",
        errors=(404, 409),
    )
    async def timeline(self, call: Call, channel_id: AnyCode, query: TimeRange) -> TimelineView:
        key = self._finder.key(channel_id, query.device_id)
        found = await self._recording.timeline.timeline(*key, query.start.timestamp(), query.end.timestamp())
        return TimelineView(
            device_id=key[0],
            channel_id=key[1],
            ranges=[
                RangeView(
                    start=_time(r.start), end=_time(r.end), kinds=list(r.kinds), segments=r.segments,
                    bytes=r.bytes, locked=r.locked, open=r.open,
                )
                for r in found.ranges
            ],
            gaps=[GapView(start=_time(g.start), end=_time(g.end), cause=g.cause) for g in found.gaps],
            marks=[_mark(mark) for mark in found.marks],
        )  # fmt: skip

    @route(
        "GET",
        "/api/channels/{channel_id}/recordings/segments",
        summary="The recorded files of a time range",
        role=Role.VIEWER,
        tag="recordings",
        errors=(404, 409),
    )
    async def segments(self, call: Call, channel_id: AnyCode, query: TimeRange) -> SegmentList:
        key = self._finder.key(channel_id, query.device_id)
        found = await self._recording.timeline.segments(*key, query.start.timestamp(), query.end.timestamp())
        return SegmentList(items=[_segment(segment) for segment in found])

    @route(
        "GET",
        "/api/channels/{channel_id}/recordings/months/{month}",
        summary="Which hours of a month are recorded",
        role=Role.VIEWER,
        tag="recordings",
        errors=(404, 409),
    )
    async def month(self, call: Call, channel_id: AnyCode, month: YearMonth, query: WhichDevice) -> MonthView:
        key = self._finder.key(channel_id, query.device_id)
        year, number = month.split("-")
        return MonthView(month=month, days=await self._recording.timeline.month(*key, int(year), int(number)))

    @route(
        "GET",
        "/api/channels/{channel_id}/recordings/state",
        summary="Whether a channel is recorded now",
        role=Role.VIEWER,
        tag="recordings",
        errors=(404, 409),
    )
    async def state(self, call: Call, channel_id: AnyCode, query: WhichDevice) -> RecordingState:
        return self._state(self._finder.key(channel_id, query.device_id))

    # -- orders ----------------------------------------------------------------------------------------------

    @route(
        "POST",
        "/api/channels/{channel_id}/recordings/start",
        summary="Record a channel now, whatever its plan says",
        role=Role.OPERATOR,
        status=202,
        tag="recordings",
        errors=(404, 409),
        audited="recording.start",
    )
    async def start(
        self, call: Call, channel_id: AnyCode, query: WhichDevice, body: StartOrder
    ) -> RecordingState:
        """Returns at once; the order outlives a restart of the gateway and of the camera."""
        key = self._finder.key(channel_id, query.device_id)
        seconds = LONGEST_ORDER_S if body.seconds is None else body.seconds
        note_audit(call, detail="until stopped" if body.seconds is None else f"seconds: {seconds:g}")
        await self._recording.service.order(key, seconds)
        return self._state(key)

    @route(
        "POST",
        "/api/channels/{channel_id}/recordings/stop",
        summary="Withdraw an order to record; a plan goes on",
        role=Role.OPERATOR,
        status=202,
        tag="recordings",
        errors=(404, 409),
        audited="recording.stop",
    )
    async def stop(self, call: Call, channel_id: AnyCode, query: WhichDevice) -> RecordingState:
        key = self._finder.key(channel_id, query.device_id)
        if not await self._recording.service.withdraw(key):
            raise Problem(409, "there is no order to record this channel", cause="not_ordered")
        return self._state(key)

    @route(
        "POST",
        "/api/channels/{channel_id}/recordings/event",
        summary="Record an event, with the seconds before it where the channel stands by",
        role=Role.OPERATOR,
        status=201,
        tag="recordings",
        errors=(404, 409),
        audited="recording.event",
    )
    async def event(self, call: Call, channel_id: AnyCode, query: WhichDevice, body: EventOrder) -> MarkView:
        """The event is marked on the timeline. A channel without a plan is recorded from now on only."""
        key = self._finder.key(channel_id, query.device_id)
        mark = await self._recording.service.event(
            key,
            seconds_before=body.seconds_before,
            seconds_after=body.seconds_after,
            label=body.label,
            who=call.who.name,
        )
        return _mark(mark)

    # -- evidence --------------------------------------------------------------------------------------------

    @route(
        "POST",
        "/api/channels/{channel_id}/recordings/locks",
        summary="Keep a time range as evidence",
        role=Role.OPERATOR,
        status=201,
        tag="recordings",
        errors=(404, 409),
        audited="recording.lock",
    )
    async def lock(self, call: Call, channel_id: AnyCode, query: WhichDevice, body: LockOrder) -> LockView:
        """Files with something of the range in them are not deleted, neither by age nor for room."""
        key = self._finder.key(channel_id, query.device_id)
        if body.end <= body.start:
            raise Problem(422, "end must lie after start", cause="invalid_input", field="end")
        note_audit(call, detail=f"{body.start.isoformat()} to {body.end.isoformat()}: {body.label}")
        mark = Mark(
            secrets.token_hex(8), *key, "evidence", body.start.timestamp(), body.end.timestamp(), body.label,
            True, call.who.name, self._clock.utc(),
        )  # fmt: skip
        await self._recording.index.flush()
        covered = await self._recording.store.put_mark(mark)
        return LockView(**_mark(mark).model_dump(), segments=covered)

    @route(
        "DELETE",
        "/api/recordings/marks/{mark_id}",
        summary="Take a mark away; what only it kept may be deleted when its time has come",
        role=Role.OPERATOR,
        status=204,
        tag="recordings",
        errors=(404,),
        audited="recording.unlock",
    )
    async def unlock(self, call: Call, mark_id: SegmentId) -> None:
        mark = await self._recording.store.mark(mark_id)
        if mark is None:
            raise not_found(f"mark {mark_id}")
        note_audit(call, detail=f"{mark.kind} of channel {mark.channel_id}: {mark.label}")
        await self._recording.store.remove_mark(mark)

    # -- single files ----------------------------------------------------------------------------------------

    @route(
        "DELETE",
        "/api/recordings/segments/{segment_id}",
        summary="Delete a recorded file before its time",
        role=Role.ADMINISTRATOR,
        status=204,
        tag="recordings",
        errors=(404, 409),
        audited="recording.delete",
    )
    async def delete(self, call: Call, segment_id: SegmentId) -> None:
        """409 `locked` for evidence (take the mark away first), 409 `open` while it is being written."""
        segment = await self._segment(segment_id)
        info = segment.info
        note_audit(
            call, detail=f"channel {info.channel_id}, {_time(info.start).isoformat()}, {info.bytes} bytes"
        )
        if segment.locked:
            raise Problem(409, "the file is kept as evidence", cause="locked")
        if not info.complete:
            raise Problem(409, "the file is being written", cause="open")
        removed = await self._recording.retention.remove([segment], "operator")
        if not removed.segments:
            raise Problem(
                409, "the file cannot be deleted: its disk or storage does not answer", cause="unreachable"
            )

    @route(
        "GET",
        "/api/recordings/segments/{segment_id}/url",
        summary="A signed address of an uploaded file",
        role=Role.VIEWER,
        tag="recordings",
        errors=(404, 503),
        audited="recording.url",
    )
    async def url(self, call: Call, segment_id: SegmentId) -> UrlView:
        """Straight from the object storage, with Range; runs out by itself."""
        segment = await self._segment(segment_id)
        if not segment.remote_key or self._recording.objects is None:
            raise not_found(f"an uploaded copy of {segment_id}", cause="not_uploaded")
        try:
            url, lifetime_s = await self._recording.objects.url(segment.remote_key)
        except OSError as error:
            raise Problem(503, "the object storage does not answer", cause="storage_unavailable") from error
        return UrlView(url=url, expires_s=lifetime_s)

    async def _segment(self, segment_id: str) -> StoredSegment:
        found = await self._recording.store.segment(segment_id)
        if found is None:
            raise not_found(f"segment {segment_id}")
        return found

    def _state(self, key: tuple[str, str]) -> RecordingState:
        service = self._recording.service
        one, desired = service.state_of(key), service.wishes.desired.get(key)
        until = service.wishes.ordered_until(key)
        wanted = "manual" if until is not None else desired.kind if desired is not None else None
        return RecordingState(
            device_id=key[0],
            channel_id=key[1],
            kind=one.running.kind if one is not None and one.running is not None else None,
            wanted=wanted,
            failure=one.failure if one is not None and one.running is None and wanted is not None else "",
            ordered_until=None if until is None else _time(until),
        )


def _time(unix: float) -> datetime:
    return datetime.fromtimestamp(unix, UTC)


def _mark(mark: Mark) -> MarkView:
    return MarkView(
        mark_id=mark.mark_id, kind=mark.kind, start=_time(mark.start), end=_time(mark.end), label=mark.label,
        locked=mark.locked, who=mark.who, created_at=mark.created_at,
    )  # fmt: skip


def _segment(segment: StoredSegment) -> SegmentView:
    info = segment.info
    return SegmentView(
        segment_id=info.segment_id, start=_time(info.start), end=_time(info.end), kind=info.kind,
        storage_class=info.storage_class, bytes=info.bytes, frames=info.frames, video_codec=info.video_codec,
        audio_codec=info.audio_codec, width=info.width, height=info.height, complete=info.complete,
        cause=info.cause, locked=segment.locked, disk_id=info.disk_id, local=segment.local,
        remote=bool(segment.remote_key),
    )  # fmt: skip
