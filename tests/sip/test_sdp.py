"""SDP: exact offers and answers, tolerant reading, the checks of an answer, the f field."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

import pytest

from sip.errors import ParseError, RemoteError
from sip.f_field import (
    AUDIO_CODECS,
    AUDIO_RATES_KBIT,
    G711,
    SAMPLINGS_KHZ,
    VIDEO_CODECS,
    MediaFormat,
    parse_format,
)
from sip.manscdp import Edition
from sip.sdp import (
    TCP_ACTIVE,
    TCP_PASSIVE,
    UDP,
    Payload,
    SdpUnacceptable,
    SessionDescription,
    choose_payload,
    history_offer,
    live_offer,
    matching_payload,
    parse,
    read_answer,
    read_offer,
    relay_answer,
)

OWN = "41018300002000000001"
CAMERA = "41018300001310000001"


def offer(**changes: object) -> SessionDescription:
    values: dict[str, object] = {"own_id": OWN, "address": "192.0.2.20", "port": 30000, "ssrc": 183000001}
    return live_offer(**(values | changes))  # type: ignore[arg-type]


def answer(
    *lines: str, media: str = "m=video 15060 RTP/AVP 96", tail: tuple[str, ...] = ("y=0183000001",)
) -> bytes:
    body = [
        "v=0",
        f"o={CAMERA} 0 0 IN IP4 192.0.2.61",
        "s=Play",
        "c=IN IP4 192.0.2.61",
        "t=0 0",
        media,
        "a=sendonly",
        *(lines or ("a=rtpmap:96 PS/90000",)),
        *tail,
    ]
    return "\r\n".join(body).encode() + b"\r\n"


# --- offers --------------------------------------------------------------------------------------------------


@pytest.mark.gb("G188", "G189", "G191")
def test_live_offer_over_udp() -> None:
    assert offer(edition=Edition.V2022).to_bytes().decode() == (
        "v=0\r\n"
        "o=41018300002000000001 0 0 IN IP4 192.0.2.20\r\n"
        "s=Play\r\n"
        "c=IN IP4 192.0.2.20\r\n"
        "t=0 0\r\n"
        "m=video 30000 RTP/AVP 96 98 100 97\r\n"
        "a=recvonly\r\n"
        "a=rtpmap:96 PS/90000\r\n"
        "a=rtpmap:98 H264/90000\r\n"
        "a=rtpmap:100 H265/90000\r\n"
        "a=rtpmap:97 MPEG4/90000\r\n"
        "y=0183000001\r\n"
        "f=v/////a///\r\n"
    )


@pytest.mark.gb("G191")
def test_payload_lists() -> None:
    assert offer(edition=Edition.V2016).media[0].payloads == [96, 98, 97]
    assert offer(edition=Edition.V2022, mpeg4=False).media[0].payloads == [96, 98, 100]


@pytest.mark.gb("G189")
@pytest.mark.parametrize("transport", [UDP, TCP_PASSIVE, TCP_ACTIVE])
@pytest.mark.parametrize("form", ["standard", "long"])
def test_y_and_f_are_last(transport: str, form: str) -> None:
    lines = (
        offer(transport=transport, form=form, stream_number=1, edition=Edition.V2022)
        .to_bytes()
        .split(b"\r\n")
    )
    assert [line[:2] for line in lines[-3:]] == [b"y=", b"f=", b""]
    assert parse(b"\r\n".join(lines)).to_bytes() == b"\r\n".join(lines)


@pytest.mark.parametrize(("transport", "setup"), [(TCP_PASSIVE, "passive"), (TCP_ACTIVE, "active")])
def test_tcp_offers(transport: str, setup: str) -> None:
    text = offer(transport=transport).to_bytes().decode()
    assert "m=video 30000 TCP/RTP/AVP 96" in text
    assert f"a=setup:{setup}\r\na=connection:new\r\ny=" in text


@pytest.mark.gb("G192")
def test_stream_numbers_by_edition_and_dialect() -> None:
    assert b"a=streamnumber:1" in offer(stream_number=1, edition=Edition.V2022).to_bytes()
    assert b"stream" not in offer(stream_number=1, edition=Edition.V2016).to_bytes()
    assert b"a=streamprofile:1" in offer(stream_number=1, stream_dialect="streamprofile").to_bytes()


@pytest.mark.quirk(30)
def test_long_form_lists_what_some_recorders_insist_on() -> None:
    text = offer(form="long").to_bytes().decode()
    assert "m=video 30000 RTP/AVP 96 126 125 99 34 98 97" in text
    assert "a=fmtp:126 profile-level-id=42e01e" in text


@pytest.mark.quirk(43)
def test_plain_form_has_neither_y_nor_f() -> None:
    text = offer(form="plain").to_bytes().decode()
    assert "y=" not in text
    assert "f=" not in text


def test_history_offers() -> None:
    playback = history_offer(
        offer(ssrc=1183000001),
        name="Playback",
        source_id=CAMERA,
        record_type=0,
        start_unix=1795219200,
        end_unix=1795222800,
    ).to_bytes()
    assert (
        b"s=Playback\r\nu=41018300001310000001:0\r\nc=IN IP4 192.0.2.20\r\nt=1795219200 1795222800\r\n"
        in playback
    )
    download = history_offer(
        offer(), name="Download", source_id=CAMERA, record_type=3, start_unix=1, end_unix=2, download_speed=4
    ).to_bytes()
    assert b"a=downloadspeed:4\r\n" in download


# --- answers -------------------------------------------------------------------------------------------------


@pytest.mark.gb("G190")
@pytest.mark.parametrize(
    "body",
    [
        answer(),
        answer(tail=("f=v/2/6/25/1/4096a/1/8/1", "y=0183000001")),
        answer().replace(b"\r\n", b"\n"),
        answer().replace(b"=", b"= "),
        answer("a=rtpmap:96 PS/90000", "a=rtpmap:96 PS/90000"),
        b"y=0183000001\r\nf=\r\n" + answer(tail=()),
        answer(tail=("y=0183000001  ", "f=")),
        answer(tail=("y=0183000001\n",)),
        answer().replace(b"s=Play\r\n", b"s=\r\ni=VCam Live\r\nb=AS:4096\r\n"),
        answer().replace(b"v=0\r\n", b""),
        answer("a=rtpmap: 96 PS/90000", "a=filesize:-1", "a=streamprofile:0"),
        answer("a=RTPMAP:96 ps/90000"),
    ],
    ids=[
        "standard", "f before y", "LF", "blanks", "repeated rtpmap", "y and f first", "empty f", "y with line end",
        "other letters", "no v", "Hikvision platform", "other case",
    ],
)  # fmt: skip
def test_answers_of_the_field(body: bytes) -> None:
    found = read_answer(body, offer())
    assert (found.host, found.port, found.ssrc, found.payload) == (
        "192.0.2.61",
        15060,
        183000001,
        Payload(96, "PS"),
    )
    assert found.filesize is None


@pytest.mark.quirk(42)
def test_addresses_padded_with_nul() -> None:
    padded = answer().replace(b"192.0.2.61", b"192.0.2.61" + b"\0" * 110)
    assert read_answer(padded, offer()).host == "192.0.2.61"


@pytest.mark.quirk(30)
@pytest.mark.parametrize(
    ("address", "host"),
    [
        (b"192.0.2.61:8116", "192.0.2.61"),
        (b"192.0.2.61/127", "192.0.2.61"),
        (b"", ""),
        (b"0.0.0.0", ""),
        (b"999.0.0.1", ""),
        (b"camera.example", "camera.example"),
    ],
)
def test_odd_addresses(address: bytes, host: str) -> None:
    """No usable address: the answer's own source is taken instead."""
    assert read_answer(answer().replace(b"192.0.2.61", address), offer()).host == host


@pytest.mark.gb("G191")
@pytest.mark.parametrize(
    ("media", "rtpmap", "payload"),
    [
        ("m=video 1 RTP/AVP 96", "a=rtpmap:96 PS/90000", Payload(96, "PS")),
        ("m=video 1 RTP/AVP 98", "a=rtpmap:98 H264/90000", Payload(98, "H264")),
        ("m=video 1 RTP/AVP 100", "a=rtpmap:100 H265/90000", Payload(100, "H265")),
        ("m=video 1 RTP/AVP 99", "a=rtpmap:99 H265/90000", Payload(99, "H265")),
        ("m=video 1 RTP/AVP 97", "a=rtpmap:97 MP4V-ES/90000", Payload(97, "MPEG4")),
        ("m=video 1 RTP/AVP 96", "a=x", Payload(96, "PS")),
        ("m=video 1 RTP/AVP", "a=x", Payload(96, "PS")),
        ("m=video 1 RTP/AVP 33", "a=x", Payload(33, "MP2T")),
        ("m=video 1 RTP/AVP 126 96", "a=rtpmap:126 XYZ/90000", Payload(96, "PS")),
    ],
)
def test_payload_is_chosen_by_rtpmap(media: str, rtpmap: str, payload: Payload) -> None:
    assert choose_payload(parse(answer(rtpmap, media=media))) == payload
    assert read_answer(answer(rtpmap, media=media), offer()).payload == payload


@pytest.mark.quirk(30)
@pytest.mark.parametrize(
    ("body", "transport", "label"),
    [
        (b"", UDP, "no_sdp"),
        (b"\0\0\r\n", TCP_ACTIVE, "no_sdp"),
        (answer(media="m=video 0 RTP/AVP 96"), UDP, "port_0"),
        (b"v=0\r\ns=Play\r\n", UDP, "no_media"),
        (answer().replace(b"sendonly", b"inactive"), UDP, "direction"),
        (answer("a=rtpmap:96 DAHUA/90000"), UDP, "payload"),
        (answer("a=rtpmap:96 HIKVISION/90000"), UDP, "payload"),
        (
            answer("a=rtpmap:96 PS/90000", "a=setup:passive", media="m=video 9 TCP/RTP/AVP 96"),
            TCP_PASSIVE,
            "setup",
        ),
        (answer(media="m=video 9 TCP/RTP/AVP 96"), UDP, "transport"),
    ],
)
def test_answers_that_cannot_be_met(body: bytes, transport: str, label: str) -> None:
    with pytest.raises(SdpUnacceptable) as caught:
        read_answer(body, offer(transport=transport))
    assert (caught.value.label, caught.value.status) == (label, 488)


@pytest.mark.quirk(41)
def test_no_body_is_an_agreement_where_the_device_dials() -> None:
    found = read_answer(b"", offer(transport=TCP_PASSIVE))
    assert (found.payload, found.host, found.port, found.ssrc, found.remarks) == (
        Payload(96, "PS"),
        "",
        0,
        None,
        ("no SDP",),
    )


@pytest.mark.quirk(30)
def test_udp_words_in_a_tcp_answer_are_tolerated() -> None:
    found = read_answer(answer(), offer(transport=TCP_PASSIVE))
    assert (found.setup, found.port) == ("active", 0)
    assert found.remarks == ("answered RTP/AVP to TCP/RTP/AVP", "no setup line")
    active = read_answer(
        answer("a=setup:passive", "a=rtpmap:96 PS/90000", media="m=video 15060 TCP/RTP/AVP 96"),
        offer(transport=TCP_ACTIVE),
    )
    assert (active.host, active.port, active.setup, active.remarks) == ("192.0.2.61", 15060, "passive", ())


@pytest.mark.parametrize(
    ("line", "size"), [("a=filesize:943718400", 943718400), ("a=filesize:-1", None), ("a=x", None)]
)
def test_file_sizes(line: str, size: int | None) -> None:
    assert read_answer(answer("a=rtpmap:96 PS/90000", line), offer()).filesize == size


@pytest.mark.quirk(27)
@pytest.mark.parametrize(
    ("line", "ssrc", "text"),
    [
        ("y=0200009319", 200009319, "0200009319"),
        ("y=0000000000", 0, "0000000000"),
        ("y=4294967296", None, "4294967296"),
        ("y=null", None, "null"),
        ("a=x", None, ""),
    ],
)
def test_ssrc_values_of_the_field(line: str, ssrc: int | None, text: str) -> None:
    session = parse(answer(tail=(line,)))
    assert (session.ssrc, session.ssrc_text) == (ssrc, text)


# --- offers from above ---------------------------------------------------------------------------------------


UPPER = (
    b"v=0\r\no=41010000002000000001 0 0 IN IP4 192.0.2.99\r\ns=Play\r\nc=IN IP4 192.0.2.99\r\nt=0 0\r\n"
    b"m=video 40000 RTP/AVP 96 97 98 100\r\na=recvonly\r\na=rtpmap:96 PS/90000\r\na=rtpmap:97 MPEG4/90000\r\n"
    b"a=rtpmap:98 H264/90000\r\na=rtpmap:100 H265/90000\r\na=streamnumber:1\r\ny=0100000001\r\nf=v/////a///\r\n"
)


@pytest.mark.gb("G195")
def test_answer_upward() -> None:
    asked = read_offer(UPPER)
    assert (asked.transport, asked.host, asked.port, asked.ssrc, asked.stream_number) == (
        UDP,
        "192.0.2.99",
        40000,
        100000001,
        1,
    )
    assert asked.channel_ids == ("41010000002000000001",)
    payload = matching_payload(asked, Payload(99, "H265"))
    assert payload == Payload(100, "H265")
    built = relay_answer(
        asked,
        own_id=OWN,
        address="192.0.2.20",
        port=31000,
        ssrc=100000001,
        payload=payload,
        format_text="v/5/6/25/1/4096a/1/8/1",
    )
    assert built.to_bytes().decode() == (
        "v=0\r\no=41018300002000000001 0 0 IN IP4 192.0.2.20\r\ns=Play\r\nc=IN IP4 192.0.2.20\r\nt=0 0\r\n"
        "m=video 31000 RTP/AVP 100\r\na=sendonly\r\na=rtpmap:100 H265/90000\r\n"
        "y=0100000001\r\nf=v/5/6/25/1/4096a/1/8/1\r\n"
    )


@pytest.mark.gb("G209")
@pytest.mark.parametrize(
    ("setup", "ours", "said"), [("passive", TCP_ACTIVE, "active"), ("active", TCP_PASSIVE, "passive")]
)
def test_answer_upward_takes_the_opposite_part(setup: str, ours: str, said: str) -> None:
    body = UPPER.replace(b"RTP/AVP", b"TCP/RTP/AVP").replace(
        b"y=", f"a=setup:{setup}\r\na=connection:new\r\ny=".encode()
    )
    asked = read_offer(body)
    assert asked.transport == ours
    text = relay_answer(asked, own_id=OWN, address="192.0.2.20", port=31000, ssrc=1).to_bytes().decode()
    assert f"a=setup:{said}\r\na=connection:new\r\n" in text
    assert "TCP/RTP/AVP 96" in text


@pytest.mark.gb("G196")
@pytest.mark.parametrize(
    ("change", "label"),
    [
        ((b"a=rtpmap", b"a=x"), None),
        ((b"PS/90000", b"DAHUA/90000"), None),
        ((b"96 97 98 100", b"126"), "payload"),
        ((b"c=IN IP4 192.0.2.99", b"c=IN IP6 2001:db8::1"), "ipv6"),
        ((b"40000", b"0"), "no_media"),
        ((b"m=video", b"m=audio"), "no_media"),
        ((b"192.0.2.99", b"0.0.0.0"), "address"),
    ],
    ids=[
        "no rtpmap",
        "vendor name beside others",
        "unknown payloads",
        "IPv6",
        "port 0",
        "audio",
        "no address",
    ],
)
def test_odd_offers_are_answered_or_refused(change: tuple[bytes, bytes], label: str | None) -> None:
    body = UPPER.replace(*change)
    if label is None:
        assert read_offer(body).payloads
        return
    with pytest.raises(SdpUnacceptable) as caught:
        read_offer(body)
    assert (caught.value.status, caught.value.label) == (488, label)


@pytest.mark.quirk(28)
@pytest.mark.parametrize("line", [b"y=0000000000\r\n", b"y=null\r\n", b""])
def test_an_offer_without_a_usable_ssrc(line: bytes) -> None:
    assert read_offer(UPPER.replace(b"y=0100000001\r\n", line)).ssrc is None


@pytest.mark.quirk(31)
def test_candidates_for_the_channel() -> None:
    body = UPPER.replace(b"s=Play\r\n", b"s=Playback\r\nu=41018300001310000009:0\r\n")
    assert read_offer(body).channel_ids == ("41018300001310000009", "41010000002000000001")


def test_samples_of_other_hands(corpus: Path) -> None:
    for path in sorted((corpus.parent / "examples").glob("*.sdp")):
        data = path.read_bytes()
        session = parse(data)
        assert session.ssrc is not None
        again = parse(session.to_bytes())
        assert (again.media[0].payloads, again.ssrc, again.time) == (
            session.media[0].payloads,
            session.ssrc,
            session.time,
        )
        assert session.format is not None
    for path in sorted((corpus / "issues").glob("*.sdp")):
        assert parse(path.read_bytes()).media[0].port


# --- limits --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [b"", b"<xml/>", b"v=0\r\n" * 20_000])
def test_no_sdp(data: bytes) -> None:
    with pytest.raises(ParseError):
        parse(data)


@pytest.mark.parametrize(
    "data",
    [
        b"m=" + b" " * 16_000,
        b"a=rtpmap:96" + b" " * 16_000,
        b"f=" + b"a/" * 8000,
        b"m=video 1 RTP/AVP\r\n" * 800,
    ],
)
def test_bounded_work(data: bytes) -> None:
    start = time.perf_counter()
    with contextlib.suppress(RemoteError):
        assert len(parse(data).media) <= 8
    assert time.perf_counter() - start < 1


# --- the f field ---------------------------------------------------------------------------------------------


@pytest.mark.gb("G194")
def test_every_code_of_both_editions() -> None:
    assert (len(VIDEO_CODECS), len(AUDIO_CODECS), len(AUDIO_RATES_KBIT), len(SAMPLINGS_KHZ)) == (5, 6, 30, 17)
    assert (AUDIO_RATES_KBIT[8], AUDIO_RATES_KBIT[9], AUDIO_RATES_KBIT[19], AUDIO_RATES_KBIT[30]) == (
        64,
        12,
        320,
        48.61,
    )
    assert (SAMPLINGS_KHZ[1], SAMPLINGS_KHZ[4], SAMPLINGS_KHZ[5], SAMPLINGS_KHZ[11], SAMPLINGS_KHZ[17]) == (
        8,
        32,
        7,
        48,
        38.4,
    )
    for video in VIDEO_CODECS:
        for resolution in (1, 2, 3, 4, 5, 6, "2560X1440"):
            fields = MediaFormat(video, resolution, 25, 1, 4096)
            assert parse_format(fields.to_text()) == fields
    for audio in AUDIO_CODECS:
        for rate in AUDIO_RATES_KBIT:
            for sampling in SAMPLINGS_KHZ:
                fields = MediaFormat(audio_codec=audio, audio_rate=rate, sampling=sampling)
                assert parse_format(fields.to_text()) == fields


@pytest.mark.gb("G194")
def test_codes_of_2022_are_not_sent_to_2016_peers() -> None:
    fields = MediaFormat(5, "2560X1440", 25, 2, 4096, 6, 12, 11)
    assert fields.to_text() == "v/5/2560X1440/25/2/4096a/6/12/11"
    assert fields.to_text(edition_2022=False) == "v///25/2/4096a///"
    assert G711.to_text(edition_2022=False) == "v/////a/1/8/1"


@pytest.mark.gb("G194")
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("v/////a///", MediaFormat()),
        ("v/0/0/0/0/0a/0/0/0", MediaFormat()),
        ("v/2/6/25/1/4096a/1/8/1", MediaFormat(2, 6, 25, 1, 4096, 1, 8, 1)),
        ("V/2/1920x1080", MediaFormat(2, "1920X1080")),
        ("a/1/8/1", G711),
        ("v/2////", MediaFormat(2)),
        ("nonsense", None),
        ("", None),
    ],
)
def test_f_values_of_the_field(text: str, expected: MediaFormat | None) -> None:
    assert parse_format(text) == expected


def test_names_of_codes() -> None:
    fields = MediaFormat(5, 6, 25, 1, 4096, 6, 8, 3)
    assert (fields.video_name, fields.audio_name, fields.audio_kbit, fields.sampling_khz) == (
        "H265",
        "AAC",
        64,
        16,
    )
