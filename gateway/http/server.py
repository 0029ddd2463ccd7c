"""The HTTP server: binds declared routes to aiohttp, with authentication, audit, security headers and error answers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Any

from aiohttp import web

from gateway import __version__
from gateway.http import openapi
from gateway.http.auth import Gatekeeper
from gateway.http.errors import STREAMING, Handler, Problem, problem_middleware
from gateway.http.routes import Call, Route, invoke, routes_of
from gateway.origin import Origin, acting_for
from gateway.services.audit import Audit

log = logging.getLogger(__name__)

TAGS = {
    "devices": "Cameras, recorders and lower platforms, with what each needs.",
    "channels": "What the devices' catalogs name, and why each counts as online or not.",
    "live": "Live pictures: WebRTC, fragmented MP4, snapshots.",
    "talk": "Speak to devices: from a browser, from a program, to one or to many.",
    "playback": "Our own recordings: play, move, download.",
    "device recordings": "What is recorded in devices: search, download.",
    "inputs": "Cameras and files that do not speak GB/T 28181.",
    "recordings": "What is recorded, when and for how long; timeline, events, evidence.",
    "alarms": "What devices raised: read, acknowledge, reset.",
    "positions": "Where things are and were, where cameras look.",
    "configuration": "What devices are set to: read it, set one type at a time.",
    "snapshots": "Pictures that devices take by themselves and upload to us.",
    "control": "Pan, tilt, zoom, presets, key frames, and every other command to devices.",
    "queries": "What devices answer when they are asked now.",
    "profiles": "What devices need and why: known of their make, learned, set by an operator.",
    "wire": "The last SIP messages of each peer, kept in memory.",
    "platforms": "Upper platforms to which we register.",
    "shares": "Which channels each upper platform sees.",
    "sessions": "Media sessions that run now.",
    "events": "What happens, as it happens.",
    "system": "The gateway itself.",
    "access": "Log-in, users, tokens, audit log.",
}
SHUTDOWN_TIMEOUT_S = 3.0
CLIENT_LEFT = 499
"""Counted when the client closed the connection before the answer; it is never sent."""

SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(self), geolocation=()",
}
API_POLICY = "default-src 'none'; frame-ancestors 'none'"


class HttpServer:
    """Serves resources (objects with ``@route`` methods) and extra aiohttp routes such as the console page.

    ``on_request(route name, status)`` is told of each answer, for metrics.
    """

    def __init__(
        self,
        *,
        resources: Iterable[object],
        gatekeeper: Gatekeeper,
        audit: Audit,
        host: str,
        port: int,
        on_request: Callable[[str, int], None] = lambda name, status: None,
    ) -> None:
        self._gatekeeper = gatekeeper
        self._audit = audit
        self._host = host
        self._wanted_port = port
        self._on_request = on_request
        self.app = web.Application(middlewares=[self._counting(), security_headers, problem_middleware])
        self.routes: list[Route] = [route for resource in resources for route in routes_of(resource)]
        for declared in self.routes:
            self.app.router.add_route(
                declared.spec.method, declared.spec.path, self._bind(declared), name=declared.name
            )
        self._document: dict[str, Any] | None = None
        self._runner: web.AppRunner | None = None
        self.port = port

    @property
    def document(self) -> dict[str, Any]:
        """The OpenAPI document of all declared routes."""
        if self._document is None:
            self._document = openapi.document(self.routes, version=__version__, tags=TAGS)
        return self._document

    async def start(self) -> None:
        """Listen. Raises OSError when the port is taken; ``port`` is the real one when 0 was asked."""
        runner = web.AppRunner(
            self.app, access_log=None, shutdown_timeout=SHUTDOWN_TIMEOUT_S, handler_cancellation=True
        )
        await runner.setup()
        try:
            site = web.TCPSite(runner, self._host, self._wanted_port)
            await site.start()
        except OSError:
            await runner.cleanup()
            raise
        self._runner = runner
        self.port = int(runner.addresses[0][1])
        log.info("http listening host=%s port=%d", self._host, self.port)

    async def close(self) -> None:
        """Stop listening and end open answers. May be called again."""
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()

    def _bind(self, declared: Route) -> Handler:
        spec = declared.spec

        async def handle(request: web.Request) -> web.StreamResponse:
            principal = None
            if spec.role is not None:
                principal = await self._gatekeeper.identify(request, token_in_query=spec.token_in_query)
            call = Call(request, principal)
            with acting_for(Origin(principal.name if principal is not None else "")):
                if spec.audited:
                    return await self._audited(declared, call)
                self._gatekeeper.authorize(request, principal, spec.role)
                return await invoke(declared, call)

        return handle

    async def _audited(self, declared: Route, call: Call) -> web.StreamResponse:
        """Run the handler and write down who did it, to what, and how it went, also when it was refused.

        Strangers are not written down: they could fill the log.
        """
        result = "failed"
        try:
            self._gatekeeper.authorize(call.request, call.principal, declared.spec.role)
            response = await invoke(declared, call)
            result = "ok"
            return response
        except Problem as problem:
            result = problem.cause or str(problem.status)
            raise
        except asyncio.CancelledError:
            result = "abandoned"
            raise
        except Exception as error:
            cause = getattr(error, "cause", None) or getattr(error, "code", None)
            result = str(getattr(cause, "value", cause) or "internal")
            raise
        finally:
            if call.principal is not None:
                target = "/".join(call.request.match_info.values()) or call.audit_target
                await asyncio.shield(
                    self._audit.record(
                        who=call.principal.name,
                        action=declared.spec.audited,
                        target=target,
                        result=result,
                        detail=call.audit_detail,
                    )
                )

    def _counting(self) -> Any:
        @web.middleware
        async def count(request: web.Request, handler: Handler) -> web.StreamResponse:
            name = request.match_info.route.name or "other"
            try:
                response = await handler(request)
            except web.HTTPException as redirect:
                self._on_request(name, redirect.status)
                raise
            except asyncio.CancelledError:
                self._on_request(name, CLIENT_LEFT)
                raise
            self._on_request(name, response.status)
            return response

        return count


def note_audit(call: Call, *, target: str = "", detail: str = "") -> None:
    """What the audit line says beside the path: the id of a new record, the names of changed fields. No secrets."""
    call.audit_target = target or call.audit_target
    call.audit_detail = detail or call.audit_detail


@web.middleware
async def security_headers(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Tell browsers to keep their hands off: no sniffing, no framing, no script from elsewhere, no caching of answers."""
    response = await handler(request)
    if not request.get(STREAMING):
        add_security_headers(response, request.path)
    return response


def add_security_headers(response: web.StreamResponse, path: str) -> None:
    """Answers that are streamed call it before they begin."""
    for name, value in SECURITY_HEADERS.items():
        response.headers.setdefault(name, value)
    response.headers.setdefault("Content-Security-Policy", API_POLICY)
    if path.startswith("/api/"):
        response.headers.setdefault("Cache-Control", "no-store")
