"""Settings of the interpreter that keep the event loop quick while large catalogs are read and kept."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable

from gateway.events import CatalogCollected, EventBus

SWITCH_INTERVAL_S = 0.001
"""A long body is read in a thread; by default the loop would wait 5 ms for its turn each time."""
THRESHOLDS = (10_000, 20, 50)
FREEZE_AFTER_ITEMS = 1000


class Runtime:
    """Long-lived records are taken out of the collector's sight.

    Measured with 10,000 channels: a full collection stops the loop for 70 to 90 ms; without the registry in sight
    the longest pause was 12 ms, most of it waiting for the decoding thread.
    """

    def __init__(self, bus: EventBus) -> None:
        self._bus = bus
        self._items = 0
        self._unsubscribe: Callable[[], None] | None = None
        self._before: tuple[float, tuple[int, int, int]] | None = None

    def start(self) -> None:
        """To be called when the registry is loaded."""
        self._before = (sys.getswitchinterval(), gc.get_threshold())
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        gc.set_threshold(*THRESHOLDS)
        gc.collect()
        gc.freeze()
        self._unsubscribe = self._bus.subscribe(CatalogCollected, callback=self._collected)

    def close(self) -> None:
        if self._unsubscribe is not None:
            self._unsubscribe()
            self._unsubscribe = None
        if self._before is not None:
            sys.setswitchinterval(self._before[0])
            gc.set_threshold(*self._before[1])
            gc.unfreeze()
            self._before = None

    def _collected(self, event: CatalogCollected) -> None:
        self._items += event.items
        if self._items >= FREEZE_AFTER_ITEMS:
            self._items = 0
            gc.collect(1)
            gc.freeze()
