"""Serves upper platforms that subscribe to alarms, positions and camera directions; has what they need subscribed below."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from gateway.services.alarms_upward import AlarmFeed
from gateway.services.cascade_tree import Entry, Tree
from gateway.services.cascade_upper import Dead, Feed, FeedMaker, Upper
from gateway.services.positions import PtzPosition
from gateway.services.positions_upward import DEFAULT_INTERVAL_S, PositionFeed, PtzPositionFeed
from gateway.services.subscription_kinds import ALARM, MOBILE_POSITION, PTZ_POSITION
from gateway.storage.positions import StoredPosition
from sip.endpoint import IncomingSubscribe, Reply
from sip.manscdp import AlarmQuery, Body, Edition, MobilePositionQuery, PTZPositionQuery
from sip.subscription import NotifierSubscription

LONGEST_INTERVAL_S = 3600
ALARM_CENTRE_DIGITS = 10
"""An alarm centre's code is that short; it stands for the whole system (A.2.4.6)."""


class Below(Protocol):
    """The part of gateway.services.subscriptions.SubscriptionService that is needed."""

    def hold(
        self, holder: object, device_id: str, kind: str, target_id: str, interval_s: int | None = None
    ) -> None: ...

    def release(self, holder: object) -> None: ...


class UpperNotices:
    """Opens feeds at an upper's SUBSCRIBE, brings them reports, releases what they held below when they end."""

    def __init__(
        self,
        below: Below,
        uppers: Callable[[], Iterable[Upper]],
        camera_of: Callable[[str, str], str],
    ) -> None:
        self._below, self._uppers, self._camera_of = below, uppers, camera_of

    def serves(self, query: Body) -> bool:
        return isinstance(query, AlarmQuery | MobilePositionQuery | PTZPositionQuery)

    def report(self, report: StoredPosition | PtzPosition) -> None:
        """For PositionService.listeners."""
        feeds = [feed for upper in self._uppers() for feed in upper.feeds_of(PositionFeed)]
        if feeds:
            camera_id = self._camera_of(report.device_id, report.channel_id)
            for feed in feeds:
                feed.offer(report, camera_id)

    def subscribe(
        self, upper: Upper, incoming: IncomingSubscribe, query: Body, tree: Tree, contact: str
    ) -> Reply | None:
        """None: accepted. A camera's direction is not known to the 2016 edition: 489."""
        if isinstance(query, PTZPositionQuery) and upper.link.edition is Edition.V2016:
            return Reply(489, (("Allow-Events", "Catalog, Alarm, MobilePosition, presence"),))
        target = query.device_id or tree.own_id
        if len(target) == ALARM_CENTRE_DIGITS:
            target = tree.own_id
        upper.on_feed_ended = self._ended
        kind, make, interval_s = _feed(query, target, upper)
        reply = upper.subscribe(incoming, target, tree, contact, make, kind)
        if reply is None:
            feeds = [feed for feed in upper.feeds_of(kind) if type(feed) is kind and feed.target == target]
            self._hold(feeds[-1:], tree.entries.get(target), interval_s)
        return reply

    def _hold(self, feeds: Sequence[Feed], entry: Entry | None, interval_s: int | None) -> None:
        """Where one channel or device is named, we subscribe below; a whole system is too much to ask for."""
        for feed in feeds if entry is not None else ():
            for device_id, channel_id in entry.ways if entry is not None else ():
                kind = _KINDS[type(feed)]
                # devices report the alarms of all their channels in one subscription
                self._below.hold(
                    feed, device_id, kind, device_id if kind == ALARM else channel_id, interval_s
                )

    def _ended(self, feed: Feed) -> None:
        self._below.release(feed)


def _feed(query: Body, target: str, upper: Upper) -> tuple[type[Feed], FeedMaker, int | None]:
    """The sort of feed, how to make it, and the interval that is needed below."""
    link = upper.link
    if isinstance(query, AlarmQuery):

        def alarms(notifier: NotifierSubscription, tree: Tree, dead: Dead) -> Feed:
            return AlarmFeed(notifier, target=target, query=query, tree=tree, link=link, on_dead=dead)

        return AlarmFeed, alarms, None
    looks = isinstance(query, PTZPositionQuery)
    kind = PtzPositionFeed if looks else PositionFeed
    asked_s = query.interval if isinstance(query, MobilePositionQuery) else None
    interval_s = DEFAULT_INTERVAL_S if asked_s is None else max(1, min(asked_s, LONGEST_INTERVAL_S))

    def positions(notifier: NotifierSubscription, tree: Tree, dead: Dead) -> Feed:
        every_s = 0.0 if looks else interval_s
        return kind(notifier, target=target, interval_s=every_s, tree=tree, link=link, on_dead=dead)

    return kind, positions, None if looks else interval_s


_KINDS: dict[type[Feed], str] = {
    AlarmFeed: ALARM,
    PositionFeed: MOBILE_POSITION,
    PtzPositionFeed: PTZ_POSITION,
}
