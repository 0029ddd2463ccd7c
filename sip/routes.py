"""Our own addresses: under which of them a peer sees us."""

from __future__ import annotations

import socket
import time
from ipaddress import ip_address


def is_address(host: str) -> bool:
    """Whether a host is an IP literal."""
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


class Routes:
    """Under which of our addresses a peer sees us: asked of the kernel's routes, remembered for a minute."""

    def __init__(self, bound_host: str, *, max_entries: int = 20_000, lifetime_s: float = 60.0) -> None:
        self._fixed = "" if bound_host in ("", "0.0.0.0", "::") else bound_host
        self._known: dict[str, str] = {}
        self._since = 0.0
        self._max_entries = max_entries
        self._lifetime_s = lifetime_s

    def local_host(self, host: str) -> str:
        """Our address towards ``host``. A name instead of an address is answered by the default route."""
        if self._fixed:
            return self._fixed
        now = time.monotonic()
        if now - self._since > self._lifetime_s or len(self._known) >= self._max_entries:
            self._known.clear()
            self._since = now
        found = self._known.get(host)
        if found is None:
            found = self._known[host] = self._ask(host)
        return found

    def _ask(self, host: str) -> str:
        peer = host if is_address(host) else "203.0.113.1"
        family = socket.AF_INET6 if ":" in peer else socket.AF_INET
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.connect((peer, 9))
                return str(probe.getsockname()[0])
        except OSError:
            return "127.0.0.1"
