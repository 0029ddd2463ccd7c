"""What happens in the gateway, as typed events, and the bus that carries them to whoever listens."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from gateway.model import PlatformStatus, SessionInfo

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Event:
    """Base of all events: plain facts, named by ids."""


@dataclass(frozen=True, slots=True)
class DeviceAdded(Event):
    """A device is known from now on: registered for the first time or entered by an operator."""

    device_id: str


@dataclass(frozen=True, slots=True)
class DeviceChanged(Event):
    """Fields of a device's record changed (name, profile, flow, manufacturer ...), not its state."""

    device_id: str
    fields: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class DeviceRemoved(Event):
    """An operator removed the device; its channels are gone with it."""

    device_id: str


@dataclass(frozen=True, slots=True)
class DeviceRegistered(Event):
    """A REGISTER was accepted. ``renewal``: inside the lifetime, so streams and catalog stay (G041)."""

    device_id: str
    renewal: bool
    expires_s: int


@dataclass(frozen=True, slots=True)
class DeviceOnline(Event):
    """Offline before, online now; all its channels may have changed with it.

    ``cause``: registered | heartbeat | resumed (taken up again after a restart of the gateway).
    """

    device_id: str
    cause: str = "registered"


@dataclass(frozen=True, slots=True)
class DeviceOffline(Event):
    """Online before, offline now, told exactly once (G042); all its channels are offline with it.

    ``cause``: heartbeat_lost | expired | unregistered | connection_lost | restart | removed.
    """

    device_id: str
    cause: str


@dataclass(frozen=True, slots=True)
class DeviceMoved(Event):
    """The device is now reached over another flow (NAT rebinding, new connection)."""

    device_id: str
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class DeviceFault(Event):
    """The heartbeat said Status ERROR (``fault`` true) or OK again (G067), or named other faulty children (G066)."""

    device_id: str
    fault: bool
    faulty_children: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class DeviceConflict(Event):
    """Two units use one device code (G061). ``kept`` says which flow stays in use."""

    device_id: str
    first: str
    second: str
    kept: str


@dataclass(frozen=True, slots=True)
class DeviceConflictEnded(Event):
    """Only one unit uses the code now. ``cause``: other_unit_gone | kept_unit_offline | kept_unit_silent | removed."""

    device_id: str
    cause: str


@dataclass(frozen=True, slots=True)
class ChannelAdded(Event):
    device_id: str
    channel_id: str


@dataclass(frozen=True, slots=True)
class ChannelChanged(Event):
    """Fields of the channel's record changed, not its status."""

    device_id: str
    channel_id: str
    fields: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ChannelRemoved(Event):
    device_id: str
    channel_id: str


@dataclass(frozen=True, slots=True)
class ChannelStatus(Event):
    """The verdict on one channel changed: ``status`` is ON, OFF, VLOST or DEFECT.

    When a whole device goes online or offline only DeviceOnline or DeviceOffline is told.
    """

    device_id: str
    channel_id: str
    online: bool
    status: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class ChannelConflict(Event):
    """One channel code is used under several devices (quirk 18)."""

    channel_id: str
    device_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CatalogCollected(Event):
    """A catalog query ended. ``complete``: SumNum distinct Items came under the query's own SN."""

    device_id: str
    parts: int
    complete: bool
    items: int = 0
    sum_num: int = 0
    reason: str = ""


@dataclass(frozen=True, slots=True)
class CatalogShrank(Event):
    """A complete catalog named over 20 % fewer channels than are known (quirk 15)."""

    device_id: str
    known: int
    named: int


@dataclass(frozen=True, slots=True)
class CatalogFault(Event):
    """A field or an Item of a catalog could not be used; the rest was kept (quirk 2)."""

    device_id: str
    channel_id: str
    detail: str


@dataclass(frozen=True, slots=True)
class SubscriptionChanged(Event):
    """Our subscription at a device: ``state`` active | refused | ended."""

    device_id: str
    event: str
    state: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class SessionStarted(Event):
    info: SessionInfo


@dataclass(frozen=True, slots=True)
class SessionEnded(Event):
    info: SessionInfo


@dataclass(frozen=True, slots=True)
class SessionFailed(Event):
    """A wish to see a channel failed before its first picture. ``cause`` is one of PlayCause, ``detail`` for people."""

    device_id: str
    channel_id: str
    cause: str
    detail: str


@dataclass(frozen=True, slots=True)
class MediaFault(Event):
    """A stream is not what was agreed, or is damaged: told once per stream and kind (quirks 27, 46).

    ``kind``: ssrc_mismatch | media_mismatch | foreign_source | codec_changed.
    """

    device_id: str
    channel_id: str
    session_id: str
    kind: str
    detail: str


@dataclass(frozen=True, slots=True)
class FirstPicture(Event):
    """The first key frame of a session arrived ``seconds`` after the wish to see it. ``kind``: live | playback | upper."""

    kind: str
    seconds: float


@dataclass(frozen=True, slots=True)
class PlatformChanged(Event):
    status: PlatformStatus


@dataclass(frozen=True, slots=True)
class AlarmRaised(Event):
    """A device raised an alarm (9.4). ``alarm_at``: its own time. ``text_zh`` and ``text_en`` say what the numbers mean.

    ``kind`` is the AlarmType, whose meaning depends on ``method``; 0 stands for a number that did not come.
    """

    device_id: str
    channel_id: str
    priority: int
    method: int
    kind: int | None
    description: str
    alarm_at: str
    alarm_id: str = ""
    event_type: int | None = None
    text_zh: str = ""
    text_en: str = ""
    via: str = "message"


@dataclass(frozen=True, slots=True)
class UpgradeChanged(Event):
    """A firmware upgrade went on (9.13). ``state``: asked | accepted | refused | unanswered | succeeded | failed |
    expired. ``reason`` tells why it failed; ``registered_again`` that the device came back since it accepted.
    """

    session_id: str
    device_id: str
    channel_id: str
    state: str
    firmware: str
    reason: str = ""
    registered_again: bool = False


@dataclass(frozen=True, slots=True)
class TalkChanged(Event):
    """A target of a talk: ``state`` ringing | talking | ended | failed; ``cause`` says why it ended or failed.

    ``output_id``: the loudspeaker, or its device for all of them.
    """

    talk_id: str
    device_id: str
    channel_id: str
    output_id: str
    state: str
    cause: str = ""
    detail: str = ""
    who: str = ""


@dataclass(frozen=True, slots=True)
class DeviceDownloadChanged(Event):
    """A download of a recording from a device went on (9.9). ``state``: waiting | running | done | partial | failed |
    cancelled; ``cause`` tells how it ended."""

    job_id: str
    device_id: str
    channel_id: str
    owner: str
    state: str
    cause: str = ""


@dataclass(frozen=True, slots=True)
class SecurityEvent(Event):
    """Somebody was refused or looks wrong.

    ``kind``: auth_failed | auth_locked | unknown_device | unregistered | foreign_source | same_id | rate_limited |
    open_registration | note_failed. ``source``: IP address. ``detail`` never holds credentials.
    """

    kind: str
    source: str
    detail: str = ""
    device_id: str = ""


E = TypeVar("E", bound=Event)
Unsubscribe = Callable[[], None]


class EventQueue(Generic[E]):
    """Bounded queue of events for one reader; when full the oldest is dropped and counted in ``dropped``."""

    def __init__(self, bus: EventBus, types: tuple[type[E], ...], size: int) -> None:
        self._queue: asyncio.Queue[E | None] = asyncio.Queue(size)
        self.dropped = 0
        self._closed = False
        self._unsubscribe = bus.subscribe(*types, callback=self._put)

    def _put(self, event: E | None) -> None:
        if self._queue.full():
            self._queue.get_nowait()
            self.dropped += 1
        self._queue.put_nowait(event)

    def close(self) -> None:
        """No more events; a waiting reader ends. May be called again."""
        if not self._closed:
            self._closed = True
            self._unsubscribe()
            self._put(None)

    async def __aiter__(self) -> AsyncIterator[E]:
        while (event := await self._queue.get()) is not None:
            yield event


class EventBus:
    """Carries events to listeners. ``publish`` only schedules: each listener runs in its own turn of the loop.

    So the answer to a SIP request leaves before its consequences run, a listener that fails is reported by the
    loop's exception handler and takes no other listener with it, and the order of events is kept.
    Without a running loop (start-up code, plain tests) listeners are called at once.
    """

    def __init__(self) -> None:
        self._listeners: dict[type[Event], list[Callable[[Any], None]]] = {}
        self._resolved: dict[type[Event], tuple[Callable[[Any], None], ...]] = {}

    def publish(self, event: Event) -> None:
        kind = type(event)
        listeners = self._resolved.get(kind)
        if listeners is None:
            listeners = tuple(cb for base in kind.__mro__ for cb in self._listeners.get(base, ()))
            self._resolved[kind] = listeners
        if not listeners:
            return
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            for listener in listeners:
                listener(event)
            return
        for listener in listeners:
            loop.call_soon(listener, event)

    def subscribe(self, *types: type[E], callback: Callable[[E], None]) -> Unsubscribe:
        """Call ``callback`` (short, not blocking) for each event of these types; ``Event`` means all."""
        for kind in types:
            self._listeners.setdefault(kind, []).append(callback)
        self._resolved.clear()

        def unsubscribe() -> None:
            for kind in types:
                if callback in self._listeners.get(kind, ()):
                    self._listeners[kind].remove(callback)
            self._resolved.clear()

        return unsubscribe

    def queue(self, *types: type[E], size: int = 1000) -> EventQueue[E]:
        """Events of these types for one asynchronous reader, at most ``size`` waiting."""
        return EventQueue(self, types, size)
