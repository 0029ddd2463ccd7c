"""Certificates for SIP over TLS: read at start, looked at again now and then, renewed without a restart (G279)."""

from __future__ import annotations

import asyncio
import logging
from datetime import datetime
from pathlib import Path

from cryptography import x509

from config.settings import TlsSettings
from sip.tls import Tls, client_context, server_context

logger = logging.getLogger(__name__)

Stamp = tuple[tuple[str, float, int], ...]


class TlsFilesFault(OSError):
    """A file that cannot be used; the message names the setting and is for the operator."""


class TlsFiles:
    """Keeps ``tls`` filled. A renewed file that cannot be used leaves the old contexts in place and is logged."""

    def __init__(self, settings: TlsSettings) -> None:
        self._settings = settings
        self.tls = Tls(port=settings.port if settings.enabled else None)
        self.expires_at: datetime | None = None
        """When our certificate ends; None without one."""
        self.reloads = 0
        self.failing = False
        self._stamp: Stamp = ()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Read the files and watch them. Raises TlsFilesFault."""
        await asyncio.to_thread(self.load)
        if self._paths():
            self._task = asyncio.create_task(self._watch(), name="tls files")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    def load(self) -> None:
        """Read all files; the contexts change only when all of them are good. Raises TlsFilesFault. Blocks."""
        settings = self._settings
        stamp = self._look()
        server = None
        if settings.enabled and settings.certificate is not None:
            try:
                server = server_context(
                    settings.certificate,
                    settings.key,
                    client_ca=settings.client_ca,
                    require_client=settings.require_client_certificate,
                )
            except (OSError, ValueError) as error:
                raise TlsFilesFault(
                    f"sip.tls: certificate, key or client_ca cannot be used: {error}"
                ) from error
        try:
            client = client_context(ca=settings.upper_ca, certificate=settings.certificate, key=settings.key)
        except (OSError, ValueError) as error:
            raise TlsFilesFault(f"sip.tls: upper_ca or certificate cannot be used: {error}") from error
        self.expires_at = _end_of(settings.certificate)
        self.tls.server, self.tls.client, self._stamp = server, client, stamp

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self._settings.reload_interval_s)
            if await asyncio.to_thread(self._look) != self._stamp:
                await self._reload()

    async def _reload(self) -> None:
        try:
            await asyncio.to_thread(self.load)
        except TlsFilesFault as error:
            if not self.failing:  # once, not at each look
                logger.error("renewed certificate not usable, the old one stays: %s", error)
            self.failing = True
            return
        self.failing = False
        self.reloads += 1
        logger.info("certificates renewed expires_at=%s", self.expires_at)

    def _paths(self) -> list[Path]:
        settings = self._settings
        found = (settings.certificate, settings.key, settings.client_ca, settings.upper_ca)
        return [path for path in found if path is not None]

    def _look(self) -> Stamp:
        stamps: list[tuple[str, float, int]] = []
        for path in self._paths():
            try:
                status = path.stat()
            except OSError:
                stamps.append((str(path), 0.0, -1))
                continue
            stamps.append((str(path), status.st_mtime, status.st_size))
        return tuple(stamps)


def _end_of(certificate: Path | None) -> datetime | None:
    if certificate is None:
        return None
    try:
        return x509.load_pem_x509_certificate(certificate.read_bytes()).not_valid_after_utc
    except (OSError, ValueError):
        return None
