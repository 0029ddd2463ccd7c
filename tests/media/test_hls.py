"""HLS: parts and segments true to the source, a playlist that keeps its promises, sessions that end when nobody asks."""

from __future__ import annotations

import asyncio
import re
from dataclasses import replace
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession
from decoded import decode, ffprobe, source_hashes

from media import hls
from media.hls import LivePlaylist
from media.readers import hls as hls_reader
from media.readers.fanout import Chunk, Head
from media.readers.fragmenter import Fragment, Fragmenter
from media.specs import AudioTrack
from media.stream import Stream
from media.unit import AccessUnit
from simulator.picture import TestPicture, tone

GOP10 = TestPicture(352, 288, gop=10)
START = 1_790_000_000.0


def interleaved(*lists: list[AccessUnit]) -> list[AccessUnit]:
    return sorted((unit for units in lists for unit in units), key=lambda unit: unit.dts)


def later(units: list[AccessUnit], seconds: float) -> list[AccessUnit]:
    ticks = round(seconds * 90_000)
    return [replace(unit, pts=unit.pts + ticks, dts=unit.dts + ticks) for unit in units]


class Packager:
    """A fragmenter and a playlist with a clock that follows the units."""

    def __init__(self, audio: str | None = "pcma") -> None:
        self.fragmenter = Fragmenter(with_audio=audio is not None)
        if audio is not None:
            self.fragmenter.expect_audio(AudioTrack(codec=audio))
        self.playlist = LivePlaylist()
        self.news = 0
        self._head: Head | None = None

    def feed(self, units: list[AccessUnit]) -> LivePlaylist:
        for unit in units:
            for chunk in self.fragmenter.feed(unit):
                self._take(chunk, START + unit.dts / 90_000)
        return self.playlist

    def _take(self, chunk: Chunk, now: float) -> None:
        assert isinstance(chunk, Fragment)
        if chunk.head is not self._head:
            self._head = chunk.head
            self.playlist.begin(chunk.head.data)
        self.news += self.playlist.add(chunk.data, chunk.duration, key=chunk.key, now_unix=now)


def durations(text: str, tag: str) -> list[float]:
    return [float(found) for found in re.findall(rf"{tag}:(?:DURATION=)?([0-9.]+)", text)]


def value(text: str, tag: str) -> str:
    found = re.search(rf"^#{tag}:(.*)$", text, re.MULTILINE)
    assert found is not None, tag
    return found[1]


@pytest.mark.parametrize("codec", ["h264", "h265"])
def test_segments_and_parts_are_the_pictures_that_went_in(codec: str) -> None:
    units = interleaved(TestPicture(352, 288, codec=codec).encoded_loop(8), tone(8))
    playlist = Packager().feed(units)
    playlist.end(START + 8)
    init = playlist.init(0)
    assert init is not None
    whole = init + b"".join(segment.data for segment in playlist.segments)
    found = decode(whole)
    pictures = [unit for unit in units if unit.codec.is_video]
    assert found.hashes == source_hashes(pictures)[:199]
    assert max(map(abs, found.sync_s)) < 0.1
    assert len(found.sync_s) == 8
    parts = b"".join(part.data for segment in playlist.segments for part in segment.parts)
    assert init + parts == whole
    for segment in playlist.segments:  # each can be played alone
        assert decode(init + segment.data).frames[0] == segment.number * 50


@pytest.mark.needs("ffprobe")
def test_ffprobe_reads_a_segment(tmp_path: Path) -> None:
    playlist = Packager().feed(interleaved(TestPicture(352, 288).encoded_loop(5), tone(5)))
    path = tmp_path / "segment.mp4"
    path.write_bytes((playlist.init(0) or b"") + (playlist.segment(1) or b""))
    (video, audio), complaints = ffprobe(path)
    assert complaints == ""
    assert (int(video["nb_read_frames"]), audio["codec_name"]) == (50, "aac")


def test_the_playlist_says_what_a_low_latency_player_needs() -> None:
    packager = Packager()
    playlist = packager.feed(interleaved(TestPicture(352, 288).encoded_loop(5), tone(5)))
    text = playlist.text()
    assert text.startswith("#EXTM3U\n#EXT-X-VERSION:6\n")
    assert value(text, "EXT-X-TARGETDURATION") == "4"
    control = value(text, "EXT-X-SERVER-CONTROL")
    assert "CAN-BLOCK-RELOAD=YES" in control
    assert "PART-HOLD-BACK=1.200" in control
    assert "HOLD-BACK=12.0" in control
    assert value(text, "EXT-X-PART-INF") == "PART-TARGET=0.400"
    assert value(text, "EXT-X-MEDIA-SEQUENCE") == "0"
    assert durations(text, "#EXTINF") == [2.0, 2.0]
    assert durations(text, "#EXT-X-PART") == [0.4] * 12
    assert text.count("INDEPENDENT=YES") == 3, "the first part of each group of pictures"
    uris = re.findall(r'EXT-X-PART:[^\n]*URI="part(\d+)\.m4s"', text)
    assert uris == [str(number) for number in range(12)]
    assert text.rstrip().endswith('#EXT-X-PRELOAD-HINT:TYPE=PART,URI="part12.m4s"')
    dates = [datetime.fromisoformat(found) for found in re.findall(r"DATE-TIME:(\S+)", text)]
    assert [(after - before).total_seconds() for before, after in pairwise(dates)] == [2.0, 2.0]
    assert abs(dates[0].timestamp() - START) < 0.1
    assert packager.news == 14, "twelve parts and two segments"


def test_the_window_slides_and_memory_is_bounded() -> None:
    packager = Packager(None)
    loop = TestPicture(352, 288).encoded_loop(2)
    for turn in range(40):
        packager.feed(later(loop, 2 * turn))
    playlist = packager.playlist
    text = playlist.text()
    named = [int(found) for found in re.findall(r"^seg(\d+)\.m4s", text, re.MULTILINE)]
    assert named == list(range(named[0], 39))
    assert int(value(text, "EXT-X-MEDIA-SEQUENCE")) == named[0]
    assert 12 <= sum(durations(text, "#EXTINF")) < 14
    assert playlist.segments[0].number == named[0] - hls.KEPT_SEGMENTS
    assert playlist.segment(named[0] - hls.KEPT_SEGMENTS) is not None, "who is late may still fetch it"
    assert playlist.segment(named[0] - hls.KEPT_SEGMENTS - 1) is None
    assert playlist.part(playlist.segments[0].parts[0].number - 1) is None


def test_a_limit_of_bytes_goes_before_the_window(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hls, "LIMIT_BYTES", 1_000_000)
    packager = Packager(None)
    loop = TestPicture(704, 576, bitrate=4_000_000).encoded_loop(2)
    for turn in range(10):
        packager.feed(later(loop, 2 * turn))
        assert packager.playlist.size_bytes < 2_500_000
        packager.playlist.text()
    assert packager.playlist.next_number > 9, "long ones are cut"


def test_long_groups_of_pictures_are_cut_at_the_target() -> None:
    """A camera that stretches its groups must not break the promised target duration."""
    packager = Packager(None)
    packager.feed(TestPicture(352, 288).encoded_loop(4))
    text = packager.feed(later(TestPicture(352, 288, gop=500).encoded_loop(14), 4)).text()
    lengths = durations(text, "#EXTINF")
    assert max(lengths) <= 4.5
    assert len(lengths) >= 3
    playlist = packager.playlist
    data = (playlist.init(0) or b"") + b"".join(segment.data for segment in playlist.segments)
    numbers = decode(data).frames
    assert numbers == [*range(100), *range(len(numbers) - 100)], "nothing is lost at a cut"
    assert all(part <= 0.4 + 1e-6 for part in durations(text, "#EXT-X-PART"))


@pytest.mark.parametrize("rate", [5, 12, 15, 30])
def test_parts_keep_to_their_target_at_any_rate(rate: int) -> None:
    text = Packager(None).feed(TestPicture(352, 288, rate, gop=2 * rate).encoded_loop(7)).text()
    target = float(value(text, "EXT-X-PART-INF").partition("=")[2])
    assert max(durations(text, "#EXT-X-PART")) <= target + 1e-6
    assert sum(durations(text, "#EXTINF")) == pytest.approx(6, abs=0.01)


def test_a_change_of_codec_is_a_discontinuity_with_another_beginning() -> None:
    packager = Packager()
    packager.feed(interleaved(TestPicture(352, 288).encoded_loop(3), tone(3)))
    packager.feed(later(interleaved(TestPicture(704, 576, codec="h265").encoded_loop(3), tone(3)), 3))
    text = packager.playlist.text()
    lines = text.splitlines()
    at = lines.index("#EXT-X-DISCONTINUITY")
    assert lines[at + 1] == '#EXT-X-MAP:URI="init1.mp4"'
    assert lines.count("#EXT-X-DISCONTINUITY") == 1
    assert value(text, "EXT-X-DISCONTINUITY-SEQUENCE") == "0"
    assert b"hvc1" in (packager.playlist.init(1) or b"")
    playlist = packager.playlist
    first = next(segment for segment in playlist.segments if segment.init == 1)
    assert decode((playlist.init(1) or b"") + first.data).codecs == ["hevc", "aac"]
    for turn in range(10):
        packager.feed(later(TestPicture(704, 576, codec="h265").encoded_loop(3), 6 + 3 * turn))
    text = playlist.text()
    assert "#EXT-X-DISCONTINUITY\n" not in text
    assert value(text, "EXT-X-DISCONTINUITY-SEQUENCE") == "1"
    assert playlist.init(0) is None, "forgotten with the last segment that needs it"


def test_what_a_blocking_request_waits_for() -> None:
    playlist = Packager(None).feed(TestPicture(352, 288).encoded_loop(5))
    opened = playlist.next_number
    assert opened == 2
    assert playlist.covers(1, None)
    assert playlist.covers(1, 4)
    assert playlist.covers(1, 5), "behind the last part of a whole segment: part 0 of the next"
    assert not playlist.covers(2, None)
    assert playlist.covers(2, 1)
    assert not playlist.covers(2, 2)
    assert not playlist.covers(3, 0)
    assert playlist.covers(0, 99)


# --- over HTTP --------------------------------------------------------------------------------------------------


class Player:
    """Fetches like a player: the multivariant playlist first, then what it names."""

    def __init__(self, http: ClientSession, base: str) -> None:
        self.http, self.base = http, base
        self.folder = ""

    async def open(self, ticket: str, more: str = "") -> str:
        status, text = await self.get(f"/live/gate.m3u8?ticket={ticket}{more}")
        assert status == 200, text
        (uri,) = [line for line in text.decode().splitlines() if line and not line.startswith("#")]
        self.folder = "/live/" + uri.rpartition("/")[0] + "/"
        return text.decode()

    async def get(self, path: str) -> tuple[int, bytes]:
        async with asyncio.timeout(40), self.http.get(self.base + path) as response:
            return response.status, await response.read()

    async def file(self, name: str) -> tuple[int, bytes]:
        return await self.get(self.folder + name)

    async def text(self, query: str = "") -> str:
        status, text = await self.file("live.m3u8" + query)
        assert status == 200, text
        return text.decode()


@pytest.fixture
def player(reader_node: Any, http: ClientSession) -> Player:
    return Player(http, reader_node.base)


def publish(stream: Stream, units: list[AccessUnit]) -> None:
    for unit in units:
        stream.publish(unit)


async def test_a_player_without_low_latency_sees_segments(reader_node: Any, player: Player) -> None:
    stream = reader_node.open()
    units = interleaved(TestPicture(352, 288).encoded_loop(5), tone(5))
    half = len(units) // 2
    publish(stream, units[:half])
    master = await player.open(reader_node.ticket())
    assert 'CODECS="avc1.42c014,mp4a.40.2"' in master
    assert "RESOLUTION=352x288" in master
    assert int(re.findall(r"BANDWIDTH=(\d+)", master)[0]) > 100_000
    waiting = asyncio.create_task(player.text())  # until there is a whole segment
    await asyncio.sleep(0.1)
    assert not waiting.done()
    publish(stream, units[half:])
    text = await waiting
    names = re.findall(r"^seg\d+\.m4s", text, re.MULTILINE)
    init = (await player.file("init0.mp4"))[1]
    data = init + b"".join([(await player.file(name))[1] for name in names])
    found = decode(data)
    pictures = [unit for unit in units if unit.codec.is_video]
    assert found.codecs == ["h264", "aac"]
    first = found.frames[0]
    assert found.hashes == source_hashes(pictures)[first : first + len(found.hashes)]
    assert len(found.hashes) % 50 == 0
    assert max(map(abs, found.sync_s)) < 0.1
    stream.close("no_rtp")
    text = await player.text()
    assert text.endswith("#EXT-X-ENDLIST\n")
    assert "PRELOAD" not in text


async def test_a_low_latency_player_is_answered_when_the_part_is_there(
    reader_node: Any, player: Player
) -> None:
    stream = reader_node.open()
    loop = TestPicture(352, 288).encoded_loop(10)
    publish(stream, loop[:60])
    await player.open(reader_node.ticket())
    publish(stream, loop[60:112])
    text = await player.text()
    hinted = re.findall(r'PRELOAD-HINT:TYPE=PART,URI="([^"]+)"', text)[0]
    number = int(re.findall(r"^seg(\d+)", text, re.MULTILINE)[-1]) + 1
    asked = asyncio.create_task(player.text(f"?_HLS_msn={number}&_HLS_part=1"))
    early = asyncio.create_task(player.file(hinted))
    await asyncio.sleep(0.2)
    assert not asked.done()
    assert not early.done()
    publish(stream, loop[112:123])
    status, data = await early
    assert status == 200
    assert data[4:8] == b"moof"
    assert f'URI="{hinted}"' in await asked
    whole = asyncio.create_task(player.text(f"?_HLS_msn={number}"))
    await asyncio.sleep(0.1)
    assert not whole.done()
    publish(stream, loop[123:160])
    assert f"seg{number}.m4s" in await whole
    stream.close()


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("?_HLS_part=1", 400),
        ("?_HLS_msn=99", 400),
        ("?_HLS_msn=-1", 400),
        ("?_HLS_msn=x", 400),
        ("?_HLS_msn=0", 200),
    ],
)
async def test_odd_requests(reader_node: Any, player: Player, query: str, status: int) -> None:
    stream = reader_node.open()
    publish(stream, TestPicture(352, 288).encoded_loop(5))
    await player.open(reader_node.ticket())
    publish(stream, later(TestPicture(352, 288).encoded_loop(5), 5))
    assert (await player.file("live.m3u8" + query))[0] == status
    for name in ("seg99.m4s", "part999.m4s", "init9.mp4", "other.m4s"):
        assert (await player.file(name))[0] == 404
    stray = player.folder.replace("/hls/", "/hls/x")
    assert (await player.get(stray + "live.m3u8"))[0] == 404
    assert (await player.get(player.folder.replace("gate", "yard") + "live.m3u8"))[0] == 404


async def test_the_session_outlives_its_ticket_and_ends_when_nobody_asks(
    reader_node: Any, player: Player, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hls_reader, "SWEEP_S", 0.05)
    monkeypatch.setattr(hls_reader, "SESSION_IDLE_S", 1.0)
    monkeypatch.setattr(hls_reader, "IDLE_TARGETS", 0)
    stream = reader_node.open()
    reader_node.feed(stream, GOP10, speed=4)
    await stream.wait_ready(20)
    ticket = reader_node.ticket(lifetime_s=2.0)
    await player.open(ticket)
    assert [kind for _, kind in reader_node.seen.opened] == ["hls"]
    status = 200
    while status == 200:  # the ticket runs out meanwhile
        assert (await player.file("live.m3u8"))[0] == 200
        status, _ = await player.get(f"/live/gate.m3u8?ticket={ticket}")
        await asyncio.sleep(0.1)
    assert status == 403
    for _ in range(5):
        assert (await player.file("live.m3u8"))[0] == 200
        await asyncio.sleep(0.1)
    assert [reader.kind for reader in stream.readers] == ["fmp4"]
    async with asyncio.timeout(30):
        while stream.readers or len(reader_node.seen.closed) < len(reader_node.seen.opened):
            await asyncio.sleep(0.05)
    assert {cause for _, cause in reader_node.seen.closed} == {"left"}
    assert (await player.file("live.m3u8"))[0] == 404


async def test_players_of_one_channel_share_a_playlist_with_the_other_outputs(
    reader_node: Any, http: ClientSession
) -> None:
    stream = reader_node.open()
    publish(stream, TestPicture(352, 288).encoded_loop(3))
    players = [Player(http, reader_node.base) for _ in range(5)]
    for one in players:
        await one.open(reader_node.ticket())
    async with http.get(reader_node.url(f"/live/gate.mp4?ticket={reader_node.ticket()}")):
        assert [reader.kind for reader in stream.readers] == ["fmp4"]
    assert len({one.folder for one in players}) == 5
    publish(stream, later(TestPicture(352, 288).encoded_loop(3), 3))
    texts = {await one.text() for one in players}
    assert len(texts) == 1
    await players[0].open(reader_node.ticket(), "&audio=0")
    assert sorted(reader.kind for reader in stream.readers) == ["fmp4", "fmp4-silent"]
    assert len(reader_node.seen.opened) == 7


async def test_a_stream_that_ends_lets_those_go_who_wait(
    reader_node: Any, player: Player, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hls_reader, "SWEEP_S", 0.05)
    stream = reader_node.open()
    publish(stream, TestPicture(352, 288).encoded_loop(5))
    await player.open(reader_node.ticket())
    waiting = asyncio.create_task(player.text())
    await asyncio.sleep(0.1)
    stream.close("no_rtp")
    assert "#EXT-X-ENDLIST" in await waiting
    async with asyncio.timeout(30):
        while not reader_node.seen.closed:
            await asyncio.sleep(0.02)
    assert reader_node.seen.closed[0][1] == "no_rtp"
    assert (await player.file("seg0.m4s"))[0] == 200, "what is left may be played to its end"


async def test_sessions_are_bounded(
    reader_node: Any, player: Player, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hls_reader, "MAX_SESSIONS", 2)
    publish(reader_node.open(), TestPicture(352, 288).encoded_loop(1))
    statuses = [(await player.get(f"/live/gate.m3u8?ticket={reader_node.ticket()}"))[0] for _ in range(3)]
    assert statuses == [200, 200, 503]
