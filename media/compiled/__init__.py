"""The optional compiled part of the packet pump: whether it is there, and whether it works on this system.

It is built where a compiler is at hand (tools/build_pump.py). Without it the pump in pure Python does the same work.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from media.compiled import _lanes

reason = ""
"""Why the module cannot be used; empty while it can."""
try:
    from media.compiled import _lanes
except ImportError as error:
    reason = f"not built ({error})"


class PumpMissing(Exception):
    """The compiled pump was asked for and is not there, or does not work here."""


def sweep() -> _lanes.Sweep:
    """A sweep without lanes. Raises PumpMissing."""
    if reason:
        raise PumpMissing(reason)
    return _lanes.Sweep()


def probe() -> str:
    """Why the compiled pump cannot be used here, empty when two packets went through a lane as they should."""
    if reason:
        return reason
    with contextlib.ExitStack() as stack:
        camera, lane_socket, out, sink = (
            stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in range(4)
        )
        try:
            for sock in (camera, lane_socket, sink):
                sock.bind(("127.0.0.1", 0))
            out.connect(sink.getsockname())
            sink.settimeout(2.0)
            host, port = camera.getsockname()
            name = (
                struct.pack("=H", socket.AF_INET)
                + struct.pack("!H", port)
                + socket.inet_aton(host)
                + bytes(8)
            )
            lanes = _lanes.Sweep()
            thread = threading.Thread(target=lanes.run, args=(0.001,))
            thread.start()
            stack.callback(thread.join)
            stack.callback(lanes.stop)
            lane = lanes.open(
                lane_socket.fileno(), name, stride=16, ssrc=1, payload_type=96, expected=7, index=0, shift=0, stamp=0,
                arrival=None, transit=None, jitter=0.0, marked=-1, watched=None, kept_bytes=0, limit_bytes=4096,
                waits=True, burst_bytes=4096, paced_bytes=4096, targets=[(out.fileno(), 2, 100, -1, False)],
            )  # fmt: skip
            stack.callback(lane.close)
            for number in (7, 8):
                camera.sendto(
                    struct.pack("!BBHII4s", 0x80, 96, number, 9, 1, b"abcd"), lane_socket.getsockname()
                )
            got = [sink.recv(64) for _ in range(2)]
        except OSError as error:
            return f"its probe failed ({error})"
    wanted = [struct.pack("!BBHII4s", 0x80, 96, number, 9, 2, b"abcd") for number in (100, 101)]
    return "" if got == wanted else "its probe relayed wrong bytes"
