"""Types of the compiled module (_lanes.pyx)."""

Counted = tuple[int, int, int, int, int]
"""Packets, bytes, video frames, audio frames, key frames."""
Standing = tuple[int, int, int, float, float, float | None, int, int, int]
"""Index, expected sequence, timestamp, arrival, jitter, transit, marked index, watched timestamp, cut."""

class Lane:
    number: int
    def counters(self) -> tuple[Counted, Standing]: ...
    def sent(self) -> list[tuple[int, int, bool]]: ...
    def runs(self) -> list[tuple[int, bytearray, list[int], list[int]]]: ...
    def odd(self) -> list[tuple[bytes, bytes]]: ...
    def close(self) -> None: ...

class Sweep:
    bell: int
    ticks: int
    def __len__(self) -> int: ...
    def open(
        self,
        number: int,
        name: bytes,
        *,
        stride: int,
        ssrc: int,
        payload_type: int,
        expected: int,
        index: int,
        shift: int,
        stamp: int,
        arrival: float | None,
        transit: float | None,
        jitter: float,
        marked: int,
        watched: int | None,
        kept_bytes: int,
        limit_bytes: int,
        waits: bool,
        burst_bytes: int,
        paced_bytes: int,
        targets: list[tuple[int, int, int, int, bool]],
    ) -> Lane: ...
    def left(self) -> list[Lane]: ...
    def stop(self) -> None: ...
    def run(self, tick_s: float) -> None: ...
