"""Sheets of devices (.xlsx): read within bounds, a template to fill in, and the list of what is there.

Headers are Chinese or English. A file is looked at as an archive before anything of it is unpacked, and rows are read
one by one. Everything here blocks: callers use a thread.
"""

from __future__ import annotations

import io
import logging
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

from openpyxl import Workbook, load_workbook
from openpyxl.cell import WriteOnlyCell
from openpyxl.utils import get_column_letter
from openpyxl.utils.exceptions import InvalidFileException

from gateway.services.provisioning_devices import MAX_ROWS, Report

logger = logging.getLogger(__name__)

MEDIA_TYPE = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"
MAX_FILE_BYTES = 8 * 1024**2
MAX_UNPACKED_BYTES = 64 * 1024**2
MAX_MEMBERS = 200
MAX_COLUMNS = 64
MAX_LINES = 4 * MAX_ROWS
"""Lines looked at, empty ones included."""
HEADER_WITHIN = 10
Language = Literal["zh", "en"]

COLUMNS: dict[str, tuple[str, str]] = {
    "device_id": ("设备编码", "Device ID"),
    "name": ("设备名称", "Name"),
    "password": ("密码", "Password"),
    "digest_username": ("认证用户名", "Digest username"),
    "allowed_networks": ("允许网段", "Allowed networks"),
    "media_transport": ("媒体传输", "Media transport"),
    "charset": ("字符集", "Charset"),
}
"""Columns that are taken in: key, then its header in Chinese and English."""
FACTS: dict[str, tuple[str, str]] = {
    "password_set": ("已设密码", "Password set"),
    "state": ("状态", "State"),
    "address": ("地址", "Address"),
    "manufacturer": ("厂商", "Manufacturer"),
    "model": ("型号", "Model"),
    "edition": ("标准版本", "Edition"),
    "registered_at": ("注册时间", "Registered at"),
    "last_seen_at": ("最后在线", "Last seen"),
}
"""Columns of the export that say how a device stands; an import leaves them out."""
_ALIASES: dict[str, str] = {
    "编码": "device_id", "国标编码": "device_id", "设备国标编码": "device_id", "设备id": "device_id", "code": "device_id",
    "名称": "name", "设备名": "name", "device name": "name",
    "注册密码": "password", "设备密码": "password", "sip密码": "password", "sip password": "password",
    "用户名": "digest_username", "username": "digest_username", "sip认证用户名": "digest_username",
    "ip白名单": "allowed_networks", "白名单": "allowed_networks", "允许ip": "allowed_networks",
    "ip allow list": "allowed_networks",
    "传输方式": "media_transport", "编码格式": "charset",
}  # fmt: skip
_NOTES: dict[str, tuple[str, str]] = {
    "device_id": ("必填，20位国标编码，请保持文本格式", "Required: 20 digits; keep the cells as text"),
    "name": ("可空", "May be empty"),
    "password": (
        "设备注册密码；空白：不变或用域密码",
        "Registration password; empty: unchanged, or the domain's",
    ),
    "digest_username": ("仅当设备用户名与编码不同时填写", "Only when the device logs in under another name"),
    "allowed_networks": (
        "允许注册的地址或网段，用逗号分隔；* 表示任意",
        "Addresses or CIDR it may register from, separated by commas; * for any",
    ),
    "media_transport": ("udp、tcp_passive、tcp_active 或空", "udp, tcp_passive, tcp_active or empty"),
    "charset": ("GB2312、GB18030、UTF-8 或空", "GB2312, GB18030, UTF-8 or empty"),
}


_DAMAGED = (
    AttributeError,
    EOFError,
    IndexError,
    InvalidFileException,
    KeyError,
    NotImplementedError,
    OSError,
    SyntaxError,  # of the XML parsers
    TypeError,
    ValueError,
    zipfile.BadZipFile,
    zlib.error,
)
"""What openpyxl and its parsers raise for files that are none, found by damaging good ones."""


class SheetFault(Exception):
    """The file as a whole cannot be used; the message is for the user."""


def _known_headers() -> dict[str, str]:
    known = dict(_ALIASES)
    for key, names in {**COLUMNS, **FACTS}.items():
        known |= {key: key, **{name.lower(): key for name in names}}
    return known


_HEADERS = _known_headers()

Row = tuple[int, dict[str, Any]]


def read_rows(data: bytes, report: Report) -> list[Row]:
    """Rows as (line of the sheet, values by column) of the first sheet. Faults of cells go to the report.

    Raises SheetFault when the file is no sheet, is too big, or has no column with codes.
    """
    _look_at_archive(data)
    try:
        book = load_workbook(io.BytesIO(data), read_only=True, data_only=True, keep_links=False)
    except _DAMAGED as error:
        raise SheetFault("the file cannot be read as .xlsx") from error
    try:
        sheet = book.worksheets[0] if book.worksheets else None
        if sheet is None:
            raise SheetFault("the file has no sheet")
        sheet.reset_dimensions()
        lines = sheet.iter_rows(max_col=MAX_COLUMNS, values_only=True)
        return _rows_of(enumerate(lines, start=1), report)
    except _DAMAGED as error:
        raise SheetFault("the sheet is damaged") from error
    finally:
        book.close()


def _look_at_archive(data: bytes) -> None:
    """Refuse what would unpack to far more than it is, and XML that declares entities."""
    if len(data) > MAX_FILE_BYTES:
        raise SheetFault(f"the file may have {MAX_FILE_BYTES} bytes")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
            if len(members) > MAX_MEMBERS or sum(one.file_size for one in members) > MAX_UNPACKED_BYTES:
                raise SheetFault(f"the file unpacks to more than {MAX_UNPACKED_BYTES} bytes")
            if any(one.flag_bits & 0x1 for one in members):
                raise SheetFault("the file is encrypted")
            for one in members:
                with archive.open(one) as member:
                    head = member.read(4096)
                if b"<!DOCTYPE" in head or b"<!ENTITY" in head or b"<\x00!\x00D" in head:
                    raise SheetFault("the file declares entities")
    except _DAMAGED as error:
        raise SheetFault("the file is no .xlsx") from error


def _rows_of(lines: Iterable[tuple[int, Sequence[Any]]], report: Report) -> list[Row]:
    columns: dict[int, str] = {}
    rows: list[Row] = []
    for number, cells in lines:
        if number > MAX_LINES:
            raise SheetFault(f"the sheet has more than {MAX_LINES} lines")
        if all(cell is None or not str(cell).strip() for cell in cells):
            continue
        if not columns:
            columns = _header(cells, report)
            if not columns and number >= HEADER_WITHIN:
                break
            continue
        if len(rows) >= MAX_ROWS:
            raise SheetFault(f"the sheet has more than {MAX_ROWS} devices")
        values = _values(number, cells, columns, report)
        if values is not None:
            rows.append((number, values))
    if not columns:
        raise SheetFault("no line with headers: a column 设备编码 or Device ID is needed")
    return rows


def _header(cells: Sequence[Any], report: Report) -> dict[int, str]:
    """Index to key, {} when this line has no column of codes."""
    found: dict[int, str] = {}
    ignored: list[str] = []
    for index, cell in enumerate(cells):
        text = str(cell).strip() if cell is not None else ""
        key = _HEADERS.get(text.lower().rstrip("*＊ "))
        if key in COLUMNS:
            if key in found.values():
                raise SheetFault(f"two columns for {key}")
            found[index] = key
        elif text and key is None:
            ignored.append(text[:64])
    if "device_id" not in found.values():
        return {}
    report.ignored_columns = ignored
    return found


def _values(
    number: int, cells: Sequence[Any], columns: dict[int, str], report: Report
) -> dict[str, Any] | None:
    """The texts of one line; None (and a fault) for a code that the sheet's program has turned into a number."""
    values: dict[str, Any] = {}
    for index, key in columns.items():
        cell = cells[index] if index < len(cells) else None
        if cell is None:
            continue
        if isinstance(cell, float) and cell.is_integer() and abs(cell) < 1e15:
            cell = int(cell)
        if key == "device_id" and isinstance(cell, int | float):
            report.fault(
                number, key, "the code was entered as a number and lost digits: format the column as text"
            )
            return None
        values[key] = str(cell)
    return values


# -- writing ---------------------------------------------------------------------------------------------------


def template(language: Language) -> bytes:
    """An empty sheet with headers, cells formatted as text, and a second sheet that explains the columns."""
    book = Workbook()
    sheet = book.worksheets[0]
    which = 0 if language == "zh" else 1
    sheet.title = ("设备", "Devices")[which]
    for index, (key, names) in enumerate(COLUMNS.items(), start=1):
        sheet.cell(1, index, names[which])
        letter = get_column_letter(index)
        sheet.column_dimensions[letter].number_format = "@"
        sheet.column_dimensions[letter].width = 26 if key == "device_id" else 18
        for line in range(2, 502):
            sheet.cell(line, index).number_format = "@"
    sheet.freeze_panes = "A2"
    help_sheet = book.create_sheet(("说明", "Help")[which])
    for key, names in COLUMNS.items():
        help_sheet.append([names[which], _NOTES[key][which]])
    help_sheet.column_dimensions["A"].width, help_sheet.column_dimensions["B"].width = 20, 80
    return _saved(book)


def export(devices: Iterable[dict[str, str]], language: Language) -> bytes:
    """One line per device by the keys of COLUMNS and FACTS; the column of passwords stays empty."""
    book = Workbook(write_only=True)
    which = 0 if language == "zh" else 1
    sheet = book.create_sheet(("设备", "Devices")[which])
    sheet.append([names[which] for names in (*COLUMNS.values(), *FACTS.values())])
    for device in devices:
        sheet.append(list(_texts(sheet, device)))
    return _saved(book)


def _texts(sheet: Any, device: dict[str, str]) -> Iterator[Any]:
    for key in (*COLUMNS, *FACTS):
        text = "".join(char for char in device.get(key, "") if char >= " ")
        cell = WriteOnlyCell(sheet, text)
        cell.data_type = "s"  # a name that begins with = is no formula
        cell.number_format = "@"
        yield cell


def _saved(book: Workbook) -> bytes:
    out = io.BytesIO()
    book.save(out)
    return out.getvalue()
