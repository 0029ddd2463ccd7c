"""Log-in and users over HTTP, and the audit log."""

from __future__ import annotations

from datetime import datetime

from aiohttp import web
from pydantic import Field, SecretStr

from gateway.http.auth import Gatekeeper
from gateway.http.errors import Problem
from gateway.http.routes import Call, Model, View, route
from gateway.http.server import note_audit
from gateway.services.access import (
    MAX_PASSWORD_LENGTH,
    MIN_PASSWORD_LENGTH,
    Access,
    LoginRefused,
    Role,
    User,
    WeakPassword,
)
from gateway.services.audit import Audit

USERNAME = r"^[0-9A-Za-z_.@-]{1,64}$"


class Login(Model):
    username: str = Field(max_length=64)
    password: SecretStr = Field(max_length=MAX_PASSWORD_LENGTH)


class Me(View):
    name: str
    role: Role
    via: str = Field(description="session or token.")


class PasswordChange(Model):
    current: SecretStr = Field(max_length=MAX_PASSWORD_LENGTH)
    new: SecretStr = Field(min_length=MIN_PASSWORD_LENGTH, max_length=MAX_PASSWORD_LENGTH)


class UserCreate(Model):
    username: str = Field(pattern=USERNAME)
    password: SecretStr = Field(min_length=MIN_PASSWORD_LENGTH, max_length=MAX_PASSWORD_LENGTH)
    role: Role


class UserChange(Model):
    """Fields left out stay. A new password or `enabled: false` ends the user's sessions."""

    password: SecretStr | None = Field(
        default=None, min_length=MIN_PASSWORD_LENGTH, max_length=MAX_PASSWORD_LENGTH
    )
    role: Role | None = None
    enabled: bool | None = None


class UserView(View):
    username: str
    role: Role
    enabled: bool
    created_at: datetime


class UserList(View):
    items: list[UserView]


class AuditView(View):
    audit_id: int
    at: datetime
    who: str
    action: str
    target: str
    result: str
    detail: str


class AuditList(View):
    items: list[AuditView]


class AuditQuery(Model):
    before: int | None = Field(default=None, ge=1, description="Entries older than this number.")
    limit: int = Field(default=100, ge=1, le=1000)


class UserResource:
    def __init__(self, *, access: Access, gatekeeper: Gatekeeper, audit: Audit) -> None:
        self._access = access
        self._gatekeeper = gatekeeper
        self._audit = audit

    @route("POST", "/api/login", summary="Log in", role=None, tag="access", errors=(401, 403, 429))
    async def login(self, call: Call, body: Login) -> web.StreamResponse:
        """Sets the session cookie. Attempts are limited per source."""
        try:
            secret, principal, expires_at = await self._access.login(
                body.username, body.password.get_secret_value(), call.source
            )
        except LoginRefused:
            # the name as typed may be a password that slipped into the wrong field: it is not written down
            await self._audit.record(who="-", action="login", target="-", result="login_refused")
            raise
        await self._audit.record(who=principal.name, action="login", target=principal.name, result="ok")
        view = Me(name=principal.name, role=principal.role, via=principal.via)
        response = web.Response(body=view.model_dump_json().encode(), content_type="application/json")
        self._gatekeeper.set_cookie(response, secret, expires_at)
        return response

    @route("POST", "/api/logout", summary="Log out", role=Role.VIEWER, status=204, tag="access")
    async def logout(self, call: Call) -> web.StreamResponse:
        await self._access.logout(call.who)
        response = web.Response(status=204)
        self._gatekeeper.clear_cookie(response)
        return response

    @route("GET", "/api/me", summary="Who am I", role=Role.VIEWER, tag="access")
    async def me(self, call: Call) -> Me:
        return Me(name=call.who.name, role=call.who.role, via=call.who.via)

    @route(
        "POST",
        "/api/me/password",
        summary="Change my password",
        role=Role.VIEWER,
        status=204,
        tag="access",
        errors=(429,),
        audited="user.password",
    )
    async def change_password(self, call: Call, body: PasswordChange) -> None:
        """Ends my other sessions. Not for tokens."""
        note_audit(call, target=call.who.name)
        if call.who.via != "session":
            raise Problem(403, "a token has no password", cause="not_for_tokens")
        try:
            await self._access.change_own_password(
                call.who, body.current.get_secret_value(), body.new.get_secret_value(), call.source
            )
        except LoginRefused as error:
            raise Problem(422, str(error), cause=error.cause, field="current") from None
        except WeakPassword as error:
            raise Problem(422, str(error), cause=error.cause, field="new") from None

    @route("GET", "/api/users", summary="List users", role=Role.ADMINISTRATOR, tag="access")
    async def list(self, call: Call) -> UserList:
        return UserList(items=[UserView.model_validate(user) for user in await self._access.users()])

    @route(
        "POST",
        "/api/users",
        summary="Add a user",
        role=Role.ADMINISTRATOR,
        status=201,
        tag="access",
        errors=(409,),
        audited="user.create",
    )
    async def create(self, call: Call, body: UserCreate) -> UserView:
        note_audit(call, target=body.username, detail=f"role {body.role.value}")
        try:
            user = await self._access.add_user(body.username, body.password.get_secret_value(), body.role)
        except WeakPassword as error:
            raise Problem(422, str(error), cause=error.cause, field="password") from None
        call.headers["Location"] = f"/api/users/{user.username}"
        return UserView.model_validate(user)

    @route(
        "PATCH",
        "/api/users/{username}",
        summary="Change a user",
        role=Role.ADMINISTRATOR,
        tag="access",
        errors=(404, 409),
        audited="user.change",
    )
    async def change(self, call: Call, username: str, body: UserChange) -> UserView:
        note_audit(call, detail="fields: " + " ".join(sorted(body.model_fields_set)))
        try:
            user: User = await self._access.change_user(
                username,
                role=body.role,
                enabled=body.enabled,
                password=body.password.get_secret_value() if body.password is not None else None,
            )
        except WeakPassword as error:
            raise Problem(422, str(error), cause=error.cause, field="password") from None
        return UserView.model_validate(user)

    @route(
        "DELETE",
        "/api/users/{username}",
        summary="Remove a user",
        role=Role.ADMINISTRATOR,
        status=204,
        tag="access",
        errors=(404, 409),
        audited="user.remove",
    )
    async def remove(self, call: Call, username: str) -> None:
        """The last administrator stays."""
        await self._access.remove_user(username)

    @route("GET", "/api/audit", summary="Read the audit log", role=Role.ADMINISTRATOR, tag="access")
    async def audit(self, call: Call, query: AuditQuery) -> AuditList:
        """Newest first; ask on with `before` set to the last number."""
        entries = await self._audit.entries(before=query.before, limit=query.limit)
        return AuditList(items=[AuditView.model_validate(entry) for entry in entries])
