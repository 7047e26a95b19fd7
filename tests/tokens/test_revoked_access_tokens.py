"""One access token that was revoked: gone everywhere at once, alone, and forgotten once it would have ended anyway."""

import asyncio

import httpx
import pytest
from redis.asyncio import Redis

from service.wiring import Services
from tests.conftest import Introspector, TestClock
from tests.deeds import is_in
from tests.oauth.acting import (
    admitted,
    bearer,
    claims_of,
    new_api,
    new_backend,
    new_front_end,
    new_service,
    session_through,
)
from tests.tokens.acting import listed, opens_me, session_of


def denial(token: str) -> str:
    """The key that stands while a token is revoked."""
    claims = claims_of(token)
    return f"vestibule:denied:{{{claims['sub']}}}:{claims['jti']}"


@pytest.mark.standard("RV-02", "RV-09", "RV-10", "IN-15", "AT-44")
async def test_it_is_dead_on_every_worker_at_once_and_everything_beside_it_lives(
    http: httpx.AsyncClient, http_of_second_worker: httpx.AsyncClient, services: Services, introspector: Introspector
) -> None:
    client = await new_front_end(services)
    person, grant = await session_through(services, client)
    sibling = await client.renewed(http, grant.refresh_token)
    elsewhere = await admitted(services, person, client)
    assert await opens_me(http_of_second_worker, grant.access_token)

    assert (await client.revoke(http, grant.access_token)).status_code == 200
    for door in (http, http_of_second_worker):
        assert await introspector.ask(door, grant.access_token) == {"active": False}
        answer = await door.get("/me", headers=bearer(grant.access_token))
        assert (answer.status_code, answer.json()["code"]) == (401, "invalid_token")
        assert 'error="invalid_token"' in answer.headers["www-authenticate"]
        for token in (sibling["access_token"], elsewhere.access_token):
            assert (await introspector.ask(door, token))["active"] is True
            assert await opens_me(door, token)
    assert len(await listed(http, sibling["access_token"])) == 2
    assert (await client.renewed(http_of_second_worker, sibling["refresh_token"]))["access_token"]


@pytest.mark.standard("RV-02", "RV-09", "IN-15")
async def test_the_token_of_a_service_is_dead_on_every_worker_at_once_and_its_next_one_lives(
    http: httpx.AsyncClient, http_of_second_worker: httpx.AsyncClient, services: Services
) -> None:
    api = await new_api(services)
    client = await new_service(services, scopes=api.scopes, audiences=[api.identifier], serves=[api.identifier])
    token, other = await client.token(http), await client.token(http)
    assert await client.sees(http_of_second_worker, token)
    assert (await client.revoke(http, token)).status_code == 200
    for door in (http_of_second_worker, http):
        assert not await client.sees(door, token)
        assert await client.sees(door, other)
        assert await client.sees(door, await client.token(door))


@pytest.mark.standard("RV-02", "SE-35")
async def test_its_denial_ends_by_itself_and_not_before_the_token(
    http: httpx.AsyncClient, services: Services, redis: Redis, clock: TestClock
) -> None:
    client = await new_backend(services, access_token_life=300)
    _, grant = await session_through(services, client)
    machine = await client.token(http)
    for token in (grant.access_token, machine):
        assert await redis.exists(denial(token)) == 0
        await client.revoke(http, token)
        assert 290_000 < await redis.pttl(denial(token)) <= 300_000 + 90_000
    await clock.advance(seconds=200)
    await client.revoke(http, machine)
    assert 95_000 < await redis.pttl(denial(machine)) <= 100_000 + 90_000
    await clock.advance(seconds=101)
    _, later = await session_through(services, client)
    await client.revoke(http, grant.access_token)  # it has ended: nothing needs to be remembered
    assert await client.sees(http, later.access_token)
    assert not await client.sees(http, grant.access_token)


@pytest.mark.standard("RV-02", "RV-12")
async def test_what_is_no_token_of_ours_leaves_nothing_behind(
    http: httpx.AsyncClient, services: Services, redis: Redis
) -> None:
    client, other = await new_backend(services), await new_service(services)
    token = await client.token(http)
    for each in ("garbage", f"{token[:-6]}AAAAAA", f"{token}.x", "a" * 60_000, token[:-1]):
        await client.revoke(http, each)
    await other.revoke(http, token)
    assert await redis.keys(f"vestibule:denied:{{{client.client_id}}}*") == []
    assert await client.sees(http, token)
    await client.revoke(http, token)
    assert len(await redis.keys(f"vestibule:denied:{{{client.client_id}}}*")) == 1


@pytest.mark.standard("RV-02", "SE-19", "SE-07")
async def test_it_cannot_begin_its_session_anew_or_end_another(http: httpx.AsyncClient, services: Services) -> None:
    client = await new_front_end(services)
    person, grant = await session_through(services, client)
    elsewhere = await admitted(services, person, client)
    await client.revoke(http, grant.access_token)
    headers = bearer(grant.access_token)
    session = session_of(elsewhere.access_token)
    answers = [
        await http.post("/auth/reauthenticate", json={"password": person.password}, headers=headers),
        await http.delete(f"/me/sessions/{session}", headers=headers),
        await http.delete("/me/sessions", headers=headers),
        await http.patch("/me", json={"locale": "ja"}, headers=headers),
    ]
    assert {(answer.status_code, answer.json()["code"]) for answer in answers} == {(401, "invalid_token")}
    assert await is_in(http, bearer(elsewhere.access_token))


@pytest.mark.standard("RV-02", "SE-33", "SE-22")
async def test_seeing_a_revoked_token_does_not_confirm_that_its_answer_arrived(
    http: httpx.AsyncClient, services: Services, introspector: Introspector, clock: TestClock
) -> None:
    """Somebody who never got the answer asks again, although the token in it was revoked and asked about."""
    client = await new_front_end(services)
    _, grant = await session_through(services, client)
    lost = await client.renewed(http, grant.refresh_token)
    await client.revoke(http, lost["access_token"])
    assert await introspector.ask(http, lost["access_token"]) == {"active": False}
    await clock.advance(minutes=10)
    assert (await client.renewed(http, grant.refresh_token))["refresh_token"] == lost["refresh_token"]


@pytest.mark.standard("RV-02", "SE-29")
async def test_revoking_one_token_many_times_at_once_is_one_revocation(
    http: httpx.AsyncClient, http_of_second_worker: httpx.AsyncClient, services: Services
) -> None:
    client = await new_service(services)
    token = await client.token(http)
    await client.token(http_of_second_worker)
    doors = (http, http_of_second_worker) * 10
    answers = await asyncio.gather(*(client.revoke(door, token) for door in doors))
    assert {(answer.status_code, answer.content) for answer in answers} == {(200, b"")}
    assert not await client.sees(http, token)
