"""Configuration asked for or set by upper platforms: with the right only, under the device's own codes (F.5)."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Collection
from typing import Any, Protocol

from gateway.clock import Clock
from gateway.errors import GatewayError
from gateway.events import EventBus, SecurityEvent
from gateway.inbox import Inbox
from gateway.services.cascade_link import UpperLink
from gateway.services.cascade_tree import Entry, Tree
from gateway.services.cascade_words import upper_user
from gateway.services.device_config import Reading
from sip.endpoint import Incoming, Reply
from sip.errors import RemoteError
from sip.manscdp import (
    Body,
    ConfigDownloadQuery,
    ConfigDownloadResponse,
    DeviceConfig,
    DeviceConfigResponse,
    UploadSnapShotFinishedNotify,
)
from sip.manscdp.config_download import ATTRIBUTES

log = logging.getLogger(__name__)

RIGHT = "config"
MOST_SESSIONS = 1000
"""Snapshot sessions of uppers that are remembered, to pass the device's notice on."""
ONE_MESSAGE_BYTES = 1200
"""An answer that is longer goes up in one Response for each type: a datagram may have 1300 bytes (RFC 3261 18.1.1)."""

Audit = Callable[[str, str, str, str, str], None]
"""who, action, target, result, detail."""


class Configured(Protocol):
    """The part of gateway.services.device_config.DeviceConfiguration that is needed."""

    def types(self, device_id: str) -> tuple[str, ...]: ...

    async def read(self, device_id: str, target_id: str, types: list[str]) -> Reading: ...

    async def pass_on(self, device_id: str, body: DeviceConfig) -> None: ...


class Served(Protocol):
    """One upper (gateway.services.cascade_upper.Upper)."""

    @property
    def link(self) -> UpperLink: ...


class UpperConfiguration:
    """Serves ConfigDownload and DeviceConfig of uppers; those for one target keep their order."""

    def __init__(
        self,
        *,
        configuration: Configured,
        served: Callable[[], Collection[Served]],
        bus: EventBus,
        audit: Audit | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._configuration, self._served, self._bus = configuration, served, bus
        self.audit = audit
        """Set by gateway/assembly when the audit log is there."""
        self._lanes = Inbox(jobs_per_peer=20, clock=clock or Clock())
        self._sessions: OrderedDict[tuple[str, str], tuple[str, str]] = OrderedDict()

    async def close(self) -> None:
        await self._lanes.close()

    def check(self, link: UpperLink, body: Body, incoming: Incoming) -> Reply | None:
        """403 before anything else when the upper may not (G264)."""
        if RIGHT in link.platform.rights:
            return None
        who = upper_user(link, incoming.request.headers.get("Monitor-User-Identity") or "")
        self._note(who, f"upper.{RIGHT}", body.device_id, "forbidden", body.cmd_type)
        detail = f"no right to {RIGHT} on {body.device_id}"
        self._bus.publish(
            SecurityEvent("upper_forbidden", incoming.flow.host, detail, link.platform.platform_id)
        )
        return Reply(403)

    def serve(self, link: UpperLink, tree: Tree, body: Body, incoming: Incoming) -> Body | None:
        """The answer where there is one at once (Result ERROR); None when the device is asked first."""
        entry = tree.entries.get(body.device_id)
        if entry is None or not entry.ways:
            return _refusal(body)
        who = upper_user(link, incoming.request.headers.get("Monitor-User-Identity") or "")

        async def work() -> None:
            try:
                for answer in await self._answers(link, entry, body, who):
                    await link.message(answer)
            except RemoteError as error:
                platform_id = link.platform.platform_id
                log.warning("answer not delivered platform_id=%s error=%s", platform_id, error)

        if self._lanes.put((link.platform.platform_id, entry.exported_id), work):
            return None
        return _refusal(body)

    async def _answers(self, link: UpperLink, entry: Entry, body: Body, who: str) -> list[Body]:
        device_id, target_id = entry.ways[0]
        result = "ok"
        answers: list[Body] = []
        try:
            if isinstance(body, ConfigDownloadQuery):
                answers = await self._read(link, device_id, target_id, body)
            elif isinstance(body, DeviceConfig):
                await self._write(link, device_id, target_id, body)
                answers = [DeviceConfigResponse(sn=body.sn, device_id=body.device_id)]
        except GatewayError as error:
            result = str(getattr(error.cause, "value", error.cause))
            log.info("upper's %s failed target=%s error=%s", body.cmd_type, body.device_id, error)
            answers = [_refusal(body)]
        action = "device.configuration" if isinstance(body, DeviceConfig) else "device.configuration_read"
        self._note(who, action, f"{device_id}/{target_id}", result, _types_in(body))
        return answers

    async def _read(
        self, link: UpperLink, device_id: str, target_id: str, query: ConfigDownloadQuery
    ) -> list[Body]:
        """What the device's edition knows of what was asked; the upper's edition decides what of it can be told."""
        known = self._configuration.types(device_id)
        asked = [name for name in query.config_types if name in known]
        if not asked:
            return [_refusal(query)]
        reading = await self._configuration.read(device_id, target_id, asked)
        told: dict[str, Any] = {
            ATTRIBUTES[name]: reading.values[name] for name in asked if name in reading.values
        }
        whole = _response(query, told)
        if len(link.encode(whole)) <= ONE_MESSAGE_BYTES:
            return [whole]
        return [_response(query, {attribute: value}) for attribute, value in told.items()]

    async def _write(self, link: UpperLink, device_id: str, target_id: str, body: DeviceConfig) -> None:
        if body.snapshot is not None:
            self._sessions[device_id, body.snapshot.session_id] = (link.platform.platform_id, body.device_id)
            while len(self._sessions) > MOST_SESSIONS:
                self._sessions.popitem(last=False)
        await self._configuration.pass_on(
            device_id, body.model_copy(update={"device_id": target_id, "sn": 0})
        )

    async def snapshots_finished(self, device_id: str, body: UploadSnapShotFinishedNotify) -> bool:
        """Pass a device's notice on to the upper whose session it names; False when it is nobody's."""
        found = self._sessions.pop((device_id, body.session_id), None)
        if found is None:
            return False
        platform_id, exported_id = found
        link = next(
            (one.link for one in self._served() if one.link.platform.platform_id == platform_id), None
        )
        if link is not None:
            notice = body.model_copy(update={"sn": link.next_sn(), "device_id": exported_id})
            try:
                await link.message(notice)
            except RemoteError as error:
                log.warning("notice not delivered platform_id=%s error=%s", platform_id, error)
        return True

    def _note(self, who: str, action: str, target: str, result: str, detail: str) -> None:
        if self.audit is not None:
            self.audit(who, action, target, result, detail)


def _response(query: ConfigDownloadQuery, told: dict[str, Any]) -> ConfigDownloadResponse:
    return ConfigDownloadResponse(sn=query.sn, device_id=query.device_id, **told)


def _refusal(body: Body) -> Body:
    if isinstance(body, ConfigDownloadQuery):
        return ConfigDownloadResponse(sn=body.sn, device_id=body.device_id, result="ERROR")
    return DeviceConfigResponse(sn=body.sn, device_id=body.device_id, result="ERROR")


def _types_in(body: Body) -> str:
    if isinstance(body, ConfigDownloadQuery):
        return "/".join(body.config_types)[:500]
    return "/".join(name for name, attribute in ATTRIBUTES.items() if getattr(body, attribute, None))
