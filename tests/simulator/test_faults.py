"""Scripted faults do on the wire what their names say."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from simulator.camera import Camera, DeviceOptions, Pictures
from simulator.faults import SDP_FAULTS, Disturber, Faults
from simulator.nvr import Recorder
from simulator.register import RegisterSettings
from simulator.upper_platform import UpperPlatform
from sip.errors import Rejected, RemoteError, TransactionTimeout
from sip.manscdp import CatalogItem, CatalogResponse, DeviceInfoQuery, decode
from sip.sdp import SdpUnacceptable, live_offer, parse, read_answer

UPPER_ID = "41018300002000000001"
CAMERA_ID = "41018300001320000007"
SMALL = Pictures(width=320, height=192, bitrate=200_000, gop=25)


@contextlib.asynccontextmanager
async def pair(
    faults: Faults, *, channels: int = 0, **options: Any
) -> AsyncIterator[tuple[UpperPlatform, Camera | Recorder]]:
    """An upper and a camera (or a recorder with ``channels``) that is registered there."""
    device_id = "41018300001180000003" if channels else CAMERA_ID
    upper = UpperPlatform(UPPER_ID, lower_id=device_id)
    await upper.start()
    settings = DeviceOptions(pictures=SMALL, register=RegisterSettings(), **options)
    server = (upper.host, upper.port)
    device: Camera | Recorder
    if channels:
        device = Recorder(
            device_id, channels, server=server, server_id=UPPER_ID, options=settings, faults=faults
        )
    else:
        device = Camera(device_id, server=server, server_id=UPPER_ID, options=settings, faults=faults)
    await device.start()
    try:
        await device.wait_registered()
        yield upper, device
    finally:
        await upper.stop()
        await device.stop(unregister=False)


def channel(device: Camera | Recorder) -> str:
    return next(iter(device.channels))


def test_dice() -> None:
    packets = [bytes([number]) for number in range(200)]
    disturber = Disturber(Faults(lose_rtp=0.1, repeat_rtp=0.1, reorder_rtp=0.1), seed=7)
    assert disturber.active
    wire = list(disturber.disturb(packets))
    assert len(wire) == 200 - disturber.lost + disturber.repeated
    assert disturber.lost > 5
    assert disturber.repeated > 5
    assert disturber.reordered > 5
    assert wire != sorted(wire)
    assert wire == list(
        Disturber(Faults(lose_rtp=0.1, repeat_rtp=0.1, reorder_rtp=0.1), seed=7).disturb(packets)
    )
    assert not Disturber(Faults(), seed=1).active


async def test_packets_are_lost_repeated_and_reordered() -> None:
    async with pair(Faults(lose_rtp=0.05, repeat_rtp=0.05, reorder_rtp=0.05)) as (upper, device):
        pull = await upper.invite(channel(device))
        stats = pull.media.stats
        await upper.wait(lambda: stats.lost and stats.repeated and stats.reordered and stats.packets > 100)


async def test_no_packets_and_silence_after_a_while() -> None:
    faults = Faults(no_rtp=True)
    async with pair(faults) as (upper, device):
        pull = await upper.invite(channel(device))
        await asyncio.sleep(0.3)
        assert pull.media.stats.packets == 0
        faults.no_rtp = False
        await pull.media.wait_packets(5)
        faults.stop_rtp_after_s = 0.0
        await asyncio.sleep(0.2)
        before = pull.media.stats.packets
        await asyncio.sleep(0.3)
        assert pull.media.stats.packets == before


async def test_foreign_ssrc_and_payload_type() -> None:
    async with pair(Faults(rtp_ssrc=0, rtp_payload_type=33)) as (upper, device):
        pull = await upper.invite(channel(device))
        await pull.media.wait_packets(5)
        assert set(pull.media.stats.ssrcs) == {0}
        assert set(pull.media.stats.payload_types) == {33}


async def test_media_connection_is_cut() -> None:
    async with pair(Faults(cut_tcp_after_s=0.3)) as (upper, device):
        pull = await upper.invite(channel(device), "tcp_passive")
        await pull.media.wait_packets(5)
        await upper.wait(lambda: pull.media.stats.closed_by_peer)


ANSWERS: dict[str, tuple[str, object]] = {
    "no_y": ("ssrc", None),
    "other_y": ("ssrc", 200_009_319),
    "zero_y": ("ssrc", 0),
    "nul_bytes": ("host", "127.0.0.1"),
    "no_body": ("label", "no_sdp"),
    "port_0": ("label", "port_0"),
    "wrong_payload": ("label", "payload"),
    "vendor_payload": ("label", "payload"),
    "no_setup": ("remarks", None),
    "udp_words": ("remarks", None),
    "no_address": ("host", ""),
}


@pytest.mark.parametrize("fault", SDP_FAULTS)
async def test_sdp_deviations(fault: str) -> None:
    """Each deviation is on the wire, and the answer's reader makes of it what it should."""
    transport = "tcp_passive" if fault in ("no_setup", "udp_words") else "udp"
    async with pair(Faults(sdp={fault})) as (upper, device):
        offer = live_offer(
            own_id=UPPER_ID, address="127.0.0.1", port=40_000, ssrc=100_000_001, transport=transport
        )
        session = await upper.endpoint.invite(
            upper.target(channel(device)),
            to=f"sip:{channel(device)}@4101830000",
            offer=offer.to_bytes(),
            timeout_s=5,
        )
        try:
            name, expected = ANSWERS[fault]
            if name == "label":
                with pytest.raises(SdpUnacceptable) as caught:
                    read_answer(session.remote_sdp, offer)
                assert caught.value.label == expected
            elif name != "remarks":
                assert getattr(read_answer(session.remote_sdp, offer), name) == expected
            else:
                assert read_answer(session.remote_sdp, offer).remarks
            if fault == "nul_bytes":
                assert b"\0" * 110 in session.remote_sdp
            if fault == "udp_words":
                assert not parse(session.remote_sdp).media[0].tcp
        finally:
            await session.bye()


async def test_statuses_by_method_and_command() -> None:
    async with pair(Faults(statuses={"INVITE": 486, "DeviceInfo": 404})) as (upper, device):
        with pytest.raises(Rejected) as caught:
            await upper.invite(channel(device))
        assert caught.value.status == 486
        with pytest.raises(RemoteError) as refused:
            await upper.device_info()
        assert refused.value.status == 404
        await upper.device_status()


async def test_silence() -> None:
    async with pair(Faults(silent={"INVITE"})) as (upper, device):
        with pytest.raises(TransactionTimeout) as caught:
            await upper.invite(channel(device), timeout_s=0.5)
        assert caught.value.provisional  # 100 is sent by the stack, then nothing


async def test_late_answer_and_early_bye() -> None:
    async with pair(Faults(answer_delay_s={"INVITE": 0.3}, bye_after_s=0.2)) as (upper, device):
        pull = await upper.invite(channel(device))
        assert pull.answered_s >= 0.3
        assert await asyncio.wait_for(asyncio.shield(pull.session.ended), 5) == "remote_bye"
        await device.wait(lambda: not device.live_calls)


async def test_goes_on_sending_after_a_bye() -> None:
    async with pair(Faults(ignore_bye=True)) as (upper, device):
        pull = await upper.invite(channel(device))
        await pull.media.wait_packets(5)
        await pull.session.bye()
        before = pull.media.stats.packets
        await pull.media.wait_packets(before + 20)


async def test_answer_inside_the_200() -> None:
    async with pair(Faults(answer_in_200=True)) as (upper, _):
        response = await upper.send(DeviceInfoQuery(sn=5, device_id=CAMERA_ID))
        assert decode(response.body).body.sn == 5
        await asyncio.sleep(0.1)
        assert not upper.messages


async def test_catalog_faults() -> None:
    faults = Faults(lose_parts={1}, repeat_parts={0}, sum_num_offset=3)
    async with pair(faults, channels=3, page_size=1) as (upper, device):
        with pytest.raises(TimeoutError):
            await upper.collect(timeout_s=0.5)
        parts = [body for body, _ in upper.messages if isinstance(body, CatalogResponse)]
        assert [part.items[0].device_id for part in parts] == [
            list(device.channels)[index] for index in (0, 0, 2)
        ]
        assert {part.sum_num for part in parts} == {6}


async def test_broken_and_mislabelled_catalogs() -> None:
    faults = Faults(broken_parts={0}, gbk_under_gb2312=True)
    async with pair(faults, channels=1) as (upper, device):
        device.channels[channel(device)].name = "萳浠路口"
        await device.send_catalog(sn=99)
        await upper.wait(lambda: upper.messages)
        body, incoming = upper.messages[0]
        assert isinstance(body, CatalogResponse)
        assert body.items[0].name == "萳浠路口"
        assert b'encoding="GB2312"' in incoming.request.body
        with pytest.raises(UnicodeDecodeError):
            incoming.request.body.decode("gb2312")
        assert (await upper.query_catalog())[0].name.startswith("萳浠路口")
        faults_seen = [decode(entry.request.body).faults for _, entry in upper.messages[1:]]
        assert faults_seen


async def test_unsolicited_items() -> None:
    async with pair(Faults(wrong_sn=True), channels=2) as (upper, device):
        await device.send_catalog(items=[CatalogItem(device_id=channel(device), name="alone", status="ON")])
        await upper.wait(lambda: upper.messages)
        body, _ = upper.messages[0]
        assert isinstance(body, CatalogResponse)
        assert (body.sum_num, body.items[0].name) == (1, "alone")
        with pytest.raises(TimeoutError):
            await upper.collect(timeout_s=0.3)


async def test_vanishes_without_a_word() -> None:
    async with pair(Faults()) as (upper, device):
        pull = await upper.invite(channel(device))
        await pull.media.wait_packets(5)
        await device.vanish()
        assert device.device_id in upper.lowers
        assert not pull.session.ended.done()
        await pull.media.close()
        upper.pulls.clear()
