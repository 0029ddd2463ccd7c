"""What the parts of the transport share: bounds, who is told what they receive, tasks, and the news of a failure."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Protocol

from sip.flow import Flow, Target
from sip.framing import FrameFault
from sip.observer import Observer
from sip.routes import Routes


@dataclass(frozen=True, slots=True)
class TransportLimits:
    """Bounds of the sockets."""

    udp_batch: int = 64
    udp_receive_buffer: int = 8 * 1024 * 1024
    udp_send_queue: int = 4096
    connections: int = 20_000
    connect_timeout_s: float = 3.0
    write_buffer_bytes: int = 2 * 1024 * 1024
    write_stall_s: float = 10.0
    partial_message_s: float = 30.0
    idle_s: float = 1800.0
    dial_queue: int = 256
    handshakes: int = 500
    """TLS handshakes of peers at one time."""
    handshake_timeout_s: float = 10.0


class Receiver(Protocol):
    """What the transport tells."""

    def message_received(self, data: bytes, flow: Flow) -> None: ...
    def stream_broken(self, fault: FrameFault, flow: Flow) -> None: ...
    def batch_done(self) -> None: ...
    def connection_closed(self, flow: Flow) -> None: ...
    def send_failed(self, destination: Flow | Target, cause: str = "") -> None: ...


class Shared:
    """Made by the transport and handed to UDP, streams and TLS; owns the tasks that dial, greet or look names up."""

    def __init__(self, host: str, receiver: Receiver, limits: TransportLimits, observer: Observer) -> None:
        self.host = host
        self.receiver = receiver
        self.limits = limits
        self.observer = observer
        self.routes = Routes(host)
        self.closing = False
        self._tasks: set[asyncio.Task[None]] = set()

    def spawn(self, work: asyncio._CoroutineLike[None]) -> None:
        """Run ``work`` in a task; not any more once the transport closes."""
        if self.closing:
            work.close()
            return
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def fail_soon(self, destination: Flow | Target) -> None:
        """Tell it in a callback of its own: the sender is in the middle of its own work."""
        if not self.closing:
            asyncio.get_running_loop().call_soon(self.receiver.send_failed, destination)

    def cancel_tasks(self) -> None:
        for task in list(self._tasks):
            task.cancel()

    async def tasks_ended(self) -> None:
        await asyncio.gather(*self._tasks, return_exceptions=True)
