"""Lists and sheets of devices: bounds, damaged files, headers, what an update leaves alone."""

from __future__ import annotations

import io
import random
import zipfile
from typing import Any

import pytest
from openpyxl import Workbook
from registration_peers import code, sheet

from gateway.events import EventBus
from gateway.model import Device
from gateway.registry import Registry
from gateway.services import provisioning_xlsx as xlsx
from gateway.services.provisioning_devices import DeviceProvisioning, Existing, Report, networks_of

OWN = "41018300002000000001"


def read(data: bytes) -> tuple[list[xlsx.Row], Report]:
    report = Report()
    return xlsx.read_rows(data, report), report


def packed(**members: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return out.getvalue()


def desk() -> tuple[DeviceProvisioning, Registry]:
    registry = Registry(bus=EventBus())
    return DeviceProvisioning(registry=registry, realm="4101830000", own_ids=frozenset({OWN})), registry


@pytest.mark.parametrize(
    "headers",
    [
        ["设备编码", "名称", "IP白名单"],
        ["Device ID", "NAME", "Allowed networks"],
        ["device_id *", "name", "白名单"],
    ],
)
def test_headers_in_both_languages(headers: list[str]) -> None:
    rows, report = read(sheet([headers, [code(1), "one", "10.0.0.1"]]))
    assert rows == [(2, {"device_id": code(1), "name": "one", "allowed_networks": "10.0.0.1"})]
    assert report.ignored_columns == []


def test_numbers_that_lost_digits_are_told_and_others_are_texts() -> None:
    rows, report = read(
        sheet([["device_id", "name", "password"], [4.101830000132e19, "x", ""], [code(2), 7, 123456.0]])
    )
    assert [(fault.row, fault.column) for fault in report.faults] == [(2, "device_id")]
    assert rows == [(3, {"device_id": code(2), "name": "7", "password": "123456"})]


@pytest.mark.parametrize("lines", [[], [["a", "b"]], [["device_id", "设备编码"], [code(1), code(2)]]])
def test_a_sheet_without_codes_or_with_two_columns_of_them(lines: list[Any]) -> None:
    with pytest.raises(xlsx.SheetFault):
        read(sheet(lines))


def test_bounds_of_rows_and_of_what_a_file_unpacks_to(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(xlsx.SheetFault, match="unpacks"):
        read(packed(**{"xl/worksheets/sheet1.xml": bytes(80 * 1024**2)}))  # 80 KB on the wire
    with pytest.raises(xlsx.SheetFault, match="bytes"):
        read(bytes(9 * 1024**2))
    with pytest.raises(xlsx.SheetFault, match="unpacks"):
        read(packed(**{f"a{number}": b"x" for number in range(300)}))
    with pytest.raises(xlsx.SheetFault, match="entities"):
        read(packed(**{"xl/workbook.xml": b'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>'}))
    monkeypatch.setattr(xlsx, "MAX_ROWS", 3)
    with pytest.raises(xlsx.SheetFault, match="more than 3 devices"):
        read(sheet([["device_id"], *([code(number)] for number in range(4))]))


def test_a_line_far_below_costs_no_million_lines() -> None:
    book = Workbook()
    book.worksheets[0].append(["device_id"])
    book.worksheets[0].cell(1_048_576, 1, code(1))
    out = io.BytesIO()
    book.save(out)
    with pytest.raises(xlsx.SheetFault, match="lines"):
        read(out.getvalue())


def test_damaged_files_are_refused_with_a_word_and_never_crash() -> None:
    whole = sheet([["device_id", "name"], *([code(number), f"n{number}"] for number in range(20))])
    dice, refused = random.Random(7), 0
    for _ in range(300):
        data = bytearray(whole)
        for _ in range(dice.randrange(1, 6)):
            data[dice.randrange(len(data))] = dice.randrange(256)
        try:
            read(bytes(data[: dice.choice((len(data), dice.randrange(len(data))))]))
        except xlsx.SheetFault:
            refused += 1
    assert refused > 100


def test_names_that_look_like_formulas_stay_names() -> None:
    data = xlsx.export([{"device_id": code(1), "name": "=HYPERLINK(1)"}], "en")
    assert b"<f>" not in b"".join(
        zipfile.ZipFile(io.BytesIO(data)).read(name) for name in zipfile.ZipFile(io.BytesIO(data)).namelist()
    )
    rows, report = read(data)
    assert rows[0][1]["name"] == "=HYPERLINK(1)"
    assert report.ignored_columns == []  # the export's columns of facts are known


def test_networks() -> None:
    assert networks_of("10.0.0.1，10.1.2.3/16; 10.0.0.1\n2001:db8::/32") == (
        "10.0.0.1/32",
        "10.1.0.0/16",
        "2001:db8::/32",
    )
    assert networks_of([]) == networks_of("") == ()
    with pytest.raises(ValueError, match=r"no network: 10\.0\.0\.300"):
        networks_of("10.0.0.300")


async def test_all_or_nothing_unless_asked() -> None:
    entering, registry = desk()
    rows: list[Any] = [(1, {"device_id": code(1)}), (2, {"device_id": "12"}), (3, {"device_id": OWN})]
    report = await entering.enter(rows)
    assert (report.applied, report.good, report.fault_count, len(registry.devices)) == (False, 1, 2, 0)
    report = await entering.enter(rows, good_rows=True)
    assert (report.applied, report.created, list(registry.devices)) == (True, 1, [code(1)])
    report = await entering.enter(rows[:1], existing=Existing.REFUSE)
    assert [fault.reason for fault in report.faults] == ["exists already"]
    report = await entering.enter([(1, {"device_id": code(1), "name": "x"})], existing=Existing.SKIP)
    assert (report.skipped, registry.devices[code(1)].name) == (1, "")


async def test_an_update_leaves_alone_what_the_row_does_not_say() -> None:
    entering, registry = desk()
    full = {
        "device_id": code(1), "name": "gate", "password": "Own-Password-1", "allowed_networks": "10.0.0.0/8",
        "media_transport": "udp", "charset": "GB2312",
    }  # fmt: skip
    await entering.enter([(1, full)])
    secret = registry.secrets[code(1)]
    report = await entering.enter([(1, {"device_id": code(1)})])
    assert (report.unchanged, report.updated) == (1, 0)
    device = registry.devices[code(1)]
    assert (device.name, device.profile.allowed_networks, device.profile.charset) == (
        "gate",
        ("10.0.0.0/8",),
        "GB2312",
    )
    assert registry.secrets[code(1)] is secret
    report = await entering.enter(
        [(1, {"device_id": code(1), "allowed_networks": "*", "password": "Own-Password-2"})]
    )
    assert report.updated == 1
    assert device.profile.allowed_networks == ()
    assert registry.secrets[code(1)] != secret
    assert "Own-Password" not in repr(report) + repr(registry.secrets[code(1)])


async def test_faults_are_bounded_and_hold_no_password() -> None:
    entering, registry = desk()
    rows = [(number, {"device_id": "x" * 100, "password": "p" * 200}) for number in range(1, 3001)]
    report = await entering.enter(rows)
    assert (report.fault_count, len(report.faults)) == (6000, 1000)
    assert not any("ppp" in fault.value + fault.reason for fault in report.faults)
    assert max(len(fault.value) for fault in report.faults) <= 64
    assert not registry.devices


async def test_our_own_virtual_device_is_not_touched() -> None:
    entering, registry = desk()
    own = registry.put_device(Device(code(9), name="inputs"))
    own.profile.local = True
    report = await entering.enter([(1, {"device_id": code(9), "name": "other"})])
    assert (report.skipped, own.name) == (1, "inputs")
