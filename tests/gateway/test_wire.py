"""The kept wire: bounds, strangers, whose line it is, masking, decoding, captures; and what hostile bytes cost."""

from __future__ import annotations

import random
import time

import pytest

from config.settings import WireSettings
from gateway.events import DeviceRegistered, EventBus
from gateway.model import Device, State
from gateway.registry import Registry
from gateway.services.wire import (
    LINES_PER_DEVICE,
    OVERHEAD_BYTES,
    STRANGER_BYTES,
    STRANGER_MESSAGES,
    STRANGER_SOURCES,
    Tail,
    WireLog,
)
from gateway.services.wire_mask import masked
from gateway.services.wire_pcap import capture
from gateway.services.wire_view import as_text, chosen, ladder, taken
from sip.flow import Flow, Target

NVR = "41018300001180000001"
OTHER = "41018300001180000002"


def flow(port: int = 5060, host: str = "10.41.183.61", transport: str = "udp") -> Flow:
    return Flow(transport, host, port, "10.41.183.20", 5060)  # type: ignore[arg-type]


class Desk:
    """A log with its registry; ``register`` is what a REGISTER leads to."""

    def __init__(self, **settings: int) -> None:
        self.bus = EventBus()
        self.registry = Registry(bus=self.bus)
        self.seconds = 1_000_000.0
        self.log = WireLog(
            settings=WireSettings.model_validate(settings),
            devices=self.registry.devices,
            bus=self.bus,
            now=self._now,
        )
        self.log.start()

    def _now(self) -> float:
        self.seconds += 0.001
        return self.seconds

    def register(self, device_id: str = NVR, way: Flow | None = None) -> Device:
        device = self.registry.devices.get(device_id) or self.registry.put_device(
            Device(device_id, state=State.ONLINE)
        )
        self.registry.set_flow(device, way or flow())
        self.bus.publish(DeviceRegistered(device_id, False, 3600))
        return device

    def said(self, device_id: str = NVR) -> list[bytes]:
        return [entry[2] for line in self.log.of_device(device_id) for entry in line.messages]


def request(
    number: int = 1, method: str = "MESSAGE", body: bytes = b"", kind: str = "", call_id: str = "c"
) -> bytes:
    head = (
        f"{method} sip:41018300002000000001@4101830000 SIP/2.0\r\n"
        f"Via: SIP/2.0/UDP 10.41.183.61:5060;branch=z9hG4bK{number}\r\n"
        f"From: <sip:{NVR}@4101830000>;tag=a\r\nTo: <sip:41018300002000000001@4101830000>\r\n"
        f"Call-ID: {call_id}\r\nCSeq: {number} {method}\r\n"
    )
    if kind:
        head += f"Content-Type: {kind}\r\n"
    return head.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body


def answer(number: int = 1, status: str = "200 OK", method: str = "MESSAGE", call_id: str = "c") -> bytes:
    return (
        f"SIP/2.0 {status}\r\nVia: SIP/2.0/UDP 10.41.183.61:5060;branch=z9hG4bK{number}\r\n"
        f"From: <sip:{NVR}@4101830000>;tag=a\r\nTo: <sip:41018300002000000001@4101830000>;tag=b\r\n"
        f"Call-ID: {call_id}\r\nCSeq: {number} {method}\r\nContent-Length: 0\r\n\r\n"
    ).encode()


def test_each_peer_keeps_its_last_messages() -> None:
    desk = Desk(messages_per_peer=10)
    desk.register()
    for number in range(25):
        desk.log.tap("in", flow(), b"%d" % number)
    assert desk.said() == [b"%d" % number for number in range(15, 25)]
    counts = desk.log.counts
    assert (counts.kept, counts.dropped, counts.lines) == (10, 15, 1)


def test_what_came_before_the_log_in_is_found_again() -> None:
    """The first REGISTER and its 401 are a stranger's until the device proves itself."""
    desk = Desk()
    desk.log.tap("in", flow(), b"REGISTER 1")
    desk.log.tap("out", flow(), b"SIP/2.0 401 Unauthorized")
    assert desk.log.counts.strangers == 2
    desk.register()
    desk.log.tap("out", flow(), b"SIP/2.0 200 OK")
    assert [data[:11] for data in desk.said()] == [b"REGISTER 1", b"SIP/2.0 401", b"SIP/2.0 200"]
    assert desk.log.counts.strangers == 0
    assert desk.log.counts.bytes == sum(len(data) + OVERHEAD_BYTES for data in desk.said())


def test_a_device_that_moves_keeps_a_few_earlier_addresses() -> None:
    desk = Desk()
    for port in range(5060, 5070):
        desk.register(way=flow(port))
        desk.log.tap("in", flow(port), b"from %d" % port)
    assert desk.said() == [b"from %d" % port for port in range(5070 - LINES_PER_DEVICE, 5070)]
    assert desk.log.counts.lines == LINES_PER_DEVICE
    desk.registry.remove_device(NVR)
    assert (desk.log.counts.lines, desk.log.counts.bytes) == (0, 0)


def test_two_devices_behind_one_address_share_its_line() -> None:
    desk = Desk()
    desk.register(NVR)
    desk.register(OTHER)
    desk.log.tap("in", flow(), b"x")
    assert desk.said(NVR) == desk.said(OTHER) == [b"x"]
    desk.registry.remove_device(OTHER)
    assert desk.said(NVR) == [b"x"]


def test_strangers_cannot_fill_the_memory() -> None:
    desk = Desk()
    for number in range(STRANGER_SOURCES + 100):
        for _ in range(3):
            desk.log.tap("in", flow(1024 + number, "198.51.100.9"), b"x" * 100)
    assert desk.log.counts.strangers == STRANGER_SOURCES * 3
    for _ in range(200):
        desk.log.tap("in", flow(9, "198.51.100.7"), b"y" * 60_000)
    busiest = next(line for line in desk.log.strangers() if line.key[0] == "198.51.100.7")
    assert len(busiest.messages) == STRANGER_MESSAGES
    for number in range(200):
        desk.log.tap("in", flow(10 + number % 4, "198.51.100.6"), b"z" * 60_000)
        assert sum(line.bytes for line in desk.log.strangers()) <= STRANGER_BYTES
    assert desk.log.counts.strangers < 600
    assert desk.log.counts.stranger_dropped > 1000
    assert desk.log.counts.lines == 0


def test_all_together_stay_below_their_bound() -> None:
    """Whatever the order in which peers talk and fall silent."""
    dice = random.Random(28181)
    desk = Desk(max_bytes=1024**2, bytes_per_peer=200_000, messages_per_peer=500)
    for number in range(60):
        desk.register(f"4101830000118000{number:04d}", flow(5000 + number))
    for _ in range(20_000):
        port = 5000 + dice.randrange(60) * dice.randrange(2)
        desk.log.tap("in", flow(port), b"x" * dice.randrange(50, 9000))
        assert desk.log.counts.bytes <= 1024**2 + 9200
    lines = [line for number in range(60) for line in desk.log.of_device(f"4101830000118000{number:04d}")]
    assert desk.log.counts.bytes == sum(line.bytes for line in lines)
    assert desk.log.counts.bytes == sum(
        len(entry[2]) + OVERHEAD_BYTES for line in lines for entry in line.messages
    )
    assert all(line.messages for line in lines)  # nobody was starved by the loud one


def test_uppers_are_what_we_call_without_a_registration() -> None:
    desk = Desk()
    desk.register()
    upper = Target("sip:x@y", "10.41.0.2", 5060)
    desk.log.tap("out", upper, request(method="REGISTER"))
    desk.log.tap("in", flow(host="10.41.0.2"), answer(method="REGISTER"))
    desk.log.tap("in", flow(40_000, "10.41.0.2"), b"from another port")
    (line, stranger) = desk.log.of_hosts({"10.41.0.2"})
    assert [entry[1] for entry in line.messages] == [False, True]
    assert stranger.messages[0][2] == b"from another port"
    assert desk.log.of_hosts({"10.41.183.61"}) == []


def test_who_watches_hears_only_what_he_wants() -> None:
    desk = Desk()
    desk.register(NVR)
    desk.register(OTHER, flow(5061))
    heard: list[bytes] = []
    stop = desk.log.watch(
        Tail(lambda key: desk.log.owns(NVR, key), lambda key, entry: heard.append(entry[2]))
    )
    desk.log.tap("in", flow(5061), b"other")
    desk.log.tap("in", flow(), b"ours")
    stop()
    desk.log.tap("in", flow(), b"later")
    assert heard == [b"ours"]


@pytest.mark.gb("G282")
@pytest.mark.parametrize(
    ("text", "secrets"),
    [
        (
            'Authorization: Digest username="a", nonce="n0nce", response="0123abcd", cnonce="c1", nc=00000001',
            3,
        ),
        ('Authorization: Digest username="a",\r\n response=\'x\', nonce = n0nce , uri="sip:x"', 2),
        ('proxy-authorization : DIGEST Response="00"', 1),
        ('WWW-Authenticate: Digest realm="4101830000",nonce="abc",opaque="def"', 2),
        ('Authentication-Info: nextnonce="47364c23432d2e131a5fb210812c"', 1),
        ('Note: Digest nonce="x",algorithm=SM3', 1),
        ("Authorization: Basic dXNlcjpwYXNz", 1),
    ],
)
def test_proofs_in_headers_become_stars_of_the_same_length(text: str, secrets: int) -> None:
    data = f"REGISTER sip:x SIP/2.0\r\n{text}\r\nCall-ID: nonce=keep\r\n\r\n".encode()
    clean = masked(data)
    assert len(clean) == len(data)
    assert b"nonce=keep" in clean
    assert clean.count(b"*" * 1) >= secrets
    for word in (b"n0nce", b"0123abcd", b"dXNlcjpwYXNz", b'"abc"', b'"def"', b"47364c23", b'"00"'):
        assert word not in clean
    assert (b'username="a"' in clean) == (b'username="a"' in data)


def test_passwords_in_bodies_become_stars() -> None:
    body = (
        "<Control><SIPServer><Password>秘密-1</Password><UserName>admin</UserName></SIPServer>"
        "<FtpPwd a='1'>x&amp;y</FtpPwd><Url>rtsp://admin:top-secret@10.0.0.9/1</Url><Secrecy>0</Secrecy></Control>"
    ).encode("gb18030")
    data = request(body=body, kind="Application/MANSCDP+xml")
    clean = masked(data)
    assert len(clean) == len(data)
    assert "秘密".encode("gb18030") not in clean
    assert b"x&amp;y" not in clean
    assert b"top-secret" not in clean
    assert b"<UserName>admin</UserName>" in clean
    assert b"<Secrecy>0</Secrecy>" in clean
    assert b"rtsp://admin:**********@10.0.0.9/1" in clean


def test_a_ladder_with_answers_repetitions_and_decoded_bodies() -> None:
    desk = Desk()
    desk.register()
    body = (
        '<?xml version="1.0" encoding="GB2312"?><Notify><CmdType>Keepalive</CmdType><SN> 7 </SN>'
        f"<DeviceID>{NVR}</DeviceID><Info>䶮村</Info></Notify>"
    ).encode("gb18030")
    beat = request(body=body, kind="Application/MANSCDP+xml")
    for direction, data in (("in", beat), ("in", beat), ("out", answer()), ("in", b"\x00\x01garbage\r\n")):
        desk.log.tap(direction, flow(), data)  # type: ignore[arg-type]
    desk.log.tap(
        "out",
        Target.of_flow("sip:x", flow()),
        request(9, "INVITE", b"v=0\r\ns=Play\r\n", "application/sdp", "d"),
    )
    desk.log.tap("in", flow(), answer(9, "100 Trying", "INVITE", "d"))
    desk.log.tap("in", flow(), answer(9, "486 Busy Here", "INVITE", "d"))
    steps = ladder(taken(desk.log.of_device(NVR), lambda key: ("0.0.0.0", 0)))
    first, second, reply, junk, invite, trying, busy = steps
    assert (first.command, first.cmd_type, first.sn, first.charset, first.label) == (
        *("Notify Keepalive", "Keepalive", "7", "GB18030", "GB2312"),
    )
    assert "䶮村" in first.body
    assert (first.answered_ms, second.answered_ms, second.repeated) == (2.0, None, True)
    assert (reply.status, reply.method, reply.direction) == (200, "MESSAGE", "out")
    assert junk.fault
    assert "garbage" in junk.body
    assert (invite.body_kind, invite.body.splitlines()[1], invite.answered_ms) == ("sdp", "s=Play", 2.0)
    assert (trying.status, busy.status, busy.start_line) == (100, 486, "SIP/2.0 486 Busy Here")
    assert invite.local == "10.41.183.20:5060"
    assert [step.status for step in chosen(steps, method="invite")] == [None, 100, 486]
    assert chosen(steps, cmd_type="keepalive") == [first, second, reply]
    assert chosen(steps, call_id="d") == [invite, trying, busy]
    assert chosen(steps, code=OTHER) == [junk]
    assert "486 INVITE" in as_text(steps, NVR)


@pytest.mark.parametrize(
    "body",
    [
        b"x" * 500_000,
        b"<" * 500_000,
        b"<" + b"password" * 60_000,
        b"<password>" * 50_000,
        b"a://" * 100_000,
        b"a://b:" + b"c" * 500_000,
        b"<SN>" + b" " * 500_000,
        b"<CmdType>" * 50_000,
        b"http://" + b":" * 400_000,
    ],
    ids=["letters", "brackets", "word", "open", "schemes", "user", "blanks", "fields", "colons"],
)
def test_no_body_takes_long_to_show(body: bytes) -> None:
    """Linear time: ten times the text of an ordinary body must not cost ten thousand times its time."""
    desk = Desk(bytes_per_peer=2 * 1024**2)
    desk.register()
    desk.log.tap("in", flow(), request(body=body, kind="application/xml"))
    entries = taken(desk.log.of_device(NVR), lambda key: ("0.0.0.0", 0))
    plain = request(
        body=b"<Notify><CmdType>Keepalive</CmdType></Notify>" * (len(body) // 45), kind="application/xml"
    )
    started = time.process_time()
    ladder([((1.0, True, plain), *entries[0][1:])])
    ordinary = time.process_time() - started
    started = time.process_time()
    ladder(entries)
    capture(entries)
    assert time.process_time() - started < 60 * ordinary + 2.0


def test_the_watch_can_be_switched_off() -> None:
    desk = Desk(enabled=False)
    assert not desk.log.enabled
    desk.register()
    assert desk.log.of_device(NVR) == []
