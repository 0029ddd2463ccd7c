"""Turns any sound file into G.711A at 8 kHz: ``python -m media.talk_file`` reads it on standard input, writes samples.

A process of its own, because what users upload is decoded by C libraries: one that crashes or hangs takes nothing along.
"""

from __future__ import annotations

import asyncio
import io
import resource
import sys

import av

from media.errors import MediaError

_COMMAND = (sys.executable, "-m", "media.talk_file")
LONGEST_S = 600
TIMEOUT_S = 30.0
_MEMORY_BYTES = 2 << 30


async def to_g711a(data: bytes) -> bytes:
    """The sound of a file (WAV, MP3, AAC, Ogg ...), at most ten minutes. MediaError(unsupported) when there is none."""
    process = await asyncio.create_subprocess_exec(
        *_COMMAND,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(TIMEOUT_S):
            sound, _ = await process.communicate(data)
    except TimeoutError as error:
        raise MediaError("unsupported", "the file takes too long to decode") from error
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode or not sound:
        raise MediaError("unsupported", "the file has no sound that can be decoded")
    return sound


def samples(data: bytes) -> bytes:
    """Decode in this process. Sound that is G.711A at 8 kHz already is passed on untouched. av.FFmpegError."""
    with av.open(io.BytesIO(data), mode="r") as container:
        if not container.streams.audio:
            return b""
        stream = container.streams.audio[0]
        context = stream.codec_context
        if (context.name, context.sample_rate, context.layout.nb_channels) == ("pcm_alaw", 8000, 1):
            return b"".join(bytes(packet) for packet in container.demux(stream) if packet.size)[
                : LONGEST_S * 8000
            ]
        return _encoded(container, stream)


def _encoded(container: av.container.InputContainer, stream: av.AudioStream) -> bytes:
    resampler = av.AudioResampler(format="s16", layout="mono", rate=8000)
    encoder = av.CodecContext.create("pcm_alaw", "w")
    encoder.sample_rate, encoder.layout, encoder.format = 8000, "mono", "s16"
    encoder.open()
    result = bytearray()
    for frame in container.decode(stream):
        for resampled in resampler.resample(frame):
            for packet in encoder.encode(resampled):
                result += bytes(packet)
        if len(result) >= LONGEST_S * 8000:
            return bytes(result[: LONGEST_S * 8000])
    for resampled in resampler.resample(None):
        for packet in encoder.encode(resampled):
            result += bytes(packet)
    return bytes(result)


def main() -> int:
    """Exit status 1 for a file that cannot be decoded."""
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (int(TIMEOUT_S), int(TIMEOUT_S)))
    try:
        sound = samples(sys.stdin.buffer.read())
    except (av.FFmpegError, ValueError, MemoryError):
        return 1
    sys.stdout.buffer.write(sound)
    return 0


if __name__ == "__main__":
    sys.exit(main())
