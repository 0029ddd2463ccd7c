"""Fixed RTSP addresses: who may start what, where the picture is, and what the nodes are told of accounts."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from config.settings import MediaSettings
from gateway.events import EventBus, SecurityEvent
from gateway.model import Channel, Device, State
from gateway.registry import Registry
from gateway.services.access import Principal, Role, TooManyAttempts
from gateway.services.errors import PlayCause, PlayFailed
from gateway.services.nodes import NodePlan
from gateway.services.wanted import WantedStreams
from media.errors import MediaError
from media.specs import RTSP_REALM, StreamWanted, ViewerRefused, WantedAnswer
from sip.digest import ha1

DEVICE, OTHER, CHANNEL = "41018300001180000001", "41018300001180000002", "41018300001310000001"
WORD = "Xm-Rtsp-0001"


class Node:
    """A node handle whose client remembers the answers."""

    def __init__(self) -> None:
        self.client = self
        self.answers: list[WantedAnswer] = []
        self.held_then: list[int] = []
        self.gone = False
        self.player: Player | None = None

    async def answer_wanted(self, request_id: str, answer: WantedAnswer) -> None:
        if self.gone:
            raise MediaError("not_found", "no request")
        self.answers.append(answer)
        self.held_then.append(self.player.holding if self.player else 0)


class Player:
    def __init__(self, node: Any) -> None:
        self.session = SimpleNamespace(node=node, stream_id="abc")
        self.failure: PlayFailed | None = None
        self.holding = 0
        self.keys: list[tuple[str, str, int]] = []
        self.urls = {"rtsp": "rtsp://h:8555/live/abc?ticket=t"}
        self.wait: asyncio.Event | None = None

    async def play(self, device_id: str, channel_id: str, *, stream_number: int = 0) -> Any:
        self.keys.append((device_id, channel_id, stream_number))
        if self.wait is not None:
            await self.wait.wait()
        if self.failure is not None:
            raise self.failure
        return self.session

    @contextmanager
    def held(self, session: Any) -> Any:
        self.holding += 1
        yield
        self.holding -= 1

    def viewer_urls(self, session: Any, request_host: str = "localhost") -> dict[str, str]:
        return {output: url.replace("//h", f"//{request_host}") for output, url in self.urls.items()}


class Tokens:
    async def by_token(self, secret: str, source: str) -> Principal | None:
        if secret == "often":
            raise TooManyAttempts(60)
        role = {"viewer": Role.VIEWER, "operator": Role.OPERATOR}.get(secret)
        return None if role is None else Principal(f"token:{secret}", role, "token", "key")


class House:
    def __init__(self) -> None:
        self.bus = EventBus()
        self.registry = Registry(bus=self.bus)
        self.node = Node()
        self.player = self.node.player = Player(self.node)
        self.audit: list[tuple[str, ...]] = []
        self.service = WantedStreams(
            registry=self.registry, player=self.player, tokens=Tokens(), bus=self.bus,
            audit=lambda *entry: self.audit.append(entry),
        )  # fmt: skip
        for device_id in (DEVICE, OTHER):
            self.registry.put_device(Device(device_id, state=State.ONLINE))
        self.registry.put_channel(Channel(DEVICE, CHANNEL, reported="ON"))

    async def ask(self, **values: Any) -> WantedAnswer:
        wanted = StreamWanted(request_id="1", channel_id=CHANNEL, source="10.0.0.9", host="gate", **values)
        self.service.node_event(self.node, wanted)  # type: ignore[arg-type]
        async with asyncio.timeout(20):
            while self.service._tasks:
                await asyncio.sleep(0)
        return self.node.answers[-1]


@pytest.fixture
def house() -> House:
    return House()


@pytest.mark.parametrize(
    ("proof", "who"), [({"user": "nvr"}, "rtsp:nvr"), ({"token": "viewer"}, "token:viewer")]
)
async def test_the_node_gets_its_stream(house: House, proof: dict[str, str], who: str) -> None:
    assert await house.ask(stream_number=1, **proof) == WantedAnswer(stream_id="abc")
    assert house.player.keys == [(DEVICE, CHANNEL, 1)]
    assert house.node.held_then == [1]  # held until the viewer has its seat
    assert house.player.holding == 0
    assert house.audit == [(who, "live.rtsp", CHANNEL, "ok", "from 10.0.0.9")]


async def test_a_picture_on_another_node(house: House) -> None:
    house.player.session.node = Node()
    answer = await house.ask(user="nvr")
    assert (answer.status, answer.location) == (302, "rtsp://gate:8555/live/abc?ticket=t")
    assert "ticket" not in repr(answer)
    house.player.urls = {"rtsp": ""}
    assert (await house.ask(user="nvr")).status == 503


@pytest.mark.parametrize("token", ["", "unknown", "operator", "often"])
async def test_tokens_that_open_nothing(house: House, token: str) -> None:
    assert (await house.ask(token=token)).status == 403
    assert house.player.keys == []
    assert house.audit[0][3] == "403"


async def test_one_code_at_two_devices(house: House) -> None:
    house.registry.put_channel(Channel(OTHER, CHANNEL, reported="ON"))
    assert (await house.ask(user="nvr")).status == 409
    assert (await house.ask(user="nvr", device_id=OTHER)).stream_id == "abc"
    assert house.player.keys == [(OTHER, CHANNEL, 0)]


@pytest.mark.parametrize(
    ("cause", "status"), [(PlayCause.NOT_FOUND, 404), (PlayCause.BUSY, 409), (PlayCause.NO_PICTURE, 504)]
)
async def test_no_picture(house: House, cause: PlayCause, status: int) -> None:
    house.player.failure = PlayFailed(cause, "so it is")
    assert (await house.ask(user="nvr")).status == status
    assert house.audit[0][3] == cause.value


async def test_a_player_that_has_gone(house: House) -> None:
    house.node.gone = True
    house.node.answers.append(WantedAnswer())
    await house.ask(user="nvr")
    assert house.player.holding == 0


async def test_closing_gives_up_what_is_being_started(house: House) -> None:
    house.player.wait = asyncio.Event()
    wanted = StreamWanted(request_id="1", channel_id=CHANNEL, user="nvr")
    house.service.node_event(house.node, wanted)  # type: ignore[arg-type]
    await asyncio.sleep(0)
    await house.service.close()
    assert not house.service._tasks


async def test_refused_viewers_are_security_events(house: House) -> None:
    seen: list[SecurityEvent] = []
    house.bus.subscribe(SecurityEvent, callback=seen.append)
    refused = ViewerRefused(kind="rtsp_login", source="10.0.0.9", user="root")
    house.service.node_event(house.node, refused)  # type: ignore[arg-type]
    async with asyncio.timeout(20):
        while not seen:
            await asyncio.sleep(0)
    assert [(event.kind, event.source, event.detail) for event in seen] == [
        ("rtsp_login", "10.0.0.9", "user root")
    ]


def test_nodes_get_proofs_and_no_passwords() -> None:
    settings = MediaSettings.model_validate(
        {"nodes": 2, "rtsp_port": 9554, "rtsp_accounts": [{"username": "nvr", "password": WORD}]}
    )
    config = NodePlan(settings, "secret").config(1, "unix:/x", "secret")
    assert config.rtsp_port == 9555
    (account,) = config.rtsp_accounts
    for algorithm in ("MD5", "SHA-256"):
        assert account.ha1(algorithm) == ha1("nvr", RTSP_REALM, WORD, algorithm)
    assert WORD not in config.model_dump_json() + repr(settings) + repr(config)
    assert account.ha1_md5 not in repr(config)


@pytest.mark.parametrize("off", [None, 0])
def test_rtsp_can_be_off(off: int | None) -> None:
    assert NodePlan(MediaSettings(rtsp_port=off), "secret").config(0, "unix:/x", "secret").rtsp_port is None


def test_short_passwords_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 8"):
        MediaSettings.model_validate({"rtsp_accounts": [{"username": "nvr", "password": "short"}]})
