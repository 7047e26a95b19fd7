"""Other people: what everybody sees of them, and who may change it."""

from uuid import UUID

import httpx
import pytest
from litestar import Litestar
from redis.asyncio import Redis
from sqlalchemy import update

from service.accounts.models import Account
from service.store.postgres import new_id
from service.wiring import Services
from tests.conftest import Outbox, Person, browser, somebody
from tests.deeds import FIREFOX, id_of, letters, row_of, session_of, with_account


@pytest.fixture
async def admin(app: Litestar, services: Services) -> dict[str, str]:
    """The bearer header of an administrator."""
    return await session_of(app, await with_account(services, ("admin",)))


@pytest.mark.standard("LO-19")
async def test_everybody_sees_the_public_part_and_nothing_else(
    http: httpx.AsyncClient, services: Services, person: Person
) -> None:
    await http.patch("/me", json={"locale": "ko", "avatar_url": "https://a.example/b.png"}, headers=person.headers)
    account = await id_of(services, person)

    for headers in ({}, person.headers):
        answer = await http.get(f"/users/{account}", headers=headers)
        assert answer.status_code == 200
        assert answer.headers["cache-control"] == "no-store"
        assert set(answer.json()) == {"id", "nickname", "avatar_url", "created_at"}
        assert (answer.json()["id"], answer.json()["nickname"]) == (str(account), person.nickname)
        assert person.email not in answer.text


@pytest.mark.parametrize(
    "name",
    ["7", "me", "null", "%00", "..", "0198-", f"{new_id()}x", "' OR 1=1", f"{new_id().hex}", str(new_id()).upper()],
)
async def test_nobody_is_found_under_an_unknown_or_malformed_id(http: httpx.AsyncClient, name: str) -> None:
    answer = await http.get(f"/users/{name}")
    assert answer.status_code == 404, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["code"] == "not_found"


async def test_a_person_may_change_themselves_here_and_gets_the_public_part(
    http: httpx.AsyncClient, services: Services, person: Person
) -> None:
    nickname = somebody().nickname
    answer = await http.patch(
        f"/users/{await id_of(services, person)}", json={"nickname": nickname}, headers=person.headers
    )
    assert answer.status_code == 200, answer.text
    assert set(answer.json()) == {"id", "nickname", "avatar_url", "created_at"}
    assert (await row_of(services, person)).nickname == nickname


@pytest.mark.standard("LG-14")
async def test_somebody_elses_account_is_refused_whether_or_not_it_exists(
    http: httpx.AsyncClient, services: Services, person: Person
) -> None:
    other = await with_account(services)
    seen = []
    for account in (await id_of(services, other), new_id()):
        for body in ({"nickname": somebody().nickname}, {"nickname": other.nickname}, {}, {"nickname": "!"}):
            headers = {**person.headers, "X-Request-ID": "the-same-for-all"}
            answer = await http.patch(f"/users/{account}", json=body, headers=headers)
            assert (answer.status_code, answer.json()["code"]) == (403, "not_yours")
            seen.append((sorted(answer.headers.items()), answer.content))
    assert seen == [seen[0]] * len(seen)
    assert (await row_of(services, other)).nickname == other.nickname


async def test_nobody_changes_a_profile_without_an_access_token(http: httpx.AsyncClient, person: Person) -> None:
    answer = await http.patch(f"/users/{new_id()}", json={"nickname": somebody().nickname})
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Bearer")


@pytest.mark.standard("LG-15")
async def test_not_even_an_administrator_sets_what_is_no_part_of_a_profile(
    http: httpx.AsyncClient, services: Services, person: Person, admin: dict[str, str]
) -> None:
    account = await id_of(services, person)
    for more in ({"roles": ["admin"]}, {"email": "x@example.com"}, {"disabled_at": None}):
        answer = await http.patch(f"/users/{account}", json={"locale": "ko", **more}, headers=admin)
        assert answer.status_code == 400
    row = await row_of(services, person)
    assert (row.roles, row.email, row.locale) == ([], person.email, "en")


@pytest.mark.standard("LG-12", "LG-13")
async def test_a_person_is_told_when_an_administrator_changes_their_nickname(
    app: Litestar, services: Services, outbox: Outbox, person: Person, admin: dict[str, str]
) -> None:
    nickname = somebody().nickname
    async with browser(app) as http:
        answer = await http.patch(
            f"/users/{await id_of(services, person)}",
            json={"nickname": nickname},
            headers={**admin, "User-Agent": FIREFOX},
        )
    assert (answer.status_code, answer.json()["nickname"]) == (200, nickname)
    assert (await row_of(services, person)).nickname == nickname
    (mail,) = await letters(services, outbox, person.email, "Your nickname was changed")
    assert person.nickname in mail.text
    assert nickname in mail.text


async def test_an_administrator_is_told_who_does_not_exist(http: httpx.AsyncClient, admin: dict[str, str]) -> None:
    answer = await http.patch(f"/users/{new_id()}", json={"locale": "ko"}, headers=admin)
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


@pytest.mark.standard("SE-04")
async def test_a_role_that_was_taken_away_opens_nothing_from_that_moment_on(
    app: Litestar, http_of_second_worker: httpx.AsyncClient, services: Services, person: Person, redis: Redis
) -> None:
    boss = await with_account(services, ("admin",))
    headers, account = await session_of(app, boss), await id_of(services, person)
    path, body = f"/users/{account}", {"locale": "ko"}
    assert (await http_of_second_worker.patch(path, json=body, headers=headers)).status_code == 200

    async with services.database.begin() as transaction:
        await transaction.execute(update(Account).where(Account.email == boss.email).values(roles=[]))
    await session_of(app, boss)  # roles come with a sign-in, for every session of the account

    refused = await http_of_second_worker.patch(path, json=body, headers=headers)
    assert (refused.status_code, refused.json()["code"]) == (403, "not_yours")
    shown = await redis.hget(f"vestibule:sessions:{{{await id_of(services, boss)}}}", "r")
    assert shown == b""


async def test_an_account_that_is_closed_is_nobodys_profile_any_more(
    http: httpx.AsyncClient, services: Services, person: Person
) -> None:
    account: UUID = await id_of(services, person)
    assert (await http.delete("/me", headers=person.headers)).status_code == 204
    assert (await http.get(f"/users/{account}")).status_code == 404
