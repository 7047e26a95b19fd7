"""`grant_type=client_credentials`: a service speaks for itself, and nothing of a person is in it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import httpx
import pytest

from service.errors import InvalidInput
from service.tokens.clients import CLIENT_ID, Clients
from service.wiring import Services
from tests.conftest import ISSUER, Introspector, Outbox, TestClock
from tests.deeds import id_of, registered, with_account
from tests.oauth.acting import (
    Software,
    assert_error,
    assert_inactive,
    change,
    claims_of,
    forged,
    granted,
    header_of,
    new_api,
    new_front_end,
    new_service,
)

ALWAYS = {"iss", "sub", "aud", "exp", "iat", "jti", "client_id"}


def assert_machine_token(token: str, client: Software, audience: str, scope: str | None, life: int) -> None:
    """By an allow-list: a claim that is not named here may not be there."""
    head, claims = header_of(token), claims_of(token)
    assert set(head) == {"alg", "kid", "typ"}
    assert (head["alg"], head["typ"]) == ("ES256", "at+jwt")
    assert set(claims) == (ALWAYS | {"scope"} if scope else ALWAYS)
    assert (claims["iss"], claims["aud"], claims.get("scope")) == (ISSUER, audience, scope)
    assert claims["sub"] == claims["client_id"] == client.client_id
    assert type(claims["exp"]) is type(claims["iat"]) is int
    assert claims["exp"] - claims["iat"] == life
    assert len(claims["jti"]) >= 22


@pytest.mark.standard("AT-19", "AT-20", "AT-21", "AT-23", "AT-27", "AT-35", "AT-40", "AT-42", "W-T", "W-X")
async def test_the_token_of_a_service_says_who_it_is_and_nothing_of_a_person(
    http: httpx.AsyncClient, services: Services
) -> None:
    api = await new_api(services)
    client = await new_service(services, scopes=[api.read, api.write], audiences=[api.identifier])
    both = f"{api.read} {api.write}"
    for form, scope in (
        ({}, both),
        ({"scope": ""}, both),
        ({"scope": api.write}, api.write),
        ({"scope": f"{api.write} {api.read} {api.write}"}, f"{api.write} {api.read}"),
        ({"resource": api.identifier}, both),
    ):
        tokens = granted(await client.ask_token(http, **form))
        assert (tokens["scope"], tokens["expires_in"]) == (scope, 600)
        assert "refresh_token" not in tokens
        assert_machine_token(tokens["access_token"], client, api.identifier, scope, 600)


@pytest.mark.standard("AT-17", "AT-20", "AT-25", "AT-27")
async def test_a_new_service_has_no_scope_and_a_token_for_us_alone(http: httpx.AsyncClient, services: Services) -> None:
    client = await new_service(services)
    tokens = granted(await client.ask_token(http))
    assert "scope" not in tokens
    assert_machine_token(tokens["access_token"], client, ISSUER, None, 600)


@pytest.mark.standard("AT-20", "KY-24")
async def test_every_token_has_an_id_of_its_own(http: httpx.AsyncClient, services: Services) -> None:
    client = await new_service(services)
    ids = [claims_of(await client.token(http))["jti"] for _ in range(20)]
    assert len(set(ids)) == 20


@pytest.mark.standard("AT-21")
async def test_no_client_can_be_called_like_a_person(services: Services) -> None:
    person = await with_account(services)
    account = str(await id_of(services, person))
    for client_id in (account, account.replace("-", ""), f"a{account[1:]}", "abcdef01-2345-6789-abcd-ef0123456789"):
        assert not CLIENT_ID.fullmatch(client_id)
        with pytest.raises(InvalidInput):
            await registered(services, client_id)


@pytest.mark.standard("AT-42", "AT-15")
async def test_a_public_client_has_nothing_to_speak_for_and_cannot_be_given_it(
    http: httpx.AsyncClient, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    public = await new_front_end(services)
    with pytest.raises(InvalidInput):
        await change(services, public, grants=["client_credentials", "refresh_token"])
    monkeypatch.setattr(services.clients._known[public.client_id], "grants", ["client_credentials"])
    assert_error(await public.ask_token(http), 400, "unauthorized_client")


@pytest.mark.standard("AT-17", "AT-27")
async def test_what_belongs_to_people_is_never_in_the_token_of_a_service(
    http: httpx.AsyncClient, services: Services
) -> None:
    """A back end that holds sessions of people has `account` for those alone."""
    grants = ["client_credentials", "refresh_token"]
    client = await new_service(services, grants=grants, scopes=["account", "admin"])
    assert claims_of(await client.token(http))["scope"] == "admin"
    assert_error(await client.ask_token(http, scope="account"), 400, "invalid_scope")
    assert_error(await client.ask_token(http, scope="admin account"), 400, "invalid_scope")


@pytest.mark.standard("AT-35")
async def test_a_shorter_life_of_a_client_shortens_its_tokens_alone(
    http: httpx.AsyncClient, services: Services, clock: TestClock
) -> None:
    brief, other = await new_service(services, access_token_life=60), await new_service(services)
    tokens = granted(await brief.ask_token(http))
    longer = await other.token(http)
    assert tokens["expires_in"] == 60
    assert_machine_token(tokens["access_token"], brief, ISSUER, None, 60)
    await clock.advance(seconds=40)
    assert await brief.sees(http, tokens["access_token"])
    await clock.advance(seconds=21)
    assert_inactive(await brief.introspect(http, tokens["access_token"]))
    assert await other.sees(http, longer)


@pytest.mark.standard("IN-05", "IN-10", "IN-14", "W-I")
async def test_introspection_tells_a_service_without_anything_of_a_person(
    http: httpx.AsyncClient, services: Services
) -> None:
    api = await new_api(services)
    client = await new_service(services, scopes=[api.read], audiences=[api.identifier], serves=[api.identifier])
    token = await client.token(http)
    assert await client.told(http, token) == {"active": True, "token_type": "Bearer", **claims_of(token)}


@pytest.mark.standard("AT-47", "IN-09", "IN-15")
async def test_what_is_taken_from_a_service_is_gone_from_its_tokens_at_once(
    http: httpx.AsyncClient, services: Services, introspector: Introspector
) -> None:
    grants = ["client_credentials", "refresh_token"]
    client = await new_service(services, grants=grants, scopes=["admin"])
    token = await client.token(http)
    assert (await introspector.ask(http, token))["scope"] == "admin"

    await change(services, client, scopes=[])
    assert "scope" not in await introspector.ask(http, token)
    await change(services, client, scopes=["admin"], grants=["refresh_token"])
    assert await introspector.ask(http, token) == {"active": False}
    assert_error(await client.ask_token(http), 400, "unauthorized_client")
    await change(services, client, grants=grants)
    assert (await introspector.ask(http, token))["scope"] == "admin"
    await services.client_administration.set_disabled(client.client_id, True)
    assert await introspector.ask(http, token) == {"active": False}
    assert_error(await client.ask_token(http), 401, "invalid_client")


@pytest.mark.standard("IN-06", "IN-07", "IN-09", "AT-04", "AT-05", "AT-06", "AT-20", "AT-29", "AT-31", "TV-5")
async def test_every_token_of_a_service_that_is_not_alive_gets_the_same_sixteen_bytes(
    http: httpx.AsyncClient, services: Services, outbox: Outbox, introspector: Introspector
) -> None:
    caller = Software(introspector.client_id, introspector.secret)
    client = await new_service(services)
    gone = await new_service(services)
    token = await client.token(http)
    claims = claims_of(token)
    assert await caller.sees(http, forged(services, claims))

    await services.client_administration.set_disabled(gone.client_id, True)
    other_api = await new_api(services)
    bent: dict[str, dict[str, object]] = {
        "expired": {"exp": claims["iat"]},
        "of tomorrow": {"nbf": claims["iat"] + 86_400},
        "issued tomorrow": {"iat": claims["iat"] + 86_400},
        "of another issuer": {"iss": "https://evil.example"},
        "for another API": {"aud": other_api.identifier},
        "for an API in other letters": {"aud": ISSUER.upper()},
        "of a disabled client": {"sub": gone.client_id, "client_id": gone.client_id},
        "of a client nobody knows": {"sub": "nobody-knows-me", "client_id": "nobody-knows-me"},
        "of one client for another": {"sub": gone.client_id},
        "of a client for somebody": {"sub": "01998f4e-0000-7000-8000-000000000001"},
        "with half of a person": {"sid": "A" * 22},
        "with a person's roles": {"roles": ["admin"]},
        "with times in words": {"exp": str(claims["exp"])},
        "with an audience that is none": {"aud": {"0": ISSUER}},
        "of no text": {"jti": 1},
    }
    tokens = {name: forged(services, {**claims, **changed}) for name, changed in bent.items()}
    tokens |= {f"without {name}": forged(services, {k: v for k, v in claims.items() if k != name}) for name in ALWAYS}
    kinds = ("JWT", "logout+jwt", "token-introspection+jwt", "dpop+jwt", "")
    tokens |= {f"of the kind {kind!r}": forged(services, claims, typ=kind) for kind in kinds}
    tokens |= {"bent": token[:-6] + "AAAAAA", "doubled": f"{token}.{token}", "cut": token.rpartition(".")[0]}
    for name, each in tokens.items():
        answer = await caller.introspect(http, each)
        assert (name, answer.status_code, answer.content) == (name, 200, b'{"active":false}')
    assert await caller.sees(http, token)


@pytest.mark.standard("AT-08", "AT-20", "IN-06")
async def test_a_token_with_all_that_a_client_may_have_is_active(http: httpx.AsyncClient, services: Services) -> None:
    """Many long scopes must not make a token that we issue and then do not know."""
    api = await new_api(services)
    identifier = f"{api.identifier}/long"
    scopes = [f"{number:03}".rjust(64, "s") for number in range(100)]
    await services.client_administration.register_api(identifier, "Long", tuple(scopes))
    try:
        client = await new_service(services, scopes=scopes, audiences=[identifier], serves=[identifier])
    except InvalidInput:
        return  # nobody may have so much
    answer = await client.ask_token(http)
    if answer.status_code == 400:
        assert_error(answer, 400, "invalid_scope")
    else:
        assert await client.sees(http, granted(answer)["access_token"])


class SlowDatabase:
    """The database of one worker, whose answers get there late while it is told to wait."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self.has_read, self.may_go_on = asyncio.Event(), asyncio.Event()

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[Any]:
        async with self._services.database.begin() as transaction:
            yield transaction
        if not self.has_read.is_set():
            self.has_read.set()
            await self.may_go_on.wait()


@pytest.mark.standard("AT-47", "IN-15")
async def test_an_older_look_at_the_registry_never_takes_the_place_of_a_newer_one(services: Services) -> None:
    """Else what was taken from a client comes back for a moment: each worker looks whenever it hears of a change."""
    client, slow = await new_service(services), SlowDatabase(services)
    known = services.clients
    clients = Clients(cast("Any", slow), known.roots, known.clock, known.audience, known.announce)
    older = asyncio.create_task(clients.reload())
    await slow.has_read.wait()
    await services.client_administration.set_disabled(client.client_id, True)
    newer = asyncio.create_task(clients.reload())
    await asyncio.wait({newer}, timeout=0.3)  # which may well have to wait for the older one
    slow.may_go_on.set()
    async with asyncio.timeout(20):
        await asyncio.gather(older, newer)
    assert clients.enabled("web") is not None
    assert clients.enabled(client.client_id) is None
