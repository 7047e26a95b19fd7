"""Forged, damaged and ambiguous access tokens: one verifier, one answer."""

import base64
import hashlib
import hmac
import json
import re
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from service.crypto.keyring import Keyring, SigningKey, thumbprint
from service.crypto.signer import Claims, PersonClaims, Signer
from service.wiring import Services
from tests.conftest import ISSUER, Person

AUDIENCE = "https://api.test"
LEEWAY = 30
NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
SECONDS = int(NOW.timestamp())
HOUR = timedelta(hours=1)


def new_key(activates_at: datetime | None = NOW - HOUR) -> SigningKey:
    private = ec.generate_private_key(ec.SECP256R1())
    return SigningKey(thumbprint(private.public_key()), private, NOW - HOUR, activates_at)


KEY = new_key()
RING = Keyring.of([KEY, new_key(None)], HOUR)
SIGNER = Signer(ISSUER, AUDIENCE, timedelta(seconds=LEEWAY))
STRANGER = ec.generate_private_key(ec.SECP256R1())
CLAIMS: dict[str, Any] = {
    "iss": ISSUER,
    "sub": "01998f4e-0000-7000-8000-000000000001",
    "aud": AUDIENCE,
    "exp": SECONDS + 600,
    "iat": SECONDS,
    "jti": "0.abcdefghijklmnop",
    "client_id": "web",
    "scope": "account",
    "sid": "AAAAAAAAAAAAAAAAAAAAAA",
    "auth_time": SECONDS,
    "amr": ["pwd"],
    "roles": ["admin"],
}
HEADER: dict[str, Any] = {"alg": "ES256", "kid": KEY.kid, "typ": "at+jwt"}
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


def encoded(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def part(value: Any) -> str:
    """A segment: of bytes as they are, of anything else as JSON."""
    return encoded(value if isinstance(value, bytes) else json.dumps(value).encode())


def signature(message: str, private: ec.EllipticCurvePrivateKey = KEY.private) -> bytes:
    """ES256 (RFC 7518 section 3.4): two integers of 32 bytes."""
    r, s = decode_dss_signature(private.sign(message.encode(), ec.ECDSA(SHA256())))
    return r.to_bytes(32) + s.to_bytes(32)


def forged(header: Any = HEADER, payload: Any = CLAIMS, private: ec.EllipticCurvePrivateKey = KEY.private) -> str:
    """Signed, by our own key unless told otherwise."""
    message = f"{part(header)}.{part(payload)}"
    return f"{message}.{encoded(signature(message, private))}"


def verified(token: str, at: datetime = NOW, ring: Keyring = RING) -> Claims | None:
    return SIGNER.verify(token, ring, at)


def without(claim: str) -> dict[str, Any]:
    return {name: value for name, value in CLAIMS.items() if name != claim}


def dumped(**changed: str) -> bytes:
    """The claims with some values written by hand."""
    members = {name: json.dumps(value) for name, value in CLAIMS.items()} | changed
    return ("{" + ",".join(f'"{name}":{value}' for name, value in members.items()) + "}").encode()


GOOD = forged()


def test_the_forge_of_these_tests_makes_good_tokens() -> None:
    claims = verified(GOOD)

    assert isinstance(claims, PersonClaims)
    assert (claims.sub, claims.roles) == (CLAIMS["sub"], ("admin",))


# What we issue


def issued(**changed: Any) -> str:
    given = {**CLAIMS, "amr": ("pwd",), "roles": ("admin",), **changed}
    token = SIGNER.sign(PersonClaims(**given), RING, NOW)
    assert token is not None
    return token


def segment(token: str, number: int) -> dict[str, Any]:
    text = token.split(".")[number]
    body: dict[str, Any] = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    return body


@pytest.mark.standard("AT-19", "KY-24")
def test_a_token_of_ours_is_typed_names_its_key_and_has_a_raw_signature() -> None:
    token = issued()

    assert segment(token, 0) == HEADER
    assert len(token.rsplit(".", 1)[1]) == 86
    assert verified(token) is not None


@pytest.mark.standard("AT-20", "AT-27", "AT-35", "KY-24")
async def test_a_token_over_http_has_exactly_the_claims_of_the_contract(
    http: httpx.AsyncClient, services: Services, person: Person
) -> None:
    answer = await http.post("/auth/login", json=person.credentials())
    token = answer.json()["access_token"]
    header, claims = segment(token, 0), segment(token, 1)

    wanted = {"iss", "sub", "aud", "exp", "iat", "jti", "client_id", "scope", "sid", "auth_time", "amr", "roles"}
    assert set(claims) == wanted
    assert (header["alg"], header["typ"], set(header)) == ("ES256", "at+jwt", {"alg", "typ", "kid"})
    assert claims["exp"] - claims["iat"] == answer.json()["expires_in"] == 600
    assert all(type(claims[name]) is int for name in ("exp", "iat", "auth_time"))
    assert (claims["iss"], claims["aud"], claims["client_id"]) == (ISSUER, ISSUER, "web")
    assert (claims["amr"], claims["roles"], claims["scope"]) == (["pwd"], [], answer.json()["scope"])
    assert len(token.rsplit(".", 1)[1]) == 86
    told = json.dumps(claims)
    assert person.email not in told
    assert person.nickname not in told


@pytest.mark.standard("AT-20")
async def test_two_tokens_of_one_session_have_ids_of_their_own(http: httpx.AsyncClient, person: Person) -> None:
    answer = await http.post("/auth/refresh", json={"refresh_token": person.refresh_token})
    old, new = segment(person.access_token, 1), segment(answer.json()["access_token"], 1)

    assert old["jti"] != new["jti"]
    assert (old["sid"], old["sub"], old["auth_time"]) == (new["sid"], new["sub"], new["auth_time"])


def test_nothing_is_signed_without_a_key_in_force() -> None:
    claims = PersonClaims(**{**CLAIMS, "amr": (), "roles": ()})

    assert SIGNER.sign(claims, Keyring.of([], HOUR), NOW) is None
    assert SIGNER.sign(claims, Keyring.of([new_key(NOW + HOUR), new_key(None)], HOUR), NOW) is None


# The algorithm and the key are ours to name


def hmac_signed(alg: str, secret: bytes, digest: Callable[..., Any]) -> str:
    message = f"{part({**HEADER, 'alg': alg})}.{part(CLAIMS)}"
    return f"{message}.{encoded(hmac.new(secret, message.encode(), digest).digest())}"


PEM = KEY.private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
DER = KEY.private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
POINT = KEY.private.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)


@pytest.mark.standard("AT-02", "AT-19")
@pytest.mark.parametrize("alg", ["none", "None", "nOnE", "NONE", "", " none", "none ", None, 0, [], False])
@pytest.mark.parametrize("tail", ["", "AA", "A" * 86, GOOD.rsplit(".", 1)[1]])
def test_an_unsigned_token_is_refused(alg: Any, tail: str) -> None:
    message = f"{part({**HEADER, 'alg': alg})}.{part(CLAIMS)}"

    assert verified(f"{message}.{tail}") is None
    assert verified(message) is None


@pytest.mark.standard("AT-02", "AT-30")
@pytest.mark.parametrize("secret", [PEM, PEM.rstrip(), DER, POINT, b"", KEY.kid.encode()])
@pytest.mark.parametrize("alg", ["HS256", "ES256"])
def test_a_token_keyed_with_our_public_key_is_refused(secret: bytes, alg: str) -> None:
    assert verified(hmac_signed(alg, secret, hashlib.sha256)) is None
    assert verified(hmac_signed("HS512", secret, hashlib.sha512)) is None


@pytest.mark.standard("AT-01", "AT-31")
def test_a_token_of_another_key_under_the_id_of_ours_is_refused() -> None:
    assert verified(forged(private=STRANGER)) is None


@pytest.mark.standard("AT-30")
@pytest.mark.parametrize(
    "alg", ["ES384", "ES512", "ES256K", "RS256", "PS256", "EdDSA", "HS256", "es256", "ES256 ", "Es256"]
)
def test_another_algorithm_in_the_header_is_refused_although_the_signature_is_good(alg: str) -> None:
    assert verified(forged({**HEADER, "alg": alg})) is None


@pytest.mark.standard("AT-02")
def test_a_token_of_another_algorithm_is_refused() -> None:
    private = rsa.generate_private_key(65537, 2048)
    for alg in ("RS256", "PS256"):
        assert verified(jwt.encode(CLAIMS, private, algorithm=alg, headers={"kid": KEY.kid, "typ": "at+jwt"})) is None


OUTSIDE_KEY = {"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"}


@pytest.mark.standard("AT-03", "AT-32")
@pytest.mark.parametrize(
    "more",
    [
        {"jwk": OUTSIDE_KEY},
        {"jku": "https://evil.example/jwks.json"},
        {"jku": "http://169.254.169.254/"},
        {"x5u": "https://evil.example/cert.pem"},
        {"x5c": ["AAAA"]},
        {"x5t": "AAAA"},
        {"crit": ["exp"], "exp": 1},
        {"crit": []},
        {"b64": False, "crit": ["b64"]},
        {"b64": True},
        {"zip": "DEF"},
        {"cty": "JWT"},
        {"anything": None},
    ],
    ids=lambda more: next(iter(more)),
)
@pytest.mark.parametrize("private", [KEY.private, STRANGER], ids=["our key", "another key"])
def test_a_header_with_more_than_we_write_is_refused(more: dict[str, Any], private: ec.EllipticCurvePrivateKey) -> None:
    assert verified(forged({**HEADER, **more}, private=private)) is None


@pytest.mark.standard("AT-32")
@pytest.mark.parametrize(
    "kid",
    [
        "",
        "../../../../dev/null",
        "/etc/passwd",
        "' OR 1=1--",
        "' UNION SELECT 'secret'--",
        "x" * 10_000,
        "x" * 2_000,
        "\x00",
        KEY.kid + "\x00",
        KEY.kid + " ",
        KEY.kid.swapcase(),
        KEY.kid[:-1],
        [KEY.kid],
        {"kid": KEY.kid},
        None,
        0,
        True,
        "https://evil.example/key",
    ],
)
def test_a_key_id_that_is_not_one_of_ours_is_refused(kid: Any) -> None:
    assert verified(forged({**HEADER, "kid": kid})) is None


@pytest.mark.standard("AT-32")
@pytest.mark.parametrize("member", ["kid", "alg", "typ"])
def test_a_header_without_one_of_its_members_is_refused(member: str) -> None:
    assert verified(forged({name: value for name, value in HEADER.items() if name != member})) is None


@pytest.mark.standard("AT-05", "AT-33")
@pytest.mark.parametrize(
    "typ",
    [
        "JWT",
        "jwt",
        "logout+jwt",
        "dpop+jwt",
        "token-introspection+jwt",
        "",
        "at",
        "at+jwt ",
        "x/at+jwt",
        None,
        1,
        ["at+jwt"],
    ],
)
def test_a_token_of_another_kind_is_refused(typ: Any) -> None:
    assert verified(forged({**HEADER, "typ": typ})) is None


@pytest.mark.standard("AT-19")
@pytest.mark.parametrize("typ", ["at+jwt", "AT+JWT", "application/at+jwt", "Application/at+JWT"])
def test_the_kind_is_read_as_a_media_type(typ: str) -> None:
    assert verified(forged({**HEADER, "typ": typ})) is not None


HEADER_TEXTS: list[bytes] = [
    b"",
    b"null",
    b"[]",
    b'"ES256"',
    b"{",
    b'{"alg":"ES256"',
    json.dumps(HEADER).encode() + b"{}",
    b"\xef\xbb\xbf" + json.dumps(HEADER).encode(),
    json.dumps(HEADER).encode("utf-16"),
    json.dumps(HEADER).encode().replace(b"at+jwt", b"at+jwt\xff"),
    b'{"alg":"ES256","kid":"' + KEY.kid.encode() + b'","typ":"\\ud800"}',
    b"[" * 2_500,
    b'{"kid":' * 300,
]


@pytest.mark.standard("AT-34")
@pytest.mark.parametrize("header", HEADER_TEXTS, ids=lambda raw: repr(raw[:20]))
def test_a_header_that_is_no_plain_json_is_refused(header: bytes) -> None:
    assert verified(forged(header)) is None


@pytest.mark.standard("AT-29", "PF-18")
@pytest.mark.parametrize("first", ['"alg":"none",', '"kid":"other",', '"typ":"JWT",'])
def test_a_header_that_says_something_twice_is_refused(first: str) -> None:
    header = "{" + first + json.dumps(HEADER)[1:]

    assert verified(forged(header.encode())) is None


# The claims


@pytest.mark.standard("AT-04", "AT-20", "AT-26")
@pytest.mark.parametrize("claim", sorted(set(CLAIMS) - {"scope"}))
def test_a_token_without_a_required_claim_is_refused(claim: str) -> None:
    assert verified(forged(payload=without(claim))) is None


@pytest.mark.standard("AT-29")
@pytest.mark.parametrize("claim", ["exp", "iat", "auth_time"])
@pytest.mark.parametrize(
    "text",
    [
        f'"{SECONDS + 600}"',
        f"{SECONDS + 600}.5",
        "1e400",
        "1e12",
        "-1",
        str(-SECONDS),
        "NaN",
        "Infinity",
        "1" + "0" * 30,
        "9" * 400,
        "null",
        "true",
        f"[{SECONDS + 600}]",
        "{}",
        "18446744073709551616",
    ],
)
def test_a_time_that_is_no_sensible_whole_number_is_refused(claim: str, text: str) -> None:
    assert verified(forged(payload=dumped(**{claim: text}))) is None


@pytest.mark.standard("AT-04")
@pytest.mark.parametrize("text", ['"1"', "NaN", "1.5", "1e400", "null", "[]", "1" + "0" * 30])
def test_a_not_before_that_is_no_number_is_refused(text: str) -> None:
    assert verified(forged(payload=dumped(nbf=text))) is None


@pytest.mark.standard("AT-04", "AT-26")
def test_the_times_hold_to_the_second() -> None:
    def at(**times: int) -> bool:
        return (
            verified(forged(payload={**CLAIMS, **{name: SECONDS + value for name, value in times.items()}})) is not None
        )

    assert at(exp=1)
    assert not at(exp=0)
    assert not at(exp=-61)
    assert at(iat=20)  # another machine's clock is ahead
    assert at(iat=LEEWAY)
    assert not at(iat=LEEWAY + 1)
    assert at(nbf=LEEWAY)
    assert not at(nbf=LEEWAY + 1)
    assert at(nbf=-5)


@pytest.mark.standard("AT-06", "AT-26", "AT-29", "AT-31")
@pytest.mark.parametrize(
    "aud",
    [
        "https://other.test",
        AUDIENCE.upper(),
        AUDIENCE + "/",
        AUDIENCE[:-1],
        "",
        [],
        ["https://other.test"],
        [AUDIENCE, 7],
        [[AUDIENCE]],
        {AUDIENCE: True},
        {"aud": AUDIENCE},
        None,
        7,
        True,
        f"{AUDIENCE} https://other.test",
    ],
)
def test_a_token_for_somebody_else_is_refused(aud: Any) -> None:
    assert verified(forged(payload={**CLAIMS, "aud": aud})) is None


@pytest.mark.standard("AT-06")
def test_a_token_for_several_of_whom_we_are_one_is_good() -> None:
    assert verified(forged(payload={**CLAIMS, "aud": ["https://other.test", AUDIENCE]})) is not None


@pytest.mark.standard("AT-26", "AT-29", "AT-31")
@pytest.mark.parametrize(
    "iss",
    [ISSUER.upper(), ISSUER + "/", ISSUER.replace("https", "http"), "https://auth.test.evil", "", None, [ISSUER], 1],
)
def test_a_token_of_another_issuer_is_refused_although_our_key_signed_it(iss: Any) -> None:
    assert verified(forged(payload={**CLAIMS, "iss": iss})) is None


@pytest.mark.standard("AT-29")
@pytest.mark.parametrize("claim", ["sub", "client_id", "jti", "sid", "scope"])
@pytest.mark.parametrize("value", [7, None, True, ["x"], {"x": 1}])
def test_a_text_claim_of_another_type_is_refused(claim: str, value: Any) -> None:
    assert verified(forged(payload={**CLAIMS, claim: value})) is None


@pytest.mark.standard("AT-29")
@pytest.mark.parametrize("claim", ["roles", "amr"])
@pytest.mark.parametrize("value", ["admin", [1], [None], [["admin"]], {"admin": 1}, None])
def test_a_list_claim_of_another_type_is_refused(claim: str, value: Any) -> None:
    assert verified(forged(payload={**CLAIMS, claim: value})) is None


@pytest.mark.standard("AT-29", "PF-18")
@pytest.mark.parametrize("claim", sorted(set(CLAIMS) - {"scope"}))
def test_a_claim_that_stands_there_twice_is_refused_although_our_key_signed_it(claim: str) -> None:
    member = json.dumps({claim: CLAIMS[claim]})[1:-1]
    escaped = f'"\\u{ord(claim[0]):04x}{claim[1:]}"' + member[len(claim) + 2 :]

    assert verified(forged(payload=b"{" + member.encode() + b"," + dumped()[1:])) is None
    assert verified(forged(payload=b"{" + escaped.encode() + b"," + dumped()[1:])) is None


PAYLOADS: list[bytes] = [
    b"",
    b"null",
    b"[]",
    b'"text"',
    b"7",
    b"{}",
    dumped()[:-1],
    dumped() + b"{}",
    b"\xef\xbb\xbf" + dumped(),
    dumped().decode().encode("utf-16"),
    dumped().decode().encode("utf-32"),
    dumped(scope='"caf\\u0000e"'),
    dumped(scope='"\\ud800"'),
    dumped(sub='"\\udc00\\ud800"'),
    dumped().replace(b'"account"', b'"acc\xffount"'),
    dumped().replace(b'"account"', b'"acc\xed\xa0\x80ount"'),
    dumped().replace(b'"account"', b'"acc\nount"'),
    dumped(more="[" * 500 + "]" * 500),
    dumped(more='{"a":' * 300 + "1" + "}" * 300),
    dumped(more="NaN"),
    dumped(more="9" * 2000),
]


@pytest.mark.standard("AT-29", "AT-34")
@pytest.mark.parametrize("payload", PAYLOADS, ids=lambda raw: repr(raw[-24:]))
def test_a_payload_that_is_no_plain_json_object_is_refused(payload: bytes) -> None:
    if payload == PAYLOADS[-1]:
        verified(forged(payload=payload))  # a long number beside the claims harms nobody, but must not crash
        return
    assert verified(forged(payload=payload)) is None


# The shape


@pytest.mark.standard("AT-01")
def test_no_single_character_can_be_another() -> None:
    """Neither in the header, the payload or the signature, nor in the bits that base64 leaves over."""
    for position, character in enumerate(GOOD):
        for step in (1, 2, 7, 16, 32):
            other = ALPHABET[(ALPHABET.find(character) + step) % 64]
            assert verified(GOOD[:position] + other + GOOD[position + 1 :]) is None, (position, other)


@pytest.mark.standard("AT-01")
def test_no_bit_of_the_signature_can_be_another() -> None:
    message, _, tail = GOOD.rpartition(".")
    for bit in range(512):
        raw = bytearray(base64.urlsafe_b64decode(tail + "=="))
        raw[bit // 8] ^= 1 << bit % 8
        assert verified(f"{message}.{encoded(bytes(raw))}") is None, bit


@pytest.mark.standard("AT-01")
@pytest.mark.parametrize(
    "raw", [b"", b"\x00" * 64, b"\xff" * 64, b"\x00" * 63 + b"\x01", b"\x01" * 63, b"\x01" * 65, b"\x00" * 96]
)
def test_a_signature_that_is_none_is_refused(raw: bytes) -> None:
    assert verified(f"{GOOD.rpartition('.')[0]}.{encoded(raw)}") is None


@pytest.mark.standard("KY-24")
def test_a_signature_in_der_is_refused() -> None:
    message = GOOD.rpartition(".")[0]

    assert verified(f"{message}.{encoded(KEY.private.sign(message.encode(), ec.ECDSA(SHA256())))}") is None


HEAD_PART, BODY_PART, TAIL_PART = GOOD.split(".")


@pytest.mark.standard("AT-01", "AT-29")
@pytest.mark.parametrize(
    "token",
    [
        "",
        ".",
        "..",
        "....",
        "garbage",
        HEAD_PART,
        f"{HEAD_PART}.{BODY_PART}",
        f"{HEAD_PART}.{BODY_PART}.",
        f".{BODY_PART}.{TAIL_PART}",
        f"{HEAD_PART}..{TAIL_PART}",
        f"{GOOD}.",
        f".{GOOD}",
        f"{GOOD}.{TAIL_PART}",
        f"{HEAD_PART}.{BODY_PART}.{TAIL_PART}.{BODY_PART}.{TAIL_PART}",
        f"{GOOD}==",
        f"{GOOD}=",
        f"{HEAD_PART}=.{BODY_PART}.{TAIL_PART}",
        f"{HEAD_PART}.{BODY_PART}=.{TAIL_PART}",
        f"{GOOD}\n",
        f"{GOOD} ",
        f" {GOOD}",
        f"{GOOD}\x00",
        f"\ufeff{GOOD}",
        f"{GOOD}\ud800",
        f"\ud800.{BODY_PART}.{TAIL_PART}",
        f"{HEAD_PART}.{BODY_PART}.{TAIL_PART[:-1]}é",
        GOOD.replace("A", "\uff21"),
        GOOD.replace(".", "\u3002"),
        GOOD.replace("_", "/").replace("-", "+") if set(GOOD) & set("-_") else GOOD + "+",
        f"Bearer {GOOD}",
        f"{GOOD},{GOOD}",
        "a.a." + "A" * 86,
        "é" * 5000,
        "." * 4000,
    ],
    ids=lambda token: "shape",
)
def test_a_token_of_another_shape_is_refused(token: str) -> None:
    assert verified(token) is None


@pytest.mark.parametrize("filler", ["a", ".", "=", "é", "\ud800", "{", "A" * 100 + "."])
@pytest.mark.standard("AT-32", "PF-16")
def test_eight_megabytes_are_refused_at_once(filler: str) -> None:
    token = filler * (8_000_000 // len(filler))
    began = time.process_time()

    assert verified(token) is None
    assert verified(HEAD_PART + "." + token + "." + TAIL_PART) is None
    assert time.process_time() - began < 0.2  # cryptography over eight megabytes takes longer


def test_a_long_token_with_a_good_signature_is_refused() -> None:
    assert verified(forged(payload={**CLAIMS, "more": "x" * 5000})) is None


@settings(deadline=None)
@given(st.text())
def test_no_text_whatsoever_is_a_token_or_a_crash(text: str) -> None:
    assert verified(text) is None


@settings(deadline=None)
@given(st.binary(max_size=200), st.binary(max_size=200))
def test_no_header_and_payload_whatsoever_is_a_crash(header: bytes, payload: bytes) -> None:
    assert verified(forged(header, CLAIMS)) is None
    assert verified(forged(HEADER, payload)) is None


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@settings(deadline=None)
@given(st.sampled_from(sorted(CLAIMS)), JSON_VALUES)
def test_any_value_of_any_claim_gives_an_answer(claim: str, value: Any) -> None:
    payload = json.dumps({**CLAIMS, claim: value}, ensure_ascii=False).encode("utf-8", "surrogatepass")
    claims = verified(forged(payload=payload))

    if claims is not None:
        assert re.fullmatch(r"scope|sub|jti|client_id|sid|amr|roles|exp|iat|auth_time|aud|iss", claim)
        assert claims.exp > SECONDS
        assert claims.iss == ISSUER


# The key's life


@pytest.mark.standard("AT-31", "KY-26")
def test_a_retired_key_is_believed_until_its_last_token_has_ended_and_not_after() -> None:
    old, new = new_key(NOW - HOUR), new_key(NOW)
    ring = Keyring.of([old, new], timedelta(minutes=20))
    long_lived = {**CLAIMS, "exp": SECONDS + 86_400}
    token = forged({**HEADER, "kid": old.kid}, long_lived, old.private)

    assert SIGNER.verify(token, ring, NOW + timedelta(minutes=19, seconds=59)) is not None
    assert SIGNER.verify(token, ring, NOW + timedelta(minutes=20)) is None


@pytest.mark.standard("AT-31")
def test_a_key_speaks_only_under_its_own_id() -> None:
    other = new_key()
    ring = Keyring.of([KEY, other], HOUR)

    assert verified(forged({**HEADER, "kid": other.kid}), ring=ring) is None
    assert verified(forged({**HEADER, "kid": other.kid}, private=other.private), ring=ring) is not None
