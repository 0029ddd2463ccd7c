"""How the gateway talks to a media node: its control API over a Unix or TCP socket."""

from __future__ import annotations

import io
import json
from collections.abc import AsyncIterator

from aiohttp import ClientError, ClientResponse, ClientSession, ClientTimeout, TCPConnector, UnixConnector
from pydantic import BaseModel, TypeAdapter, ValidationError

from media.errors import MediaError
from media.specs import (
    DiskList,
    DownloadInfo,
    DownloadSpec,
    InputControl,
    InputSpec,
    NodeEvent,
    NodeStats,
    PlayPosition,
    ReceiverInfo,
    ReceiverSpec,
    ReceiverUpdate,
    RecordingSpec,
    RecordingTrigger,
    SenderInfo,
    SenderSpec,
    StreamStats,
    TalkAnswer,
    TalkLegInfo,
    TalkLegSpec,
    TalkLegTarget,
    TalkMute,
    TalkOffer,
    TalkQueued,
    TalkSpec,
    TransferInfo,
    TransferSpec,
    WantedAnswer,
    WebRtcAnswer,
    WebRtcOffer,
)

__all__ = ["MediaClient", "MediaError"]

REQUEST_TIMEOUT_S = 10.0
SLOW_TIMEOUT_S = 25.0
"""For what waits for a picture: snapshots and WebRTC answers."""
EVENTS_SILENCE_S = 8.0
"""The node sends a blank line every 2 s; after this silence it is taken for dead."""
_IDS: TypeAdapter[list[str]] = TypeAdapter(list[str])
_EVENT: TypeAdapter[NodeEvent] = TypeAdapter(NodeEvent)


class MediaClient:
    """One node's control API. Every method raises MediaError; ``unavailable`` when the node cannot be reached.

    ``control`` is ``unix:/path`` or ``tcp:host:port`` as in NodeConfig.
    """

    def __init__(self, control: str, secret: str) -> None:
        self._control = control
        self._headers = {"Authorization": f"Bearer {secret}"}
        self._base = ""
        self._session: ClientSession | None = None

    async def start(self) -> None:
        """Make the session; connects at the first request."""
        kind, _, address = self._control.partition(":")
        if kind == "unix":
            connector: UnixConnector | TCPConnector = UnixConnector(address, limit=32)
            self._base = "http://node"
        elif kind == "tcp":
            connector = TCPConnector(limit=32)
            self._base = f"http://{address}"
        else:
            raise ValueError(f"no control address: {self._control!r}")
        self._session = ClientSession(connector=connector, headers=self._headers)

    async def close(self) -> None:
        """Close all connections. Idempotent."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def open_receiver(self, spec: ReceiverSpec) -> ReceiverInfo:
        return ReceiverInfo.model_validate_json(await self._call("POST", "/streams", spec))

    async def update_receiver(self, stream_id: str, update: ReceiverUpdate) -> None:
        await self._call("PATCH", f"/streams/{stream_id}", update)

    async def close_receiver(self, stream_id: str) -> None:
        await self._call("DELETE", f"/streams/{stream_id}")

    async def open_input(self, spec: InputSpec) -> None:
        """Open a stream that is no RTP session of a device; end it by :meth:`close_receiver`."""
        await self._call("POST", "/inputs", spec)

    async def control_input(self, stream_id: str, control: InputControl) -> PlayPosition:
        """Pause, move or turn a recording; returns when that is done."""
        return PlayPosition.model_validate_json(await self._call("PATCH", f"/inputs/{stream_id}", control))

    async def order_download(self, spec: DownloadSpec) -> DownloadInfo:
        """Plan a download of recordings. ``busy`` when too many are under way, ``not_found`` for an empty range."""
        body = await self._call("POST", "/downloads", spec, timeout_s=SLOW_TIMEOUT_S)
        return DownloadInfo.model_validate_json(body)

    async def open_transfer(self, spec: TransferSpec) -> None:
        """Take what a device sends of a recording into a file."""
        await self._call("POST", "/transfers", spec)

    async def transfer(self, transfer_id: str) -> TransferInfo:
        return TransferInfo.model_validate_json(await self._call("GET", f"/transfers/{transfer_id}"))

    async def close_transfer(self, transfer_id: str) -> TransferInfo:
        """End it; what is in its files."""
        body = await self._call("DELETE", f"/transfers/{transfer_id}", timeout_s=SLOW_TIMEOUT_S)
        return TransferInfo.model_validate_json(body)

    async def stream(self, stream_id: str) -> StreamStats:
        return StreamStats.model_validate_json(await self._call("GET", f"/streams/{stream_id}"))

    async def stats(self) -> NodeStats:
        return NodeStats.model_validate_json(await self._call("GET", "/stats"))

    async def open_sender(self, spec: SenderSpec) -> SenderInfo:
        return SenderInfo.model_validate_json(await self._call("POST", "/senders", spec))

    async def start_sender(self, sender_id: str) -> None:
        await self._call("POST", f"/senders/{sender_id}/start")

    async def close_sender(self, sender_id: str) -> None:
        await self._call("DELETE", f"/senders/{sender_id}")

    async def set_disks(self, disks: DiskList) -> None:
        """Tell the node where recordings may be written."""
        await self._call("PUT", "/disks", disks)

    async def open_recording(self, spec: RecordingSpec) -> None:
        await self._call("POST", "/recordings", spec)

    async def recordings(self) -> list[str]:
        """Ids of the recordings that run."""
        return _IDS.validate_json(await self._call("GET", "/recordings"))

    async def trigger_recording(self, recording_id: str, seconds: float) -> None:
        """Let a recording in standby write from its pre-event seconds on until ``seconds`` from now."""
        await self._call("POST", f"/recordings/{recording_id}/trigger", RecordingTrigger(seconds=seconds))

    async def close_recording(self, recording_id: str) -> None:
        """End a recording; returns when its files are safe, or after some seconds."""
        await self._call("DELETE", f"/recordings/{recording_id}")

    async def add_webrtc_viewer(self, stream_id: str, offer: WebRtcOffer) -> WebRtcAnswer:
        body = await self._call("POST", f"/streams/{stream_id}/webrtc", offer, timeout_s=SLOW_TIMEOUT_S)
        return WebRtcAnswer.model_validate_json(body)

    async def close_viewer(self, viewer_id: str) -> None:
        await self._call("DELETE", f"/viewers/{viewer_id}")

    async def open_talk(self, spec: TalkSpec) -> None:
        """Open a talk; end it by :meth:`close_talk`."""
        await self._call("POST", "/talks", spec)

    async def mute_talk(self, talk_id: str, *, muted: bool) -> None:
        await self._call("PATCH", f"/talks/{talk_id}", TalkMute(muted=muted))

    async def close_talk(self, talk_id: str) -> None:
        await self._call("DELETE", f"/talks/{talk_id}")

    async def add_talker(self, talk_id: str, offer: TalkOffer) -> TalkAnswer:
        """Let a browser's microphone speak."""
        body = await self._call("POST", f"/talks/{talk_id}/webrtc", offer, timeout_s=SLOW_TIMEOUT_S)
        return TalkAnswer.model_validate_json(body)

    async def push_sound(self, talk_id: str, data: bytes, *, file: bool = False) -> TalkQueued:
        """Queue G.711A samples, or a sound file of any kind. ``unsupported`` when that has no sound."""
        path = f"/talks/{talk_id}/audio" + ("?file=1" if file else "")
        body = await self._call("POST", path, raw=data, timeout_s=40.0)
        return TalkQueued.model_validate_json(body)

    async def open_talk_leg(self, spec: TalkLegSpec) -> TalkLegInfo:
        return TalkLegInfo.model_validate_json(await self._call("POST", "/legs", spec))

    async def start_talk_leg(self, leg_id: str, target: TalkLegTarget) -> None:
        await self._call("POST", f"/legs/{leg_id}/start", target)

    async def close_talk_leg(self, leg_id: str) -> None:
        await self._call("DELETE", f"/legs/{leg_id}")

    async def answer_wanted(self, request_id: str, answer: WantedAnswer) -> None:
        """Answer a StreamWanted. ``not_found`` when the player has gone."""
        await self._call("POST", f"/wanted/{request_id}", answer)

    async def snapshot(self, stream_id: str) -> bytes:
        """A JPEG."""
        return await self._call("POST", f"/streams/{stream_id}/snapshot", timeout_s=SLOW_TIMEOUT_S)

    async def events(self) -> AsyncIterator[NodeEvent]:
        """The node's events as they happen. Ends with MediaError(unavailable) when the node is gone or silent.

        Events of a newer node that this version does not know are skipped.
        """
        timeout = ClientTimeout(total=None, sock_connect=REQUEST_TIMEOUT_S, sock_read=EVENTS_SILENCE_S)
        response = await self._open("GET", "/events", None, timeout)
        try:
            async for line in response.content:
                if line.strip():
                    try:
                        event = _EVENT.validate_json(line)
                    except ValidationError:
                        continue
                    yield event
        except (ClientError, TimeoutError, ConnectionError, ValueError) as error:
            raise MediaError("unavailable", f"the event stream broke: {error}") from error
        finally:
            response.close()  # an endless answer cannot be kept for another request
        raise MediaError("unavailable", "the node ended its event stream")

    async def _call(
        self,
        method: str,
        path: str,
        body: BaseModel | None = None,
        *,
        raw: bytes | None = None,
        timeout_s: float = REQUEST_TIMEOUT_S,
    ) -> bytes:
        response = await self._open(method, path, body, ClientTimeout(total=timeout_s), raw)
        async with response:
            return await _read(response)

    async def _open(
        self,
        method: str,
        path: str,
        body: BaseModel | None,
        timeout: ClientTimeout,
        raw: bytes | None = None,
    ) -> ClientResponse:
        if self._session is None:
            raise MediaError("unavailable", "the client is not started")
        data: str | io.BytesIO | None = None if raw is None else io.BytesIO(raw)
        if body is not None:
            data = body.model_dump_json()
        headers = {"Content-Type": "application/json" if raw is None else "application/octet-stream"}
        try:
            response = await self._session.request(
                method, self._base + path, data=data, timeout=timeout, headers=headers
            )
        except (ClientError, TimeoutError, OSError) as error:
            raise MediaError("unavailable", f"{method} {path}: {error or type(error).__name__}") from error
        if response.status >= 400:
            async with response:
                raise _error(response.status, await _read(response))
        return response


async def _read(response: ClientResponse) -> bytes:
    try:
        return await response.read()
    except (ClientError, TimeoutError, OSError) as error:
        raise MediaError("unavailable", f"{response.method} {response.url.path}: {error}") from error


def _error(status: int, body: bytes) -> MediaError:
    """The node's problem document as an exception."""
    try:
        document = json.loads(body)
        return MediaError(str(document["code"]), str(document.get("detail", "")), status)
    except (ValueError, KeyError, TypeError, AttributeError):
        return MediaError("unavailable", f"status {status}", status)
