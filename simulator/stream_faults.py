"""What real devices do wrong in the program stream and on the wire, byte by byte (field experience with cameras).

A fault is named in :data:`STREAM_FAULTS`. Those of the container and the clock work where a frame becomes a pack
(`PackSpoiler`), those of the transport where packets become bytes (`WireSpoiler`).
"""

from __future__ import annotations

import random
import re
import socket
import struct
from collections.abc import Collection
from dataclasses import replace

from media.ps_mux import (
    AUDIO_ID,
    VIDEO_ID,
    PsMuxer,
    pack_header,
    pes_packets,
    program_stream_map,
    system_header,
    timestamp_field,
)
from media.rtp import HEADER
from media.unit import TICKS_PER_SECOND, AccessUnit, Codec

STREAM_FAULTS: dict[str, str] = {
    # on the wire
    "starts_inside": "TCP: the first bytes are the rest of a packet",
    "overwritten": "TCP: the length is right, but the next packet already sits in the middle",
    "dollar_framing": "TCP: four bytes $, channel, length in front of each packet",
    "ehome_head": "TCP: 256 bytes of another protocol in front of the stream",
    "ssrc_changes": "another SSRC after two seconds",
    "second_sender": "somebody else sends another stream to the same port",
    "same_ssrc_sender": "the stranger uses the same SSRC",
    # program stream
    "no_map": "no program stream map at all",
    "wrong_map": "the map says H.264 for H.265 and the other way round",
    "wrong_audio_map": "the map says AAC for G.711",
    "bad_map_crc": "the map's CRC is wrong",
    "lying_map": "the map's inner lengths are wrong",
    "bare_pack": "a pack start code without the ten bytes behind it",
    "stuffed_pack": "six stuffing bytes in the pack header",
    "private_stream": "private packets (BD) with start codes inside, between the pictures",
    "zero_length": "PES length 0 for pictures",
    "wrapped_length": "pictures above 64 KB in one PES whose 16-bit length wraps",
    "late_sets": "no SPS and PPS before the second key frame",
    "sets_once": "SPS and PPS only before the first key frame",
    "sets_apart": "SPS and PPS in a pack of their own, with the time of the picture behind it",
    "glued": "every tenth frame sits in one PES with the next one",
    "audio_first": "two seconds of sound before the first picture",
    # clock
    "clock_jumps": "the clock leaps an hour ahead and back again every two seconds",
    "clock_stands": "PTS is always 0",
    "rtp_clock_stands": "the RTP timestamp never changes",
    "clock_ms": "both clocks count milliseconds",
    "clock_wraps": "33-bit PTS and 32-bit RTP timestamps wrap after a second",
}
_SETS = {
    Codec.H264: re.compile(rb"\x00\x00\x00?\x01[\x67\x27\x68\x28]"),
    Codec.H265: re.compile(rb"\x00\x00\x00?\x01[\x40\x42\x44]"),
}
_FILLER = {Codec.H264: b"\x00\x00\x00\x01\x0c", Codec.H265: b"\x00\x00\x00\x01\x4c\x01"}
"""Filler data NAL units (H.264 7.4.1, H.265 7.4.2): bytes that a decoder leaves out."""
_START = re.compile(rb"\x00\x00\x00?\x01")
_JUMP_TICKS = 3600 * TICKS_PER_SECOND
_OVERWRITE_EVERY = 150
_SILENT_PICTURES_S = 2


def check(names: Collection[str]) -> None:
    """ValueError for a name that is no fault."""
    unknown = set(names) - set(STREAM_FAULTS)
    if unknown:
        raise ValueError(f"no such stream faults: {sorted(unknown)}")


def split_sets(unit: AccessUnit) -> tuple[bytes, bytes]:
    """Parameter sets and the rest of a picture (Annex B)."""
    sets, rest = b"", b""
    starts = [match.start() for match in _START.finditer(unit.data)]
    for begin, end in zip(starts, [*starts[1:], len(unit.data)], strict=True):
        piece = unit.data[begin:end]
        if _SETS[unit.codec].match(piece):
            sets += piece
        else:
            rest += piece
    return sets, rest


class PackSpoiler:
    """Stands where the muxer stands: one unit in, the packs and RTP timestamps that a faulty device sends out."""

    def __init__(self, video: Codec, audio: Codec | None, names: Collection[str]) -> None:
        check(names)
        self._names = frozenset(names)
        self._video, self._audio = video, audio
        self._muxer = PsMuxer(video, audio)
        self._keys = 0
        self._pictures = 0
        self._glued: AccessUnit | None = None

    def packs(self, unit: AccessUnit, timestamp: int) -> list[tuple[bytes, int]]:
        """Packs with their RTP timestamps, maybe none. ``timestamp`` is the frame's time in 90 kHz ticks."""
        names = self._names
        if not names:
            return [(self._muxer.mux(unit), timestamp)]
        video = unit.codec.is_video
        if video:
            self._pictures += 1
            if "audio_first" in names and timestamp < _SILENT_PICTURES_S * TICKS_PER_SECOND:
                return []
            self._keys += unit.key
        pts, rtp_time = self._clocks(unit.pts, timestamp)
        unit = replace(unit, pts=pts, dts=pts)
        if not video:
            return [(pack_header(pts) + pes_packets(AUDIO_ID, unit.data, pts, pts), rtp_time)]
        before: list[tuple[bytes, int]] = []
        if unit.key:
            unit, before = self._sets(unit, rtp_time)
        elif "glued" in names and self._pictures % 10 == 5:
            self._glued = unit
            return []
        if self._glued is not None:
            unit = replace(unit, data=self._glued.data + unit.data)
            self._glued = None
        return [*before, (self._head(unit) + self._pes(unit), rtp_time)]

    def _clocks(self, pts: int, timestamp: int) -> tuple[int, int]:
        names = self._names
        if "clock_jumps" in names and pts // (2 * TICKS_PER_SECOND) % 2:
            return pts + _JUMP_TICKS, timestamp + _JUMP_TICKS
        if "clock_stands" in names:
            return 0, timestamp
        if "rtp_clock_stands" in names:
            return pts, 1
        if "clock_ms" in names:
            return pts // 90, timestamp // 90
        if "clock_wraps" in names:
            return pts + (1 << 33) - TICKS_PER_SECOND, timestamp + (1 << 32) - TICKS_PER_SECOND
        return pts, timestamp

    def _sets(self, unit: AccessUnit, rtp_time: int) -> tuple[AccessUnit, list[tuple[bytes, int]]]:
        """A key frame without its parameter sets where the device leaves them out or sends them apart."""
        names = self._names
        sets, rest = split_sets(unit)
        if ("late_sets" in names and self._keys == 1) or ("sets_once" in names and self._keys > 1):
            return replace(unit, data=rest), []
        if "sets_apart" in names:
            apart = replace(unit, data=sets)
            return replace(unit, data=rest), [(self._head(apart) + self._pes(apart), rtp_time - 90)]
        return unit, []

    def _head(self, unit: AccessUnit) -> bytes:
        """Pack header and, before a key frame, system header and map."""
        names = self._names
        head = pack_header(unit.dts)
        if "bare_pack" in names:
            head = head[:4]
        elif "stuffed_pack" in names:
            head = head[:-1] + b"\xfe" + b"\xff" * 6
        if unit.key:
            head += system_header(video=True, audio=self._audio is not None)
            if "no_map" not in names:
                head += self._map()
        if "private_stream" in names:
            noise = b"\x00\x00\x01\x09\x00\x00\x01" + bytes(range(40))
            head += b"\x00\x00\x01\xbd" + struct.pack("!H", len(noise)) + noise
        return head

    def _map(self) -> bytes:
        names = self._names
        video, audio = self._video, self._audio
        if "wrong_map" in names:
            video = Codec.H264 if video is Codec.H265 else Codec.H265
        if "wrong_audio_map" in names and audio is not None:
            audio = Codec.AAC
        packet = bytearray(program_stream_map(video, audio))
        if "bad_map_crc" in names:
            packet[-1] ^= 0x55
        if (
            "lying_map" in names
        ):  # program_stream_info_length of 7 with nothing behind it, a long elementary map
            packet[9], packet[11] = 7, 0x40
        return bytes(packet)

    def _pes(self, unit: AccessUnit) -> bytes:
        """The picture's PES packets."""
        if not self._names & {"zero_length", "wrapped_length"}:
            return pes_packets(VIDEO_ID, unit.data, unit.pts, unit.dts)
        header = bytes((0x84, 0x80, 5)) + timestamp_field(2, unit.pts)
        data, length = unit.data, 0
        if "wrapped_length" in self._names:
            if unit.key:
                data += _FILLER[unit.codec] + b"\xff" * 70_000 + b"\x80"
            length = (len(header) + len(data)) & 0xFFFF
        return struct.pack("!BBBBH", 0, 0, 1, VIDEO_ID, length) + header + data


class WireSpoiler:
    """One call's transport: changes packets on their way, frames them for TCP, plays the stranger on the port."""

    def __init__(self, names: Collection[str], seed: int) -> None:
        check(names)
        self._names = frozenset(names)
        self._dice = random.Random(seed)
        self._first_stamp: int | None = None
        self._count = 0
        self._begun = False
        self._stranger: socket.socket | None = None
        self.strange_packets = 0

    def packets(self, packets: list[bytes]) -> list[bytes]:
        """The packets as this device sends them."""
        if "ssrc_changes" not in self._names or not packets:
            return packets
        stamp = HEADER.unpack_from(packets[0])[3]
        if self._first_stamp is None:
            self._first_stamp = stamp
        if (stamp - self._first_stamp) & 0xFFFFFFFF < 2 * TICKS_PER_SECOND:
            return packets
        return [packet[:8] + bytes(byte ^ 0x5A for byte in packet[8:12]) + packet[12:] for packet in packets]

    def frame(self, packets: list[bytes]) -> bytes:
        """The packets as bytes of the TCP connection (RFC 4571, or what this device takes for it)."""
        names, out = self._names, bytearray()
        for packet in packets:
            self._count += 1
            prefix = b"$\x00" if "dollar_framing" in names else b""
            framed = prefix + len(packet).to_bytes(2, "big") + packet
            if "overwritten" in names and self._count % _OVERWRITE_EVERY == 0 and len(packet) > 800:
                # The sender's ring buffer was written over: the next frame follows inside the one begun here.
                framed = framed[: 400 + self._dice.randrange(300)]
            out += framed
        if not self._begun:
            self._begun = True
            if "starts_inside" in names:
                del out[:611]
            if "ehome_head" in names:
                out[:0] = b"\x01\x00\x02\x00" + bytes(252)
        return bytes(out)

    def disturb(self, packets: list[bytes], remote: tuple[str, int] | None) -> None:
        """Somebody else's packets for the same port: another stream, from another socket."""
        if remote is None or not self._names & {"second_sender", "same_ssrc_sender"}:
            return
        if self._stranger is None:
            self._stranger = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            self._stranger.setblocking(False)
        for packet in packets:
            ssrc = packet[8:12] if "same_ssrc_sender" in self._names else b"\x0b\xad\xca\xfe"
            strange = packet[:8] + ssrc + bytes(byte ^ 0xFF for byte in packet[12:])
            try:
                self._stranger.sendto(strange, remote)
            except OSError:
                return
            self.strange_packets += 1

    def close(self) -> None:
        if self._stranger is not None:
            self._stranger.close()
            self._stranger = None
