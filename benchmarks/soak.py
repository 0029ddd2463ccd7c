"""``make soak``: a node at work for a long time, viewers coming and going on all outputs, streams opened and closed.

What must hold: memory, file handles and leased ports stay flat once warm; when all is closed, everything is given
back; and the packet counters agree end to end (generator = node in = node out + drops = sink), every byte checked.
SOAK_MINUTES (30) is the time after the warm-up, SOAK_LOAD (0.6) the share of a core the node shall use, SOAK_PUMP the
pump. Prints a report, writes build/soak.json; exit status 1 when something did not hold.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import statistics
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from aiohttp import ClientError
from aioice import ice
from aiortc.exceptions import InvalidStateError

from benchmarks import native
from benchmarks.cameras import Camera, looped
from benchmarks.measure import cpu_seconds, rss_bytes
from benchmarks.nodes import SECRET, RunningNode, known, running_node
from benchmarks.players import House
from benchmarks.relay_candidates import Shape
from benchmarks.waves import Waves
from media.client import MediaClient, MediaError
from media.specs import ReceiverSpec
from simulator.picture import TestPicture

REPORT = Path(__file__).parents[1] / "build" / "soak.json"
WAVES = (Shape(20), Shape(4, 5), Shape(10, 1, "tcp", "tcp"), Shape(10, 1, "tcp", "udp"))
BACK_S = 60.0
"""So long may sessions without farewell (HLS) and resting ports take to be given back."""
ODDS = 28181
FLAT = 0.05
"""Share of the mean by which a straight line through a flat gauge may rise or fall."""


@dataclass(slots=True)
class Plan:
    """``load`` None: ``waves`` at a time; else waves are added during the warm-up until the node uses that share."""

    minutes: float = 30.0
    warm_s: float = 180.0
    load: float | None = 0.6
    waves: int = 2
    most_waves: int = 60
    wave_s: tuple[float, float] = (20.0, 60.0)
    watch_s: tuple[float, float] = (3.0, 12.0)
    viewers_per_kind: int = 3
    cameras: int = 4
    sample_s: float = 5.0
    pump: str = "auto"


@dataclass(slots=True)
class Sample:
    """The node at one moment; ``cpu`` is the share of a core since the sample before."""

    at_s: float
    cpu: float
    rss: int
    handles: int
    ports: int
    streams: int
    viewers: int


class Soak:
    """One run against one node."""

    def __init__(self, plan: Plan, node: RunningNode, client: MediaClient) -> None:
        self.plan = plan
        self.node = node
        self.client = client
        self.samples: list[Sample] = []
        self.visits: Counter[str] = Counter()
        self.events: Counter[str] = Counter()
        self.failures: Counter[str] = Counter()
        self.reasons: dict[str, str] = {}
        self.wanted_waves = 0
        self.camera_lines: list[tuple[int, int, int]] = []
        self.begun = time.monotonic()
        self.waves = Waves(client)
        self.house = House(node, client)
        self.random = random.Random(ODDS)
        self._cpu = (time.monotonic(), cpu_seconds(node.pid))
        self._over = False

    async def sample(self) -> Sample:
        """Ask the node and the system, and keep the answer. A node that does not answer in time is a failure."""
        try:
            stats = await self.client.stats()
        except MediaError as error:
            self.failed("statistics", error)
            return self.samples[-1]
        now, cpu = time.monotonic(), cpu_seconds(self.node.pid)
        share = (cpu - self._cpu[1]) / max(now - self._cpu[0], 1e-9)
        self._cpu = (now, cpu)
        handles = len(os.listdir(f"/proc/{self.node.pid}/fd"))
        one = Sample(
            round(now - self.begun, 1), round(share, 4), rss_bytes(self.node.pid), handles, stats.ports_leased,
            stats.streams, stats.viewers,
        )  # fmt: skip
        self.samples.append(one)
        return one

    def stop(self) -> None:
        """Nothing new begins."""
        self._over = True

    async def listen(self) -> None:
        """Read the node's events, as a gateway does."""
        with contextlib.suppress(MediaError):
            async for event in self.client.events():
                self.events[event.type] += 1

    # --- what goes on ----------------------------------------------------------------------------------------------

    async def wave_after_wave(self, number: int) -> None:
        """One place for waves: a new one as soon as the last has ended."""
        while not self._over:
            if number >= self.wanted_waves:
                await asyncio.sleep(0.5)
                continue
            try:
                await self.waves.run(WAVES[number % len(WAVES)], self.random.uniform(*self.plan.wave_s))
            except (MediaError, RuntimeError, OSError) as error:
                self.failed("wave", error)
                await asyncio.sleep(1)

    async def visit_after_visit(self, kind: str) -> None:
        """One place for viewers of a kind: one comes, watches for a while, goes."""
        while not self._over:
            player = self.house.player(kind, f"camera{self.random.randrange(self.plan.cameras)}")
            if kind == "webrtc":
                player = self.house.player(kind, "camera0")
            try:
                await player.open()
                before = player.received
                await asyncio.sleep(self.random.uniform(*self.plan.watch_s))
                if kind != "rtsp_udp" and player.received == before:
                    raise RuntimeError("nothing came")
                self.visits[kind] += 1
            except (MediaError, RuntimeError, OSError, TimeoutError, ClientError, InvalidStateError) as error:
                self.failed(kind, error)
                await asyncio.sleep(1)
            finally:
                await player.close()

    def failed(self, what: str, error: BaseException) -> None:
        self.failures[what] += 1
        self.reasons[what] = f"{type(error).__name__}: {error}"[:200]

    async def cameras(self) -> list[Camera]:
        """Real pictures for the viewers: the first H.264 with sound, others H.264 and H.265."""
        made = []
        for number in range(self.plan.cameras):
            name = f"camera{number}"
            info = await self.client.open_receiver(ReceiverSpec(stream_id=name, idle_grace_s=7200))
            codec = "h265" if number == 3 else "h264"
            units = TestPicture(640, 360, codec=codec, gop=25).encoded_loop(2.0)
            made.append(Camera(info.port, 1000 + number, looped(units), units[0].codec, sound=number != 3))
        return made

    async def calibrate(self) -> None:
        """During the warm-up: more waves until the node does what it shall do."""
        plan = self.plan
        self.wanted_waves = plan.waves
        end = time.monotonic() + plan.warm_s
        while time.monotonic() < end:
            await asyncio.sleep(min(plan.sample_s, plan.warm_s))
            share = statistics.median(one.cpu for one in [await self.sample(), *self.samples[-2:]])
            if plan.load is not None and self.wanted_waves < plan.most_waves:
                missing = plan.load - share
                if missing > 0.03:
                    self.wanted_waves += 2 if missing > 0.2 else 1
                elif missing < -0.05 and self.wanted_waves > 1:
                    self.wanted_waves -= 1

    async def run(self) -> dict[str, Any]:
        """Everything in order; the report."""
        plan = self.plan
        first = await self.sample()
        listening = asyncio.create_task(self.listen())
        cameras = await self.cameras()
        while not all(
            [(await self.client.stream(f"camera{number}")).ready for number in range(plan.cameras)]
        ):
            await asyncio.sleep(0.1)
        places = plan.most_waves if plan.load is not None else plan.waves
        busy = [asyncio.create_task(self.wave_after_wave(number)) for number in range(places)]
        kinds = [kind for kind in House.KINDS if self.house.rtsp_port or "rtsp" not in kind]
        viewers = [
            asyncio.create_task(self.visit_after_visit(kind))
            for kind in kinds
            for _ in range(plan.viewers_per_kind)
        ]
        await self.calibrate()
        steady_from = time.monotonic() - self.begun
        end = time.monotonic() + plan.minutes * 60
        while time.monotonic() < end:
            await asyncio.sleep(min(plan.sample_s, max(0.1, end - time.monotonic())))
            say(await self.sample(), self)
        self.stop()
        await asyncio.gather(*busy, *viewers)
        for camera in cameras:
            await camera.close()
        await asyncio.sleep(1)
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
        for number, camera in enumerate(cameras):
            stats = await self.client.stream(f"camera{number}")
            self.camera_lines.append((camera.sent, stats.packets, stats.lost))
            await self.client.close_receiver(f"camera{number}")
        return self.report(first, steady_from, await self.given_back(first))

    async def given_back(self, first: Sample) -> Sample:
        """Wait until nothing is left, or too long."""
        await self.client.close()  # its idle connections are the node's handles, too
        await self.client.start()
        end = time.monotonic() + BACK_S
        while True:
            last = await self.sample()
            if not (last.ports or last.streams or last.viewers or last.handles > first.handles + 2):
                return last
            if time.monotonic() > end:
                return last
            await asyncio.sleep(1)

    # --- what came of it -------------------------------------------------------------------------------------------

    def report(self, first: Sample, steady_from: float, last: Sample) -> dict[str, Any]:
        steady = [
            one for one in self.samples if steady_from < one.at_s <= steady_from + self.plan.minutes * 60 + 1
        ]
        totals = self.waves.totals
        flat = {name: trend(steady, name) for name in ("rss", "handles", "ports")}
        verdicts = {
            "counters agree": totals.agree and not totals.wrong and totals.waves > 0,
            "camera packets agree": all(sent == seen + lost for sent, seen, lost in self.camera_lines),
            "no viewer failed": not self.failures,
            "ports given back": last.ports == 0,
            "handles given back": last.handles <= first.handles + 2,
            "streams and viewers gone": last.streams == 0 and last.viewers == 0,
        }
        if self.plan.minutes >= 2:
            verdicts |= flatness(flat)
        return {
            "at": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "plan": asdict(self.plan),
            "machine": {"cpus": os.cpu_count(), "load": os.getloadavg()}, "pump": self.node.config.model_dump().get("pump"),
            "cpu": {"mean": statistics.fmean(one.cpu for one in steady or self.samples), "waves at a time": self.wanted_waves},
            "flat": flat, "totals": totals.as_dict(), "notes": self.waves.notes, "cameras": self.camera_lines,
            "visits": dict(self.visits), "events": dict(self.events), "failures": dict(self.failures), "reasons": self.reasons,
            "first": asdict(first), "last": asdict(last), "verdicts": verdicts, "samples": [asdict(one) for one in self.samples],
        }  # fmt: skip


def trend(samples: list[Sample], name: str) -> dict[str, float]:
    """The straight line through a gauge: its mean, and its change over the time and over the second half, as shares of it."""
    values = [float(getattr(one, name)) for one in samples]
    if len(values) < 6:
        last = values[-1] if values else 0.0
        return {"mean": last, "least": last, "most": last, "change": 0.0, "late_change": 0.0}
    times = [one.at_s for one in samples]
    slope = statistics.linear_regression(times, values).slope
    mean = statistics.fmean(values)
    half = len(values) // 2
    late = statistics.linear_regression(times[half:], values[half:]).slope
    return {
        "mean": mean, "least": min(values), "most": max(values), "per_hour": slope * 3600,
        "change": slope * (times[-1] - times[0]) / mean if mean else 0.0,
        "late_change": late * (times[-1] - times[half]) / mean if mean else 0.0,
    }  # fmt: skip


def flatness(flat: dict[str, dict[str, float]]) -> dict[str, bool]:
    """Memory reaches its highest level only after some minutes of coming and going, and is judged from the middle on."""
    return {
        "memory flat in the second half": abs(flat["rss"]["late_change"]) <= FLAT,
        "handles flat": abs(flat["handles"]["change"]) <= FLAT,
        "ports flat": abs(flat["ports"]["change"]) <= FLAT,
    }


def say(sample: Sample, soak: Soak) -> None:
    """One line a minute for who watches the log."""
    if len(soak.samples) % max(1, round(60 / soak.plan.sample_s)) == 0:
        print(
            f"{sample.at_s:7.0f} s  cpu {sample.cpu:5.1%}  rss {sample.rss / 2**20:6.1f} MiB  handles {sample.handles:4d}  "
            f"ports {sample.ports:4d}  streams {sample.streams:3d}  viewers {sample.viewers:3d}  "
            f"visits {sum(soak.visits.values())}  failures {sum(soak.failures.values())}",
            flush=True,
        )


async def _run(plan: Plan, node: RunningNode) -> dict[str, Any]:
    client = MediaClient(node.config.control, SECRET)
    await client.start()
    running = Soak(plan, node, client)
    try:
        return await running.run()
    finally:
        running.stop()
        await client.close()


def soak(plan: Plan) -> dict[str, Any]:
    """Run the plan against a node of its own; the report. RuntimeError without a C compiler."""
    if native.program("load") is None:
        raise RuntimeError(native.NO_COMPILER)
    ice.get_host_addresses = lambda use_ipv4, use_ipv6: ["127.0.0.1"]
    with running_node(**known(rtsp_port=0, pump=plan.pump, port_quarantine_s=5.0)) as node:
        return asyncio.run(_run(plan, node))


def main() -> None:
    minutes = float(os.environ.get("SOAK_MINUTES", "30"))
    plan = Plan(
        minutes=minutes, warm_s=min(180.0, minutes * 12), load=float(os.environ.get("SOAK_LOAD", "0.6")),
        pump=os.environ.get("SOAK_PUMP", "auto"),
    )  # fmt: skip
    report = soak(plan)
    REPORT.parent.mkdir(exist_ok=True)
    REPORT.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    for name in ("cpu", "flat", "totals", "notes", "visits", "failures", "reasons", "verdicts"):
        print(f"{name}: {json.dumps(report[name], indent=1)}")
    sys.exit(0 if all(report["verdicts"].values()) else 1)


if __name__ == "__main__":
    main()
