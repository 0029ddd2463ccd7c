"""Log-in, cookies, tokens, roles, forged requests and the audit log."""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from http_house import CAMERA, NVR, PASSWORD, House, house

from gateway.clock import ManualClock
from gateway.events import SecurityEvent
from gateway.services.access import (
    AccessConflict,
    AttemptLimiter,
    Role,
    TooManyAttempts,
    WeakPassword,
    digest_of,
)
from gateway.services.device_snapshots import UPLOAD_PATH

ORIGIN = {"Sec-Fetch-Site": "same-origin"}


@pytest.fixture
async def home(tmp_path: Path) -> AsyncIterator[House]:
    async with house(tmp_path) as built:
        yield built


async def test_nothing_but_health_and_the_log_in_page_is_open(home: House) -> None:
    stranger = await home.anonymous()
    uploads = {f"{UPLOAD_PATH}/{{job_id}}/{{ticket}}", f"{UPLOAD_PATH}/{{job_id}}/{{ticket}}/{{name}}"}
    open_routes = {"/health/live", "/health/ready", "/api/login", *uploads}
    for declared in home.http.server.routes:
        path = declared.spec.path.replace("{device_id}", NVR).replace("{channel_id}", CAMERA)
        path = path.replace("{platform_id}", NVR).replace("{username}", "x").replace("{token_id}", "x")
        path = path.replace("{viewer_id}", "x").replace("{session_id}", "x")
        path = path.replace("{form:mp4|flv|ts|m3u8}", "ts").replace("{month}", "2026-11")
        path = re.sub(r"\{\w+\}", "1", path)
        response = await stranger.ask(declared.spec.method, path, headers=ORIGIN)
        if declared.spec.path in uploads:
            assert response.status == 403, "only with the ticket of an order"
        if declared.spec.path in open_routes:
            assert response.status != 401 or declared.spec.path == "/api/login"
        else:
            assert response.status == 401, declared.spec.path
            assert (await response.json(content_type=None))["cause"] == "not_logged_in"


async def test_first_user_gets_a_random_password_told_once(home: House) -> None:
    access = home.http.access
    first = await access.ensure_first_user()
    assert first is not None
    assert len(first) >= 16
    assert await access.ensure_first_user() is None
    (user,) = await access.users()
    assert (user.username, user.role) == ("admin", Role.ADMINISTRATOR)
    assert first not in user.password_hash
    assert user.password_hash.startswith("$argon2id$")


async def test_log_in_sets_a_cookie_that_scripts_and_other_sites_do_not_get(home: House) -> None:
    await home.http.access.add_user("li", PASSWORD, Role.OPERATOR)
    browser = await home.anonymous()
    response = await browser.ask(
        "POST", "/api/login", json={"username": "li", "password": PASSWORD}, headers=ORIGIN
    )
    assert response.status == 200
    assert await response.json() == {"name": "li", "role": "operator", "via": "session"}
    cookie = response.headers["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    secret = cookie.split("=", 1)[1].split(";")[0]
    found = await home.store.session(digest_of(secret))
    assert found is not None
    assert secret not in repr(found)
    browser.client.session.cookie_jar.update_cookies({"gb_session": secret}, response.url)
    assert (await browser.json("GET", "/api/me"))["name"] == "li"
    await browser.json("POST", "/api/logout", 204, headers=ORIGIN)
    assert await home.store.session(digest_of(secret)) is None
    assert (await browser.ask("GET", "/api/me", headers={"Cookie": f"gb_session={secret}"})).status == 401


async def test_a_session_ends_with_its_lifetime_and_with_the_user(home: House) -> None:
    access = home.http.access
    await access.add_user("li", PASSWORD, Role.OPERATOR)
    secret, _, _ = await access.login("li", PASSWORD, "192.0.2.9")
    assert await access.by_session(secret) is not None
    home.clock.advance(43200)
    assert await access.by_session(secret) is None
    secret, _, _ = await access.login("li", PASSWORD, "192.0.2.9")
    await access.change_user("li", enabled=False)
    assert await access.by_session(secret) is None


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Sec-Fetch-Site": "same-origin"}, 204),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Origin": "http://elsewhere.example"}, 403),
        ({"Origin": "null"}, 403),
        ({}, 403),
        ({"X-Requested-By": "curl"}, 204),
    ],
)
async def test_a_foreign_page_cannot_use_the_cookie(
    home: House, headers: dict[str, str], status: int
) -> None:
    await home.http.access.add_user("li", PASSWORD, Role.OPERATOR)
    secret, _, _ = await home.http.access.login("li", PASSWORD, "192.0.2.9")
    browser = await home.anonymous()
    response = await browser.ask("POST", "/api/logout", headers={"Cookie": f"gb_session={secret}", **headers})
    assert response.status == status


async def test_own_origin_is_accepted(home: House) -> None:
    await home.http.access.add_user("li", PASSWORD, Role.OPERATOR)
    secret, _, _ = await home.http.access.login("li", PASSWORD, "192.0.2.9")
    browser = await home.anonymous()
    origin = f"http://{browser.client.host}:{browser.client.port}"
    response = await browser.ask(
        "POST", "/api/logout", headers={"Cookie": f"gb_session={secret}", "Origin": origin}
    )
    assert response.status == 204


@pytest.mark.gb("G277")
async def test_guessing_is_limited_per_source_and_told_as_event(home: House) -> None:
    seen: list[SecurityEvent] = []
    home.bus.subscribe(SecurityEvent, callback=seen.append)
    await home.http.access.add_user("li", PASSWORD, Role.OPERATOR)
    guesser = await home.anonymous()
    statuses = []
    for _ in range(12):
        response = await guesser.ask(
            "POST", "/api/login", json={"username": "li", "password": "wrong guess"}, headers=ORIGIN
        )
        statuses.append(response.status)
    assert statuses == [401] * 10 + [429] * 2
    assert int(response.headers["Retry-After"]) > 0
    good = await guesser.ask(
        "POST", "/api/login", json={"username": "li", "password": PASSWORD}, headers=ORIGIN
    )
    assert good.status == 429
    home.clock.advance(61)
    good = await guesser.ask(
        "POST", "/api/login", json={"username": "li", "password": PASSWORD}, headers=ORIGIN
    )
    assert good.status == 200
    assert [event.kind for event in seen] == ["login_failed"] * 10 + ["login_limited"] * 3
    exposition = (await home.metrics.exposition()).decode()
    assert 'gateway_security_events_total{kind="login_failed"} 10.0' in exposition


def test_limiter_counts_an_ipv6_network_as_one_source() -> None:
    limiter = AttemptLimiter(2, clock=ManualClock())
    limiter.attempt("2001:db8::1")
    limiter.attempt("2001:db8::2")
    with pytest.raises(TooManyAttempts):
        limiter.attempt("2001:db8::3")
    limiter.attempt("2001:db8:0:1::1")


async def test_unknown_and_disabled_users_get_the_same_answer_as_a_wrong_password(home: House) -> None:
    access = home.http.access
    await access.add_user("li", PASSWORD, Role.OPERATOR)
    await access.add_user("wang", PASSWORD, Role.OPERATOR)
    await access.change_user("wang", enabled=False)
    client = await home.anonymous()
    answers = []
    for name, password in (("li", "wrong guess"), ("nobody", PASSWORD), ("wang", PASSWORD)):
        answers.append(
            await client.json(
                "POST", "/api/login", 401, json={"username": name, "password": password}, headers=ORIGIN
            )
        )
    assert answers[0] == answers[1] == answers[2]


async def test_a_token_is_shown_once_and_kept_as_digest(home: House) -> None:
    admin = await home.as_role(Role.ADMINISTRATOR)
    made = await admin.json("POST", "/api/tokens", 201, json={"name": "probe", "role": "viewer"})
    assert made["token"].startswith("gbt_")
    listed = await admin.json("GET", "/api/tokens")
    assert made["token"] not in str(listed)
    program = await home.anonymous()
    program.headers = {"Authorization": f"Bearer {made['token']}"}
    assert await program.json("GET", "/api/me") == {"name": "token:probe", "role": "viewer", "via": "token"}
    await program.json("GET", "/api/users", 403)
    await admin.json("DELETE", f"/api/tokens/{made['token_id']}", 204)
    await program.json("GET", "/api/me", 401)


async def test_a_token_ends_with_its_lifetime(home: House) -> None:
    secret, _ = await home.http.access.add_token("probe", Role.VIEWER, "admin", 60)
    assert await home.http.access.by_token(secret, "192.0.2.9") is not None
    home.clock.advance(60)
    assert await home.http.access.by_token(secret, "192.0.2.9") is None


async def test_a_wrong_token_is_not_rescued_by_a_good_cookie(home: House) -> None:
    await home.http.access.add_user("li", PASSWORD, Role.OPERATOR)
    secret, _, _ = await home.http.access.login("li", PASSWORD, "192.0.2.9")
    client = await home.anonymous()
    headers = {"Cookie": f"gb_session={secret}", "Authorization": "Bearer gbt_wrong"}
    assert (await client.ask("GET", "/api/me", headers=headers)).status == 401


@pytest.mark.gb("G283")
async def test_roles_open_only_what_they_should_and_refusals_are_written_down(home: House) -> None:
    home.add_device()
    home.add_channel()
    viewer, operator = await home.as_role(Role.VIEWER), await home.as_role(Role.OPERATOR)
    admin = await home.as_role(Role.ADMINISTRATOR)
    await viewer.json("GET", "/api/devices")
    await viewer.json("POST", f"/api/channels/{CAMERA}/ptz", 403, json={"command": "stop"})
    await operator.json("POST", f"/api/channels/{CAMERA}/ptz", json={"command": "stop"})
    await operator.json("GET", "/api/users", 403)
    await operator.json("GET", "/api/audit", 403)
    await viewer.json("DELETE", f"/api/devices/{NVR}", 403)
    assert NVR in home.registry.devices
    await operator.json("DELETE", f"/api/devices/{NVR}", 204)
    lines = (await admin.json("GET", "/api/audit"))["items"]
    told = [(line["who"], line["action"], line["target"], line["result"]) for line in lines]
    assert told[:2] == [
        ("token:test operator", "device.remove", NVR, "ok"),
        ("token:test viewer", "device.remove", NVR, "role_too_low"),
    ]
    assert all(line["at"].endswith("Z") or "+00:00" in line["at"] for line in lines)


@pytest.mark.gb("G283")
async def test_every_changing_route_is_audited(home: House) -> None:
    """Log-in writes its own line; commands to devices and talks are written down by their services, with the outcome."""
    device, channel = "/api/devices/{device_id}", "/api/channels/{channel_id}"
    own = {"/api/login", "/api/logout", f"{channel}/whep/{{viewer_id}}"}
    own |= {f"{device}/{command}" for command in ("reboot", "sd-cards/format", "upgrades")}
    own |= {
        f"{channel}/{command}"
        for command in (
            "ptz", "key-frame", "alarm-reset", "device-recording", "guard", "drag-zoom", "home-position", "aim",
            "target-track",
        )
    }  # fmt: skip
    own |= {"/api/talks", "/api/talks/{talk_id}", "/api/talks/{talk_id}/audio", f"{channel}/whip"}
    # Who played what back is written when it is opened, not each time it is paused or moved.
    own |= {"/api/playback/{session_id}", "/api/playback/{session_id}/whep"}
    own.add("/api/playback/{session_id}/whep/{viewer_id}")
    # Devices upload, not users; the order for it was written down.
    own |= {f"{UPLOAD_PATH}/{{job_id}}/{{ticket}}", f"{UPLOAD_PATH}/{{job_id}}/{{ticket}}/{{name}}"}
    silent = [
        declared.spec.path
        for declared in home.http.server.routes
        if declared.spec.method not in ("GET", "HEAD") and not declared.spec.audited
    ]
    assert set(silent) == own


async def test_audit_pages_backwards(home: House) -> None:
    admin = await home.as_role(Role.ADMINISTRATOR)
    for number in range(5):
        home.http.audit.note("li", "ptz", f"{NVR}/{CAMERA}", "ok", f"{number}")
    await home.http.audit._queue.join()
    page = (await admin.json("GET", "/api/audit?limit=2"))["items"]
    assert [line["detail"] for line in page] == ["4", "3"]
    rest = (await admin.json("GET", f"/api/audit?before={page[-1]['audit_id']}"))["items"]
    assert [line["detail"] for line in rest] == ["2", "1", "0"]


async def test_users_are_managed_and_the_last_administrator_stays(home: House) -> None:
    admin = await home.as_role(Role.ADMINISTRATOR)
    await home.http.access.add_user("root", PASSWORD, Role.ADMINISTRATOR)
    made = await admin.json(
        "POST", "/api/users", 201, json={"username": "li", "password": PASSWORD, "role": "viewer"}
    )
    assert made["role"] == "viewer"
    assert "password" not in str(made)
    problem = await admin.json(
        "POST", "/api/users", 409, json={"username": "li", "password": PASSWORD, "role": "viewer"}
    )
    assert problem["cause"] == "conflict"
    problem = await admin.json(
        "POST", "/api/users", 422, json={"username": "wu", "password": "aaaaaaaaaa", "role": "viewer"}
    )
    assert problem["field"] == "password"
    assert (await admin.json("PATCH", "/api/users/li", json={"role": "operator"}))["role"] == "operator"
    await admin.json("PATCH", "/api/users/root", 409, json={"role": "viewer"})
    await admin.json("PATCH", "/api/users/root", 409, json={"enabled": False})
    await admin.json("DELETE", "/api/users/root", 409)
    await admin.json("DELETE", "/api/users/li", 204)
    await admin.json("DELETE", "/api/users/li", 404)
    names = [user["username"] for user in (await admin.json("GET", "/api/users"))["items"]]
    assert names == ["root"]


async def test_own_password_change_needs_the_old_one_and_ends_other_sessions(home: House) -> None:
    access = home.http.access
    await access.add_user("li", PASSWORD, Role.VIEWER)
    here, _, _ = await access.login("li", PASSWORD, "192.0.2.9")
    there, _, _ = await access.login("li", PASSWORD, "192.0.2.10")
    browser = await home.anonymous()
    browser.headers = {"Cookie": f"gb_session={here}", **ORIGIN}
    wrong = {"current": "wrong guess", "new": "another horse 2"}
    assert (await browser.json("POST", "/api/me/password", 422, json=wrong))["field"] == "current"
    await browser.json("POST", "/api/me/password", 204, json={"current": PASSWORD, "new": "another horse 2"})
    assert await access.by_session(here) is not None
    assert await access.by_session(there) is None
    await access.login("li", "another horse 2", "192.0.2.9")


async def test_weak_passwords_and_taken_names_are_refused(home: House) -> None:
    access = home.http.access
    for password in ("short", "12121212", "username1" * 40):
        with pytest.raises(WeakPassword):
            await access.add_user("li", password, Role.VIEWER)
    with pytest.raises(WeakPassword):
        await access.add_user("longername", "LongerName", Role.VIEWER)
    with pytest.raises(ValueError, match="user name"):
        await access.add_user("li;drop", PASSWORD, Role.VIEWER)
    await access.add_user("li", PASSWORD, Role.VIEWER)
    with pytest.raises(AccessConflict):
        await access.add_user("li", PASSWORD, Role.VIEWER)


@pytest.mark.gb("G282")
async def test_no_secret_and_no_user_address_reaches_the_log(
    home: House, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    client = await home.anonymous()
    admin = await home.as_role(Role.ADMINISTRATOR)
    await admin.json(
        "POST", "/api/users", 201, json={"username": "li", "password": PASSWORD, "role": "viewer"}
    )
    for password in (PASSWORD, "wrong guess 77"):
        await client.ask("POST", "/api/login", json={"username": "li", "password": password}, headers=ORIGIN)
    made = await admin.json("POST", "/api/tokens", 201, json={"name": "probe", "role": "viewer"})
    device = {"device_id": NVR, "password": "device pass 5"}
    await admin.json("POST", "/api/devices", 201, json=device)
    await admin.json("PATCH", f"/api/devices/{NVR}", 422, json={"password": 12345678})
    ours = [record for record in caplog.records if record.name.startswith("gateway")]
    assert ours
    text = "\n".join(record.getMessage() for record in ours) + str(await admin.json("GET", "/api/audit"))
    for secret in (PASSWORD, "wrong guess 77", made["token"], "device pass 5", "12345678", "127.0.0.1"):
        assert secret not in text


async def test_players_may_show_a_viewers_token_in_the_address(
    home: House, caplog: pytest.LogCaptureFixture
) -> None:
    home.add_device()
    home.add_channel()
    stranger = await home.anonymous()
    secret, token = await home.http.access.add_token("algorithm box", Role.VIEWER, "admin", None)
    with caplog.at_level(logging.DEBUG):
        for form in ("mp4", "flv", "ts", "m3u8"):
            response = await stranger.ask("GET", f"/api/channels/{CAMERA}/live.{form}?token={secret}")
            assert response.status == 307
            assert f"/live/s1.{form}?ticket=" in response.headers["Location"]
            assert secret not in response.headers["Location"]
    told = [
        one.getMessage() for one in caplog.records if not one.name.startswith("aiohttp")
    ]  # the test's own server
    assert secret not in "".join(told)
    entries = await (await home.as_role(Role.ADMINISTRATOR)).json("GET", "/api/audit")
    assert secret not in str(entries)
    assert any(entry["who"] == "token:algorithm box" for entry in entries["items"])
    await home.http.access.remove_token(token.token_id)
    assert (await stranger.ask("GET", f"/api/channels/{CAMERA}/live.ts?token={secret}")).status == 401


async def test_a_token_in_the_address_opens_nothing_else(home: House) -> None:
    home.add_device()
    home.add_channel()
    stranger = await home.anonymous()
    viewer, _ = await home.http.access.add_token("eyes", Role.VIEWER, "admin", None)
    operator, _ = await home.http.access.add_token("hands", Role.OPERATOR, "admin", None)
    for method, path in (
        ("POST", f"/api/channels/{CAMERA}/live"),
        ("GET", f"/api/channels/{CAMERA}/snapshot"),
        ("GET", "/api/devices"),
    ):
        assert (await stranger.ask(method, f"{path}?token={viewer}")).status == 401
    problem = await stranger.json("GET", f"/api/channels/{CAMERA}/live.ts?token={operator}", 403)
    assert problem["cause"] == "role_too_high"
    assert (await stranger.ask("GET", f"/api/channels/{CAMERA}/live.ts?token=gbt_wrong")).status == 401
    watched = await home.as_role(Role.VIEWER)  # the header goes first
    assert (await watched.ask("GET", f"/api/channels/{CAMERA}/live.ts?token=gbt_wrong")).status == 307
    assert home.sessions.asked == [(NVR, CAMERA, 0, None)]
