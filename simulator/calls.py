"""Calls of a simulated device: INVITE answered with SDP, media sent until BYE, playback with its end."""

from __future__ import annotations

import asyncio
import logging
import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from media.rtp import RtpPacketizer
from simulator.faults import Disturber, Faults
from simulator.records_calls import farewell, file_size, info_answer, is_live, player_of, recorded
from simulator.records_play import RecordPlayer
from simulator.sending import (
    RTP_PAYLOAD_BYTES,
    Feed,
    Outlet,
    Pacer,
    Receiver,
    SentCounts,
    TcpOutlet,
    UdpOutlet,
)
from simulator.stream_faults import WireSpoiler
from sip import mansrtsp
from sip.endpoint import Incoming, IncomingInvite, InviteSession, Reply
from sip.errors import AckMissing, RemoteError
from sip.f_field import MediaFormat
from sip.ids import format_ssrc
from sip.message import Request
from sip.sdp import TCP_ACTIVE, UDP, Offer, SdpUnacceptable, SessionDescription, read_offer, relay_answer

if TYPE_CHECKING:
    from simulator.device import SimulatedDevice

log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Call:
    """One running call. ``counts`` grows while media flow; ``info_log`` holds the playback controls that came."""

    channel_id: str
    offer: Offer
    answer: bytes
    ssrc: int
    feed: Feed
    receiver: Receiver
    session: InviteSession | None = None
    ended: str = ""
    info_log: list[mansrtsp.PlayControl] = field(default_factory=list)
    player: RecordPlayer | None = None
    """Plays a recording; None: live pictures."""

    @property
    def transport(self) -> str:
        """Our part: udp, tcp_active (we dial) or tcp_passive (we listen)."""
        return self.offer.transport

    @property
    def counts(self) -> SentCounts:
        return self.receiver.counts


class Calls:
    """All calls of one device, and the feeds of its channels."""

    def __init__(self, device: SimulatedDevice) -> None:
        self._device = device
        self._feeds: dict[tuple[str, bool], Feed] = {}
        """By channel, and whether it is the sub stream."""
        self._pacer = Pacer(device.options.pictures.rate)
        self._opening = 0
        self.running: list[Call] = []
        self.history: list[Call] = []
        """Every call that was answered, in order."""

    def key_frame(self, channel_id: str) -> None:
        """A key frame for the viewers of that channel, or of all for the device's own id."""
        for name, feed in self._feeds.items():
            if channel_id in (name[0], self._device.device_id):
                feed.request_key()

    # -- INVITE -------------------------------------------------------------------------------------------

    async def invited(self, incoming: IncomingInvite) -> Reply | None:
        """Answer an INVITE. Returns a Reply to refuse, None after the call was set up."""
        device = self._device
        try:
            offer = read_offer(incoming.offer)
        except RemoteError as error:
            return Reply(error.status)
        channel_id = self._channel_of(incoming.request, offer)
        if channel_id is None:
            return Reply(404)
        channel = device.channels[channel_id]
        if channel.status == "OFF":
            return Reply(480)
        wanted = device.options.media
        if wanted != "any" and (wanted == "udp") != (offer.transport == UDP):
            return Reply(488)
        if len(self.running) + self._opening >= device.options.max_calls:
            return Reply(486)
        self._opening += 1
        try:
            return await self._set_up(incoming, offer, channel_id)
        finally:
            self._opening -= 1

    def _channel_of(self, request: Request, offer: Offer) -> str | None:
        subject = (request.headers.get("Subject") or "").partition(":")[0].strip()
        candidates = (
            request.to.uri.user,
            subject,
            *offer.channel_ids,
            request.uri.partition(":")[2].partition("@")[0],
        )
        channels = self._device.channels
        return next((code for code in candidates if code in channels and channels[code].has_pictures), None)

    async def _set_up(self, incoming: IncomingInvite, offer: Offer, channel_id: str) -> Reply | None:
        device = self._device
        sub = device.options.sub_pictures if offer.stream_number else None
        name = channel_id, sub is not None
        feed = self._feeds.get(name)
        if feed is None:
            feed = self._feeds[name] = Feed(sub or device.options.pictures, device.faults.stream)
        if is_live(offer):
            await feed.prepare()
        elif not recorded(device, channel_id, offer):
            return Reply(404)
        address = device.endpoint.local_address(incoming.flow.host)
        outlet, port = await self._outlet(offer, address)
        session = None
        try:
            call = self._call(offer, channel_id, feed, outlet, address, port)
            session = await incoming.accept(call.answer, headers=device.answer_headers(incoming))
        except SdpUnacceptable as error:
            return Reply(error.status)
        except AckMissing:
            return None
        finally:
            if session is None:
                outlet.close()
        call.session = session
        call.player = None if is_live(offer) else player_of(device, call)
        session.on_request = lambda request: self._in_call(call, request)
        self.running.append(call)
        self.history.append(call)
        device.endpoint.spawn(self._run(call, session))
        return None

    async def _outlet(self, offer: Offer, address: str) -> tuple[Outlet, int]:
        if offer.transport == UDP:
            outlet = UdpOutlet(self._device.options.host, (offer.host, offer.port))
            return outlet, outlet.port
        tcp = TcpOutlet()
        if offer.transport == TCP_ACTIVE:
            return tcp, 9
        return tcp, await tcp.listen(address)

    def _call(
        self, offer: Offer, channel_id: str, feed: Feed, outlet: Outlet, address: str, port: int
    ) -> Call:
        faults = self._device.faults
        payload = next((payload for payload in offer.payloads if payload.encoding == "PS"), None)
        if payload is None:
            raise SdpUnacceptable("only program streams are sent", label="payload")
        ssrc = offer.ssrc or secrets.randbelow(10_000) + 200_000_000
        if "other_y" in faults.sdp:
            ssrc = 200_009_319
        pictures = feed.pictures
        session = relay_answer(
            offer,
            own_id=channel_id,
            address=address,
            port=port,
            ssrc=ssrc,
            payload=payload,
            format_text=MediaFormat(
                5 if pictures.codec == "h265" else 2, 5, pictures.rate, 1, pictures.bitrate // 1000, 1, 8, 1
            ).to_text(),
            filesize=file_size(self._device, offer, pictures),
        )
        answer = deviating(session, faults)
        packetizer = RtpPacketizer(
            ssrc if faults.rtp_ssrc is None else faults.rtp_ssrc,
            payload.number if faults.rtp_payload_type is None else faults.rtp_payload_type,
            RTP_PAYLOAD_BYTES,
        )
        if faults.stream:
            outlet.spoiler = WireSpoiler(faults.stream, seed=ssrc)
        receiver = Receiver(outlet, packetizer, Disturber(faults, seed=ssrc), faults)
        return Call(channel_id, offer, answer, ssrc, feed, receiver)

    # -- a running call -----------------------------------------------------------------------------------

    async def _run(self, call: Call, session: InviteSession) -> None:
        outlet, faults = call.receiver.outlet, self._device.faults
        try:
            if isinstance(outlet, TcpOutlet) and not await self._connected(call, outlet):
                await session.bye()
                call.ended = "no_connection"
                return
            if call.player is None:
                self._pacer.attach(call.feed, call.receiver)
            call.ended = await self._until_end(call, session, faults)
            if faults.ignore_bye and call.ended == "remote_bye":
                await asyncio.Event().wait()
        finally:
            self._pacer.detach(call.feed, call.receiver)
            outlet.close()
            if call in self.running:
                self.running.remove(call)

    async def _connected(self, call: Call, outlet: TcpOutlet) -> bool:
        if call.transport == TCP_ACTIVE:
            return await outlet.dial(call.offer.host, call.offer.port)
        try:
            await asyncio.wait_for(outlet.connected.wait(), 10.0)
        except TimeoutError:
            return False
        return True

    async def _until_end(self, call: Call, session: InviteSession, faults: Faults) -> str:
        """Cause of the end: what the session says, or ``local`` by fault. A recording that is over is told."""
        playing = asyncio.ensure_future(self._play(call, session)) if call.player is not None else None
        try:
            async with asyncio.timeout(faults.bye_after_s):
                return await asyncio.shield(session.ended)
        except TimeoutError:
            await session.bye()
            return "local"
        finally:
            if playing is not None:
                playing.cancel()
                await asyncio.gather(playing, return_exceptions=True)

    async def _play(self, call: Call, session: InviteSession) -> None:
        """Play the recording, say that it is over, and go on when the other side moves back in it."""
        while call.player is not None:
            await call.player.run()
            await farewell(self._device, call, session)
            await call.player.moved_back()

    async def early_request(self, incoming: Incoming) -> Reply:
        """An INFO that overtook the end of our own set-up (it came right behind the ACK)."""
        for _ in range(100):
            call = next((call for call in self.running if call.session is incoming.session), None)
            if call is not None:
                return self._in_call(call, incoming)
            await asyncio.sleep(0.01)
        return Reply(481)

    def _in_call(self, call: Call, incoming: Incoming) -> Reply:
        """INFO with playback control: obeyed by the player; live pictures know pause and play."""
        try:
            control = mansrtsp.parse(incoming.request.body)
        except RemoteError as error:
            return Reply(error.status)
        if isinstance(control, mansrtsp.PlayControl):
            call.info_log.append(control)
            if call.player is not None:
                return info_answer(self._device, call.player, control)
            call.receiver.paused = control.method == "PAUSE"
            answer = mansrtsp.PlayAnswer(200, cseq=control.cseq, range=control.range)
            return Reply(200, body=answer.to_bytes(), content_type=mansrtsp.CONTENT_TYPE)
        return Reply(200)

    # -- the end ------------------------------------------------------------------------------------------

    def abandon(self) -> None:
        """Stop sending without a word."""
        for call in self.running:
            call.receiver.paused = True

    async def hang_up(self) -> None:
        """BYE to every call."""
        sessions = [call.session for call in self.running if call.session is not None]
        await asyncio.gather(*(session.bye() for session in sessions))

    async def close(self) -> None:
        """BYE what runs while the endpoint is open, stop sending, release the sockets."""
        if self.running:
            await asyncio.wait([asyncio.ensure_future(self.hang_up())], timeout=2.0)
        await self._pacer.close()
        for call in self.running:
            call.receiver.outlet.close()


def deviating(session: SessionDescription, faults: Faults) -> bytes:
    """The answer's bytes with the deviations of ``faults.sdp``."""
    wrong, media = faults.sdp, session.media[0]
    if "no_body" in wrong:
        return b""
    if "no_y" in wrong:
        session.ssrc = None
    if "zero_y" in wrong:
        session.ssrc = 0
    if "port_0" in wrong:
        media.port = 0
    if "no_setup" in wrong:
        media.setup = media.connection = ""
    if "udp_words" in wrong:
        media.protocol = "RTP/AVP"
        media.setup = media.connection = ""
    data = session.to_bytes()
    if "wrong_payload" in wrong:
        data = data.replace(b"AVP 96\r\n", b"AVP 126\r\n").replace(b"rtpmap:96 PS", b"rtpmap:126 XYZ")
    if "vendor_payload" in wrong:
        data = data.replace(b" PS/90000", b" DAHUA/90000")
    address = session.address.encode()
    if "nul_bytes" in wrong:
        data = data.replace(address, address + b"\0" * 110)
    if "no_address" in wrong:
        data = data.replace(b" " + address, b" ")
    return data


def subject(channel_id: str, ssrc: int, receiver_id: str) -> str:
    """Subject of an INVITE: sender and its serial, receiver and its serial (2022 annex L)."""
    return f"{channel_id}:{format_ssrc(ssrc)},{receiver_id}:0"
