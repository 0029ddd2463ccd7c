"""The OpenAPI 3.1 document of the API, made from the same declarations that serve and check the requests."""

from __future__ import annotations

import re
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from gateway.http.auth import COOKIE
from gateway.http.errors import ProblemDocument
from gateway.http.routes import Route

REF = "#/components/schemas/{model}"
ERROR_TEXTS = {
    400: "The body cannot be read.",
    401: "Not logged in, or the token is not known.",
    403: "The role is too low, or another site's page sent the request.",
    404: "No such thing.",
    406: "The picture cannot be sent in this form.",
    408: "It took too long to arrive.",
    409: "It cannot be done in the present state; `cause` says why.",
    413: "The body is too big.",
    415: "The body has another media type than the route takes.",
    422: "The input is refused; `field` names the place.",
    429: "Too many attempts; see Retry-After.",
    501: "This installation lacks an optional part that is needed for it.",
    502: "The device refused.",
    503: "The gateway has no free resource for it.",
    504: "The device did not answer in time.",
    507: "The disk has no room for it.",
}


def document(routes: list[Route], *, version: str, tags: dict[str, str]) -> dict[str, Any]:
    """The whole document. ``tags`` gives each tag its description, in the order of the page."""
    schemas, definitions = _schemas(routes)
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        operations = paths.setdefault(_plain_path(route.spec.path), {})
        operations[route.spec.method.lower()] = _operation(route, schemas)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "GB/T 28181 gateway",
            "version": version,
            "summary": "Devices, channels, live pictures, control and upper platforms.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": name, "description": text} for name, text in tags.items()],
        "paths": paths,
        "components": {
            "schemas": definitions,
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer", "description": "API token, `gbt_…`."},
                "session": {"type": "apiKey", "in": "cookie", "name": COOKIE},
                "address": {
                    "type": "apiKey",
                    "in": "query",
                    "name": "token",
                    "description": "API token of the role viewer, for players that cannot send headers.",
                },
            },
        },
    }


Schemas = dict[tuple[type[BaseModel], str], Any]


def _schemas(routes: list[Route]) -> tuple[Schemas, dict[str, Any]]:
    wanted: dict[tuple[type[BaseModel], str], None] = {(ProblemDocument, "serialization"): None}
    for route in routes:
        if route.body is not None:
            wanted[(route.body, "validation")] = None
        if route.answer is not None:
            wanted[(route.answer, "serialization")] = None
    by_model, definitions = models_json_schema(list(wanted), ref_template=REF)  # type: ignore[arg-type]
    return dict(by_model), definitions.get("$defs", {})  # type: ignore[arg-type]


def _plain_path(path: str) -> str:
    """aiohttp's ``{id:[0-9]+}`` is ``{id}`` in OpenAPI."""
    return re.sub(r"\{(\w+):[^}]*\}", r"{\1}", path)


def _operation(route: Route, schemas: Schemas) -> dict[str, Any]:
    spec = route.spec
    operation: dict[str, Any] = {
        "operationId": route.name,
        "summary": spec.summary,
        "tags": [spec.tag],
        "parameters": _parameters(route),
        "responses": _responses(route, schemas),
        "security": [] if spec.role is None else [{"token": []}, {"session": []}],
    }
    if spec.token_in_query:
        operation["security"].append({"address": []})
    description = route.description
    if spec.role is not None:
        description = f"{description}\n\nNeeds the role **{spec.role.value}**.".strip()
        operation["x-role"] = spec.role.value
    operation["description"] = description
    if route.body is not None:
        operation["requestBody"] = {
            "required": True,
            "content": {spec.consumes: {"schema": schemas[(route.body, "validation")]}},
        }
    elif route.raw_body:
        operation["requestBody"] = {
            "required": True,
            "content": {spec.consumes: {"schema": {"type": "string"}}},
        }
    return operation


def _parameters(route: Route) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": adapter.json_schema(ref_template=REF)}
        for name, adapter in route.path_parameters.items()
    ]
    if route.query is None:
        return found
    schema = route.query.model_json_schema(ref_template=REF)
    shared = schema.get("$defs", {})
    for name, value in schema["properties"].items():
        value = _inlined(value, shared)
        text = value.pop("description", "")
        value.pop("title", None)
        parameter = {
            "name": name,
            "in": "query",
            "required": name in schema.get("required", ()),
            "schema": value,
        }
        if text:
            parameter["description"] = text
        found.append(parameter)
    return found


def _inlined(value: Any, shared: dict[str, Any]) -> Any:
    """A query field's schema with its references resolved: parameters are flat, so they need no components."""
    if isinstance(value, dict):
        if "$ref" in value:
            target = shared[value["$ref"].rsplit("/", 1)[-1]]
            return _inlined({**target, **{k: v for k, v in value.items() if k != "$ref"}}, shared)
        options = value.get("anyOf")
        if options and {"type": "null"} in options:
            rest = [option for option in options if option != {"type": "null"}]
            flat = {k: v for k, v in value.items() if k not in ("anyOf", "default")}
            return _inlined({**rest[0], **flat} if len(rest) == 1 else {**flat, "anyOf": rest}, shared)
        return {key: _inlined(part, shared) for key, part in value.items()}
    if isinstance(value, list):
        return [_inlined(part, shared) for part in value]
    return value


def _responses(route: Route, schemas: Schemas) -> dict[str, Any]:
    spec = route.spec
    if route.answer is not None:
        content: dict[str, Any] = {"application/json": {"schema": schemas[(route.answer, "serialization")]}}
    elif spec.produces != "application/json":
        schema = {"type": "string"}
        if spec.produces.startswith(("image/", "video/")):
            schema["format"] = "binary"
        content = {spec.produces: {"schema": schema}}
    else:
        content = {}
    good = {"description": _status_text(spec.status)}
    responses: dict[str, Any] = {str(spec.status): {**good, "content": content} if content else good}
    problem = {
        "application/problem+json": {"schema": schemas[(ProblemDocument, "serialization")]},
    }
    for status in sorted(_possible_errors(route)):
        responses[str(status)] = {"description": ERROR_TEXTS[status], "content": problem}
    return responses


def _possible_errors(route: Route) -> set[int]:
    found = set(route.spec.errors)
    if route.spec.role is not None:
        found |= {401, 403, 429}
    if route.query is not None or route.path_parameters:
        found.add(422)
    if route.body is not None or route.raw_body:
        found |= {400, 413, 415, 422}
    return found


def _status_text(status: int) -> str:
    texts = {200: "Done.", 201: "Created.", 202: "Accepted.", 204: "Done, nothing to say.", 307: "Go there."}
    return texts[status]
