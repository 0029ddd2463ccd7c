"""Reading and writing of MANSCDP bodies, driven by the :class:`sip.manscdp.base.Xml` marks of the models.

Reading is tolerant (names in any case, values stripped, unknown elements kept, broken documents repaired);
writing is exact (schema order, declared charset, edition of the peer).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from types import UnionType
from typing import Any, Union, cast, get_args, get_origin

from lxml import etree

from sip.errors import ParseError
from sip.manscdp import types
from sip.manscdp.base import REGISTRY, Body, Decoded, Edition, Element, UnknownBody, Xml
from sip.manscdp.charset import MAX_DEPTH, escape, read_text, write_bytes
from sip.manscdp.repair import scan

MAX_FAULTS = 100
_PARSER_OPTIONS: dict[str, Any] = {
    "encoding": "utf-8",
    "resolve_entities": False,
    "no_network": True,
    "load_dtd": False,
    "remove_comments": True,
    "remove_pis": True,
    "huge_tree": False,
}
_parser = etree.XMLParser(**_PARSER_OPTIONS)


@dataclass(slots=True)
class _Field:
    """One model field as the reader and the writer see it."""

    attribute: str
    xml: Xml
    kind: str
    """text | number | real | time | flag | texts (joined) | repeated (texts) | element | elements"""
    convert: Callable[[str], Any] | None = None
    model: type[Element] | None = None


@dataclass(slots=True)
class _Plan:
    """What may stand inside one element: fields by exact and lower-case name, groups by lower-case name."""

    fields: dict[str, _Field] = field(default_factory=dict)
    groups: dict[str, _Plan] = field(default_factory=dict)
    texts: dict[str, _Field] = field(default_factory=dict)
    """Fields that share their name with a group and are meant where the element holds text alone."""
    by_children: bool = False
    """Elements of unknown name are matched by what is in them."""


@dataclass(slots=True)
class _Model:
    """Everything known of one model class: plan for reading, fields in order for writing, values when nothing was read."""

    plan: _Plan
    ordered: dict[Edition, list[_Field]]
    absent: dict[str, Any]
    lists: tuple[str, ...]


class _Faults(list[str]):
    """Data-quality faults of one body, bounded."""

    def note(self, text: str) -> None:
        if len(self) < MAX_FAULTS:
            self.append(text[:200])


def decode(data: bytes, *, root_hint: str | None = None) -> Decoded:
    """Read a body.

    ``root_hint`` is the root that the carrying method implies (``Notify`` for a NOTIFY): where the document says
    another root but a command of that root exists, the hint wins (2016 J.20 sends ``Response`` in a NOTIFY, G111).
    Raises ParseError with label not_xml, dtd, too_big or too_deep; everything else comes back with faults.
    """
    text = read_text(data)
    faults = _Faults()
    root = _tree(text.text, faults)
    name, cmd_type = _local(root.tag), ""
    for child in root:
        if _local(child.tag).lower() == "cmdtype":
            cmd_type = (child.text or "").strip()
            break
    model = REGISTRY.get(((root_hint or name).lower(), cmd_type.lower())) or REGISTRY.get(
        (name.lower(), cmd_type.lower())
    )
    body = _read(root, model, faults) if model else _unknown(root, name, cmd_type, faults)
    return Decoded(cast(Body, body), text.charset, text.proven, list(faults), data)


def _tree(text: str, faults: _Faults) -> etree._Element:
    try:
        return etree.fromstring(text.encode("utf-8", "replace"), _parser)
    except etree.XMLSyntaxError as error:
        if "depth" in str(error).lower():
            raise ParseError("nested too deep", label="too_deep") from None
    root, damages = scan(text)
    for damage in damages:
        faults.note(damage)
    if not damages:
        faults.note("broken XML was repaired")
    return root


def _local(tag: object) -> str:
    name = str(tag)
    return name.rpartition("}")[2]


def _read(node: etree._Element, model: type[Element], faults: _Faults) -> Element:
    known = _model(model)
    values: dict[str, Any] = dict(known.absent)
    extras: dict[str, Any] = {}
    for name in known.lists:
        values[name] = []
    seen: set[str] = set()
    _fill(node, known.plan, values, extras, seen, faults)
    values["extras"] = extras
    instance = model.__new__(model)
    # The values were typed above; a second validation would cost more than the parser.
    object.__setattr__(instance, "__dict__", values)
    object.__setattr__(instance, "__pydantic_fields_set__", seen)
    object.__setattr__(instance, "__pydantic_extra__", None)
    object.__setattr__(instance, "__pydantic_private__", None)
    return instance


def _fill(
    node: etree._Element,
    plan: _Plan,
    values: dict[str, Any],
    extras: dict[str, Any],
    seen: set[str],
    faults: _Faults,
) -> None:
    fields = plan.fields
    for child in node:
        tag = child.tag
        found = fields.get(tag)
        if found is None:
            name = _local(tag)
            lower = name.lower()
            group = plan.groups.get(lower)
            if group is not None and len(child):
                inner: dict[str, Any] = {}
                _fill(child, group, values, inner, seen, faults)
                if inner:
                    _add(extras, name, inner)
                continue
            found = fields.get(lower) if group is None else plan.texts.get(lower)
            if found is None and plan.by_children and len(child):
                found = _alike(child, plan)
            if found is None:
                if lower != "cmdtype" and (group is None or (child.text or "").strip()):
                    _add(extras, name, _extra(child, 2))
                continue
        convert = found.convert
        if convert is None:
            _read_special(child, found, values, seen, faults)
            continue
        text = child.text
        if text is None or not (text := text.strip()):
            if len(child):
                _extra(child, 2)  # counts the depth
            continue
        value = convert(text)
        if value is None:
            faults.note(f"{values.get('device_id', '')}: {found.xml.name} is not readable: {text[:40]!r}")
            continue
        values[found.attribute] = value
        seen.add(found.attribute)


def _alike(node: etree._Element, plan: _Plan) -> _Field | None:
    """The one element field whose children ``node`` has, when at least two and most of them fit.

    A list is known by the children of its first item.
    """
    best, fitting = None, 1
    for candidate in plan.fields.values():
        if candidate.kind not in ("element", "elements"):
            continue
        names = _children_of(node, candidate.xml.items)
        known = _model(cast("type[Element]", candidate.model)).plan.fields
        count = len(names & known.keys())
        if count > fitting and 2 * count > len(names):
            best, fitting = candidate, count
    return best


def _children_of(node: etree._Element, items: str) -> set[str]:
    """Names below ``node``, or below its first child where all children are ``items``."""
    names = {_local(child.tag).lower() for child in node}
    if items and names == {items.lower()}:
        return {_local(child.tag).lower() for child in node[0]}
    return set() if items else names


def _read_special(
    child: etree._Element, found: _Field, values: dict[str, Any], seen: set[str], faults: _Faults
) -> None:
    """Everything that is not one value in one element."""
    attribute = found.attribute
    if found.kind == "flag":
        values[attribute] = True
    elif found.kind == "repeated":
        text = (child.text or "").strip()
        if text:
            values[attribute] = (*values[attribute], text)
    elif found.kind == "element":
        values[attribute] = _read(child, cast("type[Element]", found.model), faults)
    else:
        model = cast("type[Element]", found.model)
        wrapped = bool(found.xml.items) and _local(child.tag).lower() != found.xml.items.lower()
        for item in child if wrapped else (child,):
            if not wrapped or _local(item.tag).lower() == found.xml.items.lower():
                values[attribute].append(_read(item, model, faults))
    seen.add(attribute)


def _add(extras: dict[str, Any], name: str, value: Any) -> None:
    """Keep an unknown element; a repeated one becomes a list."""
    if name not in extras:
        extras[name] = value
    elif isinstance(extras[name], list):
        extras[name].append(value)
    else:
        extras[name] = [extras[name], value]


def _extra(node: etree._Element, depth: int) -> Any:
    if depth > MAX_DEPTH:
        raise ParseError("nested too deep", label="too_deep")
    if not len(node):
        return (node.text or "").strip()
    inner: dict[str, Any] = {}
    for child in node:
        _add(inner, _local(child.tag), _extra(child, depth + 1))
    return inner


def _unknown(root: etree._Element, name: str, cmd_type: str, faults: _Faults) -> UnknownBody:
    extras = _extra(root, 1)
    fields = {key.lower(): value for key, value in extras.items()} if isinstance(extras, dict) else {}
    sn, device_id = fields.get("sn", ""), fields.get("deviceid", "")
    number = types.read_int(sn) if isinstance(sn, str) else None
    if not cmd_type:
        faults.note("no CmdType")
    return UnknownBody(
        unknown_root=name,
        unknown_cmd_type=cmd_type,
        sn=number or 0,
        device_id=device_id if isinstance(device_id, str) else "",
        extras=extras if isinstance(extras, dict) else {},
    )


def encode(body: Body, *, charset: str | None = None, edition: Edition = Edition.V2016) -> bytes:
    """Write a body for a peer of ``edition``.

    ``charset`` is GB2312, GB18030 or UTF-8; None takes the edition's own (GB2312 for 2016, GB18030 for 2022).
    Fields of the other edition are left out.
    """
    parts = [f"<{body.root}>\r\n<CmdType>{escape(body.cmd_type)}</CmdType>\r\n"]
    _write_fields(body, edition, parts)
    parts.append(f"</{body.root}>\r\n")
    default = "GB2312" if edition is Edition.V2016 else "GB18030"
    return write_bytes("".join(parts), charset or default)


def _write_fields(element: Element, edition: Edition, parts: list[str]) -> None:
    element = element.completed(edition)
    open_groups: list[str] = []
    for found in _model(type(element)).ordered[edition]:
        xml = found.xml
        if xml.edition is not None and xml.edition is not edition:
            continue
        value = getattr(element, found.attribute)
        if not xml.always and (value is None or value is False or value == "" or value == () or value == []):
            continue
        path = element.place(xml, edition)
        wanted = path.split("/") if path else []
        if wanted != open_groups:
            _move(open_groups, wanted, parts)
            open_groups = wanted
        _write(found, value, edition, parts)
    _move(open_groups, [], parts)


def _move(open_groups: list[str], wanted: list[str], parts: list[str]) -> None:
    shared = 0
    while shared < min(len(open_groups), len(wanted)) and open_groups[shared] == wanted[shared]:
        shared += 1
    parts.extend(f"</{name}>\r\n" for name in reversed(open_groups[shared:]))
    parts.extend(f"<{name}>\r\n" for name in wanted[shared:])


def _write(found: _Field, value: Any, edition: Edition, parts: list[str]) -> None:
    xml = found.xml
    name = xml.spelled(edition)
    if found.kind == "elements":
        child = xml.items or name
        if xml.items:
            label = (xml.num_2016 or xml.num) if edition is Edition.V2016 else xml.num
            parts.append(f'<{name} {label}="{len(value)}">\r\n' if label else f"<{name}>\r\n")
        for item in value:
            parts.append(f"<{child}>\r\n")
            _write_fields(item, edition, parts)
            parts.append(f"</{child}>\r\n")
        if xml.items:
            parts.append(f"</{name}>\r\n")
    elif found.kind == "element":
        parts.append(f"<{name}>\r\n")
        _write_fields(value, edition, parts)
        parts.append(f"</{name}>\r\n")
    elif found.kind == "repeated":
        parts.extend(f"<{name}>{escape(text[: xml.limit or None])}</{name}>\r\n" for text in value)
    else:
        parts.append(f"<{name}>{escape(_text(found, value))}</{name}>\r\n")


def _text(found: _Field, value: Any) -> str:
    xml = found.xml
    if value is None:
        return ""
    if found.kind == "flag":
        return xml.flag
    if found.kind == "time":
        return types.write_time(value)
    if found.kind == "real":
        return types.write_float(value, xml.digits)
    if found.kind == "texts":
        return xml.separator.join(value)
    return str(value)[: xml.limit or None]


@cache
def _model(model: type[Element]) -> _Model:
    """Turn the marks of a model into reading and writing plans, once per class."""
    plan, ordered, absent, lists = _Plan(by_children=model.BY_CHILDREN), [], {}, []
    for attribute, info in model.model_fields.items():
        absent[attribute] = "" if isinstance(info.default, str) else info.default
        marks = [mark for mark in info.metadata if isinstance(mark, Xml)]
        if not marks:
            continue
        found = _field(attribute, marks[0], info.annotation)
        ordered.append(found)
        if found.kind == "elements":
            lists.append(attribute)
        if found.kind in ("texts", "repeated"):
            absent[attribute] = ()
        if found.kind == "flag":
            absent[attribute] = False
    for found in ordered:
        for path in {found.xml.group, found.xml.group_2016 or found.xml.group}:
            _place(plan, path, found)
    for found in ordered:  # a field that belongs into a group is also read beside it, where its name is free
        for name in _names(found):
            plan.fields.setdefault(name, found)
            plan.fields.setdefault(name.lower(), found)
        if found.kind == "elements" and found.xml.items:
            plan.fields.setdefault(found.xml.items.lower(), found)
    for name in [name for name in plan.fields if name.lower() in plan.groups]:
        plan.texts[name.lower()] = plan.fields.pop(name)
    absent.pop("extras", None)
    return _Model(plan, {Edition.V2022: ordered, Edition.V2016: _order_2016(ordered)}, absent, tuple(lists))


def _order_2016(ordered: list[_Field]) -> list[_Field]:
    """The order of 2016 where a field changed its place between the editions."""
    order = [found for found in ordered if not found.xml.after_2016]
    for found in ordered:
        if found.xml.after_2016:
            place = next(
                index for index, other in enumerate(order) if other.attribute == found.xml.after_2016
            )
            order.insert(place + 1, found)
    return order


def _place(plan: _Plan, path: str, found: _Field) -> None:
    for name in path.split("/") if path else ():
        plan = plan.groups.setdefault(name.lower(), _Plan())
    for name in _names(found):
        plan.fields[name] = found
        plan.fields[name.lower()] = found


def _names(found: _Field) -> list[str]:
    xml = found.xml
    return [name for name in (xml.name, xml.name_2016, *xml.also) if name]


_SIMPLE: dict[Any, tuple[str, Callable[[str], Any]]] = {
    int: ("number", types.read_int),
    float: ("real", types.read_float),
    datetime: ("time", types.read_time),
}


def _field(attribute: str, xml: Xml, annotation: Any) -> _Field:
    origin = get_origin(annotation)
    if origin in (Union, UnionType):
        annotation = next(part for part in get_args(annotation) if part is not type(None))
        origin = get_origin(annotation)
    if annotation is str:
        return _Field(attribute, xml, "text", xml.read or _same)
    if annotation is bool:
        return _Field(attribute, xml, "flag")
    if annotation in _SIMPLE:
        kind, convert = _SIMPLE[annotation]
        return _Field(attribute, xml, kind, convert)
    if origin is tuple:
        return (
            _Field(attribute, xml, "texts", _splitter(xml))
            if xml.separator
            else _Field(attribute, xml, "repeated")
        )
    if origin is list:
        return _Field(attribute, xml, "elements", model=get_args(annotation)[0])
    if isinstance(annotation, type) and issubclass(annotation, Element):
        return _Field(attribute, xml, "element", model=annotation)
    raise TypeError(f"{attribute}: no XML form for {annotation!r}")


def _same(text: str) -> str:
    return text


def _splitter(xml: Xml) -> Callable[[str], tuple[str, ...]]:
    read, separator = xml.read or _same, xml.separator

    def split(text: str) -> tuple[str, ...]:
        text = read(text)
        if separator not in text:
            return (text,) if text else ()
        return tuple(part for part in (part.strip() for part in text.split(separator)) if part)

    return split
