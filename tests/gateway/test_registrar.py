"""The registrar without sockets: time is moved, messages are parsed from bytes."""

from __future__ import annotations

import heapq
import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from gateway_core import CAMERA, DOMAIN, NVR, PASSWORD, SERVER, Core, digest_answer, register_text

from config.settings import OpenRule, RegistrationSettings
from gateway.clock import ManualClock
from gateway.events import (
    DeviceConflict,
    DeviceConflictEnded,
    DeviceOffline,
    DeviceOnline,
    DeviceRegistered,
    SecurityEvent,
)
from gateway.services.registrar import edition_of
from sip.digest import DigestServer
from sip.endpoint import Incoming, Reply
from sip.flow import Flow
from sip.message import Request, parse


def flow(
    host: str = "10.41.183.61", port: int = 5060, *, transport: Any = "udp", connection: int = 0
) -> Flow:
    return Flow(transport, host, port, "10.41.183.10", 5060, connection)


class Door:
    """A core without a socket: REGISTER in, Reply out."""

    def __init__(self, **registration: Any) -> None:
        registration.setdefault("domain_password", PASSWORD)
        self.clock = ManualClock()
        self.core = Core(clock=self.clock, registration=RegistrationSettings(**registration))

    def send(self, data: bytes, source: Flow | None = None) -> Reply:
        request = parse(data)
        assert isinstance(request, Request)
        return self.core.registrar.register(Incoming(request, source or flow(), self.clock.mono()))

    def challenge(self, device_id: str = NVR, source: Flow | None = None, **options: Any) -> str:
        reply = self.send(register_text(device_id, **options), source)
        assert reply.status == 401
        return header(reply, "WWW-Authenticate")

    def register(
        self,
        device_id: str = NVR,
        source: Flow | None = None,
        *,
        password: str = PASSWORD,
        user: str = "",
        qop: bool = False,
        **options: Any,
    ) -> Reply:
        challenge = self.challenge(device_id, source, **options)
        answer = digest_answer(challenge, user=user or device_id, password=password, qop=qop)
        return self.send(register_text(device_id, authorization=answer, **options), source)


def header(reply: Reply, name: str) -> str:
    return next((value for key, value in reply.headers if key.lower() == name.lower()), "")


class TestDigest:
    @pytest.mark.gb("G031")
    def test_the_first_register_is_challenged(self) -> None:
        reply = Door().send(register_text())
        assert reply.status == 401
        challenge = header(reply, "WWW-Authenticate")
        assert challenge.startswith("Digest ")
        assert f'realm="{DOMAIN}"' in challenge
        assert re.search(r'nonce="[0-9a-f]{16,}"', challenge)
        assert "qop" not in challenge  # many devices reject it

    @pytest.mark.gb("G032")
    @pytest.mark.parametrize("vector", ["plain"])
    def test_the_worked_example_is_accepted(self, vector: str) -> None:
        """User 4101…01, password Xm-Demo-0001, nonce 6fe9ba44a76be22a: response 60b33b63…"""
        del vector
        door = Door()
        door.core.registrar._digest = FixedNonce()
        reply = door.send(
            register_text(
                cseq=2,
                authorization=f'Digest username="{NVR}",realm="{DOMAIN}",nonce="6fe9ba44a76be22a",'
                f'uri="sip:{SERVER}@{DOMAIN}",response="60b33b63fdf2bf561186eb46c71d295e",algorithm=MD5',
            )
        )
        assert reply.status == 200
        assert header(reply, "Contact") == f"<sip:{NVR}@127.0.0.1:5060>;expires=86400"
        assert header(reply, "Expires") == "86400"
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}", header(reply, "Date"))

    @pytest.mark.gb("G033")
    def test_the_worked_example_with_qop_is_accepted(self) -> None:
        door = Door()
        door.core.registrar._digest = FixedNonce()
        answer = (
            f'Digest username="{NVR}",realm="{DOMAIN}",nonce="6fe9ba44a76be22a",uri="sip:{SERVER}@{DOMAIN}",'
            'qop=auth,nc=00000001,cnonce="0a4f113b",response="5b0eee6da49c6c8aa5ac3ebe66b56167",algorithm=MD5'
        )
        assert door.send(register_text(cseq=2, authorization=answer)).status == 200

    @pytest.mark.gb("G033")
    def test_qop_auth_against_our_own_challenge(self) -> None:
        assert Door().register(qop=True).status == 200

    @pytest.mark.gb("G034")
    def test_wrong_passwords_are_counted_then_forbidden(self) -> None:
        door = Door(failures_before_forbidden=5, failure_window_s=60)
        nonces = set()
        for _ in range(4):
            reply = door.register(password="wrong")
            assert reply.status == 401
            nonces.add(header(reply, "WWW-Authenticate"))
        assert len(nonces) == 4  # a fresh one each time
        assert door.register(password="wrong").status == 403
        assert door.send(register_text()).status == 403  # locked: no further guess for a while
        assert door.core.registrar.counts["wrong_password"] == 5
        kinds = [event.kind for event in door.core.events(SecurityEvent)]
        assert kinds == ["auth_failed"] * 5 + ["auth_locked"]
        assert not any(
            PASSWORD in repr(event) or "wrong" in event.detail for event in door.core.events(SecurityEvent)
        )
        door.clock.advance(61)
        assert door.register().status == 200

    @pytest.mark.gb("G277")
    def test_a_brute_force_locks_its_source_and_not_the_device(self) -> None:
        door = Door(failures_before_forbidden=3)
        for _ in range(3):
            door.register(source=flow("198.51.100.9"), password="guess")
        assert door.send(register_text(), flow("198.51.100.9")).status == 403
        assert door.register(source=flow("10.41.183.61")).status == 200

    @pytest.mark.gb("G277")
    def test_an_allow_list_binds_a_device_to_its_networks(self) -> None:
        door = Door()
        door.core.provision(NVR, PASSWORD).profile.allowed_networks = ("10.41.0.0/16",)
        assert door.register(source=flow("198.51.100.9")).status == 403
        assert door.core.events(SecurityEvent)[-1].kind == "foreign_source"
        assert door.register(source=flow("10.41.183.61")).status == 200

    @pytest.mark.gb("G035")
    def test_a_device_has_its_own_password(self) -> None:
        door = Door(domain_password=None)
        door.core.provision(NVR, "first-device")
        door.core.provision(CAMERA, "second-device")
        assert door.register(CAMERA, password="first-device").status == 401
        assert door.register(CAMERA, password="second-device").status == 200

    @pytest.mark.gb("G035")
    def test_the_domain_password_does_not_open_a_device_with_its_own(self) -> None:
        door = Door()
        door.core.provision(NVR, "its-own")
        assert door.register(NVR, password=PASSWORD).status == 401
        assert door.register(NVR, password="its-own").status == 200

    @pytest.mark.gb("G035")
    def test_without_a_domain_password_strangers_are_refused(self) -> None:
        door = Door(domain_password=None)
        assert door.register(password="anything").status == 403
        assert NVR not in door.core.registry.devices
        assert door.core.events(SecurityEvent)[-1].kind == "unknown_device"

    def test_new_devices_can_be_kept_out(self) -> None:
        door = Door(accept_unknown_devices=False)
        assert door.register().status == 403
        door.core.provision(NVR, PASSWORD)
        assert door.register().status == 200

    def test_a_code_that_is_none_is_no_device(self) -> None:
        assert Door().register("camera-1").status == 403

    @pytest.mark.gb("G036")
    def test_a_stale_nonce_gets_a_new_one(self) -> None:
        door = Door(nonce_lifetime_s=120)
        challenge = door.challenge()
        door.clock.advance(121)
        answer = digest_answer(challenge, user=NVR, password=PASSWORD)
        reply = door.send(register_text(authorization=answer))
        assert reply.status == 401
        renewed = header(reply, "WWW-Authenticate")
        assert "stale=true" in renewed
        assert door.core.registrar.counts["wrong_password"] == 0
        again = digest_answer(renewed, user=NVR, password=PASSWORD)
        assert door.send(register_text(authorization=again)).status == 200

    @pytest.mark.gb("G037")
    def test_a_captured_answer_is_worthless_elsewhere(self) -> None:
        door = Door()
        answer = digest_answer(door.challenge(), user=NVR, password=PASSWORD)
        thief = door.send(register_text(authorization=answer), flow("198.51.100.9"))
        assert thief.status == 401
        assert NVR not in door.core.registry.devices
        assert door.send(register_text(authorization=answer)).status == 200
        assert door.send(register_text(authorization=answer)).status == 401  # and used up at home

    @pytest.mark.quirk(44)
    def test_an_invented_nonce_is_no_failed_log_in(self) -> None:
        """First REGISTER with a made-up nonce; the real one under another Call-ID and an unrelated CSeq."""
        door = Door(failures_before_forbidden=1)
        invented = digest_answer('realm="x", nonce="0123456789abcdef"', user=NVR, password=PASSWORD)
        reply = door.send(register_text(cseq=7, call_id="first", authorization=invented))
        assert reply.status == 401
        challenge = header(reply, "WWW-Authenticate")
        assert "stale=true" in challenge
        answer = digest_answer(challenge, user=NVR, password=PASSWORD)
        assert door.send(register_text(cseq=3, call_id="other", authorization=answer)).status == 200
        assert door.core.registrar.counts["wrong_password"] == 0

    @pytest.mark.quirk(44)
    def test_a_late_log_out_does_not_remove_the_new_registration(self) -> None:
        door = Door()
        old, new = flow(port=5060), flow(port=6000)
        log_out = digest_answer(door.challenge(source=old, expires=0), user=NVR, password=PASSWORD)
        assert door.register(source=new, contact=f"<sip:{NVR}@10.41.183.61:6000>").status == 200
        late = register_text(
            expires=0, contact=f"<sip:{NVR}@10.41.183.61:5060>", authorization=log_out, call_id="late"
        )
        assert door.send(late, old).status == 200
        assert door.core.device().online

    @pytest.mark.quirk(49)
    @pytest.mark.parametrize("user", [f"{NVR}@", f"{NVR}@{DOMAIN}", "recorder-7"])
    @pytest.mark.parametrize("own_password", [False, True])
    def test_odd_user_names_are_verified_as_sent(self, user: str, own_password: bool) -> None:
        door = Door()
        if own_password:
            from gateway.credentials import DeviceSecret
            from gateway.model import Device

            secret = DeviceSecret.of_password(NVR, DOMAIN, PASSWORD, username="recorder-7")
            door.core.registry.put_device(Device(NVR), secret=secret)
        assert door.register(user=user).status == 200
        assert door.core.device(NVR).online

    def test_no_password_is_kept(self) -> None:
        door = Door()
        door.core.provision(NVR, "its-own-password")
        assert "its-own-password" not in repr(door.core.registry.secrets[NVR].to_dict())
        assert "its-own-password" not in repr(door.core.registry.secrets[NVR])


class FixedNonce(DigestServer):
    """Takes the nonce of the worked example for its own."""

    def _fresh(self, nonce: str, realm: str, host: str, now: float) -> bool:
        return nonce == "6fe9ba44a76be22a"


class TestOpenRules:
    @pytest.mark.gb("G276")
    def test_open_registration_needs_an_explicit_rule_per_network(self) -> None:
        rule = OpenRule(network="10.41.183.0/24", reason="cameras of the old school")  # type: ignore[arg-type]
        door = Door(domain_password=None, open_rules=[rule])
        assert door.send(register_text(), flow("10.41.183.61")).status == 200
        assert door.send(register_text(CAMERA), flow("10.41.184.61")).status == 401

    @pytest.mark.gb("G276")
    def test_nothing_is_open_by_default(self) -> None:
        settings = RegistrationSettings()
        assert settings.open_rules == []
        assert settings.domain_password is None
        assert Door(domain_password=None).send(register_text(authorization="Digest x")).status == 401

    def test_a_device_with_a_password_is_not_open(self) -> None:
        rule = OpenRule(network="10.41.183.0/24", reason="test")  # type: ignore[arg-type]
        door = Door(open_rules=[rule])
        door.core.provision(NVR, "its-own")
        assert door.send(register_text(), flow("10.41.183.61")).status == 401


class TestLifetime:
    @pytest.mark.gb("G039")
    def test_the_default_lifetime_is_a_setting(self) -> None:
        assert header(Door().register(expires=None), "Expires") == "86400"
        assert header(Door(default_expires_s=7200).register(expires=None), "Expires") == "7200"

    @pytest.mark.gb("G040")
    def test_short_lifetimes_are_taken_by_default(self) -> None:
        for expires in (60, 600):
            assert header(Door().register(expires=expires), "Expires") == str(expires)

    @pytest.mark.gb("G040")
    def test_strict_mode_says_what_it_wants(self) -> None:
        reply = Door(min_expires_s=3600).register(expires=600)
        assert reply.status == 423
        assert header(reply, "Min-Expires") == "3600"

    def test_long_lifetimes_are_cut(self) -> None:
        reply = Door(max_expires_s=90000).register(expires=4_000_000_000)
        assert header(reply, "Expires") == "90000"
        assert header(reply, "Contact").endswith(";expires=90000")

    @pytest.mark.quirk(6)
    def test_expires_only_as_contact_parameter(self) -> None:
        """Contact: <sip:…>;expires=3600 and no Expires header."""
        door = Door()
        reply = door.register(expires=None, contact=f"<sip:{NVR}@10.0.0.9:5060>;expires=3600")
        assert reply.status == 200
        assert header(reply, "Contact") == f"<sip:{NVR}@10.0.0.9:5060>;expires=3600"

    @pytest.mark.quirk(6)
    def test_a_register_without_contact_still_gets_one_back(self) -> None:
        reply = Door().register(contact="")
        assert reply.status == 200
        assert header(reply, "Contact") == f"<sip:{NVR}@10.41.183.61:5060>;expires=86400"

    @pytest.mark.quirk(6)
    def test_an_empty_from_address_is_no_accident(self) -> None:
        """From: <sip:@4101830000> with the code in To alone."""
        door = Door()
        data = register_text().replace(f"From: <sip:{NVR}@".encode(), b"From: <sip:@")
        assert door.send(data).status == 401
        nobody = register_text("").replace(b"sip:@127", b"sip:x@127")
        assert door.send(nobody).status == 400

    @pytest.mark.gb("G041")
    def test_a_refresh_extends_and_disturbs_nothing(self) -> None:
        door = Door()
        door.register(expires=3600)
        device = door.core.device()
        first_end = device.expires_mono
        door.clock.advance(100)  # inside the heartbeat window
        door.register(expires=3600)
        assert device.expires_mono == first_end + 100
        assert len(door.core.events(DeviceOnline)) == 1
        assert door.core.events(DeviceOffline) == []
        assert [event.renewal for event in door.core.events(DeviceRegistered)] == [False, True]

    @pytest.mark.gb("G042")
    def test_expiry_is_told_exactly_once(self) -> None:
        door = Door()
        door.register(expires=60)
        device = door.core.device()
        for _ in range(20):
            door.clock.advance(10)
            device.last_seen_mono = door.clock.mono()  # heartbeats go on
            door.core.liveness.sweep(door.clock.mono())
        assert [event.cause for event in door.core.events(DeviceOffline)] == ["expired"]
        assert device.registration_expired

    @pytest.mark.gb("G289")
    @pytest.mark.parametrize("step", [3600, -3600])
    def test_a_step_of_the_wall_clock_expires_nothing(self, step: int) -> None:
        door = Door()
        door.register(expires=600)
        door.clock.step_wall(step)
        door.clock.advance(170)
        door.core.liveness.sweep(door.clock.mono())
        assert door.core.device().online
        door.core.device().last_seen_mono = door.clock.mono()
        door.clock.advance(431)
        door.core.device().last_seen_mono = door.clock.mono()
        door.core.liveness.sweep(door.clock.mono() + 0)
        door.clock.advance(61)
        door.core.liveness.sweep(door.clock.mono())
        assert not door.core.device().online


class TestLogOut:
    @pytest.mark.gb("G038")
    def test_a_log_out_is_authenticated_too(self) -> None:
        door = Door()
        door.register()
        assert door.send(register_text(expires=0)).status == 401
        assert door.core.device().online
        reply = door.register(expires=0)
        assert reply.status == 200
        assert header(reply, "Expires") == "0"
        assert [event.cause for event in door.core.events(DeviceOffline)] == ["unregistered"]

    def test_a_star_ends_every_binding(self) -> None:
        door = Door()
        door.register()
        assert door.register(source=flow(port=7000), expires=0, contact="*").status == 200
        assert not door.core.device().online

    def test_log_out_of_a_stranger_leaves_no_trace(self) -> None:
        door = Door()
        assert door.register(expires=0).status == 200
        assert door.core.registry.devices == {}


class TestDateAndVersion:
    @pytest.mark.gb("G043")
    def test_date_is_beijing_time_with_milliseconds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import time

        monkeypatch.setenv("TZ", "UTC")
        time.tzset()
        door = Door()
        door.clock._utc = datetime(2026, 11, 22, 2, 0, 0, 7000, tzinfo=UTC)
        assert header(door.register(), "Date") == "2026-11-22T10:00:00.007"

    @pytest.mark.gb("G044")
    def test_date_can_be_switched_off_per_device(self) -> None:
        door = Door()
        door.core.provision(NVR, PASSWORD).profile.send_date = False
        assert header(door.register(NVR), "Date") == ""
        assert header(door.register(CAMERA), "Date") != ""

    def test_date_can_be_switched_on_for_one_device(self) -> None:
        door = Door(send_date=False)
        door.core.provision(NVR, PASSWORD).profile.send_date = True
        assert header(door.register(NVR), "Date") != ""
        assert header(door.register(CAMERA), "Date") == ""

    @pytest.mark.gb("G047")
    def test_every_answer_tells_our_version(self) -> None:
        door = Door(min_expires_s=3600, failures_before_forbidden=1)
        answers = {
            reply.status: header(reply, "X-GB-Ver")
            for reply in (
                door.send(register_text()),
                door.register(CAMERA),
                door.register(CAMERA, expires=60),
                door.register(password="wrong"),
                door.send(register_text("")),
            )
        }
        assert answers == {401: "3.0", 200: "3.0", 423: "3.0", 403: "3.0", 400: "3.0"}

    @pytest.mark.gb("G048")
    @pytest.mark.parametrize(
        ("sent", "stored"),
        [("2.0", "2.0"), ("3.0", "3.0"), ("4.0", "3.0"), (None, "2.0"), ("1.1", "1.1"), ("x", "2.0")],
    )
    def test_the_peers_version_is_stored(self, sent: str | None, stored: str) -> None:
        door = Door()
        door.register(version=sent)
        assert door.core.device().edition == stored
        assert edition_of(sent) == stored


ONE, TWO = flow("10.41.183.61"), flow("10.41.183.62")


class TestTwoUnits:
    """Two units under one code, told by address, Contact and User-Agent."""

    def both(self, door: Door) -> tuple[Callable[[], int], Callable[[], int]]:
        def one() -> int:
            return door.register(source=ONE, contact=f"<sip:{NVR}@10.41.183.61>", agent="IPC A").status

        def two() -> int:
            return door.register(source=TWO, contact=f"<sip:{NVR}@10.41.183.62>", agent="IPC B").status

        return one, two

    @pytest.mark.gb("G061")
    @pytest.mark.quirk(18)
    def test_who_alternates_is_two_and_the_first_keeps_the_code(self) -> None:
        door = Door()
        one, two = self.both(door)
        assert [one(), two(), one()] == [200, 200, 200]  # a move is believed; then the old one comes back
        conflict = door.core.registrar.same_id.conflicts[NVR]
        assert (conflict.first.agent, conflict.second.agent, conflict.kept) == ("IPC A", "IPC B", "first")
        for _ in range(3):
            assert [two(), one()] == [403, 200]
            assert door.core.device().flow == ONE  # no flapping
        assert (conflict.turns, conflict.refused) == (7, 3)
        assert len(door.core.events(DeviceConflict)) == 1  # told once, not at each turn
        assert door.core.events(DeviceOffline) == []
        assert door.core.registrar.same_id.contested(NVR, TWO)
        assert not door.core.registrar.same_id.contested(NVR, ONE)

    def test_a_device_that_moved_is_no_conflict(self) -> None:
        door = Door()
        one, two = self.both(door)
        assert [one(), two(), two(), two()] == [200] * 4
        assert door.core.device().flow == TWO
        assert door.core.events(DeviceConflict) == []

    def test_factory_settings_alike_need_more_turns(self) -> None:
        """Same Contact and User-Agent behind two addresses: one device with two lines, or two units out of the box."""
        door = Door()
        for number in range(5):
            assert door.register(source=(ONE, TWO)[number % 2]).status == 200
            assert len(door.core.events(DeviceConflict)) == (1 if number == 4 else 0)
        assert door.register(source=TWO).status == 403
        assert door.core.device().flow == ONE

    @pytest.mark.parametrize("gone", ["first", "second"])
    def test_a_conflict_ends_by_itself(self, gone: str) -> None:
        door = Door(same_id_memory_s=300)
        one, two = self.both(door)
        one(), two(), one(), two()
        same_id = door.core.registrar.same_id
        if gone == "second":
            for _ in range(4):
                door.clock.advance(100)
                assert one() == 200
            cause = "other_unit_gone"
        else:
            door.clock.advance(181)  # longer than its heartbeats allow
            cause = "kept_unit_silent"
            assert two() == 200
            assert door.core.device().flow == TWO
        assert same_id.current() == []
        assert [event.cause for event in door.core.events(DeviceConflictEnded)] == [cause]

    @pytest.mark.gb("G061")
    def test_newest_wins(self) -> None:
        door = Door(same_id_policy="newest_wins")
        one, two = self.both(door)
        one()
        for _ in range(3):  # both keep registering
            assert two() == 200
            assert door.core.device().flow == TWO
            assert one() == 200
        assert len(door.core.events(DeviceConflict)) == 1
        assert door.core.registrar.same_id.conflicts[NVR].turns == 6
        assert door.core.events(DeviceOffline) == []

    @pytest.mark.gb("G061")
    def test_first_wins_until_it_is_silent(self) -> None:
        door = Door(same_id_policy="first_wins")
        one, two = self.both(door)
        assert [one(), two()] == [200, 403]
        assert door.core.device().flow == ONE
        assert door.core.events(DeviceConflict)[0].kept == str(ONE)
        door.clock.advance(181)
        assert two() == 200

    def test_a_rebooted_unit_on_a_new_port_is_no_conflict(self) -> None:
        door = Door(same_id_policy="first_wins")
        door.register(source=flow(port=5060))
        assert door.register(source=flow(port=41000)).status == 200
        assert door.core.events(DeviceConflict) == []


class TestLimits:
    @pytest.mark.quirk(7)
    def test_one_source_may_not_flood(self) -> None:
        door = Door(requests_per_second_per_source=10)
        statuses = [door.send(register_text(f"4101830000132000{n:04d}")).status for n in range(40)]
        assert statuses[:20] == [401] * 20
        assert set(statuses[20:]) == {503}
        reply = door.send(register_text())
        assert 5 <= int(header(reply, "Retry-After")) <= 30
        assert header(reply, "X-GB-Ver") == "3.0"
        assert door.send(register_text(CAMERA), flow("10.41.183.99")).status == 401  # others are served
        door.clock.advance(2)
        assert door.send(register_text()).status == 401

    @pytest.mark.quirk(7)
    def test_one_device_may_not_flood(self) -> None:
        door = Door()
        statuses = [door.send(register_text()).status for _ in range(30)]
        assert statuses.count(401) == 20
        assert statuses.count(503) == 10

    @pytest.mark.gb("G060")
    def test_a_storm_behind_one_address_is_absorbed(self) -> None:
        """Ten thousand devices within ten seconds; who is refused comes back after Retry-After and gets in."""
        door = Door(requests_per_second_per_source=100)
        start = door.clock.mono()
        due = [(start + number / 1000, number) for number in range(10_000)]
        answers: list[tuple[float, int, str]] = []
        refused = 0
        while due or answers:
            at, number = min(due[0] if due else (9e9, 0), answers[0][:2] if answers else (9e9, 0))
            door.clock.advance(max(0.0, at - door.clock.mono()))
            device = f"4101830000132{number:07d}"
            if due and due[0] == (at, number):
                heapq.heappop(due)
                reply = door.send(register_text(device))
                if reply.status == 401:
                    heapq.heappush(answers, (at + 1.0, number, header(reply, "WWW-Authenticate")))
            else:
                challenge = heapq.heappop(answers)[2]
                authorization = digest_answer(challenge, user=device, password=PASSWORD)
                reply = door.send(register_text(device, authorization=authorization))
            assert reply.status in (200, 401, 503)
            if reply.status == 503:
                refused += 1
                heapq.heappush(due, (at + int(header(reply, "Retry-After")), number))
        assert sum(device.online for device in door.core.registry.devices.values()) == 10_000
        assert refused > 0
        assert door.clock.mono() - start < 300
        assert len(door.core.registrar._devices) <= 50_000
