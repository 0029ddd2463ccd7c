"""Reads an RTSP camera: FFmpeg speaks RTSP and RTP, we put the pictures together. Runs in an input's process."""

from __future__ import annotations

import time
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

import av
import av.logging

from media.sources import elementary
from media.sources.reading import Failure, Outlet

SAME_PICTURE = 90
"""RTCP may move the clock by some ticks within a picture; real pictures are farther apart than 1 ms."""
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
        "fflags": "+noparse+nofillin",
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
    picture = _Picture(elementary.video_track(video), video.time_base) if video is not None else None
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


class _Picture:
    """Puts the pieces of one picture together: NAL units, and fragments of them, as they come out of RTP."""

    def __init__(self, track: elementary.VideoTrack, time_base: Any) -> None:
        self._track = track
        self._time_base = time_base
        self._pieces: list[bytes] = []
        self._pts: int | None = None

    def damage(self) -> None:
        self._pieces, self._pts = [], None
        self._track.damage()

    def take(self, data: bytes, stamp: int | None) -> list[Any]:
        """The units of the picture before, when ``data`` begins another one."""
        pts = None if stamp is None else elementary.ticks(stamp, self._time_base)
        other = (
            pts is not None
            and self._pts is not None
            and abs(pts - self._pts) > SAME_PICTURE
            and elementary.starts_nal(data)
        )
        done = self._close() if other else []
        if self._pts is None:
            self._pts = pts
        self._pieces.append(data)
        return done

    def _close(self) -> list[Any]:
        pieces, pts = self._pieces, self._pts
        self._pieces, self._pts = [], None
        return [] if pts is None else self._track.units(b"".join(pieces), pts, None)
