"""Many at once, over two workers: one account for one person, one way in that stays, and no session that outlives its
identity."""

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from uuid import UUID

import httpx
import pytest
from litestar import Litestar
from sqlalchemy import text

from service.accounts.models import Account
from service.app import create_app
from service.providers.provider import ForeignPerson
from service.store.postgres import new_id
from service.wiring import Services
from tests.conftest import Introspector, Outbox, Person, browser
from tests.deeds import OTHER, is_in, mailed_link, session_of, sign_in, with_account
from tests.social.acting import REFRESH_COOKIE, Stranger, begun, came_back, decided, error_of, me, signed_in
from tests.social.linked import (
    PATIENCE,
    back_from,
    comes_in,
    comes_in_elsewhere,
    identities_of,
    is_active,
    journal_of,
    link,
    link_begun,
    linked,
    the_account,
    the_identity,
    unlink,
)

AT_ONCE = 20


@pytest.fixture
def apps(app: Litestar, second_worker: Services) -> list[Litestar]:
    """Both workers."""
    return [app, create_app(second_worker)]


@asynccontextmanager
async def browsers(apps: list[Litestar], number: int) -> AsyncIterator[list[httpx.AsyncClient]]:
    """So many, each at an address of its own, in turn at each worker."""
    async with AsyncExitStack() as stack:
        turns = itertools.islice(itertools.cycle(apps), number)
        yield [await stack.enter_async_context(browser(app)) for app in turns]


async def all_back(
    clients: list[httpx.AsyncClient], abroad: httpx.AsyncClient, provider: str, people: list[Stranger]
) -> list[httpx.Response]:
    """Everybody comes back from the provider at the same moment."""
    locations = [await back_from(http, abroad, provider, who) for http, who in zip(clients, people, strict=True)]
    return await asyncio.gather(*(came_back(http, url) for http, url in zip(clients, locations, strict=True)))


async def all_wait(services: Services, number: int) -> None:
    """Until so many wait for a lock of the database."""
    statement = text(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    async with asyncio.timeout(PATIENCE):
        while True:
            async with services.database.begin() as transaction:
                if (await transaction.scalar(statement) or 0) >= number:
                    return
            await asyncio.sleep(0.01)


@asynccontextmanager
async def held(services: Services, account: UUID) -> AsyncIterator[None]:
    """Keeps the row of an account."""
    async with services.database.begin() as transaction:
        await transaction.execute(text("SELECT FROM accounts WHERE id = :id FOR UPDATE"), {"id": account})
        yield


async def waited_for(deed: Callable[[], Awaitable[object]]) -> None:
    """As a coroutine, for a task."""
    await deed()


@pytest.mark.standard("SO-10", "SE-29")
@pytest.mark.parametrize("provider", ["openid", "discord"])
async def test_the_same_new_person_many_times_at_once_is_one_account(
    apps: list[Litestar], services: Services, abroad: httpx.AsyncClient, provider: str
) -> None:
    who = Stranger()
    async with browsers(apps, AT_ONCE) as clients:
        answers = await all_back(clients, abroad, provider, [who] * AT_ONCE)
        assert [error_of(answer) for answer in answers] == [""] * AT_ONCE
        seen = {
            (await me(http, await signed_in(http, answer)))["id"] for http, answer in zip(clients, answers, strict=True)
        }
    account = await the_account(services, who.email)
    assert seen == {str(account.id)}
    assert (await the_identity(services, who)).account_id == account.id
    assert account.nickname == who.username
    assert len(await services.sessions.live(account.id)) == AT_ONCE


async def test_whoever_is_second_comes_in_too_although_the_first_was_written_down_in_between(
    app: Litestar, services: Services, abroad: httpx.AsyncClient
) -> None:
    """The second one looks for the identity before the first one is done, and for the address after it."""
    who, now = Stranger(), services.clock()
    person = ForeignPerson(services.providers.get("openid").issuer, who.subject, who.username, who.email, True)
    account = Account(
        id=new_id(),
        email=who.email,
        nickname=who.username,
        nickname_key=who.username,
        password_hash=None,
        password_changed_at=now,
        locale="en",
        avatar_url=None,
        roles=[],
        created_at=now,
        disabled_at=None,
    )
    async with browser(app) as http:
        location = await back_from(http, abroad, "openid", who)
        async with asyncio.TaskGroup() as group, services.database.begin() as transaction:
            await transaction.execute(text("LOCK TABLE accounts IN ACCESS EXCLUSIVE MODE"))
            second = group.create_task(came_back(http, location))
            await all_wait(services, 1)
            transaction.add(account)
            await transaction.flush()
            await services.federation.identities.add(transaction, account.id, "openid", person, None, at=now)
        headers = await signed_in(http, second.result())
        assert (await me(http, headers))["id"] == str(account.id)


@pytest.mark.standard("SO-21")
async def test_of_two_people_with_one_address_one_gets_the_account_and_the_others_nothing(
    apps: list[Litestar], services: Services, abroad: httpx.AsyncClient
) -> None:
    first = Stranger()
    people = [first, *(Stranger(email=first.email) for _ in range(7))]
    async with browsers(apps, len(people)) as clients:
        answers = await all_back(clients, abroad, "openid", people)
    errors = Counter(error_of(answer) for answer in answers)
    assert errors == {"": 1, "account_link_required": 7}
    assert [REFRESH_COOKIE in answer.cookies for answer in answers] == [error_of(one) == "" for one in answers]
    account = await the_account(services, first.email)
    found = [identity for who in people for identity in await identities_of(services, who)]
    assert [identity.account_id for identity in found] == [account.id]


async def test_many_people_of_one_name_are_many_accounts(apps: list[Litestar], abroad: httpx.AsyncClient) -> None:
    first = Stranger()
    people = [Stranger(username=first.username, email=Stranger().email) for _ in range(10)]
    async with browsers(apps, len(people)) as clients:
        answers = await all_back(clients, abroad, "discord", people)
        accounts = [
            await me(http, await signed_in(http, answer)) for http, answer in zip(clients, answers, strict=True)
        ]
    nicknames = {account["nickname"] for account in accounts}
    assert len(nicknames) == len({account["id"] for account in accounts}) == 10
    assert first.username in nicknames


@pytest.mark.standard("SO-28", "SE-29")
async def test_of_many_unlinks_at_once_one_way_in_stays(apps: list[Litestar], abroad: httpx.AsyncClient) -> None:
    who = Stranger()
    async with browsers(apps, AT_ONCE) as clients:
        headers = await comes_in(clients[0], abroad, "openid", who)
        assert await link(clients[0], abroad, headers, "discord", Stranger()) == ""
        names = itertools.cycle(["openid", "openid", "discord", "discord"])  # each worker gets both
        answers = await asyncio.gather(
            *(unlink(http, headers, name) for http, name in zip(clients, names, strict=False))
        )
        assert Counter(answers).keys() <= {(204, ""), (404, "not_found"), (409, "last_credential")}
        assert answers.count((204, "")) == 1
        assert len(await linked(clients[0], headers)) == 1


@pytest.mark.standard("SO-13")
async def test_no_session_survives_that_came_in_beside_the_unlink_of_its_identity(
    apps: list[Litestar],
    abroad: httpx.AsyncClient,
    services: Services,
    introspector: Introspector,
) -> None:
    """Again and again, each with an unlink and three sign-ins at the same moment."""
    person = await with_account(services)
    who = Stranger(email=person.email)
    outcomes: Counter[str] = Counter()
    async with browsers(apps, 4) as (mine, *others):
        headers = await session_of(apps[0], person)
        for number in range(AT_ONCE):
            assert await link(mine, abroad, headers, "openid", who) == ""
            for http in others:
                http.cookies.clear()
            locations = [await back_from(http, abroad, "openid", who) for http in others]
            returning = asyncio.gather(*map(came_back, others, locations))
            for _ in range(number // 2):  # a little later each time, until it is after them
                await services.database.ping()
            assert await unlink(mine, headers, "openid") == (204, "")
            answers = await returning
            outcomes.update(map(error_of, answers))
            for token in (answer.cookies.get(REFRESH_COOKIE) for answer in answers):
                renewed = await mine.post("/auth/refresh", json={"refresh_token": token or ""})
                assert renewed.status_code in {400, 401}
            assert await is_active(mine, introspector, headers)
            assert await identities_of(services, who) == []
    account = await the_account(services, person.email)
    assert len(await services.sessions.live(account.id)) == 1
    assert set(outcomes) <= {"", "temporarily_unavailable", "account_link_required"}
    assert len(outcomes) > 1
    journal = await journal_of(services, account.id)
    assert {row.ended_reason for row in journal if row.amr == ["fed"]} <= {"identity_unlinked"}


@pytest.mark.standard("SO-13")
@pytest.mark.parametrize("comes_first", ["the unlink", "the sign-in"])
async def test_whichever_gets_the_account_first_the_session_is_over(
    apps: list[Litestar], abroad: httpx.AsyncClient, services: Services, comes_first: str
) -> None:
    """Both wait for the row of the account, one before the other."""
    person = await with_account(services)
    who, account = Stranger(email=person.email), await the_account(services, person.email)
    async with browsers(apps, 2) as (mine, other):
        headers = await session_of(apps[0], person)
        assert await link(mine, abroad, headers, "openid", who) == ""
        deeds: list[Callable[[], Awaitable[object]]] = [lambda: unlink(mine, headers, "openid")]
        location = await back_from(other, abroad, "openid", who)
        deeds.insert(0 if comes_first == "the sign-in" else 1, lambda: came_back(other, location))
        async with asyncio.TaskGroup() as group, held(services, account.id):
            for number, deed in enumerate(deeds, 1):
                group.create_task(waited_for(deed))
                await all_wait(services, number)
        assert await linked(mine, headers) == []
    assert len(await services.sessions.live(account.id)) == 1


@pytest.mark.standard("SO-21")
async def test_a_reset_beside_a_link_leaves_no_link(
    apps: list[Litestar], abroad: httpx.AsyncClient, services: Services, outbox: Outbox
) -> None:
    async with browsers(apps, 2) as (owner, thief):
        for _ in range(5):
            person, who = await with_account(services), Stranger()
            headers = await session_of(apps[0], person)
            location = await decided(abroad, await link_begun(thief, headers, "openid"), who)
            assert (await owner.post("/auth/password/forgot", json={"email": person.email})).status_code == 202
            body = {"token": await mailed_link(services, outbox, person.email, "reset"), "password": OTHER}
            back, reset = await asyncio.gather(
                came_back(thief, location), owner.post("/auth/password/reset", json=body)
            )
            assert reset.status_code == 204
            assert error_of(back) in {"", "session_expired"}
            assert await identities_of(services, who) == []
            assert not await is_in(owner, headers)
            assert (await sign_in(owner, Person(person.email, person.nickname, OTHER))).status_code == 200


async def test_one_person_is_linked_to_one_of_two_accounts_that_ask_at_once(
    apps: list[Litestar], abroad: httpx.AsyncClient, services: Services
) -> None:
    async with browsers(apps, 6) as clients:
        who = Stranger()
        headers = [await session_of(apps[0], await with_account(services)) for _ in clients]
        locations = [
            await decided(abroad, await link_begun(http, mine, "github"), who)
            for http, mine in zip(clients, headers, strict=True)
        ]
        answers = await asyncio.gather(*map(came_back, clients, locations))
        assert Counter(map(error_of, answers)) == {"": 1, "identity_taken": 5}
        assert len(await identities_of(services, who)) == 1


async def test_two_people_of_a_provider_cannot_both_be_linked_to_one_account(
    apps: list[Litestar], abroad: httpx.AsyncClient, services: Services
) -> None:
    headers = await session_of(apps[0], await with_account(services))
    async with browsers(apps, 6) as clients:
        people = [Stranger() for _ in clients]
        locations = [
            await decided(abroad, await link_begun(http, headers, "openid"), who)
            for http, who in zip(clients, people, strict=True)
        ]
        answers = await asyncio.gather(*map(came_back, clients, locations))
        assert Counter(map(error_of, answers)) == {"": 1, "already_linked": 5}
        assert await linked(clients[0], headers) == ["openid"]


async def test_a_sign_in_beside_the_end_of_the_account_leaves_no_session_in_it(
    apps: list[Litestar], abroad: httpx.AsyncClient, services: Services
) -> None:
    async with browsers(apps, 2) as (mine, other):
        for _ in range(10):
            who = Stranger()
            headers = await comes_in(mine, abroad, "openid", who)
            gone = (await the_account(services, who.email)).id
            other.cookies.clear()
            location = await back_from(other, abroad, "openid", who)
            closed, answer = await asyncio.gather(mine.delete("/me", headers=headers), came_back(other, location))
            assert closed.status_code == 204
            assert error_of(answer) in {"", "temporarily_unavailable", "account_link_required"}
            assert await services.sessions.live(gone) == []
            assert await journal_of(services, gone) == []


async def test_the_picture_still_follows_the_provider_after_two_sign_ins_at_once(
    apps: list[Litestar], abroad: httpx.AsyncClient, services: Services
) -> None:
    """Two devices, and a picture that changed in between: whoever is written down last, account and identity agree."""
    who, url = Stranger(), "https://pictures.example/{}.png"
    await comes_in_elsewhere(apps[0], abroad, "openid", who, picture=url.format(0))
    account = await the_account(services, who.email)
    async with browsers(apps, 2) as clients, asyncio.TaskGroup() as group, held(services, account.id):
        for number, http in enumerate(clients, 1):
            location = await decided(abroad, await begun(http, "openid"), who, picture=url.format(number))
            group.create_task(came_back(http, location))
            await all_wait(services, number)
    account, identity = await the_account(services, who.email), await the_identity(services, who)
    assert account.avatar_url == identity.avatar_url != url.format(0)
