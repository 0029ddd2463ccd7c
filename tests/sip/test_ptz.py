"""The eight bytes of PTZCmd: published vectors, every group, refusals."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sip.errors import LocalError, ParseError
from sip.ptz import (
    LENS_STOP,
    STOP,
    Auxiliary,
    Cruise,
    CruiseAction,
    Lens,
    Move,
    Preset,
    PresetAction,
    PtzCommand,
    Scan,
    ScanAction,
    decode,
    encode,
    is_stop,
)

VECTORS: list[tuple[str, PtzCommand, str]] = [
    ("G167", STOP, "A50F0100000000B5"),
    ("G159", Move(pan=1, pan_speed=0x80), "A50F010180000036"),
    ("G159", Move(pan=-1, pan_speed=0x80), "A50F010280000037"),
    ("G159", Move(tilt=-1, tilt_speed=0x40), "A50F0104004000F9"),
    ("G159", Move(tilt=1, tilt_speed=0x40), "A50F0108004000FD"),
    ("G161", Move(1, 1, -1, 0x80, 0x40, 5), "A50F0129804050EE"),
    ("G159", Move(zoom=1, zoom_speed=10), "A50F01100000A065"),
    ("G159", Move(tilt=1, tilt_speed=0xFA), "A50F010800FA00B7"),
    ("G159", Move(pan=1, pan_speed=0xFA), "A50F0101FA0000B0"),
    ("G162", Lens(focus=-1, focus_speed=0x30), "A50F014130000026"),
    ("G162", Lens(iris=-1, iris_speed=0x30), "A50F01480030002D"),
    ("G162", LENS_STOP, "A50F0140000000F5"),
    ("G163", Preset(PresetAction.SET, 1), "A50F018100010037"),
    ("G163", Preset(PresetAction.CALL, 5), "A50F01820005003C"),
    ("G163", Preset(PresetAction.DELETE, 255), "A50F018300FF0037"),
    ("G164", Cruise(CruiseAction.ADD_POINT, 1, 3), "A50F01840103003D"),
    ("G164", Cruise(CruiseAction.DELETE_POINT, 1, 3), "A50F01850103003E"),
    ("G164", Cruise(CruiseAction.DELETE_TRACK, 1), "A50F01850100003B"),
    ("G164", Cruise(CruiseAction.SPEED, 1, 300), "A50F0186012C1078"),
    ("G164", Cruise(CruiseAction.STAY, 1, 20), "A50F018701140051"),
    ("G164", Cruise(CruiseAction.START, 1), "A50F01880100003E"),
    ("G165", Scan(ScanAction.START, 0), "A50F01890000003E"),
    ("G165", Scan(ScanAction.LEFT_BORDER, 0), "A50F01890001003F"),
    ("G165", Scan(ScanAction.RIGHT_BORDER, 0), "A50F018900020040"),
    ("G165", Scan(ScanAction.SPEED, 0, 256), "A50F018A0000104F"),
    ("G166", Auxiliary(1, on=True), "A50F018C01000042"),
    ("G166", Auxiliary(1, on=False), "A50F018D01000043"),
]


@pytest.mark.parametrize(
    ("command", "text"),
    [pytest.param(command, text, marks=pytest.mark.gb(check), id=text) for check, command, text in VECTORS],
)
def test_published_vectors(command: PtzCommand, text: str) -> None:
    assert encode(command) == text
    assert decode(text) == command
    assert decode(text.lower()) == command


directions = st.integers(-1, 1)
bytes_ = st.integers(0, 255)


@pytest.mark.gb("G161")
@given(
    pan=directions,
    tilt=directions,
    zoom=directions,
    pan_speed=bytes_,
    tilt_speed=bytes_,
    zoom_speed=st.integers(1, 15),
)
def test_axes_combine_and_never_contradict(
    pan: int, tilt: int, zoom: int, pan_speed: int, tilt_speed: int, zoom_speed: int
) -> None:
    command = Move(pan, tilt, zoom, pan_speed, tilt_speed, zoom_speed)
    text = encode(command)
    code = bytes.fromhex(text)[3]
    assert not any(code & pair == pair for pair in (0x03, 0x0C, 0x30))
    assert decode(text) == command


@pytest.mark.gb("G159")
@given(address=st.integers(0, 4095), number=st.integers(1, 255))
def test_address_and_checksum(address: int, number: int) -> None:
    data = bytes.fromhex(encode(Preset(PresetAction.CALL, number), address=address))
    assert data[:2] == b"\xa5\x0f"
    assert (data[2] | (data[6] & 15) << 8) == address
    assert sum(data[:7]) % 256 == data[7]


@pytest.mark.parametrize(
    "text",
    [
        "A50F0100000000B6",
        "A50F01000000B5",
        "A50F0100000000B500",
        "A60F0100000000B6",
        "A5000100000000A6",
        "A50F010300000038",
        "A50F01F0000000A5",
        "A50F018100000036",
        "nothing at all!!",
        "",
    ],
    ids=[
        "checksum",
        "short",
        "long",
        "first byte",
        "check nibble",
        "opposite bits",
        "no command",
        "preset 0",
        "no hex",
        "empty",
    ],
)
def test_wrong_commands_are_refused(text: str) -> None:
    with pytest.raises(ParseError) as caught:
        decode(text)
    assert caught.value.label == "ptz"


@pytest.mark.gb("G163")
@pytest.mark.parametrize("number", [0, 256, -1])
def test_presets_out_of_range(number: int) -> None:
    with pytest.raises(LocalError):
        encode(Preset(PresetAction.CALL, number))


@pytest.mark.parametrize(
    "command",
    [
        Move(pan=2),
        Move(pan_speed=256),
        Move(zoom_speed=16),
        Lens(iris_speed=-1),
        Cruise(CruiseAction.SPEED, 0, 4096),
        Cruise(CruiseAction.ADD_POINT, 0, 0),
        Scan(ScanAction.SPEED, 256, 0),
        Auxiliary(256, on=True),
    ],
)
def test_numbers_out_of_range(command: PtzCommand) -> None:
    with pytest.raises(LocalError):
        encode(command)


@pytest.mark.gb("G167")
def test_what_stops() -> None:
    assert is_stop(STOP)
    assert is_stop(LENS_STOP)
    assert is_stop(Move(pan_speed=5))
    assert not is_stop(Move(pan=1))
    assert not is_stop(Lens(iris=1))
    assert not is_stop(Preset(PresetAction.CALL, 1))


def test_zoom_is_never_sent_with_speed_zero() -> None:
    """Devices take the zero nibble as no movement."""
    assert decode(encode(Move(zoom=1))) == Move(zoom=1, zoom_speed=1)


@given(data=st.binary(min_size=8, max_size=8))
def test_any_eight_bytes_are_a_command_or_refused(data: bytes) -> None:
    head = b"\xa5\x0f" + data[2:7]
    text = (head + bytes([sum(head) & 255])).hex()
    try:
        command = decode(text)
    except ParseError:
        return
    assert decode(encode(command)) in (
        command,
        *([command] if not isinstance(command, Move) else [_raised(command)]),
    )


def _raised(command: Move) -> Move:
    return Move(
        command.pan,
        command.tilt,
        command.zoom,
        command.pan_speed,
        command.tilt_speed,
        max(command.zoom_speed, 1) if command.zoom else command.zoom_speed,
    )
