"""Generator and verifying sink of the relay benchmark, one process: RTP with a program stream in, every byte checked out.

Protocol on the pipes: prints the sink ports as JSON, reads {"targets": [[host, port], ...], "ssrcs": [...],
"seconds": S}, prints "begin", "end" around the measured window and a result line.
"""

from __future__ import annotations

import contextlib
import heapq
import json
import select
import socket
import struct
import sys
import time

import numpy as np

RATE = 25
PAYLOAD = 1400
HEADER = 12
_REWRITE = struct.Struct("!HII")
_KEY_BYTES = 80_000
_OTHER_BYTES = 17_500
_GOP = 25
SSRC_IN = 100_000_000
SPACING_S = (PAYLOAD + HEADER + 66) * 8 / 100e6
"""Packets of a frame leave as from a camera's 100 Mbit/s port, Ethernet, IP and UDP headers included."""


def frames() -> list[bytes]:
    """One second of 4 Mbit/s: a key frame and 24 others as packs with one picture each; noise without start codes."""
    from media.ps_mux import PsMuxer
    from media.unit import AccessUnit, Codec

    random = np.random.default_rng(1)
    sets = b"\x00\x00\x00\x01\x67\x42\xc0\x1e\xd9\x00\xa0\x47\xfe\xc8" + b"\x00\x00\x00\x01\x68\xce\x3c\x80"
    muxer = PsMuxer(Codec.H264)
    result = []
    for number in range(_GOP):
        key = number == 0
        noise = random.integers(2, 255, _KEY_BYTES if key else _OTHER_BYTES, dtype=np.uint8).tobytes()
        data = sets + b"\x00\x00\x00\x01\x65\x88" + noise if key else b"\x00\x00\x00\x01\x41\x9a" + noise
        result.append(muxer.mux(AccessUnit(Codec.H264, number * 3600, number * 3600, key, data)))
    return result


def grow(sock: socket.socket) -> None:
    for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
        sock.setsockopt(socket.SOL_SOCKET, option, 4 << 20)


class Generator:
    """All streams' senders: one connected socket each. Every packet is a send of its own, as a camera's packets are."""

    def __init__(self, targets: list[tuple[str, int]]) -> None:
        self.sockets = []
        for target in targets:
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            grow(sock)
            sock.connect(target)
            self.sockets.append(sock)
        self.templates = []
        for payload in frames():
            pieces = [payload[at : at + PAYLOAD] for at in range(0, len(payload), PAYLOAD)]
            buffer = bytearray()
            for position, piece in enumerate(pieces):
                marker = 0x80 if position == len(pieces) - 1 else 0
                buffer += bytes((0x80, marker | 96)) + bytes(10) + piece
            self.templates.append((buffer, len(pieces)))
        self.sequences = [1000] * len(targets)
        self.sent = 0

        self.due = [(stream / len(targets) / RATE, stream, 0, 0) for stream in range(len(targets))]

    def send(self, now: float) -> bool:
        """Send every packet that is due: (time, stream, frame, place in the frame). True when there was one."""
        due = self.due
        worked = False
        while due[0][0] <= now:
            at, stream, frame, place = due[0]
            buffer, count = self.templates[frame % _GOP]
            start = place * (PAYLOAD + HEADER)
            sequence = self.sequences[stream] & 0xFFFF
            _REWRITE.pack_into(buffer, start + 2, sequence, frame * 3600 & 0xFFFFFFFF, SSRC_IN + stream)
            self.sequences[stream] = sequence + 1
            with contextlib.suppress(ConnectionRefusedError):
                self.sockets[stream].send(memoryview(buffer)[start : start + PAYLOAD + HEADER])
            self.sent += 1
            worked = True
            if place + 1 < count:
                heapq.heapreplace(due, (at + SPACING_S, stream, frame, place + 1))
            else:
                begin = stream / len(self.sockets) / RATE
                heapq.heapreplace(due, (begin + (frame + 1) / RATE, stream, frame + 1, 0))
        return worked


class Sink:
    """All relays' receivers; every packet's SSRC, sequence and payload are compared with what was sent."""

    def __init__(self, count: int) -> None:
        self.poll = select.epoll()
        self.sockets: dict[int, tuple[int, socket.socket]] = {}
        self.ports = []
        for stream in range(count):
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            grow(sock)
            sock.bind(("127.0.0.1", 0))
            sock.setblocking(False)
            self.sockets[sock.fileno()] = (stream, sock)
            self.ports.append(sock.getsockname()[1])
            self.poll.register(sock.fileno(), select.EPOLLIN)
        self.pieces: list[bytes] = []
        for payload in frames():
            self.pieces += [payload[at : at + PAYLOAD] for at in range(0, len(payload), PAYLOAD)]
        self.position = {piece[-64:]: index for index, piece in enumerate(self.pieces)}
        self.expected: list[int | None] = [None] * count
        self.place = [0] * count
        self.ssrcs: list[int] = []
        self.received = self.lost = self.wrong = 0

    def drain(self) -> None:
        pieces, total = self.pieces, len(self.pieces)
        for number, _ in self.poll.poll(0):
            stream, sock = self.sockets[number]
            receive = sock.recv
            ssrc = self.ssrcs[stream]
            while True:
                try:
                    packet = receive(2048)
                except BlockingIOError:
                    break
                sequence, _, source = _REWRITE.unpack_from(packet, 2)
                expected = self.expected[stream]
                if expected is None:
                    self.place[stream] = self.position.get(packet[-64:], 0)
                elif sequence != expected:
                    gap = (sequence - expected) & 0xFFFF
                    self.lost += gap
                    self.place[stream] = (self.place[stream] + gap) % total
                self.expected[stream] = (sequence + 1) & 0xFFFF
                place = self.place[stream]
                if source != ssrc or packet[12:] != pieces[place]:
                    self.wrong += 1
                self.place[stream] = place + 1 if place + 1 < total else 0
                self.received += 1


def main() -> None:
    count = int(sys.argv[1])
    sink = Sink(count)
    print(json.dumps(sink.ports), flush=True)
    order = json.loads(sys.stdin.readline())
    sink.ssrcs = order["ssrcs"]
    generator = Generator([(host, port) for host, port in order["targets"]])
    started = time.monotonic()
    warm, seconds = float(order["warm"]), float(order["seconds"])
    marks: list[tuple[int, int, int, int]] = []
    while True:
        now = time.monotonic() - started
        if not marks and now >= warm:
            marks.append((sink.received, sink.lost, sink.wrong, generator.sent))
            print("begin", flush=True)
        if len(marks) == 1 and now >= warm + seconds:
            marks.append((sink.received, sink.lost, sink.wrong, generator.sent))
            print("end", flush=True)
            break
        worked = generator.send(now)
        sink.drain()
        if not worked:
            time.sleep(0.0001)
    first, last = marks
    received, lost, wrong, sent = (b - a for a, b in zip(first, last, strict=True))
    print(json.dumps({"received": received, "lost": lost, "wrong": wrong, "sent": sent}), flush=True)


if __name__ == "__main__":
    main()
