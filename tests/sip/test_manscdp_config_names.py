"""Configuration answers whose element has another name than the type that was asked for."""

from __future__ import annotations

import pytest

from sip.manscdp import ConfigDownloadResponse, decode

ANSWER = """<?xml version="1.0" encoding="GB2312"?>
<Response><CmdType>ConfigDownload</CmdType><SN>17</SN><DeviceID>41018300001320000001</DeviceID><Result>OK</Result>
{config}</Response>"""


def read(config: str) -> ConfigDownloadResponse:
    body = decode(ANSWER.format(config=config).encode("gb18030")).body
    assert isinstance(body, ConfigDownloadResponse)
    return body


@pytest.mark.quirk(26)
@pytest.mark.parametrize("name", ["BasicParam", "basicparam", "BasicParamConfig", "DeviceParam"])
def test_the_children_tell_the_type(name: str) -> None:
    body = read(
        f"<{name}><Name>IPC</Name><Expiration>3600</Expiration><HeartBeatInterval>60</HeartBeatInterval>"
        f"<HeartBeatCount>3</HeartBeatCount></{name}>"
    )
    assert body.basic_param is not None
    assert (body.basic_param.expiration, body.basic_param.heartbeat_interval) == (3600, 60)
    assert body.answered == {"BasicParam"}


@pytest.mark.quirk(26)
def test_two_types_under_foreign_names_do_not_mix() -> None:
    body = read(
        "<Osd><Length>1920</Length><Width>1080</Width><TimeX>10</TimeX><TimeY>10</TimeY><TimeEnable>1</TimeEnable></Osd>"
        "<Alarm><MotionDetection>1</MotionDetection><FieldDetection>0</FieldDetection></Alarm>"
    )
    assert body.answered == {"OSDConfig", "AlarmReport"}


@pytest.mark.quirk(26)
def test_a_list_under_a_foreign_name_is_known_by_its_items() -> None:
    item = "<Item><StreamNumber>1</StreamNumber><VideoFormat>2</VideoFormat><Resolution>4</Resolution></Item>"
    body = read(f"<VideoParamList Num='2'>{item}{item}</VideoParamList><Other><Item><A>1</A></Item></Other>")
    assert [one.resolution for one in body.video_params] == ["4", "4"]
    assert body.answered == {"VideoParamAttribute"}
    assert "Other" in body.extras


def test_zeros_and_empty_lists_are_answers() -> None:
    body = read("<FrameMirror>0</FrameMirror><VideoParamAttribute Num='0'></VideoParamAttribute>")
    assert body.answered == {"FrameMirror", "VideoParamAttribute"}


def test_strangers_stay_extras() -> None:
    body = read("<Vendor><Name>x</Name><Colour>red</Colour><Shape>round</Shape></Vendor>")
    assert body.answered == frozenset()
    assert body.extras["Vendor"] == {"Name": "x", "Colour": "red", "Shape": "round"}
