"""Closing an account: what it takes, what dies with it, and that nothing about the person is left."""

import asyncio
import io
from collections import Counter
from collections.abc import Awaitable
from typing import Any

import httpx
import pytest
from litestar import Litestar
from PIL import Image

from service.app import create_app
from service.wiring import Services
from tests.conftest import (
    PASSWORD,
    Introspector,
    Outbox,
    Person,
    TestClock,
    browser,
    new_address,
    sign_up,
    somebody,
)
from tests.deeds import OTHER, bearer, id_of, is_in, letters, mailed_link, row_of, session_of, sign_in
from tests.traces import rows_with


async def close(http: httpx.AsyncClient, headers: dict[str, str]) -> httpx.Response:
    return await http.delete("/me", headers=headers)


def picture() -> dict[str, Any]:
    file = io.BytesIO()
    Image.new("RGB", (30, 30), "teal").save(file, "PNG")
    return {"image": ("me.png", file.getvalue(), "image/png")}


@pytest.mark.standard("SE-19", "SE-21")
async def test_it_takes_a_password_given_just_now(
    app: Litestar, services: Services, outbox: Outbox, clock: TestClock
) -> None:
    async with browser(app) as http:
        person = await sign_up(http, services, outbox)
        await clock.advance(seconds=302)
        fresh = await http.post("/auth/refresh", json={"refresh_token": person.refresh_token})
        refused = await close(http, bearer(fresh))  # a refresh makes nothing fresh
        assert (refused.status_code, refused.json()["code"]) == (401, "insufficient_user_authentication")
        assert 'error="insufficient_user_authentication"' in refused.headers["www-authenticate"]
        assert "max_age=300" in refused.headers["www-authenticate"]
        assert (await row_of(services, person)).email == person.email

        again = await http.post("/auth/reauthenticate", json={"password": PASSWORD}, headers=bearer(fresh))
        assert (await close(http, bearer(again))).status_code == 204


@pytest.mark.standard("SE-19")
async def test_it_is_fresh_for_five_minutes(
    app: Litestar, services: Services, outbox: Outbox, clock: TestClock
) -> None:
    async with browser(app) as http:
        person = await sign_up(http, services, outbox)
        await clock.advance(seconds=280)
        answer = await close(http, person.headers)
    assert (answer.status_code, answer.content) == (204, b"")
    assert answer.headers["cache-control"] == "no-store"


@pytest.mark.standard("SE-16", "SE-15", "IN-15")
async def test_every_session_is_dead_at_once_in_every_worker(
    app: Litestar,
    http: httpx.AsyncClient,
    http_of_second_worker: httpx.AsyncClient,
    person: Person,
    introspector: Introspector,
) -> None:
    other = await sign_in(http, person)
    tokens = [(person.access_token, person.refresh_token)]
    tokens.append((other.json()["access_token"], other.json()["refresh_token"]))

    assert (await close(http, person.headers)).status_code == 204

    for access, refresh in tokens:
        for worker_of in (http_of_second_worker, http):
            assert not await is_in(worker_of, {"Authorization": f"Bearer {access}"})
            assert await introspector.ask(worker_of, access) == {"active": False}
            dead = await worker_of.post("/auth/refresh", json={"refresh_token": refresh})
            assert (dead.status_code, dead.json()["code"]) == (401, "session_expired")
    refused = await sign_in(http, person)
    assert (refused.status_code, refused.json()["code"]) == (401, "invalid_credentials")
    again = await close(http, person.headers)
    assert (again.status_code, again.json()["code"]) == (401, "invalid_token")


@pytest.mark.standard("LG-12", "LG-13")
@pytest.mark.parametrize(
    ("locale", "subject", "words"),
    [("en", "Your account was closed", "everything in it was erased"), ("ko", "계정이 삭제되었습니다", "모든 정보"),
     ("ja", "アカウントが削除されました", "すべて消去")],
)  # fmt: skip
async def test_the_last_mail_says_so_in_the_language_of_the_person(
    http: httpx.AsyncClient,
    services: Services,
    outbox: Outbox,
    person: Person,
    *,
    locale: str,
    subject: str,
    words: str,
) -> None:
    await http.patch("/me", json={"locale": locale}, headers=person.headers)
    assert (await close(http, person.headers)).status_code == 204
    mails = await letters(services, outbox, person.email)
    assert mails[-1].subject == subject
    assert words in mails[-1].text
    async with services.database.begin() as transaction:
        assert await services.outbox.of(transaction, person.email) == []


async def test_address_and_nickname_are_free_again(
    http: httpx.AsyncClient, services: Services, outbox: Outbox, person: Person
) -> None:
    account = await id_of(services, person)
    assert (await close(http, person.headers)).status_code == 204
    await letters(services, outbox, person.email)
    again = await sign_up(http, services, outbox, Person(person.email, person.nickname, OTHER))
    assert (await row_of(services, again)).id != account
    assert (await row_of(services, again)).roles == []


@pytest.mark.standard("CL-07", "CL-16")
async def test_no_link_of_the_account_works_any_more(
    http: httpx.AsyncClient, services: Services, outbox: Outbox, person: Person
) -> None:
    new_email = somebody().email
    assert (await http.post("/auth/password/forgot", json={"email": person.email})).status_code == 202
    reset = await mailed_link(services, outbox, person.email, "reset")
    body = {"email": new_email, "password": PASSWORD}
    assert (await http.post("/me/email", json=body, headers=person.headers)).status_code == 202
    token = await mailed_link(services, outbox, new_email, "email")
    assert (await http.post("/me/email/confirm", json={"token": token}, headers=person.headers)).status_code == 204
    undo = await mailed_link(services, outbox, person.email, "undo")

    assert (await close(http, person.headers)).status_code == 204

    for link in (reset, undo):
        answer = await http.post("/auth/password/reset", json={"token": link, "password": OTHER})
        assert (answer.status_code, answer.json()["code"]) == (400, "invalid_or_expired_code")


@pytest.mark.standard("SE-29")
async def test_of_two_who_close_at_once_one_does(
    app: Litestar, http: httpx.AsyncClient, http_of_second_worker: httpx.AsyncClient, services: Services, outbox: Outbox
) -> None:
    for _ in range(5):
        async with browser(app) as mine:
            person = await sign_up(mine, services, outbox)
        other = await session_of(app, person)
        answers = await asyncio.gather(close(http, person.headers), close(http_of_second_worker, other))
        assert sorted(answer.status_code for answer in answers) == [204, 401]
        assert len(await letters(services, outbox, person.email, "Your account was closed")) == 1


@pytest.mark.standard("SE-16", "SE-29", "LG-07")
async def test_nothing_survives_a_closing_however_it_races(
    app: Litestar, second_worker: Services, services: Services, outbox: Outbox, introspector: Introspector
) -> None:
    """Sign-in, refresh, reauthentication, another nickname and an upload against a closing, in two workers."""
    outcomes: Counter[tuple[int, int]] = Counter()
    other_app = create_app(second_worker)
    for turn in range(10):
        async with browser(app) as http, browser(other_app, new_address()) as elsewhere:
            person = await sign_up(http, services, outbox)
            account, nickname = await id_of(services, person), somebody().nickname

            async def later(act: Awaitable[httpx.Response], delay: float) -> httpx.Response:
                await asyncio.sleep(delay)
                return await act

            step = 0.004 * (turn % 5)
            refresh = {"refresh_token": person.refresh_token}
            closed, *raced = await asyncio.gather(
                later(close(http, person.headers), 0.03 if turn % 2 else 0.0),
                later(sign_in(elsewhere, person), 0),
                later(sign_in(http, person), step),
                later(elsewhere.post("/auth/refresh", json=refresh), step),
                later(elsewhere.post("/auth/reauthenticate", json={"password": PASSWORD}, headers=person.headers), 0),
                later(elsewhere.patch("/me", json={"nickname": nickname}, headers=person.headers), step),
                later(http.put("/me/avatar", files=picture(), headers=person.headers), step),
            )

            assert closed.status_code == 204, closed.text
            outcomes.update((i, answer.status_code) for i, answer in enumerate(raced))
            for answer in raced:
                assert answer.status_code in {200, 401, 404}, answer.text
                if answer.status_code == 200 and "access_token" in answer.json():
                    assert not await is_in(elsewhere, bearer(answer))
                    told = await introspector.ask(http, answer.json()["access_token"])
                    assert told == {"active": False}
            assert await services.sessions.live(account) == []
            await services.mailer.drain()  # word of the closing, and nothing else
            left = await rows_with(services, [person.email, nickname, str(account)])
            await services.audit.flush()
            assert {table for table, _ in left} <= {"audit_events", "revocations"}
            store = services.avatars.store
            assert store is not None
            assert await store.list(str(account)).collect_async() == []
    assert {200, 401} <= {status for _, status in outcomes}
