"""fMP4 over HTTP and WebSocket: admission, shared fragments, slow viewers, changes of codec, the end."""

from __future__ import annotations

import asyncio
import io
import json
from dataclasses import replace
from itertools import pairwise
from typing import Any

import av
import pytest
from aiohttp import ClientSession, ClientWebSocketResponse, WSMsgType

from media.readers import fanout
from media.readers.fanout import Viewer
from media.readers.fragmenter import Fragment, Init
from media.stream import StreamEnded
from simulator.picture import TestPicture, read_mark, tone

PICTURE = TestPicture(352, 288)
INIT = Init(b"init", mime="video/mp4")


async def read_file(http: ClientSession, url: str, size: int) -> bytes:
    async with http.get(url) as response:
        assert response.status == 200
        assert response.headers["Content-Type"] == "video/mp4"
        data = b""
        async with asyncio.timeout(20):
            while len(data) < size:
                chunk = await response.content.readany()
                if not chunk:
                    break
                data += chunk
        return data


def frames_of(data: bytes) -> list[int]:
    """Frame numbers in a file that may be cut anywhere."""
    found = []
    with av.open(io.BytesIO(data)) as container:
        try:
            for frame in container.decode(video=0):
                mark = read_mark(frame.to_ndarray(format="gray"))
                if mark is not None:
                    found.append(mark.frame)
        except av.FFmpegError:
            pass
    return found


async def next_message(socket: ClientWebSocketResponse) -> Any:
    async with asyncio.timeout(20):
        message = await socket.receive()
    return json.loads(message.data) if message.type is WSMsgType.TEXT else message.data


async def gone(reader_node: Any, viewers: int) -> None:
    async with asyncio.timeout(20):
        while len(reader_node.seen.closed) < viewers:
            await asyncio.sleep(0.02)


async def test_a_file_plays_from_the_last_key_frame(reader_node: Any, http: ClientSession) -> None:
    stream = reader_node.open()
    units = TestPicture(352, 288, gop=10).encoded_loop(2)
    for unit in units[:25]:
        stream.publish(unit)
    async with http.get(reader_node.url(f"/live/gate.mp4?ticket={reader_node.ticket()}")) as response:
        assert response.headers["Content-Type"] == "video/mp4"
        for unit in units[25:]:
            stream.publish(unit)
        stream.close()
        async with asyncio.timeout(20):
            data = await response.read()
    assert frames_of(data) == list(range(20, 49))


async def test_sound_comes_with_the_picture(reader_node: Any, http: ClientSession) -> None:
    stream = reader_node.open()
    reader_node.feed(stream)
    await stream.wait_ready(10)
    while stream.audio is None:
        await asyncio.sleep(0.01)
    data = await read_file(http, reader_node.url(f"/live/gate.mp4?ticket={reader_node.ticket()}"), 80_000)
    with av.open(io.BytesIO(data)) as container:
        assert [one.codec_context.name for one in container.streams] == ["h264", "aac"]
    assert data.count(b"moov") == 1


@pytest.mark.parametrize("ticket", ["", "1.abc", None])
async def test_no_ticket_no_picture(reader_node: Any, http: ClientSession, ticket: str | None) -> None:
    reader_node.open()
    query = f"?ticket={ticket}" if ticket is not None else ""
    for path in ("/live/gate.mp4", "/live/gate/ws"):
        async with http.get(reader_node.url(path + query)) as response:
            assert response.status == 403
    assert reader_node.seen.opened == []


async def test_expired_and_foreign_tickets(reader_node: Any, http: ClientSession) -> None:
    reader_node.open()
    for ticket in (reader_node.ticket(lifetime_s=-1), reader_node.ticket("yard")):
        async with http.get(reader_node.url(f"/live/gate.mp4?ticket={ticket}")) as response:
            assert response.status == 403


async def test_an_unknown_stream_is_not_found(reader_node: Any, http: ClientSession) -> None:
    async with http.get(reader_node.url(f"/live/yard.mp4?ticket={reader_node.ticket('yard')}")) as response:
        assert response.status == 404


async def test_no_picture_in_time_is_503(
    reader_node: Any, http: ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fanout, "READY_TIMEOUT_S", 0.05)
    reader_node.open()
    async with http.get(reader_node.url(f"/live/gate.mp4?ticket={reader_node.ticket()}")) as response:
        assert response.status == 503
        assert (await response.json())["code"] == "not_ready"


async def test_viewers_share_one_fragmenter_and_it_stops_with_the_last(
    reader_node: Any, http: ClientSession
) -> None:
    stream = reader_node.open()
    reader_node.feed(stream)
    address = reader_node.url(f"/live/gate/ws?ticket={reader_node.ticket()}")
    async with http.ws_connect(address) as one, http.ws_connect(address) as two:
        for socket in (one, two):
            assert (await next_message(socket))["mime"].startswith('video/mp4; codecs="avc1.')
            assert (await next_message(socket))[4:8] == b"ftyp"
            assert b"moof" in await next_message(socket)
        assert [reader.kind for reader in stream.readers] == ["fmp4"]
    await gone(reader_node, 2)
    assert stream.readers == []
    assert [kind for _, kind in reader_node.seen.opened] == ["ws", "ws"]
    assert {cause for _, cause in reader_node.seen.closed} == {"left"}


async def test_the_second_viewer_begins_with_a_key_frame_too(reader_node: Any, http: ClientSession) -> None:
    stream = reader_node.open()
    reader_node.feed(stream, TestPicture(352, 288, gop=25))
    address = reader_node.url(f"/live/gate/ws?ticket={reader_node.ticket()}")
    async with http.ws_connect(address) as first:
        for _ in range(12):
            await next_message(first)
        async with http.ws_connect(address) as second:
            await next_message(second)
            data = await next_message(second)
            for _ in range(5):
                data += await next_message(second)
    frames = frames_of(data)
    assert frames[0] % 25 == 0
    assert frames == list(range(frames[0], frames[0] + len(frames)))


async def test_a_change_of_codec_sends_a_new_beginning(reader_node: Any, http: ClientSession) -> None:
    stream = reader_node.open()
    units = PICTURE.encoded_loop(0.4)
    for unit in units:
        stream.publish(unit)
    address = f"/live/gate/ws?ticket={reader_node.ticket()}"
    async with (
        http.ws_connect(reader_node.url(address)) as socket,
        http.get(reader_node.url(f"/live/gate.mp4?ticket={reader_node.ticket()}")) as response,
    ):
        about = await next_message(socket)
        assert about["video"] == {"codec": "h264", "width": 352, "height": 288}
        await next_message(socket)
        for unit in TestPicture(704, 576, codec="h265").encoded_loop(0.4):
            stream.publish(replace(unit, pts=unit.pts + 36_000, dts=unit.dts + 36_000))
        inits = []
        while not inits:
            message = await next_message(socket)
            if isinstance(message, dict):
                inits.append(message)
        assert inits[0]["video"] == {"codec": "h265", "width": 704, "height": 576}
        assert b"hvc1" in await next_message(socket)
        async with asyncio.timeout(20):
            file = await response.read()  # a file cannot change: it ends, and the player comes again
    assert frames_of(file) == list(range(10))


async def test_the_end_of_the_stream_ends_its_viewers(reader_node: Any, http: ClientSession) -> None:
    stream = reader_node.open()
    for unit in PICTURE.encoded_loop(0.4):
        stream.publish(unit)
    ticket = reader_node.ticket()
    async with (
        http.ws_connect(reader_node.url(f"/live/gate/ws?ticket={ticket}")) as socket,
        http.get(reader_node.url(f"/live/gate.mp4?ticket={ticket}")) as response,
    ):
        await next_message(socket)
        stream.close("no_rtp")
        async with asyncio.timeout(20):
            await response.read()
            async for _ in socket:
                pass
        assert socket.close_code == 1001
    await gone(reader_node, 2)
    assert {cause for _, cause in reader_node.seen.closed} == {"no_rtp"}


async def test_a_viewer_that_reads_nothing_loses_fragments_and_the_others_do_not(
    reader_node: Any, http: ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fanout, "QUEUE_BYTES", 200_000)
    stream = reader_node.open()
    # Much data per second, so that kernel buffers fill soon.
    reader_node.feed(stream, TestPicture(704, 576, bitrate=4_000_000, gop=10), audio=False, speed=12)
    ticket = reader_node.ticket()
    async with (
        http.get(reader_node.url(f"/live/gate.mp4?ticket={ticket}"), read_bufsize=4096) as slow,
        http.get(reader_node.url(f"/live/gate.mp4?ticket={ticket}")) as good,
    ):
        good_data = b""
        async with asyncio.timeout(60):
            while stream.reader_drops == 0:
                good_data += await good.content.readany()
        dropped = stream.reader_drops
        assert dropped > 0
        late: list[int] = []
        rest = b""
        async with asyncio.timeout(60):
            while not late or max(after - before for before, after in pairwise([*late, late[-1]])) <= 3600:
                data = rest + await slow.content.readany()
                late += decode_times(data)
                rest = data[-15:]  # a box cut by the end of the piece, and no whole one
    times = decode_times(good_data)
    assert len(times) > 20
    assert {after - before for before, after in pairwise(times)} == {3600}
    steps = [(after - before) for before, after in pairwise(late)]
    # Where it goes on, it goes on with a key frame.
    resumed = late[steps.index(max(steps)) + 1]
    assert resumed % (10 * 3600) == 0


def decode_times(data: bytes) -> list[int]:
    times, at = [], 0
    while (at := data.find(b"tfdt", at)) >= 0 and at + 16 <= len(data):
        times.append(int.from_bytes(data[at + 8 : at + 16], "big"))
        at += 4
    return times


def fragment(size: int, key: bool = False) -> Fragment:
    return Fragment(INIT, bytes(size), key)


async def test_a_full_queue_is_emptied_and_waits_for_a_key_fragment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fanout, "QUEUE_BYTES", 1000)
    viewer = Viewer([])
    assert viewer.offer(fragment(100)) == 1, "never begins in the middle"
    assert viewer.offer(fragment(400, key=True)) == 0
    assert viewer.offer(fragment(400)) == 0
    assert viewer.offer(fragment(400)) == 3, "the two waiting and the new one"
    assert viewer.offer(fragment(10)) == 1
    key = fragment(500, key=True)
    assert viewer.offer(key) == 0
    assert await viewer.take() == [key]
    assert viewer.dropped == 5


async def test_a_key_fragment_that_overflows_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fanout, "QUEUE_BYTES", 1000)
    viewer = Viewer([])
    viewer.offer(fragment(900, key=True))
    key = fragment(500, key=True)
    assert viewer.offer(key) == 1
    assert await viewer.take() == [key]


async def test_taking_stops_at_a_new_beginning_and_at_the_end() -> None:
    other = Fragment(Init(b"other", mime="video/mp4"), b"x", True)
    first = fragment(1, key=True)
    viewer = Viewer([first, other])
    viewer.end("closed")
    assert await viewer.take() == [first]
    assert await viewer.take() == [other]
    with pytest.raises(StreamEnded):
        await viewer.take()


async def test_taking_waits_no_longer_than_told() -> None:
    assert await Viewer([]).take(0.01) == []


async def test_h265_is_served_as_it_is(reader_node: Any, http: ClientSession) -> None:
    stream = reader_node.open()
    units = TestPicture(352, 288, codec="h265").encoded_loop(1)
    for unit in sorted(units + tone(1), key=lambda unit: unit.dts):
        stream.publish(unit)
    async with http.get(reader_node.url(f"/live/gate.mp4?ticket={reader_node.ticket()}")) as response:
        stream.close()
        async with asyncio.timeout(20):
            data = await response.read()
    assert frames_of(data) == list(range(24))
    with av.open(io.BytesIO(data)) as container:
        assert [one.codec_context.name for one in container.streams] == ["hevc", "aac"]


async def test_what_does_not_fit_into_mp4_is_refused(reader_node: Any, http: ClientSession) -> None:
    stream = reader_node.open()
    for unit in tone(3):
        stream.publish(unit)
    async with http.get(reader_node.url(f"/live/gate.mp4?ticket={reader_node.ticket()}")) as response:
        assert response.status == 415
