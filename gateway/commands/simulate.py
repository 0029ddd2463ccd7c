"""``gb-gateway simulate``: a camera, a recorder or an upper platform for trials, made of the same sip and media packages."""

from __future__ import annotations

import typer

app = typer.Typer(no_args_is_help=True, help="Simulated peers for trials.")


@app.callback()
def group() -> None:
    """Simulated peers for trials."""
