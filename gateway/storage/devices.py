"""Rows of devices and channels: from the registry's records and back."""

from __future__ import annotations

import logging
from operator import attrgetter
from typing import Any

from sqlalchemy import Row, delete, select
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.credentials import DeviceSecret
from gateway.model import Channel, ChannelKind, Device, DeviceKind, Profile, State
from gateway.registry import Registry
from gateway.storage.database import aware, upsert_rows
from gateway.storage.schema import channels, devices
from sip.flow import Flow

logger = logging.getLogger(__name__)

_CHANNEL_COLUMNS = tuple(column.name for column in channels.columns)
_LIMITS = {
    table.name: {
        column.name: length
        for column in table.columns
        if (length := getattr(column.type, "length", None)) is not None
    }
    for table in (devices, channels)
}
_TIMES = ("media_proof_at", "deleted_at", "added_at", "updated_at", "reported_at")
LOAD_AT_ONCE = 500


def device_row(device: Device, secret: DeviceSecret | None) -> dict[str, Any]:
    return _cut(
        "devices",
        {
            "device_id": device.device_id,
            "name": device.name,
            "kind": device.kind.value,
            "manufacturer": device.manufacturer,
            "model": device.model,
            "firmware": device.firmware,
            "edition": device.edition,
            "user_agent": device.user_agent,
            "profile": device.profile.to_dict(),
            "provisioned": device.provisioned,
            "ha1": secret.to_dict() if secret is not None else None,
            "state": device.state.value,
            "offline_cause": device.offline_cause,
            "flow": device.flow.to_dict() if device.flow is not None else None,
            "contact": device.contact,
            "registered_at": device.registered_at,
            "expires_at": device.expires_at,
            "last_seen_at": device.last_seen_at,
            "registration_expired": device.registration_expired,
            "heartbeat_interval_s": device.heartbeat_interval_s,
            "heartbeat_count": device.heartbeat_count,
            "catalog_at": device.catalog_at,
            "catalog_complete": device.catalog_complete,
        },
    )


_channel_values = attrgetter(*_CHANNEL_COLUMNS)


def channel_row(channel: Channel) -> dict[str, Any]:
    row = dict(zip(_CHANNEL_COLUMNS, _channel_values(channel), strict=True))
    row["kind"] = channel.kind.value
    row["parent_ids"] = list(channel.parent_ids)
    return _cut("channels", row)


def _cut(table: str, row: dict[str, Any]) -> dict[str, Any]:
    """Peers may send longer texts than the columns hold; some databases refuse what SQLite takes."""
    for name, limit in _LIMITS[table].items():
        value = row[name]
        if isinstance(value, str) and len(value) > limit:
            row[name] = value[:limit]
    return row


async def save_devices(connection: AsyncConnection, registry: Registry, device_ids: set[str]) -> int:
    """Write the current records of these devices; those removed meanwhile are skipped."""
    rows = [
        device_row(registry.devices[device_id], registry.secrets.get(device_id))
        for device_id in sorted(device_ids)
        if device_id in registry.devices
    ]
    await upsert_rows(connection, devices, rows)
    return len(rows)


async def delete_devices(connection: AsyncConnection, device_ids: set[str]) -> None:
    for device_id in device_ids:
        await connection.execute(delete(channels).where(channels.c.device_id == device_id))
        await connection.execute(delete(devices).where(devices.c.device_id == device_id))


async def save_channels(connection: AsyncConnection, registry: Registry, keys: list[tuple[str, str]]) -> int:
    """Write the current records (or tombstones) of these channels."""
    found = (
        registry.channel(device_id, channel_id) or registry.tombstones(device_id).get(channel_id)
        for device_id, channel_id in keys
    )
    rows = [channel_row(channel) for channel in found if channel is not None]
    await upsert_rows(connection, channels, rows)
    return len(rows)


async def load_registry(connection: AsyncConnection, registry: Registry) -> None:
    """Fill the registry at start. A record that cannot be read is skipped and logged, never fatal."""
    for row in (await connection.execute(select(devices))).all():
        try:
            secret = DeviceSecret.from_dict(row.ha1) if row.ha1 else None
            registry.load(_device(row), secret)
        except (KeyError, ValueError, TypeError) as error:
            logger.error("stored device unreadable device=%s error=%s", row.device_id, error)
    stream = await connection.stream(select(channels))
    async for rows in stream.partitions(LOAD_AT_ONCE):
        for row in rows:
            try:
                registry.load_channel(_channel(row))
            except (ValueError, TypeError) as error:
                logger.error(
                    "stored channel unreadable device=%s channel=%s error=%s",
                    row.device_id,
                    row.channel_id,
                    error,
                )


def _device(row: Row[Any]) -> Device:
    return Device(
        device_id=row.device_id,
        name=row.name,
        kind=DeviceKind(row.kind),
        manufacturer=row.manufacturer,
        model=row.model,
        firmware=row.firmware,
        edition=row.edition,
        user_agent=row.user_agent,
        profile=Profile.from_dict(row.profile),
        provisioned=row.provisioned,
        state=State(row.state),
        offline_cause=row.offline_cause,
        flow=Flow.from_dict(row.flow) if row.flow else None,
        contact=row.contact,
        registered_at=aware(row.registered_at),
        expires_at=aware(row.expires_at),
        last_seen_at=aware(row.last_seen_at),
        registration_expired=row.registration_expired,
        heartbeat_interval_s=row.heartbeat_interval_s,
        heartbeat_count=row.heartbeat_count,
        catalog_at=aware(row.catalog_at),
        catalog_complete=row.catalog_complete,
    )


def _channel(row: Row[Any]) -> Channel:
    values = dict(row._mapping)
    values["kind"] = ChannelKind(row.kind)
    values["parent_ids"] = tuple(row.parent_ids)
    for name in _TIMES:
        values[name] = aware(values[name])
    return Channel(**values)
