"""How good the host's own clock is, as the kernel tells: synchronised or not, its offset and its greatest error (G045)."""

from __future__ import annotations

import ctypes
import ctypes.util
from dataclasses import dataclass

_STA_UNSYNC = 0x0040
_STA_NANO = 0x2000
_TIME_ERROR = 5


class _Timeval(ctypes.Structure):
    _fields_ = (("tv_sec", ctypes.c_long), ("tv_usec", ctypes.c_long))


class _Timex(ctypes.Structure):
    """struct timex of Linux, adjtimex(2)."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("constant", ctypes.c_long),
        ("precision", ctypes.c_long),
        ("tolerance", ctypes.c_long),
        ("time", _Timeval),
        ("tick", ctypes.c_long),
        ("ppsfreq", ctypes.c_long),
        ("jitter", ctypes.c_long),
        ("shift", ctypes.c_int),
        ("stabil", ctypes.c_long),
        ("jitcnt", ctypes.c_long),
        ("calcnt", ctypes.c_long),
        ("errcnt", ctypes.c_long),
        ("stbcnt", ctypes.c_long),
        ("tai", ctypes.c_int),
        ("reserved", ctypes.c_int * 11),
    )


@dataclass(frozen=True, slots=True)
class ClockState:
    """``offset_s``: what is still to be corrected. ``max_error_s`` grows by 0.5 ms each second without NTP, up to 16 s."""

    synchronized: bool
    offset_s: float
    max_error_s: float


def read_host_clock() -> ClockState | None:
    """Ask the kernel; changes nothing. None where it does not answer (other systems, strict containers)."""
    try:
        adjtimex = ctypes.CDLL(None, use_errno=True).adjtimex
    except (OSError, AttributeError):
        return None
    timex = _Timex(modes=0)
    state = adjtimex(ctypes.byref(timex))
    if state < 0:
        return None
    unit = 1e-9 if timex.status & _STA_NANO else 1e-6
    return ClockState(
        synchronized=state != _TIME_ERROR and not timex.status & _STA_UNSYNC,
        offset_s=timex.offset * unit,
        max_error_s=timex.maxerror * 1e-6,
    )
