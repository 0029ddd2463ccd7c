"""Subscriptions to alarms and positions at scripted devices: which, in what form, refresh, end, refusal, wishes."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest
from gateway_core import CAMERA, DOMAIN, NVR, Core, ScriptedDevice, core, until

from config.settings import AlarmSettings, CatalogSettings, PositionSettings
from gateway.errors import NotSupported
from gateway.events import CatalogCollected, SubscriptionChanged
from gateway.model import Channel, ChannelKind
from gateway.services.subscription_kinds import ALARM, MOBILE_POSITION, PTZ_POSITION
from gateway.services.subscriptions import SubscriptionService
from gateway.storage.positions import SubscriptionWish
from sip.endpoint import IncomingSubscribe, NotifierSubscription, Reply
from sip.manscdp import (
    AlarmQuery,
    Body,
    CatalogQuery,
    Edition,
    MobilePositionQuery,
    PTZPositionQuery,
    PTZPositionResponse,
    decode,
)


class Wishes:
    """Wishes in memory."""

    def __init__(self) -> None:
        self.kept: dict[tuple[str, str, str], SubscriptionWish] = {}

    async def wishes(self) -> list[SubscriptionWish]:
        return list(self.kept.values())

    async def put_wish(self, wish: SubscriptionWish) -> None:
        self.kept[wish.device_id, wish.kind, wish.target_id] = wish

    async def remove_wish(self, device_id: str, kind: str, target_id: str) -> None:
        self.kept.pop((device_id, kind, target_id), None)


class Device(ScriptedDevice):
    """Accepts subscriptions but those of ``refused`` CmdTypes; keeps them by CmdType, newest last."""

    def __init__(
        self, gateway: Core, *, expires_s: int = 3600, refused: tuple[str, ...] = (), **options: Any
    ) -> None:
        super().__init__(gateway.address, **options)
        self.queries: list[Body] = []
        self.events: list[str] = []
        self.open: dict[str, NotifierSubscription] = {}
        self.ends: Counter[str] = Counter()
        self.refreshes: Counter[str] = Counter()

        def accept(incoming: IncomingSubscribe) -> Reply | None:
            body = decode(incoming.request.body).body
            self.queries.append(body)
            if body.cmd_type in refused:
                return Reply(489)
            subscription = incoming.accept(expires_s)
            subscription.on_end = lambda cause: self.ends.update([body.cmd_type])
            subscription.on_refresh = lambda again: self.refreshes.update([body.cmd_type])
            self.events.append(subscription.event)
            self.open[body.cmd_type] = subscription
            return None

        self.on_subscribe = accept

    def asked(self, kind: type[Any]) -> list[Any]:
        return [query for query in self.queries if isinstance(query, kind)]


def service_of(gateway: Core, **values: Any) -> SubscriptionService:
    """The service as app.py builds it, in place of the catalog-only one."""
    positions = values.pop("positions", {"subscribe": "all"})
    made = SubscriptionService(
        settings=CatalogSettings(query_on_register=False),
        domain=DOMAIN,
        registry=gateway.registry,
        bus=gateway.bus,
        dispatch=gateway.dispatch,
        endpoint=gateway.endpoint,
        catalog=gateway.catalog,
        journal=gateway.journal,
        clock=gateway.clock,
        alarms=AlarmSettings(**values.pop("alarms", {})),
        positions=PositionSettings.model_construct(**{**PositionSettings().model_dump(), **positions}),
        wishes=values.pop("wishes", None) or Wishes(),
        spread_s=0.0,
        resubscribe_s=0.05,
    )
    gateway.subscriptions = made
    return made


def states(service: SubscriptionService) -> dict[str, str]:
    return {state.kind: state.state for state in service.states(NVR)}


@pytest.mark.gb("G142", "G151")
@pytest.mark.parametrize("edition", list(Edition))
async def test_alarms_and_positions_are_subscribed_when_a_device_comes(edition: Edition) -> None:
    async with core() as gateway, Device(gateway, edition=edition) as device:
        service = service_of(gateway)
        await service.start()
        await device.register()
        await until(lambda: service.active == 3)
        assert states(service) == {"Catalog": "active", "Alarm": "active", "MobilePosition": "active"}
        (alarm,), (position,) = device.asked(AlarmQuery), device.asked(MobilePositionQuery)
        assert (alarm.device_id, alarm.alarm_method, alarm.start_alarm_priority) == (NVR, ("0",), 0)
        assert (position.device_id, position.interval) == (NVR, 5)
        assert sorted(event.partition(";")[0] for event in device.events) == [
            "Catalog",
            "presence",
            "presence",
        ]
        assert not device.asked(PTZPositionQuery)


async def test_each_is_refreshed_and_made_again_after_its_end() -> None:
    async with core() as gateway, Device(gateway, expires_s=1) as device:
        service = service_of(gateway)
        await service.start()
        await device.register()
        await until(lambda: min(device.refreshes[kind] for kind in ("Alarm", "MobilePosition")) >= 2, 30)
    async with core() as gateway, Device(gateway) as device:
        service = service_of(gateway)
        await service.start()
        await device.register()
        await until(lambda: service.active == 3, 30)
        await device.open["Alarm"].notify(b"", state="terminated", reason="deactivated")

        def told() -> list[str]:
            return [event.state for event in gateway.events(SubscriptionChanged) if event.event == "Alarm"]

        await until(lambda: len(told()) == 3, 30)
        assert told() == ["active", "ended", "active"]
        assert (len(device.asked(AlarmQuery)), len(device.asked(MobilePositionQuery))) == (2, 1)


@pytest.mark.gb("G113")
async def test_a_refused_subscription_becomes_questions() -> None:
    async with (
        core() as gateway,
        Device(gateway, refused=("Alarm", "MobilePosition", "PTZPosition")) as device,
    ):
        service = service_of(gateway, positions={"subscribe": "all", "poll_interval_s": 0.05})
        service.alarm_poll_s = service.ptz_poll_s = 0.05
        looks: list[Body] = []

        async def looked(peer: Any, body: Body, incoming: Any) -> None:
            looks.append(body)

        gateway.dispatch.on(PTZPositionResponse)(looked)
        device.script = lambda body, incoming: (
            answer(body)
            if isinstance(body, PTZPositionQuery) and incoming.request.method == "MESSAGE"
            else None
        )
        tasks: list[asyncio.Task[Any]] = []

        def answer(body: Body) -> None:
            tasks.append(
                asyncio.create_task(device.send(PTZPositionResponse(sn=body.sn, device_id=CAMERA, pan=1.0)))
            )

        await service.start()
        await device.register()
        await service.set_wish(SubscriptionWish(NVR, PTZ_POSITION, CAMERA, True))
        await until(lambda: device.of(AlarmQuery) and device.of(MobilePositionQuery) and len(looks) >= 2, 20)
        await until(lambda: states(service)["PTZPosition"] == "polled")
        assert states(service) == {
            "Catalog": "active", "Alarm": "polled", "MobilePosition": "polled", "PTZPosition": "polled",
        }  # fmt: skip
        assert len(device.asked(AlarmQuery)) == 1, "refused once, not asked again by SUBSCRIBE"
        await service.close()
        await asyncio.gather(*tasks)


async def test_mobile_units_in_the_catalog_decide_by_default() -> None:
    async with core() as gateway, Device(gateway) as device:
        service = service_of(gateway, positions={"subscribe": "mobile"}, alarms={"subscribe": False})
        await service.start()
        await device.register()
        await until(lambda: service.active == 1)
        channel = Channel(NVR, CAMERA, kind=ChannelKind.CAMERA, item={"mobile_device_type": 4})
        gateway.registry.put_channel(channel)
        gateway.bus.publish(CatalogCollected(NVR, 1, True))
        await until(lambda: states(service).get(MOBILE_POSITION) == "active")
        assert not device.asked(AlarmQuery)


@pytest.mark.gb("G156")
async def test_wishes_of_operators_count_and_2016_devices_get_no_ptz_position() -> None:
    wishes = Wishes()
    async with core() as gateway, Device(gateway) as device:
        service = service_of(gateway, positions={"subscribe": "off"}, wishes=wishes)
        await service.start()
        await device.register()
        await until(lambda: service.active == 2)
        await service.set_wish(SubscriptionWish(NVR, MOBILE_POSITION, CAMERA, True, 7))
        await until(lambda: service.active == 3)
        assert [(q.device_id, q.interval) for q in device.asked(MobilePositionQuery)] == [(CAMERA, 7)]
        await service.set_wish(SubscriptionWish(NVR, MOBILE_POSITION, CAMERA, True, 9))
        await until(lambda: len(device.asked(MobilePositionQuery)) == 2)
        await until(lambda: device.ends["MobilePosition"] == 1)
        await service.set_wish(SubscriptionWish(NVR, ALARM, NVR, False))
        await until(lambda: device.ends["Alarm"] == 1)
        await until(lambda: service.active == 2)
        await service.set_wish(SubscriptionWish(NVR, PTZ_POSITION, CAMERA, True))
        await until(lambda: service.active == 3)
        assert len(wishes.kept) == 3
        await service.remove_wish(NVR, ALARM, NVR)
        await until(lambda: len(device.asked(AlarmQuery)) == 2)
    async with core() as gateway, Device(gateway, edition=Edition.V2016) as old:
        service = service_of(gateway, wishes=wishes)
        await service.start()
        await old.register()
        await until(lambda: service.active >= 3)
        assert old.asked(PTZPositionQuery) == []
        with pytest.raises(NotSupported):
            await service.set_wish(SubscriptionWish(NVR, PTZ_POSITION, NVR, True))


async def test_what_an_upper_needs_is_held_until_it_lets_go() -> None:
    async with core() as gateway, Device(gateway) as device:
        service = service_of(gateway, positions={"subscribe": "off"}, alarms={"subscribe": False})
        await service.start()
        await device.register()
        await until(lambda: service.active == 1)
        first, second = object(), object()
        service.hold(first, NVR, MOBILE_POSITION, CAMERA, 30)
        await until(lambda: service.active == 2)
        service.hold(second, NVR, MOBILE_POSITION, CAMERA, 2)
        await until(lambda: [q.interval for q in device.asked(MobilePositionQuery)] == [30, 2])
        await until(lambda: service.active == 2)
        assert [s.origin for s in service.states(NVR) if s.kind == MOBILE_POSITION] == ["upper"]
        service.release(second)
        await until(lambda: [q.interval for q in device.asked(MobilePositionQuery)] == [30, 2, 30])
        service.release(first)
        await until(lambda: service.active == 1 and device.ends["MobilePosition"] == 3)
        assert len(device.asked(CatalogQuery)) == 1


async def test_one_that_is_not_wanted_any_more_while_it_is_asked_for_leaves_no_dialog() -> None:
    async with core() as gateway, Device(gateway) as device:
        service = service_of(gateway, positions={"subscribe": "off"}, alarms={"subscribe": False})
        await service.start()
        await device.register()
        await until(lambda: service.active == 1)
        holder, accept = object(), device.on_subscribe
        assert accept is not None

        def accept_too_late(incoming: IncomingSubscribe) -> Reply | None:
            service.release(holder)
            return accept(incoming)  # type: ignore[no-any-return]

        device.on_subscribe = accept_too_late
        service.hold(holder, NVR, MOBILE_POSITION, CAMERA, 5)
        await until(lambda: device.ends["MobilePosition"] == 1, 30)
        assert (service.active, len(device.asked(MobilePositionQuery))) == (1, 1)
