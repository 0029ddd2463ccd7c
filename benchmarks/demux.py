"""CPU of demuxing program streams: the own demuxer from RTP packets on, beside PyAV behind a pipe."""

from __future__ import annotations

import queue
import threading
import time
from typing import Any, cast

import av

from benchmarks.measure import Row
from benchmarks.relay_load import RATE, frames
from media.content import Content
from media.ingest import Ingest
from media.rtp import RtpPacketizer
from media.specs import PayloadFormat
from media.unit import AccessUnit

SECONDS = 10
PASSES = 5


def own(batches: list[list[bytes]]) -> tuple[float, int]:
    """CPU seconds and units: ordering, frame collection, demuxing, in batches of one frame as the pump reads them."""
    count = 0

    def publish(unit: AccessUnit, first_index: int) -> None:
        nonlocal count
        count += 1

    content = Content(payloads=(PayloadFormat(number=96),), publish=publish)
    ingest = Ingest(ssrc=None, deliver=content.take)
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
    return time.process_time() - started, count


class Pipe:
    """What a live feed is to PyAV: a file of which each read gives one RTP payload, handed over by another thread."""

    def __init__(self, batches: list[list[bytes]]) -> None:
        self._payloads: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._batches = batches

    def feed(self) -> None:
        for batch in self._batches:
            for packet in batch:
                self._payloads.put(packet[12:])
        self._payloads.put(b"")

    def read(self, size: int) -> bytes:
        data = self._payloads.get()
        if not data:
            self._payloads.put(b"")
        return data[:size]


def pyav(batches: list[list[bytes]]) -> tuple[float, int]:
    """CPU seconds and packets of PyAV behind a pipe, with the least probing it allows."""
    started = time.process_time()
    pipe = Pipe(batches)
    feeder = threading.Thread(target=pipe.feed)
    feeder.start()
    count = 0
    file: Any = pipe
    with av.open(file, format="mpeg", options={"probesize": "32", "analyzeduration": "0"}) as container:
        for packet in cast(Any, container).demux():
            count += packet.size > 0
    feeder.join()
    return time.process_time() - started, count


def run() -> list[dict[str, Any]]:
    """One row: milliseconds of CPU per second of one 4 Mbit/s stream."""
    second = frames()
    packetizer = RtpPacketizer(1, 96)
    batches = [packetizer.packets(second[number % RATE], number * 3600) for number in range(SECONDS * RATE)]
    ours, units = min(own(batches) for _ in range(PASSES))
    theirs, _ = min(pyav(batches) for _ in range(PASSES))
    per_second, baseline = ours / SECONDS * 1e3, theirs / SECONDS * 1e3
    return [
        Row(
            "PS demux of one 4 Mbit/s stream, CPU per second", per_second, "ms", f"PyAV {baseline:.3f} ms",
            baseline / per_second, "<= 0.9 ms", per_second <= 0.9,
            f"{units} units out of {sum(map(len, batches))} RTP packets, ordered and demuxed; PyAV gets payloads in order",
        ).as_dict()
    ]  # fmt: skip


if __name__ == "__main__":
    for row in run():
        print(row)
