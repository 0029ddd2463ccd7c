"""Who is calling: the session cookie of the page or the bearer token of a program, and the guard against forged requests."""

from __future__ import annotations

from datetime import datetime
from urllib.parse import urlsplit

from aiohttp import web

from gateway.clock import Clock
from gateway.http.errors import Problem
from gateway.services.access import Access, Principal, Role

COOKIE = "gb_session"
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
CSRF_HEADER = "X-Requested-By"
"""Shown by cookie clients that send neither Sec-Fetch-Site nor Origin; forms of foreign pages cannot set it."""


class Gatekeeper:
    """Finds the caller of a request and says whether it may pass."""

    def __init__(
        self,
        *,
        access: Access,
        public_url: str | None = None,
        secure_cookie: bool = False,
        clock: Clock | None = None,
    ) -> None:
        self._access = access
        self._public_origin = _origin_of(public_url) if public_url else ""
        self._secure = secure_cookie
        self._clock = clock or Clock()

    def authorize(self, request: web.Request, principal: Principal | None, needed: Role | None) -> None:
        """Raises Problem 401 or 403 unless ``principal`` may send this request; ``needed`` None: open to all."""
        if request.method not in SAFE_METHODS and (principal is None or principal.via == "session"):
            self.check_origin(request)
        if needed is None:
            return
        if principal is None:
            challenge = {"WWW-Authenticate": "Bearer"}
            raise Problem(401, "log in, or send a token", cause="not_logged_in", headers=challenge)
        if not principal.role.permits(needed):
            raise Problem(403, f"this needs the role {needed.value}", cause="role_too_low")

    async def identify(self, request: web.Request, *, token_in_query: bool = False) -> Principal | None:
        """A bearer token goes before a cookie; a wrong token is never rescued by a good cookie.

        With ``token_in_query`` players may give a token as ``?token=``, but only one of the role viewer: addresses end
        in players' histories and proxies' logs. Problem 403 for a token that may do more.
        """
        scheme, _, credentials = request.headers.get("Authorization", "").partition(" ")
        if scheme:
            if scheme.lower() != "bearer" or not credentials:
                return None
            return await self._access.by_token(credentials.strip(), request.remote or "")
        token = request.query.get("token") if token_in_query and request.method in SAFE_METHODS else None
        if token is not None:
            principal = await self._access.by_token(token, request.remote or "")
            if principal is not None and principal.role is not Role.VIEWER:
                raise Problem(
                    403, "in an address only a token of the role viewer is taken", cause="role_too_high"
                )
            return principal
        cookie = request.cookies.get(COOKIE)
        return await self._access.by_session(cookie) if cookie else None

    def check_origin(self, request: web.Request) -> None:
        """Refuse a changing request that another site's page made the browser send (CSRF)."""
        site = request.headers.get("Sec-Fetch-Site")
        if site is not None:
            if site in ("same-origin", "none"):
                return
            raise Problem(403, "the request comes from another site", cause="cross_site")
        origin = request.headers.get("Origin")
        if origin is not None:
            same = urlsplit(origin).netloc == request.host or (
                bool(self._public_origin) and _origin_of(origin) == self._public_origin
            )
            if same:
                return
            raise Problem(403, "the request comes from another site", cause="cross_site")
        if request.cookies.get(COOKIE) and CSRF_HEADER not in request.headers:
            raise Problem(403, f"without Origin the header {CSRF_HEADER} is needed", cause="cross_site")

    def set_cookie(self, response: web.Response, secret: str, expires_at: datetime) -> None:
        """The browser keeps the session out of scripts' reach and shows it to this site alone."""
        lifetime = (expires_at - self._clock.utc()).total_seconds()
        response.set_cookie(
            COOKIE,
            secret,
            max_age=int(lifetime),
            path="/",
            httponly=True,
            samesite="Strict",
            secure=self._secure,
        )

    def clear_cookie(self, response: web.Response) -> None:
        response.del_cookie(COOKIE, path="/", httponly=True, samesite="Strict", secure=self._secure)


def _origin_of(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}".lower()
