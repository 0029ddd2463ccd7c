"""The control API's part for talks: open, speak, legs, end (media/client.py calls it)."""

from __future__ import annotations

import asyncio
import contextlib

from aiohttp import web

from media.errors import MediaError
from media.readers.rtc_port import ViewerPorts
from media.readers.talk_microphone import Microphone
from media.specs import TalkAnswer, TalkerGone, TalkLegSpec, TalkLegTarget, TalkMute, TalkOffer, TalkSpec
from media.talk import TalkHost, Talks
from media.talk_file import to_g711a

MOST_PUSHED_BYTES = 64 * 1024 * 1024
CLOSE_S = 5.0


class TalkRoutes:
    """Handlers, and the owner of the microphones."""

    def __init__(self, host: TalkHost, ports: ViewerPorts) -> None:
        self._host = host
        self._ports = ports
        self._microphones: dict[str, Microphone] = {}
        self.talks = Talks(host)

    async def open(self, request: web.Request) -> web.Response:
        """``POST /talks``: TalkSpec in, 204."""
        self.talks.open(TalkSpec.model_validate_json(await request.read()))
        return web.Response(status=204)

    async def close_talk(self, request: web.Request) -> web.Response:
        """``DELETE /talks/{id}``: 204, also when it is gone already."""
        talk_id = request.match_info["id"]
        microphone = self._microphones.pop(talk_id, None)
        self.talks.close_talk(talk_id)
        if microphone is not None:
            await microphone.stop()
        return web.Response(status=204)

    async def mute(self, request: web.Request) -> web.Response:
        """``PATCH /talks/{id}``: TalkMute in, 204."""
        talk = self.talks.talk(request.match_info["id"])
        talk.muted = TalkMute.model_validate_json(await request.read()).muted
        return web.Response(status=204)

    async def offer(self, request: web.Request) -> web.Response:
        """``POST /talks/{id}/webrtc``: TalkOffer in, 201 with TalkAnswer. One microphone per talk."""
        talk_id = request.match_info["id"]
        talk = self.talks.talk(talk_id)
        asked = TalkOffer.model_validate_json(await request.read())
        if talk_id in self._microphones:
            raise MediaError("bad_request", f"talk {talk_id} has a microphone", 409)
        microphone = Microphone(talk, self._ports, lambda cause: self._gone(talk_id, cause))
        self._microphones[talk_id] = microphone
        try:
            sdp = await microphone.answer(asked)
        except MediaError:
            self._microphones.pop(talk_id, None)
            raise
        return web.json_response(text=TalkAnswer(sdp=sdp).model_dump_json(), status=201)

    def _gone(self, talk_id: str, cause: str) -> None:
        self._microphones.pop(talk_id, None)
        self._host.emit(TalkerGone(talk_id=talk_id, cause=cause))

    async def push(self, request: web.Request) -> web.Response:
        """``POST /talks/{id}/audio``: G.711A samples, or any sound file with ``?file=1``; TalkQueued out."""
        talk_id = request.match_info["id"]
        talk = self.talks.talk(talk_id)
        if talk_id in self._microphones:
            raise MediaError("bad_request", "a browser speaks in this talk", 409)
        data = await request.content.read(-1)
        if request.query.get("file"):
            data = await to_g711a(data)
        return web.json_response(text=talk.push(data).model_dump_json())

    async def open_leg(self, request: web.Request) -> web.Response:
        """``POST /legs``: TalkLegSpec in, 201 with TalkLegInfo."""
        info = self.talks.open_leg(TalkLegSpec.model_validate_json(await request.read()))
        return web.json_response(text=info.model_dump_json(), status=201)

    async def start_leg(self, request: web.Request) -> web.Response:
        """``POST /legs/{id}/start``: TalkLegTarget in, 204."""
        target = TalkLegTarget.model_validate_json(await request.read())
        self.talks.start_leg(request.match_info["id"], target)
        return web.Response(status=204)

    async def close_leg(self, request: web.Request) -> web.Response:
        """``DELETE /legs/{id}``: 204, also when it is gone already."""
        self.talks.close_leg(request.match_info["id"])
        return web.Response(status=204)

    async def close(self, _: web.Application) -> None:
        """End all (the node is stopping)."""
        microphones = list(self._microphones.values())
        self._microphones.clear()
        self.talks.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                await asyncio.gather(*(microphone.stop() for microphone in microphones))


def add_control_routes(app: web.Application, host: TalkHost, ports: ViewerPorts) -> TalkRoutes:
    """Register the routes; microphones leave ``ports`` before these are closed."""
    routes = TalkRoutes(host, ports)
    app.router.add_post("/talks", routes.open)
    app.router.add_patch("/talks/{id}", routes.mute)
    app.router.add_delete("/talks/{id}", routes.close_talk)
    app.router.add_post("/talks/{id}/webrtc", routes.offer)
    app.router.add_post("/talks/{id}/audio", routes.push)
    app.router.add_post("/legs", routes.open_leg)
    app.router.add_post("/legs/{id}/start", routes.start_leg)
    app.router.add_delete("/legs/{id}", routes.close_leg)
    app.on_shutdown.insert(0, routes.close)
    return routes
