"""Decoding in a worker process: a key frame in, a JPEG out. A decoder that crashes or hangs costs one picture.

The worker is ``python -m media.decode``, fed by its standard input, one job at a time; it ends with its parent.
Job: codec (1 byte), JPEG quality (1), length (4, big endian), access unit. Answer: status (1), length (4), bytes.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import struct
import sys
from typing import BinaryIO, cast

from media.errors import MediaError
from media.unit import Codec

JPEG_QUALITY = 85
MAX_WAITING = 16
MAX_UNIT_BYTES = 16 * 1024 * 1024
_JOB = struct.Struct(">BBI")
_ANSWER = struct.Struct(">BI")
_CODECS = {Codec.H264: 1, Codec.H265: 2}
_DECODERS = {1: "h264", 2: "hevc"}
_MEMORY_LIMIT_BYTES = 3 << 30
_GOOD, _BAD = 0, 1


class PictureDecoder:
    """Owner of the worker process. Start is lazy; after a crash or a timeout the next job gets a new worker."""

    def __init__(self, command: tuple[str, ...] = (sys.executable, "-m", "media.decode")) -> None:
        self._command = command
        self._process: asyncio.subprocess.Process | None = None
        self._turn = asyncio.Lock()
        self._waiting = 0
        self.restarts = 0
        """Workers lost to crashes and timeouts."""

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    async def jpeg(
        self, codec: Codec, unit: bytes, *, timeout_s: float = 8.0, quality: int = JPEG_QUALITY
    ) -> bytes:
        """Decode one key frame (Annex B with parameter sets) to a JPEG.

        MediaError ``unsupported`` for a codec without a decoder, ``not_ready`` when the bytes give no picture,
        ``unavailable`` when too many jobs wait or the worker crashed or took longer than ``timeout_s``.
        """
        if codec not in _CODECS:
            raise MediaError("unsupported", f"no decoder for {codec}")
        if self._waiting >= MAX_WAITING or len(unit) > MAX_UNIT_BYTES:
            raise MediaError("unavailable", "too many pictures are being decoded")
        self._waiting += 1
        try:
            async with asyncio.timeout(timeout_s), self._turn:
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

    async def _run(self, job: bytes) -> tuple[int, bytes]:
        """One job, alone with the worker. A worker that did not answer in full is never used again."""
        process = await self._worker()
        if process.stdin is None or process.stdout is None:
            raise MediaError("unavailable", "the decoder has no pipes")
        answered = False
        try:
            process.stdin.write(job)
            await process.stdin.drain()
            status, length = _ANSWER.unpack(await process.stdout.readexactly(_ANSWER.size))
            answer = await process.stdout.readexactly(length)
            answered = True
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            raise MediaError("unavailable", "the decoder crashed") from error
        finally:
            if not answered:
                self.restarts += 1
                await self._end_worker()
        return status, answer

    async def _worker(self) -> asyncio.subprocess.Process:
        if self._process is None or self._process.returncode is not None:
            self._process = await asyncio.create_subprocess_exec(
                *self._command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
            )
        return self._process

    async def _end_worker(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def close(self) -> None:
        """End the worker."""
        await self._end_worker()


def key_frame_to_jpeg(decoder_name: str, unit: bytes, quality: int) -> bytes:
    """Decode the first picture of an access unit. ValueError when there is none. Worker side: blocks."""
    import av  # only the worker pays for the decoders
    from PIL import Image

    decoder = cast(av.VideoCodecContext, av.CodecContext.create(decoder_name, "r"))
    decoder.thread_count = 1
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
        try:
            status, answer = _GOOD, key_frame_to_jpeg(_DECODERS[codec], unit, quality)
        except (ValueError, OSError, MemoryError) as error:
            status, answer = _BAD, str(error).encode()
        answers.write(_ANSWER.pack(status, len(answer)) + answer)
        answers.flush()


def main() -> None:
    import resource  # POSIX only, and only here

    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_LIMIT_BYTES, _MEMORY_LIMIT_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.nice(5)
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints must not get between the answers
    with contextlib.suppress(KeyboardInterrupt, BrokenPipeError):
        serve(sys.stdin.buffer, answers)


if __name__ == "__main__":
    main()
