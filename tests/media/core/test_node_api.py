"""A node on loopback through its real control API: receive, be ready, notice trouble, count, end."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession

from media import tcp
from media.client import MediaClient
from media.errors import MediaError
from media.node import Node
from media.rfc4571 import Deframer, frame
from media.rtp import RtpPacketizer, SenderReport, build, build_sender_report, parse_sender_report
from media.specs import NodeConfig, ReceiverSpec, ReceiverUpdate, SenderSpec, Transport

SSRC = 183000001


def udp() -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    sock.setblocking(False)
    return sock


async def play(sock: socket.socket, port: int, sender: Any, keep: slice = slice(None)) -> int:
    count = 0
    for packets in list(sender.frames())[keep]:
        for packet in packets:
            sock.sendto(packet, ("127.0.0.1", port))
        count += len(packets)
        await asyncio.sleep(0.001)
    return count


async def settle(node: Any, stream_id: str, packets: int) -> Any:
    """The stream's statistics when so many packets have come in."""
    async with asyncio.timeout(10):
        while (stats := await node.client.stream(stream_id)).packets < packets:
            await asyncio.sleep(0.02)
    return stats


async def eventually(check: Any, timeout_s: float = 10.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not check():
            await asyncio.sleep(0.02)


@pytest.mark.gb("G226", "G227")
async def test_media_that_comes_before_the_answer_is_kept(
    running_node, h264_units, udp_socket, sender_of
) -> None:
    info = await running_node.client.open_receiver(ReceiverSpec(stream_id="s", ssrc=SSRC))
    assert info.host == "127.0.0.1"
    assert info.port % 2 == 0
    count = await play(udp_socket, info.port, sender_of(h264_units, audio=True))
    ready = await running_node.event("stream_ready")
    assert (ready.video.codec, ready.video.width, ready.video.height) == ("h264", 320, 240)
    assert (ready.audio.codec, ready.audio.clock_rate_hz) == ("pcma", 8000)
    await running_node.client.update_receiver("s", ReceiverUpdate(ssrc=SSRC, remote_host="127.0.0.1"))
    stats = await settle(running_node, "s", count)
    assert (stats.video_units, stats.audio_units, stats.key_units, stats.lost) == (50, 50, 2, 0)
    assert stats.source == "{}:{}".format(*udp_socket.getsockname())
    assert stats.ssrc == SSRC
    assert stats.media_mismatch is None


@pytest.mark.gb("G226")
async def test_a_stranger_with_the_right_ssrc_changes_nothing(
    running_node, h264_units, udp_socket, sender_of
) -> None:
    info = await running_node.client.open_receiver(ReceiverSpec(stream_id="s", ssrc=SSRC))
    sender = sender_of(h264_units)
    packets = sender.packets()
    with contextlib.closing(udp()) as stranger:
        for number, packet in enumerate(packets):
            udp_socket.sendto(packet, ("127.0.0.1", info.port))
            if number % 10 == 5:
                stranger.sendto(packet[:12] + bytes(500), ("127.0.0.1", info.port))
                await asyncio.sleep(0.002)
        stats = await settle(running_node, "s", len(packets))
        fault = await running_node.event("stream_fault")
        assert (fault.kind, fault.detail) == (
            "foreign_source",
            "source={}:{}".format(*stranger.getsockname()),
        )
    assert stats.foreign_packets == len(range(5, len(packets), 10))
    assert (stats.video_units, stats.damaged_units) in ((50, 0), (49, 0))
    assert sum(event.type == "stream_fault" for event in running_node.seen) == 1


@pytest.mark.gb("G226")
async def test_a_host_other_than_the_expected_is_not_heard(
    running_node, h264_units, udp_socket, sender_of
) -> None:
    info = await running_node.client.open_receiver(ReceiverSpec(stream_id="s", remote_host="127.0.0.9"))
    await play(udp_socket, info.port, sender_of(h264_units), slice(10))
    await running_node.event("stream_fault")
    assert (await running_node.client.stream("s")).packets == 0
    with contextlib.closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as camera:
        camera.bind(("127.0.0.9", 0))
        await play(camera, info.port, sender_of(h264_units))
        await running_node.event("stream_ready")


@pytest.mark.gb("G199", "G200")
@pytest.mark.quirk(27)
@pytest.mark.parametrize("ssrc", [0, 0xDEADBEEF])
async def test_an_unpromised_ssrc_is_played_and_reported_once(
    running_node, h264_units, udp_socket, sender_of, ssrc: int
) -> None:
    info = await running_node.client.open_receiver(ReceiverSpec(stream_id="s", ssrc=SSRC))
    sender = sender_of(h264_units, ssrc=ssrc)
    await play(udp_socket, info.port, sender)
    await running_node.event("stream_ready")
    await running_node.client.update_receiver("s", ReceiverUpdate(ssrc=200009319))
    await play(udp_socket, info.port, sender)
    fault = await running_node.event("stream_fault")
    assert (fault.kind, fault.detail) == ("ssrc_mismatch", f"expected=0183000001 received={ssrc:010d}")
    assert sum(event.type == "stream_fault" for event in running_node.seen) == 1
    assert (await running_node.client.stream("s")).ssrc == ssrc
    # The y of the answer comes at last, on the same socket: the filter follows it at once.
    await play(udp_socket, info.port, sender_of(h264_units, ssrc=200009319))
    await eventually(lambda: running_node.node.stream_stats("s").ssrc == 200009319)


@pytest.mark.gb("G219", "G220")
async def test_loss_and_reordering_are_counted(running_node, h264_units, udp_socket, sender_of) -> None:
    info = await running_node.client.open_receiver(ReceiverSpec(stream_id="s"))
    packets = sender_of(h264_units).packets()
    del packets[20]
    packets[60], packets[61] = packets[61], packets[60]
    for number, packet in enumerate(packets):
        udp_socket.sendto(packet, ("127.0.0.1", info.port))
        if number % 20 == 0:
            await asyncio.sleep(0.002)
    stats = await settle(running_node, "s", len(packets))
    assert stats.lost == 1
    assert stats.reordered >= 1
    assert stats.damaged_units > 0
    assert stats.resyncs >= 1
    assert stats.key_units == 2


@pytest.mark.gb("G207", "G211")
@pytest.mark.quirk(38)
@pytest.mark.parametrize("prefix", [b"", b"$\x00"])
async def test_tcp_passive_in_both_framings_and_its_end(
    running_node, h264_units, sender_of, prefix: bytes
) -> None:
    info = await running_node.client.open_receiver(
        ReceiverSpec(stream_id="s", transport=Transport.TCP_PASSIVE)
    )
    _, writer = await asyncio.open_connection("127.0.0.1", info.port)
    packets = sender_of(h264_units).packets()
    for packet in packets:
        writer.write(prefix + frame(packet))
    await writer.drain()
    await running_node.event("stream_ready")
    stats = await settle(running_node, "s", len(packets))
    assert (stats.lost, stats.damaged_units) == (0, 0)
    writer.close()
    lost = await running_node.event("stream_lost")
    assert lost.cause == "connection_lost"


async def test_a_second_tcp_connection_does_not_disturb_the_first(
    running_node, h264_units, sender_of
) -> None:
    info = await running_node.client.open_receiver(
        ReceiverSpec(stream_id="s", transport=Transport.TCP_PASSIVE)
    )
    packets = sender_of(h264_units).packets()
    _, idle = await asyncio.open_connection("127.0.0.1", info.port)
    _, first = await asyncio.open_connection("127.0.0.1", info.port)
    first.write(b"".join(frame(packet) for packet in packets[:50]))
    await settle(running_node, "s", 50)
    _, second = await asyncio.open_connection("127.0.0.1", info.port)
    second.write(b"".join(frame(packet) for packet in packets[50:]))
    await running_node.event("stream_fault")
    first.write(b"".join(frame(packet) for packet in packets[50:]))
    stats = await settle(running_node, "s", len(packets))
    assert stats.packets == len(packets)
    assert stats.foreign_packets == len(packets) - 50
    for writer in (idle, first, second):
        writer.close()


@pytest.mark.gb("G208")
async def test_dialling_tries_at_least_three_times_at_least_a_second_apart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loop = asyncio.get_running_loop()
    tries: list[float] = []
    connect = loop.sock_connect

    async def counting(sock: socket.socket, address: Any) -> None:
        tries.append(time.monotonic())
        await connect(sock, address)

    monkeypatch.setattr(loop, "sock_connect", counting)
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with pytest.raises(OSError, match="no connection"):
        await tcp.dial("127.0.0.1", port, tries=3)
    assert len(tries) == 3
    assert all(after - before >= 0.99 for before, after in itertools.pairwise(tries))
    assert tcp.DIAL_TRIES >= 3
    assert tcp.DIAL_INTERVAL_S >= 1.0


@pytest.mark.gb("G208")
async def test_tcp_active_reaches_a_listener_that_comes_late(running_node, h264_units, sender_of) -> None:
    info = await running_node.client.open_receiver(
        ReceiverSpec(stream_id="s", transport=Transport.TCP_ACTIVE)
    )
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    await running_node.client.update_receiver("s", ReceiverUpdate(remote_host="127.0.0.1", remote_port=port))
    await asyncio.sleep(0.2)  # the first try has failed
    callers: asyncio.Queue[Any] = asyncio.Queue()
    server = await asyncio.start_server(lambda r, w: callers.put_nowait((r, w)), "127.0.0.1", port)
    _, writer = await asyncio.wait_for(callers.get(), 15)
    assert writer.get_extra_info("peername")[1] == info.port
    writer.write(b"".join(frame(packet) for packet in sender_of(h264_units).packets()))
    await running_node.event("stream_ready")
    writer.close()
    server.close()


async def test_a_camera_that_cannot_be_dialled_is_lost(running_node, monkeypatch: pytest.MonkeyPatch) -> None:
    async def quick(host: str, port: int, **options: Any) -> socket.socket:
        return await tcp.dial(host, port, **options, interval_s=0.01)

    monkeypatch.setattr("media.sources.gb.dial", quick)
    await running_node.client.open_receiver(ReceiverSpec(stream_id="s", transport=Transport.TCP_ACTIVE))
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    await running_node.client.update_receiver("s", ReceiverUpdate(remote_host="127.0.0.1", remote_port=port))
    assert (await running_node.event("stream_lost")).cause == "dial_failed"


async def test_silence_is_a_loss_once_and_a_paused_stream_may_be_silent(running_node, udp_socket) -> None:
    spec = ReceiverSpec(stream_id="s", no_rtp_timeout_s=0.4)
    info = await running_node.client.open_receiver(spec)
    await running_node.client.open_receiver(ReceiverSpec(stream_id="paused", no_rtp_timeout_s=0.4))
    await running_node.client.update_receiver("paused", ReceiverUpdate(paused=True))
    udp_socket.sendto(build(96, 0, 0, 1, b"x"), ("127.0.0.1", info.port))
    assert (await running_node.event("stream_lost")).cause == "no_rtp"
    await asyncio.sleep(1.2)
    assert [event.stream_id for event in running_node.seen if event.type == "stream_lost"] == ["s"]


async def test_an_unused_stream_is_reported_idle(running_node, h264_units, udp_socket, sender_of) -> None:
    info = await running_node.client.open_receiver(ReceiverSpec(stream_id="s", idle_grace_s=0.6))
    await play(udp_socket, info.port, sender_of(h264_units))
    await running_node.event("stream_ready")
    reader = running_node.node.stream("s").attach("test")
    await asyncio.sleep(1.5)
    assert not any(event.type == "stream_idle" for event in running_node.seen)
    reader.detach()
    await running_node.event("stream_idle")


async def test_a_reader_without_a_picture_asks_for_a_key_frame(
    running_node, h264_units, udp_socket, sender_of
) -> None:
    info = await running_node.client.open_receiver(ReceiverSpec(stream_id="s"))
    await play(udp_socket, info.port, sender_of(h264_units), slice(1, 10))
    reader = running_node.node.stream("s").attach("test")
    await running_node.event("key_frame_wanted")
    running_node.node.stream("s").request_key_frame()
    await asyncio.sleep(0.1)
    assert sum(event.type == "key_frame_wanted" for event in running_node.seen) == 1
    reader.detach()


@pytest.mark.gb("G225")
async def test_sender_reports_are_answered_on_the_odd_port(
    running_node, h264_units, udp_socket, sender_of
) -> None:
    info = await running_node.client.open_receiver(ReceiverSpec(stream_id="s"))
    packets = sender_of(h264_units).packets()
    del packets[10:12]
    with contextlib.closing(udp()) as rtcp:
        for packet in packets:
            udp_socket.sendto(packet, ("127.0.0.1", info.port))
        await running_node.event("stream_ready")
        report = build_sender_report(SenderReport(SSRC, 0x1111222233334444, 5, 6, 7))
        rtcp.sendto(report, ("127.0.0.1", info.port + 1))
        async with asyncio.timeout(10):
            data, address = await asyncio.get_running_loop().sock_recvfrom(rtcp, 2048)
    assert address[1] == info.port + 1
    assert data[:4].hex() == "81c90007"
    assert int.from_bytes(data[8:12], "big") == SSRC
    assert int.from_bytes(data[13:16], "big") == 2  # packets lost
    assert data[24:28].hex() == "22223333"  # the middle of the report's NTP time


@pytest.mark.gb("G225")
async def test_sender_reports_in_tcp_are_answered_there(running_node, h264_units, sender_of) -> None:
    info = await running_node.client.open_receiver(
        ReceiverSpec(stream_id="s", transport=Transport.TCP_PASSIVE)
    )
    reader, writer = await asyncio.open_connection("127.0.0.1", info.port)
    report = build_sender_report(SenderReport(SSRC, 1 << 32, 5, 6, 7))
    assert parse_sender_report(report) is not None
    packets = sender_of(h264_units).packets()
    writer.write(b"".join(frame(packet) for packet in [*packets[:30], report, *packets[30:]]))
    async with asyncio.timeout(10):
        received: list[bytes] = []
        deframer = Deframer()
        while not received:
            received += deframer.feed(await reader.read(4096))
    assert received[0][:2].hex() == "81c9"
    assert (await settle(running_node, "s", len(packets))).foreign_packets == 0
    writer.close()


@pytest.fixture
async def shared_node(tmp_path: Path, node_settings) -> AsyncIterator[Any]:
    with contextlib.closing(udp()) as probe:
        port = probe.getsockname()[1]
    config: NodeConfig = node_settings(tmp_path, shared_rtp_port=port)
    node = Node(config)
    await node.start()
    yield node, port
    await node.close()


@pytest.mark.gb("G200")
@pytest.mark.quirk(27)
async def test_one_port_for_all_streams_keyed_by_ssrc_and_source(shared_node, h264_units, sender_of) -> None:
    node, port = shared_node
    for number in range(3):
        spec = ReceiverSpec(stream_id=f"s{number}", ssrc=SSRC + number, shared_port=True)
        assert node.open_receiver(spec).port == port
    with contextlib.closing(udp()) as recorder, contextlib.closing(udp()) as dahua:
        # Two cameras behind one recorder share its address; a third device sends SSRC 0 and is the only one left.
        senders = [sender_of(h264_units, ssrc=SSRC + number) for number in range(2)]
        for frames in zip(*(sender.frames() for sender in senders), strict=True):
            for packet in (packet for frame_ in frames for packet in frame_):
                recorder.sendto(packet, ("127.0.0.1", port))
            await asyncio.sleep(0.001)
        await eventually(lambda: node.stream_stats("s0").ready and node.stream_stats("s1").ready)
        await play(dahua, port, sender_of(h264_units, ssrc=0))
        await eventually(lambda: node.stream_stats("s2").ready)
        assert node.stream_stats("s2").ssrc == 0
        assert node.stream_stats("s0").packets == node.stream_stats("s1").packets
        with contextlib.closing(udp()) as stranger:
            await play(stranger, port, sender_of(h264_units, ssrc=999), slice(5))
            await asyncio.sleep(0.1)
        assert node._shared.foreign > 0
        assert {node.stream_stats(f"s{n}").foreign_packets for n in range(3)} == {0}


@pytest.mark.parametrize("batches", [True, False])
async def test_the_shared_port_sorts_packets_of_all_sizes(
    tmp_path: Path, node_settings, monkeypatch: pytest.MonkeyPatch, batches: bool
) -> None:
    """Two sessions whose packets alternate, one of them with packets above 2 KB: each relay gets its own, in order."""
    if not batches:
        monkeypatch.setattr("media.mmsg.probe", lambda: False)
    with contextlib.closing(udp()) as probe:
        port = probe.getsockname()[1]
    node = Node(node_settings(tmp_path, shared_rtp_port=port))
    await node.start()
    with (
        contextlib.closing(udp()) as camera,
        contextlib.closing(udp()) as one,
        contextlib.closing(udp()) as two,
    ):
        sent = []
        for number, (sink, size) in enumerate(((one, 1400), (two, 9000))):
            node.open_receiver(ReceiverSpec(stream_id=f"s{number}", ssrc=SSRC + number, shared_port=True))
            spec = SenderSpec(
                sender_id=f"u{number}", stream_id=f"s{number}", ssrc=7 + number, remote_host="127.0.0.1",
                remote_port=sink.getsockname()[1],
            )  # fmt: skip
            node.open_sender(spec)
            node.start_sender(spec.sender_id)
            payload = b"\x00\x00\x01\xba" + bytes(range(256)) * 400
            sent.append(RtpPacketizer(SSRC + number, 96, mtu=size).packets(payload, 3600))
        for turn in range(len(sent[0])):
            for packets in sent:
                if turn < len(packets):
                    camera.sendto(packets[turn], ("127.0.0.1", port))
        loop = asyncio.get_running_loop()
        for sink, packets in zip((one, two), sent, strict=True):
            sink.setblocking(False)
            got = [await asyncio.wait_for(loop.sock_recv(sink, 65536), 30) for _ in packets]
            assert [packet[12:] for packet in got] == [packet[12:] for packet in packets]
    assert max(map(len, sent[1])) > 8000
    assert node.stats().kernel_drops == 0
    await node.close()


async def test_the_shared_port_takes_tcp_too(shared_node, h264_units, sender_of) -> None:
    node, port = shared_node
    for number in range(2):
        node.open_receiver(
            ReceiverSpec(
                stream_id=f"s{number}", ssrc=SSRC + number, shared_port=True, transport=Transport.TCP_PASSIVE
            )
        )
    writers = []
    for number in (1, 0):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(
            b"".join(frame(packet) for packet in sender_of(h264_units, ssrc=SSRC + number).packets())
        )
        writers.append(writer)
    await eventually(lambda: node.stream_stats("s0").ready and node.stream_stats("s1").ready)
    assert [node.stream_stats(f"s{n}").ssrc for n in range(2)] == [SSRC, SSRC + 1]
    assert [node.stream_stats(f"s{n}").lost for n in range(2)] == [0, 0]
    for writer in writers:
        writer.close()


async def test_refusals_have_codes(running_node) -> None:
    client = running_node.client
    await client.open_receiver(ReceiverSpec(stream_id="s"))

    async def code(call: Any) -> tuple[str, int]:
        with pytest.raises(MediaError) as caught:
            await call
        return caught.value.code, caught.value.status

    assert await code(client.open_receiver(ReceiverSpec(stream_id="s"))) == ("bad_request", 409)
    assert await code(client.stream("other")) == ("not_found", 404)
    assert await code(client.update_receiver("other", ReceiverUpdate())) == ("not_found", 404)
    assert await code(client.start_sender("other")) == ("not_found", 404)
    assert await code(client.open_receiver(ReceiverSpec(stream_id="t", shared_port=True))) == (
        "unsupported",
        415,
    )
    orphan = SenderSpec(sender_id="u", stream_id="other", ssrc=1, transport=Transport.TCP_PASSIVE)
    assert await code(client.open_sender(orphan)) == ("not_found", 404)
    assert await code(client.open_sender(SenderSpec(sender_id="u", stream_id="s", ssrc=1))) == (
        "bad_request",
        400,
    )
    for call in (client.close_receiver("other"), client.close_sender("other"), client.close_viewer("other")):
        await call
    for number in range(99):
        await client.open_receiver(ReceiverSpec(stream_id=f"n{number}"))
    assert await code(client.open_receiver(ReceiverSpec(stream_id="one-too-many"))) == ("no_port", 503)


async def test_the_secret_is_needed_and_a_dead_node_is_unavailable(running_node) -> None:
    stranger = MediaClient(running_node.node.config.control, "wrong")
    with pytest.raises(MediaError) as caught:
        await stranger.stats()
    assert caught.value.code == "unavailable"  # not started
    await stranger.start()
    with pytest.raises(MediaError) as caught:
        await stranger.stats()
    assert (caught.value.code, caught.value.status) == ("forbidden", 401)
    await stranger.close()
    nobody = MediaClient("tcp:127.0.0.1:1", "x")
    await nobody.start()
    with pytest.raises(MediaError) as caught:
        await nobody.stats()
    assert caught.value.code == "unavailable"
    await nobody.close()


@pytest.mark.quirk(33)
async def test_a_port_rests_before_it_is_lent_again(running_node, udp_socket) -> None:
    client = running_node.client
    info = await client.open_receiver(ReceiverSpec(stream_id="s"))
    await client.close_receiver("s")
    stats = await client.stats()
    assert (stats.ports_leased, stats.ports_quarantined, stats.ports_free) == (0, 1, 99)
    udp_socket.sendto(build(96, 0, 0, 1, b"the BYE was lost"), ("127.0.0.1", info.port))
    await eventually(lambda: running_node.node.ports.ghost_packets == 1)
    await eventually(lambda: running_node.node.ports.free == 100)


async def test_totals_of_closed_streams_are_kept(running_node, h264_units, udp_socket, sender_of) -> None:
    info = await running_node.client.open_receiver(ReceiverSpec(stream_id="s"))
    count = await play(udp_socket, info.port, sender_of(h264_units))
    await settle(running_node, "s", count)
    await running_node.client.close_receiver("s")
    stats = await running_node.client.stats()
    assert stats.streams == 0
    assert stats.closed_totals.packets == count
    assert stats.closed_totals.video_units >= 49
    assert stats.rss_bytes > 10_000_000
    assert stats.cpu_seconds > 0


async def test_the_viewers_site_is_open_to_pages_from_elsewhere(running_node) -> None:
    base = f"http://127.0.0.1:{running_node.node.viewer_port}"
    async with ClientSession() as session:
        async with session.get(f"{base}/healthz") as response:
            assert (response.status, await response.text()) == (200, "ok\n")
            assert response.headers["Access-Control-Allow-Origin"] == "*"
        async with session.get(f"{base}/streams/s") as response:
            assert response.status == 404
            assert (await response.json(content_type="application/problem+json"))["code"] == "not_found"
        async with session.options(f"{base}/live/s.mp4") as response:
            assert response.status == 204


@pytest.mark.quirk(46)
async def test_media_that_contradict_the_answer_are_named(running_node, udp_socket) -> None:
    info = await running_node.client.open_receiver(ReceiverSpec(stream_id="s", ssrc=SSRC))
    packet = b"\x47\x40\x00\x10" + bytes(184)
    for number in range(20):
        udp_socket.sendto(build(33, number, number * 900, 4, packet * 7), ("127.0.0.1", info.port))
    await eventually(lambda: sum(event.type == "stream_fault" for event in running_node.seen) == 2)
    faults = {event.kind: event.detail for event in running_node.seen if event.type == "stream_fault"}
    assert faults["media_mismatch"] == "payload_type=33 payload=MPEG-TS"
    assert faults["ssrc_mismatch"] == "expected=0183000001 received=0000000004"
    assert (await running_node.client.stream("s")).media_mismatch == "payload_type=33 payload=MPEG-TS"
