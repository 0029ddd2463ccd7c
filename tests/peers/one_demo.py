"""Demos look for free ports when they start: two that start at once choose the same ones. Tests take turns."""

from __future__ import annotations

import fcntl
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def one_demo() -> Iterator[None]:
    """Hold the only demo among the test processes of this machine."""
    with (Path(tempfile.gettempdir()) / "gb-gateway-demo-test.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
