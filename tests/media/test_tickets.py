"""Tickets: good for one stream until they expire, and for nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from media import tickets

SECRET = "a secret of the tests"
NOW = 1_780_000_000.0


def test_a_fresh_ticket_is_good_until_it_expires() -> None:
    ticket = tickets.sign(SECRET, "gate", NOW + 60)
    assert tickets.verify(SECRET, "gate", ticket, NOW)
    assert tickets.verify(SECRET, "gate", ticket, NOW + 59.9)
    assert not tickets.verify(SECRET, "gate", ticket, NOW + 60)


def test_another_stream_or_secret_makes_it_worthless() -> None:
    ticket = tickets.sign(SECRET, "gate", NOW + 60)
    assert not tickets.verify(SECRET, "yard", ticket, NOW)
    assert not tickets.verify("other", "gate", ticket, NOW)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda ticket: "",
        lambda ticket: ticket.partition(".")[0],
        lambda ticket: "9" + ticket,
        lambda ticket: "0" + ticket,
        lambda ticket: "+" + ticket,
        lambda ticket: ticket + "A",
        lambda ticket: ticket[:-1],
        lambda ticket: ticket.replace(".", "..", 1),
        lambda ticket: "٣" + ticket,
        lambda ticket: ticket + "\n",
        lambda ticket: "1" * 5000 + "." + ticket,
    ],
)
def test_a_changed_ticket_is_refused(spoil) -> None:  # type: ignore[no-untyped-def]
    assert not tickets.verify(SECRET, "gate", spoil(tickets.sign(SECRET, "gate", NOW + 60)), NOW)


@given(st.text(max_size=120))
def test_any_text_is_just_no_ticket(text: str) -> None:
    assert not tickets.verify(SECRET, "gate", text, NOW)


def test_it_fits_into_an_address_as_it_is() -> None:
    ticket = tickets.sign(SECRET, "gate", NOW)
    assert all(character.isalnum() or character in "._-" for character in ticket)
