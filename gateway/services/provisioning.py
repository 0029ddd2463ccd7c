"""Takes upper platforms of the configuration in at the first start (unattended set-up, containers)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Protocol

from config.settings import UpperPlatform
from gateway.model import Platform
from sip.ids import domain_of

log = logging.getLogger(__name__)


class Uppers(Protocol):
    """The part of gateway.services.cascade.Cascade that takes platforms in."""

    def records(self) -> list[Platform]: ...
    async def put_platform(self, platform: Platform) -> None: ...


def platform_of(entry: UpperPlatform) -> Platform:
    """The record of a configured platform; what it does not name gets the defaults of the console."""
    return Platform(
        platform_id=entry.platform_id,
        name=entry.name or entry.platform_id,
        domain=entry.domain or domain_of(entry.platform_id),
        host=entry.host,
        port=entry.port,
        transport=entry.transport,
        our_id=entry.our_id or "",
        username=entry.username,
        password=entry.password.get_secret_value(),
        share_all=entry.share_all,
        rights=frozenset(entry.rights),
    )


async def enter_platforms(uppers: Uppers, entries: Sequence[UpperPlatform]) -> list[str]:
    """Enter what is not known yet; later changes by operators stay. Returns the codes that were entered."""
    known = {platform.platform_id for platform in uppers.records()}
    entered = []
    for entry in entries:
        if entry.platform_id not in known:
            await uppers.put_platform(platform_of(entry))
            entered.append(entry.platform_id)
            log.info(
                "platform entered from the configuration platform=%s host=%s", entry.platform_id, entry.host
            )
    return entered
