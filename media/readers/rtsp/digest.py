"""Digest authentication of RTSP clients (RFC 2617 and RFC 7616): MD5 and SHA-256, from HA1 values only.

A nonce is a time and a MAC over time and the client's host. Used with ``nc`` it is good for rising counts; without
(clients of RFC 2069 that know no ``qop``) it belongs to the connection that used it first. Time is an argument.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections import OrderedDict
from collections.abc import Iterable
from enum import StrEnum

from media.specs import RtspAccount

NONCE_LIFETIME_S = 60.0
USED_LIMIT = 20_000
FAILURES_LIMIT = 10
FAILURE_WINDOW_S = 60.0
SOURCES_LIMIT = 10_000
HEADER_LIMIT = 2048

_PARAMETER = re.compile(r'\s*([A-Za-z][A-Za-z0-9_-]{0,31})\s*=\s*("(?:[^"\\]|\\.)*"|[^",\s]*)\s*(?:,|$)')
_HASHES = {"MD5": hashlib.md5, "SHA-256": hashlib.sha256}
_COUNT = re.compile(r"[0-9a-fA-F]{8}")


class Verdict(StrEnum):
    """What became of an Authorization header. STALE asks for a new try and is no failure."""

    OK = "ok"
    MISSING = "missing"
    MALFORMED = "malformed"
    STALE = "stale"
    WRONG = "wrong"


def digest(algorithm: str, text: str) -> str:
    """Lower-case hex of MD5 or SHA-256."""
    return _HASHES[algorithm](text.encode("utf-8", "surrogateescape")).hexdigest()


class DigestGate:
    """Challenges and judges the clients of one node. ``realm`` is the one of the accounts' HA1 values."""

    def __init__(self, accounts: Iterable[RtspAccount], realm: str, *, key: bytes | None = None) -> None:
        self._accounts = {account.username: account for account in accounts}
        self._realm = realm
        self._key = key or secrets.token_bytes(32)
        self._used: OrderedDict[str, tuple[object, int]] = OrderedDict()
        self._serial = 0

    @property
    def enabled(self) -> bool:
        return bool(self._accounts)

    def challenges(self, host: str, now: float, *, stale: bool = False) -> list[str]:
        """One WWW-Authenticate value per algorithm. MD5 stands last: FFmpeg and live555 take the last one, and
        clients that know SHA-256 choose by themselves (RFC 7616 3.7).
        """
        self._serial += 1
        nonce = self._nonce(f"{now:.3f}.{self._serial}", host)
        tail = ", stale=true" if stale else ""
        return [
            f'Digest realm="{self._realm}", nonce="{nonce}", algorithm={algorithm}, qop="auth"{tail}'
            for algorithm in ("SHA-256", "MD5")
        ]

    def _nonce(self, stamp: str, host: str) -> str:
        mac = hmac.new(self._key, f"{stamp}\n{host}".encode(), hashlib.sha256).hexdigest()[:32]
        return f"{stamp}.{mac}"

    def check(
        self, authorization: str, *, method: str, uri: str, host: str, connection: object, now: float
    ) -> tuple[Verdict, str]:
        """The verdict and the user's name (as far as it was named)."""
        scheme, _, rest = authorization.strip().partition(" ")
        if not scheme:
            return Verdict.MISSING, ""
        values = _parameters(rest) if scheme.lower() == "digest" and len(rest) <= HEADER_LIMIT else None
        if values is None:
            return Verdict.MALFORMED, ""
        algorithm = values.get("algorithm", "MD5").upper()
        user, nonce = values.get("username", ""), values.get("nonce", "")
        if algorithm not in _HASHES or values.get("realm") != self._realm or values.get("uri") != uri:
            return Verdict.MALFORMED, user
        age = self._age(nonce, host, now)
        if age is None or age > NONCE_LIFETIME_S:
            return Verdict.STALE, user
        if not self._proves(values, user, algorithm, method):
            return Verdict.WRONG, user
        # Only who knows the password may use a nonce up.
        return (Verdict.OK if self._fresh(values, nonce, connection) else Verdict.STALE), user

    def _age(self, nonce: str, host: str, now: float) -> float | None:
        """Seconds since we made the nonce for this host; None when we did not."""
        stamp, _, _ = nonce.rpartition(".")
        if not hmac.compare_digest(nonce.encode("utf-8", "replace"), self._nonce(stamp, host).encode()):
            return None
        return now - float(stamp.rpartition(".")[0])

    def _proves(self, values: dict[str, str], user: str, algorithm: str, method: str) -> bool:
        account = self._accounts.get(user)
        # An unknown user costs the same work as a known one.
        ha1 = secrets.token_hex(16) if account is None else account.ha1(algorithm)
        ha2 = digest(algorithm, f"{method}:{values['uri']}")
        qop = values.get("qop", "")
        middle = [values.get("nc", ""), values.get("cnonce", ""), qop] if qop else []
        expected = digest(algorithm, ":".join([ha1, values.get("nonce", ""), *middle, ha2]))
        given = values.get("response", "").lower()
        good = hmac.compare_digest(given.encode("utf-8", "replace"), expected.encode())
        return good and account is not None and qop in ("", "auth")

    def _fresh(self, values: dict[str, str], nonce: str, connection: object) -> bool:
        """Whether this is no repetition of an earlier answer."""
        owner, highest = self._used.get(nonce, (connection, 0))
        count = highest
        if values.get("qop"):
            if not _COUNT.fullmatch(values.get("nc", "")):
                return False
            count = int(values["nc"], 16)
            if count <= highest:
                return False
        elif owner is not connection:
            return False
        self._used[nonce] = owner, count
        self._used.move_to_end(nonce)
        while len(self._used) > USED_LIMIT:
            self._used.popitem(last=False)
        return True


def _parameters(text: str) -> dict[str, str] | None:
    values: dict[str, str] = {}
    at = 0
    while at < len(text):
        match = _PARAMETER.match(text, at)
        if match is None:
            return None
        value = match[2]
        if value.startswith('"'):
            value = re.sub(r"\\(.)", r"\1", value[1:-1])
        values.setdefault(match[1].lower(), value)
        at = match.end()
    return values


class FailureLimit:
    """Wrong passwords per host: from 10 in a minute on the host has to wait. ``total`` counts other refusals too."""

    def __init__(self) -> None:
        self.total = 0
        self._hosts: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def locked(self, host: str, now: float) -> bool:
        count, since = self._hosts.get(host, (0, now))
        return count >= FAILURES_LIMIT and now - since < FAILURE_WINDOW_S

    def fail(self, host: str, now: float) -> None:
        count, since = self._hosts.pop(host, (0, now))
        if now - since >= FAILURE_WINDOW_S:
            count, since = 0, now
        self._hosts[host] = count + 1, since
        while len(self._hosts) > SOURCES_LIMIT:
            self._hosts.popitem(last=False)
