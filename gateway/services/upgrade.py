"""Firmware upgrades of devices: ordered, accepted, and told of by the device when it is done (GB/T 28181-2022 9.13).

The device answers the order at once, fetches and installs, registers anew, and then sends DeviceUpgradeResult with the
SessionID of the order. That takes minutes, so an upgrade is a job of its own that outlives a restart of the gateway.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, fields
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Protocol
from urllib.parse import urlsplit, urlunsplit

from config.settings import ControlSettings
from gateway.clock import Clock
from gateway.dispatch import Dispatch
from gateway.errors import GatewayError, NotFound
from gateway.events import DeviceRegistered, EventBus, UpgradeChanged
from gateway.peers import Peer
from gateway.services.errors import ControlCause, ControlFailed
from sip.endpoint import Incoming
from sip.ids import is_session_id, make_session_id
from sip.manscdp import DeviceControl, DeviceUpgrade, DeviceUpgradeResultNotify

log = logging.getLogger(__name__)

KIND = "upgrade"
"""Of the journal."""
REASONS = {
    "01": "the download took too long",
    "02": "the package is damaged",
    "03": "system error of the device",
    "99": "another cause",
}
"""UpgradeFailedReason (2022 A.2.5)."""


class UpgradeState(StrEnum):
    ASKED = "asked"
    ACCEPTED = "accepted"
    REFUSED = "refused"
    UNANSWERED = "unanswered"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    EXPIRED = "expired"
    """Accepted, but nothing was heard of it in time."""

    @property
    def open(self) -> bool:
        return self in (UpgradeState.ASKED, UpgradeState.ACCEPTED)


@dataclass(slots=True)
class Upgrade:
    """One job. ``file_url`` is kept without user and password. ``platform_id`` and ``exported_id``: an upper asked."""

    session_id: str
    device_id: str
    channel_id: str
    firmware: str
    manufacturer: str
    file_url: str
    who: str
    asked_at: datetime
    state: UpgradeState = UpgradeState.ASKED
    accepted_at: datetime | None = None
    registered_again_at: datetime | None = None
    ended_at: datetime | None = None
    reason_code: str = ""
    reason: str = ""
    firmware_now: str = ""
    """What the device said it runs after it."""
    platform_id: str = ""
    exported_id: str = ""


class UpgradeRunning(GatewayError):
    """The device is busy with another upgrade, or the SessionID was used before."""

    cause = "upgrade_running"
    status = 409


class Orders(Protocol):
    """The part of gateway.services.commands.DeviceCommands that is needed."""

    async def order(
        self, device_id: str, target_id: str, body: DeviceControl, *, who: str, action: str, detail: str = ""
    ) -> str: ...


class Memory(Protocol):
    """The part of gateway.storage.journal.Journal that is needed."""

    def put(self, kind: str, key: str, state: dict[str, Any]) -> None: ...

    def remove(self, kind: str, key: str) -> None: ...

    async def load(self, kind: str) -> dict[str, dict[str, Any]]: ...


Listener = Callable[[Upgrade], Awaitable[None]]


class Upgrades:
    """All upgrades, open and over, newest last. ``counts``: by state, and ``unknown`` results nobody asked for."""

    def __init__(
        self,
        *,
        settings: ControlSettings,
        orders: Orders,
        bus: EventBus,
        journal: Memory,
        clock: Clock | None = None,
    ) -> None:
        self._settings, self._orders, self._bus, self._journal = settings, orders, bus, journal
        self._clock = clock or Clock()
        self._jobs: dict[str, Upgrade] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._unsubscribe: Callable[[], None] | None = None
        self.on_result: Listener | None = None
        """Told of the end of an upgrade that an upper platform asked for. Set by gateway/assembly."""
        self.counts: Counter[str] = Counter()

    def connect(self, dispatch: Dispatch) -> None:
        dispatch.on(DeviceUpgradeResultNotify)(self._told)

    async def start(self) -> None:
        """Take up what was open when the process ended."""
        self._unsubscribe = self._bus.subscribe(DeviceRegistered, callback=self._registered)
        stored = sorted(
            (await self._journal.load(KIND)).values(), key=lambda state: str(state.get("asked_at"))
        )
        for state in stored:
            job = _read(state)
            if job is None:
                continue
            self._jobs[job.session_id] = job
            if job.state is UpgradeState.ASKED:
                self._end(job, UpgradeState.UNANSWERED, reason="the gateway was restarted")
            elif job.state is UpgradeState.ACCEPTED:
                since = job.accepted_at or job.asked_at
                left = timedelta(seconds=self._settings.upgrade_timeout_s) - (self._clock.utc() - since)
                self._watch(job, max(0.0, left.total_seconds()))

    async def close(self) -> None:
        if self._unsubscribe is not None:
            self._unsubscribe()
        for timer in self._timers.values():
            timer.cancel()

    # -- from the API and from uppers ------------------------------------------------------------------------

    def jobs(self, device_id: str = "") -> list[Upgrade]:
        """Newest first."""
        return [job for job in reversed(self._jobs.values()) if device_id in ("", job.device_id)]

    def job(self, session_id: str) -> Upgrade:
        """Raises NotFound."""
        job = self._jobs.get(session_id)
        if job is None:
            raise NotFound(f"upgrade {session_id} is not known")
        return job

    async def begin(
        self,
        device_id: str,
        target_id: str,
        *,
        firmware: str,
        file_url: str,
        manufacturer: str,
        who: str,
        session_id: str = "",
        platform_id: str = "",
        exported_id: str = "",
    ) -> Upgrade:
        """Order an upgrade; returns when the device accepted it. Raises ControlFailed, NotSupported, UpgradeRunning."""
        session_id = session_id or make_session_id()
        self._free(device_id, target_id, session_id)
        job = Upgrade(
            session_id, device_id, target_id, firmware, manufacturer, _without_login(file_url), who,
            self._clock.utc(), platform_id=platform_id, exported_id=exported_id,
        )  # fmt: skip
        self._jobs[session_id] = job
        self._trim()
        self._changed(job)
        wanted = DeviceUpgrade(
            firmware=firmware, file_url=file_url, manufacturer=manufacturer, session_id=session_id
        )
        detail = f"firmware {firmware} session {session_id}"
        try:
            await self._orders.order(
                device_id, target_id, DeviceControl(device_upgrade=wanted), who=who, action="device.upgrade",
                detail=detail,
            )  # fmt: skip
        except GatewayError as error:
            silent = isinstance(error, ControlFailed) and error.cause is ControlCause.NO_ANSWER
            if job.state is UpgradeState.ASKED:
                self._end(job, UpgradeState.UNANSWERED if silent else UpgradeState.REFUSED, reason=str(error))
            raise
        except asyncio.CancelledError:
            if job.state is UpgradeState.ASKED:
                self._end(job, UpgradeState.UNANSWERED, reason="nobody waited for the answer")
            raise
        if job.state is UpgradeState.ASKED:  # the result may be quicker than the Response
            job.state, job.accepted_at = UpgradeState.ACCEPTED, self._clock.utc()
            self._changed(job)
            self._watch(job, self._settings.upgrade_timeout_s)
        return job

    def _free(self, device_id: str, target_id: str, session_id: str) -> None:
        if not is_session_id(session_id):
            raise ValueError("a SessionID has 32 to 128 letters, digits and -")
        if session_id in self._jobs:
            raise UpgradeRunning(f"the SessionID {session_id} was used before")
        for job in self._jobs.values():
            if job.state.open and (job.device_id, job.channel_id) == (device_id, target_id):
                raise UpgradeRunning(f"{target_id} is busy with the upgrade {job.session_id}")

    # -- from the device -------------------------------------------------------------------------------------

    async def _told(self, peer: Peer, body: DeviceUpgradeResultNotify, incoming: Incoming) -> None:
        """DeviceUpgradeResult: the SessionID says which; without a known one, the only open upgrade of the device."""
        del incoming
        job = self._jobs.get(body.session_id)
        if job is None or job.device_id != peer.id:
            mine = [one for one in self._jobs.values() if one.state.open and one.device_id == peer.id]
            job = mine[0] if len(mine) == 1 and not body.session_id else None
        if job is None:
            self.counts["unknown"] += 1
            log.warning(
                "upgrade result nobody asked for device=%s session_id=%s", peer.id, body.session_id[:128]
            )
            return
        if job.state in (UpgradeState.SUCCEEDED, UpgradeState.FAILED):
            return  # told again
        job.firmware_now = body.firmware[:128]
        if body.upgrade_result == "OK":
            self._end(job, UpgradeState.SUCCEEDED)
        else:
            code = body.failed_reason.strip()[:16]
            text = REASONS.get(code.zfill(2), code and f"cause {code}") or "no cause told"
            job.reason_code = code
            self._end(job, UpgradeState.FAILED, reason=text)
        if job.platform_id and self.on_result is not None:
            await self.on_result(job)

    def _registered(self, event: DeviceRegistered) -> None:
        """Most devices come back before they were missed, so that it looks like a renewal."""
        for job in self._jobs.values():
            waits = job.state is UpgradeState.ACCEPTED and job.registered_again_at is None
            if waits and job.device_id == event.device_id:
                job.registered_again_at = self._clock.utc()
                self._changed(job)

    # -- pieces ----------------------------------------------------------------------------------------------

    def _watch(self, job: Upgrade, left_s: float) -> None:
        loop = asyncio.get_running_loop()
        self._timers[job.session_id] = loop.call_later(left_s, self._expired, job)

    def _expired(self, job: Upgrade) -> None:
        if job.state.open:
            self._end(job, UpgradeState.EXPIRED, reason="the device never told how it went")

    def _end(self, job: Upgrade, state: UpgradeState, *, reason: str = "") -> None:
        job.state, job.reason, job.ended_at = state, reason[:500], self._clock.utc()
        timer = self._timers.pop(job.session_id, None)
        if timer is not None:
            timer.cancel()
        self._changed(job)

    def _changed(self, job: Upgrade) -> None:
        self.counts[job.state.value] += 1
        self._journal.put(KIND, job.session_id, _written(job))
        log.info(
            "upgrade device=%s session_id=%s state=%s firmware=%s",
            *(job.device_id, job.session_id, job.state.value, job.firmware),
        )
        self._bus.publish(
            UpgradeChanged(
                job.session_id,
                job.device_id,
                job.channel_id,
                job.state.value,
                job.firmware_now or job.firmware,
                job.reason,
                job.registered_again_at is not None,
            )
        )

    def _trim(self) -> None:
        over = [job for job in self._jobs.values() if not job.state.open]
        for job in over[: max(0, len(self._jobs) - self._settings.upgrades_kept)]:
            del self._jobs[job.session_id]
            self._journal.remove(KIND, job.session_id)


def _without_login(url: str) -> str:
    """The address as people may read it: no user, password or query."""
    try:
        parts = urlsplit(url)
        host = parts.netloc.rpartition("@")[2]
    except ValueError:
        return ""
    return urlunsplit((parts.scheme, host, parts.path, "", ""))


_TIMES = ("asked_at", "accepted_at", "registered_again_at", "ended_at")


def _written(job: Upgrade) -> dict[str, Any]:
    state = asdict(job)
    for name in _TIMES:
        state[name] = state[name].isoformat() if state[name] is not None else None
    state["state"] = job.state.value
    return state


def _read(state: dict[str, Any]) -> Upgrade | None:
    """A stored job; None for one that cannot be read any more."""
    values = {item.name: state[item.name] for item in fields(Upgrade) if item.name in state}
    try:
        for name in _TIMES:
            values[name] = datetime.fromisoformat(values[name]) if values.get(name) else None
        values["state"] = UpgradeState(values["state"])
        job = Upgrade(**values)
    except (KeyError, TypeError, ValueError) as error:
        log.warning("stored upgrade unreadable error=%s", error)
        return None
    return job if job.asked_at is not None else None
