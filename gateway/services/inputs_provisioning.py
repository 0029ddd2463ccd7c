"""Takes the inputs of the configuration in at start (unattended set-up, containers)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Protocol

from config.settings import InputCamera
from gateway.errors import GatewayError
from gateway.services.inputs_record import FILE, RTSP, Input, split_credentials

log = logging.getLogger(__name__)


class InputEntry(Protocol):
    """The part of gateway.services.inputs.Inputs that takes inputs in."""

    def records(self) -> list[Input]: ...
    async def add(self, record: Input) -> Input: ...


def input_of(entry: InputCamera) -> Input:
    """The record of a configured camera or file; credentials never stay in its URL."""
    if entry.url.startswith("file:"):
        kind, url, username, password = FILE, entry.url.removeprefix("file:"), "", ""
    else:
        kind = RTSP
        url, username, password = split_credentials(entry.url)
    return Input(
        channel_id=entry.channel_id or "",
        device_id="",
        kind=kind,
        name=entry.name,
        url=url,
        username=entry.username or username,
        password=entry.password.get_secret_value() or password,
        transport=entry.transport,
        civil_code=entry.civil_code,
        longitude=entry.longitude,
        latitude=entry.latitude,
    )


async def enter_inputs(inputs: InputEntry, entries: Sequence[InputCamera]) -> list[str]:
    """Enter what is not known yet, by code or else by address; later changes by operators stay. Returns the codes."""
    entered = []
    for entry in entries:
        record = input_of(entry)
        known = inputs.records()
        if any(
            old.channel_id == record.channel_id
            if record.channel_id
            else (old.kind, old.url) == (record.kind, record.url)
            for old in known
        ):
            continue
        try:
            added = await inputs.add(record)
        except GatewayError as error:
            log.error("input of the configuration not entered name=%s error=%s", entry.name, error)
            continue
        entered.append(added.channel_id)
        log.info("input entered from the configuration channel_id=%s", added.channel_id)
    return entered
