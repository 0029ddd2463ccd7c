"""What a start finds in the directory of downloads: files of jobs that nobody knows any more, and other people's."""

from __future__ import annotations

from pathlib import Path

from gateway.services.device_download import _emptied


def test_only_our_own_leftovers_are_deleted(tmp_path: Path) -> None:
    ours = [tmp_path / "0123456789abcdef-1-0.mp4", tmp_path / "0123456789abcdef-2.ps"]
    others = [tmp_path / "holiday.mp4", tmp_path / "notes.txt", tmp_path / "0123456789abcdef.mp4"]
    for path in ours + others:
        path.write_bytes(b"x")
    _emptied(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted(others)
