"""Broadcasts that wait for their device's INVITE: we announce the sound, the device comes and fetches it (9.12.1).

An INVITE with sound that nobody waits for is refused: a device does not begin a talk by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Iterator

from gateway.peers import Peer
from gateway.services.talk_record import TalkCause, TalkFailed
from sip.endpoint import Incoming, IncomingInvite, Reply
from sip.errors import ParseError, RemoteError
from sip.sdp import Offer, read_offer

log = logging.getLogger(__name__)

MOST_CLAIMS = 64
"""INVITEs that one broadcast to a whole device may bring: one per loudspeaker."""


class Claim:
    """One INVITE that came for a broadcast. Its handler waits for ``verdict``: None (accepted), or a refusal."""

    def __init__(self, incoming: IncomingInvite, offer: Offer) -> None:
        self.incoming = incoming
        self.offer = offer
        self.verdict: asyncio.Future[Reply | None] = asyncio.get_running_loop().create_future()

    def settle(self, reply: Reply | None) -> None:
        """The first verdict stays."""
        if not self.verdict.done():
            self.verdict.set_result(reply)


class Expected:
    """One broadcast and the INVITEs that came for it."""

    def __init__(self, device_id: str, source_id: str, output_id: str) -> None:
        self.device_id, self.source_id, self.output_id = device_id, source_id, output_id
        self.claims: asyncio.Queue[Claim] = asyncio.Queue(MOST_CLAIMS)
        self.answered = 0

    @property
    def whole_device(self) -> bool:
        return self.output_id == self.device_id

    def open_for_more(self) -> bool:
        return self.whole_device or not self.answered


class Broadcasts:
    """All broadcasts under way, and the handler of devices' INVITEs."""

    def __init__(self) -> None:
        self._expected: list[Expected] = []
        self.counts: Counter[str] = Counter()
        """INVITEs of devices: taken, unasked, unreadable."""

    @contextlib.contextmanager
    def expect(self, device_id: str, source_id: str, output_id: str) -> Iterator[Expected]:
        """While the block runs, an INVITE of this device comes to it. What waits at the end is refused."""
        expected = Expected(device_id, source_id, output_id)
        self._expected.append(expected)
        try:
            yield expected
        finally:
            self._expected.remove(expected)
            while not expected.claims.empty():
                expected.claims.get_nowait().settle(Reply(480))

    async def invite(self, peer: Peer, incoming: Incoming) -> Reply | None:
        """An INVITE of a device. 488: no sound is asked for; 480: nobody speaks to it now."""
        if not isinstance(incoming, IncomingInvite):
            return Reply(400)
        try:
            offer = read_offer(incoming.offer, kind="audio")
        except RemoteError as error:
            self.counts["unreadable"] += 1
            log.info("device's INVITE refused device_id=%s cause=%s", peer.id, error)
            return Reply(error.status)
        expected = self._meant(peer.id, incoming, offer)
        if expected is None or expected.claims.full():
            self.counts["unasked"] += 1
            log.info("device's INVITE refused device_id=%s cause=unasked", peer.id)
            return Reply(480)
        self.counts["taken"] += 1
        claim = Claim(incoming, offer)
        expected.answered += 1
        expected.claims.put_nowait(claim)
        return await claim.verdict

    def _meant(self, device_id: str, incoming: IncomingInvite, offer: Offer) -> Expected | None:
        """The broadcast this INVITE is for: by its codes, else the only one of this device."""
        waiting = [one for one in self._expected if one.device_id == device_id and one.open_for_more()]
        named = _codes(incoming, offer)
        exact = [one for one in waiting if one.output_id in named]
        if exact:
            return exact[0]
        return waiting[0] if len(waiting) == 1 else None


def _codes(incoming: IncomingInvite, offer: Offer) -> set[str]:
    """Codes that may name the audio output: From, the Subject's receiver, ``o=``."""
    found = set(offer.channel_ids)
    with contextlib.suppress(ParseError):
        found.add(incoming.request.from_.uri.user)
    receiver = (incoming.request.headers.get("Subject") or "").partition(",")[2]
    found.add(receiver.partition(":")[0].strip())
    return found - {""}


async def first_claim(expected: Expected, timeout_s: float) -> Claim:
    """The device's first INVITE. Raises TalkFailed(no_invite)."""
    try:
        return await asyncio.wait_for(expected.claims.get(), timeout_s)
    except TimeoutError:
        raise TalkFailed(
            TalkCause.NO_INVITE, f"the device sent no INVITE for the sound within {timeout_s:.0f} s"
        ) from None
