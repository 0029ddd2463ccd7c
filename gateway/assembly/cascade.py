"""Toward upper platforms: registration, catalog, pictures, recordings, commands, alarms and broadcasts."""

from __future__ import annotations

from contextlib import AsyncExitStack

from config.settings import Settings
from gateway import __version__
from gateway.assembly.devices import Devices
from gateway.assembly.media import Media
from gateway.assembly.recordings import Recordings
from gateway.assembly.signalling import Signalling
from gateway.assembly.state import State
from gateway.services.alarms_notices import UpperNotices
from gateway.services.alarms_upward import AlarmsUpward
from gateway.services.cascade import Cascade
from gateway.services.cascade_answers import UpperAnswers
from gateway.services.cascade_control import DEVICE_TIMEOUT_S, UpperCommands
from gateway.services.cascade_invite import InviteRelay
from gateway.services.cascade_items import ItemWriter
from gateway.services.cascade_journal import UpperJournal
from gateway.services.cascade_playback import UpperPlayback
from gateway.services.cascade_queries import UpperQueries
from gateway.services.cascade_records import InDevices, OwnRecords, UpperRecords
from gateway.services.census import division_names
from gateway.services.commands import DeviceCommands
from gateway.services.device_config import DeviceConfiguration
from gateway.services.device_config_upward import UpperConfiguration
from gateway.services.talk_upward import UpperBroadcasts
from gateway.storage.platforms import PlatformStore
from sip.flow import Flow
from sip.manscdp import BroadcastNotify

MANUFACTURER = "GB28181 gateway"
"""What uppers are told in DeviceInfo and in the catalog's first Item."""


class Upward:
    """``cascade`` is the service, the others are what it serves uppers with."""

    def __init__(
        self,
        settings: Settings,
        state: State,
        signalling: Signalling,
        devices: Devices,
        media: Media,
        recordings: Recordings,
    ) -> None:
        self._settings, self._state, self._signalling = settings, state, signalling
        self._devices, self._media, self._recordings = devices, media, recordings
        self._build_cascade()
        self._build_questions()
        self._build_configuration()
        self._wire_commands()
        self._build_playback()
        self._build_alarms()
        self._build_broadcasts()

    def _build_cascade(self) -> None:
        settings, state, media = self._settings, self._state, self._media
        sip, names = settings.sip, division_names()
        self.relay = InviteRelay(
            settings=settings.cascade,
            sessions=media.sessions,
            address=media.address,
            ssrc_pool=media.ssrc_pool,
            contacts=self._signalling.endpoint.core,
            bus=state.bus,
            clock=state.clock,
            own_id=sip.server_id,
        )
        self.commands = UpperCommands(
            facts=state.registry,
            mover=media.control,
            downward=self._signalling.dispatch,
            bus=state.bus,
            clock=state.clock,
        )
        self.answers = UpperAnswers(
            facts=state.registry,
            manufacturer=MANUFACTURER,
            model=sip.user_agent,
            firmware=__version__,
            name=sip.user_agent,
            clock=state.clock,
        )
        self.cascade = Cascade(
            settings=settings.cascade,
            identity=self._signalling.identity,
            name=sip.user_agent,
            registry=state.registry,
            bus=state.bus,
            endpoint=self._signalling.endpoint,
            dispatch=self._signalling.dispatch,
            relay=self.relay,
            commands=self.commands,
            answers=self.answers,
            items=ItemWriter(state.registry, manufacturer=MANUFACTURER, model=sip.user_agent),
            store=PlatformStore(state.database),
            clock=state.clock,
            division_name=lambda code: names.get(code, ""),
            healthy=lambda: bool(media.nodes.handles()),
            journal=UpperJournal(journal=state.journal, endpoint=self._signalling.endpoint),
        )
        self._signalling.notes.upper_at = self.cascade.upper_at
        self.cascade.media_server = media.media_server

    def _build_questions(self) -> None:
        settings = self._settings.control
        patience_s = min(DEVICE_TIMEOUT_S, settings.answer_timeout_s)
        self.cascade.queries = self.queries = UpperQueries(
            asking=DeviceCommands(
                settings=settings.model_copy(update={"answer_timeout_s": patience_s}),
                registry=self._state.registry,
                asker=self._signalling.dispatch,
            ),
            answers=self.answers,
            facts=self._state.registry,
            clock=self._state.clock,
        )

    def _build_configuration(self) -> None:
        settings = self._settings.device_config
        patience_s = min(DEVICE_TIMEOUT_S, settings.answer_timeout_s)
        self.configuration = UpperConfiguration(
            configuration=DeviceConfiguration(
                settings=settings.model_copy(update={"answer_timeout_s": patience_s}),
                registry=self._state.registry,
                asker=self._signalling.dispatch,
                timers=self._signalling.liveness,
                clock=self._state.clock,
            ),
            served=lambda: self.cascade.served,
            bus=self._state.bus,
            clock=self._state.clock,
        )
        self.cascade.configuration = self.configuration
        self._recordings.snapshots.stranger = self.configuration.snapshots_finished

    def _wire_commands(self) -> None:
        self.commands.upgrader = self._devices.upgrades
        self.commands.link_of = self.cascade.link_of
        self._devices.upgrades.on_result = self.commands.upgrade_over

    def _build_playback(self) -> None:
        recordings = self._recordings
        self.playback = UpperPlayback(
            settings=self._settings.playback,
            player=recordings.playing,
            devices=recordings.device_playbacks,
        )
        recordings.device_playbacks.on_over = self.playback.device_over
        self.relay.history = self.playback
        self._media.sessions.connect(
            sender_ended=self.relay.sender_ended, playback_ended=self.playback.playback_ended
        )
        self.records = UpperRecords(
            [OwnRecords(recordings.playbacks.library, self._state.clock)],
            address_of=self._address_of,
            devices=InDevices(recordings.device_records, self._state.registry),
        )
        self.cascade.records_of = self.records

    def _build_alarms(self) -> None:
        self.alarms_upward = AlarmsUpward(lambda: self.cascade.served)
        self._devices.alarms.listeners.append(self.alarms_upward.alarm)
        self.cascade.notices = notices = UpperNotices(
            self._devices.subscriptions, lambda: self.cascade.served, self._devices.alarms.camera_of
        )
        self._devices.positions.listeners.append(notices.report)

    def _build_broadcasts(self) -> None:
        self.broadcasts = UpperBroadcasts(
            talks=self._media.talks,
            calls=self._media.talk_calls,
            media=self._settings.media,
            bus=self._state.bus,
            uppers=lambda: self.cascade.served,
        )
        self._signalling.dispatch.before(BroadcastNotify, "upper")(self.broadcasts.check)
        self._signalling.dispatch.on(BroadcastNotify, "upper")(self.broadcasts.broadcast)

    def _address_of(self, key: tuple[str, str]) -> str:
        channel = self._state.registry.channel(*key)
        return channel.address if channel is not None else ""

    async def start(self, stack: AsyncExitStack) -> None:
        """Uppers come last: what they ask for can be served. They hear of lost and regained media nodes."""
        stack.push_async_callback(self.playback.close)
        stack.push_async_callback(self.queries.close)
        stack.push_async_callback(self.configuration.close)
        stack.push_async_callback(self.cascade.close)
        stack.push_async_callback(self.alarms_upward.close)
        self.alarms_upward.start()
        stack.push_async_callback(self.broadcasts.close)
        self.broadcasts.start()
        await self.cascade.start()
        self._signalling.endpoint.on_connection_closed = self._connection_closed
        self._media.nodes.on_ready.append(lambda node: self.cascade.health_changed())
        self._media.nodes.on_lost.append(lambda node, cause: self.cascade.health_changed())

    def _connection_closed(self, flow: Flow) -> None:
        self._signalling.liveness.connection_closed(flow)
        self.cascade.connection_closed(flow)
