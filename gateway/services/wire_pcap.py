"""Kept SIP messages as a pcap file that Wireshark and tshark decode as SIP.

Messages are kept without their packets, so packets are made here: Ethernet, IPv4 or IPv6, and UDP datagrams or TCP segments
whose sequence numbers continue, so that a message longer than a segment is put together again. TLS is written as TCP,
because what is kept is the text inside. Format: libpcap 2.4, microseconds, link type Ethernet.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address

from gateway.services.wire import Entry, LineKey
from gateway.services.wire_mask import masked

SEGMENT_BYTES = 1400
MAX_UDP_BYTES = 65_507
_FILE_HEADER = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 262_144, 1)
_RECORD = struct.Struct("<IIII")
_MACS = (b"\x02\x00\x00\x00\x00\x01", b"\x02\x00\x00\x00\x00\x02")
"""Ours and the peer's, locally administered."""
_SYN, _ACK, _PUSH_ACK = 0x02, 0x10, 0x18
_UNKNOWN = ("192.0.2.1", 5060)
"""Stands for our address where it is not known (TEST-NET-1)."""

Taken = tuple[Entry, LineKey, tuple[str, int] | None]
Address = IPv4Address | IPv6Address


@dataclass(slots=True)
class _Stream:
    """Next sequence number of each side of one TCP connection: [ours, the peer's]."""

    next: list[int] = field(default_factory=lambda: [1000, 2000])


def capture(taken: Iterable[Taken]) -> bytes:
    """The whole file. Credentials are masked, lengths stay."""
    return b"".join(_parts(taken))


def _parts(taken: Iterable[Taken]) -> Iterator[bytes]:
    yield _FILE_HEADER
    streams: dict[tuple[LineKey, tuple[str, int]], _Stream] = {}
    number = 0
    for (at, came_in, raw), key, local in taken:
        ours, theirs = _end(local or _UNKNOWN, 1), _end((key[0], key[1]), 2)
        if ours[0].version != theirs[0].version:
            ours = (ip_address("2001:db8::1" if theirs[0].version == 6 else "192.0.2.1"), ours[1])
        source, target = (theirs, ours) if came_in else (ours, theirs)
        data = masked(raw)
        if key[2] == "udp":
            frames: Iterable[tuple[bool, bytes]] = (
                (came_in, _udp(source, target, data[:MAX_UDP_BYTES], number)),
            )
        else:
            stream = streams.get((key, local or _UNKNOWN))
            first = stream is None
            stream = stream or streams.setdefault((key, local or _UNKNOWN), _Stream())
            frames = _tcp(source, target, data, stream, came_in, number, first)
        micros = round(at * 1_000_000)
        for inward, frame in frames:
            number += 1
            macs = _MACS if inward else _MACS[::-1]
            kind = b"\x08\x00" if source[0].version == 4 else b"\x86\xdd"
            packet = macs[0] + macs[1] + kind + frame
            yield _RECORD.pack(micros // 1_000_000, micros % 1_000_000, len(packet), len(packet)) + packet


def _end(address: tuple[str, int], number: int) -> tuple[Address, int]:
    """Address and port; a host name has no place in a packet and is written as 192.0.2.``number`` (TEST-NET-1)."""
    try:
        return ip_address(address[0].partition("%")[0]), address[1]
    except ValueError:
        return IPv4Address(f"192.0.2.{number}"), address[1]


End = tuple[Address, int]


def _udp(source: End, target: End, data: bytes, number: int) -> bytes:
    head = struct.pack("!HHHH", source[1], target[1], 8 + len(data), 0)
    summed = _checksum(_pseudo(source[0], target[0], 17, len(head) + len(data)) + head + data) or 0xFFFF
    return _ip(source[0], target[0], 17, head[:6] + struct.pack("!H", summed) + data, number)


def _tcp(
    source: End, target: End, data: bytes, stream: _Stream, came_in: bool, number: int, first: bool
) -> Iterator[tuple[bool, bytes]]:
    """The segments of one message, each with whether it comes to us; a connection begins with its handshake."""
    us, them = stream.next
    if first:  # who sent first in what is kept is taken for the one who called
        mine, other = (them, us) if came_in else (us, them)
        yield came_in, _segment(source, target, mine - 1, 0, _SYN, b"", number)
        yield not came_in, _segment(target, source, other - 1, mine, _SYN | _ACK, b"", number + 1)
        yield came_in, _segment(source, target, mine, other, _ACK, b"", number + 2)
    side = 1 if came_in else 0
    for start in range(0, len(data), SEGMENT_BYTES):
        part = data[start : start + SEGMENT_BYTES]
        segment = _segment(source, target, stream.next[side], stream.next[1 - side], _PUSH_ACK, part, number)
        yield came_in, segment
        stream.next[side] = (stream.next[side] + len(part)) & 0xFFFFFFFF


def _segment(
    source: End, target: End, sequence: int, acknowledged: int, flags: int, data: bytes, number: int
) -> bytes:
    head = struct.pack(
        "!HHIIBBHHH",
        source[1], target[1], sequence & 0xFFFFFFFF, acknowledged & 0xFFFFFFFF, 5 << 4, flags, 65_535, 0, 0,
    )  # fmt: skip
    summed = _checksum(_pseudo(source[0], target[0], 6, len(head) + len(data)) + head + data)
    return _ip(source[0], target[0], 6, head[:16] + struct.pack("!H", summed) + head[18:] + data, number)


def _ip(source: Address, target: Address, protocol: int, payload: bytes, number: int) -> bytes:
    if source.version == 6:
        return (
            struct.pack("!IHBB", 6 << 28, len(payload), protocol, 64)
            + source.packed
            + target.packed
            + payload
        )
    head = struct.pack(
        "!BBHHHBBH4s4s",
        0x45, 0, 20 + len(payload), number & 0xFFFF, 0x4000, 64, protocol, 0, source.packed, target.packed,
    )  # fmt: skip
    return head[:10] + struct.pack("!H", _checksum(head)) + head[12:] + payload


def _pseudo(source: Address, target: Address, protocol: int, length: int) -> bytes:
    if source.version == 6:
        return source.packed + target.packed + struct.pack("!IHBB", length, 0, 0, protocol)
    return source.packed + target.packed + struct.pack("!BBH", 0, protocol, length)


def _checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    words = array("H", data + b"\0" if len(data) % 2 else data)
    total = sum(words)
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return struct.unpack("!H", struct.pack("=H", ~total & 0xFFFF))[0]  # type: ignore[no-any-return]
