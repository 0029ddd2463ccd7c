"""A UDP path between a player and a server that loses packets, goes silent, or changes its address, as told."""

from __future__ import annotations

import asyncio
import random
import re
import socket

Address = tuple[str, int]


class UdpPath:
    """Forwards between one player and ``server``. Losses concern media only: handshakes and checks go through.

    ``loss`` is the part of the packets toward the player that vanish; ``dark`` loses all of them, ``no_repairs`` those
    that are sent again on a retransmission stream (RFC 4588).
    """

    def __init__(self, server: Address, *, seed: int = 7) -> None:
        self.loss = 0.0
        self.dark = False
        self.no_repairs = False
        self.lost = 0
        self.passed = 0
        self._repair_types: set[int] = set()
        self._server = server
        self._random = random.Random(seed)
        self._player: Address | None = None
        self._near = _bound()
        self._far = _bound()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._near.fileno(), self._from_player)
        self._loop.add_reader(self._far.fileno(), self._from_server)

    @property
    def port(self) -> int:
        """Where the player shall send."""
        return int(self._near.getsockname()[1])

    @property
    def far_port(self) -> int:
        """From where the server sees the player."""
        return int(self._far.getsockname()[1])

    def through(self, answer: str) -> str:
        """The server's session description with this path in place of its own port."""
        self._repair_types = {int(number) for number in re.findall(r"a=fmtp:(\d+) apt=", answer)}
        return re.sub(r"(a=candidate:\S+ \d+ udp \d+ \S+) \d+ ", rf"\1 {self.port} ", answer)

    def rebind(self) -> None:
        """The router in between gives the player another port; what comes to the old one is lost."""
        self._loop.remove_reader(self._far.fileno())
        self._far.close()
        self._far = _bound()
        self._loop.add_reader(self._far.fileno(), self._from_server)

    def close(self) -> None:
        for sock in (self._near, self._far):
            self._loop.remove_reader(sock.fileno())
            sock.close()

    def _from_player(self) -> None:
        while (packet := _read(self._near)) is not None:
            data, self._player = packet
            self._far.sendto(data, self._server)

    def _from_server(self) -> None:
        while (packet := _read(self._far)) is not None:
            data = packet[0]
            if _is_media(data) and self._loses(data):
                self.lost += 1
            elif self._player is not None:
                self.passed += 1
                self._near.sendto(data, self._player)

    def _loses(self, data: bytes) -> bool:
        repair = data[1] & 0x7F in self._repair_types
        return self.dark or (self.no_repairs and repair) or self._random.random() < self.loss


def _bound() -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    sock.setblocking(False)
    sock.bind(("127.0.0.1", 0))
    return sock


def _read(sock: socket.socket) -> tuple[bytes, Address] | None:
    try:
        return sock.recvfrom(2048)
    except OSError:
        return None


def _is_media(data: bytes) -> bool:
    """RTP, not RTCP (RFC 5761 4)."""
    return len(data) > 1 and 128 <= data[0] < 192 and not 192 <= data[1] <= 223
