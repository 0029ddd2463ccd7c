"""Adding a command is one file, one sample and one row of the coverage page: this fails when one is missing."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from sip.manscdp import REGISTRY

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "sip" / "manscdp"
NO_COMMANDS = {"__init__", "base", "types", "charset", "repair", "xml", "config_types"}
FILES = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem not in NO_COMMANDS)
MODELS = sorted(set(REGISTRY.values()), key=lambda model: model.__name__)


def models_of(name: str) -> list[type]:
    return [model for model in MODELS if model.__module__ == f"sip.manscdp.{name}"]


@pytest.mark.parametrize("name", FILES)
def test_a_command_file_holds_one_command(name: str) -> None:
    assert len({model.CMD_TYPE for model in models_of(name)}) == 1  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", FILES)
def test_a_command_file_cites_its_clause(name: str) -> None:
    tree = ast.parse((FOLDER / f"{name}.py").read_text(encoding="utf-8"))
    assert "A.2." in (ast.get_docstring(tree) or "")
    for model in models_of(name):
        assert model.CLAUSE.startswith("A.2.")  # type: ignore[attr-defined]
        assert model.CHECKS  # type: ignore[attr-defined]
        assert model.__doc__


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_every_model_has_a_sample_and_is_exported(model: type) -> None:
    import sip.manscdp

    samples = ROOT / "tests" / "data" / "manscdp"
    assert list(samples.glob(f"{model.ROOT}-{model.CMD_TYPE}-*.xml"))  # type: ignore[attr-defined]
    assert model.__name__ in sip.manscdp.__all__


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_every_model_has_a_row_of_coverage(model: type) -> None:
    page = (ROOT / "docs" / "protocol-coverage.md").read_text(encoding="utf-8")
    row = f"| {model.ROOT} | {model.CMD_TYPE} |"  # type: ignore[attr-defined]
    line = next((line for line in page.splitlines() if line.startswith(row)), "")
    assert f"`sip/manscdp/{model.__module__.rpartition('.')[2]}.py`" in line
    assert all(check in line for check in model.CHECKS)  # type: ignore[attr-defined]


def test_every_field_of_a_model_has_its_xml_name() -> None:
    from sip.manscdp import Element, Xml

    def all_elements(model: type) -> list[type]:
        return [model, *(found for child in model.__subclasses__() for found in all_elements(child))]

    for model in all_elements(Element):
        if not model.__module__.startswith("sip.manscdp.") or model.__module__ == "sip.manscdp.base":
            continue
        for name, info in model.model_fields.items():  # type: ignore[attr-defined]
            if name != "extras":
                assert any(isinstance(mark, Xml) for mark in info.metadata), f"{model.__name__}.{name}"
