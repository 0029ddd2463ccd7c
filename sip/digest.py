"""Digest authentication (RFC 3261 22, RFC 2617, RFC 8760) for the registrar and for the registering side.

The server keeps no state per challenge: a nonce is a time and a MAC over time, realm and the source host, so
a captured answer is worthless elsewhere and a flood of requests costs no memory. Only nonces that were used
with success are remembered, until they are too old anyhow.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from sip.errors import ParseError
from sip.timers import ExpiryRing
from sip.uri import unquote

ALGORITHMS = {"MD5": hashlib.md5, "SHA-256": hashlib.sha256}
"""Algorithm token to hash, weakest first."""

_PLAIN_PARAM = re.compile(r'([A-Za-z][A-Za-z0-9_\-]{0,31})=(?:"([^"\\]*)"|([^",\s]*))(?:,\s*|$)')
_PARAM = re.compile(r'\s*([A-Za-z][A-Za-z0-9_\-]{0,31})\s*=\s*("(?:[^"\\]|\\.)*"|[^",\s]*)\s*(?:,|$)')


class Verdict(StrEnum):
    """What became of an Authorization. STALE asks for a new try and is no failed log-in (quirk 44)."""

    OK = "ok"
    MISSING = "missing"
    MALFORMED = "malformed"
    STALE = "stale"
    REPLAYED = "replayed"
    WRONG = "wrong"


@dataclass(frozen=True, slots=True)
class Secret:
    """What proves a peer: its password, or HA1 values by algorithm for one fixed user name and realm."""

    password: str | None = field(default=None, repr=False)
    ha1: Mapping[str, str] = field(default_factory=dict, repr=False)

    def ha1_of(self, username: str, realm: str, algorithm: str) -> str | None:
        """HA1 for this user and realm as sent; None when only values of other algorithms are stored."""
        if self.password is not None:
            return ha1(username, realm, self.password, algorithm)
        return self.ha1.get(algorithm)


@dataclass(frozen=True, slots=True)
class Credentials:
    """User name and password with which we answer a challenge."""

    username: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class DigestParams:
    """The parameters of a challenge or an answer, names in lower case, values unquoted."""

    scheme: str
    params: Mapping[str, str]

    @classmethod
    def parse(cls, value: str) -> DigestParams:
        """Raises ParseError (label digest) for a value that is no list of parameters."""
        scheme, _, rest = value.strip().partition(" ")
        params: dict[str, str] = {}
        place = 0
        rest = rest.strip()
        plain = _PLAIN_PARAM.findall(rest)
        if plain and len(plain) == rest.count("="):  # no "=" inside of a value: every parameter was taken
            for name, quoted, token in plain:
                params.setdefault(name.lower(), quoted or token)
            return cls(scheme.lower(), params)
        while place < len(rest):
            match = _PARAM.match(rest, place)
            if match is None:
                raise ParseError("no digest parameters", label="digest")
            params.setdefault(match[1].lower(), unquote(match[2]))
            place = match.end()
        return cls(scheme.lower(), params)

    def get(self, name: str, default: str = "") -> str:
        return self.params.get(name, default)

    @property
    def username(self) -> str:
        return self.get("username")

    @property
    def algorithm(self) -> str:
        """Token in upper case; MD5 when absent (RFC 2617)."""
        return (self.get("algorithm") or "MD5").upper()


def _hash(algorithm: str, text: str) -> str:
    return ALGORITHMS[algorithm](text.encode()).hexdigest()


def ha1(username: str, realm: str, password: str, algorithm: str = "MD5") -> str:
    """H(username:realm:password) in lower-case hex. ``algorithm``: MD5 or SHA-256."""
    return _hash(algorithm, f"{username}:{realm}:{password}")


def digest_response(
    ha1_hex: str,
    *,
    method: str,
    uri: str,
    nonce: str,
    algorithm: str = "MD5",
    qop: str = "",
    nc: str = "",
    cnonce: str = "",
    body: bytes = b"",
) -> str:
    """The ``response`` value. ``nc`` is used as the text received; qop may be "", auth or auth-int."""
    ha2_text = f"{method}:{uri}"
    if qop == "auth-int":
        ha2_text += f":{ALGORITHMS[algorithm](body).hexdigest()}"
    ha2 = _hash(algorithm, ha2_text)
    if qop:
        return _hash(algorithm, f"{ha1_hex}:{nonce}:{nc}:{cnonce}:{qop}:{ha2}")
    return _hash(algorithm, f"{ha1_hex}:{nonce}:{ha2}")


class DigestServer:
    """Makes challenges and judges answers.

    Time is an argument (seconds, any monotonic zero). A nonce lives ``lifetime_s``; used with success it is
    good once more only with qop=auth and a higher nonce count from the same host.
    """

    def __init__(
        self, *, lifetime_s: float = 300.0, key: bytes | None = None, max_used: int = 200_000
    ) -> None:
        self._lifetime_s = lifetime_s
        self._key = key or secrets.token_bytes(32)
        self._used: dict[str, int] = {}
        self._ring: ExpiryRing[str] = ExpiryRing(lifetime_s)
        self._max_used = max_used
        self._serial = secrets.randbits(16)

    def nonce(self, realm: str, host: str, now: float) -> str:
        """36 hex digits: serial and milliseconds in clear, then 80 bits of the MAC."""
        self._serial = (self._serial + 1) & 0xFFFF
        stamp = f"{self._serial:04x}{int(now * 1000) & 0xFFFFFFFFFFFF:012x}"
        return stamp + self._sign(stamp, realm, host)

    def _sign(self, stamp: str, realm: str, host: str) -> str:
        text = f"{stamp}|{host}|{realm}".encode()
        return hashlib.blake2b(text, key=self._key, digest_size=10).hexdigest()

    def challenge(
        self,
        realm: str,
        host: str,
        now: float,
        *,
        stale: bool = False,
        algorithms: Iterable[str] = ("MD5",),
        qop: str = "",
    ) -> list[str]:
        """WWW-Authenticate values, one per algorithm, in the order given (RFC 8760: the preferred first).

        Without qop by default: many devices reject ``qop="auth"`` (quirk 6).
        """
        nonce = self.nonce(realm, host, now)
        tail = (f', qop="{qop}"' if qop else "") + (", stale=true" if stale else "")
        return [
            f'Digest realm="{realm}", nonce="{nonce}", algorithm={algorithm}{tail}'
            for algorithm in algorithms
        ]

    def verify(
        self,
        authorization: str,
        method: str,
        realm: str,
        host: str,
        now: float,
        secret: Secret,
        *,
        algorithms: Iterable[str] = ("MD5", "SHA-256"),
        body: bytes = b"",
    ) -> Verdict:
        """Judge one Authorization value ("" when the header is absent). Never raises for what the peer sent.

        User name, uri, nc and realm are hashed as sent (quirks 6 and 49); a nonce that is not ours, not for
        this host, or too old is STALE whatever the hash says.
        """
        if not authorization:
            return Verdict.MISSING
        try:
            answer = DigestParams.parse(authorization)
        except ParseError:
            return Verdict.MALFORMED
        get = answer.params.get
        nonce, uri, response = get("nonce", ""), get("uri", ""), get("response", "")
        if answer.scheme != "digest" or not nonce or not response or "username" not in answer.params:
            return Verdict.MALFORMED
        algorithm = answer.algorithm
        qop, nc = get("qop", "").lower(), get("nc", "")
        if algorithm not in ALGORITHMS or algorithm not in algorithms or qop not in ("", "auth", "auth-int"):
            return Verdict.MALFORMED
        if not self._fresh(nonce, realm, host, now):
            return Verdict.STALE
        known = secret.ha1_of(answer.username, get("realm", realm), algorithm)
        if known is None:
            return Verdict.WRONG
        expected = digest_response(
            known,
            method=method,
            uri=uri,
            nonce=nonce,
            algorithm=algorithm,
            qop=qop,
            nc=nc,
            cnonce=get("cnonce", ""),
            body=body,
        )
        if not hmac.compare_digest(expected.encode(), response.lower().encode()):
            return Verdict.WRONG
        return self._use(nonce, qop, nc, now)

    def _fresh(self, nonce: str, realm: str, host: str, now: float) -> bool:
        if len(nonce) != 36 or not nonce.isascii():
            return False
        stamp = nonce[:16]
        if not hmac.compare_digest(nonce[16:], self._sign(stamp, realm, host)):
            return False
        made = int(stamp[4:], 16)
        age_ms = (int(now * 1000) - made) & 0xFFFFFFFFFFFF
        return age_ms <= self._lifetime_s * 1000

    def _use(self, nonce: str, qop: str, nc: str, now: float) -> Verdict:
        """One use per nonce, or with qop one per rising count."""
        for old in self._ring.expired(now):
            self._used.pop(old, None)
        try:
            count = int(nc, 16) if qop else 0
        except ValueError:
            return Verdict.MALFORMED
        last = self._used.get(nonce)
        if last is None:
            while len(self._ring) >= self._max_used:
                self._used.pop(self._ring.pop_oldest(), None)
            self._ring.add(nonce, now)
        elif not qop or count <= last:
            return Verdict.REPLAYED
        self._used[nonce] = count
        return Verdict.OK


def answer_challenges(
    challenges: Iterable[str],
    credentials: Credentials,
    *,
    method: str,
    uri: str,
    body: bytes = b"",
    nc: int = 1,
    cnonce: str | None = None,
) -> str | None:
    """The Authorization value for the strongest challenge that we understand; None when there is none.

    Unknown algorithms, schemes and parameters are skipped (G056, G057); qop ``auth,auth-int`` takes auth.
    """
    ranked = list(ALGORITHMS)
    best: DigestParams | None = None
    for value in _split_challenges(challenges):
        try:
            offer = DigestParams.parse(value)
        except ParseError:
            continue
        if offer.scheme != "digest" or offer.algorithm not in ALGORITHMS or "nonce" not in offer.params:
            continue
        if "qop" in offer.params and _choose_qop(offer.get("qop")) is None:
            continue
        if best is None or ranked.index(offer.algorithm) > ranked.index(best.algorithm):
            best = offer
    if best is None:
        return None
    return _answer(best, credentials, method, uri, body, f"{nc:08x}", cnonce or secrets.token_hex(8))


def _split_challenges(lines: Iterable[str]) -> list[str]:
    """One challenge each, also where several stand on one line (RFC 3261 7.3.1 forbids it, some do it)."""
    return [part for line in lines for part in re.split(r",\s*(?=Digest\s)", line)]


def _choose_qop(offered: str) -> str | None:
    tokens = [token.strip().lower() for token in offered.split(",")]
    for known in ("auth", "auth-int"):
        if known in tokens:
            return known
    return "" if not any(tokens) else None


def _answer(
    offer: DigestParams, credentials: Credentials, method: str, uri: str, body: bytes, nc: str, cnonce: str
) -> str:
    realm, nonce = offer.get("realm"), offer.get("nonce")
    qop = _choose_qop(offer.get("qop")) or ""
    response = digest_response(
        ha1(credentials.username, realm, credentials.password, offer.algorithm),
        method=method,
        uri=uri,
        nonce=nonce,
        algorithm=offer.algorithm,
        qop=qop,
        nc=nc,
        cnonce=cnonce,
        body=body,
    )
    parts = [
        f'username="{_escape(credentials.username)}"',
        f'realm="{_escape(realm)}"',
        f'nonce="{_escape(nonce)}"',
        f'uri="{uri}"',
        f'response="{response}"',
        f"algorithm={offer.algorithm}",
    ]
    if "opaque" in offer.params:
        parts.append(f'opaque="{_escape(offer.get("opaque"))}"')
    if qop:
        parts += [f"qop={qop}", f"nc={nc}", f'cnonce="{cnonce}"']
    return "Digest " + ", ".join(parts)


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')
