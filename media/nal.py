"""NAL units of H.264 and H.265: splitting Annex B, reading sequence parameter sets, naming the codec.

Pure: bytes in, records out. Sources: ITU-T H.264 (7.3, annex B and E), ITU-T H.265 (7.3, annex B),
ISO/IEC 14496-15 annex E and RFC 6381 for the codec strings.
"""

from __future__ import annotations

from dataclasses import dataclass

from media.unit import Codec

START_CODE = b"\x00\x00\x00\x01"

H264_SLICES = frozenset({1, 5})
H264_IDR, H264_SEI, H264_SPS, H264_PPS, H264_AUD = 5, 6, 7, 8, 9
H265_VPS, H265_SPS, H265_PPS, H265_AUD = 32, 33, 34, 35
H265_IRAP = frozenset(range(16, 24))

_HIGH_PROFILES = frozenset({100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135})
_INTRA_ONLY_CAPABLE = frozenset({44, 86, 100, 110, 122, 244})
_MAX_SIDE = 16384


class NalError(ValueError):
    """A parameter set or slice header that ends early or says something impossible."""


@dataclass(frozen=True, slots=True)
class SpsInfo:
    """What players need of a sequence parameter set.

    ``width`` and ``height`` in pixels after cropping. ``num_reorder_frames`` is None where the stream does not
    say it (H.264 without VUI): then only the slices tell whether there are B-frames. ``codec_string`` is for
    MIME types (RFC 6381).
    """

    width: int
    height: int
    profile: int
    level: int
    num_reorder_frames: int | None
    codec_string: str
    chroma_format: int = 1
    bit_depth_luma: int = 8
    bit_depth_chroma: int = 8
    interlaced: bool = False
    """H.264 frame_mbs_only_flag is 0: an access unit may be one field of a picture."""


def split_annexb(data: bytes) -> list[bytes]:
    """NAL units of one access unit without start codes and trailing zeros; bytes before the first are dropped."""
    find = data.find
    units = []
    start = find(b"\x00\x00\x01")
    while start >= 0:
        start += 3
        following = find(b"\x00\x00\x01", start)
        unit = data[start:following] if following >= 0 else data[start:]
        if unit.endswith(b"\x00"):
            unit = unit.rstrip(b"\x00")
        if unit:
            units.append(unit)
        start = following
    return units


def join_annexb(units: list[bytes]) -> bytes:
    """The inverse of `split_annexb`, with four-byte start codes."""
    return b"".join(START_CODE + unit for unit in units)


def nal_type(codec: Codec, unit: bytes) -> int:
    """nal_unit_type of one non-empty unit (H.264: 0 to 31, H.265: 0 to 63)."""
    return unit[0] & 0x1F if codec is Codec.H264 else unit[0] >> 1 & 0x3F


def parameter_sets(codec: Codec, units: list[bytes]) -> list[bytes]:
    """The SPS and PPS (and VPS) among ``units``, in their order."""
    wanted = (H264_SPS, H264_PPS) if codec is Codec.H264 else (H265_VPS, H265_SPS, H265_PPS)
    return [unit for unit in units if nal_type(codec, unit) in wanted]


def describe(codec: Codec, data: bytes) -> SpsInfo | None:
    """What the first readable SPS in an Annex B access unit says; None when there is none."""
    if codec not in (Codec.H264, Codec.H265):
        return None
    wanted = H264_SPS if codec is Codec.H264 else H265_SPS
    parse = parse_sps_h264 if codec is Codec.H264 else parse_sps_h265
    for unit in split_annexb(data):
        if nal_type(codec, unit) == wanted:
            try:
                return parse(unit)
            except NalError:
                continue
    return None


def codec_string(codec: Codec, data: bytes) -> str | None:
    """The RFC 6381 name (``avc1.42c01e``, ``hvc1.1.6.L93.90``) of an access unit that carries an SPS."""
    info = describe(codec, data)
    return None if info is None else info.codec_string


def has_b_slices(codec: Codec, data: bytes) -> bool:
    """True when an H.264 access unit holds a B slice (slice_type 1 or 6). H.265 is not looked into: False."""
    if codec is not Codec.H264:
        return False
    for unit in split_annexb(data):
        if unit[0] & 0x1F in H264_SLICES:
            try:
                bits = _Bits(unit[1:17])
                bits.ue()  # first_mb_in_slice
                return bits.ue() in (1, 6)
            except NalError:
                return False
    return False


def unescape(payload: bytes) -> bytes:
    """A NAL unit's payload without the emulation prevention bytes (7.3.1)."""
    return payload.replace(b"\x00\x00\x03", b"\x00\x00")


class _Bits:
    """Reads an RBSP bit by bit; emulation prevention bytes are taken out first."""

    def __init__(self, payload: bytes) -> None:
        rbsp = unescape(payload)
        self._value = int.from_bytes(rbsp, "big")
        self._left = len(rbsp) * 8

    def u(self, count: int) -> int:
        self._left -= count
        if self._left < 0:
            raise NalError("the NAL unit ends early")
        return self._value >> self._left & ((1 << count) - 1)

    def flag(self) -> bool:
        return bool(self.u(1))

    def ue(self) -> int:
        zeros = 0
        while not self.u(1):
            zeros += 1
            if zeros > 32:
                raise NalError("an Exp-Golomb code is too long")
        return (1 << zeros) - 1 + self.u(zeros)

    def se(self) -> int:
        code = self.ue()
        return (code + 1) // 2 if code & 1 else -(code // 2)


def _checked_size(width: int, height: int) -> tuple[int, int]:
    if not (0 < width <= _MAX_SIDE and 0 < height <= _MAX_SIDE):
        raise NalError(f"impossible picture size {width}x{height}")
    return width, height


def parse_sps_h264(unit: bytes) -> SpsInfo:
    """Read an H.264 SPS (7.3.2.1.1) given with its NAL header byte. NalError when it cannot be read."""
    if len(unit) < 4:
        raise NalError("the SPS ends early")
    bits = _Bits(unit[1:])
    profile, constraints, level = bits.u(8), bits.u(8), bits.u(8)
    bits.ue()  # seq_parameter_set_id
    chroma, separate_planes, depths = _h264_chroma(bits) if profile in _HIGH_PROFILES else (1, False, (8, 8))
    bits.ue()  # log2_max_frame_num_minus4
    order_type = _h264_picture_order(bits)
    bits.ue()  # max_num_ref_frames
    bits.flag()  # gaps_in_frame_num_value_allowed_flag
    width, map_units = (bits.ue() + 1) * 16, bits.ue() + 1
    frame_only = bits.flag()
    height = map_units * 16 * (1 if frame_only else 2)
    if not frame_only:
        bits.flag()  # mb_adaptive_frame_field_flag
    bits.flag()  # direct_8x8_inference_flag
    if bits.flag():
        step_x = 2 if chroma in (1, 2) and not separate_planes else 1
        step_y = (2 if chroma == 1 and not separate_planes else 1) * (1 if frame_only else 2)
        width -= (bits.ue() + bits.ue()) * step_x
        height -= (bits.ue() + bits.ue()) * step_y
    width, height = _checked_size(width, height)
    reorder = _h264_reorder(bits, profile, constraints, order_type)
    name = f"avc1.{profile:02x}{constraints:02x}{level:02x}"
    return SpsInfo(width, height, profile, level, reorder, name, chroma, *depths, interlaced=not frame_only)


def _h264_chroma(bits: _Bits) -> tuple[int, bool, tuple[int, int]]:
    chroma = _chroma_format(bits)
    separate = chroma == 3 and bits.flag()
    depths = _bit_depths(bits)
    bits.flag()  # qpprime_y_zero_transform_bypass_flag
    if bits.flag():  # seq_scaling_matrix_present_flag
        for index in range(12 if chroma == 3 else 8):
            if bits.flag():
                _skip_scaling_list(bits, 16 if index < 6 else 64)
    return chroma, separate, depths


def _chroma_format(bits: _Bits) -> int:
    chroma = bits.ue()
    if chroma > 3:
        raise NalError(f"chroma_format_idc {chroma}")
    return chroma


def _bit_depths(bits: _Bits) -> tuple[int, int]:
    luma, chroma = bits.ue() + 8, bits.ue() + 8
    if max(luma, chroma) > 16:
        raise NalError(f"bit depths {luma} and {chroma}")
    return luma, chroma


def _skip_scaling_list(bits: _Bits, size: int) -> None:
    last = following = 8
    for _ in range(size):
        if following:
            following = (last + bits.se() + 256) % 256
        last = following or last


def _h264_picture_order(bits: _Bits) -> int:
    order_type = bits.ue()
    if order_type == 0:
        bits.ue()
    elif order_type == 1:
        bits.flag()
        bits.se()
        bits.se()
        for _ in range(min(bits.ue(), 255)):
            bits.se()
    elif order_type != 2:
        raise NalError(f"pic_order_cnt_type {order_type}")
    return order_type


def _h264_reorder(bits: _Bits, profile: int, constraints: int, order_type: int) -> int | None:
    """max_num_reorder_frames of the VUI (E.1.1), or what E.2.1 infers; None when the stream leaves it open."""
    inferred = None
    intra_only = profile in _INTRA_ONLY_CAPABLE and constraints & 0x10
    if profile == 66 or order_type == 2 or intra_only:
        inferred = 0
    try:
        return _h264_vui_reorder(bits) if bits.flag() and inferred is None else inferred
    except NalError:  # a cut VUI is common and no reason to refuse the picture size
        return inferred


def _h264_vui_reorder(bits: _Bits) -> int | None:
    if bits.flag() and bits.u(8) == 255:  # aspect_ratio_idc Extended_SAR
        bits.u(32)
    if bits.flag():  # overscan_info_present_flag
        bits.flag()
    if bits.flag():  # video_signal_type_present_flag
        bits.u(4)
        if bits.flag():
            bits.u(24)
    if bits.flag():  # chroma_loc_info_present_flag
        bits.ue()
        bits.ue()
    if bits.flag():  # timing_info_present_flag
        bits.u(65)
    nal_hrd = bits.flag()
    if nal_hrd:
        _skip_hrd(bits)
    vcl_hrd = bits.flag()
    if vcl_hrd:
        _skip_hrd(bits)
    if nal_hrd or vcl_hrd:
        bits.flag()  # low_delay_hrd_flag
    bits.flag()  # pic_struct_present_flag
    if not bits.flag():  # bitstream_restriction_flag
        return None
    bits.flag()  # motion_vectors_over_pic_boundaries_flag
    for _ in range(4):  # bytes and bits per unit, then vector ranges
        bits.ue()
    return bits.ue()


def _skip_hrd(bits: _Bits) -> None:
    count = bits.ue() + 1
    if count > 32:
        raise NalError(f"cpb_cnt {count}")
    bits.u(8)
    for _ in range(count):
        bits.ue()
        bits.ue()
        bits.flag()
    bits.u(20)


def parse_sps_h265(unit: bytes) -> SpsInfo:
    """Read an H.265 SPS (7.3.2.2) given with its two NAL header bytes. NalError when it cannot be read."""
    if len(unit) < 16:
        raise NalError("the SPS ends early")
    bits = _Bits(unit[2:])
    bits.u(4)  # sps_video_parameter_set_id
    sub_layers = bits.u(3)
    bits.flag()  # sps_temporal_id_nesting_flag
    profile_space, tier, profile = bits.u(2), bits.flag(), bits.u(5)
    compatibility, constraints, level = bits.u(32), bits.u(48), bits.u(8)
    _skip_sub_layers(bits, sub_layers)
    bits.ue()  # sps_seq_parameter_set_id
    chroma = _chroma_format(bits)
    if chroma == 3:
        bits.flag()  # separate_colour_plane_flag
    width, height = bits.ue(), bits.ue()
    if bits.flag():  # conformance_window_flag
        step_x, step_y = (2 if chroma in (1, 2) else 1), (2 if chroma == 1 else 1)
        width -= (bits.ue() + bits.ue()) * step_x
        height -= (bits.ue() + bits.ue()) * step_y
    width, height = _checked_size(width, height)
    depths = _bit_depths(bits)
    bits.ue()  # log2_max_pic_order_cnt_lsb_minus4
    reorder = 0
    for _ in range(sub_layers + 1 if bits.flag() else 1):
        bits.ue()  # sps_max_dec_pic_buffering_minus1
        reorder = bits.ue()
        bits.ue()  # sps_max_latency_increase_plus1
    name = _hevc_string(profile_space, tier, profile, compatibility, constraints, level)
    return SpsInfo(width, height, profile, level, reorder, name, chroma, *depths)


def _skip_sub_layers(bits: _Bits, count: int) -> None:
    present = [(bits.flag(), bits.flag()) for _ in range(count)]
    if count:
        bits.u(2 * (8 - count))
    for profile_present, level_present in present:
        bits.u((88 if profile_present else 0) + (8 if level_present else 0))


def _hevc_string(
    space: int, tier: bool, profile: int, compatibility: int, constraints: int, level: int
) -> str:
    reversed_flags = int(f"{compatibility:032b}"[::-1], 2)
    tail = constraints.to_bytes(6, "big").rstrip(b"\x00")
    parts = [
        "hvc1",
        f"{('', 'A', 'B', 'C')[space]}{profile}",
        f"{reversed_flags:x}",
        f"{'H' if tier else 'L'}{level}",
        *(f"{byte:x}" for byte in tail),
    ]
    return ".".join(parts)
