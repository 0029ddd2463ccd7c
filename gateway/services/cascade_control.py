"""Commands of an upper for our channels: rights, audit, code map, then down; answers come back up."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Mapping
from typing import Protocol

from gateway.clock import Clock
from gateway.errors import GatewayError
from gateway.events import EventBus, SecurityEvent
from gateway.inbox import Inbox
from gateway.model import Device
from gateway.services.cascade_link import UpperLink
from gateway.services.cascade_tree import Entry, Tree
from gateway.services.cascade_words import action_of, right_for, upper_user
from gateway.services.errors import ControlFailed
from gateway.services.upgrade import Upgrade, UpgradeState
from sip.endpoint import Incoming, Reply
from sip.errors import LocalError, ParseError, RemoteError
from sip.manscdp import (
    Body,
    DeviceControl,
    DeviceControlResponse,
    DeviceUpgradeResultNotify,
)
from sip.message import Response
from sip.ptz import PtzCommand, decode

log = logging.getLogger(__name__)

UPPER_HOLD_S = 60.0
"""Uppers send a movement once and the stop at its end: so long the stop may stay away before it is sent from here."""
DEVICE_TIMEOUT_S = 5.0
MOST_USERS = 1000
"""Users of one upper that are remembered, to stop what they move when the upper is lost."""

Audit = Callable[[str, str, str, str, str], None]
"""who, action, target, result, detail."""


class Mover(Protocol):
    """What is needed of gateway.services.control.Control."""

    async def ptz(
        self,
        device_id: str,
        channel_id: str,
        command: PtzCommand,
        who: str,
        *,
        priority: int = 0,
        preset_name: str = "",
        cruise_track_name: str = "",
        hold_s: float | None = None,
    ) -> None: ...

    async def key_frame(self, device_id: str, channel_id: str, who: str = "") -> bool: ...

    def client_gone(self, who: str) -> None: ...


class Upgrader(Protocol):
    """What is needed of gateway.services.upgrade.Upgrades."""

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
    ) -> Upgrade: ...


class Downward(Protocol):
    """What is needed of gateway.dispatch.Dispatch."""

    async def send(self, device: Device, body: Body) -> Response: ...

    async def query(self, device: Device, body: Body, *, timeout_s: float = DEVICE_TIMEOUT_S) -> Body: ...

    def next_sn(self, peer_id: str) -> int: ...


class Online(Protocol):
    """The registry's devices."""

    @property
    def devices(self) -> Mapping[str, Device]: ...


class UpperCommands:
    """Carries out what uppers command; their questions are served by ``cascade_queries``."""

    def __init__(
        self,
        *,
        facts: Online,
        mover: Mover,
        downward: Downward,
        bus: EventBus,
        audit: Audit | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._facts, self._mover, self._downward, self._bus = facts, mover, downward, bus
        self.audit = audit
        """Set by gateway/assembly when the audit log is there."""
        self._clock = clock or Clock()
        self.upgrader: Upgrader | None = None
        """Set by gateway/assembly; without it uppers' upgrades are refused."""
        self.link_of: Callable[[str], UpperLink | None] = lambda platform_id: None
        """Set by gateway/assembly: the link to an upper as it is now."""
        self._lanes = Inbox(jobs_per_peer=100, clock=self._clock)
        self._movers: dict[str, dict[str, None]] = {}

    async def close(self) -> None:
        await self._lanes.close()

    def _note(self, who: str, action: str, target: str, result: str, detail: str) -> None:
        if self.audit is not None:
            self.audit(who, action, target, result, detail)

    def gone(self, link: UpperLink) -> None:
        """The upper is offline: what its users move is stopped."""
        for who in self._movers.pop(link.platform.platform_id, {}):
            self._mover.client_gone(who)

    # -- control ---------------------------------------------------------------------------------------------

    def check_control(self, link: UpperLink, body: DeviceControl, incoming: Incoming) -> Reply | None:
        """403 before anything else when the upper has no right to it; audited (G175, G264)."""
        right = right_for(body)
        if right in link.platform.rights:
            return None
        who = upper_user(link, incoming.request.headers.get("Monitor-User-Identity") or "")
        self._note(who, f"upper.{right}", body.device_id, "forbidden", body.ptz_cmd)
        detail = f"no right to {right} on {body.device_id}"
        self._bus.publish(
            SecurityEvent("upper_forbidden", incoming.flow.host, detail, link.platform.platform_id)
        )
        return Reply(403)

    async def control(self, link: UpperLink, tree: Tree, body: DeviceControl, incoming: Incoming) -> None:
        """Take one control in. Commands for one channel keep their order; other channels do not wait for it."""
        who = upper_user(link, incoming.request.headers.get("Monitor-User-Identity") or "")
        entry = tree.entries.get(body.device_id)
        if entry is None or not entry.ways:
            self._note(who, action_of(body), body.device_id, "not_found", body.ptz_cmd)
            await self._answer(link, body, ok=False)
            return

        movers = self._movers.setdefault(link.platform.platform_id, {})
        movers[who] = None
        while len(movers) > MOST_USERS:
            del movers[next(iter(movers))]

        async def work() -> None:
            await self._carry_out(link, entry, body, who)

        if not self._lanes.put((link.platform.platform_id, entry.exported_id), work):
            self._note(who, action_of(body), body.device_id, "queue_full", body.ptz_cmd)

    async def _carry_out(self, link: UpperLink, entry: Entry, body: DeviceControl, who: str) -> None:
        device_id, channel_id = self._way(entry)
        if body.ptz_cmd:
            await self._move(device_id, channel_id, body, who)
        elif body.iframe:
            await self._mover.key_frame(device_id, channel_id, who)
        elif body.device_upgrade is not None:
            await self._upgrade(link, device_id, channel_id, body, who)
        else:
            await self._pass_on(link, device_id, channel_id, body, who)

    def _way(self, entry: Entry) -> tuple[str, str]:
        """The way to the channel whose device is online, when there are several."""
        devices = self._facts.devices
        return next(
            (way for way in entry.ways if way[0] in devices and devices[way[0]].online), entry.ways[0]
        )

    async def _move(self, device_id: str, channel_id: str, body: DeviceControl, who: str) -> None:
        """PTZ: eight bytes that are not right are dropped, the 200 is out already (A.3.1, G160)."""
        try:
            command = decode(body.ptz_cmd)
        except ParseError as error:
            self._note(who, "ptz", f"{device_id}/{channel_id}", "malformed", body.ptz_cmd[:64])
            log.info("ptz dropped channel=%s error=%s", body.device_id, error)
            return
        try:
            await self._mover.ptz(
                device_id,
                channel_id,
                command,
                who,
                priority=body.control_priority or 0,
                preset_name=body.preset_name,
                cruise_track_name=body.cruise_track_name,
                hold_s=UPPER_HOLD_S,
            )
        except (ControlFailed, LocalError) as error:
            log.info("ptz failed channel=%s error=%s", body.device_id, error)

    async def _pass_on(
        self, link: UpperLink, device_id: str, channel_id: str, body: DeviceControl, who: str
    ) -> None:
        """Any other control as it is, under the device's own code and SN; its Response under the upper's."""
        device = self._facts.devices.get(device_id)
        down = body.model_copy(update={"device_id": channel_id, "sn": self._downward.next_sn(device_id)})
        ok, result = False, "device_offline"
        if device is not None and device.online:
            try:
                if body.wants_response:
                    answer = await self._downward.query(device, down, timeout_s=DEVICE_TIMEOUT_S)
                    ok = getattr(answer, "result", "ERROR") == "OK"
                else:
                    ok = (await self._downward.send(device, down)).status // 100 == 2
                result = "ok" if ok else "refused"
            except (RemoteError, GatewayError) as error:
                result = getattr(error, "cause", "") or getattr(error, "label", "failed")
        self._note(who, action_of(body), f"{device_id}/{channel_id}", result, "")
        await self._answer(link, body, ok=ok)

    async def _upgrade(
        self, link: UpperLink, device_id: str, channel_id: str, body: DeviceControl, who: str
    ) -> None:
        """Under the upper's SessionID, so that the device's result can be passed up (9.13)."""
        wanted, ok = body.device_upgrade, False
        if wanted is not None and self.upgrader is not None:
            try:
                await self.upgrader.begin(
                    device_id,
                    channel_id,
                    firmware=wanted.firmware,
                    file_url=wanted.file_url,
                    manufacturer=wanted.manufacturer,
                    who=who,
                    session_id=wanted.session_id,
                    platform_id=link.platform.platform_id,
                    exported_id=body.device_id,
                )
                ok = True
            except (GatewayError, RemoteError, ValueError) as error:
                log.info("upper's upgrade failed channel=%s error=%s", body.device_id, error)
        await self._answer(link, body, ok=ok)

    async def upgrade_over(self, job: Upgrade) -> None:
        """The device told how an upgrade went that an upper had asked for: passed up with the upper's codes."""
        link = self.link_of(job.platform_id)
        if link is None or not link.online:
            log.warning(
                "upgrade result not passed up platform_id=%s session_id=%s", job.platform_id, job.session_id
            )
            return
        told = DeviceUpgradeResultNotify(
            sn=secrets.randbelow(99_999) + 1,
            device_id=job.exported_id,
            session_id=job.session_id,
            upgrade_result="OK" if job.state is UpgradeState.SUCCEEDED else "ERROR",
            firmware=job.firmware_now or job.firmware,
            failed_reason=job.reason_code,
        )

        async def work() -> None:  # the device's next messages do not wait for the upper
            await self._send(link, told)

        self._lanes.put((job.platform_id, f"upgrade {job.session_id}"), work)

    async def _answer(self, link: UpperLink, body: DeviceControl, *, ok: bool) -> None:
        if not body.wants_response:
            return
        result = "OK" if ok else "ERROR"
        await self._send(link, DeviceControlResponse(sn=body.sn, device_id=body.device_id, result=result))

    async def _send(self, link: UpperLink, body: Body) -> None:
        try:
            await link.message(body)
        except RemoteError as error:
            log.warning("answer not delivered platform_id=%s error=%s", link.platform.platform_id, error)
