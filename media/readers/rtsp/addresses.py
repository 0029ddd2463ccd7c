"""The addresses that the RTSP server knows: a stream with its ticket, a channel that is started on demand. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from urllib.parse import parse_qs, urlsplit

_TRACK = re.compile(r"/+trackID=(\d{1,2})/*$")
_LIVE = re.compile(r"/live/([0-9A-Za-z_-]{1,64})/*")
_CHANNEL = re.compile(r"/channels/([0-9A-Za-z_.-]{1,32})/*")
_DEVICE = re.compile(r"[0-9A-Za-z_.-]{0,32}")


@dataclass(frozen=True, slots=True)
class Address:
    """What a request asks for. Exactly one of ``stream_id`` and ``channel_id`` is set.

    ``base`` ends with a slash and has no query: what track addresses are relative to. ``host`` is how the client
    named us. ``track`` is None for the whole.
    """

    base: str
    host: str
    stream_id: str = ""
    channel_id: str = ""
    device_id: str = ""
    stream_number: int = 0
    ticket: str = field(default="", repr=False)
    token: str = field(default="", repr=False)
    track: int | None = None

    @property
    def what(self) -> tuple[str, str, str, int]:
        """The same for every request about the same picture, whatever proof it carries."""
        return self.stream_id, self.channel_id, self.device_id, self.stream_number

    def within(self, other: Address) -> bool:
        """Whether this means the picture of ``other``, or what its description calls it: the base has no query."""
        bare = not (self.device_id or self.stream_number or self.token)
        return self.what == other.what or (bare and self.base == other.base)


def parse(uri: str) -> Address | None:
    """None for what is no address of ours. Clients put the track behind the path or behind the query."""
    track: int | None = None
    found = _TRACK.search(uri)
    if found is not None:
        uri, track = uri[: found.start()], int(found[1])
    try:
        parts = urlsplit(uri)
        host, port = parts.hostname or "", parts.port
        query = parse_qs(parts.query, keep_blank_values=True, max_num_fields=16)
    except ValueError:
        return None
    if parts.scheme.lower() not in ("rtsp", "") or not parts.path.startswith("/"):
        return None
    path = parts.path
    inner = _TRACK.search(path)  # rtsp://…/trackID=0?ticket=…
    if inner is not None and track is None:
        path, track = path[: inner.start()], int(inner[1])
    values = {name: entries[0] for name, entries in query.items()}
    named = f"[{host}]" if ":" in host else host
    place = f"{named}:{port}" if port is not None else named
    base = f"rtsp://{place}{path.rstrip('/')}/"
    live, channel = _LIVE.fullmatch(path), _CHANNEL.fullmatch(path)
    if live is not None:
        return Address(base, host, stream_id=live[1], ticket=values.get("ticket", ""), track=track)
    number, device = values.get("stream", "0"), values.get("device", "")
    if channel is None or not (number.isascii() and number.isdigit() and len(number) == 1):
        return None
    if not _DEVICE.fullmatch(device):
        return None
    return Address(
        base, host, channel_id=channel[1], device_id=device, stream_number=int(number),
        token=values.get("token", ""), track=track,
    )  # fmt: skip
