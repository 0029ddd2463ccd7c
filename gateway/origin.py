"""On whose behalf something is asked of a lower platform: the user's identity and the path an upper prefers (2022 8.3, H.3).

Set where a request comes in (an upper's message, an API call) and read where a request goes out to a lower platform,
however many tasks lie between: a context variable goes along with them. Cameras and recorders get neither header.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from gateway.model import Device, DeviceKind

USER_HEADER = "Monitor-User-Identity"
PATH_HEADER = "X-PreferredPath"
ROUTE_HEADER = "X-RoutePath"
MAX_VALUE = 1000
"""Characters of a value that are taken over; each platform on the way adds 21."""
MAX_HOPS = 40


@dataclass(frozen=True, slots=True)
class Origin:
    """``user`` is a user of ours, or what an upper said of its own; ``path`` are the platforms still ahead."""

    user: str = ""
    path: tuple[str, ...] = ()


_current: ContextVar[Origin] = ContextVar("origin", default=Origin())  # noqa: B039  (frozen)


@contextmanager
def acting_for(origin: Origin) -> Iterator[None]:
    """What is asked inside the block, and by tasks that begin inside it, is asked for ``origin``."""
    token = _current.set(origin)
    try:
        yield
    finally:
        _current.reset(token)


def current() -> Origin:
    return _current.get()


def user_identity(own_id: str, user: str) -> str:
    """The value that goes down: our own code before a user of ours or before what came in (8.3, G268); "" for nobody."""
    user = _line(user)
    return f"{own_id}-{user}" if user else ""


def path_of(value: str) -> tuple[str, ...]:
    """Codes of an ``A-B-C`` path header."""
    return tuple(part for part in (part.strip() for part in _line(value).split("-")) if part)[:MAX_HOPS]


def path_ahead(value: str, *own: str) -> tuple[str, ...]:
    """What remains of a preferred path behind ourselves (G267). A path that does not name us is taken as it is."""
    path = path_of(value)
    return path[1:] if path and path[0] in own else path


def route_path(own_id: str, below: str) -> str:
    """The way that was taken: our own code, then what the platform below answered."""
    return "-".join((own_id, *path_of(below)))


def way_along(ways: Sequence[tuple[str, str]], path: Sequence[str]) -> tuple[str, str] | None:
    """Of several ways (device, channel) to one camera the one through the next platform of the path."""
    return next((way for way in ways if path and way[0] == path[0]), None)


def headers_for(device: Device, own_id: str, *, invite: bool = False) -> list[tuple[str, str]]:
    """What a request to this device carries of the origin: nothing unless it is a platform. The path is an INVITE's."""
    if device.kind is not DeviceKind.PLATFORM:
        return []
    origin = _current.get()
    named = [(USER_HEADER, user_identity(own_id, origin.user))]
    if invite:
        named.append((PATH_HEADER, "-".join(origin.path)))
    return [(name, value) for name, value in named if value]


def _line(value: str) -> str:
    """One line of printable ASCII: what came from outside must not end a header."""
    return "".join(char for char in value.strip()[:MAX_VALUE] if 0x20 <= ord(char) < 0x7F)
