"""Upper platforms of the configuration are entered once and then left to the operators."""

from __future__ import annotations

from config.load import load
from gateway.model import Platform
from gateway.services.provisioning import enter_platforms

ENTRY = (
    '[{"platform_id": "41010000002000000001", "host": "10.1.0.2", "password": "Upper-Demo-1", "share_all": true,'
    ' "rights": ["play"]}]'
)


class Uppers:
    def __init__(self) -> None:
        self.kept: dict[str, Platform] = {}

    def records(self) -> list[Platform]:
        return list(self.kept.values())

    async def put_platform(self, platform: Platform) -> None:
        self.kept[platform.platform_id] = platform


async def test_a_configured_upper_is_entered_with_the_defaults() -> None:
    settings = load(None, {"GB_GATEWAY_CASCADE__PLATFORMS": ENTRY})
    uppers = Uppers()
    assert await enter_platforms(uppers, settings.cascade.platforms) == ["41010000002000000001"]
    platform = uppers.kept["41010000002000000001"]
    assert (platform.domain, platform.port, platform.transport) == ("4101000000", 5060, "udp")
    assert (platform.password, platform.share_all, platform.rights) == (
        "Upper-Demo-1",
        True,
        frozenset({"play"}),
    )


async def test_what_an_operator_changed_stays() -> None:
    settings = load(None, {"GB_GATEWAY_CASCADE__PLATFORMS": ENTRY})
    uppers = Uppers()
    await enter_platforms(uppers, settings.cascade.platforms)
    uppers.kept["41010000002000000001"].host = "10.1.0.3"
    assert await enter_platforms(uppers, settings.cascade.platforms) == []
    assert uppers.kept["41010000002000000001"].host == "10.1.0.3"


def test_the_password_is_not_shown() -> None:
    assert "Upper-Demo-1" not in repr(load(None, {"GB_GATEWAY_CASCADE__PLATFORMS": ENTRY}))
