"""A small MPEG transport stream demuxer, for senders that promise PS and send TS (field quirk 46). Pure.

Reads the first program only: PAT, PMT, PES of one video and one audio track (ISO/IEC 13818-1 2.4). CRCs are not
checked; continuity counters are.
"""

from __future__ import annotations

from media.access import VideoAssembler
from media.timeline import Timeline
from media.unit import STREAM_TYPES, AccessUnit, Codec

PACKET = 188
_SYNC = 0x47
_MAX_PES = 8 * 1024 * 1024


def looks_like_ts(payload: bytes | memoryview) -> bool:
    """Whether an RTP payload is whole transport packets: 0x47 every 188 bytes."""
    size = len(payload)
    return (
        size >= PACKET and size % PACKET == 0 and all(payload[at] == _SYNC for at in range(0, size, PACKET))
    )


class _Track:
    """One elementary stream's PES packet in progress."""

    def __init__(self, codec: Codec) -> None:
        self.codec = codec
        self.pieces: list[bytes] = []
        self.size = 0
        self.continuity = -1
        self.damaged = False


class TsDemuxer:
    """Feed whole RTP payloads, get access units. Bytes out of step are searched for the next sync byte."""

    def __init__(self) -> None:
        self.timeline = Timeline()
        self.video = VideoAssembler()
        self.audio_announced = False
        self.resyncs = 0
        self._carry = b""
        self._map_pid = -1
        self._tracks: dict[int, _Track] = {}

    def feed(
        self, data: bytes, rtp_timestamp: int | None = None, *, gap: bool = False, now: float = 0.0
    ) -> list[AccessUnit]:
        """Demux ``data``; pictures end where the next PES packet of their track starts."""
        result: list[AccessUnit] = []
        if gap:
            self._carry = b""
            for track in self._tracks.values():
                track.damaged = bool(track.pieces)
            self.video.damage()
        data = self._carry + data
        at, size = 0, len(data)
        while at + PACKET <= size:
            if data[at] != _SYNC:
                self.resyncs += 1
                found = data.find(b"\x47", at + 1)
                if found < 0:
                    at = size
                    break
                at = found
                continue
            self._packet(data[at : at + PACKET], rtp_timestamp, now, result)
            at += PACKET
        self._carry = data[at:]
        return result

    def _packet(self, packet: bytes, rtp: int | None, now: float, result: list[AccessUnit]) -> None:
        pid = (packet[1] & 0x1F) << 8 | packet[2]
        starts = bool(packet[1] & 0x40)
        control = packet[3] >> 4 & 3
        begin = 4
        if control & 2:
            begin = 5 + packet[4]
        if not control & 1 or begin >= PACKET:
            return
        payload = packet[begin:]
        if pid == 0 and starts:
            self._read_pat(payload)
        elif pid == self._map_pid and starts:
            self._read_pmt(payload)
        elif (track := self._tracks.get(pid)) is not None:
            self._collect(track, payload, packet[3] & 0x0F, starts, rtp, now, result)

    def _read_pat(self, payload: bytes) -> None:
        at = 1 + payload[0] + 8
        while at + 4 <= len(payload) - 4:
            if payload[at] << 8 | payload[at + 1]:
                self._map_pid = (payload[at + 2] & 0x1F) << 8 | payload[at + 3]
                return
            at += 4

    def _read_pmt(self, payload: bytes) -> None:
        base = 1 + payload[0]
        if base + 12 > len(payload) or payload[base] != 2:
            return
        end = min(base + 3 + ((payload[base + 1] & 0x0F) << 8 | payload[base + 2]) - 4, len(payload))
        at = base + 12 + ((payload[base + 10] & 0x0F) << 8 | payload[base + 11])
        found: dict[int, _Track] = {}
        while at + 5 <= end:
            codec = STREAM_TYPES.get(payload[at])
            pid = (payload[at + 1] & 0x1F) << 8 | payload[at + 2]
            if codec is not None and all(track.codec.is_video != codec.is_video for track in found.values()):
                known = self._tracks.get(pid)
                found[pid] = known if known is not None and known.codec is codec else _Track(codec)
            at += 5 + ((payload[at + 3] & 0x0F) << 8 | payload[at + 4])
        self._tracks = found
        for track in found.values():
            if track.codec.is_video:
                self.video.hint = track.codec
            else:
                self.audio_announced = True

    def _collect(
        self,
        track: _Track,
        payload: bytes,
        counter: int,
        starts: bool,
        rtp: int | None,
        now: float,
        result: list[AccessUnit],
    ) -> None:
        if track.continuity >= 0 and counter != (track.continuity + 1) & 15:
            if counter == track.continuity:
                return  # a repeated packet
            track.damaged = True
            if track.codec.is_video:
                self.video.damage()
        track.continuity = counter
        if starts:
            self._finish(track, rtp, now, result)
        if starts or track.pieces:
            track.pieces.append(payload)
            track.size += len(payload)
            if track.size > _MAX_PES:
                track.pieces, track.size = [], 0

    def _finish(self, track: _Track, rtp: int | None, now: float, result: list[AccessUnit]) -> None:
        data, track.pieces, track.size = b"".join(track.pieces), [], 0
        damaged, track.damaged = track.damaged, False
        if len(data) < 9 or data[:3] != b"\x00\x00\x01" or data[6] >> 6 != 2:
            return
        begin = 9 + data[8]
        pts = pes_timestamp(data, 9) if data[7] & 0x80 and len(data) >= 14 else None
        dts = pes_timestamp(data, 14) if data[7] & 0xC0 == 0xC0 and len(data) >= 19 else None
        video = track.codec.is_video
        out_pts, out_dts = self.timeline.map(pts, dts, rtp, now, video=video)
        if video:
            result += self.video.units(data[begin:], out_pts, out_dts, damaged=damaged, now=now)
        elif not damaged:
            result.append(AccessUnit(track.codec, out_pts, out_dts, False, data[begin:], arrival_mono=now))


def pes_timestamp(data: bytes, at: int) -> int:
    """33 bits of a PTS or DTS; marker bits are not insisted on (ISO/IEC 13818-1 2.4.3.6)."""
    return (
        (data[at] & 0x0E) << 29
        | data[at + 1] << 22
        | (data[at + 2] & 0xFE) << 14
        | data[at + 3] << 7
        | data[at + 4] >> 1
    )
