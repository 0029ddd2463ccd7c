"""What the API answers when something goes wrong: RFC 9457 problem documents, and the middleware that makes them."""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gateway.errors import GatewayError
from gateway.services.errors import ControlFailed, PlayFailed
from media.errors import MediaError

log = logging.getLogger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
PROBLEM_TYPE = "application/problem+json"
STREAMING = web.RequestKey("streaming", bool)
"""Key of a request whose answer has begun, so that no problem document can follow."""


class FieldError(BaseModel):
    """One refused input field."""

    field: str = Field(
        description="Where the fault is, e.g. `profile.charset`; `query.limit` for the query string."
    )
    detail: str


class ProblemDocument(BaseModel):
    """Body of every error answer (RFC 9457 section 3)."""

    model_config = ConfigDict(title="Problem")

    type: str = Field(
        default="about:blank", description="`about:blank`, or `urn:gateway:problem:` and the cause."
    )
    title: str
    status: int
    detail: str = ""
    field: str | None = Field(default=None, description="The first input field that was refused.")
    cause: str | None = Field(default=None, description="Stable word for programs, e.g. `device_offline`.")
    device_response: str | None = Field(
        default=None,
        description="What the device said last: its SIP answer, and the last Result it gave to anything.",
    )
    errors: list[FieldError] | None = Field(
        default=None, description="All refused fields, when there are several."
    )


class Problem(Exception):
    """An error with a verdict: raised anywhere below a handler, answered as a problem document.

    ``cause`` is a stable word for programs, ``detail`` a sentence for people. Never put a secret into either.
    """

    def __init__(
        self,
        status: int,
        detail: str = "",
        *,
        cause: str | None = None,
        field: str | None = None,
        errors: list[FieldError] | None = None,
        headers: dict[str, str] | None = None,
        device_response: str = "",
    ) -> None:
        super().__init__(detail or cause or str(status))
        self.status = status
        self.detail = detail
        self.cause = cause
        self.field = field
        self.errors = errors
        self.headers = headers or {}
        self.device_response = device_response

    def document(self) -> ProblemDocument:
        return ProblemDocument(
            type=f"urn:gateway:problem:{self.cause}" if self.cause else "about:blank",
            title=HTTPStatus(self.status).phrase,
            status=self.status,
            detail=self.detail,
            field=self.field,
            cause=self.cause,
            device_response=self.device_response or None,
            errors=self.errors,
        )

    def response(self) -> web.Response:
        return web.Response(
            status=self.status,
            body=self.document().model_dump_json(exclude_none=True).encode(),
            content_type=PROBLEM_TYPE,
            headers=self.headers,
        )


def not_found(what: str, cause: str = "not_found") -> Problem:
    return Problem(404, f"{what} does not exist", cause=cause)


def invalid(error: ValidationError, prefix: str = "") -> Problem:
    """A pydantic verdict as a 422 that names the fields; the refused values are not repeated (they may be secrets)."""
    errors = []
    for fault in error.errors(include_url=False, include_context=False, include_input=False):
        # pydantic names the union member it tried (e.g. "function-after[...]"): that is no field of ours
        path = [str(part) for part in fault["loc"] if not str(part).startswith(("function-", "constrained-"))]
        errors.append(
            FieldError(field=".".join([prefix, *path] if prefix else path) or "body", detail=fault["msg"])
        )
    first = errors[0]
    return Problem(
        422,
        f"{first.field}: {first.detail}",
        cause="invalid_input",
        field=first.field,
        errors=errors if len(errors) > 1 else None,
    )


def failed(error: PlayFailed | ControlFailed) -> Problem:
    """A failed picture or command: the cause picks the status, the device's own refusal is told in the text."""
    detail = error.detail
    if error.device_status:
        detail = f"{detail} (the device answered {error.device_status})"
    headers = {"Retry-After": "2"} if error.status == 503 else None
    return Problem(
        error.status,
        detail,
        cause=error.cause.value,
        headers=headers,
        device_response=error.device_response,
    )


def media_failed(error: MediaError) -> Problem:
    """A media node said no. ``unsupported`` is 406: the same picture can be had in another form."""
    status = {"unsupported": 406, "not_ready": 504, "bad_request": 422}.get(error.code, error.status)
    return Problem(status if 400 <= status < 600 else 503, error.detail, cause=error.code)


def parse_json(data: bytes) -> Any:
    """JSON with one verdict for every kind of damage; numbers outside JSON (NaN) are refused."""

    def refuse(word: str) -> None:
        raise ValueError(f"{word} is no JSON number")

    try:
        return json.loads(data, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise Problem(400, "the body is not JSON", cause="not_json", field="body") from error


@web.middleware
async def problem_middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn every exception into a problem document. An unknown one is logged and told as 500 without its text."""
    try:
        return await handler(request)
    except Problem as problem:
        return problem.response()
    except (PlayFailed, ControlFailed) as error:
        return failed(error).response()
    except GatewayError as error:
        wait = getattr(error, "retry_after_s", None)
        headers = {"Retry-After": str(wait)} if wait is not None else None
        return Problem(
            error.status,
            str(error),
            cause=error.cause,
            headers=headers,
            device_response=error.device_response,
        ).response()
    except MediaError as error:
        return media_failed(error).response()
    except web.HTTPException as error:
        if error.status < 400:
            raise
        headers = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else None
        return Problem(error.status, error.reason, headers=headers).response()
    except Exception:
        log.exception("request failed method=%s path=%s", request.method, request.path)
        if request.get(STREAMING):
            raise  # headers are out already: only the connection's end can tell the client
        return Problem(
            500, "the gateway failed to answer; its log has the reason", cause="internal"
        ).response()
