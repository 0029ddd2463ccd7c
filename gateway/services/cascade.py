"""The gateway as lower platform: all uppers, what is shared with each, and who serves what an upper sends (9.5, 4.1.4)."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping
from random import Random
from typing import Any, Protocol

from config.settings import CascadeSettings
from gateway.clock import Clock
from gateway.dispatch import Dispatch
from gateway.errors import GatewayError, NotFound
from gateway.events import (
    ChannelAdded,
    ChannelChanged,
    ChannelRemoved,
    ChannelStatus,
    DeviceAdded,
    DeviceChanged,
    DeviceOffline,
    DeviceOnline,
    DeviceRemoved,
    EventBus,
)
from gateway.model import Platform, PlatformStatus, Share
from gateway.peers import Peer
from gateway.registry import Registry
from gateway.services.cascade_answers import UpperAnswers
from gateway.services.cascade_control import UpperCommands
from gateway.services.cascade_ids import IdMap, Key
from gateway.services.cascade_invite import ContactWriter, InviteRelay, subject_parts
from gateway.services.cascade_items import ItemWriter
from gateway.services.cascade_journal import UpperJournal
from gateway.services.cascade_link import Requester, UpperLink
from gateway.services.cascade_queries import RELAYED, UpperQueries
from gateway.services.cascade_records import UpperRecords
from gateway.services.cascade_route import DomainRoutes, Subscriber
from gateway.services.cascade_tree import Tree
from gateway.services.cascade_upper import Upper
from gateway.services.cascade_words import upper_user
from gateway.services.device_config_upward import UpperConfiguration
from gateway.services.provisioning import configured_platform
from gateway.services.session_third_party import MediaServerRole
from gateway.storage.platforms import StoredPlatform
from sip.endpoint import Identity, Incoming, IncomingInvite, IncomingSubscribe, Reply
from sip.errors import RemoteError
from sip.flow import Flow
from sip.ids import domain_of, is_code
from sip.manscdp import (
    AlarmResponse,
    Body,
    CatalogQuery,
    ConfigDownloadQuery,
    DeviceConfig,
    DeviceControl,
    DeviceInfoQuery,
    DeviceStatusQuery,
    RecordInfoQuery,
    decode,
)
from sip.message import Response

log = logging.getLogger(__name__)

STOP_WAIT_S = 5.0
_LINK_FIELDS = (
    "domain",
    "host",
    "port",
    "transport",
    "tls_server_name",
    "our_id",
    "username",
    "password",
    "expires_s",
    "heartbeat_interval_s",
    "heartbeat_count",
    "enabled",
)
"""A change of one of these leads to a new registration; every other change is silent on the wire (quirk 36)."""


class ShareConflict(GatewayError):
    """Two channels shall have one code at an upper, or a code breaks the coding rule."""

    cause = "conflict"
    status = 409


class Store(Protocol):
    """What must survive a restart (gateway.storage.platforms)."""

    async def load(self) -> list[StoredPlatform]: ...
    async def put(self, platform: Platform, recoded: Mapping[Key, str]) -> None: ...
    async def remove(self, platform_id: str) -> None: ...
    async def set_shares(self, platform_id: str, wanted: list[Share]) -> None: ...


class SipSide(Requester, Subscriber, Protocol):
    """The SIP endpoint: requests, subscriptions, and who we are toward a peer."""

    @property
    def core(self) -> ContactWriter: ...


class Notices(Protocol):
    """Alarms and positions for uppers (gateway.services.alarms_notices)."""

    def serves(self, query: Body) -> bool: ...

    def subscribe(
        self, upper: Upper, incoming: IncomingSubscribe, query: Body, tree: Tree, contact: str
    ) -> Reply | None: ...


class Cascade:
    """All upper platforms. Built by gateway/assembly; ``dispatch`` brings what they send."""

    def __init__(
        self,
        *,
        settings: CascadeSettings,
        identity: Identity,
        name: str,
        registry: Registry,
        bus: EventBus,
        endpoint: SipSide,
        dispatch: Dispatch,
        relay: InviteRelay,
        commands: UpperCommands,
        answers: UpperAnswers,
        items: ItemWriter,
        store: Store,
        clock: Clock | None = None,
        random: Random | None = None,
        division_name: Callable[[str], str] = lambda code: "",
        healthy: Callable[[], bool] = lambda: True,
        journal: UpperJournal | None = None,
    ) -> None:
        self._settings = settings
        self._identity = identity
        self._name = name
        self._registry = registry
        self._bus = bus
        self._endpoint = endpoint
        self._dispatch = dispatch
        self.relay = relay
        self._commands = commands
        self._answers = answers
        self._items = items
        self._store = store
        self._clock = clock or Clock()
        self._random = random or Random()
        self._division_name = division_name
        self._healthy = healthy
        self._journal = journal
        self.relay.journal = journal
        self._was_healthy = True
        self._uppers: dict[str, Upper] = {}
        self._changing = asyncio.Lock()
        self.media_server: MediaServerRole | None = None
        """Takes INVITEs without SDP that are meant for a media server, not for a channel (G229)."""
        self.configuration: UpperConfiguration | None = None
        """Reads and sets the configuration of devices for uppers; without it that is forbidden."""
        self.queries: UpperQueries | None = None
        """Asks the devices; without it uppers are answered from our own knowledge."""
        self.records_of: UpperRecords | None = None
        """Answers what is recorded; without it such queries are refused."""
        self.notices: Notices | None = None
        """Serves subscriptions to alarms and positions; without it they are refused."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._unsubscribe: list[Callable[[], None]] = []

    # -- life ------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Load the uppers, take in those of the settings that are new, and begin to register at each."""
        self._listen()
        self._serve()
        self._dispatch.peers.uppers = self
        known = await self._store.load()
        if self._journal is not None:
            self._spawn(self._journal.end_orphans())
        have = {stored.platform.platform_id for stored in known}
        for platform in map(configured_platform, self._settings.platforms):
            if platform.platform_id not in have:
                await self._store.put(platform, {})
                known.append(StoredPlatform(platform))
                log.info(
                    "platform entered from the configuration platform_id=%s host=%s",
                    *(platform.platform_id, platform.host),
                )
        for stored in known:
            self._begin(
                stored.platform, stored.shares, self._ids(stored.platform, stored.shares, stored.recoded)
            )

    async def close(self) -> None:
        """End the relays with BYE, log out at the uppers, end all tasks."""
        for unsubscribe in self._unsubscribe:
            unsubscribe()
        self._unsubscribe = []
        await self.relay.close()
        ends = [asyncio.create_task(self._finish(upper)) for upper in self._uppers.values()]
        if ends:
            await asyncio.wait(ends, timeout=STOP_WAIT_S)
        for task in [*ends, *self._tasks]:
            task.cancel()
        await asyncio.gather(*ends, *self._tasks, return_exceptions=True)
        await self._commands.close()
        self._uppers.clear()

    def _begin(self, platform: Platform, shares: Iterable[Share], ids: IdMap) -> Upper:
        own_id = platform.our_id or self._identity.user
        domain = self._identity.domain if own_id == self._identity.user else domain_of(own_id)
        link = UpperLink(
            platform,
            identity=Identity(own_id, domain),
            settings=self._settings,
            endpoint=self._endpoint,
            bus=self._bus,
            clock=self._clock,
            random=self._random,
            healthy=self._healthy,
            on_down=lambda cause: self._down(platform.platform_id, cause),
        )
        upper = Upper(
            link=link,
            own_name=self._name,
            division_name=self._division_name,
            registry=self._registry,
            items=self._items,
            settings=self._settings,
            clock=self._clock,
            shares=shares,
            ids=ids,
            routes=DomainRoutes(
                link=link,
                own=self._identity,
                facts=self._registry,
                endpoint=self._endpoint,
                dispatch=self._dispatch,
                journal=self._journal,
            ),
            save_codes=lambda upper: self._store.put(upper.platform, upper.ids.recoded),
            journal=self._journal,
        )
        self._uppers[platform.platform_id] = upper
        if platform.enabled:
            link.start()
        return upper

    async def _finish(self, upper: Upper) -> None:
        await upper.say_goodbye()
        upper.down()
        self._commands.gone(upper.link)
        self.relay.drop(upper.platform.platform_id, "platform_stopped")
        await upper.link.stop(farewell=True)
        await upper.close()

    def _down(self, platform_id: str, cause: str) -> None:
        """The upper counts as offline: subscriptions, answers, relays and movements end (report F.1)."""
        upper = self._uppers.get(platform_id)
        if upper is not None:
            upper.down()
            self._commands.gone(upper.link)
            self.relay.drop(platform_id, f"upper_offline: {cause}")

    def _ids(self, platform: Platform, shares: Iterable[Share], recoded: Mapping[Key, str]) -> IdMap:
        return IdMap(platform.our_id or self._identity.user, _chosen(shares), recoded)

    # -- what operators do -----------------------------------------------------------------------------------

    @property
    def served(self) -> Collection[Upper]:
        """All uppers."""
        return self._uppers.values()

    def link_of(self, platform_id: str) -> UpperLink | None:
        """The link to an upper, None when there is no such upper."""
        upper = self._uppers.get(platform_id)
        return upper.link if upper is not None else None

    def records(self) -> list[Platform]:
        """All uppers as entered."""
        return [upper.platform for upper in self._uppers.values()]

    def platforms(self) -> list[PlatformStatus]:
        """The live state of each upper."""
        return [upper.status(len(self.relay.relays(code))) for code, upper in self._uppers.items()]

    async def put_platform(self, platform: Platform) -> None:
        """Enter or change an upper. A change without effect on the link causes no traffic (quirk 36)."""
        async with self._changing:
            upper = self._uppers.get(platform.platform_id)
            if upper is None:
                await self._store.put(platform, {})
                self._begin(platform, (), self._ids(platform, (), {}))
                return
            before = upper.platform
            if before == platform:
                return
            await self._store.put(platform, upper.ids.recoded)
            if any(getattr(before, name) != getattr(platform, name) for name in _LINK_FIELDS):
                shares = upper.shares_given()
                await self._finish(upper)
                self._begin(platform, shares, upper.ids)
            else:
                upper.link.platform = platform
                upper.structure_changed()

    async def remove_platform(self, platform_id: str) -> None:
        """Log out and forget. Raises NotFound."""
        async with self._changing:
            upper = self._upper(platform_id)
            del self._uppers[platform_id]
            await self._finish(upper)
            await self._store.remove(platform_id)

    async def set_shares(self, platform_id: str, wanted: list[Share]) -> None:
        """Replace the selection; an empty ``exported_id`` means the channel's own code, or a free one.

        Raises NotFound, ShareConflict.
        """
        async with self._changing:
            upper = self._upper(platform_id)
            _check_codes(wanted, upper.link.identity.user)
            await self._store.set_shares(platform_id, wanted)
            await upper.set_shares(wanted, upper.ids.with_choices(_chosen(wanted)))

    def shares(self, platform_id: str) -> list[Share]:
        """The selection with the codes the upper sees. Raises NotFound."""
        return self._upper(platform_id).shares()

    def _upper(self, platform_id: str) -> Upper:
        upper = self._uppers.get(platform_id)
        if upper is None:
            raise NotFound(f"platform {platform_id}")
        return upper

    # -- what peers.py asks ----------------------------------------------------------------------------------

    def platform_of(self, flow: Flow, user: str) -> Platform | None:
        """The upper behind this flow by its host, while we are registered or registering there.

        Among several at one host the code decides, or the port.
        """
        found = [
            upper for upper in self._uppers.values() if upper.link.heard and flow.host in upper.link.hosts
        ]
        exact = [upper for upper in found if upper.platform.platform_id == user]
        if not exact:
            exact = [upper for upper in found if flow.port == upper.link.target.port]
        return exact[0].platform if exact else None

    def upper_at(self, host: str, port: int, *, any_port: bool = False) -> str | None:
        """Code of the upper that listens at this address; with ``any_port`` also of the only one of that host."""
        found = [upper for upper in self._uppers.values() if host in upper.link.hosts]
        exact = [upper for upper in found if upper.link.target.port == port]
        chosen = exact or (found if any_port and len(found) == 1 else [])
        return chosen[0].platform.platform_id if chosen else None

    def hosts(self, platform_id: str) -> frozenset[str]:
        """Names and addresses of an upper. KeyError when it is not known."""
        upper = self._upper(platform_id)
        return frozenset({upper.platform.host, upper.link.target.host, *upper.link.hosts})

    async def send(self, platform: Platform, body: Body) -> Response:
        """One body upward as MESSAGE."""
        return await self._upper(platform.platform_id).link.message(body)

    # -- what happens around us ------------------------------------------------------------------------------

    def connection_closed(self, flow: Flow) -> None:
        """A TCP connection ended; an upper that is reached over TCP by this host and port registers anew."""
        for upper in self._uppers.values():
            if flow.host in upper.link.hosts and flow.port == upper.link.target.port:
                upper.link.connection_lost()

    def health_changed(self) -> None:
        """Look at our own state; uppers hear of a change at once (9.6.1 a)."""
        healthy = self._healthy()
        if healthy != self._was_healthy:
            self._was_healthy = healthy
            for upper in self._uppers.values():
                upper.link.report_now()

    def _listen(self) -> None:
        on = self._bus.subscribe
        self._unsubscribe = [
            on(ChannelStatus, callback=lambda event: self._status([(event.device_id, event.channel_id)])),
            on(DeviceOnline, callback=self._device_state),
            on(DeviceOffline, callback=self._device_state),
            on(ChannelAdded, callback=self._channel_structure),
            on(ChannelRemoved, callback=self._channel_structure),
            on(ChannelChanged, callback=self._channel_structure),
            on(DeviceAdded, callback=self._device_structure),
            on(DeviceRemoved, callback=self._device_structure),
            on(DeviceChanged, callback=self._device_structure),
        ]

    def _status(self, keys: list[Key]) -> None:
        for upper in self._uppers.values():
            upper.status_changed(keys)

    def _device_state(self, event: DeviceOnline | DeviceOffline) -> None:
        channels = self._registry.channels(event.device_id)
        self._status([(event.device_id, event.device_id), *((event.device_id, code) for code in channels)])
        if isinstance(event, DeviceOffline):
            for upper in self._uppers.values():
                upper.routes.device_offline(event.device_id)

    def _channel_structure(self, event: ChannelAdded | ChannelRemoved | ChannelChanged) -> None:
        touched = [(event.device_id, event.channel_id)] if isinstance(event, ChannelChanged) else []
        for upper in self._uppers.values():
            upper.structure_changed(touched)

    def _device_structure(self, event: DeviceAdded | DeviceRemoved | DeviceChanged) -> None:
        if isinstance(event, DeviceChanged) and not {"name", "kind", "manufacturer", "model"} & set(
            event.fields
        ):
            return
        for upper in self._uppers.values():
            upper.structure_changed([(event.device_id, event.device_id)])

    # -- what uppers send ------------------------------------------------------------------------------------

    def _serve(self) -> None:
        dispatch = self._dispatch
        dispatch.on_method("INVITE", "upper")(self._invite)
        dispatch.on_method("SUBSCRIBE", "upper")(self._subscribe)
        dispatch.on_method("INFO", "upper")(self._info)
        dispatch.on(CatalogQuery, "upper")(self._catalog)
        dispatch.before(DeviceControl, "upper")(self._check_control)
        dispatch.on(DeviceControl, "upper")(self._control)
        for question in RELAYED:
            dispatch.on(question, "upper")(self._relayed)
        for model in (ConfigDownloadQuery, DeviceConfig):
            dispatch.before(model, "upper")(self._check_configuration)
            dispatch.on(model, "upper")(self._configured)
        dispatch.on(RecordInfoQuery, "upper")(self._records)
        dispatch.on(AlarmResponse, "upper")(self._alarm_taken)
        dispatch.on_other("upper")(self._other)

    def _of(self, peer: Peer) -> Upper | None:
        return self._uppers.get(peer.id)

    async def _invite(self, peer: Peer, incoming: Incoming) -> Reply | None:
        upper = self._of(peer)
        if upper is None or not isinstance(incoming, IncomingInvite):
            return Reply(403)
        if self.media_server is not None and self.media_server.meant(incoming):
            if "play" not in upper.link.platform.rights:
                return Reply(403)
            return await self.media_server.invite(peer.id, incoming)
        tree = await upper.tree_with([subject_parts(incoming)[0]])
        return await self.relay.invite(upper.link, tree, incoming)

    async def _info(self, peer: Peer, incoming: Incoming) -> Reply | None:
        return await self.relay.info(incoming) if self._of(peer) is not None else Reply(403)

    async def _subscribe(self, peer: Peer, incoming: Incoming) -> Reply | None:
        upper = self._of(peer)
        if upper is None or not isinstance(incoming, IncomingSubscribe):
            return Reply(403)
        query: CatalogQuery | None = None
        if incoming.request.body.strip():
            body = decode(incoming.request.body, root_hint="Query").body
            if self.notices is not None and self.notices.serves(body):
                contact = self._endpoint.core.contact(incoming.flow, upper.link.identity.user)
                return self.notices.subscribe(upper, incoming, body, await upper.tree(), contact)
            if not isinstance(body, CatalogQuery):
                return Reply(489, (("Allow-Events", "Catalog"),))
            query = body
        elif not incoming.event.lower().startswith("catalog"):
            return Reply(489, (("Allow-Events", "Catalog"),))
        tree = await upper.tree()
        contact = self._endpoint.core.contact(incoming.flow, upper.link.identity.user)
        domain = upper.routes.named(incoming.request, tree)
        if domain:
            return await upper.routes.open(incoming, domain, query, tree, contact)
        return upper.subscribe(incoming, query.device_id if query is not None else "", tree, contact)

    async def _catalog(self, peer: Peer, query: CatalogQuery, incoming: Incoming) -> None:
        upper = self._of(peer)
        if upper is not None:
            self._spawn(self._answer_catalog(upper, query))

    async def _answer_catalog(self, upper: Upper, query: CatalogQuery) -> None:
        """Apart from the upper's other messages: a build of a large catalog must not hold up a PTZ command."""
        upper.query(query, await upper.tree())

    def _check_control(self, peer: Peer, body: DeviceControl, incoming: Incoming) -> Reply | None:
        upper = self._of(peer)
        return Reply(403) if upper is None else self._commands.check_control(upper.link, body, incoming)

    async def _control(self, peer: Peer, body: DeviceControl, incoming: Incoming) -> None:
        upper = self._of(peer)
        if upper is not None:
            tree = await upper.tree_with([body.device_id])
            await self._commands.control(upper.link, tree, body, incoming)

    def _check_configuration(self, peer: Peer, body: Body, incoming: Incoming) -> Reply | None:
        upper = self._of(peer)
        if upper is None or self.configuration is None:
            return Reply(403)
        return self.configuration.check(upper.link, body, incoming)

    async def _configured(self, peer: Peer, body: Body, incoming: Incoming) -> Body | None:
        """Configuration of a shared channel or device, read or set (F.5)."""
        upper = self._of(peer)
        if upper is None or self.configuration is None:
            return None
        tree = await upper.tree_with([body.device_id])
        return self.configuration.serve(upper.link, tree, body, incoming)

    async def _relayed(self, peer: Peer, query: Body, incoming: Incoming) -> Body | None:
        """A question about us is answered here, one about a channel by its device."""
        upper = self._of(peer)
        if upper is None:
            return None
        if isinstance(query, DeviceInfoQuery) and query.device_id in ("", upper.link.identity.user):
            tree = await upper.tree()  # it tells how many cameras are shared now
        else:
            tree = await upper.tree_with([query.device_id])
        if self.queries is not None:
            return self.queries.answer(upper.link, tree, query)
        if isinstance(query, DeviceInfoQuery):
            return self._answers.device_info(upper.link, tree, query)
        if isinstance(query, DeviceStatusQuery):
            return self._answers.device_status(tree, query)
        return self._answers.refuse(query)

    async def _records(self, peer: Peer, query: RecordInfoQuery, incoming: Incoming) -> Body | None:
        """Our own recordings, in parts; what is not recorded here is refused."""
        upper = self._of(peer)
        refused = self._answers.refuse(query)
        records = self.records_of
        if upper is None or records is None:
            return refused
        who = upper_user(upper.link, incoming.request.headers.get("Monitor-User-Identity") or "")
        tree = await upper.tree_with([query.device_id])
        to = incoming.request.to.uri.user
        answer = functools.partial(records.answer, upper.link, upper.answers, tree, query, who, refused, to)
        upper.answers.spawn(query, answer)
        return None

    async def _alarm_taken(self, peer: Peer, body: AlarmResponse, incoming: Incoming) -> None:
        """An upper's answer to an alarm of ours (9.4.2); its 200 said as much."""
        if body.result != "OK":
            log.info("upper refused an alarm platform_id=%s sn=%d", peer.id, body.sn)

    async def _other(self, peer: Peer, body: Body, incoming: Incoming) -> Body | None:
        log.info("upper sent what nobody serves platform_id=%s cmd_type=%s", peer.id, body.cmd_type[:32])
        return self._answers.refuse(body)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        async def run() -> None:
            try:
                await work
            except RemoteError as error:
                log.warning("event=upper_work_failed error=%s", error)

        task = asyncio.create_task(run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _chosen(shares: Iterable[Share]) -> dict[Key, str]:
    """Codes that an operator really chose: others may be made up when they collide."""
    return {
        (share.device_id, share.channel_id): share.exported_id
        for share in shares
        if share.exported_id and share.exported_id != share.channel_id
    }


def _check_codes(wanted: Iterable[Share], own_id: str) -> None:
    """Raises ShareConflict. One code for two ways to the same channel code is an operator's word and allowed."""
    holders: dict[str, Share] = {}
    for share in wanted:
        code = share.exported_id
        if not code or code == share.channel_id:
            continue
        if not is_code(code) or code == own_id:
            raise ShareConflict(f"{code} cannot be the code of a channel")
        other = holders.setdefault(code, share)
        if other is not share and other.channel_id != share.channel_id:
            raise ShareConflict(f"{code} is given to {other.channel_id} and to {share.channel_id}")
