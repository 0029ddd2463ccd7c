"""A real Chromium speaks: its (fake) microphone's tone reaches a simulated camera as G.711A, and it hears the camera."""

from __future__ import annotations

import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from live_house import until
from studio import BROWSER_ARGUMENTS
from talk_house import TalkHouse, talk_house

from gateway.services.access import Role
from simulator.audio import AudioOptions
from simulator.camera import Camera

pytestmark = [
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.needs("chromium"),
    pytest.mark.slow,
    pytest.mark.timeout(240),
]
TONE_HZ = 700
SPEAK = """async ([channel, token, duplex]) => {
  const asked = {echoCancellation: false, noiseSuppression: false, autoGainControl: false};
  const media = await navigator.mediaDevices.getUserMedia({audio: asked});
  const peer = window.peer = new RTCPeerConnection();
  peer.ontrack = (event) => {
    window.ear = new Audio();
    window.ear.srcObject = new MediaStream([event.track]);
    window.ear.play();
  };
  const way = peer.addTransceiver(media.getAudioTracks()[0],
    {direction: duplex === "full" ? "sendrecv" : "sendonly"});
  way.setCodecPreferences(RTCRtpReceiver.getCapabilities("audio").codecs.filter(
    (codec) => codec.mimeType === "audio/PCMA"));
  await peer.setLocalDescription(await peer.createOffer());
  const answer = await fetch(`/api/channels/${channel}/whip?duplex=${duplex}`, {
    method: "POST", body: peer.localDescription.sdp,
    headers: {"Content-Type": "application/sdp", "Authorization": `Bearer ${token}`}});
  if (answer.status !== 201) { throw new Error(await answer.text()); }
  await peer.setRemoteDescription({type: "answer", sdp: await answer.text()});
  return answer.headers.get("Location");
}"""
HEARD = """async () => {
  let found = {packets: 0, energy: 0};
  (await window.peer.getStats()).forEach((report) => {
    if (report.type === "inbound-rtp" && report.kind === "audio") {
      found = {packets: report.packetsReceived, energy: report.totalAudioEnergy || 0};
    }
  });
  return found;
}"""


def write_tone(path: Path) -> None:
    """Ten seconds of a sine, 48 kHz."""
    time = np.arange(48_000 * 10) / 48_000
    samples = (np.sin(2 * np.pi * TONE_HZ * time) * 12_000).astype("<i2")
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 48_000, 0, "NONE", ""))
        file.writeframes(samples.tobytes())


def decoded(sound: bytes) -> np.ndarray[Any, Any]:
    """A-law to samples (ITU-T G.711)."""
    code = np.frombuffer(sound, dtype=np.uint8) ^ 0x55
    exponent, mantissa = (code & 0x70) >> 4, (code & 0x0F).astype(np.int32)
    low = (mantissa << 4) + 8
    value = np.where(exponent == 0, low, (low + 256) << np.maximum(exponent.astype(np.int32) - 1, 0))
    return np.where(code & 0x80, value, -value)


def loudest_hz(sound: bytes) -> float:
    samples = decoded(sound).astype(float)
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return float(np.argmax(spectrum[5:]) + 5) * 8000 / len(samples)


async def speak_in_the_console(house: TalkHouse, device: Camera, page: Any) -> None:
    """The button of a live view: press, be heard, press again."""
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.set_default_timeout(45_000)
    await page.goto(f"http://127.0.0.1:{house.gateway.http.server.port}/")
    await page.fill("#login-name", "admin")
    await page.fill("#login-password", house.gateway.first_password or "")
    await page.click("button[type=submit]")
    await page.locator(".tree-row.playable").first.click()
    await page.wait_for_selector(".tile[data-state=playing]")
    before = len(device.audio.heard)
    button = page.locator(
        ".tile.picked .tile-buttons [aria-label=对讲], .tile.picked .tile-buttons [aria-label=Speak]"
    )
    await button.click()
    await until(lambda: len(device.audio.heard) > before and len(device.audio.heard[-1].sound) >= 16_000, 60)
    assert np.abs(decoded(bytes(device.audio.heard[-1].sound[8_000:16_000]))).mean() > 300
    await page.locator(".tile.picked .speaking").click()
    await until(lambda: device.audio.heard[-1].ended == "remote_bye", 40)
    assert not faults
    await page.close()
    await until(lambda: not house.gateway.sessions.list(), 60)


@pytest.mark.gb("G250", "G255")
async def test_the_microphone_of_a_browser_is_heard_at_the_camera(tmp_path: Path) -> None:
    playwright = pytest.importorskip("playwright.async_api")
    write_tone(tmp_path / "tone.wav")
    arguments = [
        *BROWSER_ARGUMENTS,
        "--use-fake-ui-for-media-stream",
        "--use-fake-device-for-media-stream",
        f"--use-file-for-fake-audio-capture={tmp_path / 'tone.wav'}",
    ]
    async with talk_house(tmp_path / "data") as house, playwright.async_playwright() as driver:
        browser = await driver.chromium.launch(executable_path="/usr/bin/chromium", args=arguments)
        device = await house.camera(audio=AudioOptions(media="tcp_active"))
        try:
            page = await browser.new_page()
            await page.goto(f"http://127.0.0.1:{house.gateway.http.server.port}/")
            asked = [device.channel_id, house.tokens[Role.OPERATOR], "full"]
            talk_id = (await page.evaluate(SPEAK, asked)).rsplit("/", 1)[1]
            await house.reach(talk_id, "talking")
            await until(lambda: device.audio.heard and len(device.audio.heard[-1].sound) >= 16_000, 60)
            hearing = device.audio.heard[-1]
            assert {(p.payload_type, len(p.payload)) for p in hearing.packets} == {(8, 160)}
            sound = bytes(hearing.sound[8_000:16_000])
            assert np.abs(decoded(sound)).mean() > 1_000
            assert loudest_hz(sound) == pytest.approx(TONE_HZ, abs=20)
            for _ in range(100):
                heard = await page.evaluate(HEARD)
                if heard["packets"] > 50 and heard["energy"] > 0:
                    break
                await page.wait_for_timeout(100)
            assert heard["packets"] > 50
            assert heard["energy"] > 0
            await page.close()
            await house.reach(talk_id, "ended")
            await until(lambda: hearing.ended == "remote_bye", 40)
            await speak_in_the_console(house, device, await browser.new_page())
        finally:
            await browser.close()
            await device.stop()
        await house.assert_nothing_left()
