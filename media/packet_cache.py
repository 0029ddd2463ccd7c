"""Keeps a session's packets since its last key frame, so that a new relay starts with a picture. Pure."""

from __future__ import annotations

from collections import deque

from media.runs import Run


class PacketCache:
    """Runs since the last key frame. A group of pictures above ``limit_bytes`` is not kept."""

    def __init__(self, limit_bytes: int) -> None:
        self.bytes = 0
        self.has_key = False
        self.limit_bytes = limit_bytes
        self._runs: deque[Run] = deque()
        self.keeping = True
        """Whether runs are worth copying for it now."""

    def add(self, run: Run) -> None:
        """Keep a run whose buffer is its own."""
        if not self.keeping:
            return
        self._runs.append(run)
        self.bytes += len(run.buffer)
        if self.bytes > self.limit_bytes:
            self.overflow()

    def cut(self, index: int) -> None:
        """A key frame begins with packet ``index``: forget what is older."""
        runs = self._runs
        while runs and runs[0].end_index <= index:
            self.bytes -= len(runs.popleft().buffer)
        if runs and runs[0].index < index:
            runs[0] = runs[0].part(index - runs[0].index, len(runs[0]))
        self.has_key = bool(runs) and runs[0].index == index
        self.keeping = True

    def overflow(self) -> None:
        """The group of pictures is too long: keep nothing until the next key frame."""
        self.clear()
        self.keeping = False

    def reopen(self) -> None:
        """What comes next looks like a key frame: keep it."""
        self.keeping = True

    def clear(self) -> None:
        self._runs.clear()
        self.bytes = 0
        self.has_key = False

    def runs(self) -> list[Run]:
        """The packets from the key frame on; empty when no key frame is kept."""
        return list(self._runs) if self.has_key else []

    def since(self, index: int) -> list[Run]:
        """The packets from ``index`` on; empty where that one is not kept."""
        runs = [run for run in self._runs if run.end_index > index]
        if not runs or runs[0].index > index:
            return []
        return [runs[0].part(index - runs[0].index, len(runs[0])), *runs[1:]]
