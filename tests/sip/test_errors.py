"""Errors know their SIP status, reason and metric label."""

from __future__ import annotations

import pytest

from sip.errors import (
    AckMissing,
    LocalError,
    ParseError,
    Rejected,
    RemoteError,
    SipError,
    TransactionTimeout,
    TransportFailed,
    reason_phrase,
)
from sip.message import Response


@pytest.mark.parametrize(
    ("error", "status", "reason", "label"),
    [
        (RemoteError(), 400, "Bad Request", "remote"),
        (RemoteError("x", status=404, label="no_channel"), 404, "Not Found", "no_channel"),
        (RemoteError("x", status=486, reason="Too many viewers"), 486, "Too many viewers", "remote"),
        (ParseError("x"), 400, "Bad Request", "malformed"),
        (TransactionTimeout("x"), 408, "Request Timeout", "timeout"),
        (TransportFailed("x"), 503, "Service Unavailable", "transport"),
        (AckMissing("x"), 408, "Request Timeout", "ack_missing"),
        (Rejected(Response(488, "No such codec")), 488, "No such codec", "rejected"),
    ],
)
def test_verdicts(error: RemoteError, status: int, reason: str, label: str) -> None:
    assert (error.status, error.reason, error.label) == (status, reason, label)
    assert isinstance(error, SipError)
    assert str(error)


def test_the_two_families_do_not_mix() -> None:
    assert not issubclass(LocalError, RemoteError)
    assert TransactionTimeout(provisional=True).provisional
    assert Rejected(Response(403)).response.status == 403


@pytest.mark.parametrize(
    ("status", "phrase"), [(489, "Bad Event"), (299, "OK"), (499, "Bad Request"), (799, "Unknown")]
)
def test_reason_phrases(status: int, phrase: str) -> None:
    assert reason_phrase(status) == phrase
