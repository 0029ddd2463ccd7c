"""A talk and its targets, as their services and the API see them. Plain state, few rules."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from gateway.errors import GatewayError
from gateway.services.nodes import NodeHandle
from gateway.services.session_record import LiveSession
from sip.endpoint import InviteSession


class TalkState(StrEnum):
    """Of one target."""

    RINGING = "ringing"
    TALKING = "talking"
    ENDED = "ended"
    FAILED = "failed"


class TalkCause(StrEnum):
    """Why a target cannot be spoken to; the value is the metric label and the API's error code."""

    NOT_FOUND = "not_found"
    DEVICE_OFFLINE = "device_offline"
    NO_AUDIO_OUTPUT = "no_audio_output"
    TAKEN = "taken"
    TOO_MANY = "too_many_talks"
    REJECTED = "rejected"
    NO_ANSWER = "no_answer"
    NO_INVITE = "no_invite"
    SDP_NOT_ACCEPTED = "sdp_not_accepted"
    NO_MEDIA = "no_media"
    NO_PORT = "no_port"
    NO_SSRC = "no_ssrc"
    NODE_DOWN = "node_down"
    UNSUPPORTED = "unsupported"
    NOT_YOURS = "not_yours"
    SOURCE_REFUSED = "source_refused"
    CANCELLED = "cancelled"


_STATUS = {
    TalkCause.NOT_FOUND: (404, 404),
    TalkCause.DEVICE_OFFLINE: (409, 480),
    TalkCause.NO_AUDIO_OUTPUT: (409, 488),
    TalkCause.TAKEN: (409, 486),
    TalkCause.TOO_MANY: (503, 486),
    TalkCause.REJECTED: (409, 480),
    TalkCause.NO_ANSWER: (504, 408),
    TalkCause.NO_INVITE: (504, 408),
    TalkCause.SDP_NOT_ACCEPTED: (409, 488),
    TalkCause.NO_MEDIA: (504, 504),
    TalkCause.NO_PORT: (503, 486),
    TalkCause.NO_SSRC: (503, 486),
    TalkCause.NODE_DOWN: (503, 503),
    TalkCause.UNSUPPORTED: (409, 488),
    TalkCause.NOT_YOURS: (403, 403),
    TalkCause.SOURCE_REFUSED: (409, 480),
    TalkCause.CANCELLED: (503, 487),
}
"""HTTP and SIP status of each cause."""


class TalkFailed(GatewayError):
    """A device cannot be spoken to. ``sip_status`` is what a device or an upper is told."""

    def __init__(self, cause: TalkCause, detail: str, *, sip_status: int = 0) -> None:
        super().__init__(detail)
        self.cause = cause.value
        self.status, usual = _STATUS[cause]
        self.sip_status = sip_status or usual
        self.why = cause


@dataclass(slots=True, eq=False)
class Branch:
    """One dialog with a device and the leg that serves it. ``over`` gets why it ended."""

    leg_id: str
    over: asyncio.Future[str]
    undo: AsyncExitStack
    up: asyncio.Event = field(default_factory=asyncio.Event)
    dialog: InviteSession | None = None
    transport: str = ""
    audio: str = "raw"

    def end(self, cause: str) -> None:
        """The first cause stays."""
        if not self.over.done():
            self.over.set_result(cause)


@dataclass(slots=True, eq=False)
class TalkTarget:
    """One audio output. ``output_id`` is the TargetID: a 137 Item, or the device itself for all its outputs (G252)."""

    device_id: str
    channel_id: str
    """What the caller named."""
    output_id: str
    state: TalkState = TalkState.RINGING
    cause: str = ""
    detail: str = ""
    form: str = ""
    """broadcast | talk."""
    branches: list[Branch] = field(default_factory=list)
    task: asyncio.Task[None] | None = None
    end_cause: str = ""
    """Why it shall end; "" while it shall not."""
    answered: asyncio.Event = field(default_factory=asyncio.Event)
    """The device said that it will fetch the sound."""
    decided: asyncio.Event = field(default_factory=asyncio.Event)
    """It talks, or never will."""

    @property
    def live(self) -> bool:
        return self.state in (TalkState.RINGING, TalkState.TALKING)

    @property
    def whole_device(self) -> bool:
        return self.output_id == self.device_id

    def clashes(self, other: TalkTarget) -> bool:
        """Both need the same loudspeaker."""
        if self.device_id != other.device_id:
            return False
        return self.output_id == other.output_id or self.whole_device or other.whole_device

    def end(self, cause: str) -> None:
        """Ask its task to say BYE and clean up. Idempotent."""
        if self.task is not None and not self.end_cause and not self.task.done():
            self.end_cause = cause
            self.task.cancel()


VoiceOpener = Callable[["Talk", TalkTarget], Coroutine[Any, Any, None]]
"""Opens the voice when the first device wants it; raises TalkFailed."""


@dataclass(slots=True, eq=False)
class Talk:
    """One voice and whom it speaks to. ``source``: webrtc, push or upper."""

    talk_id: str
    who: str
    priority: int
    source: str
    full_duplex: bool
    started_at: datetime
    node: NodeHandle
    targets: list[TalkTarget] = field(default_factory=list)
    undo: AsyncExitStack = field(default_factory=AsyncExitStack)
    session: LiveSession | None = None
    """Full duplex: the picture's session, whose sound the talker hears."""
    open_voice: VoiceOpener | None = None
    voice: asyncio.Task[None] | None = None
    """Opens the voice, once for all targets."""
    muted: bool = False
    played: int = 0
    """Number of the last push that was said."""
    end_after: int | None = None
    """It ends when this push was said."""
    end_cause: str = ""
    ending: asyncio.Task[None] | None = None

    @property
    def live(self) -> bool:
        return self.ending is None

    async def settled(self) -> None:
        """Wait until each target talks or has failed."""
        for target in self.targets:
            await target.decided.wait()
