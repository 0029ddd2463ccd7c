"""Catalog subscriptions at scripted devices: dialog, refresh, end, refusal, early and unknown NOTIFYs."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from gateway_core import (
    CAMERA,
    DOMAIN,
    NVR,
    SERVER,
    Core,
    RawDevice,
    ScriptedDevice,
    core,
    message_text,
    until,
)

from config.settings import CatalogSettings
from gateway.events import ChannelStatus, SubscriptionChanged
from gateway.model import Channel, ChannelKind
from gateway.services.subscriptions import KIND, SubscriptionService
from sip.endpoint import Incoming, IncomingSubscribe, NotifierSubscription, Reply
from sip.manscdp import Body, CatalogItem, CatalogNotify, CatalogQuery, CatalogResponse, decode, encode


def settings(**values: Any) -> CatalogSettings:
    return CatalogSettings.model_construct(
        **{**CatalogSettings(query_on_register=False).model_dump(), **values}
    )


class Notifier(ScriptedDevice):
    """Accepts subscriptions, grants ``expires_s``, keeps what came."""

    def __init__(self, gateway: Core, *, expires_s: int = 3600, **options: Any) -> None:
        super().__init__(gateway.address, **options)
        self.subscriptions: list[NotifierSubscription] = []
        self.subscribes: list[Any] = []
        self.refreshes: list[Any] = []
        self.ends: list[str] = []

        def accept(incoming: IncomingSubscribe) -> None:
            self.subscribes.append(incoming.request)
            subscription = incoming.accept(expires_s)
            subscription.on_refresh = lambda again: self.refreshes.append(again.request)
            subscription.on_end = self.ends.append
            self.subscriptions.append(subscription)

        self.on_subscribe = accept

    async def notify(self, items: list[CatalogItem], **options: Any) -> int:
        body = encode(CatalogNotify(sn=7, device_id=NVR, sum_num=len(items), items=items))
        return (await self.subscriptions[-1].notify(body, **options)).status


@pytest.mark.gb("G105")
async def test_we_subscribe_with_event_id_expires_and_body() -> None:
    async with core(catalog=settings(), with_services=True) as gateway, Notifier(gateway) as device:
        await device.register()
        await until(lambda: gateway.subscriptions.active == 1)
        request = device.subscribes[0]
        assert request.headers.get("Event").startswith("Catalog;id=")
        assert request.headers.get("Expires") == "3600"
        assert request.headers.get("Content-Type") == "Application/MANSCDP+xml"
        assert request.contact is not None
        body = decode(request.body).body
        assert isinstance(body, CatalogQuery)
        assert body.device_id == NVR
        assert gateway.events(SubscriptionChanged) == [SubscriptionChanged(NVR, "Catalog", "active", "")]


@pytest.mark.gb("G106")
async def test_it_is_refreshed_in_the_same_dialog_before_it_ends() -> None:
    async with (
        core(catalog=settings(), with_services=True) as gateway,
        Notifier(gateway, expires_s=1) as device,
    ):
        await device.register()
        await until(lambda: len(device.refreshes) >= 2)
        first, second = device.subscribes[0], device.refreshes[0]
        assert second.call_id == first.call_id
        assert second.cseq.number == first.cseq.number + 1
        assert second.headers.get("Event") == first.headers.get("Event")
        assert second.to.tag
        assert second.from_.tag == first.from_.tag
        assert len(device.subscribes) == 1
        assert device.ends == []


@pytest.mark.gb("G107")
async def test_it_is_cancelled_in_the_dialog() -> None:
    async with core(catalog=settings(), with_services=True) as gateway, Notifier(gateway) as device:
        await device.register()
        await until(lambda: gateway.subscriptions.active == 1)
        subscription = gateway.subscriptions.subscription(NVR)
        assert subscription is not None
        await subscription.close()
        await until(lambda: device.ends)
        assert device.ends[0] in ("unsubscribed", "local")


@pytest.mark.gb("G108")
async def test_all_seven_events_change_the_tree() -> None:
    async with core(catalog=settings(), with_services=True) as gateway, Notifier(gateway) as device:
        await device.register()
        await until(lambda: gateway.subscriptions.active == 1)
        channel = gateway.registry.put_channel(
            Channel(NVR, CAMERA, name="Gate", kind=ChannelKind.CAMERA, reported="ON")
        )
        for event in ("OFF", "ON", "VLOST", "DEFECT"):
            assert await device.notify([CatalogItem(device_id=CAMERA, event=event)]) == 200
            await until(lambda event=event: channel.reported == event)
            assert gateway.registry.channel_evidence(channel).verdict == event
        new = "41018300001320000002"
        assert await device.notify([CatalogItem(device_id=new, event="ADD", name="Hall", status="ON")]) == 200
        await until(lambda: gateway.registry.channel(NVR, new))
        assert gateway.registry.channels(NVR)[new].name == "Hall"
        assert (
            await device.notify([CatalogItem(device_id=new, event="UPDATE", name="Big hall", status="OFF")])
            == 200
        )
        await until(lambda: gateway.registry.channels(NVR)[new].name == "Big hall")
        assert gateway.registry.channels(NVR)[new].reported == "OFF"
        assert await device.notify([CatalogItem(device_id=new, event="DEL")]) == 200
        await until(lambda: gateway.registry.channel(NVR, new) is None)
        statuses = [event.status for event in gateway.events(ChannelStatus) if event.channel_id == CAMERA]
        assert statuses == ["OFF", "ON", "VLOST", "DEFECT"]


async def test_an_unknown_event_is_answered_200_and_reported() -> None:
    from gateway.events import CatalogFault

    async with core(catalog=settings(), with_services=True) as gateway, Notifier(gateway) as device:
        await device.register()
        await until(lambda: gateway.subscriptions.active == 1)
        assert await device.notify([CatalogItem(device_id=CAMERA, event="MELTED")]) == 200
        await until(lambda: gateway.events(CatalogFault))


@pytest.mark.gb("G109")
async def test_terminated_is_answered_and_subscribed_anew() -> None:
    async with core(catalog=settings(), with_services=True) as gateway, Notifier(gateway) as device:
        await device.register()
        await until(lambda: gateway.subscriptions.active == 1)
        answer = await device.subscriptions[0].notify(b"", state="terminated", reason="deactivated")
        assert answer.status == 200
        await until(lambda: len(device.subscriptions) == 2)
        assert device.subscribes[1].call_id != device.subscribes[0].call_id
        assert [event.state for event in gateway.events(SubscriptionChanged)][:2] == ["active", "ended"]


@pytest.mark.gb("G109")
@pytest.mark.parametrize("reason", ["rejected", "noresource"])
async def test_some_reasons_forbid_to_subscribe_again(reason: str) -> None:
    async with core(catalog=settings(), with_services=True) as gateway, Notifier(gateway) as device:
        await device.register()
        await until(lambda: gateway.subscriptions.active == 1)
        await device.subscriptions[0].notify(b"", state="terminated", reason=reason)
        await until(lambda: gateway.device().catalog_polled)
        await asyncio.sleep(0.2)
        assert len(device.subscriptions) == 1


@pytest.mark.gb("G110")
async def test_a_notify_before_the_200_is_accepted() -> None:
    """The device sends NOTIFY first and answers the SUBSCRIBE afterwards."""
    async with core(catalog=settings(), with_services=True) as gateway, RawDevice(gateway.address) as device:
        await device.register()
        raw = await device.receive()
        while not raw.startswith(b"SUBSCRIBE"):
            raw = await device.receive()
        from sip.message import parse

        request = parse(raw)
        body = encode(
            CatalogNotify(
                sn=1, device_id=NVR, sum_num=1, items=[CatalogItem(device_id=CAMERA, event="ADD", name="x")]
            )
        )
        notify = (
            f"NOTIFY sip:{SERVER}@{DOMAIN} SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.1:{device.port};rport;branch=z9hG4bKearly\r\n"
            f"From: <sip:{NVR}@{DOMAIN}>;tag=dev\r\nTo: {request.headers.get('From')}\r\nCall-ID: {request.call_id}\r\n"
            f"CSeq: 1 NOTIFY\r\nEvent: {request.headers.get('Event')}\r\nSubscription-State: active;expires=600\r\n"
            f"Content-Type: Application/MANSCDP+xml\r\nContent-Length: {len(body)}\r\n\r\n"
        ).encode() + body
        assert (await device.exchange(notify)).status == 200
        await until(lambda: gateway.registry.channel(NVR, CAMERA))
        accepted = (
            "SIP/2.0 200 OK\r\n"
            + "".join(
                f"{name}: {request.headers.get(name)}\r\n" for name in ("Via", "From", "Call-ID", "CSeq")
            )
            + f"To: {request.headers.get('To')};tag=dev\r\nExpires: 600\r\n"
            f"Contact: <sip:{NVR}@127.0.0.1:{device.port}>\r\nContent-Length: 0\r\n\r\n"
        )
        device.socket.sendto(accepted.encode(), gateway.address)
        await until(lambda: gateway.subscriptions.active == 1)


@pytest.mark.gb("G111")
async def test_a_notify_with_root_response_is_read_as_notify() -> None:
    """2016 J.20: the body of a NOTIFY says <Response>."""
    body = (
        f"<Response><CmdType>Catalog</CmdType><SN>4</SN><DeviceID>{NVR}</DeviceID><Status>OK</Status><SumNum>1</SumNum>"
        f'<DeviceList Num=" 1 "><Item><DeviceID>{CAMERA}</DeviceID><Event>OFF</Event></Item></DeviceList></Response>'
    ).encode()
    async with core(catalog=settings(), with_services=True) as gateway, Notifier(gateway) as device:
        await device.register()
        await until(lambda: gateway.subscriptions.active == 1)
        channel = gateway.registry.put_channel(Channel(NVR, CAMERA, kind=ChannelKind.CAMERA, reported="ON"))
        assert (await device.subscriptions[0].notify(body)).status == 200
        await until(lambda: channel.reported == "OFF")


def stray_notify(device: RawDevice) -> bytes:
    body = encode(
        CatalogNotify(
            sn=1, device_id=NVR, sum_num=1, items=[CatalogItem(device_id=CAMERA, event="ADD", name="x")]
        )
    )
    data = message_text(
        body,
        NVR,
        port=device.port,
        method="NOTIFY",
        extra="Event: Catalog;id=5\r\nSubscription-State: active\r\n",
    )
    return data.replace(
        f"To: <sip:{SERVER}@{DOMAIN}>".encode(), f"To: <sip:{SERVER}@{DOMAIN}>;tag=old".encode()
    )


@pytest.mark.gb("G112")
async def test_a_notify_of_an_unknown_subscription_gets_481() -> None:
    async with core() as gateway, RawDevice(gateway.address) as device:
        await device.register()
        assert (await device.exchange(stray_notify(device))).status == 481
        assert gateway.registry.channel(NVR, CAMERA) is None


@pytest.mark.gb("G112", "G062")
async def test_tolerant_mode_takes_it_from_registered_peers_only() -> None:
    async with core(stray_notify=True) as gateway, RawDevice(gateway.address) as device:
        assert (await device.exchange(stray_notify(device))).status == 403
        await device.register()
        assert (await device.exchange(stray_notify(device))).status == 200
        await until(lambda: gateway.registry.channel(NVR, CAMERA))
        assert gateway.dispatch.counts["stray_notify"] == 1


@pytest.mark.gb("G113")
@pytest.mark.parametrize("status", [405, 489])
async def test_devices_that_refuse_are_polled(status: int) -> None:
    async with (
        core(catalog=settings(poll_interval_s=0.1), with_services=True) as gateway,
        ScriptedDevice(gateway.address) as device,
    ):
        device.on_subscribe = lambda incoming: Reply(status)

        def script(body: Body, incoming: Incoming) -> None:
            if isinstance(body, CatalogQuery):
                answer = CatalogResponse(
                    sn=body.sn, device_id=NVR, sum_num=1, items=[CatalogItem(device_id=CAMERA, name="x")]
                )
                device.endpoint.spawn(device.send(answer))

        device.script = script
        await device.register()
        await until(lambda: len(device.of(CatalogQuery)) >= 2)
        assert gateway.device().catalog_polled
        assert gateway.registry.channel(NVR, CAMERA) is not None
        assert [event.state for event in gateway.events(SubscriptionChanged)] == ["refused"]


async def test_an_offline_device_is_left_alone() -> None:
    async with core(catalog=settings(), with_services=True) as gateway, Notifier(gateway) as device:
        await device.register()
        await until(lambda: gateway.subscriptions.active == 1)
        seen = len(device.requests)
        await device.register(expires=0)
        await until(lambda: gateway.subscriptions.active == 0)
        await asyncio.sleep(0.1)
        assert len(device.requests) == seen  # no SUBSCRIBE with Expires 0 to a device that said good-bye
        await device.register()
        await until(lambda: gateway.subscriptions.active == 1)
        assert len(device.subscriptions) == 2


@pytest.mark.gb("G041")
async def test_a_renewal_does_not_touch_the_subscription() -> None:
    async with core(catalog=settings(), with_services=True) as gateway, Notifier(gateway) as device:
        await device.register()
        await until(lambda: gateway.subscriptions.active == 1)
        before = gateway.subscriptions.subscription(NVR)
        await device.register()
        await asyncio.sleep(0.1)
        assert gateway.subscriptions.subscription(NVR) is before
        assert len(device.subscriptions) == 1


@pytest.mark.gb("G059")
async def test_after_a_restart_the_old_dialog_is_ended_and_a_new_one_made() -> None:
    async with core(catalog=settings(), with_services=True) as gateway, Notifier(gateway) as device:
        await device.register()
        await until(lambda: gateway.subscriptions.active == 1)
        (key,) = gateway.journal.take_changes()
        assert key == (KIND, NVR)
        state = {"dialog": gateway.subscriptions.subscription(NVR).snapshot()}  # type: ignore[union-attr]
        await gateway.subscriptions.close()  # the process ends here, without a word
        gateway.journal._left_behind[KIND, NVR] = state
        again = SubscriptionService(
            settings=gateway.catalog_settings,
            domain=DOMAIN,
            registry=gateway.registry,
            bus=gateway.bus,
            dispatch=gateway.dispatch,
            endpoint=gateway.endpoint,
            catalog=gateway.catalog,
            journal=gateway.journal,
            spread_s=0,
        )
        await again.start()
        gateway.registrar.resume()
        await until(lambda: again.active == 1)
        await until(lambda: device.ends)  # unsubscribed in the old dialog
        assert len(device.subscriptions) == 2
        await again.close()
