"""What an upper's offer and its MANSRTSP mean for the playing, without a network."""

from __future__ import annotations

import pytest

from gateway.model import SessionKind
from gateway.services.cascade_playback import NTP_OFFSET_S, HistoryWish, history_wish, order_of, served_speed
from media.specs import InputControl
from sip import mansrtsp
from sip.sdp import Offer, SdpUnacceptable, history_offer, live_offer, read_offer

CHANNEL = "41018300001310000051"
START, END = 1_795_312_800, 1_795_316_400


def offer(start: int = START, end: int = END, speed: int | None = None) -> Offer:
    live = live_offer(own_id="41010000002000000001", address="127.0.0.1", port=30000, ssrc=1_100_000_001)
    name = "Download" if speed else "Playback"
    history = history_offer(
        live,
        name=name,
        source_id=CHANNEL,
        record_type=0,
        start_unix=start,
        end_unix=end,
        download_speed=speed,
    )
    return read_offer(history.to_bytes())


def test_a_stretch_of_time_is_read_from_the_offer() -> None:
    assert history_wish("playback", offer()) == HistoryWish(SessionKind.PLAYBACK, START, END)
    assert history_wish("download", offer(speed=4)) == HistoryWish(SessionKind.DOWNLOAD, START, END, 4.0)
    assert history_wish("play", offer()) is None


def test_seconds_from_1900_are_understood() -> None:
    assert history_wish("playback", offer(START + NTP_OFFSET_S, END + NTP_OFFSET_S)) == HistoryWish(
        SessionKind.PLAYBACK, START, END
    )


@pytest.mark.parametrize(("start", "end"), [(0, 0), (END, START), (START, START), (0, END)])
def test_what_is_no_stretch_of_time_is_refused(start: int, end: int) -> None:
    with pytest.raises(SdpUnacceptable):
        history_wish("playback", offer(start, end))


@pytest.mark.parametrize(
    ("asked", "served"),
    [
        (1, 1),
        (0.25, 0.25),
        (0.3, 0.25),
        (3, 2),
        (3.5, 4),
        (16, 8),
        (-1, -1),
        (-2, -2),
        (-3, -1),
        (-16, -1),
        (0, None),
    ],
)
def test_the_nearest_speed_is_served_and_backward_at_least_one(asked: float, served: float | None) -> None:
    assert served_speed(asked) == served


def test_each_request_is_one_change() -> None:
    assert order_of(mansrtsp.pause(1)) == InputControl(paused=True)
    assert order_of(mansrtsp.resume(2)) == InputControl(paused=False)
    assert order_of(mansrtsp.speed(3, 2.0)) == InputControl(paused=False, speed=2.0)
    assert order_of(mansrtsp.seek(4, 100.0)) == InputControl(paused=False, position_s=100.0)
    back = InputControl(paused=False, speed=-1.0, position_s=600.0, until_s=120.0)
    assert order_of(mansrtsp.reverse(5, -1.0, 600.0, 120.0)) == back
    assert order_of(mansrtsp.teardown(6)) == InputControl(paused=True)
