"""One try to open a live stream: node, receiver, SSRC, INVITE, answer, first picture, read top to bottom."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from typing import Any, Literal, Protocol

from config.settings import MediaSettings
from gateway.clock import Clock
from gateway.model import Device
from gateway.origin import ROUTE_HEADER, headers_for, path_of
from gateway.services.errors import PlayCause, PlayFailed
from gateway.services.nodes import NodeHandle, Nodes
from gateway.services.session_address import MediaAddress
from gateway.services.session_journal import DialogJournal
from gateway.services.session_offer import Answer, Rung, build_offer, read_answer
from gateway.services.session_record import LiveSession
from gateway.services.session_verdict import diagnose, input_silent, media_failure, refusal, silence
from media.errors import MediaError
from media.specs import HistorySpec, InputSpec, ReceiverSpec, ReceiverUpdate, StreamReady, Transport
from sip import sdp
from sip.endpoint import IncomingInvite, InviteSession
from sip.errors import Rejected, RemoteError, TransactionTimeout, TransportFailed
from sip.flow import Flow, Target
from sip.ids import SsrcExhausted, SsrcPool, format_ssrc

log = logging.getLogger(__name__)

BYE_WAIT_S = 3.0
"""So long the next step waits for the answer to a BYE; the BYE itself goes on in the background."""


class Inviter(Protocol):
    """The part of the SIP endpoint that opens dialogs."""

    async def invite(
        self,
        target: Target,
        *,
        to: str,
        offer: bytes,
        subject: str = "",
        headers: Sequence[tuple[str, str]] = (),
        timeout_s: float,
    ) -> InviteSession: ...


class Learner(Protocol):
    """The registry, as far as it keeps what devices turned out to need."""

    devices: dict[str, Device]

    def learn(self, device: Device, **settings: Any) -> bool: ...

    def observe(self, device: Device, name: str, detail: str = "") -> None: ...


class Opener:
    """Does what is needed to open one stream and knows how to undo each step.

    ``by_stream`` finds the session of a node's stream. ``on_dialog_ended`` is told when a device's dialog is over.
    """

    def __init__(
        self,
        *,
        settings: MediaSettings,
        server_id: str,
        domain: str,
        endpoint: Inviter,
        nodes: Nodes,
        address: MediaAddress,
        journal: DialogJournal,
        ssrc_pool: SsrcPool,
        clock: Clock,
    ) -> None:
        self._settings = settings
        self._server_id = server_id
        self._domain = domain
        self._endpoint = endpoint
        self._nodes = nodes
        self._address = address
        self._journal = journal
        self._ssrc_pool = ssrc_pool
        self._clock = clock
        self._byes: set[asyncio.Task[None]] = set()
        self._streams_of: dict[str, int] = defaultdict(int)
        self.by_stream: dict[str, LiveSession] = {}
        self.on_dialog_ended: Callable[[LiveSession, InviteSession], None] | None = None
        self.learner: Learner | None = None
        """Keeps what devices turn out to need, and do differently (the registry)."""

    async def close(self) -> None:
        """Let go of BYEs that nobody answered yet; their dialogs stay in the journal for the next start."""
        for task in self._byes:
            task.cancel()
        await asyncio.gather(*self._byes, return_exceptions=True)

    def open_streams(self, device_id: str) -> int:
        """Dialogs open with this device."""
        return self._streams_of.get(device_id, 0)

    async def attempt(self, session: LiveSession, device: Device, rung: Rung, deadline: float) -> None:
        """One try, one rung: node, receiver, SSRC, INVITE, answer, first picture. Undone as a whole on failure."""
        flow, channel_id, stream_number = device.flow, session.key[1], session.key[2]
        if flow is None or not device.online:
            raise PlayFailed(PlayCause.DEVICE_OFFLINE, f"device {device.device_id} is offline")
        async with AsyncExitStack() as undo:
            ssrc = self._lease_ssrc(undo, "live" if session.history is None else "history")
            address = self._address.for_peer(flow.host)
            try:
                strict = device.profile.ssrc == "strict"
                node, port, picture = await self._receiver(session, rung.transport, ssrc, undo, strict=strict)
                if session.on_receiver is not None:
                    await session.on_receiver(node)
                offer = build_offer(
                    own_id=self._server_id,
                    address=address,
                    port=port,
                    ssrc=ssrc,
                    rung=rung,
                    device=device,
                    stream_number=max(0, stream_number),
                    history=session.history,
                    channel_id=channel_id,
                )
                timeout_s = min(self._settings.invite_timeout_s, deadline - _loop_time())
                dialog = await self._invite(flow, device, channel_id, offer.to_bytes(), ssrc, timeout_s)
                self._connected(session, dialog, ssrc, undo)
                answer = read_answer(
                    dialog.remote_sdp,
                    offer=offer,
                    rung=rung,
                    offered_ssrc=ssrc,
                    peer_host=flow.host,
                    ssrc_policy=device.profile.ssrc,
                )
                for name in answer.observed:
                    self.observe(device, name)
                session.filesize = answer.filesize
                await self._learn(session, node, answer)
            except MediaError as error:
                raise media_failure(error) from error
            picture_s = min(self._settings.first_picture_timeout_s, deadline - _loop_time())
            await self._first_picture(session, node, picture, picture_s)
            self._outgrown(device)
            session.undo = undo.pop_all()

    async def attempt_offerless(self, session: LiveSession, invite: IncomingInvite, ssrc: int | None) -> None:
        """The same for an INVITE that came to us without SDP: our 200 is the offer, the ACK has the answer
        (GB/T 28181-2022 9.2.2.1, messages 2, 3 and 6; G229). ``ssrc`` None: learned from the packets.

        Raises PlayFailed, and AckMissing after BYE was sent.
        """
        host, udp = invite.flow.host, Rung(Transport.UDP, "standard")
        async with AsyncExitStack() as undo:
            address = self._address.for_peer(host)
            try:
                node, port, picture = await self._receiver(session, udp.transport, ssrc, undo)
                offer = sdp.live_offer(own_id=self._server_id, address=address, port=port, ssrc=ssrc)
                dialog = await invite.accept(offer.to_bytes())
                self._connected(session, dialog, ssrc, undo)
                answer = read_answer(
                    dialog.ack_body, offer=offer, rung=udp, offered_ssrc=ssrc or 0, peer_host=host
                )
                await self._learn(session, node, answer)
            except MediaError as error:
                raise media_failure(error) from error
            await self._first_picture(session, node, picture, self._settings.first_picture_timeout_s)
            session.undo = undo.pop_all()

    async def attempt_input(
        self,
        session: LiveSession,
        spec_of: Callable[[str], InputSpec],
        transport: str,
        *,
        node: NodeHandle | None = None,
    ) -> None:
        """The same for an input of our own: a node opens what ``spec_of(stream_id)`` says. Raises PlayFailed.

        ``node``: it must be this one.
        """
        session.local = True
        async with AsyncExitStack() as undo:
            node, picture = self._place(session, transport, None, undo, node)
            try:
                await node.client.open_input(spec_of(session.stream_id))
                undo.push_async_callback(self.close_receiver, node, session.stream_id)
            except MediaError as error:
                raise media_failure(error) from error
            await self._first_picture(session, node, picture, self._settings.first_picture_timeout_s)
            session.undo = undo.pop_all()

    def observe(self, device: Device, name: str, detail: str = "") -> None:
        """Note in the device's profile what it does differently."""
        if self.learner is not None:
            self.learner.observe(device, name, detail)

    def _outgrown(self, device: Device) -> None:
        """It gives more streams than it was thought to: the learned limit is forgotten."""
        learned = device.profile.layers.learned.get("max_streams")
        if learned is not None and self.open_streams(device.device_id) > learned and self.learner is not None:
            self.learner.learn(device, max_streams=None)

    def _lease_ssrc(self, undo: AsyncExitStack, kind: Literal["live", "history"] = "live") -> int:
        try:
            ssrc = self._ssrc_pool.lease(kind, self._clock.mono())
        except SsrcExhausted as error:
            raise PlayFailed(PlayCause.NO_SSRC, str(error)) from error
        undo.callback(lambda: self._ssrc_pool.release(ssrc, self._clock.mono()))
        return ssrc

    async def _receiver(
        self,
        session: LiveSession,
        transport: Transport,
        ssrc: int | None,
        undo: AsyncExitStack,
        *,
        strict: bool = False,
    ) -> tuple[NodeHandle, int, asyncio.Future[StreamReady]]:
        """A receiver on the least loaded node: the node, the port, and the future of the first picture."""
        settings = self._settings
        node, picture = self._place(session, transport.value, ssrc, undo)
        stream_id = session.stream_id
        receiver = await node.client.open_receiver(
            ReceiverSpec(
                stream_id=stream_id,
                transport=transport,
                ssrc=ssrc,
                shared_port=settings.use_shared_port,
                strict_ssrc=strict,
                no_rtp_timeout_s=settings.no_rtp_timeout_s,
                idle_grace_s=settings.idle_grace_s if session.idle_grace_s is None else session.idle_grace_s,
                history=_history_spec(session),
            )
        )
        undo.push_async_callback(self.close_receiver, node, stream_id)
        return node, receiver.port, picture

    def _place(
        self,
        session: LiveSession,
        transport: str,
        ssrc: int | None,
        undo: AsyncExitStack,
        node: NodeHandle | None = None,
    ) -> tuple[NodeHandle, asyncio.Future[StreamReady]]:
        """Put the session on ``node``, else on the least loaded one, under a new stream id; the future of its first
        picture."""
        info = session.info
        node = node or self._nodes.pick()
        node.placed += 1
        undo.callback(_unplace, node)
        stream_id = secrets.token_hex(8)
        picture: asyncio.Future[StreamReady] = asyncio.get_running_loop().create_future()
        undo.callback(retrieve, picture)
        session.node, session.picture = node, picture
        info.stream_id, info.node_id, info.ssrc, info.transport = (
            stream_id,
            node.node_id,
            ssrc,
            transport,
        )
        self.by_stream[stream_id] = session
        undo.callback(self.by_stream.pop, stream_id, None)
        return node, picture

    def _connected(
        self, session: LiveSession, dialog: InviteSession, ssrc: int | None, undo: AsyncExitStack
    ) -> None:
        """The dialog is confirmed: from now on it is ended by BYE, if need be in the next life."""
        self._count(session.key[0], 1)
        undo.push_async_callback(self._hang_up, session, dialog)
        session.dialog, session.info.call_id = dialog, dialog.call_id
        if dialog.accepted is not None:
            session.info.route_path = "-".join(path_of(dialog.accepted.headers.get(ROUTE_HEADER)))
        dialog.on_request = session.on_request
        dialog.ended.add_done_callback(lambda _: self._dialog_ended(session, dialog))
        self._journal.put(*session.key[:2], ssrc or 0, dialog.snapshot())

    async def _invite(
        self, flow: Flow, device: Device, channel_id: str, offer: bytes, ssrc: int, timeout_s: float
    ) -> InviteSession:
        """INVITE to the channel over the device's flow. Raises PlayFailed with what the answer means."""
        serial = format_ssrc(ssrc)
        host = f"[{flow.host}]" if ":" in flow.host else flow.host
        try:
            return await self._endpoint.invite(
                Target.of_flow(f"sip:{channel_id}@{host}:{flow.port}", flow),
                to=f"sip:{channel_id}@{self._domain}",
                offer=offer,
                subject=f"{channel_id}:{serial},{self._server_id}:{serial}",
                headers=headers_for(device, self._server_id, invite=True),
                timeout_s=timeout_s,
            )
        except Rejected as error:
            streams = self.open_streams(device.device_id)
            failure = refusal(error.status, error.reason, streams)
            if failure.cause is PlayCause.BUSY:
                self.observe(device, "busy", f"{error.status} with {streams} streams open")
                if streams and self.learner is not None:
                    self.learner.learn(device, max_streams=streams)
            raise failure from error
        except TransactionTimeout as error:
            if error.provisional:
                self.observe(device, "no_final_answer")
            raise silence(provisional=error.provisional, timeout_s=timeout_s) from error
        except TransportFailed as error:
            raise PlayFailed(PlayCause.DEVICE_OFFLINE, f"the INVITE could not be sent: {error}") from error
        except RemoteError as error:
            raise PlayFailed(PlayCause.REJECTED, str(error), device_status=error.status) from error

    async def _learn(self, session: LiveSession, node: NodeHandle, answer: Answer) -> None:
        """Teach the receiver what the answer said: other SSRC, payloads, address to dial (G199, G208)."""
        update = ReceiverUpdate(
            ssrc=answer.ssrc,
            remote_host=answer.remote_host,
            remote_port=answer.remote_port,
            payloads=answer.payloads,
        )
        if answer.ssrc is not None and answer.ssrc != session.info.ssrc:
            log.info(
                "device chose another SSRC session_id=%s ssrc=%s",
                session.session_id,
                format_ssrc(answer.ssrc),
            )
            session.info.ssrc = answer.ssrc
        session.payload = answer.payloads[0] if answer.payloads else None
        if update != ReceiverUpdate():
            await node.client.update_receiver(session.stream_id, update)

    async def _first_picture(
        self, session: LiveSession, node: NodeHandle, picture: asyncio.Future[StreamReady], timeout_s: float
    ) -> None:
        """Wait for the first key frame. Raises PlayFailed(no_stream, no_picture, media_mismatch, ...)."""
        try:
            async with asyncio.timeout(timeout_s):
                ready = await picture
        except TimeoutError:
            try:
                stats = await node.client.stream(session.stream_id)
            except MediaError as error:
                raise media_failure(error) from error
            raise (input_silent if session.local else diagnose)(stats, timeout_s) from None
        session.info.video_codec = ready.video.codec if ready.video is not None else ""
        session.info.audio_codec = ready.audio.codec if ready.audio is not None else ""

    async def _hang_up(self, session: LiveSession, dialog: InviteSession) -> None:
        """BYE now; wait a moment for its answer, then let it be repeated in the background (quirk 33)."""
        self._count(session.key[0], -1)
        bye = asyncio.create_task(self._bye(session, dialog, dialog.snapshot()), name=f"bye-{session.key[1]}")
        self._byes.add(bye)
        bye.add_done_callback(self._byes.discard)
        await asyncio.wait([bye], timeout=BYE_WAIT_S)

    async def _bye(self, session: LiveSession, dialog: InviteSession, record: dict[str, Any]) -> None:
        lost = dialog.ended.done() and dialog.ended.result() == "transport"  # no BYE got through
        if await dialog.bye() is False or lost:
            self._journal.haunted(*session.key[:2], session.info.ssrc or 0, record)
            self._bye_lost(session.key[0])
        else:
            self._journal.remove(dialog.call_id)

    def _bye_lost(self, device_id: str) -> None:
        if self.learner is not None and (device := self.learner.devices.get(device_id)) is not None:
            self.observe(device, "bye_unanswered")

    async def close_receiver(self, node: NodeHandle, stream_id: str) -> None:
        if not node.alive:
            return
        try:
            await node.client.close_receiver(stream_id)
        except MediaError as error:
            if error.code != "not_found":
                log.warning(
                    "receiver not closed stream_id=%s node_id=%s cause=%s", stream_id, node.node_id, error
                )

    def _count(self, device_id: str, change: int) -> None:
        self._streams_of[device_id] += change
        if self._streams_of[device_id] <= 0:
            del self._streams_of[device_id]

    def _dialog_ended(self, session: LiveSession, dialog: InviteSession) -> None:
        if self.on_dialog_ended is not None:
            self.on_dialog_ended(session, dialog)


def _history_spec(session: LiveSession) -> HistorySpec | None:
    history = session.history
    if history is None:
        return None
    return HistorySpec(length_s=history.end - history.start, keep_times=history.download_speed is not None)


def _loop_time() -> float:
    return asyncio.get_running_loop().time()


def retrieve(future: asyncio.Future[Any]) -> None:
    """Look at the outcome, so that one nobody waited for is not reported as never retrieved."""
    if future.done() and not future.cancelled():
        future.exception()


def _unplace(node: NodeHandle) -> None:
    node.placed -= 1
