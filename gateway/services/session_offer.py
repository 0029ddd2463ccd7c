"""What we offer a device and what its answer means for the receiver; the ladder of transports to try (quirk 30)."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.model import Device, Profile
from gateway.registry import Registry
from gateway.services.errors import PlayCause, PlayFailed
from gateway.services.session_record import DeviceHistory
from media.specs import PayloadFormat, Transport
from sip import sdp
from sip.errors import RemoteError
from sip.manscdp import Edition

_REMARKS = {
    "no SDP": "no_sdp",
    "no setup line": "no_setup",
    "answered RTP/AVP to TCP/RTP/AVP": "udp_words",
}
REFUSED_LABELS = frozenset({"port_0", "transport", "setup", "no_media", "direction", "no_sdp"})
"""Answers another transport may cure; a payload under a vendor's name it will not."""


@dataclass(frozen=True, slots=True)
class Rung:
    """One way to ask: transport and form of the SDP (standard | long | plain)."""

    transport: Transport
    form: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What the receiver must be told. None: nothing new."""

    ssrc: int | None = None
    remote_host: str | None = None
    remote_port: int | None = None
    payloads: tuple[PayloadFormat, ...] | None = None
    filesize: int | None = None
    """Bytes of a download; None: not said, or not sensible."""
    observed: tuple[str, ...] = ()
    """What of it is worth noting in the device's profile (gateway.profile.OBSERVED)."""


def ladder(profile: Profile, default: Transport, pinned: Transport | None) -> list[Rung]:
    """Ways to try, in order, each at most once: the device's own (else the gateway's default), those of its ladder
    (else UDP, TCP passive, TCP active), then the long payload list over the first one.

    ``pinned`` by the caller: that one alone. The plain form has no variants: it is an operator's explicit choice.
    A long list that only the device's model asks for is followed by the short one: this device may be another case.
    """
    form = profile.sdp_form
    if pinned is not None:
        return [Rung(pinned, form)]
    allowed = [Transport(way) for way in profile.media_ladder or ()] or [
        *(Transport.UDP, Transport.TCP_PASSIVE, Transport.TCP_ACTIVE)
    ]
    first = Transport(profile.media_transport) if profile.media_transport else default
    if first not in allowed and not profile.media_transport:
        first = allowed[0]
    rungs = [Rung(transport, form) for transport in dict.fromkeys([first, *allowed])]
    if form == "long" and profile.origin("sdp_form") == "model":
        return [*rungs, Rung(first, "standard")]
    return [*rungs, Rung(first, "long")] if form == "standard" else rungs


def remember(registry: Registry, device: Device, rung: Rung, first: Rung, *, works: bool) -> None:
    """Learn which rung works, unless an operator chose the way.

    A learned way that stopped working is forgotten, so that the next play starts anew.
    """
    profile = device.profile
    if profile.origin("media_transport") == "operator":
        return
    if works and rung != first:
        against_model = "sdp_form" in profile.layers.model
        form = rung.form if rung.form != "standard" or against_model else None
        registry.learn(device, media_transport=rung.transport.value, sdp_form=form)
    elif not works and profile.origin("media_transport") == "learned":
        registry.learn(device, media_transport=None, sdp_form=None)


def build_offer(
    *,
    own_id: str,
    address: str,
    port: int,
    ssrc: int,
    rung: Rung,
    device: Device,
    stream_number: int,
    history: DeviceHistory | None = None,
    channel_id: str = "",
) -> sdp.SessionDescription:
    """The live offer for this device (GB/T 28181-2022 9.2.3, annex G).

    A stream number is written only when it says something: a sub stream, or a dialect set for the device (G192).
    """
    dialect = device.profile.stream_number_dialect
    edition = Edition.from_header(device.edition)
    wanted = stream_number > 0 or dialect != "streamnumber" or edition is Edition.V2022
    offer = sdp.live_offer(
        own_id=own_id,
        address=address,
        port=port,
        ssrc=ssrc,
        transport=rung.transport.value,
        edition=edition,
        stream_number=stream_number if wanted else None,
        form=rung.form,
        stream_dialect=dialect,
    )
    if history is None:
        return offer
    return sdp.history_offer(
        offer,
        name=history.name,
        source_id=channel_id,
        record_type=history.record_type,
        start_unix=history.start,
        end_unix=history.end,
        download_speed=history.download_speed,
    )


def read_answer(
    body: bytes,
    *,
    offer: sdp.SessionDescription,
    rung: Rung,
    offered_ssrc: int,
    peer_host: str,
    ssrc_policy: str = "learn",
) -> Answer:
    """Check the body of the 200 (G190, G199, G234; quirks 27, 30, 41). Raises PlayFailed(sdp_not_accepted).

    ``peer_host`` is where the device's signalling comes from: media are held to that host only when the answer
    names the same one, because behind NAT, or with a media server of its own, a device names another.
    ``ssrc_policy`` own: what it names as its SSRC is noted but not believed.
    """
    try:
        answer = sdp.read_answer(body, offer)
    except RemoteError as error:
        raise PlayFailed(
            PlayCause.SDP_NOT_ACCEPTED,
            f"the answer cannot be used: {error}",
            device_status=200,
            other_way=error.label in REFUSED_LABELS,
        ) from error
    ssrc = answer.ssrc or None  # y=0000000000 names no SSRC (quirk 28)
    observed = [_REMARKS[remark] for remark in answer.remarks if remark in _REMARKS]
    if ssrc is not None and ssrc != offered_ssrc:
        observed.append("answer_ssrc")
        ssrc = None if ssrc_policy == "own" else ssrc
    payloads = tuple(
        PayloadFormat(number=p.number, encoding=p.encoding, clock_rate_hz=p.clock_rate_hz)
        for p in answer.payloads
    )
    host: str | None = answer.host if answer.host == peer_host else None
    port = None
    if rung.transport is Transport.TCP_ACTIVE:
        host, port = answer.host or peer_host, answer.port
    return Answer(
        ssrc=ssrc if ssrc != offered_ssrc else None,
        remote_host=host,
        remote_port=port,
        payloads=payloads if body.strip() else None,
        filesize=answer.filesize,
        observed=tuple(observed),
    )
