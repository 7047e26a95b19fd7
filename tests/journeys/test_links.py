"""Proving an address with the mailed link, in the browser that signed up and in any other."""

import httpx
import pytest
from litestar import Litestar

from service.app import create_app
from service.settings import load
from service.wiring import Services
from tests.conftest import ISSUER, Outbox, Person, TestClock, begin_sign_up, browser, somebody, worker
from tests.deeds import letters, mailed_link, sign_in, with_account
from tests.journeys.links import DEAD_LINK, LINK, accounts_of, claims, forgot, reset, told, verify


async def test_the_link_opened_where_one_signed_up_needs_nothing_else(
    http: httpx.AsyncClient, services: Services, outbox: Outbox
) -> None:
    person = somebody()
    handle = await begin_sign_up(http, person)
    token = await mailed_link(services, outbox, person.email, "verify")
    answer = await verify(http, token=token, registration=handle)

    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"
    me = await http.get("/me", headers={"Authorization": f"Bearer {answer.json()['access_token']}"})
    assert (me.json()["email"], me.json()["nickname"]) == (person.email, person.nickname)
    assert (await sign_in(http, person)).status_code == 200


async def test_the_link_opened_elsewhere_needs_the_password(
    app: Litestar, http: httpx.AsyncClient, services: Services, outbox: Outbox
) -> None:
    person = somebody()
    await begin_sign_up(http, person)
    token = await mailed_link(services, outbox, person.email, "verify")
    async with browser(app) as phone:
        answer = await verify(phone, token=token, password=person.password)

    assert answer.status_code == 200
    me = await http.get("/me", headers={"Authorization": f"Bearer {answer.json()['access_token']}"})
    assert me.json()["email"] == person.email


@pytest.mark.standard("LG-11")
async def test_a_mailbox_is_no_factor_and_a_password_is_one(app: Litestar, services: Services, outbox: Outbox) -> None:
    said = []
    for elsewhere in (False, True):
        person = somebody()
        async with browser(app) as http:
            handle = await begin_sign_up(http, person)
            token = await mailed_link(services, outbox, person.email, "verify")
            proof = {"password": person.password} if elsewhere else {"registration": handle}
            answer = await verify(http, token=token, **proof)
        said.append(claims(answer.json()["access_token"])["amr"])

    assert said == [["email"], ["pwd"]]


async def test_a_browser_may_have_its_session_in_a_cookie(
    http: httpx.AsyncClient, services: Services, outbox: Outbox
) -> None:
    person = somebody()
    handle = await begin_sign_up(http, person)
    token = await mailed_link(services, outbox, person.email, "verify")
    body = {"token": token, "registration": handle, "transport": "cookie"}
    refused = await http.post("/auth/verify", json=body)
    headers = {"X-Vestibule-CSRF": "1", "Origin": ISSUER}
    answer = await http.post("/auth/verify", json=body, headers=headers)

    assert refused.status_code == 403
    assert answer.status_code == 200, "a refusal for another reason does not use the link up"
    assert "refresh_token" not in answer.json()
    assert any("__Host-vestibule-refresh=" in line for line in answer.headers.get_list("set-cookie"))


async def test_a_nickname_that_was_taken_meanwhile_is_asked_for_again_with_the_same_link(
    app: Litestar, services: Services, outbox: Outbox
) -> None:
    person, faster = somebody(), somebody()
    faster.nickname = person.nickname
    async with browser(app) as http:
        await begin_sign_up(http, person)
        token = await mailed_link(services, outbox, person.email, "verify")
        await with_account(services, person=faster)
        taken = await verify(http, token=token, password=person.password)
        again = await verify(http, token=token, password=person.password, nickname=somebody().nickname)

    assert told(taken) == (409, "nickname_taken")
    assert again.status_code == 200


@pytest.mark.standard("CL-05", "CL-06")
async def test_a_link_lives_for_an_hour_and_longer_than_its_code(
    http: httpx.AsyncClient, services: Services, outbox: Outbox, clock: TestClock
) -> None:
    people = [somebody(), somebody()]
    proofs = []
    for person in people:
        handle = await begin_sign_up(http, person)
        token = await mailed_link(services, outbox, person.email, "verify")
        proofs.append({"registration": handle, "token": token})

    await clock.advance(minutes=59)
    assert (await verify(http, **proofs[0])).status_code == 200
    await clock.advance(minutes=1, seconds=1)
    assert told(await verify(http, **proofs[1])) == DEAD_LINK
    assert await accounts_of(services, people[1].email) == 0


@pytest.mark.standard("CL-06")
async def test_after_an_hour_a_resend_brings_a_link_that_works(
    http: httpx.AsyncClient, services: Services, outbox: Outbox, clock: TestClock
) -> None:
    person = somebody()
    handle = await begin_sign_up(http, person)
    await clock.advance(minutes=61)
    assert (await http.post("/auth/verify/resend", json={"registration": handle})).status_code == 202
    token = await mailed_link(services, outbox, person.email, "verify")

    assert (await verify(http, token=token, password=person.password)).status_code == 200


@pytest.mark.standard("CL-17")
@pytest.mark.parametrize("local", ["a+b&c", "per%cent", "o'neill", "a=b?c", "hash#mark"])
async def test_an_address_with_odd_characters_gets_links_that_work(
    http: httpx.AsyncClient, services: Services, outbox: Outbox, local: str
) -> None:
    someone = somebody()
    person = Person(f"{local}.{someone.email}", someone.nickname)
    await begin_sign_up(http, person)
    token = await mailed_link(services, outbox, person.email, "verify")
    assert (await verify(http, token=token, password=person.password)).status_code == 200

    await forgot(http, person.email)
    token = await mailed_link(services, outbox, person.email, "reset")
    assert (await reset(http, token)).status_code == 204


@pytest.mark.standard("CL-15", "CL-12")
async def test_a_front_end_of_ones_own_gets_the_links_when_the_operator_names_it(
    services: Services, environ: dict[str, str], wall_clock: TestClock, outbox: Outbox
) -> None:
    page = "https://app.test/confirm?from=mail&x=%20"
    person = somebody()
    async with (
        worker(load({**environ, "VESTIBULE_LINK_URL": page}), wall_clock, outbox) as named,
        browser(create_app(named)) as http,
    ):
        await begin_sign_up(http, person)
        token = await mailed_link(named, outbox, person.email, "verify")
        assert (await verify(http, token=token, password=person.password)).status_code == 200
        await forgot(http, person.email)
        mails = await letters(named, outbox, person.email)

    pages = {found[2]: found[1] for mail in mails for found in LINK.finditer(mail.text)}
    assert pages == {"verify": page, "reset": page}
