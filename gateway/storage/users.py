"""Users, browser sessions, API tokens and the audit log in the database."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Protocol

from sqlalchemy import delete, insert, select, update
from sqlalchemy.engine import RowMapping
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.services.access import Role, Token, User, WebSession
from gateway.services.audit import AuditEntry, AuditNotWritten
from gateway.storage.schema import api_tokens, audit, users, web_sessions


def _aware(value: datetime) -> datetime:
    """SQLite gives times back without a zone; everything stored is UTC."""
    return value if value.tzinfo is not None else value.replace(tzinfo=UTC)


def _aware_or_none(value: datetime | None) -> datetime | None:
    return None if value is None else _aware(value)


class Engines(Protocol):
    """gateway.storage.database.Database, or what stands for it."""

    @property
    def engine(self) -> AsyncEngine: ...


class UserStore:
    """Implements gateway.services.access.AccessStore and gateway.services.audit.AuditStore."""

    def __init__(self, database: Engines) -> None:
        self._database = database

    @property
    def _engine(self) -> AsyncEngine:
        return self._database.engine

    async def users(self) -> list[User]:
        async with self._engine.connect() as connection:
            rows = await connection.execute(select(users).order_by(users.c.username))
            return [_user(row) for row in rows.mappings()]

    async def user(self, username: str) -> User | None:
        async with self._engine.connect() as connection:
            rows = await connection.execute(select(users).where(users.c.username == username))
            row = rows.mappings().first()
            return _user(row) if row is not None else None

    async def add_user(self, user: User) -> bool:
        """False when the name is taken."""
        row = {
            "username": user.username,
            "password_hash": user.password_hash,
            "role": user.role.value,
            "enabled": user.enabled,
            "created_at": user.created_at,
        }
        try:
            async with self._engine.begin() as connection:
                await connection.execute(insert(users).values(row))
        except IntegrityError:
            return False
        return True

    async def update_user(
        self, username: str, *, role: Role | None, enabled: bool | None, password_hash: str | None
    ) -> None:
        """Write what is not None."""
        values: dict[str, Any] = {}
        if role is not None:
            values["role"] = role.value
        if enabled is not None:
            values["enabled"] = enabled
        if password_hash is not None:
            values["password_hash"] = password_hash
        if values:
            async with self._engine.begin() as connection:
                await connection.execute(update(users).where(users.c.username == username).values(values))

    async def remove_user(self, username: str) -> None:
        async with self._engine.begin() as connection:
            await connection.execute(delete(web_sessions).where(web_sessions.c.username == username))
            await connection.execute(delete(users).where(users.c.username == username))

    async def add_session(self, session: WebSession) -> None:
        row = {
            "digest": session.digest,
            "username": session.username,
            "created_at": session.created_at,
            "expires_at": session.expires_at,
        }
        async with self._engine.begin() as connection:
            await connection.execute(insert(web_sessions).values(row))

    async def session(self, digest: str) -> tuple[WebSession, User] | None:
        async with self._engine.connect() as connection:
            rows = await connection.execute(select(web_sessions).where(web_sessions.c.digest == digest))
            row = rows.mappings().first()
            if row is None:
                return None
            found = await connection.execute(select(users).where(users.c.username == row["username"]))
            owner = found.mappings().first()
        if owner is None:
            return None
        session = WebSession(
            row["digest"], row["username"], _aware(row["created_at"]), _aware(row["expires_at"])
        )
        return session, _user(owner)

    async def remove_session(self, digest: str) -> None:
        async with self._engine.begin() as connection:
            await connection.execute(delete(web_sessions).where(web_sessions.c.digest == digest))

    async def remove_sessions(self, username: str, keep: str = "") -> None:
        """End all sessions of a user but the one whose digest is ``keep``."""
        async with self._engine.begin() as connection:
            await connection.execute(
                delete(web_sessions).where(web_sessions.c.username == username, web_sessions.c.digest != keep)
            )

    async def remove_expired_sessions(self, now: datetime) -> None:
        async with self._engine.begin() as connection:
            await connection.execute(delete(web_sessions).where(web_sessions.c.expires_at <= now))

    async def tokens(self) -> list[Token]:
        async with self._engine.connect() as connection:
            rows = await connection.execute(select(api_tokens).order_by(api_tokens.c.created_at))
            return [_token(row) for row in rows.mappings()]

    async def add_token(self, token: Token) -> None:
        row = {
            "token_id": token.token_id,
            "digest": token.digest,
            "name": token.name,
            "role": token.role.value,
            "created_by": token.created_by,
            "created_at": token.created_at,
            "expires_at": token.expires_at,
        }
        async with self._engine.begin() as connection:
            await connection.execute(insert(api_tokens).values(row))

    async def token(self, digest: str) -> Token | None:
        async with self._engine.connect() as connection:
            rows = await connection.execute(select(api_tokens).where(api_tokens.c.digest == digest))
            row = rows.mappings().first()
            return _token(row) if row is not None else None

    async def remove_token(self, token_id: str) -> bool:
        async with self._engine.begin() as connection:
            result = await connection.execute(delete(api_tokens).where(api_tokens.c.token_id == token_id))
            return bool(result.rowcount)

    async def note_token_use(self, token_id: str, at: datetime) -> None:
        async with self._engine.begin() as connection:
            await connection.execute(
                update(api_tokens).where(api_tokens.c.token_id == token_id).values(last_used_at=at)
            )

    async def add_audit(self, entry: AuditEntry) -> None:
        row = {
            "at": entry.at,
            "who": entry.who[:128],
            "action": entry.action[:64],
            "target": entry.target[:128],
            "result": entry.result[:64],
            "detail": entry.detail,
        }
        try:
            async with self._engine.begin() as connection:
                await connection.execute(insert(audit).values(row))
        except SQLAlchemyError as error:
            raise AuditNotWritten(type(error).__name__) from error

    async def audit_entries(self, *, before: int | None, limit: int) -> list[AuditEntry]:
        """Newest first; ``before`` is the number of the last entry of the page before."""
        query = select(audit).order_by(audit.c.audit_id.desc()).limit(limit)
        if before is not None:
            query = query.where(audit.c.audit_id < before)
        async with self._engine.connect() as connection:
            rows = await connection.execute(query)
            return [
                AuditEntry(
                    audit_id=row["audit_id"],
                    at=_aware(row["at"]),
                    who=row["who"],
                    action=row["action"],
                    target=row["target"],
                    result=row["result"],
                    detail=row["detail"],
                )
                for row in rows.mappings()
            ]


def _user(row: RowMapping) -> User:
    return User(
        username=row["username"],
        role=Role(row["role"]),
        enabled=row["enabled"],
        created_at=_aware(row["created_at"]),
        password_hash=row["password_hash"],
    )


def _token(row: RowMapping) -> Token:
    return Token(
        token_id=row["token_id"],
        name=row["name"],
        role=Role(row["role"]),
        created_by=row["created_by"],
        created_at=_aware(row["created_at"]),
        expires_at=_aware_or_none(row["expires_at"]),
        last_used_at=_aware_or_none(row["last_used_at"]),
        digest=row["digest"],
    )
