"""Which of our addresses a peer is told (quirk 12), and the start that refuses an address nobody can reach."""

from __future__ import annotations

from typing import Any

import pytest
from gateway_core import NVR, RawDevice, core

from config.settings import SipSettings
from gateway.networks import AddressFault, OwnAddress
from sip.endpoint import Endpoint, Identity, Reply
from sip.flow import Flow, Target
from sip.manscdp import DeviceInfoQuery


def own(route: str = "192.168.1.10", **values: Any) -> OwnAddress:
    return OwnAddress(SipSettings.model_validate(values), route=lambda host: route)


@pytest.mark.quirk(12)
def test_the_network_decides_then_the_fixed_address_then_the_route() -> None:
    address = own(
        advertise_host="203.0.113.5",
        advertise_by_network={"10.0.0.0/8": "10.0.0.1", "10.41.0.0/16": "10.41.0.1", "fd00::/8": "fd00::1"},
    )
    assert address.toward("10.9.9.9") == "10.0.0.1"
    assert address.toward("10.41.183.61") == "10.41.0.1"  # the narrower network wins
    assert address.toward("fd00::99") == "fd00::1"
    assert address.toward("198.51.100.1") == "203.0.113.5"
    assert own().toward("198.51.100.1") == "192.168.1.10"
    assert own().configured(Target("sip:x", "198.51.100.1", 5060)) is None


@pytest.mark.quirk(12)
@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"advertise_host": "127.0.0.1"}, "loopback"),
        ({"advertise_host": "0.0.0.0"}, "no address"),
        ({"advertise_by_network": {"10.0.0.0/8": "127.0.0.1"}}, "loopback"),
        ({"host": "127.0.0.1"}, "loopback"),
    ],
)
def test_a_start_that_would_announce_nonsense_is_refused(values: dict[str, Any], text: str) -> None:
    with pytest.raises(AddressFault, match=text):
        own(**values).check()


@pytest.mark.quirk(12)
def test_loopback_is_told_only_when_asked_for_or_to_loopback() -> None:
    own(host="127.0.0.1", allow_loopback=True).check()
    assert own("127.0.0.1").toward("127.0.0.9") == "127.0.0.1"
    with pytest.raises(AddressFault):
        own("127.0.0.1").toward("10.1.1.1")
    with pytest.raises(AddressFault):
        own("0.0.0.0").toward("10.1.1.1")
    assert own("127.0.0.1", allow_loopback=True).toward("10.1.1.1") == "127.0.0.1"


@pytest.mark.quirk(12)
async def test_via_and_contact_carry_the_address_of_the_peers_network() -> None:
    """A device in 127.0.0.0/8 is told 127.0.0.77 in Via, whatever the socket is bound to."""
    address = OwnAddress(
        SipSettings.model_validate(
            {"allow_loopback": True, "advertise_by_network": {"127.0.0.0/8": "127.0.0.77"}}
        )
    )
    endpoint = Endpoint(
        Identity("41018300002000000001", "4101830000"),
        host="127.0.0.1",
        port=0,
        handler=lambda incoming: Reply(200),
        advertise=address.configured,
    )
    await endpoint.start()
    try:
        async with RawDevice(("127.0.0.1", endpoint.port)) as device:
            flow = Flow("udp", "127.0.0.1", device.port, "127.0.0.1", endpoint.port)
            sending = endpoint.spawn(
                endpoint.request(
                    "MESSAGE",
                    Target.of_flow(f"sip:{NVR}@127.0.0.1", flow),
                    to=f"sip:{NVR}@4101830000",
                    body=b"x",
                    content_type="text/plain",
                )
            )
            sent = (await device.receive()).decode()
            assert f"Via: SIP/2.0/UDP 127.0.0.77:{endpoint.port}" in sent
            sending.cancel()
    finally:
        await endpoint.close(0)


async def test_by_default_the_address_is_the_one_the_device_dialled() -> None:
    async with core() as gateway, RawDevice(gateway.address) as device:
        await device.register()
        sending = gateway.endpoint.spawn(
            gateway.dispatch.send(gateway.device(), DeviceInfoQuery(sn=1, device_id=NVR))
        )
        assert f"127.0.0.1:{gateway.endpoint.port}" in (await device.receive()).decode().split("\r\n")[1]
        sending.cancel()
