"""The console page, its files, and the documentation page: read once at start, served from memory, nothing from outside."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp import web

from gateway.http.routes import Call, route
from gateway.http.server import add_security_headers
from gateway.services.access import Role

STATIC = Path(__file__).parent / "static"
TYPES = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
    ".json": "application/json",
}
_HOST = re.compile(r"[0-9A-Za-z.-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\]")

ViewerOrigins = Callable[[str], Iterable[str]]
"""Origins (http://host:port) of the media nodes as seen by a browser that reached us under this host."""


@dataclass(frozen=True, slots=True)
class StaticFile:
    body: bytes
    content_type: str
    etag: str


def load_static(folder: Path = STATIC) -> dict[str, StaticFile]:
    """All files below the folder by relative path; files of other types are left out."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix in TYPES and path.is_file():
            body = path.read_bytes()
            etag = f'"{hashlib.sha256(body).hexdigest()[:20]}"'
            found[path.relative_to(folder).as_posix()] = StaticFile(body, TYPES[path.suffix], etag)
    return found


class Console:
    """Plain aiohttp routes: ``/`` and ``/static/…`` are open, they hold the log-in page and no data."""

    def __init__(self, *, viewer_origins: ViewerOrigins = lambda host: ()) -> None:
        self._files = load_static()
        self._viewer_origins = viewer_origins

    def add_routes(self, app: web.Application) -> None:
        app.router.add_get("/", self._index, name="console_index")
        app.router.add_get("/api/docs", self._docs, name="console_docs")
        app.router.add_get("/static/{path:[0-9A-Za-z_./-]+}", self._static, name="console_static")

    async def _index(self, request: web.Request) -> web.StreamResponse:
        response = self._file(request, "index.html")
        response.headers["Content-Security-Policy"] = self._policy(request)
        return response

    async def _docs(self, request: web.Request) -> web.StreamResponse:
        response = self._file(request, "docs.html")
        response.headers["Content-Security-Policy"] = _policy([])
        return response

    async def _static(self, request: web.Request) -> web.StreamResponse:
        return self._file(request, request.match_info["path"])

    def _file(self, request: web.Request, name: str) -> web.Response:
        file = self._files.get(name)
        if file is None:
            raise web.HTTPNotFound
        headers = {"ETag": file.etag, "Cache-Control": "no-cache"}
        if request.headers.get("If-None-Match") == file.etag:
            return web.Response(status=304, headers=headers)
        return web.Response(body=file.body, content_type=file.content_type, charset="utf-8", headers=headers)

    def _policy(self, request: web.Request) -> str:
        host = request.url.host or ""
        bracketed = f"[{host}]" if ":" in host else host
        if not _HOST.fullmatch(bracketed):
            return _policy([])  # a made-up Host header gets no say in the policy
        return _policy(list(self._viewer_origins(bracketed)))


def _policy(viewer_origins: list[str]) -> str:
    """Scripts, styles and pictures from here only; live pictures from the media nodes too."""
    sockets = ["ws" + origin.removeprefix("http") for origin in viewer_origins]
    viewers = " ".join([*viewer_origins, *sockets])
    return "; ".join(
        (
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self'",
            "img-src 'self' data: blob:",
            f"media-src 'self' blob: {viewers}".strip(),
            f"connect-src 'self' {viewers}".strip(),
            "form-action 'self'",
            "base-uri 'none'",
            "frame-ancestors 'none'",
        )
    )


class DocumentResource:
    """The API's own description."""

    def __init__(self, document: Callable[[], dict[str, Any]]) -> None:
        self._document = document

    @route(
        "GET", "/api/openapi.json", summary="This description (OpenAPI 3.1)", role=Role.VIEWER, tag="system"
    )
    async def openapi(self, call: Call) -> web.StreamResponse:
        body = json.dumps(self._document(), ensure_ascii=False).encode()
        response = web.Response(body=body, content_type="application/json")
        add_security_headers(response, call.request.path)
        return response
