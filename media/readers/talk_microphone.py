"""A browser's microphone by WebRTC: its G.711A packets are taken as they come, without decoder or encoder.

The browser is offered PCMA alone, so it encodes 8 kHz A-law itself; what a device says back goes to it the same way.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any, cast

from aioice.ice import Connection
from aiortc import (
    RTCBundlePolicy,
    RTCConfiguration,
    RTCPeerConnection,
    RTCRtpSender,
    RTCSessionDescription,
)
from aiortc.exceptions import InvalidStateError, OperationError
from aiortc.rtp import RtpPacket

from media.errors import MediaError
from media.readers import offer as offers
from media.readers.rtc import DirectSender, MediaClock
from media.readers.rtc_packets import UnitPackets
from media.readers.rtc_port import ViewerPorts
from media.specs import TalkOffer
from media.talk import Talk
from media.talk_frames import ticks_of

log = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 20.0
"""From the answer to the finished DTLS handshake."""
PCMA = 8


class Microphone:
    """One peer connection that speaks into a talk. ``on_gone(cause)`` is called once, unless :meth:`stop` ends it."""

    def __init__(self, talk: Talk, ports: ViewerPorts, on_gone: Callable[[str], None]) -> None:
        self._talk = talk
        self._ports = ports
        self._on_gone = on_gone
        self._peer = RTCPeerConnection(
            RTCConfiguration(iceServers=[], bundlePolicy=RTCBundlePolicy.MAX_BUNDLE)
        )
        self._connection: Connection | None = None
        self._connected = asyncio.Event()
        self._over = asyncio.Event()
        self._cause = "left"
        self._task: asyncio.Task[None] | None = None
        self._clock = MediaClock()
        self._ear: DirectSender | None = None
        self._heard_samples = 0
        self._heard_stamp: int | None = None

    async def answer(self, request: TalkOffer) -> str:
        """Negotiate and start. MediaError: bad_request, unsupported (a browser without PCMA), no_port."""
        try:
            offers.check_microphone(request.sdp)
        except offers.OfferError as error:
            raise MediaError(error.code, str(error)) from error
        self._peer.on("connectionstatechange", self._state_changed)
        try:
            sdp = await self._negotiate(request)
        except MediaError:
            await self._close_peer()
            raise
        except (ValueError, LookupError, AttributeError, AssertionError) as error:
            await self._close_peer()
            raise MediaError("bad_request", f"the offer cannot be answered: {error}") from error
        except (InvalidStateError, OperationError) as error:
            await self._close_peer()
            raise MediaError("unsupported", f"the offer cannot be met: {error}") from error
        self._task = asyncio.create_task(self._live(), name=f"microphone {self._talk.spec.talk_id}")
        return sdp

    async def _negotiate(self, request: TalkOffer) -> str:
        both = "a=sendrecv" in request.sdp or "a=sendonly" not in request.sdp
        transceiver = self._peer.addTransceiver("audio", direction="sendrecv" if both else "recvonly")
        capabilities = RTCRtpSender.getCapabilities("audio").codecs
        transceiver.setCodecPreferences([codec for codec in capabilities if codec.mimeType == "audio/PCMA"])
        cast(Any, transceiver.receiver)._handle_rtp_packet = self._spoken
        if both:
            self._ear = DirectSender(transceiver.sender, self._clock, 8000, lambda: None)
            self._talk.listener = self._hear
        dtls = transceiver.sender.transport
        self._connection = dtls.transport._connection
        self._ports.place(self._connection, request.host)
        cleaned = offers.without_names(request.sdp)
        await self._peer.setRemoteDescription(RTCSessionDescription(cleaned, "offer"))
        await self._peer.setLocalDescription(await self._peer.createAnswer())
        return str(self._peer.localDescription.sdp)

    async def _spoken(self, packet: RtpPacket, arrival_time_ms: int) -> None:
        """In place of the library's way to its decoder."""
        if packet.payload_type == PCMA and packet.payload:
            self._talk.feed(packet.payload, packet.timestamp)

    def _hear(self, payload: bytes, stamp: int) -> None:
        """Sound of the device. Its clock is made one that does not wrap, for the sender reports."""
        if self._ear is None:
            return
        if self._heard_stamp is not None:
            self._heard_samples += (stamp - self._heard_stamp + 0x80000000 & 0xFFFFFFFF) - 0x80000000
        self._heard_stamp = stamp
        self._clock.note(ticks_of(self._heard_samples), time.monotonic())
        self._ear.send(UnitPackets([payload]), 0, self._heard_samples, marked=False)

    def _state_changed(self) -> None:
        state = self._peer.connectionState
        if state == "connected":
            self._connected.set()
        elif state in ("failed", "closed"):
            self._cause = "connection_failed" if state == "failed" else "left"
            self._over.set()

    async def stop(self) -> None:
        """Leave the port; nobody is told."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _live(self) -> None:
        told = False
        try:
            try:
                async with asyncio.timeout(CONNECT_TIMEOUT_S):
                    await self._connected.wait()
            except TimeoutError:
                self._cause = "not_connected"
            else:
                await self._over.wait()
            told = True
        except asyncio.CancelledError:
            pass  # by stop()
        finally:
            if self._talk.listener == self._hear:
                self._talk.listener = None
            await self._close_peer()
            log.info("event=microphone_closed talk_id=%s cause=%s", self._talk.spec.talk_id, self._cause)
            if told:
                self._on_gone(self._cause)

    async def _close_peer(self) -> None:
        await self._peer.close()
        if self._connection is not None:
            self._ports.leave(self._connection)
