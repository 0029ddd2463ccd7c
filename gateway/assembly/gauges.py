"""What the metrics page reads from the parts: every gauge that is worked out when it is asked for."""

from __future__ import annotations

from gateway.assembly.cascade import Upward
from gateway.assembly.devices import Devices
from gateway.assembly.http import Web
from gateway.assembly.media import Media
from gateway.assembly.recordings import Recordings
from gateway.assembly.signalling import Signalling
from gateway.assembly.state import State
from gateway.metrics_alarms import AlarmGauges
from gateway.metrics_commands import CommandGauges
from gateway.metrics_device_recordings import DeviceRecordingGauges
from gateway.metrics_devices import DeviceGauges
from gateway.metrics_profiles import ProfileGauges
from gateway.metrics_recording import RecordingGauges
from gateway.metrics_signalling import SignallingGauges
from gateway.metrics_state import Sources
from gateway.metrics_talk import TalkGauges


def register_gauges(
    state: State,
    signalling: Signalling,
    devices: Devices,
    media: Media,
    recordings: Recordings,
    upward: Upward,
    web: Web,
) -> None:
    """Give the metrics their sources. To be called once, when all parts are built."""
    register = state.metrics.collector.register
    register(DeviceGauges(recordings.snapshots, recordings.video_uploads))
    register(RecordingGauges(recordings.recording, media.nodes.handles))
    register(
        DeviceRecordingGauges(
            recordings.device_records,
            recordings.device_playbacks,
            recordings.history_ends,
            recordings.device_downloads,
        )
    )
    register(
        ProfileGauges(state.registry, media.dialogs.ghosts, state.wire, lambda: media.sessions.room.made)
    )
    register(TalkGauges(media.talks, media.nodes.handles))
    register(
        SignallingGauges(
            signalling.registrar,
            signalling.notes,
            signalling.tls_files,
            lambda: state.metrics.tls_refusals,
        )
    )
    register(CommandGauges(devices.commands, devices.upgrades))
    register(
        AlarmGauges(
            devices.alarms,
            recordings.alarm_pictures,
            upward.alarms_upward,
            devices.positions,
            devices.subscriptions,
        )
    )
    state.metrics.sources = Sources(
        nodes=media.nodes.handles,
        node_restarts=lambda: media.nodes.restarts,
        platforms=upward.cascade.platforms,
        sessions=media.sessions.list,
        queues={
            "inbox": lambda: signalling.dispatch.inbox.waiting,
            "storage": lambda: len(state.registry.changes.channels) + len(state.registry.changes.devices),
            "audit": lambda: web.http.audit.waiting,
        },
        drops={
            "inbox": lambda: signalling.dispatch.inbox.counts["full"],
            "audit": lambda: web.http.audit.dropped,
            "event_readers": lambda: web.http.events.dropped,
        },
        outcomes=lambda: signalling.dispatch.counts,
        collisions=lambda: state.lower_platforms.collisions,
        inputs=lambda: media.inputs.online,
        input_checks=lambda: media.inputs.checks,
    )
