"""RTP port ranges for tests: each gets one of its own, also when several processes run tests side by side."""

from __future__ import annotations

import os

FIRST, LAST = 10000, 32699
"""Below the ports that the kernel gives out by itself (ip_local_port_range)."""

_workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
_number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_share = (LAST - FIRST + 1) // _workers
_kept_width = _share * 2 // 3


class _Area:
    """Ports in a row from which ranges are cut, the first of each even."""

    def __init__(self, low: int, count: int) -> None:
        self._low = low + low % 2
        self._end = low + count
        self._next = self._low

    def cut(self, count: int, *, again: bool) -> tuple[int, int]:
        count += count % 2
        if self._next + count > self._end:
            if not again:
                raise RuntimeError("no ports are left for another range")
            self._next = self._low
        first, self._next = self._next, self._next + count
        return first, first + count - 1


_begin = FIRST + _number * _share
_kept = _Area(_begin, _kept_width)
_brief = _Area(_begin + _kept_width, _share - _kept_width)


def kept_ports(count: int) -> tuple[int, int]:
    """First and last of ``count`` ports that this process's tests keep to the end (module constants)."""
    return _kept.cut(count, again=False)


def brief_ports(count: int) -> tuple[int, int]:
    """The same for one test; after the last range the first comes again."""
    return _brief.cut(count, again=True)
