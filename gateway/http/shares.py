"""Which channels an upper platform sees, over HTTP: read the selection, or replace it as a whole."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from gateway.http.errors import FieldError, Problem, not_found
from gateway.http.platforms import Uppers
from gateway.http.routes import Call, Model, View, route
from gateway.http.server import note_audit
from gateway.http.views import AnyCode, Code, Page
from gateway.model import Share
from gateway.registry import Registry
from gateway.services.access import Role

MAX_SHARES = 100_000
MAX_BODY_BYTES = 16 << 20
ERRORS_TOLD = 20


class ShareEntry(Model):
    device_id: AnyCode
    channel_id: AnyCode
    exported_id: Literal[""] | Code = Field(
        default="", description="The code under which the upper knows it; empty: its own, or a free one."
    )


class ShareSelection(Model):
    items: list[ShareEntry] = Field(max_length=MAX_SHARES)


class ShareView(View):
    device_id: str
    channel_id: str
    exported_id: str
    name: str
    online: bool


class ShareList(View):
    total: int
    items: list[ShareView]


class ShareResource:
    def __init__(self, *, registry: Registry, uppers: Uppers) -> None:
        self._registry = registry
        self._uppers = uppers

    @route(
        "GET",
        "/api/platforms/{platform_id}/shares",
        summary="List the channels picked for an upper platform",
        role=Role.VIEWER,
        tag="shares",
        errors=(404,),
    )
    async def list(self, call: Call, platform_id: AnyCode, query: Page) -> ShareList:
        """With `share_all` the upper sees every channel, whatever is picked here."""
        self._check(platform_id)
        return self._page(platform_id, query)

    @route(
        "PUT",
        "/api/platforms/{platform_id}/shares",
        summary="Replace the selection",
        role=Role.OPERATOR,
        tag="shares",
        errors=(404,),
        max_body_bytes=MAX_BODY_BYTES,
        audited="platform.shares",
    )
    async def replace(self, call: Call, platform_id: AnyCode, body: ShareSelection) -> ShareList:
        """Channels that are left out vanish for the upper; it is notified of the difference."""
        note_audit(call, detail=f"channels: {len(body.items)}")
        self._check(platform_id)
        self._check_channels(body)
        wanted = [
            Share(platform_id, entry.device_id, entry.channel_id, entry.exported_id) for entry in body.items
        ]
        await self._uppers.set_shares(platform_id, wanted)
        return self._page(platform_id, Page())

    def _check(self, platform_id: str) -> None:
        if not any(p.platform_id == platform_id for p in self._uppers.records()):
            raise not_found(f"platform {platform_id}")

    def _check_channels(self, body: ShareSelection) -> None:
        seen: set[tuple[str, str]] = set()
        errors = []
        for number, entry in enumerate(body.items):
            key = (entry.device_id, entry.channel_id)
            if key in seen:
                errors.append(FieldError(field=f"items.{number}.channel_id", detail="named twice"))
            elif self._registry.channel(*key) is None:
                errors.append(FieldError(field=f"items.{number}.channel_id", detail="no such channel"))
            seen.add(key)
            if len(errors) >= ERRORS_TOLD:
                break
        if errors:
            first = errors[0]
            raise Problem(
                422,
                f"{first.field}: {first.detail}",
                cause="invalid_input",
                field=first.field,
                errors=errors if len(errors) > 1 else None,
            )

    def _page(self, platform_id: str, page: Page) -> ShareList:
        shares = self._uppers.shares(platform_id)
        items = []
        for share in shares[page.offset : page.offset + page.limit]:
            channel = self._registry.channel(share.device_id, share.channel_id)
            items.append(
                ShareView(
                    device_id=share.device_id,
                    channel_id=share.channel_id,
                    exported_id=share.exported_id,
                    name=channel.name if channel is not None else "",
                    online=channel is not None and self._registry.channel_online(channel),
                )
            )
        return ShareList(total=len(shares), items=items)
