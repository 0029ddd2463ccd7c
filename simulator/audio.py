"""The loudspeaker of a simulated device: it fetches broadcast sound by INVITE, takes s=Talk, and keeps what it hears.

GB/T 28181-2022 9.12.1 (Broadcast), 2016 ``s=Talk``. What came is kept byte by byte, so that a test can compare it.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from media import rtp
from media.ps import PsDemuxer
from media.rfc4571 import Deframer, frame
from media.unit import Codec
from sip.endpoint import Identity, IncomingInvite, InviteSession, Reply
from sip.errors import AckMissing, RemoteError
from sip.flow import Target
from sip.ids import TypeKind, format_ssrc, kind_of
from sip.manscdp import Body, BroadcastNotify, BroadcastResponse
from sip.sdp import Media, RtpMap, SessionDescription, parse, read_offer, relay_answer

if TYPE_CHECKING:
    from simulator.device import SimulatedDevice

log = logging.getLogger(__name__)

BROADCAST_FAULTS = (
    "silent",
    "error",
    "no_response",
    "no_invite",
    "invite_first",
    "busy",
    "bye_soon",
    "no_media",
    "aac_only",
)
"""silent: no Response and no INVITE; error: Result ERROR; no_response: INVITE alone; no_invite: Response alone;
invite_first: the Response comes after the INVITE; busy: 486 to s=Talk, ERROR to a broadcast; bye_soon: BYE after some
packets; no_media: never dials nor listens; aac_only: asks for a sound that we do not send."""
BYE_AFTER_PACKETS = 5
FORMAT = "v/////a/1/8/1"
MOST_KEPT_BYTES = 8_000_000


@dataclass(slots=True)
class AudioOptions:
    """How the device takes sound. ``media``: its own part. ``form`` talk: it knows no Broadcast, only s=Talk; both: both.

    ``payload`` ps: it wants a program stream. ``microphone``: what it says in s=Talk, G.711A, over and over.
    """

    media: Literal["udp", "tcp_active", "tcp_passive"] = "udp"
    payload: Literal["pcma", "ps"] = "pcma"
    form: Literal["broadcast", "talk", "both"] = "broadcast"
    microphone: bytes = b""
    faults: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        unknown = self.faults - set(BROADCAST_FAULTS)
        if unknown:
            raise ValueError(f"no such faults of sound: {sorted(unknown)}")


@dataclass(slots=True, eq=False)
class Hearing:
    """One running or ended session of sound. ``sound`` is all G.711A that came, ``sources`` where UDP came from."""

    output_id: str
    name: str
    ssrc: int
    sound: bytearray = field(default_factory=bytearray)
    packets: list[rtp.RtpPacket] = field(default_factory=list)
    sources: set[tuple[str, int]] = field(default_factory=set)
    remote: SessionDescription | None = None
    session: InviteSession | None = None
    ended: str = ""
    _demuxer: PsDemuxer = field(default_factory=PsDemuxer)

    def take(self, data: bytes) -> None:
        """One RTP packet."""
        packet = rtp.parse(data)
        if packet is None or len(self.sound) > MOST_KEPT_BYTES:
            return
        self.packets.append(packet)
        if packet.payload_type == 8:
            self.sound += packet.payload
        else:
            for unit in self._demuxer.feed(bytes(packet.payload), packet.timestamp):
                if unit.codec is Codec.PCMA:
                    self.sound += unit.data


class Loudspeakers:
    """All sound sessions of one device. ``heard`` are they, in order, ended ones included."""

    def __init__(self, device: SimulatedDevice) -> None:
        self._device = device
        self.heard: list[Hearing] = []
        self.refused: list[int] = []
        """Statuses with which our INVITEs were refused."""
        self._open: set[Hearing] = set()
        self._hearing: set[asyncio.Task[None]] = set()

    @property
    def options(self) -> AudioOptions:
        return self._device.options.audio

    @property
    def running(self) -> list[Hearing]:
        return [hearing for hearing in self.heard if hearing in self._open]

    # -- broadcast ---------------------------------------------------------------------------------------------

    def broadcast(self, body: BroadcastNotify) -> list[Body]:
        """The Response, and the INVITEs that follow it."""
        faults = self.options.faults
        if "silent" in faults:
            return []
        if faults & {"error", "busy"} or self.options.form == "talk":
            return [BroadcastResponse(sn=body.sn, device_id=body.target_id, result="ERROR")]
        if "no_invite" not in faults:
            for output in self._outputs(body.target_id):
                self._device.endpoint.spawn(self._fetch(body.source_id, output))
        if "no_response" in faults:
            return []
        return [BroadcastResponse(sn=body.sn, device_id=body.target_id)]

    def _outputs(self, target_id: str) -> list[str]:
        """The loudspeaker, or all of them for the device's own code."""
        if target_id != self._device.device_id:
            return [target_id]
        found = [code for code in self._device.channels if kind_of(code) is TypeKind.AUDIO_OUT]
        return found or [target_id]

    async def ask(self, source_id: str, output_id: str = "") -> None:
        """Fetch sound that nobody announced; ``refused`` gets the answer."""
        await self._fetch(source_id, output_id or self._device.device_id)

    async def _fetch(self, source_id: str, output_id: str) -> None:
        """INVITE to the source, then hear until the end."""
        device, options = self._device, self.options
        if "invite_first" not in options.faults:
            await asyncio.sleep(0.02)  # the Response goes first
        address = device.endpoint.local_address(device.target.host)
        ear = await Ear.open(options.media, address)
        ssrc = 183_000_000 + secrets.randbelow(10_000)
        try:
            session = await device.endpoint.invite(
                Target.of_flow(f"sip:{source_id}@{device.domain}", device.target.flow)
                if device.target.flow is not None
                else Target(
                    f"sip:{source_id}@{device.domain}",
                    device.target.host,
                    device.target.port,
                    device.target.transport,
                ),
                to=f"sip:{source_id}@{device.domain}",
                sender=Identity(output_id, device.domain),
                offer=self._offer(output_id, address, ear.port, ssrc).to_bytes(),
                subject=f"{source_id}:{format_ssrc(ssrc)},{output_id}:0",
                timeout_s=30.0,
            )
        except RemoteError as error:
            self.refused.append(error.status)
            ear.close()
            return
        hearing = Hearing(output_id, "Play", ssrc, remote=parse(session.remote_sdp), session=session)
        await self._hear(hearing, session, ear)

    def _offer(self, output_id: str, address: str, port: int, ssrc: int) -> SessionDescription:
        options = self.options
        number, encoding = (96, RtpMap("PS")) if options.payload == "ps" else (8, RtpMap("PCMA", 8000))
        if "aac_only" in options.faults:
            number, encoding = 102, RtpMap("AAC", 8000, 1)
        media = Media(
            kind="audio", port=port, payloads=[number], rtpmaps={number: encoding}, direction="recvonly"
        )
        if options.media != "udp":
            media.protocol, media.connection = "TCP/RTP/AVP", "new"
            media.setup = options.media.removeprefix("tcp_")
        return SessionDescription(
            origin_user=output_id, address=address, media=[media], ssrc=ssrc, format_text=FORMAT
        )

    # -- s=Talk ------------------------------------------------------------------------------------------------

    def meant(self, incoming: IncomingInvite) -> bool:
        """Whether an INVITE is s=Talk."""
        return b"\ns=Talk" in incoming.offer

    async def invited(self, incoming: IncomingInvite) -> Reply | None:
        """Answer s=Talk: sound both ways at one port."""
        device, options = self._device, self.options
        if options.form == "broadcast":
            return Reply(488)
        if "busy" in options.faults:
            return Reply(486)
        try:
            offer = read_offer(incoming.offer, kind="audio")
        except RemoteError as error:
            return Reply(error.status)
        wanted = {"udp": "udp", "tcp_active": "tcp_active", "tcp_passive": "tcp_passive"}[options.media]
        if offer.transport != wanted:
            return Reply(488)
        names = ("PS", "PCMA") if options.payload == "ps" else ("PCMA",)
        payload = next((p for name in names for p in offer.payloads if p.encoding == name), None)
        if payload is None:
            return Reply(488)
        address = device.endpoint.local_address(incoming.flow.host)
        ear = await Ear.open(options.media, address)
        ssrc = offer.ssrc or 183_009_999
        code = incoming.request.to.uri.user
        answer = relay_answer(
            offer, own_id=code, address=address, port=ear.port, ssrc=ssrc, payload=payload, format_text=FORMAT
        )
        answer.media[0].direction = "sendrecv"
        try:
            session = await incoming.accept(answer.to_bytes())
        except AckMissing:
            ear.close()
            return None
        hearing = Hearing(code, "Talk", ssrc, remote=parse(incoming.offer), session=session)
        device.endpoint.spawn(self._hear(hearing, session, ear))
        return None

    # -- a running session -------------------------------------------------------------------------------------

    async def _hear(self, hearing: Hearing, session: InviteSession, ear: Ear) -> None:
        self.heard.append(hearing)
        self._open.add(hearing)
        remote = hearing.remote
        work: list[asyncio.Task[None]] = []
        try:
            if remote is not None and "no_media" not in self.options.faults:
                media = remote.media[0]
                target = (media.address or remote.address, media.port)
                work.append(asyncio.create_task(ear.run(hearing, target, lambda: self._enough(hearing))))
                self._hearing.add(work[0])
                work[0].add_done_callback(self._hearing.discard)
                work[0].add_done_callback(lambda _: ear.close())
                if hearing.name == "Talk" and self.options.microphone:
                    work.append(asyncio.create_task(self._say(ear, hearing, target)))
            await asyncio.wait({asyncio.shield(session.ended)})
            hearing.ended = session.ended.result()
        finally:
            for task in work:
                task.cancel()
            await asyncio.gather(*work, return_exceptions=True)
            ear.close()
            self._open.discard(hearing)

    def _enough(self, hearing: Hearing) -> None:
        if "bye_soon" in self.options.faults and len(hearing.packets) == BYE_AFTER_PACKETS:
            self._device.endpoint.spawn(hearing.session.bye())  # type: ignore[union-attr]

    async def _say(self, ear: Ear, hearing: Hearing, target: tuple[str, int]) -> None:
        """The device's microphone, from the port at which it hears."""
        sound, number = self.options.microphone, 0
        while True:
            piece = bytes(sound[(number * 160 + place) % len(sound)] for place in range(160))
            ear.send(rtp.build(8, number, number * 160, hearing.ssrc, piece), target)
            number += 1
            await asyncio.sleep(0.02)

    def cut(self) -> None:
        """Break the media connections, without a BYE."""
        for task in self._hearing:
            task.cancel()

    async def hang_up(self) -> None:
        """BYE to every session."""
        sessions = [hearing.session for hearing in self._open if hearing.session is not None]
        await asyncio.gather(*(session.bye() for session in sessions))

    async def close(self) -> None:
        """BYE what runs while the endpoint is open."""
        if self._open:
            await asyncio.wait([asyncio.ensure_future(self.hang_up())], timeout=2.0)


class Ear:
    """One socket that hears RTP, by UDP or either way of TCP."""

    def __init__(self, media: str, sock: socket.socket) -> None:
        self._media = media
        self._socket = sock
        self._connection: socket.socket | None = None
        self.port = 9 if media == "tcp_active" else int(sock.getsockname()[1])

    @classmethod
    async def open(cls, media: str, host: str) -> Ear:
        kind = socket.SOCK_DGRAM if media == "udp" else socket.SOCK_STREAM
        sock = socket.socket(socket.AF_INET, kind)
        sock.setblocking(False)
        sock.bind((host, 0))
        if media == "tcp_passive":
            sock.listen(2)
        return cls(media, sock)

    async def run(self, hearing: Hearing, target: tuple[str, int], heard: Callable[[], None]) -> None:
        """Hear until cancelled or the connection ends."""
        loop = asyncio.get_running_loop()
        if self._media == "udp":
            while True:
                data, source = await loop.sock_recvfrom(self._socket, 65536)
                hearing.sources.add(source[:2])
                hearing.take(data)
                heard()
        if self._media == "tcp_active":
            await loop.sock_connect(self._socket, target)
            self._connection = self._socket
        else:
            self._connection, _ = await loop.sock_accept(self._socket)
            self._connection.setblocking(False)
        deframer = Deframer()
        while data := await loop.sock_recv(self._connection, 65536):
            for packet in deframer.feed(data):
                hearing.take(packet)
                heard()

    def send(self, packet: bytes, target: tuple[str, int]) -> None:
        """Say something; what the socket does not take is lost."""
        try:
            if self._media == "udp":
                self._socket.sendto(packet, target)
            elif self._connection is not None:
                self._connection.send(frame(packet))
        except OSError:
            log.debug("event=sound_lost")

    def close(self) -> None:
        for sock in {self._socket, self._connection or self._socket}:
            sock.close()
