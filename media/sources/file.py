"""Media files as inputs, played in real time. The reading itself is in media/sources/read_file.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

from media.errors import MediaError
from media.sources.external import ExternalSource
from media.specs import FileInput, InputSpec
from media.stream import Stream

if TYPE_CHECKING:
    from media.sources.inputs import InputHost

PATIENCE_S = 20.0
"""A slow disk may take so long."""


def make(spec: InputSpec, stream: Stream, host: InputHost) -> ExternalSource:
    """A running source for a file below the node's ``inputs_directory``."""
    if not isinstance(spec, FileInput):
        raise MediaError("bad_request", "no file input")
    job = {
        "kind": "file",
        "directory": host.config.inputs_directory,
        "path": spec.path,
        "loop": spec.loop,
    }
    source = ExternalSource(
        job,
        stream,
        launcher=host.launcher,
        patience_s=PATIENCE_S,
        idle_grace_s=spec.idle_grace_s,
        silence_s=max(spec.silence_s, PATIENCE_S),
        cache_bytes=host.config.gop_cache_bytes,
        on_lost=host.on_lost,
        clock=host.clock,
    )
    source.start()
    return source
