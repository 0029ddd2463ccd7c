"""Recordings in devices over HTTP: what there is of a channel, told while the device answers, and how much of it is missing."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Literal

from aiohttp import web
from pydantic import AwareDatetime, Field, model_validator

from gateway.http.channels import ChannelFinder
from gateway.http.errors import STREAMING
from gateway.http.routes import Call, Model, View, route
from gateway.http.server import add_security_headers
from gateway.http.views import AnyCode, WhichDevice
from gateway.registry import Registry
from gateway.services.access import Role
from gateway.services.device_playback_choice import GAP_S
from gateway.services.device_records import DeviceRecords, RecordFilter, RecordSearch, stretches
from sip.manscdp import RecordItem

LONGEST = timedelta(days=366)
NDJSON = "application/x-ndjson"


class RecordsQuery(WhichDevice):
    """A range, and what of it."""

    start: AwareDatetime = Field(description="ISO 8601 with zone.")
    end: AwareDatetime
    type: Literal["all", "time", "alarm", "manual"] = "all"
    secrecy: Literal[0, 1] | None = None
    file_path: str = Field(default="", max_length=256)
    address: str = Field(default="", max_length=256, description="Part of it.")
    recorder_id: str = Field(default="", max_length=32)
    indistinct: Literal[0, 1] | None = Field(
        default=None, description="1: a platform below searches its devices and its own storage."
    )
    stream_number: int | None = Field(default=None, ge=0, le=255, description="Devices of 2022 only.")
    alarm_method: str = Field(default="", max_length=32, description="Devices of 2022 only.")
    alarm_type: str = Field(default="", max_length=32, description="Devices of 2022 only.")

    @model_validator(mode="after")
    def _sensible(self) -> RecordsQuery:
        if self.end <= self.start:
            raise ValueError("end must lie after start")
        if self.end - self.start > LONGEST:
            raise ValueError(f"end lies more than {LONGEST.days} days after start")
        return self

    @property
    def wish(self) -> RecordFilter:
        return RecordFilter(
            type=self.type, secrecy=self.secrecy, file_path=self.file_path, address=self.address,
            recorder_id=self.recorder_id, indistinct=self.indistinct, stream_number=self.stream_number,
            alarm_method=self.alarm_method, alarm_type=self.alarm_type,
        )  # fmt: skip


class RecordView(View):
    """One recorded file in a device."""

    start: datetime
    end: datetime
    name: str
    type: str = Field(description="time, alarm or manual.")
    file_path: str
    file_size: int | None = Field(description="Bytes; null: the device does not say.")
    address: str
    secrecy: int
    recorder_id: str
    location: str = Field(description="Who holds it, where a platform below searched in several places.")
    stream_number: int | None


class Span(Model):
    start: datetime
    end: datetime


class RecordsView(View):
    """What a device has recorded of a channel."""

    device_id: str
    channel_id: str
    start: datetime
    end: datetime
    records: list[RecordView] = Field(description="Sorted by start; each once, as the device cut them.")
    covered: list[Span] = Field(description="What they cover together, overlaps merged.")
    gaps: list[Span] = Field(description="Pieces of more than 60 s without a recording, until now at most.")
    covered_s: float
    complete: bool
    incomplete: list[str] = Field(description="Pieces that the device did not answer whole, and why.")
    announced: int = Field(description="The largest SumNum seen.")
    repeated: int
    faulty: int = Field(description="Entries without usable times, or outside the range.")


class DeviceRecordingResource:
    def __init__(self, *, registry: Registry, records: DeviceRecords) -> None:
        self._finder = ChannelFinder(registry)
        self._records = records

    @route(
        "GET",
        "/api/channels/{channel_id}/device-recordings",
        summary="What a device has recorded of a channel",
        role=Role.VIEWER,
        tag="device recordings",
        errors=(404, 409, 422, 502, 504),
        audited="device_records.search",
    )
    async def records(self, call: Call, channel_id: AnyCode, query: RecordsQuery) -> RecordsView:
        """Asks the device (RecordInfo); the same question of several users is asked once.

        504 `no_answer`: the device said nothing; one that stops in the middle gives what came, with `complete` false.
        """
        search = self._search(call, channel_id, query)
        await self._records.wait(search)
        return _view(search)

    @route(
        "GET",
        "/api/channels/{channel_id}/device-recordings/stream",
        summary="What a device has recorded of a channel, told while it answers",
        role=Role.VIEWER,
        tag="device recordings",
        produces=NDJSON,
        errors=(404, 409, 422),
        audited="device_records.search",
    )
    async def stream(self, call: Call, channel_id: AnyCode, query: RecordsQuery) -> web.StreamResponse:
        """Lines of JSON: each has the `records` that are new (in the order they came), `searched_until`, `found`,
        `announced` and `done`; the last one has a `summary` as the plain answer without its records, and `error`.

        A client that leaves does not end the search.
        """
        search = self._search(call, channel_id, query)
        response = web.StreamResponse(headers={"Content-Type": NDJSON, "Cache-Control": "no-store"})
        add_security_headers(response, call.request.path)
        call.request[STREAMING] = True
        await response.prepare(call.request)
        told: set[int] = set()
        async for state in self._records.follow(search):
            fresh = [item for item in state.items if id(item) not in told]
            told |= {id(item) for item in fresh}
            line: dict[str, object] = {
                "records": [_record(item).model_dump(mode="json") for item in fresh],
                "searched_until": state.searched_until.isoformat() if state.searched_until else None,
                "found": len(state.items),
                "announced": state.sum_num,
                "done": state.done,
            }
            if state.done:
                summary = _view(state).model_dump(mode="json", exclude={"records"})
                error = (
                    None
                    if state.failure is None
                    else {"cause": state.failure.cause, "detail": str(state.failure)}
                )
                line |= {"summary": summary, "error": error}
            await response.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
        await response.write_eof()
        return response

    def _search(self, call: Call, channel_id: str, query: RecordsQuery) -> RecordSearch:
        key = self._finder.key(channel_id, query.device_id)
        call.audit_detail = f"{query.start.isoformat()} {query.end.isoformat()}"
        return self._records.search(*key, query.start.astimezone(UTC), query.end.astimezone(UTC), query.wish)


def _record(item: RecordItem) -> RecordView:
    assert item.start_time is not None  # noqa: S101
    assert item.end_time is not None  # noqa: S101
    return RecordView(
        start=item.start_time,
        end=item.end_time,
        name=item.name,
        type=item.type,
        file_path=item.file_path,
        file_size=item.file_size,
        address=item.address,
        secrecy=item.secrecy,
        recorder_id=item.recorder_id,
        location=item.record_location,
        stream_number=item.stream_number,
    )


def _view(search: RecordSearch) -> RecordsView:
    key = search.key
    covered = [(max(a, key.start), min(b, key.end)) for a, b in stretches(search.items)]
    return RecordsView(
        device_id=key.device_id,
        channel_id=key.channel_id,
        start=key.start,
        end=key.end,
        records=[_record(item) for item in search.items],
        covered=[Span(start=a, end=b) for a, b in covered],
        gaps=[Span(start=a, end=b) for a, b in gaps(covered, key.start, min(key.end, datetime.now(UTC)))],
        covered_s=sum((b - a).total_seconds() for a, b in covered),
        complete=search.complete,
        incomplete=search.incomplete,
        announced=search.sum_num,
        repeated=search.repeated,
        faulty=search.faulty,
    )


def gaps(
    covered: list[tuple[datetime, datetime]], start: datetime, end: datetime
) -> list[tuple[datetime, datetime]]:
    """Pieces longer than a minute that sorted stretches leave out (G140)."""
    found, reached = [], start
    for begin, stop in [*covered, (end, end)]:
        if (min(begin, end) - reached).total_seconds() > GAP_S:
            found.append((reached, min(begin, end)))
        reached = max(reached, stop)
    return found
