"""What a failed try means: the device's status, its silence, or what the receiver saw instead of a picture. Pure."""

from __future__ import annotations

from gateway.services.errors import PlayCause, PlayFailed
from media.errors import MediaError
from media.specs import StreamStats

BUSY = frozenset({486, 503, 600, 603})
"""486 is the standard's word for "no capacity" (annex G note 17); the others mean the same in the field (quirk 34)."""
SDP_REFUSED = frozenset({415, 488, 606})


def refusal(status: int, reason: str, open_streams: int) -> PlayFailed:
    """The device's final answer to INVITE as a failure. ``open_streams``: how many of its streams we have open."""
    text = f"{status} {reason}".strip()
    if status in BUSY:
        detail = f"the device answered {text}; {open_streams} of its streams are open here"
        return PlayFailed(PlayCause.BUSY, detail, device_status=status, open_streams=open_streams)
    if status in SDP_REFUSED:
        detail = f"the device did not accept the SDP: {text}"
        return PlayFailed(PlayCause.SDP_NOT_ACCEPTED, detail, device_status=status, other_way=True)
    # 400 is what some devices say to a transport or a line they do not know; other statuses are about the channel
    detail = f"the device answered {text}"
    return PlayFailed(PlayCause.REJECTED, detail, device_status=status, other_way=status == 400)


def silence(*, provisional: bool, timeout_s: float) -> PlayFailed:
    """No final answer to INVITE. After a 100 the device is alive and choked on the SDP (quirk 43)."""
    if provisional:
        return PlayFailed(
            PlayCause.SDP_NOT_ACCEPTED,
            f"100 came but no final answer within {timeout_s:g} s: the SDP was not accepted",
        )
    return PlayFailed(PlayCause.INVITE_TIMEOUT, f"no answer to INVITE within {timeout_s:g} s")


def diagnose(stats: StreamStats, timeout_s: float) -> PlayFailed:
    """No picture in time: nothing came (G235), something else came (quirk 46), or no key frame came."""
    if stats.media_mismatch:
        return PlayFailed(PlayCause.MEDIA_MISMATCH, f"media do not match the SDP: {stats.media_mismatch}")
    if stats.packets == 0:
        strangers = f"; {stats.foreign_packets} packets came from elsewhere" if stats.foreign_packets else ""
        return PlayFailed(PlayCause.NO_STREAM, f"no RTP within {timeout_s:g} s{strangers}", other_way=True)
    return PlayFailed(
        PlayCause.NO_PICTURE, f"{stats.packets} RTP packets but no key frame within {timeout_s:g} s"
    )


_INPUT_CAUSES = {
    "refused": (PlayCause.REJECTED, "the camera refuses the user name or password"),
    "not_found": (PlayCause.REJECTED, "the camera or the directory has nothing under this address"),
    "dial_failed": (PlayCause.DEVICE_OFFLINE, "the camera cannot be reached"),
    "unreadable": (PlayCause.UNSUPPORTED, "nothing in it can be read"),
    "ended": (PlayCause.NO_STREAM, "it ended before a picture came"),
}


def input_lost(cause: str) -> PlayFailed:
    """What a node tells of an input that gave no picture."""
    label, detail = _INPUT_CAUSES.get(cause, (PlayCause.NO_STREAM, f"no media: {cause}"))
    return PlayFailed(label, detail)


def input_silent(stats: StreamStats, timeout_s: float) -> PlayFailed:
    """An input that was opened, and no key frame in time."""
    if stats.packets == 0:
        return PlayFailed(PlayCause.NO_STREAM, f"the camera sent nothing within {timeout_s:g} s")
    return PlayFailed(PlayCause.NO_PICTURE, f"media but no key frame within {timeout_s:g} s")


_MEDIA_CAUSES = {
    "no_port": PlayCause.NO_PORT,
    "unavailable": PlayCause.NODE_DOWN,
    "unsupported": PlayCause.UNSUPPORTED,
    "transcoders_busy": PlayCause.TRANSCODERS_BUSY,
}


def media_failure(error: MediaError) -> PlayFailed:
    """What a media node refused."""
    return PlayFailed(_MEDIA_CAUSES.get(error.code, PlayCause.NODE_DOWN), f"media node: {error}")
