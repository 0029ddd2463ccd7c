"""Hands a session that is only relayed to a compiled lane while nothing about it is odd, and takes it back.

All that the lane counted and kept is settled into the session's own parts, so that whoever asks them sees no difference.
In the pure-Python pump nothing of this happens.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

from media.ingest import Ingest, Standing
from media.key_watch import KeyWatch
from media.packet_cache import PacketCache
from media.pump import Pump
from media.readers.relay import BURST_BYTES, PACED_BYTES, Relay
from media.runs import Run

if TYPE_CHECKING:
    from media.compiled._lanes import Lane

_WAITING_BYTES = 1024 * 1024
"""A socket with this much receive buffer holds a burst while it is paced."""
_OVERFLOWN = -2


class Steady:
    """One session's lane. ``odd(packets, now)`` gets what the lane did not understand: bytes and raw source each;
    ``drain(now)`` reads on."""

    def __init__(
        self,
        *,
        pump: Pump,
        ingest: Ingest,
        watch: KeyWatch,
        cache: PacketCache,
        odd: Callable[[list[tuple[bytes, bytes]], float], None],
        drain: Callable[[float], None],
        clock: Callable[[], float],
    ) -> None:
        self._pump = pump
        self._ingest = ingest
        self._watch = watch
        self._cache = cache
        self._odd = odd
        self._drain = drain
        self._clock = clock
        self._lane: Lane | None = None
        self._stride = 0
        self._relays: tuple[Relay, ...] = ()
        self.overflown = False
        """The lane has seen more packets since the last key frame than may be kept."""

    def enter(self, sock: socket.socket, name: bytes, stride: int, relays: list[Relay]) -> None:
        """Hand over, when session and relays are in a plain state. ``name`` is the sender's raw address."""
        standing = self._ingest.standing
        if self._lane is not None or standing is None or self._ingest.holding or not relays:
            return
        targets = [relay.lane_target(standing.next_index) for relay in relays]
        if None in targets or not self._cache.has_key:
            return
        ingest = self._ingest
        marked, watched = self._watch.standing
        given = sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
        self._lane = self._pump.open_lane(
            sock, name, self._left, stride=stride, ssrc=ingest.ssrc, payload_type=ingest.payload_type,
            expected=standing.expected, index=standing.next_index, shift=ingest.shift, stamp=standing.stamp,
            arrival=standing.arrival, transit=standing.transit, jitter=standing.jitter, marked=marked, watched=watched,
            kept_bytes=self._cache.bytes, limit_bytes=self._cache.limit_bytes, waits=given >= _WAITING_BYTES,
            burst_bytes=BURST_BYTES, paced_bytes=PACED_BYTES, targets=targets,
        )  # fmt: skip
        self._stride = stride
        self._relays = tuple(relays)

    def settle(self) -> None:
        """Take over what the lane counted so far."""
        lane = self._lane
        if lane is None:
            return
        (
            (packets, size, video, audio, keys),
            (index, expected, stamp, arrival, jitter, transit, marked, watched, cut),
        ) = lane.counters()
        self.overflown = cut == _OVERFLOWN
        if packets:
            self._ingest.moved_on(packets, size, Standing(index, expected, stamp, arrival, jitter, transit))
            self._watch.moved_on(video, audio, keys, marked, watched)
        for relay, (sent, dropped, gso) in zip(self._relays, lane.sent(), strict=True):
            relay.credit(sent, dropped, gso)

    def leave(self) -> None:
        """Go on in Python: counters and kept packets are taken over. Idempotent."""
        lane = self._lane
        if lane is None:
            return
        self._pump.close_lane(lane)
        self.settle()
        self._lane = None
        self._relays = ()
        self.overflown = False
        self._take_kept(lane)
        odd = lane.odd()
        if odd:  # the lane was left already, and we had not heard of it
            self._odd(odd, self._clock())

    def _take_kept(self, lane: Lane) -> None:
        """The packets since the last key frame go back to the cache."""
        cut = lane.counters()[1][-1]
        if cut == _OVERFLOWN:
            self._cache.overflow()
            return
        if cut >= 0:
            self._cache.cut(cut)
        ingest = self._ingest
        for index, buffer, sizes, stamps in lane.runs():
            starts = range(0, len(sizes) * self._stride, self._stride)
            self._cache.add(
                Run(
                    buffer, memoryview(buffer), starts, sizes, stamps, index=index, payload_type=ingest.payload_type,
                    arrival=ingest.last_packet_mono or 0.0, stride=self._stride, shift=ingest.shift,
                )
            )  # fmt: skip
        if cut >= 0:
            self._cache.cut(cut)

    def _left(self, lane: Lane, now: float) -> None:
        """Something odd came: on in Python, with what is still in the socket as well."""
        self.leave()
        self._drain(now)
