"""Events to the gateway: none before its time is lost, a slow listener costs bounded memory."""

from __future__ import annotations

from media.event_queue import QUEUE_LENGTH, EventHub
from media.specs import StreamIdle


def idle(number: int) -> StreamIdle:
    return StreamIdle(stream_id=f"s{number}")


async def test_what_happened_before_the_first_listener_is_told_to_it() -> None:
    hub = EventHub()
    hub.emit(idle(1))
    with hub.listen() as queue:
        hub.emit(idle(2))
        assert await queue.take(1) == [idle(1), idle(2)]
        assert await queue.take(0.01) == []
        with hub.listen() as second:
            hub.emit(idle(3))
            assert await second.take(1) == [idle(3)]
        assert await queue.take(1) == [idle(3)]


async def test_a_listener_that_does_not_read_loses_the_oldest() -> None:
    hub = EventHub()
    with hub.listen() as queue:
        for number in range(QUEUE_LENGTH + 300):
            hub.emit(idle(number))
        events = await queue.take(1)
    assert len(events) == QUEUE_LENGTH
    assert events[-1] == idle(QUEUE_LENGTH + 299)
    assert queue.dropped == 300


async def test_closing_ends_listeners() -> None:
    hub = EventHub()
    with hub.listen() as queue:
        hub.emit(idle(1))
        hub.close()
        assert await queue.take(5) == [idle(1)]
        assert queue.closed
