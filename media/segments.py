"""The format of recordings on disk: file names, what a file says of itself, and reading it back after a crash.

A recording is a row of files ("segments") of some minutes, each playable by itself::

    <disk>/<YYYYMMDD>/<device_id>/<channel_id>/<YYYYMMDD>T<HHMMSS><mmm>Z_<segment_id>.mp4[.part]

Date and time are UTC: the wall-clock of the first sample. ``.part`` is there while the recorder writes (it also holds
an exclusive flock on the file) and after a crash, until `mend` was done. Inside::

    ftyp moov uuid(about, JSON) { moof mdat }... [mfra]

- Track 1 is the picture at 90 kHz (``avc1`` or ``hvc1``: parameter sets only in moov, NAL units with 4-byte lengths),
  track 2, if there, is AAC-LC at its sample rate. Media time 0 of both tracks is the segment's ``start``, and
  **wall-clock = start + media time** all through the file; where that does not hold any more by over 2 s (the
  sender's clock, ours, or a pause) the recorder begins another segment. The next segment of an unbroken recording begins
  where this one ends, up to 0.25 s of corrected clock drift.
- Each moof and mdat pair holds whole samples of both tracks, interleaved by run: usually one group of pictures, of
  which a long one is spread over several pairs. `Group` is the byte range that can be decoded by itself: it begins
  with a key frame and ends before the next. A picture run always begins its fragment; sound may lag by up to 0.7 s, so
  sound that belongs to the last pictures of a group can stand in the fragment after it, and at the end of a segment in
  a fragment without pictures.
- ``mfra`` (random access table of track 1, time and offset of each group's moof) stands at the end of complete files.
- Sample times: `media.segment_boxes.fragment` gives dts, duration, pts - dts, offset and size of every sample.

Everything here reads files: call it in a thread.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from pydantic import ValidationError

from media import segment_boxes
from media.segment_boxes import Torn
from media.specs import SegmentInfo

__all__ = [
    "ABOUT_UUID",
    "Busy",
    "Group",
    "Scan",
    "SegmentInfo",
    "Unreadable",
    "file_name",
    "folder",
    "mend",
    "parse_name",
    "scan",
]

ABOUT_UUID = bytes.fromhex("6b1f0c3e9a5d4e02b8c7d1a4e5f60718")
"""Type of the box that holds the SegmentInfo as it was at the opening, as JSON."""
PART = ".part"
SUFFIX = ".mp4"
VIDEO_TRACK = 1
VIDEO_TIMESCALE = 90_000
MAX_HEAD_BYTES = 1024 * 1024
_NAME = re.compile(r"^(\d{8}T\d{9})Z_([0-9A-Za-z-]{1,64})\.mp4(\.part)?$")


class Unreadable(Exception):
    """No segment of ours, or not one whole group of pictures in it."""


class Busy(Exception):
    """A recorder is writing this file."""


@dataclass(frozen=True, slots=True)
class Group:
    """Bytes [offset, offset + size) after the head decode by themselves. ``at_s`` is media time of the key frame."""

    offset: int
    size: int
    at_s: float
    duration_s: float
    frames: int


@dataclass(frozen=True, slots=True)
class Scan:
    """What a file really holds. ``info.end``, ``bytes`` and ``frames`` count what is whole, ``head_bytes`` is ftyp,
    moov and uuid (what a player needs first); ``good_bytes`` is where a torn tail begins, ``torn_bytes`` its length."""

    info: SegmentInfo
    head_bytes: int
    groups: tuple[Group, ...]
    good_bytes: int
    torn_bytes: int
    has_table: bool


def folder(start: float, device_id: str, channel_id: str) -> str:
    """Relative folder of a segment that starts at ``start`` (unix seconds)."""
    return f"{datetime.fromtimestamp(start, UTC):%Y%m%d}/{device_id}/{channel_id}"


def file_name(start: float, segment_id: str, *, part: bool = False) -> str:
    """Name with the start in UTC to the millisecond; the exact start is in the file."""
    moment = datetime.fromtimestamp(round(start * 1000) / 1000, UTC)
    text = f"{moment:%Y%m%dT%H%M%S}{moment.microsecond // 1000:03d}"
    return f"{text}Z_{segment_id}{SUFFIX}{PART if part else ''}"


def parse_name(name: str) -> tuple[float, str, bool] | None:
    """(start, segment_id, whether it is a part) of a file name of ours; None for any other."""
    match = _NAME.match(name)
    if match is None:
        return None
    try:
        moment = datetime.strptime(match[1][:15], "%Y%m%dT%H%M%S").replace(tzinfo=UTC)
    except ValueError:
        return None
    return moment.timestamp() + int(match[1][15:]) / 1000, match[2], match[3] is not None


def about_box(info: SegmentInfo) -> bytes:
    """The uuid box that makes a file tell what it is."""
    body = info.model_dump_json(exclude={"disk_id", "path", "bytes", "frames", "complete", "cause"}).encode()
    return struct.pack(">I4s", 24 + len(body), b"uuid") + ABOUT_UUID + body


def scan(directory: Path, disk_id: str, path: str) -> Scan:
    """Read a segment's headers (some kilobytes per minute of video). Unreadable, OSError.

    ``info.complete`` is True for a file without ``.part`` and without torn tail.
    """
    with open(directory / path, "rb") as file:
        return _scan(file, disk_id, path)


def _scan(file: BinaryIO, disk_id: str, path: str) -> Scan:
    size = os.fstat(file.fileno()).st_size
    about, head_bytes = _head(file, size)
    good, groups, end_s, frames, has_table = head_bytes, list[Group](), 0.0, 0, False
    for fragment in _fragments(file, size, head_bytes):
        if fragment is None:
            has_table = True
            continue
        good = fragment.offset + fragment.size
        run = next((run for run in fragment.runs if run.track == VIDEO_TRACK), None)
        if run is None:
            if groups:
                groups[-1] = _longer(groups[-1], good, groups[-1].duration_s, 0)
            continue
        first, last = run.samples[0], run.samples[-1]
        end_s = (last.dts + last.duration) / VIDEO_TIMESCALE
        frames += len(run.samples)
        if first.key:
            at_s = first.dts / VIDEO_TIMESCALE
            groups.append(Group(fragment.offset, fragment.size, at_s, end_s - at_s, len(run.samples)))
        elif groups:
            groups[-1] = _longer(groups[-1], good, end_s - groups[-1].at_s, len(run.samples))
    if not groups:
        raise Unreadable(f"{path}: no whole group of pictures")
    if has_table:
        good = size
    part = path.endswith(PART)
    info = about.model_copy(
        update={
            "disk_id": disk_id, "path": path, "end": about.start + end_s, "bytes": good, "frames": frames,
            "complete": not part and good == size,
        }
    )  # fmt: skip
    return Scan(info, head_bytes, tuple(groups), good, size - good, has_table)


def _longer(group: Group, end: int, duration_s: float, frames: int) -> Group:
    return Group(group.offset, end - group.offset, group.at_s, duration_s, group.frames + frames)


def _head(file: BinaryIO, size: int) -> tuple[SegmentInfo, int]:
    """What the file says of itself, and where its fragments begin."""
    kinds: list[bytes] = []
    for box in segment_boxes.walk(file, size):
        kinds.append(box.kind)
        if box.kind != b"uuid":
            if box.kind not in (b"ftyp", b"moov"):
                break
            continue
        if box.size > MAX_HEAD_BYTES or b"moov" not in kinds:
            break
        file.seek(box.offset + 8)
        body = file.read(box.size - 8)
        if body[:16] != ABOUT_UUID:
            break
        return _about(body[16:]), box.offset + box.size
    raise Unreadable("the file's head is missing or foreign")


def _about(body: bytes) -> SegmentInfo:
    try:
        values: dict[str, Any] = json.loads(body)
        known = {name: value for name, value in values.items() if name in SegmentInfo.model_fields}
        return SegmentInfo.model_validate({**known, "disk_id": "unknown", "path": ""})
    except (ValueError, ValidationError, AttributeError) as error:
        raise Unreadable("the file's description cannot be read") from error


def _fragments(file: BinaryIO, size: int, start: int) -> Iterator[segment_boxes.Fragment | None]:
    """Whole fragments in order, None for the table at the end; ends at the first byte that is neither."""
    walk = segment_boxes.walk(file, size, start)
    for box in walk:
        if box.kind == b"mfra":
            yield None
            return
        if box.kind != b"moof" or box.size > segment_boxes.MAX_MOOF_BYTES:
            return
        # A generator that reads the same file: fetch the moof before it goes on.
        file.seek(box.offset)
        moof = file.read(box.size)
        data = next(walk, None)
        if data is None or data.kind != b"mdat" or len(moof) != box.size:
            return
        try:
            yield segment_boxes.fragment(moof, box.offset, data.size)
        except Torn:
            return


def mend(directory: Path, disk_id: str, path: str) -> Scan:
    """After a crash: cut a torn tail, give the file its final name; what it holds now. Busy while a recorder writes it.

    A file without one whole group of pictures is left as it is: Unreadable. OSError of the disk.
    """
    whole = directory / path
    with open(whole, "r+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Busy(path) from None
        found = _scan(file, disk_id, path)
        if found.torn_bytes:
            file.truncate(found.good_bytes)
            os.fsync(file.fileno())
        final = path.removesuffix(PART)
        if final != path:
            os.rename(whole, directory / final)
            sync_folder((directory / final).parent)
    info = found.info.model_copy(update={"path": final, "complete": True, "cause": "recovered"})
    return Scan(info, found.head_bytes, found.groups, found.good_bytes, found.torn_bytes, found.has_table)


def is_busy(directory: Path, path: str) -> bool:
    """Whether a recorder holds the file. OSError when it cannot be opened."""
    with open(directory / path, "rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def sync_folder(directory: Path) -> None:
    """Make a new or changed name survive a power cut. OSError."""
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def days(directory: Path) -> list[str]:
    """Day folders of a disk, oldest first; empty when the disk cannot be read."""
    with contextlib.suppress(OSError), os.scandir(directory) as entries:
        return sorted(entry.name for entry in entries if re.fullmatch(r"\d{8}", entry.name))
    return []


def files_of_day(directory: Path, day: str) -> Iterator[str]:
    """Relative paths of the segments of one day folder. OSError."""
    for root, folders, names in os.walk(directory / day):
        folders.sort()
        for name in sorted(names):
            if parse_name(name) is not None:
                yield PurePosixPath((Path(root) / name).relative_to(directory)).as_posix()
