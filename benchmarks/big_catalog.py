"""A catalog of 100,000 channels from one lower platform, over TCP, at a real gateway; and again when 100 of them changed.

Measured: time until the catalog is known and until it is stored, peak memory of the gateway process, size of the
database, how fast each part is answered, and how many rows the second catalog writes. The rows are counted in the
database by a trigger of our own, not by what the gateway says.
"""

from __future__ import annotations

import asyncio
import http.cookiejar
import json
import re
import sqlite3
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

import yaml

from benchmarks.measure import Row, cpu_seconds, rss_bytes
from benchmarks.storm import PASSWORD, SERVER_ID, gateway, metric, until
from simulator.device import Channel, DeviceOptions, SimulatedDevice
from simulator.register import RegisterSettings
from sip.endpoint import Reply
from sip.ids import make_code
from sip.manscdp import Body, CatalogItem, CatalogQuery, CatalogResponse, Edition, encode

PLATFORM = make_code("410183", 200, 2)
CHANNELS = 100_000
CHANGED = 100
PAGE = 100
TOWNSHIPS = 16
PER_ORGANISATION = 250
SN_MARK = 987654321
AIM_S = 60.0
WAIT_S = 300.0


class BigPlatform(SimulatedDevice):
    """A lower platform whose catalog is written once and sent page after page, each after the 200 of the one before."""

    def __init__(self, server: tuple[str, int], count: int) -> None:
        options = DeviceOptions(
            transport="tcp", edition=Edition.V2022, register=RegisterSettings(heartbeat_s=30.0)
        )
        super().__init__(
            PLATFORM,
            [Channel(make_code("410183", 131, 1), "unused")],
            server=server,
            server_id=SERVER_ID,
            password=PASSWORD,
            name="county platform",
            options=options,
        )
        self.items = directory() + [camera(number) for number in range(count)]
        self.latency_s: list[float] = []
        self.rendered: list[bytes] = []

    def render(self) -> None:
        """Write all pages anew; only those that changed would do, but this is not what is measured."""
        total = len(self.items)
        self.rendered = [
            encode(
                CatalogResponse(
                    sn=SN_MARK, device_id=PLATFORM, sum_num=total, items=self.items[start : start + PAGE]
                ),
                edition=Edition.V2022,
            )
            for start in range(0, total, PAGE)
        ]

    def change(self, count: int) -> None:
        """Give ``count`` cameras, spread over the whole catalog, another name."""
        first = len(self.items) - CHANNELS
        for number in range(count):
            place = first + number * (CHANNELS // count)
            item = self.items[place]
            self.items[place] = item.model_copy(update={"name": f"{item.name} 二号"})
        self.render()

    async def _message(self, body: Body) -> Reply:
        if isinstance(body, CatalogQuery):
            self.endpoint.spawn(self._send_pages(str(body.sn).encode()))
            return Reply(200)
        return await super()._message(body)

    async def _send_pages(self, sn: bytes) -> None:
        for page in self.rendered:
            began = time.monotonic()
            await self.send_raw(page.replace(str(SN_MARK).encode(), sn, 1))
            self.latency_s.append(time.monotonic() - began)


def directory() -> list[CatalogItem]:
    """County, townships, one business group with its virtual organisations."""
    nodes = [CatalogItem(device_id="410183", name="新密市")]
    nodes += [
        CatalogItem(device_id=f"410183{number:02d}", name=f"{number} 镇")
        for number in range(1, TOWNSHIPS + 1)
    ]
    group = make_code("410183", 215, 1)
    nodes.append(CatalogItem(device_id=group, name="治安", parent_ids=(PLATFORM,), civil_code="410183"))
    nodes += [
        CatalogItem(device_id=organisation(number), name=f"辖区 {number}", business_group_id=group)
        for number in range(CHANNELS // PER_ORGANISATION)
    ]
    return nodes


def organisation(number: int) -> str:
    return make_code("410183", 216, number + 1)


def camera(number: int) -> CatalogItem:
    """A camera with all that the 2022 edition asks of a video point of class 2."""
    return CatalogItem(
        device_id=make_code("410183", 131, number + 1),
        name=f"东大街路口 {number:06d}",
        manufacturer="Maker",
        model="IPC-4000",
        civil_code=f"410183{number % TOWNSHIPS + 1:02d}",
        address=f"东大街 {number % 900 + 1} 号",
        parental=0,
        parent_ids=(PLATFORM, organisation(number // PER_ORGANISATION)),
        register_way=1,
        secrecy=0,
        status="ON",
        longitude=113.35 + (number % 1000) / 10_000,
        latitude=34.50 + (number // 1000) / 10_000,
        business_group_id=make_code("410183", 215, 1),
        ptz_type=3,
        room_type=1,
        direction_type=number % 8 + 1,
        resolution=("6",),
        stream_numbers=("0", "1"),
        grassroots_code="101201",
        point_type=2,
        point_name=f"点位 {number}",
        mac="00-11-22-33-44-55",
        function_types=("02", "03"),
        encode_type="2",
        record_save_days=30,
    )


class Api:
    """Logged in as the first administrator."""

    def __init__(self, folder: Path) -> None:
        settings = yaml.safe_load((folder / "gateway.yaml").read_text(encoding="utf-8"))
        self.url = f"http://127.0.0.1:{settings['http']['port']}"
        found = re.search(r"password\s+(\S+)", (folder / "gateway.log").read_text(encoding="utf-8"))
        if found is None:
            raise RuntimeError("the gateway printed no password")
        self._opener = urllib.request.build_opener(
            urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar())
        )
        self.call("POST", "/api/login", {"username": "admin", "password": found[1]})

    def call(self, method: str, path: str, body: object = None) -> Any:
        data = json.dumps(body).encode() if body is not None else None
        request = urllib.request.Request(self.url + path, data=data, method=method)
        request.add_header("Origin", self.url)
        if data is not None:
            request.add_header("Content-Type", "application/json")
        with self._opener.open(request, timeout=60) as answer:
            text = answer.read()
        return json.loads(text) if text else None


class Ledger:
    """Counts the rows of channels that are inserted or updated, inside the gateway's own database."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._open() as database:
            database.execute("CREATE TABLE bench_writes (n INTEGER)")
            database.execute("INSERT INTO bench_writes VALUES (0)")
            for event in ("INSERT", "UPDATE"):
                database.execute(
                    f"CREATE TRIGGER bench_{event} AFTER {event} ON channels "
                    "BEGIN UPDATE bench_writes SET n = n + 1; END"
                )

    def _open(self) -> sqlite3.Connection:
        return sqlite3.connect(self.path, timeout=60)

    def _number(self, query: str) -> int:
        database = self._open()
        try:
            return int(database.execute(query).fetchone()[0])
        finally:
            database.close()

    def written(self) -> int:
        return self._number("SELECT n FROM bench_writes")

    def stored(self) -> int:
        return self._number("SELECT count(*) FROM channels")

    def close(self) -> None:
        """Take the triggers away again: what is measured next is not slowed down."""
        with self._open() as database:
            for event in ("INSERT", "UPDATE"):
                database.execute(f"DROP TRIGGER bench_{event}")


def size_bytes(folder: Path) -> int:
    """The database with its write-ahead log."""
    return sum(path.stat().st_size for path in folder.glob("*.db*")) or sum(
        path.stat().st_size for path in folder.glob("*sqlite*")
    )


def peak_bytes(pid: int) -> int:
    """Highest resident memory of a process so far."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    return 0


async def quiet(ledger: Ledger, more_than: int) -> int:
    """Rows written when nothing was added for three seconds."""
    last, since, began = -1, time.monotonic(), time.monotonic()
    while time.monotonic() - since < 3.0 or last <= more_than:
        if time.monotonic() - began > WAIT_S:
            break
        now = await asyncio.to_thread(ledger.written)
        if now != last:
            last, since = now, time.monotonic()
        await asyncio.sleep(0.2)
    return last


def slow_ms(latencies_s: list[float]) -> float:
    """99 of 100 answers were faster, in milliseconds."""
    ordered = sorted(latencies_s)
    return ordered[int(len(ordered) * 0.99)] * 1000 if ordered else 0.0


async def measure(folder: Path, pid: int, sip: int, metrics: int) -> list[Row]:
    api = Api(folder)
    data = folder / "data"
    ledger = Ledger(next(path for path in data.iterdir() if path.suffix in (".db", ".sqlite", ".sqlite3")))
    platform = BigPlatform(("127.0.0.1", sip), CHANNELS)
    platform.render()
    sent = sum(map(len, platform.rendered))
    await asyncio.sleep(2.0)  # what the start still does is not counted
    memory, cpu = rss_bytes(pid), cpu_seconds(pid)
    await platform.start()
    try:
        await platform.wait_registered()
        # It is asked because it registered, at most two seconds later: the clock runs from the query.
        await platform.wait(lambda: platform.received_bodies("Catalog"), 30)
        began = time.monotonic()
        await until(metrics, "gateway_catalogs_total", 1)
        known_s = time.monotonic() - began
        while await asyncio.to_thread(ledger.stored) < len(platform.items):
            await asyncio.sleep(0.2)
            if time.monotonic() - began > WAIT_S:
                raise RuntimeError("the catalog was not stored")
        stored_s = time.monotonic() - began
        spent = cpu_seconds(pid) - cpu
        slow_first = slow_ms(platform.latency_s)
        await quiet(ledger, 0)
        await asyncio.sleep(1.0)
        peak, held, size = peak_bytes(pid), rss_bytes(pid), size_bytes(data)

        platform.latency_s.clear()
        await asyncio.to_thread(platform.change, CHANGED)
        before, cpu, began = ledger.written(), cpu_seconds(pid), time.monotonic()
        await asyncio.to_thread(api.call, "POST", f"/api/devices/{PLATFORM}/catalog")
        await until(metrics, "gateway_catalogs_total", 2)
        again_s, again_cpu = time.monotonic() - began, cpu_seconds(pid) - cpu
        rows = await quiet(ledger, before) - before
        complete = await asyncio.to_thread(metric, metrics, "gateway_catalogs_total")
        view = await asyncio.to_thread(api.call, "GET", f"/api/devices/{PLATFORM}")
        peak_again = peak_bytes(pid)
        began = time.monotonic()
        level = await asyncio.to_thread(api.call, "GET", f"/api/tree?parent=device:{PLATFORM}")
        tree_s = time.monotonic() - began
    finally:
        ledger.close()
        await platform.stop()
    whole = bool(view["catalog_complete"]) and view["channels"] == len(platform.items) and complete == 2
    how = (
        f"{len(platform.items)} entries, {sent / 1e6:.0f} MB of XML in {len(platform.rendered)} messages over TCP, each sent "
        "after the 200 of the one before; sender on the same machine"
    )
    name = f"catalog of {CHANNELS:,}"
    return [
        Row(f"{name}: until known", known_s, "s", "", None, f"<= {AIM_S:g} s", known_s <= AIM_S, how),
        Row(f"{name}: until stored", stored_s, "s"),
        Row(f"{name}: CPU", spent / len(platform.items) * 1e6, "us/entry", how="CPU: of the gateway process, all threads"),
        Row(f"{name}: 99 of 100 parts answered within", slow_first, "ms"),
        Row(f"{name}: peak memory", peak / 2**20, "MiB", f"{memory / 2**20:.0f} MiB before"),
        Row(f"{name}: memory held", (held - memory) / len(platform.items) / 1024, "KiB/entry"),
        Row(f"{name}: database", size / 2**20, "MiB", "", size / sent, how="ratio: database to XML received"),
        Row(f"{name}: complete, nothing lost", float(whole), "", aim="1", met=whole),
        Row(f"{CHANGED} changed: until known", again_s, "s", f"first time {known_s:.1f} s", again_s / known_s),
        Row(f"{CHANGED} changed: rows written", rows, "rows", aim=f"{CHANGED}", met=rows == CHANGED),
        Row(f"{CHANGED} changed: CPU", again_cpu / len(platform.items) * 1e6, "us/entry"),
        Row(f"{CHANGED} changed: 99 of 100 parts answered within", slow_ms(platform.latency_s), "ms"),
        Row(f"{CHANGED} changed: peak memory", peak_again / 2**20, "MiB"),
        Row("tree: top level of the platform", tree_s * 1000, "ms", f"{level['total']} nodes"),
    ]  # fmt: skip


def run() -> list[dict[str, Any]]:
    """One gateway, one platform."""
    with tempfile.TemporaryDirectory() as folder, gateway(Path(folder)) as (pid, sip, metrics):
        return [row.as_dict() for row in asyncio.run(measure(Path(folder), pid, sip, metrics))]
