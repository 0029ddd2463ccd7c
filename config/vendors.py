"""What devices of a make or model need, as data: vendors.yaml and a user's own file of the same form, checked and matched.

A profile here holds only what is said; what is not said is left to the gateway's defaults. Facts without a setting stand
in ``notes``, so that an operator who looks at a device reads them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from config.load import ConfigurationError, Problem, read_yaml

VENDORS_FILE = Path(__file__).parent / "vendors.yaml"
MediaTransport = Literal["udp", "tcp_passive", "tcp_active"]
Pattern = Annotated[str, Field(min_length=2, max_length=128)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ProfileSettings(_Strict):
    """Settings of a profile; None: nothing is said. The one list of them: YAML, API and the layers are checked by it."""

    media_transport: MediaTransport | None = Field(
        default=None, description="The way that is tried first for media; tcp_passive: the device dials us."
    )
    media_ladder: tuple[MediaTransport, ...] | None = Field(
        default=None,
        min_length=1,
        max_length=3,
        description="Ways that may be tried, in this order; without it all three.",
    )
    sdp_form: Literal["standard", "long", "plain"] | None = Field(
        default=None, description="long: long list of payload types; plain: neither y= nor f=."
    )
    charset: Literal["GB2312", "GB18030", "UTF-8"] | None = Field(
        default=None, description="Character set of what is sent to it; without it that of its edition."
    )
    ssrc: Literal["learn", "strict", "own"] | None = Field(
        default=None,
        description="learn: any SSRC that keeps coming; strict: only the agreed one; own: ours, whatever it answers.",
    )
    send_date: bool | None = Field(default=None, description="Date header in the answer to REGISTER.")
    heartbeat_revives: bool | None = Field(
        default=None, description="A heartbeat brings an expired registration back."
    )
    edition: Literal["1.0", "1.1", "2.0", "3.0"] | None = Field(
        default=None, description="Edition to speak with it, whatever it says of itself."
    )
    max_streams: Annotated[int, Field(ge=1, le=1000)] | None = Field(
        default=None, description="Streams it gives at the same time."
    )
    stream_number_dialect: Annotated[str, Field(pattern=r"^[A-Za-z0-9_]{1,32}$")] | None = Field(
        default=None,
        description="Attribute that names the sub stream in SDP: streamnumber, streamprofile, stream ...",
    )
    record_query_hours: Annotated[int, Field(ge=1, le=744)] | None = Field(
        default=None, description="Longest stretch of one query for its recordings; longer ones are split."
    )
    talk_mode: Literal["auto", "broadcast", "talk"] | None = Field(
        default=None, description="How sound is brought to it: the Broadcast flow, or INVITE with s=Talk."
    )
    talk_audio: Literal["raw", "ps"] | None = Field(
        default=None, description="Sound to it as plain RTP, or inside a program stream."
    )
    audio_output: Literal["auto", "yes", "no"] | None = Field(
        default=None, description="Whether it has a loudspeaker; auto: when its catalog names one (type 137)."
    )

    @field_validator("media_ladder")
    @classmethod
    def _each_once(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if value is not None and len(set(value)) != len(value):
            raise ValueError("a way is named twice")
        return value

    def said(self) -> dict[str, Any]:
        """The settings that are said, by name."""
        return {name: value for name, value in self if value is not None}


class Patterns(_Strict):
    """Shell patterns (``*`` and ``?``), compared without regard to case."""

    manufacturer: tuple[Pattern, ...] = ()
    model: tuple[Pattern, ...] = ()
    firmware: tuple[Pattern, ...] = ()
    user_agent: tuple[Pattern, ...] = ()

    def hits(self, told: Mapping[str, str]) -> Iterator[bool]:
        """For each kind of pattern that is given, whether the device's text fits one of them."""
        for kind, patterns in self:
            if patterns:
                text = told.get(kind, "").casefold()
                yield any(fnmatchcase(text, pattern.casefold()) for pattern in patterns)

    @property
    def empty(self) -> bool:
        return not any(patterns for _, patterns in self)


class Note(_Strict):
    """A fact about the make that no setting expresses. ``quirk``: its number in the list of field quirks."""

    text: Annotated[str, Field(min_length=5, max_length=400)]
    quirk: Annotated[int, Field(ge=1, le=99)] | None = None


class ModelRule(_Strict):
    """Some models or firmwares of a vendor: all kinds of patterns that are given must fit."""

    match: Patterns
    profile: ProfileSettings = ProfileSettings()
    notes: tuple[Note, ...] = ()

    @field_validator("match")
    @classmethod
    def _something(cls, value: Patterns) -> Patterns:
        if value.empty:
            raise ValueError("name at least one pattern")
        return value


class Vendor(_Strict):
    """One make: it is recognised by any of its patterns."""

    name: Annotated[str, Field(min_length=1, max_length=64)]
    match: Patterns
    profile: ProfileSettings = ProfileSettings()
    notes: tuple[Note, ...] = ()
    models: tuple[ModelRule, ...] = ()


VendorKey = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,31}$")]


class _VendorFile(_Strict):
    vendors: dict[VendorKey, Vendor] = {}


@dataclass(frozen=True, slots=True)
class Match:
    """What the data say of one device. ``vendor`` is the key in the file, ``rules`` the indexes of model rules that fit."""

    vendor: str
    name: str
    settings: Mapping[str, Any]
    notes: tuple[Note, ...]
    rules: tuple[int, ...] = ()


class Vendors:
    """All vendors of the given files, later files over earlier ones."""

    def __init__(self, vendors: Mapping[str, Vendor]) -> None:
        self.vendors = dict(vendors)
        self._seen: dict[tuple[str, str, str, str], Match | None] = {}

    def match(
        self, *, manufacturer: str, model: str = "", firmware: str = "", user_agent: str = ""
    ) -> Match | None:
        """The vendor of a device and what its data say, model rules over the vendor's own; None: unknown make."""
        key = (manufacturer, model, firmware, user_agent)
        if key in self._seen:
            return self._seen[key]
        found = self._match(dict(zip(Patterns.model_fields, key, strict=True)))
        if len(self._seen) >= 10_000:  # texts come from devices
            self._seen.clear()
        self._seen[key] = found
        return found

    def _match(self, told: Mapping[str, str]) -> Match | None:
        for key, vendor in self.vendors.items():
            if any(vendor.match.hits(told)):
                rules = [
                    (index, rule) for index, rule in enumerate(vendor.models) if all(rule.match.hits(told))
                ]
                settings = vendor.profile.said()
                notes = list(vendor.notes)
                for _, rule in rules:
                    settings |= rule.profile.said()
                    notes.extend(rule.notes)
                return Match(key, vendor.name, settings, tuple(notes), tuple(index for index, _ in rules))
        return None


def load_vendors(own: Path | None = None, *, shipped: Path = VENDORS_FILE) -> Vendors:
    """Read the shipped file and a user's ``own`` one. Raises ConfigurationError naming file and line of each fault.

    A vendor of the same key is extended by the own file: its settings win, its patterns, notes and models are added.
    """
    vendors = _read(shipped)
    if own is not None:
        additions = _read(own)
        merged = {
            key: _extended(vendors[key], vendor) if key in vendors else vendor
            for key, vendor in additions.items()
        }
        vendors = merged | {key: vendor for key, vendor in vendors.items() if key not in merged}
    return Vendors(vendors)


def _extended(base: Vendor, own: Vendor) -> Vendor:
    return Vendor(
        name=own.name,
        match=Patterns(**{kind: (*patterns, *getattr(own.match, kind)) for kind, patterns in base.match}),
        profile=ProfileSettings(**(base.profile.said() | own.profile.said())),
        notes=(*base.notes, *own.notes),
        models=(*base.models, *own.models),
    )


def _read(path: Path) -> dict[str, Vendor]:
    data, lines = read_yaml(path)
    try:
        return _VendorFile.model_validate(data).vendors
    except ValidationError as error:
        raise ConfigurationError(
            [_problem(item["loc"], item["msg"], path, lines) for item in error.errors()]
        ) from None


def _problem(
    location: Sequence[int | str], message: str, path: Path, lines: Mapping[tuple[str, ...], int]
) -> Problem:
    keys = tuple(str(part) for part in location if part != "[key]")
    if message == "Extra inputs are not permitted":
        message = "there is no such key"
    message = re.sub(r"^Value error, ", "", message)
    line = next((lines[keys[:length]] for length in range(len(keys), 0, -1) if keys[:length] in lines), None)
    return Problem(".".join(keys), message, str(path), line)
