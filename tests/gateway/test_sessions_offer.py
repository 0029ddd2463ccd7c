"""Offers to devices and what their answers mean, without any network."""

from __future__ import annotations

import pytest

from gateway.events import EventBus
from gateway.model import Device, Profile
from gateway.registry import Registry
from gateway.services.errors import PlayCause, PlayFailed
from gateway.services.session_offer import Answer, Rung, build_offer, ladder, read_answer, remember
from gateway.services.session_verdict import diagnose, refusal, silence
from media.specs import StreamStats, Transport

SERVER = "41018300002000000001"
CAMERA = "41018300001310000001"
SSRC = 183000001


def device(edition: str = "2.0", **profile: object) -> Device:
    return Device(CAMERA, edition=edition, profile=Profile(**profile))  # type: ignore[arg-type]


def offer_lines(rung: Rung, peer: Device, stream_number: int = 0) -> list[str]:
    offer = build_offer(
        own_id=SERVER,
        address="10.41.183.20",
        port=30000,
        ssrc=SSRC,
        rung=rung,
        device=peer,
        stream_number=stream_number,
    )
    return offer.to_bytes().decode().splitlines()


UDP = Rung(Transport.UDP, "standard")
PASSIVE = Rung(Transport.TCP_PASSIVE, "standard")
ACTIVE = Rung(Transport.TCP_ACTIVE, "standard")


@pytest.mark.gb("G188", "G189", "G191")
def test_live_offer_over_udp() -> None:
    lines = offer_lines(UDP, device())
    assert lines == [
        "v=0",
        f"o={SERVER} 0 0 IN IP4 10.41.183.20",
        "s=Play",
        "c=IN IP4 10.41.183.20",
        "t=0 0",
        "m=video 30000 RTP/AVP 96 98 97",
        "a=recvonly",
        "a=rtpmap:96 PS/90000",
        "a=rtpmap:98 H264/90000",
        "a=rtpmap:97 MPEG4/90000",
        "y=0183000001",
        "f=v/////a///",
    ]
    assert "m=video 30000 RTP/AVP 96 98 100 97" in offer_lines(UDP, device("3.0"))


@pytest.mark.gb("G207")
def test_tcp_offers_name_our_part() -> None:
    passive, active = offer_lines(PASSIVE, device()), offer_lines(ACTIVE, device())
    assert {"m=video 30000 TCP/RTP/AVP 96 98 97", "a=setup:passive", "a=connection:new"} <= set(passive)
    assert {"a=setup:active", "a=connection:new"} <= set(active)
    assert passive[-2:] == ["y=0183000001", "f=v/////a///"]


@pytest.mark.gb("G192")
def test_stream_number_goes_to_2022_peers_and_dialects_where_set() -> None:
    assert "a=streamnumber:1" in offer_lines(UDP, device("3.0"), 1)
    assert "a=streamnumber:0" in offer_lines(UDP, device("3.0"), 0)
    assert not [line for line in offer_lines(UDP, device("2.0"), 1) if "stream" in line]
    assert "a=streamprofile:1" in offer_lines(UDP, device("2.0", stream_number_dialect="streamprofile"), 1)


@pytest.mark.quirk(43)
def test_plain_form_only_by_profile() -> None:
    rung = ladder(device(sdp_form="plain").profile, Transport.UDP, None)[0]
    lines = offer_lines(rung, device())
    assert not [line for line in lines if line.startswith(("y=", "f="))]
    assert lines[-1] == "a=rtpmap:97 MPEG4/90000"


@pytest.mark.quirk(30)
def test_ladder_tries_each_way_once() -> None:
    assert ladder(Profile(), Transport.TCP_PASSIVE, None) == [
        PASSIVE,
        UDP,
        ACTIVE,
        Rung(Transport.TCP_PASSIVE, "long"),
    ]
    assert ladder(Profile(media_transport="tcp_active"), Transport.UDP, None)[:3] == [ACTIVE, UDP, PASSIVE]
    assert ladder(Profile(), Transport.UDP, Transport.TCP_ACTIVE) == [ACTIVE]
    assert "126 125" in " ".join(offer_lines(Rung(Transport.UDP, "long"), device()))


@pytest.mark.quirk(30)
def test_what_worked_is_remembered_unless_an_operator_chose() -> None:
    registry = Registry(bus=EventBus())
    peer = registry.put_device(device())
    remember(registry, peer, UDP, UDP, works=True)
    assert peer.profile.media_transport is None
    remember(registry, peer, ACTIVE, PASSIVE, works=True)
    assert (peer.profile.media_transport, peer.profile.origin("media_transport")) == ("tcp_active", "learned")
    remember(registry, peer, ACTIVE, ACTIVE, works=False)
    assert (peer.profile.media_transport, peer.profile.origin("media_transport")) == (None, "default")

    chosen = registry.put_device(device(media_transport="udp"))
    remember(registry, chosen, ACTIVE, UDP, works=True)
    assert chosen.profile.media_transport == "udp"


def read(body: bytes | str, rung: Rung = UDP, peer_host: str = "10.41.183.61") -> Answer:
    offer = build_offer(
        own_id=SERVER,
        address="10.41.183.20",
        port=30000,
        ssrc=SSRC,
        rung=rung,
        device=device(),
        stream_number=0,
    )
    data = body.encode() if isinstance(body, str) else body
    return read_answer(data, offer=offer, rung=rung, offered_ssrc=SSRC, peer_host=peer_host)


def answer(*extra: str, media: str = "15060 RTP/AVP 96", host: str = "10.41.183.61") -> str:
    lines = [
        "v=0",
        f"o={CAMERA} 0 0 IN IP4 {host}",
        "s=Play",
        f"c=IN IP4 {host}",
        "t=0 0",
        f"m=video {media}",
    ]
    return "\r\n".join([*lines, "a=sendonly", *extra]) + "\r\n"


@pytest.mark.gb("G199")
@pytest.mark.quirk(27)
def test_ssrc_of_the_answer() -> None:
    assert read(answer("a=rtpmap:96 PS/90000", "y=0183000001")).ssrc is None  # as offered
    assert read(answer("a=rtpmap:96 PS/90000", "y=0200009319")).ssrc == 200009319  # decimal, leading zero
    assert (
        read(answer("a=rtpmap:96 PS/90000", "y=3000000001 ")).ssrc == 3_000_000_001
    )  # above 2^31, blank behind
    assert read(answer("a=rtpmap:96 PS/90000")).ssrc is None  # no y= at all
    assert read(answer("a=rtpmap:96 PS/90000", "y=0000000000")).ssrc is None


@pytest.mark.gb("G191")
def test_payload_is_read_by_rtpmap() -> None:
    assert [(p.number, p.encoding) for p in read(answer("a=rtpmap:96 H265/90000")).payloads or ()] == [
        (96, "H265")
    ]
    chosen = read(answer("a=rtpmap:98 H264/90000", media="15060 RTP/AVP 98")).payloads
    assert [(p.number, p.encoding) for p in chosen or ()] == [(98, "H264")]
    chosen = read(answer("a=rtpmap:100 H265/90000", media="15060 RTP/AVP 100")).payloads
    assert [(p.number, p.encoding) for p in chosen or ()] == [(100, "H265")]


def test_media_are_held_to_the_signalling_host_only_when_named() -> None:
    assert read(answer("a=rtpmap:96 PS/90000")).remote_host == "10.41.183.61"
    assert read(answer("a=rtpmap:96 PS/90000", host="192.168.1.64")).remote_host is None
    active = answer("a=setup:passive", media="15060 TCP/RTP/AVP 96", host="0.0.0.0")
    assert (read(active, ACTIVE).remote_host, read(active, ACTIVE).remote_port) == ("10.41.183.61", 15060)


@pytest.mark.quirk(41)
def test_a_200_without_sdp_is_an_agreement_for_tcp_passive_only() -> None:
    assert read(b"", PASSIVE) == Answer(observed=("no_sdp",))
    with pytest.raises(PlayFailed) as failure:
        read(b"", UDP)
    assert (failure.value.cause, failure.value.sip_status) == (PlayCause.SDP_NOT_ACCEPTED, 488)


@pytest.mark.quirk(42)
def test_nul_bytes_end_a_value() -> None:
    body = answer("a=rtpmap:96 PS/90000").replace("10.41.183.61\r\n", "10.41.183.61" + "\0" * 110 + "\r\n")
    assert read(body).remote_host == "10.41.183.61"


@pytest.mark.gb("G193", "G234")
@pytest.mark.quirk(30)
def test_refused_media_lead_to_another_way() -> None:
    with pytest.raises(PlayFailed) as failure:
        read(answer(media="0 RTP/AVP 96"))
    assert failure.value.other_way
    with pytest.raises(PlayFailed) as failure:
        read(answer("a=rtpmap:96 DAHUA/90000"))
    assert failure.value.cause is PlayCause.SDP_NOT_ACCEPTED
    assert not failure.value.other_way


@pytest.mark.gb("G193")
@pytest.mark.parametrize(
    ("status", "cause", "sip_status", "http_status", "other_way"),
    [
        (488, PlayCause.SDP_NOT_ACCEPTED, 488, 409, True),
        (415, PlayCause.SDP_NOT_ACCEPTED, 488, 409, True),
        (486, PlayCause.BUSY, 486, 409, False),
        (400, PlayCause.REJECTED, 400, 409, True),
        (404, PlayCause.REJECTED, 404, 409, False),
        (480, PlayCause.REJECTED, 480, 409, False),
        (403, PlayCause.REJECTED, 403, 409, False),
    ],
)
def test_refusals_are_read_downward_and_passed_upward(
    status: int, cause: PlayCause, sip_status: int, http_status: int, other_way: bool
) -> None:
    failure = refusal(status, "Reason", 2)
    assert (failure.cause, failure.sip_status, failure.status) == (cause, sip_status, http_status)
    assert failure.other_way is other_way


@pytest.mark.quirk(34)
def test_busy_says_how_many_streams_are_open() -> None:
    assert "2 of its streams" in refusal(486, "Busy Here", 2).detail


@pytest.mark.quirk(43)
def test_silence_after_100_is_a_refused_sdp() -> None:
    assert silence(provisional=True, timeout_s=15).cause is PlayCause.SDP_NOT_ACCEPTED
    assert silence(provisional=False, timeout_s=15).cause is PlayCause.INVITE_TIMEOUT


@pytest.mark.quirk(46)
def test_no_picture_has_three_reasons() -> None:
    def verdict(**seen: object) -> PlayCause:
        return diagnose(StreamStats(stream_id="s", **seen), 10.0).cause  # type: ignore[arg-type]

    assert verdict() is PlayCause.NO_STREAM
    assert verdict(packets=300) is PlayCause.NO_PICTURE
    assert verdict(packets=300, media_mismatch="payload type 33") is PlayCause.MEDIA_MISMATCH
