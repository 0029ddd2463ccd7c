"""Upper platforms of the configuration become records with the defaults of the console."""

from __future__ import annotations

from config.load import load
from gateway.services.provisioning import configured_platform

ENTRY = (
    '[{"platform_id": "41010000002000000001", "host": "10.1.0.2", "password": "Upper-Demo-1", "share_all": true,'
    ' "rights": ["play"]}]'
)


def test_a_configured_upper_gets_the_defaults() -> None:
    settings = load(None, {"GB_GATEWAY_CASCADE__PLATFORMS": ENTRY})
    (platform,) = map(configured_platform, settings.cascade.platforms)
    assert platform.platform_id == "41010000002000000001"
    assert (platform.domain, platform.port, platform.transport) == ("4101000000", 5060, "udp")
    assert (platform.password, platform.share_all, platform.rights) == (
        "Upper-Demo-1",
        True,
        frozenset({"play"}),
    )


def test_the_password_is_not_shown() -> None:
    assert "Upper-Demo-1" not in repr(load(None, {"GB_GATEWAY_CASCADE__PLATFORMS": ENTRY}))
