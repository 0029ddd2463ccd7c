"""What all benchmarks share: a row of the table, the CPU clock of another process, and child processes that always end."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from typing import Any


@dataclasses.dataclass(slots=True)
class Row:
    """One measured line. ``ratio`` is value over baseline (or as ``how`` says); ``aim`` is a text, ``met`` its verdict."""

    name: str
    value: float
    unit: str
    baseline: str = ""
    ratio: float | None = None
    aim: str = ""
    met: bool | None = None
    how: str = ""

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def cpu_seconds(pid: int) -> float:
    """User and system CPU time of a process and all its threads, in seconds (Linux process CPU clock)."""
    return time.clock_gettime((~pid << 3) | 2)


def rss_bytes(pid: int) -> int:
    """Resident memory of a process in bytes."""
    with open(f"/proc/{pid}/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def free_port(kind: socket.SocketKind = socket.SOCK_DGRAM) -> int:
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def child(arguments: Sequence[str], **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """Run a child process; end it by its id when the block is left."""
    process = subprocess.Popen(arguments, **options)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                stream.close()


def pin(pid: int, cpu: int) -> None:
    """Bind a process to one CPU (0 the first, -1 the last), where there are two."""
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) > 1:
        os.sched_setaffinity(pid, {cpus[cpu]})
