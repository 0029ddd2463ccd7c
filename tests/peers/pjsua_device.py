"""A device made of PJSUA2, a SIP stack we did not write: registers, sends one heartbeat, prints one JSON line.

Run as a program of its own (``python pjsua_device.py PORT ID PASSWORD``): the library has process-wide state and an old
OpenSSL inside, so it is never loaded into the test process or the product.
"""

from __future__ import annotations

import json
import sys
import time

import pjsua2 as pj

SERVER_ID = "41018300002000000001"
DOMAIN = "4101830000"


class Device(pj.Account):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.registration: list[int] = []
        self.messages: list[int] = []

    def onRegState(self, prm: pj.OnRegStateParam) -> None:
        self.registration.append(int(prm.code))

    def onInstantMessageStatus(self, prm: pj.OnInstantMessageStatusParam) -> None:
        self.messages.append(int(prm.code))


def main(port: int, device_id: str, password: str, transport: str) -> dict[str, object]:
    endpoint = pj.Endpoint()
    endpoint.libCreate()
    config = pj.EpConfig()
    config.logConfig.level = 0
    config.logConfig.consoleLevel = 0
    config.uaConfig.threadCnt = 0
    config.uaConfig.mainThreadOnly = True
    endpoint.libInit(config)
    local = pj.TransportConfig()
    local.boundAddress = "127.0.0.1"
    kind = pj.PJSIP_TRANSPORT_TCP if transport == "tcp" else pj.PJSIP_TRANSPORT_UDP
    endpoint.transportCreate(kind, local)
    endpoint.libStart()
    account = pj.AccountConfig()
    account.idUri = f"sip:{device_id}@{DOMAIN}"
    account.regConfig.registrarUri = f"sip:{SERVER_ID}@127.0.0.1:{port};transport={transport}"
    account.regConfig.retryIntervalSec = 0
    account.regConfig.timeoutSec = 3600
    account.sipConfig.authCreds.append(pj.AuthCredInfo("digest", "*", device_id, 0, password))
    device = Device()
    device.create(account)
    run_until(endpoint, lambda: bool(device.registration), 15)
    if device.registration and device.registration[-1] == 200:
        send_heartbeat(device, port, device_id, transport)
        run_until(endpoint, lambda: bool(device.messages), 10)
    result = {
        "registration": device.registration,
        "messages": device.messages,
        "active": device.getInfo().regIsActive,
    }
    device.shutdown()
    endpoint.libDestroy()
    return result


def send_heartbeat(device: Device, port: int, device_id: str, transport: str) -> None:
    peer = pj.Buddy()
    config = pj.BuddyConfig()
    config.uri = f"sip:{SERVER_ID}@127.0.0.1:{port};transport={transport}"
    config.subscribe = False
    peer.create(device, config)
    message = pj.SendInstantMessageParam()
    message.contentType = "Application/MANSCDP+xml"
    message.content = (
        '<?xml version="1.0" encoding="GB2312"?>\r\n<Notify>\r\n<CmdType>Keepalive</CmdType>\r\n<SN>1</SN>\r\n'
        f"<DeviceID>{device_id}</DeviceID>\r\n<Status>OK</Status>\r\n</Notify>\r\n"
    )
    peer.sendInstantMessage(message)
    device.peer = peer  # keeps the object alive until the answer came


def run_until(endpoint: pj.Endpoint, condition: object, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and not condition():  # type: ignore[operator]
        endpoint.libHandleEvents(50)


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(int(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4])) + "\n")
    sys.stdout.flush()
