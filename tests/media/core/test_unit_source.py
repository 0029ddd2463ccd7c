"""Sources of access units: viewers see the units, relays get a program stream that demuxes to the same units."""

from __future__ import annotations

from media.content import Content
from media.runs import Run
from media.sources.units import PsPackets, UnitSource
from media.specs import PayloadFormat
from media.stream import Stream
from media.unit import AccessUnit, Codec

SPS, PPS = b"\x00\x00\x00\x01\x67\x42\x00\x1f\x95\xa8\x14\x01\x6e\x40", b"\x00\x00\x00\x01\x68\xce\x3c\x80"


def picture(number: int, *, key: bool, size: int = 5000) -> AccessUnit:
    body = bytes((number * 7 + i) % 251 + 1 for i in range(size))
    head = SPS + PPS + b"\x00\x00\x00\x01\x65" if key else b"\x00\x00\x00\x01\x41"
    return AccessUnit(
        Codec.H264, number * 3600, number * 3600, key, head + b"\x88" + body, arrival_mono=float(number)
    )


def sound(number: int) -> AccessUnit:
    return AccessUnit(Codec.PCMA, number * 3600, number * 3600, False, bytes(range(256))[:160])


class Upper:
    """Stands for a relay: takes runs, demuxes them."""

    def __init__(self) -> None:
        self.units: list[AccessUnit] = []
        self.runs: list[Run] = []
        self.sent = self.dropped = 0
        self.ended = False
        self._content = Content(
            payloads=(PayloadFormat(number=96),),
            publish=lambda unit, _: self.units.append(unit),
            on_fault=lambda kind, detail: None,
        )

    def forward(self, run: Run, keep: object) -> None:
        self.runs.append(run)
        self._content.take(run)

    def end_with_stream(self) -> None:
        self.ended = True


def source(lost: list[str] | None = None) -> UnitSource:
    now = [0.0]
    made = UnitSource(
        Stream("s1", clock=lambda: now[0]),
        on_lost=(lost if lost is not None else []).append,
        clock=lambda: now[0],
    )
    made.now = now  # type: ignore[attr-defined]
    return made


def test_a_relay_gets_a_program_stream_of_the_same_units() -> None:
    made = source()
    upper = Upper()
    made.add_relay(upper)  # type: ignore[arg-type]
    units = [
        picture(0, key=True, size=70_000),
        sound(0),
        picture(1, key=False),
        sound(1),
        picture(2, key=False),
    ]
    for unit in units:
        made.publish(unit)
    indexes = [index for run in upper.runs for index in range(run.index, run.end_index)]
    assert indexes == list(range(len(indexes))), "packets are numbered without a gap"
    pictures = [unit.data for unit in upper.units if unit.codec is Codec.H264]
    assert pictures[:2] == [unit.data for unit in units if unit.codec is Codec.H264][:2]
    assert next(unit for unit in upper.units if unit.codec is Codec.H264).key


def test_a_late_relay_starts_with_the_cached_pictures_and_goes_on_without_a_gap() -> None:
    made = source()
    for unit in (picture(0, key=True), picture(1, key=False), picture(2, key=True), picture(3, key=False)):
        made.publish(unit)
    cached = made.cached_runs()
    upper = Upper()
    made.add_relay(upper)  # type: ignore[arg-type]
    made.publish(picture(4, key=False))
    assert [run.stamps[0] for run in cached] == [2 * 3600, 3 * 3600]
    assert upper.runs[0].index == cached[-1].end_index


def test_no_packets_are_made_without_a_relay() -> None:
    made = source()
    made.publish(picture(0, key=True))
    assert made._packets.index == 0
    assert made.stats(0.0, 0).video_units == 1


def test_silence_is_told_once_and_not_while_paused() -> None:
    lost: list[str] = []
    made = source(lost)
    made.publish(picture(0, key=True))
    made.check(10.0)
    assert lost == []
    made.check(16.0)
    made.check(17.0)
    assert lost == ["no_rtp"]
    made.paused = True
    made.check(60.0)
    assert lost == ["no_rtp"]


def test_closing_ends_relays_and_stream() -> None:
    made = source()
    upper = Upper()
    made.add_relay(upper)  # type: ignore[arg-type]
    made.close()
    assert upper.ended
    assert made.stream.closed


def test_a_codec_without_a_stream_type_is_left_out() -> None:
    packets = PsPackets()
    assert packets.run(AccessUnit(Codec.UNKNOWN, 0, 0, False, b"x")) is None
    assert packets.run(picture(0, key=True)) is not None
