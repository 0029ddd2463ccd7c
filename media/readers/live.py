"""The viewers' addresses of a node: ``/live/…``, one route per output. All want ``?ticket=``."""

from __future__ import annotations

from aiohttp import web

from media.readers import flv, fmp4, ts
from media.readers.delivery import FileOutput, SocketOutput
from media.readers.fanout import Fanout
from media.readers.hls import HlsOutput
from media.readers.host import ReaderHost

STREAM = "/live/{stream_id:[0-9A-Za-z_-]{1,64}}"


def add_viewer_routes(app: web.Application, host: ReaderHost) -> None:
    """Register all outputs; they share one fan-out and end with the application."""
    fanout = Fanout(host)
    playlists = HlsOutput(fanout)
    for path, handler in (
        (f"{STREAM}.mp4", FileOutput(fanout, "fmp4", "video/mp4", fmp4.choose).handle),
        (f"{STREAM}/ws", SocketOutput(fanout, "ws", fmp4.choose, fmp4.greet).handle),
        (f"{STREAM}.flv", FileOutput(fanout, "flv", "video/x-flv", flv.choose).handle),
        (f"{STREAM}/ws.flv", SocketOutput(fanout, "ws_flv", flv.choose).handle),
        (f"{STREAM}.ts", FileOutput(fanout, "ts", "video/mp2t", ts.choose).handle),
        (f"{STREAM}.m3u8", playlists.master),
        (f"{STREAM}/hls/{{key:[0-9A-Za-z_-]{{1,64}}}}/{{name:[0-9a-z.]{{1,40}}}}", playlists.file),
    ):
        app.router.add_get(path, handler, allow_head=False)

    async def close(_: web.Application) -> None:
        await playlists.close()
        await fanout.close()

    app.on_shutdown.append(close)
