"""The node's control API: what `media.client.MediaClient` calls. HTTP with a bearer secret over a Unix or TCP socket."""

from __future__ import annotations

import hmac
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

from aiohttp import web
from aiohttp.typedefs import Middleware
from pydantic import BaseModel, TypeAdapter, ValidationError

from media.errors import MediaError
from media.specs import AnyInput, InputControl, InputSpec, ReceiverSpec, ReceiverUpdate, SenderSpec

if TYPE_CHECKING:
    from media.node import Node

log = logging.getLogger(__name__)

PING_S = 2.0
"""A blank line on a silent event stream, so that both sides notice a dead one."""
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
M = TypeVar("M", bound=BaseModel)
_INPUT: TypeAdapter[InputSpec] = TypeAdapter(AnyInput)


def problem(status: int, code: str, detail: str) -> web.Response:
    """An application/problem+json body {status, code, detail} (RFC 9457)."""
    return web.json_response(
        {"status": status, "code": code, "detail": detail},
        status=status,
        content_type="application/problem+json",
    )


@web.middleware
async def problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Typed errors as problem documents. Errors inside a response already begun end its connection."""
    try:
        return await handler(request)
    except MediaError as error:
        return problem(error.status, error.code, error.detail)
    except ValidationError as error:
        return problem(400, "bad_request", str(error))
    except ConnectionResetError:
        return web.Response(status=400)  # the client left while it was being answered: nobody reads this
    except web.HTTPException as error:
        if error.status < 400:
            raise
        code = {404: "not_found", 401: "forbidden", 403: "forbidden"}.get(error.status, "bad_request")
        return problem(error.status, code, error.reason)


def bearer(secret: str) -> Middleware:
    """A middleware that lets only requests with the node's secret pass."""

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        given = request.headers.get("Authorization", "")
        if not hmac.compare_digest(given.encode(), f"Bearer {secret}".encode()):
            raise MediaError("forbidden", "the control secret is missing or wrong", 401)
        return await handler(request)

    return check


async def _body(request: web.Request, model: type[M]) -> M:
    return model.model_validate_json(await request.read())


def _reply(record: BaseModel, status: int = 200) -> web.Response:
    return web.json_response(text=record.model_dump_json(), status=status)


class ControlRoutes:
    """Receivers, senders, statistics and events of one node."""

    def __init__(self, node: Node) -> None:
        self._node = node

    async def open_receiver(self, request: web.Request) -> web.Response:
        return _reply(self._node.open_receiver(await _body(request, ReceiverSpec)), 201)

    async def update_receiver(self, request: web.Request) -> web.Response:
        self._node.update_receiver(request.match_info["id"], await _body(request, ReceiverUpdate))
        return web.Response(status=204)

    async def close_receiver(self, request: web.Request) -> web.Response:
        self._node.close_receiver(request.match_info["id"])
        return web.Response(status=204)

    async def open_input(self, request: web.Request) -> web.Response:
        self._node.open_input(_INPUT.validate_json(await request.read()))
        return web.Response(status=204)

    async def control_input(self, request: web.Request) -> web.Response:
        control = await _body(request, InputControl)
        return _reply(await self._node.control_input(request.match_info["id"], control))

    async def stream(self, request: web.Request) -> web.Response:
        return _reply(self._node.stream_stats(request.match_info["id"]))

    async def stats(self, request: web.Request) -> web.Response:
        return _reply(self._node.stats())

    async def open_sender(self, request: web.Request) -> web.Response:
        return _reply(self._node.open_sender(await _body(request, SenderSpec)), 201)

    async def start_sender(self, request: web.Request) -> web.Response:
        self._node.start_sender(request.match_info["id"])
        return web.Response(status=204)

    async def close_sender(self, request: web.Request) -> web.Response:
        self._node.close_sender(request.match_info["id"])
        return web.Response(status=204)

    async def events(self, request: web.Request) -> web.StreamResponse:
        """NDJSON without end: one event a line, a blank line after two silent seconds."""
        response = web.StreamResponse(
            headers={"Content-Type": "application/x-ndjson", "Cache-Control": "no-store"}
        )
        await response.prepare(request)
        with self._node.events.listen() as queue:
            await response.write(b"\n")
            while not queue.closed:
                events = await queue.take(PING_S)
                lines = "".join(event.model_dump_json() + "\n" for event in events)
                try:
                    await response.write(lines.encode() or b"\n")
                except ConnectionError:
                    break
        return response


def add_control_routes(app: web.Application, node: Node) -> None:
    """Register what is not a reader's business."""
    routes = ControlRoutes(node)
    app.router.add_post("/streams", routes.open_receiver)
    app.router.add_patch("/streams/{id}", routes.update_receiver)
    app.router.add_delete("/streams/{id}", routes.close_receiver)
    app.router.add_get("/streams/{id}", routes.stream)
    app.router.add_post("/inputs", routes.open_input)
    app.router.add_patch("/inputs/{id}", routes.control_input)
    app.router.add_get("/stats", routes.stats)
    app.router.add_post("/senders", routes.open_sender)
    app.router.add_post("/senders/{id}/start", routes.start_sender)
    app.router.add_delete("/senders/{id}", routes.close_sender)
    app.router.add_get("/events", routes.events)
