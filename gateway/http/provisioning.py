"""Many devices at once over HTTP: a list or an .xlsx sheet in, with a report of every bad row; a template and a sheet out."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Literal

from aiohttp import web
from pydantic import Field

from gateway.credentials import DeviceSecret
from gateway.http.errors import Problem
from gateway.http.routes import Call, Model, View, route
from gateway.http.server import note_audit
from gateway.model import Device
from gateway.registry import Registry
from gateway.services import provisioning_xlsx as xlsx
from gateway.services.access import Role
from gateway.services.provisioning_devices import MAX_ROWS, DeviceProvisioning, Existing, Report


class ImportQuery(Model):
    dry_run: bool = Field(default=False, description="Check only; nothing is written.")
    good_rows: bool = Field(
        default=False,
        description="Write the good rows although others are bad. Without it: all rows or none.",
    )
    existing: Existing = Field(
        default=Existing.UPDATE, description="Rows of known devices: update, skip, or refuse (a bad row)."
    )


class SheetQuery(Model):
    language: Literal["zh", "en"] = Field(default="zh", description="Language of the headers.")


class DeviceRows(Model):
    devices: list[dict[str, Any]] = Field(
        min_length=1,
        max_length=MAX_ROWS,
        description="Each with device_id and any of: name, password, digest_username, allowed_networks (text, "
        "separated by commas), media_transport, charset. Bad ones are told in the report, by their place from 1.",
    )


class FaultView(View):
    row: int = Field(description="Line of the sheet (1 is its first), or place in the list (from 1).")
    column: str
    reason: str
    value: str = Field(description="What stands there; never a password.")


class ImportReport(View):
    """`applied` false: nothing was written, because rows are bad or because it was a trial."""

    rows: int
    good: int
    created: int = Field(description="With dry_run: what would be.")
    updated: int
    unchanged: int
    skipped: int
    applied: bool
    fault_count: int
    faults: list[FaultView] = Field(description="The first thousand.")
    ignored_columns: list[str] = Field(description="Headers of the sheet that mean nothing here.")


class ProvisioningResource:
    def __init__(self, *, registry: Registry, provisioning: DeviceProvisioning) -> None:
        self._registry = registry
        self._provisioning = provisioning

    @route(
        "POST",
        "/api/provisioning/devices",
        summary="Enter or change many devices",
        role=Role.OPERATOR,
        tag="devices",
        max_body_bytes=xlsx.MAX_FILE_BYTES,
        audited="device.import",
    )
    async def enter(self, call: Call, query: ImportQuery, body: DeviceRows) -> ImportReport:
        """All or none, unless `good_rows` is set. The answer is 200 with `applied` false when rows are bad."""
        rows = list(enumerate(body.devices, start=1))
        return await self._enter(call, query, rows, Report())

    @route(
        "POST",
        "/api/provisioning/devices.xlsx",
        summary="Enter or change the devices of a sheet",
        role=Role.OPERATOR,
        tag="devices",
        consumes=xlsx.MEDIA_TYPE,
        max_body_bytes=xlsx.MAX_FILE_BYTES,
        errors=(400,),
        audited="device.import",
    )
    async def enter_sheet(self, call: Call, query: ImportQuery, body: bytes) -> ImportReport:
        """The first sheet of the file; headers Chinese or English. All rows or none, unless `good_rows` is set."""
        report = Report()
        try:
            rows = await asyncio.to_thread(xlsx.read_rows, body, report)
        except xlsx.SheetFault as fault:
            note_audit(call, detail="unreadable")
            raise Problem(400, str(fault), cause="not_readable", field="body") from None
        return await self._enter(call, query, rows, report)

    async def _enter(
        self, call: Call, query: ImportQuery, rows: Sequence[tuple[int, dict[str, Any]]], report: Report
    ) -> ImportReport:
        await self._provisioning.enter(
            rows, report=report, existing=query.existing, good_rows=query.good_rows, dry_run=query.dry_run
        )
        note_audit(
            call,
            detail=f"rows {report.rows} created {report.created} updated {report.updated} "
            f"faults {report.fault_count} applied {report.applied}",
        )
        return ImportReport.model_validate(report)

    @route(
        "GET",
        "/api/provisioning/template.xlsx",
        summary="An empty sheet to fill in",
        role=Role.VIEWER,
        tag="devices",
        produces=xlsx.MEDIA_TYPE,
    )
    async def template(self, call: Call, query: SheetQuery) -> web.StreamResponse:
        """The second sheet explains the columns."""
        return _file(await asyncio.to_thread(xlsx.template, query.language), "devices-template.xlsx")

    @route(
        "GET",
        "/api/provisioning/devices.xlsx",
        summary="All devices as a sheet",
        role=Role.OPERATOR,
        tag="devices",
        produces=xlsx.MEDIA_TYPE,
        audited="device.export",
    )
    async def export(self, call: Call, query: SheetQuery) -> web.StreamResponse:
        """It can be changed and sent back; passwords are not in it, and an empty password changes nothing."""
        devices = [
            _texts(device, self._registry.secrets.get(device.device_id))
            for device in sorted(self._registry.devices.values(), key=lambda device: device.device_id)
            if not device.local
        ]
        return _file(await asyncio.to_thread(xlsx.export, devices, query.language), "devices.xlsx")


def _texts(device: Device, secret: DeviceSecret | None) -> dict[str, str]:
    operator = device.profile.layers.operator
    return {
        "device_id": device.device_id,
        "name": device.name,
        "allowed_networks": ", ".join(device.profile.allowed_networks),
        "media_transport": str(operator.get("media_transport") or ""),
        "charset": str(operator.get("charset") or ""),
        "password_set": "yes" if secret is not None else "",
        "state": device.state.value,
        "address": str(device.flow) if device.flow is not None else "",
        "manufacturer": device.manufacturer,
        "model": device.model,
        "edition": device.edition,
        "registered_at": device.registered_at.isoformat(timespec="seconds") if device.registered_at else "",
        "last_seen_at": device.last_seen_at.isoformat(timespec="seconds") if device.last_seen_at else "",
    }


def _file(data: bytes, name: str) -> web.Response:
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return web.Response(body=data, content_type=xlsx.MEDIA_TYPE, headers=headers)
