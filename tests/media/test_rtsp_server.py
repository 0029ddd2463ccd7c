"""The RTSP server by a bare client: order, sessions, transports, what is shared and what is given back."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import socket
import struct
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from rtsp_house import Answer, Client, RtspHouse, account, rtsp_house

from media.errors import MediaError
from media.readers.rtsp import connection as connections
from media.readers.rtsp import feed as feeds
from media.readers.rtsp.connection import Connection
from media.readers.rtsp.dialog import Session
from media.rtp import build_receiver_report, parse, parse_sender_report
from media.specs import StreamWanted, ViewerRefused, WantedAnswer
from media.unit import AccessUnit, Codec
from simulator.picture import TestPicture, tone

TCP = "Transport: RTP/AVP/TCP;unicast;interleaved=0-1"
CHANNEL = "41018300001320000001"
GOP = TestPicture(160, 96, gop=10, bitrate=100_000).encoded_loop(2.0)


@pytest.fixture
async def house() -> AsyncIterator[RtspHouse]:
    async with rtsp_house(rtsp_accounts=(account("nvr", "pass word 1"),)) as running:
        yield running


@pytest.fixture
async def client(house: RtspHouse) -> AsyncIterator[Client]:
    one = await Client.connect(house.rtsp.port)
    yield one
    await one.close()


def publish(house: RtspHouse, first: int = 0, count: int = 10, *, sound: bool = False) -> None:
    """Units of the loop into the stream "gate", which is opened when there is none."""
    stream = house.streams.get("gate") or house.open()
    for unit in GOP[first : first + count]:
        stream.publish(unit)
        if sound:
            stream.publish(AccessUnit(Codec.PCMA, unit.pts, unit.dts, False, bytes(320)))


async def until(condition: object, timeout_s: float = 20.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():  # type: ignore[operator]
            await asyncio.sleep(0.01)


def session_of(connection: Connection) -> Session:
    assert connection.dialog is not None
    assert connection.dialog.session is not None
    return connection.dialog.session


def feeds_of(house: RtspHouse) -> list[feeds.Feed]:
    return [session_of(connection).feed for connection in house.rtsp.connections]


# --- order -----------------------------------------------------------------------------------------------------


async def test_a_whole_session(house: RtspHouse, client: Client) -> None:
    publish(house, sound=True)
    address = house.address()
    options = await client.ask("OPTIONS", address)
    assert options.get("public").split(", ")[:4] == ["OPTIONS", "DESCRIBE", "SETUP", "PLAY"]
    described = await client.ask("DESCRIBE", address, "Accept: application/sdp")
    base = described.get("content-base")
    assert base == f"rtsp://127.0.0.1:{house.rtsp.port}/live/gate/"
    lines = described.body.decode().split("\r\n")
    assert "a=range:npt=now-" in lines
    assert "a=rtpmap:96 H264/90000" in lines
    assert "m=audio 0 RTP/AVP 8" in lines
    (fmtp,) = [line for line in lines if line.startswith("a=fmtp:96 ")]
    assert "packetization-mode=1" in fmtp
    assert "profile-level-id=42" in fmtp
    assert "sprop-parameter-sets=Z0" in fmtp
    setup = await client.ask("SETUP", base + "trackID=0", TCP)
    assert setup.get("transport").startswith("RTP/AVP/TCP;unicast;interleaved=0-1;ssrc=")
    assert setup.get("session").endswith(";timeout=60")
    await client.ask("SETUP", base + "trackID=1", "Transport: RTP/AVP/TCP;unicast;interleaved=2-3")
    play = await client.ask("PLAY", base, "Range: npt=0.000-")
    assert play.get("range") == "npt=now-"
    infos = [dict(part.split("=", 1) for part in info.split(";")) for info in play.get("rtp-info").split(",")]
    assert [info["url"] for info in infos] == [base + "trackID=0", base + "trackID=1"]
    for channel, info in ((0, infos[0]), (2, infos[1])):
        first = parse((await client.take(1, channel))[0])
        assert first is not None
        assert (first.sequence, first.timestamp) == (int(info["seq"]), int(info["rtptime"]))
    assert (await client.ask("GET_PARAMETER", base)).status == 200
    assert (await client.ask("SET_PARAMETER", base, body=b"x: 1\r\n")).status == 200
    assert (await client.ask("GET_PARAMETER", base, body=b"jitter\r\n")).status == 451
    assert (await client.ask("TEARDOWN", base)).status == 200
    assert (await client.ask("PLAY", base)).status == 454
    assert [kind for _, kind in house.opened] == ["rtsp"]
    assert [cause for _, cause in house.closed] == ["left"]
    client.session = ""
    assert (await client.play(address)).status == 200  # the same connection once more


async def test_wrong_order(house: RtspHouse, client: Client) -> None:
    publish(house)
    base = house.address().split("?")[0] + "/"
    for method in ("PLAY", "PAUSE", "TEARDOWN"):
        assert (await client.ask(method, base)).status == 455
    assert (await client.ask("DESCRIBE", house.address())).status == 200
    assert (await client.ask("SETUP", base + "trackID=0", TCP)).status == 200
    assert (await client.ask("PAUSE", base)).status == 455
    session, client.session = client.session, "0000"
    assert (await client.ask("PLAY", base)).status == 454
    client.session = ""
    assert (await client.ask("PLAY", base)).status == 454
    client.session = session
    assert (await client.ask("PLAY", base)).status == 200
    assert (await client.ask("PLAY", base)).status == 200
    assert (await client.ask("SETUP", base + "trackID=0", TCP)).status == 455


@pytest.mark.parametrize(
    ("method", "lines", "status"),
    [
        ("ANNOUNCE", (), 405),
        ("RECORD", (), 405),
        ("FLY", (), 501),
        ("OPTIONS", ("Require: com.example.play",), 551),
        ("DESCRIBE", ("Accept: text/html",), 406),
        ("SETUP", (), 461),
        ("SETUP", ("Transport: RTP/AVP;multicast;port=5000-5001",), 461),
        ("SETUP", ("Transport: RTP/SAVP;unicast;client_port=5000-5001",), 461),
    ],
)
async def test_what_is_not_served(
    house: RtspHouse, client: Client, method: str, lines: tuple[str, ...], status: int
) -> None:
    publish(house)
    assert (await client.ask(method, house.address(), *lines)).status == status


async def test_versions_and_numbers(house: RtspHouse, client: Client) -> None:
    async def raw(data: bytes) -> Answer:
        client.writer.write(data)
        return await client.answer()

    assert (await raw(b"OPTIONS * RTSP/2.0\r\nCSeq: 1\r\n\r\n")).status == 505
    assert (await raw(b"OPTIONS * RTSP/1.0\r\n\r\n")).status == 400
    pipelined = await raw(b"".join(b"OPTIONS * RTSP/1.0\r\nCSeq: %d\r\n\r\n" % n for n in range(90, 200)))
    answers = [pipelined] + [await client.answer() for _ in range(109)]
    assert [answer.get("cseq") for answer in answers] == [str(n) for n in range(90, 200)]
    assert {answer.status for answer in answers} == {200}
    assert (await raw(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")).status == 505
    assert (await raw(b"no request\r\n\r\n")).status == 400
    assert await client.reader.read() == b""  # closed: nothing can be read after that


async def test_tracks_that_are_not_there(house: RtspHouse, client: Client) -> None:
    publish(house, sound=True)
    base = house.address().split("?")[0]
    assert (await client.ask("DESCRIBE", house.address())).status == 200
    assert (await client.ask("SETUP", base + "/trackID=7", TCP)).status == 404
    assert (await client.ask("SETUP", base, TCP)).status == 459
    assert (await client.ask("SETUP", base + "/trackID=1", TCP)).status == 200
    (output,) = session_of(next(iter(house.rtsp.connections))).feed.outputs.values()
    assert output.track.number == 1
    answer = await client.ask("SETUP", base + "/trackID=0", TCP)  # the same channels again: others are given
    assert "interleaved=2-3" in answer.get("transport")


# --- admission -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tail", ["", "?ticket=", "?ticket=1.abc", "?token=gbt_x"])
async def test_no_ticket_no_picture(house: RtspHouse, client: Client, tail: str) -> None:
    publish(house)
    address = house.address().split("?")[0] + tail
    assert (await client.ask("DESCRIBE", address)).status == 403
    assert (await client.ask("SETUP", address + "/trackID=0", TCP)).status == 403
    assert house.opened == []
    assert house.rtsp.failures.total == 2
    assert [(e.kind, e.source) for e in house.events if isinstance(e, ViewerRefused)] == [
        ("rtsp_ticket", "127.0.0.1")
    ]


async def test_tickets_expire_and_belong_to_a_stream(house: RtspHouse, client: Client) -> None:
    publish(house)
    house.open("yard")
    assert (await client.ask("DESCRIBE", house.address(lifetime_s=-1))).status == 403
    ticket = house.address().split("?")[1]
    assert (await client.ask("DESCRIBE", house.address("yard").split("?")[0] + "?" + ticket)).status == 403
    assert (await client.ask("DESCRIBE", house.address("cellar"))).status == 404
    assert (await client.ask("DESCRIBE", "rtsp://127.0.0.1/elsewhere")).status == 404


async def test_a_host_that_guesses_passwords_is_locked(house: RtspHouse, client: Client) -> None:
    publish(house)
    uri = f"rtsp://127.0.0.1:{house.rtsp.port}/channels/{CHANNEL}"
    for _ in range(10):
        challenge = (await client.ask("DESCRIBE", uri)).get("www-authenticate")
        assert (await client.ask("DESCRIBE", uri, answered(challenge, uri, "wrong"))).status == 401
    assert (
        await client.ask("DESCRIBE", uri, answered(challenge, uri, "pass word 1"))
    ).status == 403  # too late
    assert (await client.ask("DESCRIBE", house.address())).status == 200  # a ticket is no guess
    assert {e.kind for e in house.events if isinstance(e, ViewerRefused)} == {"rtsp_login", "rtsp_locked"}


async def test_old_tickets_lock_nobody_out(house: RtspHouse, client: Client) -> None:
    publish(house)
    for _ in range(12):
        assert (await client.ask("DESCRIBE", house.address(lifetime_s=-1))).status == 403
    assert (await client.ask("DESCRIBE", house.address())).status == 200


async def test_a_stream_that_rtp_has_no_form_for(house: RtspHouse, client: Client) -> None:
    stream = house.open()
    stream.publish(AccessUnit(Codec.SVAC, 0, 0, True, b"\x00\x00\x01\xb0"))
    assert (await client.ask("DESCRIBE", house.address())).status == 415
    await until(lambda: not house.rtsp.channels)
    assert [cause for _, cause in house.closed] == ["unsupported"]


def answered(challenge: str, uri: str, password: str) -> str:
    values = dict(part.split("=", 1) for part in challenge.partition(" ")[2].replace('"', "").split(", "))
    kind = {"MD5": "md5", "SHA-256": "sha256"}[values["algorithm"]]

    def h(text: str) -> str:
        return hashlib.new(kind, text.encode()).hexdigest()

    realm, nonce = values["realm"], values["nonce"]
    ha1, ha2 = h(f"nvr:{realm}:{password}"), h(f"DESCRIBE:{uri}")
    proof = h(f"{ha1}:{nonce}:00000001:c:auth:{ha2}")
    algorithm = values["algorithm"]
    return (
        f'Authorization: Digest username="nvr", realm="{realm}", nonce="{nonce}", uri="{uri}", '
        f'algorithm={algorithm}, qop=auth, nc=00000001, cnonce="c", response="{proof}"'
    )


@pytest.mark.parametrize("algorithm", [0, 1])
async def test_an_account_asks_for_a_channel(house: RtspHouse, client: Client, algorithm: int) -> None:
    publish(house)
    uri = f"rtsp://127.0.0.1:{house.rtsp.port}/channels/{CHANNEL}?stream=1"
    challenge = (await client.ask("DESCRIBE", uri)).headers["www-authenticate"][algorithm]
    wrong = await client.ask("DESCRIBE", uri, answered(challenge, uri, "pass word 2"))
    assert wrong.status == 401
    assert "stale" not in wrong.get("www-authenticate")
    header = answered(challenge, uri, "pass word 1")

    async def gateway() -> StreamWanted:
        await until(lambda: any(isinstance(event, StreamWanted) for event in house.events))
        event = next(event for event in house.events if isinstance(event, StreamWanted))
        house.rtsp.answer_wanted(event.request_id, WantedAnswer(stream_id="gate"))
        return event

    described, event = await asyncio.gather(client.ask("DESCRIBE", uri, header), gateway())
    assert described.status == 200
    assert (event.channel_id, event.stream_number, event.user, event.token) == (CHANNEL, 1, "nvr", "")
    assert (event.source, event.host) == ("127.0.0.1", "127.0.0.1")
    assert len(house.opened) == 1  # seated by the answer, before anything is set up
    other = await Client.connect(house.rtsp.port)
    again = await other.ask("DESCRIBE", uri, header)  # somebody heard it on the wire
    assert again.status == 401
    assert "stale=true" in again.get("www-authenticate")
    await other.close()
    assert house.rtsp.failures.total == 1


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (WantedAnswer(status=302, location="rtsp://10.0.0.9:8555/live/x?ticket=1"), 302),
        (WantedAnswer(status=404), 404),
        (WantedAnswer(status=504), 504),
        (WantedAnswer(status=403), 403),
        (WantedAnswer(status=200), 503),
        (WantedAnswer(stream_id="gone"), 503),
    ],
)
async def test_the_gateway_says_no_or_elsewhere(
    house: RtspHouse, client: Client, answer: WantedAnswer, status: int
) -> None:
    async def gateway() -> None:
        await until(lambda: any(isinstance(event, StreamWanted) for event in house.events))
        event = next(event for event in house.events if isinstance(event, StreamWanted))
        assert event.token == "gbt_secret"
        assert "gbt_secret" not in repr(event)
        refusal = pytest.raises(MediaError) if answer.stream_id else contextlib.nullcontext()
        with refusal:
            house.rtsp.answer_wanted(event.request_id, answer)

    uri = f"rtsp://127.0.0.1:{house.rtsp.port}/channels/{CHANNEL}?token=gbt_secret"
    described, _ = await asyncio.gather(client.ask("DESCRIBE", uri), gateway())
    assert described.status == status
    assert described.get("location") == answer.location
    assert house.opened == []


async def test_a_gateway_that_is_silent_and_a_player_that_leaves(client: Client) -> None:
    async with rtsp_house(rtsp_start_timeout_s=0.2) as house:
        publish(house)
        player = await Client.connect(house.rtsp.port)
        uri = f"rtsp://127.0.0.1:{house.rtsp.port}/channels/{CHANNEL}?token=gbt_secret"
        assert (await player.ask("DESCRIBE", uri)).status == 504
        assert (await player.ask("DESCRIBE", uri.split("?")[0])).status == 403  # nobody has an account here
        house.events.clear()
        house.config = house.config.model_copy(update={"rtsp_start_timeout_s": 30.0})
        player.writer.write(f"DESCRIBE {uri} RTSP/1.0\r\nCSeq: 9\r\n\r\n".encode())
        await until(lambda: house.events)
        await player.close()
        await until(lambda: not house.rtsp.connections)
        with pytest.raises(MediaError):
            house.rtsp.answer_wanted(house.events[0].request_id, WantedAnswer(stream_id="gate"))
        assert house.opened == []


# --- pictures --------------------------------------------------------------------------------------------------


def numbers(packets: list[bytes]) -> list[int]:
    return [struct.unpack_from("!H", packet, 2)[0] for packet in packets]


def gaps(packets: list[bytes]) -> set[int]:
    found = numbers(packets)
    return {(later - earlier) & 0xFFFF for earlier, later in itertools.pairwise(found)}


def per_picture(packets: list[bytes]) -> list[int]:
    """RTP timestamps in order of their first packet."""
    return list(dict.fromkeys(struct.unpack_from("!I", packet, 4)[0] for packet in packets))


async def test_a_new_viewer_starts_at_the_last_key_frame(house: RtspHouse, client: Client) -> None:
    publish(house, 0, 15)  # two groups of ten: the second one is running
    play = await client.play(house.address())
    origin = int(play.get("rtp-info").split("rtptime=")[1])
    publish(house, 15, 3)
    packets: list[bytes] = []
    while len(per_picture(packets)) < 8:
        packets += await client.take(1)
    assert [stamp - origin & 0xFFFFFFFF for stamp in per_picture(packets)] == [n * 3600 for n in range(8)]
    assert gaps(packets) == {1}


async def test_viewers_get_the_very_same_bytes(house: RtspHouse) -> None:
    publish(house, 0, 12)
    first, second = [await Client.connect(house.rtsp.port) for _ in range(2)]
    await first.play(house.address())
    await second.play(house.address())
    publish(house, 12, 8)
    assert await first.take(10) == await second.take(10)
    (channel,) = house.rtsp.channels.values()
    assert channel.units == 2 + 8  # since the key frame before, and what came then: each once
    await first.close()
    await until(lambda: len(house.closed) == 1)
    assert house.rtsp.channels
    await second.close()
    await until(lambda: not house.rtsp.channels)
    assert house.streams["gate"].readers == []


async def test_pause_and_play_again(house: RtspHouse, client: Client) -> None:
    publish(house, 0, 5)
    await client.play(house.address())
    before = await client.take(6)
    base = house.address().split("?")[0] + "/"
    assert (await client.ask("PAUSE", base)).status == 200
    before += [packet.data for packet in client.packets if packet.channel == 0]
    client.packets.clear()
    publish(house, 5, 8)  # nobody gets these but for the new group
    answer = await client.ask("PLAY", base)
    assert client.packets == []
    info = dict(part.split("=", 1) for part in answer.get("rtp-info").split(";"))
    after = await client.take(4)
    assert int(info["seq"]) == numbers(after)[0] == numbers(before)[-1] + 1 & 0xFFFF
    assert gaps(after) == {1}
    assert struct.unpack_from("!I", after[0], 4)[0] == int(info["rtptime"])
    first = struct.unpack_from("!I", before[0], 4)[0]
    assert int(info["rtptime"]) - first & 0xFFFFFFFF == 10 * 3600


async def test_other_channels_get_their_own_numbers(house: RtspHouse, client: Client) -> None:
    publish(house, 0, 5)
    described = await client.ask("DESCRIBE", house.address())
    base = described.get("content-base")
    await client.ask("SETUP", base + "trackID=0", "Transport: RTP/AVP/TCP;unicast;interleaved=6-7")
    await client.ask("PLAY", base)
    packets = await client.take(5, 6)
    assert gaps(packets) == {1}
    assert not [packet for packet in client.packets if packet.channel not in (6, 7)]


async def test_a_slow_viewer_goes_on_at_a_key_frame(
    house: RtspHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It reads nothing for a while; what waits is bounded, what is left out is counted, and no picture is torn."""
    monkeypatch.setattr(feeds, "QUEUE_BYTES", 256 * 1024)
    monkeypatch.setattr(connections, "WIRE_BYTES", 64 * 1024)
    stream = house.open()
    key = TestPicture(160, 96).encoded_loop(0.04)[0]
    other = replace(key, key=False, data=b"\x00\x00\x00\x01\x41" + b"\x9a" * 30_000)
    stream.publish(key)
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    raw.connect(("127.0.0.1", house.rtsp.port))
    raw.setblocking(False)
    slow = Client(*await asyncio.open_connection(sock=raw, limit=4096))
    quick = await Client.connect(house.rtsp.port)
    await slow.play(house.address())
    await quick.play(house.address())
    await quick.take(1)
    slow.writer.transport.pause_reading()  # type: ignore[attr-defined]
    taken = asyncio.create_task(quick.take(2500))
    for number in range(1, 400):
        unit = key if number % 40 == 0 else other
        stream.publish(replace(unit, pts=number * 3600, dts=number * 3600))
        await asyncio.sleep(0.001)
    feed = max(feeds_of(house), key=lambda one: one.dropped)
    assert feed.dropped > 100
    assert feed.waiting_bytes <= 256 * 1024 + 40_000
    assert stream.reader_drops == sum(one.dropped for one in feeds_of(house))
    assert gaps(await taken) == {1}
    slow.writer.transport.resume_reading()  # type: ignore[attr-defined]
    packets: list[bytes] = []
    stream.publish(replace(key, pts=400 * 3600, dts=400 * 3600))
    last = None
    while last != 400:
        packet = (await slow.take(1))[0]
        packets.append(packet)
        last = (
            (struct.unpack_from("!I", packet, 4)[0] - struct.unpack_from("!I", packets[0], 4)[0])
            % (1 << 32)
            // 3600
        )
    assert gaps(packets) == {1}
    stamps = [(stamp - per_picture(packets)[0]) % (1 << 32) // 3600 for stamp in per_picture(packets)]
    leaps = [later for earlier, later in itertools.pairwise(stamps) if later != earlier + 1]
    assert leaps
    assert all(number % 40 == 0 for number in leaps)  # on again with a key frame
    await quick.close()
    await slow.close()


async def test_sender_reports_tie_both_tracks_to_one_clock(house: RtspHouse, client: Client) -> None:
    stream = house.open()
    units = sorted(TestPicture(160, 96).encoded_loop(1.0) + tone(1.0), key=lambda unit: unit.dts)
    house.feed(stream, units, 1.0)
    await stream.wait_ready(20)
    play = await client.play(house.address())
    start = {int(part.split("rtptime=")[1]) for part in play.get("rtp-info").split(",")}
    assert len(start) == 2
    origins = [int(part.split("rtptime=")[1]) for part in play.get("rtp-info").split(",")]
    picture, sound = [parse_sender_report((await client.take(1, channel))[0]) for channel in (1, 3)]
    assert picture is not None
    assert sound is not None
    assert picture.ntp == sound.ntp
    seen = ((picture.rtp_timestamp - origins[0]) / 90_000, (sound.rtp_timestamp - origins[1]) / 8_000)
    assert abs(seen[0] - seen[1]) < 0.01  # the same moment of the stream on both clocks


# --- UDP -------------------------------------------------------------------------------------------------------


class Ports:
    """A client's pair of UDP sockets."""

    def __init__(self) -> None:
        self.rtp, self.rtcp = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
        for sock in (self.rtp, self.rtcp):
            sock.bind(("127.0.0.1", 0))
            sock.setblocking(False)

    @property
    def header(self) -> str:
        return (
            f"Transport: RTP/AVP;unicast;client_port={self.rtp.getsockname()[1]}-{self.rtcp.getsockname()[1]}"
        )

    async def take(self, sock: socket.socket, count: int) -> list[bytes]:
        async with asyncio.timeout(20):
            return [await asyncio.get_running_loop().sock_recv(sock, 4096) for _ in range(count)]

    def close(self) -> None:
        self.rtp.close()
        self.rtcp.close()


@pytest.fixture
def ports() -> Ports:
    return Ports()


async def play_udp(house: RtspHouse, client: Client, ports: Ports) -> Answer:
    base = (await client.ask("DESCRIBE", house.address())).get("content-base")
    answer = await client.ask("SETUP", base + "trackID=0", ports.header)
    assert answer.status == 200
    assert (await client.ask("PLAY", base)).status == 200
    return answer


async def test_udp_and_the_ports_are_given_back(house: RtspHouse, client: Client, ports: Ports) -> None:
    publish(house, 0, 5)
    answer = await play_udp(house, client, ports)
    server = answer.get("transport").split("server_port=")[1].split(";")[0]
    low, high = map(int, server.split("-"))
    assert house.config.rtp_port_min <= low == high - 1
    assert house.ports.leased == 1
    packets = await ports.take(ports.rtp, 6)
    assert gaps(packets) == {1}
    assert max(map(len, packets)) <= 1412
    report = parse_sender_report((await ports.take(ports.rtcp, 1))[0])
    assert report is not None
    assert f"ssrc={report.ssrc:08X}" in answer.get("transport")
    assert struct.unpack_from("!I", packets[0], 8)[0] == report.ssrc
    assert (await client.ask("TEARDOWN", house.address())).status == 200
    assert house.ports.leased == 0
    ports.close()


async def test_a_client_that_vanishes_gives_all_back(house: RtspHouse, client: Client, ports: Ports) -> None:
    publish(house, 0, 5)
    await play_udp(house, client, ports)
    client.writer.transport.abort()
    await until(lambda: house.closed)
    assert house.ports.leased == 0
    assert house.rtsp.channels == {}
    assert house.rtsp.connections == set()
    publish(house, 5, 5)  # nobody is there any more
    ports.close()


async def test_receiver_reports_keep_a_session_alive(house: RtspHouse, client: Client, ports: Ports) -> None:
    publish(house, 0, 5)
    now = [1000.0]
    house.rtsp.clock = lambda: now[0]
    answer = await play_udp(house, client, ports)
    report = int(answer.get("transport").split("server_port=")[1].split(";")[0].split("-")[1])
    (connection,) = house.rtsp.connections
    for _ in range(4):
        now[0] += 50
        ports.rtcp.sendto(build_receiver_report(7, []), ("127.0.0.1", report))
        await until(lambda: connection.heard_mono == now[0])
        connection.check(now[0])
    assert not house.closed
    ports.rtcp.sendto(b"noise" * 9, ("127.0.0.1", report))
    now[0] += 61
    connection.check(now[0])
    await until(lambda: house.closed)
    assert [cause for _, cause in house.closed] == ["timeout"]
    assert house.ports.leased == 0
    ports.close()


async def test_the_end_of_a_stream_is_told(house: RtspHouse, client: Client, ports: Ports) -> None:
    publish(house, 0, 2)
    await play_udp(house, client, ports)
    house.streams["gate"].close("camera_gone")
    await until(lambda: house.closed)
    assert [cause for _, cause in house.closed] == ["camera_gone"]
    last = b""
    while b"\x81\xcb\x00\x01" not in last:  # BYE
        last = (await ports.take(ports.rtcp, 1))[0]
    assert await client.reader.read() == b""
    ports.close()


async def test_no_port_is_free() -> None:
    async with rtsp_house() as house:
        publish(house, 0, 2)
        leases = [house.ports.lease_udp(0.0) for _ in range(house.ports.free)]
        client, ports = await Client.connect(house.rtsp.port), Ports()
        await client.ask("DESCRIBE", house.address())
        assert (await client.ask("SETUP", house.address() + "/trackID=0", ports.header)).status == 503
        assert (await client.ask("SETUP", house.address() + "/trackID=0", TCP)).status == 200
        for lease in leases:
            lease.release(0.0)
        await client.close()
        ports.close()


# --- the server ------------------------------------------------------------------------------------------------


async def test_silent_clients_are_closed(house: RtspHouse, client: Client) -> None:
    publish(house)
    now = [1000.0]
    house.rtsp.clock = lambda: now[0]
    assert (await client.ask("DESCRIBE", house.address())).status == 200
    (connection,) = house.rtsp.connections
    now[0] += 29
    connection.check(now[0])
    assert (await client.ask("OPTIONS", "*")).status == 200
    now[0] += 31
    connection.check(now[0])
    assert await client.reader.read() == b""
    await until(lambda: not house.rtsp.connections)
    assert [cause for _, cause in house.closed] == ["timeout"]


async def test_a_player_that_takes_nothing_is_closed(house: RtspHouse, client: Client) -> None:
    """Over TCP silence is no sign: the connection shows it."""
    publish(house, 0, 5)
    now = [1000.0]
    house.rtsp.clock = lambda: now[0]
    await client.play(house.address())
    (connection,) = house.rtsp.connections
    now[0] += 500
    connection.check(now[0])
    assert not house.closed
    client.writer.transport.pause_reading()  # type: ignore[attr-defined]
    big = replace(GOP[0], data=GOP[0].data + b"\x00\x00\x00\x01\x65" + b"\x11" * 900_000)
    for _ in range(12):
        house.streams["gate"].publish(big)
        await asyncio.sleep(0.05)
    await until(lambda: connection.blocked)
    connection.check(now[0])
    now[0] += 31
    connection.check(now[0])
    await until(lambda: house.closed)
    assert [cause for _, cause in house.closed] == ["stalled"]


async def test_another_codec_ends_the_sessions(house: RtspHouse, client: Client) -> None:
    publish(house, 0, 3)
    await client.play(house.address())
    for unit in TestPicture(160, 96, codec="h265").encoded_loop(0.1):
        house.streams["gate"].publish(unit)
    await until(lambda: house.closed)
    assert [cause for _, cause in house.closed] == ["codec_changed"]
    again = await Client.connect(house.rtsp.port)
    described = await again.ask("DESCRIBE", house.address())
    assert b"a=rtpmap:96 H265/90000" in described.body
    assert all(name in described.body for name in (b"sprop-vps=", b"sprop-sps=", b"sprop-pps="))
    await again.close()


async def test_too_many_connections(house: RtspHouse, client: Client) -> None:
    await client.ask("OPTIONS", "*")
    house.rtsp.connections_limit = 1
    other = await Client.connect(house.rtsp.port)
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError, AssertionError)):
        await other.ask("OPTIONS", "*")
    assert (await client.ask("OPTIONS", "*")).status == 200
    await other.close()


async def test_a_port_that_is_taken_and_none(house: RtspHouse) -> None:
    async with rtsp_house(rtsp_port=house.rtsp.port) as other, rtsp_house(rtsp_port=None) as third:
        assert (other.rtsp.port, third.rtsp.port) == (0, 0)


async def test_closing_ends_all(house: RtspHouse, client: Client, ports: Ports) -> None:
    publish(house, 0, 5)
    other = await Client.connect(house.rtsp.port)
    await other.play(house.address())
    await play_udp(house, client, ports)
    await house.rtsp.close()
    assert [cause for _, cause in house.closed] == ["node_stopping"] * 2
    assert (house.ports.leased, house.rtsp.connections, house.rtsp.channels) == (0, set(), {})
    assert not house.pump._drains
    await other.close()
    ports.close()
