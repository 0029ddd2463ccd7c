"""Files of pictures that devices uploaded: what they are by content, what their names say, where they are kept."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from gateway.storage.snapshots import StoredPicture
from sip.manscdp.types import BEIJING

ENDINGS = {"image/jpeg": "jpg", "image/png": "png"}
_MAGIC = {b"\xff\xd8\xff": "image/jpeg", b"\x89PNG\r\n\x1a\n": "image/png"}
MAGIC_BYTES = 8
"""So many bytes are enough to tell what a file is."""
_NAME = re.compile(r"(?P<code>\d{20})02(?P<time>\d{14})(?P<ms>\d{3})(?P<number>\d{2})", re.ASCII)
_ENDING = re.compile(r"\.(jpe?g|png)$", re.IGNORECASE)
_PLAIN = re.compile(r"[0-9A-Za-z_-]{1,64}", re.ASCII)


class UnsafePath(Exception):
    """A file would lie outside of the pictures' directory."""


@dataclass(frozen=True, slots=True)
class FileName:
    """What a name of 9.14.1 says: code of the camera, when it was taken, which picture of the order."""

    code: str
    taken_at: datetime
    number: int


def sniff(data: bytes) -> str | None:
    """The media type by the first bytes; None for anything but JPEG and PNG."""
    return next((kind for magic, kind in _MAGIC.items() if data.startswith(magic)), None)


def bare_name(sent: str) -> str:
    """A name as a device wrote it, without folders and without the ending of a picture."""
    return _ENDING.sub("", sent.replace("\\", "/").rpartition("/")[2].strip())


def read_name(name: str) -> FileName | None:
    """The 41 digits of 9.14.1: 20 of the code, 02, Beijing time to the millisecond, 2 of the number (G183)."""
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    try:
        local = datetime.strptime(match["time"], "%Y%m%d%H%M%S").replace(tzinfo=BEIJING)
    except ValueError:
        return None
    taken_at = local.astimezone(UTC).replace(microsecond=int(match["ms"]) * 1000)
    return FileName(match["code"], taken_at, int(match["number"]))


class PictureFiles:
    """Keeps files below ``directory``: one folder for each day of arrival, in it one for each order."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    async def open(self) -> None:
        """Raises OSError."""
        await asyncio.to_thread(self.directory.mkdir, parents=True, exist_ok=True)

    def path(self, picture: StoredPicture) -> Path:
        """Raises UnsafePath for a name that could lead elsewhere; what devices write is never part of a path."""
        parts = (f"{picture.received_at:%Y%m%d}", picture.job_id, picture.name)
        if not all(_PLAIN.fullmatch(part) for part in parts):
            raise UnsafePath("/".join(parts)[:200])
        ending = ENDINGS.get(picture.media_type, "bin")
        return self.directory.joinpath(*parts[:2]) / f"{parts[2]}.{ending}"

    async def write(self, picture: StoredPicture, data: bytes) -> None:
        """Raises OSError, UnsafePath. A file is there as a whole or not at all."""
        await asyncio.to_thread(_write, self.path(picture), data)

    async def read(self, picture: StoredPicture) -> bytes | None:
        try:
            return await asyncio.to_thread(self.path(picture).read_bytes)
        except OSError:
            return None

    async def remove(self, pictures: Iterable[StoredPicture]) -> None:
        await asyncio.to_thread(self._remove, list(pictures))

    def _remove(self, pictures: list[StoredPicture]) -> None:
        for picture in pictures:
            path = self.path(picture)
            with suppress(OSError):
                path.unlink(missing_ok=True)
                path.parent.rmdir()
                path.parent.parent.rmdir()


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".part")
    partial.write_bytes(data)
    os.replace(partial, path)
