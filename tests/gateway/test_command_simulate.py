"""``gb-gateway simulate``: what is asked for by name is known, and said when it is not."""

from __future__ import annotations

from typer.testing import CliRunner

from gateway.commands.simulate import app
from simulator.stream_faults import STREAM_FAULTS


def test_all_faults_are_listed_with_their_meaning() -> None:
    result = CliRunner().invoke(app, ["camera", "--server", "127.0.0.1", "--fault", "list"])
    assert result.exit_code == 0
    for name, meaning in STREAM_FAULTS.items():
        assert f"{name:18} {meaning}" in result.output


def test_an_unknown_fault_is_refused() -> None:
    result = CliRunner().invoke(app, ["camera", "--server", "127.0.0.1", "--fault", "unheard_of"])
    assert result.exit_code == 2
    assert "unheard_of" in result.output
