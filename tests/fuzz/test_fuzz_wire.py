"""Damaged SIP for the wire view: every message can be shown, masked at equal length and written into a capture."""

from __future__ import annotations

import os
import random
from pathlib import Path

from gateway.http.wire import MessageView
from gateway.services.wire import Entry
from gateway.services.wire_mask import masked
from gateway.services.wire_pcap import capture
from gateway.services.wire_view import as_text, chosen, ladder

ROUNDS = int(os.environ.get("GB_FUZZ_ROUNDS", "1500"))
SEEDS = [
    path.read_bytes()
    for path in sorted((Path(__file__).parents[1] / "data" / "sip").glob("**/*"))
    if path.is_file()
]
PIECES = (
    *(b"\r\n\r\n", b"<?xml", b"\0", b"<SN>", b"Content-Length: 99999\r\n", b"Content-Type: x\r\n"),
    b'Authorization: Digest nonce="',
)
KEY, LOCAL = ("10.41.183.61", 5060, "tcp"), ("10.41.183.20", 5060)


def damaged(dice: random.Random) -> bytes:
    data = bytearray(dice.choice(SEEDS))
    for _ in range(dice.randrange(6)):
        at = dice.randrange(len(data) + 1)
        kind = dice.randrange(4)
        if kind == 0 and at < len(data):
            data[at] = dice.randrange(256)
        elif kind == 1:
            data[at:at] = dice.randbytes(dice.randrange(9))
        elif kind == 2:
            del data[at : at + dice.randrange(30)]
        else:
            data[at:at] = dice.choice(PIECES)
    return bytes(data)


def test_whatever_came_can_be_shown() -> None:
    assert len(SEEDS) > 5
    dice = random.Random(28181)
    for _ in range(ROUNDS // 20):
        entries: list[Entry] = [(1e9, dice.random() < 0.5, damaged(dice)) for _ in range(20)]
        for _, _, raw in entries:
            assert len(masked(raw)) == len(raw)
        taken = [(entry, KEY, LOCAL) for entry in entries]
        steps = ladder(taken)
        assert len(steps) == 20
        assert as_text(steps, "peer").count("\n") >= 21
        assert chosen(steps) == steps
        assert capture(taken)[:4] == b"\xd4\xc3\xb2\xa1"
        for step in steps:
            MessageView.model_validate(step).model_dump_json()
