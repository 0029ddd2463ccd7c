"""WebRTC viewers (WHEP answers): H.264, H.265 and G.711 go to the browser as the camera encoded them.

What a browser would not decode is refused with ``unsupported`` (H.265 it does not offer, B-frames), and the client
asks for another way. A viewer begins with the cached group of pictures, paced; a lost picture is helped from the cache
and asks the camera for a key frame.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import asdict

from aiohttp import web
from aioice.ice import Connection
from aiortc import (
    RTCBundlePolicy,
    RTCConfiguration,
    RTCPeerConnection,
    RTCRtpSender,
    RTCRtpTransceiver,
    RTCSessionDescription,
)
from aiortc.exceptions import InvalidStateError, OperationError
from aiortc.rtcdtlstransport import SRTP_AEAD_AES_128_GCM, SRTP_PROFILES
from pydantic import ValidationError

from media import nal
from media.errors import MediaError
from media.pump import Pump
from media.readers import offer as offers
from media.readers.host import ReaderHost
from media.readers.rtc import DirectSender
from media.readers.rtc_channel import Outbox, RtcChannel, Sounds
from media.readers.rtc_port import ViewerPorts
from media.specs import WebRtcAnswer, WebRtcOffer, WebRtcStats
from media.stream import Stream, StreamEnded
from media.unit import Codec

log = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 20.0
"""From the answer to the finished DTLS handshake."""
REAP_S = 5.0

_AUDIO = {Codec.PCMA: "PCMA", Codec.PCMU: "PCMU"}
_CHEAP_FIRST = sorted(SRTP_PROFILES, key=lambda profile: profile is not SRTP_AEAD_AES_128_GCM)
"""AES-128 in Galois counter mode costs half of what the counter mode with SHA-1 does, per packet."""


class WebRtcViewer:
    """One peer connection and the task that owns it. Always ended by `stop` or by itself, and then cleaned up once."""

    def __init__(
        self, host: ReaderHost, channel: RtcChannel, viewer_id: str, ports: ViewerPorts, pump: Pump
    ) -> None:
        self.viewer_id = viewer_id
        self.stream = channel.stream
        self.outbox: Outbox
        self._host = host
        self._channel = channel
        self._ports = ports
        self._pump = pump
        self._cause = "left"
        self._peer = RTCPeerConnection(
            RTCConfiguration(iceServers=[], bundlePolicy=RTCBundlePolicy.MAX_BUNDLE)
        )
        self._connected = asyncio.Event()
        self._connection: Connection | None = None
        self._video: DirectSender
        self._audio: DirectSender | None = None
        self._task: asyncio.Task[None] | None = None
        self._ending = False

    async def answer(self, request: WebRtcOffer) -> str:
        """Negotiate and start. MediaError: bad_request, unsupported, no_port."""
        codec, info = self._check_codec()
        try:
            prepared = offers.prepare(request.sdp, info.profile if info else None, codec)
        except offers.OfferError as error:
            raise MediaError(error.code, str(error)) from error
        self._peer.on("connectionstatechange", self._state_changed)
        try:
            sdp = await self._negotiate(prepared, request.host)
        except MediaError:
            await self._close_peer()
            raise
        except (
            ValueError,
            LookupError,
            AttributeError,
            AssertionError,
            InvalidStateError,
            OperationError,
        ) as error:
            await self._close_peer()
            raise MediaError("bad_request", f"the offer cannot be answered: {error}") from error
        self._host.viewer_opened(self.stream, self.viewer_id, "webrtc")
        self._task = asyncio.create_task(self._live(), name=f"webrtc {self.viewer_id}")
        return prepared.restore(sdp)

    def _check_codec(self) -> tuple[Codec, nal.SpsInfo | None]:
        video, key = self.stream.video, self.stream.last_key
        if video is None or key is None:
            raise MediaError("not_ready", "no picture has come yet")
        if video.codec not in (Codec.H264, Codec.H265):
            raise MediaError("unsupported", f"browsers take no {video.codec} by WebRTC")
        reorders = video.has_b_frames or any(
            nal.has_b_slices(unit.codec, unit.data) for unit in self.stream.gop() if unit.codec.is_video
        )
        if reorders:
            raise MediaError("unsupported", "the picture has B-frames, which WebRTC cannot carry")
        return key.codec, nal.describe(key.codec, key.data)

    async def _negotiate(self, prepared: offers.PreparedOffer, host: str | None) -> str:
        # Preferences count only when they are set before the remote description.
        transceiver = self._peer.addTransceiver("video", direction="sendonly")
        capabilities = RTCRtpSender.getCapabilities("video").codecs
        transceiver.setCodecPreferences(
            [codec for codec in capabilities if codec.mimeType in ("video/H264", "video/rtx")]
        )
        self._video = DirectSender(transceiver.sender, self._channel.clock, 90_000, self._picture_lost)
        self.outbox = Outbox(
            self._video,
            self._pump,
            on_drop=self._dropped,
            on_key_wanted=self.stream.request_key_frame,
        )
        self._add_audio(prepared)
        dtls = transceiver.sender.transport
        dtls._srtp_profiles = _CHEAP_FIRST
        self._connection = dtls.transport._connection
        self._ports.place(self._connection, host)
        await self._peer.setRemoteDescription(RTCSessionDescription(prepared.sdp, "offer"))
        if "a=setup:actpass" in prepared.sdp and dtls._role == "auto":
            dtls._set_role("server")  # who answers the handshake chooses the cipher
        await self._peer.setLocalDescription(await self._peer.createAnswer())
        return str(self._peer.localDescription.sdp)

    def _add_audio(self, prepared: offers.PreparedOffer) -> None:
        track = self.stream.audio
        name = _AUDIO.get(Codec(track.codec)) if track is not None else None
        if name is None or name not in prepared.audio_codecs:
            return
        transceiver: RTCRtpTransceiver = self._peer.addTransceiver("audio", direction="sendonly")
        capabilities = RTCRtpSender.getCapabilities("audio").codecs
        transceiver.setCodecPreferences(
            [codec for codec in capabilities if codec.mimeType == f"audio/{name}"]
        )
        self._audio = DirectSender(transceiver.sender, self._channel.clock, 8000, lambda: None)

    def _state_changed(self) -> None:
        state = self._peer.connectionState
        if state == "connected":
            self._connected.set()
        elif state in ("failed", "closed"):
            self.end("connection_failed" if state == "failed" else "left")

    def hear(self, sounds: Sounds) -> None:
        """Live sound; there is no use in what was before the viewer came."""
        if self._audio is not None:
            for stamp, packets in sounds:
                self._audio.send(packets, 0, stamp, marked=False)

    def _picture_lost(self) -> None:
        self._channel.picture_lost(self)

    def _dropped(self, count: int) -> None:
        self.stream.reader_drops += count

    @property
    def retransmitted(self) -> int:
        return self._video.retransmitted + (self._audio.retransmitted if self._audio else 0)

    def end(self, cause: str) -> None:
        """Ask the viewer's task to clean up. Idempotent."""
        if self._task is not None and not self._ending:
            self._ending = True
            self._cause = cause
            self._task.cancel()

    async def stop(self, cause: str) -> None:
        """End the viewer and wait until it has left its port."""
        self.end(cause)
        if self._task is not None:
            await asyncio.wait([self._task])

    async def wait(self) -> None:
        if self._task is not None:
            await asyncio.wait([self._task])

    async def _close_peer(self) -> None:
        await self._peer.close()
        if self._connection is not None:
            self._ports.leave(self._connection)

    async def _live(self) -> None:
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                await self._connected.wait()
                await self._video.ready.wait()
            self._channel.join(self)
            await asyncio.get_running_loop().create_future()  # until end() cancels it
        except TimeoutError:
            self._cause = "not_connected"
        except StreamEnded as ended:
            self._cause = ended.cause
        except asyncio.CancelledError:
            pass  # by end(), which has set the cause
        finally:
            self._ending = True  # closing the peer reports a change of state, too
            self._channel.leave(self)
            self.outbox.close()
            await self._close_peer()
            self._host.viewer_closed(self.stream, self.viewer_id, self._cause)
            log.info("webrtc viewer closed viewer_id=%s cause=%s", self.viewer_id, self._cause)


class WebRtcRoutes:
    """The control API's handlers for WebRTC viewers of one node, and the owner of what they share."""

    def __init__(self, host: ReaderHost) -> None:
        self._host = host
        self.ports = ViewerPorts(host.config, host.pump)
        self._viewers: dict[str, WebRtcViewer] = {}
        self._channels: dict[Stream, RtcChannel] = {}
        self._reaping: set[asyncio.Task[None]] = set()
        self._gone = WebRtcStats()

    async def start(self, _: web.Application) -> None:
        self.ports.open()

    async def offer(self, request: web.Request) -> web.Response:
        """``POST /streams/{stream_id}/webrtc``: WebRtcOffer in, 201 with WebRtcAnswer out."""
        stream = self._host.stream(request.match_info["stream_id"])
        try:
            asked = WebRtcOffer.model_validate_json(await request.read())
        except ValidationError as error:
            raise MediaError("bad_request", str(error)) from error
        if asked.viewer_id in self._viewers:
            raise MediaError("bad_request", "this viewer_id is in use")
        try:
            await stream.wait_ready(self._host.config.snapshot_timeout_s)
        except (TimeoutError, StreamEnded) as error:
            raise MediaError("not_ready", "no picture has come yet") from error
        channel = self._channels.get(stream) or RtcChannel(stream)
        viewer = WebRtcViewer(self._host, channel, asked.viewer_id, self.ports, self._host.pump)
        self._channels[stream] = channel
        try:
            sdp = await viewer.answer(asked)
        except MediaError:
            self._forget(channel)
            raise
        self._viewers[asked.viewer_id] = viewer
        reaper = asyncio.create_task(self._reap(viewer, channel))
        self._reaping.add(reaper)
        reaper.add_done_callback(self._reaping.discard)
        answer = WebRtcAnswer(viewer_id=asked.viewer_id, sdp=sdp)
        return web.json_response(text=answer.model_dump_json(), status=201)

    async def _reap(self, viewer: WebRtcViewer, channel: RtcChannel) -> None:
        await viewer.wait()
        self._viewers.pop(viewer.viewer_id, None)
        self._gone = self._gone.model_copy(
            update={
                "retransmitted": self._gone.retransmitted + viewer.retransmitted,
                "repeats": self._gone.repeats + viewer.outbox.repeats,
            }
        )
        self._forget(channel)

    def _forget(self, channel: RtcChannel) -> None:
        """Drop a channel without viewers."""
        if not any(viewer.stream is channel.stream for viewer in self._viewers.values()):
            self._channels.pop(channel.stream, None)

    def stats(self) -> WebRtcStats:
        """This node's WebRTC in numbers, viewers that have left included."""
        viewers, counters = self._viewers.values(), self.ports.counters
        return WebRtcStats(
            port=self.ports.port,
            viewers=len(viewers),
            retransmitted=self._gone.retransmitted + sum(viewer.retransmitted for viewer in viewers),
            repeats=self._gone.repeats + sum(viewer.outbox.repeats for viewer in viewers),
            **asdict(counters),
        )

    async def delete(self, request: web.Request) -> web.Response:
        """``DELETE /viewers/{viewer_id}``: 204, also when it is gone already."""
        viewer = self._viewers.get(request.match_info["viewer_id"])
        if viewer is not None:
            await viewer.stop("closed")
        return web.Response(status=204)

    async def close(self, _: web.Application) -> None:
        """End all viewers and release the port (the node is stopping)."""
        viewers = list(self._viewers.values())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(REAP_S):
                await asyncio.gather(*(viewer.stop("node_stopping") for viewer in viewers))
        for channel in tuple(self._channels.values()):
            await channel.close()
        self.ports.close()


def add_control_routes(app: web.Application, node: ReaderHost) -> WebRtcRoutes:
    """Register ``POST /streams/{stream_id}/webrtc`` and ``DELETE /viewers/{viewer_id}``; the port opens with ``app``."""
    routes = WebRtcRoutes(node)
    app.router.add_post("/streams/{stream_id}/webrtc", routes.offer)
    app.router.add_delete("/viewers/{viewer_id}", routes.delete)
    app.on_startup.append(routes.start)
    app.on_shutdown.append(routes.close)
    return routes
