"""Random and damaged RTSP: readers give messages or a fault, the server answers or closes, never an exception."""

from __future__ import annotations

import asyncio
import random
import time
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rtsp_house import Client, account, rtsp_house

from media.readers.rtsp import addresses, dialog
from media.readers.rtsp.digest import DigestGate, Verdict
from media.readers.rtsp.messages import Fault, Interleaved, Request, RequestReader
from media.readers.rtsp.transport import choose
from simulator.picture import TestPicture

QUICK = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
DIALOGS = 150
METHODS = ["OPTIONS", "DESCRIBE", "SETUP", "PLAY", "PAUSE", "TEARDOWN", "GET_PARAMETER", "RECORD", "X", ""]
LINES = [
    "CSeq: 1", "CSeq: x", "CSeq: 99999999999999", "Session: abc", "Session: ;timeout=-1", "Require: a", "Range: npt=-9",
    "Transport: RTP/AVP/TCP;interleaved=0-1", "Transport: RTP/AVP;client_port=1-2", "Transport: ;;;=,,=;", "Accept: */*",
    "Transport: RTP/AVP/TCP;interleaved=254-255", "Content-Length: 5", "Content-Length: 70000", "Authorization: Digest ",
    'Authorization: Digest username="nvr", realm="gb28181-gateway", nonce="1.2.3", uri="x", response=""', " folded", ":",
]  # fmt: skip


@QUICK
@given(st.lists(st.binary(max_size=300), max_size=8))
def test_any_bytes(pieces: list[bytes]) -> None:
    reader = RequestReader()
    for piece in pieces:
        for item in reader.feed(piece):
            assert isinstance(item, Request | Interleaved | Fault)


@QUICK
@given(st.text(max_size=200), st.text(max_size=200))
def test_any_text_in_headers_and_addresses(first: str, second: str) -> None:
    choose(first)
    choose(f"RTP/AVP/TCP;{first};interleaved={second}")
    addresses.parse(first)
    addresses.parse(f"rtsp://h/live/{first}?{second}")
    gate = DigestGate([account("nvr", "pass word 1")], "gb28181-gateway")
    for text in (
        first,
        f"Digest {first}",
        f'Digest realm="gb28181-gateway", uri="u", nonce="{first}", nc={second}',
    ):
        verdict, _ = gate.check(text, method="DESCRIBE", uri="u", host="h", connection=gate, now=1.0)
        assert verdict is not Verdict.OK


@pytest.mark.parametrize(
    "data",
    [b"\r\n" * 1_500_000, b"$" * 3_000_000, b"A: b\r\n" * 500_000, b"\r" * 3_000_000, b"$\x00\x00\x00" * 700_000,
     b"OPTIONS * RTSP/1.0\r\nCSeq: 1\r\n\r\n" * 80_000, b"A" * 3_000_000],
    ids=["lines", "dollars", "headers", "returns", "packets", "requests", "letters"],
)  # fmt: skip
def test_hostile_repetitions_cost_bounded_time(data: bytes) -> None:
    started = time.process_time()
    reader = RequestReader()
    for at in range(0, len(data), 1400):
        reader.feed(data[at : at + 1400])
        assert len(reader._buffer) < 200_000
    assert time.process_time() - started < 40


def damaged(noise: random.Random, port: int, ticket: str) -> bytes:
    """A few requests that are nearly right, now and then damaged."""
    base = f"rtsp://127.0.0.1:{port}/live/gate"
    uris = [
        f"{base}?{ticket}",
        f"{base}/trackID=0?{ticket}",
        base,
        f"{base}/trackID=9",
        "*",
        "rtsp://h/channels/1?token=x",
        "/",
    ]
    right = [
        f"DESCRIBE {uris[0]} RTSP/1.0\r\nCSeq: 1\r\n\r\n",
        f"SETUP {uris[1]} RTSP/1.0\r\nCSeq: 2\r\n{noise.choice(LINES[7:9])}\r\n\r\n",
        f"PLAY {base}/ RTSP/1.0\r\nCSeq: 3\r\nSession: abc\r\n\r\n",
    ]
    data = bytearray("".join(right[: noise.randrange(4)]).encode())
    for _ in range(noise.randrange(1, 7)):
        lines = noise.sample(LINES, noise.choice([0, 1, 1, 2, 5]))
        first = f"{noise.choice(METHODS)} {noise.choice(uris)} RTSP/1.0"
        data += "\r\n".join([first, "CSeq: 7", *lines, "", ""]).encode()
        if noise.random() < 0.3:
            data += b"$\x01" + noise.randbytes(2) + noise.randbytes(noise.randrange(40))
    for _ in range(noise.choice([0, 0, 0, 1, 3, 20])):
        data[noise.randrange(len(data))] = noise.randrange(256)
    return bytes(data)


async def test_the_server_outlives_damaged_dialogs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dialog.secrets, "token_hex", lambda size: "abc")
    noise = random.Random(2326)
    trouble: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: trouble.append(context))
    accounts = (account("nvr", "pass word 1"),)
    async with rtsp_house(rtsp_accounts=accounts, rtsp_start_timeout_s=0.05) as house:
        stream = house.open()
        for unit in TestPicture(160, 96).encoded_loop(0.4):
            stream.publish(unit)
        ticket = house.address().split("?")[1]
        for _ in range(DIALOGS):
            house.rtsp.failures._hosts.clear()
            reader, writer = await asyncio.open_connection("127.0.0.1", house.rtsp.port)
            writer.write(damaged(noise, house.rtsp.port, ticket))
            if noise.random() < 0.5:
                writer.write_eof()
            try:
                async with asyncio.timeout(0.02):
                    while await reader.read(65536):
                        pass
            except (TimeoutError, ConnectionError):
                pass
            writer.transport.abort()
        async with asyncio.timeout(20):
            while house.rtsp.connections:
                await asyncio.sleep(0.01)
        client = await Client.connect(house.rtsp.port)
        assert (await client.play(house.address())).status == 200
        assert len(await client.take(5)) == 5
        await client.close()
        async with asyncio.timeout(20):
            while house.rtsp.channels:
                await asyncio.sleep(0.01)
        assert len(house.opened) == len(house.closed) > DIALOGS // 4
        assert house.ports.leased == 0
    assert trouble == []
