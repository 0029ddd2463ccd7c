"""CPU cost of the SIP core: microseconds per heartbeat and per digest REGISTER, pure and through a socket.

Run as ``python -m benchmarks.sip_core`` or call :func:`run`. The figures are process CPU time of one core; the
socket rows hold the serving side only (the requests are sent before the clock starts).
"""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Awaitable, Callable
from typing import Any

from benchmarks.measure import Row
from sip.core import RequestReceived, SipCore
from sip.digest import Credentials, DigestServer, Secret, Verdict, answer_challenges
from sip.endpoint import Endpoint, Identity, Incoming, Reply
from sip.flow import Flow
from sip.message import parse

Work = Callable[[int, socket.socket, Endpoint], Awaitable[float]]

DOMAIN = "4101830000"
SERVER = "41018300002000000001"
BODY = (
    b'<?xml version="1.0" encoding="GB2312"?>\r\n<Notify>\r\n<CmdType>Keepalive</CmdType>\r\n<SN>43</SN>\r\n'
    b"<DeviceID>41018300001320000001</DeviceID>\r\n<Status>OK</Status>\r\n</Notify>\r\n"
)


def heartbeat(number: int, port: int = 5060) -> bytes:
    """A keep-alive MESSAGE of one of 1,000 devices."""
    device = f"4101830000132{number % 1000:07d}"
    head = (
        f"MESSAGE sip:{SERVER}@{DOMAIN} SIP/2.0\r\n"
        f"Via: SIP/2.0/UDP 127.0.0.1:{port};rport;branch=z9hG4bK{number:012d}\r\n"
        f"From: <sip:{device}@{DOMAIN}>;tag={number:09d}\r\n"
        f"To: <sip:{SERVER}@{DOMAIN}>\r\n"
        f"Call-ID: {number:012d}@127.0.0.1\r\n"
        "CSeq: 20 MESSAGE\r\n"
        "Content-Type: Application/MANSCDP+xml\r\n"
        "Max-Forwards: 70\r\n"
        "User-Agent: Camera\r\n"
        f"Content-Length: {len(BODY)}\r\n\r\n"
    )
    return head.encode() + BODY


def register(number: int, cseq: int = 1, authorization: str = "", port: int = 5060) -> bytes:
    """A REGISTER, with or without an answer to a challenge."""
    device = f"4101830000118{number % 1000:07d}"
    extra = f"Authorization: {authorization}\r\n" if authorization else ""
    return (
        f"REGISTER sip:{SERVER}@{DOMAIN} SIP/2.0\r\n"
        f"Via: SIP/2.0/UDP 127.0.0.1:{port};rport;branch=z9hG4bKr{number:010d}{cseq}\r\n"
        f"From: <sip:{device}@{DOMAIN}>;tag={number:09d}\r\n"
        f"To: <sip:{device}@{DOMAIN}>\r\n"
        f"Call-ID: r{number:012d}@127.0.0.1\r\n"
        f"CSeq: {cseq} REGISTER\r\n"
        f"Contact: <sip:{device}@127.0.0.1:{port}>\r\n"
        f"{extra}"
        "Max-Forwards: 70\r\n"
        "Expires: 3600\r\n"
        "Content-Length: 0\r\n\r\n"
    ).encode()


class Registrar:
    """A registrar as small as it can be: digest and a dictionary of bindings."""

    def __init__(self) -> None:
        self.digest = DigestServer()
        self.bindings: dict[str, Flow] = {}

    def handle(self, incoming: Incoming) -> Reply:
        request = incoming.request
        if request.method != "REGISTER":
            return Reply(200)
        host, now = incoming.flow.host, incoming.received_mono
        authorization = request.headers.get("Authorization")
        verdict = self.digest.verify(
            authorization, "REGISTER", DOMAIN, host, now, Secret(password="Demo-0001")
        )
        if verdict is not Verdict.OK:
            stale = verdict is Verdict.STALE
            return Reply(
                401,
                [("WWW-Authenticate", v) for v in self.digest.challenge(DOMAIN, host, now, stale=stale)],
            )
        self.bindings[request.from_.uri.user] = incoming.flow
        return Reply(200, [("Contact", request.headers.get("Contact")), ("Expires", "3600")])


def _row(name: str, count: int, cpu_s: float, unit: str) -> dict[str, Any]:
    how = "best of three passes; socket rows hold the serving side only"
    return Row(f"SIP core: {name}, CPU per {unit}", cpu_s / count * 1e6, "us", how=how).as_dict()


def parse_only(count: int) -> dict[str, Any]:
    """Parse alone: start line, header split, index."""
    messages = [heartbeat(number) for number in range(count)]
    began = time.process_time()
    for data in messages:
        parse(data)
    return _row("parse", count, time.process_time() - began, "heartbeat")


def core_heartbeats(count: int) -> dict[str, Any]:
    """Bytes in, 200 out, without sockets."""
    core = SipCore(lambda destination: "127.0.0.1:5060")
    flow = Flow("udp", "127.0.0.1", 5060, "127.0.0.1", 5060)
    messages = [heartbeat(number) for number in range(count)]
    began = time.process_time()
    for data in messages:
        core.receive(data, flow, 1.0)
        for event in core.events():
            assert isinstance(event, RequestReceived)
            core.respond(event.transaction, 200, 1.0)
        core.to_send()
    return _row("core", count, time.process_time() - began, "heartbeat")


async def _serve(endpoint: Endpoint, batch: list[bytes], sender: socket.socket) -> tuple[float, list[bytes]]:
    """CPU seconds that an endpoint spends on a batch already waiting in its socket, and its answers."""
    for data in batch:
        sender.sendto(data, ("127.0.0.1", endpoint.port))
    goal = len(batch) + endpoint.counts["stored_answers"]
    began = time.process_time()
    while endpoint.counts["stored_answers"] < goal:
        await asyncio.sleep(0)
    spent = time.process_time() - began
    return spent, [sender.recv(65535) for _ in batch]


async def _endpoint_heartbeats(count: int, sender: socket.socket, endpoint: Endpoint) -> float:
    port, spent = sender.getsockname()[1], 0.0
    for start in range(0, count, 64):
        used, answers = await _serve(endpoint, [heartbeat(start + n, port) for n in range(64)], sender)
        spent += used
        assert all(answer.startswith(b"SIP/2.0 200") for answer in answers)
    return spent


async def _endpoint_registers(count: int, sender: socket.socket, endpoint: Endpoint) -> float:
    port, spent = sender.getsockname()[1], 0.0
    for start in range(0, count, 64):
        numbers = range(start, start + 64)
        used, answers = await _serve(endpoint, [register(n, 1, "", port) for n in numbers], sender)
        again = [register(n, 2, _authorization(n, a), port) for n, a in zip(numbers, answers, strict=True)]
        more, answers = await _serve(endpoint, again, sender)
        spent += used + more
        assert all(answer.startswith(b"SIP/2.0 200") for answer in answers)
    return spent


async def _with_endpoint(work: Work, count: int) -> float:
    endpoint = Endpoint(Identity(SERVER, DOMAIN), host="127.0.0.1", port=0, handler=Registrar().handle)
    await endpoint.start()
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.bind(("127.0.0.1", 0))
            sender.settimeout(5)
            return await work(count, sender, endpoint)
    finally:
        await endpoint.close()


def endpoint_heartbeats(count: int) -> dict[str, Any]:
    """Heartbeats through a real UDP socket, answered by a plain function."""
    count = count // 64 * 64
    return _row("endpoint", count, asyncio.run(_with_endpoint(_endpoint_heartbeats, count)), "heartbeat")


def endpoint_registers(count: int) -> dict[str, Any]:
    """REGISTER, 401, REGISTER with digest, 200 through a real UDP socket."""
    count = count // 64 * 64
    return _row("endpoint", count, asyncio.run(_with_endpoint(_endpoint_registers, count)), "REGISTER pair")


def core_registers(count: int) -> dict[str, Any]:
    """REGISTER, 401, REGISTER with digest, 200: both requests, without sockets."""
    core = SipCore(lambda destination: "127.0.0.1:5060")
    flow = Flow("udp", "127.0.0.1", 5060, "127.0.0.1", 5060)
    registrar = Registrar()

    def serve(messages: list[bytes]) -> tuple[float, list[bytes]]:
        answers = []
        began = time.process_time()
        for data in messages:
            core.receive(data, flow, 1.0)
            for event in core.events():
                assert isinstance(event, RequestReceived)
                reply = registrar.handle(Incoming(event.request, flow, 1.0))
                core.respond(event.transaction, reply.status, 1.0, headers=reply.headers)
            ((answer, _),) = core.to_send()
            answers.append(answer)
        return time.process_time() - began, answers

    first, challenges = serve([register(number) for number in range(count)])
    again = [register(n, 2, _authorization(n, challenge)) for n, challenge in enumerate(challenges)]
    second, answers = serve(again)
    assert all(answer.startswith(b"SIP/2.0 200") for answer in answers)
    return _row("core", count, first + second, "REGISTER pair")


def _authorization(number: int, answer: bytes) -> str:
    device = f"4101830000118{number % 1000:07d}"
    challenges = parse(answer).headers.get_all("WWW-Authenticate")
    made = answer_challenges(
        challenges, Credentials(device, "Demo-0001"), method="REGISTER", uri=f"sip:{SERVER}@{DOMAIN}"
    )
    assert made is not None
    return made


def run(count: int = 5000) -> list[dict[str, Any]]:
    """All rows; the best of three passes each."""
    rows = []
    for work, size in (
        (parse_only, count),
        (core_heartbeats, count),
        (core_registers, count // 2),
        (endpoint_heartbeats, count),
        (endpoint_registers, count // 2),
    ):
        passes = [work(size) for _ in range(3)]
        rows.append(min(passes, key=lambda row: float(row["value"])))
    return rows


if __name__ == "__main__":
    for row in run():
        print(json.dumps(row))
