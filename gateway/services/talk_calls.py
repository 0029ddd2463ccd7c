"""The dialogs of a talk: a device's INVITE answered with our sound, or our own INVITE with s=Talk (9.12, 2016 s=Talk).

Each step puts its undoing on the branch's stack: the leg at the media node, the SSRC, the dialog's BYE.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from contextlib import AsyncExitStack
from typing import Protocol

from config.settings import MediaSettings
from gateway.clock import Clock
from gateway.model import Device
from gateway.services.broadcast import Claim
from gateway.services.errors import PlayFailed
from gateway.services.nodes import NodeHandle
from gateway.services.session_address import MediaAddress
from gateway.services.session_journal import DialogJournal
from gateway.services.session_offer import ladder
from gateway.services.talk_record import Branch, TalkCause, TalkFailed
from media.errors import MediaError
from media.specs import TalkLegInfo, TalkLegSpec, TalkLegTarget, TalkRole, Transport
from sip import sdp
from sip.endpoint import Identity, InviteSession, Reply
from sip.errors import AckMissing, LocalError, Rejected, RemoteError, TransactionTimeout, TransportFailed
from sip.flow import Target
from sip.ids import SsrcExhausted, SsrcPool, format_ssrc

log = logging.getLogger(__name__)

BYE_WAIT_S = 3.0
"""So long the next step waits for the answer to a BYE; the BYE itself goes on in the background."""
INVITE_TIMEOUT_S = 10.0
FORMAT = "v/////a/1/8/1"
"""G.711, 64 kbit/s, 8 kHz (annex G)."""
PCMA = sdp.Payload(8, "PCMA", 8000)
PS = sdp.Payload(96, "PS", 90_000)
_OTHER_WAY = frozenset({415, 488, 606})
"""Refusals of a transport or of the SDP: another transport may be taken."""


class Inviter(Protocol):
    """The part of the SIP endpoint that opens dialogs."""

    async def invite(
        self,
        target: Target,
        *,
        to: str,
        sender: Identity | None = None,
        offer: bytes,
        subject: str = "",
        timeout_s: float,
    ) -> InviteSession: ...


class TalkCalls:
    """Opens branches; knows no talks."""

    def __init__(
        self,
        *,
        server_id: str,
        domain: str,
        media: MediaSettings,
        endpoint: Inviter,
        address: MediaAddress,
        journal: DialogJournal,
        ssrc_pool: SsrcPool,
        clock: Clock,
    ) -> None:
        self.server_id = server_id
        self._domain = domain
        self._media = media
        self._endpoint = endpoint
        self._address = address
        self._journal = journal
        self._ssrc_pool = ssrc_pool
        self._clock = clock
        self._byes: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """Let go of BYEs that nobody answered yet; their dialogs stay in the journal for the next start."""
        for task in self._byes:
            task.cancel()
        await asyncio.gather(*self._byes, return_exceptions=True)

    # -- the device calls us -----------------------------------------------------------------------------------

    async def answer(
        self, branch: Branch, device: Device, output_id: str, node: NodeHandle, talk_id: str, claim: Claim
    ) -> None:
        """200 with our sound, ACK, leg started. Raises TalkFailed; the claim has its verdict then."""
        try:
            await self._answer(branch, device, output_id, node, talk_id, claim)
        except TalkFailed as failure:
            claim.settle(refusal(failure))
            raise
        except BaseException:
            claim.settle(refusal(TalkFailed(TalkCause.CANCELLED, "ended while being opened")))
            raise

    async def _answer(
        self, branch: Branch, device: Device, output_id: str, node: NodeHandle, talk_id: str, claim: Claim
    ) -> None:
        offer, incoming = claim.offer, claim.incoming
        payload = choose_sound(offer.payloads, device.profile.talk_audio)
        transport = Transport(offer.transport)
        ssrc = offer.ssrc or self.lease_ssrc(branch.undo)
        dialler = offer.host if offer.host == incoming.flow.host else None
        leg = await self.leg(branch, node, talk_id, "speak", transport, ssrc, remote_host=dialler)
        answer = sdp.relay_answer(
            offer,
            own_id=incoming.request.to.uri.user or self.server_id,
            address=self.own_address(incoming.flow.host),
            port=leg.port,
            ssrc=ssrc,
            payload=payload,
            format_text=FORMAT,
        )
        try:
            dialog = await incoming.accept(answer.to_bytes())
        except AckMissing as error:
            raise TalkFailed(TalkCause.NO_ANSWER, "the device sent no ACK") from error
        except LocalError as error:
            raise TalkFailed(TalkCause.CANCELLED, "the device took its INVITE back") from error
        claim.settle(None)
        self.connected(branch, dialog, device.device_id, output_id, ssrc)
        self._note(branch, transport, payload)
        await self.start(
            branch,
            node,
            TalkLegTarget(
                remote_host=offer.host or None,
                remote_port=offer.port or None,
                payload_type=payload.number,
                program_stream=payload.encoding == "PS",
            ),
        )

    # -- we call the device ------------------------------------------------------------------------------------

    async def invite(
        self, branch: Branch, device: Device, code: str, node: NodeHandle, talk_id: str, role: TalkRole
    ) -> None:
        """INVITE with s=Talk, one transport after the other until one is taken. Raises TalkFailed."""
        transports = dict.fromkeys(
            rung.transport for rung in ladder(device.profile, Transport(self._media.transport), None)
        )
        failure: TalkFailed | None = None
        for transport in transports:
            async with AsyncExitStack() as undo:
                try:
                    await self._invite(branch, device, code, node, talk_id, role, transport, undo)
                except TalkFailed as error:
                    failure, branch.dialog = error, None
                    if error.why is not TalkCause.SDP_NOT_ACCEPTED:
                        raise
                    continue
                branch.undo.push_async_callback(undo.pop_all().aclose)
                return
        raise failure or TalkFailed(TalkCause.SDP_NOT_ACCEPTED, "no transport may be tried")

    async def _invite(
        self,
        branch: Branch,
        device: Device,
        code: str,
        node: NodeHandle,
        talk_id: str,
        role: TalkRole,
        transport: Transport,
        undo: AsyncExitStack,
    ) -> None:
        flow = device.flow
        if flow is None or not device.online:
            raise TalkFailed(TalkCause.DEVICE_OFFLINE, f"device {device.device_id} is offline")
        ssrc = self.lease_ssrc(undo)
        leg = await self.leg(branch, node, talk_id, role, transport, ssrc, undo=undo)
        offer = talk_offer(
            own_id=self.server_id,
            address=self.own_address(flow.host),
            port=leg.port,
            ssrc=ssrc,
            transport=transport,
            audio=device.profile.talk_audio,
        )
        host = f"[{flow.host}]" if ":" in flow.host else flow.host
        dialog = await self.call(
            Target.of_flow(f"sip:{code}@{host}:{flow.port}", flow),
            to=f"sip:{code}@{self._domain}",
            offer=offer,
            subject=f"{code}:{format_ssrc(ssrc)},{self.server_id}:{format_ssrc(ssrc)}",
        )
        self.connected(branch, dialog, device.device_id, code, ssrc, undo=undo)
        answer = read_sound_answer(dialog.remote_sdp, offer)
        payload = answer.payload if answer.payload.encoding in ("PCMA", "PS") else PCMA
        self._note(branch, transport, payload)
        await self.start(
            branch,
            node,
            TalkLegTarget(
                remote_host=answer.host or flow.host,
                remote_port=answer.port or None,
                peer_host=flow.host,
                ssrc=answer.ssrc,
                payload_type=payload.number,
                program_stream=payload.encoding == "PS",
            ),
        )

    async def call(
        self,
        target: Target,
        *,
        to: str,
        offer: sdp.SessionDescription,
        subject: str,
        sender: Identity | None = None,
    ) -> InviteSession:
        """One INVITE. Raises TalkFailed with what the answer means."""
        try:
            return await self._endpoint.invite(
                target,
                to=to,
                sender=sender,
                offer=offer.to_bytes(),
                subject=subject,
                timeout_s=INVITE_TIMEOUT_S,
            )
        except Rejected as error:
            text = f"INVITE was answered {error.status} {error.reason}".rstrip()
            cause = TalkCause.SDP_NOT_ACCEPTED if error.status in _OTHER_WAY else TalkCause.REJECTED
            raise TalkFailed(cause, text, sip_status=error.status) from error
        except TransactionTimeout as error:
            raise TalkFailed(TalkCause.NO_ANSWER, "INVITE was not answered") from error
        except TransportFailed as error:
            raise TalkFailed(TalkCause.DEVICE_OFFLINE, f"the INVITE could not be sent: {error}") from error
        except RemoteError as error:
            raise TalkFailed(TalkCause.REJECTED, str(error), sip_status=error.status) from error

    # -- what both need ----------------------------------------------------------------------------------------

    async def leg(
        self,
        branch: Branch,
        node: NodeHandle,
        talk_id: str,
        role: TalkRole,
        transport: Transport,
        ssrc: int,
        *,
        remote_host: str | None = None,
        undo: AsyncExitStack | None = None,
    ) -> TalkLegInfo:
        """A leg at the node, under the branch's id. Raises TalkFailed."""
        spec = TalkLegSpec(
            leg_id=branch.leg_id,
            talk_id=talk_id,
            role=role,
            transport=transport,
            ssrc=ssrc,
            remote_host=remote_host,
        )
        try:
            info = await node.client.open_talk_leg(spec)
        except MediaError as error:
            raise media_failure(error) from error
        (undo or branch.undo).push_async_callback(_close_leg, node, branch.leg_id)
        return info

    def lease_ssrc(self, undo: AsyncExitStack) -> int:
        """Raises TalkFailed(no_ssrc)."""
        try:
            ssrc = self._ssrc_pool.lease("live", self._clock.mono())
        except SsrcExhausted as error:
            raise TalkFailed(TalkCause.NO_SSRC, str(error)) from error
        undo.callback(lambda: self._ssrc_pool.release(ssrc, self._clock.mono()))
        return ssrc

    def connected(
        self,
        branch: Branch,
        dialog: InviteSession,
        device_id: str,
        code: str,
        ssrc: int,
        *,
        undo: AsyncExitStack | None = None,
    ) -> None:
        """The dialog is confirmed: from now on it is ended by BYE, if need be in the next life."""
        branch.dialog = dialog
        (undo or branch.undo).push_async_callback(self._hang_up, dialog)
        self._journal.put(device_id, code, ssrc, dialog.snapshot())

        def ended(how: asyncio.Future[str]) -> None:
            if branch.dialog is dialog:
                branch.end(_dialog_cause(how))

        dialog.ended.add_done_callback(ended)

    async def start(self, branch: Branch, node: NodeHandle, target: TalkLegTarget) -> None:
        """Both sides agreed. Raises TalkFailed."""
        try:
            await node.client.start_talk_leg(branch.leg_id, target)
        except MediaError as error:
            raise media_failure(error) from error

    def own_address(self, host: str) -> str:
        """What the peer at ``host`` is told. Raises TalkFailed."""
        try:
            return self._address.for_peer(host)
        except PlayFailed as error:
            raise TalkFailed(TalkCause.NODE_DOWN, error.detail) from error

    def _note(self, branch: Branch, transport: Transport, payload: sdp.Payload) -> None:
        branch.transport, branch.audio = transport.value, "ps" if payload.encoding == "PS" else "raw"

    async def _hang_up(self, dialog: InviteSession) -> None:
        bye = asyncio.create_task(self._bye(dialog), name=f"talk-bye-{dialog.call_id}")
        self._byes.add(bye)
        bye.add_done_callback(self._byes.discard)
        await asyncio.wait([bye], timeout=BYE_WAIT_S)

    async def _bye(self, dialog: InviteSession) -> None:
        await dialog.bye()
        self._journal.remove(dialog.call_id)


def new_branch() -> Branch:
    return Branch(secrets.token_hex(8), asyncio.get_running_loop().create_future(), AsyncExitStack())


def talk_offer(
    *, own_id: str, address: str, port: int, ssrc: int, transport: Transport, audio: str, name: str = "Talk"
) -> sdp.SessionDescription:
    """Sound both ways, received and sent at one port. ``audio`` ps: a program stream is offered first."""
    sounds = [PS, PCMA] if audio == "ps" else [PCMA]
    media = sdp.Media(
        kind="audio",
        port=port,
        direction="sendrecv" if name == "Talk" else "recvonly",
        payloads=[sound.number for sound in sounds],
        rtpmaps={sound.number: sdp.RtpMap(sound.encoding, sound.clock_rate_hz) for sound in sounds},
    )
    if transport is not Transport.UDP:
        media.protocol, media.connection = "TCP/RTP/AVP", "new"
        media.setup = "passive" if transport is Transport.TCP_PASSIVE else "active"
    return sdp.SessionDescription(
        origin_user=own_id, address=address, name=name, media=[media], ssrc=ssrc, format_text=FORMAT
    )


def choose_sound(offered: tuple[sdp.Payload, ...], wanted: str) -> sdp.Payload:
    """G.711A as it is, or in PS where the profile says so or nothing else is offered. Raises TalkFailed (488)."""
    order = ("PS", "PCMA") if wanted == "ps" else ("PCMA", "PS")
    for encoding in order:
        found = next((payload for payload in offered if payload.encoding == encoding), None)
        if found is not None:
            return found
    names = " ".join(payload.encoding for payload in offered)
    raise TalkFailed(TalkCause.SDP_NOT_ACCEPTED, f"the device takes no G.711A, but {names}")


def read_sound_answer(body: bytes, offer: sdp.SessionDescription) -> sdp.Answer:
    """Raises TalkFailed(sdp_not_accepted)."""
    try:
        answer = sdp.read_answer(body, offer, kind="audio")
    except RemoteError as error:
        raise TalkFailed(TalkCause.SDP_NOT_ACCEPTED, f"the answer cannot be used: {error}") from error
    if not body.strip(b"\0 \r\n\t") or answer.payload.encoding not in ("PCMA", "PS"):
        return sdp.Answer(PCMA, (PCMA,), answer.host, answer.port, answer.ssrc, answer.setup, None)
    return answer


def media_failure(error: MediaError) -> TalkFailed:
    """What a media node's refusal means for a talk."""
    cause = {"no_port": TalkCause.NO_PORT, "unsupported": TalkCause.UNSUPPORTED}.get(
        error.code, TalkCause.NODE_DOWN
    )
    return TalkFailed(cause, error.detail)


def refusal(failure: TalkFailed) -> Reply:
    """What the device's INVITE is answered."""
    return Reply(failure.sip_status)


def _dialog_cause(ended: asyncio.Future[str]) -> str:
    if ended.cancelled():
        return "transport"
    return "device_bye" if ended.result() == "remote_bye" else ended.result()


async def _close_leg(node: NodeHandle, leg_id: str) -> None:
    if not node.alive:
        return
    try:
        await node.client.close_talk_leg(leg_id)
    except MediaError as error:
        log.info("leg gone already leg_id=%s cause=%s", leg_id, error.code)
