"""The client side of registration: REGISTER with digest, refresh, heartbeats, and trying again."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import re
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from simulator.faults import Faults
from sip.endpoint import Credentials, Endpoint, Identity
from sip.errors import RemoteError
from sip.flow import Target
from sip.manscdp import CONTENT_TYPE, Edition
from sip.message import Response
from sip.uri import SipUri

log = logging.getLogger(__name__)

MAX_REDIRECTS = 3


@dataclass(slots=True)
class RegisterSettings:
    """How a device registers. Times in seconds; ``retry_s`` is the shortest and longest pause between tries."""

    expires_s: int = 3600
    heartbeat_s: float = 60.0
    heartbeat_count: int = 3
    retry_s: tuple[float, float] = (1.0, 60.0)
    refresh_at: float = 0.85
    """Share of the granted lifetime after which the registration is refreshed."""
    answer_timeout_s: float = 8.0


class Registration:
    """Keeps one identity registered at one server until it is stopped.

    ``heartbeat`` makes the next Keepalive body. ``registered`` is set while the server knows us. A heartbeat that
    is refused with 403, or too many without answer, leads to a new REGISTER under a new Call-ID.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        target: Target,
        identity: Identity,
        server_uri: str,
        *,
        password: str | None,
        edition: Edition,
        heartbeat: Callable[[], bytes],
        settings: RegisterSettings | None = None,
        faults: Faults | None = None,
        other_port: Callable[[bytes], Awaitable[None]] | None = None,
    ) -> None:
        self.endpoint = endpoint
        self.target = target
        self.identity = identity
        self.server_uri = server_uri
        self.settings = settings or RegisterSettings()
        self.faults = faults or Faults()
        self.registered = asyncio.Event()
        self.last_response: Response | None = None
        self.granted_s = 0
        self.registers = 0
        self.failures = 0
        self.heartbeats = 0
        self.missed_heartbeats = 0
        self.home = target
        self.on_moved: Callable[[SipUri | None], None] = lambda contact: None
        """Told of the Contact of a 302 that is followed, and by None of the way back: sets ``target`` and ``server_uri``."""
        self.redirects = 0
        self._hops = 0
        self._credentials = Credentials(identity.user, password) if password else None
        self._edition = edition
        self._heartbeat = heartbeat
        self._other_port = other_port
        self._call_id = secrets.token_hex(12)
        self._task: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._new_pace = False

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self, *, unregister: bool = True) -> None:
        """End the loop; ``unregister`` sends REGISTER with Expires 0."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if unregister and self.registered.is_set():
            with contextlib.suppress(RemoteError):
                await self._register(0)
        self.registered.clear()

    def again(self) -> None:
        """Register anew at once under a new Call-ID, as after a restart of the device."""
        self._call_id = secrets.token_hex(12)
        self.registered.clear()
        self._wake.set()

    def keep_pace(self) -> None:
        """The heartbeat's interval was changed: one beat now, the next ones in the new interval."""
        self._new_pace = True
        self._wake.set()

    async def _run(self) -> None:
        pause_s, longest_s = self.settings.retry_s
        while True:
            try:
                response = await self._register(self.settings.expires_s)
            except RemoteError as error:
                log.info("event=register_failed device=%s error=%s", self.identity.user, error)
                response = None
            if response is not None and response.status == 200:
                pause_s = self.settings.retry_s[0]
                self.granted_s = granted(response, self.settings.expires_s)
                self.registered.set()
                self._hops = 0
                await self._stay_registered()
                if not self.registered.is_set():
                    self._go_home()
                continue
            if response is not None and self._follow(response):
                continue
            self.failures += 1
            self.registered.clear()
            self._go_home()
            self._call_id = secrets.token_hex(12)
            await asyncio.sleep(pause_s * random.uniform(0.75, 1.25))
            pause_s = min(pause_s * 2, longest_s)

    def _follow(self, response: Response) -> bool:
        """A 302 sends us to another server, a few times at most (9.1.2.3)."""
        try:
            contact = response.contact
        except RemoteError:
            contact = None
        if response.status not in (301, 302) or contact is None or self._hops >= MAX_REDIRECTS:
            return False
        self._hops += 1
        self.redirects += 1
        self._call_id = secrets.token_hex(12)
        self.on_moved(contact.uri)
        return True

    def _go_home(self) -> None:
        """Back to the server we were given: it may know another one."""
        self._hops = 0
        if self.target != self.home:
            self.on_moved(None)

    async def _register(self, expires_s: int) -> Response:
        headers = [("Expires", str(expires_s))]
        if self._edition is Edition.V2022:
            headers.append(("X-GB-Ver", self._edition.value))
        self.registers += 1
        self.last_response = await self.endpoint.request(
            "REGISTER",
            self.target,
            to=self.identity.uri,
            sender=self.identity,
            headers=headers,
            call_id=self._call_id,
            credentials=self._credentials,
            timeout_s=self.settings.answer_timeout_s,
        )
        return self.last_response

    async def _stay_registered(self) -> None:
        """Heartbeats until it is time to refresh, or until the server does not know us any more."""
        refresh_mono = time.monotonic() + self.granted_s * self.settings.refresh_at
        missed = 0
        self._wake.clear()
        self._new_pace = False
        while True:
            until_refresh_s = refresh_mono - time.monotonic()
            if until_refresh_s <= 0 and not self.faults.no_reregister:
                return
            wait_s = self.settings.heartbeat_s
            if not self.faults.no_reregister:
                wait_s = min(wait_s, until_refresh_s)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), wait_s)
                if not self._new_pace:
                    return
                self._new_pace = False
                self._wake.clear()
            due = time.monotonic() >= refresh_mono and not self.faults.no_reregister
            if due or self.faults.no_heartbeat:
                continue
            missed = 0 if await self.beat() else missed + 1
            if not self.registered.is_set() or missed >= self.settings.heartbeat_count:
                self.registered.clear()
                self._call_id = secrets.token_hex(12)
                return

    async def beat(self) -> bool:
        """One heartbeat now; True when it was answered with 200. 403 means: register again."""
        body = self._heartbeat()
        self.heartbeats += 1
        if self.faults.heartbeat_from_other_port and self._other_port is not None:
            await self._other_port(body)
            return True
        try:
            response = await self.endpoint.request(
                "MESSAGE",
                self.target,
                to=self.server_uri,
                sender=self.identity,
                body=body,
                content_type=CONTENT_TYPE,
                timeout_s=self.settings.answer_timeout_s,
            )
        except RemoteError:
            self.missed_heartbeats += 1
            return False
        if response.status in (401, 403) and not self.faults.no_reregister:
            self.registered.clear()
        if response.status != 200:
            self.missed_heartbeats += 1
        return response.status == 200


def granted(response: Response, asked_s: int) -> int:
    """Lifetime of a 200 to REGISTER: the Contact's own ``expires`` first, then the header, else what was asked."""
    for contact in response.headers.get_all("Contact"):
        match = re.search(r";\s*expires\s*=\s*\"?(\d{1,9})", contact, re.IGNORECASE)
        if match is not None:
            return int(match[1])
    return response.expires if response.expires is not None else asked_s
