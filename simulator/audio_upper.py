"""The upper as talker: it announces sound (Broadcast), is called for it, and sends it (GB/T 28181-2022 9.12.1)."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from media import rtp
from media.rfc4571 import frame
from sip.endpoint import IncomingInvite, InviteSession, Reply
from sip.errors import AckMissing, RemoteError
from sip.manscdp import Body, BroadcastNotify
from sip.sdp import (
    TCP_ACTIVE,
    UDP,
    Offer,
    Payload,
    SdpUnacceptable,
    matching_payload,
    read_offer,
    relay_answer,
)

if TYPE_CHECKING:
    from simulator.upper_platform import UpperPlatform

SILENCE = b"\xd5"
PACKET = 160


@dataclass(slots=True, eq=False)
class Announcement:
    """One broadcast of the upper. ``calls`` are the INVITEs that came for it."""

    source_id: str
    target_id: str
    sound: bytes
    refuse: int = 0
    """Status for the INVITE instead of the sound."""
    calls: list[IncomingInvite] = field(default_factory=list)
    sessions: list[InviteSession] = field(default_factory=list)
    offers: list[Offer] = field(default_factory=list)


class Announcements:
    """All broadcasts of one upper."""

    def __init__(self, upper: UpperPlatform) -> None:
        self._upper = upper
        self._open: list[Announcement] = []

    async def announce(
        self, target_id: str, source_id: str, sound: bytes, *, refuse: int = 0
    ) -> tuple[Body, Announcement]:
        """Send Broadcast and wait for the Response; who then calls ``source_id`` gets the sound."""
        announcement = Announcement(source_id, target_id, sound, refuse)
        self._open.append(announcement)
        body = BroadcastNotify(sn=self._upper.next_sn(), source_id=source_id, target_id=target_id)
        return await self._upper.ask(body), announcement

    async def invited(self, incoming: IncomingInvite) -> Reply | None:
        """Answer with the sound of the announcement that is asked for."""
        source = incoming.request.to.uri.user
        found = next((one for one in reversed(self._open) if one.source_id == source), None)
        if found is None:
            return Reply(404)
        found.calls.append(incoming)
        if found.refuse:
            return Reply(found.refuse)
        try:
            offer = read_offer(incoming.offer, kind="audio")
            payload = matching_payload(offer, Payload(8, "PCMA", 8000))
            if payload is None:
                raise SdpUnacceptable("no G.711A")
        except RemoteError as error:
            return Reply(error.status)
        found.offers.append(offer)
        address = self._upper.endpoint.local_address(incoming.flow.host)
        kind = socket.SOCK_DGRAM if offer.transport == UDP else socket.SOCK_STREAM
        sock = socket.socket(socket.AF_INET, kind)
        sock.setblocking(False)
        sock.bind((address, 0))
        ssrc = offer.ssrc or secrets.randbelow(1_000_000)
        answer = relay_answer(
            offer, own_id=source, address=address, port=sock.getsockname()[1], ssrc=ssrc, payload=payload,
            format_text="v/////a/1/8/1",
        )  # fmt: skip
        try:
            session = await incoming.accept(answer.to_bytes())
        except AckMissing:
            sock.close()
            return None
        found.sessions.append(session)
        self._upper.endpoint.spawn(self._speak(found, offer, session, sock, ssrc))
        return None

    async def _speak(
        self, found: Announcement, offer: Offer, session: InviteSession, sock: socket.socket, ssrc: int
    ) -> None:
        """The sound over and over until the BYE."""
        loop, number, started = asyncio.get_running_loop(), 0, time.monotonic()
        try:
            if offer.transport == TCP_ACTIVE:
                await loop.sock_connect(sock, (offer.host, offer.port))
            while not session.ended.done():
                place = number * PACKET % len(found.sound)
                piece = found.sound[place : place + PACKET].ljust(PACKET, SILENCE)
                packet = rtp.build(8, number, number * PACKET, ssrc, piece)
                with contextlib.suppress(OSError):
                    if offer.transport == UDP:
                        sock.sendto(packet, (offer.host, offer.port))
                    else:
                        sock.send(frame(packet))
                number += 1
                await asyncio.sleep(max(0.0, started + number * 0.02 - time.monotonic()))
        finally:
            sock.close()

    async def hang_up(self) -> None:
        """BYE to everybody who listens."""
        sessions = [session for one in self._open for session in one.sessions]
        await asyncio.gather(*(session.bye() for session in sessions))
