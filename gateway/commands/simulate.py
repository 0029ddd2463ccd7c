"""``gb-gateway simulate``: a camera, a recorder or an upper platform for trials, made of the same sip and media packages."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from simulator.camera import Camera, DeviceOptions, Faults, Pictures, run_devices
from simulator.lower_platform import LowerPlatform
from simulator.nvr import Recorder
from simulator.script import ScriptError, load
from simulator.script_run import ScriptRun
from simulator.stream_faults import STREAM_FAULTS
from simulator.upper_platform import UpperPlatform
from sip.manscdp import Edition

app = typer.Typer(no_args_is_help=True, help="Simulated peers for trials.")
console = Console()

PULL_PAUSE_S = 5.0

Server = Annotated[str, typer.Option(help="address:port of the gateway")]
ServerId = Annotated[str, typer.Option(help="20-digit code of the gateway")]
Domain = Annotated[str, typer.Option(help="SIP domain; empty: the first ten digits of the server's code")]
Password = Annotated[
    str, typer.Option(envvar="GB_SIMULATE_PASSWORD", help="digest password", show_envvar=True)
]
Transport = Annotated[str, typer.Option(help="SIP over udp or tcp")]
EditionOption = Annotated[str, typer.Option(help="2016 or 2022")]
Codec = Annotated[str, typer.Option(help="h264 or h265")]
Faulty = Annotated[
    list[str], typer.Option("--fault", help="a fault of the stream, again and again; `list` names them")
]
Lose = Annotated[float, typer.Option(min=0.0, max=1.0, help="share of RTP packets to lose")]


def address(text: str, default_port: int = 5060) -> tuple[str, int]:
    """``host`` or ``host:port``. Raises typer.BadParameter."""
    host, _, port = text.partition(":")
    if not host or (port and not port.isdigit()):
        raise typer.BadParameter(f"address:port, not {text!r}")
    return host, int(port or default_port)


def edition_of(text: str) -> Edition:
    editions = {"2016": Edition.V2016, "2022": Edition.V2022}
    if text not in editions:
        raise typer.BadParameter(f"2016 or 2022, not {text!r}")
    return editions[text]


def until_stopped(work: Callable[[asyncio.Event], Awaitable[None]]) -> None:
    """Run ``work`` until Ctrl-C or SIGTERM."""

    async def run() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
        await work(stop)

    asyncio.run(run())


@app.command()
def camera(
    server: Server,
    device_id: Annotated[str, typer.Option(help="20-digit code, type 132")] = "41018300001320000001",
    password: Password = "",
    server_id: ServerId = "41018300002000000001",
    domain: Domain = "",
    name: Annotated[str, typer.Option(help="name in the catalog and in the picture")] = "",
    transport: Transport = "udp",
    edition: EditionOption = "2022",
    codec: Codec = "h264",
    lose: Lose = 0.0,
    fault: Faulty = [],  # noqa: B006  (Typer's way of an option that may be repeated)
    script: Annotated[
        Path | None,
        typer.Option("--script", help="play the device of this file (docs/howto/scripted-devices.md)"),
    ] = None,
) -> None:
    """One camera with a moving picture, a running clock and sound; or any device, by a script."""
    if script is not None:
        edition_of(edition)
        scripted(
            script,
            server=address(server),
            server_id=server_id,
            domain=domain,
            password=password or None,
            device_id=device_id,
            edition=edition,
            transport=transport,
            codec=codec,
            name=name,
        )
        return
    faults = _faults(lose, fault)
    device = Camera(
        device_id,
        server=address(server),
        server_id=server_id,
        domain=domain,
        password=password or None,
        name=name,
        transport=transport,
        codec=codec,
        edition=edition_of(edition),
        picture="live",
        options=_options(),
        faults=faults,
    )
    console.print(f"camera {device_id} registers at {server} over {transport}", highlight=False)
    until_stopped(lambda stop: run_devices([device], stop))


def scripted(path: Path, **values: Any) -> None:
    """Play a script. Ends with its exit code: 0 well, 1 what it expected did not happen, 2 it cannot be played."""
    try:
        run = ScriptRun(
            load(path), say=lambda line: console.print(line, highlight=False, markup=False), **values
        )
    except ScriptError as error:
        console.print(str(error), style="red", highlight=False, markup=False)
        raise typer.Exit(2) from None
    code = 0

    async def play(stop: asyncio.Event) -> None:
        nonlocal code
        code = await run.play(stop)

    until_stopped(play)
    if code:
        raise typer.Exit(code)


@app.command()
def nvr(
    server: Server,
    device_id: Annotated[str, typer.Option(help="20-digit code, type 118")] = "41018300001180000001",
    channels: Annotated[int, typer.Option(min=1, max=1000)] = 8,
    password: Password = "",
    server_id: ServerId = "41018300002000000001",
    domain: Domain = "",
    name: Annotated[str, typer.Option(help="name in the catalog")] = "",
    transport: Transport = "udp",
    edition: EditionOption = "2022",
    codec: Codec = "h264",
    lose: Lose = 0.0,
    fault: Faulty = [],  # noqa: B006
) -> None:
    """A recorder with several channels in a directory of groups and organisations."""
    faults = _faults(lose, fault)
    device = Recorder(
        device_id,
        channels,
        server=address(server),
        server_id=server_id,
        domain=domain,
        password=password or None,
        name=name,
        directory=True,
        transport=transport,
        codec=codec,
        edition=edition_of(edition),
        options=_options(),
        faults=faults,
    )
    console.print(f"recorder {device_id} with {channels} channels registers at {server}", highlight=False)
    until_stopped(lambda stop: run_devices([device], stop))


def _faults(lose: float, names: list[str]) -> Faults:
    """The faults that were asked for. ``list`` prints their names and ends."""
    if "list" in names:
        for name, meaning in STREAM_FAULTS.items():
            console.print(f"{name:18} {meaning}", highlight=False, soft_wrap=True)
        raise typer.Exit
    try:
        return Faults(lose_rtp=lose, stream=set(names))
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def _options() -> DeviceOptions:
    return DeviceOptions(host="0.0.0.0", pictures=Pictures())


@app.command("lower-platform")
def lower_platform(
    server: Server,
    device_id: Annotated[str, typer.Option(help="20-digit code, type 200")] = "41018300002000000002",
    cameras: Annotated[int, typer.Option(min=2, max=400, help="cameras directly under it")] = 4,
    deep: Annotated[int, typer.Option(min=0, max=300, help="cameras under the platform below it")] = 2,
    colliding: Annotated[
        list[str], typer.Option("--colliding", help="a code of others that it uses as well")
    ] = [],  # noqa: B006
    password: Password = "",
    server_id: ServerId = "41018300002000000001",
    domain: Domain = "",
    name: Annotated[str, typer.Option(help="name in the catalog")] = "",
    transport: Transport = "udp",
    edition: EditionOption = "2022",
    codec: Codec = "h264",
    lose: Lose = 0.0,
    fault: Faulty = [],  # noqa: B006
) -> None:
    """A lower platform: divisions, groups, organisations, a platform below it, and cameras that stream."""
    faults = _faults(lose, fault)
    device = LowerPlatform(
        device_id,
        cameras,
        deep,
        server=address(server),
        server_id=server_id,
        domain=domain,
        password=password or None,
        name=name,
        colliding=colliding,
        transport=transport,
        codec=codec,
        edition=edition_of(edition),
        options=_options(),
        faults=faults,
    )
    console.print(f"platform {device_id} registers at {server} over {transport}", highlight=False)
    until_stopped(lambda stop: run_devices([device], stop))


@app.command()
def platform(
    listen: Annotated[
        str, typer.Option(help="own address:port, told to the gateway for media too")
    ] = "127.0.0.1:5061",
    platform_id: Annotated[
        str, typer.Option(help="20-digit code of this upper platform")
    ] = "41010000002000000001",
    lower_id: Annotated[
        str, typer.Option(help="code under which the gateway registers")
    ] = "41018300002000000001",
    password: Password = "",
    pull: Annotated[
        bool, typer.Option("--pull", help="keep pulling the first camera of the catalog")
    ] = False,
    transport: Annotated[str, typer.Option(help="media: udp, tcp_passive or tcp_active")] = "udp",
) -> None:
    """A municipal platform: lets the gateway register, asks for the catalog, and pulls a stream."""
    host, port = address(listen)

    async def serve(stop: asyncio.Event) -> None:
        upper = UpperPlatform(platform_id, lower_id=lower_id, password=password or None, host=host, port=port)
        await upper.start()
        console.print(f"platform {platform_id} listens on {listen}", highlight=False)
        try:
            while not stop.is_set():
                with contextlib.suppress(TimeoutError):
                    await upper.wait_registered(5.0)
                    if pull:
                        await _pull_once(upper, transport, stop)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), PULL_PAUSE_S)
        finally:
            await upper.stop()

    until_stopped(serve)


async def _pull_once(upper: UpperPlatform, transport: str, stop: asyncio.Event) -> None:
    """Query the catalog, play its first camera and report what arrives each ten seconds."""
    from sip.errors import SipError
    from sip.ids import TypeKind, kind_of

    try:
        items = await upper.query_catalog()
        cameras = [
            item for item in items if kind_of(item.device_id) is TypeKind.CAMERA and item.status == "ON"
        ]
        console.print(f"catalog: {len(items)} entries, {len(cameras)} cameras online", highlight=False)
        if not cameras:
            return
        pull = await upper.invite(cameras[0].device_id, transport)
    except (SipError, TimeoutError) as error:
        console.print(f"cannot pull: {error}", highlight=False)
        return
    try:
        while not stop.is_set() and not pull.session.ended.done():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), 10.0)
            stats = pull.media.stats
            console.print(
                f"{cameras[0].device_id}: {stats.frames} frames decoded, {stats.decode_errors} errors, {stats.lost} lost",
                highlight=False,
            )
    finally:
        await pull.close()
