"""A forgiving scanner for documents that an XML parser refuses (quirks 2, 26, 2016 J.11).

It never fails on bad nesting, unquoted attributes (no attribute carries anything that is read), stray ``<`` or a
document cut short: good Items come out whole, damaged ones with the fields that could be read, and each damage
is reported by the Item's DeviceID.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from lxml import etree

from sip.errors import ParseError
from sip.manscdp.charset import MAX_DEPTH, MAX_ELEMENTS, escape

_TOKEN = re.compile(r"<(/?+)([A-Za-z_][A-Za-z0-9_.\-]*+)([^<>]*+)>")
_ENTITY = {"&lt;": "<", "&gt;": ">", "&quot;": '"', "&apos;": "'", "&amp;": "&"}
_REFERENCE = re.compile(r"&(?:lt|gt|quot|apos|amp|#[0-9]{1,7}|#x[0-9A-Fa-f]{1,6});")


def scan(text: str) -> tuple[etree._Element, list[str]]:
    """Build a tree from broken XML text (already cleaned by :func:`sip.manscdp.charset.read_text`).

    Returns the root and the faults. Raises ParseError: not_xml (no element at all), too_deep, too_big.
    """
    scanner = _Scanner()
    position = 0
    text = _without_section(_without_section(text, "<!--", "-->", None), "<![CDATA[", "]]>", escape)
    for match in _TOKEN.finditer(text):
        if match.start() > position:
            scanner.characters(text[position : match.start()])
        position = match.end()
        slash, name, rest = match.groups()
        if slash:
            scanner.close(name)
        elif not _is_attributes(rest):
            scanner.characters(match[0])
        else:
            scanner.open(name, rest)
        if scanner.finished:
            break
    return scanner.result()


def _without_section(text: str, begin: str, end: str, kept: Callable[[str], str] | None) -> str:
    """Drop comments, or turn CDATA into escaped text, in one pass whatever the text is."""
    parts, position = [], 0
    while (start := text.find(begin, position)) >= 0:
        stop = text.find(end, start + len(begin))
        if stop < 0:
            break
        parts.append(text[position:start])
        if kept is not None:
            parts.append(kept(text[start + len(begin) : stop]))
        position = stop + len(end)
    return "".join([*parts, text[position:]]) if position else text


def _is_attributes(rest: str) -> bool:
    stripped = rest.strip().removesuffix("/").strip()
    return not stripped or (rest[0].isspace() and "=" in stripped)


class _Scanner:
    """The open elements, innermost last, and what was wrong so far."""

    def __init__(self) -> None:
        self.root: etree._Element | None = None
        self.stack: list[etree._Element] = []
        self.faults: list[tuple[etree._Element | None, str]] = []
        self.elements = 0
        self.finished = False

    def open(self, name: str, rest: str) -> None:
        self.elements += 1
        if self.elements > MAX_ELEMENTS:
            raise ParseError("too many elements", label="too_big")
        if name.lower() == "item" and (depth := self._depth_of("item")):
            self._fault("Item was not closed")
            del self.stack[depth:]
        if len(self.stack) >= MAX_DEPTH:
            raise ParseError("nested too deep", label="too_deep")
        if self.root is None:
            element = self.root = etree.Element(name)
        else:
            element = etree.SubElement(self.stack[-1], name)
        if rest.rstrip().endswith("/"):
            self.finished = not self.stack
        else:
            self.stack.append(element)

    def close(self, name: str) -> None:
        depth = self._depth_of(name.lower())
        if depth is None:
            self._fault(f"{name[:40]} is closed but was not open")
            return
        if depth != len(self.stack) - 1:
            self._fault(f"{_name(self.stack[-1])} was not closed")
        del self.stack[depth:]
        self.finished = not self.stack

    def characters(self, text: str) -> None:
        if not self.stack or len(self.stack[-1]):
            return
        element = self.stack[-1]
        element.text = (element.text or "") + _plain(text)

    def result(self) -> tuple[etree._Element, list[str]]:
        if self.root is None:
            raise ParseError("no element", label="not_xml")
        if self.stack:
            self._drop_unfinished()
        return self.root, [_described(element, what) for element, what in self.faults]

    def _drop_unfinished(self) -> None:
        """The document ends in the middle: the Item or field that was open is incomplete."""
        depth = self._depth_of("item")
        open_element = self.stack[depth] if depth is not None else self.stack[-1]
        self.faults.append((open_element, "the document is cut short"))
        parent = open_element.getparent()
        if parent is not None:
            parent.remove(open_element)

    def _depth_of(self, name: str) -> int | None:
        for depth in range(len(self.stack) - 1, -1, -1):
            if _name(self.stack[depth]).lower() == name:
                return depth
        return None

    def _fault(self, what: str) -> None:
        if len(self.faults) < 100:
            depth = self._depth_of("item")
            self.faults.append((self.stack[depth] if depth is not None else None, what))


def _name(element: etree._Element) -> str:
    return str(element.tag)


def _plain(text: str) -> str:
    return _REFERENCE.sub(_resolve, text) if "&" in text else text


def _resolve(match: re.Match[str]) -> str:
    known = _ENTITY.get(match[0])
    if known is not None:
        return known
    digits = match[0][2:-1]
    return chr(int(digits[1:], 16) if digits[0] in "xX" else int(digits))


def _described(element: etree._Element | None, what: str) -> str:
    if element is None:
        return what
    for child in element:
        if _name(child).lower() == "deviceid":
            return f"{(child.text or '').strip()[:32]}: {what}"
    return f"{_name(element)}: {what}"
