"""An upper speaks to one of our devices: its Broadcast goes down, the device's INVITE goes up (GB/T 28181-2022 9.12, F.5).

The upper's sound is received at a leg of the talk and sent on to the device, both under codes and addresses of this
side. Only when a device wants the sound is the upper asked for it; its refusal is what the device is told.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import TYPE_CHECKING

from config.settings import MediaSettings
from gateway.errors import GatewayError
from gateway.events import EventBus, PlatformChanged, SecurityEvent
from gateway.model import PlatformState
from gateway.peers import Peer
from gateway.services.cascade_link import UpperLink
from gateway.services.cascade_words import upper_user
from gateway.services.talk import Talks
from gateway.services.talk_calls import TalkCalls, new_branch, read_sound_answer, talk_offer
from gateway.services.talk_record import Branch, Talk, TalkCause, TalkFailed, TalkState, TalkTarget
from media.specs import TalkLegTarget, Transport
from sip.endpoint import Identity, Incoming, Reply
from sip.errors import RemoteError
from sip.ids import format_ssrc
from sip.manscdp import BroadcastNotify, BroadcastResponse

if TYPE_CHECKING:
    from gateway.services.cascade_upper import Upper

log = logging.getLogger(__name__)

UPPER_PRIORITY = 150
"""Above operators of this platform, below its administrators."""
Audit = Callable[[str, str, str, str, str], None]


class UpperBroadcasts:
    """Serves Broadcast of all uppers. ``uppers``: those that are served now."""

    def __init__(
        self,
        *,
        talks: Talks,
        calls: TalkCalls,
        media: MediaSettings,
        bus: EventBus,
        uppers: Callable[[], Collection[Upper]],
    ) -> None:
        self._talks, self._calls, self._media, self._bus, self._uppers = talks, calls, media, bus, uppers
        self.audit: Audit | None = None
        self._of_platform: dict[str, str] = {}
        """Platform by talk."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._unsubscribe: Callable[[], None] | None = None

    def start(self) -> None:
        self._unsubscribe = self._bus.subscribe(PlatformChanged, callback=self._platform_changed)

    async def close(self) -> None:
        """End the answers that are under way; the talks are their service's business."""
        if self._unsubscribe is not None:
            self._unsubscribe()
            self._unsubscribe = None
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # -- what an upper sends -----------------------------------------------------------------------------------

    def check(self, peer: Peer, body: BroadcastNotify, incoming: Incoming) -> Reply | None:
        """403 without the right; audited (G264)."""
        upper = self._upper(peer.id)
        if upper is not None and "broadcast" in upper.link.platform.rights:
            return None
        who = f"platform:{peer.id}"
        if self.audit is not None:
            self.audit(who, "upper.broadcast", body.target_id, "forbidden", "")
        self._bus.publish(
            SecurityEvent(
                "upper_forbidden", incoming.flow.host, f"no right to broadcast on {body.target_id}", peer.id
            )
        )
        return Reply(403)

    async def broadcast(self, peer: Peer, body: BroadcastNotify, incoming: Incoming) -> None:
        """Carried out apart from the upper's other messages: a device may take seconds to answer."""
        upper = self._upper(peer.id)
        if upper is None:
            return
        who = upper_user(upper.link, incoming.request.headers.get("Monitor-User-Identity") or "")
        task = asyncio.create_task(self._carry_out(upper, body, who), name=f"broadcast-{body.target_id}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _upper(self, platform_id: str) -> Upper | None:
        return next((u for u in self._uppers() if u.link.platform.platform_id == platform_id), None)

    async def _carry_out(self, upper: Upper, body: BroadcastNotify, who: str) -> None:
        ok = False
        try:
            talk = await self._begin(upper, body, who)
        except GatewayError as error:
            log.info(
                "upper's broadcast refused platform_id=%s cause=%s", upper.link.platform.platform_id, error
            )
        else:
            target = talk.targets[0]
            await target.answered.wait()
            ok = target.state is not TalkState.FAILED
        answer = BroadcastResponse(sn=body.sn, device_id=body.target_id, result="OK" if ok else "ERROR")
        try:
            await upper.link.message(answer)
        except RemoteError as error:
            log.warning(
                "answer not delivered platform_id=%s error=%s", upper.link.platform.platform_id, error
            )

    async def _begin(self, upper: Upper, body: BroadcastNotify, who: str) -> Talk:
        """The talk to the device behind the upper's code, ringing. Raises TalkFailed."""
        tree = await upper.tree_with([body.target_id])
        entry = tree.entries.get(body.target_id)
        if entry is None or not entry.ways:
            raise TalkFailed(TalkCause.NOT_FOUND, f"{body.target_id} is not shared")
        platform_id = upper.link.platform.platform_id

        async def open_voice(talk: Talk, target: TalkTarget) -> None:
            await self._fetch(upper.link, body, talk)

        talk = await self._talks.begin(
            [entry.ways[0]],
            who=who,
            priority=UPPER_PRIORITY,
            source="upper",
            open_voice=open_voice,
        )
        self._of_platform[talk.talk_id] = platform_id
        talk.undo.callback(self._of_platform.pop, talk.talk_id, None)
        return talk

    # -- the upper's sound -------------------------------------------------------------------------------------

    async def _fetch(self, link: UpperLink, body: BroadcastNotify, talk: Talk) -> None:
        """Our INVITE to the upper, as a device would send it; its sound becomes the talk's voice. Raises TalkFailed."""
        failure = TalkFailed(TalkCause.SOURCE_REFUSED, "no way to the upper")
        for transport in dict.fromkeys((Transport(self._media.transport), Transport.UDP)):
            branch = new_branch()
            release = self._talks.register(branch)
            try:
                await self._call(link, body, talk, branch, transport)
            except BaseException as error:
                release()
                await branch.undo.aclose()
                if isinstance(error, TalkFailed) and error.why is TalkCause.SDP_NOT_ACCEPTED:
                    failure = error
                    continue
                raise
            branch.undo.callback(release)
            talk.undo.push_async_callback(branch.undo.aclose)
            branch.over.add_done_callback(lambda over: self._over(talk, over))
            return
        raise failure

    async def _call(
        self, link: UpperLink, body: BroadcastNotify, talk: Talk, branch: Branch, transport: Transport
    ) -> None:
        target, platform = link.target, link.platform
        ssrc = self._calls.lease_ssrc(branch.undo)
        leg = await self._calls.leg(branch, talk.node, talk.talk_id, "source", transport, ssrc)
        offer = talk_offer(
            own_id=body.target_id,
            address=platform.media_host or self._calls.own_address(target.host),
            port=leg.port,
            ssrc=ssrc,
            transport=transport,
            audio="raw",
            name="Play",
        )
        host = f"[{target.host}]" if ":" in target.host else target.host
        dialog = await self._calls.call(
            replace(target, uri=f"sip:{body.source_id}@{host}:{target.port}"),
            to=f"sip:{body.source_id}@{platform.domain}",
            offer=offer,
            subject=f"{body.source_id}:{format_ssrc(ssrc)},{body.target_id}:0",
            sender=Identity(body.target_id, link.identity.domain),
        )
        self._calls.connected(branch, dialog, platform.platform_id, body.source_id, ssrc)
        answer = read_sound_answer(dialog.remote_sdp, offer)
        await self._calls.start(
            branch,
            talk.node,
            TalkLegTarget(
                remote_host=answer.host or target.host,
                remote_port=answer.port or None,
                peer_host=target.host,
            ),
        )

    def _over(self, talk: Talk, over: asyncio.Future[str]) -> None:
        if not over.cancelled() and talk.live:
            cause = over.result()
            self._talks.end(talk, "upper_bye" if cause == "device_bye" else cause)

    def _platform_changed(self, event: PlatformChanged) -> None:
        """An upper that is gone speaks no more."""
        if event.status.state is PlatformState.ONLINE or event.status.state is PlatformState.REGISTERING:
            return
        for talk in self._talks.under_way():
            if self._of_platform.get(talk.talk_id) == event.status.platform_id:
                self._talks.end(talk, "upper_offline")
