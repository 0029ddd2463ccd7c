"""Alarms over HTTP: list and read them, their pictures, acknowledge, reset at the device, the tables of words."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated

from aiohttp import web
from pydantic import AwareDatetime, Field

from gateway.http.channels import ChannelFinder
from gateway.http.errors import not_found
from gateway.http.routes import Call, Model, View, route
from gateway.http.server import note_audit
from gateway.http.views import AnyCode, Page, WhichDevice
from gateway.registry import Registry
from gateway.services.access import Role
from gateway.services.alarms import AlarmService
from gateway.services.alarms_reset import AlarmReset
from gateway.services.alarms_words import DEVICE, EVENTS, METHODS, PRIORITIES, TYPES, V22, Words, describe
from gateway.services.errors import ControlFailed
from gateway.storage.alarms import AlarmFilter, StoredAlarm

CLIP_BEFORE = timedelta(seconds=10)
CLIP_AFTER = timedelta(seconds=30)


class WordsView(View):
    zh: str
    en: str


class RecordingPointer(View):
    """Where the recording of an alarm's camera is: ask the recordings of that channel for this stretch."""

    device_id: str
    channel_id: str
    at: datetime
    start: datetime
    end: datetime


class AlarmView(View):
    alarm_id: str
    device_id: str
    channel_id: str = Field(
        description="The DeviceID of the alarm: the device itself, an alarm input or a camera."
    )
    received_at: datetime
    alarm_at: datetime | None = Field(description="AlarmTime of the device.")
    clock_fault: bool = Field(description="AlarmTime is far from the gateway's time.")
    priority: int | None = Field(description="1 (highest) to 4.")
    method: int | None
    alarm_type: int | None = Field(description="Its meaning depends on the method.")
    event_type: int | None
    text: WordsView = Field(description="What the numbers mean.")
    method_text: WordsView
    priority_text: WordsView
    description: str
    longitude: float | None
    latitude: float | None
    via: str = Field(description="message or notify.")
    repeats: int = Field(description="How often the same alarm came again.")
    last_at: datetime
    suppressed: int = Field(
        description="Other alarms of the device that came too fast after this one to be kept."
    )
    needs_reset: bool = Field(description="Method 2: the device stays silent until it is reset.")
    snapshot: bool = Field(description="A picture was taken at alarm time.")
    recording: RecordingPointer | None
    acknowledged_at: datetime | None
    acknowledged_by: str
    note: str
    reset: str = Field(description="OK when the device was reset, else why not; empty: not asked for.")


class AlarmDetail(AlarmView):
    extra: list[str] = Field(description="Free text that the device added.")
    raw: str = Field(description="The XML as received.")


class AlarmList(View):
    total: int = Field(description="Alarms that match, on all pages.")
    items: list[AlarmView]


class AlarmQuery(Page):
    device_id: AnyCode | None = None
    channel_id: AnyCode | None = None
    method: int | None = Field(default=None, ge=1, le=7)
    alarm_type: int | None = Field(default=None, ge=0, le=255)
    priority_at_most: int | None = Field(default=None, ge=1, le=4, description="2: priorities 1 and 2.")
    acknowledged: bool | None = None
    start: AwareDatetime | None = Field(default=None, description="Received at or after; with a zone.")
    end: AwareDatetime | None = Field(default=None, description="Received before; with a zone.")


class Acknowledgement(Model):
    note: str = Field(default="", max_length=1000)
    reset: bool = Field(
        default=False, description="Send ResetAlarm to the device too; when it fails nothing is acknowledged."
    )


class ResetOrder(Model):
    """Empty lists reset everything the device has."""

    methods: list[Annotated[int, Field(ge=0, le=7)]] = Field(
        default=[], max_length=8, description="0 (all) to 7; several are sent as 1/2."
    )
    types: list[Annotated[int, Field(ge=0, le=255)]] = Field(default=[], max_length=16)


class ResetDone(View):
    """The device answered Result OK."""

    device_id: str
    channel_id: str
    result: str


class TypeWords(WordsView):
    method: int
    alarm_type: int
    since: str = Field(description="2016 or 2022: the first edition that has it.")


class EventWords(WordsView):
    method: int
    alarm_type: int
    event_type: int


class AlarmWords(View):
    """The tables of GB/T 28181 in both languages."""

    priorities: dict[int, WordsView]
    methods: dict[int, WordsView]
    types: list[TypeWords]
    events: list[EventWords]


class AlarmResource:
    def __init__(self, *, registry: Registry, alarms: AlarmService, reset: AlarmReset) -> None:
        self._finder = ChannelFinder(registry)
        self._alarms, self._reset = alarms, reset

    @route("GET", "/api/alarms", summary="List alarms, newest first", role=Role.VIEWER, tag="alarms")
    async def list(self, call: Call, query: AlarmQuery) -> AlarmList:
        wanted = AlarmFilter(
            device_id=query.device_id, channel_id=query.channel_id, method=query.method,
            alarm_type=query.alarm_type, priority_at_most=query.priority_at_most,
            acknowledged=query.acknowledged, start=_utc(query.start), end=_utc(query.end),
        )  # fmt: skip
        total, found = await self._alarms.archive.find(wanted, limit=query.limit, offset=query.offset)
        return AlarmList(total=total, items=[AlarmView(**_fields(alarm)) for alarm in found])

    @route(
        "GET", "/api/alarm-words", summary="What the numbers of alarms mean", role=Role.VIEWER, tag="alarms"
    )
    async def words(self, call: Call) -> AlarmWords:
        return AlarmWords(
            priorities={key: _words(value) for key, value in PRIORITIES.items()},
            methods={key: _words(value) for key, value in METHODS.items()},
            types=[
                TypeWords(
                    zh=value.zh, en=value.en, method=method, alarm_type=number,
                    since="2022" if value.edition is V22 else "2016",
                )
                for (method, number), value in TYPES.items()
            ],
            events=[
                EventWords(zh=value.zh, en=value.en, method=method, alarm_type=number, event_type=event)
                for (method, number, event), value in EVENTS.items()
            ],
        )  # fmt: skip

    @route(
        "GET",
        "/api/alarms/{alarm_id}",
        summary="Show one alarm with its XML",
        role=Role.VIEWER,
        tag="alarms",
        errors=(404,),
    )
    async def show(self, call: Call, alarm_id: AnyCode) -> AlarmDetail:
        return _detail(await self._get(alarm_id))

    @route(
        "GET",
        "/api/alarms/{alarm_id}/snapshot",
        summary="The picture taken at alarm time",
        role=Role.VIEWER,
        tag="alarms",
        produces="image/jpeg",
        errors=(404,),
    )
    async def snapshot(self, call: Call, alarm_id: AnyCode) -> web.StreamResponse:
        alarm = await self._get(alarm_id)
        jpeg = await self._alarms.archive.picture(alarm.alarm_id) if alarm.snapshot else None
        if jpeg is None:
            raise not_found(f"a picture of alarm {alarm_id}")
        return web.Response(body=jpeg, content_type="image/jpeg")

    @route(
        "POST",
        "/api/alarms/{alarm_id}/acknowledge",
        summary="Say that an alarm was seen to, and reset it at the device",
        role=Role.OPERATOR,
        tag="alarms",
        errors=(404, 409, 504),
        audited="alarm.acknowledge",
    )
    async def acknowledge(self, call: Call, alarm_id: AnyCode, body: Acknowledgement) -> AlarmDetail:
        """The same alarm coming again afterwards is a new alarm."""
        alarm = await self._get(alarm_id)
        note_audit(call, target=f"{alarm.device_id}/{alarm.channel_id}", detail=alarm_id)
        reset = ""
        if body.reset:
            try:
                await self._reset.reset(
                    alarm.device_id, alarm.channel_id,
                    methods=[alarm.method] if alarm.method is not None else [],
                    types=[alarm.alarm_type] if alarm.alarm_type is not None else [],
                    who=call.who.name,
                )  # fmt: skip
            except ControlFailed as failure:
                self._alarms.archive.change(alarm_id, reset=failure.cause.value)
                raise
            reset = "OK"
        return _detail(await self._alarms.acknowledge(alarm, who=call.who.name, note=body.note, reset=reset))

    @route(
        "POST",
        "/api/channels/{channel_id}/alarm-reset",
        summary="Reset the alarms of a channel or a device (ResetAlarm)",
        role=Role.OPERATOR,
        tag="alarms",
        errors=(404, 409, 504),
    )
    async def reset(self, call: Call, channel_id: AnyCode, query: WhichDevice, body: ResetOrder) -> ResetDone:
        """Waits for the device's Result. For the device itself give its code twice."""
        device_id, target = self._finder.key(channel_id, query.device_id)
        await self._reset.reset(device_id, target, methods=body.methods, types=body.types, who=call.who.name)
        return ResetDone(device_id=device_id, channel_id=target, result="OK")

    async def _get(self, alarm_id: str) -> StoredAlarm:
        alarm = await self._alarms.archive.get(alarm_id)
        if alarm is None:
            raise not_found(f"alarm {alarm_id}")
        return alarm


def _words(words: Words) -> WordsView:
    return WordsView(zh=words.zh, en=words.en)


def _fields(alarm: StoredAlarm) -> dict[str, object]:
    text = describe(alarm.priority, alarm.method, alarm.alarm_type, alarm.event_type)
    names = AlarmView.model_fields.keys() & StoredAlarm.__dataclass_fields__.keys()
    return {name: getattr(alarm, name) for name in names} | {
        "text": WordsView(zh=text.zh, en=text.en),
        "method_text": _words(text.method),
        "priority_text": _words(text.priority),
        "needs_reset": alarm.method == DEVICE and alarm.reset != "OK",
        "snapshot": bool(alarm.snapshot),
        "recording": _pointer(alarm),
    }


def _pointer(alarm: StoredAlarm) -> RecordingPointer | None:
    """By the device's time, which stamps nothing of ours, only where its clock can be trusted."""
    if not alarm.camera_id:
        return None
    at = alarm.received_at if alarm.clock_fault or alarm.alarm_at is None else alarm.alarm_at
    return RecordingPointer(
        device_id=alarm.device_id,
        channel_id=alarm.camera_id,
        at=at,
        start=at - CLIP_BEFORE,
        end=at + CLIP_AFTER,
    )


def _detail(alarm: StoredAlarm) -> AlarmDetail:
    return AlarmDetail(**_fields(alarm), extra=alarm.extra, raw=alarm.raw)


def _utc(moment: datetime | None) -> datetime | None:
    """The database compares times as UTC."""
    return moment.astimezone(UTC) if moment is not None else None
