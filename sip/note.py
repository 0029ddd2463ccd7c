"""Signed signalling: the ``Note`` and ``Date`` headers by which a message proves that a peer wrote it, unchanged and now.

GB/T 28181-2016 annex H (2022 keeps the header and recommends SM3): ``Note: Digest nonce="...",algorithm=SM3`` with
nonce = Base64(H(From + To + Call-ID + Date + seed + body)), each header value as sent. GB 35114 9.4 puts the method
in front and the key VKEK in the place of the seed. REGISTER and its answers are proven by the digest and carry none.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, timezone
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import Literal, Protocol

from cryptography.hazmat.primitives import hashes

from sip.digest import DigestParams
from sip.errors import ParseError
from sip.flow import Flow, Target
from sip.headers import Headers
from sip.message import Request, Response, split_head
from sip.timers import ExpiryRing

BEIJING = timezone(timedelta(hours=8))
WINDOW_S = 600.0
"""So far the Date of a message may be from our clock (2016 H.3)."""
Algorithm = Literal["MD5", "SHA-1", "SHA-256", "SM3"]
Form = Literal["annex_h", "gb35114"]
_NAMES = {"MD5": "md5", "SHA-1": "sha1", "SHA-256": "sha256"}
_EXEMPT_METHOD = "REGISTER"
_REMEMBERED = 100_000
_REPEATS_END_S = 64 * 0.5 + 8.0
"""Longer than anybody repeats a message (RFC 3261 17): what comes again after that was recorded and played back."""


class NoteVerdict(StrEnum):
    """What became of a message. All but OK and EXEMPT are dropped."""

    OK = "ok"
    EXEMPT = "exempt"
    MISSING = "missing"
    MALFORMED = "unreadable"
    ALGORITHM = "algorithm"
    DATE = "date"
    WRONG = "wrong"
    REPLAYED = "replayed"


@dataclass(frozen=True, slots=True)
class NoteKey:
    """What two peers share: the secret (annex H: seed; GB 35114: VKEK), the algorithm, and what is hashed."""

    secret: bytes = field(repr=False)
    algorithm: Algorithm = "SM3"
    form: Form = "annex_h"


class Guard(Protocol):
    """Between a SIP core and the wire: signs what leaves, says whether to take what came."""

    def admit(self, message: Request | Response, flow: Flow) -> bool:
        """False: the message is dropped without an answer."""

    def protect(self, data: bytes, destination: Flow | Target) -> bytes:
        """The message as it shall leave."""


def hashed(algorithm: str, data: bytes) -> bytes:
    """The hash; SM3 by cryptography, because Python's OpenSSL need not have it. ValueError for another word."""
    if algorithm == "SM3":
        digest = hashes.Hash(hashes.SM3())
        digest.update(data)
        return digest.finalize()
    if algorithm not in _NAMES:
        raise ValueError(f"no Note algorithm: {algorithm!r}")
    return hashlib.new(_NAMES[algorithm], data).digest()


def nonce_of(key: NoteKey, method: str, headers: Headers, charset: str, body: bytes) -> str:
    """The nonce of a message that has its Date. Header values are hashed as the bytes that stand on the wire."""
    parts = [headers.get(name) for name in ("From", "To", "Call-ID", "Date")]
    if key.form == "gb35114":
        parts.insert(0, method)
    data = "".join(parts).encode(charset, "replace") + key.secret + body
    return base64.b64encode(hashed(key.algorithm, data)).decode("ascii")


def method_of(message: Request | Response) -> str:
    """The method of a request, or of the request that a response answers."""
    if isinstance(message, Request):
        return message.method
    return message.headers.get("CSeq").rpartition(" ")[2].upper()


def moment_of(date: str) -> datetime | None:
    """The moment of a Date value: ``2026-11-22T10:00:00[.123]`` in Beijing time (9.10.3), or as RFC 3261 20.17 has it."""
    text = date.strip()
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        try:
            moment = parsedate_to_datetime(text)
        except (ValueError, IndexError, TypeError):
            return None
    return moment.replace(tzinfo=BEIJING) if moment.tzinfo is None else moment


class NoteChecker:
    """Verifies messages and remembers their nonces, so that a recorded one is not taken a second time."""

    def __init__(self, window_s: float = WINDOW_S) -> None:
        self._window_s = window_s
        self._seen: dict[str, float] = {}
        self._ring: ExpiryRing[str] = ExpiryRing(2 * window_s)

    def check(self, message: Request | Response, key: NoteKey, mono: float, utc: datetime) -> NoteVerdict:
        """Judge one message; ``mono`` and ``utc`` are now. The cheap questions come first."""
        method = method_of(message)
        if method == _EXEMPT_METHOD or (isinstance(message, Response) and message.status == 100):
            return NoteVerdict.EXEMPT
        note, date = message.headers.get("Note"), message.headers.get("Date")
        if not note or not date:
            return NoteVerdict.MISSING
        try:
            digest = DigestParams.parse(note)
        except ParseError:
            return NoteVerdict.MALFORMED
        nonce = digest.params.get("nonce", "")
        if digest.scheme != "digest" or not nonce:
            return NoteVerdict.MALFORMED
        if digest.params.get("algorithm", key.algorithm).upper() != key.algorithm:
            return NoteVerdict.ALGORITHM
        moment = moment_of(date)
        if moment is None or abs((moment - utc).total_seconds()) > self._window_s:
            return NoteVerdict.DATE
        expected = nonce_of(key, method, message.headers, message.charset, message.body)
        if not hmac.compare_digest(expected.encode(), nonce.encode("utf-8", "replace")):
            return NoteVerdict.WRONG
        return self._first_time(nonce, mono)

    def _first_time(self, nonce: str, now: float) -> NoteVerdict:
        for old in self._ring.expired(now):
            self._seen.pop(old, None)
        first = self._seen.get(nonce)
        if first is not None:
            return NoteVerdict.OK if now - first <= _REPEATS_END_S else NoteVerdict.REPLAYED
        if len(self._seen) >= _REMEMBERED:
            self._seen.pop(self._ring.pop_oldest(), None)
        self._seen[nonce] = now
        self._ring.add(nonce, now)
        return NoteVerdict.OK


_HEAD = re.compile(rb"\r\n\r\n")
_CSEQ_METHOD = re.compile(rb"\r\n(?:CSeq)[ \t]*:[^\r\n]*?([A-Za-z]+)[ \t]*\r\n", re.IGNORECASE)


def signed(data: bytes, key: NoteKey, utc: datetime) -> bytes:
    """One of our own messages with Date and Note in its header block; REGISTER and its answers as they are."""
    match = _CSEQ_METHOD.search(data)
    end = _HEAD.search(data)
    if match is None or end is None or match[1].upper() == _EXEMPT_METHOD.encode():
        return data
    text, _, charset = split_head(data)
    start, *lines = text.split("\r\n")
    headers = Headers.of_lines([line for line in lines if line])
    if headers is None:
        return data
    form = "milliseconds" if key.form == "gb35114" else "seconds"
    date = utc.astimezone(BEIJING).replace(tzinfo=None).isoformat(timespec=form)
    headers.set("Date", date)
    nonce = nonce_of(key, match[1].decode("ascii").upper(), headers, charset, data[end.end() :])
    headers.set("Note", f'Digest nonce="{nonce}",algorithm={key.algorithm}')
    head = "\r\n".join([start, *(f"{name}: {value}" for name, value in headers.items())])
    return head.encode(charset) + data[end.start() :]


def secret_of(text: str, encoding: str) -> bytes:
    """The secret as bytes from what an operator entered: ``text``, ``hex`` or ``base64``. ValueError when it is none."""
    if encoding == "text":
        return text.encode()
    try:
        return bytes.fromhex(text) if encoding == "hex" else base64.b64decode(text, validate=True)
    except (ValueError, binascii.Error):
        raise ValueError(f"the key is no {encoding}") from None


class PeerGuard:
    """A guard for an element with one peer: signs everything, and drops what does not verify when ``check`` is set."""

    def __init__(
        self,
        key: NoteKey,
        *,
        check: bool = True,
        mono: Callable[[], float],
        utc: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.key: NoteKey | None = key
        self.check = check
        self.verdicts: list[NoteVerdict] = []
        self._mono, self._utc = mono, utc
        self._checker = NoteChecker()

    def admit(self, message: Request | Response, flow: Flow) -> bool:
        if not self.check or self.key is None:
            return True
        verdict = self._checker.check(message, self.key, self._mono(), self._utc())
        self.verdicts = [*self.verdicts[-999:], verdict]
        return verdict in (NoteVerdict.OK, NoteVerdict.EXEMPT)

    def protect(self, data: bytes, destination: Flow | Target) -> bytes:
        return data if self.key is None else signed(data, self.key, self._utc())
