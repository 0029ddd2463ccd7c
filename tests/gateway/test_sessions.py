"""Live sessions with a scripted device and a scripted media node: sharing, undoing, ending."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from config.settings import MediaSettings, SipSettings
from gateway.clock import ManualClock
from gateway.events import (
    Event,
    EventBus,
    FirstPicture,
    MediaFault,
    SessionEnded,
    SessionFailed,
    SessionStarted,
)
from gateway.model import Channel, Device, Profile, SessionState, State
from gateway.networks import OwnAddress
from gateway.registry import Registry
from gateway.services.errors import PlayCause, PlayFailed
from gateway.services.nodes import NodeHandle
from gateway.services.session_address import MediaAddress
from gateway.services.session_journal import DialogJournal
from gateway.services.session_opening import Opener
from gateway.services.session_record import LiveSession
from gateway.services.sessions import Sessions
from media.errors import MediaError
from media.specs import (
    KeyFrameWanted,
    NodeStats,
    ReceiverInfo,
    ReceiverSpec,
    ReceiverUpdate,
    SenderEnded,
    StreamFault,
    StreamIdle,
    StreamLost,
    StreamReady,
    StreamStats,
    VideoTrack,
    ViewerEnded,
    WebRtcAnswer,
    WebRtcOffer,
)
from media.tickets import verify
from sip.errors import Rejected, TransactionTimeout, TransportFailed
from sip.flow import Flow, Target
from sip.headers import Headers
from sip.ids import SsrcPool
from sip.message import Response

NVR = "41018300001180000001"
CAMERA = "41018300001320000001"
SERVER = "41018300002000000001"
PICTURE = VideoTrack(codec="H264", width=1920, height=1080)


class FakeDialog:
    """A confirmed dialog; ``end`` is what the device does."""

    count = 0

    def __init__(self, answer: bytes) -> None:
        FakeDialog.count += 1
        self.call_id = f"call-{FakeDialog.count}"
        self.remote_sdp = answer
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.byes = 0
        self.accepted: Any = None

    async def bye(self) -> None:
        self.byes += 1
        self.end("local")

    def end(self, cause: str) -> None:
        if not self.ended.done():
            self.ended.set_result(cause)

    def snapshot(self) -> dict[str, Any]:
        return {"call_id": self.call_id, "transport": "udp"}


Behaviour = Callable[[bytes], Awaitable[FakeDialog]]


def answer_sdp(offer: bytes, ssrc: str = "") -> bytes:
    lines = offer.decode().splitlines()
    media = next(line for line in lines if line.startswith("m="))
    protocol = media.split()[2]
    ssrc = ssrc or next((line[2:] for line in lines if line.startswith("y=")), "")
    answer = ["v=0", f"o={CAMERA} 0 0 IN IP4 10.0.0.9", "s=Play", "c=IN IP4 10.0.0.9", "t=0 0"]
    answer += [f"m=video 15060 {protocol} 96", "a=sendonly", "a=rtpmap:96 PS/90000"]
    if "TCP" in protocol:
        answer.append("a=setup:active" if "a=setup:passive" in lines else "a=setup:passive")
    return "\r\n".join([*answer, f"y={ssrc}", ""]).encode()


class FakeEndpoint:
    """Answers INVITEs as told: one behaviour per INVITE, then the last one again."""

    def __init__(self) -> None:
        self.offers: list[bytes] = []
        self.subjects: list[str] = []
        self.targets: list[Target] = []
        self.cancelled = 0
        self.dialogs: list[FakeDialog] = []
        self.behaviours: list[Behaviour] = [self.accept]

    async def accept(self, offer: bytes) -> FakeDialog:
        return FakeDialog(answer_sdp(offer))

    async def invite(
        self,
        target: Target,
        *,
        to: str,
        offer: bytes,
        subject: str = "",
        headers: Any = (),
        timeout_s: float,
    ) -> Any:
        self.targets.append(target)
        self.offers.append(offer)
        self.subjects.append(subject)
        behaviour = self.behaviours.pop(0) if len(self.behaviours) > 1 else self.behaviours[0]
        try:
            dialog = await behaviour(offer)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        self.dialogs.append(dialog)
        return dialog

    async def end_orphan(self, snapshot: dict[str, Any], *, flow: Flow | None = None) -> bool:
        return True


class FakeClient:
    """A media node's control API. ``silent`` streams never get a picture."""

    def __init__(self) -> None:
        self.receivers: dict[str, ReceiverSpec] = {}
        self.updates: list[ReceiverUpdate] = []
        self.stats_of: dict[str, Any] = {}
        self.error: MediaError | None = None
        self.webrtc_error: MediaError | None = None
        self.closed: list[str] = []
        self.closed_viewers: list[str] = []
        self.on_updated: Callable[[str], None] | None = None

    async def open_receiver(self, spec: ReceiverSpec) -> ReceiverInfo:
        if self.error is not None:
            raise self.error
        self.receivers[spec.stream_id] = spec
        return ReceiverInfo(stream_id=spec.stream_id, host="0.0.0.0", port=30000, ssrc=spec.ssrc)

    async def update_receiver(self, stream_id: str, update: ReceiverUpdate) -> None:
        self.updates.append(update)
        if self.on_updated is not None:
            self.on_updated(stream_id)

    async def close_receiver(self, stream_id: str) -> None:
        self.closed.append(stream_id)
        if self.receivers.pop(stream_id, None) is None:
            raise MediaError("not_found")

    async def stream(self, stream_id: str) -> StreamStats:
        return StreamStats(stream_id=stream_id, **self.stats_of)

    async def add_webrtc_viewer(self, stream_id: str, offer: WebRtcOffer) -> WebRtcAnswer:
        if self.webrtc_error is not None:
            raise self.webrtc_error
        return WebRtcAnswer(viewer_id=offer.viewer_id, sdp="answer")

    async def close_viewer(self, viewer_id: str) -> None:
        self.closed_viewers.append(viewer_id)

    async def snapshot(self, stream_id: str) -> bytes:
        return b"\xff\xd8 " + stream_id.encode()


class FakeNodes:
    on_event: Any = None
    on_stats: Any = None

    def __init__(self) -> None:
        self.handle = NodeHandle("node-0", 0, FakeClient(), 8081)  # type: ignore[arg-type]
        self.down = False
        self.on_lost: list[Any] = []

    def pick(self) -> NodeHandle:
        if self.down:
            raise PlayFailed(PlayCause.NODE_DOWN, "none")
        return self.handle

    async def wait_any(self, timeout_s: float) -> bool:
        return not self.down


class MemoryJournal(dict[str, Any]):
    def put(self, kind: str, key: str, state: dict[str, Any]) -> None:
        self[key] = state

    def remove(self, kind: str, key: str) -> None:
        self.pop(key, None)

    async def load(self, kind: str) -> dict[str, dict[str, Any]]:
        return {}


class Watching:
    def __init__(self) -> None:
        self.causes: list[str] = []
        self.successors: list[LiveSession] = []

    def session_ended(self, session: LiveSession, cause: str) -> None:
        self.causes.append(cause)

    def session_moved(self, session: LiveSession, successor: LiveSession) -> None:
        self.successors.append(successor)


class House:
    """Sessions with everything around them scripted. Pictures arrive at once unless ``pictures`` is false."""

    def __init__(self, *, profile: Profile | None = None, rest_s: float = 60.0, **media: Any) -> None:
        self.clock = ManualClock()
        self.bus = EventBus()
        self.events: list[Event] = []
        self.bus.subscribe(Event, callback=self.events.append)
        self.registry = Registry(bus=self.bus, clock=self.clock)
        flow = Flow("udp", "10.0.0.9", 5060, "10.0.0.1", 5060)
        self.device = Device(NVR, state=State.ONLINE, flow=flow, profile=profile or Profile())
        self.registry.put_device(self.device)
        self.registry.put_channel(Channel(NVR, CAMERA, reported="ON"))
        self.endpoint, self.nodes, self.journal = FakeEndpoint(), FakeNodes(), MemoryJournal()
        self.client: FakeClient = self.nodes.handle.client  # type: ignore[assignment]
        values = {"transport": "udp", "first_picture_timeout_s": 0.3, "invite_timeout_s": 2.0, **media}
        settings = MediaSettings.model_validate(values)
        self.pool = SsrcPool("4101830000", rest_s=rest_s)
        journal = DialogJournal(journal=self.journal, endpoint=self.endpoint, ssrc_pool=self.pool)
        self.opener = Opener(
            settings=settings,
            server_id=SERVER,
            domain="4101830000",
            endpoint=self.endpoint,
            nodes=self.nodes,  # type: ignore[arg-type]
            address=MediaAddress(
                own=OwnAddress(SipSettings(), route=lambda host: "10.0.0.1"), media=settings
            ),
            journal=journal,
            ssrc_pool=self.pool,
            clock=self.clock,
        )
        self.sessions = Sessions(
            settings=settings,
            registry=self.registry,
            bus=self.bus,
            opener=self.opener,
            nodes=self.nodes,  # type: ignore[arg-type]
            journal=journal,
            ticket_secret="secret",
            clock=self.clock,
        )
        self.pictures = True
        self.client.on_updated = self._updated

    def _updated(self, stream_id: str) -> None:
        if self.pictures:
            self.emit(StreamReady(stream_id=stream_id, video=PICTURE, audio=None))

    def emit(self, event: Any) -> None:
        self.nodes.on_event(self.nodes.handle, event)

    async def __aenter__(self) -> House:
        await self.sessions.start()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.sessions.close()

    def told(self, kind: type[Event]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    def assert_nothing_left(self) -> None:
        """Whatever happened: no receiver, SSRC, dialog, journal entry, placement or session is left."""
        assert not self.client.receivers
        assert self.pool.leased == 0
        assert all(dialog.ended.done() for dialog in self.endpoint.dialogs)
        assert not self.journal
        assert self.nodes.handle.placed == 0
        assert self.sessions.list() == []
        assert not self.opener.by_stream
        assert self.sessions.open_streams(NVR) == 0


async def settle() -> None:
    for _ in range(12):
        await asyncio.sleep(0)


async def test_play_from_invite_to_first_picture() -> None:
    async with House() as house:
        session = await house.sessions.play(NVR, CAMERA)
        info = session.info
        assert (info.state, info.video_codec, info.ssrc) == (SessionState.STREAMING, "H264", 183000001 - 1)
        assert house.endpoint.subjects == [f"{CAMERA}:0183000000,{SERVER}:0183000000"]
        assert house.endpoint.targets[0].uri == f"sip:{CAMERA}@10.0.0.9:5060"
        assert list(house.journal) == [info.call_id]
        assert house.registry.channel(NVR, CAMERA).media_proof_at == house.clock.utc()  # type: ignore[union-attr]
        await settle()
        assert house.told(SessionStarted)[0].info is info
        assert house.told(FirstPicture)[0].kind == "live"
        assert house.sessions.by_call_id(info.call_id) is session
    house.assert_nothing_left()
    assert house.told(SessionEnded)[0].info.end_cause == "gateway_stopped"


@pytest.mark.gb("G203")
async def test_subject_serials() -> None:
    async with House() as house:
        await house.sessions.play(NVR, CAMERA)
        sender, receiver = house.endpoint.subjects[0].split(",")
        for part in (sender.split(":")[1], receiver.split(":")[1]):
            assert part[0] == "0"
            assert len(part) <= 20


@pytest.mark.gb("G232")
async def test_twenty_viewers_are_one_invite() -> None:
    async with House() as house:
        early = [asyncio.create_task(house.sessions.play(NVR, CAMERA)) for _ in range(10)]
        sessions = await asyncio.gather(*early)
        sessions += [await house.sessions.play(NVR, CAMERA) for _ in range(10)]
        assert len({id(session) for session in sessions}) == 1
        assert len(house.endpoint.offers) == 1


async def test_sub_stream_is_a_session_of_its_own() -> None:
    async with House() as house:
        main, sub = await asyncio.gather(
            house.sessions.play(NVR, CAMERA), house.sessions.play(NVR, CAMERA, stream_number=1)
        )
        assert main is not sub
        assert main.info.ssrc != sub.info.ssrc


async def test_one_impatient_viewer_does_not_cancel_the_others() -> None:
    async with House() as house:
        gate = asyncio.Event()

        async def slow(offer: bytes) -> FakeDialog:
            await gate.wait()
            return FakeDialog(answer_sdp(offer))

        house.endpoint.behaviours = [slow]
        tasks = [asyncio.create_task(house.sessions.play(NVR, CAMERA)) for _ in range(2)]
        await settle()
        tasks[0].cancel()
        await settle()
        gate.set()
        assert (await tasks[1]).streaming
        assert house.endpoint.cancelled == 0


async def test_all_waiters_gone_cancels_the_invite() -> None:
    async with House() as house:
        house.endpoint.behaviours = [lambda offer: asyncio.Event().wait(), house.endpoint.accept]  # type: ignore[list-item, return-value]
        tasks = [asyncio.create_task(house.sessions.play(NVR, CAMERA)) for _ in range(3)]
        await settle()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        again = await house.sessions.play(NVR, CAMERA)  # does not get the dying one
        assert again.streaming
        assert house.endpoint.cancelled == 1
        assert len(house.endpoint.offers) == 2
    house.assert_nothing_left()


@pytest.mark.gb("G199")
async def test_another_ssrc_in_the_answer_re_keys_the_receiver() -> None:
    async with House() as house:

        async def other(offer: bytes) -> FakeDialog:
            return FakeDialog(answer_sdp(offer, "0200009319"))

        house.endpoint.behaviours = [other]
        session = await house.sessions.play(NVR, CAMERA)
        assert house.client.updates[0].ssrc == 200009319
        assert session.info.ssrc == 200009319
    house.assert_nothing_left()  # the leased value goes back, not the device's


@pytest.mark.gb("G201")
async def test_released_ssrc_rests() -> None:
    async with House() as house:
        first = (await house.sessions.play(NVR, CAMERA)).info
        await house.sessions.stop(first.session_id)
        second = (await house.sessions.play(NVR, CAMERA)).info
        assert first.ssrc != second.ssrc
        assert house.pool.resting(house.clock.mono()) == 1


@pytest.mark.gb("G198")
@pytest.mark.quirk(29)
async def test_exhausted_ssrc_is_486_upward() -> None:
    async with House() as house:
        leased = [house.pool.lease("live", 0.0) for _ in range(10_000)]
        assert len({f"{ssrc:010d}" for ssrc in leased}) == 10_000
        assert all(f"{ssrc:010d}".startswith("018300") for ssrc in leased)
        with pytest.raises(PlayFailed) as failure:
            await house.sessions.play(NVR, CAMERA)
        assert (failure.value.cause, failure.value.sip_status) == (PlayCause.NO_SSRC, 486)
        assert not house.endpoint.offers


def rejects(status: int) -> Behaviour:
    async def behaviour(offer: bytes) -> FakeDialog:
        raise Rejected(Response(status, "", Headers()))

    return behaviour


def raises(error: Exception) -> Behaviour:
    async def behaviour(offer: bytes) -> FakeDialog:
        raise error

    return behaviour


@pytest.mark.parametrize(
    ("behaviour", "cause", "invites"),
    [
        (rejects(486), PlayCause.BUSY, 1),
        (rejects(404), PlayCause.REJECTED, 1),
        (rejects(488), PlayCause.SDP_NOT_ACCEPTED, 4),
        (rejects(415), PlayCause.SDP_NOT_ACCEPTED, 4),
        (rejects(400), PlayCause.REJECTED, 4),
        (raises(TransactionTimeout("", provisional=False)), PlayCause.INVITE_TIMEOUT, 1),
        (raises(TransactionTimeout("", provisional=True)), PlayCause.SDP_NOT_ACCEPTED, 1),
        (raises(TransportFailed("closed")), PlayCause.DEVICE_OFFLINE, 1),
    ],
)
async def test_failed_invites_leave_nothing_behind(
    behaviour: Behaviour, cause: PlayCause, invites: int
) -> None:
    async with House() as house:
        house.endpoint.behaviours = [behaviour]
        with pytest.raises(PlayFailed) as failure:
            await house.sessions.play(NVR, CAMERA)
        assert failure.value.cause is cause
        assert len(house.endpoint.offers) == invites
        await settle()
        assert [event.cause for event in house.told(SessionFailed)] == [cause.value]
        assert house.sessions.failures == {cause.value: 1}
        assert house.device.online
        house.assert_nothing_left()


@pytest.mark.quirk(30)
async def test_the_ladder_finds_what_works_and_remembers_it() -> None:
    async with House(transport="tcp_passive") as house:
        house.endpoint.behaviours = [rejects(488), rejects(415), house.endpoint.accept]
        session = await house.sessions.play(NVR, CAMERA)
        media = [
            next(line for line in o.decode().splitlines() if line.startswith("m="))
            for o in house.endpoint.offers
        ]
        assert [line.split()[2] for line in media] == ["TCP/RTP/AVP", "RTP/AVP", "TCP/RTP/AVP"]
        assert b"a=setup:active" in house.endpoint.offers[2]
        assert house.client.updates[0].remote_port == 15060
        assert session.info.transport == house.device.profile.media_transport == "tcp_active"
        await house.sessions.stop(session.session_id)
        house.assert_nothing_left()
        await house.sessions.play(NVR, CAMERA)
        assert b"a=setup:active" in house.endpoint.offers[3]


async def test_a_pinned_transport_has_no_ladder() -> None:
    async with House() as house:
        house.endpoint.behaviours = [rejects(488)]
        with pytest.raises(PlayFailed):
            await house.sessions.play(NVR, CAMERA, transport="tcp_active")
        assert len(house.endpoint.offers) == 1


@pytest.mark.gb("G235")
async def test_no_rtp_is_bye_and_no_stream() -> None:
    async with House() as house:
        house.pictures = False
        with pytest.raises(PlayFailed) as failure:
            await house.sessions.play(NVR, CAMERA, transport="udp")
        assert (failure.value.cause, failure.value.status) == (PlayCause.NO_STREAM, 504)
        assert [dialog.byes for dialog in house.endpoint.dialogs] == [1]
        house.assert_nothing_left()


@pytest.mark.quirk(46)
@pytest.mark.parametrize(
    ("seen", "cause"),
    [
        ({"packets": 40}, PlayCause.NO_PICTURE),
        ({"packets": 40, "media_mismatch": "payload type 33"}, PlayCause.MEDIA_MISMATCH),
    ],
)
async def test_packets_without_a_picture(seen: dict[str, Any], cause: PlayCause) -> None:
    async with House() as house:
        house.pictures, house.client.stats_of = False, seen
        with pytest.raises(PlayFailed) as failure:
            await house.sessions.play(NVR, CAMERA)
        assert failure.value.cause is cause
        assert len(house.endpoint.offers) == 1  # RTP came: another transport would not help
        house.assert_nothing_left()


@pytest.mark.gb("G234")
async def test_unusable_answer_is_bye() -> None:
    async with House() as house:

        async def empty(offer: bytes) -> FakeDialog:
            return FakeDialog(b"")

        house.endpoint.behaviours = [empty]
        with pytest.raises(PlayFailed) as failure:
            await house.sessions.play(NVR, CAMERA, transport="udp")
        assert failure.value.cause is PlayCause.SDP_NOT_ACCEPTED
        assert house.endpoint.dialogs[0].byes == 1
        house.assert_nothing_left()


@pytest.mark.parametrize(
    ("code", "cause"), [("no_port", PlayCause.NO_PORT), ("unavailable", PlayCause.NODE_DOWN)]
)
async def test_a_node_that_cannot(code: str, cause: PlayCause) -> None:
    async with House() as house:
        house.client.error = MediaError(code)
        with pytest.raises(PlayFailed) as failure:
            await house.sessions.play(NVR, CAMERA)
        assert (failure.value.cause, failure.value.status) == (cause, 503)
        house.assert_nothing_left()


async def test_what_cannot_be_played_at_all() -> None:
    async with House() as house:
        for device_id, channel_id, status in ((NVR[:-1] + "9", CAMERA, 404), (NVR, CAMERA[:-1] + "9", 404)):
            with pytest.raises(PlayFailed) as failure:
                await house.sessions.play(device_id, channel_id)
            assert failure.value.status == status
        house.registry.mark_offline(house.device, "expired")
        with pytest.raises(PlayFailed) as failure:
            await house.sessions.play(NVR, CAMERA)
        assert (failure.value.cause, failure.value.sip_status) == (PlayCause.DEVICE_OFFLINE, 480)


@pytest.mark.quirk(34)
async def test_the_limit_of_a_device_is_learned() -> None:
    async with House() as house:
        house.registry.put_channel(Channel(NVR, CAMERA[:-1] + "2"))
        house.endpoint.behaviours = [house.endpoint.accept, rejects(486)]
        await house.sessions.play(NVR, CAMERA)
        with pytest.raises(PlayFailed) as failure:
            await house.sessions.play(NVR, CAMERA[:-1] + "2")
        assert failure.value.open_streams == 1
        assert house.sessions.device_limits == {NVR: 1}


@pytest.mark.gb("G233")
async def test_device_bye_ends_all_viewers_with_a_reason() -> None:
    async with House() as house:
        session = await house.sessions.play(NVR, CAMERA)
        upper = Watching()
        session.watch(upper)
        house.endpoint.dialogs[0].end("remote_bye")
        await settle()
        assert upper.causes == ["device_bye"]
        assert house.told(SessionEnded)[0].info.end_cause == "device_bye"
        assert session.stream_id in house.client.closed
        house.assert_nothing_left()


async def test_device_bye_while_waiting_for_the_picture() -> None:
    async with House(first_picture_timeout_s=5) as house:
        house.pictures = False
        play = asyncio.create_task(house.sessions.play(NVR, CAMERA))
        await settle()
        house.endpoint.dialogs[0].end("remote_bye")
        with pytest.raises(PlayFailed) as failure:
            await play
        assert failure.value.cause is PlayCause.NO_STREAM
        assert len(house.endpoint.offers) == 1
        house.assert_nothing_left()


@pytest.mark.gb("G230")
async def test_lost_rtp_ends_the_session_on_both_sides() -> None:
    async with House() as house:
        session = await house.sessions.play(NVR, CAMERA)
        upper = Watching()
        session.watch(upper)
        house.emit(StreamLost(stream_id=session.stream_id, cause="no_rtp"))
        await settle()
        assert upper.causes == ["no_rtp"]
        assert house.endpoint.dialogs[0].byes == 1
        house.assert_nothing_left()


@pytest.mark.gb("G231")
async def test_offline_device_releases_its_media() -> None:
    async with House() as house:
        session = await house.sessions.play(NVR, CAMERA)
        upper = Watching()
        session.watch(upper)
        house.registry.mark_offline(house.device, "expired")
        await settle()
        assert upper.causes == ["device_offline"]
        house.assert_nothing_left()


async def test_device_going_offline_while_opening() -> None:
    async with House() as house:
        house.endpoint.behaviours = [lambda offer: asyncio.Event().wait()]  # type: ignore[list-item, return-value]
        play = asyncio.create_task(house.sessions.play(NVR, CAMERA))
        await settle()
        house.registry.mark_offline(house.device, "expired")
        with pytest.raises(PlayFailed) as failure:
            await play
        assert failure.value.cause is PlayCause.DEVICE_OFFLINE
        assert house.endpoint.cancelled == 1
        house.assert_nothing_left()


@pytest.mark.gb("G232")
async def test_idle_stream_ends_after_the_linger_time_unless_watched() -> None:
    async with House(idle_grace_s=5) as house:
        session = await house.sessions.play(NVR, CAMERA)
        release = session.watch(Watching())
        house.clock.advance(60)
        house.emit(StreamIdle(stream_id=session.stream_id))
        await settle()
        assert session.streaming
        release()
        house.emit(StreamIdle(stream_id=session.stream_id))
        await settle()
        assert session.info.end_cause == "idle"
        assert house.endpoint.dialogs[0].byes == 1
        house.assert_nothing_left()


async def test_idle_report_that_crosses_a_play_is_no_end() -> None:
    async with House(idle_grace_s=5) as house:
        session = await house.sessions.play(NVR, CAMERA)
        house.clock.advance(60)
        assert await house.sessions.play(NVR, CAMERA) is session
        house.emit(StreamIdle(stream_id=session.stream_id))
        await settle()
        assert session.streaming
        house.clock.advance(9)  # the viewer never came: the next heartbeats notice
        house.nodes.on_stats(house.nodes.handle, stats(session, viewers=0))
        await settle()
        assert session.info.end_cause == "idle"


def stats(*sessions: LiveSession, viewers: int = 0, others: tuple[str, ...] = ()) -> NodeStats:
    streams = [StreamStats(stream_id=s.stream_id, viewers=viewers, packets=7) for s in sessions]
    streams += [StreamStats(stream_id=stream_id) for stream_id in others]
    return NodeStats(node_id="node-0", per_stream=tuple(streams))


async def test_viewers_are_counted_and_keep_the_stream() -> None:
    async with House(idle_grace_s=5) as house:
        session = await house.sessions.play(NVR, CAMERA)
        for _ in range(5):
            house.clock.advance(20)
            house.nodes.on_stats(house.nodes.handle, stats(session, viewers=3))
        await settle()
        assert house.sessions.list()[0].viewers == 3


@pytest.mark.quirk(33)
async def test_node_and_sessions_are_reconciled() -> None:
    """A stream that nobody owns is closed; a session whose stream is gone ends. Both need two heartbeats."""
    async with House() as house:
        session = await house.sessions.play(NVR, CAMERA)
        house.nodes.on_stats(house.nodes.handle, stats(session, viewers=1, others=("ghost",)))
        await settle()
        assert house.client.closed == []
        house.nodes.on_stats(house.nodes.handle, stats(others=("ghost",)))
        await settle()
        assert house.client.closed == ["ghost"]
        assert house.sessions.ghosts_closed == 1
        assert session.streaming
        house.nodes.on_stats(house.nodes.handle, stats())
        await settle()
        assert session.info.end_cause == "stream_missing"
        house.assert_nothing_left()


async def test_lost_node_is_bye_and_the_watched_ones_open_again() -> None:
    async with House() as house:
        house.registry.put_channel(Channel(NVR, CAMERA[:-1] + "2"))
        session = await house.sessions.play(NVR, CAMERA)
        unseen = await house.sessions.play(NVR, CAMERA[:-1] + "2")
        upper = Watching()
        session.watch(upper)
        dead, house.nodes.handle = house.nodes.handle, FakeNodes().handle
        house.nodes.handle.client.on_updated = house._updated  # type: ignore[attr-defined]
        dead.alive = False
        house.nodes.on_lost[0](dead, "exited")
        async with asyncio.timeout(5):
            while not upper.successors:
                await asyncio.sleep(0.01)
        assert upper.causes == []
        assert upper.successors[0] is house.sessions.find(NVR, CAMERA)
        assert session.info.end_cause == unseen.info.end_cause == "node_lost"
        assert len(house.endpoint.offers) == 3
        assert [dialog.byes for dialog in house.endpoint.dialogs] == [1, 1, 0]
        assert house.device.online  # SIP never noticed


async def test_lost_node_while_opening() -> None:
    async with House(first_picture_timeout_s=5) as house:
        house.pictures = False
        play = asyncio.create_task(house.sessions.play(NVR, CAMERA))
        await settle()
        house.nodes.handle.alive = False
        house.nodes.on_lost[0](house.nodes.handle, "exited")
        with pytest.raises(PlayFailed) as failure:
            await play
        assert failure.value.cause is PlayCause.NODE_DOWN
        assert house.endpoint.dialogs[0].byes == 1


async def test_key_frame_wish_goes_to_the_device() -> None:
    async with House() as house:
        asked: list[tuple[str, str]] = []

        async def key_frame(device_id: str, channel_id: str) -> bool:
            asked.append((device_id, channel_id))
            return True

        house.sessions.connect(key_frame=key_frame)
        session = await house.sessions.play(NVR, CAMERA)
        house.emit(KeyFrameWanted(stream_id=session.stream_id))
        await settle()
        assert asked == [(NVR, CAMERA)]


async def test_faults_and_ended_relays_are_passed_on() -> None:
    async with House() as house:
        ended: list[SenderEnded] = []
        house.sessions.connect(sender_ended=ended.append)
        session = await house.sessions.play(NVR, CAMERA)
        house.emit(StreamFault(stream_id=session.stream_id, kind="ssrc_mismatch", detail="0000000000"))
        house.emit(SenderEnded(stream_id=session.stream_id, sender_id="s", cause="connection_lost"))
        await settle()
        assert house.told(MediaFault)[0].kind == "ssrc_mismatch"
        assert [event.sender_id for event in ended] == ["s"]


async def test_browser_viewers() -> None:
    async with House() as house:
        viewer_id, answer = await house.sessions.whep(NVR, CAMERA, "offer")
        assert answer == "answer"
        assert await house.sessions.close_viewer(viewer_id)
        assert not await house.sessions.close_viewer(viewer_id)
        viewer_id, _ = await house.sessions.whep(NVR, CAMERA, "offer")
        session = house.sessions.find(NVR, CAMERA)
        assert session is not None
        house.emit(ViewerEnded(stream_id=session.stream_id, viewer_id=viewer_id, kind="webrtc", cause="left"))
        assert not await house.sessions.close_viewer(viewer_id)
        house.client.webrtc_error = MediaError("unsupported")
        with pytest.raises(MediaError) as error:
            await house.sessions.whep(NVR, CAMERA, "offer")
        assert error.value.code == "unsupported"
        assert session.streaming  # the page goes on with fMP4
        assert (await house.sessions.snapshot(NVR, CAMERA)).startswith(b"\xff\xd8")
        assert len(house.endpoint.offers) == 1


async def test_viewer_urls_carry_a_ticket() -> None:
    async with House() as house:
        session = await house.sessions.play(NVR, CAMERA)
        urls = house.sessions.viewer_urls(session, "gateway.example")
        stream, now = session.stream_id, house.clock.utc().timestamp()
        assert urls["fmp4"].startswith(f"http://gateway.example:8081/live/{stream}.mp4?ticket=")
        assert urls["ws"].startswith(f"ws://gateway.example:8081/live/{stream}/ws?ticket=")
        assert urls["flv"].startswith(f"http://gateway.example:8081/live/{stream}.flv?ticket=")
        assert urls["ws_flv"].startswith(f"ws://gateway.example:8081/live/{stream}/ws.flv?ticket=")
        assert urls["ts"].startswith(f"http://gateway.example:8081/live/{stream}.ts?ticket=")
        assert urls["hls"].startswith(f"http://gateway.example:8081/live/{stream}.m3u8?ticket=")
        for output in ("fmp4", "ws", "flv", "ws_flv", "ts", "hls"):
            ticket = urls[output].partition("ticket=")[2]
            assert verify("secret", stream, ticket, now)
            assert not verify("secret", stream, ticket, now + 301)
    async with House(viewer_public_url="https://video.example/node{node}/") as house:
        session = await house.sessions.play(NVR, CAMERA)
        assert house.sessions.viewer_urls(session)["ws"].startswith("wss://video.example/node0/live/")


async def test_stopping_twice_and_unknown_sessions() -> None:
    async with House() as house:
        session = await house.sessions.play(NVR, CAMERA)
        await asyncio.gather(house.sessions.stop(session.session_id), house.sessions.stop(session.session_id))
        assert house.endpoint.dialogs[0].byes == 1
        await settle()
        assert len(house.told(SessionEnded)) == 1
        with pytest.raises(PlayFailed) as failure:
            await house.sessions.stop(session.session_id)
        assert failure.value.status == 404


@pytest.mark.quirk(29)
async def test_a_thousand_plays_leak_nothing() -> None:
    async with House(rest_s=0.0) as house:
        house.endpoint.behaviours = [
            *[
                b
                for _ in range(250)
                for b in (house.endpoint.accept, rejects(486), rejects(404), house.endpoint.accept)
            ],
            house.endpoint.accept,
        ]
        for _ in range(1000):
            try:
                session = await house.sessions.play(NVR, CAMERA)
            except PlayFailed:
                continue
            await house.sessions.stop(session.session_id)
        house.assert_nothing_left()
