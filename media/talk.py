"""Talks of a node: one voice, from a browser or pushed by a program, to any number of devices (GB/T 28181-2022 9.12)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from typing import Protocol

from media.errors import MediaError
from media.ports import NoPort, PortPool
from media.pump import Pump
from media.specs import (
    NodeConfig,
    NodeEvent,
    TalkLegEnded,
    TalkLegInfo,
    TalkLegSpec,
    TalkLegTarget,
    TalkPlayed,
    TalkQueued,
    TalkSpec,
    TalkStats,
    TalkUp,
)
from media.stream import Reader, Stream, StreamEnded
from media.talk_frames import SAMPLES_PER_MS, Frame, Framer, samples_of
from media.talk_leg import TalkLeg
from media.unit import AccessUnit, Codec

log = logging.getLogger(__name__)

MOST_QUEUED_BYTES = 8000 * 600
"""Ten minutes of pushed sound may wait."""

Listener = Callable[[bytes, int], None]
"""Sound for the talker: G.711A, timestamp in samples."""


class TalkHost(Protocol):
    """What talks need of their node."""

    @property
    def config(self) -> NodeConfig: ...

    @property
    def pump(self) -> Pump: ...

    @property
    def ports(self) -> PortPool: ...

    def stream(self, stream_id: str) -> Stream: ...

    def emit(self, event: NodeEvent) -> None: ...


class Talk:
    """One voice and its legs. ``feed`` takes the voice, ``push`` queues sound that is sent at its own pace."""

    def __init__(self, spec: TalkSpec, host: TalkHost) -> None:
        self.spec = spec
        self.legs: dict[str, TalkLeg] = {}
        self.listener: Listener | None = None
        """Who hears what the devices send: the browser."""
        self.muted = False
        """Nothing is sent: the button is not pressed."""
        self._host = host
        self._framer = Framer(spec.packet_ms)
        self._queue = bytearray()
        self._pushes = 0
        self._paced_until = 0.0
        self._pushed = 0
        self._pacing: asyncio.Task[None] | None = None
        self._reader: Reader | None = None
        self._watching: asyncio.Task[None] | None = None
        if spec.listen_stream_id is not None:
            self._listen(host.stream(spec.listen_stream_id))

    def close(self) -> None:
        """End the legs and the pacing. Idempotent."""
        for leg in self.legs.values():
            leg.close()
        if self._pacing is not None:
            self._pacing.cancel()
        if self._watching is not None:
            self._watching.cancel()
        if self._reader is not None:
            self._reader.detach()
            self._reader = None
        self.listener = None

    # -- the voice ---------------------------------------------------------------------------------------------

    def feed(self, payload: bytes, stamp: int) -> None:
        """Sound of the talker with its timestamp in samples."""
        if not self.muted:
            self._send(self._framer.add(payload, stamp))

    def push(self, data: bytes) -> TalkQueued:
        """Queue sound. MediaError(bad_request, 413) when too much waits."""
        if len(self._queue) + len(data) > MOST_QUEUED_BYTES:
            raise MediaError("bad_request", "more than ten minutes of sound wait to be sent", 413)
        self._queue += data
        self._pushes += 1
        if self._pacing is None or self._pacing.done():
            self._pacing = asyncio.get_running_loop().create_task(self._pace())
        return TalkQueued(queued_s=len(self._queue) / 8000, number=self._pushes)

    def _send(self, frames: list[Frame]) -> None:
        for sound in frames:
            for leg in tuple(self.legs.values()):
                leg.send(sound)

    async def _pace(self) -> None:
        """Send what was pushed, a packet's time after the other, on one clock however late the loop runs."""
        size = self._framer.size
        step_s = size / (1000 * SAMPLES_PER_MS)
        due = time.monotonic()
        if self._paced_until:
            self._framer.rest(int((due - self._paced_until) / step_s) * size)
        while self._queue:
            piece = bytes(self._queue[:size])
            del self._queue[:size]
            self.feed(piece, self._pushed)
            self._pushed = (self._pushed + len(piece)) & 0xFFFFFFFF
            due += step_s
            await asyncio.sleep(max(0.0, due - time.monotonic()))
        self._send(self._framer.flush())
        self._paced_until = due
        self._host.emit(TalkPlayed(talk_id=self.spec.talk_id, number=self._pushes))

    # -- what comes back ---------------------------------------------------------------------------------------

    def heard(self, payload: bytes, stamp: int) -> None:
        """Sound of a device for the talker."""
        if self.listener is not None:
            self.listener(payload, stamp)

    def _listen(self, stream: Stream) -> None:
        self._reader = stream.attach("talk", on_unit=self._take)
        self._watching = asyncio.get_running_loop().create_task(_until_end(self._reader))

    def _take(self, unit: AccessUnit) -> None:
        if unit.codec is Codec.PCMA:
            self.heard(unit.data, samples_of(unit.pts))

    # -- legs --------------------------------------------------------------------------------------------------

    def open_leg(self, spec: TalkLegSpec, on_ended: Callable[[str], None]) -> TalkLegInfo:
        """MediaError: no_port."""
        talk_id, leg_id = self.spec.talk_id, spec.leg_id
        hears = {"speak": None, "talk": self.heard, "source": self.feed}[spec.role]
        leg = TalkLeg(
            spec,
            pump=self._host.pump,
            ports=self._host.ports,
            host=self._host.config.media_host,
            on_up=lambda: self._host.emit(TalkUp(talk_id=talk_id, leg_id=leg_id)),
            on_ended=on_ended,
            on_heard=hears,
            clock=time.monotonic,
        )
        try:
            info = leg.open()
        except NoPort as error:
            raise MediaError("no_port", str(error)) from error
        if spec.role == "source":
            leg.send = _nothing  # type: ignore[method-assign]
        self.legs[leg_id] = leg
        return info


def _nothing(sound: Frame) -> None:
    """The voice does not go back to where it comes from."""


async def _until_end(reader: Reader) -> None:
    """A reader with a callback hands out nothing but the end; its session's owner hears of that by himself."""
    with contextlib.suppress(StreamEnded):
        await reader.next()


class Talks:
    """All talks and legs of one node."""

    def __init__(self, host: TalkHost) -> None:
        self._host = host
        self._talks: dict[str, Talk] = {}
        self._talk_of: dict[str, Talk] = {}
        """By leg."""
        self._gone = TalkStats()

    def open(self, spec: TalkSpec) -> Talk:
        """MediaError: bad_request (409) for an id in use, not_found for a stream to hear that is not here."""
        if spec.talk_id in self._talks:
            raise MediaError("bad_request", f"talk {spec.talk_id} is open already", 409)
        try:
            talk = self._talks[spec.talk_id] = Talk(spec, self._host)
        except StreamEnded as error:
            raise MediaError("not_found", f"stream {spec.listen_stream_id} has ended") from error
        return talk

    def talk(self, talk_id: str) -> Talk:
        """MediaError: not_found."""
        talk = self._talks.get(talk_id)
        if talk is None:
            raise MediaError("not_found", f"no talk {talk_id}")
        return talk

    def open_leg(self, spec: TalkLegSpec) -> TalkLegInfo:
        """MediaError: not_found, bad_request (409) for an id in use, no_port."""
        talk = self.talk(spec.talk_id)
        if spec.leg_id in self._talk_of:
            raise MediaError("bad_request", f"leg {spec.leg_id} is open already", 409)
        info = talk.open_leg(spec, lambda cause: self._leg_ended(spec, cause))
        self._talk_of[spec.leg_id] = talk
        return info

    def start_leg(self, leg_id: str, target: TalkLegTarget) -> None:
        """MediaError: not_found, bad_request without the address that the transport needs."""
        talk = self._talk_of.get(leg_id)
        if talk is None:
            raise MediaError("not_found", f"no leg {leg_id}")
        leg = talk.legs[leg_id]
        if leg.spec.transport != "tcp_passive" and (target.remote_host is None or target.remote_port is None):
            raise MediaError("bad_request", f"{leg.spec.transport} needs remote_host and remote_port")
        leg.start(target)

    def close_leg(self, leg_id: str) -> None:
        """Unknown ids are none of our business."""
        talk = self._talk_of.pop(leg_id, None)
        leg = None if talk is None else talk.legs.pop(leg_id, None)
        if leg is not None:
            leg.close()
            self._count(leg)

    def _leg_ended(self, spec: TalkLegSpec, cause: str) -> None:
        self.close_leg(spec.leg_id)
        self._host.emit(TalkLegEnded(talk_id=spec.talk_id, leg_id=spec.leg_id, cause=cause))

    def close_talk(self, talk_id: str) -> None:
        """Unknown ids are none of our business."""
        talk = self._talks.pop(talk_id, None)
        if talk is not None:
            for leg_id in tuple(talk.legs):
                self.close_leg(leg_id)
            talk.close()

    def _count(self, leg: TalkLeg) -> None:
        gone = self._gone
        self._gone = TalkStats(
            sent=gone.sent + leg.sent,
            dropped=gone.dropped + leg.dropped,
            received=gone.received + leg.received,
        )

    def stats(self) -> TalkStats:
        """Open talks, and all packets so far."""
        legs = [leg for talk in self._talks.values() for leg in talk.legs.values()]
        return TalkStats(
            talks=len(self._talks),
            legs=len(legs),
            sent=self._gone.sent + sum(leg.sent for leg in legs),
            dropped=self._gone.dropped + sum(leg.dropped for leg in legs),
            received=self._gone.received + sum(leg.received for leg in legs),
        )

    def close(self) -> None:
        """End all."""
        for talk_id in tuple(self._talks):
            self.close_talk(talk_id)
