"""Which loudspeaker belongs to a channel, and which channels belong to a group (GB/T 28181-2022 9.12.1.1, annex J)."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.directory import Directory
from gateway.model import ChannelKind, Device, DeviceKind
from gateway.registry import Registry
from gateway.services.talk_record import TalkCause, TalkFailed, TalkTarget


@dataclass(frozen=True, slots=True)
class AudioOutput:
    """``output_id`` empty: none. ``source``: catalog (a 137 Item), operator (an override), or none."""

    output_id: str
    source: str


class Outputs:
    """Finds outputs in the catalogs."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def of(self, device: Device, channel_id: str) -> AudioOutput:
        """The output of a channel, or of a whole device under its own code (G251, G252).

        An Item of type 137 under the camera, else, for a device with one picture, under the device. A device whose
        catalog names none counts as having none, unless an operator says otherwise.
        """
        override = device.profile.audio_output
        found = "" if override == "no" else self._item(device, channel_id)
        if found:
            return AudioOutput(found, "catalog")
        if override == "yes":
            return AudioOutput(channel_id, "operator")
        return AudioOutput("", "operator" if override == "no" else "none")

    def _item(self, device: Device, channel_id: str) -> str:
        channels = self._registry.channels(device.device_id)
        outputs = [channel for channel in channels.values() if channel.kind is ChannelKind.AUDIO_OUT]
        if channel_id == device.device_id:
            return device.device_id if outputs else ""
        channel = channels.get(channel_id)
        if channel is not None and channel.kind is ChannelKind.AUDIO_OUT:
            return channel_id
        own = next((output for output in outputs if channel_id in output.parent_ids), None)
        if own is not None:
            return own.channel_id
        if device.kind is DeviceKind.PLATFORM:
            return ""
        pictures = sum(channel.kind is ChannelKind.CAMERA for channel in channels.values())
        device_wide = [output for output in outputs if set(output.parent_ids) <= {device.device_id}]
        return device_wide[0].channel_id if device_wide and pictures <= 1 else ""

    def target(self, device_id: str, channel_id: str) -> TalkTarget:
        """Raises TalkFailed(not_found, device_offline, no_audio_output)."""
        device = self._registry.devices.get(device_id)
        if device is None or (
            channel_id != device_id and self._registry.channel(device_id, channel_id) is None
        ):
            raise TalkFailed(TalkCause.NOT_FOUND, f"channel {channel_id} of {device_id} is not known")
        if device.local:
            raise TalkFailed(TalkCause.NO_AUDIO_OUTPUT, "this is an input of our own: it has no loudspeaker")
        output = self.of(device, channel_id)
        if not output.output_id:
            raise TalkFailed(
                TalkCause.NO_AUDIO_OUTPUT,
                f"{channel_id} has no audio output: its catalog names no Item of type 137 (an operator may say otherwise)",
            )
        if not device.online or device.flow is None:
            raise TalkFailed(TalkCause.DEVICE_OFFLINE, f"device {device_id} is offline")
        return TalkTarget(device_id, channel_id, output.output_id)

    def members(self, node: str) -> list[tuple[str, str]]:
        """Channels below a node of the tree, as ``GET /api/tree`` names it, that have an output of their own.

        ``device:<code>`` is the device with all its outputs. Raises GatewayError(404).
        """
        kind, _, code = node.partition(":")
        if kind == "device":
            if code not in self._registry.devices:
                raise TalkFailed(TalkCause.NOT_FOUND, f"device {code} is not known")
            found = [(code, code)]
        elif kind == "channel":
            device_id, _, channel_id = code.partition("/")
            channels = self._registry.channels(device_id) if device_id in self._registry.devices else {}
            if channel_id not in channels:
                raise TalkFailed(TalkCause.NOT_FOUND, f"channel {channel_id} of {device_id} is not known")
            found = [(device_id, below) for below in Directory(channels).subtree(channel_id)]
        else:
            found = [
                channel.key
                for channel in self._registry.all_channels()
                if channel.kind in (ChannelKind.CAMERA, ChannelKind.AUDIO_OUT)
                and channel.civil_code.startswith(code)
            ]
        return self._each_once(found)

    def _each_once(self, keys: list[tuple[str, str]]) -> list[tuple[str, str]]:
        """Those with an output, each output once."""
        outputs: dict[tuple[str, str], tuple[str, str]] = {}
        for device_id, channel_id in keys:
            device = self._registry.devices.get(device_id)
            if device is None or device.local:
                continue
            channel = self._registry.channel(device_id, channel_id)
            if channel is not None and channel.kind not in (ChannelKind.CAMERA, ChannelKind.AUDIO_OUT):
                continue
            output = self.of(device, channel_id)
            if output.output_id:
                outputs.setdefault((device_id, output.output_id), (device_id, channel_id))
        return list(outputs.values())
