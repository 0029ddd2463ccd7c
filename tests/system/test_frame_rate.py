"""25 pictures a second from camera to viewer and upper platform, none missing (GB/T 28181-2022 5.6).

GB_FRAME_SECONDS makes the count longer than the usual ten seconds.
"""

from __future__ import annotations

import asyncio
import os
from itertools import pairwise
from pathlib import Path

import av
import pytest
from chain import chain
from gateway_process import GatewayProcess

from simulator.camera import DeviceOptions
from simulator.picture import read_mark
from simulator.register import RegisterSettings
from simulator.upper_pull import MediaPort

RATE = 25
SECONDS = float(os.environ.get("GB_FRAME_SECONDS", "10"))
PICTURES = round(SECONDS * RATE)
LOOP = 50
"""Pictures of a simulated camera before it begins anew."""

pytestmark = pytest.mark.timeout(120 + 2 * SECONDS)


def watch(gateway: GatewayProcess, channel_id: str) -> list[tuple[int | None, float]]:
    """Number and time in seconds of each picture that FFmpeg gets from the channel's MPEG-TS address."""
    _, token = gateway.call("POST", "/api/tokens", {"name": "counter", "role": "viewer"})
    address = f"{gateway.url}/api/channels/{channel_id}/live.ts?token={token['token']}"
    seen: list[tuple[int | None, float]] = []
    with av.open(address, timeout=30) as container:
        for frame in container.decode(video=0):
            mark = read_mark(frame.to_ndarray(format="gray"))
            assert frame.time is not None
            seen.append((None if mark is None else mark.frame, frame.time))
            if len(seen) >= PICTURES:
                break
    return seen


@pytest.mark.gb("G287")
async def test_every_picture_of_25_a_second_reaches_viewer_and_upper(tmp_path: Path) -> None:
    options = DeviceOptions(register=RegisterSettings(heartbeat_s=0.5))
    async with chain(tmp_path, 1, options=options) as house:
        (camera,) = house.cameras
        pull = await house.upper.invite(camera.channel_id)
        numbers: list[int | None] = []
        seen, _ = await asyncio.gather(
            asyncio.to_thread(watch, house.gateway, camera.channel_id),
            count_pictures(pull.media, numbers),
        )
        stats = pull.media.stats

        assert follow_each_other([number for number, _ in seen])
        gaps = [after - before for (_, before), (_, after) in pairwise(seen)]
        assert all(abs(gap - 1 / RATE) < 0.002 for gap in gaps), max(gaps)

        assert follow_each_other(numbers)
        assert len(numbers) >= PICTURES
        assert (stats.lost, stats.damaged_units, stats.decode_errors) == (0, 0, 0)


def follow_each_other(numbers: list[int | None]) -> bool:
    """Whether each number is the next one; the camera's pictures begin anew after the last."""
    return all(
        before is not None and after in (before + 1, 0 if before + 1 == LOOP else None)
        for before, after in pairwise(numbers)
    )


async def count_pictures(media: MediaPort, numbers: list[int | None]) -> None:
    """Read the number of each picture the upper decodes until there are enough."""

    def note(frame: av.VideoFrame) -> None:
        mark = read_mark(frame.to_ndarray(format="gray"))
        numbers.append(None if mark is None else mark.frame)

    media.on_frame = note
    async with asyncio.timeout(60 + 2 * SECONDS):
        while len(numbers) < PICTURES:
            await asyncio.sleep(0.1)
