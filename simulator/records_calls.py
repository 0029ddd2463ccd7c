"""How a simulated device takes part in playback and download: whether it has it, what INFO gets, how it says the end."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from simulator.records_play import RecordPlayer
from sip import mansrtsp
from sip.endpoint import Identity, InviteSession, Reply
from sip.errors import RemoteError
from sip.manscdp import CONTENT_TYPE, MediaStatusNotify
from sip.sdp import Offer

if TYPE_CHECKING:
    from simulator.calls import Call
    from simulator.device import SimulatedDevice
    from simulator.sending import Pictures

log = logging.getLogger(__name__)

FOREIGN = "41018300001189999999"
"""A sender that nobody knows."""


def is_live(offer: Offer) -> bool:
    return offer.session.name.strip().lower() not in ("playback", "download")


def recorded(device: SimulatedDevice, channel_id: str, offer: Offer) -> bool:
    """Whether there is anything of the stretch that is asked for."""
    start, end = (datetime.fromtimestamp(moment, UTC) for moment in offer.session.time)
    return start < end and bool(device.answers.records.between(channel_id, start, end))


def download_speed(offer: Offer) -> float:
    text = (offer.media.attribute("downloadspeed") or "1").strip()
    return float(text) if text.isdecimal() else 1.0


def file_size(device: SimulatedDevice, offer: Offer, pictures: Pictures) -> int | None:
    """``a=filesize`` of a download, as the device's faults want it."""
    wanted = device.answers.records.faults.filesize
    if wanted is None or offer.session.name.strip().lower() != "download":
        return None
    start, end = offer.session.time
    return round((end - start) * pictures.bitrate / 8) if wanted == "true" else wanted


def player_of(device: SimulatedDevice, call: Call) -> RecordPlayer:
    start, end = call.offer.session.time
    download = call.offer.session.name.strip().lower() == "download"
    return RecordPlayer(
        device.options.pictures,
        call.receiver,
        device.answers.records,
        call.channel_id,
        float(start),
        float(end),
        delivery=download_speed(call.offer) if download else 1.0,
    )


def info_answer(device: SimulatedDevice, player: RecordPlayer, control: mansrtsp.PlayControl) -> Reply:
    """Obey and answer 200 with the place (2022 B.2), or refuse, or answer in one of the field's ways (G249)."""
    faults = device.answers.records.faults
    if faults.no_info:
        return Reply(faults.no_info)
    cseq = 7 if faults.other_cseq else control.cseq
    scale = control.scale
    if scale is not None and scale in faults.refused_scales:
        answer = mansrtsp.PlayAnswer(501, "Not Implemented", cseq=cseq)
        return Reply(200, body=answer.to_bytes(), content_type=mansrtsp.CONTENT_TYPE)
    if scale is not None and scale < 0 and faults.reverse_one:
        scale = -1.0
    player.obey(mansrtsp.PlayControl(control.method, control.cseq, scale=scale, range=control.range))
    if faults.empty_answers:
        return Reply(200)
    place = mansrtsp.Range(round(player.position_s, 3)) if control.method == "PLAY" else None
    answer = mansrtsp.PlayAnswer(200, cseq=cseq, range=place, scale=scale)
    return Reply(200, body=answer.to_bytes(), content_type=mansrtsp.CONTENT_TYPE)


async def farewell(device: SimulatedDevice, call: Call, session: InviteSession) -> None:
    """MediaStatus 121, the way this device says it (2022 A.2.5.4, quirk 23)."""
    form = device.answers.records.faults.media_status
    if form == "none":
        return
    named = device.device_id if form == "outside" else call.channel_id
    body = MediaStatusNotify(sn=device.next_sn(), device_id=named)
    try:
        if form == "odd_first":
            odd = body.model_copy(update={"notify_type": "122"})
            await session.request("MESSAGE", body=device.encoded(odd), content_type=CONTENT_TYPE)
            await asyncio.sleep(0.3)
        if form in ("dialog", "odd_first"):
            await session.request("MESSAGE", body=device.encoded(body), content_type=CONTENT_TYPE)
        elif form == "foreign":
            await device.endpoint.request(
                "MESSAGE", device.target, to=device.server_uri, sender=Identity(FOREIGN, device.domain),
                body=device.encoded(body), content_type=CONTENT_TYPE, call_id=session.call_id,
            )  # fmt: skip
        else:
            await device.send(body)
    except RemoteError as error:
        log.info("event=media_status_unanswered error=%s", error)
