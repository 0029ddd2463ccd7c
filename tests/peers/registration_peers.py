"""For tests of registration: simulated devices with short times, one REGISTER by hand, sheets made of lists."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from gateway_process import DOMAIN, PASSWORD, SERVER_ID, GatewayProcess
from openpyxl import Workbook

from simulator.camera import Camera, DeviceOptions
from simulator.register import RegisterSettings
from sip.endpoint import Credentials, Endpoint, Identity, Reply
from sip.flow import Target
from sip.manscdp import Edition
from sip.message import Response

EDITIONS = {"2016": Edition.V2016, "2022": Edition.V2022}


def code(serial: int, kind: int = 132) -> str:
    return f"4101830000{kind}{serial:07d}"


def camera(
    server: GatewayProcess | int,
    serial: int,
    *,
    password: str | None = PASSWORD,
    heartbeat_s: float = 0.5,
    answer_timeout_s: float = 3.0,
    **options: Any,
) -> Camera:
    """A camera that beats and tries again quickly; ``options`` are those of DeviceOptions."""
    port = server if isinstance(server, int) else server.sip_port
    return Camera(
        code(serial),
        server=("127.0.0.1", port),
        server_id=SERVER_ID,
        password=password,
        options=DeviceOptions(
            register=RegisterSettings(
                heartbeat_s=heartbeat_s,
                heartbeat_count=2,
                retry_s=(0.3, 0.6),
                answer_timeout_s=answer_timeout_s,
            ),
            **options,
        ),
    )


async def register_once(
    port: int,
    device_id: str,
    *,
    password: str | None = PASSWORD,
    transport: Any = "udp",
    host: str = "127.0.0.1",
) -> Response:
    """One REGISTER (with an answer to its challenge when there is a password) and the final response."""
    endpoint = Endpoint(Identity(device_id, DOMAIN), host=host, port=0, handler=lambda incoming: Reply(200))
    await endpoint.start()
    try:
        return await endpoint.request(
            "REGISTER",
            Target(f"sip:{SERVER_ID}@{DOMAIN}", "127.0.0.1", port, transport),
            to=f"sip:{device_id}@{DOMAIN}",
            headers=[("Expires", "3600")],
            credentials=Credentials(device_id, password) if password else None,
        )
    finally:
        await endpoint.close(drain_s=0)


def sheet(rows: Sequence[Sequence[Any]]) -> bytes:
    """An .xlsx of these lines."""
    book = Workbook()
    for row in rows:
        book.worksheets[0].append(list(row))
    out = io.BytesIO()
    book.save(out)
    return out.getvalue()


def metric(gateway: GatewayProcess, name: str, **labels: str) -> float:
    """The value of one metric, 0 when it is not told."""
    for line in gateway.metrics().splitlines():
        head, _, value = line.rpartition(" ")
        if head.partition("{")[0] == name and all(f'{key}="{text}"' in head for key, text in labels.items()):
            return float(value)
    return 0.0
