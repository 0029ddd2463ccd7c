"""``gb-gateway users``: list, add, change and remove the console's users, straight in the database."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from config.load import ConfigurationError, load
from gateway.errors import GatewayError
from gateway.services.access import Access, Role
from gateway.storage.database import Database, StorageFailed
from gateway.storage.users import UserStore

app = typer.Typer(no_args_is_help=True, help="Users of the console and the API.")
console = Console()
errors = Console(stderr=True)

Config = Annotated[Path | None, typer.Option("--config", "-c", envvar="GB_GATEWAY_CONFIG")]
Name = Annotated[str, typer.Argument(help="user name: letters, digits, _ . @ -")]


def in_database(config: Path | None, work: Callable[[Access], Awaitable[None]]) -> None:
    """Open the configured database, do the work, report errors in one line and exit 1."""

    async def run() -> None:
        settings = load(config)
        database = Database(settings.storage)
        await database.open()
        try:
            await work(
                Access(
                    store=UserStore(database),
                    session_lifetime_s=settings.http.session_lifetime_s,
                    login_attempts_per_minute=settings.http.login_attempts_per_minute,
                )
            )
        finally:
            await database.close()

    try:
        asyncio.run(run())
    except (ConfigurationError, StorageFailed, GatewayError, ValueError) as error:
        errors.print(f"[red]error:[/red] {error}", highlight=False)
        raise typer.Exit(1) from None


def ask_password(generate: bool) -> str:
    """A random password, printed once, or one typed twice without echo."""
    if not generate:
        typed: str = typer.prompt("password", hide_input=True, confirmation_prompt=True)
        return typed
    password = secrets.token_urlsafe(15)
    console.print(f"password  {password}  (shown once)", highlight=False)
    return password


@app.command("list")
def list_users(config: Config = None) -> None:
    """Show all users."""

    async def work(access: Access) -> None:
        table = Table("user", "role", "enabled", "created")
        for user in await access.users():
            table.add_row(
                user.username,
                user.role,
                "yes" if user.enabled else "no",
                f"{user.created_at:%Y-%m-%d %H:%M} UTC",
            )
        console.print(table)

    in_database(config, work)


@app.command()
def add(
    name: Name,
    role: Annotated[Role, typer.Option(help="what the user may do")] = Role.VIEWER,
    generate: Annotated[bool, typer.Option("--generate", help="make a random password")] = False,
    config: Config = None,
) -> None:
    """Add a user; asks for the password."""

    async def work(access: Access) -> None:
        await access.add_user(name, ask_password(generate), role)
        console.print(f"user {name} added as {role.value}", highlight=False)

    in_database(config, work)


@app.command()
def password(
    name: Name,
    generate: Annotated[bool, typer.Option("--generate", help="make a random password")] = False,
    config: Config = None,
) -> None:
    """Set a new password; the user's sessions end."""

    async def work(access: Access) -> None:
        await access.change_user(name, password=ask_password(generate))
        console.print(f"password of {name} changed", highlight=False)

    in_database(config, work)


@app.command()
def remove(name: Name, config: Config = None) -> None:
    """Remove a user."""

    async def work(access: Access) -> None:
        await access.remove_user(name)
        console.print(f"user {name} removed", highlight=False)

    in_database(config, work)
