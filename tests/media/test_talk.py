"""Talks of a media node: packets of one length, raw and in PS, UDP and both ways of TCP, microphones, pushed sound."""

from __future__ import annotations

import asyncio
import io
import random
import socket
import struct
import wave
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from port_ranges import kept_ports
from rtc_talker import Talker

from media import rtp
from media.client import MediaClient
from media.errors import MediaError
from media.node import Node
from media.ps import PsDemuxer
from media.specs import (
    NodeConfig,
    TalkLegEnded,
    TalkLegSpec,
    TalkLegTarget,
    TalkOffer,
    TalkPlayed,
    TalkSpec,
    TalkUp,
    Transport,
)
from media.talk_file import samples, to_g711a
from media.talk_frames import Frame, Framer
from simulator.picture import tone

pytestmark = pytest.mark.timeout(120)
RTP_PORTS, WEBRTC_PORTS = kept_ports(100), kept_ports(40)


def noise(count: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(count)


# -- packets of one length -------------------------------------------------------------------------------------


@pytest.mark.gb("G255")
@pytest.mark.parametrize("packet_ms", [20, 40, 180])
@pytest.mark.parametrize("piece", [80, 160, 480, 1000])
def test_frames_are_of_one_length_and_lose_nothing(packet_ms: int, piece: int) -> None:
    framer, sound = Framer(packet_ms), noise(14400)
    frames: list[Frame] = []
    for at in range(0, len(sound), piece):
        frames += framer.add(sound[at : at + piece], at + 7)
    frames += framer.flush()
    assert {len(sound.payload) for sound in frames} == {packet_ms * 8}
    assert b"".join(sound.payload for sound in frames)[: len(sound)] == sound
    assert [sound.stamp for sound in frames] == [n * packet_ms * 8 for n in range(len(frames))]
    assert [sound.first for sound in frames] == [True] + [False] * (len(frames) - 1)


def test_what_is_missing_is_left_out_and_late_sound_dropped() -> None:
    framer = Framer(20)
    assert [f.stamp for f in framer.add(b"a" * 160, 0xFFFFFFF0)] == [0]
    after = framer.add(b"b" * 160, 0xFFFFFFF0 + 320 & 0xFFFFFFFF)
    assert [(f.stamp, f.first) for f in after] == [(320, True)]
    assert framer.add(b"c" * 160, 0xFFFFFFF0 + 160 & 0xFFFFFFFF) == []
    assert framer.late == 1
    begun = framer.add(b"d" * 100, 0xFFFFFFF0 + 480 & 0xFFFFFFFF)
    assert begun == []
    filled = framer.add(b"e" * 160, 0xFFFFFFF0 + 480 + 130 & 0xFFFFFFFF)
    assert [f.payload for f in filled] == [b"d" * 100 + b"\xd5" * 30 + b"e" * 30]


def test_another_source_goes_on_on_our_clock() -> None:
    framer = Framer(20)
    framer.add(b"a" * 160, 1_000_000)
    assert [(f.stamp, f.first) for f in framer.add(b"b" * 160, 5)] == [(160, True)]


def test_packets_of_odd_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="10 ms"):
        Framer(10)


# -- sound files -----------------------------------------------------------------------------------------------


def wav(data: bytes, *, tag: int, rate: int, bits: int) -> bytes:
    head = struct.pack("<4sI4s4sIHHIIHH", b"RIFF", 36 + len(data), b"WAVE", b"fmt ", 16, tag, 1, rate,
                       rate * bits // 8, bits // 8, bits)  # fmt: skip
    return head + struct.pack("<4sI", b"data", len(data)) + data


def test_a_file_of_g711_is_passed_on_untouched() -> None:
    sound = noise(8000)
    assert samples(wav(sound, tag=6, rate=8000, bits=8)) == sound


def test_any_file_becomes_g711_of_its_length() -> None:
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setparams((2, 2, 44100, 0, "NONE", ""))
        writer.writeframes(noise(44100 * 4))
    assert len(samples(file.getvalue())) == pytest.approx(8000, abs=80)


async def test_a_file_without_sound_is_refused() -> None:
    with pytest.raises(MediaError) as refused:
        await to_g711a(b"no sound at all" * 100)
    assert refused.value.code == "unsupported"


# -- a node ----------------------------------------------------------------------------------------------------


class House:
    """A node in this process, its client, and the events that came."""

    def __init__(self, node: Node, client: MediaClient) -> None:
        self.node, self.client = node, client
        self.events: list[Any] = []
        self.task = asyncio.create_task(self._listen())

    async def _listen(self) -> None:
        async for event in self.client.events():
            self.events.append(event)

    async def told(self, kind: type[Any]) -> Any:
        async with asyncio.timeout(30):
            while not (found := [event for event in self.events if isinstance(event, kind)]):
                await asyncio.sleep(0.02)
        return found[0]


@pytest_asyncio.fixture
async def house(tmp_path: Any) -> AsyncIterator[House]:
    config = NodeConfig(
        node_id="one", control=f"unix:{tmp_path}/n.sock", control_secret="s", media_host="127.0.0.1",
        bind_host="127.0.0.1", rtp_port_min=RTP_PORTS[0], rtp_port_max=RTP_PORTS[1], viewer_host="127.0.0.1",
        viewer_port=0, webrtc_port=WEBRTC_PORTS[0], webrtc_port_min=WEBRTC_PORTS[0],
        webrtc_port_max=WEBRTC_PORTS[1], ticket_secret="t", port_quarantine_s=0.1,
    )  # fmt: skip
    node = Node(config)
    await node.start()
    client = MediaClient(config.control, "s")
    await client.start()
    made = House(node, client)
    try:
        yield made
    finally:
        made.task.cancel()
        await client.close()
        await node.close()


class Ear:
    """A device's ear on UDP: every packet with its source."""

    def __init__(self) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.setblocking(False)
        self.socket.bind(("127.0.0.1", 0))
        self.port = int(self.socket.getsockname()[1])
        self.sources: set[int] = set()

    async def packets(self, count: int) -> list[rtp.RtpPacket]:
        found: list[rtp.RtpPacket] = []
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(30):
            while len(found) < count:
                data, source = await loop.sock_recvfrom(self.socket, 4096)
                self.sources.add(source[1])
                packet = rtp.parse(data)
                assert packet is not None
                found.append(packet)
        return found

    def close(self) -> None:
        self.socket.close()


@pytest.mark.gb("G255")
async def test_a_microphone_reaches_a_device_untouched(house: House) -> None:
    """From the very port that our SDP names, in 20 ms packets of type 8 on one clock."""
    ear, sound = Ear(), noise(16000)
    client = house.client
    await client.open_talk(TalkSpec(talk_id="t"))
    leg = await client.open_talk_leg(TalkLegSpec(leg_id="l", talk_id="t", ssrc=183000005))
    await client.start_talk_leg("l", TalkLegTarget(remote_host="127.0.0.1", remote_port=ear.port))
    assert (await house.told(TalkUp)).leg_id == "l"
    talker = Talker(sound)
    try:
        answer = await client.add_talker("t", TalkOffer(sdp=await talker.offer()))
        assert "PCMA/8000" in answer.sdp
        assert "a=recvonly" in answer.sdp
        await talker.accept(answer.sdp)
        packets = await ear.packets(100)
    finally:
        await talker.close()
        ear.close()
    assert ear.sources == {leg.port}
    assert {(p.payload_type, p.ssrc, len(p.payload)) for p in packets} == {(8, 183000005, 160)}
    assert b"".join(bytes(p.payload) for p in packets) == sound
    first = packets[0]
    assert [p.sequence - first.sequence & 0xFFFF for p in packets] == list(range(100))
    assert [p.timestamp - first.timestamp & 0xFFFFFFFF for p in packets] == [n * 160 for n in range(100)]
    assert [p.marker for p in packets] == [True] + [False] * 99
    await client.close_talk("t")
    assert (await client.stats()).talk.talks == 0
    assert house.node.ports.leased == 0


async def test_pushed_sound_goes_to_several_devices_and_its_end_is_told(house: House) -> None:
    ears, sound = [Ear(), Ear()], noise(3200)
    client = house.client
    await client.open_talk(TalkSpec(talk_id="t", packet_ms=40))
    for number, ear in enumerate(ears):
        await client.open_talk_leg(TalkLegSpec(leg_id=f"l{number}", talk_id="t", ssrc=number))
        await client.start_talk_leg(
            f"l{number}", TalkLegTarget(remote_host="127.0.0.1", remote_port=ear.port)
        )
    assert (await client.push_sound("t", sound)).queued_s == pytest.approx(0.4)
    for number, ear in enumerate(ears):
        packets = await ear.packets(10)
        assert b"".join(bytes(p.payload) for p in packets) == sound
        assert {(p.ssrc, len(p.payload)) for p in packets} == {(number, 320)}
    assert (await house.told(TalkPlayed)).number == 1
    last = packets[-1]
    assert (await client.push_sound("t", sound[:320])).number == 2
    for ear in ears:
        packet = (await ear.packets(1))[0]
        ear.close()
    assert packet.marker
    assert packet.sequence == (last.sequence + 1) & 0xFFFF
    assert (packet.timestamp - last.timestamp - 320) % 320 == 0


async def test_nothing_is_said_while_the_button_is_not_pressed(house: House) -> None:
    ear, client = Ear(), house.client
    await client.open_talk(TalkSpec(talk_id="t"))
    await client.open_talk_leg(TalkLegSpec(leg_id="l", talk_id="t", ssrc=1))
    await client.start_talk_leg("l", TalkLegTarget(remote_host="127.0.0.1", remote_port=ear.port))
    await client.mute_talk("t", muted=True)
    await client.push_sound("t", b"\x01" * 1600)
    await house.told(TalkPlayed)
    await client.mute_talk("t", muted=False)
    await client.push_sound("t", b"\x02" * 160)
    assert bytes((await ear.packets(1))[0].payload) == b"\x02" * 160
    ear.close()


async def test_sound_in_a_program_stream(house: House) -> None:
    ear, sound = Ear(), b"".join(unit.data for unit in tone(1))[:3200]
    client = house.client
    await client.open_talk(TalkSpec(talk_id="t"))
    await client.open_talk_leg(TalkLegSpec(leg_id="l", talk_id="t", ssrc=1))
    target = TalkLegTarget(
        remote_host="127.0.0.1", remote_port=ear.port, payload_type=96, program_stream=True
    )
    await client.start_talk_leg("l", target)
    await client.push_sound("t", sound)
    packets = await ear.packets(20)
    ear.close()
    demuxer = PsDemuxer()
    units = [unit for p in packets for unit in demuxer.feed(bytes(p.payload), p.timestamp)]
    assert b"".join(unit.data for unit in units) == sound
    assert {str(unit.codec) for unit in units} == {"pcma"}
    assert {p.payload_type for p in packets} == {96}
    assert packets[1].timestamp - packets[0].timestamp & 0xFFFFFFFF == 1800


@pytest.mark.parametrize("transport", [Transport.TCP_PASSIVE, Transport.TCP_ACTIVE])
async def test_a_device_by_tcp(house: House, transport: Transport) -> None:
    sound, client = noise(1600), house.client
    await client.open_talk(TalkSpec(talk_id="t"))
    got: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()
    server = await asyncio.start_server(lambda r, w: got.put_nowait((r, w)), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    leg = await client.open_talk_leg(TalkLegSpec(leg_id="l", talk_id="t", ssrc=1, transport=transport))
    if transport is Transport.TCP_PASSIVE:
        got.put_nowait(await asyncio.open_connection("127.0.0.1", leg.port))
        await client.start_talk_leg("l", TalkLegTarget())
    else:
        await client.start_talk_leg("l", TalkLegTarget(remote_host="127.0.0.1", remote_port=port))
    await house.told(TalkUp)
    await client.push_sound("t", sound)
    reader, writer = await asyncio.wait_for(got.get(), 30)
    if transport is Transport.TCP_ACTIVE:
        assert writer.get_extra_info("peername")[1] == leg.port
    data = b""
    for _ in range(10):
        size = int.from_bytes(await asyncio.wait_for(reader.readexactly(2), 30))
        packet = rtp.parse(await reader.readexactly(size))
        assert packet is not None
        data += bytes(packet.payload)
    assert data == sound
    writer.close()
    assert (await house.told(TalkLegEnded)).cause == "connection_lost"
    server.close()
    assert (await client.stats()).talk.legs == 0


async def test_what_the_device_says_is_heard_by_the_talker(house: House) -> None:
    """Role talk: both ways through one port (2016 s=Talk); strangers are not heard."""
    ear, stranger, client, reply = Ear(), Ear(), house.client, noise(8000, 5)
    stranger.socket.close()
    stranger.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    stranger.socket.bind(("127.0.0.9", 0))
    await client.open_talk(TalkSpec(talk_id="t"))
    leg = await client.open_talk_leg(TalkLegSpec(leg_id="l", talk_id="t", ssrc=1, role="talk"))
    await client.start_talk_leg("l", TalkLegTarget(remote_host="127.0.0.1", remote_port=ear.port))
    talker = Talker(noise(160), listen=True)
    try:
        answer = await client.add_talker("t", TalkOffer(sdp=await talker.offer()))
        assert "a=sendrecv" in answer.sdp
        await talker.accept(answer.sdp)
        await ear.packets(5)
        for number in range(50):
            packet = rtp.build(8, number, number * 160, 9, reply[number * 160 : number * 160 + 160])
            stranger.socket.sendto(rtp.build(8, number, number * 160, 9, b"x" * 160), ("127.0.0.1", leg.port))
            ear.socket.sendto(packet, ("127.0.0.1", leg.port))
            await asyncio.sleep(0.01)
        async with asyncio.timeout(30):
            while len(talker.heard) < len(reply):
                await asyncio.sleep(0.02)
    finally:
        await talker.close()
        ear.close()
        stranger.close()
    assert bytes(talker.heard) == reply


async def test_a_leg_can_be_the_voice(house: House) -> None:
    """Role source: an upper's sound goes to the devices (cascade)."""
    ear, client, sound = Ear(), house.client, noise(1600)
    await client.open_talk(TalkSpec(talk_id="t"))
    source = await client.open_talk_leg(TalkLegSpec(leg_id="s", talk_id="t", ssrc=1, role="source"))
    await client.start_talk_leg("s", TalkLegTarget(remote_host="127.0.0.1", remote_port=ear.port))
    await client.open_talk_leg(TalkLegSpec(leg_id="l", talk_id="t", ssrc=2))
    await client.start_talk_leg("l", TalkLegTarget(remote_host="127.0.0.1", remote_port=ear.port))
    for number in range(10):
        piece = sound[number * 160 : number * 160 + 160]
        ear.socket.sendto(rtp.build(8, number + 7, number * 160, 9, piece), ("127.0.0.1", source.port))
    packets = await ear.packets(10)
    ear.close()
    assert b"".join(bytes(p.payload) for p in packets) == sound
    assert {p.ssrc for p in packets} == {2}


async def test_what_cannot_be_met_is_refused(house: House) -> None:
    client = house.client
    await client.open_talk(TalkSpec(talk_id="t"))
    for sdp, code in (("v=0\r\n", "bad_request"), (OPUS_ONLY, "unsupported")):
        with pytest.raises(MediaError) as refused:
            await client.add_talker("t", TalkOffer(sdp=sdp))
        assert refused.value.code == code
    with pytest.raises(MediaError, match="no talk"):
        await client.push_sound("other", b"\xd5")
    with pytest.raises(MediaError, match="ten minutes"):
        await client.push_sound("t", b"\xd5" * 4_800_001)
    with pytest.raises(MediaError, match="open already"):
        await client.open_talk(TalkSpec(talk_id="t"))


OPUS_ONLY = (
    "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=fingerprint:sha-256 AA:BB\r\n"
    "m=audio 9 UDP/TLS/RTP/SAVPF 111\r\nc=IN IP4 0.0.0.0\r\na=rtpmap:111 opus/48000/2\r\na=sendonly\r\n"
)
