"""SIGINT and SIGTERM for commands that run long: whatever is going on is cancelled and cleans up behind itself."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def until_interrupted(work: Coroutine[Any, Any, T]) -> T | None:
    """The result of ``work``, or None when a signal ended it.

    The first signal cancels ``work``, also in the middle of its start. Later ones change nothing: the clean-up has
    bounds of its own, and cutting it short would leave processes and calls behind.
    """
    task = asyncio.ensure_future(work)
    asked = False

    def stop() -> None:
        nonlocal asked
        if not asked:
            asked = True
            task.cancel()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop)
    try:
        return await task
    except asyncio.CancelledError:
        if not asked:
            raise
        return None
