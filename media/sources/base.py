"""What the node needs of every source: a stream, packets for relays, counters, an end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from media.readers.relay import PacketSource, Relay
from media.specs import StreamStats
from media.stream import Stream


class Source(PacketSource, Protocol):
    """`media.sources.gb.GbSource` for RTP of devices, `media.sources.units.UnitSource` for everything else."""

    @property
    def stream(self) -> Stream: ...

    @property
    def relays(self) -> Sequence[Relay]: ...

    @property
    def idle_grace_s(self) -> float:
        """So long the stream may be without reader before the gateway is told."""
        ...

    def check(self, now: float) -> None:
        """Housekeeping, about twice a second."""
        ...

    def close(self) -> None:
        """Give everything back; relays end with cause stream_closed."""
        ...

    def stats(self, now: float, viewers: int) -> StreamStats: ...
