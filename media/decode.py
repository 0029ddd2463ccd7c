"""Decoding in worker processes: a key frame in, a JPEG out. A decoder that crashes or hangs costs one picture.

A worker is ``python -m media.decode``, fed by its standard input, one job at a time; it ends with its parent.
Job: codec (1 byte), JPEG quality (1), length (4, big endian), access unit. Answer: status (1), length (4), bytes.
Each worker may use only so much memory, each job only so much processor time; both are set by the worker itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import struct
import sys
import time
from dataclasses import dataclass
from typing import BinaryIO, cast

from media import nal
from media.errors import MediaError
from media.unit import Codec

JPEG_QUALITY = 85
MAX_WAITING = 16
"""Jobs that wait for a worker or are with one."""
MAX_UNIT_BYTES = 16 * 1024 * 1024
MAX_PIXELS = 8192 * 4608
"""8K. Parameter sets that promise more are not worth the memory: nobody sends such pictures, but anybody can say so."""
MEMORY_LIMIT_BYTES = 1 << 30
JOB_CPU_S = 5
JOBS_PER_WORKER = 500
"""Then a worker makes place for a fresh one: whatever a decoder leaks is given back."""

_JOB = struct.Struct(">BBI")
_ANSWER = struct.Struct(">BI")
_CODECS = {Codec.H264: 1, Codec.H265: 2}
_DECODERS = {1: "h264", 2: "hevc"}
_GOOD, _BAD = 0, 1
_COMMAND = (sys.executable, "-m", "media.decode")


@dataclass(slots=True)
class DecodeCounters:
    """Since the start. ``refused``: too many waited; ``oversized``: too many pixels or bytes; ``crashed`` and
    ``late``: workers lost with one picture each; ``recycled``: workers that had done their share.
    """

    jobs: int = 0
    refused: int = 0
    oversized: int = 0
    crashed: int = 0
    late: int = 0
    recycled: int = 0


class _Worker:
    """One process. Used by one job at a time; a worker that did not answer in full is never used again."""

    def __init__(self, command: tuple[str, ...]) -> None:
        self._command = command
        self.process: asyncio.subprocess.Process | None = None
        self.jobs = 0

    async def run(self, job: bytes) -> tuple[int, bytes]:
        """Status and answer. ConnectionError, IncompleteReadError or OSError when the process is lost or cannot start."""
        process = self.process
        if process is None or process.returncode is not None:
            self.jobs = 0
            process = self.process = await asyncio.create_subprocess_exec(
                *self._command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
            )
        if process.stdin is None or process.stdout is None:
            raise ConnectionError("the decoder has no pipes")
        self.jobs += 1
        process.stdin.write(job)
        await process.stdin.drain()
        status, length = _ANSWER.unpack(await process.stdout.readexactly(_ANSWER.size))
        return status, await process.stdout.readexactly(length)

    async def end(self) -> None:
        process, self.process = self.process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


class DecodePool:
    """Owner of the worker processes. They start when there is work; a lost one is replaced at the next job."""

    def __init__(
        self,
        workers: int = 2,
        *,
        command: tuple[str, ...] = _COMMAND,
        jobs_per_worker: int = JOBS_PER_WORKER,
    ) -> None:
        self.counters = DecodeCounters()
        self.workers = workers
        self._all = [_Worker(command) for _ in range(workers)]
        # Last in, first out: when there is little to do, one worker does it and the others need not start.
        self._free: asyncio.LifoQueue[_Worker] = asyncio.LifoQueue()
        for worker in self._all:
            self._free.put_nowait(worker)
        self._jobs_per_worker = jobs_per_worker
        self._waiting = 0

    @property
    def pids(self) -> list[int]:
        """Of the workers that run now."""
        return [worker.process.pid for worker in self._all if worker.process is not None]

    @property
    def waiting(self) -> int:
        return self._waiting

    async def jpeg(
        self, codec: Codec, unit: bytes, *, timeout_s: float = 8.0, quality: int = JPEG_QUALITY
    ) -> bytes:
        """Decode one key frame (Annex B with parameter sets) to a JPEG.

        MediaError ``unsupported`` for a codec without a decoder, ``not_ready`` when the bytes give no picture,
        ``unavailable`` when too many jobs wait or the worker crashed or took longer than ``timeout_s``.
        """
        if codec not in _CODECS:
            raise MediaError("unsupported", f"no decoder for {codec}")
        self._check_size(codec, unit)
        if self._waiting >= MAX_WAITING:
            self.counters.refused += 1
            raise MediaError("unavailable", "too many pictures are being decoded")
        self._waiting += 1
        try:
            async with asyncio.timeout(timeout_s):
                status, answer = await self._run(_JOB.pack(_CODECS[codec], quality, len(unit)) + unit)
        except TimeoutError as error:
            raise MediaError("unavailable", "decoding the picture took too long") from error
        finally:
            self._waiting -= 1
        if status != _GOOD:
            raise MediaError(
                "not_ready", f"the key frame cannot be decoded: {answer.decode(errors='replace')}"
            )
        return answer

    def _check_size(self, codec: Codec, unit: bytes) -> None:
        info = nal.describe(codec, unit)
        if len(unit) > MAX_UNIT_BYTES or (info is not None and info.width * info.height > MAX_PIXELS):
            self.counters.oversized += 1
            raise MediaError("not_ready", "the key frame is too large to be decoded")

    async def _run(self, job: bytes) -> tuple[int, bytes]:
        worker = await self._free.get()
        self.counters.jobs += 1
        answered = False
        try:
            status, answer = await worker.run(job)
            answered = True
        except asyncio.CancelledError:
            self.counters.late += 1
            raise
        except (asyncio.IncompleteReadError, OSError) as error:
            self.counters.crashed += 1
            raise MediaError("unavailable", "the decoder crashed") from error
        finally:
            worn = worker.jobs >= self._jobs_per_worker
            if answered and worn:
                self.counters.recycled += 1
            try:
                if worn or not answered:
                    await worker.end()
            finally:
                self._free.put_nowait(worker)
        return status, answer

    async def close(self) -> None:
        """End all workers."""
        for worker in self._all:
            await worker.end()


def key_frame_to_jpeg(decoder_name: str, unit: bytes, quality: int) -> bytes:
    """Decode the first picture of an access unit. ValueError when there is none. Worker side: blocks."""
    import av  # only the worker pays for the decoders
    from PIL import Image

    decoder = cast(av.VideoCodecContext, av.CodecContext.create(decoder_name, "r"))
    decoder.thread_count = 1
    decoder.options = {"max_pixels": str(MAX_PIXELS)}
    try:
        frames = decoder.decode(av.Packet(unit)) + decoder.decode(None)
    except av.FFmpegError as error:
        raise ValueError(str(error)) from error
    if not frames:
        raise ValueError("no picture came out")
    out = io.BytesIO()
    Image.fromarray(frames[0].to_ndarray(format="rgb24")).save(out, "JPEG", quality=quality)
    return out.getvalue()


def serve(jobs: BinaryIO, answers: BinaryIO) -> None:
    """Answer jobs until the input ends."""
    while len(head := jobs.read(_JOB.size)) == _JOB.size:
        codec, quality, length = _JOB.unpack(head)
        unit = jobs.read(length)
        _allow_cpu(JOB_CPU_S)
        try:
            status, answer = _GOOD, key_frame_to_jpeg(_DECODERS[codec], unit, quality)
        except (ValueError, OSError, MemoryError) as error:
            status, answer = _BAD, str(error).encode()
        answers.write(_ANSWER.pack(status, len(answer)) + answer)
        answers.flush()


def _allow_cpu(seconds: int) -> None:
    """The kernel ends this process when the job at hand uses more processor time."""
    import resource  # POSIX only, and only in the worker

    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (int(time.process_time()) + seconds + 1, hard))


def main() -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT_BYTES, MEMORY_LIMIT_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.nice(5)
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints must not get between the answers
    with contextlib.suppress(KeyboardInterrupt, BrokenPipeError):
        serve(sys.stdin.buffer, answers)


if __name__ == "__main__":
    main()
