"""Fragmented MP4 for browsers, by HTTP and by WebSocket.

``GET /live/{stream_id}.mp4`` is an endless chunked file; ``GET /live/{stream_id}/ws`` sends a text message with the
MIME type, then the initialisation segment and the fragments as binary messages, and starts over with a new text
message when codec or size change. Both want ``?ticket=``; ``audio=0`` leaves the sound out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from media.errors import MediaError
from media.readers.fanout import Format, Head
from media.readers.fragmenter import Fragmenter, Init


def wants_audio(query: Mapping[str, str]) -> bool:
    """Whether a request's query leaves the sound in. MediaError: bad_request."""
    text = query.get("audio", "1")
    if text not in ("0", "1"):
        raise MediaError("bad_request", f"audio={text[:20]!r}: 0 or 1")
    return text == "1"


def choose(query: Mapping[str, str]) -> Format:
    """Fragments for this query; HLS is made of the same."""
    if wants_audio(query):
        return Format("fmp4", Fragmenter)
    return Format("fmp4-silent", lambda: Fragmenter(with_audio=False))


def greet(head: Head, sent: Head | None) -> tuple[str | bytes, ...]:
    """A page can change its decoder at any time: each new head is told with its type."""
    if head is sent or not isinstance(head, Init):
        return ()
    return (json.dumps({"mime": head.mime, "video": head.video, "audio": head.audio}), head.data)
