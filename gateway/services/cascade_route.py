"""SUBSCRIBEs of an upper that name a system below us: routed to its owner, whose NOTIFYs are routed back (2022 N.2.2)."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from dataclasses import replace
from typing import Any, Protocol

from pydantic import ValidationError

from gateway.dispatch import DECODE_IN_THREAD_ABOVE, Dispatch
from gateway.model import ChannelKind, Device, DeviceKind
from gateway.outbox import device_target
from gateway.services.cascade_ids import Key
from gateway.services.cascade_items import Facts, without_secrets
from gateway.services.cascade_journal import UpperJournal
from gateway.services.cascade_link import UpperLink
from gateway.services.cascade_subscriptions import granted_s, notify_bodies
from gateway.services.cascade_tree import Tree, civil_code
from gateway.services.channels import merged
from sip.endpoint import Identity, Incoming, IncomingSubscribe, Reply
from sip.errors import ParseError, Rejected, RemoteError, TransactionTimeout
from sip.flow import Target
from sip.ids import TypeKind, is_division, kind_of
from sip.incoming import RequestCallback
from sip.manscdp import CONTENT_TYPE, CatalogItem, CatalogNotify, CatalogQuery, decode
from sip.message import Request, Response
from sip.subscription import NotifierSubscription, Subscription
from sip.uri import SipUri

log = logging.getLogger(__name__)

MOST_ROUTES = 16
"""Routed subscriptions of one upper, those that are being opened included."""
MOST_WAITING = 100
"""NOTIFYs of one owner that wait for the upper; more are refused with 503."""
MOST_GONE = 10_000
ANSWER_WAIT_S = 10.0
"""So long the owner may think about a SUBSCRIBE; the upper itself gives up after 32 s."""
UNSUBSCRIBE_WAIT_S = 2.0
MOST_HOPS = 70
LEARN_WAIT_S = 5.0
"""A channel that was just added gets its code with the next build of the catalog; so long it is waited for."""
_PASSED_HEADERS = ("Retry-After", "Min-Expires", "Allow-Events")
_OF_THE_HOP = frozenset({401, 407, 481})
"""Refusals that concern our dialog with the owner and would mislead the upper."""
_REASONS = {
    **{
        reason: reason
        for reason in (
            "deactivated",
            "probation",
            "rejected",
            "timeout",
            "giveup",
            "noresource",
            "invariant",
        )
    },
    "gone": "deactivated",
    "terminated": "deactivated",
    "refused": "rejected",
}
"""Why the owner's side ended, as a reason for the upper (RFC 6665 4.1.3). Everything else: try later, probation."""


class Subscriber(Protocol):
    """The part of the SIP endpoint that subscribes."""

    async def subscribe(
        self,
        target: Target,
        *,
        to: str,
        event: str,
        expires_s: int,
        body: bytes,
        content_type: str,
        on_notify: RequestCallback,
        on_end: Callable[[str], None],
        headers: Sequence[tuple[str, str]] = (),
        timeout_s: float | None = None,
    ) -> Subscription: ...


class _Route:
    """One routed subscription: a dialog with the upper, one with the owner, and what waits to go up.

    ``scope`` is the target as the upper named it, ``key`` the system that was named, as its owner knows it.
    """

    def __init__(
        self, *, owner: Device, key: Key, scope: str, event: str, tree: Tree, facts: Facts, link: UpperLink
    ) -> None:
        self.owner, self.key, self.scope, self.event = owner, key, scope, event
        self.down: Subscription | None = None
        self.up: NotifierSubscription | None = None
        self.over = ""
        """Why there will be no more from the owner; "" while there may be."""
        self.task: asyncio.Task[None] | None = None
        self._tree, self._facts, self._link = tree, facts, link
        self._gone: dict[str, str] = {}
        self._waiting: deque[bytes] = deque()
        self._wake, self._built = asyncio.Event(), asyncio.Event()

    # -- from below ------------------------------------------------------------------------------------------

    def take(self, request: Request) -> bool:
        """Keep the body of a NOTIFY until the upper had those before it. False: too many wait."""
        last = request.headers.get("Subscription-State").strip().lower().startswith("terminated")
        if last and not request.body.strip():
            return True
        if len(self._waiting) >= MOST_WAITING:
            return False
        self._waiting.append(request.body)
        self._wake.set()
        return True

    def ended(self, reason: str) -> None:
        """The owner's side is over; the upper is told behind what still waits."""
        self.over = self.over or _REASONS.get(reason.lower(), "probation")
        self._wake.set()

    def lost(self) -> None:
        """The owner is offline: nothing can be said to it any more."""
        if self.down is not None:
            self.down.flow_lost()
        else:
            self.ended("transport")

    def tree_changed(self, old: Tree, new: Tree) -> None:
        """Codes as of now; those that went are kept until the owner's DEL was passed on."""
        self._tree = new
        if self.key not in new.by_key:
            self.ended("noresource")  # removed, or nothing of it is shared any more
        for key, entry in old.by_key.items():
            if key[0] == self.owner.device_id and key not in new.by_key:
                self._gone[key[1]] = entry.exported_id
        while len(self._gone) > MOST_GONE:
            del self._gone[next(iter(self._gone))]
        self._built.set()

    # -- upward ----------------------------------------------------------------------------------------------

    async def run(self, up: NotifierSubscription) -> None:
        """Pass on until one side ends."""
        try:
            while True:
                while self._waiting:
                    await self._pass_on(up, self._waiting.popleft())
                if self.over:
                    await up.notify(b"", state="terminated", reason=self.over)
                    return
                self._wake.clear()
                await self._wake.wait()
        except RemoteError as error:
            platform_id = self._link.platform.platform_id
            log.info("routed subscription ended platform_id=%s cause=%s", platform_id, error)
            up.finish("unanswered")

    async def _pass_on(self, up: NotifierSubscription, data: bytes) -> None:
        items = await self._items(data)
        if items is None:
            return
        await self._learn(items)
        known = [mapped for item in items if (mapped := self._mapped(item)) is not None]
        if items and not known:
            return  # nothing of it is shared with this upper
        for body in notify_bodies(self._link, self.scope, known, at_least_one=True):
            response = await up.notify(body, CONTENT_TYPE)
            if response.status // 100 != 2:
                raise RemoteError(f"NOTIFY answered {response.status}", status=response.status)

    async def _items(self, data: bytes) -> list[CatalogItem] | None:
        """What an owner's NOTIFY tells; None when it is nothing that could be passed on."""
        if not data.strip():
            return []
        try:
            if len(data) > DECODE_IN_THREAD_ABOVE:
                decoded = await asyncio.to_thread(decode, data, root_hint="Notify")
            else:
                decoded = decode(data, root_hint="Notify")
        except ParseError as error:
            log.warning("routed NOTIFY unreadable device=%s error=%s", self.owner.device_id, error)
            return None
        return decoded.body.items if isinstance(decoded.body, CatalogNotify) else None

    async def _learn(self, items: Iterable[CatalogItem]) -> None:
        """Wait until channels that were just added have their codes."""
        added = [item.device_id for item in items if item.event in ("ADD", "UPDATE", "")]
        if not self._link.platform.share_all:
            added = [code for code in added if code in self._gone]
        try:
            async with asyncio.timeout(LEARN_WAIT_S):
                while not all(self._code(code) for code in added):
                    self._built.clear()
                    await self._built.wait()
        except TimeoutError:
            log.info("routed NOTIFY names unknown channels device=%s", self.owner.device_id)

    def _code(self, code: str) -> str:
        """The upper's code of one of the owner's; "" when the upper does not know it."""
        entry = self._tree.by_key.get((self.owner.device_id, code))
        if entry is not None:
            return entry.exported_id
        return code if is_division(code) and code in self._tree.entries else ""

    def _mapped(self, item: CatalogItem) -> CatalogItem | None:
        """An entry under the upper's codes; addresses and passwords stay here (4.1.4)."""
        code = self._code(item.device_id)
        if item.event == "DEL":
            code = code or self._gone.pop(item.device_id, "")
        if not code:
            return None
        if item.event not in ("ADD", "UPDATE", ""):
            return CatalogItem(device_id=code, event=item.event)
        entry = self._tree.entries[code]
        full = without_secrets(self._completed(item))
        parents = tuple(dict.fromkeys(above for parent in full.parent_ids if (above := self._code(parent))))
        update: dict[str, object] = {
            "device_id": code,
            "event": item.event,
            "parent_ids": parents or entry.parents,
            "business_group_id": self._code(full.business_group_id),
        }
        if entry.kind is not ChannelKind.DIVISION:
            update["civil_code"] = civil_code(full.civil_code, item.device_id, self.owner.device_id)
        return full.model_copy(update=update)

    def _completed(self, item: CatalogItem) -> CatalogItem:
        """An UPDATE with some fields only: the others as they were."""
        channel = self._facts.channel(self.owner.device_id, item.device_id)
        if channel is None or item.event == "ADD":
            return item
        try:
            return merged(channel, item)
        except ValidationError:
            return item

    async def drop(self) -> None:
        """Stop passing on and close the owner's side (Expires 0); it may already be over."""
        if self.task is not None:
            self.task.cancel()
            await asyncio.gather(self.task, return_exceptions=True)
        down, closed = self.down, False
        if down is None:
            return
        try:
            async with asyncio.timeout(UNSUBSCRIBE_WAIT_S):
                await down.close()
            closed = True
        except TimeoutError:
            log.info("owner does not answer the unsubscribe device=%s", self.owner.device_id)
        finally:
            if not closed:
                down.flow_lost()


class DomainRoutes:
    """The routed subscriptions of one upper. ``own`` is who we are towards the systems below."""

    def __init__(
        self,
        *,
        link: UpperLink,
        own: Identity,
        facts: Facts,
        endpoint: Subscriber,
        dispatch: Dispatch,
        journal: UpperJournal | None = None,
    ) -> None:
        self._link, self._own, self._facts = link, own, facts
        self._endpoint, self._dispatch, self._journal = endpoint, dispatch, journal
        self._routes: set[_Route] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._event_id = random.randrange(1, 100_000)

    def __len__(self) -> int:
        return len(self._routes)

    @property
    def notifiers(self) -> list[NotifierSubscription]:
        """The upper's side of each."""
        return [route.up for route in self._routes if route.up is not None]

    # -- from above ------------------------------------------------------------------------------------------

    def named(self, request: Request, tree: Tree) -> str:
        """The other system that the Request-URI names, or To where that names us; "" for our own domain."""
        ours = {"", tree.own_id, self._own.user, self._link.identity.user, self._link.platform.platform_id}
        for user in (_user(request), request.to.uri.user):
            if user in ours:
                continue
            entry = tree.entries.get(user)
            kind = entry.kind if entry is not None else kind_of(user)
            if kind == TypeKind.SYSTEM:
                return user
        return ""

    async def open(
        self, incoming: IncomingSubscribe, code: str, query: CatalogQuery | None, tree: Tree, contact: str
    ) -> Reply | None:
        """Route a SUBSCRIBE for the system ``code``; 404 when nothing of it is shared. None: accepted."""
        key = self._way(code, tree)
        if key is None:
            return Reply(404)
        owner = self._facts.devices[key[0]]
        if not owner.online or owner.flow is None:
            return Reply(480)
        query = query or CatalogQuery()
        scope = query.device_id or code
        target = _below(owner, key, scope, code, tree)
        if not target:
            return Reply(404)
        asked = granted_s(incoming)
        if asked == 0:
            return Reply(200, (("Expires", "0"),))
        self._replace(key, scope, incoming.event)
        if len(self._routes) >= MOST_ROUTES:
            return Reply(503, (("Retry-After", "60"),))
        forwards = _forwards(incoming.request)
        if forwards < 1:
            return Reply(483)  # platforms in a circle: each believes the next to be the owner
        route = _Route(
            owner=owner,
            key=key,
            scope=scope,
            event=incoming.event,
            tree=tree,
            facts=self._facts,
            link=self._link,
        )
        self._routes.add(route)
        try:
            query = query.model_copy(update={"device_id": target})
            refusal = await self._connect(route, query, asked, forwards)
            return self._accept(route, incoming, asked, contact) if refusal is None else refusal
        finally:
            if route.up is None:
                self._routes.discard(route)
                if route.down is not None:
                    self._spawn(route.drop())

    def _way(self, code: str, tree: Tree) -> Key | None:
        """The lower platform that answers for ``code``, and its code there; one that is online first."""
        entry = tree.entries.get(code)
        if entry is None:
            return None
        devices = self._facts.devices
        ways = [
            way for way in entry.ways if way[0] in devices and devices[way[0]].kind is DeviceKind.PLATFORM
        ]
        return min(ways, key=lambda way: not devices[way[0]].online, default=None)

    def _replace(self, key: Key, scope: str, event: str) -> None:
        """The upper forgot its dialog and asks anew."""
        for route in list(self._routes):
            if (route.key, route.scope, route.event) == (key, scope, event) and route.up is not None:
                route.up.finish("replaced")

    async def _connect(self, route: _Route, query: CatalogQuery, asked_s: int, forwards: int) -> Reply | None:
        """Subscribe at the owner with a dialog of our own. A Reply: what the upper is told instead."""
        self._event_id += 1
        owner, code = route.owner, route.key[1]
        query = query.model_copy(update={"sn": self._dispatch.next_sn(owner.device_id)})
        try:
            target = device_target(owner)
            route.down = await self._endpoint.subscribe(
                replace(target, uri=target.uri.replace(owner.device_id, code, 1)),
                to=f"sip:{code}@{self._own.domain}",
                event=f"Catalog;id={self._event_id}",
                expires_s=asked_s,
                body=self._dispatch.outbox.encode_for(owner, query),
                content_type=CONTENT_TYPE,
                on_notify=lambda incoming: self._notified(route, incoming),
                on_end=route.ended,
                headers=[("Max-Forwards", str(forwards))],
                timeout_s=ANSWER_WAIT_S,
            )
        except Rejected as error:
            return _passed_up(error.response)
        except TransactionTimeout:
            return Reply(408)
        except RemoteError as error:
            log.info("owner cannot be reached device=%s error=%s", owner.device_id, error)
            return Reply(480)
        return None

    def _accept(self, route: _Route, incoming: IncomingSubscribe, asked_s: int, contact: str) -> Reply | None:
        down = route.down
        if down is None or route.over or down.expires_s <= 0 or not self._link.online:
            return Reply(480)  # one of the two went while the owner was asked
        granted = min(asked_s, down.expires_s)
        up = route.up = incoming.accept(granted, headers=[("Contact", contact)])
        up.on_end = lambda cause: self._closed(route, cause)
        up.on_refresh = lambda refresh: _shorten(up, down)
        if self._journal is not None:
            self._journal.put(up)
            self._journal.put(down)
        route.task = asyncio.create_task(route.run(up))
        log.info(
            "upper subscription routed platform_id=%s call_id=%s target=%s device=%s down_call_id=%s expires_s=%d",
            self._link.platform.platform_id,
            up.call_id,
            route.scope,
            route.owner.device_id,
            down.call_id,
            granted,
        )
        return None

    # -- from below, and the ends ----------------------------------------------------------------------------

    def _notified(self, route: _Route, incoming: Incoming) -> Reply | Awaitable[Reply]:
        """The registry learns of it as well: many platforms notify each subscriber in one dialog only."""
        if not route.take(incoming.request):
            log.warning("too many routed NOTIFY wait device=%s", route.owner.device_id)
            return Reply(503, (("Retry-After", "5"),))
        return self._dispatch.notify(route.owner, incoming)

    def device_offline(self, device_id: str) -> None:
        """The owner is offline: its routes are terminated upward."""
        for route in list(self._routes):
            if route.owner.device_id == device_id:
                route.lost()

    def tree_changed(self, old: Tree, new: Tree) -> None:
        """A new build of the catalog."""
        for route in self._routes:
            route.tree_changed(old, new)

    def down(self) -> None:
        """The upper is offline: nothing more is sent in its dialogs, and the owners need not notify any more."""
        for up in self.notifiers:
            up.finish("upper_offline")

    async def close(self) -> None:
        """End all; waits until the owners were told."""
        self.down()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _closed(self, route: _Route, cause: str) -> None:
        self._routes.discard(route)
        if self._journal is not None:
            for dialog in (route.up, route.down):
                if dialog is not None:
                    self._journal.remove(dialog)
        log.info(
            "routed subscription over platform_id=%s device=%s cause=%s",
            *(self._link.platform.platform_id, route.owner.device_id, cause),
        )
        self._spawn(route.drop())

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _user(request: Request) -> str:
    try:
        return SipUri.parse(request.uri).user
    except ParseError:
        return ""


def _forwards(request: Request) -> int:
    """Hops that are left behind us (RFC 3261 8.1.1.6)."""
    text = request.headers.get("Max-Forwards").strip()
    return (
        min(int(text), MOST_HOPS) - 1
        if text.isascii() and text.isdigit() and len(text) < 6
        else MOST_HOPS - 1
    )


def _below(owner: Device, key: Key, scope: str, code: str, tree: Tree) -> str:
    """What the upper wants to hear of, as the owner names it; "" when that is not the owner's."""
    if scope == code:
        return key[1]
    entry = tree.entries.get(scope)
    if entry is None:
        return ""
    real = next((way[1] for way in entry.ways if way[0] == owner.device_id), "")
    return real or (scope if is_division(scope) else "")


def _passed_up(response: Response) -> Reply:
    """The owner's refusal as the upper gets it."""
    status = response.status
    if status < 400 or status in _OF_THE_HOP:
        return Reply(480)
    headers = [(name, value) for name in _PASSED_HEADERS if (value := response.headers.get(name))]
    return Reply(status, headers)


def _shorten(up: NotifierSubscription, down: Subscription) -> None:
    """An owner that grants less than at first: from the next refresh on the upper gets no more either."""
    up.max_expires_s = min(up.max_expires_s, down.expires_s)
