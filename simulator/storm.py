"""Very many light devices on a few UDP sockets: REGISTER with digest and heartbeats as ready-made bytes.

No SIP stack behind it: a load on a registrar that costs the sender little. Answers are counted, losses are
sent again with doubling pauses, latencies are kept. What the server asks is answered too: each device is a camera
with itself as its only channel, and takes no subscription.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import re
import socket
import time
from array import array
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field

from sip.ids import make_code

DRAIN_AT_ONCE = 256
RETRY_S = (0.5, 1.0, 2.0, 4.0)
"""Default pauses before an unanswered request is sent again (doubling, as RFC 3261 timer E begins); then it is lost."""

_CALL = re.compile(rb"\r\n(?:Call-ID|i)\s*:\s*(\d+)-", re.IGNORECASE)
_CSEQ = re.compile(rb"\r\nCSeq\s*:\s*(\d+)\s+([A-Z]+)", re.IGNORECASE)
_CHALLENGE = re.compile(rb"\r\nWWW-Authenticate\s*:\s*([^\r\n]+)", re.IGNORECASE)
_REQUEST = re.compile(rb"([A-Z]+) sips?:([^@;>\s]+)")
_ECHOED = re.compile(rb"\r\n((?:Via|From|Call-ID|CSeq)\s*:[^\r\n]*)", re.IGNORECASE)
_TO = re.compile(rb"\r\n(To\s*:[^\r\n]*)", re.IGNORECASE)
_QUERY = re.compile(
    rb"<Query>\s*<CmdType>(Catalog|DeviceInfo)</CmdType>\s*<SN>(\d{1,10})</SN>\s*<DeviceID>(\d{20})</DeviceID>"
)
_STATUS_OF = {b"MESSAGE": "200 OK", b"OPTIONS": "200 OK", b"SUBSCRIBE": "489 Bad Event"}
_PARAM = re.compile(rb'(realm|nonce|qop|algorithm|opaque)\s*=\s*(?:"([^"]*)"|([^,\s]+))', re.IGNORECASE)


@dataclass(slots=True)
class StormCounts:
    """What happened so far. ``statuses`` by (method, status); ``latency_s`` of answered exchanges in seconds.

    ``asked`` counts the server's requests by method. Answers to its queries are in ``statuses`` as RESPONSE.
    """

    sent: int = 0
    repeated: int = 0
    lost: int = 0
    unexpected: int = 0
    statuses: Counter[tuple[str, int]] = field(default_factory=Counter)
    asked: Counter[str] = field(default_factory=Counter)
    latency_s: array[float] = field(default_factory=lambda: array("d"))

    def percentile_s(self, share: float) -> float:
        """Latency below which ``share`` (0 to 1) of the answers came; 0 without answers."""
        ordered = sorted(self.latency_s)
        return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0


@dataclass(slots=True)
class LightDevice:
    """State of one device: its code, next CSeq, heartbeat SN, and whether the server knows it."""

    index: int
    code: str
    socket: socket.socket
    cseq: int = 0
    sn: int = 0
    registered: bool = False
    ha1: str = ""


@dataclass(slots=True)
class _Pending:
    device: LightDevice
    method: str
    data: bytes
    first_mono: float
    due_mono: float
    tries: int = 0


class Storm:
    """``count`` devices with consecutive codes from ``first_serial`` on. All times in seconds.

    ``window`` bounds the requests under way; ``rate`` (per second) paces further. ``heartbeat_s`` is the interval
    of :meth:`run`.
    """

    def __init__(
        self,
        server: tuple[str, int],
        server_id: str,
        count: int,
        *,
        domain: str = "",
        password: str = "",
        area: str = "410183",
        first_serial: int = 100_000,
        sockets: int = 4,
        host: str = "127.0.0.1",
        expires_s: int = 3600,
        heartbeat_s: float = 60.0,
        window: int = 500,
        retry_s: tuple[float, ...] = RETRY_S,
    ) -> None:
        self.server = server
        self.server_id = server_id
        self.domain = domain or server_id[:10]
        self.password = password
        self.expires_s = expires_s
        self.heartbeat_s = heartbeat_s
        self.counts = StormCounts()
        self._retry_s = retry_s
        self._sockets = [_socket(host) for _ in range(max(1, sockets))]
        self.devices = [
            LightDevice(
                index, make_code(area, 132, first_serial + index), self._sockets[index % len(self._sockets)]
            )
            for index in range(count)
        ]
        self._by_code = {device.code: device for device in self.devices}
        self._addresses = {sock: "{}:{}".format(*sock.getsockname()) for sock in self._sockets}
        self._pending: dict[tuple[int, int], _Pending] = {}
        self._retries: deque[tuple[float, tuple[int, int]]] = deque()
        self._room = asyncio.Semaphore(window)
        self._idle = asyncio.Event()
        self._sweeper: asyncio.Task[None] | None = None

    # -- life ---------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to read answers."""
        loop = asyncio.get_running_loop()
        for sock in self._sockets:
            loop.add_reader(sock.fileno(), self._readable, sock)
        self._sweeper = loop.create_task(self._sweep())

    async def close(self) -> None:
        """Stop reading and release the sockets. Nothing is said to the server."""
        loop = asyncio.get_running_loop()
        if self._sweeper is not None:
            self._sweeper.cancel()
            await asyncio.gather(self._sweeper, return_exceptions=True)
        for sock in self._sockets:
            loop.remove_reader(sock.fileno())
            sock.close()

    @property
    def registered(self) -> int:
        return sum(device.registered for device in self.devices)

    # -- what to do ---------------------------------------------------------------------------------------

    async def register(
        self, *, rate: float = 0.0, timeout_s: float = 120.0, only_missing: bool = False
    ) -> int:
        """REGISTER every device once (with the answer to its challenge); how many are registered then.

        ``only_missing``: just those that are not registered, for another round after refusals and losses.
        """
        await self._each(self._register, rate, timeout_s, only_registered=False if only_missing else None)
        return self.registered

    async def beat(self, *, rate: float = 0.0, timeout_s: float = 120.0) -> int:
        """One heartbeat of every registered device; how many got 200."""
        before = self.counts.statuses["MESSAGE", 200]
        await self._each(self._beat, rate, timeout_s, only_registered=True)
        return self.counts.statuses["MESSAGE", 200] - before

    async def unregister(self, *, timeout_s: float = 120.0) -> None:
        await self._each(
            lambda device: self._register(device, expires_s=0), 0.0, timeout_s, only_registered=True
        )

    async def run(self, duration_s: float) -> None:
        """Heartbeats of all registered devices, spread evenly over the interval, for so long."""
        begin, turn = time.monotonic(), 0
        known = [device for device in self.devices if device.registered]
        step_s = self.heartbeat_s / max(1, len(known))
        while known and (now := time.monotonic()) < begin + duration_s:
            due = int((now - begin) / step_s)
            while turn <= due:
                await self._begin(self._beat, known[turn % len(known)])
                turn += 1
            await asyncio.sleep(min(0.02, step_s))
        await self._settle(30.0)

    async def _each(
        self,
        act: Callable[[LightDevice], None],
        rate: float,
        timeout_s: float,
        *,
        only_registered: bool | None = None,
    ) -> None:
        begin = time.monotonic()
        async with asyncio.timeout(timeout_s):
            for number, device in enumerate(self.devices):
                if only_registered is not None and device.registered is not only_registered:
                    continue
                if rate and (ahead_s := number / rate - (time.monotonic() - begin)) > 0:
                    await asyncio.sleep(ahead_s)
                await self._begin(act, device)
            await self._settle(timeout_s)

    async def _begin(self, act: Callable[[LightDevice], None], device: LightDevice) -> None:
        await self._room.acquire()
        act(device)

    async def _settle(self, timeout_s: float) -> None:
        while self._pending:
            self._idle.clear()
            await asyncio.wait_for(self._idle.wait(), timeout_s)

    # -- requests as bytes --------------------------------------------------------------------------------

    def _register(
        self, device: LightDevice, authorization: str = "", *, expires_s: int | None = None
    ) -> None:
        expires_s = self.expires_s if expires_s is None else expires_s
        data = self._head(
            device,
            "REGISTER",
            f"<sip:{device.code}@{self.domain}>",
            f"Contact: <sip:{device.code}@{self._addresses[device.socket]}>\r\nExpires: {expires_s}\r\n{authorization}"
            "Content-Length: 0\r\n\r\n",
        )
        self._send(device, "REGISTER" if expires_s else "UNREGISTER", data)

    def _beat(self, device: LightDevice) -> None:
        device.sn += 1
        self._say(device, "MESSAGE", "Notify", "Keepalive", device.sn, "<Status>OK</Status>")

    def _say(self, device: LightDevice, label: str, root: str, cmd_type: str, sn: int, rest: str) -> None:
        """A MESSAGE; ``label`` is the method it is counted under."""
        body = (
            f'<?xml version="1.0" encoding="GB2312"?>\r\n<{root}>\r\n<CmdType>{cmd_type}</CmdType>\r\n'
            f"<SN>{sn}</SN>\r\n<DeviceID>{device.code}</DeviceID>\r\n{rest}\r\n</{root}>\r\n"
        )
        data = self._head(
            device,
            "MESSAGE",
            f"<sip:{self.server_id}@{self.domain}>",
            f"Content-Type: Application/MANSCDP+xml\r\nContent-Length: {len(body)}\r\n\r\n{body}",
        )
        self._send(device, label, data)

    def _head(self, device: LightDevice, method: str, to: str, rest: str) -> bytes:
        device.cseq += 1
        call = f"{device.index}-{'r' if method == 'REGISTER' else device.cseq}"
        return (
            f"{method} sip:{self.server_id}@{self.domain} SIP/2.0\r\n"
            f"Via: SIP/2.0/UDP {self._addresses[device.socket]};rport;branch=z9hG4bK{device.code}{device.cseq}\r\n"
            f"From: <sip:{device.code}@{self.domain}>;tag=s{device.index}\r\nTo: {to}\r\n"
            f"Call-ID: {call}-{device.code}\r\nCSeq: {device.cseq} {method}\r\nMax-Forwards: 70\r\n"
            f"User-Agent: storm\r\n{rest}"
        ).encode()

    def _send(self, device: LightDevice, method: str, data: bytes) -> None:
        now = time.monotonic()
        key = (device.index, device.cseq)
        self._pending[key] = _Pending(device, method, data, now, now + self._retry_s[0])
        self._retries.append((now + self._retry_s[0], key))
        self.counts.sent += 1
        self._transmit(device.socket, data)

    def _transmit(self, sock: socket.socket, data: bytes) -> None:
        with contextlib.suppress(BlockingIOError):  # a full buffer is a loss like any other
            sock.sendto(data, self.server)

    # -- answers ------------------------------------------------------------------------------------------

    def _readable(self, sock: socket.socket) -> None:
        for _ in range(DRAIN_AT_ONCE):
            try:
                data = sock.recv(4096)
            except BlockingIOError:
                return
            except ConnectionRefusedError:
                continue
            if data.startswith(b"SIP/2.0 "):
                self._answered(data)
            else:
                self._asked(sock, data)

    def _answered(self, data: bytes) -> None:
        call, cseq = _CALL.search(data), _CSEQ.search(data)
        if call is None or cseq is None or not data[8:11].isdigit():
            self.counts.unexpected += 1
            return
        status = int(data[8:11])
        if status < 200:
            return
        pending = self._pending.pop((int(call[1]), int(cseq[1])), None)
        if pending is None:
            self.counts.unexpected += 1  # the answer to a repetition whose first answer came already
            return
        method = "REGISTER" if pending.method == "UNREGISTER" else pending.method
        self.counts.statuses[method, status] += 1
        self.counts.latency_s.append(time.monotonic() - pending.first_mono)
        device = pending.device
        if status == 401 and method == "REGISTER" and b"\r\nAuthorization:" not in pending.data:
            challenge = _CHALLENGE.search(data)
            if challenge is not None:
                expires_s = 0 if pending.method == "UNREGISTER" else None
                self._register(device, self._authorization(device, challenge[1]), expires_s=expires_s)
                return
        if method == "REGISTER":
            device.registered = status == 200 and pending.method == "REGISTER"
        elif status in (401, 403):
            device.registered = False
        self._done(pending)

    def _done(self, pending: _Pending) -> None:
        if pending.method != "RESPONSE":  # answers take no room
            self._room.release()
        if not self._pending:
            self._idle.set()

    def _asked(self, sock: socket.socket, data: bytes) -> None:
        """A request of the server: answered in short, a catalog or information query with its answer behind."""
        request, to = _REQUEST.match(data), _TO.search(data)
        device = self._by_code.get(request[2].decode("ascii", "replace")) if request is not None else None
        if request is None or to is None or device is None:
            self.counts.unexpected += 1
            return
        self.counts.asked[request[1].decode()] += 1
        status = _STATUS_OF.get(request[1], "405 Method Not Allowed")
        tag = b"" if b";tag=" in to[1] else b";tag=s%d" % device.index
        lines = [
            b"SIP/2.0 " + status.encode(),
            *_ECHOED.findall(data),
            to[1] + tag,
            b"Content-Length: 0",
            b"",
            b"",
        ]
        self._transmit(sock, b"\r\n".join(lines))
        query = _QUERY.search(data)
        if request[1] == b"MESSAGE" and query is not None:
            self._respond(device, query[1].decode(), int(query[2]))

    def _respond(self, device: LightDevice, cmd_type: str, sn: int) -> None:
        if cmd_type == "DeviceInfo":
            rest = "<Result>OK</Result><Manufacturer>Storm</Manufacturer><Model>light</Model><Firmware>1</Firmware>"
        else:
            rest = (
                f'<SumNum>1</SumNum><DeviceList Num="1"><Item><DeviceID>{device.code}</DeviceID>'
                f"<Name>camera {device.index}</Name><Manufacturer>Storm</Manufacturer><Model>light</Model>"
                f"<CivilCode>{device.code[:6]}</CivilCode><Address>-</Address><Parental>0</Parental>"
                f"<ParentID>{device.code}</ParentID><RegisterWay>1</RegisterWay><Secrecy>0</Secrecy>"
                "<Status>ON</Status></Item></DeviceList>"
            )
        self._say(device, "RESPONSE", "Response", cmd_type, sn, rest)

    def _authorization(self, device: LightDevice, challenge: bytes) -> str:
        """Answer to an MD5 challenge, with or without qop (RFC 2617)."""
        params = {
            name.lower(): (quoted or token).decode() for name, quoted, token in _PARAM.findall(challenge)
        }
        realm, nonce = params.get(b"realm", ""), params.get(b"nonce", "")
        uri = f"sip:{self.server_id}@{self.domain}"
        if not device.ha1:
            device.ha1 = _md5(f"{device.code}:{realm}:{self.password}")
        second = _md5(f"REGISTER:{uri}")
        fields = f'username="{device.code}", realm="{realm}", nonce="{nonce}", uri="{uri}", algorithm=MD5'
        if "auth" in params.get(b"qop", ""):
            proof = _md5(f"{device.ha1}:{nonce}:00000001:{device.code}:auth:{second}")
            fields += f', qop=auth, nc=00000001, cnonce="{device.code}"'
        else:
            proof = _md5(f"{device.ha1}:{nonce}:{second}")
        if b"opaque" in params:
            fields += f', opaque="{params[b"opaque"]}"'
        return f'Authorization: Digest {fields}, response="{proof}"\r\n'

    async def _sweep(self) -> None:
        """Send again what was not answered; after the last pause it counts as lost."""
        while True:
            await asyncio.sleep(0.05)
            now = time.monotonic()
            retries, self._retries = self._retries, deque()
            for due, key in retries:
                pending = self._pending.get(key)
                if pending is None:
                    continue
                if due > now:
                    self._retries.append((due, key))
                    continue
                pending.tries += 1
                if pending.tries >= len(self._retry_s):
                    del self._pending[key]
                    self.counts.lost += 1
                    self._done(pending)
                    continue
                self.counts.repeated += 1
                self._retries.append((now + self._retry_s[pending.tries], key))
                self._transmit(pending.device.socket, pending.data)


def _socket(host: str) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setblocking(False)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * 1024 * 1024)
    sock.bind((host, 0))
    return sock


def _md5(text: str) -> str:
    return hashlib.md5(text.encode()).hexdigest()
