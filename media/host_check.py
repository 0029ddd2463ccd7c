"""What this machine's kernel gives to media sockets, compared with what the node wants, and told once at start.

Each warning names the sysctl and the value to set: nobody shall have to guess why key frames are torn.
"""

from __future__ import annotations

import logging
import socket
import struct
from pathlib import Path

from media.ports import RECEIVE_BUFFER, SEND_BUFFER, SHARED_RECEIVE_BUFFER, grow

log = logging.getLogger(__name__)

LOCAL_PORTS = Path("/proc/sys/net/ipv4/ip_local_port_range")
_SO_MEMINFO = 55
_MEMINFO = struct.Struct("=9I")
_DROPS = 8
"""Place of the drop counter in what SO_MEMINFO tells (Linux 4.12, include/uapi/linux/sock_diag.h)."""


def buffer_warnings(*, shared_port: bool) -> list[str]:
    """One line for each socket buffer that the kernel makes smaller than asked, tried on a socket."""
    wanted_receive = SHARED_RECEIVE_BUFFER if shared_port else RECEIVE_BUFFER
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        receive, send = grow(sock, wanted_receive, SEND_BUFFER)
    lines = []
    for given, wanted, name in (
        (receive, wanted_receive, "net.core.rmem_max"),
        (send, SEND_BUFFER, "net.core.wmem_max"),
    ):
        if given < wanted:
            lines.append(
                f"event=small_socket_buffer sysctl={name} wanted_bytes={wanted} given_bytes={given} "
                f"advice='sysctl -w {name}={wanted}; until then bursts of key frames lose packets'"
            )
    return lines


def port_warnings(low: int, high: int, path: Path = LOCAL_PORTS) -> list[str]:
    """A line when RTP ports ``low`` to ``high`` lie where the kernel takes ports for outgoing connections."""
    try:
        first, last = (int(word) for word in path.read_text(encoding="ascii").split())
    except (OSError, ValueError):
        return []
    if high < first or low > last:
        return []
    return [
        f"event=rtp_ports_overlap sysctl=net.ipv4.ip_local_port_range rtp_ports={low}-{high} local_ports={first}-{last} "
        "advice='move media.rtp_port_min and rtp_port_max out of that range, or reserve them with "
        f"net.ipv4.ip_local_reserved_ports={low}-{high}'"
    ]


def warn(low: int, high: int, *, shared_port: bool) -> None:
    """Log what is wrong with this host, one line for each fault."""
    for line in buffer_warnings(shared_port=shared_port) + port_warnings(low, high):
        log.warning(line)


def kernel_drops(sock: socket.socket) -> int:
    """Datagrams that the kernel dropped because this socket's receive buffer was full; 0 where it does not tell."""
    try:
        data = sock.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, _MEMINFO.size)
    except OSError:
        return 0
    return int(_MEMINFO.unpack(data)[_DROPS]) if len(data) == _MEMINFO.size else 0
