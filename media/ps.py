"""A tolerant MPEG-2 program stream demuxer for what cameras really send. Pure.

Follows ISO/IEC 13818-1 2.5.3 to 2.5.4 and GB/T 28181-2022 C.1 as far as senders do, and forgives the rest: no map or
a wrong one, packs without fields, lengths that are zero, wrapped or too long, private packets, lost pieces.
H.264 and H.265 bytes never contain 00 00 01 followed by a byte above B8, so a system start code is always one.
"""

from __future__ import annotations

import re

from media.access import VideoAssembler
from media.ps_mux import crc32_mpeg
from media.timeline import Timeline
from media.ts import pes_timestamp
from media.unit import STREAM_TYPES, AccessUnit, Codec

_SYSTEM_START = re.compile(rb"\x00\x00\x01[\xb9-\xff]")
_PACK_START = b"\x00\x00\x01\xba"
_MAX_UNIT = 8 * 1024 * 1024
"""A picture of more bytes than this is a stream without boundaries; it is given up."""
_G711_PIECE = 80
_UNBOUNDED = -1


class PsDemuxer:
    """One program stream: feed payloads of RTP packets, get access units.

    ``feed`` takes one or more whole payloads of one RTP timestamp. Counters: ``resyncs`` (places where the next pack
    had to be searched), ``private_packets``, ``map_faults`` (broken program stream maps), ``truncated``.
    """

    def __init__(self, timeline: Timeline | None = None, video: VideoAssembler | None = None) -> None:
        self.timeline = timeline or Timeline()
        self.video = video or VideoAssembler()
        self.audio_codec: Codec | None = None
        self.audio_announced = False
        self.resyncs = 0
        self.private_packets = 0
        self.map_faults = 0
        self.truncated = 0
        self.skipped_bytes = 0
        self.system_starts = 0
        """Start codes of the system layer seen: 0 after some bytes means that this is no program stream."""
        self._map: dict[int, int] = {}
        self._map_bytes = b""
        self._system_bytes = b""
        self._carry = b""
        self._lost = True
        self._video_id: int | None = None
        self._pieces: list[bytes] = []
        self._size = 0
        self._pts: int | None = None
        self._dts: int | None = None
        self._damaged = False
        self._random_access = False
        self._open = 0
        """Bytes still missing of the PES packet in progress; _UNBOUNDED for length 0."""
        self._open_id = 0
        self._audio = bytearray()
        self._audio_pts: int | None = None
        self._rtp: int | None = None
        self._now = 0.0
        self._out: list[AccessUnit] = []

    def feed(
        self,
        data: bytes,
        rtp_timestamp: int | None = None,
        *,
        gap: bool = False,
        end: bool = True,
        now: float = 0.0,
    ) -> list[AccessUnit]:
        """Demux ``data``; ``gap`` says that packets are missing in front of it, ``end`` that its RTP timestamp ends.

        A picture is complete at ``end``, unless its PES packet says that more bytes follow. ``now`` is the arrival
        time in seconds of a monotonic clock.
        """
        self._out = []
        self._now = now
        if gap:
            self._gap()
        if self._open and data.startswith(_PACK_START):
            self._close_open()
        if self._rtp is None or not self._pieces:
            self._rtp = rtp_timestamp
        if self._carry:
            data, self._carry = self._carry + data, b""
        self._walk(data)
        if end and not self._open:
            self._finish_video()
        if not self._pieces:
            self._rtp = None
        return self._out

    def flush(self) -> list[AccessUnit]:
        """What is still held, at the end of the stream."""
        self._out = []
        self._close_open()
        self._finish_video()
        return self._out

    # --- the walk over start codes -----------------------------------------------------------------------------

    def _walk(self, data: bytes) -> None:
        position, size = 0, len(data)
        if self._open:
            position = self._continue(data)
        while position < size:
            if self._lost:
                found = data.find(_PACK_START, position)
                if found < 0:
                    self._carry = data[max(position, size - 3) :]
                    self.skipped_bytes += size - position - len(self._carry)
                    return
                self.skipped_bytes += found - position
                position, self._lost = found, False
            if size - position < 4:
                self._carry = data[position:]
                return
            code = data[position + 3]
            if data[position : position + 3] != b"\x00\x00\x01" or code < 0xB9:
                position = self._stray(data, position)
                continue
            self.system_starts += 1
            following = self._packet(data, position, code)
            if following < 0:
                self._carry = data[position:]
                return
            position = following

    def _packet(self, data: bytes, at: int, code: int) -> int:
        """Handle what starts at ``at``; the position behind it, or -1 when its header is not whole yet."""
        if code == 0xBA:
            return self._pack(data, at)
        if code == 0xB9:
            return at + 4
        if at + 6 > len(data):
            return -1
        length = data[at + 4] << 8 | data[at + 5]
        after = at + 6 + length
        if 0xC0 <= code <= 0xEF:
            return self._pes(data, at, code, length)
        if after > len(data):
            if _SYSTEM_START.search(data, at + 4) is None:
                return -1 if length <= 0x2000 else len(data)
        elif code == 0xBC:
            self._read_map(data[at:after])
        if code == 0xBB:
            self._random_access = True
        elif code == 0xBD:
            self.private_packets += 1
        elif code == 0xBC:
            self._random_access = True
        if after + 4 <= len(data) and data[after : after + 3] != b"\x00\x00\x01":
            # The length lies (quirk: descriptor lengths of some maps). The next start code is the truth.
            found = _SYSTEM_START.search(data, at + 4)
            if found is not None:
                self.map_faults += code == 0xBC
                return found.start()
        if after > len(data):
            found = _SYSTEM_START.search(data, at + 4)
            return found.start() if found is not None else len(data)
        return after

    def _pack(self, data: bytes, at: int) -> int:
        """A pack header. Some senders write the start code alone, without the ten bytes behind it."""
        available = len(data) - at
        self._open_id = 0
        if available >= 8 and data[at + 4 : at + 7] == b"\x00\x00\x01" and data[at + 7] >= 0xB9:
            return at + 4
        if available < 12:
            return -1
        if data[at + 4] >> 4 == 2:  # MPEG-1 (ISO/IEC 11172-1)
            return at + 12
        if available < 14:
            return -1
        return at + 14 + (data[at + 13] & 7)

    def _stray(self, data: bytes, at: int) -> int:
        """Bytes that are no start code: the rest of a picture whose length was wrong, or garbage."""
        found = _SYSTEM_START.search(data, at)
        end = found.start() if found is not None else len(data)
        if found is None and end - at < 4:
            self._carry = data[at:]
            return end
        if self._pieces and self._video_id is not None and self._open_id == self._video_id:
            self._append(data[at:end])  # 16-bit lengths that wrapped, pictures above 64 KB
        else:
            self.skipped_bytes += end - at
            self.resyncs += 1
        return end

    # --- PES packets -------------------------------------------------------------------------------------------

    def _pes(self, data: bytes, at: int, code: int, length: int) -> int:
        size = len(data)
        if at + 9 > size:
            return -1
        if data[at + 6] >> 6 != 2:  # no MPEG-2 PES header: the length cannot be trusted either
            found = _SYSTEM_START.search(data, at + 4)
            self.resyncs += 1
            return found.start() if found is not None else size
        flags, header = data[at + 7], data[at + 8]
        payload = at + 9 + header
        if payload > size:
            return -1
        pts = dts = None
        if flags & 0x80 and header >= 5:
            pts = pes_timestamp(data, at + 9)
            if flags & 0x40 and header >= 10:
                dts = pes_timestamp(data, at + 14)
        video = code >= 0xE0
        if video:
            if self._video_id is None:
                self._video_id = code
            wanted = code == self._video_id
            if wanted and pts is not None and self._pieces and pts != self._pts:
                self._finish_video()
            if wanted and (self._pts is None or not self._pieces):
                self._pts, self._dts = pts, dts
        else:
            wanted = True
            self._audio_pts = pts
        self._open_id = code
        if length == 0:
            return self._unbounded(data, payload, wanted)
        end = at + 6 + length
        if end < payload:
            end = payload
        piece = data[payload : min(end, size)]
        if end > size:
            self._open = end - size
        if wanted:
            if video:
                self._append(piece)
            elif end > size:
                self._audio = bytearray(piece)
            else:
                self._emit_audio(piece, code)
        return min(end, size)

    def _unbounded(self, data: bytes, payload: int, wanted: bool) -> int:
        found = _SYSTEM_START.search(data, payload)
        end = found.start() if found is not None else len(data)
        if found is None:
            self._open = _UNBOUNDED
        if wanted and self._open_id >= 0xE0:
            self._append(data[payload:end])
        elif wanted:
            self._audio = bytearray(data[payload:end])
            if found is not None:
                self._finish_audio()
        return end

    def _continue(self, data: bytes) -> int:
        """Bytes of the PES packet in progress at the head of ``data``; the position behind them."""
        size = len(data)
        if self._open == _UNBOUNDED:
            found = _SYSTEM_START.search(data)
            take = found.start() if found is not None else size
            finished = found is not None
        else:
            take = min(self._open, size)
            self._open -= take
            finished = self._open == 0
        if self._open_id < 0xE0:
            self._audio += data[:take]
        elif self._open_id == self._video_id:
            self._append(data[:take])
        if finished:
            self._open = 0
            self._finish_audio()
        return take

    def _close_open(self) -> None:
        """The PES packet in progress ends here, whatever its length said."""
        if not self._open:
            return
        if self._open > 0:
            self.truncated += 1
        self._open = 0
        self._finish_audio()

    def _finish_audio(self) -> None:
        if self._open_id < 0xE0 and self._audio:
            self._emit_audio(bytes(self._audio), self._open_id)
            self._audio = bytearray()

    def _append(self, piece: bytes) -> None:
        if piece:
            self._pieces.append(piece)
            self._size += len(piece)
            if self._size > _MAX_UNIT:
                self._gap()

    # --- units -------------------------------------------------------------------------------------------------

    def _gap(self) -> None:
        """Packets are missing: what is in progress is damaged, and all is skipped up to the next pack."""
        self._lost = True
        self.resyncs += 1
        self._carry = b""
        self._open = 0
        self._audio = bytearray()
        if self._pieces:
            self._damaged = True
            self._finish_video()
        self.video.damage()
        self._random_access = False

    def _finish_video(self) -> None:
        pieces = self._pieces
        if not pieces:
            return
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pts, dts = self.timeline.map(self._pts, self._dts, self._rtp, self._now, video=True)
        self._out += self.video.units(
            data, pts, dts, key_hint=self._random_access, damaged=self._damaged, now=self._now
        )
        self._pieces = []
        self._size = 0
        self._pts = self._dts = None
        self._damaged = self._random_access = False

    def _emit_audio(self, data: bytes, stream_id: int) -> None:
        if not data:
            return
        codec = self._audio_kind(data, self._map.get(stream_id))
        if codec is not Codec.UNKNOWN:
            self.audio_codec = codec
        pts, dts = self.timeline.map(self._audio_pts, None, self._rtp, self._now, video=False)
        self._out.append(AccessUnit(codec, pts, dts, False, data, arrival_mono=self._now))

    def _audio_kind(self, data: bytes, stream_type: int | None) -> Codec:
        """The map's word, unless the bytes speak against it: ADTS headers tell AAC from G.711 (quirk 39 b)."""
        claimed = STREAM_TYPES.get(stream_type, Codec.UNKNOWN) if stream_type is not None else None
        if _is_adts(data):
            return Codec.AAC
        if claimed is Codec.AAC or claimed is None:
            plausible = len(data) % _G711_PIECE == 0
            if plausible:
                return self.audio_codec if self.audio_codec in (Codec.PCMA, Codec.PCMU) else Codec.PCMA
            return self.audio_codec or Codec.UNKNOWN
        return claimed if not claimed.is_video else Codec.UNKNOWN

    def _read_map(self, packet: bytes) -> None:
        """A program stream map. Its own lengths are doubted; a wrong CRC is counted, the content still a hint."""
        if packet == self._map_bytes or len(packet) < 16:
            return
        self._map_bytes = packet
        if packet[-4:] != crc32_mpeg(packet[:-4]).to_bytes(4, "big"):
            self.map_faults += 1
        at = 10 + (packet[8] << 8 | packet[9])
        end = len(packet) - 4
        if at + 2 > end:
            self.map_faults += 1
            return
        at += 2  # the elementary stream map length is unreliable; the packet's end is not
        streams: dict[int, int] = {}
        while at + 4 <= end:
            streams[packet[at + 1]] = packet[at]
            at += 4 + (packet[at + 2] << 8 | packet[at + 3])
        self._map = streams
        for stream_id, stream_type in streams.items():
            codec = STREAM_TYPES.get(stream_type)
            if codec is None:
                continue
            if codec.is_video and stream_id >= 0xE0:
                self.video.hint = codec
            elif not codec.is_video:
                self.audio_announced = True


def _is_adts(data: bytes) -> bool:
    """Whether AAC frames with ADTS headers fill ``data`` exactly (ISO/IEC 13818-7 6.2)."""
    at, size = 0, len(data)
    while at + 7 <= size:
        if data[at] != 0xFF or data[at + 1] & 0xF6 != 0xF0:
            return False
        length = (data[at + 3] & 3) << 11 | data[at + 4] << 3 | data[at + 5] >> 5
        if length < 7:
            return False
        at += length
    return at == size
