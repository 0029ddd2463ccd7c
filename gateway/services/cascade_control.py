"""Commands and questions of an upper about our channels: rights, audit, code map, then down; answers come back up."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Mapping
from typing import Annotated, Protocol

from gateway.clock import Clock
from gateway.errors import GatewayError
from gateway.events import EventBus, SecurityEvent
from gateway.inbox import Inbox
from gateway.model import Channel, Device
from gateway.origin import MAX_VALUE
from gateway.services.cascade_items import Evidence
from gateway.services.cascade_link import UpperLink
from gateway.services.cascade_tree import Entry, Tree
from gateway.services.errors import ControlFailed
from gateway.services.upgrade import Upgrade, UpgradeState
from sip.endpoint import Incoming, Reply
from sip.errors import LocalError, ParseError, RemoteError
from sip.manscdp import (
    Body,
    DeviceControl,
    DeviceControlResponse,
    DeviceInfoQuery,
    DeviceInfoResponse,
    DeviceStatusQuery,
    DeviceStatusResponse,
    DeviceUpgradeResultNotify,
)
from sip.manscdp.base import UnknownBody, Xml
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


class RefusedResponse(UnknownBody):
    """``Result`` ERROR to any command: the answer where nothing else can be said (report B.8)."""

    result: Annotated[str, Xml("Result", always=True)] = "ERROR"


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


class Facts(Protocol):
    """What is needed of the registry."""

    @property
    def devices(self) -> Mapping[str, Device]: ...

    def channel(self, device_id: str, channel_id: str) -> Channel | None: ...

    def channel_evidence(self, channel: Channel) -> Evidence: ...


def right_for(body: DeviceControl) -> str:
    """The class of right a control needs: ptz moves the camera, play asks for a key frame, all else is config."""
    if body.ptz_cmd or body.drag_zoom_in or body.drag_zoom_out or body.ptz_precise or body.target_track:
        return "ptz"
    return "play" if body.iframe else "config"


class UpperCommands:
    """Serves the MESSAGEs of uppers that are no catalog queries."""

    def __init__(
        self,
        *,
        facts: Facts,
        mover: Mover,
        downward: Downward,
        bus: EventBus,
        audit: Audit | None = None,
        manufacturer: str,
        model: str,
        firmware: str,
        name: str,
        clock: Clock | None = None,
    ) -> None:
        self._facts, self._mover, self._downward, self._bus = facts, mover, downward, bus
        self.audit = audit
        """Set by app.py when the audit log is there."""
        self._manufacturer, self._model, self._firmware, self._name = manufacturer, model, firmware, name
        self._clock = clock or Clock()
        self.upgrader: Upgrader | None = None
        """Set by app.py; without it uppers' upgrades are refused."""
        self.link_of: Callable[[str], UpperLink | None] = lambda platform_id: None
        """Set by app.py: the link to an upper as it is now."""
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
            self._note(who, _action(body), body.device_id, "not_found", body.ptz_cmd)
            await self._answer(link, body, ok=False)
            return

        movers = self._movers.setdefault(link.platform.platform_id, {})
        movers[who] = None
        while len(movers) > MOST_USERS:
            del movers[next(iter(movers))]

        async def work() -> None:
            await self._carry_out(link, entry, body, who)

        if not self._lanes.put((link.platform.platform_id, entry.exported_id), work):
            self._note(who, _action(body), body.device_id, "queue_full", body.ptz_cmd)

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
        self._note(who, _action(body), f"{device_id}/{channel_id}", result, "")
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

    # -- questions -------------------------------------------------------------------------------------------

    def device_info(self, link: UpperLink, tree: Tree, query: DeviceInfoQuery) -> DeviceInfoResponse:
        """About ourselves with the number of exported cameras (G126), or about a channel from its record."""
        answer = DeviceInfoResponse(sn=query.sn, device_id=query.device_id)
        if query.device_id in (tree.own_id, ""):
            return answer.model_copy(
                update={
                    "device_id": query.device_id or tree.own_id,
                    "device_name": self._name,
                    "manufacturer": self._manufacturer,
                    "model": self._model,
                    "firmware": self._firmware,
                    "channel": tree.cameras,
                }
            )
        entry = tree.entries.get(query.device_id)
        if entry is None or not entry.ways:
            return answer.model_copy(update={"result": "ERROR"})
        device_id, channel_id = entry.ways[0]
        channel, device = self._facts.channel(device_id, channel_id), self._facts.devices.get(device_id)
        record: Channel | Device | None = channel or device
        if record is None:
            return answer.model_copy(update={"result": "ERROR"})
        known = {"device_name": entry.name, "manufacturer": record.manufacturer, "model": record.model}
        if device is not None and channel_id == device_id:
            known["firmware"] = device.firmware
        return answer.model_copy(update=known)

    def device_status(self, tree: Tree, query: DeviceStatusQuery) -> DeviceStatusResponse:
        """By own evidence (G127). An unknown code is an ERROR and tells nothing."""
        answer = DeviceStatusResponse(sn=query.sn, device_id=query.device_id, device_time=self._clock.utc())
        if query.device_id in (tree.own_id, ""):
            return answer.model_copy(update={"device_id": query.device_id or tree.own_id, "encode": "ON"})
        entry = tree.entries.get(query.device_id)
        if entry is None or not entry.ways:
            return answer.model_copy(
                update={"result": "ERROR", "online": "OFFLINE", "status": "ERROR", "device_time": None}
            )
        verdict, reason = self._verdict(entry)
        on = verdict == "ON"
        return answer.model_copy(
            update={
                "online": "OFFLINE" if verdict == "OFF" else "ONLINE",
                "status": "OK" if on else "ERROR",
                "reason": "" if on else reason,
                "encode": "ON" if on else "OFF",
            }
        )

    def _verdict(self, entry: Entry) -> tuple[str, str]:
        verdict = "OFF"
        for device_id, channel_id in entry.ways:
            channel, device = self._facts.channel(device_id, channel_id), self._facts.devices.get(device_id)
            if channel is not None:
                verdict = str(self._facts.channel_evidence(channel).verdict)
            else:
                verdict = "ON" if device is not None and device.online else "OFF"
            if verdict == "ON":
                return verdict, ""
        return verdict, {"VLOST": "video lost", "DEFECT": "reported as faulty"}.get(verdict, "offline")

    def refuse(self, body: Body) -> Body | None:
        """``Result`` ERROR to a question or command nobody serves; notifications and answers get none."""
        if body.root not in ("Query", "Control") or not body.cmd_type:
            return None
        return RefusedResponse(
            unknown_root="Response", unknown_cmd_type=body.cmd_type, sn=body.sn, device_id=body.device_id
        )


def upper_user(link: UpperLink, user_identity: str) -> str:
    """Name in the audit log: the upper, and the user it names with our own code in front (8.3, G268)."""
    who = f"platform:{link.platform.platform_id}"
    return f"{who} {link.identity.user}-{user_identity.strip()[:MAX_VALUE]}" if user_identity.strip() else who


def _action(body: DeviceControl) -> str:
    if body.ptz_cmd:
        return "ptz"
    names = (
        ("iframe", "key_frame"),
        ("teleboot", "reboot"),
        ("record_cmd", "record"),
        ("guard_cmd", "guard"),
        ("alarm_cmd", "alarm_reset"),
        ("home_position", "home_position"),
        ("device_upgrade", "upgrade"),
        ("drag_zoom_in", "drag_zoom"),
        ("drag_zoom_out", "drag_zoom"),
        ("ptz_precise", "ptz_precise"),
        ("target_track", "target_track"),
    )
    if body.format_sd_card is not None:
        return "format_card"
    return next((action for field, action in names if getattr(body, field)), "control")
