"""Upper platforms of the configuration (unattended set-up, containers) as the records that the cascade keeps."""

from __future__ import annotations

from config.settings import UpperPlatform
from gateway.model import Platform
from sip.ids import domain_of


def configured_platform(entry: UpperPlatform) -> Platform:
    """The record of a configured platform; what it does not name gets the defaults of the console."""
    return Platform(
        platform_id=entry.platform_id,
        name=entry.name or entry.platform_id,
        domain=entry.domain or domain_of(entry.platform_id),
        host=entry.host,
        port=entry.port,
        transport=entry.transport,
        tls_server_name=entry.tls_server_name,
        our_id=entry.our_id or "",
        username=entry.username,
        password=entry.password.get_secret_value(),
        share_all=entry.share_all,
        rights=frozenset(entry.rights),
    )
