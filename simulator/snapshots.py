"""Pictures that a simulated device takes when SnapShotConfig says so, and uploads by HTTP (2022 A.2.3.2.12, 9.14)."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, timezone
from typing import TYPE_CHECKING, Literal

import aiohttp

from simulator.picture import TestPicture
from sip.manscdp import SnapShotConfig, UploadSnapShotFinishedNotify

if TYPE_CHECKING:
    from simulator.device import SimulatedDevice

log = logging.getLogger(__name__)

BEIJING = timezone(timedelta(hours=8))
UPLOAD_TIMEOUT_S = 20.0
MAX_RECORDED = 1000


@dataclass(slots=True)
class SnapshotFaults:
    """``lose`` are numbers (from 1) of pictures that are never uploaded nor named; ``session_id`` goes with the uploads
    and the notice instead of the right one; ``pad_bytes`` makes the files longer; ``data`` is sent instead of pictures;
    ``names`` are used instead of those of the standard; ``no_notice`` ends without UploadSnapShotFinished."""

    lose: set[int] = field(default_factory=set)
    session_id: str = ""
    pad_bytes: int = 0
    data: bytes = b""
    names: list[str] = field(default_factory=list)
    no_notice: bool = False


@dataclass(frozen=True, slots=True)
class Upload:
    """One upload and the HTTP status it got, 0 when there was no answer."""

    name: str
    size_bytes: int
    status: int


class Snapshots:
    """``form`` multipart (a form with SessionID and a file) or raw (the picture is the body). ``uploads``: what came of it."""

    def __init__(self, device: SimulatedDevice) -> None:
        self._device = device
        self.form: Literal["multipart", "raw"] = "multipart"
        self.faults = SnapshotFaults()
        self.picture = TestPicture(width=640, height=360, label="snapshot")
        self.uploads: deque[Upload] = deque(maxlen=MAX_RECORDED)
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self, target_id: str, order: SnapShotConfig) -> None:
        """Take and upload what was ordered; returns at once. A new order ends the one before."""
        self.close()
        task = asyncio.create_task(self._carry_out(target_id, order))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def close(self) -> None:
        for task in self._tasks:
            task.cancel()

    async def _carry_out(self, target_id: str, order: SnapShotConfig) -> None:
        faults, done = self.faults, []
        session_id = faults.session_id or order.session_id
        timeout = aiohttp.ClientTimeout(total=UPLOAD_TIMEOUT_S)
        async with aiohttp.ClientSession(timeout=timeout) as client:
            for number in range(1, order.snap_num + 1):
                if number > 1:
                    await asyncio.sleep(order.interval)
                name = file_name(target_id, number, datetime.now(UTC))
                data = faults.data or await asyncio.to_thread(self.picture.jpeg, number)
                if number in faults.lose:
                    continue
                sent_name = faults.names[number - 1] if number <= len(faults.names) else f"{name}.jpg"
                data += bytes(faults.pad_bytes)
                status = await self._upload(client, order.upload_url, session_id, sent_name, data)
                self.uploads.append(Upload(sent_name, len(data), status))
                if status // 100 == 2:
                    done.append(name)
        if not faults.no_notice:
            body = UploadSnapShotFinishedNotify(
                sn=self._device.next_sn(), device_id=target_id, session_id=session_id, file_ids=tuple(done)
            )
            await self._device.send(body)

    async def _upload(
        self, client: aiohttp.ClientSession, url: str, session_id: str, name: str, data: bytes
    ) -> int:
        """The HTTP status, 0 when there was no answer."""
        headers: dict[str, str] = {}
        body: aiohttp.FormData | bytes = data
        if self.form == "multipart":
            body = aiohttp.FormData()
            body.add_field("SessionID", session_id)
            body.add_field("file", data, filename=name, content_type="image/jpeg")
        else:
            headers = {"Content-Type": "image/jpeg", "Content-Disposition": f'attachment; filename="{name}"'}
            headers["SessionID"] = session_id
        try:
            async with client.post(url, data=body, headers=headers) as answer:
                return answer.status
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            log.info("event=upload_failed device=%s error=%s", self._device.device_id, error)
            return 0


def file_name(target_id: str, number: int, at: datetime) -> str:
    """The 41 digits of 9.14.1: code, 02, Beijing time with milliseconds, number."""
    local = at.astimezone(BEIJING)
    return f"{target_id}02{local:%Y%m%d%H%M%S}{local.microsecond // 1000:03d}{number:02d}"
