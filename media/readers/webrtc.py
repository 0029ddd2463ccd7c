"""WebRTC viewers (WHEP answers): H.264 and G.711 go to the browser as the camera encoded them.

What a browser would not decode is refused with ``unsupported`` (H.265, B-frames), and the client takes fMP4 instead.
A viewer begins with the cached group of pictures, paced; a lost picture asks the camera for a key frame.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import weakref
from collections import OrderedDict

from aiohttp import web
from aiortc import (
    RTCBundlePolicy,
    RTCConfiguration,
    RTCPeerConnection,
    RTCRtpSender,
    RTCRtpTransceiver,
    RTCSessionDescription,
)
from aiortc.exceptions import InvalidStateError, OperationError
from pydantic import ValidationError

from media import nal
from media.errors import MediaError
from media.readers import offer as offers
from media.readers.h264_rtp import packetise
from media.readers.host import ReaderHost
from media.readers.rtc import DirectSender, bind_in_range, interfaces
from media.specs import WebRtcAnswer, WebRtcOffer
from media.stream import Reader, Stream, StreamEnded
from media.unit import AccessUnit, Codec

log = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 20.0
"""From the answer to the finished DTLS handshake."""
PACE_BIT_S = 40_000_000
"""Bursts (key frames, the cached start) leave at this rate: unpaced ones overrun receive buffers."""
PACE_SLACK_S = 0.004
CACHED_UNITS = 256
G711_PACKET_BYTES = 480
"""60 ms: some devices send their G.711 in larger pieces than receivers like."""
STALE_AUDIO_S = 0.5

_AUDIO = {Codec.PCMA: "PCMA", Codec.PCMU: "PCMU"}


class PayloadCache:
    """RTP payloads of recent pictures, made once for all viewers of a stream."""

    def __init__(self) -> None:
        # The unit is kept beside its payloads: an id alone could be given to another object.
        self._entries: OrderedDict[int, tuple[AccessUnit, list[bytes]]] = OrderedDict()

    def payloads(self, unit: AccessUnit) -> list[bytes]:
        entry = self._entries.get(id(unit))
        if entry is None:
            entry = self._entries[id(unit)] = (unit, packetise(unit.data))
            if len(self._entries) > CACHED_UNITS:
                self._entries.popitem(last=False)
        return entry[1]


class Pacer:
    """Holds a burst to a bit rate; what is live anyway passes without waiting."""

    def __init__(self, bit_s: int = PACE_BIT_S) -> None:
        self._per_byte_s = 8 / bit_s
        self._due = 0.0

    async def wait(self, size: int) -> None:
        """Account for ``size`` bytes about to be sent, after waiting for those before."""
        now = time.monotonic()
        if self._due - now > PACE_SLACK_S:
            await asyncio.sleep(self._due - now)
            now = time.monotonic()
        self._due = max(self._due, now) + size * self._per_byte_s


class WebRtcViewer:
    """One peer connection and the task that feeds it. Always ended by `stop` or by itself, and then cleaned up once."""

    def __init__(self, host: ReaderHost, stream: Stream, viewer_id: str, cache: PayloadCache) -> None:
        self.viewer_id = viewer_id
        self.stream = stream
        self._host = host
        self._cache = cache
        self._cause = "left"
        self._peer = RTCPeerConnection(
            RTCConfiguration(iceServers=[], bundlePolicy=RTCBundlePolicy.MAX_BUNDLE)
        )
        self._connected = asyncio.Event()
        self._video: DirectSender | None = None
        self._audio: DirectSender | None = None
        self._task: asyncio.Task[None] | None = None
        self._ending = False

    async def answer(self, request: WebRtcOffer) -> str:
        """Negotiate and start. MediaError: bad_request, unsupported, no_port."""
        info = self._check_codec()
        try:
            prepared = offers.prepare(request.sdp, info.profile if info else 66)
        except offers.OfferError as error:
            raise MediaError(error.code, str(error)) from error
        self._peer.on("connectionstatechange", self._state_changed)
        try:
            sdp = await self._negotiate(prepared, request.host)
        except MediaError:
            await self._peer.close()
            raise
        except (
            ValueError,
            LookupError,
            AttributeError,
            AssertionError,
            InvalidStateError,
            OperationError,
        ) as error:
            await self._peer.close()
            raise MediaError("bad_request", f"the offer cannot be answered: {error}") from error
        self._host.viewer_opened(self.stream, self.viewer_id, "webrtc")
        self._task = asyncio.create_task(self._live(), name=f"webrtc {self.viewer_id}")
        return prepared.restore(sdp)

    def _check_codec(self) -> nal.SpsInfo | None:
        video, key = self.stream.video, self.stream.last_key
        if video is None or key is None:
            raise MediaError("not_ready", "no picture has come yet")
        if video.codec != Codec.H264:
            raise MediaError("unsupported", f"browsers take no {video.codec} by WebRTC")
        reorders = video.has_b_frames or any(
            nal.has_b_slices(unit.codec, unit.data) for unit in self.stream.gop() if unit.codec.is_video
        )
        if reorders:
            raise MediaError("unsupported", "the picture has B-frames, which WebRTC cannot carry")
        return nal.describe(key.codec, key.data)

    async def _negotiate(self, prepared: offers.PreparedOffer, host: str | None) -> str:
        # Preferences count only when they are set before the remote description.
        transceiver = self._peer.addTransceiver("video", direction="sendonly")
        capabilities = RTCRtpSender.getCapabilities("video").codecs
        transceiver.setCodecPreferences(
            [codec for codec in capabilities if codec.mimeType in ("video/H264", "video/rtx")]
        )
        self._video = DirectSender(transceiver.sender, self.stream.request_key_frame)
        self._add_audio(prepared)
        config = self._host.config
        bind_in_range(
            transceiver.sender.transport.transport._connection,
            interfaces(config.bind_host, config.media_host, host),
            range(config.webrtc_port_min, config.webrtc_port_max + 1),
        )
        await self._peer.setRemoteDescription(RTCSessionDescription(prepared.sdp, "offer"))
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
        self._audio = DirectSender(transceiver.sender, lambda: None)

    def _state_changed(self) -> None:
        state = self._peer.connectionState
        if state == "connected":
            self._connected.set()
        elif state in ("failed", "closed"):
            self.end("connection_failed" if state == "failed" else "left")

    def end(self, cause: str) -> None:
        """Ask the viewer's task to clean up. Idempotent."""
        if self._task is not None and not self._ending:
            self._ending = True
            self._cause = cause
            self._task.cancel()

    async def stop(self, cause: str) -> None:
        """End the viewer and wait until its sockets are closed."""
        self.end(cause)
        if self._task is not None:
            await asyncio.wait([self._task])

    async def wait(self) -> None:
        if self._task is not None:
            await asyncio.wait([self._task])

    async def _live(self) -> None:
        reader: Reader | None = None
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                await self._connected.wait()
                if self._video is not None:
                    await self._video.ready.wait()
            reader = self.stream.attach("webrtc")
            await self._feed(reader)
        except TimeoutError:
            self._cause = "not_connected"
        except StreamEnded as ended:
            self._cause = ended.cause
        except asyncio.CancelledError:
            pass  # by end(), which has set the cause
        finally:
            self._ending = True  # closing the peer reports a change of state, too
            if reader is not None:
                reader.detach()
            await self._peer.close()
            self._host.viewer_closed(self.stream, self.viewer_id, self._cause)
            log.info("webrtc viewer closed viewer_id=%s cause=%s", self.viewer_id, self._cause)

    async def _feed(self, reader: Reader) -> None:
        pacer = Pacer()
        started = time.monotonic()
        needs_key = True
        while True:
            unit = await reader.next()
            if not unit.codec.is_video:
                stale = unit.arrival_mono and unit.arrival_mono < started - STALE_AUDIO_S
                if not stale:
                    self._send_audio(unit)
                continue
            if unit.codec is not Codec.H264:
                self._cause = "unsupported"
                return
            if needs_key and not unit.key:
                self.stream.reader_drops += 1
                continue
            payloads = self._cache.payloads(unit)
            # Piece by piece: a large key frame is a burst by itself.
            sent = True
            for start in range(0, len(payloads), 16):
                piece = payloads[start : start + 16]
                await pacer.wait(sum(map(len, piece)))
                last = start + 16 >= len(payloads)
                sent = sent and self._video is not None and self._video.send(piece, unit.pts, marker=last)
            needs_key = not sent
            if not sent:
                self.stream.reader_drops += 1
                self.stream.request_key_frame()

    def _send_audio(self, unit: AccessUnit) -> None:
        if self._audio is None or unit.codec not in _AUDIO:
            return
        stamp = unit.pts * 8000 // 90000
        for start in range(0, len(unit.data), G711_PACKET_BYTES):
            self._audio.send([unit.data[start : start + G711_PACKET_BYTES]], stamp + start, marker=False)


class WebRtcRoutes:
    """The control API's handlers for WebRTC viewers of one node."""

    def __init__(self, host: ReaderHost) -> None:
        self._host = host
        self._viewers: dict[str, WebRtcViewer] = {}
        self._caches: weakref.WeakKeyDictionary[Stream, PayloadCache] = weakref.WeakKeyDictionary()
        self._reaping: set[asyncio.Task[None]] = set()

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
        cache = self._caches.setdefault(stream, PayloadCache())
        viewer = WebRtcViewer(self._host, stream, asked.viewer_id, cache)
        sdp = await viewer.answer(asked)
        self._viewers[asked.viewer_id] = viewer
        reaper = asyncio.create_task(self._reap(viewer))
        self._reaping.add(reaper)
        reaper.add_done_callback(self._reaping.discard)
        answer = WebRtcAnswer(viewer_id=asked.viewer_id, sdp=sdp)
        return web.json_response(text=answer.model_dump_json(), status=201)

    async def _reap(self, viewer: WebRtcViewer) -> None:
        await viewer.wait()
        self._viewers.pop(viewer.viewer_id, None)

    async def delete(self, request: web.Request) -> web.Response:
        """``DELETE /viewers/{viewer_id}``: 204, also when it is gone already."""
        viewer = self._viewers.get(request.match_info["viewer_id"])
        if viewer is not None:
            await viewer.stop("closed")
        return web.Response(status=204)

    async def close(self, _: web.Application) -> None:
        """End all viewers (the node is stopping)."""
        viewers = list(self._viewers.values())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(5):
                await asyncio.gather(*(viewer.stop("node_stopping") for viewer in viewers))


def add_control_routes(app: web.Application, node: ReaderHost) -> None:
    """Register ``POST /streams/{stream_id}/webrtc`` and ``DELETE /viewers/{viewer_id}``."""
    routes = WebRtcRoutes(node)
    app.router.add_post("/streams/{stream_id}/webrtc", routes.offer)
    app.router.add_delete("/viewers/{viewer_id}", routes.delete)
    app.on_shutdown.append(routes.close)
