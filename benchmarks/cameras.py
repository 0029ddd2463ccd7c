"""Cameras of the benchmarks: real pictures as a program stream over RTP, live, with a clock, into a node's receiver."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

from media.ps_mux import PsMuxer
from media.rtp import RtpPacketizer
from media.unit import AccessUnit, Codec
from simulator.picture import TestPicture, tone

RATE = 25


async def ticking() -> AsyncIterator[int]:
    """0, 1, 2 ... at 25 a second."""
    started = time.monotonic()
    number = 0
    while True:
        yield number
        number += 1
        await asyncio.sleep(max(0.0, started + number / RATE - time.monotonic()))


def looped(units: list[AccessUnit]) -> Callable[[int], AccessUnit]:
    """Prepared pictures again and again, with a running clock."""

    def unit(number: int) -> AccessUnit:
        ticks = number * 3600
        return replace(units[number % len(units)], pts=ticks, dts=ticks)

    return unit


def live(picture: TestPicture, gop: int = RATE) -> Callable[[int], AccessUnit]:
    """Pictures drawn and encoded at the time of asking: their clock is now."""

    def unit(number: int) -> AccessUnit:
        return picture.frame(number, key=number % gop == 0)

    return unit


class Camera:
    """Sends one channel by UDP to a port of this machine until :meth:`close`. ``sent`` counts packets."""

    def __init__(
        self, port: int, ssrc: int, unit: Callable[[int], AccessUnit], codec: Codec, *, sound: bool = False
    ) -> None:
        self.sent = 0
        self._sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._sock.connect(("127.0.0.1", port))
        self._unit = unit
        self._sound = tone(1.0) if sound else []
        self._muxer = PsMuxer(codec, Codec.PCMA if sound else None)
        self._packetizer = RtpPacketizer(ssrc, 96)
        self._task = asyncio.create_task(self._film(), name=f"camera {ssrc}")

    async def close(self) -> None:
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        self._sock.close()

    async def _film(self) -> None:
        async for number in ticking():
            ticks = number * 3600
            self._send(self._unit(number), ticks)
            if self._sound:
                self._send(replace(self._sound[number % RATE], pts=ticks, dts=ticks), ticks)

    def _send(self, unit: AccessUnit, ticks: int) -> None:
        for packet in self._packetizer.packets(self._muxer.mux(unit), ticks & 0xFFFFFFFF):
            with contextlib.suppress(ConnectionRefusedError):
                self._sock.send(packet)
            self.sent += 1
