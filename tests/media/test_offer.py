"""Edits of offers and answers, on the sections that browsers send."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from media.readers.offer import OfferError, prepare
from media.unit import Codec

HEAD = (
    "v=0\r\no=- 1 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE 0 1\r\na=fingerprint:sha-256 AA:BB\r\n"
)
AUDIO = (
    "m=audio 9 UDP/TLS/RTP/SAVPF 111 0 8\r\na=mid:1\r\na=rtpmap:111 opus/48000/2\r\na=rtpmap:8 PCMA/8000\r\n"
)


def video(*payloads: tuple[int, str, str]) -> str:
    """A video section: (payload type, encoding, format parameters)."""
    numbers = " ".join(str(number) for number, _, _ in payloads)
    lines = [
        f"m=video 9 UDP/TLS/RTP/SAVPF {numbers}",
        "a=mid:0",
        "a=extmap:1 urn:ietf:params:rtp-hdrext:toffset",
    ]
    for number, encoding, parameters in payloads:
        lines += [f"a=rtpmap:{number} {encoding}/90000", f"a=rtcp-fb:{number} nack pli"]
        lines += [f"a=fmtp:{number} {parameters}"] if parameters else []
    return "\r\n".join(lines) + "\r\n"


def h264(profile: str, mode: int = 1) -> str:
    return f"level-asymmetry-allowed=1;packetization-mode={mode};profile-level-id={profile}"


CHROMIUM = video(
    (96, "VP8", ""),
    (97, "rtx", "apt=96"),
    (102, "H264", h264("42001f")),
    (103, "rtx", "apt=102"),
    (104, "H264", h264("42001f", 0)),
    (108, "H264", h264("42e01f")),
    (109, "rtx", "apt=108"),
    (116, "H264", h264("4d001f")),
    (117, "rtx", "apt=116"),
)
SAFARI = video((96, "H264", h264("640c1f")), (97, "rtx", "apt=96"), (98, "H264", h264("42e01f")))
HIGH_ONLY = video((100, "H264", h264("640028")))


@pytest.mark.parametrize(
    ("section", "profile", "payload_type", "offered"),
    [
        (CHROMIUM, 66, 108, "42e01f"),
        (CHROMIUM, 77, 116, "4d001f"),
        (CHROMIUM, 100, 108, "42e01f"),
        (SAFARI, 100, 96, "640c1f"),
        (SAFARI, 77, 98, "42e01f"),
        (HIGH_ONLY, 66, 100, "640028"),
    ],
)
def test_the_closest_profile_is_kept_alone(
    section: str, profile: int, payload_type: int, offered: str
) -> None:
    prepared = prepare(HEAD + section + AUDIO, profile)
    assert prepared.payload_type == payload_type
    assert f"profile-level-id={offered}" in prepared.parameters
    kept = prepared.sdp.split("m=video")[1].split("m=audio")[0]
    assert f"a=fmtp:{payload_type} {h264('42e01f')}" in kept
    assert kept.count("H264/90000") == 1
    assert "VP8" not in kept
    answer = prepare(prepared.sdp, profile).restore(prepared.sdp)
    assert "42e01f" in answer
    assert f"profile-level-id={offered}" in prepared.restore(prepared.sdp)


H265 = video(
    (96, "H264", h264("42e01f")),
    (49, "H265", "level-id=180;profile-id=1;tier-flag=0;tx-mode=SRST"),
    (50, "rtx", "apt=49"),
    (51, "H265", "level-id=180;profile-id=2;tier-flag=0;tx-mode=SRST"),
    (52, "rtx", "apt=51"),
)
BARE_H265 = video((49, "h265", ""))


@pytest.mark.parametrize(
    ("section", "profile", "payload_type"),
    [(H265, 1, 49), (H265, 2, 51), (H265, None, 49), (BARE_H265, 1, 49)],
)
def test_h265_goes_by_the_librarys_name_and_back(
    section: str, profile: int | None, payload_type: int
) -> None:
    prepared = prepare(HEAD + section + AUDIO, profile, Codec.H265)
    kept = prepared.sdp.split("m=video")[1].split("m=audio")[0]
    assert f"a=rtpmap:{payload_type} H264/90000" in kept
    assert f"a=fmtp:{payload_type} {h264('42e01f')}" in kept
    assert "H265" not in kept.upper()
    answer = prepared.restore(prepared.sdp)
    assert f"a=rtpmap:{payload_type} H265/90000" in answer
    assert "H264" not in answer
    assert "profile-level-id" not in answer
    offered = next((line for line in section.splitlines() if line.startswith(f"a=fmtp:{payload_type}")), None)
    assert offered is None or offered in answer.splitlines()


@pytest.mark.parametrize(("section", "profile"), [(CHROMIUM, 1), (H265, 4), (BARE_H265, 2)])
def test_h265_that_the_browser_does_not_take_is_refused(section: str, profile: int) -> None:
    with pytest.raises(OfferError) as caught:
        prepare(HEAD + section, profile, Codec.H265)
    assert caught.value.code == "unsupported"


def test_retransmission_stays_with_its_payload() -> None:
    kept = prepare(HEAD + CHROMIUM, 66).sdp
    assert "m=video 9 UDP/TLS/RTP/SAVPF 108 109\r\n" in kept
    assert "a=fmtp:109 apt=108" in kept
    assert "apt=102" not in kept


def test_mdns_candidates_and_the_end_of_candidates_are_left_out() -> None:
    lines = (
        "a=candidate:1 1 udp 2113937151 0f0c8a2e-1111-4222-8333-444455556666.local 50000 typ host\r\n"
        "a=candidate:2 1 udp 2113937151 192.0.2.5 50001 typ host\r\na=end-of-candidates\r\n"
    )
    sdp = prepare(HEAD + CHROMIUM + lines, 66).sdp
    assert "192.0.2.5" in sdp
    assert ".local" not in sdp
    assert "end-of-candidates" not in sdp
    assert "extmap" not in sdp


def test_audio_codecs_are_told() -> None:
    assert prepare(HEAD + CHROMIUM + AUDIO, 66).audio_codecs >= {"PCMA", "PCMU", "OPUS"}
    assert prepare(HEAD + CHROMIUM, 66).audio_codecs == frozenset()


@pytest.mark.parametrize(
    "section",
    [
        "",
        AUDIO,
        video((96, "VP8", "")),
        video((104, "H264", h264("42e01f", 0))),
        video((104, "H264", "packetization-mode=1")),
        CHROMIUM + CHROMIUM,
        CHROMIUM.replace("m=video 9", "m=video 0"),
    ],
)
def test_an_offer_without_one_usable_video_is_refused(section: str) -> None:
    with pytest.raises(OfferError):
        prepare(HEAD + section, 66)


def test_an_offer_without_fingerprint_is_a_bad_one() -> None:
    with pytest.raises(OfferError) as caught:
        prepare(HEAD.replace("fingerprint", "thumbprint") + CHROMIUM, 66)
    assert caught.value.code == "bad_request"


@given(
    st.lists(
        st.sampled_from([*(HEAD + CHROMIUM + AUDIO).splitlines(), "", "m=", "m=video ", "a=fmtp:", "\x00"])
    )
)
def test_any_lines_are_prepared_or_refused(lines: list[str]) -> None:
    try:
        prepared = prepare("\r\n".join(lines), 66)
    except OfferError:
        return
    assert prepared.sdp.count("m=video ") == 1
