"""Which server a device is sent to: ranges, shares, the way back, and the 302 of the registrar without sockets."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from gateway_core import NVR, PASSWORD, SERVER, Core, register_text

from config.settings import RedirectSettings, RegistrationSettings
from gateway.clock import ManualClock
from gateway.services.redirect import Redirect, contact_of
from sip.endpoint import Incoming, Reply
from sip.flow import Flow
from sip.message import Request, parse

A, B, C = (f"4101830000200000001{number}" for number in range(3))
SOURCE = Flow("udp", "10.41.183.61", 5060, "10.41.183.10", 5060)


def code(serial: int) -> str:
    return f"4101830000132{serial:07d}"


def redirect(*targets: dict[str, Any], **values: Any) -> Redirect:
    return Redirect(
        RedirectSettings.model_validate({"enabled": True, "targets": list(targets), **values}), own_id=SERVER
    )


@pytest.mark.gb("G050")
def test_ranges_come_first_then_shares_by_weight() -> None:
    chosen = redirect(
        {"server_id": A, "host": "10.1.0.1", "first_id": code(1), "last_id": code(100)},
        {"server_id": B, "host": "10.1.0.2", "weight": 3},
        {"server_id": C, "host": "10.1.0.3", "weight": 1},
    )

    def server(serial: int) -> str:
        target = chosen.target(code(serial), 0.0)
        assert target is not None
        return target.server_id

    assert {server(serial) for serial in range(1, 101)} == {A}
    shares = Counter(server(serial) for serial in range(101, 4101))
    assert set(shares) == {B, C}
    assert 2.5 < shares[B] / shares[C] < 3.6


def test_a_new_server_moves_only_its_share() -> None:
    targets = [{"server_id": A, "host": "10.1.0.1"}, {"server_id": B, "host": "10.1.0.2"}]
    before, after = redirect(*targets), redirect(*targets, {"server_id": C, "host": "10.1.0.3"})
    moved = [
        serial for serial in range(3000) if before.order(code(serial))[0] != after.order(code(serial))[0]
    ]
    assert all(after.order(code(serial))[0].server_id == C for serial in moved)
    assert 800 < len(moved) < 1200


def test_who_comes_back_soon_is_sent_to_the_next_one() -> None:
    chosen = redirect(
        {"server_id": A, "host": "10.1.0.1"}, {"server_id": B, "host": "10.1.0.2"}, return_s=100.0
    )

    def server(now: float) -> str:
        target = chosen.target(NVR, now)
        assert target is not None
        return target.server_id

    first = server(0)
    second = server(50)
    assert {first, second} == {A, B}
    assert [server(60), server(1000), server(2000)] == [first, first, first]


def test_what_is_ours_is_served_here() -> None:
    assert redirect({"server_id": SERVER, "host": "10.1.0.1"}).target(NVR, 0.0) is None
    only_others = redirect({"server_id": A, "host": "10.1.0.1", "first_id": code(1), "last_id": code(2)})
    assert only_others.target(NVR, 0.0) is None
    assert Redirect(RedirectSettings(), SERVER).target(NVR, 0.0) is None


@pytest.mark.parametrize(
    ("host", "transport", "contact"),
    [
        ("10.1.0.1", "udp", f"<sip:{A}@10.1.0.1:5070>"),
        ("10.1.0.1", "tls", f"<sip:{A}@10.1.0.1:5070;transport=tls>"),
        ("2001:db8::1", "tcp", f"<sip:{A}@[2001:db8::1]:5070;transport=tcp>"),
    ],
)
def test_the_contact_names_the_server(host: str, transport: str, contact: str) -> None:
    target = redirect({"server_id": A, "host": host, "port": 5070, "transport": transport}).order(NVR)[0]
    assert contact_of(target) == contact


@pytest.mark.parametrize(
    "broken",
    [
        {"enabled": True, "targets": []},
        {"targets": [{"server_id": A, "host": "10.1.0.1", "first_id": code(1)}]},
        {"targets": [{"server_id": A, "host": "10.1.0.1", "first_id": code(2), "last_id": code(1)}]},
        {"targets": [{"server_id": A, "host": "a b"}]},
    ],
)
def test_settings_that_cannot_be_meant_are_refused(broken: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        RedirectSettings.model_validate(broken)


@pytest.mark.gb("G050")
def test_without_a_challenge_anybody_is_told_and_nobody_is_logged_out() -> None:
    """Told before any password: then a stranger who uses a device's code must not take it offline."""
    core = Core(clock=ManualClock(), registration=RegistrationSettings(domain_password=PASSWORD))  # type: ignore[arg-type]
    device = core.provision(NVR, PASSWORD)
    core.registry.mark_online(device)
    core.registrar._redirect = redirect(
        {"server_id": A, "host": "10.1.0.1", "transport": "tcp"}, challenge=False, expires_s=600
    )

    def send(data: bytes) -> Reply:
        request = parse(data)
        assert isinstance(request, Request)
        return core.registrar.register(Incoming(request, SOURCE, core.clock.mono()))

    reply = send(register_text())
    assert reply.status == 302
    assert dict(reply.headers) == {
        "Contact": f"<sip:{A}@10.1.0.1:5060;transport=tcp>", "Expires": "600", "X-GB-Ver": "3.0",
    }  # fmt: skip
    assert device.online
    assert core.registrar.counts["redirected"] == 1
    assert send(register_text(expires=0)).status == 401  # a log-out is for us
