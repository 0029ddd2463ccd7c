"""Keeps files that are played below one directory. Without FFmpeg, so that the gateway can ask as well."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO


class Outside(Exception):
    """No plain file below the directory; the message is for people and holds no other path."""


def confined(directory: str, path: str) -> Path:
    """The real path of a file below ``directory``. Raises Outside for everything else, links out of it included."""
    if not directory:
        raise Outside("no directory for files is configured (inputs.directory)")
    try:
        root = Path(directory).resolve(strict=True)
        found = (root / path).resolve(strict=True)
    except (OSError, ValueError, RuntimeError):
        raise Outside("no such file") from None
    if not found.is_relative_to(root) or not found.is_file():
        raise Outside("no such file below the directory for files")
    return found


def open_file(path: Path) -> BinaryIO:
    """The file itself: no link put in its place since, no pipe or device. Raises Outside."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        raise Outside("the file cannot be opened") from None
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise Outside("no plain file")
    return os.fdopen(handle, "rb")
