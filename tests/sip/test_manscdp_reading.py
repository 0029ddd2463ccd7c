"""Tolerant reading of MANSCDP: charsets, damaged documents, limits, words of the field."""

from __future__ import annotations

import time
from datetime import UTC, datetime

import pytest

from sip.errors import RemoteError
from sip.manscdp import (
    AlarmNotify,
    CatalogNotify,
    CatalogResponse,
    ConfigDownloadResponse,
    DeviceControl,
    DeviceInfoResponse,
    DeviceStatusResponse,
    Edition,
    KeepaliveNotify,
    MobilePositionNotify,
    PresetResponse,
    RecordInfoResponse,
    UnknownBody,
    decode,
    encode,
    keepalive_fields,
)
from sip.manscdp.types import read_float, read_int, read_time, write_time

ID = "41018300001320000001"


def catalog(items: str, *, label: str = "GB2312", sum_num: int = 1) -> str:
    return (
        f'<?xml version="1.0" encoding="{label}"?>\r\n<Response>\r\n<CmdType>Catalog</CmdType>\r\n<SN>7</SN>\r\n'
        f"<DeviceID>41018300001180000001</DeviceID>\r\n<SumNum>{sum_num}</SumNum>\r\n"
        f'<DeviceList Num="{sum_num}">\r\n{items}</DeviceList>\r\n</Response>\r\n'
    )


def item(code: str = ID, name: str = "a", rest: str = "") -> str:
    return f"<Item><DeviceID>{code}</DeviceID><Name>{name}</Name>{rest}</Item>"


def items_of(data: bytes) -> CatalogResponse:
    body = decode(data).body
    assert isinstance(body, CatalogResponse)
    return body


# --- charset -------------------------------------------------------------------------------------------------


@pytest.mark.gb("G072")
@pytest.mark.quirk(1)
@pytest.mark.parametrize(
    ("label", "codec", "name", "charset"),
    [
        ("GB2312", "gbk", "萳浠路口", "GB18030"),
        ("GB2312", "utf-8", "青屏大街", "UTF-8"),
        ("UTF-8", "gb18030", "青屏大街", "GB18030"),
        ("UTF-8", "gb18030", "䶮湖", "GB18030"),
        ("gb18030", "utf-8", "䶮湖", "UTF-8"),
        ("GB2312", "gb2312", "新密", "GB18030"),
        ("us-ascii", "gb18030", "新密", "GB18030"),
    ],
)
def test_bytes_decide_the_charset_whatever_the_label(label: str, codec: str, name: str, charset: str) -> None:
    data = catalog(item(name=name), label=label).encode(codec)
    decoded = decode(data)
    assert decoded.body.items[0].name == name  # type: ignore[attr-defined]
    assert (decoded.charset, decoded.proven, decoded.faults) == (charset, True, [])
    assert decoded.raw == data


def test_plain_ascii_proves_nothing() -> None:
    assert (
        decode(catalog(item(), label="UTF-8").encode()).charset,
        decode(catalog(item()).encode()).proven,
    ) == (
        "UTF-8",
        False,
    )


@pytest.mark.gb("G071")
@pytest.mark.parametrize(
    ("name", "edition", "label", "codec"),
    [
        ("新密", Edition.V2016, b"GB2312", "gb2312"),
        ("䶮", Edition.V2016, b"GB18030", "gb18030"),
        ("新密䶮", Edition.V2022, b"GB18030", "gb18030"),
    ],
)
def test_declaration_and_bytes_agree(name: str, edition: Edition, label: bytes, codec: str) -> None:
    data = encode(DeviceInfoResponse(sn=1, device_id=ID, device_name=name), edition=edition)
    assert label in data.partition(b"?>")[0]
    assert f"<DeviceName>{name}</DeviceName>".encode(codec) in data
    assert decode(data).body.device_name == name  # type: ignore[attr-defined]


def test_a_peer_may_get_utf8() -> None:
    data = encode(DeviceInfoResponse(sn=1, device_id=ID, device_name="新密"), charset="UTF-8")
    assert b'encoding="UTF-8"' in data
    assert "新密".encode() in data


@pytest.mark.gb("G081")
@pytest.mark.parametrize(
    "dress",
    [
        lambda text: b"\xef\xbb\xbf" + text.encode(),
        lambda text: b"\r\n\r\n \t" + text.encode(),
        lambda text: text.encode() + b"\0\0\0 \r\n\0",
        lambda text: text.partition("?>")[2].encode(),
        lambda text: b"\0\x01" + text.encode() + b"trailing",
        lambda text: text.replace('"?>', '" standalone="yes" ?>').encode(),
    ],
    ids=["BOM", "blank lines", "NUL tail", "no declaration", "junk around", "standalone"],
)
def test_dressed_bodies_parse(dress: object) -> None:
    body = items_of(dress(catalog(item())))  # type: ignore[operator]
    assert body.sn == 7
    assert body.items[0].device_id == ID


# --- names, values, extensions -------------------------------------------------------------------------------


@pytest.mark.gb("G074")
def test_names_in_any_case_values_stripped_unknown_kept() -> None:
    text = catalog(
        "<item><deviceid> 41018300001320000001 </deviceid><NAME> a </NAME><secrecy> 0 </secrecy>"
        "<INFO><ptztype>3</ptztype><X1>y</X1></INFO><Extra><A>1</A><A>2</A></Extra></item>"
    ).replace('Num="1"', "NUM=' 1 '")
    found = items_of(text.encode()).items[0]
    assert (found.device_id, found.name, found.secrecy, found.ptz_type) == (ID, "a", 0, 3)
    assert found.extras == {"Info": {"X1": "y"}, "INFO": {"X1": "y"}} or found.extras["Extra"] == {
        "A": ["1", "2"]
    }
    info = decode(
        b"<Response><CmdType>DeviceInfo</CmdType><SN>1</SN><DeviceType>IPC</DeviceType><MaxCamera>4</MaxCamera></Response>"
    ).body
    assert isinstance(info, DeviceInfoResponse)
    assert (info.extras, info.channel) == ({"DeviceType": "IPC"}, 4)


def test_answers_repeat_what_they_are_given() -> None:
    one, two = (encode(DeviceInfoResponse(sn=sn, device_id=ID)) for sn in (17, 18))
    assert (decode(one).body.sn, decode(two).body.sn) == (17, 18)


@pytest.mark.gb("G079")
@pytest.mark.parametrize("name", ["A&B <1>", "\"'&amp;", "a\x00b\x1fc", "]]>", "&#65;"])
def test_special_characters_survive_the_round_trip(name: str) -> None:
    data = encode(DeviceInfoResponse(sn=1, device_id=ID, device_name=name))
    assert decode(data).faults == []
    assert decode(data).body.device_name == name.replace("\x00", "").replace("\x1f", "")  # type: ignore[attr-defined]


@pytest.mark.gb("G077")
def test_extension_text_is_cut_at_1024_characters() -> None:
    for edition, name in ((Edition.V2022, "ExtraInfo"), (Edition.V2016, "Info")):
        text = encode(
            DeviceInfoResponse(sn=1, device_id=ID, extra_info=("新" * 2048,)), edition=edition
        ).decode("gb18030")
        assert f"<{name}>{'新' * 1024}</{name}>" in text


@pytest.mark.gb("G088")
@pytest.mark.quirk(19)
def test_parents_are_a_set_and_null_is_nothing() -> None:
    found = items_of(
        catalog(
            item(
                rest="<ParentID>41018300001180000001/ 41018300002160000002/</ParentID><CivilCode>null</CivilCode>"
            )
        ).encode()
    ).items[0]
    assert found.parent_ids == ("41018300001180000001", "41018300002160000002")
    assert found.civil_code == ""


@pytest.mark.gb("G093")
@pytest.mark.quirk(20)
@pytest.mark.parametrize(
    ("word", "status"),
    [
        ("on", "ON"),
        ("OK", "ON"),
        ("Online", "ON"),
        ("1", "ON"),
        ("OFF", "OFF"),
        ("0", "OFF"),
        ("vlost", "VLOST"),
    ],
)
def test_status_words(word: str, status: str) -> None:
    assert items_of(catalog(item(rest=f"<Status> {word} </Status>")).encode()).items[0].status == status


@pytest.mark.quirk(19)
def test_doubled_elements_do_no_harm() -> None:
    found = items_of(
        catalog(item(rest="<Secrecy>0</Secrecy><RegisterWay>1</RegisterWay><Secrecy>0</Secrecy>")).encode()
    )
    assert (found.items[0].secrecy, found.items[0].register_way) == (0, 1)


# --- damage --------------------------------------------------------------------------------------------------


@pytest.mark.quirk(2)
def test_a_stray_ampersand_harms_nothing() -> None:
    decoded = decode(catalog(item(name="A & B &copy; &#0; &lt;C")).encode())
    assert decoded.body.items[0].name == "A & B &copy;  <C"  # type: ignore[attr-defined]
    assert decoded.faults == []


@pytest.mark.quirk(2)
def test_garbage_in_one_field_costs_neither_the_others_nor_the_item() -> None:
    """An Address with random bytes, among them < and >, as a camera once sent it."""
    garbage = b"<Address>KPK'@@\x81/<@P<Zq>KL\x01\xff</Address><Status>ON</Status>"
    text = catalog(item("41018300001320000001", "one", "@@") + item("41018300001320000002", "two"), sum_num=2)
    decoded = decode(text.encode().replace(b"@@", garbage))
    first, second = decoded.body.items  # type: ignore[attr-defined]
    assert (first.device_id, first.name, first.status) == ("41018300001320000001", "one", "ON")
    assert second.name == "two"
    assert decoded.faults == ["41018300001320000001: Zq was not closed"]


@pytest.mark.quirk(2)
@pytest.mark.parametrize(
    ("broken", "names", "fault"),
    [
        (
            item() + "</Item>" + item("41018300001320000002", "b"),
            ["a", "b"],
            "Item is closed but was not open",
        ),
        (
            f"<Item><DeviceID>{ID}</DeviceID><Name>a</Name>" + item("41018300001320000002", "b"),
            ["a", "b"],
            f"{ID}: Item was not closed",
        ),
        (
            item(rest="<Model>x</Modell>") + item("41018300001320000002", "b"),
            ["a", "b"],
            f"{ID}: Modell is closed",
        ),
    ],
    ids=["closed twice", "not closed", "misspelled end"],
)
def test_broken_nesting_keeps_the_items(broken: str, names: list[str], fault: str) -> None:
    decoded = decode(catalog(broken).encode())
    assert [found.name for found in decoded.body.items] == names  # type: ignore[attr-defined]
    assert decoded.faults[0].startswith(fault)


@pytest.mark.quirk(2)
def test_a_document_cut_short_keeps_its_whole_items() -> None:
    text = catalog(item() + item("41018300001320000002", "b"))
    decoded = decode(text[: text.index("<Name>b")].encode())
    assert [found.device_id for found in decoded.body.items] == [ID]  # type: ignore[attr-defined]
    assert decoded.body.sum_num == 1  # type: ignore[attr-defined]
    assert decoded.faults == ["41018300001320000002: the document is cut short"]


@pytest.mark.gb("G124")
def test_unquoted_attribute() -> None:
    data = (
        b"<Response><CmdType>DeviceStatus</CmdType><SN>1</SN><DeviceID>41018300001340000001</DeviceID><Result>OK</Result>"
        b"<Online>ONLINE</Online><Status>OK</Status><Alarmstatus Num=2><Item><DeviceID>41018300001340000001</DeviceID>"
        b"<DutyStatus>OFFDUTY</DutyStatus></Item><Item><DeviceID>41018300001340000002</DeviceID><DutyStatus>alarm</DutyStatus>"
        b"</Item></Alarmstatus></Response>"
    )
    body = decode(data).body
    assert isinstance(body, DeviceStatusResponse)
    assert [found.duty_status for found in body.alarm_status] == ["OFFDUTY", "ALARM"]


@pytest.mark.gb("G125")
@pytest.mark.parametrize("name", ['Alarmstatus num="1"', 'AlarmStatus Num="1"', "ALARMSTATUS"])
def test_spellings_of_alarmstatus(name: str) -> None:
    data = (
        f"<Response><CmdType>DeviceStatus</CmdType><SN>1</SN><DeviceID>{ID}</DeviceID><Result>OK</Result><Online>online</Online>"
        f"<Status>OK</Status><{name}><Item><DeviceID>41018300001340000001</DeviceID><DutyStatus>ONDUTY</DutyStatus></Item>"
        f"</{name.split()[0]}></Response>"
    )
    body = decode(data.encode()).body
    assert isinstance(body, DeviceStatusResponse)
    assert (body.online, body.alarm_status[0].duty_status) == ("ONLINE", "ONDUTY")


def test_what_was_not_said_is_not_invented() -> None:
    body = decode(b"<Response><CmdType>DeviceStatus</CmdType><SN>1</SN></Response>").body
    assert isinstance(body, DeviceStatusResponse)
    assert (body.online, body.result, body.status) == ("", "", "")


def test_unreadable_values_are_faults() -> None:
    decoded = decode(
        catalog(item(rest="<Longitude>east</Longitude><Port>5060.0</Port><Latitude>nan</Latitude>")).encode()
    )
    assert decoded.body.items[0].port == 5060  # type: ignore[attr-defined]
    assert decoded.faults == [
        f"{ID}: Longitude is not readable: 'east'",
        f"{ID}: Latitude is not readable: 'nan'",
    ]


# --- limits --------------------------------------------------------------------------------------------------


@pytest.mark.gb("G076")
@pytest.mark.parametrize(
    ("data", "label"),
    [
        (
            b'<?xml version="1.0"?><!DOCTYPE r [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;">]><Notify>&b;</Notify>',
            "dtd",
        ),
        (b'<!DOCTYPE r SYSTEM "file:///etc/passwd"><Notify/>', "dtd"),
        (
            b"<Notify><CmdType>Catalog</CmdType><X>" + b"<a>" * 40 + b"</a>" * 40 + b"</X></Notify>",
            "too_deep",
        ),
        (b"<Notify>" + b"<a>" * 5000 + b"</Notify>", "too_deep"),
        (b"<Notify>" + b"<a/>" * 300_000 + b"</Notify>", "too_big"),
        (b"<Notify>" + b" " * 3_000_000 + b"</Notify>", "too_big"),
        (b"v=0\r\n", "not_xml"),
        (b"", "not_xml"),
        (b"<?xml version='1.0'?>", "not_xml"),
        (b"< < <", "not_xml"),
    ],
    ids=[
        "entities",
        "external",
        "deep",
        "deeper",
        "many",
        "long",
        "no XML",
        "empty",
        "only declaration",
        "no element",
    ],
)
def test_dangerous_bodies_are_refused(data: bytes, label: str) -> None:
    start = time.perf_counter()
    with pytest.raises(RemoteError) as caught:
        decode(data)
    assert caught.value.label == label
    assert caught.value.status in (400, 413)
    assert time.perf_counter() - start < 5


def test_entities_are_not_resolved() -> None:
    assert decode(b"<Notify><CmdType>&xxe;</CmdType></Notify>").body.cmd_type == "&xxe;"


# --- roots, commands -----------------------------------------------------------------------------------------


@pytest.mark.gb("G111")
def test_a_notification_with_the_root_response_is_a_notification() -> None:
    data = catalog(f"<Item><DeviceID>{ID}</DeviceID><Event>off</Event></Item>").replace(
        "<SumNum>", "<Status>OK</Status><SumNum>"
    )
    body = decode(data.encode(), root_hint="Notify").body
    assert isinstance(body, CatalogNotify)
    assert body.items[0].event == "OFF"
    assert isinstance(decode(data.encode()).body, CatalogResponse)


def test_an_unknown_command_is_kept_whole() -> None:
    body = decode(
        b"<Notify><CmdType>Foo</CmdType><SN>3</SN><DeviceID>41018300001320000001</DeviceID><A><B>1</B></A></Notify>"
    ).body
    assert isinstance(body, UnknownBody)
    assert (body.root, body.cmd_type, body.sn, body.device_id) == ("Notify", "Foo", 3, ID)
    assert body.extras["A"] == {"B": "1"}


@pytest.mark.gb("G170")
@pytest.mark.parametrize("name", ["IFameCmd", "IFrameCmd", "ifamecmd"])
def test_both_spellings_of_the_key_frame_command_are_read(name: str) -> None:
    body = decode(
        f"<Control><CmdType>DeviceControl</CmdType><SN>1</SN><DeviceID>{ID}</DeviceID><{name}>Send</{name}></Control>".encode()
    ).body
    assert isinstance(body, DeviceControl)
    assert body.iframe
    assert not body.wants_response


@pytest.mark.gb("G170")
def test_the_key_frame_command_is_spelled_by_edition() -> None:
    command = DeviceControl(sn=1, device_id=ID, iframe=True)
    assert b"<IFameCmd>Send</IFameCmd>" in encode(command, edition=Edition.V2016)
    assert b"<IFrameCmd>Send</IFrameCmd>" in encode(command, edition=Edition.V2022)


@pytest.mark.gb("G169")
def test_preset_names_go_to_2022_peers_only() -> None:
    command = DeviceControl(sn=1, device_id=ID, ptz_cmd="A50F018100010037", preset_name="x")
    assert b"<PTZCmdParams>" not in encode(command, edition=Edition.V2016)
    assert b"<PTZCmdParams>\r\n<PresetName>x</PresetName>\r\n</PTZCmdParams>" in encode(
        command, edition=Edition.V2022
    )


@pytest.mark.gb("G171")
def test_drag_zoom_has_all_six_numbers() -> None:
    data = decode(
        b"<Control><CmdType>DeviceControl</CmdType><SN>1</SN><DragZoomIn><Length>1920</Length><Width>1080</Width><MidPointX>960</MidPointX>"
        b"<MidPointY>540</MidPointY><LengthX>400</LengthX><LengthY>225</LengthY></DragZoomIn></Control>"
    ).body
    assert isinstance(data, DeviceControl)
    zoom = data.drag_zoom_in
    assert zoom is not None
    assert (zoom.length, zoom.width, zoom.mid_point_x, zoom.mid_point_y, zoom.length_x, zoom.length_y) == (
        1920,
        1080,
        960,
        540,
        400,
        225,
    )
    assert encode(data).count(b"<L") == 3


def test_which_controls_are_answered() -> None:
    samples = {
        "record_cmd": "Record",
        "guard_cmd": "SetGuard",
        "alarm_cmd": "ResetAlarm",
        "ptz_cmd": "A50F0100000000B5",
        "teleboot": True,
        "iframe": True,
        "format_sd_card": 0,
        "target_track": "Auto",
    }
    answered = {
        name for name, value in samples.items() if DeviceControl(sn=1, **{name: value}).wants_response
    }  # type: ignore[arg-type]
    assert answered == {"record_cmd", "guard_cmd", "alarm_cmd"}


@pytest.mark.gb("G128")
@pytest.mark.parametrize("sum_num", ["<SumNum>1</SumNum>", ""])
def test_presets_with_and_without_a_total(sum_num: str) -> None:
    body = decode(
        f"<Response><CmdType>PresetQuery</CmdType><SN>1</SN><DeviceID>{ID}</DeviceID>{sum_num}"
        "<PresetList Num='1'><Item><PresetID>1</PresetID><PresetName>n</PresetName></Item></PresetList></Response>".encode()
    ).body
    assert isinstance(body, PresetResponse)
    assert (body.sum_num, body.presets[0].name) == (1 if sum_num else None, "n")
    assert b"SumNum" not in encode(body, edition=Edition.V2016)


@pytest.mark.gb("G185")
@pytest.mark.parametrize("name", ["SnapShot", "SnapShotConfig"])
def test_both_names_of_the_snapshot_element(name: str) -> None:
    body = decode(
        f"<Response><CmdType>ConfigDownload</CmdType><SN>1</SN><Result>OK</Result><{name}><SnapNum>3</SnapNum></{name}></Response>".encode()
    ).body
    assert isinstance(body, ConfigDownloadResponse)
    assert body.snapshot is not None
    assert (body.snapshot.snap_num, body.answered) == (3, {"SnapShotConfig"})


def test_positions_of_both_editions_are_one_list() -> None:
    flat = decode(
        b"<Notify><CmdType>MobilePosition</CmdType><SN>1</SN><Time>2026-03-02T08:00:00</Time><Longitude>113.4</Longitude><Latitude>34.5</Latitude></Notify>"
    ).body
    assert isinstance(flat, MobilePositionNotify)
    assert (flat.device_id, flat.places[0].longitude, flat.places[0].capture_time) == (
        "",
        113.4,
        datetime(2026, 3, 2, tzinfo=UTC),
    )


@pytest.mark.gb("G148")
@pytest.mark.parametrize(
    ("info", "alarm_type", "texts"),
    [
        ("<info><AlarmType>2</AlarmType></info>", 2, ()),
        ("<Info><AlarmType>2</AlarmType></Info><Info>free text</Info>", 2, ("free text",)),
        ("", None, ()),
    ],
)
def test_alarm_infos(info: str, alarm_type: int | None, texts: tuple[str, ...]) -> None:
    body = decode(
        f"<Notify><CmdType>Alarm</CmdType><SN>1</SN><AlarmMethod>2</AlarmMethod>{info}</Notify>".encode()
    ).body
    assert isinstance(body, AlarmNotify)
    assert (body.alarm_type, body.extra_info) == (alarm_type, texts)


@pytest.mark.gb("G086")
def test_an_empty_catalog_has_no_list() -> None:
    data = encode(CatalogResponse(sn=1, device_id="410183"))
    assert b"<SumNum>0</SumNum>" in data
    assert b"DeviceList" not in data
    assert items_of(data).items == []


@pytest.mark.gb("G134")
def test_no_recording_has_no_list() -> None:
    data = encode(RecordInfoResponse(sn=1, device_id=ID, name="x"))
    assert b"RecordList" not in data
    body = decode(data).body
    assert isinstance(body, RecordInfoResponse)
    assert (body.sum_num, body.items) == (0, [])


def test_a_notification_counts_its_own_items() -> None:
    notify = CatalogNotify(sn=1, device_id=ID, sum_num=99, items=[])
    assert b"<SumNum>0</SumNum>" in encode(notify)


def test_editions_of_the_header() -> None:
    assert [
        Edition.from_header(value) for value in ("3.0", " 3.0 ", "10.1", "2.0", "1.1", "1.0", "", "x", None)
    ] == [
        *[Edition.V2022] * 3,
        *[Edition.V2016] * 6,
    ]


# --- heartbeats ----------------------------------------------------------------------------------------------


def test_heartbeats_take_the_fast_path() -> None:
    for body in (
        KeepaliveNotify(sn=1, device_id=ID),
        KeepaliveNotify(
            sn=2, device_id=ID, status="ERROR", faulty=("41018300001310000002", "41018300001310000003")
        ),
    ):
        data = encode(body)
        assert keepalive_fields(data) == body == decode(data).body
    empty = (
        b"<?xml version='1.0'?>\n<Notify>\n<CmdType>Keepalive</CmdType><SN>80</SN><DeviceID>4101</DeviceID>"
        b"<Status>OK</Status><Info>\n</Info></Notify>\r\n\0"
    )
    assert keepalive_fields(empty) == KeepaliveNotify(sn=80, device_id="4101")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b" " * 100_000,
        b"<Notify><CmdType>Alarm</CmdType></Notify>",
        b"<notify><CmdType>Keepalive</CmdType><SN>1</SN><DeviceID>1</DeviceID><Status>OK</Status></notify>",
        b"<Notify><CmdType>Keepalive</CmdType><SN>1</SN><DeviceID>1</DeviceID><Status>OK</Status>"
        + b"<Info>" * 20_000,
    ],
)
def test_other_forms_are_left_to_the_parser(data: bytes) -> None:
    start = time.perf_counter()
    assert keepalive_fields(data) is None
    assert time.perf_counter() - start < 1


# --- values --------------------------------------------------------------------------------------------------


@pytest.mark.quirk(22)
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-03-02T08:00:05", datetime(2026, 3, 2, 0, 0, 5, tzinfo=UTC)),
        ("2026-03-02T08:00:05+08:00", datetime(2026, 3, 2, 0, 0, 5, tzinfo=UTC)),
        ("2026-03-02T00:00:05Z", datetime(2026, 3, 2, 0, 0, 5, tzinfo=UTC)),
        ("2026-3-2T8:0:5", datetime(2026, 3, 2, 0, 0, 5, tzinfo=UTC)),
        ("2026-03-02 08:00:05", datetime(2026, 3, 2, 0, 0, 5, tzinfo=UTC)),
        ("2026-03-02T08:00:05.250", datetime(2026, 3, 2, 0, 0, 5, 250000, tzinfo=UTC)),
        ("20260302T000005Z", datetime(2026, 3, 2, 0, 0, 5, tzinfo=UTC)),
        ("2026-03-02", datetime(2026, 3, 1, 16, tzinfo=UTC)),
        ("2026-02-30T00:00:00", None),
        ("0001-01-01T00:00:00", None),
        ("yesterday", None),
        ("2026-03-02T08:00:05+99:00", None),
        (" " * 100_000 + "x", None),
    ],
)
def test_times_of_the_field(text: str, expected: datetime | None) -> None:
    assert read_time(text) == expected


@pytest.mark.gb("G139")
def test_times_are_written_in_beijing_time_without_zone() -> None:
    assert write_time(datetime(2026, 3, 1, 16, 30, tzinfo=UTC)) == "2026-03-02T00:30:00"
    with pytest.raises(ValueError, match="zone"):
        write_time(datetime(2026, 3, 1))


def test_numbers() -> None:
    assert [read_int(text) for text in ("1", " 2 ", "3.0", "x", "1e400", "9" * 30, "1.5")] == [
        1,
        2,
        3,
        None,
        None,
        None,
        None,
    ]
    assert [read_float(text) for text in ("1.5", "inf", "nan", "x")] == [1.5, None, None, None]
