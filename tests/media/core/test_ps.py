"""The program stream demuxer against what cameras send: each form of field quirk 39 as bytes."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from media.ps import PsDemuxer
from media.ps_mux import PsMuxer, crc32_mpeg, pack_header, pes_packets, program_stream_map, system_header
from media.rtp import RtpPacketizer, parse
from media.unit import AccessUnit, Codec

SPS = b"\x00\x00\x00\x01\x67\x42\xc0\x1e\xd9\x00\xa0\x47\xfe\xc8"
PPS = b"\x00\x00\x00\x01\x68\xce\x3c\x80"
IDR = b"\x00\x00\x00\x01\x65\x88\x84" + bytes(range(3, 60))
P = b"\x00\x00\x00\x01\x41\x9a\x24" + bytes(range(3, 40))
H265_SETS = (
    b"\x00\x00\x00\x01\x40\x01\x0c\x01\xff" b"\x00\x00\x00\x01\x42\x01\x01\x01" + bytes(range(2, 20))
    + b"\x00\x00\x00\x01\x44\x01\xc1\x72"
)  # fmt: skip
H265_IDR = b"\x00\x00\x00\x01\x26\x01\xaf" + bytes(range(3, 40))
H265_P = b"\x00\x00\x00\x01\x02\x01\xd0" + bytes(range(3, 40))
KEY = SPS + PPS + IDR


def pack(payload: bytes, scr: int = 0) -> bytes:
    return pack_header(scr) + payload


def head(video: Codec | None = Codec.H264, audio: Codec | None = None) -> bytes:
    return system_header(video=True, audio=audio is not None) + program_stream_map(video, audio)


def frames(*payloads: bytes) -> list[tuple[bytes, int]]:
    """Payloads as packs of their own, 40 ms apart, each with its RTP timestamp."""
    return [(pack(payload, 3600 * number), 3600 * number) for number, payload in enumerate(payloads)]


def demux(items: list[tuple[bytes, int]], demuxer: PsDemuxer | None = None) -> list[AccessUnit]:
    demuxer = demuxer or PsDemuxer()
    out = []
    for number, (data, stamp) in enumerate(items):
        out += demuxer.feed(data, stamp, now=number * 0.04)
    return out + demuxer.flush()


def video(data: bytes, pts: int, dts: int | None = None) -> bytes:
    return pes_packets(0xE0, data, pts, pts if dts is None else dts)


def test_encoded_pictures_and_sound_come_out_as_they_went_in(
    h264_units: list[AccessUnit], h265_units: list[AccessUnit]
) -> None:
    for units in (h264_units, h265_units):
        muxer, demuxer, out = PsMuxer(units[0].codec, Codec.PCMA), PsDemuxer(), []
        for unit in units:
            sound = AccessUnit(Codec.PCMA, unit.dts, unit.dts, False, b"\xd5" * 320)
            out += demuxer.feed(muxer.mux(unit), unit.dts, now=unit.dts / 90000)
            out += demuxer.feed(muxer.mux(sound), unit.dts + 1, now=unit.dts / 90000)
        pictures = [unit for unit in out if unit.codec.is_video]
        assert [(u.codec, u.data, u.key, u.pts, u.damaged) for u in pictures] == [
            (u.codec, u.data, u.key, u.pts, False) for u in units
        ]
        assert [u.data for u in out if u.codec is Codec.PCMA] == [b"\xd5" * 320] * len(units)
        assert demuxer.resyncs == 0


@pytest.mark.gb("G214")
@pytest.mark.parametrize("size", [1, 7, 100, 1400])
def test_packs_and_pes_packets_may_be_cut_anywhere(size: int) -> None:
    sounds = [pes_packets(0xC0, b"\xd5" * 160, n * 3600, n * 3600) for n in range(10)]
    pictures = [
        head(audio=Codec.PCMA) + video(KEY, n * 3600) if n % 5 == 0 else video(P, n * 3600) for n in range(10)
    ]
    data = b"".join(pack(picture) + sound for picture, sound in zip(pictures, sounds, strict=True))
    demuxer, out = PsDemuxer(), []
    for at in range(0, len(data), size):
        out += demuxer.feed(data[at : at + size], 0, end=False, now=at)
    out += demuxer.flush()
    assert [u.key for u in out if u.codec.is_video] == ([True] + [False] * 4) * 2
    assert [u.data for u in out if u.codec.is_video][:2] == [KEY, P]
    assert [u.data for u in out if u.codec is Codec.PCMA] == [b"\xd5" * 160] * 10


@pytest.mark.gb("G214")
@pytest.mark.quirk(39)
def test_f_pes_length_zero_ends_at_the_next_start_code() -> None:
    unbounded = b"\x00\x00\x01\xe0\x00\x00" + video(KEY, 0)[6:]
    following = b"\x00\x00\x01\xe0\x00\x00" + video(P, 3600)[6:]
    out = demux(frames(head() + unbounded, following + pes_packets(0xC0, b"\xd5" * 160, 3600, 3600)))
    assert [u.data for u in out] == [KEY, b"\xd5" * 160, P]


@pytest.mark.quirk(39)
def test_f_a_frame_above_64_kb_in_several_pes_with_one_pts() -> None:
    noise = random.Random(1)
    big = KEY + bytes(noise.randrange(2, 255) for _ in range(150_000))
    packets = video(big, 0)
    assert packets.count(b"\x00\x00\x01\xe0") == 3
    (unit,) = demux(frames(head() + packets))
    assert unit.data == big


@pytest.mark.quirk(39)
def test_f_a_sender_whose_16_bit_length_wraps() -> None:
    noise = random.Random(2)
    big = KEY + bytes(noise.randrange(2, 255) for _ in range(80_000))
    header = bytes.fromhex("848005") + bytes.fromhex("2100010001")
    wrapped = b"\x00\x00\x01\xe0" + (len(header) + len(big) & 0xFFFF).to_bytes(2, "big") + header + big
    out = demux(frames(head() + wrapped, video(P, 3600)))
    assert [u.data for u in out] == [big, P]
    assert not any(u.damaged for u in out)


@pytest.mark.quirk(39)
def test_a_no_map_at_all_the_nal_headers_tell() -> None:
    assert [(u.codec, u.data) for u in demux(frames(video(KEY, 0), video(P, 3600)))] == [
        (Codec.H264, KEY),
        (Codec.H264, P),
    ]
    key = H265_SETS + H265_IDR
    out = demux(frames(video(key, 0), video(H265_P, 3600)))
    assert [(u.codec, u.key) for u in out] == [(Codec.H265, True), (Codec.H265, False)]


@pytest.mark.gb("G216")
@pytest.mark.quirk(39)
def test_b_h265_announced_as_0x1b() -> None:
    demuxer = PsDemuxer()
    key = H265_SETS + H265_IDR
    assert program_stream_map(Codec.H264, None)[-8:-6] == b"\x1b\xe0"
    out = demux(frames(head(Codec.H264) + video(key, 0), video(H265_P, 3600)), demuxer)
    assert [(u.codec, u.key, u.damaged) for u in out] == [
        (Codec.H265, True, False),
        (Codec.H265, False, False),
    ]
    assert demuxer.video.hint_wrong


@pytest.mark.gb("G216")
def test_a_change_of_codec_in_flight_is_followed() -> None:
    demuxer = PsDemuxer()
    out = demux(
        frames(
            head() + video(KEY, 0), video(P, 3600), video(H265_SETS + H265_IDR, 7200), video(H265_P, 10800)
        ),
        demuxer,
    )
    assert [u.codec for u in out] == [Codec.H264, Codec.H264, Codec.H265, Codec.H265]
    assert demuxer.video.codec_changes == 1


@pytest.mark.quirk(39)
def test_b_audio_said_to_be_aac_but_g711_and_the_other_way_round() -> None:
    adts = bytes.fromhex("fff16c40029ffc") + bytes(13)
    sound = pes_packets(0xC0, b"\xd5" * 320, 0, 0)
    out = demux(frames(head(audio=Codec.AAC) + video(KEY, 0) + sound))
    assert out[0].codec is Codec.PCMA
    out = demux(frames(head(audio=Codec.PCMA) + video(KEY, 0) + pes_packets(0xC0, adts, 0, 0)))
    assert (out[0].codec, out[0].data) == (Codec.AAC, adts)


@pytest.mark.gb("G215")
@pytest.mark.quirk(39)
@pytest.mark.parametrize(
    ("stream_type", "codec"),
    [
        (0x90, Codec.PCMA),
        (0x91, Codec.PCMU),
        (0x92, Codec.G722),
        (0x93, Codec.G723),
        (0x99, Codec.G729),
        (0x9B, Codec.SVACA),
    ],
)
def test_h_stream_types_of_audio(stream_type: int, codec: Codec) -> None:
    packet = bytearray(program_stream_map(Codec.H264, Codec.PCMA))
    assert packet[16:18] == b"\x90\xc0"
    packet[16] = stream_type
    packet[-4:] = crc32_mpeg(bytes(packet[:-4])).to_bytes(4, "big")
    out = demux(frames(bytes(packet) + video(KEY, 0) + pes_packets(0xC0, bytes(range(24)), 0, 0)))
    assert (out[0].codec, out[0].data) == (codec, bytes(range(24)))


@pytest.mark.gb("G215")
@pytest.mark.parametrize(
    ("codec", "key"), [(Codec.SVAC, b"\x00\x00\x01\x67svac"), (Codec.MPEG4, b"\x00\x00\x01\xb6\x10vop")]
)
def test_h_stream_types_of_other_video_pass_unread(codec: Codec, key: bytes) -> None:
    (unit,) = demux(frames(head(codec) + video(key, 0)))
    assert (unit.codec, unit.key, unit.data) == (codec, True, key)


@pytest.mark.gb("G215")
def test_stream_type_0x0f_is_aac_with_its_adts_headers() -> None:
    adts = bytes.fromhex("fff16c40029ffc") + bytes(13)
    packet = program_stream_map(Codec.H264, Codec.AAC)
    assert packet[16:18] == b"\x0f\xc0"
    out = demux(frames(packet + video(KEY, 0) + pes_packets(0xC0, adts + adts, 0, 0)))
    assert (out[0].codec, out[0].data) == (Codec.AAC, adts + adts)


@pytest.mark.quirk(39)
def test_c_a_map_with_a_wrong_crc_is_still_a_hint() -> None:
    broken = program_stream_map(Codec.H265, Codec.PCMU)[:-4] + b"\xde\xad\xbe\xef"
    demuxer = PsDemuxer()
    demux(frames(broken + video(H265_SETS + H265_IDR, 0)), demuxer)
    assert demuxer.video.hint is Codec.H265
    assert demuxer.audio_announced
    assert demuxer.map_faults == 1


@pytest.mark.quirk(39)
@pytest.mark.parametrize("wrong", [2, 30, 60_000])
def test_c_a_map_whose_lengths_lie_is_left_at_the_next_start_code(wrong: int) -> None:
    packet = bytearray(program_stream_map(Codec.H264, None))
    packet[4:6] = wrong.to_bytes(2, "big")
    out = demux(frames(bytes(packet) + video(KEY, 0), video(P, 3600)))
    assert [u.data for u in out] == [KEY, P]


@pytest.mark.quirk(39)
def test_c_descriptors_longer_than_the_map() -> None:
    packet = bytearray(program_stream_map(Codec.H264, Codec.PCMA))
    packet[14:16] = b"\xff\xff"  # length of the first stream's descriptors
    packet[-4:] = crc32_mpeg(bytes(packet[:-4])).to_bytes(4, "big")
    out = demux(frames(bytes(packet) + video(KEY, 0)))
    assert [u.data for u in out] == [KEY]


@pytest.mark.quirk(39)
def test_d_a_pack_start_code_without_pack_fields() -> None:
    bare = b"\x00\x00\x01\xba" + video(KEY, 0)
    assert bare[:8].hex() == "000001ba000001e0"
    out = demux([(bare, 0), (b"\x00\x00\x01\xba" + video(P, 3600), 3600)])
    assert [u.data for u in out] == [KEY, P]


@pytest.mark.gb("G214")
@pytest.mark.quirk(39)
def test_d_stuffing_in_the_pack_header() -> None:
    stuffed = pack_header(0)[:-1] + b"\xfe" + b"\xff" * 6
    assert stuffed[13:].hex() == "feffffffffffff"
    out = demux([(stuffed + head() + video(KEY, 0), 0), (stuffed + video(P, 3600), 3600)])
    assert [u.data for u in out] == [KEY, P]


@pytest.mark.gb("G217")
@pytest.mark.quirk(39)
def test_e_private_packets_and_unknown_ids_are_skipped() -> None:
    private = b"\x00\x00\x01\xbd\x00\x08HIKmeta!"
    unknown = b"\x00\x00\x01\xf9\x00\x04\x00\x00\x01\x00"
    padding = b"\x00\x00\x01\xbe\x00\x03\xff\xff\xff"
    demuxer = PsDemuxer()
    out = demux(
        frames(private + head() + video(KEY, 0) + private, padding + video(P, 3600) + unknown), demuxer
    )
    assert [u.data for u in out] == [KEY, P]
    assert demuxer.private_packets == 2


@pytest.mark.quirk(39)
def test_g_sound_before_any_picture_and_map_only_before_the_first_key_frame() -> None:
    sound = pes_packets(0xC0, b"\xd5" * 320, 0, 0)
    out = demux(frames(sound, video(P, 3600), sound, head(audio=Codec.PCMA) + video(KEY, 10800)))
    assert [u.codec for u in out if not u.codec.is_video] == [Codec.PCMA, Codec.PCMA]
    assert [u.key for u in out if u.codec.is_video][-1] is True


@pytest.mark.quirk(39)
def test_i_no_parameter_sets_until_the_next_key_frame() -> None:
    out = demux(frames(head() + video(IDR, 0), video(P, 3600), video(KEY, 7200), video(P, 10800)))
    assert [(u.key, u.damaged) for u in out] == [(True, True), (False, False), (True, False), (False, False)]


@pytest.mark.quirk(39)
def test_j_parameter_sets_sent_once_are_put_in_front_of_every_key_frame() -> None:
    out = demux(frames(head() + video(KEY, 0), video(P, 3600), video(IDR, 7200)))
    assert out[2].key
    assert out[2].data == SPS + PPS + IDR


@pytest.mark.quirk(39)
def test_k_parameter_sets_with_the_pts_of_the_next_frame() -> None:
    out = demux(
        [
            (pack(video(SPS, 0)), 0),
            (pack(video(PPS, 0)), 0),
            (pack(video(IDR, 0)), 0),
            (pack(video(P, 3600)), 3600),
        ]
    )
    assert [(u.data, u.key) for u in out] == [(KEY, True), (P, False)]


@pytest.mark.quirk(39)
def test_l_two_frames_glued_into_one_are_split_at_first_mb_in_slice() -> None:
    second = b"\x00\x00\x00\x01\x41\x9b" + bytes(range(5, 30))
    demuxer = PsDemuxer()
    out = demux(frames(head() + video(KEY + P + second, 0), video(P, 10800)), demuxer)
    assert [(u.data, u.key) for u in out] == [(KEY, True), (P, False), (second, False), (P, False)]
    assert sorted({u.dts for u in out}) == [u.dts for u in out]
    assert demuxer.video.glued == 2


def test_slices_of_one_picture_stay_together() -> None:
    second_slice = b"\x00\x00\x01\x41\x22\x24" + bytes(range(3, 30))  # first_mb_in_slice is not 0
    assert second_slice[4] & 0x80 == 0
    out = demux(frames(head() + video(KEY, 0), video(P + second_slice, 3600)))
    assert [u.data for u in out] == [KEY, P + second_slice]


@pytest.mark.gb("G219")
@pytest.mark.quirk(40)
def test_a_gap_damages_the_picture_and_all_up_to_the_next_key_frame() -> None:
    demuxer, out = PsDemuxer(), []
    key, other = pack(head() + video(KEY, 0)), pack(video(P + bytes(range(4, 250)), 3600))
    out += demuxer.feed(key, 0)
    out += demuxer.feed(other[:80], 3600, end=False)
    out += demuxer.feed(other[160:], 3600, gap=True)  # 80 bytes are missing
    out += demuxer.feed(pack(video(P, 7200)), 7200)
    out += demuxer.feed(pack(head() + video(KEY, 10800)), 10800)
    out += demuxer.feed(pack(video(P, 14400)), 14400)
    assert [(u.key, u.damaged) for u in out] == [
        (True, False),
        (False, True),
        (False, True),
        (True, False),
        (False, False),
    ]
    assert demuxer.resyncs == 1


@pytest.mark.gb("G219")
@pytest.mark.parametrize("loss", [0.001, 0.01, 0.05])
def test_random_loss_never_passes_a_broken_picture_as_whole(
    h264_units: list[AccessUnit], loss: float
) -> None:
    noise = random.Random(int(loss * 1e6))
    muxer, packetizer, demuxer = PsMuxer(Codec.H264), RtpPacketizer(1, 96, mtu=200), PsDemuxer()
    units = [
        replace(unit, pts=unit.pts + turn * 180000, dts=unit.dts + turn * 180000)
        for turn in range(4)
        for unit in h264_units
    ]
    whole, out, lost_before = {unit.data for unit in units}, [], False
    for unit in units:
        packets = packetizer.packets(muxer.mux(unit), unit.dts)
        for packet in packets:
            if noise.random() < loss:
                lost_before = True
                continue
            payload = bytes(parse(packet).payload)  # type: ignore[union-attr]
            out += demuxer.feed(payload, unit.dts, gap=lost_before, end=packet is packets[-1])
            lost_before = False
    assert all(unit.data in whole for unit in out if not unit.damaged)
    if loss <= 0.01:
        assert any(unit.key and not unit.damaged for unit in out)


def test_pts_of_33_bits_wrap() -> None:
    base = (1 << 33) - 3600
    out = demux(
        frames(
            head() + video(KEY, base),
            video(P, base + 3600 & (1 << 33) - 1),
            video(P, base + 7200 & (1 << 33) - 1),
        )
    )
    assert [u.pts for u in out] == [0, 3600, 7200]


def test_dts_and_pts_of_b_frames_are_kept_apart() -> None:
    out = demux(frames(head() + video(KEY, 7200, 3600), video(P, 18000, 7200), video(P, 10800, 10800)))
    assert [(u.dts, u.pts) for u in out] == [(0, 3600), (3600, 14400), (7200, 7200)]


def test_nothing_of_a_stream_is_believed_before_its_first_pack() -> None:
    demuxer = PsDemuxer()
    assert demux([(video(P, 0), 0), (pack(head() + video(KEY, 3600)), 3600)], demuxer)[0].key
    assert demuxer.skipped_bytes == len(video(P, 0))
