"""API tokens over HTTP: made for programs, shown once, listed without their secret, taken back."""

from __future__ import annotations

from datetime import datetime

from pydantic import Field

from gateway.http.routes import Call, Model, View, route
from gateway.http.server import note_audit
from gateway.http.views import AnyCode
from gateway.services.access import Access, Role

TEN_YEARS_S = 315_360_000


class TokenCreate(Model):
    name: str = Field(min_length=1, max_length=64, pattern=r"^[^\x00-\x1f]+$", description="What it is for.")
    role: Role
    lifetime_s: int | None = Field(default=None, ge=60, le=TEN_YEARS_S, description="null: until taken back.")


class TokenView(View):
    token_id: str
    name: str
    role: Role
    created_by: str
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None


class NewToken(TokenView):
    token: str = Field(description="The secret, shown only now. Send it as `Authorization: Bearer …`.")


class TokenList(View):
    items: list[TokenView]


class TokenResource:
    def __init__(self, *, access: Access) -> None:
        self._access = access

    @route("GET", "/api/tokens", summary="List tokens", role=Role.ADMINISTRATOR, tag="access")
    async def list(self, call: Call) -> TokenList:
        return TokenList(items=[TokenView.model_validate(token) for token in await self._access.tokens()])

    @route(
        "POST",
        "/api/tokens",
        summary="Make a token",
        role=Role.ADMINISTRATOR,
        status=201,
        tag="access",
        audited="token.create",
    )
    async def create(self, call: Call, body: TokenCreate) -> NewToken:
        secret, token = await self._access.add_token(body.name, body.role, call.who.name, body.lifetime_s)
        note_audit(call, target=token.token_id, detail=f"{body.name}, role {body.role.value}")
        return NewToken(**TokenView.model_validate(token).model_dump(), token=secret)

    @route(
        "DELETE",
        "/api/tokens/{token_id}",
        summary="Take a token back",
        role=Role.ADMINISTRATOR,
        status=204,
        tag="access",
        errors=(404,),
        audited="token.remove",
    )
    async def remove(self, call: Call, token_id: AnyCode) -> None:
        await self._access.remove_token(token_id)
