"""What a simulated device tells by itself: alarms, where it is, where its cameras look; in subscriptions or by MESSAGE."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Literal, Protocol

from simulator.condition import Condition
from sip.endpoint import Incoming, NotifierSubscription
from sip.errors import RemoteError
from sip.manscdp import (
    AlarmNotify,
    AlarmQuery,
    Body,
    DeviceControl,
    Edition,
    MobilePositionNotify,
    MobilePositionQuery,
    PositionItem,
    PTZPositionNotify,
    PTZPositionResponse,
    decode,
)
from sip.message import Response

Via = Literal["auto", "message", "notify", "both"]
"""auto: in the subscription where there is one, else by MESSAGE."""
SILENT_AFTER = 2
"""Alarm method after which a device says nothing of a channel until it is reset (A.2.5.3)."""
MAX_RECORDED = 10_000


class Teller(Protocol):
    """The device (simulator.device.SimulatedDevice)."""

    device_id: str
    condition: Condition
    subscriptions: dict[str, NotifierSubscription]

    def next_sn(self) -> int: ...

    def encoded(self, body: Body) -> bytes: ...

    async def send(self, body: Body) -> Response | None: ...

    @property
    def edition(self) -> Edition: ...


class Notices:
    """Alarms and positions of one device. ``refused`` holds kinds of subscription (lower case) answered with 489.

    ``resets`` are the ResetAlarm commands that came; ``reset_result`` is what they are answered with. ``filters``
    are the bodies of the SUBSCRIBEs; a subscriber gets only the alarms it asked for.
    """

    def __init__(self, device: Teller) -> None:
        self._device = device
        self.refused: set[str] = set()
        self.filters: dict[str, Body] = {}
        self.resets: deque[DeviceControl] = deque(maxlen=MAX_RECORDED)
        self.reset_result = "OK"
        self.silent: set[str] = set()
        """Channels that wait for a reset."""
        self._moving: set[asyncio.Task[None]] = set()

    def close(self) -> None:
        for task in self._moving:
            task.cancel()

    # -- alarms ----------------------------------------------------------------------------------------------

    async def alarm(
        self,
        channel_id: str,
        *,
        method: int = 5,
        alarm_type: int | None = 2,
        event_type: int | None = None,
        priority: int = 4,
        description: str = "",
        at: datetime | None = None,
        longitude: float | None = None,
        latitude: float | None = None,
        via: Via = "auto",
    ) -> Response | None:
        """Raise an alarm; None when nobody took it, or the channel waits for its reset."""
        if channel_id in self.silent:
            return None
        body = AlarmNotify(
            sn=self._device.next_sn(),
            device_id=channel_id,
            alarm_priority=priority,
            alarm_method=method,
            alarm_time=at or datetime.now(UTC),
            description=description,
            longitude=longitude,
            latitude=latitude,
            alarm_type=alarm_type,
            event_type=event_type,
        )
        if method == SILENT_AFTER:
            self.silent.add(channel_id)
        return await self.tell("alarm", body, via)

    def control(self, body: DeviceControl) -> str:
        """The Result of a ResetAlarm, "" for other commands."""
        if not body.alarm_cmd:
            return ""
        self.resets.append(body)
        if self.reset_result == "OK":
            (self.silent.clear if body.device_id == self._device.device_id else self._heard(body.device_id))()
        return self.reset_result

    def _heard(self, channel_id: str) -> Callable[[], None]:
        return lambda: self.silent.discard(channel_id)

    # -- positions -------------------------------------------------------------------------------------------

    async def position(
        self,
        longitude: float,
        latitude: float,
        *,
        device_id: str = "",
        at: datetime | None = None,
        speed: float | None = None,
        direction: float | None = None,
        named: bool = False,
        via: Via = "auto",
    ) -> Response | None:
        """Say where the device (or one of its channels) is: flat in 2016, as a list in 2022.

        ``named``: the flat form with a DeviceID, as most devices of 2016 write it.
        """
        now, sn, who = at or datetime.now(UTC), self._device.next_sn(), device_id or self._device.device_id
        if self._device.edition is Edition.V2016:
            body = MobilePositionNotify(
                sn=sn, device_id=who if named else "", time=now, longitude=longitude, latitude=latitude,
                speed=speed, direction=direction,
            )  # fmt: skip
        else:
            item = PositionItem(
                device_id=who, capture_time=now, longitude=longitude, latitude=latitude, speed=speed,
                direction=direction,
            )  # fmt: skip
            body = MobilePositionNotify(
                sn=sn, device_id=self._device.device_id, time=now, sum_num=1, items=[item]
            )
        return await self.tell("mobileposition", body, via)

    def follow(self, track: Iterable[tuple[float, float]], *, every_s: float | None = None) -> None:
        """Move along points, one report for each; ``every_s`` None: the subscriber's interval."""
        task = asyncio.create_task(self._follow(list(track), every_s))
        self._moving.add(task)
        task.add_done_callback(self._moving.discard)

    async def _follow(self, track: list[tuple[float, float]], every_s: float | None) -> None:
        for longitude, latitude in track:
            await self.position(longitude, latitude)
            query = self.filters.get("mobileposition")
            asked = query.interval if isinstance(query, MobilePositionQuery) else None
            await asyncio.sleep(every_s if every_s is not None else asked or 5)

    async def turned(
        self, channel_id: str, *, pan: float, tilt: float, zoom: float = 1.0, via: Via = "auto"
    ) -> Response | None:
        """A camera looks elsewhere (2022)."""
        self._device.condition.of(channel_id).aim = PTZPositionResponse(pan=pan, tilt=tilt, zoom=zoom)
        body = PTZPositionNotify(
            sn=self._device.next_sn(), device_id=channel_id, pan=pan, tilt=tilt, zoom=zoom
        )
        return await self.tell("ptzposition", body, via)

    # -- how ----------------------------------------------------------------------------------------------

    def subscribed(self, kind: str, body: Body | None) -> bool:
        """A SUBSCRIBE came; False: refuse it."""
        if kind in self.refused or (kind == "ptzposition" and self._device.edition is Edition.V2016):
            return False
        if body is not None:
            self.filters[kind] = body
        return True

    async def tell(self, kind: str, body: Body, via: Via) -> Response | None:
        """Send a body as said; None when no answer came or there is no subscription for it."""
        told = None
        if via != "message":
            told = await self._notify(kind, body)
        if via in ("message", "both") or (via == "auto" and told is None):
            return await self._device.send(body)
        return told

    async def _notify(self, kind: str, body: Body) -> Response | None:
        subscription = self._device.subscriptions.get(kind)
        if subscription is None or not subscription.active or not self._asked_for(kind, body):
            return None
        try:
            return await subscription.notify(self._device.encoded(body))
        except RemoteError:
            return None

    def _asked_for(self, kind: str, body: Body) -> bool:
        query = self.filters.get(kind)
        if not isinstance(query, AlarmQuery) or not isinstance(body, AlarmNotify):
            return True
        last = query.end_alarm_priority or 4
        methods = set(query.alarm_method) - {"0"}
        return (body.alarm_priority or 4) <= last and (not methods or str(body.alarm_method) in methods)


def kind_of_subscription(incoming: Incoming, body: Body | None) -> str:
    """catalog, alarm, mobileposition or ptzposition: by the body, else by the Event header."""
    if body is None and incoming.request.body.strip():
        body = decode(incoming.request.body).body
    if body is not None:
        return body.cmd_type.lower()
    event = incoming.request.headers.get("Event").partition(";")[0].strip().lower()
    return event if event in ("alarm", "mobileposition", "ptzposition") else "catalog"
