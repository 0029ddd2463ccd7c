"""The HTTP face on fakes: real registry, users and audit in a SQLite file; scripted sessions, control and uppers."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from aiohttp import ClientResponse
from aiohttp.test_utils import TestClient, TestServer
from argon2 import PasswordHasher
from device_fakes import device_parts
from input_fakes import fake_inputs
from notice_fakes import notice_parts
from recording_house import OfEngine, recording_of
from sqlalchemy.ext.asyncio import create_async_engine

from config.settings import (
    DeviceRecordingSettings,
    HeartbeatSettings,
    HttpSettings,
    MediaSettings,
    MetricsSettings,
    RegistrationSettings,
    TlsSettings,
    WireSettings,
)
from config.vendors import load_vendors
from gateway.clock import ManualClock
from gateway.credentials import DeviceSecret
from gateway.events import CatalogCollected, EventBus
from gateway.http.assembly import Http, Parts
from gateway.metrics import Metrics, Sources
from gateway.metrics_recording import RecordingGauges
from gateway.metrics_signalling import SignallingGauges
from gateway.model import (
    Channel,
    ChannelKind,
    Device,
    DeviceKind,
    Platform,
    PlatformState,
    PlatformStatus,
    SessionInfo,
    SessionKind,
    SessionState,
    Share,
    State,
)
from gateway.registry import Registry
from gateway.services.access import Role
from gateway.services.census import Census
from gateway.services.device_download import DeviceDownloads
from gateway.services.device_records import DeviceRecords
from gateway.services.errors import ControlFailed, PlayCause, PlayFailed
from gateway.services.liveness import Liveness
from gateway.services.lower_platforms import LowerPlatforms
from gateway.services.nodes import NodeHandle
from gateway.services.note_check import NoteCheck
from gateway.services.onvif import Onvif
from gateway.services.profiles import ProfileService
from gateway.services.registrar import Registrar
from gateway.services.talk_outputs import Outputs
from gateway.services.talk_record import TalkCause, TalkFailed
from gateway.services.tls_files import TlsFiles
from gateway.services.wire import WireLog
from gateway.storage.journal import Journal
from gateway.storage.notes import NoteStore
from gateway.storage.schema import metadata
from gateway.storage.users import UserStore
from media.specs import NodeStats, StreamStats, VideoTrack
from sip import ptz
from sip.flow import Flow

SERVER = "41018300002000000001"
NVR = "41018300001180000001"
OTHER_NVR = "41018300001180000002"
CAMERA = "41018300001310000001"
LONER = "41018300001320000009"
UPPER = "41010000002000000001"
JPEG = b"\xff\xd8\xff\xe0jpeg"
PASSWORD = "correct horse 1"
QUICK_HASH = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)


class FakeClient:
    """A media node's control API that always has the same answer."""

    def __init__(self) -> None:
        self.stats = StreamStats(
            stream_id="s1",
            ready=True,
            video=VideoTrack(codec="H264", width=640, height=360),
            packets=100,
            lost=2,
        )

    async def stream(self, stream_id: str) -> StreamStats:
        return self.stats


class FakeSession:
    def __init__(self, info: SessionInfo, node: NodeHandle) -> None:
        self.info = info
        self.node = node
        self.session_id = info.session_id
        self.stream_id = info.stream_id
        self.streaming = True


class FakeSessions:
    """Plays everything at once, unless told to fail."""

    def __init__(self) -> None:
        self.failure: Exception | None = None
        self.live: dict[str, FakeSession] = {}
        self.viewers: list[str] = []
        self.asked: list[tuple[Any, ...]] = []
        self.accepted: list[frozenset[str]] = []
        self.node = NodeHandle("node-0", 0, FakeClient(), 8081, pid=7)  # type: ignore[arg-type]
        self.node.stats = NodeStats(node_id="node-0", ports_free=9)

    async def play(
        self, device_id: str, channel_id: str, *, stream_number: int = 0, transport: str | None = None
    ) -> Any:
        self.asked.append((device_id, channel_id, stream_number, transport))
        if self.failure is not None:
            raise self.failure
        info = SessionInfo(
            session_id="5e55101",
            device_id=device_id,
            channel_id=channel_id,
            kind=SessionKind.LIVE,
            state=SessionState.STREAMING,
            stream_id="s1",
            node_id="node-0",
            transport="tcp_passive",
            ssrc=183000001,
            call_id="c@1",
            started_at=datetime(2026, 11, 22, tzinfo=UTC),
            first_picture_s=0.4,
            video_codec="H264",
            audio_codec="PCMA",
            viewers=1,
        )
        return self.live.setdefault(info.session_id, FakeSession(info, self.node))

    async def fitting(
        self,
        device_id: str,
        channel_id: str,
        accept: frozenset[str],
        *,
        stream_number: int = 0,
        transport: str | None = None,
    ) -> Any:
        self.accepted.append(accept)
        return await self.play(device_id, channel_id, stream_number=stream_number, transport=transport)

    async def whep(
        self,
        device_id: str,
        channel_id: str,
        offer_sdp: str,
        *,
        stream_number: int = 0,
        accept: frozenset[str] | None = None,
    ) -> tuple[str, str]:
        if accept is not None:
            self.accepted.append(accept)
        await self.play(device_id, channel_id, stream_number=stream_number)
        self.viewers.append("v1e3e7")
        return "v1e3e7", "v=0\r\nanswer\r\n"

    async def close_viewer(self, viewer_id: str) -> bool:
        if viewer_id not in self.viewers:
            return False
        self.viewers.remove(viewer_id)
        return True

    def viewer_urls(self, session: Any, request_host: str = "localhost") -> dict[str, str]:
        base = f"{request_host}:8081/live/{session.stream_id}"
        endings = {
            "fmp4": ".mp4",
            "ws": "/ws",
            "flv": ".flv",
            "ws_flv": "/ws.flv",
            "ts": ".ts",
            "hls": ".m3u8",
        }
        return {
            output: f"{'ws' if output.startswith('ws') else 'http'}://{base}{ending}?ticket=t"
            for output, ending in endings.items()
        }

    async def snapshot(self, device_id: str, channel_id: str) -> bytes:
        await self.play(device_id, channel_id)
        return JPEG

    def list(self) -> list[SessionInfo]:
        return [session.info for session in self.live.values()]

    def get(self, session_id: str) -> Any:
        return self.live.get(session_id)

    async def stop(self, session_id: str, cause: str = "operator") -> None:
        if self.live.pop(session_id, None) is None:
            raise PlayFailed(PlayCause.NOT_FOUND, f"session {session_id} is not known")


class FakeTalks:
    """Nobody speaks here."""

    def __init__(self, registry: Registry) -> None:
        self.outputs = Outputs(registry)

    def under_way(self) -> list[Any]:
        return []

    def find(self, talk_id: str) -> Any:
        return None

    def holder(self, target: Any) -> Any:
        return None

    async def begin(self, keys: Any, **asked: Any) -> Any:
        raise TalkFailed(TalkCause.TOO_MANY, "nobody may speak")


class FakePlaybacks:
    """Nothing is recorded here."""

    async def open(self, wish: Any, owner: str) -> Any:
        raise PlayFailed(PlayCause.NOT_FOUND, "nothing is recorded")

    async def control(self, playback: Any, control: Any) -> Any:
        raise PlayFailed(PlayCause.NODE_DOWN, "no node")

    def close(self, playback: Any, cause: str) -> Any:
        raise AssertionError("there is no playback")

    def get(self, session_id: str) -> None:
        return None

    async def download(self, *wanted: Any) -> str:
        raise PlayFailed(PlayCause.NOT_FOUND, "nothing is recorded")


class FakeControl:
    def __init__(self) -> None:
        self.commands: list[tuple[str, str, ptz.PtzCommand, str, int]] = []
        self.failure: ControlFailed | None = None

    async def ptz(
        self,
        device_id: str,
        channel_id: str,
        command: ptz.PtzCommand,
        who: str,
        *,
        priority: int = 0,
        preset_name: str = "",
        cruise_track_name: str = "",
    ) -> None:
        if self.failure is not None:
            raise self.failure
        self.commands.append((device_id, channel_id, command, who, priority))

    async def key_frame(self, device_id: str, channel_id: str, who: str = "") -> bool:
        return True


class FakeUppers:
    def __init__(self) -> None:
        self.known: dict[str, Platform] = {}
        self.picked: dict[str, list[Share]] = {}

    def records(self) -> list[Platform]:
        return list(self.known.values())

    def hosts(self, platform_id: str) -> frozenset[str]:
        return frozenset({self.known[platform_id].host})

    def platforms(self) -> list[PlatformStatus]:
        return [
            PlatformStatus(p, PlatformState.ONLINE, last_response="200 OK", clock_offset_s=90.0)
            for p in self.known
        ]

    async def put_platform(self, platform: Platform) -> None:
        self.known[platform.platform_id] = platform

    async def remove_platform(self, platform_id: str) -> None:
        del self.known[platform_id]

    async def set_shares(self, platform_id: str, wanted: list[Share]) -> None:
        self.picked[platform_id] = [
            dataclasses.replace(share, exported_id=share.exported_id or share.channel_id) for share in wanted
        ]

    def shares(self, platform_id: str) -> list[Share]:
        return self.picked.get(platform_id, [])


class FakeCatalog:
    def __init__(self) -> None:
        self.asked: list[str] = []

    def collecting(self, device_id: str) -> bool:
        return False

    async def refresh(self, device_id: str) -> CatalogCollected:
        self.asked.append(device_id)
        return CatalogCollected(device_id, 1, True)


class FakeSystem:
    server_id = SERVER
    domain = SERVER[:10]

    def __init__(self, sessions: FakeSessions) -> None:
        self._sessions = sessions

    def sip_addresses(self, seen_from: str) -> list[str]:
        return ["udp:192.0.2.1:5060", "tcp:192.0.2.1:5060"]

    def nodes(self) -> list[NodeHandle]:
        return [self._sessions.node]

    def session_count(self) -> int:
        return len(self._sessions.live)

    def platform_counts(self) -> tuple[int, int]:
        return 1, 1


class Logged:
    """A client with a token or a session: short words for the tests."""

    def __init__(self, client: TestClient[Any, Any], headers: dict[str, str] | None = None) -> None:
        self.client = client
        self.headers = headers or {}

    async def ask(self, method: str, path: str, **more: Any) -> ClientResponse:
        headers = {**self.headers, **more.pop("headers", {})}
        return await self.client.request(method, path, headers=headers, allow_redirects=False, **more)

    async def json(self, method: str, path: str, status: int = 200, **more: Any) -> Any:
        response = await self.ask(method, path, **more)
        text = await response.text()
        assert response.status == status, f"{response.status} {text}"
        return await response.json(content_type=None) if text else None


def registration_parts(
    database: Any, registry: Registry, bus: EventBus, clock: ManualClock
) -> dict[str, Any]:
    """The registrar, for its conflicts, and the keys of signed messages."""
    liveness = Liveness(settings=HeartbeatSettings(), registry=registry, clock=clock)
    registrar = Registrar(
        settings=RegistrationSettings(), heartbeat=HeartbeatSettings(), domain=SERVER[:10], registry=registry,
        liveness=liveness, bus=bus, clock=clock,
    )  # fmt: skip
    notes = NoteCheck(store=NoteStore(database), registry=registry, bus=bus, window_s=600.0, clock=clock)
    return {"registrar": registrar, "notes": notes}


class House:
    """Everything of one test, with records that most tests need."""

    def __init__(self, folder: Path) -> None:
        self.clock = ManualClock()
        self.bus = EventBus()
        self.registry = Registry(bus=self.bus, clock=self.clock)
        self.census = Census(registry=self.registry, clock=self.clock)
        self.sessions = FakeSessions()
        self.control = FakeControl()
        self.uppers = FakeUppers()
        self.catalog = FakeCatalog()
        self.inputs = fake_inputs(self.registry, SERVER, clock=self.clock)
        self.onvif = Onvif(find=self.inputs.find)
        self.checks = {"sip": True, "media": True}
        self.engine = create_async_engine(f"sqlite+aiosqlite:///{folder}/users.sqlite3")
        self.store = UserStore(self)
        self.recording = recording_of(
            database=OfEngine(self.engine),
            folder=folder,
            registry=self.registry,
            bus=self.bus,
            clock=self.clock,
        )
        self.metrics = Metrics(
            bus=self.bus,
            registry=self.registry,
            census=self.census,
            sources=Sources(
                nodes=lambda: [self.sessions.node],
                sessions=self.sessions.list,
                platforms=self.uppers.platforms,
            ),
            clock=self.clock,
        )
        self.metrics.collector.register(RecordingGauges(self.recording, lambda: [self.sessions.node]))
        self.registration = registration_parts(OfEngine(self.engine), self.registry, self.bus, self.clock)
        self.metrics.collector.register(
            SignallingGauges(
                self.registration["registrar"],
                self.registration["notes"],
                TlsFiles(TlsSettings()),
                lambda: self.metrics.tls_refusals,
            )
        )
        system = FakeSystem(self.sessions)
        self.profiles = ProfileService(
            vendors=load_vendors(), registry=self.registry, bus=self.bus, journal=Journal()
        )
        self.profiles.start()
        self.wire = WireLog(settings=WireSettings(), devices=self.registry.devices, bus=self.bus)
        self.wire.start()
        self.http = Http(
            settings=HttpSettings(),
            metrics_settings=MetricsSettings.model_construct(enabled=True, host="127.0.0.1", port=0),
            media_settings=MediaSettings(),
            store=self.store,
            parts=Parts(
                registry=self.registry,
                bus=self.bus,
                census=self.census,
                conflicts=LowerPlatforms(registry=self.registry, bus=self.bus, journal=Journal()),
                metrics=self.metrics,
                catalog=self.catalog,
                sessions=self.sessions,
                control=self.control,
                uppers=self.uppers,
                inputs=self.inputs,
                onvif=self.onvif,
                recording=self.recording,
                **notice_parts(OfEngine(self.engine), self.registry, self.bus, folder, self.clock),
                **device_parts(OfEngine(self.engine), self.registry, self.bus, folder, self.clock),
                playbacks=FakePlaybacks(),
                device_downloads=DeviceDownloads(
                    settings=DeviceRecordingSettings(),
                    directory=folder / "downloads",
                    sessions=None,  # type: ignore[arg-type]
                    ends=None,  # type: ignore[arg-type]
                    nodes=None,  # type: ignore[arg-type]
                    bus=self.bus,
                    clock=self.clock,
                ),
                device_records=DeviceRecords(
                    settings=DeviceRecordingSettings(),
                    registry=self.registry,
                    asker=None,  # type: ignore[arg-type]
                    clock=self.clock,
                ),
                talks=FakeTalks(self.registry),  # type: ignore[arg-type]
                profiles=self.profiles,
                wire=self.wire,
                own_end=lambda key: ("127.0.0.1", 5060),
                most_sound_bytes=1000,
                **self.registration,
                system=system,
                realm=SERVER[:10],
                checks={name: lambda name=name: self.checks[name] for name in self.checks},
            ),
            clock=self.clock,
            hasher=QUICK_HASH,
        )
        self.clients: list[TestClient[Any, Any]] = []
        self.server: TestServer | None = None

    async def anonymous(self) -> Logged:
        assert self.server is not None
        client = TestClient(self.server)
        self.clients.append(client)
        return Logged(client)

    async def as_role(self, role: Role) -> Logged:
        """A client with a token of this role."""
        secret, _ = await self.http.access.add_token(f"test {role}", role, "admin", None)
        logged = await self.anonymous()
        logged.headers = {"Authorization": f"Bearer {secret}"}
        return logged

    def add_device(self, device_id: str = NVR, *, online: bool = True, **fields: Any) -> Device:
        device = Device(device_id, kind=fields.pop("kind", DeviceKind.RECORDER), **fields)
        if online:
            device.state = State.ONLINE
            device.flow = Flow("tcp", "192.0.2.7", 40000, "192.0.2.1", 5060, 3)
            device.last_seen_mono = self.clock.mono()
        secret = DeviceSecret.of_password(device_id, SERVER[:10], "device-secret-1")
        self.registry.put_device(device, secret=secret)
        return device

    def add_channel(
        self, channel_id: str = CAMERA, device_id: str = NVR, *, reported: str = "ON", **fields: Any
    ) -> Channel:
        fields.setdefault("kind", ChannelKind.CAMERA)
        return self.registry.put_channel(Channel(device_id, channel_id, reported=reported, **fields))


@asynccontextmanager
async def house(folder: Path) -> AsyncIterator[House]:
    """A house whose server listens on a free port of the loopback."""
    built = House(folder)
    async with built.engine.begin() as connection:
        await connection.run_sync(metadata.create_all)
    await built.http.audit.start()
    await built.metrics.start()
    built.server = TestServer(built.http.server.app)
    await built.server.start_server()
    try:
        yield built
    finally:
        built.http.events.close()
        for client in built.clients:
            await client.session.close()
        await built.server.close()
        await built.http.close()
        await built.engine.dispose()
