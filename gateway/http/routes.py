"""The thin layer between aiohttp and our handlers: a route is declared once, checked at run time and documented from it.

A handler is a method of a resource class::

    @route("GET", "/api/devices/{device_id}", summary="Show one device", role=Role.VIEWER)
    async def show(self, call: Call, device_id: DeviceId) -> DeviceView: ...

Its signature is the contract: parameters named in the path are path parameters, ``query`` and ``body`` are models
(or ``str`` or ``bytes`` for a body of another media type), the return annotation is the answer's model, None means 204.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from aiohttp import web
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from gateway.http.errors import Problem, invalid, parse_json
from gateway.services.access import Principal, Role

MAX_BODY_BYTES = 1 << 20


class Model(BaseModel):
    """Base of what the API takes: a key that does not exist is refused, so a typing mistake is never silent."""

    model_config = ConfigDict(extra="forbid")


class View(BaseModel):
    """Base of what the API answers."""

    model_config = ConfigDict(from_attributes=True)


@dataclass(slots=True)
class Call:
    """One request as a handler sees it: who asks, from where, and what to add to the answer."""

    request: web.Request
    principal: Principal | None
    headers: dict[str, str] = field(default_factory=dict)
    audit_target: str = ""
    audit_detail: str = ""

    @property
    def who(self) -> Principal:
        """The authenticated caller. Only for routes that need a role."""
        if self.principal is None:
            raise Problem(401, "log in, or send a token", cause="not_logged_in")
        return self.principal

    @property
    def source(self) -> str:
        return self.request.remote or ""

    @property
    def host(self) -> str:
        """Host name by which the caller reaches us, without port; media addresses are told under it."""
        host = self.request.url.host
        return host or "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Spec:
    """What ``@route`` says about a handler, before its signature is read."""

    method: str
    path: str
    summary: str
    role: Role | None
    status: int
    tag: str
    consumes: str
    produces: str
    errors: tuple[int, ...]
    max_body_bytes: int
    audited: str
    token_in_query: bool


@dataclass(frozen=True, slots=True)
class Route:
    """A declared route with everything that serving and documenting it needs."""

    spec: Spec
    handler: Callable[..., Awaitable[Any]]
    name: str
    description: str
    path_parameters: dict[str, TypeAdapter[Any]]
    query: type[BaseModel] | None
    body: type[BaseModel] | None
    raw_body: bool
    binary: bool
    """The raw body is handed over as bytes."""
    answer: type[BaseModel] | None


F = TypeVar("F", bound=Callable[..., Awaitable[Any]])


def route(
    method: str,
    path: str,
    *,
    summary: str,
    role: Role | None,
    status: int = 200,
    tag: str = "",
    consumes: str = "application/json",
    produces: str = "application/json",
    errors: tuple[int, ...] = (),
    max_body_bytes: int = MAX_BODY_BYTES,
    audited: str = "",
    token_in_query: bool = False,
) -> Callable[[F], F]:
    """Declare a handler. ``role`` None leaves it open; ``audited`` names the action written to the audit log.

    ``token_in_query``: a viewer's token may be given as ``?token=``; only for what players GET.
    """
    spec = Spec(
        *(method, path, summary, role, status, tag, consumes, produces, errors, max_body_bytes, audited),
        token_in_query=token_in_query,
    )

    def mark(function: F) -> F:
        function.__route__ = spec  # type: ignore[attr-defined]
        return function

    return mark


def routes_of(resource: object) -> list[Route]:
    """All declared routes of a resource object, in the order of their definition."""
    found = []
    for name in [name for cls in type(resource).__mro__ for name in vars(cls)]:
        spec = getattr(getattr(type(resource), name, None), "__route__", None)
        if spec is not None:
            found.append(_read_signature(spec, getattr(resource, name), f"{type(resource).__name__}_{name}"))
    return found


def _read_signature(spec: Spec, handler: Callable[..., Awaitable[Any]], name: str) -> Route:
    hints = typing.get_type_hints(handler, include_extras=True)
    answer = hints.pop("return", None)
    parameters = [p for p in inspect.signature(handler).parameters if p != "call"]
    in_path = {
        part[1:-1].split(":")[0] for part in spec.path.replace(".", "/").split("/") if part.startswith("{")
    }
    unknown = set(parameters) - in_path - {"query", "body"}
    if unknown or in_path - set(parameters):
        raise TypeError(f"{name}: path and parameters differ: {sorted(unknown or in_path - set(parameters))}")
    body = hints.get("body")
    return Route(
        spec=spec,
        handler=handler,
        name=name,
        description=inspect.getdoc(handler) or "",
        path_parameters={key: TypeAdapter(hints[key]) for key in parameters if key in in_path},
        query=hints.get("query"),
        body=body if isinstance(body, type) and issubclass(body, BaseModel) else None,
        raw_body=body in (str, bytes),
        binary=body is bytes,
        answer=answer if isinstance(answer, type) and issubclass(answer, BaseModel) else None,
    )


async def invoke(declared: Route, call: Call) -> web.StreamResponse:
    """Check the request against the declaration, run the handler, and serialise what it returns."""
    arguments: dict[str, Any] = {}
    for key, adapter in declared.path_parameters.items():
        arguments[key] = _checked_path(key, adapter, call.request.match_info[key])
    if declared.query is not None:
        arguments["query"] = _checked_query(declared.query, call.request)
    elif call.request.query:
        key = next(iter(call.request.query))
        raise Problem(
            422, f"query.{key}: this route takes no parameters", cause="invalid_input", field=f"query.{key}"
        )
    if declared.body is not None or declared.raw_body:
        arguments["body"] = await _checked_body(declared, call.request)
    result = await declared.handler(call, **arguments)
    if isinstance(result, web.StreamResponse):
        return result
    if result is None:
        return web.Response(status=204, headers=call.headers)
    return web.Response(
        status=declared.spec.status,
        body=result.model_dump_json().encode(),
        content_type="application/json",
        headers=call.headers,
    )


def _checked_path(key: str, adapter: TypeAdapter[Any], text: str) -> Any:
    try:
        return adapter.validate_python(text)
    except ValidationError as error:
        problem = invalid(error)
        raise Problem(422, f"{key}: {error.errors()[0]['msg']}", cause=problem.cause, field=key) from None


def _checked_query(model: type[BaseModel], request: web.Request) -> BaseModel:
    values: dict[str, Any] = {}
    for key in request.query:
        texts = request.query.getall(key)
        if len(texts) > 1:
            raise Problem(422, f"query.{key}: given twice", cause="invalid_input", field=f"query.{key}")
        values[key] = texts[0]
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise invalid(error, "query") from None


async def _checked_body(declared: Route, request: web.Request) -> BaseModel | str | bytes:
    if request.content_type != declared.spec.consumes:
        raise Problem(
            415, f"the body must be {declared.spec.consumes}", cause="wrong_media_type", field="body"
        )
    data = await _read(request, declared.spec.max_body_bytes)
    if declared.binary:
        return data
    if declared.body is None:
        try:
            return data.decode()
        except UnicodeDecodeError:
            raise Problem(400, "the body is not UTF-8", cause="not_text", field="body") from None
    try:
        return declared.body.model_validate(parse_json(data))
    except ValidationError as error:
        raise invalid(error) from None


async def _read(request: web.Request, limit: int) -> bytes:
    """The whole body, refused as soon as it is known to be longer than ``limit`` bytes."""
    too_big = Problem(413, f"the body may have {limit} bytes", cause="too_big", field="body")
    if request.content_length is not None and request.content_length > limit:
        raise too_big
    parts: list[bytes] = []
    size = 0
    async for chunk in request.content.iter_any():
        size += len(chunk)
        if size > limit:
            raise too_big
        parts.append(chunk)
    return b"".join(parts)
