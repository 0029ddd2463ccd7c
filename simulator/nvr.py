"""A simulated recorder: one registration, many channels, optionally alarms, sound and directory nodes."""

from __future__ import annotations

from collections.abc import Sequence

from simulator.camera import chosen
from simulator.device import Channel, DeviceOptions, MediaChoice, SimulatedDevice
from simulator.faults import Faults
from sip.ids import make_code, parse_code
from sip.manscdp import Edition

PLACES = ("east gate", "west gate", "school road", "market", "bridge", "bus station", "park", "river bank")


class Recorder(SimulatedDevice):
    """An NVR of type 118 with ``channel_count`` cameras behind it.

    ``names`` are the channels' names (invented places otherwise). ``alarms`` adds one 135 and ``speaker`` one 137
    entry per eight channels; ``directory`` adds a business group (215) with virtual organisations (216) that hold
    the channels. A ``device_id`` of type 200 makes it a small lower platform.
    """

    def __init__(
        self,
        device_id: str,
        channel_count: int,
        *,
        server: tuple[str, int],
        server_id: str,
        domain: str = "",
        password: str | None = None,
        name: str = "",
        names: Sequence[str] = (),
        alarms: bool = False,
        speaker: bool = False,
        directory: bool = False,
        transport: str | None = None,
        media: MediaChoice | None = None,
        codec: str | None = None,
        edition: Edition | None = None,
        picture: str | None = None,
        options: DeviceOptions | None = None,
        faults: Faults | None = None,
    ) -> None:
        name = name or f"recorder {device_id[-4:]}"
        channels = _channels(device_id, channel_count, names, name)
        extra = _peripherals(device_id, channel_count, alarms=alarms, speaker=speaker)
        if directory:
            extra += _directory(device_id, channels)
        super().__init__(
            device_id,
            [*channels, *extra],
            server=server,
            server_id=server_id,
            domain=domain,
            password=password,
            name=name,
            options=chosen(
                options, transport=transport, media=media, codec=codec, edition=edition, picture=picture
            ),
            faults=faults,
        )

    @property
    def camera_ids(self) -> list[str]:
        """Codes of the channels with pictures, in order."""
        return [code for code, channel in self.channels.items() if channel.has_pictures]


def _base(device_id: str) -> tuple[str, str, int]:
    """Area, unit and first serial for the codes behind a device."""
    code = parse_code(device_id)
    if code is None:
        return "410183", "00", 1000
    return code.area, code.unit, code.serial % 1000 * 1000


def _channels(device_id: str, count: int, names: Sequence[str], name: str) -> list[Channel]:
    area, unit, first = _base(device_id)
    return [
        Channel(
            make_code(area, 131, (first + index + 1) % 1_000_000, unit=unit),
            names[index] if index < len(names) else f"{name} {PLACES[index % len(PLACES)]} {index + 1:02d}",
        )
        for index in range(count)
    ]


def _peripherals(device_id: str, count: int, *, alarms: bool, speaker: bool) -> list[Channel]:
    area, unit, first = _base(device_id)
    kinds = ([(135, "alarm output")] if alarms else []) + ([(137, "loudspeaker")] if speaker else [])
    return [
        Channel(make_code(area, kind, (first + index + 1) % 1_000_000, unit=unit), f"{label} {index + 1}")
        for kind, label in kinds
        for index in range((count + 7) // 8)
    ]


def _directory(device_id: str, channels: list[Channel]) -> list[Channel]:
    """A group with one organisation per eight channels; the channels get both parents (annex J)."""
    area, unit, first = _base(device_id)
    group = make_code(area, 215, first + 1, unit=unit)
    nodes = [Channel(group, "places", parent_ids=(device_id,), extra={"directory": True, "civil_code": area})]
    for index in range(0, len(channels), 8):
        node = make_code(area, 216, first + index // 8 + 1, unit=unit)
        nodes.append(
            Channel(node, f"district {index // 8 + 1}", extra={"directory": True, "business_group_id": group})
        )
        for channel in channels[index : index + 8]:
            channel.parent_ids = (device_id, node)
            channel.extra["business_group_id"] = group
    return nodes
