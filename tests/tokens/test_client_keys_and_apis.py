"""What keys and APIs may be registered, and that no JSON whatsoever brings a registration down."""

import json
import secrets
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from service.errors import InvalidInput
from service.tokens.client_administration import ClientChanges
from service.tokens.clients import Api
from service.wiring import Services
from tests.deeds import bearer, field_codes, sign_in, with_account
from tests.tokens.test_client_rules import BY_KEY, GOOD_KEY, Problems, fresh_id, jwk, refused


@pytest.mark.standard("KY-07", "KY-28", "AT-02")
async def test_only_strong_public_keys_are_registered(services: Services) -> None:
    strong = rsa.generate_private_key(65537, 3072)
    good: list[Any] = [
        {"keys": [GOOD_KEY]},
        {"keys": [jwk(strong, "PS256", alg="PS256", use="sig"), GOOD_KEY], "more": "is ignored"},
        {"keys": [{**GOOD_KEY, "kid": str(number)} for number in range(10)]},
        {"keys": [jwk(strong, "PS256"), jwk(strong, "PS256")]},
    ]
    for jwks in good:
        assert await refused(services, fresh_id(), auth_methods=BY_KEY, jwks=jwks) == [], jwks
    other_curve = ec.generate_private_key(ec.SECP384R1())
    private = json.loads(jwt.get_algorithm_by_name("ES256").to_jwk(ec.generate_private_key(ec.SECP256R1())))
    assert "d" in private
    wrong: dict[str, Any] = {
        "nothing": {},
        "no keys": {"keys": []},
        "no list": {"keys": GOOD_KEY},
        "no key": {"keys": ["key"]},
        "eleven": {"keys": [{**GOOD_KEY, "kid": str(number)} for number in range(11)]},
        "one kid twice": {"keys": [GOOD_KEY, GOOD_KEY]},
        "a private key": {"keys": [private]},
        "a secret": {"keys": [{"kty": "oct", "k": "c2VjcmV0"}]},
        "a short key": {"keys": [jwk(rsa.generate_private_key(65537, 2048), "PS256")]},
        "another curve": {"keys": [jwk(other_curve, "ES384")]},
        "a point off the curve": {"keys": [{**GOOD_KEY, "y": GOOD_KEY["x"]}]},
        "a short coordinate": {"keys": [{**GOOD_KEY, "x": "AA"}]},
        "no coordinate": {"keys": [{"kty": "EC", "crv": "P-256"}]},
        "RS256": {"keys": [jwk(strong, "PS256", alg="RS256")]},
        "for encryption": {"keys": [{**GOOD_KEY, "use": "enc"}]},
        "an unknown kind": {"keys": [{"kty": "OKP", "crv": "Ed25519", "x": "AA"}]},
        "no kind": {"keys": [{}]},
    }
    for name, jwks in wrong.items():
        problems = await refused(services, fresh_id(), auth_methods=BY_KEY, jwks=jwks)
        assert problems == [("jwks", "jwks_invalid")], name


async def test_a_refused_key_is_told_what_it_must_be(services: Services) -> None:
    changes = ClientChanges(auth_methods=BY_KEY, jwks={"keys": [{"kty": "OKP"}]})
    with pytest.raises(InvalidInput) as refusal:
        await services.client_administration.register(fresh_id(), changes, confidential=True)

    (problem,) = refusal.value.fields
    assert "EC P-256 (ES256) or RSA (PS256)" in problem.detail


@pytest.mark.standard("AT-07", "AT-23", "AT-17")
async def test_an_api_is_an_absolute_uri_with_scopes_of_its_own(services: Services) -> None:
    async def problems(identifier: str, name: str = "Api", scopes: tuple[str, ...] = ()) -> Problems:
        with pytest.raises(InvalidInput) as refusal:
            await services.client_administration.register_api(identifier, name, scopes)
        return [(problem.field, problem.code) for problem in refusal.value.fields]

    fine = f"urn:{secrets.token_hex(6)}:orders"
    for identifier in ("", "orders", "/orders", "//orders.test", "https://", "https://a.test#b", "https://a.test#"):
        assert await problems(identifier) == [("identifier", "identifier_invalid")], identifier
    for identifier in (
        "https://a b.test",
        "https://ä.test",
        "https://a.test\n",
        'https://a.test"',
        "urn:" + "a" * 2048,
    ):
        assert await problems(identifier) == [("identifier", "identifier_invalid")], identifier
    for name in ("", " Orders", "Or\nders", "o" * 101):
        assert await problems(fine, name) == [("name", "name_invalid")], name
    for scopes in (("",), ("a b",), ('a"',), ("a\\",), ("ä",), ("a\n",), ("a" * 65,), ("a", "a")):
        assert await problems(fine, "Api", scopes) == [("scopes", "scope_invalid")], scopes
    assert await problems(fine, "Api", tuple(f"s{number}" for number in range(101))) == [("scopes", "scope_invalid")]
    for scope in ("account", "admin"):
        assert await problems(fine, "Api", (scope, "orders:read")) == [("scopes", "scope_taken")]
    row = await services.client_administration.register_api(fine, "Orders", ("a" * 64, "!#[]~"))
    async with services.database.begin() as transaction:
        assert await transaction.get(Api, row.identifier) is not None


HUGE = ("999999999999", "99999999999999999999", "1e30", "-999999999999")
"""More seconds than a column can hold."""


@pytest.fixture
async def headers(http: httpx.AsyncClient, services: Services) -> dict[str, str]:
    """Those of an administrator who sends JSON."""
    signed_in = await sign_in(http, await with_account(services, ("admin",)))
    return {**bearer(signed_in), "Content-Type": "application/json"}


def registration(text: str) -> str:
    return f'{{"client_id": "{fresh_id()}", "confidential": true, {text}}}'


@pytest.mark.standard("LG-03")
async def test_odd_json_is_no_registration(http: httpx.AsyncClient, headers: dict[str, str]) -> None:
    by_key = f'"auth_methods": ["private_key_jwt"], "jwks": {{"keys": [{json.dumps({**GOOD_KEY, "number": 7})}]}}'
    assert (await http.post("/admin/clients", content=registration(by_key), headers=headers)).status_code == 201
    odd = ['"name": null', '"scopes": null', '"scopes": "account"', '"secret": "x"']
    odd += [by_key.replace("7}", replaced) for replaced in ("1e400}", "-1e400}", "NaN}", '"\\u0000"}')]
    odd += [f'"access_token_life": {huge}' for huge in HUGE]
    answers = {text: await http.post("/admin/clients", content=registration(text), headers=headers) for text in odd}

    assert {text: answer.status_code for text, answer in answers.items()} == dict.fromkeys(odd, 400)
    told = await http.post("/admin/clients", content=registration('"name": ""'), headers=headers)
    assert field_codes(told) == [("name", "name_invalid")]


@pytest.mark.standard("LG-03")
async def test_odd_json_is_no_change(http: httpx.AsyncClient, services: Services, headers: dict[str, str]) -> None:
    """What is wrong is refused by its rule, before the database sees it."""
    client_id = fresh_id()
    keys = {"keys": [GOOD_KEY]}
    changes = ClientChanges(auth_methods=BY_KEY, jwks=keys)
    await services.client_administration.register(client_id, changes, confidential=True)
    endless = json.dumps({"keys": [{**GOOD_KEY, "number": 7}]}).replace("7}", "1e400}")
    odd = ["{", "[]", '{"secret": "x"}', '{"name": null}', f'{{"jwks": {endless}}}']
    odd += [f'{{"{life}": {huge}}}' for life in ("access_token_life", "session_idle") for huge in HUGE]
    answers = {text: await http.patch(f"/admin/clients/{client_id}", content=text, headers=headers) for text in odd}

    assert {text: answer.status_code for text, answer in answers.items()} == dict.fromkeys(odd, 400)
    assert (await services.client_administration.read(client_id)).jwks == keys
