"""Small stand-ins for the service of inputs: rows in memory, an opener that is never asked, a checker that is told."""

from __future__ import annotations

import copy
from typing import Any

from config.settings import InputSettings, MediaSettings
from gateway.clock import Clock
from gateway.registry import Registry
from gateway.services.inputs import Inputs
from gateway.services.inputs_probe import Verdict
from gateway.services.inputs_record import Input


class MemoryInputs:
    def __init__(self) -> None:
        self.rows: dict[str, Input] = {}

    async def load(self) -> list[Input]:
        return [copy.deepcopy(record) for record in self.rows.values()]

    async def put(self, record: Input) -> None:
        self.rows[record.channel_id] = copy.deepcopy(record)

    async def remove(self, channel_id: str) -> None:
        del self.rows[channel_id]


class NoOpener:
    async def attempt_input(self, session: Any, spec_of: Any, transport: str) -> None:
        raise AssertionError("nobody plays here")


class ToldChecker:
    """Answers what it was told, by URL; everything else is there."""

    def __init__(self) -> None:
        self.verdicts: dict[str, Verdict] = {}
        self.asked: list[str] = []

    async def __call__(self, record: Input) -> Verdict:
        self.asked.append(record.url)
        return self.verdicts.get(record.url, Verdict(True))


def fake_inputs(
    registry: Registry,
    server_id: str,
    *,
    clock: Clock | None = None,
    store: MemoryInputs | None = None,
    checker: ToldChecker | None = None,
    **settings: Any,
) -> Inputs:
    return Inputs(
        settings=InputSettings.model_validate(settings),
        media=MediaSettings(),
        server_id=server_id,
        registry=registry,
        bus=registry.bus,
        store=store or MemoryInputs(),
        opener=NoOpener(),
        clock=clock,
        checker=checker or ToldChecker(),
    )
