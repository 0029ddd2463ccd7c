"""Finds ONVIF devices on the local network: one WS-Discovery probe by multicast, the answers of some seconds.

Web Services Dynamic Discovery (April 2005) 5; ONVIF Core Specification 7.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import uuid
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from lxml import etree

log = logging.getLogger(__name__)

GROUP = ("239.255.255.250", 3702)
MOST_DEVICES = 1000
MOST_BYTES = 32 * 1024
REPEAT_S = 0.5
_DISCOVERY = "http://schemas.xmlsoap.org/ws/2005/04/discovery"
_ADDRESSING = "http://schemas.xmlsoap.org/ws/2004/08/addressing"
_ADDRESSES = f"{{{_DISCOVERY}}}XAddrs"
_SCOPES = f"{{{_DISCOVERY}}}Scopes"
_ENDPOINT = f".//{{{_ADDRESSING}}}Address"
_PROBE = """<?xml version="1.0" encoding="UTF-8"?>
<e:Envelope xmlns:e="http://www.w3.org/2003/05/soap-envelope" xmlns:w="{addressing}" xmlns:d="{discovery}"
 xmlns:dn="http://www.onvif.org/ver10/network/wsdl"><e:Header><w:MessageID>uuid:{id}</w:MessageID>
<w:To e:mustUnderstand="true">urn:schemas-xmlsoap-org:ws:2005:04:discovery</w:To>
<w:Action e:mustUnderstand="true">{discovery}/Probe</w:Action></e:Header>
<e:Body><d:Probe><d:Types>dn:NetworkVideoTransmitter</d:Types></d:Probe></e:Body></e:Envelope>"""


@dataclass(frozen=True, slots=True)
class FoundDevice:
    """One answer. ``source`` is the address it came from; ``host`` and ``port`` are those of its device service."""

    endpoint: str
    host: str
    port: int
    address: str
    name: str
    hardware: str
    location: str
    source: str


def parse_matches(data: bytes, source: str) -> list[FoundDevice]:
    """The devices in one ProbeMatches message; none for anything else."""
    parser = etree.XMLParser(resolve_entities=False, no_network=True, huge_tree=False)
    try:
        root = etree.fromstring(data[:MOST_BYTES], parser)
    except (etree.XMLSyntaxError, ValueError):
        return []
    found = []
    for match in root.iter(f"{{{_DISCOVERY}}}ProbeMatch"):
        addresses = (match.findtext(_ADDRESSES) or "").split()
        device = _device(match, addresses, source)
        if device is not None:
            found.append(device)
    return found


def _device(match: etree._Element, addresses: list[str], source: str) -> FoundDevice | None:
    """Of several addresses the one that the answer came from, else the first that is one."""
    usable = []
    for address in addresses:
        try:
            parts = urlsplit(address)
            host, port = parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)
        except ValueError:
            continue
        if parts.scheme in ("http", "https") and host:
            usable.append((host != source, host, port, address))
    if not usable:
        return None
    _, host, port, address = min(usable, key=lambda entry: entry[0])
    scopes = (match.findtext(_SCOPES) or "").split()
    return FoundDevice(
        endpoint=(match.findtext(_ENDPOINT) or "")[:128],
        host=host,
        port=port,
        address=address[:256],
        name=_scope(scopes, "name"),
        hardware=_scope(scopes, "hardware"),
        location=_scope(scopes, "location"),
        source=source,
    )


def _scope(scopes: list[str], kind: str) -> str:
    prefix = f"onvif://www.onvif.org/{kind}/"
    return next((unquote(scope[len(prefix) :])[:128] for scope in scopes if scope.startswith(prefix)), "")


class _Ear(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self.found: dict[str, FoundDevice] = {}

    def datagram_received(self, data: bytes, addr: tuple[str | object, int]) -> None:
        if len(self.found) >= MOST_DEVICES:
            return
        for device in parse_matches(data, str(addr[0])):
            self.found.setdefault(device.endpoint or device.address, device)

    def error_received(self, exc: Exception) -> None:
        log.info("discovery answer lost error=%s", exc)


async def discover(
    seconds: float, *, interface: str = "", group: tuple[str, int] = GROUP
) -> list[FoundDevice]:
    """Ask and listen for ``seconds``; devices in the order of their addresses.

    ``interface`` is the local address of the network to ask on; empty: that of the default route. OSError when
    there is no such network.
    """
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        sock.setblocking(False)
        sock.bind((interface, 0))
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 1)
        if interface:
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(interface))
        transport, ear = await asyncio.get_running_loop().create_datagram_endpoint(_Ear, sock=sock)
    except OSError:
        sock.close()
        raise
    try:
        probe = _PROBE.format(addressing=_ADDRESSING, discovery=_DISCOVERY, id=uuid.uuid4()).encode()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                for _ in range(2):  # datagrams get lost
                    transport.sendto(probe, group)
                    await asyncio.sleep(REPEAT_S)
                await asyncio.Event().wait()
    finally:
        transport.close()
    return sorted(ear.found.values(), key=lambda device: (device.host, device.port))
