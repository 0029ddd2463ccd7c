"""The prepared process: has FFmpeg loaded and forks a child for each input, which reads one camera or file.

So a crash inside FFmpeg, a name server that does not answer or a reader that grows costs one picture and nothing
else. A child ends when the node closes its socket, and with the node.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import resource
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Any

from media.sources import read_file, read_rtsp
from media.sources.reading import Failure, NodeGone, Outlet

JOB_BYTES = 64 * 1024
MEMORY_BYTES = 768 * 1024 * 1024
"""Of data an input's process may have; a camera that makes FFmpeg grow ends with that."""
READERS: dict[str, Callable[[dict[str, Any], Outlet], None]] = {
    "rtsp": read_rtsp.read,
    "file": read_file.read,
}


def serve(control: socket.socket) -> None:
    """The prepared process: fork for each job until the node closes the socket."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel takes the children away
    gc.collect()
    gc.freeze()
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, JOB_BYTES, 1)
        if not message:
            return
        if os.fork() == 0:
            _child(control, message, descriptors[0])
        os.close(descriptors[0])


def _child(control: socket.socket, message: bytes, descriptor: int) -> None:
    """The forked process; never returns."""
    status = 1
    try:
        control.close()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        run(json.loads(message), socket.socket(fileno=descriptor))
        status = 0
    finally:
        kind, _, trace = sys.exc_info()
        if kind is not None:  # the text of the error may hold the camera's address: only its kind is shown
            traceback.print_tb(trace)
            sys.stderr.write(f"an input's process failed: {kind.__name__}\n")
            sys.stderr.flush()
        os._exit(status)


def run(job: dict[str, Any], sock: socket.socket) -> None:
    """Read as ``job`` says until the node closes ``sock`` or the source ends; the last note says why."""
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES))
    outlet = Outlet(sock)
    threading.Thread(target=outlet.watch, daemon=True).start()
    try:
        READERS[job["kind"]](job, outlet)
        end = Failure("ended")
    except Failure as failure:
        end = failure
    except MemoryError:
        end = Failure("unreadable", "it needs too much memory")
    except NodeGone:
        return
    with contextlib.suppress(NodeGone):
        outlet.note(end=end.cause, detail=end.detail)
        outlet.finish()


def main() -> int:
    """``python -m media.sources.prepared DESCRIPTOR``."""
    with socket.socket(fileno=int(sys.argv[1])) as control:
        serve(control)
    return 0


if __name__ == "__main__":
    sys.exit(main())
