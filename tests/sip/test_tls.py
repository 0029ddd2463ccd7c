"""TLS between two endpoints: who shows which certificate, who refuses, what is told of it."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest
import trustme

from sip.endpoint import Endpoint, Identity, Incoming, Reply
from sip.errors import TransportFailed
from sip.flow import Target
from sip.note import NoteKey, PeerGuard
from sip.observer import Direction, Observer
from sip.tls import Tls, client_context, server_context
from sip.transport_shared import TransportLimits

ONE, OTHER = Identity("41018300001320000001", "4101830000"), Identity("41018300002000000001", "4101830000")


class Refusals(Observer):
    def __init__(self) -> None:
        self.seen: list[tuple[str, str]] = []

    def tls_refused(self, direction: Direction, cause: str) -> None:
        self.seen.append((direction, cause))


class Bench:
    """A server with a certificate for ``sip.example`` and 127.0.0.1, and clients of several sorts."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ca, self.stranger = trustme.CA(), trustme.CA()
        self.ca_file = folder / "ca.pem"
        self.ca.cert_pem.write_to_path(str(self.ca_file))
        self.refusals = Refusals()
        self.got: list[Incoming] = []
        self.open: list[Endpoint] = []

    def certificate(self, *names: str, ca: trustme.CA | None = None) -> Path:
        path = self.folder / f"{len(list(self.folder.iterdir()))}.pem"
        path.write_bytes((ca or self.ca).issue_cert(*names).private_key_and_cert_chain_pem.bytes())
        return path

    async def server(
        self, *names: str, require: bool = False, limits: TransportLimits | None = None
    ) -> Endpoint:
        context = server_context(
            self.certificate(*(names or ("127.0.0.1",))), None, client_ca=self.ca_file, require_client=require
        )
        return await self._start(OTHER, Tls(0, context), self.refusals)

    async def client(self, certificate: Path | None = None) -> Endpoint:
        return await self._start(
            ONE, Tls(client=client_context(ca=self.ca_file, certificate=certificate)), Refusals()
        )

    async def _start(self, who: Identity, tls: Tls, observer: Observer) -> Endpoint:
        endpoint = Endpoint(who, host="127.0.0.1", port=0, handler=self._handle, tls=tls, observer=observer)
        await endpoint.start()
        self.open.append(endpoint)
        return endpoint

    def _handle(self, incoming: Incoming) -> Reply:
        self.got.append(incoming)
        return Reply(200)

    async def close(self) -> None:
        for endpoint in self.open:
            await endpoint.close(drain_s=0)

    async def ask(self, client: Endpoint, server: Endpoint, name: str = "") -> int:
        target = Target(OTHER.uri, "127.0.0.1", server.tls_port, "tls", server_name=name)
        response = await client.request(
            "MESSAGE", target, to=OTHER.uri, body=b"<a/>", content_type="text/xml", timeout_s=20
        )
        return response.status


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@pytest.mark.gb("G279")
async def test_a_request_and_one_back_over_the_same_connection(bench: Bench) -> None:
    server, client = await bench.server(), await bench.client()
    try:
        assert await bench.ask(client, server) == 200
        came = bench.got[0]
        assert came.flow.transport == "tls"
        assert came.request.via.transport == "TLS"
        response = await server.request(
            "MESSAGE", Target.of_flow(ONE.uri, came.flow), to=ONE.uri, timeout_s=20
        )
        assert response.status == 200
        assert bench.got[1].request.via.transport == "TLS"
        assert bench.got[1].request.via.port == server.tls_port
        assert server.counts["connections"] == client.counts["connections"] == 1
        assert f":{server.tls_port};transport=tls>" in server.core.contact(came.flow, "x")
    finally:
        await bench.close()


@pytest.mark.gb("G279")
@pytest.mark.parametrize(
    ("names", "call_it", "good"),
    [
        (("127.0.0.1",), "", True),
        (("sip.example",), "sip.example", True),
        (("sip.example",), "", False),
        (("other.example",), "sip.example", False),
    ],
)
async def test_the_name_in_the_certificate_is_checked(
    bench: Bench, names: tuple[str, ...], call_it: str, good: bool
) -> None:
    server, client = await bench.server(*names), await bench.client()
    try:
        if good:
            assert await bench.ask(client, server, call_it) == 200
            return
        with pytest.raises(TransportFailed, match=r"TLS certificate refused: .*mismatch"):
            await bench.ask(client, server, call_it)
        assert not bench.got
        assert client.observer.seen == [("out", "certificate")]  # type: ignore[attr-defined]
    finally:
        await bench.close()


@pytest.mark.gb("G279")
@pytest.mark.parametrize(
    ("require", "shows", "good"),
    [
        (False, "", True),
        (True, "", False),
        (True, "known", True),
        (True, "strange", False),
        (False, "strange", False),
    ],
)
async def test_client_certificates(bench: Bench, require: bool, shows: str, good: bool) -> None:
    server = await bench.server(require=require)
    ca = {"known": bench.ca, "strange": bench.stranger}.get(shows)
    client = await bench.client(bench.certificate("device", ca=ca) if ca is not None else None)
    try:
        if good:
            assert await bench.ask(client, server) == 200
            return
        with pytest.raises(TransportFailed):
            await bench.ask(client, server)
        assert not bench.got
        async with asyncio.timeout(20):
            while not bench.refusals.seen:
                await asyncio.sleep(0.01)
        assert bench.refusals.seen == [("in", "certificate")]
    finally:
        await bench.close()


async def test_what_speaks_no_tls_is_refused_and_counted(bench: Bench) -> None:
    server = await bench.server()
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.tls_port)
        writer.write(b"OPTIONS sip:a@b SIP/2.0\r\n\r\n")
        async with asyncio.timeout(20):
            while await reader.read(100):
                pass
            writer.close()
            while ("in", "protocol") not in bench.refusals.seen:
                await asyncio.sleep(0.01)
        assert server.counts["connections"] == 0
    finally:
        await bench.close()


async def test_silent_callers_hold_no_more_than_their_share(bench: Bench) -> None:
    """Connections that never begin a handshake are bounded; the endpoint closes in spite of them."""
    server = await bench.server()
    server._transport.shared.limits = TransportLimits(handshakes=3)
    callers = [socket.create_connection(("127.0.0.1", server.tls_port)) for _ in range(6)]
    try:
        async with asyncio.timeout(20):
            while server._transport.greeting.under_way < 3:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.1)
        assert server._transport.greeting.under_way == 3
    finally:
        async with asyncio.timeout(20):
            await bench.close()
        assert server._transport.greeting.under_way == 0
        for caller in callers:
            caller.close()


async def test_without_tls_nothing_can_be_called_by_it(bench: Bench) -> None:
    client = await bench._start(ONE, Tls(), Refusals())
    try:
        with pytest.raises(TransportFailed, match="TLS is not set up"):
            await client.request(
                "MESSAGE", Target(OTHER.uri, "127.0.0.1", 5061, "tls"), to=OTHER.uri, timeout_s=20
            )
    finally:
        await bench.close()


@pytest.mark.gb("G278")
@pytest.mark.parametrize("transport", ["udp", "tcp"])
async def test_unsigned_messages_are_dropped_without_an_answer(transport: str) -> None:
    """Two endpoints with one key talk; a third without it gets no answer, not even to a broken request."""
    loop = asyncio.get_running_loop()
    key = NoteKey(b"between us")
    guards = [PeerGuard(key, mono=loop.time) for _ in range(2)]
    ends = [Endpoint(who, host="127.0.0.1", port=0, handler=lambda incoming: Reply(200), guard=guard)
            for who, guard in ((ONE, guards[0]), (OTHER, guards[1]), (ONE, None))]  # fmt: skip
    for end in ends:
        await end.start()
    try:
        target = Target(OTHER.uri, "127.0.0.1", ends[1].port, transport)  # type: ignore[arg-type]
        assert (await ends[0].request("MESSAGE", target, to=OTHER.uri, timeout_s=20)).status == 200
        assert [guard.verdicts for guard in guards] == [["ok"], ["ok"]]
        with pytest.raises(Exception, match="no answer"):
            await ends[2].request("MESSAGE", target, to=OTHER.uri, timeout_s=0.3)
        assert guards[1].verdicts[-1] == "missing"
    finally:
        for end in ends:
            await end.close(drain_s=0)
