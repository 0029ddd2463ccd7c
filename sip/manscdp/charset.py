"""From bytes to clean XML text and back: charset by the bytes, junk removed, dangerous documents refused.

The label of the document is not believed (quirk 1): strict UTF-8 first, else GB18030, which holds GB2312 and GBK.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from sip.errors import ParseError
from sip.manscdp.base import Charset

MAX_BYTES = 2 * 1024 * 1024
MAX_ELEMENTS = 100_000
MAX_DEPTH = 16

_C0 = bytes(code for code in range(0x20) if code not in (0x09, 0x0A, 0x0D))
_BOM = b"\xef\xbb\xbf"
_GB_BOM = b"\x84\x31\x95\x33"
_LABEL = re.compile(rb"<\?xml[^>]{0,200}?encoding\s{0,8}=\s{0,8}[\"']?([A-Za-z0-9_\-]{1,20})", re.IGNORECASE)
_DTD = re.compile(r"<!\s{0,8}(?:DOCTYPE|ENTITY|ELEMENT|ATTLIST|NOTATION)", re.IGNORECASE)
_STRAY = re.compile(r"&(?!(?:amp|lt|gt|quot|apos|#[0-9]{1,7}|#x[0-9A-Fa-f]{1,6});)")
_REFERENCE = re.compile(r"&#(x?)([0-9A-Fa-f]{1,7});")
_INVALID = re.compile("[\ufffe\uffff]")
_ESCAPES: dict[int, str | None] = {
    ord("&"): "&amp;",
    ord("<"): "&lt;",
    ord(">"): "&gt;",
    0xFFFE: None,
    0xFFFF: None,
}
_ESCAPES.update(dict.fromkeys(_C0))


@dataclass(frozen=True, slots=True)
class Text:
    """XML text without declaration, BOM, NUL bytes and stray ``&``; its charset, and whether the bytes proved it."""

    text: str
    charset: Charset
    proven: bool


def read_text(data: bytes) -> Text:
    """Decode and clean a body. Raises ParseError: too_big, not_xml, dtd."""
    if len(data) > MAX_BYTES or data.count(b"<") > 2 * MAX_ELEMENTS:
        raise ParseError("body too big", label="too_big", status=413)
    text, charset, proven = _decode(data)
    if "<!" in text and _DTD.search(text):
        raise ParseError("document type declarations are refused", label="dtd")
    start = text.find("<")
    if start < 0:
        raise ParseError("no XML", label="not_xml")
    if text.startswith("<?", start):
        end = text.find(">", start, start + 512)
        start = text.find("<", end) if end > 0 else -1
        if start < 0:
            raise ParseError("no XML after the declaration", label="not_xml")
    text = text[start:]
    if "&" in text:
        text = _STRAY.sub("&amp;", text)
        if "&#" in text:
            text = _REFERENCE.sub(_checked_reference, text)
    return Text(text, charset, proven)


def _decode(data: bytes) -> tuple[str, Charset, bool]:
    if data.startswith(_BOM):
        data = data[3:]
    elif data.startswith(_GB_BOM):
        data = data[4:]
    clean = data.translate(None, _C0)
    if clean.isascii():
        label = _LABEL.search(clean, 0, 300)
        utf8 = label is not None and label[1].lower() in (b"utf-8", b"utf8")
        return clean.decode("ascii"), "UTF-8" if utf8 else "GB18030", False
    try:
        text, charset = clean.decode("utf-8"), "UTF-8"
    except UnicodeDecodeError:
        text, charset = clean.decode("gb18030", "replace"), "GB18030"
    if "\ufffe" in text or "\uffff" in text:
        text = _INVALID.sub("", text)
    return text, charset, True  # type: ignore[return-value]


def _checked_reference(match: re.Match[str]) -> str:
    """A character reference that XML allows stays; any other is dropped."""
    digits = match[2]
    if not match[1] and not digits.isdecimal():
        return ""
    code = int(digits, 16 if match[1] else 10)
    allowed = (
        code in (9, 10, 13)
        or 0x20 <= code <= 0xD7FF
        or 0xE000 <= code <= 0xFFFD
        or 0x10000 <= code <= 0x10FFFF
    )
    return match[0] if allowed else ""


def escape(text: str) -> str:
    """Text for element content: markup escaped, characters that XML does not know dropped."""
    return text.translate(_ESCAPES)


def write_bytes(document: str, charset: str) -> bytes:
    """Declare and encode a document; declaration and bytes always agree (G071).

    A character outside GB2312 turns a document for a 2016 peer into GB18030, label and bytes together: nothing
    is lost, and readers of GBK understand all but the rare characters.
    """
    if charset == "GB2312":
        try:
            return f'<?xml version="1.0" encoding="GB2312"?>\r\n{document}'.encode("gb2312")
        except UnicodeEncodeError:
            charset = "GB18030"
    return f'<?xml version="1.0" encoding="{charset}"?>\r\n{document}'.encode(charset.lower(), "replace")
