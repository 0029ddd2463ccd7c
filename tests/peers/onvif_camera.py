"""A small ONVIF camera: device, media and PTZ services over SOAP with WS-Security digest, and WS-Discovery answers.

It keeps what it was told to do. Written from the ONVIF service descriptions, apart from the gateway's client.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from aiohttp import web
from lxml import etree

_ENVELOPE = """<?xml version="1.0" encoding="UTF-8"?>
<s:Envelope xmlns:s="http://www.w3.org/2003/05/soap-envelope" xmlns:tds="http://www.onvif.org/ver10/device/wsdl"
 xmlns:trt="http://www.onvif.org/ver10/media/wsdl" xmlns:tptz="http://www.onvif.org/ver20/ptz/wsdl"
 xmlns:tt="http://www.onvif.org/ver10/schema" xmlns:ter="http://www.onvif.org/ver10/error"><s:Body>{}</s:Body></s:Envelope>"""
_FAULT = """<s:Fault><s:Code><s:Value>s:Sender</s:Value><s:Subcode><s:Value>ter:{}</s:Value></s:Subcode></s:Code>
<s:Reason><s:Text xml:lang="en">{}</s:Text></s:Reason></s:Fault>"""
_OPEN = frozenset({"GetSystemDateAndTime", "GetServices", "GetCapabilities"})


@dataclass
class Profile:
    token: str
    width: int
    height: int
    url: str
    encoding: str = "H264"


@dataclass
class OnvifCamera:
    """``profiles`` name the RTSP addresses; ``done`` holds (operation, what was asked) in order."""

    profiles: list[Profile]
    username: str = "admin"
    password: str = "Onvif-Pw-1"
    ptz: bool = True
    silent: bool = False
    ahead_s: float | None = 3600.0
    """Its clock is so much ahead; log-ins by our time are refused then. None: it does not tell its time."""
    done: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    presets: dict[str, str] = field(default_factory=lambda: {"1": "door", "2": "gate"})
    port: int = 0
    _runner: web.AppRunner | None = None
    _ear: asyncio.DatagramTransport | None = None

    async def __aenter__(self) -> OnvifCamera:
        app = web.Application()
        app.router.add_post("/onvif/{service}", self._serve)
        self._runner = web.AppRunner(app, shutdown_timeout=0.2)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.port = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *error: object) -> None:
        if self._ear is not None:
            self._ear.close()
        if self._runner is not None:
            await self._runner.cleanup()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}/onvif/device_service"

    def operations(self) -> list[str]:
        return [name for name, _ in self.done]

    async def _serve(self, request: web.Request) -> web.Response:
        root = etree.fromstring(await request.read())
        body = root.find("{http://www.w3.org/2003/05/soap-envelope}Body")
        assert body is not None
        call = body[0]
        name = etree.QName(call).localname
        if self.silent:
            await asyncio.sleep(60)
        if name not in _OPEN and not self._authorised(root):
            return _soap(_FAULT.format("NotAuthorized", "Sender not authorized"), 400)
        answer = getattr(self, f"_{name}", None)
        if answer is None:
            return _soap(_FAULT.format("ActionNotSupported", "not supported"), 500)
        asked = {etree.QName(item).localname: item for item in call.iter() if item is not call}
        self.done.append(
            (name, {key: (item.text or "").strip() or dict(item.attrib) for key, item in asked.items()})
        )
        result = answer(self.done[-1][1])
        return _soap(result, 500 if result.startswith("<s:Fault") else 200)

    def _authorised(self, root: Any) -> bool:
        text = {
            etree.QName(item).localname: (item.text or "")
            for item in root.iter()
            if isinstance(item.tag, str)
        }
        if not {"Username", "Password", "Nonce", "Created"} <= text.keys():
            return False
        sum_ = hashlib.sha1(
            base64.b64decode(text["Nonce"]) + text["Created"].encode() + self.password.encode()
        )
        if self.ahead_s is not None:
            created = datetime.fromisoformat(text["Created"].replace("Z", "+00:00"))
            if abs((created - datetime.now(UTC)).total_seconds() - self.ahead_s) > 60:
                return False
        return (
            text["Username"] == self.username and text["Password"] == base64.b64encode(sum_.digest()).decode()
        )

    # --- device ----------------------------------------------------------------------------------------------------

    def _GetSystemDateAndTime(self, asked: Any) -> str:
        return (
            "<tds:GetSystemDateAndTimeResponse><tds:SystemDateAndTime><tt:DateTimeType>NTP</tt:DateTimeType>"
            f"<tt:DaylightSavings>false</tt:DaylightSavings>{self._clock()}</tds:SystemDateAndTime>"
            "</tds:GetSystemDateAndTimeResponse>"
        )

    def _clock(self) -> str:
        if self.ahead_s is None:
            return ""
        now = datetime.now(UTC) + timedelta(seconds=self.ahead_s)
        return (
            f"<tt:UTCDateTime><tt:Time><tt:Hour>{now.hour}</tt:Hour><tt:Minute>{now.minute}</tt:Minute>"
            f"<tt:Second>{now.second}</tt:Second></tt:Time><tt:Date><tt:Year>{now.year}</tt:Year>"
            f"<tt:Month>{now.month}</tt:Month><tt:Day>{now.day}</tt:Day></tt:Date></tt:UTCDateTime>"
        )

    def _GetServices(self, asked: Any) -> str:
        names = {"device": "ver10/device", "media": "ver10/media"} | (
            {"ptz": "ver20/ptz"} if self.ptz else {}
        )
        parts = [
            f"<tds:Service><tds:Namespace>http://www.onvif.org/{path}/wsdl</tds:Namespace>"
            f"<tds:XAddr>http://127.0.0.1:{self.port}/onvif/{name}_service</tds:XAddr>"
            "<tds:Version><tt:Major>2</tt:Major><tt:Minor>5</tt:Minor></tds:Version></tds:Service>"
            for name, path in names.items()
        ]
        return f"<tds:GetServicesResponse>{''.join(parts)}</tds:GetServicesResponse>"

    def _GetDeviceInformation(self, asked: Any) -> str:
        return (
            "<tds:GetDeviceInformationResponse><tds:Manufacturer>Example</tds:Manufacturer><tds:Model>Dome 4</tds:Model>"
            "<tds:FirmwareVersion>1.2</tds:FirmwareVersion><tds:SerialNumber>7</tds:SerialNumber>"
            "<tds:HardwareId>h</tds:HardwareId></tds:GetDeviceInformationResponse>"
        )

    # --- media -----------------------------------------------------------------------------------------------------

    def _GetProfiles(self, asked: Any) -> str:
        parts = [
            f'<trt:Profiles token="{p.token}" fixed="true"><tt:Name>{p.token}</tt:Name>'
            f'<tt:VideoEncoderConfiguration token="e{p.token}"><tt:Name>e</tt:Name><tt:UseCount>1</tt:UseCount>'
            f"<tt:Encoding>{p.encoding}</tt:Encoding><tt:Resolution><tt:Width>{p.width}</tt:Width>"
            f"<tt:Height>{p.height}</tt:Height></tt:Resolution><tt:Quality>5</tt:Quality>"
            "<tt:Multicast><tt:Address><tt:Type>IPv4</tt:Type></tt:Address><tt:Port>0</tt:Port><tt:TTL>1</tt:TTL>"
            "<tt:AutoStart>false</tt:AutoStart></tt:Multicast><tt:SessionTimeout>PT60S</tt:SessionTimeout>"
            "</tt:VideoEncoderConfiguration></trt:Profiles>"
            for p in self.profiles
        ]
        return f"<trt:GetProfilesResponse>{''.join(parts)}</trt:GetProfilesResponse>"

    def _GetStreamUri(self, asked: Any) -> str:
        url = next(p.url for p in self.profiles if p.token == asked["ProfileToken"])
        return (
            f"<trt:GetStreamUriResponse><trt:MediaUri><tt:Uri>{url}</tt:Uri>"
            "<tt:InvalidAfterConnect>false</tt:InvalidAfterConnect><tt:InvalidAfterReboot>false</tt:InvalidAfterReboot>"
            "<tt:Timeout>PT60S</tt:Timeout></trt:MediaUri></trt:GetStreamUriResponse>"
        )

    def _SetSynchronizationPoint(self, asked: Any) -> str:
        return "<trt:SetSynchronizationPointResponse/>"

    # --- PTZ -------------------------------------------------------------------------------------------------------

    def _ContinuousMove(self, asked: Any) -> str:
        return "<tptz:ContinuousMoveResponse/>"

    def _Stop(self, asked: Any) -> str:
        return "<tptz:StopResponse/>"

    def _GetPresets(self, asked: Any) -> str:
        parts = [
            f'<tptz:Preset token="{token}"><tt:Name>{name}</tt:Name></tptz:Preset>'
            for token, name in self.presets.items()
        ]
        return f"<tptz:GetPresetsResponse>{''.join(parts)}</tptz:GetPresetsResponse>"

    def _SetPreset(self, asked: Any) -> str:
        token = asked.get("PresetToken") or f"t{len(self.presets) + 1}"
        self.presets[token] = asked["PresetName"]
        return (
            f"<tptz:SetPresetResponse><tptz:PresetToken>{token}</tptz:PresetToken></tptz:SetPresetResponse>"
        )

    def _GotoPreset(self, asked: Any) -> str:
        if asked["PresetToken"] not in self.presets:
            return _FAULT.format("NoToken", "no such preset")
        return "<tptz:GotoPresetResponse/>"

    def _RemovePreset(self, asked: Any) -> str:
        del self.presets[asked["PresetToken"]]
        return "<tptz:RemovePresetResponse/>"

    # --- discovery -------------------------------------------------------------------------------------------------

    async def answer_discovery(self) -> tuple[str, int]:
        """Answer probes on a port of its own; returns where."""
        camera = self

        class Ear(asyncio.DatagramProtocol):
            def connection_made(self, transport: Any) -> None:
                self.transport = transport

            def datagram_received(self, data: bytes, addr: Any) -> None:
                probe = re.search(rb"MessageID>([^<]+)<", data)
                assert probe is not None
                assert b"NetworkVideoTransmitter" in data
                self.transport.sendto(b"no XML at all <", addr)
                self.transport.sendto(camera.match(probe[1].decode()).encode(), addr)

        loop = asyncio.get_running_loop()
        self._ear, _ = await loop.create_datagram_endpoint(Ear, local_addr=("127.0.0.1", 0))
        host, port = self._ear.get_extra_info("sockname")
        return str(host), int(port)

    def match(self, related: str) -> str:
        return f"""<?xml version="1.0"?><s:Envelope xmlns:s="http://www.w3.org/2003/05/soap-envelope"
 xmlns:a="http://schemas.xmlsoap.org/ws/2004/08/addressing" xmlns:d="http://schemas.xmlsoap.org/ws/2005/04/discovery">
<s:Header><a:RelatesTo>{related}</a:RelatesTo></s:Header><s:Body><d:ProbeMatches><d:ProbeMatch><a:EndpointReference>
<a:Address>urn:uuid:0001-{self.port}</a:Address></a:EndpointReference><d:Types>dn:NetworkVideoTransmitter</d:Types>
<d:Scopes>onvif://www.onvif.org/name/Dome%204 onvif://www.onvif.org/hardware/D4 onvif://www.onvif.org/location/gate</d:Scopes>
<d:XAddrs>http://[fe80::1]/onvif http://192.0.2.9:8000/onvif {self.address}</d:XAddrs><d:MetadataVersion>1</d:MetadataVersion>
</d:ProbeMatch></d:ProbeMatches></s:Body></s:Envelope>"""


def _soap(body: str, status: int = 200) -> web.Response:
    return web.Response(
        text=_ENVELOPE.format(body), status=status, content_type="application/soap+xml", charset="utf-8"
    )
