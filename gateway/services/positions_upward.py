"""Positions to upper platforms that subscribed: gathered for their Interval, in the form of their edition (2022 A.2.5.6)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Annotated

from gateway.services.cascade_changes import batches
from gateway.services.cascade_ids import Key
from gateway.services.cascade_link import UpperLink
from gateway.services.cascade_subscriptions import UDP_ROOM_BYTES, Notifier
from gateway.services.cascade_tree import Entry, Tree
from gateway.services.positions import PtzPosition
from gateway.storage.positions import StoredPosition
from sip.errors import RemoteError
from sip.manscdp import CONTENT_TYPE, Edition, MobilePositionNotify, PositionItem, PTZPositionNotify, Xml

log = logging.getLogger(__name__)

DEFAULT_INTERVAL_S = 5
"""A.2.4.9."""
MOST_ITEMS = 100
"""Places in one NOTIFY over TCP."""
_HOLDING = frozenset({"zero", "out_of_range"})
"""Faults of coordinates that an upper could not use."""


class NamedFlatPosition(MobilePositionNotify):
    """The 2016 form with DeviceID. Its schema has none, but in a subscription for more than one channel nothing else
    tells whose position it is; readers of the field expect it there."""

    device_id: Annotated[str, Xml("DeviceID", always=True)] = ""


class PositionFeed:
    """One upper's MobilePosition subscription: the newest report of each channel in scope, once an interval (G154)."""

    def __init__(
        self,
        notifier: Notifier,
        *,
        target: str,
        interval_s: float,
        tree: Tree,
        link: UpperLink,
        on_dead: Callable[[PositionFeed], None],
    ) -> None:
        self.target = target
        self._interval_s = interval_s
        self._notifier, self._link, self._on_dead = notifier, link, on_dead
        self._tree = tree
        self._scope = frozenset(entry.exported_id for entry in tree.select(target))
        self._pending: dict[str, StoredPosition] = {}
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    async def drop(self) -> None:
        """Stop without a word."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def status_changed(self, keys: Iterable[Key]) -> None:
        """The catalog's business."""

    def tree_changed(self, old: Tree, new: Tree, touched: frozenset[Key]) -> None:
        self._tree = new
        self._scope = frozenset(entry.exported_id for entry in new.select(self.target))

    def offer(self, report: StoredPosition | PtzPosition, camera_id: str) -> None:
        """A report came; held until the interval is over, an older one of the channel is replaced.

        ``camera_id``: the channel that stands for a device that is not in the catalog itself, or "".
        """
        if not isinstance(report, StoredPosition) or _HOLDING & set(report.faults.split(",")):
            return
        entry = self._entry(report, camera_id)
        if entry is not None and entry.exported_id in self._scope:
            self._pending[entry.exported_id] = report
            self._wake.set()

    def _entry(self, report: StoredPosition | PtzPosition, camera_id: str) -> Entry | None:
        shown = self._tree.by_key
        return shown.get((report.device_id, report.channel_id)) or shown.get((report.device_id, camera_id))

    async def _run(self) -> None:
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                pending, self._pending = self._pending, {}
                for body in self._bodies(pending):
                    response = await self._notifier.notify(body, CONTENT_TYPE)
                    if response.status // 100 != 2:
                        raise RemoteError(f"NOTIFY answered {response.status}", status=response.status)
                await asyncio.sleep(self._interval_s)
        except RemoteError as error:
            log.info(
                "position subscription ended platform_id=%s cause=%s", self._link.platform.platform_id, error
            )
            self._on_dead(self)

    def _bodies(self, pending: dict[str, StoredPosition]) -> Iterator[bytes]:
        """2016: one flat message for each place. 2022: lists, cut to what the transport takes."""
        link = self._link
        if link.edition is Edition.V2016:
            for code, report in pending.items():
                yield link.encode(_flat(code, report, link.next_sn()))
            return
        items = [_item(code, report) for code, report in pending.items()]

        def encoded(part: list[PositionItem], sn: int = 0) -> bytes:
            newest = max((item.capture_time for item in part if item.capture_time is not None), default=None)
            return link.encode(
                MobilePositionNotify(sn=sn, device_id=self.target, time=newest, sum_num=len(part), items=part)
            )

        udp = link.target.transport == "udp"
        empty = len(encoded([]))
        for cut in batches(
            ((True, encoded([item]) if udp else b"") for item in items),
            entries=MOST_ITEMS,
            full_entries=MOST_ITEMS,
            size=lambda data: len(data) - empty,
            limit_bytes=UDP_ROOM_BYTES if udp else 0,
        ):
            yield encoded(items[cut], link.next_sn())


class PtzPositionFeed(PositionFeed):
    """One upper's PTZPosition subscription for one camera: each change at once (G156)."""

    def offer(self, report: StoredPosition | PtzPosition, camera_id: str) -> None:
        if not isinstance(report, PtzPosition):
            return
        entry = self._entry(report, camera_id)
        if entry is not None and entry.exported_id in self._scope:
            self._looks[entry.exported_id] = report
            self._wake.set()

    def start(self) -> None:
        self._looks: dict[str, PtzPosition] = {}
        super().start()

    def _bodies(self, pending: dict[str, StoredPosition]) -> Iterator[bytes]:
        looks, self._looks = self._looks, {}
        for code, look in looks.items():
            yield self._link.encode(
                PTZPositionNotify(
                    sn=self._link.next_sn(), device_id=code, pan=look.pan, tilt=look.tilt, zoom=look.zoom,
                    horizontal_field_angle=look.horizontal_field_angle,
                    vertical_field_angle=look.vertical_field_angle, max_view_distance=look.max_view_distance,
                )
            )  # fmt: skip


def _flat(code: str, report: StoredPosition, sn: int) -> NamedFlatPosition:
    return NamedFlatPosition(
        sn=sn,
        device_id=code,
        time=report.at,
        longitude=report.longitude,
        latitude=report.latitude,
        speed=report.speed_kmh,
        direction=report.direction_deg,
        altitude=report.altitude_m,
    )


def _item(code: str, report: StoredPosition) -> PositionItem:
    return PositionItem(
        device_id=code,
        capture_time=report.at,
        longitude=report.longitude,
        latitude=report.latitude,
        speed=report.speed_kmh,
        direction=report.direction_deg,
        altitude=report.altitude_m,
        height=report.height_m,
    )
