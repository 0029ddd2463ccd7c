"""Recordings on disk as the recorder makes them, from pictures that carry their own number."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import av
import numpy as np

from media import segments
from media.readers.segmenter import Closed, Opened, Piece, Segment, Segmenter
from media.specs import AudioTrack, ClipPart, SegmentInfo
from media.unit import AccessUnit, Codec
from simulator.picture import TestPicture, read_mark, tone

EPOCH = 1_795_312_800.0  # 2026-11-22 02:00 UTC
DEVICE = CHANNEL = "41018300001320000001"
RATE = 25


@dataclass
class Recorded:
    """``pictures`` are the units that went in, ``infos`` the index entries of the files in ``folder``."""

    folder: Path
    infos: list[SegmentInfo] = field(default_factory=list)
    pictures: list[AccessUnit] = field(default_factory=list)

    @property
    def parts(self) -> tuple[ClipPart, ...]:
        return tuple(
            ClipPart(path=str(self.folder / info.path), start=info.start, end=info.end, bytes=info.bytes)
            for info in self.infos
        )

    @property
    def start(self) -> float:
        return self.infos[0].start

    @property
    def end(self) -> float:
        return self.infos[-1].end


def record(
    folder: Path,
    seconds: float = 6.0,
    *,
    codec: str = "h264",
    at: float = 0.0,
    segment_s: float = 2.0,
    gop: int = RATE,
    sound: bool = True,
    size: tuple[int, int] = (352, 288),
    bitrate: int = 400_000,
    device_id: str = DEVICE,
    channel_id: str = CHANNEL,
    disk_id: str = "d1",
) -> Recorded:
    """Record ``seconds`` that begin ``at`` seconds after `EPOCH`, a new file every ``segment_s``."""
    picture = TestPicture(*size, codec=codec, gop=gop, bitrate=bitrate)
    pictures = picture.encoded_loop(seconds)
    units = sorted(pictures + (tone(seconds) if sound else []), key=lambda unit: unit.dts)
    segmenter = Segmenter(segment_s=segment_s, wall_of=lambda mono: EPOCH + at + mono)
    if sound:
        segmenter.expect_audio(AudioTrack(codec="pcma"))
    made = Recorded(folder, pictures=pictures)
    open_files: dict[Segment, tuple[SegmentInfo, bytearray]] = {}
    steps = [
        step
        for unit in units
        for step in segmenter.push(replace(unit, arrival_mono=(unit.dts - pictures[0].dts) / 90_000))
    ]
    for step in steps + segmenter.finish("stopped"):
        segment = step if isinstance(step, Segment) else step.segment
        if isinstance(step, Opened):
            name = f"{len(made.infos) + len(open_files):04d}-{round(at)}"
            path = f"{segments.folder(segment.start, device_id, channel_id)}/{segments.file_name(segment.start, name)}"
            info = SegmentInfo(
                segment_id=f"{channel_id}-{name}", recording_id="r1", device_id=device_id,
                channel_id=channel_id, disk_id=disk_id, path=path, start=segment.start, end=segment.end,
                video_codec=codec, audio_codec="aac" if sound else "", width=size[0], height=size[1],
            )  # fmt: skip
            open_files[segment] = info, bytearray(segment.init + segments.about_box(info))
        elif isinstance(step, Piece):
            open_files[segment][1].extend(step.data)
        elif isinstance(step, Closed):
            info, data = open_files.pop(segment)
            whole = folder / info.path
            whole.parent.mkdir(parents=True, exist_ok=True)
            whole.write_bytes(data)
            made.infos.append(
                info.model_copy(
                    update={
                        "end": segment.end,
                        "bytes": len(data),
                        "frames": segment.frames,
                        "complete": True,
                        "cause": step.cause,
                    }
                )
            )
    return made


def joined(*parts: Recorded) -> Recorded:
    """Several recordings of one channel as one, with gaps between them."""
    both = Recorded(parts[0].folder)
    for part in parts:
        both.infos += part.infos
        both.pictures += part.pictures
    return both


def numbers(units: list[AccessUnit]) -> list[int]:
    """Numbers of the pictures in ``units``, decoded one after the other; the decoder is drained at the end."""
    pictures = [unit for unit in units if unit.codec.is_video]
    decoder = av.CodecContext.create("h264" if pictures[0].codec is Codec.H264 else "hevc", "r")
    found = []
    for data in [*(unit.data for unit in pictures), None]:
        for frame in decoder.decode(None if data is None else av.Packet(data)):
            mark = read_mark(frame.to_ndarray(format="gray").astype(np.uint8, copy=False))
            assert mark is not None, "a picture that cannot be read"
            found.append(mark.frame)
    return found
