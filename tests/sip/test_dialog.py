"""Dialogs: tags, snapshots that survive a restart, and requests built from them."""

from __future__ import annotations

import json

import pytest
from sip_wire import FLOW, TCP_FLOW, answer, wire

from sip.dialog import Dialog, contact_uri, split_tag, tag_of
from sip.flow import Target
from sip.message import Request, Response, parse


def invite() -> Request:
    message = parse(wire("INVITE", extra=(("Contact", "<sip:c@192.168.1.2>"), ("Event", "Catalog;id=3"))))
    assert isinstance(message, Request)
    return message


@pytest.mark.parametrize(
    ("value", "rest", "tag"),
    [
        ("<sip:a@b>;tag=1", "<sip:a@b>", "1"),
        ("<sip:a@b>", "<sip:a@b>", ""),
        ("<sip:a@b;tag=no>", "<sip:a@b;tag=no>", ""),
        ('"x;tag=2" <sip:a@b>;x=y;TAG=3;z', '"x;tag=2" <sip:a@b>;x=y;z', "3"),
        ("sip:a@b;tag=4", "sip:a@b", "4"),
        ("<sip:a@b> ; tag = 5", "<sip:a@b>", "5"),
    ],
)
def test_tags(value: str, rest: str, tag: str) -> None:
    assert split_tag(value) == (rest, tag)
    assert tag_of(value) == tag


def test_a_snapshot_survives_json() -> None:
    dialog = Dialog.of_request_received("notifier", invite(), FLOW, "local")
    dialog.local_cseq = 7
    again = Dialog.from_snapshot(json.loads(json.dumps(dialog.snapshot())))
    assert again.key == dialog.key
    assert (again.kind, again.event, again.local_cseq, again.remote_cseq) == (
        "notifier",
        "Catalog;id=3",
        7,
        1,
    )
    assert again.destination == FLOW
    assert again.next_request("BYE", []).to_bytes() == dialog.next_request("BYE", []).to_bytes()


def test_of_a_tcp_flow_only_the_address_survives() -> None:
    dialog = Dialog.of_request_received("invite", invite(), TCP_FLOW, "local")
    again = Dialog.from_snapshot(dialog.snapshot())
    assert again.destination == Target("sip:c@192.168.1.2", TCP_FLOW.host, TCP_FLOW.port, "tcp")


@pytest.mark.parametrize("broken", [{}, {"kind": "other"}, {"kind": "invite", "call_id": "x"}])
def test_what_is_no_snapshot(broken: dict[str, object]) -> None:
    with pytest.raises((KeyError, ValueError)):
        Dialog.from_snapshot(broken)


def test_the_first_tag_stays_when_the_200_has_none() -> None:
    request = invite()
    dialog = Dialog.of_request_sent("subscriber", request, FLOW)
    dialog.remote_tag = "from-notify"
    response = parse(answer(request, 200, to_tag=""))
    assert isinstance(response, Response)
    dialog.confirm(response, FLOW)
    assert dialog.remote_tag == "from-notify"


@pytest.mark.parametrize(
    ("contact", "uri"),
    [
        ("<sip:a@b:5060;transport=tcp>;expires=5", "sip:a@b:5060;transport=tcp"),
        ("sip:a@b", "sip:a@b"),
        ("*", ""),
        ("", ""),
        ("<sip:a@b", ""),
        ("<sip:a b@c>", ""),
    ],
)
def test_contact_uri(contact: str, uri: str) -> None:
    assert contact_uri(Request("INVITE", "sip:x@y", [("Contact", contact)])) == uri
