"""Boxes of recorded segments: fragments with their samples, a torn tail. Pure but for `walk`, which reads a file.

Only what media/readers/segmenter.py writes has to be understood (ISO/IEC 14496-12 8.8): ``moof`` with
``default-base-is-moof``, every sample with its own duration, size, flags and composition offset. Everything that
does not fit raises Torn; no input makes it read out of bounds.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

MAX_MOOF_BYTES = 16 * 1024 * 1024
MAX_SAMPLES = 1_000_000
_NOT_SYNC = 0x00010000


class Torn(Exception):
    """The bytes end too early or are no fragment of ours."""


@dataclass(frozen=True, slots=True)
class Box:
    """One top-level box: where it begins and how long it is, header included."""

    kind: bytes
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Sample:
    """One sample: times in the track's ticks, bytes at ``offset`` in the file. ``composition`` is pts minus dts."""

    dts: int
    duration: int
    composition: int
    offset: int
    size: int
    key: bool


@dataclass(frozen=True, slots=True)
class TrackRun:
    track: int
    samples: tuple[Sample, ...]


@dataclass(frozen=True, slots=True)
class Fragment:
    """One moof with its mdat: ``size`` counts both."""

    offset: int
    size: int
    runs: tuple[TrackRun, ...]


def boxes(data: bytes, start: int = 0, end: int | None = None) -> Iterator[tuple[bytes, int, int]]:
    """(kind, offset of the body, end) of the boxes in ``data``. Torn for a length that does not fit."""
    end = len(data) if end is None else end
    at = start
    while at < end:
        if at + 8 > end:
            raise Torn("a box header is cut")
        size, kind = struct.unpack_from(">I4s", data, at)
        if size < 8 or at + size > end:
            raise Torn(f"box {kind!r} is cut")
        yield kind, at + 8, at + size
        at += size


def walk(file: BinaryIO, size: int, start: int = 0) -> Iterator[Box]:
    """Top-level boxes that are whole, from ``start``; ends before the first that is not. OSError of the file."""
    at = start
    while at + 8 <= size:
        file.seek(at)
        head = file.read(16)
        if len(head) < 8:
            return
        length, kind = struct.unpack_from(">I4s", head)
        if length == 1 and len(head) == 16:
            length = int(struct.unpack_from(">Q", head, 8)[0])
        if length < 8 or at + length > size or not all(0x20 <= byte < 0x7F for byte in kind):
            return
        yield Box(kind, at, length)
        at += length


def fragment(moof: bytes, offset: int, mdat_size: int) -> Fragment:
    """The samples of one whole ``moof`` box (header included) at ``offset``, followed by an mdat box. Torn."""
    runs: list[TrackRun] = []
    limit = offset + len(moof) + mdat_size
    for kind, body, end in boxes(moof, 8):
        if kind == b"traf":
            runs.append(_track_run(moof, body, end, offset, limit))
    if not runs:
        raise Torn("a fragment without tracks")
    return Fragment(offset, len(moof) + mdat_size, tuple(runs))


def _track_run(moof: bytes, start: int, end: int, offset: int, limit: int) -> TrackRun:
    track, decode_time = 0, 0
    samples: list[Sample] = []
    try:
        for kind, body, stop in boxes(moof, start, end):
            if kind == b"tfhd":
                flags, track = struct.unpack_from(">II", moof, body)
                if flags & 0xFFFFFF != 0x020000:
                    raise Torn("a track header of another writer")
            elif kind == b"tfdt":
                wide = moof[body] == 1
                decode_time = struct.unpack_from(">Q" if wide else ">I", moof, body + 4)[0]
            elif kind == b"trun":
                samples += _samples(moof, body, stop, decode_time, offset, limit)
    except (struct.error, IndexError) as error:
        raise Torn("a fragment header is cut") from error
    if not samples:
        raise Torn("a track without samples")
    return TrackRun(track, tuple(samples))


def _samples(moof: bytes, body: int, stop: int, dts: int, offset: int, limit: int) -> list[Sample]:
    flags, count, data_offset = struct.unpack_from(">IIi", moof, body)
    if flags & 0xFFFFFF != 0x000F01 or not 0 < count <= MAX_SAMPLES or body + 12 + 16 * count > stop:
        raise Torn("a run of another writer")
    found = []
    at = offset + data_offset
    for index in range(count):
        duration, size, sample_flags, composition = struct.unpack_from(">IIIi", moof, body + 12 + 16 * index)
        if at < offset + len(moof) + 8 or at + size > limit:
            raise Torn("a sample lies outside of its data")
        found.append(Sample(dts, duration, composition, at, size, not sample_flags & _NOT_SYNC))
        dts += duration
        at += size
    return found
