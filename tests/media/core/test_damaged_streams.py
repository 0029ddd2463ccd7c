"""Every fault of real devices' streams, sent by the simulator over real sockets: what comes out is whole, or left out.

All faulty cameras send at once, in real time, to one node. Each frame that a reader gets is decoded and must be, bit
for bit, a frame that the camera encoded; frames may only be missing where packets were.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import defaultdict
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import av
import pytest
from port_ranges import brief_ports

from media.node import Node
from media.rtp import RtpPacketizer
from media.specs import KeyFrameWanted, NodeConfig, NodeEvent, ReceiverSpec, StreamStats, Transport
from media.stream import Reader, StreamEnded
from media.unit import AccessUnit, Codec
from simulator.faults import Disturber, Faults
from simulator.picture import TestPicture
from simulator.sending import Feed, Outlet, Pacer, Pictures, Receiver, TcpOutlet, UdpOutlet
from simulator.stream_faults import STREAM_FAULTS, WireSpoiler

SECONDS = 7.0
RATE = 25
LOOP_FRAMES = 50
PICTURES = {codec: Pictures(320, 240, RATE, codec, 300_000, gop=25) for codec in ("h264", "h265")}
TCP_ONLY = {"starts_inside", "overwritten", "dollar_framing", "ehome_head"}
UDP_ONLY = {"second_sender", "same_ssrc_sender"}
LOSSY = {"overwritten", "lossy", "starts_inside", "ssrc_changes"}


@dataclass
class Watched:
    """One faulty camera and what a reader of its stream got."""

    names: set[str]
    codec: str = "h264"
    lose: float = 0.0
    reorder: float = 0.0
    units: list[AccessUnit] = field(default_factory=list)
    stats: StreamStats | None = None
    strange: int = 0
    drawn: int = 0
    """Pictures that the camera made: fewer than the time says where the machine is busy."""
    lost_on_purpose: int = 0
    key_frames_wanted: int = 0
    faults_told: list[str] = field(default_factory=list)

    @property
    def transport(self) -> Transport:
        return Transport.TCP_PASSIVE if self.names & TCP_ONLY else Transport.UDP


def cases() -> dict[str, Watched]:
    made = {name: Watched({name}) for name in STREAM_FAULTS}
    made |= {
        f"{name} h265": Watched({name}, "h265")
        for name in ("wrong_map", "no_map", "late_sets", "glued", "sets_once")
    }
    made["none"] = Watched(set())
    for share in (0.001, 0.01, 0.05):
        made[f"lossy {share}"] = Watched({"lossy"}, lose=share)
    made["reordered"] = Watched({"reordered"}, reorder=0.05)
    made["everything"] = Watched({"no_map", "stuffed_pack", "private_stream", "sets_once", "clock_jumps"})
    return made


async def play(node: Node, key: str, watched: Watched, pacer: Pacer) -> None:
    """Send one camera's stream to a receiver of its own and read it until the time is over."""
    stream_id = key.replace(" ", "-").replace(".", "_")
    info = node.open_receiver(ReceiverSpec(stream_id=stream_id, transport=watched.transport, ssrc=183000001))
    names = watched.names & set(STREAM_FAULTS)
    outlet: Outlet
    if watched.transport is Transport.UDP:
        outlet = UdpOutlet("127.0.0.1", ("127.0.0.1", info.port))
    else:
        outlet = TcpOutlet()
        assert await outlet.dial("127.0.0.1", info.port)
    outlet.spoiler = spoiler = WireSpoiler(names, seed=7)
    faults = Faults(lose_rtp=watched.lose, reorder_rtp=watched.reorder, stream=names)
    feed = Feed(PICTURES[watched.codec], names)
    await feed.prepare()
    disturber = Disturber(faults, seed=7)
    receiver = Receiver(outlet, RtpPacketizer(183000001, 96, 1400), disturber, faults)
    reading = asyncio.create_task(read(node.stream(stream_id).attach("test"), watched))
    pacer.attach(feed, receiver)
    await asyncio.sleep(SECONDS)
    pacer.detach(feed, receiver)
    watched.drawn = feed.frames
    await asyncio.sleep(0.5)
    watched.stats = node.stream_stats(stream_id)
    watched.strange = spoiler.strange_packets
    watched.lost_on_purpose = disturber.lost
    node.close_receiver(stream_id)
    await reading
    outlet.close()


async def read(reader: Reader, watched: Watched) -> None:
    try:
        while True:
            watched.units.append(await reader.next())
    except StreamEnded:
        pass


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Watched]:
    async def run(directory: Path) -> dict[str, Watched]:
        ports = brief_ports(600)
        config = NodeConfig(
            node_id="node-0", control=f"unix:{directory}/control", control_secret="s", media_host="127.0.0.1",
            bind_host="127.0.0.1", rtp_port_min=ports[0], rtp_port_max=ports[1], viewer_host="127.0.0.1",
            viewer_port=0, ticket_secret="t",
        )  # fmt: skip
        node, made, pacer = Node(config), cases(), Pacer(RATE)
        told: list[NodeEvent] = []
        node.emit = told.append  # type: ignore[method-assign]
        await node.start()
        try:
            await asyncio.gather(*(play(node, key, watched, pacer) for key, watched in made.items()))
        finally:
            await pacer.close()
            await node.close()
        for key, watched in made.items():
            mine = [
                event
                for event in told
                if getattr(event, "stream_id", "") == key.replace(" ", "-").replace(".", "_")
            ]
            watched.key_frames_wanted = sum(isinstance(event, KeyFrameWanted) for event in mine)
            watched.faults_told = [event.kind for event in mine if event.type == "stream_fault"]
        return made

    return asyncio.run(run(tmp_path_factory.mktemp("node")))


def _digest(frame: av.VideoFrame) -> str:
    return hashlib.md5(frame.to_ndarray(format="gray8").tobytes()).hexdigest()


def _decoder(codec: str) -> av.VideoCodecContext:
    decoder = av.CodecContext.create({"h264": "h264", "h265": "hevc"}[codec], "r")
    decoder.thread_count = 1
    return decoder


@pytest.fixture(scope="module")
def sources() -> dict[str, dict[str, int]]:
    """Digest of each frame of the loop -> its place."""
    found = {}
    for codec, pictures in PICTURES.items():
        decoder, digests = _decoder(codec), []
        for unit in TestPicture(320, 240, RATE, codec, bitrate=300_000, gop=25).encoded_loop(2.0):
            digests += [_digest(frame) for frame in decoder.decode(av.Packet(unit.data))]
        digests += [_digest(frame) for frame in decoder.decode(None)]
        assert len(set(digests)) == LOOP_FRAMES
        assert pictures.gop == 25
        found[codec] = {digest: place for place, digest in enumerate(digests)}
    return found


def places(watched: Watched, source: dict[str, int]) -> list[int]:
    """The place in the loop of each frame that came out, -1 for one that the camera never made."""
    out: list[int] = []
    decoder = _decoder(watched.codec)
    for unit in watched.units:
        if unit.codec.is_video:
            out += [source.get(_digest(frame), -1) for frame in decoder.decode(av.Packet(unit.data))]
    out += [source.get(_digest(frame), -1) for frame in decoder.decode(None)]
    return out


def gaps(found: list[int]) -> int:
    """Frames left out between those that came."""
    return sum((after - before - 1) % LOOP_FRAMES for before, after in pairwise(found))


@pytest.mark.quirk(38, 39, 40)
@pytest.mark.parametrize("key", list(cases()))
def test_what_comes_out_is_what_the_camera_encoded(
    results: dict[str, Watched], sources: dict[str, dict[str, int]], key: str
) -> None:
    watched = results[key]
    found = places(watched, sources[watched.codec])
    # Of 25 pictures in a row, each of three packets, hardly any is left at a loss of one packet in twenty.
    assert len(found) > (2 if watched.lose > 0.01 else RATE), "hardly any picture came out"
    assert -1 not in found, "a broken picture was passed on as good"
    assert not any(unit.damaged for unit in watched.units)
    if not watched.names & LOSSY:
        assert gaps(found) == 0, "whole pictures were left out"
        late = 2.5 if watched.names & {"late_sets", "audio_first"} else 1
        assert len(found) >= (watched.drawn - late * RATE) * 0.9


@pytest.mark.quirk(40)
@pytest.mark.parametrize(
    "key", [key for key in cases() if "clock" in key or key in ("none", "everything", "ssrc_changes")]
)
def test_the_clock_that_comes_out_goes_on_evenly(results: dict[str, Watched], key: str) -> None:
    steps = [
        after.dts - before.dts
        for before, after in pairwise([unit for unit in results[key].units if unit.codec.is_video])
    ]
    assert min(steps) > 0
    assert max(steps) < 2 * 90_000, "a leap of the sender's clock came through"
    later = steps[2 * RATE :]  # it takes half a second to see that a clock counts milliseconds
    assert sorted(later)[len(later) // 2] == pytest.approx(3600, rel=0.1)
    assert sum(later) / len(later) == pytest.approx(3600, rel=0.25)


@pytest.mark.quirk(40)
@pytest.mark.parametrize("share", [0.001, 0.01, 0.05])
def test_loss_is_marked_and_a_key_frame_is_asked_for_at_a_bounded_rate(
    results: dict[str, Watched], share: float
) -> None:
    watched = results[f"lossy {share}"]
    assert watched.stats is not None
    assert watched.lost_on_purpose > 0
    assert watched.stats.lost == watched.lost_on_purpose
    assert watched.stats.damaged_units > 0
    assert watched.stats.reader_drops > 0
    assert 1 <= watched.key_frames_wanted <= SECONDS / 2 + 1


@pytest.mark.quirk(40)
def test_reordering_up_to_five_in_a_hundred_costs_nothing(results: dict[str, Watched]) -> None:
    stats = results["reordered"].stats
    assert stats is not None
    assert stats.reordered > 10
    assert (stats.lost, stats.damaged_units) == (0, 0)


@pytest.mark.quirk(38)
def test_an_overwritten_buffer_costs_the_packets_inside_and_nothing_else(results: dict[str, Watched]) -> None:
    stats = results["overwritten"].stats
    assert stats is not None
    assert stats.resyncs >= 1
    assert stats.damaged_units > 0


@pytest.mark.quirk(27)
@pytest.mark.parametrize("key", sorted(UDP_ONLY))
def test_a_second_sender_on_the_port_is_counted_and_not_heard(results: dict[str, Watched], key: str) -> None:
    watched = results[key]
    assert watched.stats is not None
    assert watched.strange > 100
    assert watched.stats.foreign_packets >= watched.strange * 0.9
    assert watched.stats.damaged_units == 0
    assert watched.faults_told.count("foreign_source") == 1


@pytest.mark.quirk(27)
def test_a_change_of_ssrc_costs_at_most_a_group_of_pictures(
    results: dict[str, Watched], sources: dict[str, dict[str, int]]
) -> None:
    watched = results["ssrc_changes"]
    found = places(watched, sources["h264"])
    assert gaps(found) <= RATE
    assert len(found) > watched.drawn - 2 * RATE
    assert watched.stats is not None
    assert watched.stats.foreign_packets == 0, "the packets that came before it was believed count, too"


def test_all_of_it_has_a_case() -> None:
    covered: dict[str, int] = defaultdict(int)
    for watched in cases().values():
        for name in watched.names:
            covered[name] += 1
    assert set(STREAM_FAULTS) <= set(covered)
    assert {Codec(watched.codec) for watched in cases().values()} == {Codec.H264, Codec.H265}
