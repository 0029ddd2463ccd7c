"""Recording of 100 channels: CPU and disk bytes, beside PyAV's own muxer for the same pictures.

The streams come from the C generator at 4 Mbit/s each. The value is what the node's CPU clock gains per channel over
the same node receiving and demuxing the same streams without recording. Files are removed afterwards.
"""

from __future__ import annotations

import asyncio
import io
import os
import shutil
import tempfile
import time
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av

from benchmarks import native
from benchmarks.ingest import generating, open_receivers
from benchmarks.measure import Row, cpu_seconds, pin
from benchmarks.nodes import SECRET, running_node
from benchmarks.viewers import pictures
from media.client import MediaClient
from media.readers.segment_disks import MARKER
from media.specs import DiskList, DiskSpec, RecordingSpec
from media.unit import AccessUnit

CHANNELS = 100
BEFORE_S = 4.0
SECONDS = 8.0
SEGMENT_S = 4.0
"""Short, so that opening, closing and renaming of files are in the measurement."""
FREE_BYTES = 3 << 30
BUILD = Path(__file__).parents[1] / "build"


def written_bytes(pid: int) -> int:
    """What the process caused to be written to disks so far, in bytes (Linux taskstats; 0 where it is not told)."""
    try:
        lines = Path(f"/proc/{pid}/io").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("write_bytes:")), 0)


async def window(pid: int, seconds: float) -> float:
    """Share of a core."""
    cpu, started = cpu_seconds(pid), time.monotonic()
    await asyncio.sleep(seconds)
    return (cpu_seconds(pid) - cpu) / (time.monotonic() - started)


async def measure(directory: Path) -> list[Row]:
    (directory / MARKER).touch()
    with running_node(log_level="ERROR") as node:
        pin(node.pid, -1)
        client = MediaClient(node.config.control, SECRET)
        await client.start()
        await client.set_disks(DiskList(disks=(DiskSpec(disk_id="d1", directory=str(directory)),)))
        ports = await open_receivers(client, CHANNELS)
        with generating(ports, BEFORE_S + 2 * SECONDS + 20):
            await asyncio.sleep(3)
            idle = await window(node.pid, BEFORE_S)
            for number in range(CHANNELS):
                spec = RecordingSpec(
                    recording_id=f"r{number}", stream_id=f"s{number}", device_id="41018300001320000001",
                    channel_id=f"4101830000131{number:07d}", segment_s=SEGMENT_S,
                )  # fmt: skip
                await client.open_recording(spec)
            await asyncio.sleep(2)
            before, disk = (await client.stats()).recording, written_bytes(node.pid)
            started = time.monotonic()
            busy = await window(node.pid, SECONDS)
            after, elapsed = (await client.stats()).recording, time.monotonic() - started
            disk = written_bytes(node.pid) - disk
            for number in range(CHANNELS):
                await client.close_recording(f"r{number}")
        await client.close()
    written = (after.bytes - before.bytes) / elapsed
    expected = CHANNELS * 357 * 1400
    muxer = muxer_share(pictures())
    each = 100 * (busy - idle) / CHANNELS
    return [
        Row(
            f"recording, {CHANNELS} channels of 4 Mbit/s", each, "% of a core per channel",
            f"PyAV's muxer alone, one thread {muxer:.3f} %", each / muxer, "nothing dropped",
            after.queue_drops == before.queue_drops and not after.write_errors and written > 0.9 * expected,
            f"{busy:.0%} of a core with recording, {idle:.0%} before; {after.segments - before.segments} files closed, "
            f"{after.queue_drops} drops, {after.write_errors} errors",
        ),
        Row(
            f"recording, {CHANNELS} channels: to disk", written / 1e6, "MB/s", f"streams {expected / 1e6:.1f} MB/s",
            written / expected, "", None, f"the kernel wrote {disk / elapsed / 1e6:.1f} MB/s meanwhile",
        ),
    ]  # fmt: skip


def muxer_share(units: list[AccessUnit]) -> float:
    """CPU of PyAV's fragmented MP4 muxer for one stream, in % of a core: the same 20 s of pictures again and again."""
    turns = 5
    started = time.process_time()
    output = io.BytesIO()
    options = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}
    with av.open(output, "w", format="mp4", options=options) as container:
        stream: Any = container.add_stream("h264", rate=25)
        stream.width, stream.height = 1920, 1080
        stream.time_base = Fraction(1, 90_000)
        for number in range(turns * len(units)):
            unit = replace(units[number % len(units)], pts=number * 3600)
            packet = av.Packet(unit.data)
            packet.stream = stream
            packet.time_base = Fraction(1, 90_000)
            packet.pts = packet.dts = unit.pts
            packet.is_keyframe = unit.key
            container.mux(packet)
    return 100 * (time.process_time() - started) / (turns * len(units) / 25)


def run() -> list[dict[str, Any]]:
    """Two rows; about 40 s. A notice without a C compiler or without room on the disk."""
    if native.program("load") is None:
        return [Row(f"recording: {native.NO_COMPILER}", 0, "left out").as_dict()]
    BUILD.mkdir(exist_ok=True)
    if shutil.disk_usage(BUILD).free < FREE_BYTES:
        return [Row("recording: less than 3 GB of disk are free", 0, "left out").as_dict()]
    pin(os.getpid(), 0)
    with tempfile.TemporaryDirectory(dir=BUILD) as directory:
        return [row.as_dict() for row in asyncio.run(measure(Path(directory)))]


if __name__ == "__main__":
    for one in run():
        print(one)
