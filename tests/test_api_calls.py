"""The way from an API call to a message is found in the source, and every question and command has one."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from sip.manscdp import REGISTRY
from sip.manscdp.device_control import COMMANDS

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "tools"))

HTTP = """
from gateway.http.routes import route
from gateway.services.doing import Doer

class Asker(Protocol):
    async def ask(self, device_id, *, loud): ...

class Resource:
    def __init__(self, *, doer: Doer, asker: Asker) -> None:
        self._doer, self._asker = doer, asker

    @route("POST", "/api/guard", summary="")
    async def guard(self, call): return await self._doer.guard(call)

    @route("GET", "/api/presets", summary="")
    async def presets(self, call): return await self._asker.ask("1", loud=True)

    @route("GET", "/api/health", summary="")
    async def health(self, call): return 1
"""
SERVICES = """
from gateway.events import Guarded

TABLE = {1: SDCardStatusQuery}

class Doer:
    def connect(self, dispatch):
        dispatch.on(AlarmNotify, "device")(self._alarm)
        dispatch.on(CatalogQuery, "upper")(self._alarm)

    async def guard(self, call): return await self._step()

    async def _step(self): return helper()

    async def _alarm(self, peer, body, incoming): self._bus.publish(Guarded("1"))

def helper(): return DeviceControl(guard_cmd="SetGuard"), TABLE

class Wanted:
    async def ask(self, device_id, *, loud): return PresetQuery()

class Other:
    async def ask(self, device_id): return HomePositionQuery()
"""


def test_calls_are_followed_through_types_protocols_and_tables(tmp_path: Path) -> None:
    from api_calls import Source, api_calls, events_of

    for folder, text in (("http", HTTP), ("services", SERVICES)):
        (tmp_path / "gateway" / folder).mkdir(parents=True)
        (tmp_path / "gateway" / folder / "doing.py").write_text(text, encoding="utf-8")
    (tmp_path / "gateway" / "events.py").write_text("class Event: ...\nclass Guarded(Event): ...\n")
    source = Source(tmp_path)
    calls = api_calls(source)
    assert calls["DeviceControl.guard_cmd"] == calls["SDCardStatusQuery"] == ["POST /api/guard"]
    assert calls["PresetQuery"] == ["GET /api/presets"]
    assert "HomePositionQuery" not in calls, "a method of that name with other parameters is another one"
    assert events_of(source) == {"AlarmNotify": ["guarded"]}


@pytest.fixture(scope="module")
def calls() -> dict[str, list[str]]:
    from api_calls import api_calls

    return api_calls()


@pytest.mark.parametrize(
    "model", sorted({m.__name__ for m in REGISTRY.values() if m.ROOT in ("Query", "Control")})
)
def test_every_question_and_command_has_an_api_call(calls: dict[str, list[str]], model: str) -> None:
    assert calls.get(model)


@pytest.mark.parametrize("field", COMMANDS)
def test_every_part_of_devicecontrol_has_an_api_call(calls: dict[str, list[str]], field: str) -> None:
    assert calls.get(f"DeviceControl.{field}")


def test_what_devices_say_first_is_told_by_an_event() -> None:
    from api_calls import events_of

    told = events_of()
    first = {m.__name__ for m in REGISTRY.values() if m.ROOT == "Notify"}
    silent = {name for name in first if not told.get(name)}
    assert silent <= {"BroadcastNotify", "MediaStatusNotify"}, (
        "these end or begin sessions, which tell themselves"
    )
