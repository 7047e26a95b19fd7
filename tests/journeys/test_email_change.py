"""Another address: asked for with the password, taken with a click in the new mailbox, and the old one may undo it."""

import httpx
import pytest
from litestar import Litestar

from service.wiring import Services
from tests.conftest import Introspector, Outbox, Person, TestClock, browser, sign_up, somebody
from tests.deeds import letters, mailed_link, sign_in, with_account
from tests.journeys.links import (
    DEAD_LINK,
    NEW_PASSWORD,
    ask_for_email,
    confirm,
    email_link,
    enter,
    links,
    move,
    refresh,
    reset,
    told,
)


async def address_of(http: httpx.AsyncClient, person: Person) -> str:
    return str((await http.get("/me", headers=person.headers)).json()["email"])


@pytest.mark.standard("CL-16", "LG-12", "LG-13")
async def test_a_new_address_takes_the_place_of_the_old_one_after_a_click_in_its_mailbox(
    http: httpx.AsyncClient, services: Services, outbox: Outbox
) -> None:
    person, new = await sign_up(http, services, outbox), somebody().email
    old, begun = person.email, len(outbox.to(person.email))
    token = await email_link(http, services, outbox, person, new)

    assert await address_of(http, person) == old
    assert (await sign_in(http, person)).status_code == 200
    assert told(await sign_in(http, person, email=new)) == (401, "invalid_credentials")
    asked = (await letters(services, outbox, old))[begun:]
    assert [mail.subject for mail in asked] == ["A new address was asked for"]
    assert token not in asked[0].text + asked[0].html
    for words in (f"New address: {new}", "Nothing has changed yet", "Change your password now: that also voids"):
        assert words in asked[0].text

    answer = await confirm(http, person, token)
    assert (answer.status_code, answer.content) == (204, b"")
    assert await address_of(http, person) == new
    assert (await sign_in(http, person, email=new)).status_code == 200
    assert told(await sign_in(http, person, email=old)) == (401, "invalid_credentials")


@pytest.mark.standard("LG-12", "LG-13", "CL-16")
async def test_both_addresses_are_told_and_only_the_old_one_can_undo(
    http: httpx.AsyncClient, services: Services, outbox: Outbox
) -> None:
    person, new = await sign_up(http, services, outbox), somebody().email
    old = person.email
    undo = await move(http, services, outbox, person, new)

    to_old, to_new = (await letters(services, outbox, old))[-1], (await letters(services, outbox, new))[-1]
    assert to_old.subject == to_new.subject == "Your address was changed"
    assert f"New address: {new}" in to_old.text
    assert f"New address: {new}" in to_new.text
    assert "From now on our mails go to the new one." in to_old.text
    assert "From now on our mails go here." in to_new.text
    assert "It is good for 24 hours." in to_old.text
    assert undo in to_old.text
    assert "#undo=" not in to_new.text + to_new.html
    assert all("Was it not you?" in mail.text for mail in (to_old, to_new))


@pytest.mark.standard("SE-17")
async def test_every_other_session_ends_with_the_old_address(
    http: httpx.AsyncClient, services: Services, outbox: Outbox, introspector: Introspector
) -> None:
    person = await sign_up(http, services, outbox)
    other = (person.access_token, person.refresh_token)
    await enter(http, person)
    await move(http, services, outbox, person, somebody().email)

    assert await introspector.ask(http, other[0]) == {"active": False}
    assert told(await http.post("/auth/refresh", json={"refresh_token": other[1]})) == (401, "session_expired")
    assert (await introspector.ask(http, person.access_token))["active"] is True
    assert (await refresh(http, person)).status_code == 200


async def test_the_link_may_be_opened_on_another_device_that_signs_in_for_it(
    app: Litestar, http: httpx.AsyncClient, services: Services, outbox: Outbox
) -> None:
    person, new = await sign_up(http, services, outbox), somebody().email
    token = await email_link(http, services, outbox, person, new)
    async with browser(app) as phone:
        await enter(phone, person)
        assert (await confirm(phone, person, token)).status_code == 204
        assert await address_of(phone, person) == new


@pytest.mark.standard("CL-06", "CL-16")
async def test_a_link_to_confirm_lives_for_an_hour(
    http: httpx.AsyncClient, services: Services, outbox: Outbox, clock: TestClock
) -> None:
    people = [await sign_up(http, services, outbox) for _ in range(2)]
    tokens = [await email_link(http, services, outbox, person, somebody().email) for person in people]

    await clock.advance(minutes=59)
    for person in people:
        await enter(http, person)
    assert (await confirm(http, people[0], tokens[0])).status_code == 204
    await clock.advance(minutes=1, seconds=1)
    assert told(await confirm(http, people[1], tokens[1])) == DEAD_LINK


async def test_ones_own_address_in_any_spelling_is_no_new_one(
    http: httpx.AsyncClient, services: Services, outbox: Outbox
) -> None:
    person = await sign_up(http, services, outbox)
    before = len(outbox.to(person.email))
    for spelling in (person.email, person.email.upper()):
        answer = await ask_for_email(http, person, spelling)
        assert told(answer) == (400, "invalid_input")
        assert [(error["field"], error["code"]) for error in answer.json()["errors"]] == [("email", "email_unchanged")]
    assert len(await letters(services, outbox, person.email)) == before


@pytest.mark.standard("LG-14")
async def test_an_address_of_somebody_else_is_answered_alike_and_its_owner_is_told(
    http: httpx.AsyncClient, services: Services, outbox: Outbox
) -> None:
    person, owner = await sign_up(http, services, outbox), await with_account(services)
    free = await ask_for_email(http, person, somebody().email)
    taken = await ask_for_email(http, person, owner.email)

    assert (taken.status_code, taken.content) == (free.status_code, free.content)
    (mail,) = await letters(services, outbox, owner.email)
    assert mail.subject == "This address has an account already"
    assert "#" not in mail.text
    for known in (person.email, person.nickname, owner.nickname):
        assert known not in mail.text + mail.html, "neither learns who the other is"
    assert (await sign_in(http, owner)).status_code == 200


# Undo


@pytest.mark.standard("CL-16", "LG-13", "SE-17")
async def test_the_old_address_takes_the_account_back_with_a_password_of_its_own(
    http: httpx.AsyncClient, services: Services, outbox: Outbox, introspector: Introspector
) -> None:
    person, new = await sign_up(http, services, outbox), somebody().email
    old = person.email
    undo = await move(http, services, outbox, person, new)
    before = {address: len(outbox.to(address)) for address in (old, new)}
    assert (await reset(http, undo)).status_code == 204

    assert await introspector.ask(http, person.access_token) == {"active": False}
    assert told(await sign_in(http, person, email=new, password=NEW_PASSWORD)) == (401, "invalid_credentials")
    assert told(await sign_in(http, person, email=old)) == (401, "invalid_credentials")
    person.email, person.password = old, NEW_PASSWORD
    await enter(http, person)
    assert await address_of(http, person) == old
    to_old = (await letters(services, outbox, old))[before[old] :]
    assert [mail.subject for mail in to_old] == ["Your password was changed"]
    (displaced,) = (await letters(services, outbox, new))[before[new] :]
    assert displaced.subject == "Your address was taken back"


@pytest.mark.standard("LG-13")
async def test_the_address_that_lost_the_account_to_an_undo_is_not_told_that_mails_go_to_it(
    http: httpx.AsyncClient, services: Services, outbox: Outbox
) -> None:
    person, new = await sign_up(http, services, outbox), somebody().email
    undo = await move(http, services, outbox, person, new)
    assert (await reset(http, undo)).status_code == 204

    displaced = (await letters(services, outbox, new))[-1]
    assert "our mails go here" not in displaced.text
    assert "opened the link in our mail to this address" not in displaced.text


@pytest.mark.standard("CL-06", "CL-16")
async def test_an_undo_lives_for_a_day(
    http: httpx.AsyncClient, services: Services, outbox: Outbox, clock: TestClock
) -> None:
    people = [await sign_up(http, services, outbox) for _ in range(2)]
    undos = [await move(http, services, outbox, person, somebody().email) for person in people]

    await clock.advance(hours=23, minutes=59)
    assert (await reset(http, undos[0])).status_code == 204
    await clock.advance(minutes=1, seconds=1)
    assert told(await reset(http, undos[1])) == DEAD_LINK
    assert (await sign_in(http, people[1])).status_code == 200


@pytest.mark.standard("CL-16")
async def test_going_back_by_oneself_needs_no_undo_and_leaves_one_in_each_mailbox(
    http: httpx.AsyncClient, services: Services, outbox: Outbox
) -> None:
    person, other = await sign_up(http, services, outbox), somebody().email
    home = person.email
    await move(http, services, outbox, person, other)
    await move(http, services, outbox, person, home)

    assert await address_of(http, person) == home
    assert [len(await links(services, outbox, address, "undo")) for address in (home, other)] == [1, 1]
    assert (await reset(http, await mailed_link(services, outbox, home, "undo"))).status_code == 204
    assert (await sign_in(http, person, password=NEW_PASSWORD)).status_code == 200
