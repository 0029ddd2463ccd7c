"""Our gateway as the media server of somebody else's call: an INVITE without SDP (GB/T 28181-2022 9.2.2.1, G229).

A SIP server that controls both sides first asks the media server where it would receive: our 200 carries that
offer, and the ACK brings the sender's answer. The picture is then a session like any other, found under the
calling platform and the channel that the Subject names.
"""

from __future__ import annotations

import logging
import re

from gateway.services.errors import PlayCause, PlayFailed
from gateway.services.session_opening import Opener
from gateway.services.session_record import LiveSession
from gateway.services.sessions import Sessions
from sip.endpoint import IncomingInvite, Reply
from sip.errors import AckMissing, ParseError
from sip.ids import parse_ssrc

log = logging.getLogger(__name__)

_CODE = re.compile(r"[0-9]{20}")
_MEDIA_SERVER = re.compile(r"[0-9]{10}202[0-9]{7}")


class MediaServerRole:
    """Takes INVITEs without SDP. Who may send them is the caller's business (peers, rights).

    It is a watcher of its sessions: the caller decides how long they last, not the number of viewers.
    """

    def __init__(self, *, server_id: str, opener: Opener, sessions: Sessions) -> None:
        self._server_id = server_id
        self._opener = opener
        self._sessions = sessions

    def meant(self, invite: IncomingInvite) -> bool:
        """True for an INVITE without SDP to us or to a media server's code (type 202), not to a channel."""
        if invite.offer:
            return False
        try:
            user = invite.request.request_uri.user
        except ParseError:
            return False
        return user == self._server_id or _MEDIA_SERVER.fullmatch(user) is not None

    async def invite(self, peer_id: str, invite: IncomingInvite) -> Reply | None:
        """Offer in the 200, answer out of the ACK, then the first picture; returns when it is there or all is undone.

        A second INVITE for the same sender replaces the first one (annex L). A refusal is the Reply.
        """
        channel_id, ssrc = wanted(invite)
        old = self._sessions.find(peer_id, channel_id)
        if old is not None:
            await self._sessions.end(old, "replaced")
        answered = False

        async def work(session: LiveSession) -> None:
            nonlocal answered
            try:
                await self._opener.attempt_offerless(session, invite, ssrc)
            except AckMissing as error:
                answered = True
                raise PlayFailed(PlayCause.REJECTED, str(error)) from error

        session = self._sessions.admit((peer_id, channel_id, 0), work)
        try:
            await session.opening
        except PlayFailed as failure:
            log.info(
                "third-party call failed peer_id=%s channel_id=%s cause=%s", peer_id, channel_id, failure
            )
            return None if answered or session.dialog is not None else Reply(failure.sip_status)
        session.watch(self)
        return None

    def session_ended(self, session: LiveSession, cause: str) -> None:
        """The caller has its BYE; nothing is left to do."""

    def session_moved(self, session: LiveSession, successor: LiveSession) -> None:
        """Cannot happen: nobody but the caller can open such a session again."""


def wanted(invite: IncomingInvite) -> tuple[str, int | None]:
    """The sender's code and its SSRC out of the Subject; without a usable one the code in To (G206)."""
    code, _, serial = invite.request.headers.get("Subject").partition(",")[0].strip().partition(":")
    if not _CODE.fullmatch(code):
        try:
            code = invite.request.to.uri.user
        except ParseError:
            code = ""
        serial = ""
    return (code if _CODE.fullmatch(code) else "0" * 20), parse_ssrc(serial) or None
