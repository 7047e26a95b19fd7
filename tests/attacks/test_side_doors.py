"""Ways around that were found by looking for them: what one endpoint hides, another one must not tell."""

from datetime import timedelta

import httpx
import pytest
from litestar import Litestar

from service.app import create_app
from service.settings import Settings
from service.tokens.transport import COOKIE, DEVICE_COOKIE
from service.wiring import Services, build
from tests.conftest import (
    ISSUER,
    PASSWORD,
    Introspector,
    Outbox,
    Person,
    TestClock,
    begin_sign_up,
    browser,
    mailed_code,
    new_address,
    shifted,
    sign_up,
    somebody,
)
from tests.deeds import bearer, id_of, letters, mailed_link, sign_in, sign_in_from, with_account

OURS = {"Origin": ISSUER, "X-Vestibule-CSRF": "1"}
OTHER = "seven quiet bridges at dawn"


@pytest.mark.standard("LG-14")
async def test_an_export_does_not_tell_whose_address_one_asked_for(
    app: Litestar, services: Services, outbox: Outbox
) -> None:
    victim = await with_account(services)
    told = []
    for address in (victim.email, somebody().email):
        async with browser(app) as http:
            asking = await sign_up(http, services, outbox)
            body = {"email": address, "password": asking.password}
            assert (await http.post("/me/email", json=body, headers=asking.headers)).status_code == 202
            export = (await http.get("/me/export", headers=asking.headers)).json()
        told.append(
            (
                sorted((event["event"], event["outcome"]) for event in export["events"]),
                {mail["template"] for mail in export["mails"]} - {"email_change_requested"},
                [link["purpose"] for link in export["links"]],
            )
        )
    assert told[0] == told[1]
    assert told[0][1] == set()


@pytest.mark.standard("LO-19")
async def test_an_export_says_nothing_about_the_administrator_who_changed_something(
    app: Litestar, services: Services, person: Person
) -> None:
    admin = await with_account(services, ("admin",))
    async with browser(app, "198.51.100.77") as http:
        http.headers["User-Agent"] = "the administrators own"
        headers = bearer(await sign_in(http, admin))
        changed = {"nickname": somebody().nickname}
        answer = await http.patch(f"/users/{await id_of(services, person)}", json=changed, headers=headers)
        assert answer.status_code == 200
    async with browser(app) as http:
        export = await http.get("/me/export", headers=person.headers)
    assert "account.change" in export.text
    for word in ("198.51.100.77", "the administrators own", str(await id_of(services, admin))):
        assert word not in export.text


async def test_exports_are_limited(http: httpx.AsyncClient, person: Person) -> None:
    codes = [(await http.get("/me/export", headers=person.headers)).status_code for _ in range(6)]
    assert codes == [200] * 5 + [429]


@pytest.mark.standard("RL-07", "RL-03")
async def test_sign_ups_with_somebodys_address_do_not_keep_their_reset_link_from_them(
    app: Litestar, services: Services, outbox: Outbox
) -> None:
    owner = await with_account(services)
    for _ in range(5):
        async with browser(app) as stranger:
            for _ in range(5):
                await begin_sign_up(stranger, Person(owner.email, somebody().nickname))
    async with browser(app) as http:
        assert (await http.post("/auth/password/forgot", json={"email": owner.email})).status_code == 202
    assert await mailed_link(services, outbox, owner.email, "reset")


@pytest.mark.standard("CL-16")
async def test_the_undo_of_the_owner_ends_that_of_a_thief_although_the_thiefs_worker_is_slow(
    app: Litestar, services: Services, settings: Settings, wall_clock: TestClock, outbox: Outbox
) -> None:
    slow = build(settings, clock=lambda: wall_clock() - timedelta(seconds=2), mail=lambda _: outbox, scripts=shifted)
    await slow.signing_keys.reload()
    await slow.clients.reload()
    person, mine, thiefs = await with_account(services), somebody().email, somebody().email
    owner = person.email
    try:
        async with browser(app) as http, browser(create_app(slow)) as behind:
            headers = bearer(await sign_in(http, person))
            for client, address in ((http, mine), (behind, thiefs)):
                body = {"email": address, "password": PASSWORD}
                assert (await client.post("/me/email", json=body, headers=headers)).status_code == 202
                token = await mailed_link(services, outbox, address, "email")
                answer = await client.post("/me/email/confirm", json={"token": token}, headers=headers)
                assert answer.status_code == 204
            of_owner = await mailed_link(services, outbox, owner, "undo")
            of_thief = await mailed_link(services, outbox, mine, "undo")
            taken_back = {"token": of_owner, "password": OTHER}
            assert (await http.post("/auth/password/reset", json=taken_back)).status_code == 204
            again = {"token": of_thief, "password": "what a thief would like to have"}
            assert (await http.post("/auth/password/reset", json=again)).status_code == 400
    finally:
        await slow.close()


@pytest.mark.standard("RL-05", "RL-07")
async def test_a_neighbour_who_burns_a_known_network_makes_it_one_like_any_other(
    app: Litestar, services: Services, outbox: Outbox, clock: TestClock
) -> None:
    home = new_address()
    async with browser(app, home) as http:
        owner = await sign_up(http, services, outbox)
    for _ in range(11):  # ten in a quarter of an hour
        for _ in range(10):
            assert (await sign_in_from(app, home, owner)).status_code == 401
        await clock.advance(minutes=16)
    assert (await sign_in_from(app, home, owner, PASSWORD)).status_code == 200


@pytest.mark.standard("SE-07")
async def test_proving_an_address_in_a_browser_ends_the_session_whose_cookie_it_replaces(
    app: Litestar, services: Services, outbox: Outbox, introspector: Introspector
) -> None:
    first, second = await with_account(services), somebody()
    async with browser(app) as http:
        http.headers.update(OURS)
        before = (await sign_in(http, first, transport="cookie")).json()["access_token"]
        handle = await begin_sign_up(http, second)
        code = await mailed_code(services, outbox, second.email)
        body = {"registration": handle, "code": code, "transport": "cookie"}
        answer = await http.post("/auth/verify", json=body)
        assert answer.status_code == 200
        assert COOKIE in answer.cookies
        assert await introspector.ask(http, before) == {"active": False}
        assert (await introspector.ask(http, answer.json()["access_token"]))["active"]


@pytest.mark.standard("RL-07", "LG-09")
async def test_a_mark_that_somebody_else_left_in_a_browser_does_not_become_that_of_the_next_person(
    app: Litestar, services: Services, outbox: Outbox
) -> None:
    thief, owner = await with_account(services), await with_account(services)
    async with browser(app) as shared:
        shared.headers.update(OURS)
        assert (await sign_in(shared, thief, transport="cookie")).status_code == 200
        planted = shared.cookies[DEVICE_COOKIE]
        assert (await sign_in(shared, owner, transport="cookie")).status_code == 200
        assert shared.cookies[DEVICE_COOKIE] != planted
    before = len(await letters(services, outbox, owner.email))
    async with browser(app) as elsewhere:
        elsewhere.cookies.set(DEVICE_COOKIE, planted)
        assert (await sign_in(elsewhere, owner)).status_code == 200
    assert len(await letters(services, outbox, owner.email)) == before + 1


@pytest.mark.standard("PF-52")
async def test_closing_does_not_hang_on_how_many_strangers_signed_up_with_the_address(
    app: Litestar, services: Services, outbox: Outbox, person: Person
) -> None:
    pending = services.registrations.pending
    for number in range(300):
        await pending.hold(person.email, f"n{number}", "x", "y", address_known=True, language="en")
    async with browser(create_app(services)) as http:
        assert (await http.delete("/me", headers=person.headers)).status_code == 204
    assert await pending.latest_of(person.email) is None
