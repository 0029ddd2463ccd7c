"""MANSCDP and SDP readers under damaged input: a value or a RemoteError, in bounded time."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sip.errors import RemoteError
from sip.manscdp import decode, encode, keepalive_fields
from sip.sdp import live_offer, parse, read_answer, read_offer

SAMPLES = [
    path.read_bytes() for path in sorted((Path(__file__).parents[1] / "data" / "manscdp").glob("*.xml"))
]
OFFER = live_offer(
    own_id="41018300002000000001", address="192.0.2.1", port=30000, ssrc=183000001, form="long"
)
TOKENS = (
    b"<", b">", b"&", b"</", b"/>", b"<Item>", b"</Item>", b"<DeviceList Num=2>", b"<![CDATA[", b"]]>", b"<!--", b"-->", b"<?x?>",
    b"\0", b"\xff", b"\x81", b"\xef\xbb\xbf", b"&#x0;", b"&#1114112;", b"<!DOCTYPE", b"\xd7\xd6", b" " * 50,
    b"\xed\xa0\x80", b"<a:b>",
)  # fmt: skip


def read(data: bytes) -> None:
    """The one invariant."""
    start = time.perf_counter()
    try:
        decoded = decode(data)
        again = encode(decoded.body)
        decode(again)
        assert len(decoded.faults) <= 100
    except RemoteError as error:
        assert error.label in {"not_xml", "dtd", "too_big", "too_deep"}  # noqa: PT017
    keepalive_fields(data)
    assert time.perf_counter() - start < 10


def damaged(source: bytes, dice: random.Random) -> bytes:
    data = bytearray(source)
    for _ in range(dice.randint(1, 6)):
        place = dice.randrange(len(data) + 1)
        kind = dice.randrange(4)
        if kind == 0:
            data[place:place] = dice.choice(TOKENS)
        elif kind == 1:
            del data[place : place + dice.randint(1, 30)]
        elif kind == 2 and data:
            data[place % len(data)] = dice.randrange(256)
        else:
            data[place:place] = data[dice.randrange(len(data) + 1) :][:200]
    return bytes(data)


@pytest.mark.parametrize("seed", range(8))
def test_damaged_samples(seed: int) -> None:
    dice = random.Random(seed)
    for _ in range(250):
        read(damaged(dice.choice(SAMPLES), dice))


@settings(max_examples=200, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(data=st.binary(max_size=400) | st.lists(st.sampled_from(TOKENS), max_size=60).map(b"".join))
def test_any_bytes_as_manscdp(data: bytes) -> None:
    read(data)
    read(b"<Response><CmdType>Catalog</CmdType><SN>1</SN><DeviceList>" + data + b"</DeviceList></Response>")


@pytest.mark.parametrize("token", TOKENS, ids=repr)
def test_one_token_a_great_many_times(token: bytes) -> None:
    """Quadratic work would show here."""
    read(b"<Notify><CmdType>Keepalive</CmdType>" + token * 20_000)
    read(b"<Notify" + token * 20_000)


@pytest.mark.parametrize("seed", range(4))
def test_damaged_sdp(seed: int) -> None:
    dice = random.Random(seed)
    source = OFFER.to_bytes()
    for _ in range(500):
        data = damaged(source, dice)
        for reader in (parse, read_offer, lambda body: read_answer(body, OFFER)):
            try:
                value = reader(data)
            except RemoteError:
                continue
            assert value is not None


@settings(max_examples=300, deadline=None)
@given(data=st.binary(max_size=400) | st.text(max_size=300).map(str.encode))
def test_any_bytes_as_sdp(data: bytes) -> None:
    for body in (data, b"m=video 1 RTP/AVP 96\r\n" + data, b"\r\no=" + data):
        try:
            assert parse(body).to_bytes()
        except RemoteError:
            continue
