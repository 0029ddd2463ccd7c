"""Which server a device is sent to by 302: ranges of codes first, then shares by weight, always the same for one device.

GB/T 28181-2022 9.1.2.3. A device that comes back soon did not get in where it was sent and is told the next one.
"""

from __future__ import annotations

import hashlib
import math
from collections import OrderedDict

from config.settings import RedirectSettings, RedirectTarget
from sip.uri import join_host_port

_REMEMBERED = 50_000


class Redirect:
    """Chooses for each device. ``own_id``: a target with this code means that we serve the device ourselves."""

    def __init__(self, settings: RedirectSettings, own_id: str) -> None:
        self._settings = settings
        self._own_id = own_id
        self._sent: OrderedDict[str, tuple[int, float]] = OrderedDict()
        """Per device how many targets it was sent to in vain, and when it was sent last."""

    @property
    def enabled(self) -> bool:
        return self._settings.enabled

    @property
    def challenges(self) -> bool:
        """Whether a device has to prove itself before it is told where to go."""
        return self._settings.challenge

    @property
    def expires_s(self) -> int:
        return self._settings.expires_s

    def order(self, device_id: str) -> list[RedirectTarget]:
        """The targets for a device, best first: those of its range, then those for all; each group by weighted draw.

        The draw is a hash of device and target (weighted rendezvous), so a new target moves only its own share.
        """
        ranged = [
            t
            for t in self._settings.targets
            if t.first_id and t.last_id and t.first_id <= device_id <= t.last_id
        ]
        general = [t for t in self._settings.targets if not t.first_id]
        return [
            target
            for group in (ranged, general)
            for target in sorted(group, key=lambda t: _draw(device_id, t), reverse=True)
        ]

    def target(self, device_id: str, now: float) -> RedirectTarget | None:
        """Where this device goes now; None: nowhere, it is served here. ``now`` is monotonic seconds."""
        if not self._settings.enabled:
            return None
        order = self.order(device_id)
        if not order:
            return None
        tried, last = self._sent.pop(device_id, (-1, -math.inf))
        tried = tried + 1 if now - last <= self._settings.return_s else 0
        chosen = order[tried % len(order)]
        if chosen.server_id == self._own_id:
            return None
        if len(self._sent) >= _REMEMBERED:
            self._sent.popitem(last=False)
        self._sent[device_id] = (tried, now)
        return chosen


def contact_of(target: RedirectTarget) -> str:
    """The Contact of the 302: ``<sip:server@host:port>``, with the transport when it is not UDP."""
    suffix = "" if target.transport == "udp" else f";transport={target.transport}"
    return f"<sip:{target.server_id}@{join_host_port(target.host, target.port)}{suffix}>"


def _draw(device_id: str, target: RedirectTarget) -> float:
    digest = hashlib.sha256(f"{device_id} {target.server_id} {target.host} {target.port}".encode()).digest()
    share = (int.from_bytes(digest[:8], "big") + 1) / (2**64 + 1)
    return -target.weight / math.log(share)
