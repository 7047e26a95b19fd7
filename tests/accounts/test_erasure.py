"""Closing an account leaves nothing about the person: in no table, under no key, and in no mail that has not left."""

import io
from datetime import timedelta
from typing import Any

import httpx
import pytest
from litestar import Litestar
from PIL import Image
from redis.asyncio import Redis
from sqlalchemy import text, update

from service.app import create_app
from service.mail.outbox import OutboxRow
from service.settings import Settings
from service.wiring import Services, build
from tests.conftest import (
    PASSWORD,
    Outbox,
    Person,
    TestClock,
    browser,
    shifted,
    sign_up,
    somebody,
)
from tests.deeds import OTHER, WRONG, bearer, id_of, letters, mailed_link, sign_in
from tests.traces import keys_with, rows_with

STRANGERS = {"account.register"}
"""Events from before there was an account: they name nobody, so nobody's account can be found from them."""


async def close(http: httpx.AsyncClient, headers: dict[str, str]) -> httpx.Response:
    return await http.delete("/me", headers=headers)


def picture() -> dict[str, Any]:
    file = io.BytesIO()
    Image.new("RGB", (30, 30), "teal").save(file, "PNG")
    return {"image": ("me.png", file.getvalue(), "image/png")}


async def held_back(services: Services, address: str) -> None:
    """Puts a mail to an address into the outbox that will not leave today, nor any mail behind it."""
    async with services.database.begin() as transaction:
        services.outbox.post(transaction, "already_registered", address, "en")
        await transaction.flush()
        (row,) = await services.outbox.of(transaction, address)
        tomorrow = services.clock() + timedelta(days=1)
        await transaction.execute(update(OutboxRow).where(OutboxRow.id == row.id).values(next_try_at=tomorrow))


async def waiting_for(services: Services, address: str) -> list[str]:
    async with services.database.begin() as transaction:
        rows = await services.outbox.of(transaction, address)
    return [row.template for row in sorted(rows, key=lambda row: row.id)]


@pytest.mark.standard("LO-20", "SE-16")
async def test_nothing_about_the_person_is_left_in_either_store(
    app: Litestar, services: Services, outbox: Outbox, redis: Redis
) -> None:
    agent, home = f"Agent/{somebody().nickname}", f"2001:db8:dead:{somebody().nickname[-4:]}::7"
    person, new_email, moved = somebody(), somebody().email, somebody().nickname
    async with browser(app, home) as http:
        http.headers["User-Agent"] = agent
        await sign_up(http, services, outbox, person)
        account = await id_of(services, person)
        assert (await http.put("/me/avatar", files=picture(), headers=person.headers)).status_code == 200
        assert (await http.patch("/me", json={"nickname": moved}, headers=person.headers)).status_code == 200
        assert (await sign_in(http, person, password=WRONG)).status_code == 401
        headers = bearer(await sign_in(http, person))
        for path, body in (
            ("/auth/password/forgot", {"email": person.email}),
            ("/me/email", {"email": new_email, "password": PASSWORD}),
        ):
            assert (await http.post(path, json=body, headers=headers)).status_code == 202
        wrong = {"current_password": WRONG, "new_password": OTHER}
        assert (await http.post("/me/password", json=wrong, headers=headers)).status_code == 401
        assert (await http.get("/me/export", headers=headers)).status_code == 200
        await letters(services, outbox, new_email)
        words = (person.email, new_email, person.nickname, moved, agent, home, str(account))
        assert {table for table, _ in await rows_with(services, words)} >= {"accounts", "sessions", "audit_events"}

        assert (await close(http, headers)).status_code == 204

    await letters(services, outbox, person.email)
    await services.audit.flush()
    left = await rows_with(services, words[:-1])
    assert {table for table, _ in left} <= {"audit_events", "revocations"}
    async with services.database.begin() as transaction:
        statement = text("SELECT event FROM audit_events WHERE address = :h OR user_agent = :a")
        named = set((await transaction.scalars(statement, {"h": home, "a": agent})).all())
        statement = text("SELECT * FROM audit_events WHERE account_id = :a")
        kept = (await transaction.execute(statement, {"a": account})).mappings().all()
    assert named <= STRANGERS
    assert {"account.close", "account.change", "session.open", "login"} <= {row["event"] for row in kept}
    for row in kept:
        assert (row["address"], row["user_agent"]) == (None, None), row["event"]
    assert {table for table, _ in await rows_with(services, [str(account)])} == {"audit_events", "revocations"}
    assert await keys_with(redis, words[:-1]) == set()
    store = services.avatars.store
    assert store is not None
    assert await store.list(str(account)).collect_async() == []


@pytest.mark.standard("LO-20")
async def test_a_sign_up_that_was_begun_twice_is_forgotten_with_the_account(
    http: httpx.AsyncClient, services: Services, outbox: Outbox, redis: Redis
) -> None:
    person = somebody()
    body = {"email": person.email, "password": person.password, "nickname": person.nickname}
    assert (await http.post("/auth/register", json=body)).status_code == 202
    await sign_up(http, services, outbox, person)

    assert (await close(http, person.headers)).status_code == 204

    assert await keys_with(redis, [person.email, person.nickname]) == set()


@pytest.mark.standard("LO-20")
async def test_what_another_worker_has_yet_to_write_down_names_no_place_either(
    services: Services, settings: Settings, wall_clock: TestClock, outbox: Outbox, person: Person
) -> None:
    """A worker keeps the events of a moment in its memory; the account may be closed at another one meanwhile."""
    account = await id_of(services, person)
    slow = build(settings, clock=wall_clock, mail=lambda _: outbox, scripts=shifted)
    await slow.signing_keys.reload()
    await slow.clients.reload()
    try:
        async with browser(create_app(slow)) as elsewhere, browser(create_app(services)) as http:
            headers = bearer(await sign_in(elsewhere, person))
            assert (await close(http, headers)).status_code == 204
        await slow.audit.flush()
    finally:
        await slow.close()
    await services.audit.flush()
    await services.housekeeping.clean()
    statement = text("SELECT event FROM audit_events WHERE account_id = :a AND address IS NOT NULL")
    async with services.database.begin() as transaction:
        assert (await transaction.scalars(statement, {"a": account})).all() == []


@pytest.mark.standard("LO-20")
async def test_a_front_end_that_still_comes_with_its_tokens_leaves_no_place_at_a_closed_account(
    http: httpx.AsyncClient, services: Services, person: Person
) -> None:
    account = await id_of(services, person)
    assert (await close(http, person.headers)).status_code == 204
    for path in ("/auth/refresh", "/auth/logout"):
        await http.post(path, json={"refresh_token": person.refresh_token})
    await services.audit.flush()
    await services.housekeeping.clean()
    statement = text("SELECT event FROM audit_events WHERE account_id = :a AND address IS NOT NULL")
    async with services.database.begin() as transaction:
        assert (await transaction.scalars(statement, {"a": account})).all() == []


async def test_mails_that_have_not_left_are_thrown_away_but_for_the_last(
    http: httpx.AsyncClient, services: Services, outbox: Outbox, person: Person
) -> None:
    before = len(await letters(services, outbox, person.email))
    await held_back(services, person.email)
    await http.patch("/me", json={"nickname": somebody().nickname}, headers=person.headers)
    assert (await http.post("/auth/password/forgot", json={"email": person.email})).status_code == 202
    assert await waiting_for(services, person.email) == ["already_registered", "nickname_changed", "reset"]

    assert (await close(http, person.headers)).status_code == 204

    mails = await letters(services, outbox, person.email)
    assert [mail.subject for mail in mails[before:]] == ["Your account was closed"]


async def test_mails_to_other_addresses_of_the_person_are_thrown_away_too(
    http: httpx.AsyncClient, services: Services, outbox: Outbox, person: Person
) -> None:
    first, second = person.email, somebody().email
    await letters(services, outbox, first)
    body = {"email": second, "password": PASSWORD}
    assert (await http.post("/me/email", json=body, headers=person.headers)).status_code == 202
    token = await mailed_link(services, outbox, second, "email")
    await held_back(services, first)
    assert (await http.post("/me/email/confirm", json={"token": token}, headers=person.headers)).status_code == 204
    third = somebody().email
    await held_back(services, third)
    body = {"email": third, "password": PASSWORD}
    assert (await http.post("/me/email", json=body, headers=person.headers)).status_code == 202
    assert await waiting_for(services, first) == ["already_registered", "email_changed"]
    assert await waiting_for(services, third) == ["already_registered", "email_change"]

    assert (await close(http, person.headers)).status_code == 204

    assert "email_changed" not in await waiting_for(services, first)
    assert "email_change" not in await waiting_for(services, third)
