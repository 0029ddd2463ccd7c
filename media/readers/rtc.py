"""Where we reach into aiortc: host candidates of our choice, and a sender that is told what to send.

The library keeps ICE, DTLS, SRTP keys and the parsing of RTCP. Only the paths replaced here use private names; the
versions are pinned in pyproject.toml, and tests/media/test_webrtc.py fails when a name has gone.
"""

from __future__ import annotations

import asyncio
import random
import socket
import struct
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

from aioice.ice import get_host_addresses
from aiortc import RTCRtpSender
from aiortc.rtp import (
    AnyRtcpPacket,
    RtcpByePacket,
    RtcpSdesPacket,
    RtcpSenderInfo,
    RtcpSourceInfo,
    RtcpSrPacket,
)

from media.readers.rtc_packets import HEADER, TAG_BYTES, SrtpFailed, UnitPackets, encrypt
from media.unit import TICKS_PER_SECOND

HISTORY = 1024
"""Packets kept for retransmission: about 2 s at 4 Mbit/s."""
REPORT_FIRST_S = 0.1
"""The first sender report: until it comes a player cannot bring picture and sound together."""
REPORT_S = 1.5
CLOCK_TRUST_S = 1.0
"""A source whose units come this much off its clock is followed at once, not gradually."""

_SEQUENCE = struct.Struct(">H")
_NTP_EPOCH_S = 2_208_988_800
_CNAME = 1


@dataclass(frozen=True, slots=True)
class Interface:
    """Where to bind, and what to call it in the candidate."""

    bind: str
    announced: str


def local_addresses(bind_host: str) -> list[str]:
    """The addresses of this machine that ``bind_host`` stands for: itself, or all with loopback for a wildcard."""
    if bind_host not in ("0.0.0.0", "::"):
        return [bind_host]
    found = get_host_addresses(use_ipv4=True, use_ipv6=bind_host == "::")
    return ["127.0.0.1", *sorted(set(found) - {"127.0.0.1"})]


def announced_hosts(bind_host: str, media_host: str, forced: str | None) -> list[str]:
    """The host candidates for one viewer.

    ``forced`` alone if it is an address (behind NAT or a container's port mapping it is not ours); else ``media_host``
    and every local address. Loopback is announced only when it is named: the library never would.
    """
    if forced and is_address(forced):
        return [forced]
    wanted = [media_host] if is_address(media_host) else []
    wanted += [host for host in local_addresses(bind_host) if host == bind_host or host != "127.0.0.1"]
    return list(dict.fromkeys(host for host in wanted if is_address(host)))


def is_address(host: str) -> bool:
    """Whether ``host`` is an IP address that something can be sent to."""
    try:
        if ":" in host:
            socket.inet_pton(socket.AF_INET6, host)
        else:
            socket.inet_pton(socket.AF_INET, host)
    except OSError:
        return False
    return host not in ("0.0.0.0", "::")


class MediaClock:
    """Which moment of a stream's own clock it is now: the common ground of sound and picture in sender reports.

    RFC 3550 6.4.1: both clocks of a report are read at one instant. If each track took the time of its last packet
    instead, a camera that sends its sound early would be played out of step.
    """

    def __init__(self) -> None:
        self._offset_s: float | None = None

    def note(self, pts: int, now: float) -> None:
        """A live picture of time ``pts`` came at ``now`` (monotonic seconds)."""
        sample = now - pts / TICKS_PER_SECOND
        offset = self._offset_s
        if offset is None or abs(sample - offset) > CLOCK_TRUST_S:
            self._offset_s = sample
        else:
            self._offset_s = offset + (sample - offset) / 64

    def ticks(self, now: float) -> int | None:
        """90 kHz ticks of the stream's clock at ``now``; None before the first picture."""
        return None if self._offset_s is None else round((now - self._offset_s) * TICKS_PER_SECOND)


@dataclass(frozen=True, slots=True)
class _Sent:
    """Packets of one unit, as they were numbered: ``count`` from ``sequence`` on are payloads ``first`` on."""

    sequence: int
    count: int
    packets: UnitPackets
    first: int
    stamp: int
    marked: bool


class DirectSender:
    """Sends laid out packets through one aiortc sender, in place of its own frame loop.

    The library's loop costs several times as much per packet: it builds a packet object, and serialises it again for
    each viewer. Retransmission (RFC 4588) and sender reports are done here. ``clock_rate`` is the codec's, in Hz.
    """

    def __init__(
        self, sender: RTCRtpSender, clock: MediaClock, clock_rate: int, on_picture_lost: Callable[[], None]
    ) -> None:
        self.ready = asyncio.Event()
        """Set once DTLS is up and the payload type is negotiated."""
        self.packets = 0
        self.retransmitted = 0
        self._sender = cast(Any, sender)
        self._clock = clock
        self._clock_rate = clock_rate
        self._payload_type = 0
        self._sequence = random.randrange(1 << 15)
        self._origin = random.getrandbits(32)
        self._rtx_sequence = random.randrange(1 << 15)
        self._octets = 0
        self._tag = 0
        self._history: deque[_Sent] = deque()
        self._kept = 0
        self._credit = 0
        self._sender._run_rtp = self._run
        self._sender._run_rtcp = self._run_reports
        self._sender._retransmit = self._retransmit
        self._sender._send_keyframe = on_picture_lost

    async def _run(self, codec: Any) -> None:
        """Stands where the library's frame loop was: sending is done by `send`, this only marks start and end."""
        self._payload_type = codec.payloadType
        self._tag = TAG_BYTES[self._sender.transport._ssl.get_selected_srtp_profile()]
        self._private("rtp_started").set()
        self.ready.set()
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            pass
        finally:
            self.ready.clear()
            self._private("rtp_exited").set()

    def _private(self, name: str) -> Any:
        return getattr(self._sender, f"_RTCRtpSender__{name}")

    def _tell(self, name: str, value: Any) -> None:
        setattr(self._sender, f"_RTCRtpSender__{name}", value)

    # --- packets -----------------------------------------------------------------------------------------------

    def pieces(self, packets: UnitPackets) -> int:
        """How many calls of `send` a unit takes."""
        return len(packets.layout(self._tag).pieces)

    def send(self, packets: UnitPackets, number: int, timestamp: int, *, marked: bool = True) -> int:
        """Send one piece of a unit; ``timestamp`` in the codec's clock, wrapped here.

        The payload bytes sent; 0 when not connected (any more). ``marked``: the last packet of the unit ends a
        picture, as audio never does.
        """
        transport = self._sender.transport
        pair = transport.transport._connection._nominated.get(1)
        srtp = transport._tx_srtp
        if pair is None or srtp is None or not self.ready.is_set():
            return 0
        layout = packets.layout(self._tag)
        piece = layout.pieces[number]
        stamp = timestamp + self._origin & 0xFFFFFFFF
        sequence, count = self._sequence, len(piece.sizes)
        last = marked and number == len(layout.pieces) - 1
        ssrc = self._sender._ssrc
        try:
            wire = encrypt(
                srtp, layout.template, piece, self._payload_type, sequence, stamp, ssrc, marker=last
            )
        except SrtpFailed:
            return 0
        send_run, address = pair.protocol.wire.send_run, pair.remote_addr
        for run in piece.runs:
            send_run(wire[run.begin : run.end], run.size, run.count, address)
        self._remember(_Sent(sequence, count, packets, piece.first, stamp, last))
        self._sequence = sequence + count & 0xFFFF
        self.packets += count
        self._credit = min(self._credit + count, HISTORY)
        self._octets += piece.payload_bytes
        return piece.payload_bytes

    def _remember(self, sent: _Sent) -> None:
        self._history.append(sent)
        self._kept += sent.count
        while self._kept > HISTORY:
            self._kept -= self._history.popleft().count

    async def _retransmit(self, sequence: int) -> None:
        """Answer a NACK from the history, on the retransmission stream where one was negotiated (RFC 4588 4).

        Each packet sent earns one sent again: whatever a receiver asks for, it gets at most twice the stream.
        """
        sent = next((sent for sent in self._history if sequence - sent.sequence & 0xFFFF < sent.count), None)
        pair = self._sender.transport.transport._connection._nominated.get(1)
        srtp = self._sender.transport._tx_srtp
        if sent is None or pair is None or srtp is None or not self._credit:
            return
        self._credit -= 1
        self.retransmitted += 1
        place = sequence - sent.sequence & 0xFFFF
        payload = sent.packets.payloads[sent.first + place]
        marker = 0x80 if sent.marked and place == sent.count - 1 else 0
        rtx_type = self._private("rtx_payload_type")
        if rtx_type is None:
            header = HEADER.pack(0x80, self._payload_type | marker, sequence, sent.stamp, self._sender._ssrc)
        else:
            header = HEADER.pack(
                0x80, rtx_type | marker, self._rtx_sequence, sent.stamp, self._sender._rtx_ssrc
            ) + _SEQUENCE.pack(sequence)
            self._rtx_sequence = self._rtx_sequence + 1 & 0xFFFF
        pair.protocol.wire.send(srtp.protect(header + payload), pair.remote_addr)

    # --- reports -----------------------------------------------------------------------------------------------

    async def _run_reports(self) -> None:
        """Sender reports with a name for the source (RFC 3550 6.4.1, 6.5.1); BYE at the end."""
        self._private("rtcp_started").set()
        pause = REPORT_FIRST_S
        try:
            while True:
                await asyncio.sleep(pause)
                if self.packets and (report := self._report()) is not None:
                    await self._sender._send_rtcp([report, *self._names()])
                    pause = REPORT_S * (0.5 + random.random())
        except asyncio.CancelledError:
            pass
        await self._sender._send_rtcp([RtcpByePacket(sources=[self._sender._ssrc])])
        self._private("rtcp_exited").set()

    def _report(self) -> RtcpSrPacket | None:
        ticks = self._clock.ticks(time.monotonic())
        if ticks is None:
            return None
        wall = time.time()
        ntp = int((wall + _NTP_EPOCH_S) * (1 << 32))
        stamp = ticks * self._clock_rate // TICKS_PER_SECOND + self._origin & 0xFFFFFFFF
        self._tell("lsr", ntp >> 16 & 0xFFFFFFFF)
        self._tell("lsr_time", wall)
        self._tell("packet_count", self.packets)
        self._tell("octet_count", self._octets)
        info = RtcpSenderInfo(ntp, stamp, self.packets & 0xFFFFFFFF, self._octets & 0xFFFFFFFF)
        return RtcpSrPacket(ssrc=self._sender._ssrc, sender_info=info)

    def _names(self) -> list[AnyRtcpPacket]:
        """The same name for sound and picture says that they belong together."""
        name = self._private("cname")
        if name is None:
            return []
        chunk = RtcpSourceInfo(ssrc=self._sender._ssrc, items=[(_CNAME, name.encode())])
        return [RtcpSdesPacket(chunks=[chunk])]
