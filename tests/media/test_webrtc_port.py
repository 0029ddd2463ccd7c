"""All WebRTC viewers of a node behind one UDP port, over paths that lose packets and change addresses."""

from __future__ import annotations

import asyncio
import os
import socket
from itertools import pairwise
from typing import Any

import pytest
from aiohttp import ClientSession
from aioice import ice, stun
from aiortc.rtp import RtcpSrPacket, RtpPacket
from rtc_player import Player
from udp_path import UdpPath

from media.pump import Pump
from media.readers import rtc_port
from media.readers.rtc_port import PortCounters, ViewerPort, ViewerPorts
from media.specs import NodeConfig
from simulator.picture import TestPicture, tone


async def until(condition: Any, timeout_s: float = 30) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.02)


async def playing(node: Any, http: ClientSession, name: str, path: UdpPath | None = None) -> Player:
    player = Player(http, node, name)
    assert await player.offer(through=path.through if path else None) == 201
    await player.frames(2)
    return player


async def test_viewers_share_the_port_and_one_leaves(
    reader_node: Any, player: Player, http: ClientSession
) -> None:
    reader_node.feed(stream := reader_node.open(), audio=False)
    await stream.wait_ready(10)
    players = [await playing(reader_node, http, f"viewer-{number}") for number in range(4)]
    ports = {
        line.split()[5] for one in players for line in one.answer["sdp"].splitlines() if "candidate:" in line
    }
    assert ports == {str(reader_node.webrtc.ports.port)}
    assert reader_node.webrtc.stats().viewers == 4
    await players[1].peer.close()
    await until(lambda: reader_node.seen.closed)
    assert reader_node.seen.closed == [("viewer-1", "left")]
    for one in (players[0], players[2], players[3]):
        numbers = await one.frames(20)
        assert all((after - before) % 50 == 1 for before, after in pairwise(numbers))
    assert len(stream.readers) == 1, "one reader serves all of them"
    for one in players:
        await one.peer.close()
    await until(lambda: len(reader_node.seen.closed) == 4)
    await until(lambda: not reader_node.webrtc.ports._shared._routes)
    assert reader_node.webrtc.stats().viewers == 0
    assert stream.readers == []


def binding(username: str, password: str) -> bytes:
    message = stun.Message(stun.Method.BINDING, stun.Class.REQUEST)
    message.attributes["USERNAME"] = username
    message.attributes["PRIORITY"] = 1
    message.add_message_integrity(password.encode())
    return bytes(message)


async def test_junk_on_the_port_is_counted_and_never_answered(
    reader_node: Any, player: Player, http: ClientSession
) -> None:
    reader_node.feed(stream := reader_node.open(), audio=False)
    await stream.wait_ready(10)
    await player.offer()
    await player.frames(3)
    ufrag = player.answer["sdp"].split("a=ice-ufrag:")[1].split("\r\n")[0]
    response = bytes(stun.Message(stun.Method.BINDING, stun.Class.RESPONSE))
    junk = [
        b"", b"\x00", b"\x00\x01\x00\x08", os.urandom(1400), b"\x80" + os.urandom(200), b"\x16" + os.urandom(60),
        b"\xff" * 20, response, binding("nobody:else", "x" * 22), binding("", "x" * 22),
    ]  # fmt: skip
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        stranger.setblocking(False)
        stranger.connect(("127.0.0.1", reader_node.webrtc.ports.port))
        for packet in junk:
            stranger.send(packet)
        stranger.send(binding(f"{ufrag}:guess", "x" * 22))
        await until(lambda: reader_node.webrtc.stats().refused)
        stats = reader_node.webrtc.stats()
        assert (stats.stray, stats.refused) == (len(junk), 1)
        await player.frames(10)
        with pytest.raises(BlockingIOError):
            stranger.recv(2048)


async def test_a_viewer_whose_address_changes_is_followed(
    reader_node: Any, player: Player, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ice, "CONSENT_INTERVAL", 0.3)
    monkeypatch.setattr(rtc_port, "SILENT_S", 0.3)
    reader_node.feed(stream := reader_node.open(), audio=False)
    await stream.wait_ready(10)
    path = UdpPath(("127.0.0.1", reader_node.webrtc.ports.port))
    await player.offer(through=path.through)
    await player.frames(5)
    before = path.far_port
    path.rebind()
    assert path.far_port != before
    await until(lambda: reader_node.webrtc.stats().moved)
    await player.frames(60)
    assert reader_node.webrtc.stats().moved == 1
    assert reader_node.seen.closed == []
    path.close()


async def test_losses_on_the_way_are_repaired(reader_node: Any, player: Player) -> None:
    """One packet in twelve is lost, retransmissions as well: every picture arrives all the same."""
    stream = reader_node.open()
    reader_node.feed(stream, TestPicture(352, 288, bitrate=3_000_000), audio=False)
    await stream.wait_ready(10)
    path = UdpPath(("127.0.0.1", reader_node.webrtc.ports.port))
    await player.offer(audio=False, through=path.through)
    await player.frames(3)
    path.loss = 0.08
    numbers = await player.frames(75)
    assert path.lost > 20
    assert reader_node.webrtc.stats().retransmitted >= path.lost / 2
    assert all((after - before) % 50 == 1 for before, after in pairwise(numbers)), numbers
    path.close()


async def test_a_lost_picture_is_helped_from_the_cache(reader_node: Any, player: Player) -> None:
    """The group of pictures comes again, numbered on, its clock never running backwards, then the live ones."""
    stream = reader_node.open()
    packets = player.watch_packets()
    loop = TestPicture(352, 288, gop=50).encoded_loop(2)
    for unit in loop[:30]:
        stream.publish(unit)
    await player.offer(audio=False)
    await player.frames(25)
    await player.send_pli()
    await until(lambda: reader_node.webrtc.stats().repeats)
    for unit in loop[30:]:
        stream.publish(unit)
        await asyncio.sleep(0.01)
    assert await player.frames(50) == [*range(25, 30), *range(30), *range(30, 45)]
    await player.send_pli()
    await asyncio.sleep(0.2)
    assert reader_node.webrtc.stats().repeats == 1, "not for each of many reports"
    ordered = sorted(packets, key=lambda packet: packet.sequence_number)
    assert [packet.sequence_number for packet in ordered] == list(
        range(ordered[0].sequence_number, ordered[0].sequence_number + len(ordered))
    )
    steps = [after.timestamp - before.timestamp & 0xFFFFFFFF for before, after in pairwise(ordered)]
    assert max(steps) <= 2 * 3600
    assert steps.count(1) == 30


async def test_sound_and_picture_are_brought_together_by_the_reports(
    reader_node: Any, player: Player
) -> None:
    """A camera sends its sound 400 ms ahead of the picture of the same moment; the reports say so within 100 ms."""
    stream = reader_node.open()
    pictures, sounds = TestPicture(352, 288, gop=25).encoded_loop(1), tone(1)
    packets: dict[str, list[RtpPacket]] = {"video": [], "audio": []}
    reports: dict[str, list[RtcpSrPacket]] = {"video": [], "audio": []}
    ahead = 10

    async def film() -> None:
        for index in range(25 * 60):
            for units, place in ((sounds, index + ahead), (pictures, index)):
                unit = units[place % 25]
                shift = place * 3600 - unit.pts
                stream.publish(
                    type(unit)(unit.codec, unit.pts + shift, unit.dts + shift, unit.key, unit.data)
                )
            await asyncio.sleep(0.04)

    filming = asyncio.create_task(film())
    await stream.wait_ready(10)
    player.watch_all(packets, reports)
    await player.offer()
    try:
        await until(lambda: len(reports["video"]) > 1 and len(reports["audio"]) > 1)
    finally:
        filming.cancel()
    # What was sent last at one time: sound that is `ahead` units later than the picture.
    moments = {}
    for kind, rate in (("video", 90_000), ("audio", 8000)):
        info = reports[kind][-1].sender_info
        newest = packets[kind][-1].timestamp
        behind = ((newest - info.rtp_timestamp + (1 << 31)) & 0xFFFFFFFF) - (1 << 31)
        moments[kind] = info.ntp_timestamp / (1 << 32) + behind / rate
    assert moments["audio"] - moments["video"] == pytest.approx(ahead / 25, abs=0.1)


# --- sockets -------------------------------------------------------------------------------------------------------


async def test_the_port_is_released_at_the_end(node_config: NodeConfig) -> None:
    pump = Pump()
    ports = ViewerPorts(node_config, pump)
    ports.open()
    number = ports.port
    assert number
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other, pytest.raises(OSError, match="in use"):
        other.bind(("127.0.0.1", number))
    ports.close()
    assert ports.port == 0
    assert pump._drains == {}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", number))
    pump.close()


async def test_a_port_that_is_taken_leaves_the_range(
    node_config: NodeConfig, caplog: pytest.LogCaptureFixture
) -> None:
    pump = Pump()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", 0))
        taken = other.getsockname()[1]
        ports = ViewerPorts(node_config.model_copy(update={"webrtc_port": taken}), pump)
        ports.open()
    assert ports.port == 0
    assert "webrtc_port_taken" in caplog.text
    ports.close()
    pump.close()


async def test_each_local_address_has_its_socket(node_config: NodeConfig) -> None:
    pump = Pump()
    port = ViewerPort(pump, PortCounters(), gso=False)
    port.open(["127.0.0.1", "127.0.0.2"], 0)
    port.cover(["127.0.0.3", "127.0.0.1", "192.0.2.1"])
    assert sorted(port._wires) == ["127.0.0.1", "127.0.0.2", "127.0.0.3"]
    assert {wire.sock.getsockname()[1] for wire in port._wires.values()} == {port.port}
    port.close()
    pump.close()


class TestRange:
    """Without a shared port each viewer has one of its own."""

    @pytest.fixture
    def node_config(self, node_config: NodeConfig) -> NodeConfig:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
            free.bind(("127.0.0.1", 0))
            number = free.getsockname()[1]
        return node_config.model_copy(
            update={"webrtc_port": None, "webrtc_port_min": number, "webrtc_port_max": number}
        )

    async def test_the_range_is_used_up_and_given_back(
        self, reader_node: Any, player: Player, http: ClientSession
    ) -> None:
        reader_node.feed(stream := reader_node.open())
        await stream.wait_ready(10)
        assert await player.offer() == 201
        assert f" {reader_node.config.webrtc_port_min} typ host" in player.answer["sdp"]
        await player.frames(3)
        second = Player(http, reader_node, "viewer-2")
        assert await second.offer() == 503
        assert second.answer["code"] == "no_port"
        await second.peer.close()
        assert [viewer_id for viewer_id, _ in reader_node.seen.opened] == ["viewer-1"]
        await player.peer.close()
        await until(lambda: reader_node.seen.closed)
        third = Player(http, reader_node, "viewer-3")
        assert await third.offer() == 201
        await third.frames(3)
        await third.peer.close()


class TestVersion6:
    """The same port over IPv6."""

    @pytest.fixture
    def node_config(self, node_config: NodeConfig) -> NodeConfig:
        return node_config.model_copy(update={"media_host": "::1", "bind_host": "::1"})

    async def test_pictures_come_by_ipv6(
        self, reader_node: Any, player: Player, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        if not reader_node.webrtc.ports.port:
            pytest.skip("this machine has no IPv6")
        monkeypatch.setattr(ice, "get_host_addresses", lambda use_ipv4, use_ipv6: ["::1"])
        reader_node.feed(stream := reader_node.open())
        await stream.wait_ready(10)
        assert await player.offer() == 201
        assert len(await player.frames(5)) == 5
