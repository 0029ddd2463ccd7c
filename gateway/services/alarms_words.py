"""What the numbers of an alarm mean, as readable text in Chinese and English (GB/T 28181-2016 and -2022, A.2.5.3)."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from sip.manscdp import Edition

K = TypeVar("K", bound=Hashable)
V16, V22 = Edition.V2016, Edition.V2022
VIDEO, DEVICE, DEVICE_FAULT = 5, 2, 6
INTRUSION = 6
ALL_METHODS = 0
"""In filters and resets only."""


@dataclass(frozen=True, slots=True)
class Words:
    """One meaning in both languages. ``edition``: the first edition of the standard that has it."""

    zh: str
    en: str
    edition: Edition = V16


PRIORITIES: dict[int, Words] = {
    1: Words("一级警情", "priority 1 (highest)"),
    2: Words("二级警情", "priority 2"),
    3: Words("三级警情", "priority 3"),
    4: Words("四级警情", "priority 4"),
}
METHODS: dict[int, Words] = {
    1: Words("电话报警", "telephone alarm"),
    2: Words("设备报警", "device alarm"),
    3: Words("短信报警", "text message alarm"),
    4: Words("GPS报警", "GPS alarm"),
    5: Words("视频报警", "video alarm"),
    6: Words("设备故障报警", "device fault alarm"),
    7: Words("其他报警", "other alarm"),
}
TYPES: dict[tuple[int, int], Words] = {
    (DEVICE, 1): Words("视频丢失报警", "video loss"),
    (DEVICE, 2): Words("设备防拆报警", "tampering with the device"),
    (DEVICE, 3): Words("存储设备磁盘满报警", "storage disk full"),
    (DEVICE, 4): Words("设备高温报警", "device over temperature"),
    (DEVICE, 5): Words("设备低温报警", "device under temperature"),
    (VIDEO, 1): Words("人工视频报警", "manual video alarm"),
    (VIDEO, 2): Words("运动目标检测报警", "motion detected"),
    (VIDEO, 3): Words("遗留物检测报警", "object left behind"),
    (VIDEO, 4): Words("物体移除检测报警", "object removed"),
    (VIDEO, 5): Words("绊线检测报警", "tripwire crossed"),
    (VIDEO, 6): Words("入侵检测报警", "intrusion detected"),
    (VIDEO, 7): Words("逆行检测报警", "movement against the direction"),
    (VIDEO, 8): Words("徘徊检测报警", "loitering detected"),
    (VIDEO, 9): Words("流量统计报警", "flow count"),
    (VIDEO, 10): Words("密度检测报警", "density detected"),
    (VIDEO, 11): Words("视频异常检测报警", "abnormal video"),
    (VIDEO, 12): Words("快速移动报警", "fast movement"),
    (VIDEO, 13): Words("图像遮挡报警", "picture blocked", V22),
    (DEVICE_FAULT, 1): Words("存储设备磁盘故障报警", "storage disk fault"),
    (DEVICE_FAULT, 2): Words("存储设备风扇故障报警", "storage fan fault"),
}
EVENTS: dict[tuple[int, int, int], Words] = {
    (VIDEO, INTRUSION, 1): Words("进入区域", "enters the area"),
    (VIDEO, INTRUSION, 2): Words("离开区域", "leaves the area"),
}
NEAREST_2016: dict[tuple[int, int], int] = {(VIDEO, 13): 11}
"""What an upper of 2016 is told for a type it does not know: a blocked picture is an abnormal one."""
_DEFAULT_DEVICE = Words("默认为报警设备报警", "alarm device (no type given)")


@dataclass(frozen=True, slots=True)
class AlarmText:
    """The readable parts of one alarm; "" where the alarm does not have the part."""

    priority: Words
    method: Words
    type: Words
    event: Words

    @property
    def zh(self) -> str:
        return "，".join(
            part.zh for part in (self.type if self.type.zh else self.method, self.event) if part.zh
        )

    @property
    def en(self) -> str:
        return ", ".join(
            part.en for part in (self.type if self.type.en else self.method, self.event) if part.en
        )


_NOTHING = Words("", "")


def describe(
    priority: int | None, method: int | None, alarm_type: int | None = None, event_type: int | None = None
) -> AlarmText:
    """The words for an alarm's numbers. Numbers outside the tables are told as such, never left out (G143)."""
    event_key = (method or 0, alarm_type or 0, event_type or 0)
    return AlarmText(
        _look(PRIORITIES, priority or 0, priority, "警情级别", "priority"),
        _look(METHODS, method or 0, method, "报警方式", "alarm method"),
        _type(method, alarm_type),
        _look(EVENTS, event_key, event_type, "事件类型", "event type"),
    )


def _type(method: int | None, alarm_type: int | None) -> Words:
    if alarm_type is None:
        return _DEFAULT_DEVICE if method == DEVICE else _NOTHING
    return _look(TYPES, (method or 0, alarm_type), alarm_type, "报警类型", "alarm type")


def _look(table: Mapping[K, Words], key: K, number: int | None, zh: str, en: str) -> Words:
    if number is None:
        return _NOTHING
    found = table.get(key)
    if found is not None:
        return found
    return Words(f"{zh}{number}（标准未定义）", f"{en} {number} (not in the standard)")
