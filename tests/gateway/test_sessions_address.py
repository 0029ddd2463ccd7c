"""The media address each peer is told."""

from __future__ import annotations

import pytest

from config.settings import MediaSettings, SipSettings
from gateway.networks import OwnAddress
from gateway.services.errors import PlayFailed
from gateway.services.session_address import MediaAddress


def chooser(
    route: str = "10.0.0.5", *, media: dict[str, object] | None = None, **sip: object
) -> MediaAddress:
    own = OwnAddress(SipSettings.model_validate(sip), route=lambda host: route)
    return MediaAddress(own=own, media=MediaSettings.model_validate(media or {}))


@pytest.mark.gb("G197")
@pytest.mark.quirk(12)
def test_each_network_is_told_its_own_address() -> None:
    address = chooser(advertise_by_network={"172.16.0.0/12": "172.16.0.1", "172.16.9.0/24": "172.16.9.1"})
    assert address.for_peer("172.16.9.20") == "172.16.9.1"
    assert address.for_peer("172.20.1.1") == "172.16.0.1"
    assert address.for_peer("10.0.0.77") == "10.0.0.5"


def test_fixed_addresses_come_before_the_route() -> None:
    assert chooser(advertise_host="203.0.113.5").for_peer("10.0.0.77") == "203.0.113.5"
    assert (
        chooser(advertise_host="203.0.113.5", media={"host": "203.0.113.9"}).for_peer("1.2.3.4")
        == "203.0.113.9"
    )


@pytest.mark.quirk(12)
@pytest.mark.parametrize("route", ["127.0.0.1", "0.0.0.0", ""])
def test_useless_addresses_never_reach_a_peer(route: str) -> None:
    with pytest.raises(PlayFailed) as failure:
        chooser(route).for_peer("10.0.0.77")
    assert failure.value.status == 503


def test_loopback_on_request() -> None:
    assert chooser("127.0.0.1", allow_loopback=True).for_peer("127.0.0.1") == "127.0.0.1"
