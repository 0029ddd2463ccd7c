"""A gateway with simulated recorders that have recordings in them, and viewers that read the clock in the pictures."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import av
import numpy as np
from playback_house import PASSWORD, SERVER, ApiClient, recorded_gateway

from gateway.app import Gateway
from simulator.device import DeviceOptions, SimulatedDevice
from simulator.nvr import Recorder
from simulator.picture import read_mark
from simulator.records import Record, RecordFaults
from simulator.sending import Pictures
from sip.manscdp import Edition

DAY = datetime(2026, 11, 20, 0, 0, tzinfo=UTC)
"""A past day; recordings of tests lie on it."""
PICTURES = Pictures(width=320, height=192, bitrate=250_000, gop=25)
OFFLINE = "41018300001180000099"


def at(seconds: float) -> datetime:
    return DAY + timedelta(seconds=seconds)


def day(*stretches: tuple[float, float], kind: str = "time") -> list[Record]:
    """Recorded stretches in seconds of the day."""
    return [Record(at(start), at(end), kind=kind) for start, end in stretches]


@asynccontextmanager
async def quiet_gateway(folder: Path, **values: Any) -> AsyncIterator[Gateway]:
    """A gateway without recordings of its own."""
    disk = folder / "disk"
    disk.mkdir()
    short = {
        "first_answer_timeout_s": 2.0, "gap_timeout_s": 1.0, "drain_s": 0.5, "download_silence_s": 2.0,
        "download_reserve_bytes": 0,
    }  # fmt: skip
    async with recorded_gateway(folder / "gateway", disk, device_recordings=short, **values) as running:
        try:
            yield running
        finally:
            async with AsyncExitStack() as stack:
                for device in _LENT.pop(running, {}).values():
                    stack.push_async_callback(device.stop)


_LENT: dict[Gateway, dict[Edition, Recorder]] = {}


@asynccontextmanager
async def recorder(
    gateway: Gateway,
    *,
    edition: Edition = Edition.V2022,
    media: Any = "any",
    page_size: int = 4,
    max_calls: int = 16,
) -> AsyncIterator[Recorder]:
    """A recorder of that edition with one channel and nothing wrong, lent by one test to the next."""
    lent = _LENT.setdefault(gateway, {})
    if edition not in lent:
        number, transport = (16, "udp") if edition is Edition.V2016 else (22, "tcp")
        lent[edition] = await started(gateway, number, edition=edition, transport=transport)
    device = lent[edition]
    options = device.options
    options.media, options.page_size, options.max_calls = media, page_size, max_calls
    book = device.answers.records
    book.records, book.faults = None, RecordFaults()
    book.queries.clear()
    device.received.clear()
    device.faults.statuses.clear()
    yield device
    await until(lambda: not device.calls.running)


async def started(
    gateway: Gateway,
    number: int,
    *,
    edition: Edition = Edition.V2022,
    transport: Any = "udp",
    channels: int = 1,
) -> Recorder:
    """A recorder that is online, its channels known; stop it."""
    device = Recorder(
        f"4101830000118{number:07d}",
        channels,
        server=("127.0.0.1", gateway.endpoint.port),
        server_id=SERVER,
        password=PASSWORD,
        options=DeviceOptions(pictures=PICTURES, transport=transport, edition=edition),
    )
    await device.start()
    await device.wait_registered()
    for code in device.camera_ids:
        await device.wait(lambda code=code: gateway.registry.channel(device.device_id, code), 30)
    return device


@dataclass(frozen=True, slots=True)
class Seen:
    """A decoded picture: its time in the playing, and the recording's clock in it, in seconds of the day."""

    shown_s: float
    clock_s: float
    key: bool
    number: int


def seen(data: bytes) -> list[Seen]:
    """All pictures of an fMP4 or MP4 that can be decoded, in order."""
    found: list[Seen] = []
    with av.open(io.BytesIO(data)) as container:
        for frame in container.decode(video=0):
            assert isinstance(frame, av.VideoFrame)
            mark = read_mark(frame.to_ndarray(format="gray").astype(np.uint8, copy=False))
            assert mark is not None
            found.append(Seen(float(frame.time or 0.0), clock_of(mark.time_ms), frame.key_frame, mark.frame))
    return found


def clock_of(time_ms: int) -> float:
    """Seconds since :data:`DAY` of a picture's clock, which is cut to 32 bits."""
    begin = round(DAY.timestamp() * 1000)
    return ((time_ms - begin + 2**31) % 2**32 - 2**31) / 1000


class Viewer:
    """Reads an endless fMP4 until it ends or ``stop``."""

    def __init__(self, api: ApiClient, url: str) -> None:
        self.data = bytearray()
        self.task = asyncio.create_task(self._read(api, url))

    async def _read(self, api: ApiClient, url: str) -> None:
        try:
            async with api.session.get(url) as answer:
                assert answer.status == 200
                async for chunk in answer.content.iter_any():
                    self.data += chunk
        except aiohttp.ClientPayloadError:
            pass  # the playback was closed in the middle of the endless file

    async def more(self, size: int) -> None:
        """Wait for so many more bytes."""
        wanted = len(self.data) + size
        await until(lambda: len(self.data) >= wanted or self.task.done())

    async def whole(self) -> list[Seen]:
        await asyncio.wait_for(self.task, 30)
        return seen(bytes(self.data))


@dataclass
class Player:
    """One user at one channel's recordings."""

    api: ApiClient
    device: SimulatedDevice
    channel_id: str

    async def open(self, start: float, end: float, *, expect: int = 201, **values: Any) -> dict[str, Any]:
        body = {"start": at(start).isoformat(), "end": at(end).isoformat(), "source": "device", **values}
        path = f"/api/channels/{self.channel_id}/playback"
        status, answer = await self.api.call("POST", path, body, device_id=self.device.device_id)
        assert status == expect, answer
        found: dict[str, Any] = answer
        return found

    async def change(self, playback: dict[str, Any], *, expect: int = 200, **values: Any) -> dict[str, Any]:
        status, answer = await self.api.call("PATCH", f"/api/playback/{playback['session_id']}", values)
        assert status == expect, answer
        found: dict[str, Any] = answer
        return found

    async def state(self, playback: dict[str, Any]) -> dict[str, Any] | None:
        """None when it is over."""
        status, answer = await self.api.call("GET", f"/api/playback/{playback['session_id']}")
        assert status in (200, 404), answer
        found: dict[str, Any] | None = answer if status == 200 else None
        return found

    async def close(self, playback: dict[str, Any]) -> None:
        status, answer = await self.api.call("DELETE", f"/api/playback/{playback['session_id']}")
        assert status == 204, answer


async def until(condition: Callable[[], Any], timeout_s: float = 40.0) -> Any:
    async with asyncio.timeout(timeout_s):
        while not (value := condition()):
            await asyncio.sleep(0.02)
    return value
