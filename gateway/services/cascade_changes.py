"""What a subscribed upper has to be told and when: changes collected, flapping damped, batches cut. Time is an argument."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

BATCH_ENTRIES = 100
"""So many changes go at once, without waiting for more (2022 N.1)."""
_PATIENCE = 20
"""An entry that never stops flapping is told after so many damping times."""
_STATUS = ""


@dataclass(slots=True)
class _Pending:
    event: str
    first: float
    ready_at: float


class ChangeBuffer:
    """Changes of one subscription by exported code; holds at most one entry per code, so it cannot grow.

    A change of status waits until it was quiet for ``damping_s`` (N.4.1); then it goes with the next batch: when
    100 are ready, or when the oldest ready one waited ``batch_s``.
    """

    def __init__(self, *, damping_s: float, batch_s: float, batch_entries: int = BATCH_ENTRIES) -> None:
        self._damping_s, self._batch_s, self._batch_entries = damping_s, batch_s, batch_entries
        self._pending: dict[str, _Pending] = {}

    def __len__(self) -> int:
        return len(self._pending)

    def status_changed(self, code: str, now: float) -> None:
        """The status of ``code`` may be another one; what it is will be asked when it is told."""
        known = self._pending.get(code)
        if known is None:
            self._pending[code] = _Pending(_STATUS, now, now + self._damping_s)
        elif known.event == _STATUS:
            known.ready_at = min(now + self._damping_s, known.first + self._damping_s * _PATIENCE)

    def structure_changed(self, event: str, code: str, now: float) -> None:
        """ADD, DEL or UPDATE of ``code``. They replace a waiting status: a full Item carries it anyhow."""
        known = self._pending.get(code)
        if known is not None and known.event == "ADD" and event == "UPDATE":
            return
        if known is not None and known.event == "ADD" and event == "DEL":
            del self._pending[code]
            return
        if known is not None and known.event == "DEL" and event == "ADD":
            event = "UPDATE"
        self._pending[code] = _Pending(event, now, now)

    def next_timer(self, now: float) -> float | None:
        """When :meth:`take` should be asked again."""
        ready, waiting = self._split(now)
        times = [min(entry.ready_at for entry in ready) + self._batch_s] if ready else []
        if len(ready) >= self._batch_entries:
            times.append(now)
        if waiting:
            times.append(min(entry.ready_at for entry in waiting))
        return min(times, default=None)

    def take(self, now: float) -> list[tuple[str, str]]:
        """The batch that is due: (event, code), event "" for a status. Empty while more may come."""
        ready, _ = self._split(now)
        if not ready:
            return []
        oldest = min(entry.ready_at for entry in ready)
        if len(ready) < self._batch_entries and now < oldest + self._batch_s:
            return []
        codes = [code for code, entry in self._pending.items() if entry.ready_at <= now]
        return [(self._pending.pop(code).event, code) for code in codes]

    def _split(self, now: float) -> tuple[list[_Pending], list[_Pending]]:
        ready: list[_Pending] = []
        waiting: list[_Pending] = []
        for entry in self._pending.values():
            (ready if entry.ready_at <= now else waiting).append(entry)
        return ready, waiting


def batches(
    parts: Iterable[tuple[bool, bytes]],
    *,
    entries: int,
    full_entries: int,
    size: Callable[[bytes], int] = len,
    limit_bytes: int = 0,
) -> Iterator[slice]:
    """Cut a list of encoded Items, each (is full, bytes), into slices that fit one message.

    ``entries`` is the most of any kind, ``full_entries`` the most of full Items, ``limit_bytes`` the room for Items
    (0: no limit). A single Item larger than the room goes alone.
    """
    start = count = full = room = 0
    index = 0
    for index, (is_full, data) in enumerate(parts):
        length = size(data)
        too_long = bool(limit_bytes) and room + length > limit_bytes
        if count and (count >= entries or (is_full and full >= full_entries) or too_long):
            yield slice(start, index)
            start, count, full, room = index, 0, 0, 0
        count += 1
        full += is_full
        room += length
    if count:
        yield slice(start, index + 1)
