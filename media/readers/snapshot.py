"""Snapshots: the newest key frame of a stream as a JPEG."""

from __future__ import annotations

from dataclasses import asdict

from aiohttp import web

from media.decode import DecodePool
from media.errors import MediaError
from media.readers.host import ReaderHost
from media.specs import DecodeStats
from media.stream import StreamEnded
from media.unit import Codec


class SnapshotRoutes:
    """``POST /streams/{stream_id}/snapshot``: waits for the first key frame if need be, decodes in the worker."""

    def __init__(self, host: ReaderHost) -> None:
        self._host = host
        self._decoder = DecodePool(host.config.decode_workers)

    def stats(self) -> DecodeStats:
        """What the worker processes did."""
        pool = self._decoder
        return DecodeStats(workers=pool.workers, waiting=pool.waiting, **asdict(pool.counters))

    async def take(self, request: web.Request) -> web.Response:
        """image/jpeg, or a MediaError (not_found, not_ready, unsupported, unavailable)."""
        stream = self._host.stream(request.match_info["stream_id"])
        timeout_s = self._host.config.snapshot_timeout_s
        try:
            await stream.wait_ready(timeout_s)
        except (TimeoutError, StreamEnded) as error:
            raise MediaError("not_ready", "no picture has come yet") from error
        unit = stream.last_key
        if unit is None:
            raise MediaError("unsupported", "the stream has no picture")
        jpeg = await self._decoder.jpeg(Codec(unit.codec), unit.data, timeout_s=timeout_s)
        return web.Response(body=jpeg, content_type="image/jpeg", headers={"Cache-Control": "no-store"})

    async def close(self, _: web.Application) -> None:
        await self._decoder.close()


def add_control_routes(app: web.Application, node: ReaderHost) -> SnapshotRoutes:
    """Register the snapshot route on the control API."""
    routes = SnapshotRoutes(node)
    app.router.add_post("/streams/{stream_id}/snapshot", routes.take)
    app.on_cleanup.append(routes.close)
    return routes
