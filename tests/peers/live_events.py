"""Reads the gateway's server-sent events in the background of a test."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import threading
from typing import Any

from gateway_process import GatewayProcess


@contextlib.contextmanager
def listening(gateway: GatewayProcess, *types: str) -> Any:
    """The live events of these types, as they come in ``found``: pairs of name and fields."""
    found: list[tuple[str, dict[str, Any]]] = []
    connection = http.client.HTTPConnection("127.0.0.1", gateway.http_port, timeout=60)
    connection.request("GET", f"/api/events?types={','.join(types)}", headers={"Cookie": gateway.token})
    line = connection.sock
    answer = connection.getresponse()
    assert answer.status == 200

    def read() -> None:
        name = ""
        with contextlib.suppress(OSError, ValueError, AttributeError):
            for data in answer:
                text = data.decode().strip()
                if text.startswith("event:"):
                    name = text.partition(": ")[2]
                elif text.startswith("data:"):
                    found.append((name, json.loads(text[5:])))

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        with contextlib.suppress(OSError):
            line.shutdown(socket.SHUT_RDWR)
        thread.join(10)
        connection.close()
