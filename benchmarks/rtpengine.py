"""rtpengine in user space as the baseline of the relay benchmark: started as a daemon, told its streams by the NG protocol."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import time
from collections.abc import Iterator

from benchmarks.measure import child, free_port

PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin"])
_SDP = (
    "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=Play\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n"
    "m=video {port} RTP/AVP 96\r\na=rtpmap:96 PS/90000\r\n"
)


def program() -> str | None:
    return shutil.which("rtpengine", path=PATH) or shutil.which("rtpengine-daemon", path=PATH)


def bencode(value: object) -> bytes:
    """Bencoding of strings, lists and dictionaries, which is all that NG wants."""
    if isinstance(value, str):
        data = value.encode()
        return str(len(data)).encode() + b":" + data
    if isinstance(value, list):
        return b"l" + b"".join(bencode(item) for item in value) + b"e"
    if isinstance(value, dict):
        return b"d" + b"".join(bencode(key) + bencode(item) for key, item in value.items()) + b"e"
    raise TypeError(type(value))


class Control:
    """NG commands over UDP."""

    def __init__(self, port: int) -> None:
        self._sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._sock.connect(("127.0.0.1", port))
        self._sock.settimeout(2)
        self._count = 0

    def call(self, **fields: object) -> bytes:
        self._count += 1
        cookie = f"c{self._count}".encode()
        request = cookie + b" " + bencode({key.replace("_", "-"): value for key, value in fields.items()})
        for _ in range(5):
            self._sock.send(request)
            try:
                while True:
                    answer = self._sock.recv(65536)
                    if answer.startswith(cookie + b" "):
                        return answer
            except (TimeoutError, ConnectionRefusedError):
                time.sleep(0.2)
        raise RuntimeError("rtpengine does not answer")

    def stream(self, number: int, sink_port: int) -> tuple[str, int]:
        """Open one relay to ``sink_port``; returns where to send."""
        call = {"call_id": f"bench-{number}", "from_tag": "a", "ICE": "remove", "flags": ["trust-address"]}
        self.call(command="offer", sdp=_SDP.format(port=40000 + number % 20000), **call)
        answer = self.call(command="answer", to_tag="b", sdp=_SDP.format(port=sink_port), **call)
        found = re.search(rb"m=video (\d+) ", answer)
        if found is None:
            raise RuntimeError(f"rtpengine: {answer[:200]!r}")
        return "127.0.0.1", int(found[1])


@contextlib.contextmanager
def running(executable: str) -> Iterator[tuple[int, Control]]:
    """A daemon of one worker thread without kernel table; gives its process id and control."""
    port = free_port()
    arguments = [
        executable, "--foreground", "--table=-1", "--interface=127.0.0.1", f"--listen-ng=127.0.0.1:{port}",
        "--port-min=26000", "--port-max=29999", "--num-threads=1", "--log-level=1", "--log-stderr",
        "--timeout=300",
    ]  # fmt: skip
    with child(arguments) as process:
        control = Control(port)
        control.call(command="ping")
        yield process.pid, control
