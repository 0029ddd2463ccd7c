"""Talk and broadcast over HTTP: WHIP from a browser's microphone, pushed sound and files for programs, states, the end."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Literal, Protocol

from aiohttp import web
from pydantic import Field, model_validator

from gateway.http.channels import ChannelFinder
from gateway.http.errors import Problem, not_found
from gateway.http.ptz import PRIORITY
from gateway.http.routes import Call, Model, View, route
from gateway.http.views import AnyCode, WhichDevice
from gateway.registry import Registry
from gateway.services.access import Role
from gateway.services.talk_outputs import Outputs
from gateway.services.talk_record import Talk, TalkCause, TalkFailed, TalkState, TalkTarget, VoiceOpener
from media.specs import TalkQueued

MAX_OFFER_BYTES = 64 * 1024
MAX_SOUND_BYTES = 64 * 1024 * 1024
TALK_ERRORS = (403, 404, 406, 409, 503, 504)
END_WAIT_S = 5.0
NODE = r"^((device|division):[0-9A-Za-z_.-]{1,32}|channel:[0-9A-Za-z_.-]{1,32}/[0-9A-Za-z_.-]{1,32})$"


class Speaking(Protocol):
    """The part of gateway.services.talk.Talks that this resource needs."""

    outputs: Outputs

    def under_way(self) -> list[Talk]: ...

    def find(self, talk_id: str) -> Talk | None: ...

    def holder(self, target: TalkTarget) -> Talk | None: ...

    async def begin(
        self,
        keys: list[tuple[str, str]],
        *,
        who: str,
        priority: int,
        source: str,
        full_duplex: bool = False,
        open_voice: VoiceOpener | None = None,
    ) -> Talk: ...

    async def attach_browser(self, talk: Talk, offer_sdp: str) -> str: ...

    async def push(self, talk: Talk, data: bytes, *, file: bool, end: bool) -> TalkQueued: ...

    async def mute(self, talk: Talk, *, muted: bool) -> None: ...

    def end(self, talk: Talk, cause: str) -> asyncio.Task[None]: ...


class TargetRequest(Model):
    channel_id: AnyCode = Field(
        description="A camera, a loudspeaker (137), or the device's own code for all its loudspeakers."
    )
    device_id: AnyCode | None = Field(default=None, description="Needed when the channel code is used twice.")


class TalkRequest(Model):
    """Whom to speak to, and with which voice."""

    targets: list[TargetRequest] = Field(default_factory=list, max_length=500)
    group: str | None = Field(
        default=None,
        pattern=NODE,
        description="A node of the channel tree (`id` in `/api/tree`): all loudspeakers below it.",
    )
    duplex: Literal["half", "full"] = Field(
        default="half",
        description="full: the device's sound comes back to the browser; one target only. half: it does not.",
    )
    sdp: str | None = Field(
        default=None,
        max_length=MAX_OFFER_BYTES,
        description="The browser's WebRTC offer with one microphone (PCMA). Left out: sound is pushed.",
    )
    wait: bool = Field(default=False, description="Answer only when each target talks or has failed.")

    @model_validator(mode="after")
    def _whom(self) -> TalkRequest:
        if bool(self.targets) == (self.group is not None):
            raise ValueError("either targets or a group")
        if self.duplex == "full" and (self.sdp is None or len(self.targets) != 1):
            raise ValueError("full duplex needs sdp and exactly one target")
        return self


class TalkChange(Model):
    muted: bool = Field(description="The button is let go: nothing is said until it is pressed again.")


class TargetView(View):
    device_id: str
    channel_id: str
    output_id: str = Field(description="The loudspeaker, or its device for all of them.")
    state: TalkState
    cause: str = Field(description="Why it failed or ended, e.g. `taken`, `no_invite`, `device_bye`.")
    detail: str
    form: str = Field(description="broadcast: the device fetches the sound; talk: INVITE with s=Talk.")
    transport: str
    audio: str = Field(description="raw: G.711A in RTP; ps: in a program stream.")


class TalkView(View):
    talk_id: str
    who: str
    priority: int
    source: str = Field(description="webrtc, push or upper (an upper platform speaks).")
    duplex: str
    muted: bool
    started_at: datetime
    ended: bool
    end_cause: str
    targets: list[TargetView]


class TalkStarted(TalkView):
    sdp: str | None = Field(default=None, description="The answer for the browser.")


class TalkList(View):
    items: list[TalkView]


class SoundQuery(Model):
    format: Literal["g711a", "file"] = Field(
        default="file",
        description="g711a: bare samples, 8 kHz A-law, sent untouched; file: WAV, MP3, AAC, Ogg ...",
    )
    end: Literal["0", "1"] = Field(default="0", description="1: the talk ends when all was said.")


class SoundQueued(View):
    queued_s: float = Field(description="Sound that waits to be said, in seconds.")


class WhipQuery(WhichDevice):
    duplex: Literal["half", "full"] = "half"


class HolderView(View):
    talk_id: str
    who: str
    priority: int


class TalkAbility(View):
    """Whether a channel can be spoken to, and how."""

    device_id: str
    channel_id: str
    audio_output: bool
    output_id: str
    source: str = Field(
        description="catalog: its catalog names it; operator: the profile says so; none: nobody says it has one."
    )
    online: bool
    talk_mode: str
    talk_audio: str
    holder: HolderView | None = Field(default=None, description="Who speaks to it now.")


class TalkResource:
    def __init__(self, *, registry: Registry, talks: Speaking, most_bytes: int) -> None:
        self._registry = registry
        self._finder = ChannelFinder(registry)
        self._talks = talks
        self._most_bytes = most_bytes

    @route(
        "POST",
        "/api/talks",
        summary="Speak to one device, to several, or to a group",
        role=Role.OPERATOR,
        status=201,
        tag="talk",
        errors=TALK_ERRORS,
        max_body_bytes=256 * 1024,
    )
    async def begin(self, call: Call, body: TalkRequest) -> TalkStarted:
        """The devices ring; `talk_changed` events and `GET` tell when each talks. 409 `taken`: who speaks to it now.

        An administrator takes a loudspeaker over from others. Without `sdp`, push sound to `/api/talks/{talk_id}/audio`.
        """
        if body.group is not None:
            keys = self._talks.outputs.members(body.group)
        else:
            keys = [self._finder.key(target.channel_id, target.device_id) for target in body.targets]
        talk, answer = await self._begin(call, keys, body.sdp, body.duplex)
        if body.wait:
            await talk.settled()
            _raise_if_all_failed(talk)
        call.headers["Location"] = f"/api/talks/{talk.talk_id}"
        return TalkStarted(**talk_view(talk).model_dump(), sdp=answer)

    async def _begin(
        self, call: Call, keys: list[tuple[str, str]], sdp: str | None, duplex: str
    ) -> tuple[Talk, str | None]:
        talk = await self._talks.begin(
            keys,
            who=call.who.name,
            priority=PRIORITY[call.who.role],
            source="push" if sdp is None else "webrtc",
            full_duplex=duplex == "full",
        )
        if sdp is None:
            return talk, None
        try:
            return talk, await self._talks.attach_browser(talk, sdp)
        except BaseException:
            self._talks.end(talk, "no_microphone")
            raise

    @route(
        "POST",
        "/api/channels/{channel_id}/whip",
        summary="Speak to one channel by WebRTC (WHIP)",
        role=Role.OPERATOR,
        status=201,
        tag="talk",
        consumes="application/sdp",
        produces="application/sdp",
        errors=TALK_ERRORS,
        max_body_bytes=MAX_OFFER_BYTES,
    )
    async def whip(self, call: Call, channel_id: AnyCode, query: WhipQuery, body: str) -> web.StreamResponse:
        """Offer in, answer out; DELETE the Location to stop. 406 `unsupported`: the browser offers no PCMA."""
        if not body.startswith("v=0"):
            raise Problem(400, "the body is no SDP offer", cause="not_sdp", field="body")
        key = self._finder.key(channel_id, query.device_id)
        talk, answer = await self._begin(call, [key], body, query.duplex)
        return web.Response(
            status=201,
            text=answer,
            content_type="application/sdp",
            headers={"Location": f"/api/talks/{talk.talk_id}", "ETag": f'"{talk.talk_id}"'},
        )

    @route("GET", "/api/talks", summary="Talks under way", role=Role.VIEWER, tag="talk")
    async def list(self, call: Call) -> TalkList:
        return TalkList(items=[talk_view(talk) for talk in self._talks.under_way()])

    @route(
        "GET",
        "/api/talks/{talk_id}",
        summary="One talk and the state of each target",
        role=Role.VIEWER,
        tag="talk",
        errors=(404,),
    )
    async def show(self, call: Call, talk_id: AnyCode) -> TalkView:
        """The last ended talks can still be asked for."""
        return talk_view(self._talk(talk_id))

    @route(
        "PATCH",
        "/api/talks/{talk_id}",
        summary="Press or let go the button",
        role=Role.OPERATOR,
        tag="talk",
        errors=(403, 404, 409),
    )
    async def change(self, call: Call, talk_id: AnyCode, body: TalkChange) -> TalkView:
        talk = self._own(call, talk_id)
        if not talk.live:
            raise Problem(409, f"the talk has ended: {talk.end_cause}", cause="ended")
        await self._talks.mute(talk, muted=body.muted)
        return talk_view(talk)

    @route(
        "DELETE",
        "/api/talks/{talk_id}",
        summary="Stop speaking",
        role=Role.OPERATOR,
        status=204,
        tag="talk",
        errors=(403, 404),
        audited="talk.end",
    )
    async def stop(self, call: Call, talk_id: AnyCode) -> None:
        """BYE to every device; returns when the loudspeakers are free again, or after some seconds."""
        call.audit_target = talk_id
        ending = self._talks.end(self._own(call, talk_id), "stopped")
        await asyncio.wait([ending], timeout=END_WAIT_S)

    @route(
        "POST",
        "/api/talks/{talk_id}/audio",
        summary="Push sound into a talk",
        role=Role.OPERATOR,
        tag="talk",
        consumes="application/octet-stream",
        errors=(403, 404, 406, 409, 413),
        max_body_bytes=MAX_SOUND_BYTES,
    )
    async def push(self, call: Call, talk_id: AnyCode, query: SoundQuery, body: bytes) -> SoundQueued:
        """Said as soon as each target talks or has failed; at most ten minutes may wait.

        406 `unsupported`: the file has no sound that can be decoded.
        """
        if len(body) > self._most_bytes:
            raise Problem(413, f"the body may have {self._most_bytes} bytes", cause="too_big", field="body")
        if not body:
            raise Problem(422, "no sound", cause="invalid_input", field="body")
        talk = self._own(call, talk_id)
        queued = await self._talks.push(talk, body, file=query.format == "file", end=query.end == "1")
        return SoundQueued(queued_s=queued.queued_s)

    @route(
        "GET",
        "/api/channels/{channel_id}/talk",
        summary="Whether a channel can be spoken to, and who does",
        role=Role.VIEWER,
        tag="talk",
        errors=(404, 409),
    )
    async def ability(self, call: Call, channel_id: AnyCode, query: WhichDevice) -> TalkAbility:
        """Without an Item of type 137 in its catalog a device has no loudspeaker (9.12.1.1), unless its profile says so."""
        device_id, channel_id = self._finder.key(channel_id, query.device_id)
        device = self._registry.devices[device_id]
        output = self._talks.outputs.of(device, channel_id)
        target = TalkTarget(device_id, channel_id, output.output_id)
        holder = self._talks.holder(target) if output.output_id else None
        return TalkAbility(
            device_id=device_id,
            channel_id=channel_id,
            audio_output=bool(output.output_id),
            output_id=output.output_id,
            source=output.source,
            online=device.online,
            talk_mode=device.profile.talk_mode,
            talk_audio=device.profile.talk_audio,
            holder=None if holder is None else HolderView.model_validate(holder),
        )

    def _talk(self, talk_id: str) -> Talk:
        talk = self._talks.find(talk_id)
        if talk is None:
            raise not_found(f"talk {talk_id}")
        return talk

    def _own(self, call: Call, talk_id: str) -> Talk:
        """One's own talk; administrators may have any."""
        talk = self._talk(talk_id)
        if talk.who != call.who.name and call.who.role is not Role.ADMINISTRATOR:
            raise TalkFailed(TalkCause.NOT_YOURS, f"this is a talk of {talk.who}")
        return talk


def talk_view(talk: Talk) -> TalkView:
    """What the API shows of a talk."""
    return TalkView(
        talk_id=talk.talk_id,
        who=talk.who,
        priority=talk.priority,
        source=talk.source,
        duplex="full" if talk.full_duplex else "half",
        muted=talk.muted,
        started_at=talk.started_at,
        ended=not talk.live,
        end_cause=talk.end_cause,
        targets=[_target_view(target) for target in talk.targets],
    )


def _target_view(target: TalkTarget) -> TargetView:
    branch = target.branches[-1] if target.branches else None
    return TargetView(
        device_id=target.device_id,
        channel_id=target.channel_id,
        output_id=target.output_id,
        state=target.state,
        cause=target.cause,
        detail=target.detail,
        form=target.form,
        transport=branch.transport if branch is not None else "",
        audio=branch.audio if branch is not None else "",
    )


def _raise_if_all_failed(talk: Talk) -> None:
    """The first target's reason, when nobody can be spoken to."""
    if all(target.state is TalkState.FAILED for target in talk.targets):
        first = talk.targets[0]
        raise TalkFailed(TalkCause(first.cause), first.detail)
