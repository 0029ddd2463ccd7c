"""The gateway as lower platform without media: real endpoint, dispatch and cascade, a registry filled by hand."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from gateway_core import DOMAIN, FAST, SERVER, Core

from config.settings import CascadeSettings, CatalogSettings, MediaSettings, SipSettings
from gateway.clock import Clock
from gateway.model import Channel, ChannelKind, Device, DeviceKind, Platform, Share, State
from gateway.networks import OwnAddress
from gateway.services.cascade import Cascade
from gateway.services.cascade_answers import UpperAnswers
from gateway.services.cascade_control import UpperCommands
from gateway.services.cascade_ids import Key
from gateway.services.cascade_invite import InviteRelay
from gateway.services.cascade_items import ItemWriter
from gateway.services.cascade_journal import UpperJournal
from gateway.services.control import Control
from gateway.services.errors import PlayCause, PlayFailed
from gateway.services.session_address import MediaAddress
from gateway.services.session_record import LiveSession
from gateway.storage.platforms import StoredPlatform
from simulator.upper_platform import UpperPlatform, UpperRules
from sip.endpoint import Identity
from sip.flow import Flow
from sip.ids import SsrcPool

UPPER = "41010000002000000001"
PASSWORD = "Xm-Demo-0001"
NVR = "41018300001180000001"
IPC = "41018300001320000009"
QUICK = CascadeSettings(
    register_retry_s=0.3, notify_batch_s=0.3, flap_damping_s=0.2, answer_within_s=1.0, ack_guard_s=2.0
)


def camera(number: int) -> str:
    return f"4101830000131{number:07d}"


class MemoryStore:
    """Platforms and shares in a dictionary, and what was written in what order."""

    def __init__(self) -> None:
        self.stored: dict[str, StoredPlatform] = {}
        self.writes: list[str] = []

    async def load(self) -> list[StoredPlatform]:
        return list(self.stored.values())

    async def put(self, platform: Platform, recoded: Any) -> None:
        self.writes.append("put")
        known = self.stored.setdefault(platform.platform_id, StoredPlatform(platform))
        known.platform, known.recoded = platform, dict(recoded)

    async def remove(self, platform_id: str) -> None:
        self.writes.append("remove")
        self.stored.pop(platform_id, None)

    async def set_shares(self, platform_id: str, wanted: list[Share]) -> None:
        self.writes.append("shares")
        self.stored[platform_id].shares = list(wanted)


class MemoryJournal(dict[tuple[str, str], dict[str, Any]]):
    """The journal of a gateway that forgets nothing."""

    def put(self, kind: str, key: str, state: dict[str, Any]) -> None:
        self[kind, key] = json.loads(json.dumps(state))

    def remove(self, kind: str, key: str) -> None:
        self.pop((kind, key), None)

    async def load(self, kind: str) -> dict[str, dict[str, Any]]:
        return {key: state for (its_kind, key), state in self.items() if its_kind == kind}


class NoPictures:
    """Sessions that refuse with ``failure`` after ``delay_s``; ``asked`` is what was wanted."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, int]] = []
        self.failure = PlayFailed(PlayCause.DEVICE_OFFLINE, "no media here")
        self.delay_s = 0.0
        self.cancelled = 0

    async def play(
        self, device_id: str, channel_id: str, *, stream_number: int = 0, transport: str | None = None
    ) -> LiveSession:
        self.asked.append((device_id, channel_id, stream_number))
        try:
            await asyncio.sleep(self.delay_s)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        raise self.failure

    def find(self, device_id: str, channel_id: str, stream_number: int = 0) -> LiveSession | None:
        return None


class CascadeHouse:
    """``core`` is the device side, ``cascade`` the upper side; ``audited`` what the audit log would hold."""

    def __init__(
        self,
        settings: CascadeSettings = QUICK,
        store: MemoryStore | None = None,
        journal: MemoryJournal | None = None,
        with_services: bool = False,
        catalog: CatalogSettings | None = None,
    ) -> None:
        self.core = Core(clock=Clock(), timers=FAST, with_services=with_services, catalog=catalog)
        self.registry, self.bus = self.core.registry, self.core.bus
        self.store = store or MemoryStore()
        self.journal = journal if journal is not None else MemoryJournal()
        self.sessions = NoPictures()
        self.audited: list[tuple[str, str, str, str, str]] = []
        self.healthy = True
        sip = SipSettings(server_id=SERVER, domain=DOMAIN, host="127.0.0.1", allow_loopback=True)
        own = OwnAddress(sip)
        own.route = self.core.endpoint.local_address
        self.relay = InviteRelay(
            settings=settings,
            sessions=self.sessions,
            address=MediaAddress(own=own, media=MediaSettings()),
            ssrc_pool=SsrcPool(DOMAIN),
            contacts=self.core.endpoint.core,
            bus=self.bus,
        )
        self.control = Control(registry=self.registry, sender=self.core.dispatch)
        self.commands = UpperCommands(
            facts=self.registry,
            mover=self.control,
            downward=self.core.dispatch,
            bus=self.bus,
            audit=self._audit,
        )
        answers = UpperAnswers(
            facts=self.registry,
            manufacturer="Maker",
            model="GW-1",
            firmware="1.2.3",
            name="county platform",
        )
        self.control.audit = self._audit
        self.cascade = Cascade(
            settings=settings,
            identity=Identity(SERVER, DOMAIN),
            name="county platform",
            registry=self.registry,
            bus=self.bus,
            endpoint=self.core.endpoint,
            dispatch=self.core.dispatch,
            relay=self.relay,
            commands=self.commands,
            answers=answers,
            items=ItemWriter(self.registry, manufacturer="Maker", model="GW-1"),
            store=self.store,
            healthy=lambda: self.healthy,
            journal=UpperJournal(journal=self.journal, endpoint=self.core.endpoint),
        )

    def _connection_closed(self, flow: Flow) -> None:
        self.core.liveness.connection_closed(flow)
        self.cascade.connection_closed(flow)

    def _audit(self, who: str, action: str, target: str, result: str, detail: str) -> None:
        self.audited.append((who, action, target, result, detail))

    async def start(self) -> None:
        await self.core.start()
        self.core.endpoint.on_connection_closed = self._connection_closed
        await self.cascade.start()

    async def close(self) -> None:
        await self.cascade.close()
        await self.control.close()
        await self.core.close()

    # -- devices ---------------------------------------------------------------------------------------------

    def recorder(self, *numbers: int, device_id: str = NVR, **values: Any) -> Device:
        """An online recorder with cameras ``camera(n)``; unreachable unless a flow is given."""
        device = Device(
            device_id,
            name=f"recorder {device_id[-4:]}",
            **{"kind": DeviceKind.RECORDER, "state": State.ONLINE, "edition": "3.0", **values},
        )
        self.registry.put_device(device)
        for number in numbers:
            self.channel(device_id, camera(number))
        return device

    def channel(self, device_id: str, channel_id: str, **values: Any) -> Channel:
        fields: dict[str, Any] = {
            "name": f"camera {channel_id[-4:]}",
            "kind": ChannelKind.CAMERA,
            "reported": "ON",
            "civil_code": "410183",
            "parent_ids": (device_id,),
        }
        return self.registry.put_channel(Channel(device_id, channel_id, **(fields | values)))

    # -- uppers ----------------------------------------------------------------------------------------------

    def upper(self, platform_id: str = UPPER, **values: Any) -> UpperPlatform:
        rules = values.pop("rules", None) or UpperRules()
        return UpperPlatform(
            platform_id,
            **{"lower_id": SERVER, "password": PASSWORD, "timers": FAST, "rules": rules, **values},
        )

    async def join(self, upper: UpperPlatform, **values: Any) -> Platform:
        """Enter a running upper and wait until it is online. Everything is shared unless said otherwise."""
        fields: dict[str, Any] = {
            "transport": upper.transport,
            "password": upper.rules.password or "",
            "share_all": True,
            "our_id": "" if upper.lower_id == SERVER else upper.lower_id,
        }
        platform = Platform(
            upper.platform_id, "municipal", upper.domain, upper.host, upper.port, **(fields | values)
        )
        await self.cascade.put_platform(platform)
        await upper.wait_registered()
        await upper.wait(lambda: self.cascade._uppers[upper.platform_id].link.online)
        return platform


@asynccontextmanager
async def house(*uppers: UpperPlatform, **values: Any) -> AsyncIterator[CascadeHouse]:
    """A running house; the uppers given are closed with it."""
    made = CascadeHouse(**values)
    await made.start()
    try:
        yield made
    finally:
        await made.close()
        for upper in uppers:
            await upper.stop()


def shares(platform_id: str, *keys: Key) -> list[Share]:
    return [Share(platform_id, *key, "") for key in keys]
