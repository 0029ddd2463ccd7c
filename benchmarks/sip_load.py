"""A closed-loop SIP load: REGISTER with digest (both requests) or heartbeats from many simulated devices, one process.

Run as ``python -m benchmarks.sip_load``; prints one JSON line. Messages are built from templates, answers are looked at
with three searches, so that the load costs less than what it measures.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import select
import socket
import sys
import time

_NONCE = re.compile(rb'nonce="([^"]+)"')
_BRANCH = re.compile(rb"branch=z9hG4bK(\d+)-(\d+)")

REGISTER = (
    "REGISTER sip:{server}@{domain} SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.1:{port};rport;branch=z9hG4bK{index}-{sequence}\r\n"
    "From: <sip:{device}@{domain}>;tag=t{index}\r\nTo: <sip:{device}@{domain}>\r\nCall-ID: r{run}-{index}@127.0.0.1\r\n"
    "CSeq: {sequence} REGISTER\r\nContact: <sip:{device}@127.0.0.1:{port}>\r\nMax-Forwards: 70\r\n{authorization}"
    "Expires: 86400\r\nContent-Length: 0\r\n\r\n"
)
MESSAGE = (
    "MESSAGE sip:{server}@{domain} SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.1:{port};rport;branch=z9hG4bK{index}-{sequence}\r\n"
    "From: <sip:{device}@{domain}>;tag=t{index}\r\nTo: <sip:{server}@{domain}>\r\nCall-ID: m{run}-{index}-{sequence}@load\r\n"
    "CSeq: {sequence} MESSAGE\r\nContent-Type: Application/MANSCDP+xml\r\nMax-Forwards: 70\r\n"
    "Content-Length: {length}\r\n\r\n{body}"
)
KEEPALIVE = (
    '<?xml version="1.0" encoding="GB2312"?>\r\n<Notify>\r\n<CmdType>Keepalive</CmdType>\r\n<SN>{sequence}</SN>\r\n'
    "<DeviceID>{device}</DeviceID>\r\n<Status>OK</Status>\r\n</Notify>\r\n"
)


class Load:
    """The devices, the socket and the counters of one run."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.server = (arguments.host, arguments.port)
        self.names = {"server": arguments.server_id, "domain": arguments.domain}
        self.password = arguments.password
        self.devices = [f"4101830000132{number:07d}" for number in range(1, arguments.devices + 1)]
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        self.socket.bind(("127.0.0.1", 0))
        self.socket.setblocking(False)
        self.port = self.socket.getsockname()[1]
        self.sequence = [0] * len(self.devices)
        self.run = 0
        self.repeats = 0

    def register(self, index: int, challenge: bytes | None) -> bytes:
        self.sequence[index] += 1
        device = self.devices[index]
        authorization = ""
        if challenge is not None:
            found = _NONCE.search(challenge)
            nonce = found.group(1).decode() if found else ""
            uri = f"sip:{self.names['server']}@{self.names['domain']}"
            ha1 = hashlib.md5(f"{device}:{self.names['domain']}:{self.password}".encode()).hexdigest()
            ha2 = hashlib.md5(f"REGISTER:{uri}".encode()).hexdigest()
            response = hashlib.md5(f"{ha1}:{nonce}:{ha2}".encode()).hexdigest()
            authorization = (
                f'Authorization: Digest username="{device}", realm="{self.names["domain"]}", nonce="{nonce}", '
                f'uri="{uri}", response="{response}", algorithm=MD5\r\n'
            )
        return REGISTER.format(
            **self.names, device=device, port=self.port, index=index, sequence=self.sequence[index],
            run=self.run, authorization=authorization,
        ).encode()  # fmt: skip

    def heartbeat(self, index: int) -> bytes:
        self.sequence[index] += 1
        body = KEEPALIVE.format(sequence=self.sequence[index], device=self.devices[index])
        return MESSAGE.format(
            **self.names, device=self.devices[index], port=self.port, index=index, sequence=self.sequence[index],
            run=self.run, length=len(body), body=body,
        ).encode()  # fmt: skip

    def go(self, kind: str, count: int, window: int) -> dict[str, float]:
        """Run ``count`` transactions (a REGISTER counts once for both requests), at most ``window`` open at a time."""
        self.run += 1
        started = done = failed = 0
        open_ones: dict[int, tuple[bytes, float]] = {}
        begin = time.monotonic()
        while done + failed < count and time.monotonic() - begin < 120:
            while started < count and len(open_ones) < min(window, len(self.devices)):
                index = started % len(self.devices)
                if index in open_ones:
                    break
                data = self.register(index, None) if kind == "register" else self.heartbeat(index)
                open_ones[index] = (data, time.monotonic())
                self.socket.sendto(data, self.server)
                started += 1
            if not select.select([self.socket], [], [], 0.2)[0]:
                self._repeat(open_ones)
                continue
            while True:
                try:
                    answer = self.socket.recv(65535)
                except BlockingIOError:
                    break
                found = _BRANCH.search(answer)
                if not found or int(found.group(1)) not in open_ones:
                    continue
                index = int(found.group(1))
                if int(found.group(2)) != self.sequence[index]:
                    continue
                if answer.startswith(b"SIP/2.0 401") and b"Authorization:" not in open_ones[index][0]:
                    data = self.register(index, answer)
                    open_ones[index] = (data, time.monotonic())
                    self.socket.sendto(data, self.server)
                    continue
                del open_ones[index]
                if answer.startswith(b"SIP/2.0 200"):
                    done += 1
                else:
                    failed += 1
        return {
            "done": done, "failed": failed, "open": len(open_ones), "repeats": self.repeats,
            "seconds": time.monotonic() - begin,
        }  # fmt: skip

    def _repeat(self, open_ones: dict[int, tuple[bytes, float]]) -> None:
        now = time.monotonic()
        for index, (data, sent) in list(open_ones.items()):
            if now - sent > 0.5:
                self.repeats += 1
                open_ones[index] = (data, now)
                self.socket.sendto(data, self.server)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--server-id", default="41018300002000000001")
    parser.add_argument("--domain", default="4101830000")
    parser.add_argument("--password", required=True)
    parser.add_argument("--devices", type=int, default=1000)
    parser.add_argument("--window", type=int, default=16)
    load = Load(parser.parse_args())
    for line in sys.stdin:  # commands of the benchmark: "<kind> <count>"
        kind, count = line.split()
        sys.stdout.write(json.dumps(load.go(kind, int(count), 16)) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
