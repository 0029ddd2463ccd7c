"""Uppers play and download recordings, ours and those in devices: what they ask for, their orders, the word that
all was sent.

The INVITE itself takes the way of every relay (services/cascade_invite.py); a history session is never shared, so two
uppers move independently in one clip (report F.4).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from config.settings import PlaybackSettings
from gateway.model import SessionKind
from gateway.services.cascade_ids import Key
from gateway.services.cascade_link import UpperLink
from gateway.services.device_playback import DevicePlayback, DevicePlaybacks
from gateway.services.errors import ControlCause, ControlFailed, PlayCause, PlayFailed
from gateway.services.playback import SPEEDS, Playback, Wish
from gateway.services.session_record import LiveSession
from media.errors import MediaError
from media.specs import InputControl, PlaybackEnded, PlayPosition
from sip import mansrtsp
from sip.core import ALLOW
from sip.endpoint import Incoming, Reply
from sip.errors import ParseError, RemoteError
from sip.manscdp import CONTENT_TYPE, MediaStatusNotify
from sip.mansrtsp import PlayAnswer, PlayControl, Range
from sip.sdp import Offer, SdpUnacceptable

if TYPE_CHECKING:
    from gateway.services.cascade_invite import Relay

log = logging.getLogger(__name__)

NTP_OFFSET_S = 2_208_988_800
"""Some uppers write the seconds of RFC 4566 (from 1900) although the standard wants UNIX seconds."""
_NTP_FROM = 3_000_000_000
_CONTROL_STATUS = {ControlCause.NO_ANSWER: 408, ControlCause.NOT_FOUND: 481, ControlCause.DEVICE_OFFLINE: 480}
KINDS = {"playback": SessionKind.PLAYBACK, "download": SessionKind.DOWNLOAD}


@dataclass(frozen=True, slots=True)
class HistoryWish:
    """What an INVITE with s=Playback or s=Download asks for. Times in unix seconds."""

    kind: SessionKind
    start: int
    end: int
    download_speed: float = 1.0


def history_wish(name: str, offer: Offer) -> HistoryWish | None:
    """The stretch of time in an offer; None for a live one. Raises SdpUnacceptable (488) for a senseless ``t=``."""
    kind = KINDS.get(name)
    if kind is None:
        return None
    start, end = (value - NTP_OFFSET_S if value > _NTP_FROM else value for value in offer.session.time)
    if not 0 < start < end:
        raise SdpUnacceptable(f"t={start} {end} is no stretch of time", label="time")
    text = (offer.media.attribute("downloadspeed") or "").strip()
    speed = float(text) if text.isascii() and text.isdecimal() and len(text) < 4 else 1.0
    return HistoryWish(kind, start, end, max(1.0, speed))


class Player(Protocol):
    """What is needed of gateway.services.playback.Playbacks."""

    async def open(self, wish: Wish, owner: str) -> Playback: ...

    async def control(self, playback: Playback, control: InputControl) -> PlayPosition: ...

    def close(self, playback: Playback, cause: str) -> asyncio.Task[None]: ...


@dataclass(slots=True, eq=False)
class _Playing:
    """One history session toward an upper. Its commands are obeyed one after the other."""

    relay: Relay
    link: UpperLink
    playback: Playback
    order: asyncio.Lock = field(default_factory=asyncio.Lock)
    farewell: asyncio.Task[None] | None = None
    """Tells the end and waits for the upper's BYE."""


class UpperPlayback:
    """All history sessions of all uppers."""

    def __init__(
        self, *, settings: PlaybackSettings, player: Player, devices: DevicePlaybacks | None = None
    ) -> None:
        self._settings = settings
        self._player = player
        self._devices = devices
        self._playing: dict[str, _Playing] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.audit: Callable[[str, str, str, str, str], None] | None = None
        """who, action, target, result, detail."""

    async def open(
        self, ways: Sequence[Key], wish: HistoryWish, relay: Relay, link: UpperLink, undo: AsyncExitStack
    ) -> tuple[LiveSession, int]:
        """Begin to play for one relay: the session, and the bytes to be expected. Raises PlayFailed.

        ``ways`` are the channels behind the upper's code: the first with something recorded is played, by us where our
        recordings cover the range, else by the device. A download is sent faster with the times of the recording; a
        playback keeps to its clock.
        """
        who = f"platform:{relay.platform_id}"
        try:
            playback = await self._first(self._wishes(ways, wish), who)
        except PlayFailed as failure:
            self._note(who, wish, relay, failure.cause.value)
            raise
        self._note(who, wish, relay, "ok")
        undo.push_async_callback(self._closed, playback)
        playing = self._playing[playback.session_id] = _Playing(relay, link, playback)
        undo.callback(self._forget, playing)
        return playback.session, playback.bytes

    def _wishes(self, ways: Sequence[Key], wish: HistoryWish) -> list[Wish]:
        download = wish.kind is SessionKind.DOWNLOAD
        speed = min(wish.download_speed, float(self._settings.download_speed_max)) if download else 1.0
        return [
            Wish(*key, wish.start, wish.end, delivery=speed, kind=wish.kind, reverse_groups=True)
            for key in ways
        ]

    def _note(self, who: str, wish: HistoryWish, relay: Relay, result: str) -> None:
        if self.audit is not None:
            self.audit(who, f"upper.{wish.kind.value}", relay.exported_id, result, f"{wish.start}-{wish.end}")

    async def _first(self, wishes: Sequence[Wish], owner: str) -> Playback:
        for wish in wishes[:-1]:
            try:
                return await self._player.open(wish, owner)
            except PlayFailed as failure:
                if failure.cause is not PlayCause.NOT_FOUND:
                    raise
        return await self._player.open(wishes[-1], owner)

    async def _closed(self, playback: Playback) -> None:
        await asyncio.shield(self._player.close(playback, "upper_left"))

    def _forget(self, playing: _Playing) -> None:
        self._playing.pop(playing.playback.session_id, None)
        self._no_farewell(playing)

    # -- commands --------------------------------------------------------------------------------------------

    async def request(self, call_id: str, incoming: Incoming) -> Reply:
        """An INFO in the dialog of that Call-ID: obeyed, in turn with the others of the dialog."""
        playing = next((found for found in self._playing.values() if found.relay.call_id == call_id), None)
        if playing is None:
            return Reply(405, (("Allow", ALLOW),))  # a live picture: there is nothing to control
        try:
            control = mansrtsp.parse(incoming.request.body)
        except ParseError as error:
            return Reply(error.status)
        if not isinstance(control, PlayControl):
            return Reply(400)
        async with playing.order:
            try:
                if isinstance(playing.playback, DevicePlayback):
                    return await self._relay(playing, playing.playback, control, incoming.request.body)
                return await self._obey(playing, control)
            except ControlFailed as failure:
                return Reply(_CONTROL_STATUS.get(failure.cause, 480))
            except PlayFailed as failure:
                return Reply(failure.sip_status)
            except MediaError as error:
                return Reply(481 if error.code == "not_found" else 503)

    async def _relay(
        self, playing: _Playing, playback: DevicePlayback, control: PlayControl, body: bytes
    ) -> Reply:
        """On to the device as it is, and its answer back with its body (F.4, G247)."""
        assert self._devices is not None  # noqa: S101
        self._no_farewell(playing)
        response = await self._devices.relay(playback, control, body)
        log.info(
            "order passed on platform_id=%s call_id=%s method=%s status=%d",
            *(playing.relay.platform_id, playing.relay.call_id, control.method, response.status),
        )
        if control.method == "TEARDOWN":
            self._spawn_farewell(playing, tell=False)
        return Reply(response.status, (), response.body, mansrtsp.CONTENT_TYPE if response.body else "")

    async def _obey(self, playing: _Playing, control: PlayControl) -> Reply:
        """200 with where it stands now (2022 B.2: the Range of the answer tells the first packet's place)."""
        self._no_farewell(playing)
        position = await self._player.control(playing.playback, order_of(control))
        log.info(
            "upper controls playback platform_id=%s call_id=%s method=%s speed=%g position_s=%.2f",
            playing.relay.platform_id, playing.relay.call_id, control.method, position.speed, position.position_s,
        )  # fmt: skip
        if control.method == "TEARDOWN":  # the BYE is the upper's, ours when it forgets it
            self._spawn_farewell(playing, tell=False)
        answer = PlayAnswer(
            200,
            cseq=control.cseq,
            range=None if control.method == "TEARDOWN" else Range(round(position.position_s, 3)),
            scale=position.speed if control.scale is not None else None,
        )
        return Reply(200, (), answer.to_bytes(), mansrtsp.CONTENT_TYPE)

    # -- the end ---------------------------------------------------------------------------------------------

    def playback_ended(self, session: LiveSession, event: PlaybackEnded) -> None:
        """A media node sent the last of a recording of ours. A device says so itself (:meth:`device_over`)."""
        playing = self._playing.get(session.session_id) if session.history is None else None
        if playing is not None:
            log.info(
                "playback sent platform_id=%s call_id=%s position_s=%.2f",
                *(playing.relay.platform_id, playing.relay.call_id, event.position_s),
            )
            self._spawn_farewell(playing, tell=True)

    def device_over(self, session: LiveSession) -> None:
        """A device has sent all of a recording: 121 goes up in the upper's dialog (G246)."""
        playing = self._playing.get(session.session_id)
        if playing is not None:
            log.info(
                "recording over platform_id=%s call_id=%s", playing.relay.platform_id, playing.relay.call_id
            )
            self._spawn_farewell(playing, tell=True)

    def _spawn_farewell(self, playing: _Playing, *, tell: bool) -> None:
        self._no_farewell(playing)
        task = asyncio.create_task(self._farewell(playing, tell=tell))
        playing.farewell = task
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _no_farewell(self, playing: _Playing) -> None:
        """The upper goes on with it after all, or it is over."""
        task, playing.farewell = playing.farewell, None
        if task is not None and task is not asyncio.current_task():
            task.cancel()

    async def _farewell(self, playing: _Playing, *, tell: bool) -> None:
        """MediaStatus 121 inside the dialog (A.2.5.4), then the upper's BYE, then ours."""
        relay, link = playing.relay, playing.link
        if tell and relay.dialog is not None:
            body = MediaStatusNotify(sn=link.next_sn(), device_id=relay.exported_id)
            try:
                response = await relay.dialog.request(
                    "MESSAGE", body=link.encode(body), content_type=CONTENT_TYPE
                )
                if response.status // 100 != 2:
                    log.info("media status refused call_id=%s status=%d", relay.call_id, response.status)
            except RemoteError as error:
                log.info("media status unanswered call_id=%s error=%s", relay.call_id, error)
        await asyncio.sleep(self._settings.end_grace_s)
        playing.farewell = None
        relay.ender(relay, "played_to_end" if tell else "torn_down")

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def order_of(control: PlayControl) -> InputControl:
    """What a MANSRTSP request means for the playing (B.2.2 to B.2.8). PLAY always lets it run."""
    if control.method in ("PAUSE", "TEARDOWN"):
        return InputControl(paused=True)
    place = control.range or Range()
    return InputControl(
        paused=False,
        speed=None if control.scale is None else served_speed(control.scale),
        position_s=place.start,
        until_s=place.end if control.scale is not None and control.scale < 0 else None,
    )


def served_speed(scale: float) -> float | None:
    """The speed that is nearest to the one asked for; backward only -1 where it is not served exactly (B.2.8)."""
    if scale == 0:
        return None
    if scale < 0:
        return scale if -scale in SPEEDS else -1.0
    return min(SPEEDS, key=lambda speed: abs(speed - scale))
