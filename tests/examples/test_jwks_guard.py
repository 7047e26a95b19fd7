"""The guard that verifies by itself: one row per way a token can be wrong, and keys that come, go and stay away."""

import asyncio
import hashlib
import hmac
import json
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from examples.guard import InsufficientScope, JwksGuard, Refused, StaleAuthentication
from service.crypto.keyring import SigningKey
from service.wiring import Services
from tests.conftest import ISSUER, Introspector, Person
from tests.crypto.test_signer import ALPHABET, STRANGER, encoded, forged, new_key, part
from tests.deeds import id_of
from tests.examples.conftest import (
    AUDIENCE,
    Passing,
    StandIn,
    assert_invalid,
    assert_unavailable,
    let_in,
    live,
    of_a_service,
    refusal,
    without,
)

JWKS_URL = f"{ISSUER}/.well-known/jwks.json"
OWN_KEY = new_key()
NEXT_KEY = new_key()
HEADER: dict[str, Any] = {"alg": "ES256", "kid": OWN_KEY.kid, "typ": "at+jwt"}
OUTSIDE_KEY = {**new_key().jwk, "kid": OWN_KEY.kid}


def signed(claims: Any = None, key: SigningKey = OWN_KEY, **header: Any) -> str:
    """A token of the stand-in issuer, good unless something else is asked for."""
    return forged({**HEADER, "kid": key.kid, **header}, live() if claims is None else claims, key.private)


def publishing(*keys: SigningKey | dict[str, Any]) -> httpx.Response:
    jwks = [key.jwk if isinstance(key, SigningKey) else key for key in keys]
    return httpx.Response(200, json={"keys": jwks}, headers={"content-type": "application/jwk-set+json"})


def trusting(stand_in: StandIn, **options: Any) -> JwksGuard:
    return JwksGuard(ISSUER, AUDIENCE, http=stand_in.http, **options)


@pytest.fixture
def issuer() -> StandIn:
    return StandIn(publishing(OWN_KEY))


@pytest.fixture
def guard(issuer: StandIn) -> JwksGuard:
    return trusting(issuer)


async def assert_refused(guard: JwksGuard, issuer: StandIn, token: str) -> None:
    """Refused, and nobody was asked for anything but the published keys."""
    assert_invalid(await refusal(guard, token))
    assert {str(request.url) for request in issuer.asked} <= {JWKS_URL}


# The service itself


@pytest.mark.standard("AT-08", "AT-09", "AT-26")
async def test_a_token_of_the_service_is_verified_without_asking_about_it(
    http: httpx.AsyncClient, services: Services, person: Person
) -> None:
    asked: list[str] = []

    async def note(request: httpx.Request) -> None:
        asked.append(str(request.url))

    http.event_hooks["request"].append(note)
    guard = JwksGuard(ISSUER, ISSUER, http=http)
    callers = [await let_in(guard, person.access_token) for _ in range(3)]

    assert asked == [JWKS_URL]
    caller = callers[-1]
    assert caller.subject == str(await id_of(services, person))
    assert (caller.client_id, caller.roles) == ("web", frozenset())
    caller.require(caller.claims["scope"])
    caller.require_fresh(300)
    with pytest.raises(InsufficientScope):
        caller.require("orders:write")


async def test_both_guards_see_the_same_caller(
    http: httpx.AsyncClient, introspector: Introspector, person: Person
) -> None:
    told = await introspector.ask(http, person.access_token)
    caller = await let_in(JwksGuard(ISSUER, ISSUER, http=http), person.access_token)

    assert {"active": True, "token_type": "Bearer", **caller.claims} == told


@pytest.mark.standard("SE-15")
@pytest.mark.parametrize("claim", ["sid", "jti"])
async def test_after_a_sign_out_the_token_lives_on_here_unless_a_denylist_names_it(
    http: httpx.AsyncClient, person: Person, claim: str
) -> None:
    denied: set[object] = set()

    def is_revoked(claims: Mapping[str, Any]) -> bool:
        return claims[claim] in denied

    guard = JwksGuard(ISSUER, ISSUER, http=http, is_revoked=is_revoked)
    await http.post("/auth/logout", json={"refresh_token": person.refresh_token})
    caller = await let_in(guard, person.access_token)
    denied.add(caller.claims[claim])

    assert_invalid(await refusal(guard, person.access_token))


@pytest.mark.standard("SE-15", "AT-04")
async def test_a_token_of_the_service_dies_ten_minutes_and_the_leeway_after_its_birth(
    http: httpx.AsyncClient, person: Person, passing: Passing
) -> None:
    guard = JwksGuard(ISSUER, ISSUER, http=http)
    born = (await let_in(guard, person.access_token)).claims["iat"]
    passing.seconds = born + 629 - passing.began
    await let_in(guard, person.access_token)
    passing.seconds += 1

    assert_invalid(await refusal(guard, person.access_token))


@pytest.mark.standard("AT-06", "AT-31")
@pytest.mark.parametrize(
    "expected",
    [
        {"issuer": ISSUER, "audience": "https://other.test"},
        {"issuer": ISSUER, "audience": ISSUER + "/"},
        {"issuer": ISSUER + "/", "audience": ISSUER},
        {"issuer": "https://other.test", "audience": ISSUER, "url": ISSUER},
    ],
)
async def test_a_token_of_the_service_is_refused_where_another_issuer_or_audience_is_expected(
    http: httpx.AsyncClient, person: Person, expected: dict[str, Any]
) -> None:
    assert_invalid(await refusal(JwksGuard(http=http, **expected), person.access_token))


@pytest.mark.standard("AT-05")
async def test_a_refresh_token_opens_nothing(http: httpx.AsyncClient, person: Person) -> None:
    assert_invalid(await refusal(JwksGuard(ISSUER, ISSUER, http=http), person.refresh_token))


# Signature, algorithm, key


@pytest.mark.standard("AT-26")
async def test_the_forge_of_these_tests_makes_good_tokens(guard: JwksGuard) -> None:
    caller = await let_in(guard, signed())

    assert (caller.client_id, caller.roles, caller.scope) == (
        "web",
        frozenset({"admin"}),
        frozenset({"orders:read", "orders:write"}),
    )


@pytest.mark.standard("AT-01")
async def test_no_character_of_a_token_can_be_changed(guard: JwksGuard, issuer: StandIn) -> None:
    token = signed()
    for place in [*range(0, len(token), 7), *range(len(token) - 90, len(token))]:
        if token[place] == ".":
            continue
        other = ALPHABET[(ALPHABET.index(token[place]) + 1) % 64]
        await assert_refused(guard, issuer, token[:place] + other + token[place + 1 :])
    assert (await let_in(guard, token)).claims["sub"] == live()["sub"]


@pytest.mark.standard("AT-01", "AT-31")
async def test_a_token_of_another_issuers_key_that_claims_to_be_ours_is_refused(
    guard: JwksGuard, issuer: StandIn
) -> None:
    await assert_refused(guard, issuer, forged(HEADER, live(), STRANGER))
    await assert_refused(guard, issuer, signed(key=NEXT_KEY))


@pytest.mark.standard("AT-02", "AT-26", "AT-30")
@pytest.mark.parametrize(
    "alg",
    ["none", "None", "nOnE", "", None, 0, [], "ES384", "ES512", "ES256K", "RS256", "PS256", "HS256", "EdDSA", "es256"],
)
async def test_another_algorithm_in_the_header_is_refused_although_the_signature_is_good(
    guard: JwksGuard, issuer: StandIn, alg: Any
) -> None:
    token = signed(alg=alg)

    await assert_refused(guard, issuer, token)
    for tail in ("", "AA", "A" * 86):
        await assert_refused(guard, issuer, f"{token.rpartition('.')[0]}.{tail}")


PUBLIC = OWN_KEY.private.public_key()
PEM = PUBLIC.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


@pytest.mark.standard("AT-02", "AT-30")
@pytest.mark.parametrize("secret", [PEM, PEM.strip(), json.dumps(OWN_KEY.jwk).encode(), b""])
@pytest.mark.parametrize("alg", ["HS256", "HS512", "ES256"])
async def test_a_token_keyed_with_the_public_key_is_refused(
    guard: JwksGuard, issuer: StandIn, secret: bytes, alg: str
) -> None:
    digest = hashlib.sha512 if alg == "HS512" else hashlib.sha256
    message = f"{part({**HEADER, 'alg': alg})}.{part(live())}"
    mac = hmac.new(secret, message.encode(), digest).digest()

    await assert_refused(guard, issuer, f"{message}.{encoded(mac)}")
    await assert_refused(guard, issuer, f"{message}.{encoded((mac * 2)[:64])}")


@pytest.mark.standard("AT-02", "AT-30")
async def test_a_token_of_another_kind_of_key_is_refused_even_if_that_key_is_published(issuer: StandIn) -> None:
    private = rsa.generate_private_key(65537, 2048)
    jwk = jwt.algorithms.RSAAlgorithm.to_jwk(private.public_key(), as_dict=True)
    issuer.answer = publishing(OWN_KEY, {**jwk, "kid": "rsa", "use": "sig", "alg": "RS256"})
    guard = trusting(issuer)
    await let_in(guard, signed())

    for alg in ("RS256", "PS256"):
        token = jwt.encode(live(), private, algorithm=alg, headers={"kid": "rsa", "typ": "at+jwt"})
        await assert_refused(guard, issuer, token)


WIDE = jwt.algorithms.ECAlgorithm.to_jwk(ec.generate_private_key(ec.SECP384R1()).public_key(), as_dict=True)


@pytest.mark.standard("AT-30")
@pytest.mark.parametrize(
    "record",
    [
        {**NEXT_KEY.jwk, "alg": "ES384"},
        {**NEXT_KEY.jwk, "alg": "ECDH-ES"},
        without(NEXT_KEY.jwk, "alg"),
        {**NEXT_KEY.jwk, "use": "enc"},
        without(NEXT_KEY.jwk, "use"),
        {**NEXT_KEY.jwk, "crv": "secp256k1"},
        {**WIDE, "kid": NEXT_KEY.kid, "use": "sig", "alg": "ES384"},
        {"kty": "oct", "k": "c2VjcmV0", "kid": NEXT_KEY.kid, "use": "sig", "alg": "ES256"},
        without(NEXT_KEY.jwk, "kid"),
        {**NEXT_KEY.jwk, "kid": None},
        {**NEXT_KEY.jwk, "kid": [NEXT_KEY.kid]},
    ],
)
async def test_a_published_key_that_is_not_for_es256_verifies_nothing_and_disturbs_nothing(
    issuer: StandIn, record: dict[str, Any]
) -> None:
    issuer.answer = publishing(OWN_KEY, record)
    guard = trusting(issuer)

    await assert_refused(guard, issuer, signed(key=NEXT_KEY))
    await let_in(guard, signed())


# The header


@pytest.mark.standard("AT-03", "AT-26", "AT-32")
@pytest.mark.parametrize(
    "more",
    [
        {"jwk": OUTSIDE_KEY},
        {"jku": "https://evil.test/jwks.json"},
        {"jku": JWKS_URL},
        {"x5u": "https://evil.test/cert.pem"},
        {"x5c": ["AAAA"]},
        {"x5t": "AAAA"},
        {"crit": ["exp"], "exp": 1},
        {"crit": []},
        {"b64": False, "crit": ["b64"]},
        {"b64": True},
        {"zip": "DEF"},
    ],
    ids=lambda more: str(next(iter(more))),
)
@pytest.mark.parametrize("private", [OWN_KEY.private, STRANGER], ids=["our key", "another key"])
async def test_a_header_that_brings_a_key_or_a_condition_is_refused_and_nothing_is_fetched(
    guard: JwksGuard, issuer: StandIn, more: dict[str, Any], private: ec.EllipticCurvePrivateKey
) -> None:
    await assert_refused(guard, issuer, forged({**HEADER, **more}, live(), private))
    assert issuer.asked == []


@pytest.mark.standard("AT-05", "AT-26", "AT-33")
@pytest.mark.parametrize(
    "typ",
    [
        *("JWT", "jwt", "logout+jwt", "dpop+jwt", "token-introspection+jwt", "client-authentication+jwt"),
        *("", "at", "at+jwt ", "x/at+jwt", None, 1, ["at+jwt"]),
    ],
)
async def test_a_token_of_another_kind_is_refused(guard: JwksGuard, issuer: StandIn, typ: Any) -> None:
    await assert_refused(guard, issuer, signed(typ=typ))


@pytest.mark.standard("AT-33")
@pytest.mark.parametrize("typ", ["at+jwt", "AT+JWT", "application/at+jwt", "Application/at+JWT"])
async def test_the_kind_is_read_as_a_media_type(guard: JwksGuard, typ: str) -> None:
    await let_in(guard, signed(typ=typ))


@pytest.mark.standard("AT-05", "AT-26", "AT-30", "AT-32")
@pytest.mark.parametrize("name", ["typ", "alg", "kid"])
async def test_a_header_that_lacks_a_member_is_refused(guard: JwksGuard, issuer: StandIn, name: str) -> None:
    await assert_refused(guard, issuer, forged(without(HEADER, name), live(), OWN_KEY.private))


@pytest.mark.standard("AT-32")
@pytest.mark.parametrize(
    "kid",
    [
        *("", "../../../../dev/null", "/etc/passwd", "' OR 1=1--", "x" * 2_000, "x" * 10_000, "\x00", "\ud800"),
        *(OWN_KEY.kid + " ", OWN_KEY.kid + "\x00", OWN_KEY.kid.swapcase(), OWN_KEY.kid[:-1]),
        *([OWN_KEY.kid], {"kid": OWN_KEY.kid}, None, 0, True, "https://evil.test/key"),
    ],
)
async def test_a_key_id_that_is_not_published_is_refused(guard: JwksGuard, issuer: StandIn, kid: Any) -> None:
    await assert_refused(guard, issuer, signed(kid=kid))


@pytest.mark.standard("AT-29")
@pytest.mark.parametrize("first", ['"alg":"none",', '"kid":"other",', '"typ":"JWT",', '"typ":"at+jwt",'])
async def test_a_header_that_says_something_twice_is_refused(guard: JwksGuard, issuer: StandIn, first: str) -> None:
    header = "{" + first + json.dumps(HEADER)[1:]

    await assert_refused(guard, issuer, forged(header.encode(), live(), OWN_KEY.private))


TEXT = json.dumps(HEADER).encode()


@pytest.mark.standard("AT-34", "AT-32")
@pytest.mark.parametrize(
    "header",
    [
        *(b"null", b"[]", b'"ES256"', b"{", TEXT + b"{}", b"\xef\xbb\xbf" + TEXT, TEXT.decode().encode("utf-16")),
        *(TEXT.replace(b"at+jwt", b"at+jwt\xff"), b"[" * 2_500, b'{"kid":' * 300),
    ],
    ids=lambda raw: repr(raw[:20]),
)
async def test_a_header_that_is_no_plain_json_is_refused(guard: JwksGuard, issuer: StandIn, header: bytes) -> None:
    await assert_refused(guard, issuer, forged(header, live(), OWN_KEY.private))


# The claims

NOW, DAY = int(time.time()), 86_400


@pytest.mark.standard("AT-04", "AT-06", "AT-08", "AT-26")
@pytest.mark.parametrize("name", ["iss", "exp", "aud", "sub", "client_id", "iat", "jti"])
async def test_a_token_that_lacks_a_required_claim_is_refused(guard: JwksGuard, issuer: StandIn, name: str) -> None:
    await assert_refused(guard, issuer, signed(without(live(), name)))


@pytest.mark.standard("AT-04", "AT-06", "AT-26", "AT-29", "AT-31")
@pytest.mark.parametrize(
    "wrong",
    [
        {"iss": "https://evil.test"},
        {"iss": ISSUER.upper()},
        {"iss": ISSUER + "/"},
        {"iss": ISSUER.replace("https", "http")},
        {"iss": [ISSUER]},
        {"iss": None},
        {"aud": "https://other.test"},
        {"aud": AUDIENCE + "/"},
        {"aud": AUDIENCE.upper()},
        {"aud": AUDIENCE[:-1]},
        {"aud": f"{AUDIENCE} https://other.test"},
        {"aud": ["https://other.test"]},
        {"aud": []},
        {"aud": ""},
        {"aud": {AUDIENCE: True}},
        {"aud": [AUDIENCE, 7]},
        {"aud": [[AUDIENCE]]},
        {"aud": None},
        {"aud": "web"},
        {"sub": ""},
        {"sub": None},
        {"sub": 7},
        {"client_id": ["web"]},
        {"jti": 7},
        {"exp": NOW - 61},
        {"exp": str(NOW + 600)},
        {"exp": NOW + 600.5},
        {"exp": float("nan")},
        {"exp": float("inf")},
        {"exp": 10**30},
        {"exp": True},
        {"exp": None},
        {"exp": -1},
        {"exp": [NOW + 600]},
        {"iat": NOW + DAY},
        {"iat": str(NOW)},
        {"nbf": NOW + DAY},
        {"nbf": str(NOW)},
        {"nbf": None},
        {"auth_time": str(NOW)},
        {"auth_time": float("inf")},
        {"scope": ["orders:read"]},
        {"roles": "admin"},
        {"roles": [["admin"]]},
        {"cnf": {"jkt": "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"}},
    ],
    ids=lambda wrong: str(next(iter(wrong))),
)
async def test_a_token_with_a_wrong_claim_is_refused(guard: JwksGuard, issuer: StandIn, wrong: dict[str, Any]) -> None:
    await assert_refused(guard, issuer, signed(live(**wrong)))


@pytest.mark.standard("AT-29")
async def test_claims_have_their_very_names(guard: JwksGuard, issuer: StandIn) -> None:
    for name in ("iss", "aud", "exp", "sub"):
        claims = live()
        claims[name.upper()] = claims.pop(name)
        await assert_refused(guard, issuer, signed(claims))


@pytest.mark.standard("AT-06")
async def test_a_token_for_several_of_whom_we_are_one_is_good(guard: JwksGuard) -> None:
    await let_in(guard, signed(live(aud=["https://other.test", AUDIENCE])))


@pytest.mark.standard("AT-04")
@pytest.mark.parametrize("leeway", [0, 30, 60])
async def test_the_times_hold_to_the_second(issuer: StandIn, passing: Passing, leeway: int) -> None:
    guard = trusting(issuer, leeway=leeway)
    at = passing.began
    for good in ({"exp": at - leeway + 1}, {"iat": at + leeway}, {"nbf": at + leeway}, {"nbf": at - 5}):
        await let_in(guard, signed({**live(iat=at - 600), **good}))
    for wrong in ({"exp": at - leeway}, {"exp": at - 61}, {"iat": at + leeway + 1}, {"nbf": at + leeway + 1}):
        await assert_refused(guard, issuer, signed({**live(iat=at - 600), **wrong}))


@pytest.mark.standard("AT-04")
@pytest.mark.parametrize("leeway", [61, 3600, -1])
async def test_a_longer_leeway_is_not_to_be_had(leeway: int) -> None:
    with pytest.raises(ValueError, match="leeway"):
        JwksGuard(ISSUER, AUDIENCE, leeway=leeway)


PAYLOAD = json.dumps(live(exp=NOW + DAY)).encode()


@pytest.mark.standard("AT-29")
@pytest.mark.parametrize(
    "first",
    [b'"exp":9999999999,', b'"aud":"https://other.test",', b'"sub":"x",', b'"roles":[],', b'"x":{"a":1,"a":2},'],
)
async def test_a_payload_that_says_something_twice_is_refused(guard: JwksGuard, issuer: StandIn, first: bytes) -> None:
    await let_in(guard, signed(PAYLOAD))

    await assert_refused(guard, issuer, signed(b"{" + first + PAYLOAD[1:]))


@pytest.mark.standard("AT-34", "AT-26")
@pytest.mark.parametrize(
    "payload",
    [
        *(b"null", b"[]", b'"sub"', b"{}", b"{", PAYLOAD + b"{}", b"[" * 2_000, b"\xef\xbb\xbf" + PAYLOAD),
        *(PAYLOAD.decode().encode("utf-16"), PAYLOAD.decode().encode("utf-16-le"), PAYLOAD.replace(b"web", b"w\xff")),
    ],
    ids=lambda raw: repr(raw[:20]),
)
async def test_a_payload_that_is_no_plain_json_object_is_refused(
    guard: JwksGuard, issuer: StandIn, payload: bytes
) -> None:
    await assert_refused(guard, issuer, signed(payload))


@pytest.mark.standard("AT-32")
async def test_a_token_beyond_the_size_limit_is_refused_unread(guard: JwksGuard, issuer: StandIn) -> None:
    await assert_refused(guard, issuer, signed(live(padding="x" * 4096)))
    assert issuer.asked == []
    await let_in(guard, signed(live(padding="x" * 2000)))


@pytest.mark.standard("AT-01", "AT-32")
@pytest.mark.parametrize(
    "mangle",
    [
        lambda token: token + ".",
        lambda token: "." + token,
        lambda token: token + "=",
        lambda token: token.replace(".", "..", 1),
        lambda token: token.rpartition(".")[0],
        lambda token: token.rpartition(".")[0] + ".",
        lambda token: token.partition(".")[2],
        lambda token: "A" + token,
        lambda token: token + "A",
        lambda token: token[:-1],
        lambda token: f"{token}.{token}",
        lambda _: "garbage",
        lambda _: "a.b.c",
        lambda _: "....",
        lambda _: "a." + "b." + "A" * 86,
    ],
)
async def test_what_is_not_three_whole_parts_is_refused(
    guard: JwksGuard, issuer: StandIn, mangle: Callable[[str], str]
) -> None:
    await assert_refused(guard, issuer, mangle(signed()))


@pytest.mark.standard("AT-11")
async def test_a_service_that_speaks_for_itself_has_no_roles_and_is_never_fresh(guard: JwksGuard) -> None:
    caller = await let_in(guard, signed(of_a_service()))

    assert (caller.subject, caller.client_id, caller.roles) == ("billing", "billing", frozenset())
    with pytest.raises(StaleAuthentication):
        caller.require_fresh(10**12)


@pytest.mark.standard("SE-15")
async def test_a_denylist_sees_only_what_has_been_verified(issuer: StandIn) -> None:
    seen: list[Mapping[str, Any]] = []

    def is_revoked(claims: Mapping[str, Any]) -> bool:
        seen.append(claims)
        return True

    guard = trusting(issuer, is_revoked=is_revoked)
    for token in (forged(HEADER, live(), STRANGER), signed(live(aud="https://other.test")), signed(live(exp=1))):
        await assert_refused(guard, issuer, token)
    assert seen == []
    await assert_refused(guard, issuer, signed())

    assert [claims["sid"] for claims in seen] == [live()["sid"]]


# Keys that come and go


@pytest.mark.standard("SO-25")
async def test_a_new_key_is_found_without_a_restart(guard: JwksGuard, issuer: StandIn, passing: Passing) -> None:
    await let_in(guard, signed())
    issuer.answer = publishing(OWN_KEY, NEXT_KEY)
    passing.seconds = 10

    await let_in(guard, signed(key=NEXT_KEY))
    await let_in(guard, signed())
    assert len(issuer.asked) == 2


@pytest.mark.standard("AT-32", "SO-25")
async def test_a_flood_of_unknown_key_ids_asks_once_per_cooldown(
    guard: JwksGuard, issuer: StandIn, passing: Passing
) -> None:
    for seconds, questions in ((0, 1), (9, 1), (10, 2), (19, 2), (20, 3)):
        passing.seconds = seconds
        refused = await asyncio.gather(*(refusal(guard, signed(kid=f"unknown-{n}")) for n in range(20)))
        for one in refused:
            assert_invalid(one)
        assert len(issuer.asked) == questions


def slow(response: httpx.Response) -> Callable[[httpx.Request], Awaitable[httpx.Response]]:
    async def respond(_: httpx.Request) -> httpx.Response:
        await asyncio.sleep(0.02)
        return response

    return respond


async def test_a_rush_at_the_first_moment_asks_once_and_everybody_is_let_in(guard: JwksGuard, issuer: StandIn) -> None:
    issuer.answer = slow(publishing(OWN_KEY))
    await asyncio.gather(*(let_in(guard, signed()) for _ in range(20)))

    assert len(issuer.asked) == 1


async def test_a_rush_with_a_new_key_asks_once_and_everybody_is_let_in(
    guard: JwksGuard, issuer: StandIn, passing: Passing
) -> None:
    await let_in(guard, signed())
    issuer.answer = slow(publishing(OWN_KEY, NEXT_KEY))
    passing.seconds = 10
    await asyncio.gather(*(let_in(guard, signed(key=NEXT_KEY)) for _ in range(20)))

    assert len(issuer.asked) == 2


TROUBLE: list[httpx.Response | Exception] = [
    httpx.Response(500),
    httpx.Response(503),
    httpx.Response(404),
    httpx.Response(429),
    httpx.Response(302, headers={"location": "https://evil.test/jwks.json"}),
    httpx.ConnectError("refused"),
    httpx.ReadTimeout("slow"),
    httpx.Response(200, content=b"<html>"),
    httpx.Response(200, json=[]),
    httpx.Response(200, json={}),
    httpx.Response(200, json={"keys": []}),
    httpx.Response(200, json={"keys": "none"}),
    httpx.Response(200, json={"keys": [7]}),
    httpx.Response(200, json={"keys": [{**OWN_KEY.jwk, "alg": "RS256"}]}),
    httpx.Response(200, json={"keys": [{**OWN_KEY.jwk, "x": OWN_KEY.jwk["y"]}]}),
    httpx.Response(200, json={"keys": [{**OWN_KEY.jwk, "x": None}]}),
    httpx.Response(200, content=b'{"keys":[],"keys":[' + json.dumps(NEXT_KEY.jwk).encode() + b"]}"),
]


def trouble_id(trouble: httpx.Response | Exception) -> str:
    return f"{trouble.status_code} {trouble.text[:20]}" if isinstance(trouble, httpx.Response) else repr(trouble)


@pytest.mark.standard("PF-39", "SO-25")
@pytest.mark.parametrize("trouble", TROUBLE, ids=trouble_id)
async def test_the_known_keys_outlive_an_issuer_in_trouble(
    guard: JwksGuard, issuer: StandIn, passing: Passing, trouble: httpx.Response | Exception
) -> None:
    await let_in(guard, signed())
    issuer.answer = trouble
    for seconds in (10, 600, 6000):
        passing.seconds = seconds
        assert_unavailable(await refusal(guard, signed(live(exp=NOW + DAY), kid="a key we could not look for")))
        await let_in(guard, signed(live(exp=NOW + DAY)))
    issuer.answer = publishing(OWN_KEY)
    passing.seconds = 6010
    assert_invalid(await refusal(guard, signed(live(exp=NOW + DAY), kid="a key that is none")))
    assert {request.url.host for request in issuer.asked} == {"auth.test"}


@pytest.mark.standard("PF-39")
@pytest.mark.parametrize("trouble", TROUBLE, ids=trouble_id)
async def test_before_any_key_is_known_nothing_is_refused_as_invalid(
    guard: JwksGuard, issuer: StandIn, passing: Passing, trouble: httpx.Response | Exception
) -> None:
    issuer.answer = trouble
    assert_unavailable(await refusal(guard, signed()))
    assert_unavailable(await refusal(guard, signed()))
    assert len(issuer.asked) == 1
    issuer.answer = publishing(OWN_KEY)
    passing.seconds = 10

    await let_in(guard, signed())


@pytest.mark.standard("PF-39")
async def test_an_issuer_that_hangs_holds_up_nobody_whose_key_is_known(issuer: StandIn, passing: Passing) -> None:
    guard = trusting(issuer, timeout=0.2)
    await let_in(guard, signed())

    async def hang(_: httpx.Request) -> httpx.Response:
        await asyncio.sleep(60)
        return publishing(OWN_KEY)

    issuer.answer = hang
    passing.seconds = 600
    searching = asyncio.create_task(refusal(guard, signed(kid="unknown")))
    await asyncio.sleep(0)
    await let_in(guard, signed(live(exp=NOW + DAY)))
    assert not searching.done()

    assert_unavailable(await searching)


@pytest.mark.standard("SO-25")
async def test_a_key_that_is_no_longer_published_is_believed_ten_minutes_at_most(
    guard: JwksGuard, issuer: StandIn, passing: Passing
) -> None:
    await let_in(guard, signed())
    issuer.answer = publishing(NEXT_KEY)
    passing.seconds = 599
    await let_in(guard, signed())
    assert len(issuer.asked) == 1
    passing.seconds = 600

    await assert_refused(guard, issuer, signed(live(exp=NOW + DAY)))
    await let_in(guard, signed(live(exp=NOW + DAY), key=NEXT_KEY))


async def test_a_question_that_was_broken_off_is_no_answer(guard: JwksGuard, issuer: StandIn, passing: Passing) -> None:
    """The one caller who asked for the keys may hang up: nobody else's token becomes invalid by that."""
    await let_in(guard, signed())
    issuer.answer = slow(publishing(OWN_KEY, NEXT_KEY))
    passing.seconds = 10
    asking = asyncio.create_task(let_in(guard, signed(key=NEXT_KEY)))
    await asyncio.sleep(0.005)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking

    assert_unavailable(await refusal(guard, signed(key=NEXT_KEY)))
    passing.seconds = 20
    await let_in(guard, signed(key=NEXT_KEY))


async def test_keys_of_an_issuer_elsewhere_are_asked_for_at_the_given_address(issuer: StandIn) -> None:
    await let_in(trusting(issuer, url="http://vestibule.internal:8000/"), signed())

    assert [str(request.url) for request in issuer.asked] == ["http://vestibule.internal:8000/.well-known/jwks.json"]


async def test_a_refusal_is_one_kind_of_exception() -> None:
    with pytest.raises(Refused):
        await JwksGuard(ISSUER, AUDIENCE).caller([])
