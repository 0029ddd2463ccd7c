"""Where we reach into aiortc and aioice: sockets inside the port range, and a sender that is told what to send.

The libraries keep ICE, DTLS, SRTP keys and RTCP. Only the paths replaced here use private names; the versions are
pinned in pyproject.toml, and tests/media/test_webrtc.py fails when a name has gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

from aioice.candidate import Candidate, candidate_foundation, candidate_priority
from aioice.ice import Connection, StunProtocol, get_host_addresses
from aiortc import RTCRtpSender

from media.errors import MediaError

HISTORY = 1024
"""Packets kept for retransmission: about 2 s at 4 Mbit/s."""
SEND_BUFFER_BYTES = 1 << 20
UNSENT_LIMIT_BYTES = 512 * 1024
"""More than this waiting in the socket's queue, and units are dropped up to the next key frame."""

_HEADER = struct.Struct(">BBHII")
_SEQUENCE = struct.Struct(">H")
_NTP_EPOCH_S = 2_208_988_800


@dataclass(frozen=True, slots=True)
class Interface:
    """Where to bind, and what to call it in the candidate."""

    bind: str
    announced: str


def interfaces(bind_host: str, media_host: str, forced: str | None) -> list[Interface]:
    """The host candidates for one viewer.

    ``forced`` alone if it is an IPv4 address (its socket is bound to ``bind_host``: behind NAT or a container's port
    mapping the address is not ours); else ``media_host`` and every local IPv4 address, each with a socket of its own,
    so that answers leave from the address that was asked. Loopback is announced only when it is named: the library
    never would.
    """
    if forced and _is_address(forced):
        return [Interface(bind_host, forced)]
    local = set(get_host_addresses(use_ipv4=True, use_ipv6=False))
    wanted = [media_host] if _is_address(media_host) else []
    if bind_host in ("0.0.0.0", "::"):
        wanted += sorted(local)
    elif _is_address(bind_host):
        wanted.append(bind_host)
    ours = local | {"127.0.0.1"}
    return [Interface(host if host in ours else bind_host, host) for host in dict.fromkeys(wanted)]


def _is_address(host: str) -> bool:
    try:
        socket.inet_aton(host)
    except OSError:
        return False
    return host.count(".") == 3 and host != "0.0.0.0"


def bind_in_range(connection: Connection, hosts: Sequence[Interface], ports: range) -> None:
    """Make ``connection`` gather exactly one host candidate per interface, with a UDP port out of ``ports``.

    Gathering raises MediaError ``no_port`` when none of the interfaces got a port.
    """

    async def gather(component: int, addresses: list[str], timeout: int = 5) -> list[Candidate]:
        candidates = []
        for host in hosts:
            found = _bind(host.bind, ports)
            if found is None:
                continue
            _, protocol = await asyncio.get_running_loop().create_datagram_endpoint(
                lambda: StunProtocol(connection), sock=found
            )
            protocol.local_candidate = Candidate(
                foundation=candidate_foundation("host", "udp", host.announced),
                component=component,
                transport="udp",
                priority=candidate_priority(component, "host"),
                host=host.announced,
                port=found.getsockname()[1],
                type="host",
            )
            connection._protocols.append(protocol)
            candidates.append(protocol.local_candidate)
        if not candidates:
            raise MediaError("no_port", "no UDP port is free for another WebRTC viewer")
        return candidates

    cast(Any, connection).get_component_candidates = gather


def _bind(host: str, ports: range) -> socket.socket | None:
    """A bound UDP socket; a random place in the range first, so that a fresh port is rarely one just given back."""
    start = random.randrange(len(ports)) if len(ports) else 0
    for step in range(len(ports)):
        candidate = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            candidate.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
            candidate.setblocking(False)
            candidate.bind((host, ports[(start + step) % len(ports)]))
        except OSError:
            candidate.close()
            continue
        return candidate
    return None


class DirectSender:
    """Sends ready RTP payloads through one aiortc sender, in place of its own frame loop.

    The library's loop costs three times as much per packet: it builds a packet object, and serialises it again for
    each viewer. Retransmission (RFC 4588) and the counters for its sender reports are kept here.
    """

    def __init__(self, sender: RTCRtpSender, on_key_frame_wanted: Callable[[], None]) -> None:
        self.ready = asyncio.Event()
        """Set once DTLS is up and the payload type is negotiated."""
        self.packets = 0
        self.retransmitted = 0
        self._sender = cast(Any, sender)
        self._payload_type = 0
        self._sequence = random.randrange(1 << 15)
        self._origin = random.getrandbits(32)
        self._rtx_sequence = random.randrange(1 << 15)
        self._octets = 0
        self._history: list[bytes] = [b""] * HISTORY
        self._sender._run_rtp = self._run
        self._sender._retransmit = self._retransmit
        self._sender._send_keyframe = on_key_frame_wanted

    async def _run(self, codec: Any) -> None:
        """Stands where the library's frame loop was: sending is done by `send`, this only marks start and end."""
        self._payload_type = codec.payloadType
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

    def send(self, payloads: Sequence[bytes], timestamp: int, *, marker: bool = True) -> bool:
        """Send one unit's payloads; ``timestamp`` in the codec's clock, wrapped here.

        False when nothing was sent: not connected (any more), or the socket's queue is full. ``marker`` is set on
        the last packet of a picture, not on audio.
        """
        pair = self._sender.transport.transport._connection._nominated.get(1)
        srtp = self._sender.transport._tx_srtp
        if pair is None or srtp is None or not self.ready.is_set():
            return False
        wire = pair.protocol.transport
        if wire.is_closing() or wire.get_write_buffer_size() > UNSENT_LIMIT_BYTES:
            return False
        protect, sendto, address = srtp.protect, wire.sendto, pair.remote_addr
        history, ssrc, kind = self._history, self._sender._ssrc, self._payload_type
        stamp = timestamp + self._origin & 0xFFFFFFFF
        sequence, last = self._sequence, len(payloads) - 1 if marker else -1
        for index, payload in enumerate(payloads):
            second = kind | 0x80 if index == last else kind
            packet = _HEADER.pack(0x80, second, sequence, stamp, ssrc) + payload
            history[sequence % HISTORY] = packet
            sendto(protect(packet), address)
            sequence = sequence + 1 & 0xFFFF
            self._octets += len(payload)
        self._sequence = sequence
        self.packets += len(payloads)
        self._report(stamp)
        return True

    def _report(self, stamp: int) -> None:
        """Keep the numbers of the library's sender reports (RFC 3550 6.4.1) right."""
        now = time.time() + _NTP_EPOCH_S
        values = {
            "ntp_timestamp": int(now * (1 << 32)),
            "rtp_timestamp": stamp,
            "packet_count": self.packets,
            "octet_count": self._octets,
        }
        for name, value in values.items():
            setattr(self._sender, f"_RTCRtpSender__{name}", value)

    async def _retransmit(self, sequence: int) -> None:
        """Answer a NACK from the history, on the retransmission stream where one was negotiated (RFC 4588 4)."""
        packet = self._history[sequence % HISTORY]
        if len(packet) < 12 or _SEQUENCE.unpack_from(packet, 2)[0] != sequence:
            return
        self.retransmitted += 1
        rtx_type = self._private("rtx_payload_type")
        if rtx_type is not None:
            first, second, _, stamp, _ = _HEADER.unpack_from(packet)
            header = _HEADER.pack(
                first, second & 0x80 | rtx_type, self._rtx_sequence, stamp, self._sender._rtx_ssrc
            )
            packet = header + packet[2:4] + packet[12:]
            self._rtx_sequence = self._rtx_sequence + 1 & 0xFFFF
        with contextlib.suppress(ConnectionError):
            await self._sender.transport._send_rtp(packet)
