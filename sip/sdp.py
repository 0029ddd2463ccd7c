"""Offers and answers of GB/T 28181: which SDP we send, and what a peer's SDP means for us (2022 annexes D, G)."""

from __future__ import annotations

from dataclasses import dataclass

from sip.f_field import EMPTY, MediaFormat, parse_format
from sip.manscdp.base import Edition
from sip.sdp_text import CONTENT_TYPE, Media, RtpMap, SdpUnacceptable, SessionDescription, parse

__all__ = [
    "CONTENT_TYPE",
    "DEFAULT_PAYLOAD",
    "FORMS",
    "TCP_ACTIVE",
    "TCP_PASSIVE",
    "UDP",
    "Answer",
    "Media",
    "MediaFormat",
    "Offer",
    "Payload",
    "RtpMap",
    "SdpUnacceptable",
    "SessionDescription",
    "choose_payload",
    "history_offer",
    "live_offer",
    "matching_payload",
    "parse",
    "parse_format",
    "payload_of",
    "read_answer",
    "read_offer",
    "relay_answer",
    "transport_of",
]

UDP, TCP_PASSIVE, TCP_ACTIVE = "udp", "tcp_passive", "tcp_active"
"""Transports by our own part in them: passive = we listen, active = we dial."""
FORMS = ("standard", "long", "plain")
OPPOSITE = {"active": "passive", "passive": "active", "actpass": "active"}
PLAYABLE = ("PS", "MP2P", "MP2T", "H264", "H265", "HEVC", "MPEG4", "MP4V-ES", "SVAC", "SVACV")
SOUND = ("PCMA", "PCMU", "AAC", "MPEG4-GENERIC", "G722", "G723", "G729", "SVACA")
_ALIASES = {"MP2P": "PS", "HEVC": "H265", "MP4V-ES": "MPEG4", "SVACV": "SVAC", "MPEG4-GENERIC": "AAC"}
_DEFAULT_MAPS = {
    0: RtpMap("PCMU", 8000),
    4: RtpMap("G723", 8000),
    8: RtpMap("PCMA", 8000),
    9: RtpMap("G722", 8000),
    18: RtpMap("G729", 8000),
    20: RtpMap("SVACA", 8000),
    33: RtpMap("MP2T"),
    96: RtpMap("PS"),
    97: RtpMap("MPEG4"),
    98: RtpMap("H264"),
    99: RtpMap("SVAC"),
    100: RtpMap("H265"),
    102: RtpMap("AAC", 8000, 1),
}
"""What a payload number means where no rtpmap says it: static ones, and the suggestions of annex C."""


@dataclass(frozen=True, slots=True)
class Payload:
    """One negotiated payload type: number, encoding name (PS, MP2T, H264, H265, MPEG4, PCMA ...), clock in Hz."""

    number: int
    encoding: str
    clock_rate_hz: int = 90_000


DEFAULT_PAYLOAD = Payload(96, "PS")


@dataclass(frozen=True, slots=True)
class Answer:
    """What the answer to our offer means.

    ``host`` is empty where the answer named none: use the address the answer came from. ``port`` is 0 where the
    peer dials us. ``ssrc`` None: none was given. ``filesize`` in bytes for downloads, None when not said.
    ``remarks`` are deviations that were tolerated.
    """

    payload: Payload
    payloads: tuple[Payload, ...]
    host: str
    port: int
    ssrc: int | None
    setup: str
    format: MediaFormat | None
    filesize: int | None = None
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Offer:
    """What an offer from above asks for: where to send and how. ``transport`` is our part in it."""

    session: SessionDescription
    media: Media
    transport: str
    host: str
    port: int
    payloads: tuple[Payload, ...]
    ssrc: int | None
    stream_number: int | None
    channel_ids: tuple[str, ...]
    """Codes that ``u=`` and ``o=`` name, in this order: candidates for the channel (quirk 31)."""


def live_offer(
    *,
    own_id: str,
    address: str,
    port: int,
    ssrc: int | None,
    transport: str = UDP,
    edition: Edition = Edition.V2016,
    stream_number: int | None = None,
    form: str = "standard",
    stream_dialect: str = "streamnumber",
    mpeg4: bool = True,
) -> SessionDescription:
    """An offer for live pictures, received by us at ``address:port`` (G188, G191, G192).

    ``form``: ``standard``; ``long`` lists the payload types some recorders insist on; ``plain`` has neither
    ``y=`` nor ``f=`` (for peers whose parser refuses them, quirk 43). ``stream_number`` (0 main, 1 sub ...) is
    written for 2022 peers, and for others only in the dialect set for the channel (``streamprofile``,
    ``stream``, ``streamMode``).
    """
    media = Media(kind="video", port=port, direction="recvonly")
    if form == "long":
        _long_payloads(media)
    else:
        numbers = [96, 98] + ([100] if edition is Edition.V2022 else []) + ([97] if mpeg4 else [])
        media.payloads = numbers
        media.rtpmaps = {number: _DEFAULT_MAPS[number] for number in numbers}
    if stream_number is not None and (edition is Edition.V2022 or stream_dialect != "streamnumber"):
        media.attributes.append((stream_dialect, str(stream_number)))
    _set_transport(media, transport)
    session = SessionDescription(origin_user=own_id, address=address, name="Play", media=[media])
    if form != "plain":
        session.ssrc = ssrc
        session.format_text = EMPTY.to_text()
    return session


def history_offer(
    live: SessionDescription,
    *,
    name: str,
    source_id: str,
    record_type: int,
    start_unix: int,
    end_unix: int,
    download_speed: int | None = None,
) -> SessionDescription:
    """Turn a live offer into ``Playback`` or ``Download`` of a stretch of time (G238, G239)."""
    live.name, live.uri, live.time = name, f"{source_id}:{record_type}", (start_unix, end_unix)
    if download_speed is not None:
        live.media[0].attributes.insert(0, ("downloadspeed", str(download_speed)))
    return live


def _long_payloads(media: Media) -> None:
    media.payloads = [96, 126, 125, 99, 34, 98, 97]
    media.rtpmaps = {
        96: RtpMap("PS"),
        126: RtpMap("H264"),
        125: RtpMap("H264S"),
        99: RtpMap("MP4V-ES"),
        98: RtpMap("H264"),
        97: RtpMap("MPEG4"),
    }
    media.fmtp = {126: "profile-level-id=42e01e", 125: "profile-level-id=42e01e", 99: "profile-level-id=3"}


def _set_transport(media: Media, transport: str) -> None:
    if transport == UDP:
        return
    media.protocol = "TCP/RTP/AVP"
    media.setup = "passive" if transport == TCP_PASSIVE else "active"
    media.connection = "new"


def transport_of(media: Media) -> str:
    """Our own part in a section we wrote: udp, tcp_passive or tcp_active."""
    if not media.tcp:
        return UDP
    return TCP_ACTIVE if media.setup == "active" else TCP_PASSIVE


def payload_of(media: Media, number: int) -> Payload | None:
    """Meaning of a payload number: by rtpmap, never by number alone where one is given; None if unknown."""
    mapped = media.rtpmaps.get(number) or _DEFAULT_MAPS.get(number)
    if mapped is None or mapped.encoding not in PLAYABLE + SOUND:
        return None
    return Payload(number, _ALIASES.get(mapped.encoding, mapped.encoding), mapped.clock_rate_hz)


def choose_payload(answer: SessionDescription, *, kind: str = "video") -> Payload:
    """The payload type of an answer: the first of its list that can be carried.

    Raises SdpUnacceptable (488) when there is none: private streams under a vendor's encoding name (G196).
    """
    media = answer.first(kind)
    known = _known(media) if media is not None else ()
    if not known:
        names = sorted({mapped.encoding for mapped in media.rtpmaps.values()}) if media is not None else []
        raise SdpUnacceptable(f"no payload type that can be carried: {' '.join(names)}", label="payload")
    return known[0]


def _known(media: Media) -> tuple[Payload, ...]:
    numbers = media.payloads or [96]
    found = (payload_of(media, number) for number in numbers)
    return tuple(payload for payload in found if payload is not None)


def read_answer(body: bytes, offer: SessionDescription, *, kind: str = "video") -> Answer:
    """Check the body of a 200 to our offer (G190, G193, quirks 30, 41, 42).

    An empty body is an agreement only where the peer was to dial us anyway. Raises SdpUnacceptable for a
    missing body, a refused section (port 0), a section that does not fit, or private streams.
    """
    asked = offer.first(kind) or Media(kind=kind)
    transport = transport_of(asked)
    if not body.strip(b"\0 \r\n\t"):
        if transport != TCP_PASSIVE:
            raise SdpUnacceptable("200 without SDP", label="no_sdp")
        return Answer(DEFAULT_PAYLOAD, (DEFAULT_PAYLOAD,), "", 0, None, "active", None, remarks=("no SDP",))
    session = parse(body)
    media = session.first(kind) or (session.media[0] if session.media else None)
    if media is None:
        raise SdpUnacceptable("answer without media", label="no_media")
    if media.port == 0:
        raise SdpUnacceptable("media refused with port 0", label="port_0")
    if media.direction in ("inactive", "recvonly") and asked.direction == "recvonly":
        raise SdpUnacceptable(f"the answer is {media.direction}", label="direction")
    chosen = choose_payload(session, kind=media.kind)
    remarks = _remarks(media, asked, transport)
    setup = media.setup or OPPOSITE.get(asked.setup, "")
    return Answer(
        payload=chosen,
        payloads=_known(media),
        host=_usable(media.address or session.address),
        port=0 if transport == TCP_PASSIVE else media.port,
        ssrc=session.ssrc,
        setup=setup,
        format=session.format,
        filesize=_filesize(media),
        remarks=remarks,
    )


def _remarks(media: Media, asked: Media, transport: str) -> tuple[str, ...]:
    remarks = []
    if media.tcp != asked.tcp:
        if asked.tcp and media.setup not in ("active", "passive"):
            remarks.append("answered RTP/AVP to TCP/RTP/AVP")
        elif not asked.tcp:
            raise SdpUnacceptable("answered TCP to a UDP offer", label="transport")
    if transport != UDP and not media.setup:
        remarks.append("no setup line")
    elif transport != UDP and media.setup == asked.setup:
        raise SdpUnacceptable(f"both sides want to be {media.setup}", label="setup")
    return tuple(remarks)


def _usable(address: str) -> str:
    return "" if address in ("0.0.0.0", "::") else address


def _filesize(media: Media) -> int | None:
    text = media.attribute("filesize") or ""
    return int(text) or None if text.isascii() and text.isdecimal() and len(text) < 19 else None


def read_offer(body: bytes, *, kind: str = "video") -> Offer:
    """Understand an offer from above. Raises SdpUnacceptable (488) for what cannot be met (G193, G196).

    IPv6 addresses, vendor payload names and a missing section of ``kind`` are refused.
    """
    session = parse(body)
    media = session.first(kind)
    if media is None or (media.port == 0 and not (media.tcp and media.setup == "active")):
        raise SdpUnacceptable(f"no {kind} is asked for", label="no_media")
    host = _usable(media.address or session.address)
    if ":" in host:
        raise SdpUnacceptable("media over IPv6 are not served", label="ipv6")
    known = _known(media)
    if not known:
        raise SdpUnacceptable("no payload type that can be sent", label="payload")
    transport = UDP
    if media.tcp:
        transport = TCP_PASSIVE if media.setup == "active" else TCP_ACTIVE
    if not host and transport != TCP_PASSIVE:
        raise SdpUnacceptable("no address to send to", label="address")
    number = next(
        (
            media.attribute(name)
            for name in ("streamnumber", "streamprofile", "stream")
            if media.attribute(name)
        ),
        "",
    )
    named = (session.uri.partition(":")[0], session.origin_user)
    return Offer(
        session=session,
        media=media,
        transport=transport,
        host=host,
        port=media.port,
        payloads=known,
        ssrc=session.ssrc or None,
        stream_number=int(number)
        if number and number.isascii() and number.isdecimal() and len(number) < 3
        else None,
        channel_ids=tuple(code for code in named if code.isascii() and code.isdecimal()),
    )


def relay_answer(
    offer: Offer,
    *,
    own_id: str,
    address: str,
    port: int,
    ssrc: int,
    payload: Payload = DEFAULT_PAYLOAD,
    format_text: str = "",
    filesize: int | None = None,
) -> SessionDescription:
    """Our answer upward: sendonly, our address, the payload we send, ``y`` and ``f``, opposite setup (G195, G209).

    ``payload`` must be one of ``offer.payloads``; ``format_text`` is the ``f=`` value of the source.
    """
    media = Media(
        kind=offer.media.kind,
        port=port,
        protocol=offer.media.protocol,
        payloads=[payload.number],
        direction="sendonly",
        rtpmaps={payload.number: RtpMap(payload.encoding, payload.clock_rate_hz)},
    )
    if filesize is not None:
        media.attributes.append(("filesize", str(filesize)))
    if offer.media.tcp:
        media.setup = "passive" if offer.transport == TCP_PASSIVE else "active"
        media.connection = "new"
    session = offer.session
    return SessionDescription(
        origin_user=own_id,
        address=address,
        name=session.name or "Play",
        uri=session.uri,
        time=session.time,
        media=[media],
        ssrc=ssrc,
        format_text=format_text or session.format_text or EMPTY.to_text(),
    )


def matching_payload(offer: Offer, source: Payload) -> Payload | None:
    """The payload type under which a source's encoding may be sent to the asker; None: it did not offer it."""
    return next((payload for payload in offer.payloads if payload.encoding == source.encoding), None)
