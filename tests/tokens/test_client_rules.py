"""What a client or an API may be registered with: one case for each rule, by the field and the code of its refusal."""

import json
import secrets
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from sqlalchemy import select

from service.errors import InvalidInput, NotFound
from service.tokens.client_administration import ClientChanges
from service.tokens.clients import Client
from service.wiring import Services
from tests.conftest import ISSUER

Values = dict[str, Any]
Problems = list[tuple[str, str]]


def fresh_id() -> str:
    return f"c-{secrets.token_hex(6)}"


def jwk(private: Any, algorithm: str, **changed: Any) -> Values:
    """The public half of a key as a client registers it; None leaves a member out."""
    told = {**json.loads(jwt.get_algorithm_by_name(algorithm).to_jwk(private.public_key())), **changed}
    return {name: value for name, value in told.items() if value is not None}


GOOD_KEY = jwk(ec.generate_private_key(ec.SECP256R1()), "ES256", kid="one")
BY_KEY = ["private_key_jwt"]


async def refused(services: Services, client_id: str, *, confidential: bool = True, **values: Any) -> Problems:
    """What a registration is refused for; nothing when it is fine."""
    try:
        await services.client_administration.register(client_id, ClientChanges(**values), confidential=confidential)
    except InvalidInput as refusal:
        with pytest.raises(NotFound):
            await services.client_administration.read(client_id)
        return [(problem.field, problem.code) for problem in refusal.fields]
    return []


@pytest.fixture(scope="module")
async def api(services: Services) -> str:
    identifier = f"https://orders-{secrets.token_hex(4)}.test"
    await services.client_administration.register_api(identifier, "Orders", (f"{identifier}:read", "rules:write"))
    return identifier


@pytest.mark.standard("AT-17", "AT-21")
async def test_a_new_service_may_do_nothing_yet_and_a_new_front_end_what_people_need(services: Services) -> None:
    service, secret = await services.client_administration.register(fresh_id(), ClientChanges(), confidential=True)
    front_end, none = await services.client_administration.register(fresh_id(), ClientChanges(), confidential=False)

    empty: Values = {
        "audiences": [],
        "serves": [],
        "redirect_uris": [],
        "origins": [],
        "jwks": None,
        "may_introspect": False,
    }
    for row, auth_methods, grants, scopes in (
        (service, ["client_secret_basic", "client_secret_post"], ["client_credentials"], []),
        (front_end, ["none"], ["refresh_token"], ["account"]),
    ):
        kept = await services.client_administration.read(row.id)
        assert {name: getattr(kept, name) for name in empty} == empty
        assert (kept.auth_methods, kept.grants, kept.scopes, kept.name) == (auth_methods, grants, scopes, row.id)
        assert (kept.access_token_life, kept.session_idle, kept.session_absolute) == (None, None, None)
    assert (secret is not None, none) == (True, None)
    assert (service.is_confidential, front_end.is_confidential) == (True, False)


@pytest.mark.standard("AT-21")
async def test_no_client_can_be_taken_for_an_account(services: Services) -> None:
    for client_id in (
        "01998f4e-0000-7000-8000-000000000001",
        "f1998f4e-0000-7000-8000-000000000001",
        "f1998f4e000070008000000000000001",
        "a" * 32,
        "a" * 64,
        "a",
        "",
        "1client",
        "-client",
        "Client",
        "cli ent",
        "client\n",
        "cli:ent",
        "cliënt",
        "client/../web",
        "client\x00",
        "client٣",
    ):
        assert await refused(services, client_id) == [("client_id", "client_id_invalid")], client_id
    for client_id in ("orders-" + secrets.token_hex(3), "o_" + secrets.token_hex(4), "q" + secrets.token_hex(31)[:61]):
        assert await refused(services, client_id) == [], client_id


CONFIDENTIAL: list[tuple[Values, Problems]] = [
    ({"name": ""}, [("name", "name_invalid")]),
    ({"name": " Orders"}, [("name", "name_invalid")]),
    ({"name": "Or\nders"}, [("name", "name_invalid")]),
    ({"name": "Or\x00ders"}, [("name", "name_invalid")]),
    ({"name": "o" * 101}, [("name", "name_invalid")]),
    ({"name": "o" * 100}, []),
    ({"auth_methods": []}, [("auth_methods", "auth_methods_invalid")]),
    ({"auth_methods": ["none", "client_secret_basic"]}, [("auth_methods", "auth_methods_invalid")]),
    ({"auth_methods": ["tls_client_auth"]}, [("auth_methods", "auth_methods_invalid")]),
    ({"auth_methods": ["client_secret_basic"] * 2}, [("auth_methods", "list_invalid")]),
    ({"auth_methods": ["client_secret_post"]}, []),
    ({"auth_methods": BY_KEY}, [("jwks", "jwks_mismatch")]),
    ({"jwks": {"keys": [GOOD_KEY]}}, [("jwks", "jwks_mismatch")]),
    ({"auth_methods": BY_KEY, "jwks": {"keys": [GOOD_KEY]}}, []),
    ({"auth_methods": [*BY_KEY, "client_secret_basic"], "jwks": {"keys": [GOOD_KEY]}}, []),
    ({"grants": ["password"]}, [("grants", "grant_unknown")]),
    ({"grants": ["implicit", "client_credentials"]}, [("grants", "grant_unknown")]),
    ({"grants": ["refresh_token"] * 2}, [("grants", "list_invalid")]),
    ({"grants": ["client_credentials", "refresh_token"]}, []),
    ({"grants": []}, []),
    ({"scopes": ["nothing:known"]}, [("scopes", "scope_unknown")]),
    ({"scopes": [""]}, [("scopes", "scope_unknown")]),
    ({"scopes": ["rules:write"] * 2}, [("scopes", "list_invalid")]),
    ({"scopes": ["rules:write", "admin"]}, []),
    ({"scopes": ["account"]}, [("scopes", "scope_of_people")]),
    ({"scopes": ["account"], "grants": ["refresh_token"]}, []),
    ({"audiences": ["https://nowhere.test"]}, [("audiences", "audience_unknown")]),
    ({"audiences": [ISSUER]}, []),
    ({"serves": ["https://nowhere.test"]}, [("serves", "audience_unknown")]),
    ({"serves": [ISSUER] * 2}, [("serves", "list_invalid")]),
    ({"may_introspect": True, "serves": [ISSUER]}, []),
    ({"access_token_life": 59}, [("access_token_life", "lifetime_invalid")]),
    ({"access_token_life": 601}, [("access_token_life", "lifetime_invalid")]),
    ({"access_token_life": 0}, [("access_token_life", "lifetime_invalid")]),
    ({"access_token_life": -60}, [("access_token_life", "lifetime_invalid")]),
    ({"session_idle": 14 * 86_400 + 1}, [("session_idle", "lifetime_invalid")]),
    ({"session_absolute": 30 * 86_400 + 1}, [("session_absolute", "lifetime_invalid")]),
    ({"access_token_life": 60, "session_idle": 14 * 86_400, "session_absolute": 30 * 86_400}, []),
    (
        {"name": "", "grants": ["password"], "scopes": ["nothing:known"]},
        [("name", "name_invalid"), ("grants", "grant_unknown"), ("scopes", "scope_unknown")],
    ),
]
PUBLIC: list[tuple[Values, Problems]] = [
    ({"grants": ["client_credentials"]}, [("grants", "grant_needs_secret")]),
    ({"may_introspect": True}, [("may_introspect", "public_client")]),
    ({"serves": [ISSUER]}, [("may_introspect", "public_client")]),
    ({"scopes": ["account", "admin"]}, []),
    ({"grants": []}, []),
]


@pytest.mark.standard("AT-17", "AT-15", "AT-42")
async def test_each_rule_refuses_what_it_is_for(services: Services, api: str) -> None:
    for is_confidential, cases in ((True, CONFIDENTIAL), (False, PUBLIC)):
        for values, problems in cases:
            assert await refused(services, fresh_id(), confidential=is_confidential, **values) == problems, values
    assert await refused(services, fresh_id(), audiences=[api], serves=[api], scopes=[f"{api}:read"]) == []


@pytest.mark.standard("OP-22", "OP-05")
async def test_people_are_sent_back_over_https_to_loopback_or_to_an_app(services: Services) -> None:
    good = [
        "https://app.test/callback",
        "https://app.test:8443/cb?mode=1",
        "http://localhost:3000/cb",
        "http://127.0.0.1/cb",
        "http://[::1]:8080/cb",
        "com.example.app:/callback",
    ]
    assert await refused(services, fresh_id(), redirect_uris=good) == []
    for uri in (
        "",
        "/callback",
        "app.test/cb",
        "http://app.test/cb",
        "http://localhost.evil.example/cb",
        "https://app.test/cb#",
        "https://app.test/cb#top",
        "https://user@app.test/cb",
        "https://user:pass@app.test/cb",
        "https:///cb",
        "https:cb",
        "https://app.test/c b",
        "https://app.test/cb\n",
        "https://app.test\\@evil.example/cb",
        "https://app.test:0/cb",
        "https://app.test:port/cb",
        "https://äpp.test/cb",
        "https://app.test/" + "a" * 2048,
        "javascript:alert(1)",
        "data:text/html,x",
        "file:///etc/passwd",
        "myapp:/callback",
        "urn:ietf:wg:oauth:2.0:oob",
    ):
        problems = await refused(services, fresh_id(), redirect_uris=[uri])
        assert problems == [("redirect_uris", "redirect_uri_invalid")], uri
    many = [f"https://app.test/{number}" for number in range(101)]
    assert await refused(services, fresh_id(), redirect_uris=many) == [("redirect_uris", "list_invalid")]
    assert await refused(services, fresh_id(), redirect_uris=many[:100]) == []
    assert await refused(services, fresh_id(), redirect_uris=many[:1] * 2) == [("redirect_uris", "list_invalid")]


@pytest.mark.standard("CK-33", "CK-34")
async def test_an_origin_is_one_that_a_browser_names(services: Services) -> None:
    good = ["https://app.test", "https://app.test:8443", "http://localhost:3000", "http://127.0.0.1", "http://[::1]:80"]
    assert await refused(services, fresh_id(), origins=good[:4]) == []
    wrong = ["", "*", "null", "https://*.app.test", "http://app.test", "https://app.test/", "https://app.test/path"]
    wrong += ["https://app.test?", "https://app.test#", "app.test", "//app.test", "ws://localhost", "file://"]
    for origin in wrong:
        assert await refused(services, fresh_id(), origins=[origin]) == [("origins", "origin_invalid")], origin


@pytest.mark.standard("CK-33", "CK-34")
async def test_an_origin_that_no_browser_ever_names_is_refused(services: Services) -> None:
    """The operator would look for the mistake elsewhere: origins are compared byte for byte."""
    odd = ["https://", "https://APP.test", "HTTPS://app.test", "https://user@app.test", "https://app.test:443"]
    odd += ["http://localhost:80", "https://app.test:", "https://a pp.test", "https://äpp.test", "https://app.test\\x"]
    accepted = [origin for origin in odd if not await refused(services, fresh_id(), origins=[origin])]
    assert accepted == []


@pytest.mark.standard("AT-17")
async def test_a_change_meets_the_same_rules_and_leaves_nothing_behind(services: Services) -> None:
    administration = services.client_administration
    client_id = fresh_id()
    await administration.register(client_id, ClientChanges(name="Before"), confidential=True)
    before = await told(services, client_id)
    for values, problems in CONFIDENTIAL:
        if problems:
            with pytest.raises(InvalidInput) as refusal:
                await administration.change(client_id, ClientChanges(**values))
            assert [(problem.field, problem.code) for problem in refusal.value.fields] == problems
    to_public: list[Values] = [{"auth_methods": ["none"]}, {"auth_methods": ["none"], "grants": ["refresh_token"]}]
    for change in to_public:
        with pytest.raises(InvalidInput) as refusal:
            await administration.change(client_id, ClientChanges(**change))
        assert [(problem.field, problem.code) for problem in refusal.value.fields] == [("auth_methods", "kind_fixed")]
    assert await told(services, client_id) == before

    front_end = fresh_id()
    await administration.register(front_end, ClientChanges(), confidential=False)
    with pytest.raises(InvalidInput):
        await administration.change(front_end, ClientChanges(auth_methods=["client_secret_basic"]))
    with pytest.raises(InvalidInput):
        await administration.change(front_end, ClientChanges(grants=["client_credentials"]))


async def told(services: Services, client_id: str) -> Values:
    """What the database has of a client."""
    async with services.database.begin() as transaction:
        row = (await transaction.execute(select(Client.__table__).where(Client.id == client_id))).mappings().one()
    return dict(row)
