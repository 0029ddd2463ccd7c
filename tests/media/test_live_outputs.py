"""What all outputs over HTTP share: admission, one muxer for many viewers, joining in mid-stream, slow viewers, the end."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from aiohttp import ClientSession, WSMsgType
from decoded import aac_tone, decode, source_hashes

from media.readers import delivery, fanout
from media.readers.flv import FlvMuxer
from media.readers.fragmenter import Fragmenter
from media.readers.muxing import TrackMuxer
from media.readers.ts import TransportMuxer
from media.specs import AudioTrack
from media.unit import AccessUnit, Codec
from simulator.picture import TestPicture, tone

GOP10 = TestPicture(352, 288, gop=10)
FILES = {".mp4": ("video/mp4", "mp4"), ".flv": ("video/x-flv", "flv"), ".ts": ("video/mp2t", "mpegts")}
SOCKETS = ("/ws", "/ws.flv")
ALL = (*FILES, *SOCKETS, ".m3u8")


def interleaved(*lists: list[AccessUnit]) -> list[AccessUnit]:
    return sorted((unit for units in lists for unit in units), key=lambda unit: unit.dts)


async def gone(reader_node: Any, viewers: int) -> None:
    async with asyncio.timeout(30):
        while len(reader_node.seen.closed) < viewers:
            await asyncio.sleep(0.02)


async def whole(response: Any) -> bytes:
    async with asyncio.timeout(30):
        data: bytes = await response.read()
    return data


@pytest.mark.parametrize("ending", FILES)
async def test_a_file_begins_with_the_last_key_frame_and_is_true_to_the_source(
    reader_node: Any, http: ClientSession, ending: str
) -> None:
    stream = reader_node.open()
    units = interleaved(GOP10.encoded_loop(4), tone(4))
    half = len(units) // 2 + 11
    for unit in units[:half]:
        stream.publish(unit)
    address = reader_node.url(f"/live/gate{ending}?ticket={reader_node.ticket()}")
    async with http.get(address) as response:
        assert response.headers["Content-Type"] == FILES[ending][0]
        for unit in units[half:]:
            stream.publish(unit)
        stream.close()
        data = await whole(response)
    found = decode(data, FILES[ending][1])
    assert found.codecs == ["h264", "aac"]
    pictures = [unit for unit in units if unit.codec.is_video]
    last = 99 if ending == ".mp4" else 100  # a fragment waits for the picture that tells its length
    first = found.frames[0]
    assert first > 40
    assert pictures[first].key
    assert found.frames == list(range(first, last))
    assert found.hashes == source_hashes(pictures)[first:last]
    assert found.sync_s
    assert max(map(abs, found.sync_s)) < 0.1


@pytest.mark.parametrize("ending", ALL)
async def test_wrong_tickets_are_refused_before_anything_starts(
    reader_node: Any, http: ClientSession, ending: str
) -> None:
    stream = reader_node.open()
    reader_node.feed(stream)
    await stream.wait_ready(20)
    for ticket in ("", "1.abc", reader_node.ticket(lifetime_s=-1), reader_node.ticket("yard")):
        async with http.get(reader_node.url(f"/live/gate{ending}?ticket={ticket}")) as response:
            assert response.status == 403
    async with http.get(
        reader_node.url(f"/live/yard{ending}?ticket={reader_node.ticket('yard')}")
    ) as response:
        assert response.status == 404
    async with http.get(
        reader_node.url(f"/live/gate{ending}?ticket={reader_node.ticket()}&audio=loud")
    ) as response:
        assert response.status == 400
    assert reader_node.seen.opened == []
    assert stream.readers == []


async def test_many_viewers_of_all_outputs_share_one_muxer_per_format(
    reader_node: Any, http: ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[TrackMuxer] = []
    build = TrackMuxer.__init__

    def counted(self: TrackMuxer, **options: Any) -> None:
        made.append(self)
        build(self, **options)

    monkeypatch.setattr(TrackMuxer, "__init__", counted)
    stream = reader_node.open()
    reader_node.feed(stream)
    await stream.wait_ready(20)
    ticket = reader_node.ticket()
    responses = [
        await http.get(reader_node.url(f"/live/gate{ending}?ticket={ticket}"))
        for ending in (*FILES, ".m3u8")
        for _ in range(8)
    ]
    sockets = [
        await http.ws_connect(reader_node.url(f"/live/gate{path}?ticket={ticket}"))
        for path in SOCKETS
        for _ in range(4)
    ]
    for response in responses:
        assert len(await response.content.readany()) > 50
    assert sorted(reader.kind for reader in stream.readers) == ["flv", "fmp4", "ts"]
    assert sorted(type(muxer).__name__ for muxer in made) == ["FlvMuxer", "Fragmenter", "TransportMuxer"]
    kinds = [kind for _, kind in reader_node.seen.opened]
    assert {kind: kinds.count(kind) for kind in kinds} == {
        "fmp4": 8, "flv": 8, "ts": 8, "hls": 8, "ws": 4, "ws_flv": 4,
    }  # fmt: skip
    for response in responses:
        response.close()
    for socket in sockets:
        await socket.close()
    await gone(reader_node, 32)
    async with asyncio.timeout(30):
        while len(stream.readers) > 1:
            await asyncio.sleep(0.02)
    assert [reader.kind for reader in stream.readers] == ["fmp4"], "playlists stay until nobody asks any more"


async def test_other_options_make_another_muxer(reader_node: Any, http: ClientSession) -> None:
    stream = reader_node.open()
    units = interleaved(TestPicture(352, 288, codec="h265").encoded_loop(1), tone(1))
    for unit in units[:20]:
        stream.publish(unit)
    ticket = reader_node.ticket()
    queries = {
        "": None,
        "&hevc=enhanced": "aac",
        "&hevc=enhanced&audio=g711": "pcm_alaw",
        "&hevc=enhanced&audio=0": "",
    }
    responses = {
        query: await http.get(reader_node.url(f"/live/gate.flv?ticket={ticket}{query}")) for query in queries
    }
    assert len(stream.readers) == 4
    for unit in units[20:]:
        stream.publish(unit)
    stream.close()
    files = {query: await whole(response) for query, response in responses.items()}
    for query, audio in queries.items():
        if audio is not None:
            found = decode(files[query], "flv")
            assert found.codecs == ["hevc", *([audio] if audio else [])]
            assert found.hashes == source_hashes(units)


@pytest.mark.parametrize("ending", FILES)
async def test_a_change_of_codec_ends_a_file(reader_node: Any, http: ClientSession, ending: str) -> None:
    stream = reader_node.open()
    first = GOP10.encoded_loop(0.4)
    for unit in first:
        stream.publish(unit)
    address = reader_node.url(f"/live/gate{ending}?ticket={reader_node.ticket()}&hevc=enhanced")
    later = TestPicture(704, 576, codec="h265").encoded_loop(0.4)
    async with http.get(address) as response:
        for unit in later:
            stream.publish(replace(unit, pts=unit.pts + 36_000, dts=unit.dts + 36_000))
        assert decode(await whole(response), FILES[ending][1]).hashes == source_hashes(first)
    async with http.get(address) as response:  # the player comes again, and sees what there is now
        stream.close()
        found = decode(await whole(response), FILES[ending][1])
    assert found.hashes == source_hashes(later)[: len(found.hashes)]
    assert len(found.hashes) >= 9


async def test_flv_by_websocket_is_the_same_file_and_says_why_it_ends(
    reader_node: Any, http: ClientSession
) -> None:
    stream = reader_node.open()
    units = interleaved(GOP10.encoded_loop(1), tone(1))
    for unit in units[:30]:
        stream.publish(unit)
    ticket = reader_node.ticket()
    async with http.ws_connect(reader_node.url(f"/live/gate/ws.flv?ticket={ticket}")) as socket:
        async with http.get(reader_node.url(f"/live/gate.flv?ticket={ticket}")) as response:
            for unit in units[30:]:
                stream.publish(unit)
            for unit in TestPicture(352, 288, codec="h265").encoded_loop(0.2):
                stream.publish(replace(unit, pts=unit.pts + 90_000, dts=unit.dts + 90_000))
            file = await whole(response)
        data = b""
        async with asyncio.timeout(30):
            async for message in socket:
                assert message.type is WSMsgType.BINARY
                data += message.data
        assert socket.close_code == 1012
    assert data == file
    pictures = [unit for unit in units if unit.codec.is_video]
    found = decode(data, "flv")
    assert found.hashes == source_hashes(pictures)[found.frames[0] :]


@pytest.mark.parametrize("ending", [".flv"])
async def test_a_viewer_that_reads_nothing_goes_on_at_a_key_frame_and_the_others_lose_nothing(
    reader_node: Any, http: ClientSession, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    monkeypatch.setattr(fanout, "QUEUE_BYTES", 1_500_000)
    stream = reader_node.open()
    picture = TestPicture(704, 576, bitrate=4_000_000, gop=10)
    address = reader_node.url(f"/live/gate{ending}?ticket={reader_node.ticket()}")
    feeding = reader_node.feed(stream, picture, audio=False, speed=12)
    async with http.get(address, read_bufsize=4096) as slow, http.get(address) as good:
        good_data = b""
        async with asyncio.timeout(60):
            while stream.reader_drops == 0:
                good_data += await good.content.readany()
        feeding.cancel()
        reading = asyncio.gather(good.read(), slow.read())
        units = picture.encoded_loop(0.4)
        for _ in range(3):  # so that the slow one gets a key frame to go on with
            await asyncio.sleep(0.2)
            for unit in units:
                shift = 90_000 * 1000
                stream.publish(replace(unit, pts=unit.pts + shift, dts=unit.dts + shift))
        stream.close()
        async with asyncio.timeout(60):
            rest, slow_data = await reading
    assert stream.reader_drops > 0
    form = FILES[ending][1]
    seen, late = decode(good_data + rest, form), decode(slow_data, form)
    assert {round(after - before, 2) for before, after in pairwise(seen.shown_s[:-30])} == {0.04}
    holes = [
        number
        for number, (before, after) in zip(late.frames[1:], pairwise(late.shown_s), strict=True)
        if after - before > 0.1
    ]
    assert holes, "it lost something"
    assert all(number % 10 == 0 for number in holes), "where it goes on, it goes on with a key frame"
    assert len(late.frames) < len(seen.frames)


async def test_a_viewer_that_takes_nothing_at_all_is_closed(
    reader_node: Any, http: ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "STALLED_S", 0.3)
    stream = reader_node.open()
    reader_node.feed(stream, TestPicture(704, 576, bitrate=4_000_000, gop=10), audio=False, speed=12)
    address = reader_node.url(f"/live/gate.ts?ticket={reader_node.ticket()}")
    async with http.get(address, read_bufsize=4096):
        await gone(reader_node, 1)
    assert [cause for _, cause in reader_node.seen.closed] == ["stalled"]


@pytest.mark.parametrize("path", [".ts", "/ws.flv", "/ws"])
async def test_the_end_of_the_stream_ends_its_viewers(
    reader_node: Any, http: ClientSession, path: str
) -> None:
    stream = reader_node.open()
    for unit in GOP10.encoded_loop(0.4):
        stream.publish(unit)
    address = reader_node.url(f"/live/gate{path}?ticket={reader_node.ticket()}")
    if path.endswith(".ts"):
        async with http.get(address) as response:
            stream.close("no_rtp")
            await whole(response)
    else:
        async with http.ws_connect(address) as socket:
            stream.close("no_rtp")
            async with asyncio.timeout(30):
                async for _ in socket:
                    pass
            assert socket.close_code == 1001
    await gone(reader_node, 1)
    assert [cause for _, cause in reader_node.seen.closed] == ["no_rtp"]


async def test_sound_can_be_left_out(reader_node: Any, http: ClientSession) -> None:
    stream = reader_node.open()
    units = interleaved(GOP10.encoded_loop(1), tone(1))
    for unit in units[:10]:
        stream.publish(unit)
    ticket = reader_node.ticket()
    responses = [
        await http.get(reader_node.url(f"/live/gate{ending}?ticket={ticket}&audio=0")) for ending in FILES
    ]
    socket = await http.ws_connect(reader_node.url(f"/live/gate/ws?ticket={ticket}&audio=0"))
    for unit in units[10:]:
        stream.publish(unit)
    about = json.loads((await socket.receive()).data)
    assert about["audio"] is None
    await socket.close()
    stream.close()
    for response, (_, form) in zip(responses, FILES.values(), strict=True):
        assert decode(await whole(response), form).codecs == ["h264"]


@pytest.mark.parametrize("rate_hz", [8000, 16000, 48000])
@pytest.mark.parametrize(
    ("make", "form"), [(Fragmenter, "mp4"), (FlvMuxer, "flv"), (TransportMuxer, "mpegts")]
)
def test_aac_passes_untouched_and_in_step(make: Callable[[], TrackMuxer], form: str, rate_hz: int) -> None:
    pictures, sound = GOP10.encoded_loop(3), aac_tone(3, rate_hz)
    muxer = make()
    muxer.expect_audio(AudioTrack(codec="aac", clock_rate_hz=rate_hz))
    chunks = [chunk for unit in interleaved(pictures, sound) for chunk in muxer.feed(unit)]
    data = chunks[0].head.data + b"".join(chunk.data for chunk in chunks)
    found = decode(data, form)
    assert found.codecs == ["h264", "aac"]
    assert found.rate_hz == rate_hz
    assert len(found.sync_s) == 3
    assert max(map(abs, found.sync_s)) < 0.1
    if form != "mpegts":  # there each frame is in pieces
        missing = [unit for unit in sound if unit.pts < 240_000 and unit.data[7:] not in data]
        assert missing == [], "no frame was encoded again"


def test_g711_of_either_law_becomes_the_same_sound() -> None:
    for codec in (Codec.PCMA, Codec.PCMU):
        muxer = TransportMuxer()
        chunks = [
            chunk for unit in interleaved(GOP10.encoded_loop(3), tone(3, codec)) for chunk in muxer.feed(unit)
        ]
        assert chunks[0].head is not chunks[-1].head, "sound that was not announced joins at a key frame"
        found = decode(b"".join(chunk.data for chunk in chunks if chunk.head is chunks[-1].head), "mpegts")
        assert found.codecs == ["h264", "aac"]
        assert len(found.sync_s) == 2
        assert max(map(abs, found.sync_s)) < 0.1
