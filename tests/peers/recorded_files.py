"""What a running gateway has recorded: its settings for tests, its index, and its files decoded and compared."""

from __future__ import annotations

import itertools
import json
import sqlite3
import subprocess
from pathlib import Path
from typing import Any

import av
import pytest
from gateway_process import GatewayProcess

from simulator.picture import read_mark

SEGMENT_S = 4


def recording(folder: Path) -> dict[str, Any]:
    return {
        "recording": {
            "disks": [{"disk_id": "one", "directory": str(folder / "one"), "reserve_bytes": 0, "reserve_percent": 0}],
            "segment_s": SEGMENT_S,
            "reconcile_s": 0.5,
            "retry_first_s": 0.5,
            "disk_check_s": 1,
        }
    }  # fmt: skip


def always(kind: str = "c") -> dict[str, Any]:
    return {"scope": "default", "grid": [kind * 24] * 7}


def rows(gateway: GatewayProcess) -> list[dict[str, Any]]:
    """The index as it is in the database."""
    with sqlite3.connect(gateway.folder / "data" / "gateway.sqlite3", timeout=20) as database:
        database.row_factory = sqlite3.Row
        return [dict(row) for row in database.execute("SELECT * FROM recording_segments ORDER BY start_s")]


def complete(gateway: GatewayProcess, channel_id: str) -> list[dict[str, Any]]:
    return [row for row in rows(gateway) if row["complete"] and row["channel_id"] == channel_id]


def marks_in(path: Path) -> list[tuple[int, int]]:
    """(frame number, clock in ms) of every decoded picture."""
    found = []
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            mark = read_mark(frame.to_ndarray(format="gray"))
            assert mark is not None, path
            found.append((mark.frame, mark.time_ms))
    return found


def probe(path: Path) -> tuple[int, list[str]]:
    """Pictures that ffprobe decodes, and the codecs it sees. It must have no complaint."""
    command = ["ffprobe", "-v", "error", "-count_frames", "-of", "json", "-show_streams", str(path)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert result.stderr == "", f"{path}: {result.stderr}"
    streams = json.loads(result.stdout)["streams"]
    video = next(stream for stream in streams if stream["codec_type"] == "video")
    return int(video["nb_read_frames"]), sorted(stream["codec_name"] for stream in streams)


def unbroken(folder: Path, found: list[dict[str, Any]]) -> None:
    """Files of one recording, in order: no picture is missing within and between them; clocks agree."""
    numbers: list[int] = []
    for row in found:
        marks = marks_in(folder / "one" / row["path"])
        assert len(marks) == row["frames"]
        numbers += [number for number, _ in marks]
        # the time of the file is the time in the picture (that was painted a moment before)
        painted = marks[0][1]
        arrived = int(row["start_s"] * 1000) % 2**32
        assert -200 <= arrived - painted <= 2500, "wall-clock of the file"
        assert row["end_s"] - row["start_s"] == pytest.approx(row["frames"] / 25, abs=0.3)
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    for before, after in itertools.pairwise(found):
        assert after["start_s"] - before["end_s"] == pytest.approx(0, abs=0.3)
