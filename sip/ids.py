"""The 20-digit codes, the directory codes and the ten-digit SSRC (GB/T 28181-2022 annexes E and G note 16).

The reader is liberal: letters and odd lengths occur in the field and are of kind OTHER. The generators are strict.
"""

from __future__ import annotations

import heapq
import re
import secrets
from collections import deque
from dataclasses import dataclass
from enum import StrEnum

from sip.errors import LocalError

_CODE = re.compile(r"\d{20}", re.ASCII)
_SESSION_ID = re.compile(r"[0-9A-Za-z-]{32,128}", re.ASCII)
_DIVISION = re.compile(r"\d{2}|\d{4}|\d{6}|\d{8}", re.ASCII)
PROVINCES = frozenset(
    [
        "11",
        "12",
        "13",
        "14",
        "15",
        "21",
        "22",
        "23",
        "31",
        "32",
        "33",
        "34",
        "35",
        "36",
        "37",
        "41",
        "42",
        "43",
        "44",
        "45",
        "46",
        "50",
        "51",
        "52",
        "53",
        "54",
        "61",
        "62",
        "63",
        "64",
        "65",
        "71",
        "81",
        "82",
        "91",
    ]
)


class TypeKind(StrEnum):
    """What a code stands for, by digits 11-13 (E.1). Values equal those of the gateway's ChannelKind."""

    CAMERA = "camera"
    ALARM = "alarm"
    AUDIO_IN = "audio_in"
    AUDIO_OUT = "audio_out"
    DIVISION = "division"
    BUSINESS_GROUP = "business_group"
    VIRTUAL_ORGANISATION = "virtual_organisation"
    SYSTEM = "system"
    DEVICE = "device"
    OTHER = "other"


_KINDS = {
    121: TypeKind.CAMERA,
    131: TypeKind.CAMERA,
    132: TypeKind.CAMERA,
    134: TypeKind.ALARM,
    135: TypeKind.ALARM,
    140: TypeKind.ALARM,
    136: TypeKind.AUDIO_IN,
    137: TypeKind.AUDIO_OUT,
    138: TypeKind.DEVICE,
    215: TypeKind.BUSINESS_GROUP,
    216: TypeKind.VIRTUAL_ORGANISATION,
}
RECORDERS = frozenset({111, 112, 113, 118, 122, 130})
"""Main devices with channels of their own: DVR, video server, encoder, NVR, multi-lens device, HVR."""


@dataclass(frozen=True, slots=True)
class DeviceCode:
    """The six fields of a 20-digit code: 6 + 2 + 2 + 3 + 1 + 6 digits."""

    area: str
    unit: str
    industry: str
    type: int
    network: int
    serial: int

    def __str__(self) -> str:
        return f"{self.area}{self.unit}{self.industry}{self.type:03d}{self.network}{self.serial:06d}"

    @property
    def kind(self) -> TypeKind:
        return type_kind(self.type)


def parse_code(text: str) -> DeviceCode | None:
    """Split a code; None when it is not 20 ASCII digits."""
    if not _CODE.fullmatch(text):
        return None
    return DeviceCode(text[:6], text[6:8], text[8:10], int(text[10:13]), int(text[13]), int(text[14:]))


def make_code(
    area: str, type_code: int, serial: int, *, unit: str = "00", industry: str = "00", network: int = 0
) -> str:
    """Build a code strictly. Raises LocalError for a field that does not fit.

    ``area`` is 2, 4 or 6 digits of an administrative division and is zero-filled below its level (E.1).
    """
    if not re.fullmatch(r"\d{2}|\d{4}|\d{6}", area, re.ASCII) or area[:2] not in PROVINCES:
        raise LocalError(f"no area code: {area!r}")
    if not (re.fullmatch(r"\d{2}", unit, re.ASCII) and re.fullmatch(r"\d{2}", industry, re.ASCII)):
        raise LocalError(f"unit and industry are two digits each: {unit!r} {industry!r}")
    if not (100 <= type_code <= 999 and 0 <= network <= 9 and 0 <= serial <= 999_999):
        raise LocalError(f"type, network or serial out of range: {type_code} {network} {serial}")
    return str(DeviceCode(area.ljust(6, "0"), unit, industry, type_code, network, serial))


def make_session_id() -> str:
    """A fresh SessionID of upgrades and snapshots: 32 characters, never the same twice (2022 A.2.1.24, G174)."""
    return secrets.token_hex(16)


def is_session_id(text: str) -> bool:
    """32 to 128 letters, digits and ``-``."""
    return _SESSION_ID.fullmatch(text) is not None


def is_code(text: str) -> bool:
    return _CODE.fullmatch(text) is not None


def is_division(text: str) -> bool:
    """True for an administrative division: 2, 4, 6 or 8 digits."""
    return _DIVISION.fullmatch(text) is not None


def type_kind(type_code: int) -> TypeKind:
    """Kind of a type code, digits 11-13."""
    if type_code in _KINDS:
        return _KINDS[type_code]
    if 111 <= type_code <= 130:
        return TypeKind.DEVICE
    if 200 <= type_code <= 299 or 500 <= type_code <= 599:
        return TypeKind.SYSTEM
    return TypeKind.OTHER


def kind_of(code: str) -> TypeKind:
    """Kind of any id of a catalog: a 20-digit code, a division of 2 to 8 digits, or OTHER."""
    if len(code) == 20 and code.isascii() and code.isdigit():
        return type_kind(int(code[10:13]))
    return TypeKind.DIVISION if is_division(code) else TypeKind.OTHER


def domain_of(code: str) -> str:
    """SIP domain of a code: its first ten digits (6.1.2)."""
    return code[:10]


def parent_divisions(code: str) -> list[str]:
    """The divisions above a division, nearest first: 410183 is under 4101 under 41. Zero pairs are no level."""
    trimmed = trim_division(code)
    return [trimmed[:length] for length in range(len(trimmed) - 2, 0, -2)]


def trim_division(code: str) -> str:
    """A division without its zero fill: 410100 is 4101."""
    while len(code) > 2 and code.endswith("00"):
        code = code[:-2]
    return code


def valid_civil_code(text: str, device_id: str = "") -> str:
    """The longest valid division in a CivilCode as received, else the area of ``device_id``, else empty (G103).

    ``null``, ten digits and whole ids are what peers send. Eight digits ending in 00 name no basic unit: six.
    """
    text = text.strip()
    digits = re.match(r"\d*", text, re.ASCII)
    found = digits.group() if digits else ""
    if found[:2] in PROVINCES and (len(found) == len(text)):
        cut = found[: min(len(found) // 2 * 2, 8)]
        return cut[:6] if len(cut) == 8 and cut.endswith("00") else cut
    if device_id and is_code(device_id) and device_id[:2] in PROVINCES:
        return device_id[:6]
    return ""


class Grassroots(StrEnum):
    """What the first three digits of a GrassrootsCode name (E.3)."""

    NONE = "none"
    STREET = "street"
    TOWN = "town"
    TOWNSHIP = "township"
    TOWNSHIP_LIKE = "township_like"
    INVALID = "invalid"


def grassroots_kind(code: str) -> Grassroots:
    """Check a six-digit GrassrootsCode: 3 township + 3 village digits; 000000 where nothing is built (E.3)."""
    if not re.fullmatch(r"\d{6}", code, re.ASCII):
        return Grassroots.INVALID
    township, village = int(code[:3]), int(code[3:])
    if township == 0:
        return Grassroots.NONE if village == 0 else Grassroots.INVALID
    if village >= 600:
        return Grassroots.INVALID
    for limit, kind in ((99, "STREET"), (199, "TOWN"), (399, "TOWNSHIP"), (599, "TOWNSHIP_LIKE")):
        if township <= limit:
            return Grassroots[kind]
    return Grassroots.INVALID


def township_key(civil_code: str, grassroots_code: str, device_id: str = "") -> str | None:
    """Key that groups channels by township: nine digits, or eight from the device's basic unit, or None (G273).

    ``410183`` with grassroots ``104002`` is ``410183104``. Without a usable grassroots code the basic access
    unit of the id (digits 7-8) serves; ``None`` leaves the choice to the virtual organisation.
    """
    area = valid_civil_code(civil_code, device_id)
    if len(area) >= 6 and grassroots_kind(grassroots_code) not in (Grassroots.NONE, Grassroots.INVALID):
        return area[:6] + grassroots_code[:3]
    if len(area) == 8:
        return area
    if is_code(device_id) and device_id[6:8] != "00" and device_id[:2] in PROVINCES:
        return device_id[:8]
    return None


_INDUSTRIES = [
    "public-security road",
    "community",
    "internal",
    "other public security",
    "traffic road",
    "traffic checkpoint",
    "traffic internal",
    "other traffic",
    "city management",
    "health and environment",
    "inspection and customs",
    "education authority",
]
_INDUSTRIES_2022 = ("civil aviation", "railway", "shipping")
_ENTERPRISES_2016 = [
    "farming forestry fishery",
    "mining",
    "manufacturing",
    "metallurgy",
    "electric power",
    "gas",
    "construction",
    "logistics",
    "post",
    "information",
    "lodging and catering",
    "finance",
    "real estate",
    "business services",
    "water",
    "entertainment",
]
_ENTERPRISES_2022 = [
    "farming forestry fishery",
    "mining",
    "manufacturing",
    "electricity heat gas water",
    "construction",
    "wholesale and retail",
    "transport storage post",
    "lodging and catering",
    "information and software",
    "finance",
    "real estate",
    "leasing and business services",
    "research and technical services",
    "water environment public facilities",
    "residents' services and repair",
    "education",
    "health and social work",
    "culture sports entertainment",
    "public administration",
    "international organisations",
]


def industry_label(industry: str, *, edition_2022: bool) -> str:
    """English label of the industry digits; 43 to 59 mean different things in the two editions (E.2, G272)."""
    number = int(industry) if re.fullmatch(r"\d{2}", industry, re.ASCII) else -1
    if 0 <= number < len(_INDUSTRIES):
        return _INDUSTRIES[number]
    if edition_2022 and 12 <= number <= 14:
        return _INDUSTRIES_2022[number - 12]
    enterprises = _ENTERPRISES_2022 if edition_2022 else _ENTERPRISES_2016
    if 40 <= number < 40 + len(enterprises):
        return enterprises[number - 40]
    return "user defined" if number >= 90 else "reserved"


def format_ssrc(ssrc: int) -> str:
    """Ten decimal digits for ``y=`` and Subject."""
    return f"{ssrc:010d}"


def parse_ssrc(text: str) -> int | None:
    """Read a ``y=`` value: decimal, blanks and line ends around it ignored; None above 32 bits or not a number."""
    text = text.strip().split("\0", 1)[0].strip()
    if not text or len(text) > 12 or not (text.isascii() and text.isdecimal()):
        return None
    value = int(text)
    return value if value <= 0xFFFFFFFF else None


class SsrcExhausted(LocalError):
    """All 10,000 values of a kind are in use or resting; toward a peer this is 486."""


class SsrcPool:
    """Hands out SSRC values of our domain; a released value rests before it is used again.

    Ten digits: 0 live or 1 history, digits 4-8 of the domain, four of our choice (annex G note 16). Values go
    round, so the one released last comes back last. ``rest_s``: seconds of rest (WVP-style single-port uppers
    mix streams when a value comes back at once).
    """

    def __init__(self, domain: str, *, rest_s: float = 60.0) -> None:
        digits = domain[3:8]
        if not re.fullmatch(r"\d{5}", digits, re.ASCII):
            raise LocalError(f"a domain needs eight digits for SSRC values: {domain!r}")
        self._bases = {"live": int(digits) * 10_000, "history": 1_000_000_000 + int(digits) * 10_000}
        self._free = {kind: deque(range(10_000)) for kind in self._bases}
        if self._bases["live"] == 0:
            self._free["live"].remove(0)  # 0000000000 means "no SSRC" to many peers
        self._leased: set[int] = set()
        self._resting: dict[str, list[tuple[float, int]]] = {kind: [] for kind in self._bases}
        self.rest_s = rest_s

    @property
    def leased(self) -> int:
        """How many values are in use, for the gauge (quirk 29)."""
        return len(self._leased)

    def resting(self, now: float) -> int:
        """How many released values may not be used yet."""
        return sum(1 for heap in self._resting.values() for ready, _ in heap if ready > now)

    def lease(self, kind: str, now: float) -> int:
        """Take a value for ``live`` or ``history``. Raises SsrcExhausted when none is free."""
        heap, free = self._resting[kind], self._free[kind]
        while heap and heap[0][0] <= now:
            free.append(heapq.heappop(heap)[1])
        if not free:
            raise SsrcExhausted(f"no {kind} SSRC is free")
        ssrc = self._bases[kind] + free.popleft()
        self._leased.add(ssrc)
        return ssrc

    def reserve(self, ssrc: int) -> None:
        """Mark a value as in use that an earlier life of the process gave out (journal)."""
        kind = self._kind(ssrc)
        if kind is None or ssrc in self._leased:
            return
        serial = ssrc - self._bases[kind]
        self._leased.add(ssrc)
        self._free[kind] = deque(other for other in self._free[kind] if other != serial)
        self._resting[kind] = sorted(entry for entry in self._resting[kind] if entry[1] != serial)

    def release(self, ssrc: int, now: float) -> None:
        """Give a value back; it rests until ``now + rest_s``. Values that are not leased are ignored."""
        kind = self._kind(ssrc)
        if kind is None or ssrc not in self._leased:
            return
        self._leased.discard(ssrc)
        heapq.heappush(self._resting[kind], (now + self.rest_s, ssrc - self._bases[kind]))

    def _kind(self, ssrc: int) -> str | None:
        for kind, base in self._bases.items():
            if base <= ssrc < base + 10_000:
                return kind
        return None
