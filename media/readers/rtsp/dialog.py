"""What one client asks for, request by request: admission, one session at a time, and what is to be answered."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from media.errors import MediaError
from media.ports import NoPort, PortLease
from media.readers.rtsp import addresses
from media.readers.rtsp.addresses import Address
from media.readers.rtsp.digest import Verdict
from media.readers.rtsp.feed import Feed
from media.readers.rtsp.messages import Request
from media.readers.rtsp.outputs import InterleavedOutput, TrackOutput, UdpTrackOutput, Wire
from media.readers.rtsp.states import REFUSED, SERVED, State, step
from media.readers.rtsp.tracks import TrackPackets, session_description
from media.readers.rtsp.transport import TransportChoice, choose
from media.specs import WantedAnswer

if TYPE_CHECKING:
    from media.readers.rtsp.server import RtspServer, Seat

log = logging.getLogger(__name__)

Headers = list[tuple[str, str]]


class Refusal(Exception):
    """A request that is answered with an error ``status``."""

    def __init__(self, status: int, detail: str = "", headers: Headers | None = None) -> None:
        super().__init__(detail or str(status))
        self.status = status
        self.headers = headers or []


@dataclass(slots=True)
class Reply:
    """A response; ``then`` runs once it is written."""

    status: int = 200
    headers: Headers = field(default_factory=list)
    body: bytes = b""
    then: Callable[[], None] | None = None


@dataclass(slots=True, eq=False)
class Session:
    """From the first SETUP to TEARDOWN. ``addresses``: what the client called each track."""

    session_id: str
    feed: Feed
    state: State = State.INIT
    addresses: dict[int, str] = field(default_factory=dict)


class Dialog:
    """One connection's requests. ``host`` is the client's address, ``local`` ours; ``heard`` is called for each sign of
    life that comes by UDP. :meth:`release` gives all back.
    """

    def __init__(
        self, server: RtspServer, wire: Wire, *, host: str, local: str, heard: Callable[[], None]
    ) -> None:
        self.seat: Seat | None = None
        self.session: Session | None = None
        self._server = server
        self._wire = wire
        self._host = host
        self._local = local
        self._heard = heard
        self._admitted: Address | None = None

    def release(self, cause: str) -> None:
        """End session and seat. Idempotent."""
        session, self.session = self.session, None
        if session is not None:
            session.feed.close(over=cause not in ("left", "stalled", "timeout"))
            log.info("event=rtsp_session_closed source=%s dropped_units=%d cause=%s",
                     self._host, session.feed.dropped, cause)  # fmt: skip
        seat, self.seat = self.seat, None
        self._admitted = None
        if seat is not None:
            self._server.leave(seat, cause)

    def report(self) -> None:
        """Sender reports that are due."""
        if self.seat is not None and self.session is not None:
            unix_s = time.time()
            ticks = self.seat.channel.clock.ticks(unix_s)
            for output in self.session.feed.outputs.values():
                output.report(ticks, unix_s)

    async def reply(self, request: Request) -> Reply:
        """The response to one request. Raises Refusal and MediaError: both know their status."""
        method = request.method
        if request.version != "RTSP/1.0":
            raise Refusal(505)
        if request.cseq is None:
            raise Refusal(400, "no CSeq")
        if method not in SERVED:
            allowed: Headers = [("Allow", ", ".join(SERVED))]
            raise Refusal(405, headers=allowed) if method in REFUSED else Refusal(501, headers=allowed)
        if "require" in request.headers:
            raise Refusal(551, headers=[("Unsupported", request.headers["require"])])
        self._check_session(request)
        if method == "OPTIONS":
            return Reply(headers=[("Public", ", ".join(SERVED))])
        if method == "DESCRIBE":
            return await self._describe(request)
        if method == "SETUP":
            return await self._setup(request)
        if method == "GET_PARAMETER":
            return Reply(451 if request.body.strip() else 200, self._session_header())
        if method == "SET_PARAMETER":
            return Reply(headers=self._session_header())
        return self._control(method)

    def _check_session(self, request: Request) -> None:
        """454 for another session's id, 455 for a method out of its order."""
        session, method = self.session, request.method
        named = request.headers.get("session", "").split(";")[0].strip()
        if named and method != "OPTIONS" and (session is None or named != session.session_id):
            raise Refusal(454)
        if step(session.state if session is not None else State.INIT, method) is None:
            raise Refusal(455, headers=[("Allow", ", ".join(SERVED))])
        if not named and session is not None and method in ("PLAY", "PAUSE", "TEARDOWN"):
            raise Refusal(454)

    def _session_header(self) -> Headers:
        session = self.session
        if session is None:
            return []
        return [("Session", f"{session.session_id};timeout={round(self._server.session_timeout_s)}")]

    # --- admission -----------------------------------------------------------------------------------------------

    async def _enter(self, request: Request, address: Address) -> Seat:
        """The seat at what ``address`` names; kept over the requests of this connection."""
        if self.seat is not None:
            if self._admitted is not None and address.within(self._admitted):
                return self.seat
            if self.session is not None:
                raise Refusal(455)
            self.release("left")
        seat = await (self._by_ticket(address) if address.stream_id else self._by_account(request, address))
        self.seat, self._admitted = seat, address
        if not seat.channel.tracks:
            self.release("unsupported")
            raise Refusal(415)
        return seat

    async def _by_ticket(self, address: Address) -> Seat:
        try:
            return await self._server.admit(address)
        except MediaError as error:
            if error.code == "forbidden":
                self._server.refused("rtsp_ticket", self._host)
            raise

    async def _by_account(self, request: Request, address: Address) -> Seat:
        user = "" if address.token else self._identify(request)
        answer = await self._server.want(address, user=user, source=self._host)
        if not isinstance(answer, WantedAnswer):
            return answer
        if answer.location:
            raise Refusal(302, headers=[("Location", answer.location)])
        if answer.status in (401, 403):
            self._server.refused("rtsp_token" if address.token else "rtsp_login", self._host, user)
        raise Refusal(answer.status if answer.status >= 400 else 503)

    def _identify(self, request: Request) -> str:
        """The account of the Authorization header; 401 with a challenge without a good one."""
        server, now = self._server, self._server.clock()
        if not server.gate.enabled:
            raise Refusal(403)
        if server.failures.locked(self._host, now):
            server.refused("rtsp_locked", self._host)
            raise Refusal(403)
        verdict, user = server.gate.check(
            request.headers.get("authorization", ""), method=request.method, uri=request.uri,
            host=self._host, connection=self, now=now,
        )  # fmt: skip
        if verdict is Verdict.OK:
            return user
        if verdict is Verdict.WRONG:
            server.refused("rtsp_login", self._host, user)
        challenges = server.gate.challenges(self._host, now, stale=verdict is Verdict.STALE)
        raise Refusal(401, headers=[("WWW-Authenticate", value) for value in challenges])

    # --- methods -------------------------------------------------------------------------------------------------

    async def _describe(self, request: Request) -> Reply:
        accept = request.headers.get("accept", "application/sdp").lower()
        if "application/sdp" not in accept and "*/*" not in accept and "application/*" not in accept:
            raise Refusal(406)
        address = _parsed(request.uri)
        seat = await self._enter(request, address)
        body = session_description(seat.channel.describe(), host=self._local, session_id=secrets.randbits(31))
        return Reply(
            headers=[("Content-Type", "application/sdp"), ("Content-Base", address.base), ("Cache-Control", "no-cache")],
            body=body,
        )  # fmt: skip

    async def _setup(self, request: Request) -> Reply:
        choice = choose(request.headers.get("transport", ""))
        if choice is None:
            raise Refusal(461)
        address = _parsed(request.uri)
        seat = await self._enter(request, address)
        tracks = seat.channel.tracks
        number = address.track if address.track is not None or len(tracks) > 1 else next(iter(tracks))
        if number is None:
            raise Refusal(459)
        if number not in tracks:
            raise Refusal(404)
        session = self.session or self._new_session(seat)
        output, answer = self._output(session, tracks[number], choice)
        session.feed.add(output)
        session.addresses[number] = request.uri
        session.state = State.READY
        self.session = session
        return Reply(headers=[("Transport", answer), *self._session_header()])

    def _new_session(self, seat: Seat) -> Session:
        def dropped(units: int) -> None:
            seat.stream.reader_drops += units

        feed = Feed(seat.channel, self._server.host.pump, self._wire, dropped)
        return Session(secrets.token_hex(8), feed)

    def _output(
        self, session: Session, track: TrackPackets, choice: TransportChoice
    ) -> tuple[TrackOutput, str]:
        """The way to the client and the Transport header that says it. Refusal: 461, 503."""
        name = f"{session.session_id}@{self._local}"
        if choice.tcp:
            pair = _free_channels(session, track.number, choice)
            chosen = TransportChoice(True, *pair, choice.profile)
            return InterleavedOutput(track, name, self._wire, pair), chosen.answer(ssrc=track.ssrc)
        lease = self._lease(choice)
        output = UdpTrackOutput(track, name, lease, gso=self._server.host.gso, give_back=self._give_back)

        def heard(now: float) -> None:
            if output.heard():
                self._heard()

        for sock in (lease.rtp, lease.rtcp):
            if sock is not None:
                self._server.host.pump.register(sock, heard)
        return output, choice.answer(ssrc=track.ssrc, server_ports=(lease.port, lease.port + 1))

    def _lease(self, choice: TransportChoice) -> PortLease:
        """A pair of ports, connected to the client's. Only to where the request came from."""
        try:
            lease = self._server.host.ports.lease_udp(self._server.clock())
        except NoPort as error:
            raise Refusal(503, str(error)) from error
        try:
            lease.rtp.connect((self._host, choice.first))
            if lease.rtcp is not None:
                lease.rtcp.connect((self._host, choice.second))
        except OSError as error:  # another address family, or bound to another network
            lease.release(self._server.clock(), hear_ghosts=False)
            raise Refusal(461, str(error)) from error
        return lease

    def _give_back(self, lease: PortLease) -> None:
        for sock in (lease.rtp, lease.rtcp):
            if sock is not None:
                self._server.host.pump.unregister(sock)
        lease.release(self._server.clock(), hear_ghosts=False)

    def _control(self, method: str) -> Reply:
        """PLAY, PAUSE, TEARDOWN of the session that there is."""
        session = self.session
        if session is None:
            raise Refusal(455)
        header = self._session_header()
        if method == "TEARDOWN":
            self.release("left")
            return Reply(headers=header[:0])
        before, session.state = session.state, step(session.state, method) or session.state
        if method == "PAUSE":
            session.feed.pause()
            return Reply(headers=header)
        if before is State.PLAYING:
            return Reply(headers=header)
        ticks, sequences = session.feed.start_of()
        info = ",".join(
            f"url={address};seq={sequences[number]};rtptime={session.feed.outputs[number].track.stamp(ticks)}"
            for number, address in sorted(session.addresses.items())
        )

        def begin() -> None:
            self.report()
            session.feed.play()

        return Reply(headers=[*header, ("Range", "npt=now-"), ("RTP-Info", info)], then=begin)


def _parsed(uri: str) -> Address:
    address = addresses.parse(uri)
    if address is None:
        raise Refusal(404)
    return address


def _free_channels(session: Session, number: int, choice: TransportChoice) -> tuple[int, int]:
    """The channels asked for, or the next free pair."""
    taken = {
        channel
        for other, output in session.feed.outputs.items()
        if other != number and isinstance(output, InterleavedOutput)
        for channel in output.channels
    }
    if choice.first is not None and choice.second is not None and not taken & {choice.first, choice.second}:
        return choice.first, choice.second
    first = next(pair for pair in range(0, 254, 2) if not taken & {pair, pair + 1})
    return first, first + 1
