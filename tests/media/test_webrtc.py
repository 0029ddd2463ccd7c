"""WebRTC viewers against another WebRTC stack's player: pictures, sound, loss, refusals, the end of each side."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import av
import pytest
from aiohttp import ClientSession
from aiortc.rtcdtlstransport import RTCDtlsTransport
from aiortc.rtp import RtpPacket
from rtc_player import Player

from media.readers import webrtc
from media.readers.rtc import HISTORY, announced_hosts, local_addresses
from media.readers.rtc_channel import CACHED_UNITS, Pacer, RtcChannel
from media.stream import Stream
from media.unit import Codec
from simulator.picture import TestPicture, read_mark, tone


async def gone(reader_node: Any) -> str:
    async with asyncio.timeout(40):
        while not reader_node.seen.closed:
            await asyncio.sleep(0.02)
    return str(reader_node.seen.closed[0][1])


@pytest.mark.parametrize("profile", ["baseline", "main", "high"])
async def test_pictures_arrive_from_the_key_frame_on(reader_node: Any, player: Player, profile: str) -> None:
    stream = reader_node.open()
    reader_node.feed(stream, TestPicture(352, 288, preset="veryfast", profile=profile))
    await stream.wait_ready(10)
    await asyncio.sleep(0.4)
    assert await player.offer() == 201
    frames = await player.frames(45)
    assert frames == list(range(45)), "the group of pictures from its start, none lost"
    assert reader_node.seen.opened == [("viewer-1", "webrtc")]


@pytest.mark.parametrize(("codec", "name"), [(Codec.PCMA, "PCMA"), (Codec.PCMU, "PCMU")])
async def test_sound_passes_as_g711(reader_node: Any, player: Player, codec: Codec, name: str) -> None:
    stream = reader_node.open()
    for unit in sorted(TestPicture(352, 288).encoded_loop(1) + tone(1, codec), key=lambda unit: unit.dts):
        stream.publish(unit)
    assert await player.offer() == 201
    audio = player.answer["sdp"].split("m=audio")[1]
    assert f" {name}/8000" in audio
    assert "opus" not in audio
    await player.frames(5)
    for unit in tone(1, codec):
        stream.publish(replace(unit, pts=unit.pts + 90_000, dts=unit.dts + 90_000))
        await asyncio.sleep(0.01)
    loudest = 0
    async with asyncio.timeout(20):
        while loudest < 5000:
            frame = await player.tracks["audio"].recv()
            loudest = max(loudest, abs(frame.to_ndarray()).max())


async def test_without_sound_the_audio_section_is_inactive(reader_node: Any, player: Player) -> None:
    reader_node.feed(stream := reader_node.open(), audio=False)
    await stream.wait_ready(10)
    assert await player.offer() == 201
    assert "a=inactive" in player.answer["sdp"].split("m=audio")[1]
    assert len(await player.frames(3)) == 3


async def test_the_one_port_and_loopback_are_offered(reader_node: Any, player: Player) -> None:
    reader_node.feed(stream := reader_node.open())
    await stream.wait_ready(10)
    assert await player.offer() == 201
    candidates = [
        line.split() for line in player.answer["sdp"].splitlines() if line.startswith("a=candidate")
    ]
    assert {fields[4] for fields in candidates} == {"127.0.0.1"}
    assert {int(fields[5]) for fields in candidates} == {reader_node.webrtc.ports.port}


async def test_a_forced_host_is_the_only_candidate(reader_node: Any, player: Player) -> None:
    reader_node.feed(stream := reader_node.open())
    await stream.wait_ready(10)
    assert await player.offer(host="192.0.2.7") == 201
    candidates = [
        line.split()[4] for line in player.answer["sdp"].splitlines() if line.startswith("a=candidate")
    ]
    assert set(candidates) == {"192.0.2.7"}


@pytest.mark.parametrize(
    "picture",
    [TestPicture(352, 288, codec="h265"), TestPicture(352, 288, preset="veryfast", b_frames=2)],
    ids=["h265", "b-frames"],
)
async def test_what_browsers_cannot_decode_is_refused(
    reader_node: Any, player: Player, picture: TestPicture
) -> None:
    stream = reader_node.open()
    for unit in picture.encoded_loop(1):
        stream.publish(unit)
    assert await player.offer() == 415
    assert player.answer["code"] == "unsupported"
    assert reader_node.seen.opened == []


H265_PARAMETERS = "level-id=93;profile-id=1;tier-flag=0;tx-mode=SRST"


def as_h265(sdp: str) -> str:
    """An offer of a browser that takes H.265."""
    sdp = re.sub(r"H264/90000", "H265/90000", sdp)
    return re.sub(r"(a=fmtp:\d+) [^\r]*profile-level-id=[^\r]*", rf"\1 {H265_PARAMETERS}", sdp)


def as_h264(sdp: str) -> str:
    """The answer for a library that does not know H.265."""
    known = "level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42e01f"
    return sdp.replace("H265/90000", "H264/90000").replace(H265_PARAMETERS, known)


def h265_units(packets: list[RtpPacket]) -> list[bytes]:
    """Whole access units from payloads (RFC 7798 4.4)."""
    units, current, fragments = [], b"", b""
    for packet in sorted(packets, key=lambda packet: packet.sequence_number):
        payload, start = packet.payload, b"\0\0\0\1"
        kind = payload[0] >> 1 & 0x3F
        if kind == 48:
            place = 2
            while place < len(payload):
                size = int.from_bytes(payload[place : place + 2], "big")
                current += start + payload[place + 2 : place + 2 + size]
                place += 2 + size
        elif kind == 49:
            if payload[2] & 0x80:
                fragments = bytes((payload[0] & 0x81 | (payload[2] & 0x3F) << 1, payload[1]))
            fragments += payload[3:]
            if payload[2] & 0x40:
                current += start + fragments
        else:
            current += start + payload
        if packet.marker:
            units.append(current)
            current = b""
    return units


async def test_h265_goes_to_a_browser_that_takes_it(reader_node: Any, player: Player) -> None:
    stream = reader_node.open()
    picture = TestPicture(352, 288, codec="h265", bitrate=2_000_000)
    packets = player.watch_packets()
    reader_node.feed(stream, picture, audio=False)
    await stream.wait_ready(10)
    await asyncio.sleep(0.5)
    assert await player.offer(audio=False, edit=as_h265, through=as_h264) == 201
    assert "H265/90000" in player.answer["sdp"]
    assert H265_PARAMETERS in player.answer["sdp"]
    async with asyncio.timeout(30):
        while len(h265_units(packets)) < 30:
            await asyncio.sleep(0.1)
    decoder = av.CodecContext.create("hevc", "r")
    frames = [frame for unit in h265_units(packets) for frame in decoder.decode(av.Packet(unit))]
    marks = [read_mark(frame.to_ndarray(format="gray")) for frame in frames]
    numbers = [mark.frame for mark in marks if mark is not None]
    # The library's decoder, which knows no H.265, reports lost pictures: what comes then begins anew.
    assert all(after in (before + 1, 0) for before, after in pairwise(numbers)), numbers
    assert set(numbers) >= set(range(12))


@pytest.mark.parametrize(
    ("edit", "code"),
    [
        (lambda sdp: "nonsense", "unsupported"),
        (lambda sdp: sdp.replace("H264", "H266"), "unsupported"),
        (lambda sdp: sdp.replace("a=fingerprint", "a=thumbprint"), "bad_request"),
        (lambda sdp: sdp.replace("a=ice-ufrag", "a=nothing"), "bad_request"),
        (lambda sdp: sdp.replace("v=0", "v=x"), "bad_request"),
    ],
)
async def test_a_bad_offer_is_refused(
    reader_node: Any, player: Player, edit: Callable[[str], str], code: str
) -> None:
    reader_node.feed(stream := reader_node.open())
    await stream.wait_ready(10)
    assert await player.offer(edit=edit) in (400, 415)
    assert player.answer["code"] == code
    assert reader_node.seen.opened == []


async def test_a_body_that_is_no_offer(reader_node: Any, http: ClientSession) -> None:
    reader_node.open()
    for body in (b"", b"{}", b'{"viewer_id": "../x", "sdp": ""}', b"\xff"):
        async with http.post(reader_node.url("/streams/gate/webrtc"), data=body) as response:
            assert response.status == 400


async def test_unknown_stream_and_unknown_viewer(reader_node: Any, http: ClientSession) -> None:
    async with http.post(reader_node.url("/streams/gate/webrtc"), json={}) as response:
        assert response.status == 404
    async with http.delete(reader_node.url("/viewers/nobody")) as response:
        assert response.status == 204


async def test_the_gateway_ends_a_viewer(reader_node: Any, player: Player, http: ClientSession) -> None:
    reader_node.feed(stream := reader_node.open())
    await stream.wait_ready(10)
    await player.offer()
    await player.frames(3)
    async with http.delete(reader_node.url("/viewers/viewer-1")) as response:
        assert response.status == 204
    assert await gone(reader_node) == "closed"
    assert stream.readers == []


async def test_the_player_leaves(reader_node: Any, player: Player) -> None:
    reader_node.feed(stream := reader_node.open())
    await stream.wait_ready(10)
    await player.offer()
    await player.frames(3)
    await player.peer.close()
    assert await gone(reader_node) == "left"
    assert stream.readers == []


async def test_the_stream_ends(reader_node: Any, player: Player) -> None:
    reader_node.feed(stream := reader_node.open())
    await stream.wait_ready(10)
    await player.offer()
    await player.frames(3)
    stream.close("no_rtp")
    assert await gone(reader_node) == "no_rtp"


async def test_a_player_that_never_comes_is_given_up(
    reader_node: Any, player: Player, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webrtc, "CONNECT_TIMEOUT_S", 0.2)
    reader_node.feed(stream := reader_node.open())
    await stream.wait_ready(10)
    assert await player.offer(edit=lambda sdp: sdp.replace("a=ice-pwd:", "a=ice-pwd:x")) == 201
    assert await gone(reader_node) == "not_connected"


async def test_a_viewer_id_is_used_once(reader_node: Any, player: Player, http: ClientSession) -> None:
    reader_node.feed(stream := reader_node.open())
    await stream.wait_ready(10)
    assert await player.offer() == 201
    again = Player(http, reader_node)
    assert await again.offer() == 400
    await again.peer.close()


async def test_picture_loss_asks_the_camera_for_a_key_frame(reader_node: Any, player: Player) -> None:
    stream = reader_node.open()
    asked: list[float] = []
    stream._on_key_frame_wanted = lambda _: asked.append(time.monotonic())
    reader_node.feed(stream)
    await stream.wait_ready(10)
    await player.offer()
    await player.frames(3)
    asked.clear()
    stream._key_frame_asked_mono = None
    for _ in range(3):
        await player.send_pli()
    async with asyncio.timeout(10):
        while not asked:
            await asyncio.sleep(0.02)
    await player.frames(3)
    assert len(asked) == 1, "at most one request in two seconds"


async def test_lost_packets_are_sent_again(
    reader_node: Any, player: Player, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every 20th media packet is lost on its way in; retransmissions (RFC 4588) repair all of it."""
    lost = {"count": 0, "seen": 0}
    handle = RTCDtlsTransport._handle_rtp_data
    ours = player.peer

    async def lossy(self: Any, data: bytes, arrival_time_ms: int) -> None:
        first_time = data[1] & 0x7F in {payload_type(player)}
        if self in {transceiver.receiver.transport for transceiver in ours.getTransceivers()} and first_time:
            lost["seen"] += 1
            if lost["seen"] % 20 == 0:
                lost["count"] += 1
                return
        await handle(self, data, arrival_time_ms)

    monkeypatch.setattr(RTCDtlsTransport, "_handle_rtp_data", lossy)
    stream = reader_node.open()
    reader_node.feed(stream, TestPicture(352, 288, bitrate=3_000_000), audio=False)
    await stream.wait_ready(10)
    await player.offer(audio=False)
    frames = await player.frames(40)
    assert lost["count"] > 3
    assert frames == list(range(frames[0], frames[0] + 40))


def payload_type(player: Player) -> int:
    video = player.answer["sdp"].split("m=video")[1].splitlines()[0]
    return int(video.split(" ")[3])


async def test_packets_are_plain_rtp_with_markers_and_a_running_clock(
    reader_node: Any, player: Player, monkeypatch: pytest.MonkeyPatch
) -> None:
    packets: list[RtpPacket] = []
    handle = RTCDtlsTransport._handle_rtp_data

    async def watch(self: Any, data: bytes, arrival_time_ms: int) -> None:
        packet = RtpPacket.parse(data)
        if packet.payload_type == payload_type(player):
            packets.append(packet)
        await handle(self, data, arrival_time_ms)

    monkeypatch.setattr(RTCDtlsTransport, "_handle_rtp_data", watch)
    stream = reader_node.open()
    reader_node.feed(stream)
    await stream.wait_ready(10)
    await player.offer()
    await player.frames(20)
    ordered = sorted(packets, key=lambda packet: packet.sequence_number)
    sequence = [packet.sequence_number for packet in ordered]
    assert sequence == list(range(sequence[0], sequence[0] + len(sequence)))
    stamps = list(dict.fromkeys(packet.timestamp for packet in ordered))
    assert {after - before & 0xFFFFFFFF for before, after in pairwise(stamps)} == {3600}
    for before, after in pairwise(ordered):
        assert before.marker == (before.timestamp != after.timestamp)
    assert all(len(packet.payload) <= 1200 for packet in ordered)


async def test_sender_reports_follow_the_packets(reader_node: Any, player: Player) -> None:
    reader_node.feed(stream := reader_node.open())
    await stream.wait_ready(10)
    await player.offer()
    async with asyncio.timeout(20):
        while True:
            await player.frames(5)
            reports = [
                report
                for report in (await player.peer.getStats()).values()
                if report.type == "remote-outbound-rtp" and report.kind == "video"
            ]
            if reports:
                break
    assert reports[0].packetsSent > 5
    assert abs(reports[0].remoteTimestamp.timestamp() - time.time()) < 30


def test_announced_hosts() -> None:
    assert announced_hosts("127.0.0.1", "127.0.0.1", None) == ["127.0.0.1"]
    assert announced_hosts("0.0.0.0", "127.0.0.1", None)[0] == "127.0.0.1"
    assert "127.0.0.1" not in announced_hosts("0.0.0.0", "gateway.example", None)
    assert announced_hosts("0.0.0.0", "127.0.0.1", "203.0.113.9") == ["203.0.113.9"]
    assert announced_hosts("::", "2001:db8::5", "2001:db8::9") == ["2001:db8::9"]
    for media_host, forced in (
        ("gateway.example", None),
        ("0.0.0.0", None),
        ("127.0.0.1", "gateway.example"),
    ):
        assert announced_hosts("127.0.0.1", media_host, forced) == ["127.0.0.1"]
    assert "127.0.0.1" in local_addresses("0.0.0.0")


def test_packets_are_made_once_and_forgotten_in_time() -> None:
    stream = Stream("gate")
    units = TestPicture(352, 288).encoded_loop(2)
    stream.publish(units[0])
    channel = RtcChannel(stream)
    first = channel.packets(units[0])
    assert channel.packets(units[0]) is first
    for turn in range(6):
        for unit in units:
            channel.packets(replace(unit, pts=unit.pts + turn))
    assert len(channel._cache) <= CACHED_UNITS
    assert channel.packets(units[0]).payloads == first.payloads


def test_a_burst_is_paced_and_live_packets_are_not() -> None:
    pacer, now = Pacer(8_000_000), 100.0  # 1 byte per microsecond
    pacer.begin(now)
    for _ in range(10):
        while not pacer.ready(now):
            now += 0.001
        pacer.sent(20_000, now)
    assert now - 100.0 >= 0.15
    now += 0.05
    assert pacer.ready(now)


def test_a_pacer_that_is_asked_late_makes_up_for_the_time_that_passed() -> None:
    pacer, now = Pacer(8_000_000), 100.0
    pacer.begin(now)
    sent = []
    for tick_s in (0.1, 0.1, 5.0):
        now += tick_s
        sent.append(0)
        while pacer.ready(now):
            pacer.sent(20_000, now)
            sent[-1] += 20_000
    assert 100_000 <= sent[0] <= 130_000
    assert 80_000 <= sent[1] <= 120_000
    assert sent[2] <= 530_000  # half a second's worth at most
    now += 60.0
    pacer.begin(now)
    pacer.sent(20_000, now)
    assert not pacer.ready(now)  # what was not used while nothing waited is gone


def test_the_history_covers_a_second() -> None:
    assert HISTORY * 1200 * 8 > 8_000_000
