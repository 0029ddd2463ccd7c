"""The last SIP messages of each peer, kept in memory as they were on the wire. Cheap to keep, decoded only when asked for.

A *line* is one address of a peer (transport, host, port) with its messages in a ring. A device owns the lines it
registered over, an upper platform those we call it under. Messages of addresses that nobody owns wait among the
*strangers*: the first REGISTER of a device is taken from there when the device has proved itself.
Nothing of this is written to disk or to the log.
"""

from __future__ import annotations

import struct
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from config.settings import WireSettings
from gateway.events import DeviceMoved, DeviceOnline, DeviceRegistered, DeviceRemoved, EventBus
from gateway.model import Device
from sip.flow import Flow, Target
from sip.observer import Direction

LineKey = tuple[str, int, str]
"""Host, port, transport."""
Entry = tuple[float, bool, bytes]
"""Unix seconds, whether it came in, the bytes."""
_HEAD = struct.Struct("=d?")
"""Kept packed, time and direction in front of the bytes: hundreds of thousands of tuples would keep the collector of
cycles busy, which cost each heartbeat more than all else about the log."""

OVERHEAD_BYTES = 60
"""What one kept message costs beside its bytes."""
_PACKED_OVERHEAD_BYTES = OVERHEAD_BYTES - _HEAD.size
LINES_PER_DEVICE = 3
"""Earlier addresses of a device whose messages are still shown: it moves when its NAT or its connection does."""
CALLED_LINES = 1000
"""Addresses that we call without a registration: upper platforms."""
STRANGER_SOURCES = 500
STRANGER_MESSAGES = 20
STRANGER_BYTES = 2 * 1024 * 1024


class Line:
    """Messages with one address, in order. ``local`` is our own address toward it, once known."""

    __slots__ = ("bytes", "dropped", "kept", "key", "local")

    def __init__(self, key: LineKey) -> None:
        self.key = key
        self.local: tuple[str, int] | None = None
        self.kept: deque[bytes] = deque()
        self.bytes = 0
        self.dropped = 0

    def drop_oldest(self) -> int:
        """Forget the oldest message; returns the bytes that are free now."""
        size = len(self.kept.popleft()) + _PACKED_OVERHEAD_BYTES
        self.bytes -= size
        self.dropped += 1
        return size

    @property
    def messages(self) -> list[Entry]:
        """Oldest first."""
        return [(*_HEAD.unpack_from(packed), packed[_HEAD.size :]) for packed in self.kept]


@dataclass(slots=True)
class Tail:
    """Somebody who watches lines live. ``wants`` is asked for each message, so that a move is followed."""

    wants: Callable[[LineKey], bool]
    tell: Callable[[LineKey, Entry], None]


@dataclass(slots=True)
class WireCounts:
    """Since the start. ``dropped``: messages forgotten for the bounds; ``kept`` and ``bytes`` are present state."""

    kept: int = 0
    bytes: int = 0
    lines: int = 0
    dropped: int = 0
    strangers: int = 0
    stranger_dropped: int = 0


@dataclass(slots=True)
class _Strangers:
    lines: OrderedDict[LineKey, Line] = field(default_factory=OrderedDict)
    bytes: int = 0
    dropped: int = 0


class WireLog:
    """Owner of all lines. ``tap`` is what the SIP endpoint calls for each message."""

    def __init__(
        self,
        *,
        settings: WireSettings,
        devices: Mapping[str, Device],
        bus: EventBus,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._most = settings.messages_per_peer
        self._most_bytes = settings.bytes_per_peer
        self._max_bytes = settings.max_bytes
        self._devices = devices
        self._bus = bus
        self._now = now
        self._lines: OrderedDict[LineKey, Line] = OrderedDict()
        self._share = self._most_bytes
        self._owned: dict[str, list[LineKey]] = {}
        self._owners: Counter[LineKey] = Counter()
        self._called: OrderedDict[LineKey, None] = OrderedDict()
        self._strangers = _Strangers()
        self._tails: list[Tail] = []
        self._bytes = 0
        self._closed_dropped = 0
        """Messages that closed lines had to forget while they were open."""
        self._unsubscribe: list[Callable[[], None]] = []
        self.enabled = settings.enabled

    def start(self) -> None:
        """Give the devices that are known their lines and follow them."""
        if not self.enabled:
            return
        for device in self._devices.values():
            if device.flow is not None:
                self._attach(device.device_id, device.flow)
        self._unsubscribe = [
            self._bus.subscribe(DeviceRegistered, callback=self._seen),
            self._bus.subscribe(DeviceOnline, callback=self._seen),
            self._bus.subscribe(DeviceMoved, callback=self._seen),
            self._bus.subscribe(DeviceRemoved, callback=self._removed),
        ]

    def close(self) -> None:
        for unsubscribe in self._unsubscribe:
            unsubscribe()
        self._unsubscribe = []
        self._tails.clear()

    # -- the hot path ----------------------------------------------------------------------------------------

    def tap(self, direction: Direction, flow: Flow | Target, data: bytes) -> None:
        """One message as it is on the wire. O(1)."""
        key = (flow.host, flow.port, flow.transport)
        line = self._lines.get(key)
        if line is None:
            line = self._unknown(key, direction, flow, data)
            if line is None:
                return
        packed = _HEAD.pack(self._now(), direction == "in") + data
        messages = line.kept
        messages.append(packed)
        growth = len(packed) + _PACKED_OVERHEAD_BYTES
        kept, share = line.bytes + growth, self._share
        while len(messages) > self._most or (kept > share and len(messages) > 1):
            gone = len(messages.popleft()) + _PACKED_OVERHEAD_BYTES  # as drop_oldest, without its call
            kept -= gone
            growth -= gone
            line.dropped += 1
        line.bytes = kept
        self._bytes += growth
        if self._bytes > self._max_bytes:
            self._trim(line)
        if self._tails:
            self._tell(key, (*_HEAD.unpack_from(packed), data))

    def _trim(self, line: Line) -> None:
        """Keep all lines together within their bound."""
        for _ in range(len(self._lines)):
            if self._bytes <= self._max_bytes:
                return
            key, other = next(
                iter(self._lines.items())
            )  # silent for long, it may hold more than its share of today
            self._lines.move_to_end(key)
            while other.bytes > self._share and other.kept:
                self._forget_oldest(other)
        while self._bytes > self._max_bytes and line.kept:  # one message larger than all that may be kept
            self._forget_oldest(line)

    def _forget_oldest(self, line: Line) -> None:
        self._bytes -= line.drop_oldest()

    def _unknown(self, key: LineKey, direction: Direction, flow: Flow | Target, data: bytes) -> Line | None:
        """The line for a request of ours to a new address; else the message goes among the strangers (None)."""
        if direction == "out" and not data.startswith(b"SIP/2.0"):
            self._called[key] = None
            if len(self._called) > CALLED_LINES:
                oldest, _ = self._called.popitem(last=False)
                self._close_line(oldest)
            return self._open_line(key, flow)
        self._stranger(key, direction, flow, data)
        return None

    def _stranger(self, key: LineKey, direction: Direction, flow: Flow | Target, data: bytes) -> None:
        strangers = self._strangers
        line = strangers.lines.get(key)
        if line is None:
            line = strangers.lines[key] = Line(key)
            line.local = _local(flow)
        else:
            strangers.lines.move_to_end(key)
        line.kept.append(_HEAD.pack(self._now(), direction == "in") + data)
        size = len(data) + OVERHEAD_BYTES
        line.bytes += size
        strangers.bytes += size
        while len(line.kept) > STRANGER_MESSAGES:
            strangers.bytes -= line.drop_oldest()
            strangers.dropped += 1
        while strangers.lines and (
            len(strangers.lines) > STRANGER_SOURCES or strangers.bytes > STRANGER_BYTES
        ):
            _, gone = strangers.lines.popitem(last=False)
            strangers.bytes -= gone.bytes
            strangers.dropped += len(gone.kept)

    # -- whose line is it ------------------------------------------------------------------------------------

    def _seen(self, event: DeviceRegistered | DeviceOnline | DeviceMoved) -> None:
        device = self._devices.get(event.device_id)
        if device is not None and device.flow is not None:
            self._attach(device.device_id, device.flow)

    def _attach(self, device_id: str, flow: Flow) -> None:
        key = (flow.host, flow.port, flow.transport)
        keys = self._owned.setdefault(device_id, [])
        if keys and keys[-1] == key:
            return
        if key in keys:
            keys.remove(key)
        else:
            self._owners[key] += 1
        keys.append(key)
        self._called.pop(key, None)
        if key not in self._lines:
            self._open_line(key, flow)
        if len(keys) > LINES_PER_DEVICE:
            self._disown(keys.pop(0))

    def _removed(self, event: DeviceRemoved) -> None:
        for key in self._owned.pop(event.device_id, ()):
            self._disown(key)

    def _disown(self, key: LineKey) -> None:
        self._owners[key] -= 1
        if self._owners[key] <= 0:  # several devices may stand behind one address
            del self._owners[key]
            self._close_line(key)

    def _open_line(self, key: LineKey, flow: Flow | Target) -> Line:
        """A line of its own, with what the address said as a stranger."""
        line = self._strangers.lines.pop(key, None)
        if line is None:
            line = Line(key)
        else:
            self._strangers.bytes -= line.bytes
            self._bytes += line.bytes
        line.local = _local(flow) or line.local
        self._lines[key] = line
        self._reckon()
        return line

    def _close_line(self, key: LineKey) -> None:
        line = self._lines.pop(key, None)
        if line is not None:
            self._bytes -= line.bytes
            self._closed_dropped += line.dropped
            self._reckon()

    def _reckon(self) -> None:
        """The bytes that each line may hold."""
        fair = self._max_bytes // max(1, len(self._lines))
        self._share = min(self._most_bytes, max(fair, 2048))

    # -- reading ---------------------------------------------------------------------------------------------

    def of_device(self, device_id: str) -> list[Line]:
        """Lines of a device, the present one last."""
        return [line for key in self._owned.get(device_id, ()) if (line := self._lines.get(key)) is not None]

    def of_hosts(self, hosts: Iterable[str]) -> list[Line]:
        """Lines with these hosts that belong to no device, strangers' included: an upper platform's."""
        wanted = frozenset(hosts)
        lines = [line for key, line in self._lines.items() if key[0] in wanted and key not in self._owners]
        return lines + [line for key, line in self._strangers.lines.items() if key[0] in wanted]

    def strangers(self) -> list[Line]:
        """Lines of addresses that nobody owns."""
        return list(self._strangers.lines.values())

    @property
    def counts(self) -> WireCounts:
        strangers = self._strangers
        return WireCounts(
            kept=sum(len(line.kept) for line in self._lines.values()),
            bytes=self._bytes,
            lines=len(self._lines),
            dropped=self._closed_dropped + sum(line.dropped for line in self._lines.values()),
            strangers=sum(len(line.kept) for line in strangers.lines.values()),
            stranger_dropped=strangers.dropped,
        )

    # -- live ------------------------------------------------------------------------------------------------

    def watch(self, tail: Tail) -> Callable[[], None]:
        """Tell ``tail`` of each message from now on; call what is returned to stop."""
        self._tails.append(tail)

        def stop() -> None:
            if tail in self._tails:
                self._tails.remove(tail)

        return stop

    def owns(self, device_id: str, key: LineKey) -> bool:
        return key in self._owned.get(device_id, ())

    def _tell(self, key: LineKey, entry: Entry) -> None:
        for tail in self._tails:
            if tail.wants(key):
                tail.tell(key, entry)


def _local(flow: Flow | Target) -> tuple[str, int] | None:
    if isinstance(flow, Target):
        return (flow.flow.local_host, flow.flow.local_port) if flow.flow is not None else None
    return flow.local_host, flow.local_port
