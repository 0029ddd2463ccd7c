"""Many devices entered at once, from a sheet or by the API: every bad row is named, and nothing is entered by halves.

A row is checked by itself and against the others; devices are written only when all rows are good, unless the caller
asks for the good ones.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator

from gateway.credentials import DeviceSecret
from gateway.model import Device
from gateway.registry import Registry, device_kind
from sip.ids import is_code, parse_code

logger = logging.getLogger(__name__)

MAX_ROWS = 20_000
MAX_FAULTS = 1000
"""Faults told one by one; the rest is counted."""
_SEPARATORS = re.compile(r"[\s,;，；、]+")
_AT_ONCE = 200
"""Devices written before SIP gets its turn."""


class DeviceRow(BaseModel):
    """One device as a row says it. Empty texts mean: leave as it is, or the default for a new device."""

    model_config = ConfigDict(extra="forbid", str_strip_whitespace=True)

    device_id: str = Field(description="20 digits.")
    name: str = Field(default="", max_length=255)
    password: SecretStr = Field(default=SecretStr(""), max_length=128, description="Only hashes are kept.")
    digest_username: str = Field(default="", max_length=64)
    allowed_networks: str = Field(
        default="",
        max_length=1000,
        description="Networks it may register from: addresses or CIDR, separated by blanks or commas; * for any.",
    )
    media_transport: Literal["", "udp", "tcp_passive", "tcp_active"] = ""
    charset: Literal["", "GB2312", "GB18030", "UTF-8"] = ""

    @field_validator("device_id")
    @classmethod
    def _code(cls, value: str) -> str:
        if not value:
            raise ValueError("the code is missing")
        if not is_code(value) or parse_code(value) is None:
            raise ValueError("no code of 20 digits")
        return value

    @field_validator("allowed_networks")
    @classmethod
    def _networks(cls, value: str) -> str:
        if value != "*":
            networks_of(value)
        return value


def networks_of(text: str | Iterable[str]) -> tuple[str, ...]:
    """Networks in canonical form, without repetitions. Raises ValueError that names the first that is none."""
    parts = _SEPARATORS.split(text) if isinstance(text, str) else text
    found: dict[str, None] = {}
    for part in parts:
        if not part.strip():
            continue
        try:
            found[str(ipaddress.ip_network(part.strip(), strict=False))] = None
        except ValueError:
            raise ValueError(f"no network: {part[:64]}") from None
    return tuple(found)


class Existing(StrEnum):
    """What to do with a row whose device is known already."""

    UPDATE = "update"
    SKIP = "skip"
    REFUSE = "refuse"


@dataclass(frozen=True, slots=True)
class RowFault:
    """Why a row is not entered. ``row`` counts as the sheet does (1 is its first line); ``value`` is never a password."""

    row: int
    column: str
    reason: str
    value: str = ""


@dataclass(slots=True)
class Report:
    """What came of a list of devices."""

    rows: int = 0
    good: int = 0
    created: int = 0
    updated: int = 0
    unchanged: int = 0
    skipped: int = 0
    applied: bool = False
    """False: nothing was written, because rows are bad or because it was a trial."""
    fault_count: int = 0
    faults: list[RowFault] = field(default_factory=list)
    ignored_columns: list[str] = field(default_factory=list)

    def fault(self, row: int, column: str, reason: str, value: str = "") -> None:
        self.fault_count += 1
        if len(self.faults) < MAX_FAULTS:
            self.faults.append(RowFault(row, column, reason, value[:64]))


@dataclass(slots=True)
class _Plan:
    """A good row, ready to be written: the secret is hashed already."""

    row: DeviceRow
    secret: DeviceSecret | None


class DeviceProvisioning:
    """Checks rows and writes them. ``own_ids`` are codes of ours that no device may have."""

    def __init__(self, *, registry: Registry, realm: str, own_ids: frozenset[str] = frozenset()) -> None:
        self._registry = registry
        self._realm = realm
        self._own_ids = own_ids
        self._tasks: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """Let what is being written be written to its end."""
        if self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def enter(
        self,
        rows: Sequence[tuple[int, Mapping[str, Any]]],
        *,
        report: Report | None = None,
        existing: Existing = Existing.UPDATE,
        good_rows: bool = False,
        dry_run: bool = False,
    ) -> Report:
        """Rows as (number, values by column). A caller that goes away does not stop what was begun."""
        report = report or Report()
        report.rows = len(rows)
        known = set(self._registry.devices)
        plans = await asyncio.to_thread(self._check, rows, report, known, existing)
        report.good = len(plans)
        if report.fault_count and not good_rows:
            return report
        if dry_run:
            self._count(plans, report, existing)
            return report
        task = asyncio.create_task(self._write(plans, report, existing), name="provisioning")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        await asyncio.shield(task)
        return report

    # -- checking, in a thread ---------------------------------------------------------------------------------

    def _check(
        self,
        rows: Sequence[tuple[int, Mapping[str, Any]]],
        report: Report,
        known: set[str],
        existing: Existing,
    ) -> list[_Plan]:
        plans: list[_Plan] = []
        first_at: dict[str, int] = {}
        for number, values in rows:
            row = _row(number, values, report)
            if row is None:
                continue
            reason = ""
            if row.device_id in first_at:
                reason = f"stands in row {first_at[row.device_id]} too"
            elif row.device_id in self._own_ids:
                reason = "a code of this gateway"
            elif existing is Existing.REFUSE and row.device_id in known:
                reason = "exists already"
            if reason:
                report.fault(number, "device_id", reason, row.device_id)
                continue
            first_at[row.device_id] = number
            plans.append(_Plan(row, self._secret(row)))
        return plans

    def _secret(self, row: DeviceRow) -> DeviceSecret | None:
        password = row.password.get_secret_value()
        if not password:
            return None
        return DeviceSecret.of_password(row.device_id, self._realm, password, row.digest_username)

    # -- writing -----------------------------------------------------------------------------------------------

    def _count(self, plans: list[_Plan], report: Report, existing: Existing) -> None:
        for plan in plans:
            if plan.row.device_id not in self._registry.devices:
                report.created += 1
            elif existing is Existing.SKIP:
                report.skipped += 1
            else:
                report.updated += 1

    async def _write(self, plans: list[_Plan], report: Report, existing: Existing) -> None:
        for index, plan in enumerate(plans):
            if index % _AT_ONCE == _AT_ONCE - 1:
                await asyncio.sleep(0)
            device = self._registry.devices.get(plan.row.device_id)
            if device is None:
                self._create(plan)
                report.created += 1
            elif existing is Existing.SKIP or device.local:
                report.skipped += 1
            elif self._update(device, plan):
                report.updated += 1
            else:
                report.unchanged += 1
        report.applied = True
        logger.info(
            "devices entered created=%d updated=%d skipped=%d faults=%d",
            *(report.created, report.updated, report.skipped, report.fault_count),
        )

    def _create(self, plan: _Plan) -> None:
        row = plan.row
        code = parse_code(row.device_id)
        device = Device(
            device_id=row.device_id,
            name=row.name,
            kind=device_kind(code.type if code is not None else None),
            provisioned=True,
        )
        _fill_profile(device, row)
        self._registry.put_device(device, secret=plan.secret)

    def _update(self, device: Device, plan: _Plan) -> bool:
        row = plan.row
        changed = bool(
            self._registry.update_device(
                device.device_id, provisioned=True, **({"name": row.name} if row.name else {})
            )
        )
        if plan.secret is not None and self._registry.secrets.get(device.device_id) != plan.secret:
            self._registry.set_secret(device.device_id, plan.secret)
            changed = True
        if _fill_profile(device, row):
            self._registry.put_device(device)
            changed = True
        return changed


def _row(number: int, values: Mapping[str, Any], report: Report) -> DeviceRow | None:
    try:
        return DeviceRow.model_validate(values)
    except ValidationError as error:
        for fault in error.errors(include_url=False, include_context=False):
            column = str(fault["loc"][0]) if fault["loc"] else ""
            value = values.get(column, "")
            shown = "" if column == "password" or not isinstance(value, str | int | float) else str(value)
            reason = fault["msg"].removeprefix("Value error, ")
            report.fault(number, column, reason, shown)
    return None


def _fill_profile(device: Device, row: DeviceRow) -> bool:
    """Put into the profile what the row names; True when that changed anything."""
    profile = device.profile
    orders = {name: value for name in ("media_transport", "charset") if (value := getattr(row, name))}
    changed = bool(profile.order(**orders)) if orders else False
    if row.allowed_networks:
        networks = () if row.allowed_networks == "*" else networks_of(row.allowed_networks)
        changed = changed or networks != profile.allowed_networks
        profile.allowed_networks = networks
    return changed
