"""Scripts of simulated devices: who it is, what it answers, what it does and when. YAML, checked field by field.

A mistake is a :class:`ScriptError` that names the line and the field. What a script can say is told, with examples, in
docs/howto/scripted-devices.md; this file is the reference.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)

from simulator.faults import Faults
from sip.manscdp import REGISTRY, CatalogItem
from sip.message import METHODS

MAX_BYTES = 1 << 20
MAX_STEPS = 1000
ACTIONS = (
    "alarm", "position", "notify", "xml", "sip", "keepalives", "catalog", "state", "add", "remove", "faults",
    "media", "register", "move", "expect", "log", "end",
)  # fmt: skip
COMMANDS = frozenset(cmd_type for _, cmd_type in REGISTRY)
HAPPENINGS = frozenset({"registered", "refused", "call", "call_ended"})
"""Events that are no request: registration granted or refused, media begin to flow, a call is over."""

_TYPES = {name: TypeAdapter(kind) for name, kind in get_type_hints(Faults).items()}
_FAULTS = {item.name for item in fields(Faults)}

Seconds = Annotated[float, Field(ge=0, le=86400)]
Code = Annotated[str, Field(pattern=r"^[0-9A-Za-z]{1,20}$")]
Status = Literal["ON", "OFF", "VLOST", "DEFECT"]


class ScriptError(ValueError):
    """The script cannot be played; the message says where and why."""


class _Loader(yaml.SafeLoader):
    """ON, OFF and the key ``on`` are words, not truth values: only true and false are those."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(?:true|false)$", re.IGNORECASE), list("tTfF")
)


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid", coerce_numbers_to_str=True)


def known_event(text: str) -> str:
    """An event: a SIP method, a CmdType, both as ``MESSAGE:Catalog``, or one of :data:`HAPPENINGS`."""
    method, _, command = text.partition(":")
    if text in HAPPENINGS or (method in METHODS and (not command or command.lower() in COMMANDS)):
        return text
    if not command and method.lower() in COMMANDS:
        return text
    raise ValueError(f"no such event: {text!r}; a method, a CmdType, METHOD:CmdType or {sorted(HAPPENINGS)}")


def checked_faults(value: dict[str, Any]) -> dict[str, Any]:
    """Fields of :class:`simulator.faults.Faults` with values that fit."""
    unknown = sorted(set(value) - _FAULTS)
    if unknown:
        raise ValueError(f"no such faults: {', '.join(unknown)}; there are {', '.join(sorted(_FAULTS))}")
    for name, given in value.items():
        try:
            value[name] = _TYPES[name].validate_python(given)
        except ValidationError as error:
            raise ValueError(f"{name}: {error.errors()[0]['msg']}") from None
    Faults(**value)  # knows the names of faults of streams and of SDP
    return value


class ChannelSpec(Part):
    """One catalog entry. ``item`` are further fields of the Item by the names of sip.manscdp.CatalogItem."""

    channel_id: Code
    name: str = ""
    status: Status = "ON"
    parents: list[str] = []
    item: dict[str, Any] = {}

    @field_validator("item")
    @classmethod
    def _fields(cls, value: dict[str, Any]) -> dict[str, Any]:
        unknown = sorted(set(value) - set(CatalogItem.model_fields) - {"directory"})
        if unknown:
            raise ValueError(f"a catalog Item has no {', '.join(unknown)}")
        return value


class DeviceSpec(Part):
    """Who it is. What is left out comes from the command line."""

    device_id: Code | None = None
    name: str = ""
    edition: Literal["2016", "2022"] | None = None
    transport: Literal["udp", "tcp"] | None = None
    password: str | None = None
    media: Literal["any", "udp", "tcp"] = "any"
    codec: Literal["h264", "h265"] | None = None
    charset: Literal["GB2312", "GB18030", "UTF-8"] | None = None
    manufacturer: str = "Simulator"
    model: str = "SIM-S"
    firmware: str = "1.0"
    user_agent: str = "scripted-device"
    page_size: Annotated[int, Field(ge=1, le=10_000)] = 4
    max_calls: Annotated[int, Field(ge=0, le=1000)] = 16
    expires_s: Annotated[int, Field(ge=1)] = 3600
    heartbeat_s: Annotated[float, Field(gt=0)] = 60.0
    channels: list[ChannelSpec] = []
    faults: dict[str, Any] = {}

    @field_validator("edition", mode="before")
    @classmethod
    def _edition(cls, value: object) -> object:
        return str(value) if isinstance(value, int) else value

    _faults = field_validator("faults")(checked_faults)


class AnswerSpec(Part):
    """What one method or CmdType is answered instead of the usual.

    ``status`` is the SIP status; ``silence`` answers nothing at all; ``unanswered`` gives the 200 but no Response.
    ``xml`` are whole bodies, one per message ({sn}, {device_id} and {channel_id} are filled in); ``fields`` replace
    fields of the usual answer by their names in sip.manscdp. ``times``: only so often, then as usual.
    """

    status: Annotated[int, Field(ge=200, le=699)] | None = None
    silence: bool = False
    unanswered: bool = False
    delay_s: Seconds = 0.0
    xml: str | list[str] | None = None
    fields: dict[str, Any] = {}
    error: bool = False
    times: Annotated[int, Field(ge=1)] | None = None


class AlarmSpec(Part):
    """Alarms by NOTIFY where there is a subscription, else by MESSAGE."""

    channel_id: str = ""
    method: Annotated[int, Field(ge=1, le=7)] = 5
    type: int | None = 2
    event_type: int | None = None
    priority: Annotated[int, Field(ge=1, le=4)] = 4
    description: str = ""
    via: Literal["auto", "message", "notify", "both"] = "auto"
    count: Annotated[int, Field(ge=1, le=1000)] = 1
    every_s: Seconds = 1.0


class PositionSpec(Part):
    longitude: Annotated[float, Field(ge=-180, le=180)]
    latitude: Annotated[float, Field(ge=-90, le=90)]


class NotifySpec(Part):
    """Any body by its model: ``fields`` by their names in sip.manscdp."""

    cmd_type: str
    root: Literal["Notify", "Response", "Query", "Control"] = "Notify"
    fields: dict[str, Any] = {}
    via: Literal["message", "catalog", "alarm", "mobileposition", "ptzposition"] = "message"

    @model_validator(mode="after")
    def _known(self) -> NotifySpec:
        model = REGISTRY.get((self.root.lower(), self.cmd_type.lower()))
        if model is None:
            raise ValueError(f"no {self.root} with CmdType {self.cmd_type}")
        unknown = sorted(set(self.fields) - set(model.model_fields))
        if unknown:
            raise ValueError(f"{self.root} {self.cmd_type} has no {', '.join(unknown)}")
        return self


class MoveSpec(Part):
    """Gone from its address without a word, and there again at another port or host."""

    host: str = ""
    after_s: Seconds = 0.0


class ExpectSpec(Part):
    """``event`` must come within so many seconds, so often, since the step before began; ``none``: it must not."""

    event: Annotated[str, Field(min_length=1)]
    within_s: Annotated[float, Field(gt=0, le=3600)] = 10.0
    count: Annotated[int, Field(ge=1)] = 1
    none: bool = False

    _event = field_validator("event")(known_event)


class Step(Part):
    """One thing to do.

    ``at_s`` waits until so long after the start, ``after`` for an event since the step before began, ``wait_s`` so long
    more. ``on`` makes it a reaction that is carried out each time its event comes, apart from the others.
    """

    at_s: Seconds | None = None
    after: str | None = None
    on: str | None = None
    wait_s: Seconds = 0.0
    times: Annotated[int, Field(ge=1, le=100_000)] = 1
    alarm: AlarmSpec | None = None
    position: PositionSpec | None = None
    notify: NotifySpec | None = None
    xml: str | None = None
    sip: str | None = None
    keepalives: Annotated[int, Field(ge=1, le=10_000)] | None = None
    catalog: list[str] | None = None
    """Send these entries (all, when empty) without being asked."""
    state: dict[str, Status] | None = None
    add: ChannelSpec | None = None
    remove: str | None = None
    faults: dict[str, Any] | None = None
    media: Literal["stop", "resume", "bye"] | None = None
    register_: Literal["again", "off"] | None = Field(default=None, alias="register")
    move: MoveSpec | None = None
    expect: ExpectSpec | None = None
    log: str | None = None
    end: Annotated[int, Field(ge=0, le=125)] | None = None

    @field_validator("after", "on")
    @classmethod
    def _events(cls, value: str | None) -> str | None:
        return known_event(value) if value is not None else None

    @field_validator("faults")
    @classmethod
    def _faults(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        return checked_faults(value) if value is not None else None

    @model_validator(mode="after")
    def _one(self) -> Step:
        if len(self.actions) != 1:
            raise ValueError(
                f"one of {', '.join(ACTIONS)} in each step, not {', '.join(self.actions) or 'none'}"
            )
        if self.on is not None and (self.at_s is not None or self.after is not None):
            raise ValueError("a step with `on` is a reaction: it has no `at_s` and no `after`")
        return self

    @property
    def actions(self) -> list[str]:
        return [name for name in ACTIONS if self.value(name) is not None]

    def value(self, action: str) -> Any:
        return getattr(self, "register_" if action == "register" else action)


class Script(Part):
    """The whole file."""

    device: DeviceSpec = DeviceSpec()
    answers: dict[str, AnswerSpec] = {}
    steps: Annotated[list[Step], Field(max_length=MAX_STEPS)] = []

    @field_validator("answers")
    @classmethod
    def _names(cls, value: dict[str, AnswerSpec]) -> dict[str, AnswerSpec]:
        for name in value:
            known_event(name)
        return value


def load(path: Path) -> Script:
    """Read and check a file. Raises ScriptError."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ScriptError(f"{path}: longer than {MAX_BYTES} bytes")
        return read(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise ScriptError(f"{path}: {error}") from error


def read(text: str, name: str = "script") -> Script:
    """Check a script's text. Raises ScriptError with one line per mistake."""
    try:
        tree = yaml.compose(text, Loader=_Loader)
        data = yaml.load(text, Loader=_Loader)  # noqa: S506  (a SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f"line {mark.line + 1}: " if mark is not None else ""
        raise ScriptError(f"{name}: {line}{getattr(error, 'problem', None) or error}") from None
    try:
        return Script.model_validate(data if data is not None else {})
    except ValidationError as error:
        lines = dict(_lines(tree)) if tree is not None else {}
        raise ScriptError("\n".join(_mistake(name, lines, found) for found in error.errors())) from None


def _lines(node: yaml.Node, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], int]]:
    """Line of every value of the document, counted from 1, by its path of keys and indexes."""
    yield path, node.start_mark.line + 1
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield (*path, key.value), key.start_mark.line + 1
            for found, line in _lines(value, (*path, key.value)):
                if found != (*path, key.value):
                    yield found, line
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield from _lines(value, (*path, index))


def _mistake(name: str, lines: dict[tuple[Any, ...], int], found: Any) -> str:
    location = tuple(found["loc"])
    known = location
    while known and known not in lines:
        known = known[:-1]
    field = ".".join(str(part) for part in location) or "script"
    return f"{name}: line {lines.get(known, 1)}: {field}: {found['msg'].removeprefix('Value error, ')}"
