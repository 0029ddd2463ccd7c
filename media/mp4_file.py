"""One MP4 file out of a stretch of recordings: the movie header is made from the samples' places, the bytes are copied.

Not fragmented: the header in front knows every sample, so that any player seeks at once and a download tells its size
and duration. Nothing is decoded and no temporary file written. Cut at the key frame at or before the start; what was
not recorded is left out; another format in the middle (size, codec) becomes another sample entry of the same track.

Blocking, for a thread. Box layouts after ISO/IEC 14496-12 (8.3 to 8.7).
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from media.fmp4 import box, full_box
from media.mp4_read import KeyFrame, NotPlayable, Recording, Sample, Track, open_bytes
from media.specs import ClipPart
from media.unit import TICKS_PER_SECOND

VIDEO_ID, AUDIO_ID = 1, 2
BLOCK_BYTES = 256 * 1024
GAP_TICKS = TICKS_PER_SECOND // 2
_MATRIX = struct.pack(">9I", 0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)
_UNDETERMINED = 0x55C4


class NothingRecorded(Exception):
    """Not one picture lies in the range."""


@dataclass(frozen=True, slots=True)
class _Piece:
    """Bytes of one file that are copied as they are."""

    path: str
    offset: int
    size: int


@dataclass(slots=True)
class _Table:
    """What the header says of one track. Times on the file's 90 kHz clock."""

    entries: list[bytes] = field(default_factory=list)
    sizes: array[int] = field(default_factory=lambda: array("I"))
    times: array[int] = field(default_factory=lambda: array("q"))
    compositions: array[int] = field(default_factory=lambda: array("i"))
    keys: array[int] = field(default_factory=lambda: array("I"))
    chunks: list[tuple[int, int, int]] = field(default_factory=list)
    """(place in the data, samples, number of the sample entry)."""
    end: int = 0
    last: Track | None = None

    def entry(self, track: Track) -> int:
        """Number of the sample entry for a track, from 1."""
        if track.entry not in self.entries:
            self.entries.append(track.entry)
        self.last = track
        return self.entries.index(track.entry) + 1

    def durations(self) -> array[int]:
        """Each sample lasts until the next, the last as long as it was recorded."""
        times = self.times
        found = array("q", (times[i + 1] - times[i] for i in range(len(times) - 1)))
        if times:
            found.append(self.end - times[-1])
        return array("I", (max(1, value) for value in found))


class Mp4File:
    """The file of a range, planned at once: :attr:`head`, then :meth:`blocks`; ``size`` counts both.

    Raises NothingRecorded. Files that are missing count as not recorded.
    """

    def __init__(self, parts: Sequence[ClipPart], start: float, end: float) -> None:
        self._pieces: list[_Piece] = []
        self._data = 0
        self._video, self._audio = _Table(), _Table()
        self.started_at: float | None = None
        """Wall-clock of the first picture (unix seconds)."""
        covered = start
        for part in sorted(parts, key=lambda part: part.start):
            if part.start >= end:
                break
            try:
                with Recording(Path(part.path)) as recording:
                    covered = self._take(part, recording, covered, end)
            except (FileNotFoundError, NotPlayable):
                continue
        if not self._video.sizes:
            raise NothingRecorded
        self.pictures = len(self._video.sizes)
        self.duration_s = self._video.end / TICKS_PER_SECOND
        self.head = self._head()
        self.size = len(self.head) + self._data

    # --- planning ----------------------------------------------------------------------------------------------

    def _take(self, part: ClipPart, recording: Recording, covered: float, end: float) -> float:
        """Plan what one file gives; where the range is covered up to then."""
        offset = round((covered - part.start) * TICKS_PER_SECOND)
        if offset > 0 and offset >= recording.end_dts():
            return covered
        first = not self._video.sizes
        key = recording.key_at(max(0, offset))
        if key is not None and not first and offset > GAP_TICKS and key.dts < offset:
            key = next((later for later in recording.extend() if later.dts >= offset), None)
        if key is None:
            return covered
        if first:
            self.started_at = part.start + key.dts / TICKS_PER_SECOND
        shift = self._video.end - key.dts
        last = round((end - part.start) * TICKS_PER_SECOND)
        self._copy(part, recording, key, shift, last)
        return part.start + (self._video.end - shift) / TICKS_PER_SECOND

    def _copy(self, part: ClipPart, recording: Recording, key: KeyFrame, shift: int, last: int) -> None:
        run: list[Sample] = []
        for sample in recording.samples(key, as_stored=True):
            if sample.dts < key.dts or sample.dts >= last:
                continue
            if run and (sample.track is not run[-1].track or sample.offset != run[-1].offset + run[-1].size):
                self._chunk(part, run, shift)
                run = []
            run.append(sample)
        if run:
            self._chunk(part, run, shift)

    def _chunk(self, part: ClipPart, run: list[Sample], shift: int) -> None:
        """Samples that lie side by side."""
        track = run[0].track
        video = track.codec.is_video
        table = self._video if video else self._audio
        size = sum(sample.size for sample in run)
        table.chunks.append((self._data, len(run), table.entry(track)))
        for sample in run:
            table.sizes.append(sample.size)
            table.times.append(sample.dts + shift)
            if video:
                table.compositions.append(sample.composition)
                if sample.key:
                    table.keys.append(len(table.sizes))
            table.end = max(table.end, sample.end + shift)
        self._pieces.append(_Piece(part.path, run[0].offset, size))
        self._data += size

    # --- bytes -------------------------------------------------------------------------------------------------

    def blocks(self) -> Iterator[bytes]:
        """What follows the head. OSError when a file went away meanwhile or is shorter than it was."""
        path, file = "", None
        try:
            for piece in self._pieces:
                if piece.path != path:
                    if file is not None:
                        file.close()
                    path, file = piece.path, open_bytes(piece.path)
                assert file is not None  # noqa: S101
                file.seek(piece.offset)
                left = piece.size
                while left:
                    data = file.read(min(left, BLOCK_BYTES))
                    if not data:
                        raise OSError(f"{piece.path} is shorter than it was")
                    left -= len(data)
                    yield data
        finally:
            if file is not None:
                file.close()

    def _head(self) -> bytes:
        brands = box(b"ftyp", b"isom" + struct.pack(">I", 512) + b"isomiso6mp41")
        # The places in the header depend on its length, and that does not depend on the places.
        length = len(self._movie(0))
        mdat = struct.pack(">I4sQ", 1, b"mdat", 16 + self._data)
        return brands + self._movie(len(brands) + length + len(mdat)) + mdat

    def _movie(self, data_at: int) -> bytes:
        duration = max(self._video.end, self._audio.end)
        header = full_box(
            b"mvhd", 1, 0,
            struct.pack(">QQIQ", 0, 0, TICKS_PER_SECOND, duration)
            + struct.pack(">IH10x", 0x10000, 0x100) + _MATRIX + bytes(24) + struct.pack(">I", 3),
        )  # fmt: skip
        tracks = [self._track(VIDEO_ID, self._video, data_at)]
        if self._audio.sizes:
            tracks.append(self._track(AUDIO_ID, self._audio, data_at))
        return box(b"moov", header, *tracks)

    def _track(self, track_id: int, table: _Table, data_at: int) -> bytes:
        video = track_id == VIDEO_ID
        begin = table.times[0]
        length = table.end - begin
        width, height = struct.unpack_from(">HH", table.entries[0], 32) if video else (0, 0)
        header = full_box(
            b"tkhd", 1, 3,
            struct.pack(">QQIIQ8xHHHH", 0, 0, track_id, 0, table.end, 0, 0, 0 if video else 0x100, 0),
            _MATRIX, struct.pack(">II", width << 16, height << 16),
        )  # fmt: skip
        first = table.compositions[0] if video else 0
        edits = b"" if begin <= 0 else struct.pack(">QqI", begin, -1, 0x10000)
        edits += struct.pack(">QqI", length, first, 0x10000)
        media_header = full_box(b"vmhd", 0, 1, bytes(8)) if video else full_box(b"smhd", 0, 0, bytes(4))
        media = box(
            b"mdia",
            full_box(b"mdhd", 1, 0, struct.pack(">QQIQHH", 0, 0, TICKS_PER_SECOND, length, _UNDETERMINED, 0)),
            full_box(b"hdlr", 0, 0, struct.pack(">I4s12x", 0, b"vide" if video else b"soun"), b"recording\x00"),
            box(
                b"minf", media_header,
                box(b"dinf", full_box(b"dref", 0, 0, struct.pack(">I", 1), full_box(b"url ", 0, 1))),
                self._samples(table, video, data_at),
            ),
        )  # fmt: skip
        return box(
            b"trak",
            header,
            box(b"edts", full_box(b"elst", 1, 0, struct.pack(">I", len(edits) // 20), edits)),
            media,
        )

    @staticmethod
    def _samples(table: _Table, video: bool, data_at: int) -> bytes:
        sizes = array("I", table.sizes)
        sizes.byteswap()
        boxes = [
            full_box(b"stsd", 0, 0, struct.pack(">I", len(table.entries)), *table.entries),
            full_box(b"stts", 0, 0, _runs(table.durations())),
            full_box(b"stsz", 0, 0, struct.pack(">II", 0, len(sizes)), sizes.tobytes()),
            full_box(b"stsc", 0, 0, _chunk_runs(table.chunks)),
            full_box(
                b"co64", 0, 0, struct.pack(">I", len(table.chunks)),
                b"".join(struct.pack(">Q", data_at + place) for place, _, _ in table.chunks),
            ),
        ]  # fmt: skip
        if video:
            keys = array("I", table.keys)
            keys.byteswap()
            boxes.append(full_box(b"stss", 0, 0, struct.pack(">I", len(keys)), keys.tobytes()))
            if any(table.compositions):
                boxes.append(full_box(b"ctts", 1, 0, _runs(table.compositions, signed=True)))
        return box(b"stbl", *boxes)


def _runs(values: Sequence[int], *, signed: bool = False) -> bytes:
    """Count and value of each run of equal values, with the number of runs in front."""
    out, count, last = bytearray(), 0, None
    form = struct.Struct(">Ii" if signed else ">II")
    runs = 0
    for value in values:
        if value == last:
            count += 1
            continue
        if last is not None:
            out += form.pack(count, last)
            runs += 1
        last, count = value, 1
    if last is not None:
        out += form.pack(count, last)
        runs += 1
    return struct.pack(">I", runs) + bytes(out)


def _chunk_runs(chunks: Sequence[tuple[int, int, int]]) -> bytes:
    """stsc: from which chunk on there are how many samples of which entry."""
    out = bytearray()
    runs, last = 0, (0, 0)
    for number, (_, samples, entry) in enumerate(chunks, 1):
        if (samples, entry) != last:
            out += struct.pack(">III", number, samples, entry)
            runs, last = runs + 1, (samples, entry)
    return struct.pack(">I", runs) + bytes(out)
