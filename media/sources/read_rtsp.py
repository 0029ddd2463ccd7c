"""Reads an RTSP camera: FFmpeg speaks RTSP and RTP, we put the pictures together. Runs in an input's process."""

from __future__ import annotations

import time
from fractions import Fraction
from itertools import pairwise
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

import av
import av.logging

from media.sources import elementary
from media.sources.reading import Failure, Outlet
from media.unit import TICKS_PER_SECOND, AccessUnit

TORN = 2
"""Pictures not trusted after a loss: the one that FFmpeg still held, and the one that lacks something."""
MOST_TIMELESS = 8
USUAL_STEP = TICKS_PER_SECOND // 25
_LOSS = ("missed", "max delay reached", "bad cseq", "dropping")
_CAUSES: tuple[tuple[type[Exception], str, str], ...] = (
    (av.error.HTTPUnauthorizedError, "refused", "the camera refuses the user name or password (401)"),
    (av.error.HTTPForbiddenError, "refused", "the camera forbids it (403)"),
    (av.error.HTTPNotFoundError, "not_found", "the camera knows no such path (404)"),
    (av.error.HTTPClientError, "refused", "the camera refuses the request"),
    (av.error.HTTPServerError, "refused", "the camera reports an error of its own"),
    (ConnectionRefusedError, "dial_failed", "nothing listens there"),
    (av.error.ProtocolNotFoundError, "unreadable", "this kind of address is not served"),
)


def read(job: dict[str, Any], outlet: Outlet) -> None:
    """``job``: url, username, password, transport (tcp | udp), connect_timeout_s, read_timeout_s. Raises Failure."""
    av.logging.set_level(av.logging.WARNING)
    with av.logging.Capture() as said:
        try:
            container = _open(job)
        except (av.error.FFmpegError, OSError, ValueError) as error:
            raise _opening_failed(error, job) from None
        try:
            _pump(container, outlet, said, job)
        finally:
            container.close()


def address(url: str, username: str, password: str) -> str:
    """The URL with the credentials in it, escaped; those it holds already give way."""
    if not username:
        return url
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{quote(username, safe='')}:{quote(password, safe='')}@{host}"))


def _open(job: dict[str, Any]) -> av.container.InputContainer:
    options = {
        "rtsp_transport": job["transport"],
        "probesize": "32",
        "analyzeduration": "0",
        "fflags": "+nofillin",
        "max_delay": "200000",
        "buffer_size": "1048576",
        "user_agent": "gb28181-gateway",
        "timeout": str(int(job["read_timeout_s"] * 1_000_000)),
    }
    return av.open(
        address(job["url"], job["username"], job["password"]),
        format="rtsp",
        options=options,
        timeout=(job["connect_timeout_s"], job["read_timeout_s"]),
    )


def _opening_failed(error: Exception, job: dict[str, Any]) -> Failure:
    for kind, cause, detail in _CAUSES:
        if isinstance(error, kind):
            return Failure(cause, detail)
    return Failure("dial_failed", f"no connection ({_words(error)})")


def _words(error: Exception) -> str:
    """What an error says without the address in it."""
    return getattr(error, "strerror", None) or type(error).__name__


def _pump(
    container: av.container.InputContainer, outlet: Outlet, said: list[Any], job: dict[str, Any]
) -> None:
    video, audio = elementary.pick(container.streams)
    chosen = [stream for stream in (video, audio) if stream is not None]
    if not chosen:
        raise Failure("unreadable", "no stream in a codec that is served")
    outlet.note(audio=audio is not None)
    picture = _Pictures(elementary.video_track(video), video.time_base) if video is not None else None
    sound = elementary.audio_track(audio) if audio is not None else None
    asked = time.monotonic()
    try:
        for packet in container.demux(chosen):
            if outlet.closing.is_set():
                return
            if said:
                if picture is not None and any(word in line[2] for line in said for word in _LOSS):
                    picture.damage()
                said.clear()
            if not packet.size:
                break
            data = bytes(packet)
            if picture is not None and packet.stream is video:
                for unit in picture.take(data, packet.pts):
                    outlet.unit(unit)
            elif sound is not None:
                stamp = None if packet.pts is None else elementary.ticks(packet.pts, audio.time_base)
                heard = sound.unit(data, stamp)
                if heard is not None:
                    outlet.unit(heard)
            asked = time.monotonic()
    except IndexError:  # PyAV at the end of some inputs
        pass
    except (av.error.FFmpegError, OSError) as error:
        if time.monotonic() - asked >= 0.9 * job["read_timeout_s"]:
            raise Failure("no_rtp", "the camera went silent") from None
        raise Failure("connection_lost", _words(error)) from None
    raise Failure("connection_lost", "the camera ended the session")


class _Pictures:
    """Units of the camera's pictures, each of which FFmpeg has put together from its packets.

    FFmpeg has no time for a first picture that came in several packets: it waits here for some that have one.
    """

    def __init__(self, track: elementary.VideoTrack, time_base: Fraction) -> None:
        self._track = track
        self._time_base = time_base
        self._timeless: list[bytes] | None = []
        """Pictures from before the first time; None when that is settled."""
        self._early: list[tuple[bytes, int]] = []
        self._torn = 0

    def damage(self) -> None:
        """Packets are missing. FFmpeg says so some pictures early: the next ones are not trusted either."""
        self._torn = TORN
        self._track.damage()

    def take(self, data: bytes, stamp: int | None) -> list[AccessUnit]:
        pts = None if stamp is None else elementary.ticks(stamp, self._time_base)
        if self._timeless is None:
            return [] if pts is None else self._units(data, pts)
        if pts is not None and not self._timeless:
            self._timeless = None
            return self._units(data, pts)
        if pts is None:
            self._timeless = [*self._timeless[-MOST_TIMELESS:], data]
            return []
        self._early.append((data, pts))
        wanted = 2 + max((self._track.reordered(data) for data in self._timeless), default=0)
        return self._settle() if len(self._early) >= wanted else []

    def _settle(self) -> list[AccessUnit]:
        """The first pictures are one step each before the earliest that has a time."""
        stamps = sorted(pts for _, pts in self._early)
        step = min((late - soon for soon, late in pairwise(stamps) if late > soon), default=USUAL_STEP)
        timeless, self._timeless = self._timeless or [], None
        first = stamps[0] - step * len(timeless)
        pictures = [(data, first + index * step) for index, data in enumerate(timeless)] + self._early
        self._early = []
        return [unit for data, pts in pictures for unit in self._units(data, pts)]

    def _units(self, data: bytes, pts: int) -> list[AccessUnit]:
        torn, self._torn = self._torn > 0, max(0, self._torn - 1)
        return self._track.units(data, pts, None, damaged=torn)
