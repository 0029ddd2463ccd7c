"""Playing a recording at a node: paced, paused, moved, faster, backward, to its end; relays get what was recorded."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from decoded import source_hashes
from recorded import Recorded, joined, numbers, record

from media.errors import MediaError
from media.specs import InputControl, PlaybackEnded, PlayPosition, RecordingInput, StreamIdle, StreamLost
from media.stream import StreamEnded
from media.unit import AccessUnit

if TYPE_CHECKING:
    from tests.media.core.conftest import RunningNode


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    return record(tmp_path_factory.mktemp("recorded"), 6.0)


@dataclass
class Playing:
    """One input with a reader of its own, and when each unit came."""

    running: RunningNode
    spec: RecordingInput
    units: list[AccessUnit] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    _task: asyncio.Task[None] | None = None

    @property
    def pictures(self) -> list[AccessUnit]:
        return [unit for unit in self.units if unit.codec.is_video]

    @property
    def sounds(self) -> int:
        return len(self.units) - len(self.pictures)

    async def watch(self) -> None:
        stream = self.running.node.stream(self.spec.stream_id)
        await stream.wait_ready(30)
        reader = stream.attach("test")

        async def read() -> None:
            while True:
                try:
                    unit = await reader.next()
                except StreamEnded:
                    return
                self.units.append(unit)
                self.times.append(time.monotonic())

        self._task = asyncio.create_task(read())

    async def seen(self, count: int, timeout_s: float = 40.0) -> None:
        async with asyncio.timeout(timeout_s):
            while len(self.pictures) < count:
                await asyncio.sleep(0.01)

    async def ended(self, times: int = 1, timeout_s: float = 60.0) -> PlaybackEnded:
        def told() -> list[PlaybackEnded]:
            return [
                event
                for event in self.running.seen
                if isinstance(event, PlaybackEnded) and event.stream_id == self.spec.stream_id
            ]

        async with asyncio.timeout(timeout_s):
            while len(told()) < times:
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        assert len(told()) == times
        return told()[-1]

    async def control(self, **values: Any) -> PlayPosition:
        return await self.running.client.control_input(self.spec.stream_id, InputControl(**values))

    async def quiet(self) -> int:
        """Wait until nothing comes any more; how many pictures there are then."""
        while True:
            before = len(self.units)
            await asyncio.sleep(0.4)
            if len(self.units) == before:
                return len(self.pictures)


@asynccontextmanager
async def playing(
    running: RunningNode, made: Recorded, stream_id: str = "p1", *, watched: bool = True, **values: Any
) -> AsyncIterator[Playing]:
    fields = {"start": made.start, "end": made.end, "parts": made.parts} | values
    spec = RecordingInput(stream_id=stream_id, **fields)
    await running.client.open_input(spec)
    found = Playing(running, spec)
    try:
        if watched:
            await found.watch()
        yield found
    finally:
        await running.client.close_receiver(stream_id)
        if found._task is not None:
            await asyncio.wait_for(found._task, 10)


async def test_real_time_with_sound_to_the_end(running_node: RunningNode, recorded: Recorded) -> None:
    began = time.monotonic()
    async with playing(running_node, recorded, end=recorded.start + 2.0) as play:
        told = await play.ended()
        assert time.monotonic() - began > 1.6, "nothing is sent before its time"
        assert source_hashes(play.pictures) == source_hashes(recorded.pictures[:50])
        assert 13 <= play.sounds <= 17
        assert told.position_s == pytest.approx(1.96, abs=0.01)
        stats = await running_node.client.stream("p1")
        assert stats.position_s == told.position_s
        assert stats.ready
        assert not [event for event in running_node.seen if isinstance(event, StreamLost)]


@pytest.mark.parametrize(("speed", "seconds"), [(0.5, 1), (2.0, 3), (4.0, 6)])
async def test_speed_changes_pace_and_times_and_drops_sound(
    running_node: RunningNode, recorded: Recorded, speed: float, seconds: float
) -> None:
    began = time.monotonic()
    async with playing(running_node, recorded, speed=speed, end=recorded.start + seconds) as play:
        await play.ended()
        took = time.monotonic() - began
        assert took > seconds / speed * 0.85
        assert numbers(play.pictures) == list(range(round(seconds * 25)))
        assert play.sounds == 0
        length = play.pictures[-1].dts - play.pictures[0].dts
        assert length == pytest.approx((seconds - 0.04) / speed * 90_000, rel=0.02)


async def test_eightfold_sends_key_frames_only(running_node: RunningNode, recorded: Recorded) -> None:
    async with playing(running_node, recorded, speed=8) as play:
        await play.ended()
        assert numbers(play.pictures) == [number * 25 for number in range(6)]


async def test_a_rate_that_is_too_high_sends_key_frames_only(
    running_node: RunningNode, recorded: Recorded
) -> None:
    async with playing(running_node, recorded, speed=4, most_bits_per_s=100_000) as play:
        await play.ended()
        assert numbers(play.pictures) == [number * 25 for number in range(6)]


async def test_pause_holds_and_goes_on_without_a_hole(running_node: RunningNode, recorded: Recorded) -> None:
    async with playing(running_node, recorded, speed=2, end=recorded.start + 3.0) as play:
        await play.seen(20)
        position = await play.control(paused=True)
        assert position.paused
        held = await play.quiet()
        assert held < 75
        assert (await running_node.client.stream("p1")).position_s == pytest.approx((held - 1) / 25, abs=0.05)
        position = await play.control(paused=False)
        assert not position.paused
        await play.ended()
        assert numbers(play.pictures) == list(range(75))
        steps = {b.dts - a.dts for a, b in pairwise(play.pictures)}
        assert steps <= {1800, 1799, 1801}, "the clock of the stream stood too"


async def test_a_pause_is_no_loss(running_node: RunningNode, recorded: Recorded) -> None:
    async with playing(running_node, recorded, silence_s=0.6, paused=True, watched=False) as play:
        await asyncio.sleep(1.4)
        assert not [event for event in running_node.seen if isinstance(event, StreamLost)]
        assert (await play.control(paused=False)).paused is False


async def test_moves_begin_with_the_key_frame_before(running_node: RunningNode, recorded: Recorded) -> None:
    async with playing(running_node, recorded) as play:
        await play.seen(5)
        position = await play.control(position_s=4.6)
        assert position.position_s == pytest.approx(4.0, abs=0.01)
        before = len(play.pictures)
        await play.seen(before + 5)
        back = await play.control(position_s=2.0)
        assert back.position_s == pytest.approx(2.0, abs=0.01)
        await play.seen(len(play.pictures) + 5)
        found = numbers(play.pictures)
        jumps = [b for a, b in pairwise(found) if b != a + 1]
        assert jumps == [100, 50]
        times = [unit.dts for unit in play.pictures]
        assert times == sorted(set(times)), "players see one clock that goes on"


async def test_a_move_while_paused_shows_a_still(running_node: RunningNode, recorded: Recorded) -> None:
    async with playing(running_node, recorded) as play:
        await play.seen(3)
        await play.control(paused=True)
        held = await play.quiet()
        position = await play.control(position_s=5.5)
        assert position.paused
        assert await play.quiet() == held + 1
        assert numbers(play.pictures)[-1] == 125


async def test_backward_from_where_it_is_and_forward_again(
    running_node: RunningNode, recorded: Recorded
) -> None:
    async with playing(running_node, recorded, speed=4) as play:
        await play.seen(80)
        position = await play.control(speed=-8)
        assert position.speed == -8
        told = await play.ended()
        assert told.position_s == 0
        found = numbers(play.pictures)
        turned = next(i for i, (a, b) in enumerate(pairwise(found)) if b < a)
        last = found[turned]
        assert found[turned + 1 :] == list(range(last - 1 - (last - 1) % 25, -1, -25))
        again = await play.control(speed=4)
        assert not again.ended
        await play.ended(times=2)
        assert numbers(play.pictures)[-150:] == list(range(150))


async def test_backward_by_groups_within_a_bound(running_node: RunningNode, recorded: Recorded) -> None:
    async with playing(running_node, recorded, paused=True, watched=False, reverse_groups=True) as play:
        await play.control(position_s=5.0, until_s=3.0, speed=-4)
        await play.watch()
        await play.control(paused=False)
        await play.ended()
        assert numbers(play.pictures) == [*range(100, 125), *range(75, 100)]


async def test_delivery_sends_faster_with_the_times_of_the_recording(
    running_node: RunningNode, recorded: Recorded
) -> None:
    began = time.monotonic()
    async with playing(running_node, recorded, delivery=4) as play:
        await play.ended()
        assert time.monotonic() - began > 6 / 4 * 0.85
        assert numbers(play.pictures) == list(range(150))
        assert play.pictures[-1].dts - play.pictures[0].dts == pytest.approx(149 * 3600, abs=3600)
        assert play.sounds > 42


async def test_it_waits_for_its_first_reader_and_loses_nothing(
    running_node: RunningNode, recorded: Recorded
) -> None:
    async with playing(running_node, recorded, end=recorded.start + 1.5, watched=False) as play:
        await running_node.event("stream_ready")
        await asyncio.sleep(1.5)
        assert (await running_node.client.stream("p1")).video_units < 30
        await play.watch()
        await play.ended()
        assert numbers(play.pictures) == list(range(38))


async def test_an_unwatched_playing_is_idle(running_node: RunningNode, recorded: Recorded) -> None:
    async with playing(running_node, recorded, idle_grace_s=0.5, watched=False):
        event = await running_node.event("stream_idle", 20)
        assert isinstance(event, StreamIdle)


async def test_two_users_play_one_clip_independently(running_node: RunningNode, recorded: Recorded) -> None:
    end = recorded.start + 3
    async with (
        playing(running_node, recorded, "a1", end=end) as one,
        playing(running_node, recorded, "b2", end=end, speed=4) as other,
    ):
        await one.seen(5)
        await one.control(paused=True)
        await other.ended()
        held = await one.quiet()
        assert held < 75
        assert numbers(other.pictures) == list(range(75))


async def test_gaps_are_played_over(running_node: RunningNode, tmp_path: Path) -> None:
    made = joined(record(tmp_path, 2.0), record(tmp_path, 2.0, at=62.0))
    async with playing(running_node, made, speed=2) as play:
        told = await play.ended(timeout_s=30)
        assert len(play.pictures) == 100
        assert told.position_s == pytest.approx(63.96, abs=0.02)


async def test_a_clip_without_files_is_told_as_not_found(
    running_node: RunningNode, recorded: Recorded
) -> None:
    gone = tuple(part.model_copy(update={"path": part.path + "x"}) for part in recorded.parts)
    async with playing(running_node, recorded, parts=gone, watched=False):
        event = await running_node.event("stream_lost")
        assert isinstance(event, StreamLost)
        assert event.cause == "not_found"


async def test_closing_gives_thread_and_files_back(running_node: RunningNode, recorded: Recorded) -> None:
    async with playing(running_node, recorded) as play:
        await play.seen(3)
        assert [thread for thread in threading.enumerate() if thread.name.startswith("recording")]
    async with asyncio.timeout(10):
        while [thread for thread in threading.enumerate() if thread.name.startswith("recording")]:
            await asyncio.sleep(0.02)
    with pytest.raises(MediaError) as error:
        await play.control(paused=True)
    assert error.value.code == "not_found"
