"""The muxer with everything an input can bring: reordered pictures, key frames beyond one PES packet, each kind of sound.

Read back by our own demuxer, by PyAV and, where it knows the stream types, by ffprobe.
"""

from __future__ import annotations

import io
import json
import subprocess
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from media.es import adts_header
from media.ps import PsDemuxer
from media.ps_mux import MAX_PES_PAYLOAD, PsMuxer
from media.unit import AccessUnit, Codec
from simulator.picture import TestPicture, tone

AAC_STEP = 5760  # 1024 samples at 16 kHz


def pictures(codec: str) -> list[AccessUnit]:
    """One second with B-frames and a key frame that needs several PES packets."""
    units = TestPicture(1280, 720, 25, codec, 20_000_000, 25, b_frames=2).encoded_loop(1.0)
    assert any(unit.pts > unit.dts for unit in units)
    return units


def aac() -> list[AccessUnit]:
    context = av.CodecContext.create("aac", "w")
    context.sample_rate, context.layout, context.format = 16000, "mono", "fltp"
    context.time_base = Fraction(1, 16000)
    packets = []
    for index in range(16):
        wave = (np.sin(np.arange(1024) * 0.2 + index) * 0.2).astype(np.float32).reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(wave, format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 16000, index * 1024
        packets += context.encode(frame)
    datas = [bytes(packet) for packet in packets]
    return [
        AccessUnit(Codec.AAC, index * AAC_STEP, index * AAC_STEP, False, adts_header(len(data), 16000) + data)
        for index, data in enumerate(datas)
    ]


SOUNDS = {"aac": aac, "pcma": lambda: tone(1.0), "pcmu": lambda: tone(1.0, Codec.PCMU)}


def muxed(video: list[AccessUnit], sound: list[AccessUnit]) -> list[tuple[AccessUnit, bytes]]:
    muxer = PsMuxer(video[0].codec, sound[0].codec)
    shift = 90_000
    units = sorted([*video, *sound], key=lambda unit: unit.dts)
    result = []
    for unit in units:
        moved = AccessUnit(unit.codec, unit.pts + shift, unit.dts + shift, unit.key, unit.data)
        result.append((moved, muxer.mux(moved)))
    return result


@pytest.mark.parametrize("sound", SOUNDS)
@pytest.mark.parametrize("codec", ["h264", "h265"])
def test_every_pair_of_tracks_comes_back_whole_and_in_step(codec: str, sound: str) -> None:
    packs = muxed(pictures(codec), SOUNDS[sound]())
    assert max(len(unit.data) for unit, _ in packs) > MAX_PES_PAYLOAD
    demuxer = PsDemuxer()
    back = [found for _, pack in packs for found in demuxer.feed(pack)]
    for video in (True, False):
        sent = [unit for unit, _ in packs if unit.codec.is_video is video]
        got = [unit for unit in back if unit.codec.is_video is video]
        assert [unit.data for unit in got] == [unit.data for unit in sent]
        assert {unit.codec for unit in got} == {sent[0].codec}
        assert not any(unit.damaged for unit in got)
        assert [unit.pts - got[0].pts for unit in got] == [unit.pts - sent[0].pts for unit in sent]
        assert [unit.dts - got[0].dts for unit in got] == [unit.dts - sent[0].dts for unit in sent]
    data = b"".join(pack for _, pack in packs)
    assert data.count(b"\x00\x00\x01\xbb") == data.count(b"\x00\x00\x01\xbc") == 1  # one key frame
    read_by_pyav(data, packs, codec, sound)


def read_by_pyav(data: bytes, packs: list[tuple[AccessUnit, bytes]], codec: str, sound: str) -> None:
    sent = [unit for unit, _ in packs if unit.codec.is_video]
    with av.open(io.BytesIO(data), format="mpeg") as container:
        video = container.streams.video[0]
        assert video.codec_context.name == {"h264": "h264", "h265": "hevc"}[codec]
        names = {"aac": "aac", "pcma": "pcm_alaw"}
        if sound in names:  # FFmpeg takes stream type 0x91 for MPEG audio
            assert container.streams.audio[0].codec_context.name == names[sound]
        shown, heard = [], 0
        for packet in container.demux():
            if packet.stream is video:
                shown += [frame.pts for frame in packet.decode()]
            elif sound in names:
                heard += sum(frame.samples for frame in packet.decode())
    assert shown == sorted(unit.pts for unit in sent)
    if sound == "aac":
        assert heard >= 15 * 1024
    elif sound == "pcma":
        assert heard == 8000


@pytest.mark.needs("ffprobe")
@pytest.mark.parametrize("codec", ["h264", "h265"])
def test_ffprobe_reads_pictures_and_aac(codec: str, tmp_path: Path) -> None:
    """ffprobe 5.1 knows no G.711 in program streams."""
    packs = muxed(pictures(codec), aac())
    path = tmp_path / "both.ps"
    path.write_bytes(b"".join(pack for _, pack in packs))
    command = [
        "ffprobe",
        "-v",
        "error",
        "-f",
        "mpeg",
        "-count_frames",
        "-show_streams",
        "-of",
        "json",
        str(path),
    ]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    streams = {stream["codec_type"]: stream for stream in json.loads(result.stdout)["streams"]}
    assert streams["video"]["codec_name"] == {"h264": "h264", "h265": "hevc"}[codec]
    assert streams["video"]["nb_read_frames"] == "25"
    assert streams["audio"]["codec_name"] == "aac"
