"""Which source serves which kind of input: one line here, one file beside it, one record in media/specs.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from media.errors import MediaError
from media.sources import file, recording, rtsp, transcode
from media.sources.launch import Launcher
from media.sources.transcode import TranscoderSlots
from media.sources.units import UnitSource
from media.specs import InputSpec, NodeConfig, NodeEvent
from media.stream import Stream


@dataclass(frozen=True, slots=True)
class InputHost:
    """What the node lends to an input. ``stream_of`` finds another open stream of this node (transcoding)."""

    config: NodeConfig
    on_lost: Callable[[str], None]
    clock: Callable[[], float]
    stream_of: Callable[[str], Stream]
    launcher: Launcher
    """Starts the processes of inputs that FFmpeg reads."""
    emit: Callable[[NodeEvent], None] = lambda event: None
    """Other events than losses."""
    transcoders: TranscoderSlots = field(default_factory=lambda: TranscoderSlots(0))


Maker = Callable[[InputSpec, Stream, InputHost], UnitSource]
MAKERS: dict[str, Maker] = {
    "rtsp": rtsp.make,
    "file": file.make,
    "recording": recording.make,
    "transcode": transcode.make,
}
"""By ``kind``. A maker starts the source's task or thread; what cannot be opened is told by ``on_lost``, later."""


def make(spec: InputSpec, stream: Stream, host: InputHost) -> UnitSource:
    """The running source of ``spec``. MediaError(unsupported) for a kind this node does not know."""
    maker = MAKERS.get(spec.kind)
    if maker is None:
        raise MediaError("unsupported", f"this node has no input of kind {spec.kind!r}")
    return maker(spec, stream, host)
