"""The order in which everything is built and started; what was started is stopped in reverse.

Each subject is a part in ``gateway/assembly``: it is given those before it, and holds the services of its subject.
"""

from __future__ import annotations

import logging
from contextlib import AsyncExitStack

from config.settings import Settings
from gateway.assembly.cascade import Upward
from gateway.assembly.devices import Devices
from gateway.assembly.gauges import register_gauges
from gateway.assembly.http import Web
from gateway.assembly.media import Media
from gateway.assembly.recordings import Recordings
from gateway.assembly.signalling import Signalling
from gateway.assembly.state import State
from gateway.networks import AddressFault
from gateway.storage.database import StorageFailed

logger = logging.getLogger(__name__)


class StartFailed(Exception):
    """The gateway cannot start; the message is one line for the operator."""


class Gateway:
    """All parts of the service. Build, ``start``, ``stop``; a part that fails to start takes the others down again."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.first_password: str | None = None
        """The administrator's password when this start created him; to be shown once."""
        self._stack = AsyncExitStack()
        self._state = state = State(settings)
        self._signalling = signalling = Signalling(settings, state)
        self._devices = devices = Devices(settings, state, signalling)
        self._media = media = Media(settings, state, signalling)
        self._recordings = recordings = Recordings(
            settings, state, signalling, devices, media, http_port=lambda: self.http.server.port
        )
        self._upward = upward = Upward(settings, state, signalling, devices, media, recordings)
        self._web = web = Web(settings, state, signalling, devices, media, recordings, upward)
        register_gauges(state, signalling, devices, media, recordings, upward, web)
        self._show()

    def _show(self) -> None:
        """What commands, tools and tests look at from outside."""
        state, signalling, media = self._state, self._signalling, self._media
        recordings, upward = self._recordings, self._upward
        self.bus, self.registry, self.metrics = state.bus, state.registry, state.metrics
        self.database, self.journal = state.database, state.journal
        self.endpoint, self.registrar = signalling.endpoint, signalling.registrar
        self.device_info = self._devices.device_info
        self.nodes, self.sessions, self.control = media.nodes, media.sessions, media.control
        self.inputs, self.talks, self.ssrc_pool = media.inputs, media.talks, media.ssrc_pool
        self.recording, self.playbacks = recordings.recording, recordings.playbacks
        self.history_ends = recordings.history_ends
        self.device_downloads = recordings.device_downloads
        self.cascade, self.upper_playback = upward.cascade, upward.playback
        self.upper_records = upward.records
        self.http = self._web.http

    @property
    def url(self) -> str:
        """Where the console is."""
        return self._web.url

    async def start(self) -> None:
        """Start all parts. Raises StartFailed, after stopping what was started."""
        try:
            self._signalling.own_address.check()
            await self.start_signalling()
            await self._start_media()
            await self._upward.start(self._stack)
            self.first_password = await self.http.access.ensure_first_user()
            await self._web.start(self._stack)
        except (StorageFailed, AddressFault, OSError) as error:
            await self.stop()
            raise StartFailed(_one_line(error)) from error
        except BaseException:
            await self.stop()
            raise
        logger.info(
            "gateway started server=%s port=%d devices=%d channels=%d",
            self.settings.sip.server_id, self.endpoint.port, len(self.registry.devices),
            self.registry.channel_count(),
        )  # fmt: skip

    async def start_signalling(self) -> None:
        """What devices need to register and to be asked: all that runs without media and HTTP."""
        stack = self._stack
        await self._state.load(stack)
        await self.inputs.load()
        await self._state.start(stack)
        await self._devices.listen(stack)
        self._state.quieten(stack)
        await self._signalling.start(stack)
        await self._devices.start(stack)
        await self._signalling.resume(stack)

    async def _start_media(self) -> None:
        stack = self._stack
        self._media.hold(stack)
        self._recordings.hold(stack)
        await self._media.start(stack)
        await self._recordings.start(stack)

    async def stop(self) -> None:
        """Stop all parts in reverse order. Registrations and subscriptions stay on record. May be called again."""
        await self._stack.aclose()


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:500]
