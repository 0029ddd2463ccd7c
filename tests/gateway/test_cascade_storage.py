"""Uppers and shares over a restart."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from config.settings import StorageSettings
from gateway.model import Platform, Share
from gateway.storage.database import Database
from gateway.storage.platforms import PlatformStore

UPPER = "41010000002000000001"
NVR = "41018300001180000001"
CAMERA = "41018300001310000001"


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    opened = Database(StorageSettings(directory=tmp_path))
    await opened.open()
    yield opened
    await opened.close()


def upper(**values: object) -> Platform:
    return Platform(UPPER, "municipal", "4101000000", "10.41.1.10", 5060, **values)  # type: ignore[arg-type]


async def test_an_upper_comes_back_with_all_its_fields(database: Database) -> None:
    store = PlatformStore(database)
    platform = upper(
        transport="tcp",
        our_id="41018300002000000009",
        username="county",
        password="Xm-Demo-0001",
        rights=frozenset({"play", "config"}),
        charset="UTF-8",
        edition="2.0",
        enabled=False,
        share_all=True,
        max_streams=4,
    )
    recoded = {(NVR, CAMERA): "41018300001310777777"}
    await store.put(platform, recoded)
    await store.put(platform, recoded)
    (stored,) = await store.load()
    assert stored.platform == platform
    assert stored.recoded == recoded
    assert stored.shares == []


async def test_shares_are_replaced_as_a_whole_and_go_with_their_upper(database: Database) -> None:
    store = PlatformStore(database)
    await store.put(upper(), {})
    one = Share(UPPER, NVR, CAMERA, CAMERA)
    two = Share(UPPER, "41018300001180000002", CAMERA, CAMERA)  # two ways, one code
    await store.set_shares(UPPER, [one, two])
    assert sorted((await store.load())[0].shares, key=lambda share: share.device_id) == [one, two]
    await store.set_shares(UPPER, [two])
    assert (await store.load())[0].shares == [two]
    await store.remove(UPPER)
    assert await store.load() == []
    await store.put(upper(), {})
    assert (await store.load())[0].shares == []
