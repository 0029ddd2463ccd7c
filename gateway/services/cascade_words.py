"""What an upper's control is called in our books: the right it needs, the action, and who did it."""

from __future__ import annotations

from gateway.origin import MAX_VALUE
from gateway.services.cascade_link import UpperLink
from sip.manscdp import DeviceControl


def right_for(body: DeviceControl) -> str:
    """The class of right a control needs: ptz moves the camera, play asks for a key frame, all else is config."""
    if body.ptz_cmd or body.drag_zoom_in or body.drag_zoom_out or body.ptz_precise or body.target_track:
        return "ptz"
    return "play" if body.iframe else "config"


def upper_user(link: UpperLink, user_identity: str) -> str:
    """Name in the audit log: the upper, and the user it names with our own code in front (8.3, G268)."""
    who = f"platform:{link.platform.platform_id}"
    return f"{who} {link.identity.user}-{user_identity.strip()[:MAX_VALUE]}" if user_identity.strip() else who


def action_of(body: DeviceControl) -> str:
    """Name of a control in the audit log."""
    if body.ptz_cmd:
        return "ptz"
    names = (
        ("iframe", "key_frame"),
        ("teleboot", "reboot"),
        ("record_cmd", "record"),
        ("guard_cmd", "guard"),
        ("alarm_cmd", "alarm_reset"),
        ("home_position", "home_position"),
        ("device_upgrade", "upgrade"),
        ("drag_zoom_in", "drag_zoom"),
        ("drag_zoom_out", "drag_zoom"),
        ("ptz_precise", "ptz_precise"),
        ("target_track", "target_track"),
    )
    if body.format_sd_card is not None:
        return "format_card"
    return next((action for field, action in names if getattr(body, field)), "control")
