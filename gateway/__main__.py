"""The command line: run, demo, check-config, users, simulate, version."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from config.load import ConfigurationError, load
from config.settings import Settings
from config.vendors import load_vendors
from gateway import __version__
from gateway.commands.simulate import app as simulate_commands
from gateway.commands.users import app as user_commands
from gateway.interrupt import until_interrupted

EXIT_CONFIGURATION = 78
"""sysexits.h EX_CONFIG."""

app = typer.Typer(no_args_is_help=True, add_completion=False, help="GB/T 28181 SIP video-networking gateway.")
app.add_typer(user_commands, name="users")
app.add_typer(simulate_commands, name="simulate")
console = Console()
errors = Console(stderr=True)

ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config", "-c", envvar="GB_GATEWAY_CONFIG", help="YAML file; without it defaults and environment."
    ),
]


def settings_or_exit(path: Path | None) -> Settings:
    """Load the settings; on faults print each with file and line and exit with 78."""
    try:
        settings = load(path)
        load_vendors(settings.profiles.vendors_file)
        return settings
    except ConfigurationError as error:
        for problem in error.problems:
            errors.print(f"[red]configuration[/red] {problem}", highlight=False, markup=True)
        raise typer.Exit(EXIT_CONFIGURATION) from None


@app.command()
def run(config: ConfigOption = None) -> None:
    """Run the gateway until Ctrl-C or SIGTERM, then drain and stop."""
    from gateway.app import Gateway, StartFailed
    from gateway.logs import configure

    settings = settings_or_exit(config)
    configure(settings.log)
    gateway = Gateway(settings)

    async def serve() -> None:
        try:
            await gateway.start()
            if gateway.first_password:
                print_first_password(gateway.first_password)
            console.print(
                f"[bold]gb-gateway {__version__}[/bold]  console and API: {gateway.url}", highlight=False
            )
            await asyncio.Event().wait()
        finally:
            await gateway.stop()

    try:
        asyncio.run(until_interrupted(serve()))
    except StartFailed as error:
        errors.print(f"[red]cannot start:[/red] {error}", highlight=False)
        raise typer.Exit(1) from None


def print_first_password(password: str) -> None:
    """Show the administrator's password; it is stored only as a hash and never shown again."""
    console.print("[bold yellow]first start: administrator created[/bold yellow]")
    console.print(
        f"  user      admin\n  password  {password}\n  (shown once; change it in the console)",
        highlight=False,
    )


@app.command()
def demo(
    check: Annotated[
        bool, typer.Option("--check", help="No browser: prove that pictures arrive, then exit 0 or 1.")
    ] = False,
    port: Annotated[int, typer.Option(help="HTTP port of the console (0: any free port).")] = 8080,
    seconds: Annotated[float, typer.Option(help="Stop after this time (0: until Ctrl-C).")] = 0.0,
) -> None:
    """Gateway, six simulated cameras, a recorder and an upper platform on this machine."""
    from gateway.demo import run_demo

    work = run_demo(check=check, http_port=port, seconds=seconds, console=console)
    code = asyncio.run(until_interrupted(work))
    raise typer.Exit(int(check) if code is None else code)  # an interrupted check has proven nothing


@app.command("check-config")
def check_config(config: ConfigOption = None) -> None:
    """Check the configuration; exit 0 when it is good, 78 with key and line of each fault when not."""
    settings = settings_or_exit(config)
    console.print(
        f"configuration is good: {settings.sip.server_id} on {settings.sip.host}:{settings.sip.port}",
        highlight=False,
    )


@app.command()
def version() -> None:
    """Print the version."""
    console.print(f"gb-gateway {__version__}", highlight=False)


def main() -> None:
    """Entry point of the ``gb-gateway`` command."""
    with contextlib.suppress(KeyboardInterrupt):
        app()


if __name__ == "__main__":
    main()
