"""Value types of MANSCDP: tolerant readers and exact writers for numbers, times and words of fixed vocabularies."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone
from math import isfinite

BEIJING = timezone(timedelta(hours=8), "UTC+8")
"""All times in XML are Beijing local time without a zone (2022 A.2.1, dateTime)."""

_TIME = re.compile(
    r"(\d{4})-(\d{1,2})-(\d{1,2})(?:[T ]+(\d{1,2}):(\d{1,2})(?::(\d{1,2})(?:[.,](\d{1,9}))?)?)?\s*(Z|[+-]\d{2}:?\d{2})?"
)
_COMPACT = re.compile(r"(\d{4})(\d{2})(\d{2})T?(\d{2})(\d{2})(\d{2})(Z)?")
_ONLINE = frozenset({"ON", "OK", "ONLINE", "1", "TRUE"})
_OFFLINE = frozenset({"OFF", "OFFLINE", "0", "FALSE", "NOTONLINE", "ERROR"})
_OK = frozenset({"OK", "SUCCESS", "TRUE", "200"})


def read_time(text: str) -> datetime | None:
    """Read a dateTime in the forms the field knows; None when it is none of them (quirk 22).

    Unpadded numbers, a blank for the T, fractions, ``Z`` and offsets are understood; a time without zone is
    Beijing time. The result is aware UTC.
    """
    text = text.strip()[:64]
    match = _TIME.fullmatch(text)
    if match is None:
        compact = _COMPACT.fullmatch(text)
        if compact is None:
            return None
        year, month, day, hour, minute, second, zone = compact.groups()
        fraction = None
    else:
        year, month, day, hour, minute, second, fraction, zone = match.groups()
    micro = int((fraction or "0").ljust(6, "0")[:6])
    try:
        local = datetime(
            int(year),
            int(month),
            int(day),
            int(hour or 0),
            int(minute or 0),
            int(second or 0),
            micro,
            _zone(zone),
        )
        return local.astimezone(UTC)  # years before 1 and after 9999 overflow
    except (ValueError, OverflowError):
        return None


def _zone(text: str | None) -> timezone:
    if not text:
        return BEIJING
    if text == "Z":
        return UTC
    digits = text[1:].replace(":", "")
    offset = timedelta(hours=int(digits[:2]), minutes=int(digits[2:]))
    return timezone(-offset if text[0] == "-" else offset)


def write_time(value: datetime) -> str:
    """``2026-11-22T10:00:00`` in Beijing time. A naive datetime is a mistake of ours: ValueError."""
    if value.tzinfo is None:
        raise ValueError("a time without zone")
    return value.astimezone(BEIJING).strftime("%Y-%m-%dT%H:%M:%S")


def read_int(text: str) -> int | None:
    """An integer, also written as ``1.0`` or with blanks; None otherwise or above 18 digits."""
    text = text.strip()
    if len(text) > 18:
        return None
    try:
        return int(text)
    except ValueError:
        number = read_float(text)
        return None if number is None or number != int(number) else int(number)


def read_float(text: str) -> float | None:
    """A finite decimal number; None otherwise."""
    try:
        number = float(text[:40])
    except ValueError:
        return None
    return number if isfinite(number) else None


def write_float(value: float, digits: int) -> str:
    """At least one decimal, at most ``digits``."""
    text = f"{value:.{digits}f}".rstrip("0")
    return text + "0" if text.endswith(".") else text


def on_off(text: str) -> str:
    """Fold the status words of the field into ON and OFF; VLOST, DEFECT and words unknown stay (quirk 20)."""
    word = text.strip().upper()
    if word in _ONLINE:
        return "ON"
    return "OFF" if word in _OFFLINE else word


def online_offline(text: str) -> str:
    """ONLINE or OFFLINE whatever spelling came; other words in upper case."""
    word = on_off(text)
    return {"ON": "ONLINE", "OFF": "OFFLINE"}.get(word, word)


def ok_error(text: str) -> str:
    """resultType: OK or ERROR (2022 A.2.1.5). Every word that is not a yes is an ERROR."""
    return "OK" if text.strip().upper() in _OK else "ERROR"


def upper(text: str) -> str:
    return text.strip().upper()


def no_null(text: str) -> str:
    """The text ``null`` means nothing (quirk 19)."""
    return "" if text.strip().lower() == "null" else text
