"""The secret of one device: digest HA1 values by user name and algorithm. The password itself is never kept."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

ALGORITHMS = {"MD5": hashlib.md5, "SHA-256": hashlib.sha256}


def user_names(device_id: str, domain: str) -> tuple[str, ...]:
    """Forms in which devices write their user name in the digest (quirk 49)."""
    return (device_id, f"{device_id}@", f"{device_id}@{domain}")


@dataclass(frozen=True, slots=True)
class DeviceSecret:
    """HA1 = H(user name ":" realm ":" password) per user name and algorithm (RFC 2617 3.2.2.2, RFC 8760)."""

    realm: str
    ha1: Mapping[str, Mapping[str, str]] = field(repr=False)
    """User name -> algorithm token -> lower-case hexadecimal."""

    @classmethod
    def of_password(cls, device_id: str, realm: str, password: str, username: str = "") -> DeviceSecret:
        """``username``: another digest user name than the device code, when an operator gave one."""
        names = user_names(device_id, realm) + ((username,) if username else ())
        return cls(
            realm,
            {
                name: {
                    token: algorithm(f"{name}:{realm}:{password}".encode()).hexdigest()
                    for token, algorithm in ALGORITHMS.items()
                }
                for name in names
            },
        )

    def to_dict(self) -> dict[str, Any]:
        return {"realm": self.realm, "ha1": {name: dict(values) for name, values in self.ha1.items()}}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> DeviceSecret:
        """Inverse of :meth:`to_dict`. Raises KeyError for a record that is none."""
        return cls(str(value["realm"]), {str(name): dict(values) for name, values in value["ha1"].items()})
