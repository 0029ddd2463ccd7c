"""The secret of one device: digest HA1 values by user name and algorithm. The password itself is never kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sip.digest import ALGORITHMS, Secret, ha1


def user_names(device_id: str, domain: str) -> tuple[str, ...]:
    """Forms in which devices write their user name in the digest (quirk 49)."""
    return (device_id, f"{device_id}@", f"{device_id}@{domain}")


@dataclass(frozen=True, slots=True)
class DeviceSecret(Secret):
    """HA1 = H(user name ":" realm ":" password) per user name and algorithm (RFC 2617 3.2.2.2, RFC 8760)."""

    realm: str = ""
    by_user: Mapping[str, Mapping[str, str]] = field(default_factory=dict, repr=False)
    """User name -> algorithm token -> lower-case hexadecimal."""

    def ha1_of(self, username: str, realm: str, algorithm: str) -> str | None:
        if realm != self.realm:
            return None
        return self.by_user.get(username, {}).get(algorithm)

    @classmethod
    def of_password(cls, device_id: str, realm: str, password: str, username: str = "") -> DeviceSecret:
        """``username``: another digest user name than the device code, when an operator gave one."""
        names = user_names(device_id, realm) + ((username,) if username else ())
        return cls(
            realm=realm,
            by_user={
                name: {token: ha1(name, realm, password, token) for token in ALGORITHMS} for name in names
            },
        )

    def to_dict(self) -> dict[str, Any]:
        return {"realm": self.realm, "ha1": {name: dict(values) for name, values in self.by_user.items()}}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> DeviceSecret:
        """Inverse of :meth:`to_dict`. Raises KeyError for a record that is none."""
        return cls(
            realm=str(value["realm"]),
            by_user={str(name): dict(values) for name, values in value["ha1"].items()},
        )
