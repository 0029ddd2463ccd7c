"""One input: a camera or file that is no GB/T 28181 device and becomes a channel of our own virtual device."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from datetime import datetime
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

from gateway.model import Channel, ChannelKind
from gateway.registry import Registry
from sip.ids import valid_civil_code

RTSP, FILE = "rtsp", "file"
DEVICE_TYPE, CHANNEL_TYPE = 118, 132
"""Type digits 11-13: a network video recorder with network cameras (GB/T 28181-2022 E.1)."""
FIRST_SERIAL = 900_001
"""Codes made here begin high, away from those that people give out."""
LAST_SERIAL = 999_999


@dataclass(slots=True)
class OnvifAccess:
    """How a camera's ONVIF services are reached; user name and password are those of the input."""

    host: str
    port: int = 80
    profile: str = ""
    ptz: bool = False


@dataclass(slots=True)
class Input:
    """What an operator entered. ``url`` holds no credentials; of a file it is the path below ``inputs.directory``."""

    channel_id: str
    device_id: str
    kind: str
    name: str
    url: str
    username: str = ""
    password: str = field(default="", repr=False)
    enabled: bool = True
    transport: str = "tcp"
    sub_url: str = ""
    """The camera's smaller stream, served as stream number 1; empty: the main stream."""
    manufacturer: str = ""
    model: str = ""
    civil_code: str = ""
    address: str = ""
    block: str = ""
    longitude: float | None = None
    latitude: float | None = None
    point_class: int | None = None
    grassroots_code: str = ""
    onvif: OnvifAccess | None = None

    @property
    def key(self) -> tuple[str, str]:
        return (self.device_id, self.channel_id)

    def channel(self, own_id: str) -> Channel:
        """The catalog entry. Without a civil code of its own it lies where we are."""
        return Channel(
            device_id=self.device_id,
            channel_id=self.channel_id,
            name=self.name,
            kind=ChannelKind.CAMERA,
            manufacturer=self.manufacturer,
            model=self.model,
            civil_code=valid_civil_code(self.civil_code, own_id),
            block=self.block,
            address=self.address,
            parent_ids=(self.device_id,),
            longitude=self.longitude,
            latitude=self.latitude,
            point_class=self.point_class,
            grassroots_code=self.grassroots_code,
            ptz_type=1 if self.onvif is not None and self.onvif.ptz else 3,
        )


@dataclass(slots=True)
class InputHealth:
    """What the last checks of one input said."""

    ok: bool | None = None
    """None: not checked yet."""
    cause: str = ""
    detail: str = ""
    checked_at: datetime | None = None
    last_ok_at: datetime | None = None
    last_failure_at: datetime | None = None
    failures: int = 0
    """In a row."""
    due_mono: float = 0.0
    checking: bool = False


_COLUMNS = ("channel_id", "device_id", "kind", "name", "url", "username", "password", "enabled")
_SETTINGS = tuple(item.name for item in fields(Input) if item.name not in _COLUMNS)


def to_row(record: Input) -> dict[str, Any]:
    """The row of table ``inputs``."""
    values = asdict(record)
    row = {name: values[name] for name in _COLUMNS}
    row["settings"] = {name: values[name] for name in _SETTINGS}
    return row


def from_row(row: Any) -> Input:
    """Inverse of :func:`to_row`; keys of other versions of this program are left out."""
    settings = {name: value for name, value in row["settings"].items() if name in _SETTINGS}
    if settings.get("onvif") is not None:
        known = {item.name for item in fields(OnvifAccess)}
        given = settings["onvif"]
        settings["onvif"] = OnvifAccess(**{name: given[name] for name in known & given.keys()})
    return Input(**{name: row[name] for name in _COLUMNS}, **settings)


def split_credentials(url: str) -> tuple[str, str, str]:
    """(URL without credentials, user name, password): credentials never stay in a URL, which is shown and logged."""
    parts = urlsplit(url)
    credentials, _, host = parts.netloc.rpartition("@")
    if not credentials:
        return url, "", ""
    username, _, password = credentials.partition(":")
    return urlunsplit(parts._replace(netloc=host)), unquote(username), unquote(password)


def free_code(registry: Registry, own_id: str, type_code: int) -> str:
    """A code of this type under our own first ten digits that nobody has or had. Raises LookupError when all are taken."""
    head = f"{own_id[:10]}{type_code:03d}{own_id[13]}"
    used = set(registry.devices)
    for device_id in registry.devices:
        used.update(registry.channels(device_id))
        used.update(registry.tombstones(device_id))
    taken = [
        int(code[14:]) for code in used if code.startswith(head) and len(code) == 20 and code.isdecimal()
    ]
    serial = (
        max((number for number in taken if FIRST_SERIAL <= number < LAST_SERIAL), default=FIRST_SERIAL - 1)
        + 1
    )
    for number in (*range(serial, LAST_SERIAL), *range(1, serial)):
        code = f"{head}{number:06d}"
        if code not in used and code != own_id:
            return code
    raise LookupError("no code is left under our first ten digits")
