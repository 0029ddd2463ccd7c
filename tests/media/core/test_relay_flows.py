"""A verifying sink behind the node: every byte, order, sequence, SSRC and timestamp of what is relayed."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from typing import Protocol

import pytest

from media.rfc4571 import Deframer, frame
from media.rtp import RtpPacket, parse
from media.specs import ReceiverSpec, ReceiverUpdate, SenderSpec, Transport
from media.unit import AccessUnit

UDP, PASSIVE, ACTIVE = Transport.UDP, Transport.TCP_PASSIVE, Transport.TCP_ACTIVE
SSRC_OUT = 200009319
pytestmark = pytest.mark.parametrize("pump", ["python", "compiled"], indirect=True)


class Link(Protocol):
    """One end of a media session outside of the node."""

    async def send(self, packets: list[bytes]) -> None: ...

    async def receive(self, count: int) -> list[bytes]: ...


class UdpLink:
    def __init__(self, target: tuple[str, int] | None = None) -> None:
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        self.sock.bind(("127.0.0.1", 0))
        self.sock.setblocking(False)
        self.target = target
        self.address = self.sock.getsockname()

    async def send(self, packets: list[bytes]) -> None:
        assert self.target is not None
        for packet in packets:
            self.sock.sendto(packet, self.target)

    async def receive(self, count: int) -> list[bytes]:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(15):
            return [await loop.sock_recv(self.sock, 65536) for _ in range(count)]

    def close(self) -> None:
        self.sock.close()


class TcpLink:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer, self.deframer = reader, writer, Deframer()

    async def send(self, packets: list[bytes]) -> None:
        self.writer.write(b"".join(frame(packet) for packet in packets))
        await self.writer.drain()

    async def receive(self, count: int) -> list[bytes]:
        packets: list[bytes] = []
        async with asyncio.timeout(15):
            while len(packets) < count:
                data = await self.reader.read(65536)
                assert data, "the node closed the connection"
                packets += self.deframer.feed(data)
        return packets

    def close(self) -> None:
        self.writer.close()


class Listener:
    """A TCP server for one connection of the node."""

    def __init__(self) -> None:
        self.accepted: asyncio.Future[TcpLink] = asyncio.get_running_loop().create_future()
        self.port = 0

    async def start(self) -> Listener:
        self.server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = self.server.sockets[0].getsockname()[1]
        return self

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted.set_result(TcpLink(reader, writer))

    async def link(self) -> TcpLink:
        link = await asyncio.wait_for(self.accepted, 15)
        self.server.close()
        return link


@pytest.fixture
async def links() -> AsyncIterator[list[UdpLink | TcpLink]]:
    opened: list[UdpLink | TcpLink] = []
    yield opened
    for link in opened:
        link.close()


async def camera(node, links, transport: Transport, stream_id: str = "s") -> Link:
    """Open a receiver and a camera that sends to it."""
    info = await node.client.open_receiver(
        ReceiverSpec(stream_id=stream_id, transport=transport, ssrc=183000001)
    )
    if transport is UDP:
        link: UdpLink | TcpLink = UdpLink(("127.0.0.1", info.port))
    elif transport is PASSIVE:
        link = TcpLink(*await asyncio.open_connection("127.0.0.1", info.port))
    else:
        listener = await Listener().start()
        await node.client.update_receiver(
            stream_id, ReceiverUpdate(remote_host="127.0.0.1", remote_port=listener.port)
        )
        link = await listener.link()
    links.append(link)
    return link


async def upper(node, links, transport: Transport, sender_id: str = "u", **options) -> Link:
    """Open and start a relay and the platform that takes it."""
    values = {"sender_id": sender_id, "stream_id": "s", "transport": transport, "ssrc": SSRC_OUT, **options}
    if transport is UDP:
        link: UdpLink | TcpLink = UdpLink()
        await node.client.open_sender(
            SenderSpec(remote_host="127.0.0.1", remote_port=link.address[1], **values)
        )
        await node.client.start_sender(sender_id)
    elif transport is PASSIVE:
        info = await node.client.open_sender(SenderSpec(**values))
        link = TcpLink(*await asyncio.open_connection("127.0.0.1", info.port))
        await node.client.start_sender(sender_id)
    else:
        listener = await Listener().start()
        await node.client.open_sender(
            SenderSpec(remote_host="127.0.0.1", remote_port=listener.port, **values)
        )
        await node.client.start_sender(sender_id)
        link = await listener.link()
    links.append(link)
    return link


def verify(received: list[bytes], sent: list[bytes], *, ssrc: int = SSRC_OUT, payload_type: int = 96) -> None:
    """Everything of ``sent``, in order, with new numbers only."""
    got = [parse(packet) for packet in received]
    assert all(isinstance(packet, RtpPacket) for packet in got)
    assert [bytes(p.payload) for p in got] == [packet[12:] for packet in sent]
    assert [p.marker for p in got] == [packet[1] >= 0x80 for packet in sent]
    assert {p.ssrc for p in got} == {ssrc}
    assert {p.payload_type for p in got} == {payload_type}
    assert [p.sequence for p in got] == [(got[0].sequence + n) & 0xFFFF for n in range(len(got))]
    stamps = [int.from_bytes(packet[4:8], "big") for packet in sent]
    shift = got[0].timestamp - stamps[0]
    assert [p.timestamp for p in got] == [(stamp + shift) & 0xFFFFFFFF for stamp in stamps]


@pytest.mark.gb("G207", "G209", "G210")
@pytest.mark.parametrize(
    ("inbound", "outbound"),
    [
        (UDP, UDP),
        (UDP, PASSIVE),
        (UDP, ACTIVE),
        (PASSIVE, UDP),
        (PASSIVE, ACTIVE),
        (ACTIVE, PASSIVE),
        (ACTIVE, UDP),
    ],
)
async def test_payload_is_relayed_untouched(
    running_node, links, sender_of, h264_units: list[AccessUnit], inbound: Transport, outbound: Transport
) -> None:
    source = await camera(running_node, links, inbound)
    sink = await upper(running_node, links, outbound)
    await asyncio.sleep(0.05)
    sent = []
    for packets in sender_of(h264_units, audio=True).frames():
        sent += packets
        await source.send(packets)
        await asyncio.sleep(0.001)
    verify(await sink.receive(len(sent)), sent)
    stats = await running_node.client.stream("s")
    assert (stats.packets, stats.lost, stats.relay_packets, stats.relay_drops) == (len(sent), 0, len(sent), 0)
    assert stats.senders == 1


async def test_two_platforms_get_their_own_numbers(running_node, links, sender_of, h264_units) -> None:
    source = await camera(running_node, links, UDP)
    first = await upper(running_node, links, UDP, "u1", ssrc=111)
    second = await upper(running_node, links, UDP, "u2", ssrc=222, payload_type=105)
    third = await upper(running_node, links, PASSIVE, "u3", ssrc=333)
    await asyncio.sleep(0.05)
    sent = []
    for packets in sender_of(h264_units).frames():
        sent += packets
        await source.send(packets)
        await asyncio.sleep(0.001)
    verify(await first.receive(len(sent)), sent, ssrc=111)
    verify(await second.receive(len(sent)), sent, ssrc=222, payload_type=105)
    verify(await third.receive(len(sent)), sent, ssrc=333)


@pytest.mark.parametrize("outbound", [UDP, PASSIVE, ACTIVE])
async def test_a_late_platform_starts_with_the_last_key_frame(
    running_node, links, sender_of, h264_units, outbound: Transport
) -> None:
    source = await camera(running_node, links, UDP)
    frames = list(sender_of(h264_units).frames())
    key = max(number for number, unit in enumerate(h264_units) if unit.key)
    assert key == 25
    for packets in frames[:40]:
        await source.send(packets)
        await asyncio.sleep(0.001)
    await running_node.event("stream_ready")
    await asyncio.sleep(0.05)
    sink = await upper(running_node, links, outbound)
    for packets in frames[40:]:
        await source.send(packets)
        await asyncio.sleep(0.001)
    sent = [packet for packets in frames[key:] for packet in packets]
    received = await sink.receive(len(sent))
    assert received[0][12:16] == b"\x00\x00\x01\xba"
    assert received[0][26:30] == b"\x00\x00\x01\xbb"
    verify(received, sent)


@pytest.mark.gb("G223")
async def test_a_camera_that_restarts_leaves_the_relay_continuous(
    running_node, links, sender_of, h264_units
) -> None:
    source = await camera(running_node, links, UDP)
    sink = await upper(running_node, links, UDP)
    await asyncio.sleep(0.05)
    frames = list(sender_of(h264_units).frames())
    for packets in frames:
        await source.send(packets)
        await asyncio.sleep(0.001)
    count = sum(len(packets) for packets in frames)
    before = [parse(packet) for packet in await sink.receive(count)]
    await asyncio.sleep(1.2)  # the camera starts anew: other SSRC, sequence and clock
    again = sender_of(h264_units, ssrc=77)
    again.packetizer.sequence = 40000
    sent = again.packets()
    await source.send(sent)
    after = [parse(packet) for packet in await sink.receive(len(sent))]
    assert [bytes(p.payload) for p in after] == [packet[12:] for packet in sent]
    assert [p.sequence for p in before + after] == [
        (before[0].sequence + n) & 0xFFFF for n in range(count + len(sent))
    ]
    assert {p.ssrc for p in before + after} == {SSRC_OUT}
    assert 90_000 < after[0].timestamp - before[-1].timestamp < 10 * 90_000


async def test_a_relay_that_comes_in_the_middle_of_the_first_key_frame_gets_all_of_it(
    running_node, links, sender_of, h264_units
) -> None:
    source = await camera(running_node, links, UDP)
    frames = list(sender_of(h264_units).frames())
    sent = [packet for packets in frames[:10] for packet in packets]
    half = len(frames[0]) // 2
    assert half
    await source.send(sent[:half])
    gb = running_node.node._entries["s"].source
    async with asyncio.timeout(10):
        while gb.ingest.packets < half:
            await asyncio.sleep(0.01)
    sink = await upper(running_node, links, UDP)
    await asyncio.sleep(0.05)
    await source.send(sent[half:])
    verify(await sink.receive(len(sent)), sent)


async def test_an_unwatched_stream_is_relayed_without_demuxing_until_somebody_looks(
    running_node, links, sender_of, h264_units
) -> None:
    source = await camera(running_node, links, UDP)
    sink = await upper(running_node, links, UDP)
    gb = running_node.node._entries["s"].source
    sender = sender_of(h264_units, audio=True)
    sent: list[bytes] = []

    async def play() -> None:
        for packets in sender.frames():
            sent.extend(packets)
            await source.send(packets)
            await asyncio.sleep(0.001)

    await play()
    async with asyncio.timeout(10):
        while not gb.resting:
            await asyncio.sleep(0.05)
    units = gb.stream.video_units
    await play()
    verify(await sink.receive(len(sent)), sent)
    assert gb.stream.video_units == units
    stats = await running_node.client.stream("s")
    assert (stats.video_units, stats.audio_units, stats.key_units) == (100, 100, 4)
    reader = gb.stream.attach("test")
    pictures = [await reader.next() for _ in range(reader.queued)]
    assert not gb.resting
    assert [unit.data for unit in pictures if unit.codec.is_video] == [
        unit.data for unit in h264_units[25:50]
    ]
    await play()
    received = await sink.receive(len(sent) // 3)
    verify(received, sent[-len(received) :])
    assert gb.stream.video_units > units


async def test_a_stream_whose_key_frames_stop_being_marked_is_looked_into_again(
    running_node, links, sender_of, h264_units
) -> None:
    """The packets since the last marked key frame outgrow the cache: nobody would get a picture at once any more."""
    source = await camera(running_node, links, UDP)
    sink = await upper(running_node, links, UDP)
    gb = running_node.node._entries["s"].source
    gb.cache.limit_bytes = 300_000
    sender = sender_of(h264_units)
    sent: list[bytes] = []

    async def play(*, marked: bool) -> None:
        for packets in sender.frames():
            if not marked and b"\x00\x00\x01\xbb" in packets[0][:60]:
                packets = [packet.replace(b"\x00\x00\x01\xbb", b"\x00\x00\x01\xbf").replace(
                    b"\x00\x00\x01\xbc", b"\x00\x00\x01\xbf") for packet in packets]  # fmt: skip
            sent.extend(packets)
            await source.send(packets)
            await asyncio.sleep(0.001)

    await play(marked=True)
    async with asyncio.timeout(10):
        while not gb.resting:
            await asyncio.sleep(0.05)
    async with asyncio.timeout(30):
        while gb.resting:
            await play(marked=False)
            await asyncio.sleep(0.1)
    await play(marked=False)
    await asyncio.sleep(1.2)
    assert not gb.resting
    assert gb.stream.gop()
    verify(await sink.receive(len(sent)), sent)


@pytest.mark.parametrize("outbound", [PASSIVE, ACTIVE])
async def test_a_platform_that_hangs_up_ends_its_relay(
    running_node, links, sender_of, h264_units, outbound
) -> None:
    source = await camera(running_node, links, UDP)
    sink = await upper(running_node, links, outbound)
    sink.close()  # type: ignore[attr-defined]
    await source.send(sender_of(h264_units).packets()[:20])
    event = await running_node.event("sender_ended")
    assert (event.sender_id, event.cause) == ("u", "connection_lost")
    assert (await running_node.client.stats()).senders == 0


async def test_closing_the_stream_ends_its_relays(running_node, links) -> None:
    await camera(running_node, links, UDP)
    await upper(running_node, links, UDP)
    await running_node.client.close_receiver("s")
    event = await running_node.event("sender_ended")
    assert event.cause == "stream_closed"
    assert (await running_node.client.stats()).ports_leased == 0


async def test_a_relay_that_cannot_dial_says_so(running_node, links, monkeypatch: pytest.MonkeyPatch) -> None:
    await camera(running_node, links, UDP)
    no_wait(monkeypatch, "media.readers.relay.dial")
    closed = free_port()
    await running_node.client.open_sender(
        SenderSpec(
            sender_id="u",
            stream_id="s",
            transport=ACTIVE,
            remote_host="127.0.0.1",
            remote_port=closed,
            ssrc=1,
        )
    )
    await running_node.client.start_sender("u")
    assert (await running_node.event("sender_ended")).cause == "dial_failed"


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def no_wait(monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    from media import tcp

    async def quick(host: str, port: int, **options) -> socket.socket:
        return await tcp.dial(host, port, **options, interval_s=0.01)

    monkeypatch.setattr(where, quick)
