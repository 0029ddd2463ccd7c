"""A SIP server asks us, as its media server, where we would receive: INVITE without SDP, answer in the ACK."""

from __future__ import annotations

import asyncio
import socket

import pytest
from live_house import SERVER, LiveHouse, until
from raw_device import RawDevice, header
from scripted_camera import DOMAIN, picture_units, plain_answer

from gateway.services.nodes import Nodes
from gateway.services.session_third_party import MediaServerRole
from media.ps_mux import PsMuxer
from media.rtp import RtpPacketizer
from media.unit import Codec
from sip.endpoint import Incoming, IncomingInvite, Reply

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(90)]

UPPER = "41010000002000000001"
MEDIA_SERVER = "41018300002020000001"
CAMERA = "41010000001310000001"
SSRC = 100000001


class Caller(RawDevice):
    """The controlling SIP server, byte by byte."""

    def request(
        self,
        method: str,
        port: int,
        *,
        tag: str = "",
        branch: str,
        body: bytes = b"",
        subject: str = "",
        cseq: int = 1,
    ) -> None:
        self.peer = ("127.0.0.1", port)
        to = f"<sip:{MEDIA_SERVER}@{DOMAIN}>" + (f";tag={tag}" if tag else "")
        lines = [
            f"{method} sip:{MEDIA_SERVER}@127.0.0.1:{port} SIP/2.0",
            f"Via: SIP/2.0/UDP 127.0.0.1:{self.port};rport;branch=z9hG4bK{branch}",
            f"From: <sip:{UPPER}@4101000000>;tag=p9",
            f"To: {to}",
            "Call-ID: third-party-1",
            f"CSeq: {cseq} {method}",
            "Max-Forwards: 70",
            f"Contact: <sip:{UPPER}@127.0.0.1:{self.port}>",
        ]
        lines += [f"Subject: {subject}"] if subject else []
        lines += ["Content-Type: application/sdp"] if body else []
        self.send("\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]) + body.decode())


def with_role(house: LiveHouse) -> None:
    role = MediaServerRole(server_id=SERVER, opener=house.opener, sessions=house.sessions)

    def handle(incoming: Incoming) -> object:
        assert isinstance(incoming, IncomingInvite)
        return role.invite(UPPER, incoming) if role.meant(incoming) else Reply(488)

    house.handler = handle


async def pictures(port: int, ssrc: int) -> None:
    packetizer, muxer = RtpPacketizer(ssrc, 96), PsMuxer(Codec.H264)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for unit in picture_units() * 3:
            for packet in packetizer.packets(muxer.mux(unit), unit.pts):
                sender.sendto(packet, ("127.0.0.1", port))
            await asyncio.sleep(0.04)


@pytest.mark.gb("G229", "G206")
@pytest.mark.parametrize(
    ("subject", "channel"),
    [
        (f"{CAMERA}:{SSRC:010d},{MEDIA_SERVER}:0", CAMERA),
        ("", MEDIA_SERVER),
        ("nonsense", MEDIA_SERVER),
    ],
)
async def test_offer_in_the_200_and_answer_in_the_ack(nodes: Nodes, subject: str, channel: str) -> None:
    async with Caller() as caller, LiveHouse(nodes) as house:
        with_role(house)
        port = house.endpoint.port
        caller.request("INVITE", port, branch="i1", subject=subject)
        ok = await caller.receive("SIP/2.0 200")
        offer = ok.partition("\r\n\r\n")[2]
        assert "a=recvonly" in offer
        assert f"o={SERVER} 0 0 IN IP4 127.0.0.1" in offer
        assert (f"y={SSRC:010d}" in offer) is (channel == CAMERA)
        media_port = int(offer.partition("m=video ")[2].split()[0])
        assert media_port % 2 == 0

        tag = header(ok, "To").partition("tag=")[2]
        answer = plain_answer(CAMERA, "15060 RTP/AVP 96", "a=sendonly", "a=rtpmap:96 PS/90000", ssrc=SSRC)
        caller.request("ACK", port, tag=tag, branch="a1", body=answer)
        sending = asyncio.create_task(pictures(media_port, SSRC))
        session = await house.sessions.play(UPPER, channel)  # what a viewer of ours does
        assert session.streaming
        assert session.info.ssrc == SSRC

        caller.request("BYE", port, tag=tag, branch="b1", cseq=2)
        assert header(await caller.receive("SIP/2.0 200"), "CSeq") == "2 BYE"
        await until(lambda: session.info.end_cause == "device_bye")
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        await until(lambda: not house.sessions.list())
        await house.assert_nothing_left()


@pytest.mark.gb("G234")
async def test_ack_without_a_usable_answer_is_bye(nodes: Nodes) -> None:
    async with Caller() as caller, LiveHouse(nodes) as house:
        with_role(house)
        caller.request(
            "INVITE", house.endpoint.port, branch="i1", subject=f"{CAMERA}:{SSRC:010d},{MEDIA_SERVER}:0"
        )
        ok = await caller.receive("SIP/2.0 200")
        caller.request("ACK", house.endpoint.port, tag=header(ok, "To").partition("tag=")[2], branch="a1")
        caller.answer(await caller.receive("BYE"), "200 OK")
        await until(lambda: not house.sessions.list())
        await until(lambda: house.endpoint.counts["dialogs"] == 0)
        await house.assert_nothing_left()
