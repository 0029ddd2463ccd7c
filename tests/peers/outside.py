"""What a test sees of a running gateway from outside: its metrics, processes, memory, sockets, and raw exchanges with it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import secrets
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gateway_process import DOMAIN, SERVER_ID

from sip.message import Response, parse


def series(text: str, name: str, **labels: str) -> float:
    """Sum over all series of a metric that have these labels; 0 when there is none."""
    total = 0.0
    for braces, value in re.findall(rf"^{name}(\{{[^}}]*\}})? (\S+)$", text, re.MULTILINE):
        if all(f'{label}="{wanted}"' in braces for label, wanted in labels.items()):
            total += float(value)
    return total


async def eventually(
    condition: Callable[[], Any], timeout_s: float = 30.0, what: str = "", *, every_s: float = 0.1
) -> Any:
    """Wait until ``condition()`` holds; it may block, so it runs in a thread. Returns its value."""
    deadline = time.monotonic() + timeout_s
    while True:
        value = await asyncio.to_thread(condition)
        if value:
            return value
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what or condition}"
        await asyncio.sleep(every_s)


# -- processes -----------------------------------------------------------------------------------------------


def rss_bytes(pid: int) -> int:
    """Resident memory."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def alive(pid: int) -> bool:
    """Whether the process runs; one that only waits to be collected does not count."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def descendants(pid: int) -> list[int]:
    """All processes below ``pid``."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = [int(child) for child in task.read_text().split()]
        except OSError:
            continue
        for child in children:
            found += [child, *descendants(child)]
    return found


def media_nodes(pid: int) -> list[int]:
    """The media node processes of the gateway ``pid``."""
    return [child for child in descendants(pid) if "media.node" in command_line(child)]


# -- sockets -------------------------------------------------------------------------------------------------


def can_bind(port: int) -> bool:
    """Whether nobody holds this port on loopback any more, neither for UDP nor for listening on TCP."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp, socket.socket() as tcp:
        tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            udp.bind(("127.0.0.1", port))
            tcp.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def udp_ports(low: int, high: int) -> set[int]:
    """UDP ports of this range that anybody holds."""
    used = {int(line.split()[1].rsplit(":", 1)[1], 16) for line in _udp_lines()}
    return {port for port in used if low <= port <= high}


def udp_queue(port: int) -> tuple[int, int]:
    """(bytes waiting, datagrams dropped so far) at the UDP socket bound to ``port``."""
    for _ in range(10):  # the kernel may leave a line out while sockets come and go
        for line in _udp_lines():
            fields = line.split()
            if int(fields[1].rsplit(":", 1)[1], 16) == port:
                return int(fields[4].split(":")[1], 16), int(fields[-1])
    raise AssertionError(f"nobody listens on UDP {port}")


def _udp_lines() -> list[str]:
    return Path("/proc/net/udp").read_text().splitlines()[1:]


class Stranger:
    """A UDP socket at an address of its own (any 127.x.x.x) that sends bytes and reads what comes back."""

    def __init__(self, host: str, port: int) -> None:
        self.host = host
        self._gateway = ("127.0.0.1", port)
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._socket.bind((host, 0))
        self.port = int(self._socket.getsockname()[1])

    def __enter__(self) -> Stranger:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def send(self, data: bytes) -> None:
        self._socket.sendto(data, self._gateway)

    def drain(self) -> None:
        """Throw away what came."""
        with contextlib.suppress(BlockingIOError):
            while True:
                self._socket.recv(65535)

    def request(self, method: str, sender: str, body: bytes = b"", **headers: str) -> bytes:
        """A request that says it comes from ``sender``; underscores of header names become hyphens."""
        kind = "Application/MANSCDP+xml" if method == "MESSAGE" else "application/sdp"
        fields = {
            "Via": f"SIP/2.0/UDP {self.host}:{self.port};rport;branch=z9hG4bK{secrets.token_hex(8)}",
            "From": f"<sip:{sender}@{DOMAIN}>;tag={secrets.token_hex(4)}",
            "To": f"<sip:{SERVER_ID}@{DOMAIN}>",
            "Call-ID": secrets.token_hex(8),
            "CSeq": f"1 {method}",
            "Contact": f"<sip:{sender}@{self.host}:{self.port}>",
            "Max-Forwards": "70",
            **({"Content-Type": kind} if body else {}),
            "Content-Length": str(len(body)),
            **{name.replace("_", "-"): value for name, value in headers.items()},
        }
        head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        return f"{method} sip:{SERVER_ID}@{DOMAIN} SIP/2.0\r\n{head}\r\n".encode() + body

    async def ask(self, data: bytes, timeout_s: float = 10.0) -> Response:
        """Send and wait for the final answer; sent again each second, as over UDP."""
        loop = asyncio.get_running_loop()
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            self.send(data)
            try:
                while True:
                    message = parse(await asyncio.wait_for(loop.sock_recv(self._socket, 65535), 1.0))
                    if isinstance(message, Response) and message.status >= 200:
                        return message
            except TimeoutError:
                continue
        raise AssertionError(f"no answer within {timeout_s} s to {data[:80]!r}")

    async def silent(self, data: bytes, for_s: float = 0.5) -> bool:
        """Send; whether nothing at all comes back."""
        self.send(data)
        try:
            await asyncio.wait_for(asyncio.get_running_loop().sock_recv(self._socket, 65535), for_s)
        except TimeoutError:
            return True
        return False
