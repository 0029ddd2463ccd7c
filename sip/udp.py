"""The UDP socket: drained in bounded batches, written without waiting, with a bounded queue while it is full."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import time
from collections import deque

from sip.flow import Flow, Target
from sip.transport_shared import Shared

log = logging.getLogger(__name__)


class UdpPort:
    """Owns the socket. One callback drains it, so there is no asyncio machinery per datagram."""

    def __init__(self, shared: Shared) -> None:
        self.port = 0
        self._shared = shared
        self._socket: socket.socket | None = None
        self._buffer = bytearray(65536)
        self._view = memoryview(self._buffer)
        self._flows: dict[tuple[str, int], Flow] = {}
        self._flows_until = 0.0
        self._queue: deque[tuple[bytes, tuple[str, int]]] = deque()
        self._names: dict[str, tuple[float, str]] = {}

    @property
    def is_open(self) -> bool:
        return self._socket is not None

    def bind(self, port: int) -> int:
        """Take the port (any free one for 0); nothing is read before ``listen``. The port number; raises OSError."""
        host = self._shared.host
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        udp = socket.socket(family, socket.SOCK_DGRAM)
        try:
            udp.setblocking(False)
            # the kernel caps what it grants at net.core.rmem_max (quirk 13: ask for 4 MiB or more)
            udp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._shared.limits.udp_receive_buffer)
            udp.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, self._shared.limits.udp_receive_buffer)
            udp.bind((host, port))
        except OSError:
            udp.close()
            raise
        self._socket = udp
        self.port = int(udp.getsockname()[1])
        return self.port

    def listen(self) -> None:
        """Begin to read."""
        if self._socket is not None:
            asyncio.get_running_loop().add_reader(self._socket.fileno(), self.readable)

    def close(self) -> None:
        if self._socket is not None:
            loop = asyncio.get_running_loop()
            loop.remove_reader(self._socket.fileno())
            loop.remove_writer(self._socket.fileno())
            self._socket.close()
            self._socket = None
        self._queue.clear()

    # -- receiving ----------------------------------------------------------------------------------------

    def readable(self) -> None:
        """Take up to a batch of datagrams in."""
        udp, view = self._socket, self._view
        if udp is None:
            return
        flows, receive = self._flows, self._shared.receiver.message_received
        for _ in range(self._shared.limits.udp_batch):
            try:
                size, address = udp.recvfrom_into(view)
            except (BlockingIOError, InterruptedError):
                break
            except OSError:
                continue  # an ICMP error of an earlier send is no reason to stop reading
            flow = flows.get(address)
            if flow is None:
                flow = self._flow(address)
            receive(bytes(view[:size]), flow)
        self._shared.receiver.batch_done()

    def _flow(self, address: tuple[str, int]) -> Flow:
        """The flow of a source address, remembered; forgotten all at once when too many or too old."""
        now = time.monotonic()
        if len(self._flows) >= 50_000 or now > self._flows_until:
            self._flows.clear()
            self._flows_until = now + 60.0
        host, port = address[0], address[1]
        flow = Flow("udp", host, port, self._shared.routes.local_host(host), self.port)
        self._flows[address] = flow
        return flow

    # -- sending ------------------------------------------------------------------------------------------

    def send(self, data: bytes, host: str, port: int, destination: Flow | Target) -> None:
        """Send one datagram now or, with a full socket, later; ``destination`` is what a failure is told for."""
        udp = self._socket
        if udp is None:
            return
        if self._queue:
            self._enqueue(udp, data, (host, port))
            return
        try:
            udp.sendto(data, (host, port))
        except (BlockingIOError, InterruptedError):
            self._enqueue(udp, data, (host, port))
        except (OSError, OverflowError) as error:
            number = error.errno if isinstance(error, OSError) else None
            if number in (errno.ENOBUFS, errno.ECONNREFUSED, errno.EMSGSIZE):
                self._shared.observer.dropped("udp_send")
                return
            log.warning("event=udp_send_failed peer=%s error=%s", destination, error)
            self._shared.fail_soon(destination)

    def _enqueue(self, udp: socket.socket, data: bytes, address: tuple[str, int]) -> None:
        if len(self._queue) >= self._shared.limits.udp_send_queue:
            self._shared.observer.dropped("udp_send")
            return
        if not self._queue:
            asyncio.get_running_loop().add_writer(udp.fileno(), self._writable)
        self._queue.append((data, address))

    def _writable(self) -> None:
        udp, queue = self._socket, self._queue
        while queue and udp is not None:
            try:
                udp.sendto(*queue[0])
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                self._shared.observer.dropped("udp_send")
            queue.popleft()
        if udp is not None:
            asyncio.get_running_loop().remove_writer(udp.fileno())

    async def send_to_name(self, data: bytes, target: Target) -> None:
        """Look the host name up (kept for a minute), then send."""
        now = time.monotonic()
        known = self._names.get(target.host)
        if known is None or known[0] < now:
            family = socket.AF_INET6 if ":" in self._shared.host else socket.AF_INET
            try:
                found = await asyncio.get_running_loop().getaddrinfo(
                    target.host, target.port, family=family, type=socket.SOCK_DGRAM
                )
            except (OSError, UnicodeError) as error:
                log.warning("event=name_unknown host=%s error=%s", target.host, error)
                self._shared.receiver.send_failed(target)
                return
            if len(self._names) >= 1000:
                self._names.clear()
            known = self._names[target.host] = (now + 60.0, str(found[0][4][0]))
        self.send(data, known[1], target.port, target)
