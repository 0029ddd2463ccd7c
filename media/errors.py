"""What goes wrong between the gateway and a media node, as one exception with a short code."""

from __future__ import annotations

from typing import Literal

Code = Literal[
    "not_found",
    "no_port",
    "not_ready",
    "unsupported",
    "unavailable",
    "bad_request",
    "forbidden",
    "transcoders_busy",
]

_STATUS: dict[str, int] = {
    "bad_request": 400,
    "forbidden": 403,
    "not_found": 404,
    "unsupported": 415,
    "no_port": 503,
    "not_ready": 503,
    "unavailable": 503,
    "transcoders_busy": 503,
}


class MediaError(Exception):
    """A request to a node that could not be met.

    ``code`` is for programs, ``status`` the HTTP status that goes with it, ``detail`` one sentence for people.
    """

    def __init__(self, code: str, detail: str = "", status: int | None = None) -> None:
        super().__init__(detail or code)
        self.code = code
        self.detail = detail
        self.status = status if status is not None else _STATUS.get(code, 500)
