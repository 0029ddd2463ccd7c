"""A scripted RTSP camera: H.264 or H.265 with G.711A or AAC, over TCP interleaved or UDP, with or without digest.

It can be told to go mute, to drop its connections, to refuse, or to leave its parameter sets out of the stream. Its
packetizer is its own, so that a mistake of the gateway's cannot hide behind the same mistake here.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import re
import secrets
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from media.unit import AccessUnit, Codec

PAYLOAD_BYTES = 1300
VIDEO_PT, AUDIO_PT = 96, 8
_SETS = {Codec.H264: (7, 8), Codec.H265: (32, 33, 34)}


def nals(data: bytes) -> list[bytes]:
    return [part for part in re.split(b"\x00?\x00\x00\x01", data) if part]


def kind(codec: Codec, nal: bytes) -> int:
    return nal[0] & 0x1F if codec is Codec.H264 else nal[0] >> 1 & 0x3F


def fragments(codec: Codec, nal: bytes) -> Iterator[bytes]:
    """One NAL unit as RTP payloads: as it is, or as FU-A (RFC 6184 5.8) or FU (RFC 7798 4.4.3)."""
    if len(nal) <= PAYLOAD_BYTES:
        yield nal
        return
    if codec is Codec.H264:
        head, flags, body = bytes((nal[0] & 0xE0 | 28,)), nal[0] & 0x1F, nal[1:]
    else:
        head, flags, body = bytes((nal[0] & 0x81 | 49 << 1, nal[1])), nal[0] >> 1 & 0x3F, nal[2:]
    for start in range(0, len(body), PAYLOAD_BYTES):
        piece = body[start : start + PAYLOAD_BYTES]
        first, last = start == 0, start + PAYLOAD_BYTES >= len(body)
        yield head + bytes((first << 7 | last << 6 | flags,)) + piece


@dataclass
class Feed:
    """What one track sends. ``clock_hz`` is that of its RTP timestamps."""

    codec: Codec
    payload_type: int
    clock_hz: int
    ssrc: int = field(default_factory=lambda: secrets.randbits(31))
    sequence: int = field(default_factory=lambda: secrets.randbits(16))
    base: int = field(default_factory=lambda: secrets.randbits(31))

    def packets(self, unit: AccessUnit, pts: int, *, sets: bool) -> Iterator[bytes]:
        payloads = self._payloads(unit, sets)
        for index, payload in enumerate(payloads):
            marker = index == len(payloads) - 1
            yield self._packet(payload, pts, marker)

    def _packet(self, payload: bytes, pts: int, marker: bool) -> bytes:
        stamp = (self.base + pts * self.clock_hz // 90_000) & 0xFFFFFFFF
        self.sequence = (self.sequence + 1) & 0xFFFF
        head = struct.pack("!BBHII", 0x80, marker << 7 | self.payload_type, self.sequence, stamp, self.ssrc)
        return head + payload

    def _payloads(self, unit: AccessUnit, sets: bool) -> list[bytes]:
        if unit.codec is Codec.AAC:  # RFC 3640 AAC-hbr, one frame without its ADTS header
            raw = unit.data[7:]
            return [struct.pack("!HH", 16, len(raw) << 3) + raw]
        if not unit.codec.is_video:
            return [unit.data]
        wanted = [n for n in nals(unit.data) if sets or kind(unit.codec, n) not in _SETS[unit.codec]]
        return [payload for nal in wanted for payload in fragments(unit.codec, nal)]


class Session:
    """One client: where its packets go."""

    def __init__(self, camera: RtspCamera, writer: asyncio.StreamWriter) -> None:
        self.camera, self.writer = camera, writer
        self.session_id = secrets.token_hex(6)
        self.ways: dict[int, tuple[str, Any]] = {}
        self.feeds = camera.feeds()
        self.task: asyncio.Task[None] | None = None

    def send(self, track: int, packet: bytes) -> None:
        kind_of_way, where = self.ways[track]
        if kind_of_way == "tcp":
            self.writer.write(b"$" + struct.pack("!BH", where, len(packet)) + packet)
        else:
            where.send(packet)

    def close(self) -> None:
        if self.task is not None:
            self.task.cancel()
        for name, where in self.ways.values():
            if name == "udp":
                where.close()
        self.writer.close()


class RtspCamera:
    """Plays ``video`` and ``audio`` (access units of a loop of ``period`` ticks) again and again, at their own pace.

    ``password``: digest is asked for. ``mute``: sessions stand, nothing is sent. ``refuse_status`` answers DESCRIBE.
    ``in_band_sets``: parameter sets are in the stream; else only in the SDP.
    """

    def __init__(
        self,
        video: list[AccessUnit],
        audio: list[AccessUnit] | None = None,
        *,
        period: int,
        username: str = "admin",
        password: str = "",
        in_band_sets: bool = True,
        udp: bool = True,
    ) -> None:
        self.video, self.audio, self.period = video, audio or [], period
        self.username, self.password = username, password
        self.in_band_sets, self.udp = in_band_sets, udp
        self.mute = False
        self.lost_packets: set[int] = set()
        """Numbers of video packets (since the start of each session) that never leave."""
        self.deaf = False
        self.refuse_status: tuple[int, str] | None = None
        self.requests: list[str] = []
        self.transports: list[str] = []
        self.sessions: list[Session] = []
        self.sent_video = 0
        self.port = 0
        self._nonce = secrets.token_hex(8)
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        return f"rtsp://127.0.0.1:{self.port}/stream/1"

    async def __aenter__(self) -> RtspCamera:
        await self.start()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Listen; again on the same port after :meth:`stop`."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            self.drop()
            await self._server.wait_closed()
            self._server = None

    def drop(self) -> None:
        """End every connection without a word."""
        for session in self.sessions:
            session.close()
        self.sessions.clear()

    def feeds(self) -> list[Feed]:
        feeds = [Feed(self.video[0].codec, VIDEO_PT, 90_000)]
        if self.audio:
            aac = self.audio[0].codec is Codec.AAC
            feeds.append(Feed(self.audio[0].codec, 97 if aac else AUDIO_PT, 16_000 if aac else 8_000))
        return feeds

    def sdp(self) -> str:
        codec = self.video[0].codec
        sets = [n for n in nals(self.video[0].data) if kind(codec, n) in _SETS[codec]]
        texts = [base64.b64encode(n).decode() for n in sets]
        lines = ["v=0", "o=- 1 1 IN IP4 127.0.0.1", "s=camera", "c=IN IP4 0.0.0.0", "t=0 0",
                 f"m=video 0 RTP/AVP {VIDEO_PT}"]  # fmt: skip
        if codec is Codec.H264:
            lines += [f"a=rtpmap:{VIDEO_PT} H264/90000",
                      f"a=fmtp:{VIDEO_PT} packetization-mode=1;sprop-parameter-sets={','.join(texts)}"]  # fmt: skip
        else:
            lines += [f"a=rtpmap:{VIDEO_PT} H265/90000",
                      f"a=fmtp:{VIDEO_PT} sprop-vps={texts[0]};sprop-sps={texts[1]};sprop-pps={texts[2]}"]  # fmt: skip
        lines.append("a=control:track1")
        if self.audio and self.audio[0].codec is Codec.AAC:
            lines += ["m=audio 0 RTP/AVP 97", "a=rtpmap:97 MPEG4-GENERIC/16000/1",
                      "a=fmtp:97 streamtype=5;profile-level-id=1;mode=AAC-hbr;config=1408;"
                      "sizelength=13;indexlength=3;indexdeltalength=3", "a=control:track2"]  # fmt: skip
        elif self.audio:
            lines += [f"m=audio 0 RTP/AVP {AUDIO_PT}", "a=rtpmap:8 PCMA/8000", "a=control:track2"]
        return "\r\n".join(lines) + "\r\n"

    # --- signalling ----------------------------------------------------------------------------------------------

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        session = Session(self, writer)
        self.sessions.append(session)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, ValueError):
            while True:
                first = await reader.readexactly(1)
                if first == b"$":  # RTCP of the client
                    await reader.readexactly(struct.unpack("!BH", await reader.readexactly(3))[1])
                    continue
                text = (first + await reader.readuntil(b"\r\n\r\n")).decode()
                if self.deaf:
                    continue
                if not await self._answer(session, text):
                    break
        session.close()
        if session in self.sessions:
            self.sessions.remove(session)

    async def _answer(self, session: Session, text: str) -> bool:
        method, url, _ = text.split(" ", 2)
        head = dict(re.findall(r"^([\w-]+): *(.*?)\r?$", text, re.MULTILINE))
        self.requests.append(method)
        status, extra, body = "200 OK", [], ""
        if method == "OPTIONS":
            extra = ["Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN, GET_PARAMETER"]
        elif not self._allowed(method, head.get("Authorization", "")):
            status = "401 Unauthorized"
            extra = [f'WWW-Authenticate: Digest realm="camera", nonce="{self._nonce}"']
        elif method == "DESCRIBE" and self.refuse_status is not None:
            status = "{} {}".format(*self.refuse_status)
        elif method == "DESCRIBE":
            body = self.sdp()
            extra = ["Content-Type: application/sdp", f"Content-Base: {self.url}/"]
        elif method == "SETUP":
            status, extra = self._setup(session, url, head["Transport"])
        elif method == "PLAY":
            session.task = asyncio.create_task(self._play(session))
        lines = [
            f"RTSP/1.0 {status}",
            f"CSeq: {head['CSeq']}",
            f"Session: {session.session_id};timeout=60",
            *extra,
        ]
        if body:
            lines.append(f"Content-Length: {len(body)}")
        session.writer.write(("\r\n".join(lines) + "\r\n\r\n" + body).encode())
        await session.writer.drain()
        return method != "TEARDOWN"

    def _allowed(self, method: str, value: str) -> bool:
        if not self.password:
            return True
        given = dict(re.findall(r'(\w+)="([^"]*)"', value))

        def md5(text: str) -> str:
            return hashlib.md5(text.encode()).hexdigest()

        one = md5(f"{self.username}:camera:{self.password}")
        two = md5(f"{method}:{given.get('uri', '')}")
        return given.get("response") == md5(f"{one}:{self._nonce}:{two}")

    def _setup(self, session: Session, url: str, transport: str) -> tuple[str, list[str]]:
        track = 0 if url.rstrip("/").endswith("track1") else 1
        channels = re.search(r"interleaved=(\d+)", transport)
        if channels is not None:
            self.transports.append("tcp")
            session.ways[track] = ("tcp", int(channels[1]))
            return "200 OK", [f"Transport: {transport}"]
        if not self.udp:
            return "461 Unsupported Transport", []
        port = re.search(r"client_port=(\d+)", transport)
        assert port is not None
        self.transports.append("udp")
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind(("127.0.0.1", 0))
        sock.connect(("127.0.0.1", int(port[1])))
        sock.setblocking(False)
        session.ways[track] = ("udp", sock)
        own = sock.getsockname()[1]
        return "200 OK", [f"Transport: {transport};server_port={own}-{own + 1}"]

    # --- media ---------------------------------------------------------------------------------------------------

    async def _play(self, session: Session) -> None:
        units = sorted([*self.video, *self.audio], key=lambda unit: (unit.dts, unit.codec.is_video))
        loop = asyncio.get_running_loop()
        begin, first = loop.time(), units[0].dts
        turn = number = 0
        with contextlib.suppress(ConnectionError):
            while True:
                for unit in units:
                    shift = turn * self.period - first
                    await asyncio.sleep(max(0.0, begin + (unit.dts + shift) / 90_000 - loop.time()))
                    track = 0 if unit.codec.is_video else 1
                    if self.mute or track not in session.ways:
                        continue
                    for packet in session.feeds[track].packets(
                        unit, unit.pts + shift, sets=self.in_band_sets
                    ):
                        number += track == 0
                        if track or number not in self.lost_packets:
                            session.send(track, packet)
                    self.sent_video += unit.codec.is_video
                    if session.writer.transport.get_write_buffer_size() > 1 << 20:
                        await session.writer.drain()
                turn += 1
