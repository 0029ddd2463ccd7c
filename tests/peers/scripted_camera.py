"""A camera for tests: answers INVITEs as scripted, sends real PS over RTP, keeps every SIP message it saw and said."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any

from media.ps_mux import PsMuxer
from media.rtp import RtpPacketizer
from media.unit import AccessUnit, Codec
from simulator.picture import TestPicture
from sip import sdp
from sip.endpoint import Endpoint, Identity, Incoming, IncomingInvite, InviteSession, Observer, Reply
from sip.flow import Flow, Target
from sip.ids import format_ssrc

DOMAIN = "4101830000"
RATE = 25


def picture_units(codec: str = "h264") -> list[AccessUnit]:
    """Two seconds of a small moving picture; encoded once per run."""
    return TestPicture(320, 192, RATE, codec, bitrate=200_000, gop=25).encoded_loop(2.0)


class Trace(Observer):
    """All messages in order as (direction, start line or method, Call-ID, whole text)."""

    def __init__(self) -> None:
        self.messages: list[tuple[str, str, str, str]] = []

    def wire(self, direction: Any, flow: Flow | Target, data: bytes) -> None:
        text = data.decode("utf-8", "replace")
        start = text.partition("\r\n")[0]
        call_id = next(
            (
                line.partition(":")[2].strip()
                for line in text.split("\r\n")
                if line.lower().startswith("call-id:")
            ),
            "",
        )
        word = start.split()[1] if start.startswith("SIP/") else start.split()[0]
        self.messages.append((direction, word, call_id, text))

    def words(self, call_id: str = "") -> list[str]:
        """``<INVITE`` for what came in, ``>200`` for what went out, in order, repetitions left in."""
        return [
            ("<" if direction == "in" else ">") + word
            for direction, word, its_call, _ in self.messages
            if not call_id or its_call == call_id
        ]

    def texts(self, word: str) -> list[str]:
        return [text for _, its_word, _, text in self.messages if its_word == word]


AnswerMaker = Callable[[sdp.Offer], bytes]


@dataclass
class Script:
    """How the camera behaves. Every field can be changed between two INVITEs."""

    status: int = 200
    """What INVITE is answered with."""
    refuse_transports: dict[str, int] = field(default_factory=dict)
    """Our offered transport as the camera sees it (udp | tcp_passive | tcp_active) -> status."""
    answer: AnswerMaker | None = None
    """Makes the body of the 200; None: a proper answer."""
    answer_ssrc: int | None = None
    """``y=`` of the answer when it shall differ from the offer."""
    rtp: bool = True
    rtp_ssrc: int | None = None
    """SSRC in the packets when it shall differ from ``y=``."""
    rtp_before_answer: bool = False
    payload_type: int | None = None
    payload: Callable[[bytes], bytes] | None = None
    """Replaces the packets' payload: junk instead of PS."""
    key_frames: bool = True
    codec: str = "h264"
    answer_delay_s: float = 0.0
    listen_delay_s: float = 0.0
    """TCP active: so long after the 200 the camera's port refuses connections."""


@dataclass(eq=False)
class Call:
    """One INVITE: its offer, its dialog once confirmed, and the task that sends pictures."""

    offer: sdp.Offer
    subject: str
    session: InviteSession | None = None
    sender: asyncio.Task[None] | None = None
    packets: int = 0


class ScriptedCamera:
    """One device on loopback. ``host`` may be another loopback address, to play a device elsewhere."""

    def __init__(self, device_id: str, *, host: str = "127.0.0.1") -> None:
        self.device_id = device_id
        self.host = host
        self.script = Script()
        self.trace = Trace()
        self.calls: list[Call] = []
        self.messages: list[Incoming] = []
        self.endpoint = Endpoint(
            Identity(device_id, DOMAIN), host=host, port=0, handler=self._handle, observer=self.trace
        )
        self._tasks: set[asyncio.Task[Any]] = set()

    async def __aenter__(self) -> ScriptedCamera:
        await self.endpoint.start()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.silence()
        await self.endpoint.close(0.0)

    async def silence(self) -> None:
        """Stop sending pictures; dialogs stay."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def flow(self, gateway_port: int) -> Flow:
        """The flow under which a gateway at 127.0.0.1 would have learned this camera by REGISTER over UDP."""
        return Flow("udp", self.host, self.endpoint.port, "127.0.0.1", gateway_port)

    def _handle(self, incoming: Incoming) -> Reply | Awaitable[Reply | None]:
        if isinstance(incoming, IncomingInvite):
            return self._invite(incoming)
        self.messages.append(incoming)
        return Reply(200)

    async def _invite(self, invite: IncomingInvite) -> Reply | None:
        offer = sdp.read_offer(invite.offer)
        script = replace(self.script)
        call = Call(offer, invite.request.headers.get("Subject"))
        self.calls.append(call)
        status = script.refuse_transports.get(offer.transport, script.status)
        if script.answer_delay_s:
            await asyncio.sleep(script.answer_delay_s)
        if status != 200:
            return Reply(status)
        with contextlib.ExitStack() as undo:
            port, listener = self._media_port(offer, undo)
            if script.rtp and script.rtp_before_answer:
                self._start(call, script, port, listener)
                await asyncio.sleep(0.3)
            body = script.answer(offer) if script.answer is not None else self._answer(offer, port, script)
            session = await invite.accept(body)
            call.session = session
            session.ended.add_done_callback(
                lambda _: call.sender.cancel() if call.sender is not None else None
            )
            if script.rtp and call.sender is None and not session.ended.done():
                self._start(call, script, port, listener)
            if call.sender is not None:
                undo.pop_all()  # the sender closes its socket itself
        return None

    def _media_port(self, offer: sdp.Offer, undo: contextlib.ExitStack) -> tuple[int, socket.socket]:
        """A bound socket for the media: UDP, or TCP (listening when the gateway dials)."""
        kind = socket.SOCK_DGRAM if offer.transport == sdp.UDP else socket.SOCK_STREAM
        sock = socket.socket(socket.AF_INET, kind)
        undo.callback(sock.close)
        sock.setblocking(False)
        sock.bind((self.host, 0))
        if offer.transport == sdp.TCP_PASSIVE and not self.script.listen_delay_s:
            sock.listen(1)
        return sock.getsockname()[1], sock

    def _answer(self, offer: sdp.Offer, port: int, script: Script) -> bytes:
        ssrc = script.answer_ssrc if script.answer_ssrc is not None else offer.ssrc
        payload = offer.payloads[0]
        return sdp.relay_answer(
            offer, own_id=self.device_id, address=self.host, port=port, ssrc=ssrc or 0, payload=payload
        ).to_bytes()

    def _start(self, call: Call, script: Script, port: int, sock: socket.socket) -> None:
        call.sender = asyncio.create_task(self._send(call, script, sock))
        self._tasks.add(call.sender)
        call.sender.add_done_callback(self._tasks.discard)

    async def _send(self, call: Call, script: Script, sock: socket.socket) -> None:
        """Send pictures in real time until cancelled or the connection ends."""
        loop = asyncio.get_running_loop()
        opened = [sock]
        try:
            write = await self._connected(call.offer, script, sock, opened)
            ssrc = script.rtp_ssrc
            if ssrc is None:
                ssrc = script.answer_ssrc if script.answer_ssrc is not None else call.offer.ssrc or 0
            payload_type = script.payload_type if script.payload_type is not None else 96
            packetizer = RtpPacketizer(ssrc, payload_type)
            units = picture_units(script.codec)
            muxer = PsMuxer(Codec(script.codec))
            started, index = loop.time(), 0
            while True:
                unit = units[index % len(units)]
                pts = index * 90_000 // RATE
                unit = replace(unit, pts=pts, dts=pts)
                if script.key_frames or not unit.key:
                    data = muxer.mux(unit)
                    if script.payload is not None:
                        data = script.payload(data)
                    for packet in packetizer.packets(data, pts):
                        await write(packet)
                        call.packets += 1
                index += 1
                await asyncio.sleep(max(0.0, started + index / RATE - loop.time()))
        except (ConnectionError, OSError):
            pass
        finally:
            for one in opened:
                one.close()

    async def _connected(
        self, offer: sdp.Offer, script: Script, sock: socket.socket, opened: list[socket.socket]
    ) -> Callable[[bytes], Awaitable[None]]:
        loop = asyncio.get_running_loop()
        if offer.transport == sdp.UDP:
            target = (offer.host, offer.port)

            async def datagram(packet: bytes) -> None:
                with contextlib.suppress(BlockingIOError, ConnectionRefusedError):
                    sock.sendto(packet, target)

            return datagram
        stream = sock
        if offer.transport == sdp.TCP_PASSIVE:  # the gateway dials us
            if script.listen_delay_s:
                await asyncio.sleep(script.listen_delay_s)
                sock.listen(1)
            stream, _ = await loop.sock_accept(sock)
            opened.append(stream)
            stream.setblocking(False)
        else:
            await loop.sock_connect(sock, (offer.host, offer.port))

        async def framed(packet: bytes) -> None:
            await loop.sock_sendall(stream, struct.pack("!H", len(packet)) + packet)

        return framed


def plain_answer(
    device_id: str, media: str, *lines: str, host: str = "127.0.0.1", ssrc: int | None = None
) -> bytes:
    """An answer line by line, for the odd ones."""
    text = [
        "v=0",
        f"o={device_id} 0 0 IN IP4 {host}",
        "s=Play",
        f"c=IN IP4 {host}",
        "t=0 0",
        f"m=video {media}",
    ]
    text += [*lines]
    if ssrc is not None:
        text.append(f"y={format_ssrc(ssrc)}")
    return ("\r\n".join(text) + "\r\n").encode()
