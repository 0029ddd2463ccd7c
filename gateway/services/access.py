"""Who may do what: roles, log-in, sessions of browsers, tokens of programs. Passwords and tokens are kept as digests only."""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
import re
import secrets
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Protocol

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from gateway.clock import Clock
from gateway.errors import GatewayError, NotFound

FIRST_USER = "admin"
TOKEN_PREFIX = "gbt_"  # noqa: S105
MIN_PASSWORD_LENGTH = 8
MAX_PASSWORD_LENGTH = 256
PARALLEL_HASHES = 2
"""Argon2 takes 64 MiB and a core each: more at once would let a stranger stop the service by logging in."""
LIMITED_SOURCES = 10_000
TOKEN_USE_NOTED_EVERY_S = 60.0

USERNAME = re.compile(r"[0-9A-Za-z_.@-]{1,64}")


class Role(StrEnum):
    """Each role may do everything the one before it may."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    ADMINISTRATOR = "administrator"

    def permits(self, needed: Role) -> bool:
        order = list(Role)
        return order.index(self) >= order.index(needed)


@dataclass(frozen=True, slots=True)
class Principal:
    """Who is asking. ``via`` is session or token; ``key`` is the digest of what was shown, for log-out."""

    name: str
    role: Role
    via: str
    key: str


@dataclass(frozen=True, slots=True)
class User:
    username: str
    role: Role
    enabled: bool
    created_at: datetime
    password_hash: str = ""

    def __repr__(self) -> str:
        return f"User({self.username!r}, {self.role.value})"


@dataclass(frozen=True, slots=True)
class WebSession:
    digest: str
    username: str
    created_at: datetime
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class Token:
    """A program's token without its secret."""

    token_id: str
    name: str
    role: Role
    created_by: str
    created_at: datetime
    expires_at: datetime | None = None
    last_used_at: datetime | None = None
    digest: str = ""


class LoginRefused(GatewayError):
    """User name or password is wrong, or the user is disabled: one answer for all three."""

    cause = "login_refused"
    status = 401


class TooManyAttempts(GatewayError):
    """The source tried too often; it may come back in ``retry_after_s`` seconds."""

    cause = "too_many_attempts"
    status = 429

    def __init__(self, retry_after_s: int) -> None:
        super().__init__(f"too many attempts; try again in {retry_after_s} s")
        self.retry_after_s = retry_after_s


class AccessConflict(GatewayError):
    """The user exists already, or the last administrator would be gone."""

    cause = "conflict"
    status = 409


class WeakPassword(GatewayError):
    cause = "weak_password"
    status = 422


class AccessStore(Protocol):
    """What must be kept over a restart (gateway.storage.users)."""

    async def users(self) -> list[User]: ...
    async def user(self, username: str) -> User | None: ...
    async def add_user(self, user: User) -> bool: ...
    async def update_user(
        self, username: str, *, role: Role | None, enabled: bool | None, password_hash: str | None
    ) -> None: ...
    async def remove_user(self, username: str) -> None: ...
    async def add_session(self, session: WebSession) -> None: ...
    async def session(self, digest: str) -> tuple[WebSession, User] | None: ...
    async def remove_session(self, digest: str) -> None: ...
    async def remove_sessions(self, username: str, keep: str = "") -> None: ...
    async def remove_expired_sessions(self, now: datetime) -> None: ...
    async def tokens(self) -> list[Token]: ...
    async def add_token(self, token: Token) -> None: ...
    async def token(self, digest: str) -> Token | None: ...
    async def remove_token(self, token_id: str) -> bool: ...
    async def note_token_use(self, token_id: str, at: datetime) -> None: ...


def digest_of(secret: str) -> str:
    """SHA-256 in hex. The secrets are 256 random bits, so no slow hash is needed for them."""
    return hashlib.sha256(secret.encode()).hexdigest()


class AttemptLimiter:
    """At most ``limit`` attempts per source in a minute; IPv6 sources count by their /64."""

    def __init__(self, limit: int, *, clock: Clock, window_s: float = 60.0) -> None:
        self._limit = limit
        self._window_s = window_s
        self._clock = clock
        self._attempts: OrderedDict[str, deque[float]] = OrderedDict()

    def attempt(self, source: str) -> None:
        """Count one attempt. Raises TooManyAttempts when the source has used up its share."""
        key = _network_of(source)
        now = self._clock.mono()
        times = self._attempts.setdefault(key, deque(maxlen=self._limit))
        self._attempts.move_to_end(key)
        while len(self._attempts) > LIMITED_SOURCES:
            self._attempts.popitem(last=False)
        while times and now - times[0] >= self._window_s:
            times.popleft()
        if len(times) >= self._limit:
            raise TooManyAttempts(max(1, round(self._window_s - (now - times[0]))))
        times.append(now)

    def forgive(self, source: str) -> None:
        """The source proved itself: its attempts do not count any more."""
        self._attempts.pop(_network_of(source), None)


def _network_of(source: str) -> str:
    try:
        address = ipaddress.ip_address(source)
    except ValueError:
        return source
    if address.version == 4:
        return source
    return str(ipaddress.ip_network((address, 64), strict=False).network_address)


class Access:
    """Log-in and rights. ``on_failure(kind, source)`` is called for each refused log-in and token."""

    def __init__(
        self,
        *,
        store: AccessStore,
        session_lifetime_s: int,
        login_attempts_per_minute: int,
        clock: Clock | None = None,
        hasher: PasswordHasher | None = None,
        on_failure: Callable[[str, str], None] = lambda kind, source: None,
    ) -> None:
        self._store = store
        self._lifetime = timedelta(seconds=session_lifetime_s)
        self._clock = clock or Clock()
        self._hasher = hasher or PasswordHasher()
        self._hashing = asyncio.Semaphore(PARALLEL_HASHES)
        self._limiter = AttemptLimiter(login_attempts_per_minute, clock=self._clock)
        self._on_failure = on_failure
        self._nobody_hash = ""
        self._token_noted: OrderedDict[str, float] = OrderedDict()

    async def ensure_first_user(self) -> str | None:
        """Create the administrator when there is no user at all; returns the random password, told only now."""
        if await self._store.users():
            return None
        password = secrets.token_urlsafe(15)
        await self.add_user(FIRST_USER, password, Role.ADMINISTRATOR)
        return password

    async def login(self, username: str, password: str, source: str) -> tuple[str, Principal, datetime]:
        """Returns the cookie value, who it is and when it ends. Raises LoginRefused or TooManyAttempts."""
        try:
            self._limiter.attempt(source)
        except TooManyAttempts:
            self._on_failure("login_limited", source)
            raise
        user = await self._store.user(username) if USERNAME.fullmatch(username) else None
        # An unknown user costs the same hash as a known one, so the answer's time tells nothing.
        good = await self._verify(user.password_hash if user else await self._nobody(), password)
        if user is None or not good or not user.enabled:
            self._on_failure("login_failed", source)
            raise LoginRefused("user name or password is wrong")
        self._limiter.forgive(source)
        secret = secrets.token_urlsafe(32)
        now = self._clock.utc()
        session = WebSession(digest_of(secret), user.username, now, now + self._lifetime)
        await self._store.remove_expired_sessions(now)
        await self._store.add_session(session)
        return secret, Principal(user.username, user.role, "session", session.digest), session.expires_at

    async def logout(self, principal: Principal) -> None:
        if principal.via == "session":
            await self._store.remove_session(principal.key)

    async def by_session(self, secret: str) -> Principal | None:
        """Who holds this cookie value; None when it is unknown, too old, or the user was disabled."""
        return await self._by_session_digest(digest_of(secret))

    async def by_token(self, secret: str, source: str) -> Principal | None:
        """Who holds this bearer token; None when it is unknown or too old. Failures are limited per source."""
        digest = digest_of(secret)
        token = await self._store.token(digest) if secret.startswith(TOKEN_PREFIX) else None
        now = self._clock.utc()
        if token is None or (token.expires_at is not None and token.expires_at <= now):
            self._on_failure("token_failed", source)
            self._limiter.attempt(source)
            return None
        await self._note_use(token.token_id, now)
        return Principal(f"token:{token.name}", token.role, "token", digest)

    async def still_good(self, principal: Principal) -> bool:
        """Whether a long-lived answer (the event stream) may go on: not logged out, not expired, same role."""
        if principal.via == "session":
            return await self._by_session_digest(principal.key) == principal
        token = await self._store.token(principal.key)
        return token is not None and (token.expires_at is None or token.expires_at > self._clock.utc())

    async def users(self) -> list[User]:
        return await self._store.users()

    async def user(self, username: str) -> User:
        user = await self._store.user(username)
        if user is None:
            raise NotFound(f"user {username} does not exist")
        return user

    async def add_user(self, username: str, password: str, role: Role) -> User:
        """Raises AccessConflict when the name is taken, WeakPassword."""
        if not USERNAME.fullmatch(username):
            raise ValueError("user name: 1 to 64 letters, digits, _ . @ -")
        _check_password(username, password)
        user = User(username, role, True, self._clock.utc(), await self._hash(password))
        if not await self._store.add_user(user):
            raise AccessConflict(f"user {username} exists already")
        return user

    async def change_user(
        self,
        username: str,
        *,
        role: Role | None = None,
        enabled: bool | None = None,
        password: str | None = None,
        keep_session: str = "",
    ) -> User:
        """Change what is not None. A new password or a disabled user ends the sessions (but ``keep_session``)."""
        user = await self.user(username)
        if (role is not None and role is not Role.ADMINISTRATOR) or enabled is False:
            await self._not_the_last(user)
        if password is not None:
            _check_password(username, password)
        hashed = await self._hash(password) if password is not None else None
        await self._store.update_user(username, role=role, enabled=enabled, password_hash=hashed)
        if password is not None or enabled is False:
            await self._store.remove_sessions(username, keep_session)
        return await self.user(username)

    async def change_own_password(self, principal: Principal, current: str, new: str, source: str) -> None:
        """Raises LoginRefused when ``current`` is wrong (counted like a log-in), WeakPassword."""
        self._limiter.attempt(source)
        user = await self.user(principal.name)
        if not await self._verify(user.password_hash, current):
            self._on_failure("login_failed", source)
            raise LoginRefused("the current password is wrong")
        self._limiter.forgive(source)
        await self.change_user(user.username, password=new, keep_session=principal.key)

    async def remove_user(self, username: str) -> None:
        await self._not_the_last(await self.user(username))
        await self._store.remove_user(username)

    async def tokens(self) -> list[Token]:
        return await self._store.tokens()

    async def add_token(
        self, name: str, role: Role, created_by: str, lifetime_s: int | None
    ) -> tuple[str, Token]:
        """Returns the secret, shown only now, and the record."""
        secret = TOKEN_PREFIX + secrets.token_urlsafe(32)
        now = self._clock.utc()
        token = Token(
            token_id=secrets.token_hex(8),
            name=name,
            role=role,
            created_by=created_by,
            created_at=now,
            expires_at=now + timedelta(seconds=lifetime_s) if lifetime_s is not None else None,
            digest=digest_of(secret),
        )
        await self._store.add_token(token)
        return secret, token

    async def remove_token(self, token_id: str) -> None:
        if not await self._store.remove_token(token_id):
            raise NotFound(f"token {token_id} does not exist")

    async def _by_session_digest(self, digest: str) -> Principal | None:
        found = await self._store.session(digest)
        if found is None:
            return None
        session, user = found
        if session.expires_at <= self._clock.utc() or not user.enabled:
            return None
        return Principal(user.username, user.role, "session", digest)

    async def _note_use(self, token_id: str, now: datetime) -> None:
        mono = self._clock.mono()
        if mono - self._token_noted.get(token_id, -TOKEN_USE_NOTED_EVERY_S) < TOKEN_USE_NOTED_EVERY_S:
            return
        self._token_noted[token_id] = mono
        while len(self._token_noted) > 1000:
            self._token_noted.popitem(last=False)
        await self._store.note_token_use(token_id, now)

    async def _not_the_last(self, user: User) -> None:
        if user.role is not Role.ADMINISTRATOR or not user.enabled:
            return
        others = [
            u
            for u in await self._store.users()
            if u.role is Role.ADMINISTRATOR and u.enabled and u.username != user.username
        ]
        if not others:
            raise AccessConflict("the last administrator must stay")

    async def _hash(self, password: str) -> str:
        async with self._hashing:
            return await asyncio.to_thread(self._hasher.hash, password)

    async def _nobody(self) -> str:
        if not self._nobody_hash:
            self._nobody_hash = await self._hash(secrets.token_urlsafe(16))
        return self._nobody_hash

    async def _verify(self, hashed: str, password: str) -> bool:
        async with self._hashing:
            try:
                return await asyncio.to_thread(self._hasher.verify, hashed, password[:MAX_PASSWORD_LENGTH])
            except (VerificationError, InvalidHashError):
                return False


def _check_password(username: str, password: str) -> None:
    if not MIN_PASSWORD_LENGTH <= len(password) <= MAX_PASSWORD_LENGTH:
        raise WeakPassword(f"a password has {MIN_PASSWORD_LENGTH} to {MAX_PASSWORD_LENGTH} characters")
    if password.lower() == username.lower() or len(set(password)) < 4:
        raise WeakPassword("this password is too easy to guess")
