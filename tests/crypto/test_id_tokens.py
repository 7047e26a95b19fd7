"""ID tokens of providers: one defect each, and none of them is believed (OpenID Connect Core 3.1.3.7)."""

import json
import string
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.crypto.id_tokens import ALGORITHMS, LONGEST
from tests.crypto.foreign_tokens import (
    ACCESS_TOKEN,
    CLAIMS,
    CLIENT,
    GOOD,
    ISSUER,
    NONCE,
    NOW,
    SECONDS,
    SIGNATORIES,
    STRANGER,
    USUAL,
    at_hash,
    believed,
    claims_with,
    expecting,
    header_of,
    objection,
    token_with,
)

BASE64URL = string.ascii_letters + string.digits + "-_"


# Good ones


@pytest.mark.standard("SO-11", "SO-17")
@pytest.mark.parametrize("alg", ALGORITHMS)
def test_every_allowed_algorithm_works_with_the_hash_that_is_its_own(alg: str) -> None:
    signatory = SIGNATORIES[alg]
    token = signatory.sign(header_of(signatory), claims_with(at_hash=at_hash(alg)))
    claims = believed(token)
    assert (claims.iss, claims.sub, claims.email, claims.email_verified) == (ISSUER, "ann-1", CLAIMS["email"], True)
    others = {at_hash(other) for other in ALGORITHMS} - {at_hash(alg)}
    for wrong in [*others, at_hash(alg, f"{ACCESS_TOKEN}x"), "", at_hash(alg) + "="]:
        assert objection(signatory.sign(header_of(signatory), claims_with(at_hash=wrong))) == "at_hash"
    without = [name for name in ALGORITHMS if name != alg]
    assert objection(token, expected=expecting(algorithms=without)).startswith("algorithm")


@pytest.mark.parametrize(
    "header",
    [header_of(typ=None), header_of(typ="jwt"), header_of(kid=None), header_of(jwk=STRANGER.jwk, jku="https://x.test")],
)
def test_what_a_header_need_not_say_is_not_asked_of_it(header: dict[str, object]) -> None:
    assert objection(USUAL.sign(header, CLAIMS)) == ""
    stranger = STRANGER.sign(header, CLAIMS)
    assert objection(stranger) != ""  # also where it brings the key that it is signed with


@pytest.mark.standard("SO-17")
@pytest.mark.parametrize(
    "claims",
    [
        claims_with(aud=[CLIENT]),
        claims_with(azp=CLIENT),
        claims_with(exp=SECONDS - 29),
        claims_with(exp=SECONDS + 0.5),
        claims_with(iat=SECONDS + 30),
        claims_with(nbf=SECONDS + 30),
        claims_with(auth_time=SECONDS + 30),
        claims_with(auth_time=0),
        claims_with(sub="x" * 255),
        claims_with(email=["odd"], email_verified="true", unknown={"a": [1]}),
    ],
)
def test_what_is_within_the_rules_is_believed(claims: dict[str, Any]) -> None:
    assert objection(USUAL.sign(header_of(), claims)) == ""


# One defect each: the claims


@pytest.mark.standard("SO-05", "SO-08", "SO-17")
@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        *(({"iss": iss}, "iss") for iss in (f"{ISSUER}/", "https://other.test", ISSUER.upper(), "provider.test", "")),
        *(
            ({"aud": aud}, "aud")
            for aud in ("other", "", CLIENT.upper(), [], [CLIENT, "other"], ["other"], [f"{CLIENT} "])
        ),
        *(({"azp": azp}, "azp") for azp in ("other", "", CLIENT.upper())),
        *(({"exp": exp}, "exp") for exp in (SECONDS - 30, SECONDS - 3600, 0)),
        *(({"iat": iat}, "iat") for iat in (SECONDS + 31, SECONDS + 3600, 2**43)),
        *(({"nbf": nbf}, "iat") for nbf in (SECONDS + 31, 2**43)),
        *(({"nonce": nonce}, "nonce") for nonce in (None, "", "other", NONCE.upper(), f"{NONCE} ", NONCE[:-1], "é")),
        *(({"auth_time": when}, "auth_time") for when in (SECONDS + 31, SECONDS + 3600)),
        *(({name: None}, "claims") for name in ("iss", "sub", "aud", "exp", "iat")),
        *(({"sub": sub}, "claims") for sub in ("", 5, "x" * 256, ["ann-1"], {"a": 1}, "ann\x00")),
        *(({"iss": iss}, "claims") for iss in ([ISSUER], 5, {"iss": ISSUER})),
        *(({"aud": aud}, "claims") for aud in (5, {CLIENT: 1}, [CLIENT, 5], [[CLIENT]], True)),
        *(({"exp": exp}, "claims") for exp in (str(SECONDS + 600), True, [SECONDS + 600], -1, 2**70)),
        *(({"iat": iat}, "claims") for iat in (str(SECONDS), -5, {"at": SECONDS})),
        *(({name: "soon"}, "claims") for name in ("nbf", "auth_time")),
        *(({"nonce": nonce}, "claims") for nonce in ([NONCE], 5, True)),
        *(({name: ["x"]}, "claims") for name in ("azp", "at_hash")),
    ],
)
def test_one_wrong_claim_is_enough(wrong: dict[str, object], reason: str) -> None:
    assert objection(token_with(**wrong)) == reason


@pytest.mark.standard("SO-05")
def test_a_nonce_that_nobody_sent_is_refused_and_none_is_right_where_none_was_sent() -> None:
    unasked = expecting(nonce=None)
    assert objection(GOOD, expected=unasked) == "nonce"
    assert objection(token_with(nonce=""), expected=unasked) == "nonce"
    assert objection(token_with(nonce=None), expected=unasked) == ""


@pytest.mark.standard("SO-17")
def test_a_token_lives_from_its_beginning_to_its_end_and_no_longer() -> None:
    moments = {-31: "iat", -30: "", 0: "", 629: "", 630: "exp", 86_400: "exp"}
    found = {ahead: objection(GOOD, at=NOW + timedelta(seconds=ahead)) for ahead in moments}
    assert found == moments


@pytest.mark.standard("SO-17")
@pytest.mark.parametrize(
    "payload",
    [
        json.dumps(CLAIMS).replace("{", '{"sub": "eve-5", ', 1).encode(),
        json.dumps(CLAIMS)[:-1].encode() + b', "email_verified": true}',
        json.dumps(CLAIMS)[:-1].encode() + b', "exp": NaN}',
        json.dumps(claims_with(exp=None))[:-1].encode() + b', "exp": Infinity}',
        json.dumps(claims_with(exp=None))[:-1].encode() + b', "exp": 1e999}',
        json.dumps(claims_with(sub=None))[:-1].encode() + b', "sub": "\\ud800"}',
        b"\xef\xbb\xbf" + json.dumps(CLAIMS).encode(),
        json.dumps(CLAIMS).encode("utf-16"),
        json.dumps(claims_with(name="é"), ensure_ascii=False).encode("latin-1"),
        json.dumps([CLAIMS]).encode(),
        b'{"a":' * 200 + b"1" + b"}" * 200,
        b"[" * 5000,
        b"null",
        b"{}",
        b"",
        json.dumps(CLAIMS).encode() + b" {}",
    ],
    ids=range(16),
)
def test_what_could_be_read_in_two_ways_is_read_in_none(payload: bytes) -> None:
    assert objection(USUAL.sign(header_of(), payload)) == ("claims" if payload else "signature")


# One defect each: the shape


@pytest.mark.standard("SO-11", "SO-17")
@pytest.mark.parametrize(
    "header",
    [
        *(header_of(typ=typ) for typ in ("at+jwt", "logout+jwt", "application/at+jwt", "JWT+", "JOSE", 5, ["JWT"])),
        *(header_of(crit=crit) for crit in (["b64"], ["exp"], [], "", 0)),
        header_of(kid=5),
        header_of(kid=["key of ES256"]),
        json.dumps(header_of()).replace("{", '{"alg": "ES256", ', 1).encode(),
        json.dumps(header_of()).replace("{", '{"kid": "other", ', 1).encode(),
        b"\xef\xbb\xbf" + json.dumps(header_of()).encode(),
        b"[]",
        b"null",
        b"",
        b"\xff",
    ],
    ids=range(21),
)
def test_a_header_of_another_kind_of_token_or_of_none_is_refused(header: object) -> None:
    assert objection(USUAL.sign(header, CLAIMS)) in {"header", "shape"}


@pytest.mark.standard("SO-11")
@pytest.mark.parametrize(
    "token",
    [
        "",
        ".",
        "..",
        "...",
        "not a token",
        GOOD.rpartition(".")[0],
        f"{GOOD}.",
        f".{GOOD}",
        f"{GOOD}.{GOOD.split('.')[1]}.{GOOD.split('.')[2]}",  # five parts: encrypted, or so it looks
        f"{GOOD} ",
        f" {GOOD}",
        f"{GOOD}\n",
        f"{GOOD}é",
        f"{GOOD}\x00",
        f"{GOOD}==",
        GOOD.replace(".", "=.", 1),
        GOOD.replace(".", "\uff0e"),
        token_with(padding="x" * LONGEST),
    ],
    ids=range(18),
)
def test_what_is_not_three_plain_parts_of_a_sane_length_is_refused(token: str) -> None:
    assert objection(token) != ""


@settings(derandomize=True, max_examples=300, deadline=None, database=None)
@given(st.integers(0, len(GOOD) - 1), st.sampled_from(f"{BASE64URL}=.+/ \n\x00é"))
@pytest.mark.standard("SO-11")
def test_whatever_is_changed_in_a_good_token_spoils_it(at: int, other: str) -> None:
    if other != GOOD[at]:
        assert objection(GOOD[:at] + other + GOOD[at + 1 :]) != ""
        assert objection(GOOD[:at] + other + GOOD[at:]) != ""
    assert objection(GOOD[:at] + GOOD[at + 1 :]) != ""


def test_the_last_letter_of_a_signature_has_no_alias() -> None:
    assert [letter for letter in BASE64URL if objection(GOOD[:-1] + letter) == ""] == [GOOD[-1]]


@settings(derandomize=True, max_examples=200, deadline=None, database=None)
@given(st.text(max_size=60) | st.text(f"{BASE64URL}.", max_size=300))
def test_no_text_crashes_the_verifier(text: str) -> None:
    assert objection(text) != ""


@settings(derandomize=True, max_examples=200, deadline=None, database=None)
@given(
    st.dictionaries(
        st.sampled_from(sorted({*CLAIMS, "azp", "at_hash", "auth_time", "nbf"})),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
            max_leaves=4,
        ),
        min_size=1,
    )
)
def test_claims_of_any_type_are_believed_only_where_they_say_what_is_expected(wrong: dict[str, Any]) -> None:
    token = USUAL.sign(header_of(), {**CLAIMS, **wrong})
    if objection(token) == "":
        claims = believed(token)
        assert (claims.iss, claims.nonce, claims.aud in (CLIENT, (CLIENT,))) == (ISSUER, NONCE, True)
        assert claims.sub
        assert claims.exp > SECONDS - 30
