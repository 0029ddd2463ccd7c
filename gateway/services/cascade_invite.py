"""An upper plays one of our channels: its INVITE becomes a live session of ours, whose payload is relayed upward.

One coroutine from the offer to the ACK, one way to end: BYE, CANCEL, a missing ACK, lost media, a lost upper and the
operator all come to :meth:`InviteRelay.end` (report F.4).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Protocol

from config.settings import CascadeSettings
from gateway.clock import Clock
from gateway.events import EventBus, FirstPicture
from gateway.model import ChannelKind, Platform, SessionKind
from gateway.origin import (
    PATH_HEADER,
    ROUTE_HEADER,
    USER_HEADER,
    Origin,
    acting_for,
    current,
    path_ahead,
    route_path,
    way_along,
)
from gateway.services.cascade_ids import Key
from gateway.services.cascade_journal import UpperJournal
from gateway.services.cascade_link import UpperLink
from gateway.services.cascade_playback import HistoryWish, history_wish
from gateway.services.cascade_tree import Entry, Tree
from gateway.services.cascade_words import upper_user
from gateway.services.errors import PlayFailed
from gateway.services.session_address import MediaAddress
from gateway.services.session_record import LiveSession
from media.client import MediaError
from media.specs import SenderEnded, SenderInfo, SenderSpec, StreamStats, Transport
from sip.endpoint import Incoming, IncomingInvite, InviteSession, Reply
from sip.errors import AckMissing, ParseError, RemoteError
from sip.flow import Flow, Target
from sip.ids import SsrcExhausted, SsrcPool
from sip.sdp import (
    DEFAULT_PAYLOAD,
    MediaFormat,
    Offer,
    Payload,
    SdpUnacceptable,
    matching_payload,
    read_offer,
    relay_answer,
)

log = logging.getLogger(__name__)

POLL_S = 0.05
_RIGHTS = {"play": "play", "playback": "playback", "download": "download", "talk": "broadcast"}
_NOT_PLAYABLE = frozenset(
    {
        ChannelKind.SYSTEM,
        ChannelKind.DIVISION,
        ChannelKind.BUSINESS_GROUP,
        ChannelKind.VIRTUAL_ORGANISATION,
        ChannelKind.ALARM,
        ChannelKind.AUDIO_OUT,
    }
)
_MEDIA_STATUS = {"no_port": 486, "unsupported": 488, "bad_request": 488, "not_found": 480, "unavailable": 503}
_CODEC_CODES = {"mpeg4": 1, "h264": 2, "svac": 3, "h265": 5}
_RESOLUTION_CODES = {
    (176, 144): 1,
    (352, 288): 2,
    (704, 576): 3,
    (720, 576): 4,
    (1280, 720): 5,
    (1920, 1080): 6,
}
_AUDIO_FORMATS = {"pcma": (1, 8, 1), "pcmu": (1, 8, 1), "aac": (6, None, None)}


class Refused(RemoteError):
    """The INVITE gets this status."""

    label = "refused"


class Player(Protocol):
    """What the relay needs of gateway.services.sessions.Sessions."""

    async def play(
        self, device_id: str, channel_id: str, *, stream_number: int = 0, transport: str | None = None
    ) -> LiveSession: ...

    def find(self, device_id: str, channel_id: str, stream_number: int = 0) -> LiveSession | None: ...


class History(Protocol):
    """What the relay needs of gateway.services.cascade_playback.UpperPlayback."""

    async def open(
        self, ways: Sequence[Key], wish: HistoryWish, relay: Relay, link: UpperLink, undo: AsyncExitStack
    ) -> tuple[LiveSession, int]: ...

    async def request(self, call_id: str, incoming: Incoming) -> Reply: ...


class ContactWriter(Protocol):
    """Who we are toward a destination (sip.core.SipCore)."""

    def contact(self, destination: Flow | Target, user: str) -> str: ...


@dataclass(slots=True, eq=False)
class Relay:
    """One channel on its way to one upper. A watcher of the session: it hears when the picture ends."""

    relay_id: str
    platform_id: str
    exported_id: str
    serial: str
    call_id: str
    ender: Callable[[Relay, str], object]
    session: LiveSession | None = None
    dialog: InviteSession | None = None
    playing: asyncio.Task[LiveSession] | None = None
    undo: AsyncExitStack | None = None
    over: str = ""
    """Why it ended or must end; "" while it lives."""
    ending: asyncio.Task[None] | None = None

    def session_ended(self, session: LiveSession, cause: str) -> None:
        del session
        self.ender(self, cause)

    def session_moved(self, session: LiveSession, successor: LiveSession) -> None:
        """Another node means another source address and sequence: the upper asks anew instead."""
        del session, successor
        self.ender(self, "node_lost")


@dataclass(frozen=True, slots=True)
class _Wish:
    """What an INVITE asks for, after all that can be refused without a camera was."""

    entry: Entry
    offer: Offer
    serial: str
    stream_number: int
    history: HistoryWish | None = None
    """None: a live picture."""


@dataclass(slots=True)
class RelayCounts:
    """Since the start: answered with 200, refused by status, ended by cause."""

    accepted: int = 0
    refused: dict[int, int] = field(default_factory=dict)
    ended: dict[str, int] = field(default_factory=dict)


class InviteRelay:
    """All relays to all uppers."""

    def __init__(
        self,
        *,
        settings: CascadeSettings,
        sessions: Player,
        address: MediaAddress,
        ssrc_pool: SsrcPool,
        contacts: ContactWriter,
        bus: EventBus,
        clock: Clock | None = None,
        own_id: str = "",
    ) -> None:
        self._settings = settings
        self._own_id = own_id
        self._sessions = sessions
        self._address = address
        self._ssrc_pool = ssrc_pool
        self._contacts = contacts
        self._bus = bus
        self._clock = clock or Clock()
        self._relays: dict[str, Relay] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.counts = RelayCounts()
        self.journal: UpperJournal | None = None
        """Set by the cascade: calls with uppers that must be ended after a crash."""
        self.history: History | None = None
        """Set by gateway/assembly: plays recordings for uppers."""
        self.audit: Callable[[str, str, str, str, str], None] | None = None
        """Set by gateway/assembly: who, action, target, result, detail."""

    def relays(self, platform_id: str) -> list[Relay]:
        """Relays to one upper, those being opened included."""
        return [relay for relay in self._relays.values() if relay.platform_id == platform_id]

    async def invite(self, link: UpperLink, tree: Tree, incoming: IncomingInvite) -> Reply | None:
        """Handle one INVITE from this upper; 100 went out already. Returns when the ACK came or it was refused."""
        headers = incoming.request.headers
        path = path_ahead(headers.get(PATH_HEADER), link.identity.user, self._own_id)
        try:
            with acting_for(Origin(headers.get(USER_HEADER), path)):
                await self._invite(link, tree, incoming)
            return None
        except PlayFailed as failure:
            status, text = failure.sip_status, failure.cause.value
        except MediaError as error:
            status, text = _MEDIA_STATUS.get(error.code, 503), error.code
        except SsrcExhausted:
            status, text = 486, "no_ssrc"
        except (AckMissing, TimeoutError):
            log.warning(
                "upper sent no ack platform_id=%s call_id=%s",
                *(link.platform.platform_id, incoming.request.call_id),
            )
            self.counts.ended["ack_missing"] = self.counts.ended.get("ack_missing", 0) + 1
            return None
        except RemoteError as error:
            status, text = error.status, error.label
        self.counts.refused[status] = self.counts.refused.get(status, 0) + 1
        self._note(link, incoming, subject_parts(incoming)[0], text)
        log.info(
            "relay refused platform_id=%s call_id=%s status=%d cause=%s",
            *(link.platform.platform_id, incoming.request.call_id, status, text),
        )
        return Reply(status)

    async def _invite(self, link: UpperLink, tree: Tree, incoming: IncomingInvite) -> None:
        began = self._clock.mono()
        wish = self._understand(link.platform, tree, incoming)
        await self._make_room(link.platform, wish)
        relay = Relay(
            relay_id=secrets.token_hex(8),
            platform_id=link.platform.platform_id,
            exported_id=wish.entry.exported_id,
            serial=wish.serial,
            call_id=incoming.request.call_id,
            ender=self.end,
        )
        self._relays[relay.relay_id] = relay
        try:
            async with AsyncExitStack() as undo:
                await self._open(relay, wish, link, incoming, undo, began)
                relay.undo = undo.pop_all()
        finally:
            if relay.undo is None:
                del self._relays[relay.relay_id]
        if relay.over or relay.dialog is None:
            self._finish(relay)
        else:
            relay.dialog.ended.add_done_callback(lambda ended: self.end(relay, _dialog_cause(ended)))

    def _note(self, link: UpperLink, incoming: IncomingInvite, target: str, result: str) -> None:
        """Who of the upper wanted to see what (8.3, G268); playback and download are written down where they begin."""
        if self.audit is not None:
            headers = incoming.request.headers
            who = upper_user(link, headers.get(USER_HEADER) or "")
            self.audit(who, "play", target, result, headers.get(PATH_HEADER) or "")

    async def info(self, incoming: Incoming) -> Reply:
        """INFO in the dialog of a playback or download. It may come before our task has seen the ACK."""
        if incoming.session is None or self.history is None:
            return Reply(481)
        return await self.history.request(incoming.request.call_id, incoming)

    # -- what is asked ---------------------------------------------------------------------------------------

    def _understand(self, platform: Platform, tree: Tree, incoming: IncomingInvite) -> _Wish:
        """Offer, right, channel. Raises SdpUnacceptable (488), Refused (403, 404)."""
        offer = read_offer(incoming.offer) if incoming.offer else None
        name = (offer.session.name if offer is not None else "Play").strip().lower() or "play"
        right = _RIGHTS.get(name, "play")
        if right not in platform.rights:
            raise Refused(f"no right to {right}", status=403)
        history = history_wish(name, offer) if offer is not None and self.history is not None else None
        if offer is None or (right != "play" and history is None):
            raise SdpUnacceptable(f"{name} is not served", label="session_name")
        candidates = channel_candidates(incoming, offer)
        entry = next(
            (
                entry
                for code in candidates
                if (entry := tree.entries.get(code)) is not None
                and entry.kind not in _NOT_PLAYABLE
                and entry.ways
            ),
            None,
        )
        if entry is None:
            raise Refused(f"no shared channel among {candidates}", status=404)
        serial = subject_parts(incoming)[1]
        return _Wish(entry, offer, serial, offer.stream_number or 0, history)

    async def _make_room(self, platform: Platform, wish: _Wish) -> None:
        """End what the same Subject replaces (2022 annex L, 2016 K c), then look at the limit. Raises Refused(486)."""
        relays = self.relays(platform.platform_id)
        code = wish.entry.exported_id
        for old in relays:
            if (
                wish.serial
                and old.dialog is not None
                and (old.exported_id, old.serial) == (code, wish.serial)
            ):
                await asyncio.shield(self.end(old, "replaced"))
        open_now = len(self.relays(platform.platform_id))
        if platform.max_streams and open_now >= platform.max_streams:
            raise Refused(f"{open_now} streams are open", status=486)

    # -- opening ---------------------------------------------------------------------------------------------

    async def _open(
        self,
        relay: Relay,
        wish: _Wish,
        link: UpperLink,
        incoming: IncomingInvite,
        undo: AsyncExitStack,
        began: float,
    ) -> None:
        """Picture, sender, 200, ACK, go. Everything taken is given back by ``undo``."""
        filesize: int | None = None
        if wish.history is not None and self.history is not None:
            session, size = await self.history.open(wish.entry.ways, wish.history, relay, link, undo)
            # 0: the device did not say; nothing is better than a wrong number (G239)
            filesize = (size or None) if wish.history.kind is SessionKind.DOWNLOAD else None
        else:
            session = await self._picture(relay, wish, undo, began)
        self._attach(relay, session, undo)
        if session.node is None:
            raise Refused("the session has no node", status=503)
        client = session.node.client
        ssrc = self._ssrc(link.platform, wish, undo)
        payload = relay_payload(wish.offer, session)
        sender = await client.open_sender(
            SenderSpec(
                sender_id=relay.relay_id,
                stream_id=session.stream_id,
                transport=Transport(wish.offer.transport),
                remote_host=wish.offer.host or None,
                remote_port=wish.offer.port or None,
                ssrc=ssrc,
                payload_type=payload.number,
            )
        )
        undo.push_async_callback(_close_sender, session, relay.relay_id)
        stats = await client.stream(session.stream_id)
        answer = self._answer(wish.offer, link, incoming.flow, stats, sender, ssrc, payload, filesize)
        if relay.over:
            raise Refused(f"ended while being opened: {relay.over}", status=480)
        async with asyncio.timeout(self._settings.ack_guard_s):
            relay.dialog = await incoming.accept(answer, headers=self._headers(link, incoming, session))
        if self.journal is not None:
            self.journal.put(relay.dialog)
            undo.callback(self.journal.remove, relay.dialog)
        self.counts.accepted += 1
        if wish.history is None:
            self._note(link, incoming, "/".join(session.key[:2]), "ok")
        self._bus.publish(FirstPicture("upper", self._clock.mono() - began))
        if relay.over:
            return
        try:
            await client.start_sender(relay.relay_id)
        except MediaError as error:
            relay.over = relay.over or error.code
        log.info(
            "relay started platform_id=%s channel=%s session_id=%s call_id=%s ssrc=%010d transport=%s",
            *(
                relay.platform_id,
                relay.exported_id,
                session.session_id,
                relay.call_id,
                ssrc,
                wish.offer.transport,
            ),
        )

    async def _picture(self, relay: Relay, wish: _Wish, undo: AsyncExitStack, began: float) -> LiveSession:
        """The session once its first picture is there; or, when the upper will not wait any longer, as soon as the
        device has answered (quirk 35). Raises PlayFailed."""
        device_id, channel_id = way_along(wish.entry.ways, current().path) or wish.entry.ways[0]
        task = asyncio.create_task(
            self._sessions.play(device_id, channel_id, stream_number=wish.stream_number),
            name=f"relay {relay.relay_id}",
        )
        relay.playing = task
        undo.push_async_callback(_cancelled, task)
        patience_ends = began + self._settings.answer_within_s
        while not task.done():
            left = patience_ends - self._clock.mono()
            await asyncio.wait({task}, timeout=max(left, POLL_S))
            session = self._sessions.find(device_id, channel_id, wish.stream_number)
            if not task.done() and left <= 0 and session is not None and session.dialog is not None:
                task.add_done_callback(lambda done: self._late(relay, done))
                return session
        return task.result()

    def _late(self, relay: Relay, task: asyncio.Task[LiveSession]) -> None:
        """The picture came, or did not, after the 200 went up."""
        if not task.cancelled() and task.exception() is not None:
            self.end(relay, "no_picture")

    def _attach(self, relay: Relay, session: LiveSession, undo: AsyncExitStack) -> None:
        relay.session = session
        undo.callback(session.watch(relay))
        session.info.uppers = (*session.info.uppers, relay.platform_id)

        def detach() -> None:
            uppers = list(session.info.uppers)
            if relay.platform_id in uppers:
                uppers.remove(relay.platform_id)
            session.info.uppers = tuple(uppers)

        undo.callback(detach)

    def _ssrc(self, platform: Platform, wish: _Wish, undo: AsyncExitStack) -> int:
        """The upper's own value, or one of ours that is never 0 and rests after use (annex G note 16, quirk 28)."""
        offered = wish.offer.ssrc
        if offered and platform.ssrc_policy == "echo":
            return offered
        kind = "live" if wish.history is None else "history"
        ssrc = self._ssrc_pool.lease(kind, self._clock.mono())
        undo.callback(lambda: self._ssrc_pool.release(ssrc, self._clock.mono()))
        return ssrc

    def _answer(
        self,
        offer: Offer,
        link: UpperLink,
        flow: Flow,
        stats: StreamStats,
        sender: SenderInfo,
        ssrc: int,
        payload: Payload,
        filesize: int | None,
    ) -> bytes:
        """SDP upward: our code, our media address, the way of the stream is not told (G195, G259)."""
        answer = relay_answer(
            offer,
            own_id=link.identity.user,
            address=link.platform.media_host or self._address.for_peer(offer.host or flow.host),
            port=sender.port,
            ssrc=ssrc,
            payload=payload,
            format_text=format_text(stats, edition_2022=link.edition.value >= "3"),
            filesize=filesize,
        )
        return answer.to_bytes()

    def _headers(
        self, link: UpperLink, incoming: IncomingInvite, session: LiveSession
    ) -> list[tuple[str, str]]:
        """Contact, and the way the stream takes where a path was asked for or told from below (2022 H.3, G267)."""
        headers = [("Contact", self._contacts.contact(incoming.flow, link.identity.user))]
        below = session.info.route_path
        if below or incoming.request.headers.get(PATH_HEADER):
            headers.append((ROUTE_HEADER, route_path(link.identity.user, below)))
        return headers

    # -- ending ----------------------------------------------------------------------------------------------

    def end(self, relay: Relay, cause: str) -> asyncio.Future[None]:
        """End a relay once, whatever the cause; returns what ends when all is given back."""
        relay.over = relay.over or cause
        if relay.ending is None and relay.undo is not None:
            self._finish(relay)
        if relay.ending is not None:
            return relay.ending
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        done.set_result(None)
        return done

    def _finish(self, relay: Relay) -> None:
        relay.ending = asyncio.create_task(self._end(relay), name=f"end relay {relay.relay_id}")
        self._tasks.add(relay.ending)
        relay.ending.add_done_callback(self._tasks.discard)

    async def _end(self, relay: Relay) -> None:
        self._relays.pop(relay.relay_id, None)
        self.counts.ended[relay.over] = self.counts.ended.get(relay.over, 0) + 1
        log.info(
            "relay ended platform_id=%s channel=%s call_id=%s cause=%s",
            *(relay.platform_id, relay.exported_id, relay.call_id, relay.over),
        )
        try:
            if relay.undo is not None:
                await relay.undo.aclose()
        finally:
            if relay.dialog is not None:
                await relay.dialog.bye()

    def sender_ended(self, event: SenderEnded) -> None:
        """A media node says that a relay stopped by itself."""
        relay = self._relays.get(event.sender_id)
        if relay is not None:
            self.end(relay, event.cause)

    def drop(self, platform_id: str, cause: str) -> None:
        """End all relays of one upper."""
        for relay in self.relays(platform_id):
            self.end(relay, cause)

    async def close(self, wait_s: float = 3.0) -> None:
        """BYE to everybody; what does not end in time is cancelled."""
        for relay in list(self._relays.values()):
            self.end(relay, "gateway_stopped")
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=wait_s)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def subject_parts(incoming: IncomingInvite) -> tuple[str, str]:
    """Sender code and sender serial of the Subject (annex L): ``code:serial,code:serial``; "" where missing."""
    first = (incoming.request.headers.get("Subject") or "").partition(",")[0]
    code, _, serial = first.partition(":")
    return code.strip(), serial.strip()


def channel_candidates(incoming: IncomingInvite, offer: Offer) -> list[str]:
    """Codes that may name the channel, in order: Subject, ``u=``, Request-URI, To, ``o=`` (G204, quirk 31)."""
    request = incoming.request
    users: list[str] = []
    with contextlib.suppress(ParseError):
        users.append(request.request_uri.user)
    with contextlib.suppress(ParseError):
        users.append(request.to.uri.user)
    uri = offer.session.uri.partition(":")[0]
    found = [subject_parts(incoming)[0], uri, *users, offer.session.origin_user]
    return [code for code in dict.fromkeys(found) if code]


def format_text(stats: StreamStats, *, edition_2022: bool) -> str:
    """The ``f=`` value of what the stream really carries; "" when that is not known yet."""
    if stats.video is None:
        return ""
    size = (stats.video.width, stats.video.height)
    resolution: int | str | None = _RESOLUTION_CODES.get(size)
    if resolution is None and edition_2022 and all(size):
        resolution = f"{size[0]}x{size[1]}"
    audio = _AUDIO_FORMATS.get(stats.audio.codec, (None, None, None)) if stats.audio else (None, None, None)
    return MediaFormat(
        video_codec=_CODEC_CODES.get(stats.video.codec),
        resolution=resolution,
        audio_codec=audio[0],
        audio_rate=audio[1],
        sampling=audio[2],
    ).to_text(edition_2022=edition_2022)


def relay_payload(offer: Offer, session: LiveSession) -> Payload:
    """The number under which the upper takes what the device sends. Raises SdpUnacceptable: it does not (G195)."""
    sent = session.payload
    source = DEFAULT_PAYLOAD if sent is None else Payload(sent.number, sent.encoding, sent.clock_rate_hz)
    found = matching_payload(offer, source)
    if found is None:
        raise SdpUnacceptable(f"the upper does not take {source.encoding}", label="payload")
    return found


def _dialog_cause(ended: asyncio.Future[str]) -> str:
    return "upper_bye" if not ended.cancelled() and ended.result() == "remote_bye" else "dialog_ended"


async def _close_sender(session: LiveSession, relay_id: str) -> None:
    if session.node is None or not session.node.alive:
        return
    try:
        await session.node.client.close_sender(relay_id)
    except MediaError as error:
        log.info("sender gone already relay_id=%s cause=%s", relay_id, error.code)


async def _cancelled(task: asyncio.Task[LiveSession]) -> None:
    """Stop waiting for the picture; the session itself lives on for others."""
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
