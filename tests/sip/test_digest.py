"""Digest: known vectors, nonces without state, stale, replay, odd user names, choosing among challenges."""

from __future__ import annotations

import pytest

from sip.digest import (
    Credentials,
    DigestParams,
    DigestServer,
    Secret,
    Verdict,
    answer_challenges,
    digest_response,
    ha1,
)
from sip.errors import ParseError

USER, REALM, PASSWORD = "41018300001180000001", "4101830000", "Xm-Demo-0001"
URI, NONCE = "sip:41018300002000000001@4101830000", "6fe9ba44a76be22a"
HOST, NOW = "192.0.2.10", 1000.0
SECRET = Secret(password=PASSWORD)


def authorization(
    nonce: str, *, user: str = USER, password: str = PASSWORD, algorithm: str = "", qop: str = "", **more: str
) -> str:
    """An Authorization value as a device computes it."""
    nc, cnonce = more.pop("nc", "00000001"), more.pop("cnonce", "0a4f113b")
    realm, uri = more.pop("realm", REALM), more.pop("uri", URI)
    response = digest_response(
        ha1(user, realm, password, algorithm or "MD5"),
        method=more.pop("method", "REGISTER"),
        uri=uri,
        nonce=nonce,
        algorithm=algorithm or "MD5",
        qop=qop,
        nc=nc if qop else "",
        cnonce=cnonce if qop else "",
    )
    text = f'Digest username="{user}", realm="{realm}", nonce="{nonce}", uri="{uri}", response="{response}"'
    if algorithm:
        text += f", algorithm={algorithm}"
    if qop:
        text += f', qop={qop}, nc={nc}, cnonce="{cnonce}"'
    return text


def nonce_of(challenge: str) -> str:
    return DigestParams.parse(challenge).get("nonce")


def verify(
    server: DigestServer, value: str, *, host: str = HOST, now: float = NOW, secret: Secret = SECRET
) -> Verdict:
    return server.verify(value, "REGISTER", REALM, host, now, secret)


@pytest.mark.parametrize(
    ("algorithm", "qop", "expected"),
    [
        ("MD5", "", "60b33b63fdf2bf561186eb46c71d295e"),
        ("MD5", "auth", "5b0eee6da49c6c8aa5ac3ebe66b56167"),
        ("SHA-256", "", "3bbe556fd15d0d3c295452d58faa5a8dd4f50babc92c6e0312b6df1b521028f7"),
    ],
)
@pytest.mark.gb("G033")
def test_known_vectors(algorithm: str, qop: str, expected: str) -> None:
    assert (
        digest_response(
            ha1(USER, REALM, PASSWORD, algorithm),
            method="REGISTER",
            uri=URI,
            nonce=NONCE,
            algorithm=algorithm,
            qop=qop,
            nc="00000001" if qop else "",
            cnonce="0a4f113b" if qop else "",
        )
        == expected
    )


@pytest.mark.gb("G031")
def test_a_challenge_has_realm_and_nonce_and_no_qop() -> None:
    (value,) = DigestServer().challenge(REALM, HOST, NOW)
    challenge = DigestParams.parse(value)
    assert challenge.scheme == "digest"
    assert challenge.get("realm") == REALM
    assert len(challenge.get("nonce")) == 36
    assert challenge.algorithm == "MD5"
    assert "qop" not in challenge.params
    assert "stale" not in challenge.params


def test_two_algorithms_make_two_challenges_in_the_order_asked() -> None:
    values = DigestServer().challenge(REALM, HOST, NOW, algorithms=("SHA-256", "MD5"), stale=True, qop="auth")
    assert [DigestParams.parse(value).algorithm for value in values] == ["SHA-256", "MD5"]
    assert all("stale=true" in value and 'qop="auth"' in value for value in values)


@pytest.mark.parametrize(
    ("algorithm", "qop"), [("", ""), ("MD5", ""), ("MD5", "auth"), ("SHA-256", "auth"), ("SHA-256", "")]
)
@pytest.mark.gb("G033")
def test_the_right_password_passes(algorithm: str, qop: str) -> None:
    server = DigestServer()
    nonce = nonce_of(server.challenge(REALM, HOST, NOW)[0])
    assert verify(server, authorization(nonce, algorithm=algorithm, qop=qop)) is Verdict.OK


def test_a_stored_ha1_serves_as_well_as_a_password() -> None:
    server = DigestServer()
    secret = Secret(ha1={"MD5": ha1(USER, REALM, PASSWORD)})
    assert verify(server, authorization(server.nonce(REALM, HOST, NOW)), secret=secret) is Verdict.OK
    other = authorization(server.nonce(REALM, HOST, NOW), algorithm="SHA-256")
    assert verify(server, other, secret=secret) is Verdict.WRONG


def test_a_wrong_password_is_wrong() -> None:
    server = DigestServer()
    value = authorization(server.nonce(REALM, HOST, NOW), password="guess")
    assert verify(server, value) is Verdict.WRONG


@pytest.mark.gb("G036")
def test_an_old_nonce_is_stale() -> None:
    server = DigestServer(lifetime_s=60)
    value = authorization(server.nonce(REALM, HOST, NOW))
    assert verify(server, value, now=NOW + 61) is Verdict.STALE
    assert "stale=true" in server.challenge(REALM, HOST, NOW + 61, stale=True)[0]


@pytest.mark.gb("G037")
def test_a_captured_answer_is_worthless_from_another_address() -> None:
    server = DigestServer()
    value = authorization(server.nonce(REALM, HOST, NOW))
    assert verify(server, value, host="198.51.100.7") is Verdict.STALE
    assert verify(server, value) is Verdict.OK


@pytest.mark.gb("G037")
def test_a_captured_answer_is_worthless_from_the_same_address_too() -> None:
    server = DigestServer()
    value = authorization(server.nonce(REALM, HOST, NOW))
    assert verify(server, value) is Verdict.OK
    assert verify(server, value) is Verdict.REPLAYED


@pytest.mark.gb("G037")
def test_with_qop_a_nonce_is_used_again_only_with_a_higher_count() -> None:
    server = DigestServer()
    nonce = server.nonce(REALM, HOST, NOW)
    assert verify(server, authorization(nonce, qop="auth", nc="00000001")) is Verdict.OK
    assert verify(server, authorization(nonce, qop="auth", nc="00000001")) is Verdict.REPLAYED
    assert verify(server, authorization(nonce, qop="auth", nc="0000000a")) is Verdict.OK
    assert verify(server, authorization(nonce, qop="auth", nc="00000009")) is Verdict.REPLAYED
    assert verify(server, authorization(nonce, qop="auth", nc="zz")) is Verdict.MALFORMED


@pytest.mark.quirk(44)
@pytest.mark.parametrize("nonce", ["invented", "6fe9ba44a76be22a", "0" * 36, "é" * 36])
def test_an_invented_nonce_is_stale_and_no_failed_log_in(nonce: str) -> None:
    """``Authorization: Digest username="…", nonce="invented", …`` in the very first REGISTER."""
    assert verify(DigestServer(), authorization(nonce)) is Verdict.STALE
    assert verify(DigestServer(), authorization(nonce, password="guess")) is Verdict.STALE


@pytest.mark.quirk(44)
def test_a_challenge_is_bound_to_no_call_id_and_no_cseq() -> None:
    """The answer may come in another transaction, call or connection of the same host: nothing of it is hashed."""
    server = DigestServer()
    nonce = server.nonce(REALM, HOST, NOW)
    server.nonce(REALM, HOST, NOW)
    assert verify(server, authorization(nonce), now=NOW + 30) is Verdict.OK


@pytest.mark.quirk(49)
@pytest.mark.parametrize("user", [f"{USER}@", f"{USER}@{REALM}", "admin", "", 'qu\\"ote'])
def test_the_user_name_is_hashed_as_sent(user: str) -> None:
    server = DigestServer()
    value = authorization(server.nonce(REALM, HOST, NOW), user=user.replace('\\"', '"')).replace(
        'qu"ote', user
    )
    assert verify(server, value) is Verdict.OK


@pytest.mark.quirk(6)
def test_uri_and_realm_are_hashed_as_sent() -> None:
    server = DigestServer()
    value = authorization(server.nonce(REALM, HOST, NOW), uri="sip:elsewhere@192.0.2.1", realm="41018300")
    assert verify(server, value) is Verdict.OK


def test_the_secret_of_another_server_does_not_help() -> None:
    assert verify(DigestServer(), authorization(DigestServer().nonce(REALM, HOST, NOW))) is Verdict.STALE


def test_a_nonce_of_the_future_is_stale() -> None:
    server = DigestServer(lifetime_s=60)
    assert verify(server, authorization(server.nonce(REALM, HOST, NOW + 100))) is Verdict.STALE


@pytest.mark.parametrize(
    ("value", "verdict"),
    [
        ("", Verdict.MISSING),
        ("Digest", Verdict.MALFORMED),
        ("Digest nonsense", Verdict.MALFORMED),
        ("Basic dXNlcjpwYXNz", Verdict.MALFORMED),
        ('Digest username="a", nonce="b"', Verdict.MALFORMED),
        ('Digest username="a, nonce="b", response="c"', Verdict.MALFORMED),
        ('Capability algorithm="A:SM2"', Verdict.MALFORMED),
        ('Digest username="a", nonce="b", response="c", algorithm=SM3', Verdict.MALFORMED),
        ('Digest username="a", nonce="b", response="c", qop=other', Verdict.MALFORMED),
    ],
)
def test_what_is_no_answer(value: str, verdict: Verdict) -> None:
    assert verify(DigestServer(), value) is verdict


def test_used_nonces_are_forgotten_when_they_are_too_old_anyhow() -> None:
    server = DigestServer(lifetime_s=10)
    for step in range(100):
        now = NOW + step
        assert verify(server, authorization(server.nonce(REALM, HOST, now)), now=now) is Verdict.OK
    assert len(server._used) <= 12


def test_memory_of_used_nonces_is_bounded() -> None:
    server = DigestServer(max_used=10)
    for _ in range(50):
        assert verify(server, authorization(server.nonce(REALM, HOST, NOW))) is Verdict.OK
    assert len(server._used) <= 10


@pytest.mark.parametrize("text", ["Digest a=b c=d", 'Digest a="b', "Digest =x", "Digest a"])
def test_bad_parameters(text: str) -> None:
    with pytest.raises(ParseError):
        DigestParams.parse(text)


def test_parameters_with_odd_spacing() -> None:
    value = DigestParams.parse('digest  Realm = "a, b=c" ,nonce=x,  opaque=""')
    assert (value.scheme, value.get("realm"), value.get("nonce"), value.get("opaque", "-")) == (
        "digest",
        "a, b=c",
        "x",
        "",
    )


# -- the registering side ---------------------------------------------------------------------------------

CREDENTIALS = Credentials(USER, PASSWORD)


def answered(*challenges: str) -> DigestParams | None:
    value = answer_challenges(challenges, CREDENTIALS, method="REGISTER", uri=URI, cnonce="0a4f113b")
    return DigestParams.parse(value) if value else None


@pytest.mark.parametrize(
    ("challenge", "qop", "response"),
    [
        (f'Digest realm="{REALM}", nonce="{NONCE}"', "", "60b33b63fdf2bf561186eb46c71d295e"),
        (f'Digest realm="{REALM}",nonce="{NONCE}",qop="auth"', "auth", "5b0eee6da49c6c8aa5ac3ebe66b56167"),
        (
            f'Digest realm="{REALM}", nonce="{NONCE}", qop="auth,auth-int"',
            "auth",
            "5b0eee6da49c6c8aa5ac3ebe66b56167",
        ),
        (
            f'Digest realm="{REALM}", nonce="{NONCE}", stale=FALSE, algorithm=MD5, x-new="1, 2", domain="sip:x"',
            "",
            "60b33b63fdf2bf561186eb46c71d295e",
        ),
    ],
)
@pytest.mark.gb("G056")
def test_four_challenges(challenge: str, qop: str, response: str) -> None:
    answer = answered(challenge)
    assert answer is not None
    assert answer.get("qop") == qop
    assert answer.get("nc") == ("00000001" if qop else "")
    assert answer.get("response") == response
    assert answer.username == USER
    assert answer.get("uri") == URI


@pytest.mark.gb("G057")
def test_the_strongest_known_challenge_is_answered() -> None:
    md5 = f'Digest realm="{REALM}", nonce="m", algorithm=MD5'
    sha = f'Digest realm="{REALM}", nonce="s", algorithm=SHA-256'
    sm3 = f'Digest realm="{REALM}", nonce="x", algorithm=SM3'
    for challenges in ((md5, sha, sm3), (sha, md5), (f"{md5}, {sm3}, {sha}",)):
        answer = answered(*challenges)
        assert answer is not None
        assert (answer.algorithm, answer.get("nonce")) == ("SHA-256", "s")
    answer = answered(sm3, md5)
    assert answer is not None
    assert answer.algorithm == "MD5"


@pytest.mark.gb("G057")
@pytest.mark.parametrize(
    "challenge",
    [
        "",
        "Basic realm=x",
        'Digest realm="r"',
        'Digest realm="r", nonce="n", algorithm=SM3',
        "Digest ???",
        'Digest realm="r", nonce="n", qop="conf"',
    ],
)
def test_what_cannot_be_answered_is_skipped(challenge: str) -> None:
    assert answered(challenge) is None


@pytest.mark.parametrize(("algorithm", "qop"), [("MD5", ""), ("SHA-256", "auth"), ("MD5", "auth-int")])
def test_both_sides_agree(algorithm: str, qop: str) -> None:
    server = DigestServer()
    challenges = server.challenge(REALM, HOST, NOW, algorithms=(algorithm,), qop=qop)
    value = answer_challenges(challenges, CREDENTIALS, method="REGISTER", uri=URI, body=b"abc")
    assert value is not None
    assert server.verify(value, "REGISTER", REALM, HOST, NOW, SECRET, body=b"abc") is Verdict.OK


def test_opaque_is_repeated() -> None:
    answer = answered(f'Digest realm="{REALM}", nonce="{NONCE}", opaque="5ccc"')
    assert answer is not None
    assert answer.get("opaque") == "5ccc"


@pytest.mark.gb("G282")
def test_secrets_do_not_show_in_reprs() -> None:
    assert PASSWORD not in repr(CREDENTIALS)
    assert PASSWORD not in repr(SECRET)
    assert "a1b2" not in repr(Secret(ha1={"MD5": "a1b2"}))
