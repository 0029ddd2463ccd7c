"""Wireshark's dissectors watch the gateway on the wire: registration, catalog, streams upward over UDP and both ways of TCP."""

from __future__ import annotations

import asyncio
import re
import signal
import subprocess
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest
import pytest_asyncio
from chain import UPPER, Chain, camera, chain
from gateway_process import DOMAIN, SERVER_ID
from port_ranges import kept_ports

from simulator.upper_platform import Pull

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.needs("tshark"),
    pytest.mark.timeout(180),
]

RTP_PORTS = kept_ports(100)
ERROR = 0x800000
"""Wireshark's severity: chat 0x200000, note 0x400000, warning 0x600000, error 0x800000."""
KNOWN_NOTES = {"Unrecognised SIP header (x-gb-ver)", "Connection finish (FIN)"}
TRANSPORTS = ("udp", "tcp_passive", "tcp_active")


@dataclass
class Capture:
    """A finished capture and what was done meanwhile."""

    file: Path
    sip: int
    upper: int
    camera: int
    channel_id: str
    pulls: dict[str, Pull]
    media: dict[str, int]
    """The gateway's port of each relay, by transport."""

    def read(self, show: str, *fields: str) -> list[list[str]]:
        """Rows of ``fields`` of all frames that match the display filter ``show``; several values of one field in one text."""
        decode = [f"udp.port=={self.sip},sip", f"tcp.port=={self.sip},sip", f"udp.port=={self.upper},sip"]
        decode += [f"tcp.port=={port},rtp" for way, port in self.media.items() if way != "udp"]
        command = ["tshark", "-r", str(self.file), "-Y", show, "-T", "fields", "-E", "separator=/t"]
        for rule in decode:
            command += ["-d", rule]
        for field in fields:
            command += ["-e", field]
        result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert result.returncode == 0, result.stderr
        return [line.split("\t") for line in result.stdout.splitlines()]

    def column(self, show: str, field: str) -> list[str]:
        """All values of one field, one entry per value."""
        return [value for row in self.read(show, field) for value in row[0].split(",") if value]

    @property
    def ours(self) -> str:
        """Display filter of what the gateway sent."""
        low, high = RTP_PORTS
        ports = f"{self.sip}, {low}..{high}"
        return f"(udp.srcport in {{{ports}}} || tcp.srcport in {{{ports}}})"


async def captured(house: Chain, file: Path) -> Capture:
    """Capture while a camera comes, the catalog is asked for and its picture is pulled in three ways."""
    sip, upper = house.ports[0], house.upper.port
    ports = f"port {sip} or port {upper} or portrange {RTP_PORTS[0]}-{RTP_PORTS[1]}"
    tshark = await asyncio.create_subprocess_exec(
        "tshark", "-q", "-i", "lo", "-B", "32", "-w", str(file), "-f", ports, stderr=asyncio.subprocess.PIPE
    )
    assert tshark.stderr is not None
    said = ""
    while "Capture started" not in said:
        line = (await asyncio.wait_for(tshark.stderr.readline(), 30)).decode()
        if not line:
            pytest.skip(f"tshark may not capture here: {said[-200:]}")
        said += line
    try:
        device = camera(house.gateway, 5)
        house.cameras.append(device)
        await device.start()
        await device.wait_registered(20)
        await house.channel_online(device)
        await device.registration.beat()
        assert device.channel_id in {item.device_id for item in await house.upper.query_catalog()}
        capture = Capture(file, sip, upper, device.port, device.channel_id, {}, {})
        for transport in TRANSPORTS:
            pull = await house.upper.invite(device.channel_id, transport)
            await pull.media.wait_frames(30)
            await pull.close()
            capture.pulls[transport] = pull
            ((_, capture.media[transport]),) = pull.media.stats.sources
        await house.upper.ptz(device.channel_id, "A50F01021F0000D6")
        await device.wait(lambda: device.ptz_log)
        await asyncio.sleep(1.0)
    finally:
        tshark.send_signal(signal.SIGINT)
        await tshark.communicate()
    return capture


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def capture(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Capture]:
    folder = tmp_path_factory.mktemp("tshark")
    media = {"rtp_port_min": RTP_PORTS[0], "rtp_port_max": RTP_PORTS[1]}
    async with chain(folder, 1, overrides={"media": media}) as house:
        yield await captured(house, folder / "wire.pcapng")


async def test_nothing_the_gateway_sends_is_malformed(capture: Capture) -> None:
    assert len(capture.read(capture.ours, "frame.number")) > 100
    assert capture.read(f"{capture.ours} && _ws.malformed", "frame.number", "_ws.expert.message") == []
    assert capture.read(f"_ws.expert.severity >= {ERROR}", "frame.number", "_ws.expert.message") == []
    told = set(capture.column(f"udp.srcport == {capture.sip} && _ws.expert", "_ws.expert.message"))
    assert told <= KNOWN_NOTES


async def test_only_sip_goes_to_the_peers_sip_ports(capture: Capture) -> None:
    for port in (capture.camera, capture.upper):
        assert capture.read(f"udp.dstport == {port} && sip", "frame.number")
        assert capture.read(f"udp.dstport == {port} && !sip", "frame.number", "udp.srcport") == []


def in_order(wanted: Sequence[str], seen: list[str]) -> bool:
    rest = iter(seen)
    return all(word in rest for word in wanted)


async def test_the_methods_are_those_of_the_standard(capture: Capture) -> None:
    to_camera = f"udp.srcport == {capture.sip} && udp.dstport == {capture.camera}"
    to_upper = f"udp.srcport == {capture.sip} && udp.dstport == {capture.upper}"
    # one picture for three pulls: one call toward the camera
    assert in_order(["INVITE", "ACK"], capture.column(to_camera, "sip.Method"))
    assert capture.column(to_camera, "sip.Method").count("INVITE") == 1
    assert {"MESSAGE", "SUBSCRIBE", "INVITE", "ACK"} <= set(capture.column(to_camera, "sip.Method"))
    assert in_order(["401", "200"], capture.column(to_camera, "sip.Status-Code"))
    assert in_order(
        ["100", "200"] * 3, capture.column(f"{to_upper} && sip.CSeq.method == INVITE", "sip.Status-Code")
    )
    assert set(capture.column(to_upper, "sip.Method")) <= {"MESSAGE", "REGISTER", "NOTIFY"}
    branches = capture.read(
        f"udp.srcport == {capture.sip} && sip.Method", "sip.Via.branch", "sip.CSeq.method"
    )
    assert all(branch.startswith("z9hG4bK") for branch, _ in branches)
    own = [branch for branch, method in branches if method != "ACK"]
    assert len(own) == len(set(own)) or capture.read("sip.resend", "frame.number")


async def test_the_offer_downward_is_as_the_standard_writes_it(capture: Capture) -> None:
    fields = (
        "sip.r-uri.user", "sip.from.user", "sip.from.host", "sip.to.user", "sip.Subject", "sdp.owner.username",
        "sdp.connection_info.address", "sdp.session_name", "sdp.media", "sdp.media_attr", "sdp.unknown", "sdp.invalid",
    )  # fmt: skip
    ((uri, sender, host, to, subject, owner, address, name, media, attributes, extra, invalid),) = (
        capture.read(f"udp.srcport == {capture.sip} && sip.Method == INVITE", *fields)
    )
    assert (uri, sender, host, to) == (capture.channel_id, SERVER_ID, DOMAIN, capture.channel_id)
    assert (owner, address, name, invalid) == (SERVER_ID, "127.0.0.1", "Play", "")
    y = re.search(r"y=(0\d{9})", extra)
    assert y is not None
    assert re.fullmatch(rf"{capture.channel_id}:{y[1]},{SERVER_ID}:0\d{{0,19}}", subject)
    port = re.fullmatch(r"video (\d+) TCP/RTP/AVP 96( \d+)*", media)
    assert port is not None
    assert RTP_PORTS[0] <= int(port[1]) <= RTP_PORTS[1]
    assert {"recvonly", "rtpmap:96 PS/90000", "setup:passive", "connection:new"} <= set(attributes.split(","))


@pytest.mark.gb("G195", "G209")
async def test_the_answers_upward_are_as_the_standard_writes_them(capture: Capture) -> None:
    answers = capture.read(
        f"udp.srcport == {capture.sip} && udp.dstport == {capture.upper} && sip.Status-Code == 200 && sdp",
        "sdp.owner.username", "sdp.connection_info.address", "sdp.media", "sdp.media_attr", "sdp.unknown",
    )  # fmt: skip
    assert len(answers) == len(TRANSPORTS)
    setups = {"udp": None, "tcp_passive": "setup:active", "tcp_active": "setup:passive"}
    for (owner, address, media, attributes, extra), transport in zip(answers, TRANSPORTS, strict=True):
        pull = capture.pulls[transport]
        assert (owner, address) == (SERVER_ID, "127.0.0.1")
        protocol = "RTP/AVP" if transport == "udp" else "TCP/RTP/AVP"
        assert re.fullmatch(rf"video \d+ {protocol} 96", media), media
        assert {"sendonly", "rtpmap:96 PS/90000"} <= set(attributes.split(","))
        assert [a for a in attributes.split(",") if a.startswith("setup:")] == [
            s for s in [setups[transport]] if s
        ]
        assert f"y={pull.ssrc:010d}" in extra.split(",")
        assert "f=v/2/" in extra


@pytest.mark.gb("G223")
@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_rtp_upward_is_what_the_answer_promised(capture: Capture, transport: str) -> None:
    pull, port = capture.pulls[transport], capture.media[transport]
    kind = transport.partition("_")[0]
    show = f"{kind}.srcport == {port} && {kind}.dstport && rtp"
    assert {int(value, 16) for value in capture.column(show, "rtp.ssrc")} == {pull.ssrc} == {pull.answer.ssrc}
    assert set(capture.column(show, "rtp.p_type")) == {"96"}
    assert set(capture.column(show, "rtp.version")) == {"2"}
    numbers = [int(value) for value in capture.column(show, "rtp.seq")]
    steps = [(later - earlier) % 65536 for earlier, later in pairwise(numbers)]
    if transport == "udp":
        # The kernel shows several packets of one call as one frame (UDP_SEGMENT), of which only the first is read.
        sizes = [int(value) - 8 for value in capture.column(show, "udp.length")]
        assert all(1 <= step <= max(1, -(-size // 12)) for step, size in zip(steps, sizes, strict=False))
    else:
        assert set(steps) == {1}
    times = [int(value) for value in capture.column(show, "rtp.timestamp")]
    assert all((later - earlier) % 2**32 <= 90_000 for earlier, later in pairwise(times))
    assert len(set(times)) >= 30
    stats = pull.media.stats
    assert (stats.lost, stats.reordered, stats.timestamp_faults, stats.structure_faults) == (0, 0, 0, 0)
    assert stats.frames >= 30


async def test_the_catalog_upward_is_xml_in_its_declared_charset(capture: Capture) -> None:
    """The body as it was on the wire, taken out of the capture and read by an XML parser of its own."""
    from lxml import etree

    bodies = capture.read(
        f"udp.srcport == {capture.sip} && udp.dstport == {capture.upper} && sip.Method == MESSAGE",
        "udp.payload",
    )
    catalogs = []
    for (text,) in bodies:
        head, _, body = bytes.fromhex(text).partition(b"\r\n\r\n")
        assert re.search(rb"(?im)^content-type: *application/manscdp\+xml\r?$", head), head
        length = re.search(rb"(?im)^content-length: *(\d+)", head)
        assert length is not None
        assert int(length[1]) == len(body)
        root = etree.fromstring(body)
        if root.findtext("CmdType") == "Catalog":
            catalogs.append(root)
    items = [item.findtext("DeviceID") for root in catalogs for item in root.iter("Item")]
    assert capture.channel_id in items
    assert {root.findtext("SumNum") for root in catalogs} == {str(len(items))}
    assert UPPER not in items
