"""The wire view over HTTP: a peer's last SIP messages as a ladder, live, and as a capture for Wireshark."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterable
from datetime import datetime
from typing import Literal, Protocol

from aiohttp import web
from pydantic import Field

from gateway.http.errors import STREAMING, Problem, not_found
from gateway.http.routes import Call, Model, View, route
from gateway.http.server import add_security_headers
from gateway.http.views import AnyCode
from gateway.model import Platform
from gateway.registry import Registry
from gateway.services.access import Access, Principal, Role
from gateway.services.wire import Entry, Line, LineKey, Tail, WireLog
from gateway.services.wire_pcap import capture
from gateway.services.wire_view import LocalOf, Shown, as_text, chosen, ladder, shown, taken

PCAP_TYPE = "application/vnd.tcpdump.pcap"
TAIL_QUEUE = 500
MAX_TAILS = 50
PING_S = 15.0


class Uppers(Protocol):
    """The part of gateway.services.cascade.Cascade that knows where uppers are."""

    def records(self) -> list[Platform]: ...
    def hosts(self, platform_id: str) -> frozenset[str]: ...


class MessageFilter(Model):
    method: str = Field(
        default="", pattern=r"^[A-Za-z]{0,16}$", description="e.g. `INVITE`, with its answers."
    )
    cmd_type: str = Field(
        default="", pattern=r"^[0-9A-Za-z]{0,40}$", description="e.g. `Keepalive`, with the answers to it."
    )
    call_id: str = Field(default="", max_length=256)
    limit: int = Field(default=200, ge=1, le=10_000, description="The last so many of those that fit.")


class MessageView(View):
    """One message. `out` is what we sent."""

    at: datetime
    direction: Literal["in", "out"]
    transport: str
    local: str
    remote: str
    start_line: str
    method: str = Field(description="Of a response: that of its request.")
    status: int | None
    cseq: str
    call_id: str
    from_id: str
    to_id: str
    headers: list[tuple[str, str]] = Field(description="Credentials are masked.")
    size_bytes: int
    body_kind: str = Field(description="manscdp, sdp, mansrtsp, text, or empty.")
    charset: str = Field(description="Character set of the body's bytes.")
    label: str = Field(description="Character set that the body's declaration names.")
    command: str = Field(description="Root and CmdType, e.g. `Notify Keepalive`.")
    cmd_type: str
    sn: str
    body: str
    repeated: bool = Field(description="A retransmission.")
    answered_ms: float | None = Field(description="Requests: milliseconds to the final response.")
    fault: str = Field(description="Why it cannot be read; empty when it can.")


class MessageList(View):
    total: int = Field(description="Messages that fit.")
    kept: int = Field(description="Messages kept of this peer.")
    dropped: int = Field(description="Older ones that had to be forgotten.")
    items: list[MessageView] = Field(description="In the order of time.")


class WireState(View):
    enabled: bool
    kept: int
    bytes: int
    lines: int = Field(description="Addresses of peers.")
    dropped: int
    strangers: int = Field(description="Messages of addresses that nobody owns.")
    stranger_dropped: int


class WireResource:
    """``local_of`` tells our own address toward a peer where the messages do not."""

    def __init__(
        self,
        *,
        registry: Registry,
        uppers: Uppers,
        wire: WireLog,
        local_of: LocalOf,
        access: Access,
        ping_s: float = PING_S,
    ) -> None:
        self._registry, self._uppers, self._wire = registry, uppers, wire
        self._local_of, self._access, self._ping_s = local_of, access, ping_s
        self._tails: set[asyncio.Queue[tuple[LineKey, Entry] | None]] = set()

    def close(self) -> None:
        """End all live views; the server is stopping."""
        for queue in self._tails:
            if queue.full():
                queue.get_nowait()
            queue.put_nowait(None)

    @route("GET", "/api/wire", summary="How much of the wire is kept", role=Role.OPERATOR, tag="wire")
    async def state(self, call: Call) -> WireState:
        counts = self._wire.counts
        return WireState(
            enabled=self._wire.enabled,
            kept=counts.kept,
            bytes=counts.bytes,
            lines=counts.lines,
            dropped=counts.dropped,
            strangers=counts.strangers,
            stranger_dropped=counts.stranger_dropped,
        )

    @route(
        "GET",
        "/api/devices/{device_id}/messages",
        summary="The last SIP messages of a device",
        role=Role.OPERATOR,
        tag="wire",
        errors=(404,),
    )
    async def of_device(self, call: Call, device_id: AnyCode, query: MessageFilter) -> MessageList:
        """As a ladder, oldest first. Kept in memory only; older addresses of the device are included."""
        return await self._list(self._device_lines(device_id), query, code=self._code(device_id))

    @route(
        "GET",
        "/api/devices/{device_id}/messages.txt",
        summary="The same as plain text",
        role=Role.OPERATOR,
        tag="wire",
        produces="text/plain",
        errors=(404,),
    )
    async def device_text(self, call: Call, device_id: AnyCode, query: MessageFilter) -> web.StreamResponse:
        """One line for each message."""
        return await self._text(self._device_lines(device_id), query, device_id, self._code(device_id))

    @route(
        "GET",
        "/api/devices/{device_id}/messages.pcap",
        summary="The same for Wireshark",
        role=Role.OPERATOR,
        tag="wire",
        produces=PCAP_TYPE,
        errors=(404,),
        audited="wire.capture",
    )
    async def device_pcap(self, call: Call, device_id: AnyCode) -> web.StreamResponse:
        """All kept messages of the device's addresses. Credentials are masked, lengths stay as they were."""
        return await self._pcap(self._device_lines(device_id), device_id)

    @route(
        "GET",
        "/api/devices/{device_id}/messages/live",
        summary="SIP messages of a device as they pass (server-sent events)",
        role=Role.OPERATOR,
        tag="wire",
        produces="text/event-stream",
        errors=(404, 503),
    )
    async def live(self, call: Call, device_id: AnyCode) -> web.StreamResponse:
        """`event: message` with an entry as in the list; `event: dropped` counts what a slow reader missed."""
        self._device_lines(device_id)
        return await self._stream(call, lambda key: self._wire.owns(device_id, key))

    @route(
        "GET",
        "/api/platforms/{platform_id}/messages",
        summary="The last SIP messages with an upper platform",
        role=Role.OPERATOR,
        tag="wire",
        errors=(404,),
    )
    async def of_platform(self, call: Call, platform_id: AnyCode, query: MessageFilter) -> MessageList:
        """As for devices."""
        return await self._list(self._platform_lines(platform_id), query)

    @route(
        "GET",
        "/api/platforms/{platform_id}/messages.pcap",
        summary="The same for Wireshark",
        role=Role.OPERATOR,
        tag="wire",
        produces=PCAP_TYPE,
        errors=(404,),
        audited="wire.capture",
    )
    async def platform_pcap(self, call: Call, platform_id: AnyCode) -> web.StreamResponse:
        return await self._pcap(self._platform_lines(platform_id), platform_id)

    @route(
        "GET",
        "/api/wire/strangers",
        summary="Messages of addresses that nobody owns",
        role=Role.ADMINISTRATOR,
        tag="wire",
    )
    async def strangers(self, call: Call, query: MessageFilter) -> MessageList:
        """Devices that were refused, scanners, and what else reaches the port."""
        return await self._list(self._wire.strangers(), query)

    @route(
        "GET",
        "/api/wire/strangers.pcap",
        summary="The same for Wireshark",
        role=Role.ADMINISTRATOR,
        tag="wire",
        produces=PCAP_TYPE,
        audited="wire.capture",
    )
    async def strangers_pcap(self, call: Call) -> web.StreamResponse:
        return await self._pcap(self._wire.strangers(), "strangers")

    # -- pieces ----------------------------------------------------------------------------------------------

    def _device_lines(self, device_id: str) -> list[Line]:
        if device_id not in self._registry.devices:
            raise not_found(f"device {device_id}")
        return self._wire.of_device(device_id)

    def _code(self, device_id: str) -> str:
        """The code to filter by, where several devices share the address; else ""."""
        device = self._registry.devices[device_id]
        shared = device.flow is not None and len(self._registry.devices_on(device.flow)) > 1
        return device_id if shared else ""

    def _platform_lines(self, platform_id: str) -> list[Line]:
        if all(platform.platform_id != platform_id for platform in self._uppers.records()):
            raise not_found(f"platform {platform_id}")
        return self._wire.of_hosts(self._uppers.hosts(platform_id))

    async def _chosen(self, lines: list[Line], query: MessageFilter, code: str) -> list[Shown]:
        entries = taken(lines, self._local_of)

        def work() -> list[Shown]:
            return chosen(
                ladder(entries),
                method=query.method,
                cmd_type=query.cmd_type,
                call_id=query.call_id,
                code=code,
            )

        return await asyncio.to_thread(work)

    async def _list(self, lines: list[Line], query: MessageFilter, code: str = "") -> MessageList:
        found = await self._chosen(lines, query, code)
        return MessageList(
            total=len(found),
            kept=sum(len(line.kept) for line in lines),
            dropped=sum(line.dropped for line in lines),
            items=[MessageView.model_validate(step) for step in found[-query.limit :]],
        )

    async def _text(
        self, lines: list[Line], query: MessageFilter, peer: str, code: str
    ) -> web.StreamResponse:
        found = await self._chosen(lines, query, code)
        return web.Response(text=as_text(found[-query.limit :], peer), content_type="text/plain")

    async def _pcap(self, lines: Iterable[Line], name: str) -> web.StreamResponse:
        body = await asyncio.to_thread(capture, taken(lines, self._local_of))
        headers = {"Content-Disposition": f'attachment; filename="sip-{name}.pcap"'}
        return web.Response(body=body, content_type=PCAP_TYPE, headers=headers)

    async def _stream(self, call: Call, wants: Callable[[LineKey], bool]) -> web.StreamResponse:
        if len(self._tails) >= MAX_TAILS:
            raise Problem(503, "too many live views", cause="busy", headers={"Retry-After": "10"})
        response = web.StreamResponse()
        response.content_type, response.charset = "text/event-stream", "utf-8"
        response.headers["X-Accel-Buffering"] = "no"
        add_security_headers(response, call.request.path)
        queue: asyncio.Queue[tuple[LineKey, Entry] | None] = asyncio.Queue(TAIL_QUEUE)
        missed = [0]

        def tell(key: LineKey, entry: Entry) -> None:
            if queue.full():
                missed[0] += 1
            else:
                queue.put_nowait((key, entry))

        stop = self._wire.watch(Tail(wants, tell))
        self._tails.add(queue)
        call.request[STREAMING] = True
        try:
            await response.prepare(call.request)
            await response.write(b"retry: 3000\n\n")
            async for text in self._lines(queue, missed, call.who):
                await response.write(text)
        except ConnectionResetError:
            pass  # the reader left
        finally:
            stop()
            self._tails.discard(queue)
        return response

    async def _lines(
        self, queue: asyncio.Queue[tuple[LineKey, Entry] | None], missed: list[int], who: Principal
    ) -> AsyncIterator[bytes]:
        """Encoded messages, pings in between; the log-in is looked at again as often as a ping is due."""
        loop = asyncio.get_running_loop()
        checked, told = loop.time(), 0
        while True:
            if loop.time() - checked >= self._ping_s:
                checked = loop.time()
                if not await self._access.still_good(who):
                    return
            try:
                async with asyncio.timeout(self._ping_s):
                    found = await queue.get()
            except TimeoutError:
                yield b": ping\n\n"
                continue
            if found is None:
                return
            if missed[0] > told:
                data = json.dumps({"count": missed[0] - told})
                told = missed[0]
                yield f"event: dropped\ndata: {data}\n\n".encode()
            key, entry = found
            step = shown(entry, key, self._local_of(key))
            yield f"event: message\ndata: {MessageView.model_validate(step).model_dump_json()}\n\n".encode()
