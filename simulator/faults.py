"""What a simulated device does wrong, as data: every field may be changed while it runs."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from simulator import stream_faults

SDP_FAULTS = (
    "no_y",
    "other_y",
    "zero_y",
    "nul_bytes",
    "no_body",
    "port_0",
    "wrong_payload",
    "vendor_payload",
    "no_setup",
    "udp_words",
    "no_address",
)


@dataclass(slots=True)
class Faults:
    """Faults of one device.

    RTP: ``lose_rtp``, ``repeat_rtp`` and ``reorder_rtp`` are probabilities per packet; ``rtp_ssrc`` is used in
    the packets whatever the SDP said, ``rtp_payload_type`` likewise; ``no_rtp`` sends nothing, ``stop_rtp_after_s``
    falls silent; ``cut_tcp_after_s`` closes the media connection. ``stream`` names faults of the program stream and
    of its transport (:data:`simulator.stream_faults.STREAM_FAULTS`).

    SIP: ``silent`` names methods and CmdTypes that are not answered at all; ``statuses`` maps a method or CmdType
    to the status it gets; ``answer_delay_s`` maps a method to a delay before its answer (late 200).
    ``sdp`` names deviations of the answer's SDP (:data:`SDP_FAULTS`). ``bye_after_s`` ends calls by itself.
    ``ignore_bye`` goes on sending after a BYE. ``answer_in_200`` puts answers into the 200 (quirk 45).

    Catalog: ``lose_parts`` are indexes of messages that are not sent, ``repeat_parts`` of those sent twice,
    ``broken_parts`` of those with damaged XML; ``sum_num_offset`` makes SumNum lie; ``wrong_sn`` is not echoed;
    ``gbk_under_gb2312`` keeps the label GB2312 whatever the bytes need.

    Registration: ``no_heartbeat``, ``heartbeat_from_other_port``, ``no_reregister`` (lets it expire).
    """

    lose_rtp: float = 0.0
    repeat_rtp: float = 0.0
    reorder_rtp: float = 0.0
    no_rtp: bool = False
    rtp_ssrc: int | None = None
    rtp_payload_type: int | None = None
    stop_rtp_after_s: float | None = None
    cut_tcp_after_s: float | None = None
    stream: set[str] = field(default_factory=set)
    silent: set[str] = field(default_factory=set)
    statuses: dict[str, int] = field(default_factory=dict)
    answer_delay_s: dict[str, float] = field(default_factory=dict)
    sdp: set[str] = field(default_factory=set)
    bye_after_s: float | None = None
    ignore_bye: bool = False
    answer_in_200: bool = False
    lose_parts: set[int] = field(default_factory=set)
    repeat_parts: set[int] = field(default_factory=set)
    broken_parts: set[int] = field(default_factory=set)
    sum_num_offset: int = 0
    wrong_sn: bool = False
    gbk_under_gb2312: bool = False
    no_heartbeat: bool = False
    heartbeat_from_other_port: bool = False
    no_reregister: bool = False

    def __post_init__(self) -> None:
        unknown = set(self.sdp) - set(SDP_FAULTS)
        if unknown:
            raise ValueError(f"no such SDP faults: {sorted(unknown)}")
        stream_faults.check(self.stream)


class Disturber:
    """Loses, repeats and reorders the packets of one sender with its own dice (seeded: equal runs)."""

    def __init__(self, faults: Faults, seed: int) -> None:
        self._faults = faults
        self._dice = random.Random(seed)
        self._held: bytes | None = None
        self.lost = 0
        self.repeated = 0
        self.reordered = 0

    @property
    def active(self) -> bool:
        faults = self._faults
        return bool(faults.lose_rtp or faults.repeat_rtp or faults.reorder_rtp or self._held)

    def disturb(self, packets: Sequence[bytes]) -> Iterable[bytes]:
        """The packets as they reach the wire. A packet taken out of order comes after the next one."""
        faults, dice = self._faults, self._dice
        result: list[bytes] = []
        for packet in packets:
            if faults.lose_rtp and dice.random() < faults.lose_rtp:
                self.lost += 1
                continue
            if faults.reorder_rtp and self._held is None and dice.random() < faults.reorder_rtp:
                self._held = packet
                self.reordered += 1
                continue
            result.append(packet)
            if faults.repeat_rtp and dice.random() < faults.repeat_rtp:
                self.repeated += 1
                result.append(packet)
            if self._held is not None:
                result.append(self._held)
                self._held = None
        return result
