"""A hundred thousand damaged datagrams and broken connections at the running gateway: it goes on serving."""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import socket
import time
from collections.abc import Iterator

import pytest
from gateway_process import DOMAIN, PASSWORD, SERVER_ID, GatewayProcess, gateway_process
from outside import Stranger, alive, eventually, rss_bytes, series, udp_queue

from simulator.storm import Storm
from sip.ids import make_code

pytestmark = [pytest.mark.timeout(300), pytest.mark.slow]

DATAGRAMS = 100_000
SEED = 28181
SHOOTER = "127.0.0.90"
MAX_WAITING_BYTES = 1024 * 1024
MAX_GROWTH_BYTES = 200 * 1024 * 1024
"""Answers are kept for 36 seconds for repetitions, at most 100,000 of them."""
CODE = make_code("410183", 132, 777_777)
BODIES = (
    b"<?xml version='1.0' encoding='GB2312'?>\r\n<Notify><CmdType>Keepalive</CmdType><SN>1</SN>"
    b"<DeviceID>%s</DeviceID><Status>OK</Status></Notify>" % CODE.encode(),
    "<?xml version='1.0' encoding='GB18030'?><Response><CmdType>Catalog</CmdType><SN>2</SN><SumNum>1</SumNum>"
    "<DeviceList Num='1'><Item><DeviceID>41018300001310000001</DeviceID><Name>东门</Name></Item></DeviceList>"
    "</Response>".encode("gb18030"),
    b"v=0\r\no=41018300002000000001 0 0 IN IP4 127.0.0.1\r\ns=Play\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n"
    b"m=video 30000 TCP/RTP/AVP 96 98\r\na=recvonly\r\na=rtpmap:96 PS/90000\r\na=setup:passive\r\ny=0100000001\r\n",
    b"",
)
METHODS = (
    "REGISTER", "MESSAGE", "INVITE", "ACK", "BYE", "CANCEL", "SUBSCRIBE", "NOTIFY", "INFO", "OPTIONS", "PRACK",
)  # fmt: skip


def seeds(stranger: Stranger) -> list[bytes]:
    """Sound messages of every kind, requests and answers."""
    found = [stranger.request(method, CODE, body) for method in METHODS for body in BODIES]
    answers = [
        message.replace(message.split(b"\r\n", 1)[0], b"SIP/2.0 %d Whatever" % status, 1)
        for message in found[:4]
        for status in (100, 200, 401, 487, 699)
    ]
    digest = f'Digest username="{CODE}", realm="{DOMAIN}", nonce="00", uri="sip:{SERVER_ID}@{DOMAIN}", response="{"0" * 32}"'
    return [*found, *answers, stranger.request("REGISTER", CODE, Authorization=digest)]


def damaged(message: bytes, chance: random.Random, number: int) -> bytes:
    """A message of a transaction of its own, damaged anywhere, behind its start line, or in its body alone."""
    message = message.replace(b";branch=z9hG4bK", b";branch=z9hG4bK%d-" % number, 1)
    message = message.replace(b"Call-ID: ", b"Call-ID: %d-" % number, 1)
    place = chance.choice((b"", b"\r\n", b"\r\n\r\n"))
    head, mark, rest = message.partition(place) if place else (b"", b"", message)
    return head + mark + mutated(rest, chance)


def mutated(part: bytes, chance: random.Random) -> bytes:
    """One to four changes: bytes, cuts, repeats, foreign characters, lines swapped, numbers made huge."""
    data = bytearray(part)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(data) + 1)
        kind = chance.randrange(8)
        if kind == 0 and at < len(data):
            data[at] = chance.randrange(256)
        elif kind == 1:
            del data[at:]
        elif kind == 2:
            data[at:at] = data[at : at + chance.randint(1, 200)]
        elif kind == 3:
            data[at:at] = chance.choice(
                (b"\0", b"\xff\xfe", b"\r\n\r\n", b"\r\n ", b";;;", b'"', b"<", "新密".encode())
            )
        elif kind == 4:
            lines = data.split(b"\r\n")
            chance.shuffle(lines)
            data = bytearray(b"\r\n".join(lines))
        elif kind == 5:
            data = bytearray(
                re.sub(rb"\d+", b"9" * chance.randint(1, 60), bytes(data), count=chance.randint(1, 9))
            )
        elif kind == 6:
            del data[at : at + chance.randint(1, 40)]
        else:
            data[at:at] = chance.randbytes(chance.randint(1, 60))
        if not data:
            break
    return bytes(data[:60_000])


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    with gateway_process(tmp_path_factory.mktemp("fuzz")) as running:
        yield running


async def registers(
    gateway: GatewayProcess, first_serial: int, *, count: int = 20, host: str = "127.0.0.1"
) -> None:
    """Devices register and beat as if nothing had happened; OPTIONS is answered."""
    server = ("127.0.0.1", gateway.sip_port)
    storm = Storm(
        server, SERVER_ID, count, password=PASSWORD, first_serial=first_serial, host=host, retry_s=(2.0,) * 5
    )  # fmt: skip
    storm.start()
    try:
        assert await storm.register() == count
        assert await storm.beat() == count
    finally:
        await storm.close()
    with Stranger("127.0.0.1", gateway.sip_port) as stranger:
        assert (await stranger.ask(stranger.request("OPTIONS", CODE))).status == 200


def shoot(gateway: GatewayProcess) -> None:
    """Send everything, never more at once than the gateway's socket holds; answers are thrown away."""
    chance = random.Random(SEED)
    with Stranger(SHOOTER, gateway.sip_port) as stranger:
        sound = seeds(stranger)
        for number in range(DATAGRAMS):
            with contextlib.suppress(BlockingIOError):
                stranger.send(damaged(chance.choice(sound), chance, number))
            if number % 50 == 0:
                stranger.drain()
                while udp_queue(gateway.sip_port)[0] > MAX_WAITING_BYTES:
                    time.sleep(0.002)


@pytest.mark.gb("G027")
async def test_damaged_datagrams_stop_nothing(gateway: GatewayProcess) -> None:
    pid = gateway.process.pid
    await registers(gateway, 100_000)
    await registers(gateway, 777_777, count=1, host=SHOOTER)  # it is let in, so its bodies are read too
    memory = rss_bytes(pid)
    await asyncio.to_thread(shoot, gateway)
    await eventually(lambda: udp_queue(gateway.sip_port)[0] == 0, 60)
    assert udp_queue(gateway.sip_port)[1] == 0, "every datagram was read"

    await registers(gateway, 200_000)
    assert rss_bytes(pid) - memory < MAX_GROWTH_BYTES
    metrics = await asyncio.to_thread(gateway.metrics)
    seen = sum(
        series(metrics, f"gateway_sip_{name}_total")
        for name in ("requests_received", "responses_received", "malformed_messages", "dropped_messages", "retransmissions")
    )  # fmt: skip
    assert seen > DATAGRAMS / 2
    assert series(metrics, "gateway_sip_malformed_messages_total") > DATAGRAMS / 10
    assert series(metrics, "gateway_messages_total", outcome="malformed") > DATAGRAMS / 1000  # bodies
    sound_after(gateway, pid)


def sound_after(gateway: GatewayProcess, pid: int) -> None:
    assert gateway.process.poll() is None
    assert alive(pid)
    log = gateway.log()
    assert "Traceback" not in log, log[log.index("Traceback") - 2000 :][:6000]
    assert gateway.call("GET", "/health/ready")[0] == 200


@pytest.mark.gb("G027")
async def test_garbage_on_connections_stops_nothing(gateway: GatewayProcess) -> None:
    pid = gateway.process.pid
    chance = random.Random(SEED)
    with Stranger("127.0.0.91", gateway.sip_port) as stranger:
        sound = [message.replace(b"SIP/2.0/UDP", b"SIP/2.0/TCP") for message in seeds(stranger)]
    open_ones = []
    for number in range(300):
        connection = socket.create_connection(("127.0.0.1", gateway.sip_port), timeout=10)
        connection.settimeout(0.01)
        data = b"".join(damaged(chance.choice(sound), chance, number) for _ in range(chance.randint(1, 5)))
        if number % 3 == 0:
            data = chance.randbytes(chance.randint(1, 100_000))
        with contextlib.suppress(OSError):
            connection.sendall(data)
        with contextlib.suppress(OSError):
            connection.recv(65536)
        if number % 2:
            connection.close()
        else:
            open_ones.append(connection)
    try:
        await registers(gateway, 300_000)
        sound_after(gateway, pid)
    finally:
        for connection in open_ones:
            connection.close()
