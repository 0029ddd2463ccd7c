"""The codes under which one upper platform knows our channels: stable, unique, and re-coded the same way every time."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from hashlib import sha256

Key = tuple[str, str]
"""(device_id, channel_id) of the registry. A device itself is (device_id, device_id)."""

_CODE = re.compile(r"\d{20}")
_CAMERA_TYPE = "131"


class IdMap:
    """Codes of one upper, both ways (report F.3; quirk 18).

    ``chosen`` are the codes an operator gave; ``recoded`` those that this map made up in an earlier life and the
    storage kept. Whoever holds a code keeps it: a camera that turns up later with the same code gets another one,
    so no upper ever sees a code change its meaning.
    """

    def __init__(
        self, area_code: str, chosen: Mapping[Key, str] = {}, recoded: Mapping[Key, str] = {}
    ) -> None:
        self._area = area_code
        self._code: dict[Key, str] = {}
        self._holders: dict[str, set[Key]] = {}
        self._recoded = dict(recoded)
        self.changed = False
        for key, code in chosen.items():
            self._hold(code, key)
        for key, code in recoded.items():
            if key not in self._code and code not in self._holders:
                self._hold(code, key)

    @property
    def recoded(self) -> dict[Key, str]:
        """What has to survive a restart: the codes that differ from the channel's own without an operator's wish."""
        return dict(self._recoded)

    def with_choices(self, chosen: Mapping[Key, str]) -> IdMap:
        """The map after an operator chose other codes: everybody else keeps the code he has, where it is still free."""
        fresh = IdMap(self._area, chosen, self._recoded)
        for key, code in self._code.items():
            if key not in fresh._code and code not in fresh._holders:
                fresh._hold(code, key)
        return fresh

    def reserve(self, *codes: str) -> None:
        """Codes that no channel may get: our own system, divisions."""
        for code in codes:
            self._holders.setdefault(code, set())

    def code_of(self, key: Key) -> str | None:
        return self._code.get(key)

    def assign(self, key: Key, mapped: str = "") -> str:
        """The code of ``key``: the one it has, else the mapped one of this gateway, else its own, else a new one."""
        known = self._code.get(key)
        if known is not None:
            return known
        if mapped and mapped not in self._holders:
            self._recoded[key] = mapped
            self.changed = True
            self._hold(mapped, key)
            return mapped
        own = key[1]
        if _CODE.fullmatch(own) and own not in self._holders:
            self._hold(own, key)
            return own
        code = self._make(key)
        self._recoded[key] = code
        self.changed = True
        self._hold(code, key)
        return code

    def join(self, key: Key, other: Key) -> str:
        """``key`` is another way to the camera ``other``: both have one code."""
        code = self.assign(other)
        old = self._code.get(key)
        if old != code:
            if old is not None:
                self._holders[old].discard(key)
            self._recoded.pop(key, None)
            self._hold(code, key)
        return code

    def forget(self, keep: Iterable[Key]) -> None:
        """Release the plain codes of channels that are gone; made-up codes stay reserved for their channels."""
        alive = set(keep)
        for key in [key for key in self._code if key not in alive and key not in self._recoded]:
            code = self._code.pop(key)
            holders = self._holders[code]
            holders.discard(key)
            if not holders:
                del self._holders[code]

    def _hold(self, code: str, key: Key) -> None:
        self._code[key] = code
        self._holders.setdefault(code, set()).add(key)

    def _make(self, key: Key) -> str:
        """Same area, industry, type and network digits; a serial derived from the key, probing past those in use."""
        own = key[1]
        stem = own[:14] if _CODE.fullmatch(own) else f"{self._area[:8]:0<8}00{_CAMERA_TYPE}{0}"
        serial = int.from_bytes(sha256(f"{key[0]}/{key[1]}".encode()).digest()[:8], "big") % 1_000_000
        for step in range(1_000_000):
            code = f"{stem}{(serial + step) % 1_000_000:06d}"
            if code not in self._holders:
                return code
        raise ValueError(f"no free serial under {stem}")
