"""Shared pieces of the API's models: ids, paging, and the views of devices, channels and sessions."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from pydantic import Field

from gateway.http.routes import Model, View
from gateway.model import Channel, ChannelKind, Device, DeviceKind, SessionKind, SessionState, State
from gateway.registry import Evidence
from gateway.services.channels import fields_of

Code = Annotated[str, Field(pattern=r"^\d{20}$", description="20 digits (GB/T 28181-2022 annex E).")]
"""A code that an operator enters: strict."""
AnyCode = Annotated[str, Field(pattern=r"^[0-9A-Za-z_.-]{1,32}$")]
"""A code that devices use: letters and odd lengths occur in the field."""
MAX_PAGE = 1000
MAX_OFFSET = 10_000_000


class Page(Model):
    """Paging of lists."""

    limit: int = Field(default=100, ge=1, le=MAX_PAGE, description="Entries per page.")
    offset: int = Field(default=0, ge=0, le=MAX_OFFSET, description="Entries to leave out.")


class WhichDevice(Model):
    """Needed only when several devices use one channel code."""

    device_id: AnyCode | None = Field(
        default=None, description="The device of the channel; needed when its code is used twice (409)."
    )


class ProfileView(View):
    """What one device needs now. null: the gateway's default. Where each value comes from: /api/devices/{id}/profile."""

    media_transport: str | None
    media_ladder: list[str] | None
    sdp_form: str
    charset: str | None
    ssrc: str
    send_date: bool | None
    heartbeat_revives: bool | None
    edition: str | None
    max_streams: int | None
    stream_number_dialect: str
    record_query_hours: int | None
    talk_mode: str
    talk_audio: str


class DeviceView(View):
    device_id: str
    name: str
    kind: DeviceKind
    manufacturer: str
    model: str
    firmware: str
    edition: str = Field(description="X-GB-Ver of the device: 2.0 is the 2016 edition, 3.0 that of 2022.")
    user_agent: str
    state: State
    offline_cause: str = Field(description="Why it is offline; empty when online or never seen.")
    address: str | None = Field(description="Transport, address and port over which it is reached.")
    provisioned: bool = Field(description="Entered by an operator.")
    password_set: bool
    allowed_networks: list[str] = Field(description="Networks it may register from; empty: any.")
    registered_at: datetime | None
    expires_at: datetime | None
    last_seen_at: datetime | None
    heartbeat_interval_s: int
    heartbeat_count: int
    fault: bool = Field(description="Its heartbeat says Status ERROR.")
    faulty_children: list[str] = Field(description="Channels that its heartbeat names as faulty.")
    catalog_at: datetime | None
    catalog_complete: bool
    clock_offset_s: float | None
    channels: int
    channels_online: int
    profile: ProfileView


class EvidenceView(View):
    """Why a channel counts as online or not: the parts, the verdict and its reason in words."""

    device_online: bool
    reported: str
    defect: bool
    last_media_proof: datetime | None
    verdict: str
    reason: str


class ChannelView(View):
    device_id: str
    channel_id: str
    name: str
    kind: ChannelKind
    manufacturer: str
    model: str
    civil_code: str
    address: str
    parent_ids: list[str]
    business_group_id: str
    longitude: float | None
    latitude: float | None
    point_class: int | None = Field(description="1, 2, 3: video point of that class; 9: other.")
    ptz_type: int | None
    mapped_id: str = Field(
        description="Its code here and toward upper platforms where its own means several cameras; else empty."
    )
    online: bool
    evidence: EvidenceView


class ChannelDetail(ChannelView):
    block: str
    grassroots_code: str
    parental: int
    secrecy: int
    added_at: datetime | None
    updated_at: datetime | None
    item: dict[str, object] = Field(description="The catalog entry as received.")


class SessionView(View):
    session_id: str
    device_id: str
    channel_id: str
    channel_name: str
    kind: SessionKind
    state: SessionState
    stream_id: str
    node_id: str
    transport: str
    ssrc: str | None = Field(description="Ten digits, as in the y= line.")
    call_id: str
    started_at: datetime | None
    first_picture_s: float | None
    video_codec: str
    audio_codec: str
    viewers: int
    uppers: list[str]
    route_path: str = Field(
        description="Codes of the platforms on the way to the camera, nearest first, joined by `-`; empty when not told."
    )


def device_view(device: Device, *, password_set: bool, channels: int, channels_online: int) -> DeviceView:
    return DeviceView(
        **{
            name: getattr(device, name)
            for name in (
                "device_id",
                "name",
                "kind",
                "manufacturer",
                "model",
                "firmware",
                "edition",
                "user_agent",
                "state",
                "offline_cause",
                "provisioned",
                "registered_at",
                "expires_at",
                "last_seen_at",
                "heartbeat_interval_s",
                "heartbeat_count",
                "fault",
                "catalog_at",
                "catalog_complete",
                "clock_offset_s",
            )
        },
        faulty_children=sorted(device.faulty_children),
        address=str(device.flow) if device.flow is not None else None,
        password_set=password_set,
        allowed_networks=list(device.profile.allowed_networks),
        channels=channels,
        channels_online=channels_online,
        profile=ProfileView.model_validate(device.profile),
    )


def _channel_fields(channel: Channel, evidence: Evidence) -> dict[str, object]:
    return {
        "device_id": channel.device_id,
        "channel_id": channel.channel_id,
        "name": channel.name,
        "kind": channel.kind,
        "manufacturer": channel.manufacturer,
        "model": channel.model,
        "civil_code": channel.civil_code,
        "address": channel.address,
        "parent_ids": list(channel.parent_ids),
        "business_group_id": channel.business_group_id,
        "longitude": channel.longitude,
        "latitude": channel.latitude,
        "point_class": channel.point_class,
        "ptz_type": channel.ptz_type,
        "mapped_id": channel.mapped_id,
        "online": evidence.online,
        "evidence": EvidenceView(
            device_online=evidence.device_online,
            reported=evidence.reported,
            defect=evidence.defect,
            last_media_proof=evidence.last_media_proof,
            verdict=evidence.verdict.value,
            reason=evidence.reason,
        ),
    }


def channel_view(channel: Channel, evidence: Evidence) -> ChannelView:
    return ChannelView.model_validate(_channel_fields(channel, evidence))


def channel_detail(channel: Channel, evidence: Evidence) -> ChannelDetail:
    return ChannelDetail.model_validate(
        {
            **_channel_fields(channel, evidence),
            "block": channel.block,
            "grassroots_code": channel.grassroots_code,
            "parental": channel.parental,
            "secrecy": channel.secrecy,
            "added_at": channel.added_at,
            "updated_at": channel.updated_at,
            "item": fields_of(channel),
        }
    )
