"""Attacks on the way back in: old, used, foreign and parallel links, and stores that fail in the middle of it."""

import asyncio
from collections import Counter

import httpx
import pytest
from litestar import Litestar

from service.crypto import opaque
from service.wiring import Services
from tests.conftest import Introspector, Outbox, Person, browser, sign_up, somebody
from tests.deeds import letters, sign_in, with_account
from tests.journeys.links import (
    DEAD_LINK,
    NEW_PASSWORD,
    change_password,
    count,
    disable,
    enter,
    flipped,
    forged,
    forgot,
    is_dead,
    links,
    move,
    reset,
    reset_link,
    told,
)

# Once, for one password


@pytest.mark.standard("CL-01")
async def test_a_link_resets_once(http: httpx.AsyncClient, services: Services, outbox: Outbox) -> None:
    person = await with_account(services)
    token = await reset_link(http, services, outbox, person)
    assert (await reset(http, token)).status_code == 204
    assert told(await reset(http, token, "another one by somebody else")) == DEAD_LINK
    assert (await sign_in(http, person, password=NEW_PASSWORD)).status_code == 200


@pytest.mark.standard("CL-07")
async def test_another_request_ends_the_link_before(
    app: Litestar, http: httpx.AsyncClient, services: Services, outbox: Outbox
) -> None:
    person = await with_account(services)
    old = await reset_link(http, services, outbox, person)
    async with browser(app) as elsewhere:
        new = await reset_link(elsewhere, services, outbox, person)

    assert told(await reset(http, old)) == DEAD_LINK
    assert (await reset(http, new)).status_code == 204


@pytest.mark.standard("CL-07")
async def test_a_link_is_good_for_the_password_that_was_forgotten_and_no_later_one(
    http: httpx.AsyncClient, services: Services, outbox: Outbox
) -> None:
    person = await with_account(services)
    token = await reset_link(http, services, outbox, person)
    await enter(http, person)
    await change_password(http, person, "remembered after all, and changed")

    assert told(await reset(http, token)) == DEAD_LINK
    assert (await sign_in(http, person)).status_code == 200


@pytest.mark.standard("CL-07")
async def test_a_link_in_the_old_mailbox_dies_with_the_change_of_address(
    http: httpx.AsyncClient, services: Services, outbox: Outbox
) -> None:
    person = await sign_up(http, services, outbox)
    token = await reset_link(http, services, outbox, person)
    await move(http, services, outbox, person, somebody().email)

    assert told(await reset(http, token)) == DEAD_LINK
    assert (await sign_in(http, person)).status_code == 200


@pytest.mark.standard("CL-01", "CL-11")
async def test_no_doubt_about_a_link_has_an_answer_of_its_own(
    http: httpx.AsyncClient, services: Services, outbox: Outbox
) -> None:
    person, other = await with_account(services), await with_account(services)
    used = await reset_link(http, services, outbox, other)
    await reset(http, used)
    token = await reset_link(http, services, outbox, person)
    middle = len(token) // 2
    noise = token[:middle] + ("A" if token[middle] != "A" else "B") + token[middle + 1 :]
    odd = ["", "x", "vpr_", token[:-1], token + "A", noise, token.upper(), f" {token}", f"{token}\n"]
    changed = [forged(token, flipped(place)) for place in (0, 15, 16, -1)]
    mixed = forged(used, lambda body: body[:16] + (opaque.decode("vpr", token) or b"")[16:])
    wrong = [
        *odd,
        *changed,
        mixed,
        used,
        forged(token, lambda body: body + b"x"),
        forged(token, lambda body: body[:-1]),
    ]
    answers = [await reset(http, text) for text in wrong]

    assert {told(answer) for answer in answers} == {DEAD_LINK}
    assert len({answer.content for answer in answers}) == 1
    assert (await reset(http, token)).status_code == 204


# Races


@pytest.mark.standard("CL-01")
async def test_of_fifty_resets_at_once_one_sets_its_password(
    http: httpx.AsyncClient, services: Services, outbox: Outbox
) -> None:
    person = await with_account(services)
    token = await reset_link(http, services, outbox, person)
    before = len(await letters(services, outbox, person.email))
    passwords = [f"{NEW_PASSWORD} number {number}" for number in range(50)]
    answers = await asyncio.gather(*(reset(http, token, password) for password in passwords))

    assert Counter(answer.status_code for answer in answers) == {204: 1, 400: 49}
    (won,) = [password for password, answer in zip(passwords, answers, strict=True) if answer.status_code == 204]
    assert (await sign_in(http, person, password=won)).status_code == 200
    mails = (await letters(services, outbox, person.email))[before:]
    assert [mail.subject for mail in mails].count("Your password was changed") == 1


@pytest.mark.standard("SE-17", "LG-21")
async def test_no_session_of_the_old_password_outlives_the_reset_however_they_cross(
    app: Litestar, services: Services, outbox: Outbox, introspector: Introspector
) -> None:
    """A thief who signs in again and again while the owner resets, each time with the password of before."""
    for _ in range(3):
        person = await with_account(services)
        async with browser(app) as owner, browser(app) as thief:
            token = await reset_link(owner, services, outbox, person)

            async def slowly(owner: httpx.AsyncClient = owner, token: str = token) -> httpx.Response:
                await asyncio.sleep(0.02)
                return await reset(owner, token)

            done, *entries = await asyncio.gather(slowly(), *(sign_in(thief, person) for _ in range(8)))
            assert done.status_code == 204
            for entry in entries:
                assert entry.status_code in {200, 401}, entry.text
                if entry.status_code == 200:
                    assert await introspector.ask(owner, entry.json()["access_token"]) == {"active": False}
            live = "SELECT count(*) FROM sessions s JOIN accounts a ON a.id = account_id"
            assert await count(services, f"{live} WHERE email = :a AND ended_at IS NULL", a=person.email) == 0


# Disabled and gone


@pytest.mark.standard("LG-07", "SE-16")
async def test_somebody_who_is_shut_out_is_neither_mailed_nor_let_in_by_a_reset(
    http: httpx.AsyncClient, services: Services, outbox: Outbox, introspector: Introspector
) -> None:
    person = await sign_up(http, services, outbox)
    token = await reset_link(http, services, outbox, person)
    await disable(services, person)
    before = len(outbox.to(person.email))
    await forgot(http, person.email)

    assert len(await letters(services, outbox, person.email)) == before
    assert told(await reset(http, token)) == DEAD_LINK
    assert told(await sign_in(http, person)) == (403, "account_disabled"), "the password is the one of before"
    assert await is_dead(http, introspector, person)


@pytest.mark.standard("SE-16")
async def test_a_link_of_an_account_that_was_closed_opens_nothing(
    http: httpx.AsyncClient, services: Services, outbox: Outbox
) -> None:
    person = await sign_up(http, services, outbox)
    token = await reset_link(http, services, outbox, person)
    assert (await http.delete("/me", headers=person.headers)).status_code == 204
    assert told(await reset(http, token)) == DEAD_LINK

    again = await sign_up(http, services, outbox, Person(person.email, somebody().nickname))
    assert told(await reset(http, token)) == DEAD_LINK
    assert (await sign_in(http, again)).status_code == 200


@pytest.mark.standard("LG-14")
async def test_nobody_without_an_account_is_mailed(http: httpx.AsyncClient, services: Services, outbox: Outbox) -> None:
    nobody = somebody()
    await forgot(http, nobody.email)
    assert await links(services, outbox, nobody.email, "reset") == []
    assert outbox.to(nobody.email) == []
