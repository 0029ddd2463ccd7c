"""Device profiles through the real gateway and its API: what simulated devices of both editions need over UDP and TCP is learned,
known of their make or ordered, shown with its origin, kept over kill -9, and obeyed on the wire."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from chain import Chain, Viewer, camera, chain
from gateway_process import PASSWORD, SERVER_ID
from outside import eventually

from simulator.camera import Camera, DeviceOptions, Faults
from simulator.device import SimulatedDevice
from simulator.nvr import Recorder
from sip.ids import make_code
from sip.manscdp import Edition

pytestmark = pytest.mark.asyncio(loop_scope="module")

V16, V22 = Edition.V2016, Edition.V2022
WAYS = [(V16, "udp"), (V16, "tcp"), (V22, "udp"), (V22, "tcp")]
OWN_VENDORS = """vendors:
  simulator:
    name: Simulated devices
    match: {manufacturer: ["Simulat*"]}
    notes: [{text: Made for trials and tests.}]
    models:
      - match: {model: ["SIM-OLD*"]}
        profile: {edition: "2.0", send_date: false}
"""


class Town:
    """The gateway and its devices; ``settings`` reads a device's profile by name."""

    def __init__(self, running: Chain) -> None:
        self.chain = running
        self.devices: list[SimulatedDevice] = []

    async def api(self, method: str, path: str, body: Any = None, status: int = 200) -> Any:
        found, answer = await asyncio.to_thread(self.chain.gateway.call, method, path, body)
        assert found == status, answer
        return answer

    async def add(self, device: SimulatedDevice, *channels: str) -> None:
        self.devices.append(device)
        await device.start()
        await device.wait_registered(30)
        for channel_id in channels:
            await eventually(
                lambda channel_id=channel_id: self._online(channel_id), 40, f"{channel_id} online"
            )

    def _online(self, channel_id: str) -> bool:
        status, answer = self.chain.gateway.call("GET", f"/api/channels/{channel_id}")
        return status == 200 and bool(answer["online"])

    async def profile(self, device: SimulatedDevice) -> dict[str, Any]:
        answer: dict[str, Any] = await self.api("GET", f"/api/devices/{device.device_id}/profile")
        answer["by_name"] = {setting["name"]: setting for setting in answer["settings"]}
        answer["seen"] = {seen["name"]: seen["count"] for seen in answer["observed"]}
        return answer

    async def setting(self, device: SimulatedDevice, name: str) -> tuple[Any, str]:
        found = (await self.profile(device))["by_name"][name]
        return found["value"], found["origin"]

    async def order(self, device: SimulatedDevice, status: int = 200, **values: Any) -> Any:
        return await self.api("PATCH", f"/api/devices/{device.device_id}/profile", values, status)

    async def offers(self, device: SimulatedDevice) -> list[str]:
        """SDP of the INVITEs that it was sent, in order."""
        path = f"/api/devices/{device.device_id}/messages?method=INVITE&limit=10000"
        items = (await self.api("GET", path))["items"]
        return [step["body"] for step in items if step["status"] is None and not step["repeated"]]

    async def play(self, channel_id: str, status: int = 200, **query: Any) -> Any:
        text = "&".join(f"{name}={value}" for name, value in query.items())
        return await self.api("POST", f"/api/channels/{channel_id}/live?{text}", {}, status)

    async def stop(self, device: SimulatedDevice) -> None:
        """End its sessions and wait until they are over."""
        for session in (await self.api("GET", "/api/sessions"))["items"]:
            if session["device_id"] == device.device_id:
                await self.api("DELETE", f"/api/sessions/{session['session_id']}", status=204)
        await eventually(lambda: not device.calls.running, 30, "calls ended")


def ways(offers: Sequence[str]) -> list[str]:
    """The transport of each offer, in our words."""
    found = []
    for offer in offers:
        passive = "tcp_passive" if "a=setup:passive" in offer else "tcp_active"
        found.append(passive if "TCP/RTP/AVP" in offer else "udp")
    return found


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def town(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Town]:
    folder: Path = tmp_path_factory.mktemp("profiles")
    own = folder / "own.yaml"
    own.write_text(OWN_VENDORS, encoding="utf-8")
    overrides = {
        "profiles": {"vendors_file": str(own)},
        "media": {"invite_timeout_s": 10.0, "first_picture_timeout_s": 5.0, "idle_grace_s": 60},
    }
    async with chain(folder, 0, overrides=overrides) as running:
        made = Town(running)
        try:
            yield made
        finally:
            await asyncio.gather(*(device.stop() for device in made.devices), return_exceptions=True)


def shy_camera(
    town: Town, serial: int, way: tuple[Edition, str], faults: Faults | None = None, **options: Any
) -> Camera:
    chosen = DeviceOptions(edition=way[0], transport=way[1], **options)  # type: ignore[arg-type]
    return camera(town.chain.gateway, serial, chosen, faults=faults)


@pytest.mark.quirk(30)
@pytest.mark.parametrize(
    ("serial", "way"), list(enumerate(WAYS)), ids=[f"{way[0].name}-{way[1]}" for way in WAYS]
)
async def test_the_way_that_worked_is_learned_and_forgotten(
    town: Town, serial: int, way: tuple[Edition, str]
) -> None:
    """A camera that refuses TCP media is asked by UDP first the next time, until somebody says: forget."""
    device = shy_camera(town, 100 + serial, way, media="udp", model=f"UDP-{serial}")
    await town.add(device, device.channel_id)
    assert await town.setting(device, "media_transport") == (None, "default")
    await town.play(device.channel_id)
    assert await town.setting(device, "media_transport") == ("udp", "learned")
    await town.stop(device)
    await town.play(device.channel_id)
    assert ways(await town.offers(device)) == ["tcp_passive", "udp", "udp"]
    await town.stop(device)
    path = f"/api/devices/{device.device_id}/profile/forget"
    answer = await town.api("POST", path, {"settings": ["media_transport"]})
    found = next(setting for setting in answer["settings"] if setting["name"] == "media_transport")
    assert (found["value"], found["origin"], found["learned"]) == (None, "default", None)
    await town.play(device.channel_id)
    assert ways(await town.offers(device))[3:] == ["tcp_passive", "udp"]
    await town.stop(device)


async def test_an_operators_word_holds_until_it_is_taken_back(town: Town) -> None:
    device = shy_camera(town, 110, (V22, "udp"))
    await town.add(device, device.channel_id)
    await town.order(device, sdp_form="plain", media_transport="udp", media_ladder=["udp"])
    assert await town.setting(device, "sdp_form") == ("plain", "operator")
    await town.play(device.channel_id)
    (offer,) = await town.offers(device)
    assert "\ny=" not in offer.replace("\r", "")
    assert "\nf=" not in offer.replace("\r", "")
    await town.stop(device)
    await town.order(device, sdp_form=None)
    assert await town.setting(device, "sdp_form") == ("standard", "default")
    await town.play(device.channel_id)
    assert "\ny=0" in (await town.offers(device))[-1].replace("\r", "")
    await town.stop(device)
    audit = await town.api("GET", "/api/audit?limit=100")
    told = [entry["detail"] for entry in audit["items"] if entry["action"] == "device.profile"]
    assert "sdp_form=plain" in " ".join(told)


async def test_values_out_of_range_are_refused_by_name(town: Town) -> None:
    device = town.devices[0]
    for values, field in (
        ({"sdp_form": "short"}, "sdp_form"),
        ({"max_streams": 0}, "max_streams"),
        ({"media_ladder": ["udp", "udp"]}, "media_ladder"),
        ({"media_ladder": []}, "media_ladder"),
        ({"colour": "red"}, "colour"),
        ({"edition": "4.0"}, "edition"),
    ):
        answer = await town.order(device, 422, **values)
        assert answer["field"] == field
    path = f"/api/devices/{device.device_id}/profile/forget"
    assert (await town.api("POST", path, {"settings": ["colour"]}, 422))["field"] == "settings"
    await town.api("GET", "/api/devices/41018300001329999999/profile", status=404)


@pytest.mark.parametrize("edition", [V16, V22], ids=["V2016", "V2022"])
async def test_what_is_known_of_a_make_and_of_a_model(town: Town, edition: Edition) -> None:
    """The shipped data name Dahua's word for the sub stream; the user's own file knows an old simulator."""
    way = (edition, "tcp")
    serial = 120 if edition is V16 else 125
    dahua = shy_camera(town, serial, way, manufacturer="DAHUA", model="IPC-1")
    old = shy_camera(town, serial + 1, way, manufacturer="Simulator", model="SIM-OLD-2")
    await town.add(dahua, dahua.channel_id)
    await town.add(old, old.channel_id)

    async def known(device: SimulatedDevice) -> dict[str, Any]:
        async with asyncio.timeout(40):
            while not (found := await town.profile(device))["vendor"]:
                await asyncio.sleep(0.2)
        return found

    found = await known(dahua)
    assert (found["vendor"], found["by_name"]["stream_number_dialect"]["origin"]) == ("dahua", "vendor")
    assert any(note["quirk"] == 27 for note in found["notes"])
    await town.play(dahua.channel_id, stream=1)
    assert "a=streamprofile:1" in (await town.offers(dahua))[-1]
    await town.stop(dahua)
    await town.order(dahua, stream_number_dialect="streamMode")
    await town.play(dahua.channel_id, stream=1)
    assert "a=streamMode:1" in (await town.offers(dahua))[-1]
    await town.stop(dahua)

    found = await known(old)
    assert (found["vendor"], found["vendor_name"]) == ("simulator", "Simulated devices")
    assert (found["edition"], found["said_edition"]) == ("2.0", "3.0" if edition is V22 else "2.0")
    assert found["by_name"]["edition"]["origin"] == "vendor"
    old.registration.again()
    registers = f"/api/devices/{old.device_id}/messages?method=REGISTER"

    async def answers() -> list[dict[str, str]]:
        items = (await town.api("GET", registers))["items"]
        return [dict(step["headers"]) for step in items if step["status"] == 200]

    async with asyncio.timeout(30):
        while len(told := await answers()) < 2:
            await asyncio.sleep(0.1)
    assert "Date" in told[0]  # nobody knew the model then
    assert "Date" not in told[-1]
    await town.order(old, edition="3.0")
    assert (await town.profile(old))["edition"] == "3.0"
    await town.order(old, edition=None)
    assert (await town.profile(old))["edition"] == "2.0"


@pytest.mark.quirk(1)
async def test_the_character_set_is_learned(town: Town) -> None:
    device = shy_camera(town, 130, (V16, "udp"), charset="UTF-8")
    device.channels[device.channel_id].name = "新密东门"
    await town.add(device, device.channel_id)
    assert await town.setting(device, "charset") == ("UTF-8", "learned")
    await town.api("POST", f"/api/devices/{device.device_id}/catalog", {}, 202)

    async def label() -> str:
        path = f"/api/devices/{device.device_id}/messages?cmd_type=Catalog&limit=10000"
        asked = [s for s in (await town.api("GET", path))["items"] if s["command"] == "Query Catalog"]
        return str(asked[-1]["label"])

    async with asyncio.timeout(30):
        while await label() != "UTF-8":
            await asyncio.sleep(0.5)  # it may have joined a query that was already under way
            await town.api("POST", f"/api/devices/{device.device_id}/catalog", {}, 202)


@pytest.mark.quirk(27)
async def test_a_foreign_ssrc_is_learned_or_refused(town: Town) -> None:
    """RTP with another SSRC than agreed plays and is noted; with the policy ``strict`` there is no picture."""
    faults = Faults(rtp_ssrc=7_777_777, sdp={"other_y"})
    device = shy_camera(town, 140, (V22, "udp"), faults, media="udp")
    await town.add(device, device.channel_id)
    await town.order(device, media_transport="udp", media_ladder=["udp"])
    await town.play(device.channel_id)
    async with asyncio.timeout(30):
        while not {"rtp_ssrc", "answer_ssrc"} <= (await town.profile(device))["seen"].keys():
            await asyncio.sleep(0.2)
    await town.stop(device)
    await town.order(device, ssrc="strict")
    answer = await town.play(device.channel_id, 504)
    assert answer["cause"] in ("no_stream", "no_picture")
    await town.order(device, ssrc=None)
    faults.rtp_ssrc = None
    await town.play(device.channel_id)
    await town.stop(device)


@pytest.mark.quirk(34)
@pytest.mark.gb("G193")
@pytest.mark.parametrize("way", [(V16, "udp"), (V22, "tcp")], ids=["V2016-udp", "V2022-tcp"])
async def test_the_limit_of_a_recorder(town: Town, way: tuple[Edition, str]) -> None:
    """One stream at a time: refused with the reason while somebody watches, given when nobody does any more."""
    serial = 150 if way[0] is V16 else 160
    recorder = Recorder(
        make_code("410183", 118, serial),
        2,
        server=("127.0.0.1", town.chain.gateway.sip_port),
        server_id=SERVER_ID,
        password=PASSWORD,
        options=DeviceOptions(edition=way[0], transport=way[1], max_calls=1),  # type: ignore[arg-type]
    )
    first, second = [code for code, channel in recorder.channels.items() if channel.has_pictures][:2]
    await town.add(recorder, first, second)
    viewer = await asyncio.to_thread(Viewer, town.chain.gateway, first)
    await viewer.pictures(1, 30)
    refused = await town.play(second, 409)
    assert (refused["cause"], "device busy" in refused["detail"]) == ("busy", True)
    found = await town.profile(recorder)
    assert (found["by_name"]["max_streams"]["value"], found["by_name"]["max_streams"]["origin"]) == (
        1,
        "learned",
    )
    assert found["seen"]["busy"] >= 1

    await town.order(recorder, max_streams=1)
    offers = len(await town.offers(recorder))
    refused = await town.play(second, 409)
    assert refused["cause"] == "busy"
    assert len(await town.offers(recorder)) == offers  # it was not even asked

    await viewer.close()
    async with asyncio.timeout(40):
        while (await asyncio.to_thread(town.chain.gateway.call, "POST", f"/api/channels/{second}/live", {}))[
            0
        ] != 200:
            await asyncio.sleep(0.5)
    assert [call.channel_id for call in recorder.calls.running] == [second]
    await town.stop(recorder)


async def test_what_models_needed(town: Town) -> None:
    overview = await town.api("GET", "/api/profiles")
    vendors = {vendor["vendor"]: vendor for vendor in overview["vendors"]}
    assert {
        "hikvision",
        "dahua",
        "uniview",
        "huawei",
        "tiandy",
        "keda",
        "tplink",
        "simulator",
    } <= vendors.keys()
    assert vendors["simulator"]["rules"][1]["settings"] == {"edition": "2.0", "send_date": False}
    device = shy_camera(town, 170, (V16, "udp"), media="udp", model="UDP-SUM")
    await town.add(device, device.channel_id)
    await town.play(device.channel_id)
    await town.stop(device)

    async def model() -> dict[str, Any]:
        models = (await town.api("GET", "/api/profiles"))["models"]
        return next((one for one in models if one["model"] == "UDP-SUM"), {})

    async with asyncio.timeout(40):
        while not (found := await model()):
            await asyncio.sleep(0.2)
    assert (found["vendor"], found["devices"], found["learned"]) == (
        "simulator",
        1,
        {"media_transport": {"udp": 1}},
    )
    wish = {"manufacturer": "Simulator", "model": "UDP-SUM"}
    assert await town.api("POST", "/api/profiles/forget", wish) == {"devices": 1}
    assert (await model())["learned"] == {}


async def test_a_model_teaches_its_next_device(town: Town) -> None:
    """Three cameras of a model had to be asked by UDP: the fourth is asked so first, also in the gateway's next life. An
    operator's word on the model goes before that."""

    async def of_model(device: SimulatedDevice, name: str, origin: str) -> Any:
        async with asyncio.timeout(40):
            while (found := await town.setting(device, name))[1] != origin:
                await asyncio.sleep(0.2)
        return found[0]

    async def known() -> dict[str, Any]:
        models = (await town.api("GET", "/api/profiles"))["models"]
        found = next((one for one in models if one["model"] == "UDP-LINE"), None)
        return {setting["name"]: setting for setting in found["settings"]} if found else {}

    for number, way in enumerate((WAYS[0], WAYS[1], WAYS[3])):
        teacher = shy_camera(town, 190 + number, way, media="udp", model="UDP-LINE")
        await town.add(teacher, teacher.channel_id)
        await town.play(teacher.channel_id)
        await town.stop(teacher)
    async with asyncio.timeout(40):  # until the last one has said what it is
        while not (learned := await known()):
            await asyncio.sleep(0.2)
    found = learned["media_transport"]
    assert (found["value"], found["origin"], found["devices"]) == ("udp", "learned", 3)

    fourth = shy_camera(town, 194, WAYS[2], media="udp", model="UDP-LINE")
    await town.add(fourth, fourth.channel_id)
    assert await of_model(fourth, "media_transport", "model") == "udp"
    await town.play(fourth.channel_id)
    assert ways(await town.offers(fourth)) == ["udp"]
    await town.stop(fourth)
    assert await town.setting(fourth, "media_transport") == ("udp", "model")

    model = {"manufacturer": "Simulator", "model": "UDP-LINE"}
    refused = await town.api(
        "PATCH", "/api/profiles/models", model | {"settings": {"sdp_form": "short"}}, 422
    )
    assert refused["field"] == "settings.sdp_form"
    order = {"media_transport": "tcp_active", "sdp_form": "plain"}
    told = await town.api("PATCH", "/api/profiles/models", model | {"settings": order})
    found = {setting["name"]: setting for setting in told["settings"]}["media_transport"]
    assert (found["value"], found["origin"], found["learned"]) == ("tcp_active", "operator", "udp")
    assert await town.setting(fourth, "media_transport") == ("tcp_active", "model")
    assert await town.setting(teacher, "media_transport") == ("udp", "learned")
    await town.api("PATCH", "/api/profiles/models", model | {"settings": {"media_transport": None}})
    entries = (await town.api("GET", "/api/audit?limit=100"))["items"]
    audited = [entry for entry in entries if entry["action"] == "profiles.model"]
    assert any("media_transport=tcp_active" in entry["detail"] for entry in audited)

    before = await known()
    await asyncio.sleep(1.0)  # flush_interval_s is 0.2 here
    town.chain.gateway.process.send_signal(signal.SIGKILL)
    await asyncio.to_thread(town.chain.gateway.process.wait, 20)
    await town.chain.restart()
    assert await known() == before
    assert await town.setting(fourth, "sdp_form") == ("plain", "model")
    await eventually(lambda: town._online(fourth.channel_id), 40, "online again")
    await town.play(fourth.channel_id)
    (offer,) = await town.offers(fourth)  # of this life
    assert ways([offer]) == ["udp"]
    assert "\ny=" not in offer.replace("\r", "")
    await town.stop(fourth)
    await town.api("POST", "/api/profiles/forget", model)
    assert (await known()).keys() == {"sdp_form"}
    assert await town.setting(fourth, "media_transport") == (None, "default")


async def test_profiles_survive_a_kill(town: Town) -> None:
    device = shy_camera(town, 180, (V22, "udp"), media="udp")
    await town.add(device, device.channel_id)
    await town.play(device.channel_id)
    await town.stop(device)
    await town.order(device, talk_mode="broadcast", record_query_hours=6)
    before = await town.profile(device)
    assert before["by_name"]["media_transport"]["origin"] == "learned"
    await asyncio.sleep(1.0)  # flush_interval_s is 0.2 here
    town.chain.gateway.process.send_signal(signal.SIGKILL)
    await asyncio.to_thread(town.chain.gateway.process.wait, 20)
    await town.chain.restart()
    after = await town.profile(device)
    for name in ("media_transport", "talk_mode", "record_query_hours", "sdp_form"):
        assert after["by_name"][name] == before["by_name"][name]
    assert after["said_edition"] == "3.0"
    await eventually(lambda: town._online(device.channel_id), 40, "online again")
    await town.play(device.channel_id)
    assert ways(await town.offers(device)) == ["udp"]
    await town.stop(device)
