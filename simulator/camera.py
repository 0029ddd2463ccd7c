"""A simulated network camera: one registration, one channel, optionally a loudspeaker."""

from __future__ import annotations

from dataclasses import replace

from simulator.audio import AudioOptions
from simulator.device import Channel, DeviceOptions, MediaChoice, SimulatedDevice, run_devices
from simulator.faults import Faults
from simulator.sending import Pictures
from sip.ids import make_code, parse_code
from sip.manscdp import Edition

__all__ = ["AudioOptions", "Camera", "Channel", "DeviceOptions", "Faults", "Pictures", "run_devices"]


class Camera(SimulatedDevice):
    """A camera of type 132. Its channel has the same code with type 131 unless ``channel_id`` says otherwise.

    ``codec`` h264 or h265; ``picture`` loop (encoded once for all cameras of one codec: cheap) or live (a clock
    that runs, and the camera's name in the picture). ``speaker`` adds a 137 entry to the catalog.
    Further settings: ``options``.
    """

    def __init__(
        self,
        device_id: str,
        *,
        server: tuple[str, int],
        server_id: str,
        domain: str = "",
        password: str | None = None,
        name: str = "",
        channel_id: str = "",
        transport: str | None = None,
        media: MediaChoice | None = None,
        codec: str | None = None,
        edition: Edition | None = None,
        picture: str | None = None,
        speaker: bool = False,
        channels: list[Channel] | None = None,
        options: DeviceOptions | None = None,
        faults: Faults | None = None,
    ) -> None:
        options = chosen(
            options, transport=transport, media=media, codec=codec, edition=edition, picture=picture
        )
        name = name or f"camera {device_id[-4:]}"
        if options.pictures.source == "live" and not options.pictures.label:
            options.pictures = replace(options.pictures, label=name)
        if channels is None:
            channels = [Channel(channel_id or _with_type(device_id, 131), name)]
            if speaker:
                channels.append(
                    Channel(_with_type(device_id, 137), f"{name} loudspeaker", parent_ids=(device_id,))
                )
        super().__init__(
            device_id,
            channels,
            server=server,
            server_id=server_id,
            domain=domain,
            password=password,
            name=name,
            options=options,
            faults=faults,
        )
        self.channel_id = next(channel.channel_id for channel in channels if channel.has_pictures)
        """Code of the channel with pictures."""


def chosen(
    options: DeviceOptions | None,
    *,
    transport: str | None = None,
    media: MediaChoice | None = None,
    codec: str | None = None,
    edition: Edition | None = None,
    picture: str | None = None,
) -> DeviceOptions:
    """A copy of the options with the short arguments put in. ValueError for words that are none."""
    options = replace(options) if options is not None else DeviceOptions()
    options.register = replace(options.register)
    if transport is not None:
        if transport not in ("udp", "tcp", "tls"):
            raise ValueError(f"no transport: {transport}")
        options.transport = transport  # type: ignore[assignment]
    if media is not None:
        options.media = media
    if edition is not None:
        options.edition = edition
    if codec is not None:
        options.pictures = replace(options.pictures, codec=codec)
    if picture is not None:
        options.pictures = replace(options.pictures, source="live" if picture == "live" else "loop")
    return options


def _with_type(code: str, type_code: int) -> str:
    """The same code with another type; for codes of odd form a fresh one from their digits."""
    parsed = parse_code(code)
    if parsed is None:
        return make_code("410183", type_code, sum(code.encode()) % 1_000_000)
    return str(replace(parsed, type=type_code))
