"""Attacks on a change of address: by who has a session but no password, a password but no mailbox, or both."""

import asyncio
from collections import Counter

import httpx
import pytest
from litestar import Litestar

from service.wiring import Services
from tests.conftest import Introspector, Outbox, Person, browser, sign_up, somebody
from tests.deeds import WRONG, letters, sign_in, with_account
from tests.journeys.links import (
    DEAD_LINK,
    NEW_PASSWORD,
    accounts_of,
    ask_for_email,
    change_password,
    confirm,
    disable,
    email_link,
    enter,
    links,
    move,
    reset,
    reset_link,
    told,
)


async def address_of(services: Services, person: Person) -> str:
    account = await services.administration.find(person.nickname)
    assert account is not None
    return account.email


# Who may ask, and who may confirm


@pytest.mark.standard("CL-16", "LG-02")
async def test_a_stolen_access_token_alone_changes_no_address(
    http: httpx.AsyncClient, services: Services, outbox: Outbox
) -> None:
    person, thiefs = await sign_up(http, services, outbox), somebody().email
    before = len(outbox.to(person.email))
    body = {"email": thiefs, "password": WRONG}
    assert told(await http.post("/me/email", json=body, headers=person.headers)) == (401, "invalid_credentials")
    for wanting in ({"email": thiefs}, {"email": thiefs, "password": None}):
        assert (await http.post("/me/email", json=wanting, headers=person.headers)).status_code == 400
    assert (await http.post("/me/email", json={"email": thiefs, "password": person.password})).status_code == 401

    assert await letters(services, outbox, thiefs) == []
    assert len(outbox.to(person.email)) == before
    assert await address_of(services, person) == person.email


@pytest.mark.standard("CL-07", "CL-16", "LG-21")
async def test_a_link_counts_only_with_a_session_of_its_own_account(
    http: httpx.AsyncClient, services: Services, outbox: Outbox
) -> None:
    """Somebody who opens the link that a stranger had sent to them must not lend the stranger their address."""
    person, other, new = await sign_up(http, services, outbox), await sign_up(http, services, outbox), somebody().email
    token = await email_link(http, services, outbox, person, new)

    assert (await http.post("/me/email/confirm", json={"token": token})).status_code == 401
    assert told(await confirm(http, other, token)) == DEAD_LINK
    assert await accounts_of(services, new) == 0
    assert (await confirm(http, person, token)).status_code == 204
    assert await address_of(services, other) == other.email


@pytest.mark.standard("CL-01")
async def test_of_fifty_confirmations_at_once_one_counts(
    http: httpx.AsyncClient, services: Services, outbox: Outbox
) -> None:
    person, new = await sign_up(http, services, outbox), somebody().email
    old = person.email
    token = await email_link(http, services, outbox, person, new)
    answers = await asyncio.gather(*(confirm(http, person, token) for _ in range(50)))

    assert Counter(answer.status_code for answer in answers) == {204: 1, 400: 49}
    assert len(await links(services, outbox, old, "undo")) == 1
    assert told(await confirm(http, person, token)) == DEAD_LINK


@pytest.mark.standard("CL-07")
async def test_another_request_ends_the_link_before(
    http: httpx.AsyncClient, services: Services, outbox: Outbox
) -> None:
    person, first, second = await sign_up(http, services, outbox), somebody().email, somebody().email
    old = await email_link(http, services, outbox, person, first)
    new = await email_link(http, services, outbox, person, second)

    assert told(await confirm(http, person, old)) == DEAD_LINK
    assert await accounts_of(services, first) == 0
    assert (await confirm(http, person, new)).status_code == 204


@pytest.mark.standard("CL-07", "CL-16")
@pytest.mark.parametrize("end", ["reset", "password", "undo", "logout-all", "disabled"])
async def test_a_pending_change_dies_with_what_it_stood_on(
    http: httpx.AsyncClient, services: Services, outbox: Outbox, end: str
) -> None:
    """A thief asked for it with the stolen password; the owner then shuts the thief out."""
    person, thiefs = await sign_up(http, services, outbox), somebody().email
    if end == "undo":
        home = person.email
        undo = await move(http, services, outbox, person, somebody().email)
    token = await email_link(http, services, outbox, person, thiefs)
    if end == "reset":
        assert (await reset(http, await reset_link(http, services, outbox, person))).status_code == 204
        person.password = NEW_PASSWORD
    elif end == "password":
        await change_password(http, person, NEW_PASSWORD)
    elif end == "undo":
        assert (await reset(http, undo)).status_code == 204
        person.email, person.password = home, NEW_PASSWORD
    elif end == "logout-all":
        assert (await http.delete("/me/sessions", headers=person.headers)).status_code == 204
    else:
        await disable(services, person)
        assert (await confirm(http, person, token)).status_code == 401
        return

    await enter(http, person)
    assert told(await confirm(http, person, token)) == DEAD_LINK
    assert await accounts_of(services, thiefs) == 0


# Addresses of others


@pytest.mark.standard("LG-20", "LG-21")
async def test_an_address_that_was_taken_meanwhile_stays_with_whoever_proved_it(
    app: Litestar, http: httpx.AsyncClient, services: Services, outbox: Outbox
) -> None:
    person, new = await sign_up(http, services, outbox), somebody()
    token = await email_link(http, services, outbox, person, new.email)
    async with browser(app) as elsewhere:
        await sign_up(elsewhere, services, outbox, new)

    assert told(await confirm(http, person, token)) == DEAD_LINK
    assert await address_of(services, person) == person.email
    assert (await http.get("/me", headers=new.headers)).json()["email"] == new.email
    assert (await sign_in(http, person)).status_code == 200


@pytest.mark.standard("LG-20", "LG-21")
async def test_of_two_who_confirm_one_address_at_once_one_gets_it(
    http: httpx.AsyncClient, services: Services, outbox: Outbox
) -> None:
    people, new = [await sign_up(http, services, outbox) for _ in range(2)], somebody().email
    tokens = [await email_link(http, services, outbox, person, new) for person in people]
    answers = await asyncio.gather(*(confirm(http, *pair) for pair in zip(people, tokens, strict=True)))

    assert sorted(answer.status_code for answer in answers) == [204, 400]
    assert await accounts_of(services, new) == 1


@pytest.mark.standard("LG-21", "LG-14")
async def test_a_link_for_somebody_elses_address_goes_to_nobody(
    http: httpx.AsyncClient, services: Services, outbox: Outbox
) -> None:
    person, owner = await sign_up(http, services, outbox), await with_account(services)
    await ask_for_email(http, person, owner.email)
    assert await links(services, outbox, owner.email, "email") == []
    assert await address_of(services, owner) == owner.email


# Undo


@pytest.mark.standard("CL-16", "LG-13", "SE-17")
async def test_the_owner_gets_the_account_back_whatever_a_thief_changed_after_the_address(
    app: Litestar, http: httpx.AsyncClient, services: Services, outbox: Outbox, introspector: Introspector
) -> None:
    """The address from A to B, the password, the address from B to C, the password once more by reset."""
    owner = await sign_up(http, services, outbox)
    home, second, third = owner.email, somebody().email, somebody().email
    async with browser(app) as thief:
        stolen = Person(home, owner.nickname, owner.password)
        await enter(thief, stolen)
        undo = await move(thief, services, outbox, stolen, second)
        await change_password(thief, stolen, "the words of a thief in the night")
        await move(thief, services, outbox, stolen, third)
        stolen.password = "the other words of the same thief"
        assert (
            await reset(thief, await reset_link(thief, services, outbox, stolen), stolen.password)
        ).status_code == 204
        await enter(thief, stolen)
        pending = await email_link(thief, services, outbox, stolen, somebody().email)
        way_back = await reset_link(thief, services, outbox, stolen)

        assert (await reset(http, undo)).status_code == 204

        assert await introspector.ask(http, stolen.access_token) == {"active": False}
        for address in (home, second, third):
            assert told(await sign_in(thief, stolen, email=address)) == (401, "invalid_credentials")
        assert told(await reset(thief, way_back)) == DEAD_LINK
        assert (await confirm(thief, stolen, pending)).status_code == 401
    owner.password = NEW_PASSWORD
    await enter(http, owner)
    assert await address_of(services, owner) == home


@pytest.mark.standard("CL-16", "CL-01", "LG-21")
async def test_a_thief_cannot_undo_the_undo_of_the_owner(
    app: Litestar, http: httpx.AsyncClient, services: Services, outbox: Outbox
) -> None:
    """From A to B and from B to C: the mailbox B, which is the thief's, got a link as well."""
    owner = await sign_up(http, services, outbox)
    home, second, third = owner.email, somebody().email, somebody().email
    async with browser(app) as thief:
        stolen = Person(home, owner.nickname, owner.password)
        await enter(thief, stolen)
        owners = await move(thief, services, outbox, stolen, second)
        thiefs = await move(thief, services, outbox, stolen, third)
        assert (await reset(http, owners)).status_code == 204

        assert told(await reset(thief, thiefs, "the words of a thief in the night")) == DEAD_LINK
    assert await address_of(services, owner) == home
    assert (await sign_in(http, owner, password=NEW_PASSWORD)).status_code == 200


@pytest.mark.standard("CL-16")
async def test_the_oldest_of_three_addresses_can_undo_after_the_second_did(
    http: httpx.AsyncClient, services: Services, outbox: Outbox
) -> None:
    person = await sign_up(http, services, outbox)
    home = person.email
    first = await move(http, services, outbox, person, somebody().email)
    second = await move(http, services, outbox, person, somebody().email)

    assert (await reset(http, second, "the words of a thief in the night")).status_code == 204
    assert (await reset(http, first)).status_code == 204
    assert await address_of(services, person) == home
    person.email = home
    assert (await sign_in(http, person, password=NEW_PASSWORD)).status_code == 200


@pytest.mark.standard("CL-01")
async def test_of_thirty_undos_at_once_one_counts(http: httpx.AsyncClient, services: Services, outbox: Outbox) -> None:
    person = await sign_up(http, services, outbox)
    undo = await move(http, services, outbox, person, somebody().email)
    passwords = [f"{NEW_PASSWORD} number {number}" for number in range(30)]
    answers = await asyncio.gather(*(reset(http, undo, password) for password in passwords))

    assert Counter(answer.status_code for answer in answers) == {204: 1, 400: 29}
    assert told(await reset(http, undo)) == DEAD_LINK


@pytest.mark.standard("LG-20", "CL-16")
async def test_an_undo_takes_no_address_from_an_account_that_proved_it_meanwhile(
    app: Litestar, http: httpx.AsyncClient, services: Services, outbox: Outbox, introspector: Introspector
) -> None:
    person = await sign_up(http, services, outbox)
    home, new = person.email, somebody().email
    undo = await move(http, services, outbox, person, new)
    async with browser(app) as elsewhere:
        successor = await sign_up(elsewhere, services, outbox, Person(home, somebody().nickname))

    assert told(await reset(http, undo)) == DEAD_LINK
    assert await address_of(services, person) == new
    assert (await introspector.ask(http, person.access_token))["active"] is True
    assert (await http.get("/me", headers=successor.headers)).json()["email"] == home
    assert (await sign_in(http, successor)).status_code == (await sign_in(http, person)).status_code == 200


@pytest.mark.standard("SE-16")
async def test_an_undo_does_not_let_a_disabled_person_in(
    http: httpx.AsyncClient, services: Services, outbox: Outbox
) -> None:
    person = await sign_up(http, services, outbox)
    undo = await move(http, services, outbox, person, somebody().email)
    await disable(services, person)

    assert told(await reset(http, undo)) == DEAD_LINK
    assert told(await sign_in(http, person)) == (403, "account_disabled")
