"""Playing recordings that are in the device: one dialog per user, moved and paused by MANSRTSP inside it (9.8, annex B).

The pictures go through a media node to all outputs, like live ones; the node brings their times to those of the
playing. A refusal of the device is told to whoever asked.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from config.settings import PlaybackSettings
from gateway.errors import NotSupported
from gateway.model import Device, SessionKind, SessionState
from gateway.registry import Registry
from gateway.services.device_playback_end import HistoryEnds
from gateway.services.errors import ControlCause, ControlFailed, PlayCause, PlayFailed
from gateway.services.playback import Playback, Wish
from gateway.services.session_record import DeviceHistory, LiveKey, LiveSession
from media.specs import InputControl, PlayPosition
from sip import mansrtsp
from sip.errors import ParseError, TransactionTimeout, TransportFailed
from sip.manscdp import Edition
from sip.mansrtsp import PlayAnswer, PlayControl
from sip.message import Response

log = logging.getLogger(__name__)

INFO_TIMEOUT_S = 8.0
TEARDOWN_TIMEOUT_S = 1.5
PLACE_TRUST_S = 60.0
"""A place in an answer that is farther from the one asked for means something else to that device."""
_KEY_FROM = 1_000_000
"""Session numbers below those of our own recordings (services/playback.py)."""


class HistoryOpener(Protocol):
    """What is needed of gateway.services.sessions.Sessions."""

    def open_history(self, key: LiveKey, prepare: Callable[[LiveSession], None]) -> LiveSession: ...

    def end(self, session: LiveSession, cause: str) -> asyncio.Task[None]: ...


@dataclass(slots=True, eq=False)
class DevicePlayback(Playback):
    """One user's playing of a recording in a device. ``bytes`` is what the device announced, 0 when nothing."""

    device: Device
    paused: bool = False
    cseq: int = 0
    order: asyncio.Lock = field(default_factory=asyncio.Lock)
    on_over: Callable[[LiveSession], None] | None = None

    def next_cseq(self) -> int:
        self.cseq += 1
        return self.cseq


class DevicePlaybacks:
    """All playings of devices' recordings. ``counts`` of orders: obeyed, refused, silent."""

    def __init__(
        self, *, settings: PlaybackSettings, registry: Registry, sessions: HistoryOpener, ends: HistoryEnds
    ) -> None:
        self._settings = settings
        self._registry = registry
        self._sessions = sessions
        self._ends = ends
        self._playbacks: dict[str, DevicePlayback] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._numbers = itertools.count(_KEY_FROM)
        self.on_over: Callable[[LiveSession], None] | None = None
        """Hears that a device has sent all of a recording."""
        self.opened = 0
        self.orders: dict[str, int] = {"obeyed": 0, "refused": 0, "silent": 0}

    def possible(self, device_id: str, channel_id: str) -> bool:
        """Whether the device of this channel can be asked for a recording now."""
        device = self._registry.devices.get(device_id)
        known = channel_id == device_id or self._registry.channel(device_id, channel_id) is not None
        return device is not None and device.online and not device.local and known

    def get(self, session_id: str) -> DevicePlayback | None:
        self._forget_ended()
        return self._playbacks.get(session_id)

    def open_now(self, owner: str | None = None) -> list[DevicePlayback]:
        """Those of one owner, or all."""
        self._forget_ended()
        return [found for found in self._playbacks.values() if owner is None or found.owner == owner]

    def _forget_ended(self) -> None:
        ended = [key for key, p in self._playbacks.items() if p.session.info.state is SessionState.ENDED]
        for key in ended:
            self._ends.remove(self._playbacks.pop(key).session)

    # -- opening ---------------------------------------------------------------------------------------------

    async def open(self, wish: Wish, owner: str) -> DevicePlayback:
        """INVITE the device to play; returns when the first picture is there. Each playing has a dialog of its own.

        Raises PlayFailed (busy: the device's limit, or ours), NotSupported for backward with an old device.
        """
        device = self._registry.devices.get(wish.device_id)
        if device is None:
            raise PlayFailed(PlayCause.NOT_FOUND, f"device {wish.device_id} is not known")
        _check_edition(device, wish.speed)
        self._check_room(owner)
        session = self._begin(wish)
        playback = DevicePlayback(session, owner, wish.start, wish.end, 0, device)
        try:
            await asyncio.shield(session.opening)
            playback.bytes = session.filesize or 0
            self._playbacks[session.session_id] = playback
            self.opened += 1
            if wish.speed != 1:
                await self.control(playback, InputControl(speed=wish.speed))
        except BaseException:
            self._sessions.end(session, "cancelled")
            self._ends.remove(session)
            raise
        return playback

    def _begin(self, wish: Wish) -> LiveSession:
        start = math.floor(wish.start)
        download = round(wish.delivery) if wish.kind is SessionKind.DOWNLOAD else None
        history = DeviceHistory(start, max(start + 1, math.ceil(wish.end)), download_speed=download)

        def prepare(session: LiveSession) -> None:
            session.history = history
            session.info.kind = wish.kind
            session.idle_grace_s = self._settings.idle_grace_s
            session.on_request = lambda incoming: self._ends.in_dialog(session, incoming)
            self._ends.add(session, lambda what: self._over(session))

        key = (wish.device_id, wish.channel_id, -next(self._numbers))
        return self._sessions.open_history(key, prepare)

    def _over(self, session: LiveSession) -> None:
        if self.on_over is not None:
            self.on_over(session)

    def _check_room(self, owner: str) -> None:
        own, settings = len(self.open_now(owner)), self._settings
        if own >= settings.most_per_user:
            raise PlayFailed(PlayCause.BUSY, f"{own} playbacks of {owner} are open", open_streams=own)
        if len(self._playbacks) >= settings.most:
            raise PlayFailed(PlayCause.BUSY, f"{len(self._playbacks)} playbacks are open")

    def close(self, playback: Playback, cause: str) -> asyncio.Task[None]:
        """TEARDOWN, then BYE to the device (B.2.6)."""
        self._ends.remove(playback.session)
        task = asyncio.create_task(self._close(playback, cause), name=f"teardown-{playback.session.key[1]}")
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
        return task

    async def _close(self, playback: Playback, cause: str) -> None:
        dialog = playback.session.dialog
        if dialog is not None and not dialog.ended.done() and isinstance(playback, DevicePlayback):
            order = mansrtsp.teardown(playback.next_cseq())
            try:
                await dialog.request(
                    "INFO",
                    body=order.to_bytes(),
                    content_type=mansrtsp.CONTENT_TYPE,
                    timeout_s=TEARDOWN_TIMEOUT_S,
                )
            except (TransactionTimeout, TransportFailed) as error:
                log.info("teardown unanswered call_id=%s error=%s", playback.session.info.call_id, error)
        await asyncio.shield(self._sessions.end(playback.session, cause))

    async def stop(self) -> None:
        """Let go of orders that nobody answered; the sessions end with all others."""
        for task in self._closing:
            task.cancel()
        await asyncio.gather(*self._closing, return_exceptions=True)

    # -- orders ----------------------------------------------------------------------------------------------

    async def control(self, playback: DevicePlayback, control: InputControl) -> PlayPosition:
        """Pause, resume, move, play at another speed; one order after the other.

        Raises ControlFailed with the device's refusal (409) or silence (504), NotSupported, PlayFailed(node_down),
        MediaError.
        """
        if control == InputControl():
            return await self._tell_node(playback, control)
        if control.speed is not None:
            _check_edition(playback.device, control.speed)
        async with playback.order:
            place, speed = control.position_s, control.speed
            for order in orders_of(control, playback):
                answer = await self._obeyed(playback, order)
                if answer is None:
                    continue
                if answer.scale and order.scale is not None:
                    speed = answer.scale
                if place is not None and order.range is not None and answer.range is not None:
                    told = answer.range.start
                    place = told if told is not None and abs(told - place) < PLACE_TRUST_S else place
            return await self._obeyed_so(playback, control, place, speed)

    async def _obeyed_so(
        self, playback: DevicePlayback, control: InputControl, place: float | None, speed: float | None
    ) -> PlayPosition:
        """The node has to know: pictures come at another pace, from another place, or not at all."""
        self._ends.revive(playback.session)
        if control.paused is not None:
            playback.paused = control.paused
        length = playback.end - playback.start
        update = InputControl(
            paused=control.paused,
            speed=None if speed is None else min(8.0, max(-8.0, speed)),
            position_s=None if place is None else min(place, length),
        )
        return await self._tell_node(playback, update)

    async def _tell_node(self, playback: DevicePlayback, control: InputControl) -> PlayPosition:
        session = playback.session
        if session.node is None or not session.node.alive:
            raise PlayFailed(PlayCause.NODE_DOWN, "the media node of this playback is gone")
        position = await session.node.client.control_input(session.stream_id, control)
        ended = position.ended or self._ends.over(session)
        return position.model_copy(update={"ended": ended})

    async def _obeyed(self, playback: DevicePlayback, order: PlayControl) -> PlayAnswer | None:
        """Send an order; its answer, None when it has no body that can be read (G249). Raises ControlFailed."""
        response = await self._info(playback, order.to_bytes())
        refusal, answer = _verdict(response)
        if refusal:
            self.orders["refused"] += 1
            raise ControlFailed(ControlCause.REJECTED, refusal, device_status=response.status)
        self.orders["obeyed"] += 1
        log.info(
            "device obeys playback device=%s call_id=%s method=%s scale=%s range=%s",
            *(
                playback.device.device_id,
                playback.session.info.call_id,
                order.method,
                order.scale,
                order.range,
            ),
        )
        return answer

    async def _info(self, playback: DevicePlayback, body: bytes) -> Response:
        dialog = playback.session.dialog
        if dialog is None or dialog.ended.done():
            raise ControlFailed(ControlCause.NOT_FOUND, "the device has ended this playback")
        try:
            return await dialog.request(
                "INFO", body=body, content_type=mansrtsp.CONTENT_TYPE, timeout_s=INFO_TIMEOUT_S
            )
        except TransactionTimeout as error:
            self.orders["silent"] += 1
            raise ControlFailed(
                ControlCause.NO_ANSWER, "the device did not answer the order", device_status=408
            ) from error
        except TransportFailed as error:
            raise ControlFailed(ControlCause.DEVICE_OFFLINE, f"could not be sent: {error}") from error

    async def relay(self, playback: DevicePlayback, control: PlayControl, body: bytes) -> Response:
        """Pass an upper's INFO on as it is; the device's answer (F.4, G247). Raises ControlFailed."""
        async with playback.order:
            response = await self._info(playback, body)
            refusal, answer = _verdict(response)
            if refusal or control.method == "TEARDOWN":
                return response
            place = control.range.start if control.range is not None else None
            speed = answer.scale if answer is not None and answer.scale else control.scale
            asked = InputControl(paused=control.method == "PAUSE")
            await self._obeyed_so(playback, asked, place, speed)
            return response


def _check_edition(device: Device, speed: float) -> None:
    """Raises NotSupported: backward came with 2022 (B.2.8, G243)."""
    if speed < 0 and Edition.from_header(device.edition) is Edition.V2016:
        raise NotSupported(
            f"playing backward needs GB/T 28181-2022; {device.device_id} speaks {device.edition or '2.0'}"
        )


def orders_of(control: InputControl, playback: DevicePlayback) -> list[PlayControl]:
    """The MANSRTSP requests for a change (B.2.2 to B.2.8): a forward Scale goes without Range, a Range without Scale."""
    orders: list[PlayControl] = []
    number = playback.next_cseq
    place, speed = control.position_s, control.speed
    if speed is not None and speed < 0:
        orders.append(mansrtsp.reverse(number(), speed, place, control.until_s))
    else:
        if place is not None:
            orders.append(mansrtsp.seek(number(), round(place, 3)))
        if speed is not None:
            orders.append(mansrtsp.speed(number(), speed))
    if control.paused is False and (playback.paused or not orders) and place is None:
        orders.insert(0, mansrtsp.resume(number()))
    if control.paused or (control.paused is None and playback.paused and orders):
        orders.append(mansrtsp.pause(number()))
    return orders


def _verdict(response: Response) -> tuple[str, PlayAnswer | None]:
    """Why the device refused ("": it did not), and what its body says. An empty or odd body of a 2xx is a yes (G249)."""
    if response.status >= 300:
        return f"the device answered {response.status} {response.reason}", None
    try:
        answer = mansrtsp.parse(response.body)
    except ParseError:
        return "", None
    if not isinstance(answer, PlayAnswer):
        return "", None
    if answer.status >= 300:
        return f"the device answered RTSP {answer.status} {answer.reason}", answer
    return "", answer
