"""`POST /revoke` (RFC 7009): whose token it is comes first, what it was never shows, and it is over at once."""

import asyncio

import httpx
import pytest
from sqlalchemy import select

from service.audit import AuditEvent
from service.wiring import Services
from tests.conftest import Introspector, Person, TestClock
from tests.oauth.acting import (
    Software,
    assert_error,
    assert_inactive,
    bearer,
    change,
    claims_of,
    forged,
    new_api,
    new_backend,
    new_front_end,
    new_service,
    session_through,
)
from tests.tokens.acting import row_of, session_of

WEB = Software("web")
HINTS = ("access_token", "refresh_token", "foo", "urn:x:y", "é", "a" * 5000, "")


def assert_done(answer: httpx.Response) -> None:
    """The one answer for whatever is over now, or always was."""
    assert (answer.status_code, answer.content) == (200, b""), answer.text
    assert (answer.headers["cache-control"], answer.headers["pragma"]) == ("no-store", "no-cache")
    assert "text/plain" not in answer.headers.get("content-type", "")


async def foreign_tries(services: Services, client: Software, least: int) -> int:
    """How often the audit trail says that a client tried to revoke what is not its own, once it says so much."""
    statement = select(AuditEvent.outcome).where(AuditEvent.client_id == client.client_id)
    async with asyncio.timeout(20):
        while True:
            await services.audit.flush()
            async with services.database.begin() as transaction:
                rows = await transaction.scalars(statement.where(AuditEvent.event == "token.revoke"))
            outcomes = list(rows.all())
            if len(outcomes) >= least:
                return outcomes.count("foreign")


async def is_over(http: httpx.AsyncClient, client: Software, refresh_token: str) -> bool:
    """Whether a refresh token does nothing any more."""
    answer = await client.refresh(http, refresh_token)
    assert answer.status_code == 200 or answer.json()["error"] == "invalid_grant"
    return answer.status_code != 200


@pytest.mark.standard("RV-01", "RV-09", "RV-10", "IN-15", "W-R")
async def test_a_revoked_refresh_token_ends_its_session_and_every_token_of_it_on_every_worker(
    http: httpx.AsyncClient, http_of_second_worker: httpx.AsyncClient, services: Services, introspector: Introspector
) -> None:
    client = await new_front_end(services)
    _, grant = await session_through(services, client)
    tokens = await client.renewed(http, grant.refresh_token)
    assert_done(await client.revoke(http, tokens["refresh_token"]))

    for token in (grant.access_token, tokens["access_token"]):
        assert await introspector.ask(http_of_second_worker, token) == {"active": False}
        assert (await http_of_second_worker.get("/me", headers=bearer(token))).status_code == 401
    assert_error(await client.refresh(http_of_second_worker, tokens["refresh_token"]), 400, "invalid_grant")
    row = await row_of(services, session_of(grant.access_token))
    assert (row.ended_at is not None, row.ended_reason) == (True, "revoked")


@pytest.mark.standard("RV-02", "RV-10")
async def test_a_revoked_access_token_leaves_the_session_and_its_other_tokens(
    http: httpx.AsyncClient, services: Services, introspector: Introspector
) -> None:
    client = await new_front_end(services)
    _, grant = await session_through(services, client)
    tokens = await client.renewed(http, grant.refresh_token)
    assert_done(await client.revoke(http, grant.access_token))
    assert await introspector.ask(http, grant.access_token) == {"active": False}
    assert (await introspector.ask(http, tokens["access_token"]))["active"] is True
    assert (await client.renewed(http, tokens["refresh_token"]))["access_token"]


@pytest.mark.standard("RV-07", "RV-08", "W-R")
async def test_whatever_the_hint_says_the_token_is_found(http: httpx.AsyncClient, services: Services) -> None:
    client = await new_backend(services)
    for hint in HINTS:
        _, grant = await session_through(services, client)
        machine = await client.token(http)
        for token in (grant.access_token, machine, grant.refresh_token):
            assert await client.sees(http, token)
            assert_done(await client.revoke(http, token, token_type_hint=hint))
            assert not await client.sees(http, token)
        assert await is_over(http, client, grant.refresh_token)


@pytest.mark.standard("RV-06", "RV-13", "W-R")
async def test_what_is_unknown_ended_or_revoked_already_is_answered_like_success(
    http: httpx.AsyncClient, services: Services, clock: TestClock
) -> None:
    client = await new_backend(services)
    _, grant = await session_through(services, client)
    machine = await client.token(http)
    kid_less = forged(services, claims_of(machine), kid="unknown")
    tokens = [
        *("garbage", " ", "..", "vrt_nothing", "vcs_nothing", "é", "a" * 60_000, kid_less),
        *(grant.access_token, grant.access_token, machine, machine, grant.refresh_token, grant.refresh_token),
    ]
    answers = [await client.revoke(http, token, callback="evil") for token in tokens]
    await clock.advance(days=31)
    answers += [await client.revoke(http, token) for token in (grant.access_token, grant.refresh_token)]
    for answer in answers:
        assert_done(answer)
        assert answer.headers["content-type"] == answers[0].headers["content-type"]


@pytest.mark.standard("RV-05", "W-R")
async def test_the_token_of_another_client_is_refused_and_lives_on(http: httpx.AsyncClient, services: Services) -> None:
    owner, api = await new_backend(services), await new_api(services)
    _, grant = await session_through(services, owner)
    machine = await owner.token(http)
    others = (WEB, await new_front_end(services), await new_service(services, serves=[api.identifier]))
    for other in others:
        for token in (grant.access_token, grant.refresh_token, machine):
            for hint in ("access_token", "refresh_token"):
                assert_error(await other.revoke(http, token, token_type_hint=hint), 400, "invalid_grant")
    for token in (grant.access_token, grant.refresh_token, machine):
        assert await owner.sees(http, token)
    assert not await is_over(http, owner, grant.refresh_token)
    assert await foreign_tries(services, others[1], least=6) == 6


@pytest.mark.standard("RV-04", "AT-16", "W-R")
async def test_the_client_is_looked_at_first_and_a_bad_one_ends_nothing(
    http: httpx.AsyncClient, services: Services
) -> None:
    client = await new_backend(services)
    _, grant = await session_through(services, client)
    wrong, nameless = Software(client.client_id, "wrong"), Software(client.client_id)
    asked = [
        caller.revoke(http, token)
        for caller in (wrong, nameless, Software("nobody-knows-me"))
        for token in (grant.refresh_token, grant.access_token, "garbage", "")
    ]
    answers = await asyncio.gather(*asked)
    answers.append(await http.post("/revoke", data={"token": grant.refresh_token}))
    answers.append(await http.post("/revoke", data={"token": "x"}, headers=bearer(grant.access_token)))
    for answer in answers:
        assert_error(answer, 401, "invalid_client")
        assert answer.content == answers[0].content
    assert await client.sees(http, grant.refresh_token)
    assert await client.sees(http, grant.access_token)


@pytest.mark.standard("RV-04", "RV-01")
async def test_a_public_client_revokes_its_own_tokens_by_its_name_alone(
    http: httpx.AsyncClient, services: Services, person: Person, introspector: Introspector
) -> None:
    assert_done(await WEB.revoke(http, person.refresh_token))
    assert await introspector.ask(http, person.access_token) == {"active": False}


@pytest.mark.standard("RV-04", "RV-05", "RV-10")
async def test_a_client_needs_no_grant_to_give_its_tokens_up(http: httpx.AsyncClient, services: Services) -> None:
    client = await new_backend(services)
    _, grant = await session_through(services, client)
    await change(services, client, grants=[], scopes=[])
    assert_done(await client.revoke(http, grant.refresh_token))
    await change(services, client, grants=["refresh_token"])
    assert await is_over(http, client, grant.refresh_token)


@pytest.mark.standard("RV-01", "RV-06", "SE-22")
async def test_a_refresh_token_that_had_its_successor_still_ends_the_session(
    http: httpx.AsyncClient, services: Services, clock: TestClock
) -> None:
    """Whoever holds an old one may end what it was; no more than a replay would."""
    client = await new_front_end(services)
    _, grant = await session_through(services, client)
    tokens = await client.renewed(http, grant.refresh_token)
    await clock.advance(hours=2)
    tokens = await client.renewed(http, tokens["refresh_token"])
    assert_done(await client.revoke(http, grant.refresh_token))
    assert await is_over(http, client, tokens["refresh_token"])


@pytest.mark.standard("RV-03", "AT-41", "CL-12", "W-R")
async def test_a_form_without_a_token_or_no_form_at_all_is_an_invalid_request(
    http: httpx.AsyncClient, services: Services
) -> None:
    client = await new_backend(services)
    _, grant = await session_through(services, client)
    auth, token = (client.client_id, client.secret), grant.refresh_token
    answers = [
        await http.post("/revoke", auth=auth),
        await http.post("/revoke", data={"token": ""}, auth=auth),
        await http.post("/revoke", data={"refresh_token": token}, auth=auth),
        await http.post("/revoke", data={"token": [token, token]}, auth=auth),
        await http.post("/revoke", data={"token": token, "token_type_hint": ["a", "a"]}, auth=auth),
        await http.post("/revoke", json={"token": token}, auth=auth),
        await http.post("/revoke", params={"token": token}, data={"foo": "1"}, auth=auth),
        await http.post("/revoke", params={"token": token}, data={"token": token}, auth=auth),
        await http.post("/revoke", content=f"token={token}", headers={"Content-Type": "text/plain"}, auth=auth),
        await http.post("/revoke", data={"token": token, "client_secret": client.secret}, auth=auth),
    ]
    for answer in answers:
        assert_error(answer, 400, "invalid_request")
    assert await client.sees(http, token)


@pytest.mark.standard("RV-09", "SE-29")
async def test_a_refresh_and_a_revocation_at_once_leave_nothing_alive(
    http: httpx.AsyncClient, http_of_second_worker: httpx.AsyncClient, services: Services
) -> None:
    client = await new_front_end(services)
    await client.refresh(http_of_second_worker, "warm up")
    for _ in range(5):
        _, grant = await session_through(services, client)
        *refreshed, revoked = await asyncio.gather(
            *(client.refresh(door, grant.refresh_token) for door in (http, http_of_second_worker)),
            client.revoke(http_of_second_worker, grant.refresh_token),
        )
        assert_done(revoked)
        won = [answer.json() for answer in refreshed if answer.status_code == 200]
        for tokens in won:
            assert await is_over(http, client, tokens["refresh_token"])
            assert (await http.get("/me", headers=bearer(tokens["access_token"]))).status_code == 401
        assert await is_over(http, client, grant.refresh_token)


@pytest.mark.standard("RV-05", "IN-06", "AT-06")
async def test_a_token_for_an_api_is_revoked_by_the_client_that_got_it_and_not_by_the_api(
    http: httpx.AsyncClient, services: Services
) -> None:
    api = await new_api(services)
    client = await new_service(services, scopes=api.scopes, audiences=[api.identifier])
    server = await new_service(services, serves=[api.identifier])
    token = await client.token(http)
    assert_error(await server.revoke(http, token), 400, "invalid_grant")
    assert await server.sees(http, token)
    assert_done(await client.revoke(http, token))
    assert_inactive(await server.introspect(http, token))
