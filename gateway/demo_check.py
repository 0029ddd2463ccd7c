"""``gb-gateway demo --check``: proves through the API and the upper platform that pictures arrive and decode."""

from __future__ import annotations

import asyncio
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import aiohttp
import av
from aiortc import RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import MediaStreamError
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from gateway.demo import Demo

WATCH_S = 3.0
MIN_FRAMES = 25
"""One second of pictures at 25 frames per second out of three: a slow machine may start late, a broken one shows none."""


@dataclass(slots=True)
class Finding:
    """One thing that was tried and what was seen."""

    what: str
    way: str
    seen: str
    good: bool


async def check_demo(demo: Demo, console: Console) -> int:
    """Try everything, print what was seen; 0 when all of it is good."""
    channels = await demo.cameras()
    cameras = [channel for channel in channels if channel["device_id"] != channel_of_recorder(channels)]
    findings = [await _watch_fmp4(demo, channel) for channel in cameras]
    others = [channel for channel in channels if channel not in cameras]
    findings += await asyncio.gather(*(_watch_fmp4(demo, channel) for channel in others[:2]))
    findings.append(await _watch_webrtc(demo, cameras[0]))
    findings.append(await _snapshot(demo, cameras[1]))
    for way, channel in zip(("udp", "tcp_passive", "tcp_active"), cameras, strict=False):
        findings.append(await _pull(demo, channel, way))
    findings.append(await _catalog(demo, len(channels)))
    table = Table("", "what", "way", "seen")
    for finding in findings:
        table.add_row(
            "[green]ok[/green]" if finding.good else "[red]FAILED[/red]",
            finding.what,
            finding.way,
            finding.seen,
        )
    console.print(table)
    bad = sum(not finding.good for finding in findings)
    console.print(
        "the installation is sound" if not bad else f"{bad} of {len(findings)} checks failed", highlight=False
    )
    return 1 if bad else 0


def channel_of_recorder(channels: list[dict[str, Any]]) -> str:
    """The device with most channels."""
    devices = [str(channel["device_id"]) for channel in channels]
    return max(set(devices), key=devices.count)


async def _watch_fmp4(demo: Demo, channel: dict[str, Any]) -> Finding:
    """Play through the API and decode what the viewer's URL gives."""
    what = f"{channel['channel_id']} {channel['name']}"
    from gateway.demo import DemoFailed

    try:
        live = await demo.api.call("POST", f"/api/channels/{channel['channel_id']}/live", {})
        data = await _read_for(demo.api.session, live["fmp4"], WATCH_S)
    except (DemoFailed, aiohttp.ClientError, TimeoutError) as error:
        return Finding(what, "fMP4", str(error), False)
    frames, sound, errors, size = await asyncio.to_thread(_decode, data)
    seen = f"{live['video_codec']} {size}: {frames} frames, {sound} sound packets, {errors} errors"
    return Finding(what, f"{live['transport']} → fMP4", seen, frames >= MIN_FRAMES and not errors)


async def _read_for(session: aiohttp.ClientSession, url: str, seconds: float) -> bytes:
    data = bytearray()

    async def read() -> None:
        async with session.get(url) as answer:
            answer.raise_for_status()
            async for chunk in answer.content.iter_any():
                data.extend(chunk)

    try:
        await asyncio.wait_for(read(), seconds)
    except TimeoutError:
        if not data:
            raise
    return bytes(data)


def _decode(data: bytes) -> tuple[int, int, int, str]:
    """Frames decoded, audio packets, decoding errors, size of the picture."""
    frames = sound = errors = 0
    size = ""
    try:
        with av.open(io.BytesIO(data), "r") as container:
            for packet in container.demux():
                if packet.stream.type == "audio":
                    sound += 1 if packet.size else 0
                    continue
                try:
                    for frame in packet.decode():
                        if isinstance(frame, av.VideoFrame):
                            frames += 1
                            size = f"{frame.width}x{frame.height}"
                except av.FFmpegError:
                    errors += 1
    except (av.FFmpegError, IndexError):
        pass  # the recording ends in the middle of a fragment
    return frames, sound, errors, size


async def _watch_webrtc(demo: Demo, channel: dict[str, Any]) -> Finding:
    """Be a browser: offer, answer, decode."""
    what = f"{channel['channel_id']} {channel['name']}"
    peer = RTCPeerConnection()
    peer.addTransceiver("video", direction="recvonly")
    frames = 0
    try:
        await peer.setLocalDescription(await peer.createOffer())
        url = f"{demo.api.url}/api/channels/{channel['channel_id']}/whep"
        headers = {"Content-Type": "application/sdp", "Origin": demo.api.url}
        async with demo.api.session.post(url, data=peer.localDescription.sdp, headers=headers) as answer:
            text = await answer.text()
            if answer.status != 201:
                return Finding(what, "WebRTC", f"{answer.status} {text[:200]}", False)
        await peer.setRemoteDescription(RTCSessionDescription(text, "answer"))
        track = peer.getReceivers()[0].track
        async with asyncio.timeout(WATCH_S + 5):
            while frames < MIN_FRAMES:
                await track.recv()
                frames += 1
    except (TimeoutError, MediaStreamError, aiohttp.ClientError) as error:
        return Finding(what, "WebRTC", f"{frames} frames, {type(error).__name__}", False)
    finally:
        await peer.close()
    return Finding(what, "WebRTC", f"{frames} frames decoded", True)


async def _snapshot(demo: Demo, channel: dict[str, Any]) -> Finding:
    what = f"{channel['channel_id']} {channel['name']}"
    from gateway.demo import DemoFailed

    try:
        data = await demo.api.call("GET", f"/api/channels/{channel['channel_id']}/snapshot")
    except (DemoFailed, aiohttp.ClientError) as error:
        return Finding(what, "snapshot", str(error), False)
    return Finding(what, "snapshot", f"JPEG of {len(data)} bytes", data[:2] == b"\xff\xd8")


async def _pull(demo: Demo, channel: dict[str, Any], way: str) -> Finding:
    """Let the upper platform play the channel and decode it."""
    what = f"{channel['channel_id']} {channel['name']}"
    seen = await demo.peers.order(pull=channel["channel_id"], transport=way, seconds=WATCH_S)
    if "error" in seen:
        return Finding(what, f"upper, {way}", seen["error"], False)
    text = (
        f"{seen['codec']} {seen['width']}x{seen['height']}: {seen['frames']} frames, "
        f"{seen['decode_errors']} errors, {seen['lost']} lost"
    )
    return Finding(what, f"upper, {way}", text, seen["frames"] >= MIN_FRAMES and not seen["decode_errors"])


async def _catalog(demo: Demo, cameras: int) -> Finding:
    """Let the upper platform ask for the catalog."""
    seen = await demo.peers.order(catalog=True)
    if "error" in seen:
        return Finding("catalog", "upper", seen["error"], False)
    return Finding("catalog", "upper", f"{seen['items']} entries", seen["items"] >= cameras)
