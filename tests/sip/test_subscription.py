"""Subscriptions on loopback: from both sides, refreshed, cancelled, ended, notified before and after the 200."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from sip_wire import CAMERA, DOMAIN, SERVER, TcpPeer, UdpPeer, answer, eventually, wire

from sip.endpoint import (
    Endpoint,
    Identity,
    Incoming,
    IncomingSubscribe,
    NotifierSubscription,
    Reply,
    Subscription,
    Timers,
)
from sip.errors import LocalError, Rejected, TransactionTimeout, TransportFailed
from sip.flow import Target
from sip.message import Request

QUERY = b'<?xml version="1.0"?>\r\n<Query><CmdType>Catalog</CmdType></Query>'
NOTIFY = b'<?xml version="1.0"?>\r\n<Notify><CmdType>Catalog</CmdType></Notify>'
XML_TYPE = "Application/MANSCDP+xml"
EVENT = "Catalog;id=1894"
FAST = Timers(t1=0.05, t2=0.2, t4=0.1)
Result = Reply | Awaitable[Reply | None] | None


@asynccontextmanager
async def endpoint(
    handler: Callable[[Incoming], Result] | None = None, **options: Any
) -> AsyncIterator[Endpoint]:
    made = Endpoint(
        Identity(SERVER, DOMAIN),
        host="127.0.0.1",
        port=0,
        handler=handler or (lambda i: Reply(200)),
        **options,
    )
    await made.start()
    try:
        yield made
    finally:
        await made.close(drain_s=0.1)


class Watcher:
    """What a subscription reports."""

    def __init__(self) -> None:
        self.notified: list[Request] = []
        self.ended: list[str] = []

    def on_notify(self, incoming: Incoming) -> Reply:
        self.notified.append(incoming.request)
        return Reply(200)

    def subscribe(
        self, subscriber: Endpoint, peer: Any, expires_s: int = 600, **options: Any
    ) -> asyncio.Task[Subscription]:
        target = Target(f"sip:{CAMERA}@{DOMAIN}", "127.0.0.1", peer.port, options.pop("transport", "udp"))
        return asyncio.create_task(
            subscriber.subscribe(
                target,
                to=f"sip:{CAMERA}@{DOMAIN}",
                event=EVENT,
                expires_s=expires_s,
                body=QUERY,
                content_type=XML_TYPE,
                on_notify=self.on_notify,
                on_end=self.ended.append,
                **options,
            )
        )


def notify(
    request: Request, peer: UdpPeer, *, number: int = 1, state: str = "active;expires=600", tag: str = "peer"
) -> bytes:
    return wire(
        "NOTIFY",
        via=peer.via(f"z9hG4bKn{number}"),
        from_=f"{request.headers.get('To').partition(';tag')[0]};tag={tag}",
        to=request.headers.get("From"),
        call_id=request.call_id,
        cseq=number,
        body=NOTIFY,
        extra=(("Event", EVENT), ("Subscription-State", state)),
    )


# -- we subscribe -----------------------------------------------------------------------------------------


@pytest.mark.gb("G105")
async def test_subscribe_as_it_is_on_the_wire() -> None:
    watcher = Watcher()
    async with endpoint() as subscriber, UdpPeer() as peer:
        task = watcher.subscribe(subscriber, peer, headers=[("X-Extra", "1")])
        request = await peer.request()
        assert request.method == "SUBSCRIBE"
        assert (request.headers.get("Event"), request.expires, request.body) == (EVENT, 600, QUERY)
        assert request.headers.get("Content-Type") == XML_TYPE
        assert request.contact is not None
        assert request.headers.get("X-Extra") == "1"
        peer.send(answer(request, 200, extra=(("Expires", "300"),)), subscriber.port)
        subscription = await task
        assert (subscription.event, subscription.expires_s, subscription.active) == (EVENT, 300, True)
        peer.send(notify(request, peer), subscriber.port)
        assert (await peer.response()).status == 200
        assert [n.body for n in watcher.notified] == [NOTIFY]


@pytest.mark.gb("G106")
async def test_the_refresh_stays_in_the_dialog() -> None:
    watcher = Watcher()
    async with endpoint() as subscriber, UdpPeer() as peer:
        task = watcher.subscribe(subscriber, peer, expires_s=600)
        first = await peer.request()
        peer.send(
            answer(first, 200, extra=(("Expires", "1"), ("Contact", "<sip:d@192.168.1.9>"))), subscriber.port
        )
        subscription = await task
        again = await peer.request()
        assert again.method == "SUBSCRIBE"
        assert again.call_id == first.call_id
        assert again.cseq.number == first.cseq.number + 1
        assert again.from_.tag == first.from_.tag
        assert again.to.tag == "peer"
        assert again.headers.get("Event") == EVENT
        assert again.body == QUERY
        assert (again.expires, again.uri) == (600, "sip:d@192.168.1.9")
        peer.send(answer(again, 200, extra=(("Expires", "500"),)), subscriber.port)
        await eventually(lambda: subscription.expires_s == 500)
        assert watcher.ended == []


@pytest.mark.gb("G107")
async def test_close_sends_expires_0_in_the_dialog_and_the_last_notify_is_answered() -> None:
    watcher = Watcher()
    async with endpoint() as subscriber, UdpPeer() as peer:
        task = watcher.subscribe(subscriber, peer)
        first = await peer.request()
        peer.send(answer(first), subscriber.port)
        subscription = await task
        closing = asyncio.create_task(subscription.close())
        last = await peer.request()
        assert (last.method, last.expires, last.to.tag) == ("SUBSCRIBE", 0, "peer")
        assert last.cseq.number == first.cseq.number + 1
        peer.send(answer(last), subscriber.port)
        await closing
        await subscription.close()
        peer.send(notify(first, peer, state="terminated;reason=timeout"), subscriber.port)
        assert (await peer.response()).status == 200
        assert watcher.ended == []
        assert not subscription.active
        await eventually(lambda: subscriber.counts["dialogs"] == 0)


@pytest.mark.gb("G110")
async def test_a_notify_in_front_of_the_200_is_accepted() -> None:
    watcher = Watcher()
    async with endpoint() as subscriber, UdpPeer() as peer:
        task = watcher.subscribe(subscriber, peer)
        request = await peer.request()
        peer.send(notify(request, peer, tag="early"), subscriber.port)
        assert (await peer.response()).status == 200
        assert len(watcher.notified) == 1
        peer.send(answer(request, 200, to_tag="early"), subscriber.port)
        subscription = await task
        assert subscription.dialog.remote_tag == "early"


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        ("terminated;reason=noresource", "noresource"),
        ("terminated", "terminated"),
        ("Terminated ; Reason=timeout;x", "timeout"),
    ],
)
async def test_terminated_ends_the_subscription(state: str, reason: str) -> None:
    watcher = Watcher()
    async with endpoint() as subscriber, UdpPeer() as peer:
        task = watcher.subscribe(subscriber, peer)
        request = await peer.request()
        peer.send(answer(request), subscriber.port)
        subscription = await task
        peer.send(notify(request, peer, state=state), subscriber.port)
        assert (await peer.response()).status == 200
        assert watcher.ended == [reason]
        assert not subscription.active
        peer.send(notify(request, peer, number=2), subscriber.port)
        assert (await peer.response()).status == 481


@pytest.mark.parametrize("status", [405, 489, 404])
async def test_a_refused_subscription(status: int) -> None:
    watcher = Watcher()
    async with endpoint() as subscriber, UdpPeer() as peer:
        task = watcher.subscribe(subscriber, peer)
        peer.send(answer(await peer.request(), status), subscriber.port)
        with pytest.raises(Rejected) as raised:
            await task
        assert raised.value.status == status
        assert subscriber.counts["dialogs"] == 0
        assert watcher.ended == []


@pytest.mark.parametrize(("status", "cause"), [(481, "gone"), (403, "refused")])
async def test_a_refused_refresh_ends_it(status: int, cause: str) -> None:
    watcher = Watcher()
    async with endpoint() as subscriber, UdpPeer() as peer:
        task = watcher.subscribe(subscriber, peer)
        peer.send(answer(await peer.request(), 200, extra=(("Expires", "1"),)), subscriber.port)
        await task
        peer.send(answer(await peer.request(), status), subscriber.port)
        await eventually(lambda: watcher.ended)
        assert watcher.ended == [cause]
        assert subscriber.counts["dialogs"] == 0


async def test_a_refresh_that_nobody_answers_ends_it() -> None:
    watcher = Watcher()
    async with endpoint(timers=Timers(t1=0.01, t2=0.05)) as subscriber, UdpPeer() as peer:
        task = watcher.subscribe(subscriber, peer)
        peer.send(answer(await peer.request(), 200, extra=(("Expires", "1"),)), subscriber.port)
        await task
        await eventually(lambda: watcher.ended)
        assert watcher.ended == ["expired"]


async def test_the_connection_of_a_subscription_breaks() -> None:
    watcher = Watcher()
    flows: list[Any] = []

    def handler(incoming: Incoming) -> Reply:
        flows.append(incoming.flow)
        return Reply(200)

    async with endpoint(handler) as server, await TcpPeer.connect(server.port) as device:
        await device.send(wire("REGISTER"))
        await device.response()
        target = Target.of_flow(f"sip:{CAMERA}@{DOMAIN}", flows[0])
        task = asyncio.create_task(
            server.subscribe(
                target,
                to="sip:x@y",
                event="presence",
                expires_s=60,
                body=QUERY,
                content_type=XML_TYPE,
                on_notify=watcher.on_notify,
                on_end=watcher.ended.append,
            )
        )
        await device.send(answer(await device.request()))
        await task
        device.writer.close()
        await eventually(lambda: watcher.ended)
        assert watcher.ended == ["transport"]


async def test_a_later_process_unsubscribes() -> None:
    watcher = Watcher()
    async with UdpPeer() as peer:
        async with endpoint() as first:
            task = watcher.subscribe(first, peer)
            request = await peer.request()
            peer.send(answer(request), first.port)
            snapshot = (await task).snapshot()
        async with endpoint() as second:
            ending = asyncio.create_task(second.end_orphan(snapshot))
            last = await peer.request()
            assert (last.method, last.expires, last.headers.get("Event")) == ("SUBSCRIBE", 0, EVENT)
            assert last.call_id == request.call_id
            peer.send(answer(last), second.port)
            await ending


# -- a peer subscribes ------------------------------------------------------------------------------------


class Notifier:
    """A handler that accepts every SUBSCRIBE for at most 100 s."""

    def __init__(self, limit_s: int = 100) -> None:
        self.limit_s = limit_s
        self.subscriptions: list[NotifierSubscription] = []
        self.ended: list[str] = []
        self.refreshed: list[Incoming] = []

    def __call__(self, incoming: Incoming) -> Reply | None:
        if not isinstance(incoming, IncomingSubscribe):
            return Reply(200)
        asked = incoming.request.expires
        subscription = incoming.accept(min(self.limit_s if asked is None else asked, self.limit_s))
        subscription.on_end = self.ended.append
        subscription.on_refresh = self.refreshed.append
        self.subscriptions.append(subscription)
        return None


def subscribe(
    peer: UdpPeer, *, number: int = 1, expires: str = "600", to: str = "", event: str = EVENT
) -> bytes:
    extra = [("Event", event), ("Contact", f"<sip:upper@192.168.7.7:{peer.port}>")]
    if expires:
        extra.append(("Expires", expires))
    return wire(
        "SUBSCRIBE",
        via=peer.via(f"z9hG4bKs{number}"),
        to=to or f"<sip:{SERVER}@{DOMAIN}>",
        cseq=number,
        body=QUERY,
        extra=tuple(extra),
    )


async def subscribed(server: Endpoint, peer: UdpPeer, **options: Any) -> str:
    """Subscribe as a scripted upper; the To value of the 200."""
    peer.send(subscribe(peer, **options), server.port)
    response = await peer.response()
    assert response.status == 200
    assert response.contact is not None
    return response.headers.get("To")


async def test_a_grant_is_never_above_what_was_asked() -> None:
    notifier = Notifier()
    async with endpoint(notifier) as server, UdpPeer() as upper:
        for number, (asked, granted) in enumerate((("600", 100), ("50", 50), ("", 100)), 1):
            upper.send(subscribe(upper, number=number, expires=asked), server.port)
            response = await upper.response()
            assert (response.status, response.expires) == (200, granted)
            assert response.to.tag


@pytest.mark.gb("G115")
@pytest.mark.parametrize("event", ["Catalog;id=1894", "presence", "Catalog ; ID=x"])
async def test_event_is_repeated_exactly(event: str) -> None:
    notifier = Notifier()
    async with endpoint(notifier) as server, UdpPeer() as upper:
        to = await subscribed(server, upper, event=event)
        (subscription,) = notifier.subscriptions
        assert subscription.event == event
        assert subscription.request.body == QUERY
        task = asyncio.create_task(subscription.notify(NOTIFY))
        request = await upper.request()
        upper.send(answer(request), server.port)
        assert (await task).status == 200
        assert request.headers.get("Event") == event
        assert request.headers.get("Subscription-State").startswith("active;expires=")
        assert request.uri == f"sip:upper@192.168.7.7:{upper.port}"
        assert request.headers.get("From") == to
        assert (request.to.tag, request.call_id) == ("camera", "call-1")
        assert request.contact is not None
        assert request.body == NOTIFY


async def test_notifies_leave_one_after_the_other() -> None:
    notifier = Notifier()
    async with endpoint(notifier) as server, UdpPeer() as upper:
        await subscribed(server, upper)
        tasks = [
            asyncio.create_task(notifier.subscriptions[0].notify(str(n).encode(), "text/xml"))
            for n in range(3)
        ]
        for number in range(3):
            request = await upper.request()
            assert (request.body, request.cseq.number) == (str(number).encode(), number + 1)
            assert await upper.silent(0.05)
            upper.send(answer(request), server.port)
        assert [(await task).status for task in tasks] == [200, 200, 200]


@pytest.mark.gb("G106")
async def test_a_refresh_from_above_extends() -> None:
    notifier = Notifier()
    async with endpoint(notifier) as server, UdpPeer() as upper:
        to = await subscribed(server, upper, expires="10")
        notifier.subscriptions[0].max_expires_s = 100
        before = notifier.subscriptions[0].expires_at_mono
        upper.send(subscribe(upper, number=2, expires="90", to=to), server.port)
        response = await upper.response()
        assert (response.status, response.expires, response.headers.get("To")) == (200, 90, to)
        assert notifier.subscriptions[0].expires_at_mono > before + 60
        assert len(notifier.subscriptions) == 1
        assert notifier.refreshed[0].request.cseq.number == 2


@pytest.mark.gb("G107")
async def test_a_cancel_from_above_gets_200_and_a_last_notify() -> None:
    notifier = Notifier()
    async with endpoint(notifier) as server, UdpPeer() as upper:
        to = await subscribed(server, upper)
        upper.send(subscribe(upper, number=2, expires="0", to=to), server.port)
        response = await upper.response()
        assert (response.status, response.expires) == (200, 0)
        last = await upper.request()
        assert last.headers.get("Subscription-State").startswith("terminated")
        upper.send(answer(last), server.port)
        await eventually(lambda: notifier.ended)
        assert notifier.ended == ["unsubscribed"]
        with pytest.raises(TransportFailed) as raised:
            await notifier.subscriptions[0].notify(NOTIFY)
        assert raised.value.label == "ended"
        assert server.counts["dialogs"] == 0


@pytest.mark.gb("G118")
async def test_an_expired_subscription_says_nothing_more() -> None:
    notifier = Notifier()
    async with endpoint(notifier) as server, UdpPeer() as upper:
        to = await subscribed(server, upper, expires="1")
        await eventually(lambda: notifier.ended)
        assert notifier.ended == ["expired"]
        with pytest.raises(TransportFailed):
            await notifier.subscriptions[0].notify(NOTIFY)
        assert await upper.silent(0.1)
        upper.send(subscribe(upper, number=2, to=to), server.port)
        assert (await upper.response()).status == 481


async def test_481_to_a_notify_ends_the_subscription() -> None:
    notifier = Notifier()
    async with endpoint(notifier) as server, UdpPeer() as upper:
        await subscribed(server, upper)
        task = asyncio.create_task(notifier.subscriptions[0].notify(NOTIFY))
        upper.send(answer(await upper.request(), 481), server.port)
        assert (await task).status == 481
        assert notifier.ended == ["gone"]
        assert server.counts["dialogs"] == 0


async def test_a_notify_without_answer_ends_the_subscription() -> None:
    notifier = Notifier()
    async with endpoint(notifier, timers=Timers(t1=0.01, t2=0.05)) as server, UdpPeer() as upper:
        await subscribed(server, upper)
        with pytest.raises(TransactionTimeout):
            await notifier.subscriptions[0].notify(NOTIFY)
        assert notifier.ended == ["timeout"]


async def test_we_may_end_it() -> None:
    notifier = Notifier()
    async with endpoint(notifier) as server, UdpPeer() as upper:
        await subscribed(server, upper)
        subscription = notifier.subscriptions[0]
        task = asyncio.create_task(subscription.notify(b"", state="terminated", reason="deactivated"))
        request = await upper.request()
        assert request.headers.get("Subscription-State") == "terminated;reason=deactivated"
        upper.send(answer(request), server.port)
        await task
        assert notifier.ended == ["local"]
        assert not subscription.active
        snapshot = subscription.snapshot()
        assert (snapshot["kind"], snapshot["event"]) == ("notifier", EVENT)


async def test_a_waiting_line_of_notifies_is_bounded() -> None:
    from sip import subscription as module

    notifier = Notifier()
    async with endpoint(notifier) as server, UdpPeer() as upper:
        await subscribed(server, upper)
        subscription = notifier.subscriptions[0]
        tasks = [asyncio.create_task(subscription.notify(NOTIFY)) for _ in range(module.MAX_QUEUED_NOTIFIES)]
        await upper.request()
        with pytest.raises(TransportFailed) as raised:
            await subscription.notify(NOTIFY)
        assert raised.value.label == "notify_queue"
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_an_asynchronous_handler_may_accept_too_but_only_once() -> None:
    errors: list[Exception] = []

    async def handler(incoming: Incoming) -> Reply | None:
        assert isinstance(incoming, IncomingSubscribe)
        await asyncio.sleep(0.01)
        incoming.accept(60)
        try:
            incoming.accept(60)
        except LocalError as error:
            errors.append(error)
        return None

    async with endpoint(handler) as server, UdpPeer() as upper:
        await subscribed(server, upper)
        assert len(errors) == 1


async def test_both_sides_of_ours_over_tcp() -> None:
    watcher, notifier = Watcher(), Notifier()
    async with endpoint() as lower, endpoint(notifier) as upper:
        subscription = await watcher.subscribe(lower, upper, transport="tcp")
        assert subscription.expires_s == 100
        await notifier.subscriptions[0].notify(NOTIFY)
        await notifier.subscriptions[0].notify(NOTIFY, state="terminated", reason="noresource")
        assert [n.body for n in watcher.notified] == [NOTIFY, NOTIFY]
        assert watcher.ended == ["noresource"]
        assert lower.counts["dialogs"] == upper.counts["dialogs"] == 0
        assert time.monotonic() < notifier.subscriptions[0].expires_at_mono


async def test_a_grant_of_nothing_is_an_end() -> None:
    watcher = Watcher()
    async with endpoint() as subscriber, UdpPeer() as peer:
        task = watcher.subscribe(subscriber, peer)
        peer.send(answer(await peer.request(), 200, extra=(("Expires", "0"),)), subscriber.port)
        subscription = await task
        assert not subscription.active
        assert watcher.ended == ["expired"]
        assert await peer.silent(0.7)


async def test_close_of_the_endpoint_stops_the_clocks_of_its_subscriptions() -> None:
    watcher, notifier = Watcher(), Notifier()
    async with endpoint(notifier) as upper:
        async with endpoint() as lower:
            await watcher.subscribe(lower, upper, expires_s=2)
        assert lower._delayed == set()
    assert upper._delayed == set()
    await asyncio.sleep(2.2)
    assert watcher.ended == notifier.ended == []
