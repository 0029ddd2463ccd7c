"""Recordings in an S3 server that we did not write (moto): uploaded, played, downloaded, deleted, refused, away."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from decoded import decode
from gateway_process import free_ports
from playback_house import DEVICE, recorded_gateway, user
from recorded import EPOCH, record

from config.settings import S3Settings
from gateway.services.recording_s3 import ObjectMissing, ObjectStore, StorageUnavailable

CHANNEL = "41018300001310000081"
POLICY = '{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]}'

pytest.importorskip("moto.server", reason="moto is not installed")
pytestmark = pytest.mark.asyncio(loop_scope="module")


@dataclass
class Moto:
    """The server in a process of its own; ``settings`` are those of an account that may do all in bucket ``video``."""

    process: subprocess.Popen[bytes]
    settings: dict[str, Any]
    client: Any

    async def objects(self) -> dict[str, int]:
        """Name and size."""
        answer = await self.client.list_objects_v2(Bucket="video")
        return {entry["Key"]: entry["Size"] for entry in answer.get("Contents", [])}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def moto() -> AsyncIterator[Moto]:
    import aiobotocore.session

    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    process = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ | {"NO_COLOR": "1"},
    )  # fmt: skip
    try:
        async with AsyncExitStack() as stack:
            http = await stack.enter_async_context(aiohttp.ClientSession())
            async with asyncio.timeout(60):
                while True:
                    try:
                        async with http.get(f"{url}/moto-api/data.json") as answer:
                            assert answer.status == 200
                            break
                    except aiohttp.ClientConnectionError:
                        assert process.poll() is None, "moto did not start"
                        await asyncio.sleep(0.1)
            session = aiobotocore.session.get_session()
            where = {"endpoint_url": url, "region_name": "us-east-1"}
            bare = {"aws_access_key_id": "a", "aws_secret_access_key": "b"}
            async with session.create_client("iam", **where, **bare) as iam:
                await iam.create_user(UserName="gateway")
                await iam.put_user_policy(UserName="gateway", PolicyName="all", PolicyDocument=POLICY)
                key = (await iam.create_access_key(UserName="gateway"))["AccessKey"]
            account = {
                "aws_access_key_id": key["AccessKeyId"],
                "aws_secret_access_key": key["SecretAccessKey"],
            }
            client = await stack.enter_async_context(session.create_client("s3", **where, **account))
            await client.create_bucket(Bucket="video")
            async with http.post(f"{url}/moto-api/reset-auth", data="0") as answer:
                assert answer.status == 200, "from now on it checks who asks"
            settings = {
                "endpoint": url, "bucket": "video", "access_key": key["AccessKeyId"],
                "secret_key": key["SecretAccessKey"], "prefix": "county", "cache_reserve_bytes": 0,
            }  # fmt: skip
            yield Moto(process, settings, client)
    finally:
        process.kill()
        process.wait(10)


async def store_of(moto: Moto, stack: AsyncExitStack, **values: Any) -> ObjectStore:
    store = ObjectStore(S3Settings.model_validate(moto.settings | values))
    stack.push_async_callback(store.close)
    await store.start()
    return store


async def test_parts_ranges_and_objects_that_are_not_there(moto: Moto, tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        store = await store_of(moto, stack)
        data = bytes(range(256)) * (20 * 4096)  # 20 MiB: three parts
        (tmp_path / "large").write_bytes(data)
        (tmp_path / "small").write_bytes(data[:1000])
        await store.upload(tmp_path / "large", "large")
        await store.upload(tmp_path / "small", "small")
        assert await moto.objects() == {"large": len(data), "small": 1000}
        assert await store.read("large", 8 * 1024**2 - 3, 8 * 1024**2 + 5) == data[8 * 1024**2 - 3 :][:8]
        steps: list[int] = []
        assert await store.download("large", tmp_path / "back", steps.append) == len(data)
        assert (tmp_path / "back").read_bytes() == data
        assert steps == sorted(steps)
        with pytest.raises(ObjectMissing):
            await store.download("nothing", tmp_path / "nothing", steps.append)
        for name in ("large", "small", "nothing"):
            await store.remove(name)
        assert await moto.objects() == {}


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"secret_key": "x" * 40}, "SignatureDoesNotMatch"),
        ({"access_key": "AKIANOBODY0000000000"}, "InvalidAccessKeyId"),
        ({"bucket": "no-such-bucket"}, "NoSuchBucket"),
    ],
)
async def test_what_is_wrong_is_said(moto: Moto, tmp_path: Path, wrong: dict[str, str], told: str) -> None:
    async with AsyncExitStack() as stack:
        store = await store_of(moto, stack, **wrong)
        (tmp_path / "file").write_bytes(b"something")
        with pytest.raises(StorageUnavailable, match=told):
            await store.upload(tmp_path / "file", "file")
        with pytest.raises(StorageUnavailable, match=told) as failed:
            await store.download("file", tmp_path / "back", lambda done: None)
        assert not isinstance(failed.value, ObjectMissing), "recordings are not taken for lost"


async def test_recorded_uploaded_played_expired_and_gone(moto: Moto, tmp_path: Path) -> None:
    """The life of a recording; at its end the server goes away."""
    made = record(tmp_path / "disk", 6.0, channel_id=CHANNEL, device_id=DEVICE)
    s3 = moto.settings | {"keep_local": False}
    path = f"/api/channels/{CHANNEL}"
    span = {
        name: (datetime.fromtimestamp(EPOCH, UTC) + timedelta(seconds=value)).isoformat()
        for name, value in (("start", 0), ("end", 6))
    }
    async with (
        recorded_gateway(tmp_path / "gateway", made.folder, made, s3=s3) as gateway,
        user(gateway) as api,
    ):
        recording = gateway.recording
        assert recording.uploader is not None
        assert recording.cache is not None
        recording.uploader._looked_at_all = 0.0
        assert await recording.uploader.upload_some()
        assert await moto.objects() == {f"county/{info.path}": info.bytes for info in made.infos}
        assert not list(made.folder.rglob("*.mp4"))

        status, data = await api.call("GET", f"{path}/recordings/download", **span)
        assert status == 200, data
        assert decode(data).frames == list(range(150))
        status, playback = await api.call("POST", f"{path}/playback", span)
        assert status == 201, playback
        async with api.session.get(playback["urls"]["ts"]) as answer:
            first = await answer.content.readexactly(60_000)
        assert decode(first, "mpegts").frames[:20] == list(range(20))
        assert (await api.call("DELETE", f"/api/playback/{playback['session_id']}"))[0] == 204

        segment = await recording.store.segment(made.infos[0].segment_id)
        assert segment is not None
        assert (await recording.retention.remove([segment], "expired")).segments == 1
        assert set(await moto.objects()) == {f"county/{info.path}" for info in made.infos[1:]}
        assert not recording.cache.path_of(made.infos[0].segment_id).exists()
        status, data = await api.call("GET", f"{path}/recordings/download", **span)
        assert decode(data).frames == list(range(50, 150)), "the others are still in the cache"

        await recording.cache.forget([info.segment_id for info in made.infos])
        moto.process.kill()
        status, problem = await api.call("POST", f"{path}/playback", span)
        assert (status, problem["cause"]) == (503, "storage_unavailable"), problem
        segment = await recording.store.segment(made.infos[1].segment_id)
        assert segment is not None
        assert (await recording.retention.remove([segment], "expired")).segments == 0
        assert await recording.store.segment(made.infos[1].segment_id) is not None, "its entry stays"
