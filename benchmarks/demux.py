"""CPU of demuxing program streams: the own demuxer from RTP packets on, beside PyAV on the bare program stream."""

from __future__ import annotations

import io
import time
from typing import Any

import av

from benchmarks.measure import Row
from benchmarks.relay_load import RATE, frames
from media.content import Content
from media.ingest import Ingest
from media.rtp import RtpPacketizer
from media.runs import Run
from media.specs import PayloadFormat
from media.unit import AccessUnit

SECONDS = 10
PASSES = 5


def own(batches: list[list[bytes]]) -> tuple[float, int]:
    """CPU seconds and units: ordering, frame collection, demuxing, in batches of one frame as the pump reads them."""
    units: list[AccessUnit] = []
    content = Content(payloads=(PayloadFormat(number=96),), publish=lambda unit, first: units.append(unit))

    def deliver(run: Run) -> None:
        content.take(run)

    ingest = Ingest(ssrc=None, deliver=deliver)
    prepared = []
    for batch in batches:
        stride = len(batch[0])
        buffer = bytearray(b"".join(packet.ljust(stride, b"\0") for packet in batch))
        sizes = [len(packet) for packet in batch]
        prepared.append((buffer, memoryview(buffer), range(0, len(batch) * stride, stride), sizes, stride))
    started = time.process_time()
    for number, (buffer, view, starts, sizes, stride) in enumerate(prepared):
        ingest.feed(buffer, view, starts, sizes, number / RATE, stride)
    content.flush(SECONDS)
    return time.process_time() - started, len(units)


def pyav(stream: bytes) -> tuple[float, int]:
    """CPU seconds and packets of PyAV with the least probing it allows."""
    started = time.process_time()
    options = {"probesize": "32", "analyzeduration": "0"}
    count = 0
    with av.open(io.BytesIO(stream), format="mpeg", options=options) as container:
        for packet in container.demux():
            count += packet.size > 0
    return time.process_time() - started, count


def run() -> list[dict[str, Any]]:
    """One row: milliseconds of CPU per second of one 4 Mbit/s stream."""
    second = frames()
    packetizer = RtpPacketizer(1, 96)
    batches = [packetizer.packets(second[number % RATE], number * 3600) for number in range(SECONDS * RATE)]
    stream = b"".join(second) * SECONDS
    ours, units = min(own(batches) for _ in range(PASSES))
    theirs, _ = min(pyav(stream) for _ in range(PASSES))
    per_second, baseline = ours / SECONDS * 1e3, theirs / SECONDS * 1e3
    return [
        Row(
            "PS demux of one 4 Mbit/s stream, CPU per second", per_second, "ms", f"PyAV {baseline:.3f} ms",
            baseline / per_second, "<= 0.9 ms", per_second <= 0.9,
            f"{units} units out of {sum(map(len, batches))} RTP packets, ordered and demuxed; PyAV gets the bare stream",
        ).as_dict()
    ]  # fmt: skip


if __name__ == "__main__":
    for row in run():
        print(row)
