"""SIP over TLS through the whole gateway: devices and uppers with good and wrong certificates, renewal without restart (G279)."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme
from gateway_process import SERVER_ID, GatewayProcess, free_ports, gateway_process
from outside import eventually
from registration_peers import EDITIONS, camera, metric

from simulator.camera import Camera
from simulator.upper_platform import UpperPlatform
from sip.tls import Tls, client_context, server_context

UPPER = "41010000002000000001"
UPPER_PASSWORD = "Upper-Platform-Pw-03"


class Office:
    """Certificates made for this test: ours, a CA for devices, and one that nobody knows."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ca, self.other_ca = trustme.CA(), trustme.CA()
        self.ca_file, self.other_ca_file = folder / "ca.pem", folder / "other-ca.pem"
        self.ca.cert_pem.write_to_path(str(self.ca_file))
        self.other_ca.cert_pem.write_to_path(str(self.other_ca_file))
        self.certificate = folder / "gateway.pem"
        self.issue(self.ca, self.certificate, "127.0.0.1")

    def issue(self, ca: trustme.CA, path: Path, *names: str) -> Path:
        path.write_bytes(ca.issue_cert(*names).private_key_and_cert_chain_pem.bytes())
        return path

    def upper_tls(self, *names: str, ca: trustme.CA | None = None) -> Tls:
        """For an upper that shows a certificate for ``names``."""
        path = self.issue(
            ca or self.ca, self.folder / f"upper-{len(list(self.folder.iterdir()))}.pem", *names
        )
        return Tls(port=0, server=server_context(path, None), client=client_context(ca=self.ca_file))


@pytest.fixture(scope="module")
def office(tmp_path_factory: pytest.TempPathFactory) -> Office:
    return Office(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def tls_port() -> int:
    return free_ports(9)[8]


@pytest.fixture(scope="module")
def gateway(office: Office, tls_port: int) -> Iterator[GatewayProcess]:
    tls = {
        "enabled": True,
        "port": tls_port,
        "certificate": str(office.certificate),
        "client_ca": str(office.ca_file),
        "upper_ca": str(office.ca_file),
        "reload_interval_s": 0.3,
    }
    overrides: dict[str, Any] = {"sip": {"tls": tls}, "cascade": {"register_retry_s": 1}}
    with gateway_process(office.folder / "gateway", overrides) as running:
        yield running


def tls_camera(office: Office, port: int, serial: int, ca: Path | None = None, **options: Any) -> Camera:
    client = client_context(ca=ca or office.ca_file, certificate=options.pop("certificate", None))
    return camera(port, serial, transport="tls", tls=Tls(client=client), **options)


async def device(gateway: GatewayProcess, device_id: str) -> dict[str, Any]:
    _, answer = await asyncio.to_thread(gateway.call, "GET", f"/api/devices/{device_id}")
    return dict(answer)


@pytest.mark.gb("G279")
@pytest.mark.parametrize("edition", ["2016", "2022"])
async def test_a_device_registers_answers_and_plays_over_tls(
    gateway: GatewayProcess, office: Office, tls_port: int, edition: str
) -> None:
    serial = 9100 + int(edition)
    one = tls_camera(office, tls_port, serial, edition=EDITIONS[edition])
    await one.start()
    try:
        await one.wait_registered(30)
        path = f"/api/channels/{one.channel_id}"

        def online() -> bool:
            status, answer = gateway.call("GET", path)
            return status == 200 and bool(answer["online"])

        await eventually(online, 30, "the catalog over TLS")
        shown = await device(gateway, one.device_id)
        assert shown["address"].startswith("tls:127.0.0.1:")
        assert shown["edition"] == ("3.0" if edition == "2022" else "2.0")
        heard = one.registration.heartbeats
        await eventually(lambda: one.registration.heartbeats > heard + 1, 30, "heartbeats")
        assert one.registration.missed_heartbeats == 0
        status, live = await asyncio.to_thread(gateway.call, "POST", path + "/live", {})
        assert status == 200, live  # INVITE, 200, ACK and a picture
        assert one.live_calls
        assert one.endpoint.counts["connections"] == 1  # everything goes over the one it opened
    finally:
        await one.stop()


@pytest.mark.gb("G279")
async def test_a_device_that_does_not_trust_us_or_that_we_do_not_trust_stays_out(
    gateway: GatewayProcess, office: Office, tls_port: int
) -> None:
    foreign = office.issue(office.other_ca, office.folder / "foreign.pem", "device-9202")
    known = office.issue(office.ca, office.folder / "known.pem", "device-9203")
    distrusting = tls_camera(office, tls_port, 9201, ca=office.other_ca_file)
    distrusted = tls_camera(office, tls_port, 9202, certificate=foreign)
    trusted = tls_camera(office, tls_port, 9203, certificate=known)
    refused = metric(gateway, "gateway_tls_refusals_total", direction="in", cause="certificate")
    for one in (distrusting, distrusted, trusted):
        await one.start()
    try:
        await trusted.wait_registered(30)
        await eventually(
            lambda: min(distrusting.registration.failures, distrusted.registration.failures) > 1, 30
        )

        def counted() -> bool:
            now = metric(gateway, "gateway_tls_refusals_total", direction="in", cause="certificate")
            return now >= refused + 2

        await eventually(counted, 30, "two refused certificates")
        assert not distrusting.registration.registered.is_set()
        assert not distrusted.registration.registered.is_set()
        assert "event=tls_refused" in gateway.log() or "tls_refused" in gateway.log()
        status, _ = await asyncio.to_thread(gateway.call, "GET", f"/api/devices/{distrusted.device_id}")
        assert status == 404
    finally:
        for one in (distrusting, distrusted, trusted):
            await one.vanish()


def platform(upper: UpperPlatform, **values: Any) -> dict[str, Any]:
    return {
        "platform_id": upper.platform_id, "name": "upper", "host": "127.0.0.1", "port": upper.port,
        "transport": "tls", "password": UPPER_PASSWORD, "share_all": True, "heartbeat_interval_s": 5, **values,
    }  # fmt: skip


@pytest.mark.gb("G279")
@pytest.mark.parametrize("edition", ["2016", "2022"])
async def test_an_upper_is_called_by_tls_and_its_certificate_is_checked(
    gateway: GatewayProcess, office: Office, tls_port: int, edition: str
) -> None:
    upper = UpperPlatform(
        UPPER, lower_id=SERVER_ID, password=UPPER_PASSWORD, transport="tls",
        tls=office.upper_tls("sip.upper.example"), edition=EDITIONS[edition],
    )  # fmt: skip
    upper.rules.version = "3.0" if edition == "2022" else "2.0"
    await upper.start()
    path = f"/api/platforms/{UPPER}"

    def status() -> dict[str, Any]:
        return dict(gateway.call("GET", path)[1]["status"])

    try:
        code, answer = await asyncio.to_thread(gateway.call, "POST", "/api/platforms", platform(upper))
        assert code == 201, answer
        # The certificate is for a name, we called it by its address.
        await eventually(lambda: "TLS certificate refused" in status()["last_response"], 30, str(status()))
        assert not upper.registers
        assert metric(gateway, "gateway_tls_refusals_total", direction="out", cause="certificate") >= 1
        code, answer = await asyncio.to_thread(
            gateway.call, "PATCH", path, {"tls_server_name": "sip.upper.example"}
        )
        assert code == 200, answer
        await upper.wait_registered(30)
        register = upper.registers[-1]
        assert register.headers.get("Via").startswith(f"SIP/2.0/TLS 127.0.0.1:{tls_port};")
        assert register.contact is not None
        assert register.contact.uri.port == tls_port
        assert register.contact.uri.param("transport") == "tls"
        assert upper.lower.flow.transport == "tls"
        items = await upper.query_catalog()
        assert items
        await upper.wait(lambda: upper.heartbeats, 30)
        await eventually(lambda: status()["state"] == "online", 30)
    finally:
        await asyncio.to_thread(gateway.call, "DELETE", path)
        await upper.stop()


@pytest.mark.gb("G279")
async def test_a_renewed_certificate_holds_without_a_restart(
    gateway: GatewayProcess, office: Office, tls_port: int
) -> None:
    one = tls_camera(office, tls_port, 9301, ca=office.other_ca_file)
    await one.start()
    try:
        await eventually(lambda: one.registration.failures > 0, 30)
        good = office.certificate.read_bytes()
        office.certificate.write_bytes(b"half a certif")
        await eventually(lambda: "renewed certificate not usable" in gateway.log(), 30)
        office.issue(office.other_ca, office.certificate, "127.0.0.1")
        await one.wait_registered(30)
        office.certificate.write_bytes(good)
    finally:
        await one.vanish()
