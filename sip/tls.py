"""TLS for SIP (GB/T 28181 8.2, RFC 3261 26): the contexts for peers that call and peers we call, and why a handshake failed."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class TlsFault:
    """``label`` is one of a few words for metrics; ``text`` is for the log."""

    label: str
    text: str


@dataclass(slots=True)
class Tls:
    """What an endpoint needs for TLS. Contexts may be replaced while it runs: new handshakes take the new ones.

    ``port`` None: we only call others. ``server`` None: nobody can call us. ``client`` None: we call nobody.
    """

    port: int | None = None
    server: ssl.SSLContext | None = None
    client: ssl.SSLContext | None = None


def server_context(
    certificate: Path, key: Path | None, *, client_ca: Path | None = None, require_client: bool = False
) -> ssl.SSLContext:
    """For peers that call us. ``client_ca``: who may have signed their certificates. Raises OSError (SSLError too)."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(certificate, key)
    if client_ca is not None:
        context.load_verify_locations(client_ca)
        context.verify_mode = ssl.CERT_REQUIRED if require_client else ssl.CERT_OPTIONAL
    return context


def client_context(
    *, ca: Path | None = None, certificate: Path | None = None, key: Path | None = None
) -> ssl.SSLContext:
    """For peers we call: their certificate is verified against ``ca`` (None: the system's) and their name.

    ``certificate``: our own, for those that ask for one. Raises OSError (SSLError too).
    """
    context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=ca)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if certificate is not None:
        context.load_cert_chain(certificate, key)
    return context


def tls_fault(error: Exception) -> TlsFault:
    """A failed handshake in words: certificate, protocol, timeout or closed."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return TlsFault("certificate", f"certificate refused: {error.verify_message or error.reason}")
    if isinstance(error, ssl.SSLError):
        reason = (error.reason or str(error)).replace("_", " ").lower()
        label = "certificate" if "certificate" in reason or "unknown ca" in reason else "protocol"
        return TlsFault(label, reason)
    if isinstance(error, TimeoutError):
        return TlsFault("timeout", "no handshake in time")
    return TlsFault("closed", str(error) or "the peer hung up")
