"""From elementary video bytes to access units: which codec it is, where pictures begin, what a key frame needs. Pure.

Used behind every container: program stream, transport stream, elementary RTP payloads. H.264 and H.265 are looked
into; other video codecs pass as they come.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from media import nal
from media.unit import AccessUnit, Codec

_START = re.compile(b"\x00\x00\x01")
_H264_STRONG = frozenset({5, 7, 8})
_H265_STRONG = frozenset({16, 17, 18, 19, 20, 21, 32, 33, 34})
_VOTES = 3
"""Frames of weak evidence before the codec is taken for known."""
_MAX_HELD = 256 * 1024
"""Parameter sets without a picture are kept up to this many bytes."""


class Evidence(NamedTuple):
    """What NAL headers say: ``strong`` comes from parameter sets and key frames."""

    codec: Codec
    strong: bool


def probe(data: bytes) -> Evidence | None:
    """Tell H.264 from H.265 by the NAL headers of an access unit; None when nothing speaks for either."""
    votes = {Codec.H264: 0, Codec.H265: 0}
    strong = {Codec.H264: 0, Codec.H265: 0}
    for match in _START.finditer(data):
        at = match.end()
        if at + 2 > len(data):
            break
        codec, sure = _classify(data[at], data[at + 1])
        if codec is not None:
            votes[codec] += 1
            strong[codec] += sure
    for tally, sure in ((strong, True), (votes, False)):
        if tally[Codec.H264] != tally[Codec.H265]:
            best = Codec.H264 if tally[Codec.H264] > tally[Codec.H265] else Codec.H265
            return Evidence(best, sure)
    return None


def _classify(first: int, second: int) -> tuple[Codec | None, bool]:
    """One NAL header. H.265 headers have two bytes: type in bits 1-6, layer 0, temporal id 1-7 (H.265 7.3.1.2)."""
    if first & 0x80:
        return None, False
    if not first & 1 and second & 0xF8 == 0 and second & 7:
        kind = first >> 1
        if kind in _H265_STRONG:
            return Codec.H265, True
        if kind in (0, 1, 35, 39, 40) and first != 0x06:
            return Codec.H265, False
    kind, reference = first & 0x1F, first & 0x60
    if kind in _H264_STRONG and reference:
        return Codec.H264, True
    if kind == 1 or (kind in (6, 9) and not reference):
        return Codec.H264, False
    return None, False


class VideoAssembler:
    """Turns chunks of video bytes (what a container holds under one timestamp) into access units.

    Chunks of parameter sets alone wait for their picture; glued pictures are split at the first slice of each;
    key frames get the parameter sets seen last. ``hint`` is the container's claim of the codec, the NAL headers
    overrule it. ``codec`` is None until known; ``codec_changes`` counts changes in flight.
    """

    def __init__(self) -> None:
        self.codec: Codec | None = None
        self.hint: Codec | None = None
        self.hint_wrong = False
        self.codec_changes = 0
        self.glued = 0
        self._votes: dict[Codec, int] = {}
        self._sets: dict[int, list[bytes]] = {}
        self._held = b""
        self._interlaced = False
        self._broken = False

    def damage(self) -> None:
        """Bytes were lost: pictures up to the next key frame have no whole references."""
        self._broken = True
        self._held = b""

    def units(
        self,
        data: bytes,
        pts: int,
        dts: int,
        *,
        key_hint: bool = False,
        damaged: bool = False,
        now: float = 0.0,
    ) -> list[AccessUnit]:
        """Access units of one chunk. Glued ones get the same pts with dts one tick apart.

        ``key_hint`` (the container marked a random access point) is only believed for codecs not looked into.
        """
        if self.hint in (Codec.MPEG4, Codec.SVAC):
            return [self._opaque(self.hint, data, pts, dts, key_hint, damaged, now)]
        if self._held:
            data, self._held = self._held + data, b""
        starts = [match.start() for match in _START.finditer(data)]
        if not starts:
            damaged = True
        self._vote(data, starts)
        codec = self.codec
        if codec is None:
            return []
        begins, keys, has_picture = self._pictures(data, starts, codec)
        if not has_picture and starts and not damaged:
            self._held = data[-_MAX_HELD:]
            return []
        result = []
        for index, begin in enumerate(begins):
            end = begins[index + 1] if index + 1 < len(begins) else len(data)
            piece = data if len(begins) == 1 and begin == 0 else data[begin:end]
            unit = self._unit(codec, piece, keys[index], damaged)
            unit.pts, unit.dts, unit.arrival_mono = max(pts, dts + index), dts + index, now
            result.append(unit)
        return result

    def _opaque(
        self, codec: Codec, data: bytes, pts: int, dts: int, key: bool, damaged: bool, now: float
    ) -> AccessUnit:
        self.codec = codec
        if codec is Codec.MPEG4:
            vop = data.find(b"\x00\x00\x01\xb6")
            key = 0 <= vop < len(data) - 4 and data[vop + 4] >> 6 == 0
        if key and not damaged:
            self._broken = False
        return AccessUnit(codec, pts, dts, key, data, damaged or self._broken, now)

    def _vote(self, data: bytes, starts: list[int]) -> None:
        """Settle or change the codec. Weak evidence needs three frames; strong evidence decides at once."""
        known = self.codec
        if known is not None and starts:
            at = starts[0] + 3
            if at + 2 <= len(data):
                codec, _ = _classify(data[at], data[at + 1])
                if codec is known:
                    return
        evidence = probe(data)
        if evidence is None:
            return
        if evidence.strong:
            self._settle(evidence.codec)
        elif known is None:
            if evidence.codec is self.hint:
                self._settle(evidence.codec)
                return
            count = self._votes[evidence.codec] = self._votes.get(evidence.codec, 0) + 1
            if count >= _VOTES:
                self._settle(evidence.codec)

    def _settle(self, codec: Codec) -> None:
        if self.hint is not None and self.hint is not codec:
            self.hint_wrong = True
        if codec is self.codec:
            return
        if self.codec is not None:
            self.codec_changes += 1
        self.codec = codec
        self._votes.clear()
        self._sets.clear()
        self._interlaced = False

    def _pictures(self, data: bytes, starts: list[int], codec: Codec) -> tuple[list[int], list[bool], bool]:
        """Where each picture begins (bytes before its first slice belong to it) and whether it is a key frame."""
        begins, keys = [0], [False]
        if starts:
            begins[0] = _code_start(data, starts[0])
        size = len(data)
        h264 = codec is Codec.H264
        sliced = False
        lead: int | None = None
        """First non-slice NAL after a slice: a new picture may begin there."""
        has_sps = False
        for start in starts:
            at = start + 3
            if at + 2 >= size:
                break
            header = data[at]
            if h264:
                kind = header & 0x1F
                slice_data = kind == 1 or kind == 5
                first = data[at + 1] & 0x80
                key = kind == 5
            else:
                kind = header >> 1 & 0x3F
                slice_data = kind < 32
                first = data[at + 2] & 0x80
                key = 16 <= kind < 24
            if slice_data:
                if first and sliced and not self._interlaced:
                    begins.append(_code_start(data, start) if lead is None else lead)
                    keys.append(False)
                    self.glued += 1
                if h264 and not key and has_sps and first:
                    key = _intra_slice(data, at)
                keys[-1] = keys[-1] or key
                sliced, lead, has_sps = True, None, False
            else:
                if sliced and lead is None:
                    lead = _code_start(data, start)
                has_sps = has_sps or kind == (nal.H264_SPS if h264 else nal.H265_SPS)
        return begins, keys, sliced

    def _unit(self, codec: Codec, data: bytes, key: bool, damaged: bool) -> AccessUnit:
        if key:
            data, complete = self._with_sets(codec, data)
            if complete and not damaged:
                self._broken = False
            damaged = damaged or not complete
        elif self._broken:
            damaged = True
        return AccessUnit(codec, 0, 0, key, data, damaged)

    def _with_sets(self, codec: Codec, data: bytes) -> tuple[bytes, bool]:
        """A key frame with its parameter sets in front, and whether all of them are known."""
        order = (7, 8) if codec is Codec.H264 else (32, 33, 34)
        present: dict[int, list[bytes]] = {}
        for start in (match.end() for match in _START.finditer(data)):
            if start >= len(data):
                break
            kind = data[start] & 0x1F if codec is Codec.H264 else data[start] >> 1 & 0x3F
            if kind in order:
                following = data.find(b"\x00\x00\x01", start)
                unit = data[start : following if following >= 0 else len(data)].rstrip(b"\x00")
                present.setdefault(kind, []).append(unit)
            elif kind in (1, 5) if codec is Codec.H264 else kind < 32:
                break
        if present and any(self._sets.get(kind) != units for kind, units in present.items()):
            self._sets.update(present)
            self._read_sps(codec)
        missing = [kind for kind in order if kind not in present]
        if missing:
            prefix = b"".join(nal.START_CODE + unit for kind in missing for unit in self._sets.get(kind, ()))
            data = prefix + data
        return data, all(self._sets.get(kind) for kind in order)

    def _read_sps(self, codec: Codec) -> None:
        if codec is not Codec.H264:
            return
        for unit in self._sets.get(nal.H264_SPS, ()):
            try:
                self._interlaced = nal.parse_sps_h264(unit).interlaced
            except nal.NalError:
                continue


def _code_start(data: bytes, at: int) -> int:
    """Where the start code found at ``at`` begins, its optional leading zero included."""
    return at - 1 if at and data[at - 1] == 0 else at


def _intra_slice(data: bytes, at: int) -> bool:
    """Whether an H.264 slice with first_mb_in_slice 0 is I or SI (slice_type 2, 4, 7, 9; H.264 7.4.3)."""
    bits = (data[at + 1] << 8 | data[at + 2]) << 1 & 0xFFFF  # after the single bit of first_mb_in_slice
    zeros = 0
    while zeros < 8 and not bits & (0x8000 >> zeros):
        zeros += 1
    value = (bits >> (15 - 2 * zeros)) & ((1 << (zeros + 1)) - 1) if zeros < 8 else 0
    return value - 1 in (2, 4, 7, 9)
