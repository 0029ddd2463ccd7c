"""RTSP cameras as inputs. The reading itself is in media/sources/read_rtsp.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

from media.errors import MediaError
from media.sources.external import ExternalSource
from media.specs import InputSpec, RtspInput
from media.stream import Stream

if TYPE_CHECKING:
    from media.sources.inputs import InputHost


def make(spec: InputSpec, stream: Stream, host: InputHost) -> ExternalSource:
    """A running source for an RTSP camera."""
    if not isinstance(spec, RtspInput):
        raise MediaError("bad_request", "no RTSP input")
    job = {
        "kind": "rtsp",
        "url": spec.url,
        "username": spec.username,
        "password": spec.password,
        "transport": spec.transport,
        "connect_timeout_s": spec.connect_timeout_s,
        "read_timeout_s": spec.read_timeout_s,
    }
    source = ExternalSource(
        job,
        stream,
        launcher=host.launcher,
        patience_s=max(spec.connect_timeout_s, spec.read_timeout_s),
        idle_grace_s=spec.idle_grace_s,
        silence_s=spec.silence_s,
        cache_bytes=host.config.gop_cache_bytes,
        on_lost=host.on_lost,
        clock=host.clock,
    )
    source.start()
    return source
