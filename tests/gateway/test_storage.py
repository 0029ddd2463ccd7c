"""The database: migrations, batched writes, what comes back after a restart, and what happens when it refuses."""

from __future__ import annotations

import asyncio
import sqlite3
import stat
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from gateway_core import CAMERA, DOMAIN, NVR, RawDevice, core, until
from sqlalchemy import Connection, text
from sqlalchemy.exc import OperationalError

from config.settings import StorageSettings
from gateway.clock import ManualClock
from gateway.credentials import DeviceSecret
from gateway.events import DeviceOffline, DeviceOnline, Event, EventBus
from gateway.model import Channel, ChannelKind, Device, DeviceKind, Profile, State
from gateway.registry import Registry
from gateway.storage.database import Database, StorageFailed
from gateway.storage.devices import load_registry
from gateway.storage.journal import Journal
from gateway.storage.schema import metadata
from gateway.storage.writer import Writer
from sip.flow import Flow


class Store:
    """Database, registry, journal and writer of one life of the gateway."""

    def __init__(self, folder: Path, clock: ManualClock | None = None, interval_s: float = 0.02) -> None:
        self.clock = clock or ManualClock()
        self.bus = EventBus()
        self.database = Database(StorageSettings(directory=folder))
        self.registry = Registry(bus=self.bus, clock=self.clock)
        self.journal = Journal(clock=self.clock)
        self.writer = Writer(
            database=self.database, registry=self.registry, journal=self.journal, interval_s=interval_s
        )

    async def open(self) -> Store:
        await self.database.open()
        async with self.database.connect() as connection:
            await load_registry(connection, self.registry)
            await self.journal.read(connection)
        return self


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    opened = await Store(tmp_path).open()
    yield opened
    await opened.database.close()


async def reopened(store: Store, folder: Path) -> Store:
    await store.database.close()
    return await Store(folder, store.clock).open()


async def test_migrations_make_exactly_the_schema(store: Store) -> None:
    def differences(connection: Connection) -> list[Any]:
        return compare_metadata(MigrationContext.configure(connection), metadata)

    async with store.database.connect() as connection:
        assert await connection.run_sync(differences) == []
        assert (await connection.execute(text("select version_num from alembic_version"))).scalar()


async def test_opening_twice_changes_nothing(store: Store, tmp_path: Path) -> None:
    again = await reopened(store, tmp_path)
    assert again.registry.devices == {}
    await again.database.close()


async def test_the_file_is_in_wal_mode_and_for_us_alone(store: Store, tmp_path: Path) -> None:
    async with store.database.connect() as connection:
        assert (await connection.execute(text("PRAGMA journal_mode"))).scalar() == "wal"
    mode = (tmp_path / "gateway.sqlite3").stat().st_mode
    assert stat.S_IMODE(mode) == 0o600


async def test_a_database_that_cannot_be_opened_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "gateway.sqlite3").write_bytes(
        b"this is no database, not at all, whatever its name says" * 20
    )
    with pytest.raises(StorageFailed, match="database"):
        await Store(tmp_path).open()
    with pytest.raises(StorageFailed):
        await Store(Path("/proc/nothing/here")).open()
    with pytest.raises(StorageFailed):
        _ = Database(StorageSettings(directory=tmp_path)).engine


async def test_devices_and_channels_come_back_as_they_were(store: Store, tmp_path: Path) -> None:
    at = datetime(2026, 11, 22, 2, 0, 0, 123000, tzinfo=UTC)
    device = Device(
        NVR,
        name="新密 recorder",
        kind=DeviceKind.RECORDER,
        edition="3.0",
        profile=Profile(charset="GB18030", send_date=False, allowed_networks=("10.0.0.0/8",)),
        provisioned=True,
        state=State.ONLINE,
        flow=Flow("udp", "10.0.0.9", 5060, "10.0.0.1", 5060),
        contact="sip:x@10.0.0.9",
        registered_at=at,
        expires_at=at + timedelta(hours=1),
        last_seen_at=at,
        heartbeat_interval_s=30,
        heartbeat_count=5,
        catalog_at=at,
        catalog_complete=True,
    )
    secret = DeviceSecret.of_password(NVR, DOMAIN, "secret-word")
    store.registry.put_device(device, secret=secret)
    channel = store.registry.put_channel(
        Channel(
            NVR,
            CAMERA,
            name="门",
            kind=ChannelKind.CAMERA,
            parent_ids=(NVR,),
            longitude=113.4,
            item={"mac": "x"},
            reported="VLOST",
        )
    )
    gone = store.registry.put_channel(Channel(NVR, "41018300001320000002"))
    store.registry.remove_channel(NVR, gone.channel_id)
    assert await store.writer.flush()
    again = await reopened(store, tmp_path)
    assert again.registry.devices[NVR] == device
    assert again.registry.secrets[NVR] == secret
    assert again.registry.channel(NVR, CAMERA) == channel
    assert list(again.registry.tombstones(NVR)) == [gone.channel_id]
    assert again.registry.find_channels(gone.channel_id) == []
    assert not again.registry.changes
    assert b"secret-word" not in (tmp_path / "gateway.sqlite3").read_bytes()
    await again.database.close()


async def test_only_what_changed_is_written_and_removed_devices_go(store: Store, tmp_path: Path) -> None:
    for number in range(300):
        store.registry.put_device(Device(f"4101830000132{number:07d}"))
    await store.writer.flush()
    rows = store.writer.counts.rows
    store.registry.update_device("41018300001320000007", name="seven")
    store.registry.put_channel(Channel("41018300001320000008", CAMERA))
    await store.writer.flush()
    assert store.writer.counts.rows == rows + 2
    assert await store.writer.flush()
    assert store.writer.counts.flushes == 2  # nothing to do is no flush
    store.registry.remove_device("41018300001320000008")
    await store.writer.flush()
    again = await reopened(store, tmp_path)
    assert len(again.registry.devices) == 299
    assert again.registry.devices["41018300001320000007"].name == "seven"
    assert again.registry.find_channels(CAMERA) == []
    await again.database.close()


async def test_a_failed_write_is_kept_for_the_next_try(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.registry.put_device(Device(NVR))
    store.journal.put("invite", "s1", {"a": 1})

    def broken(*_: object) -> None:
        raise OperationalError("insert", {}, sqlite3.OperationalError("disk full"))

    with monkeypatch.context() as patch:
        patch.setattr("gateway.storage.writer.save_devices", broken)
        assert not await store.writer.flush()
    assert store.writer.counts.failures == 1
    assert store.registry.changes.devices == {NVR}
    assert await store.writer.flush()
    async with store.database.connect() as connection:
        assert (await connection.execute(text("select count(*) from devices"))).scalar() == 1
        assert (await connection.execute(text("select count(*) from journal"))).scalar() == 1


async def test_the_journal_gives_back_the_last_life_only(store: Store, tmp_path: Path) -> None:
    store.journal.put("invite", "s1", {"call_id": "a"})
    store.journal.put("invite", "s2", {"call_id": "b"})
    store.journal.put("subscription", NVR, {"dialog": {}})
    await store.writer.flush()
    store.journal.remove("invite", "s2")
    store.journal.put("invite", "s1", {"call_id": "newer"})
    await store.writer.flush()
    assert await store.journal.load("invite") == {}
    again = await reopened(store, tmp_path)
    again.journal.put("invite", "s3", {"call_id": "now"})
    assert await again.journal.load("invite") == {"s1": {"call_id": "newer"}}
    again.journal.remove("invite", "s1")
    assert await again.journal.load("invite") == {}
    await again.database.close()


async def test_the_writer_flushes_by_itself_and_the_journal_sooner(tmp_path: Path) -> None:
    slow = await Store(tmp_path, interval_s=3600).open()
    await slow.writer.start()
    slow.registry.put_device(Device(NVR))
    slow.journal.put("invite", "s1", {})
    await until(lambda: slow.writer.counts.flushes == 1)
    slow.registry.put_device(Device(CAMERA))
    await slow.writer.close()  # and a last time at the end
    assert slow.writer.counts.flushes == 2
    again = await reopened(slow, tmp_path)
    assert set(again.registry.devices) == {NVR, CAMERA}
    await again.database.close()


async def test_unreadable_rows_are_skipped(store: Store, tmp_path: Path) -> None:
    store.registry.put_device(Device(NVR))
    store.registry.put_device(Device(CAMERA))
    await store.writer.flush()
    async with store.database.begin() as connection:
        await connection.execute(
            text("update devices set kind = 'nonsense' where device_id = :id"), {"id": CAMERA}
        )
    again = await reopened(store, tmp_path)
    assert list(again.registry.devices) == [NVR]
    await again.database.close()


async def test_long_texts_of_peers_are_cut(store: Store, tmp_path: Path) -> None:
    store.registry.put_device(Device(NVR, name="x" * 1000))
    store.registry.put_channel(Channel(NVR, CAMERA, address="y" * 1000))
    assert await store.writer.flush()
    again = await reopened(store, tmp_path)
    assert len(again.registry.devices[NVR].name) == 255
    await again.database.close()


@pytest.mark.gb("G059")
async def test_registrations_are_resumed_after_a_restart(tmp_path: Path) -> None:
    """UDP within its lifetime: online at once with its flow. Expired: offline. TCP: offline until it reconnects."""
    clock = ManualClock()
    store = await Store(tmp_path, clock).open()
    utc = clock.utc()

    def device(number: int, transport: Any, left_s: int) -> Device:
        return Device(
            f"4101830000132{number:07d}",
            state=State.ONLINE,
            flow=Flow(transport, "10.0.0.9", 5000 + number, "10.0.0.1", 5060, 7 if transport == "tcp" else 0),
            expires_at=utc + timedelta(seconds=left_s),
        )

    for record in (device(1, "udp", 3600), device(2, "udp", 100), device(3, "tcp", 3600)):
        store.registry.put_device(record)
    await store.writer.flush()
    await store.database.close()

    clock.advance(200)  # down for 200 s; monotonic time starts anew
    async with core(clock=ManualClock(mono=5.0, utc=clock.utc())) as gateway:
        again = Database(StorageSettings(directory=tmp_path))
        await again.open()
        async with again.connect() as connection:
            await load_registry(connection, gateway.registry)
        await again.close()
        assert gateway.registrar.resume() == (1, 2)
        await asyncio.sleep(0)
        one, two, three = (gateway.device(f"4101830000132{n:07d}") for n in (1, 2, 3))
        assert one.online
        assert one.flow == Flow("udp", "10.0.0.9", 5001, "10.0.0.1", 5060)
        assert one.expires_mono == pytest.approx(5.0 + 3400)
        assert (two.online, two.offline_cause) == (False, "expired")
        assert (three.online, three.offline_cause, three.flow) == (False, "connection_lost", None)
        assert gateway.events(DeviceOnline) == [DeviceOnline(one.device_id, "resumed")]
        assert len(gateway.events(DeviceOffline)) == 2
        gateway.clock.advance(179)  # type: ignore[attr-defined]
        gateway.liveness.sweep(gateway.clock.mono())
        assert one.online  # a whole window to show a sign of life
        gateway.clock.advance(2)  # type: ignore[attr-defined]
        gateway.liveness.sweep(gateway.clock.mono())
        assert one.offline_cause == "heartbeat_lost"


@pytest.mark.quirk(10)
async def test_a_blocked_database_delays_no_answer(tmp_path: Path) -> None:
    """Another process holds the write lock: REGISTER and heartbeats go on, the rows come later."""
    store = await Store(tmp_path).open()
    blocker = sqlite3.connect(tmp_path / "gateway.sqlite3", isolation_level=None)
    async with core() as gateway, RawDevice(gateway.address) as device:
        writer = Writer(
            database=store.database, registry=gateway.registry, journal=store.journal, interval_s=0.01
        )
        await writer.start()
        blocker.execute("BEGIN EXCLUSIVE")
        assert (await device.register()).status == 200
        await asyncio.sleep(0.05)
        assert (await device.keepalive()).status == 200
        assert writer.counts.flushes == 0
        blocker.execute("ROLLBACK")
        await until(lambda: writer.counts.flushes >= 1)
        await writer.close()
    blocker.close()
    await store.database.close()


async def test_saving_a_large_catalog_lets_the_loop_breathe(store: Store) -> None:
    store.registry.put_device(Device(NVR))
    for number in range(5000):
        store.registry.put_channel(Channel(NVR, f"410183000013200{number:05d}", item={"name": "x" * 50}))
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    task = asyncio.create_task(count())
    assert await store.writer.flush()
    task.cancel()
    assert turns > 50  # one slice of a hundred rows at a time
    async with store.database.connect() as connection:
        assert (await connection.execute(text("select count(*) from channels"))).scalar() == 5000


def test_events_of_loading_are_none(tmp_path: Path) -> None:
    bus = EventBus()
    seen: list[Event] = []
    bus.subscribe(Event, callback=seen.append)
    registry = Registry(bus=bus)
    registry.load(Device(NVR), None)
    registry.load_channel(Channel(NVR, CAMERA))
    registry.load_channel(Channel("unknown", CAMERA))
    assert seen == []
    assert not registry.changes
    assert registry.channel_count() == 1
