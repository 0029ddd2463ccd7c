"""One upper platform as the gateway serves it: its link, code map, catalog, subscriptions and open answers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Protocol, TypeVar

from config.settings import CascadeSettings
from gateway.clock import Clock
from gateway.model import Platform, PlatformState, PlatformStatus, Share
from gateway.services.cascade_catalog import CatalogAnswers
from gateway.services.cascade_ids import IdMap, Key
from gateway.services.cascade_items import Facts, ItemWriter
from gateway.services.cascade_journal import UpperJournal
from gateway.services.cascade_link import UpperLink
from gateway.services.cascade_route import DomainRoutes
from gateway.services.cascade_subscriptions import MOST_SUBSCRIPTIONS, CatalogFeed, granted_s
from gateway.services.cascade_tree import Directory, Tree, View, build_tree_gently
from sip.endpoint import IncomingSubscribe, Reply
from sip.ids import valid_civil_code
from sip.manscdp import CatalogQuery
from sip.subscription import NotifierSubscription

log = logging.getLogger(__name__)


class Feed(Protocol):
    """One subscription of an upper: catalog, alarms or positions."""

    target: str

    def start(self) -> None: ...

    async def drop(self) -> None: ...

    def status_changed(self, keys: Iterable[Key]) -> None: ...

    def tree_changed(self, old: Tree, new: Tree, touched: frozenset[Key]) -> None: ...


F = TypeVar("F")
Dead = Callable[[Any], None]
FeedMaker = Callable[[NotifierSubscription, Tree, Dead], Feed]
"""Makes the feed of an accepted subscription: its notifier, the catalog, and whom to tell when it is dead."""

GOODBYE_WAIT_S = 1.0
REBUILD_PAUSE_S = 0.3
"""Changes that come together lead to one build of the catalog."""
REBUILD_SHARE = 0.1
"""At most this part of the time is spent on building one upper's catalog."""


class Registry(Directory, Facts, Protocol):
    """What an upper needs of the registry."""


class Upper:
    """Owner of everything that lives for one upper. ``save_codes`` keeps made-up codes over a restart."""

    def __init__(
        self,
        *,
        link: UpperLink,
        own_name: str,
        division_name: Callable[[str], str],
        registry: Registry,
        items: ItemWriter,
        settings: CascadeSettings,
        clock: Clock,
        shares: Iterable[Share],
        ids: IdMap,
        routes: DomainRoutes,
        save_codes: Callable[[Upper], Awaitable[None]],
        journal: UpperJournal | None = None,
    ) -> None:
        self.link = link
        self.ids = ids
        self.routes = routes
        self.answers = CatalogAnswers(link, items)
        self._own_name, self._division_name = own_name, division_name
        self._registry, self._items, self._settings, self._clock = registry, items, settings, clock
        self._save_codes = save_codes
        self._journal = journal
        self._shares: dict[Key, Share] = {(s.device_id, s.channel_id): s for s in shares}
        self._tree: Tree | None = None
        self._dirty = True
        self._touched: set[Key] = set()
        self._building = asyncio.Lock()
        self._took_s = 0.0
        self._feeds: dict[Feed, NotifierSubscription] = {}
        self.on_feed_ended: Callable[[Feed], None] | None = None
        """Told of each subscription that is over: what it needed below is no longer needed."""
        self._rebuilder: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def platform(self) -> Platform:
        return self.link.platform

    @property
    def known_tree(self) -> Tree | None:
        """The catalog as last built, None before the first time."""
        return self._tree

    def feeds_of(self, kind: type[F]) -> list[F]:
        """The open subscriptions of one sort."""
        return [feed for feed in self._feeds if isinstance(feed, kind)]

    @property
    def subscriptions(self) -> int:
        """Open ones: served from our own catalog, and routed to lower platforms."""
        return len(self._feeds) + len(self.routes)

    def status(self, streams: int) -> PlatformStatus:
        status = self.link.status()
        status.subscriptions, status.streams = self.subscriptions, streams
        if not self.platform.enabled:
            status.state = PlatformState.DISABLED
        return status

    # -- catalog ---------------------------------------------------------------------------------------------

    def shares(self) -> list[Share]:
        """The picked channels, each with the code the upper sees."""
        found = []
        for key, share in sorted(self._shares.items()):
            entry = self._tree.by_key.get(key) if self._tree is not None else None
            code = entry.exported_id if entry is not None else share.exported_id or self.ids.code_of(key)
            found.append(Share(share.platform_id, *key, code or share.channel_id))
        return found

    def shares_given(self) -> list[Share]:
        """The picked channels with the codes as they were given."""
        return list(self._shares.values())

    async def set_shares(self, shares: Iterable[Share], ids: IdMap) -> None:
        """Another selection: it counts from the return of this call on."""
        self._shares = {(s.device_id, s.channel_id): s for s in shares}
        self.ids = ids
        self._dirty = True
        await self.tree()

    async def tree(self) -> Tree:
        """The catalog as of now; rebuilt only when something changed."""
        async with self._building:
            old = self._tree
            if old is not None and not self._dirty:
                return old
            touched, self._touched, self._dirty = frozenset(self._touched), set(), False
            began = self._clock.mono()
            ids = self.ids
            new = await build_tree_gently(self._registry, self._view(), ids)
            self._took_s = self._clock.mono() - began
            self._tree = new
            if old is not None:
                for feed in self._feeds:
                    feed.tree_changed(old, new, touched)
                self.routes.tree_changed(old, new)
            if ids.changed:
                ids.changed = False
                self._spawn(self._save_codes(self))
            return new

    async def tree_with(self, codes: Iterable[str]) -> Tree:
        """For commands: the catalog at hand when it knows one of the codes, so that nobody waits for a build."""
        if self._tree is not None and any(code in self._tree.entries for code in codes):
            return self._tree
        return await self.tree()

    def _view(self) -> View:
        platform, own_id = self.platform, self.link.identity.user
        return View(
            platform=platform,
            own_id=own_id,
            own_name=self._own_name,
            own_civil_code=valid_civil_code("", own_id),
            shared=None if platform.share_all else frozenset(self._shares),
            division_name=self._division_name,
        )

    def query(self, query: CatalogQuery, tree: Tree) -> None:
        if not query.device_id:
            query = query.model_copy(update={"device_id": tree.own_id})
        self.answers.start(query, tree)

    # -- changes ---------------------------------------------------------------------------------------------

    def status_changed(self, keys: Iterable[Key]) -> None:
        """The status of these channels may be another one."""
        if self._feeds:
            keys = list(keys)
            for feed in self._feeds:
                feed.status_changed(keys)

    def structure_changed(self, touched: Iterable[Key] = ()) -> None:
        """Channels came, went or have other fields. Built anew soon when somebody is subscribed, else when asked."""
        self._dirty = True
        if self.subscriptions:
            self._touched.update(touched)
            if self._rebuilder is None or self._rebuilder.done():
                self._rebuilder = self._spawn(self._rebuild_soon())

    async def _rebuild_soon(self) -> None:
        while self._dirty and self.subscriptions:
            await asyncio.sleep(max(REBUILD_PAUSE_S, self._took_s / REBUILD_SHARE))
            await self.tree()

    # -- subscriptions ---------------------------------------------------------------------------------------

    def subscribe(
        self,
        incoming: IncomingSubscribe,
        target: str,
        tree: Tree,
        contact: str,
        make: FeedMaker | None = None,
        kind: type[Feed] = CatalogFeed,
    ) -> Reply | None:
        """Open a subscription for ``target``: 200, then what is not ON (9.11.3.2). None: accepted.

        ``make`` and ``kind``: another one than for the catalog.
        """
        target = target or tree.own_id
        if target != tree.own_id and target not in tree.entries:
            return Reply(404)
        granted = granted_s(incoming)
        if granted == 0:
            return Reply(200, (("Expires", "0"),))
        for feed, old in list(self._feeds.items()):
            if feed.target == target and old.event == incoming.event and type(feed) is kind:
                old.finish("replaced")  # the upper forgot its dialog and asks anew
        if len(self._feeds) >= MOST_SUBSCRIPTIONS:
            return Reply(503, (("Retry-After", "60"),))
        notifier = incoming.accept(granted, headers=[("Contact", contact)])
        feed = (
            make(notifier, tree, self._feed_dead)
            if make is not None
            else self._catalog_feed(notifier, target, tree)
        )
        self._feeds[feed] = notifier
        notifier.on_end = lambda cause: self._feed_ended(feed, cause)
        if self._journal is not None:
            self._journal.put(notifier)
        feed.start()
        log.info(
            "upper subscribed platform_id=%s call_id=%s kind=%s target=%s expires_s=%d",
            *(self.platform.platform_id, notifier.call_id, kind.__name__, target, granted),
        )
        return None

    def _catalog_feed(self, notifier: NotifierSubscription, target: str, tree: Tree) -> CatalogFeed:
        return CatalogFeed(
            notifier,
            target=target,
            tree=tree,
            link=self.link,
            items=self._items,
            settings=self._settings,
            clock=self._clock,
            on_dead=self._feed_dead,
        )

    def _feed_dead(self, feed: Feed) -> None:
        notifier = self._feeds.get(feed)
        if notifier is not None:
            notifier.finish("unanswered")

    def _feed_ended(self, feed: Feed, cause: str) -> None:
        notifier = self._feeds.pop(feed, None)
        if notifier is not None:
            if self.on_feed_ended is not None:
                self.on_feed_ended(feed)
            if self._journal is not None:
                self._journal.remove(notifier)
            log.info("upper subscription over platform_id=%s cause=%s", self.platform.platform_id, cause)
            self._spawn(feed.drop())

    # -- the end ---------------------------------------------------------------------------------------------

    def down(self) -> None:
        """The upper is offline: nothing more is sent in its old dialogs (G122)."""
        for notifier in list(self._feeds.values()):
            notifier.finish("upper_offline")
        self.routes.down()
        self._spawn(self.answers.drop())

    async def say_goodbye(self) -> None:
        """We leave of our own will: the last NOTIFY tells the upper to subscribe anew when we are back (RFC 6665 4.1.3)."""
        last = [
            asyncio.create_task(notifier.notify(b"", state="terminated", reason="deactivated"))
            for notifier in [*self._feeds.values(), *self.routes.notifiers]
            if self.link.online
        ]
        if last:
            _, silent = await asyncio.wait(last, timeout=GOODBYE_WAIT_S)
            for task in silent:
                task.cancel()
            await asyncio.gather(*last, return_exceptions=True)

    async def close(self) -> None:
        self.down()
        if self._rebuilder is not None:
            self._rebuilder.cancel()
        await self.routes.close()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _spawn(self, work: Awaitable[None]) -> asyncio.Task[None]:
        async def run() -> None:
            await work

        task = asyncio.create_task(run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
