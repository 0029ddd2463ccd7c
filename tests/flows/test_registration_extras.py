"""Registration beyond the plain case through the whole gateway: redirects, allow-lists, sheets, two units, signed messages."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import pytest
from gateway_process import DOMAIN, PASSWORD, SERVER_ID, GatewayProcess, free_ports, gateway_process
from openpyxl import load_workbook
from outside import eventually
from registration_peers import EDITIONS, camera, code, metric, register_once, sheet

from simulator.upper_platform import UpperFaults, UpperPlatform, UpperRules
from sip.errors import TransactionTimeout
from sip.flow import Target
from sip.note import NoteKey, NoteVerdict

SERVER_A, SERVER_B = "41018300002000000011", "41018300002000000012"
UPPER = "41010000002000000001"
UPPER_PASSWORD = "Upper-Platform-Pw-03"
XLSX = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"
SHORT = {"expires_s": 3600, "heartbeat_interval_s": 5, "heartbeat_count": 2}


@pytest.fixture(scope="module")
def ports() -> list[int]:
    """Where the servers listen to which devices are sent."""
    return free_ports(12)[9:]


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, ports: list[int]) -> Iterator[GatewayProcess]:
    """Sends devices 132…5000 to 132…5999 to server A or, when they come back, to B; all others are served."""
    span = {"first_id": code(5000), "last_id": code(5999), "host": "127.0.0.1"}
    targets = [
        {"server_id": SERVER_A, "port": ports[0], "weight": 1000, **span},
        {"server_id": SERVER_B, "port": ports[1], "weight": 1, **span},
        {"server_id": SERVER_ID, "host": "127.0.0.1"},
    ]
    overrides: dict[str, Any] = {
        "redirect": {"enabled": True, "expires_s": 7200, "targets": targets},
        "registration": {"allowed_networks": ["127.0.0.0/16"]},
        "cascade": {"register_retry_s": 0.5},
    }
    with gateway_process(tmp_path_factory.mktemp("extras") / "gateway", overrides) as running:
        yield running


@asynccontextmanager
async def running(*peers: Any) -> AsyncIterator[None]:
    """Cameras and uppers for one test."""
    try:
        for peer in peers:
            await peer.start()
        yield
    finally:
        await asyncio.gather(*(peer.vanish() for peer in peers), return_exceptions=True)


async def call(
    gateway: GatewayProcess, method: str, path: str, body: Any = None, **more: str
) -> tuple[int, Any]:
    return await asyncio.to_thread(gateway.call, method, path, body, **more)


def server(platform_id: str, port: int) -> UpperPlatform:
    """A server that takes devices in."""
    return UpperPlatform(platform_id, lower_id="", domain=DOMAIN, password=PASSWORD, port=port)


# -- redirects -----------------------------------------------------------------------------------------------


@pytest.mark.gb("G050")
@pytest.mark.parametrize("transport", ["udp", "tcp"])
async def test_a_redirect_is_told_after_the_password(
    gateway: GatewayProcess, ports: list[int], transport: str
) -> None:
    device_id = code(5001 if transport == "udp" else 5002)
    stranger = await register_once(gateway.sip_port, device_id, password=None, transport=transport)
    assert stranger.status == 401
    told = await register_once(gateway.sip_port, device_id, transport=transport)
    assert told.status == 302
    assert told.headers.get("Contact") == f"<sip:{SERVER_A}@127.0.0.1:{ports[0]}>"
    assert (told.expires, told.headers.get("X-GB-Ver")) == (7200, "3.0")
    assert (await call(gateway, "GET", f"/api/devices/{device_id}"))[0] == 404
    served = await register_once(gateway.sip_port, code(4999), transport=transport)
    assert served.status == 200


@pytest.mark.gb("G050")
@pytest.mark.parametrize(("edition", "transport"), [("2016", "udp"), ("2022", "tcp")])
async def test_a_device_goes_where_it_is_sent_and_elsewhere_when_that_is_gone(
    gateway: GatewayProcess, ports: list[int], edition: str, transport: str
) -> None:
    one = camera(
        gateway,
        5000 + int(edition) % 1000,
        edition=EDITIONS[edition],
        transport=transport,
        answer_timeout_s=1.0,
    )
    first, second = server(SERVER_A, ports[0]), server(SERVER_B, ports[1])
    async with running(first, second, one):
        await first.wait(lambda: one.device_id in first.lowers, 30)
        await first.wait(lambda: first.heartbeats, 30)
        assert one.registration.redirects == 1
        assert not second.registers
        await first.vanish()
        await second.wait(lambda: one.device_id in second.lowers, 30)  # the gateway named the next one
        await second.wait(lambda: second.heartbeats, 30)
        assert metric(gateway, "gateway_register_answers_total", result="redirected") >= 2


def platform(upper: UpperPlatform, **values: Any) -> dict[str, Any]:
    return {
        "platform_id": upper.platform_id, "name": "upper", "host": "127.0.0.1", "port": upper.port,
        "transport": upper.transport, "password": UPPER_PASSWORD, "share_all": True, **SHORT, **values,
    }  # fmt: skip


def upper(platform_id: str = UPPER, **values: Any) -> UpperPlatform:
    return UpperPlatform(platform_id, lower_id=SERVER_ID, password=UPPER_PASSWORD, **values)


@asynccontextmanager
async def entered(gateway: GatewayProcess, door: UpperPlatform) -> AsyncIterator[None]:
    """The gateway knows this upper."""
    status, answer = await call(gateway, "POST", "/api/platforms", platform(door))
    assert status == 201, answer
    try:
        yield
    finally:
        await call(gateway, "DELETE", f"/api/platforms/{door.platform_id}")


def status_of(gateway: GatewayProcess, platform_id: str) -> dict[str, Any]:
    return dict(gateway.call("GET", f"/api/platforms/{platform_id}")[1]["status"])


@pytest.mark.gb("G051")
@pytest.mark.parametrize(("edition", "transport"), [("2016", "udp"), ("2022", "tcp")])
async def test_as_agent_we_follow_a_redirect_and_come_back_when_it_fails(
    gateway: GatewayProcess, edition: str, transport: str
) -> None:
    known = EDITIONS[edition]
    first = upper(SERVER_A, transport=transport, edition=known)
    second = upper(SERVER_B, transport=transport, edition=known)
    third = upper(
        "41018300002000000013", transport=transport, edition=known, faults=UpperFaults(refuse_registers=1)
    )
    door = upper(transport=transport, edition=known)
    async with running(first, second, third, door):
        door.rules.redirect = f"<sip:{SERVER_A}@127.0.0.1:{first.port}>"
        async with entered(gateway, door):
            await first.wait_registered(30)
            assert first.lower.flow.transport == transport
            await eventually(lambda: status_of(gateway, UPPER)["state"] == "online", 30)
            assert status_of(gateway, UPPER)["server"] == f"127.0.0.1:{first.port}"
            register = first.registers[-1]
            assert register.uri.startswith(f"sip:{SERVER_A}@")
            assert register.call_id != door.registers[-1].call_id
            assert isinstance(await first.query_catalog(), list)  # the real work is done with server A
            await first.wait(lambda: first.heartbeats, 30)
            message = first.messages[0][1].request
            assert message.to.uri.user == SERVER_A
            assert not door.heartbeats
            assert not door.lowers

            came, door.rules.redirect = len(door.registers), f"<sip:{SERVER_B}@127.0.0.1:{second.port}>"
            if transport == "tcp":
                await first.vanish()
            else:
                first.forget()  # its answer to the next heartbeat is 403
            await second.wait_registered(40)
            assert len(door.registers) > came  # back at the redirect server first

            came, door.rules.redirect = (
                len(door.registers),
                f"<sip:{third.platform_id}@127.0.0.1:{third.port}>",
            )
            second.forget()
            await third.wait(lambda: third.refused["register"], 40)  # 403 from the server named
            await third.wait_registered(40)
            assert (
                len(door.registers) >= came + 4
            )  # two tries at the redirect server, each with its challenge


@pytest.mark.gb("G052")
async def test_a_circle_of_redirects_ends(gateway: GatewayProcess) -> None:
    """Two that point at each other, and a chain that never ends."""
    one, other = upper(), upper(SERVER_A)
    async with running(one, other):
        one.rules.redirect = f"<sip:{SERVER_A}@127.0.0.1:{other.port}>"
        other.rules.redirect = f"<sip:{UPPER}@127.0.0.1:{one.port}>"
        async with entered(gateway, one):
            await eventually(lambda: status_of(gateway, UPPER)["last_response"].startswith("302"), 30)
            shown = status_of(gateway, UPPER)
            assert "not followed after 2 servers" in shown["last_response"]
            assert shown["state"] in ("waiting", "registering")
            calls = {request.call_id for request in one.registers}
            asked = len(one.registers)
            assert asked <= 2 * len(calls)  # one challenge and one answer per try, never a second round
    chain = [upper(f"4101830000200000002{number}", rules=UpperRules()) for number in range(6)]
    async with running(*chain):
        for link, following in pairwise(chain):
            link.rules.redirect = f"<sip:{following.platform_id}@127.0.0.1:{following.port}>"
        async with entered(gateway, chain[0]):
            await chain[3].wait(lambda: chain[3].registers, 30)
            path = chain[0].platform_id
            await eventually(lambda: "after 4 servers" in status_of(gateway, path)["last_response"], 30)
            assert not chain[4].registers


# -- allow-lists and provisioning ----------------------------------------------------------------------------


@pytest.mark.gb("G277")
@pytest.mark.parametrize("transport", ["udp", "tcp"])
async def test_allow_lists_of_a_device_and_of_all(gateway: GatewayProcess, transport: str) -> None:
    device_id = code(6001 if transport == "udp" else 6002)
    body = {"device_id": device_id, "password": "Own-Password-1", "allowed_networks": ["127.0.0.9"]}
    status, answer = await call(gateway, "POST", "/api/devices", body)
    assert (status, answer["allowed_networks"]) == (201, ["127.0.0.9/32"])
    before = metric(gateway, "gateway_register_answers_total", result="foreign_source")
    port = gateway.sip_port
    unproven = await register_once(port, device_id, password=None, transport=transport)
    assert unproven.status == 401  # without the password nobody learns of the list
    refused = await register_once(port, device_id, password="Own-Password-1", transport=transport)
    assert (refused.status, refused.reason) == (403, "Forbidden")
    assert metric(gateway, "gateway_register_answers_total", result="foreign_source") == before + 1
    path = f"/api/devices/{device_id}"
    status, answer = await call(gateway, "PATCH", path, {"allowed_networks": ["10.0.0.0/8", "127.0.0.1/24"]})
    assert answer["allowed_networks"] == ["10.0.0.0/8", "127.0.0.0/24"]
    admitted = await register_once(port, device_id, password="Own-Password-1", transport=transport)
    assert admitted.status == 200
    status, answer = await call(gateway, "PATCH", path, {"allowed_networks": ["somewhere"]})
    assert (status, answer["field"]) == (422, "allowed_networks")
    outside = await register_once(port, code(6003), transport=transport, host="127.9.0.1")
    assert (outside.status, outside.reason) == (403, "Forbidden")
    assert not outside.headers.get("WWW-Authenticate")
    await eventually(lambda: "registration refused" in gateway.log(), 10)
    assert "Own-Password-1" not in gateway.log()

    def audited() -> bool:
        entries = gateway.call("GET", "/api/audit")[1]["items"]
        return any(
            one["action"] == "device.register" and one["result"] == "foreign_source" for one in entries
        )

    await eventually(audited, 10, "the refusal in the audit log")


async def test_a_sheet_of_devices_with_bad_rows(gateway: GatewayProcess) -> None:
    """Nothing is entered while a row is bad; each is named with its line, column and reason, never with a password."""
    good, second = code(6101), code(6102)
    lines: list[list[Any]] = [
        ["县城摄像机登记表"],
        ["设备编码*", "设备名称", "密码", "允许网段", "备注"],
        [good, "东街口", "Own-Password-2", "127.0.0.0/24", "x"],
        [41018300001320006103, "number", "Secret-In-Row-4", "", ""],
        ["4101830000132", "short", "Secret-In-Row-5", "", ""],
        [],
        [second, "西街口", "Own-Password-3", "nowhere", ""],
        [good, "again", "", "", ""],
        ["", "no code", "", "", ""],
    ]
    path = "/api/provisioning/devices.xlsx"
    status, report = await call(gateway, "POST", path, sheet(lines), content_type=XLSX)
    assert status == 200, report
    assert (report["rows"], report["good"], report["applied"], report["ignored_columns"]) == (
        5,
        1,
        False,
        ["备注"],
    )
    places = [(fault["row"], fault["column"]) for fault in report["faults"]]
    assert sorted(places) == [
        (4, "device_id"),
        (5, "device_id"),
        (7, "allowed_networks"),
        (8, "device_id"),
        (9, "device_id"),
    ]
    reasons = {fault["row"]: fault["reason"] for fault in report["faults"]}
    assert "format the column as text" in reasons[4]
    assert reasons[8] == "stands in row 3 too"
    assert "Secret" not in str(report)
    assert (await call(gateway, "GET", f"/api/devices/{good}"))[0] == 404

    lines[6][3] = "127.0.0.1，10.1.0.0/16"
    del lines[7:], lines[3:5]
    status, report = await call(gateway, "POST", path + "?dry_run=true", sheet(lines), content_type=XLSX)
    assert (report["created"], report["fault_count"], report["applied"]) == (2, 0, False)
    status, report = await call(gateway, "POST", path, sheet(lines), content_type=XLSX)
    assert (report["created"], report["applied"]) == (2, True)
    status, shown = await call(gateway, "GET", f"/api/devices/{second}")
    assert (shown["name"], shown["password_set"], shown["provisioned"]) == ("西街口", True, True)
    assert shown["allowed_networks"] == ["127.0.0.1/32", "10.1.0.0/16"]
    assert (await register_once(gateway.sip_port, good, password="Own-Password-2")).status == 200
    assert (await register_once(gateway.sip_port, second, password="Own-Password-2")).status == 401
    log = gateway.log()
    assert not any(word in log for word in ("Own-Password-2", "Own-Password-3", "Secret-In-Row"))


async def test_a_sheet_goes_out_and_comes_back(gateway: GatewayProcess) -> None:
    device_id = code(6201)
    rows = [{"device_id": device_id, "name": "=1+1", "password": "Own-Password-4", "media_transport": "udp"}]
    bad = [*rows, {"device_id": code(6202), "charset": "latin"}, {"device_id": code(6203), "colour": "red"}]
    status, report = await call(gateway, "POST", "/api/provisioning/devices", {"devices": bad})
    assert [(one["row"], one["column"]) for one in report["faults"]] == [(2, "charset"), (3, "colour")]
    assert report["applied"] is False
    status, report = await call(gateway, "POST", "/api/provisioning/devices?good_rows=true", {"devices": bad})
    assert (report["applied"], report["created"]) == (True, 1)
    for language, header in (("zh", "设备编码"), ("en", "Device ID")):
        status, data = await call(gateway, "GET", f"/api/provisioning/devices.xlsx?language={language}")
        assert status == 200
        table = load_workbook(io.BytesIO(data), read_only=True).worksheets[0]
        found = list(table.iter_rows(values_only=True))
        assert found[0][0] == header
        line = next(line for line in found if line[0] == device_id)
        assert line[:3] == (device_id, "=1+1", None)
        assert b"Own-Password-4" not in data
        path = "/api/provisioning/devices.xlsx"
        status, report = await call(gateway, "POST", path, data, content_type=XLSX)
        assert (report["fault_count"], report["created"]) == (0, 0)
    assert report["updated"] == 0  # the first round made entered devices of those that had come by themselves
    assert (await register_once(gateway.sip_port, device_id, password="Own-Password-4")).status == 200
    status, data = await call(gateway, "GET", "/api/provisioning/template.xlsx")
    assert load_workbook(io.BytesIO(data)).worksheets[0]["A2"].number_format == "@"
    status, refused = await call(gateway, "POST", path, b"PK\x03\x04 no sheet", content_type=XLSX)
    assert (status, refused["cause"]) == (400, "not_readable")


# -- two units under one code --------------------------------------------------------------------------------


@pytest.mark.gb("G061")
@pytest.mark.quirk(18)
@pytest.mark.parametrize(("edition", "transport"), [("2016", "udp"), ("2022", "tcp")])
async def test_two_units_with_one_code_are_shown_and_do_not_flap(
    gateway: GatewayProcess, edition: str, transport: str
) -> None:
    common: dict[str, Any] = {"edition": EDITIONS[edition], "transport": transport}
    serial = 7000 + int(edition)
    one = camera(gateway, serial, user_agent="IPC A", **common)
    two = camera(gateway, serial, user_agent="IPC B", host="127.0.0.2", **common)

    def conflict() -> dict[str, Any] | None:
        found = gateway.call("GET", "/api/device-conflicts")[1]["items"]
        return next((item for item in found if item["device_id"] == one.device_id), None)

    def shown() -> dict[str, Any]:
        return dict(gateway.call("GET", f"/api/devices/{one.device_id}")[1])

    async with running(one, two):
        await one.wait_registered(30)
        await eventually(lambda: (conflict() or {}).get("refused", 0) >= 2, 40, "a refused second unit")
        found = conflict()
        assert found is not None
        assert {found["first"]["user_agent"], found["second"]["user_agent"]} == {"IPC A", "IPC B"}
        kept, other = (one, two) if found["first"]["user_agent"] == "IPC A" else (two, one)
        assert found["kept"] == "first"
        address = shown()["address"].split(":")[1]
        beats = kept.registration.heartbeats
        await kept.wait(lambda: kept.registration.heartbeats > beats + 4, 30)
        assert shown()["address"].split(":")[1] == address == kept.options.host
        assert kept.registration.registered.is_set()
        assert kept.registration.missed_heartbeats <= 3  # only before the rule was settled
        assert not other.registration.registered.is_set()
        await kept.stop()  # the conflict ends by itself, and the other one gets in
        await other.wait_registered(30)
        await eventually(lambda: conflict() is None, 30)
        assert shown()["address"].split(":")[1] == other.options.host


# -- signed messages -----------------------------------------------------------------------------------------


@pytest.mark.gb("G278")
@pytest.mark.parametrize(
    ("edition", "transport", "algorithm", "form"),
    [
        ("2016", "udp", "MD5", "annex_h"),
        ("2016", "tcp", "SHA-1", "annex_h"),
        ("2022", "udp", "SHA-256", "annex_h"),
        ("2022", "tcp", "SM3", "annex_h"),
        ("2022", "udp", "SM3", "gb35114"),
    ],
)
async def test_messages_of_a_device_are_signed_and_checked(
    gateway: GatewayProcess, edition: str, transport: str, algorithm: str, form: str
) -> None:
    number = 7100 + 10 * ["MD5", "SHA-1", "SHA-256", "SM3"].index(algorithm) + (form == "gb35114")
    key = NoteKey(bytes(range(16)), algorithm, form)  # type: ignore[arg-type]
    one = camera(
        gateway, number, edition=EDITIONS[edition], transport=transport, note=key,
        heartbeat_s=0.3, answer_timeout_s=0.8,
    )  # fmt: skip
    path = f"/api/devices/{one.device_id}"
    assert (await call(gateway, "POST", "/api/devices", {"device_id": one.device_id}))[0] == 201
    rule = {"secret": key.secret.hex(), "encoding": "hex", "algorithm": algorithm, "form": form}
    status, answer = await call(gateway, "PUT", path + "/note", rule)
    assert (status, answer["algorithm"], "secret" in answer) == (200, algorithm, False)
    async with running(one):
        await one.wait_registered(30)

        def catalog() -> bool:
            return gateway.call("GET", f"/api/channels/{one.channel_id}")[0] == 200

        await eventually(catalog, 30, "the catalog in signed messages")
        beats = one.registration.heartbeats
        await one.wait(lambda: one.registration.heartbeats > beats + 2, 30)
        assert one.registration.missed_heartbeats == 0
        guard = one.guard
        assert guard is not None
        await one.wait(lambda: guard.verdicts.count(NoteVerdict.OK) > 5, 30)
        assert set(guard.verdicts) == {NoteVerdict.OK, NoteVerdict.EXEMPT}  # requests and answers of ours
        if algorithm not in ("MD5", "SM3") or form != "annex_h":
            return  # tests/sip/test_note.py has what does not verify with each of them

        wrong = metric(gateway, "gateway_note_checks_total", verdict="wrong")
        one.guard.key, one.guard.check = NoteKey(b"another key", algorithm, form), False  # type: ignore[arg-type]
        await one.wait(lambda: one.registration.missed_heartbeats >= 2, 30)  # dropped: no answer at all
        assert metric(gateway, "gateway_note_checks_total", verdict="wrong") > wrong
        missing = metric(gateway, "gateway_note_checks_total", verdict="missing")
        one.guard.key = None
        await eventually(
            lambda: metric(gateway, "gateway_note_checks_total", verdict="missing") > missing, 30
        )
        assert "cause=note_" in gateway.log()
        assert key.secret.hex() not in gateway.log()
        assert (await call(gateway, "DELETE", path + "/note"))[0] == 204
        lost = -1
        while one.registration.missed_heartbeats != lost:  # the last unanswered one may still be waited for
            lost, beats = one.registration.missed_heartbeats, one.registration.heartbeats
            await one.wait(lambda beats=beats: one.registration.heartbeats > beats + 3, 30)
        assert one.registration.registered.is_set()  # unsigned, and taken again


@pytest.mark.gb("G278")
@pytest.mark.parametrize(("edition", "transport"), [("2016", "udp"), ("2022", "tcp")])
async def test_messages_toward_an_upper_are_signed_and_its_own_checked(
    gateway: GatewayProcess, edition: str, transport: str
) -> None:
    key = NoteKey(b"between two counties", "SM3")
    above = upper(transport=transport, edition=EDITIONS[edition], note=key)
    async with running(above):
        body = platform(above, enabled=False)
        assert (await call(gateway, "POST", "/api/platforms", body))[0] == 201
        path = f"/api/platforms/{UPPER}"
        try:
            rule = {"secret": "between two counties", "algorithm": "SM3"}
            assert (await call(gateway, "PUT", path + "/note", rule))[0] == 200
            assert (await call(gateway, "PATCH", path, {"enabled": True}))[0] == 200
            await above.wait_registered(30)
            await above.wait(lambda: above.heartbeats, 30)
            assert isinstance(await above.query_catalog(), list)
            assert above.guard is not None
            assert NoteVerdict.OK in above.guard.verdicts
            assert set(above.guard.verdicts) <= {NoteVerdict.OK, NoteVerdict.EXEMPT}
            above.guard.key, above.guard.check = NoteKey(b"somebody else", "SM3"), False
            wrong = metric(gateway, "gateway_note_checks_total", verdict="wrong")
            where = Target.of_flow(f"sip:{SERVER_ID}@{DOMAIN}", above.lower.flow)
            with pytest.raises(TransactionTimeout):
                await above.endpoint.request("OPTIONS", where, to=where.uri, timeout_s=1.0)
            assert metric(gateway, "gateway_note_checks_total", verdict="wrong") > wrong
        finally:
            await call(gateway, "DELETE", path)
            assert (await call(gateway, "DELETE", path + "/note"))[0] in (204, 404)
