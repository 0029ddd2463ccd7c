"""Flow and Target: over which path a message came, and where a request shall go. Pure values."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

TransportName = Literal["udp", "tcp", "tls"]


@dataclass(frozen=True, slots=True)
class Flow:
    """One path between us and a peer: transport, both addresses, and for TCP and TLS the connection's number.

    ``connection`` is 0 for UDP; for TCP it is unique in this process, so a flow of a closed connection never
    matches a new one. Hosts are textual IP addresses (no names, no brackets).
    """

    transport: TransportName
    host: str
    port: int
    local_host: str
    local_port: int
    connection: int = 0

    def __str__(self) -> str:
        return f"{self.transport}:{self.host}:{self.port}"

    @property
    def reliable(self) -> bool:
        return self.transport != "udp"

    def to_dict(self) -> dict[str, str | int]:
        """For the journal; the connection number is left out: it does not survive a restart."""
        return {
            "transport": self.transport,
            "host": self.host,
            "port": self.port,
            "local_host": self.local_host,
            "local_port": self.local_port,
        }

    @classmethod
    def from_dict(cls, value: dict[str, str | int]) -> Flow:
        """Inverse of :meth:`to_dict`. Raises KeyError or ValueError for a record that is none."""
        transport = value["transport"]
        if transport not in ("udp", "tcp", "tls"):
            raise ValueError(f"no transport: {transport!r}")
        return cls(
            transport=transport,  # type: ignore[arg-type]
            host=str(value["host"]),
            port=int(value["port"]),
            local_host=str(value["local_host"]),
            local_port=int(value["local_port"]),
        )

    def without_connection(self) -> Flow:
        return replace(self, connection=0)


@dataclass(frozen=True, slots=True)
class Target:
    """Where a request goes: its Request-URI, and either a learned flow or an address to send or dial to.

    With ``flow`` of TCP the request uses that connection and never dials another one (GB/T 28181-2022 9.1.1 f).
    """

    uri: str
    host: str
    port: int
    transport: TransportName = "udp"
    flow: Flow | None = None
    server_name: str = ""
    """TLS: the name that the peer's certificate must hold; empty: ``host``."""

    @classmethod
    def of_flow(cls, uri: str, flow: Flow) -> Target:
        return cls(uri=uri, host=flow.host, port=flow.port, transport=flow.transport, flow=flow)
