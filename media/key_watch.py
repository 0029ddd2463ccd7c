"""Sees key frames of a program stream by the first packet of each frame, without demuxing. Pure.

Packs with a system header or a program stream map in front begin a key frame (GB/T 28181-2022 C.1). Some senders put
them elsewhere, so the watch first compares itself with the demuxer and is only trusted when both always agreed.
"""

from __future__ import annotations

from media.runs import Run

_HEAD = 64
_AGREED_UNITS = 12
_AGREED_KEYS = 1
_DOUBTED_KEYS = 2
"""More key frames that must agree once the watch was in doubt."""


class KeyWatch:
    """``take`` every run; the index of each frame that looks like a key frame is returned, oldest first."""

    def __init__(self) -> None:
        self.video_frames = 0
        self.audio_frames = 0
        self.key_frames = 0
        self._stamp = -1
        self._marked = -1
        self._units = 0
        self._keys = 0
        self._failed = False
        self._wanted_keys = _AGREED_KEYS
        self._doubted = False

    @property
    def trusted(self) -> bool:
        """Every key frame so far was seen, and nothing else was taken for one."""
        return not self._failed and self._units >= _AGREED_UNITS and self._keys >= self._wanted_keys

    def take(self, run: Run) -> list[int]:
        """Look at the frames that begin in ``run``."""
        found: list[int] = []
        stamps = run.stamps
        first = stamps[0]
        if first != self._stamp:
            self._look(run, 0, found)
        if stamps.count(first) != len(stamps):
            for position in range(1, len(stamps)):
                if stamps[position] != stamps[position - 1]:
                    self._look(run, position, found)
        self._stamp = stamps[-1]
        return found

    def compare(self, key: bool, first_index: int, damaged: bool) -> None:
        """What the demuxer made of the frame that began with packet ``first_index``."""
        if damaged:
            return
        self._failed = self._failed or key != (first_index == self._marked)
        self._units += 1
        self._keys += key

    def doubt(self) -> bool:
        """No key frame was seen for very long: compare anew. True the first time; later the group is simply that long."""
        if self._doubted:
            return False
        self._doubted = True
        self._wanted_keys = self._keys + _DOUBTED_KEYS
        return True

    @property
    def standing(self) -> tuple[int, int | None]:
        """The packet that last began a key frame (-1: none yet), and the timestamp of the frame looked at last."""
        return self._marked, None if self._stamp < 0 else self._stamp

    def moved_on(self, video: int, audio: int, keys: int, marked: int, stamp: int) -> None:
        """Somebody else watched in between: so many frames went by."""
        self.video_frames += video
        self.audio_frames += audio
        self.key_frames += keys
        self._marked, self._stamp = marked, stamp

    def _look(self, run: Run, position: int, found: list[int]) -> None:
        start = run.starts[position] + 12
        head = run.buffer[start : start + _HEAD]
        if b"\x00\x00\x01\xbb" in head or b"\x00\x00\x01\xbc" in head:
            self._marked = run.index + position
            self.key_frames += 1
            self.video_frames += 1
            found.append(self._marked)
        elif b"\x00\x00\x01\xe0" in head:
            self.video_frames += 1
        elif b"\x00\x00\x01\xc0" in head:
            self.audio_frames += 1
