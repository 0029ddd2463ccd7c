"""The OpenAPI document: valid, complete, and true to what the routes do."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from http_house import House, house
from openapi_spec_validator import OpenAPIV31SpecValidator

from gateway.services.access import Role


@pytest.fixture
async def home(tmp_path: Path) -> AsyncIterator[House]:
    async with house(tmp_path) as built:
        yield built


@pytest.fixture
async def document(home: House) -> dict[str, Any]:
    viewer = await home.as_role(Role.VIEWER)
    found: dict[str, Any] = await viewer.json("GET", "/api/openapi.json")
    return found


async def test_document_is_valid(document: dict[str, Any]) -> None:
    assert document["openapi"].startswith("3.1")
    assert list(OpenAPIV31SpecValidator(document).iter_errors()) == []


async def test_every_declared_route_is_described_and_only_those(
    home: House, document: dict[str, Any]
) -> None:
    served = {(r.spec.method.lower(), re.sub(r":[^}]+", "", r.spec.path)) for r in home.http.server.routes}
    described = {(method, path) for path, item in document["paths"].items() for method in item}
    assert described == served


async def test_every_operation_says_who_may_use_it_and_how_it_fails(document: dict[str, Any]) -> None:
    tags = {tag["name"] for tag in document["tags"]}
    names = set()
    for item in document["paths"].values():
        for operation in item.values():
            assert operation["summary"]
            assert set(operation["tags"]) <= tags
            assert operation["operationId"] not in names
            names.add(operation["operationId"])
            if operation["security"]:
                assert {"401", "403"} <= set(operation["responses"])
                assert operation["x-role"] in ("viewer", "operator", "administrator")


async def test_passwords_are_write_only(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    assert schemas["DeviceCreate"]["properties"]["password"]["anyOf"][0]["writeOnly"] is True
    for name, schema in schemas.items():
        if name.endswith("View"):
            assert "password" not in schema.get("properties", {}), name


async def test_query_parameters_are_flat(document: dict[str, Any]) -> None:
    parameters = {p["name"]: p for p in document["paths"]["/api/channels"]["get"]["parameters"]}
    assert parameters["state"]["schema"]["enum"] == ["online", "offline"]
    assert parameters["limit"]["schema"]["maximum"] == 1000
    assert parameters["q"]["description"]
    assert "$ref" not in str(parameters)
