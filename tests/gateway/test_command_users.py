"""The users command: adds, lists, changes and removes users in the database, and says in one line what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from gateway.commands.users import app

runner = CliRunner()


@pytest.fixture
def config(tmp_path: Path) -> str:
    path = tmp_path / "gateway.yaml"
    path.write_text(f"storage:\n  directory: {tmp_path / 'data'}\n", encoding="utf-8")
    return str(path)


def test_add_list_change_remove(config: str) -> None:
    added = runner.invoke(app, ["add", "wang", "--role", "administrator", "--generate", "-c", config])
    assert added.exit_code == 0, added.output
    assert "shown once" in added.output
    runner.invoke(app, ["add", "li", "-c", config], input="Long-Enough-1\nLong-Enough-1\n")
    listed = runner.invoke(app, ["list", "-c", config]).output
    assert "wang" in listed
    assert "viewer" in listed
    assert runner.invoke(app, ["password", "li", "--generate", "-c", config]).exit_code == 0
    assert runner.invoke(app, ["remove", "li", "-c", config]).exit_code == 0
    assert "li " not in runner.invoke(app, ["list", "-c", config]).output


@pytest.mark.parametrize(
    ("arguments", "typed", "words"),
    [
        (["add", "wang"], "short\nshort\n", "8 to 256"),
        (["add", "no blanks"], "Long-Enough-1\nLong-Enough-1\n", "user name"),
        (["remove", "nobody"], "", "does not exist"),
    ],
)
def test_an_error_is_one_line_and_exit_code_1(
    config: str, arguments: list[str], typed: str, words: str
) -> None:
    result = runner.invoke(app, [*arguments, "-c", config], input=typed)
    assert result.exit_code == 1
    assert words in result.output + (result.stderr if result.stderr_bytes else "")
    assert "Traceback" not in result.output


def test_the_last_administrator_stays(config: str) -> None:
    runner.invoke(app, ["add", "wang", "--role", "administrator", "--generate", "-c", config])
    assert runner.invoke(app, ["remove", "wang", "-c", config]).exit_code == 1
