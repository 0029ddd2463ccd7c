"""The light check of an input that nobody watches: RTSP DESCRIBE with digest or basic, or a look at the file.

No media flow and no session is opened, so a thousand cameras cost some requests a minute.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import ssl
from dataclasses import dataclass
from urllib.parse import urlsplit

from gateway.services.inputs_record import FILE, Input
from media.sources.confined import Outside, confined, open_file
from sip.digest import Credentials, answer_challenges

MAX_ANSWER = 64 * 1024
_PORTS = {"rtsp": 554, "rtsps": 322}


@dataclass(frozen=True, slots=True)
class Verdict:
    """``cause``: "" when all is well, else refused | not_found | dial_failed | no_answer | bad_answer."""

    ok: bool
    cause: str = ""
    detail: str = ""


async def check(record: Input, *, directory: str, timeout_s: float) -> Verdict:
    """One check. Never raises for what the camera does; ``detail`` holds no address and no credentials."""
    if record.kind == FILE:
        return await asyncio.to_thread(_check_file, directory, record.url)
    try:
        async with asyncio.timeout(timeout_s):
            return await _describe(record)
    except TimeoutError:
        return Verdict(False, "no_answer", f"no answer within {timeout_s:g} s")
    except (ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        return Verdict(False, "bad_answer", "the answer is no RTSP, or it broke off")
    except ssl.SSLError:
        return Verdict(False, "dial_failed", "no TLS connection")
    except OSError as error:
        return Verdict(False, "dial_failed", error.strerror or type(error).__name__)


def _check_file(directory: str, path: str) -> Verdict:
    try:
        open_file(confined(directory, path)).close()
    except Outside as outside:
        return Verdict(False, "not_found", str(outside))
    return Verdict(True)


async def _describe(record: Input) -> Verdict:
    parts = urlsplit(record.url)
    host, port = parts.hostname or "", parts.port or _PORTS[parts.scheme]
    tls = _any_certificate() if parts.scheme == "rtsps" else None
    reader, writer = await asyncio.open_connection(host, port, ssl=tls, limit=MAX_ANSWER)
    try:
        status, challenges = await _ask(reader, writer, record.url, 1, "")
        if status == 401 and record.username:
            authorization = _authorization(challenges, record)
            if authorization:
                status, _ = await _ask(reader, writer, record.url, 2, authorization)
    finally:
        writer.close()
        with contextlib.suppress(OSError, TimeoutError):
            await writer.wait_closed()
    return _verdict(status)


def _verdict(status: int) -> Verdict:
    if 200 <= status < 400:
        return Verdict(True)
    if status in (401, 403, 407):
        return Verdict(False, "refused", f"the camera refuses the user name or password ({status})")
    if status in (404, 410, 454, 455, 459, 460):
        return Verdict(False, "not_found", f"the camera knows no such path ({status})")
    return Verdict(False, "bad_answer", f"the camera answered {status}")


async def _ask(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, url: str, number: int, authorization: str
) -> tuple[int, list[str]]:
    """DESCRIBE; (status, challenges). Raises ValueError for an answer that is none."""
    lines = [
        f"DESCRIBE {url} RTSP/1.0",
        f"CSeq: {number}",
        "User-Agent: gb28181-gateway",
        "Accept: application/sdp",
    ]
    if authorization:
        lines.append(f"Authorization: {authorization}")
    writer.write(("\r\n".join(lines) + "\r\n\r\n").encode())
    await writer.drain()
    head = (await reader.readuntil(b"\r\n\r\n")).decode("utf-8", "replace").split("\r\n")
    version, _, rest = head[0].partition(" ")
    if not version.startswith("RTSP/") or not rest[:3].isdecimal():
        raise ValueError("no RTSP status line")
    fields = [
        (name.strip().lower(), value.strip()) for name, _, value in (line.partition(":") for line in head[1:])
    ]
    length = next((int(value) for name, value in fields if name == "content-length"), 0)
    if not 0 <= length <= MAX_ANSWER:
        raise ValueError("a body of unlikely length")
    await reader.readexactly(length)
    return int(rest[:3]), [value for name, value in fields if name == "www-authenticate"]


def _authorization(challenges: list[str], record: Input) -> str | None:
    credentials = Credentials(record.username, record.password)
    answer = answer_challenges(challenges, credentials, method="DESCRIBE", uri=record.url)
    if answer is not None:
        return answer
    if any(value.lower().startswith("basic") for value in challenges):
        return "Basic " + base64.b64encode(f"{record.username}:{record.password}".encode()).decode()
    return None


def _any_certificate() -> ssl.SSLContext:
    """Cameras sign for themselves."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
