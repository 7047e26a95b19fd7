"""Signed answers of introspection (RFC 9701): proof for whoever asked, and never a token of any kind."""

import asyncio
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from service.wiring import Services
from tests.conftest import ISSUER, Person
from tests.oauth.acting import (
    Software,
    assert_error,
    assert_inactive,
    bearer,
    claims_of,
    forged,
    header_of,
    new_api,
    new_backend,
    new_front_end,
    new_service,
    session_through,
)

SIGNED = "application/token-introspection+jwt"
ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"


async def ask(http: httpx.AsyncClient, caller: Software, token: str, accept: str = SIGNED) -> httpx.Response:
    """The answer to whom says what it accepts."""
    auth = (caller.client_id, caller.secret)
    return await http.post("/introspect", data={"token": token}, auth=auth, headers={"Accept": accept})


async def proved(http: httpx.AsyncClient, caller: Software, answer: httpx.Response) -> dict[str, Any]:
    """The claims of a signed answer, proved as its receiver would: by the JWKS that everybody can read."""
    assert (answer.status_code, answer.headers["content-type"]) == (200, SIGNED), answer.text
    assert (answer.headers["cache-control"], answer.headers["pragma"]) == ("no-store", "no-cache")
    keys = jwt.PyJWKSet.from_dict((await http.get("/.well-known/jwks.json")).json())
    head = header_of(answer.text)
    assert (set(head), head["typ"], head["alg"]) == ({"alg", "kid", "typ"}, "token-introspection+jwt", "ES256")
    claims: dict[str, Any] = jwt.decode(
        answer.text, keys[head["kid"]], algorithms=["ES256"], audience=caller.client_id, issuer=ISSUER
    )
    assert set(claims) == {"iss", "aud", "iat", "token_introspection"}
    assert (claims["aud"], type(claims["iat"])) == (caller.client_id, int)
    return claims


@pytest.mark.standard("IN-17", "IN-11", "W-X")
async def test_a_signed_answer_says_what_the_plain_one_says_and_for_whom(
    http: httpx.AsyncClient, services: Services
) -> None:
    api = await new_api(services)
    client = await new_backend(services, api, serves=[api.identifier, ISSUER])
    _, grant = await session_through(services, client)
    machine = await client.token(http, resource=api.identifier)
    for token in (grant.access_token, grant.refresh_token, machine):
        plain = await client.introspect(http, token)
        claims = await proved(http, client, await ask(http, client, token))
        assert claims["token_introspection"] == plain.json()
        assert claims["token_introspection"]["active"] is True
        assert plain.headers["content-type"] == "application/json"
    assert abs(claims["iat"] - services.clock().timestamp()) < 60


@pytest.mark.standard("IN-18", "IN-06", "IN-13")
async def test_of_a_token_that_is_not_alive_or_not_for_the_caller_it_says_that_alone(
    http: httpx.AsyncClient, services: Services
) -> None:
    api = await new_api(services)
    caller, other = await new_service(services, serves=[api.identifier]), await new_backend(services)
    _, grant = await session_through(services, other)
    for token in (grant.access_token, grant.refresh_token, "garbage", "a" * 60_000):
        claims = await proved(http, caller, await ask(http, caller, token))
        assert claims["token_introspection"] == {"active": False}


@pytest.mark.standard("IN-17", "W-I")
async def test_it_is_signed_for_whoever_names_that_kind_and_for_nobody_else(
    http: httpx.AsyncClient, services: Services
) -> None:
    client = await new_service(services)
    token = await client.token(http)
    for accept in (SIGNED, SIGNED.upper(), f"{SIGNED};q=0.9", f"text/html, {SIGNED}", f" {SIGNED} ; q=1"):
        await proved(http, client, await ask(http, client, token, accept))
    none = [f"{SIGNED};q={zero}" for zero in ("0", "0.0", "0.00", "0.000")]
    for accept in (*none, "*/*", "application/*", "application/json", "application/jwt", f"{SIGNED}x", "nonsense", ""):
        answer = await ask(http, client, token, accept)
        assert answer.headers["content-type"] == "application/json", accept
        assert answer.json()["active"] is True


@pytest.mark.standard("IN-02", "IN-03", "IN-17")
async def test_a_refusal_is_never_signed(http: httpx.AsyncClient, services: Services) -> None:
    client = await new_service(services)
    without_right = await new_service(services, may_introspect=False)
    assert_error(await ask(http, Software(client.client_id, "wrong"), "x"), 401, "invalid_client")
    assert_error(await ask(http, without_right, "x"), 403, "unauthorized_client")
    assert_error(await ask(http, client, ""), 400, "invalid_request")


@pytest.mark.standard("IN-18", "AT-05", "AT-33", "W-X")
async def test_a_signed_answer_is_no_token(http: httpx.AsyncClient, services: Services) -> None:
    client = await new_backend(services)
    _, grant = await session_through(services, client)
    for about in (grant.access_token, await client.token(http), "garbage"):
        signed = (await ask(http, client, about)).text
        assert (await http.get("/me", headers=bearer(signed))).status_code == 401
        assert (await http.get("/admin/clients", headers=bearer(signed))).status_code == 401
        assert_inactive(await client.introspect(http, signed))
        assert_error(await client.refresh(http, signed), 400, "invalid_grant")
        assert (await client.revoke(http, signed)).status_code == 200
    assert await client.sees(http, grant.access_token)


def as_assertion(proof: str) -> dict[str, str]:
    """A form in which a client proves itself by a JWT."""
    return {"client_assertion_type": ASSERTION_TYPE, "client_assertion": proof, "grant_type": "client_credentials"}


@pytest.mark.standard("IN-18", "AT-05", "AT-33", "AT-51")
async def test_nothing_that_we_sign_proves_a_client_even_if_it_is_registered_with_our_keys(
    http: httpx.AsyncClient, services: Services
) -> None:
    ours = (await http.get("/.well-known/jwks.json")).json()
    methods = ["private_key_jwt", "client_secret_basic"]
    client = await new_service(services, jwks=ours, auth_methods=methods)
    token = await client.token(http)
    mine = {"iss": client.client_id, "sub": client.client_id, "aud": ISSUER, "jti": "a"}
    claims = {**claims_of(token), **mine, "exp": claims_of(token)["iat"] + 200}
    for typ in ("at+jwt", "token-introspection+jwt", "logout+jwt", "dpop+jwt"):
        answer = await http.post("/token", data=as_assertion(forged(services, claims, typ=typ)))
        assert_error(answer, 401, "invalid_client")
    for proof in (token, (await ask(http, client, token)).text):
        assert_error(await http.post("/token", data=as_assertion(proof)), 401, "invalid_client")
    believed = await http.post("/token", data=as_assertion(forged(services, claims, typ="JWT")))
    assert believed.status_code == 200  # so it was the kind alone


@pytest.mark.standard("AT-05", "AT-33", "IN-18", "W-X")
async def test_every_kind_of_token_is_taken_where_it_belongs_and_nowhere_else(
    http: httpx.AsyncClient, services: Services, person: Person
) -> None:
    private = ec.generate_private_key(ec.SECP256R1())
    jwk = jwt.algorithms.ECAlgorithm.to_jwk(private.public_key(), as_dict=True)
    api, front_end = await new_api(services), await new_front_end(services)
    methods = ["private_key_jwt", "client_secret_basic"]
    values = {"jwks": {"keys": [jwk]}, "auth_methods": methods, "serves": [ISSUER], "scopes": api.scopes}
    client = await new_service(services, audiences=[api.identifier], **values)
    _, grant = await session_through(services, front_end)
    claims = claims_of(grant.access_token)
    now = claims["iat"]
    mine = {"iss": client.client_id, "sub": client.client_id, "aud": ISSUER, "iat": now, "exp": now + 200}
    identity = {**claims, "aud": client.client_id, "nonce": "n"}
    kinds = {
        "a person's": grant.access_token,
        "a service's": await client.token(http, resource=ISSUER),
        "for another API": await client.token(http),
        "refresh": grant.refresh_token,
        "assertion": jwt.encode({**mine, "jti": "once"}, private, algorithm="ES256"),
        "introspection": (await ask(http, client, grant.access_token)).text,
        "ID": forged(services, identity, typ="JWT"),
        "ID for us": forged(services, claims, typ="JWT"),
        "logout": forged(services, {**claims, "events": {}}, typ="logout+jwt"),
        "DPoP": forged(services, {"htm": "GET", "htu": f"{ISSUER}/me", "iat": now, "jti": "x"}, typ="dpop+jwt"),
        "secret": client.secret,
    }
    taken = {
        "me": {"a person's"},
        "introspect": {"a person's", "a service's"},
        "refresh": {"refresh"},
        "assertion": {"assertion"},
    }
    found: dict[str, set[str]] = {name: set() for name in taken}
    proofs = await asyncio.gather(*(http.post("/token", data=as_assertion(token)) for token in kinds.values()))
    found["assertion"] = {name for name, proof in zip(kinds, proofs, strict=True) if proof.status_code == 200}
    for name, token in kinds.items():
        opened = {
            "me": (await http.get("/me", headers=bearer(token))).status_code == 200,
            "introspect": await client.sees(http, token),
            "refresh": (await front_end.refresh(http, token)).status_code == 200,
        }
        for consumer, is_taken in opened.items():
            found[consumer] |= {name} if is_taken else set()
    assert found == taken
