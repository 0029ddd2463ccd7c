"""Firmware upgrades as jobs: SessionIDs, results that are late, foreign or doubled, restarts, deadlines."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from config.settings import ControlSettings
from gateway.clock import ManualClock
from gateway.errors import GatewayError
from gateway.events import DeviceRegistered, EventBus, UpgradeChanged
from gateway.peers import Peer, PeerKind
from gateway.services.errors import ControlCause, ControlFailed
from gateway.services.upgrade import Upgrade, UpgradeRunning, Upgrades, UpgradeState
from sip.ids import is_session_id, make_session_id
from sip.manscdp import DeviceControl, DeviceUpgradeResultNotify

NVR, OTHER = "41018300001180000001", "41018300001180000002"
WANTED = {"firmware": "2.0", "file_url": "ftp://user:word@192.0.2.1/fw.bin?k=v", "manufacturer": "Maker"}


class Notebook(dict[str, dict[str, Any]]):
    """The journal of one kind."""

    def put(self, kind: str, key: str, state: dict[str, Any]) -> None:
        self[key] = json.loads(json.dumps(state))

    def remove(self, kind: str, key: str) -> None:
        self.pop(key, None)

    async def load(self, kind: str) -> dict[str, dict[str, Any]]:
        return dict(self)


class Scene:
    """Upgrades over a device that says what ``failure`` says; ``sent`` are the commands."""

    def __init__(self, notebook: Notebook | None = None, **settings: Any) -> None:
        self.notebook = notebook if notebook is not None else Notebook()
        self.failure: GatewayError | None = None
        self.sent: list[DeviceControl] = []
        self.clock, self.bus = ManualClock(), EventBus()
        self.events: list[UpgradeChanged] = []
        self.bus.subscribe(UpgradeChanged, callback=self.events.append)
        self.upgrades = Upgrades(
            settings=ControlSettings(**settings),
            orders=self,
            bus=self.bus,
            journal=self.notebook,
            clock=self.clock,
        )

    async def order(self, device_id: str, target_id: str, body: DeviceControl, **_: Any) -> str:
        self.sent.append(body)
        if self.failure is not None:
            raise self.failure
        return "Result OK"

    async def begin(self, device_id: str = NVR, **fields: Any) -> Upgrade:
        return await self.upgrades.begin(device_id, device_id, who="admin", **{**WANTED, **fields})

    async def tell(self, session_id: str, result: str = "OK", reason: str = "", device_id: str = NVR) -> None:
        body = DeviceUpgradeResultNotify(
            sn=1, device_id=device_id, session_id=session_id, upgrade_result=result, firmware="2.0",
            failed_reason=reason,
        )  # fmt: skip
        peer = Peer(PeerKind.DEVICE, device_id)
        await self.upgrades._told(peer, body, None)  # type: ignore[arg-type]


@pytest.mark.gb("G174")
def test_session_ids_have_the_form_and_never_come_twice() -> None:
    made = {make_session_id() for _ in range(100_000)}
    assert len(made) == 100_000
    assert all(is_session_id(text) for text in made)


@pytest.mark.gb("G174")
@pytest.mark.parametrize(
    ("text", "fits"),
    [
        ("a" * 31, False),
        ("a" * 32, True),
        ("Z9-" * 42 + "ab", True),
        ("a" * 129, False),
        ("a" * 31 + "_", False),
        ("a" * 31 + "é", False),
        ("a" * 32 + "\n", False),
        ("", False),
    ],
)
async def test_the_form_of_session_ids(text: str, fits: bool) -> None:
    assert is_session_id(text) is fits
    scene = Scene()
    if fits:
        assert (await scene.begin(session_id=text)).session_id == text
    elif text:
        with pytest.raises(ValueError, match="SessionID"):
            await scene.begin(session_id=text)
        assert scene.sent == []


@pytest.mark.gb("G173")
async def test_a_job_from_the_order_to_the_result() -> None:
    scene = Scene()
    await scene.upgrades.start()
    job = await scene.begin()
    told = scene.sent[0].device_upgrade
    assert told is not None
    assert (told.file_url, told.session_id) == (WANTED["file_url"], job.session_id)
    assert "word" not in json.dumps(scene.notebook), "passwords are not stored"
    scene.bus.publish(DeviceRegistered(OTHER, False, 3600))
    scene.bus.publish(DeviceRegistered(NVR, True, 3600))
    await asyncio.sleep(0)
    await scene.tell("x" * 32)  # somebody else's
    assert scene.upgrades.counts["unknown"] == 1
    await scene.tell(job.session_id, device_id=OTHER)  # not this device's to tell
    assert job.state is UpgradeState.ACCEPTED
    await scene.tell(job.session_id)
    await scene.tell(job.session_id, "ERROR", "03")  # told twice: the first one counts
    await asyncio.sleep(0)
    assert (job.state, job.firmware_now, job.reason) == (UpgradeState.SUCCEEDED, "2.0", "")
    states = [(event.state, event.registered_again) for event in scene.events]
    assert states == [("asked", False), ("accepted", False), ("accepted", True), ("succeeded", True)]
    await scene.upgrades.close()


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("01", "the download took too long"),
        ("2", "the package is damaged"),
        ("42", "cause 42"),
        ("", "no cause told"),
    ],
)
async def test_why_it_failed_is_told_in_words(code: str, text: str) -> None:
    scene = Scene()
    job = await scene.begin()
    await scene.tell(job.session_id, "ERROR", code)
    assert (job.state, job.reason_code, job.reason) == (UpgradeState.FAILED, code, text)


async def test_a_result_without_session_id_means_the_only_open_upgrade() -> None:
    scene = Scene()
    job = await scene.begin()
    await scene.tell("")
    assert job.state is UpgradeState.SUCCEEDED
    first = await scene.begin()
    second = await scene.upgrades.begin(NVR, "41018300001310000001", who="admin", **WANTED)
    await scene.tell("")
    assert (first.state, second.state) == (UpgradeState.ACCEPTED, UpgradeState.ACCEPTED), "which one is open"


async def test_one_upgrade_at_a_time_and_no_session_id_twice() -> None:
    scene = Scene()
    job = await scene.begin()
    with pytest.raises(UpgradeRunning):
        await scene.begin()
    await scene.tell(job.session_id)
    with pytest.raises(UpgradeRunning):
        await scene.begin(session_id=job.session_id)
    assert len(scene.sent) == 1
    assert (await scene.begin(OTHER)).state is UpgradeState.ACCEPTED


@pytest.mark.parametrize(
    ("cause", "state"), [(ControlCause.REJECTED, "refused"), (ControlCause.NO_ANSWER, "unanswered")]
)
async def test_an_order_that_fails_leaves_a_job_that_says_so(cause: ControlCause, state: str) -> None:
    scene = Scene()
    scene.failure = ControlFailed(cause, "no")
    with pytest.raises(ControlFailed):
        await scene.begin()
    (job,) = scene.upgrades.jobs()
    assert job.state.value == state
    scene.failure = None
    await scene.tell(job.session_id)  # it took the command after all
    assert job.state is UpgradeState.SUCCEEDED


async def test_jobs_outlive_a_restart() -> None:
    before = Scene()
    open_job, done = await before.begin(), await before.begin(OTHER)
    await before.tell(done.session_id, "ERROR", "02", OTHER)
    await before.upgrades.close()
    before.notebook.put("upgrade", "damaged", {"session_id": "damaged", "state": "?"})
    after = Scene(before.notebook)
    await after.upgrades.start()
    assert {job.session_id for job in after.upgrades.jobs()} == {open_job.session_id, done.session_id}
    again = after.upgrades.job(open_job.session_id)
    assert (again.state, again.asked_at) == (UpgradeState.ACCEPTED, open_job.asked_at)
    assert after.upgrades.job(done.session_id).reason == "the package is damaged"
    await after.tell(open_job.session_id)
    assert again.state is UpgradeState.SUCCEEDED
    await after.upgrades.close()


async def test_a_device_that_never_tells_is_given_up() -> None:
    scene = Scene(upgrade_timeout_s=1)
    job = await scene.begin()
    async with asyncio.timeout(30):
        while job.state.open:
            await asyncio.sleep(0.02)
    assert (job.state, job.ended_at is not None) == (UpgradeState.EXPIRED, True)
    await scene.tell(job.session_id)
    assert job.state is UpgradeState.SUCCEEDED, "a late word is still a word"


async def test_only_so_many_jobs_are_kept_and_open_ones_stay() -> None:
    scene = Scene(upgrades_kept=3)
    running = await scene.begin(OTHER)
    for _ in range(6):
        await scene.tell((await scene.begin()).session_id)
    assert len(scene.upgrades.jobs()) <= 4
    assert running in scene.upgrades.jobs()
    assert set(scene.notebook) == {job.session_id for job in scene.upgrades.jobs()}
