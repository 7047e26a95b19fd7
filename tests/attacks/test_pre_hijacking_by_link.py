"""The classic attacks on accounts before their owner has them (MSRC 2022), with links as well as codes.

Classic federated merge has no test yet: there is no sign-in with a provider.
"""

from itertools import product

import httpx
import pytest
from litestar import Litestar

from service.wiring import Services
from tests.conftest import Introspector, Outbox, Person, begin_sign_up, browser, sign_up, somebody
from tests.deeds import letters, mailed_link, sign_in, with_account
from tests.journeys.links import (
    DEAD_LINK,
    NEW_PASSWORD,
    accounts_of,
    change_password,
    confirm,
    email_link,
    enter,
    forgot,
    is_dead,
    links,
    reset,
    reset_link,
    told,
    verify,
)

PLANTED = "planted by a stranger long ago"


async def both_sign_up(
    app: Litestar, services: Services, outbox: Outbox, first: str
) -> dict[str, tuple[Person, str, str]]:
    """Victim and attacker with a sign-up each for the victim's address: person, handle, and link in the mailbox."""
    victim = somebody()
    people = {"victim": victim, "attacker": Person(victim.email, somebody().nickname, PLANTED)}
    made = {}
    for who in (first, *({"victim", "attacker"} - {first})):
        async with browser(app) as http:
            handle = await begin_sign_up(http, people[who])
        made[who] = (people[who], handle, await mailed_link(services, outbox, victim.email, "verify"))
    return made


def proof(made: dict[str, tuple[Person, str, str]], who: str, by: str) -> dict[str, str]:
    person, handle, _ = made[who]
    return {"registration": handle} if by == "handle" else {"password": person.password}


@pytest.mark.standard("LG-21", "CL-07", "LG-02")
@pytest.mark.parametrize("first", ["attacker", "victim"])
async def test_a_link_opens_its_own_sign_up_and_no_other_for_the_same_address(
    app: Litestar, services: Services, outbox: Outbox, first: str
) -> None:
    made = await both_sign_up(app, services, outbox, first)
    victim, _, token = made["victim"]
    async with browser(app) as http:
        for (whose, other), by in product((("victim", "attacker"), ("attacker", "victim")), ("handle", "password")):
            crossed = await verify(http, token=made[whose][2], **proof(made, other, by))
            assert told(crossed) == DEAD_LINK, (whose, other, by)
        assert await accounts_of(services, victim.email) == 0

        assert (await verify(http, token=token, password=victim.password)).status_code == 200
        assert (await sign_in(http, victim)).status_code == 200
    async with browser(app) as http:
        assert told(await sign_in(http, made["attacker"][0])) != (200, "")
        nickname = {"nickname": victim.nickname, "password": PLANTED}
        assert (await http.post("/auth/login", json=nickname)).status_code == 401


@pytest.mark.standard("LG-21", "CL-01")
async def test_after_the_owners_click_nothing_of_the_strangers_sign_up_is_worth_anything(
    app: Litestar, services: Services, outbox: Outbox
) -> None:
    made = await both_sign_up(app, services, outbox, "attacker")
    victim, handle, token = made["victim"]
    stranger, planted, planted_link = made["attacker"]
    async with browser(app) as http:
        assert (await verify(http, token=token, registration=handle)).status_code == 200
        owned = len(await letters(services, outbox, victim.email))
    async with browser(app) as http:
        assert told(await verify(http, token=planted_link, registration=planted)) == DEAD_LINK
        assert told(await verify(http, token=planted_link, password=PLANTED)) == DEAD_LINK
        await http.post("/auth/verify/resend", json={"registration": planted})
        assert "access_token" not in (await sign_in(http, stranger)).text
        later = (await letters(services, outbox, victim.email))[owned:]
        assert not any("#verify=" in mail.text for mail in later)
        assert told(await verify(http, token=planted_link, registration=planted)) == DEAD_LINK
    async with browser(app) as http:
        assert (await sign_in(http, victim)).status_code == 200


@pytest.mark.standard("LG-21", "SE-17")
async def test_an_unexpired_session_of_a_stranger_ends_when_the_owner_resets(
    app: Litestar, http: httpx.AsyncClient, services: Services, outbox: Outbox, introspector: Introspector
) -> None:
    owner = await with_account(services)
    async with browser(app) as stranger:
        known = Person(owner.email, owner.nickname, owner.password)
        await enter(stranger, known)
        for _ in range(3):  # kept warm
            again = await stranger.post("/auth/refresh", json={"refresh_token": known.refresh_token})
            known.access_token, known.refresh_token = again.json()["access_token"], again.json()["refresh_token"]
        assert (await reset(http, await reset_link(http, services, outbox, owner))).status_code == 204

        known.headers = {"Authorization": f"Bearer {known.access_token}"}
        assert await is_dead(stranger, introspector, known)
        renewed = await stranger.post("/auth/reauthenticate", json={"password": NEW_PASSWORD}, headers=known.headers)
        assert renewed.status_code == 401
        assert told(await sign_in(stranger, known)) == (401, "invalid_credentials")


@pytest.mark.standard("LG-21", "CL-16", "CL-07")
async def test_an_unexpired_change_of_address_dies_when_the_owner_resets(
    app: Litestar, http: httpx.AsyncClient, services: Services, outbox: Outbox
) -> None:
    """Not even the owner, should somebody get them to open it, brings it back to life."""
    owner, strangers = await with_account(services), somebody().email
    async with browser(app) as stranger:
        known = Person(owner.email, owner.nickname, owner.password)
        await enter(stranger, known)
        token = await email_link(stranger, services, outbox, known, strangers)
        assert (await reset(http, await reset_link(http, services, outbox, owner))).status_code == 204
        assert (await confirm(stranger, known, token)).status_code == 401

    owner.password = NEW_PASSWORD
    await enter(http, owner)
    assert told(await confirm(http, owner, token)) == DEAD_LINK
    assert await accounts_of(services, strangers) == 0


@pytest.mark.standard("LG-21", "CL-16")
async def test_a_trojan_identifier_that_waits_for_its_click_is_no_way_in(
    app: Litestar, http: httpx.AsyncClient, services: Services, outbox: Outbox
) -> None:
    """An address that was only asked for neither signs in nor gets the links of the account."""
    owner, strangers = await with_account(services), somebody().email
    async with browser(app) as stranger:
        known = Person(owner.email, owner.nickname, owner.password)
        await enter(stranger, known)
        await email_link(stranger, services, outbox, known, strangers)
        await forgot(stranger, strangers)
        assert await links(services, outbox, strangers, "reset") == []
        assert told(await sign_in(stranger, known, email=strangers)) == (401, "invalid_credentials")

        await enter(http, owner)
        await change_password(http, owner, NEW_PASSWORD)
        await forgot(stranger, strangers)
        assert await links(services, outbox, strangers, "reset") == []
        assert told(await sign_in(stranger, known, email=strangers)) == (401, "invalid_credentials")


@pytest.mark.standard("LG-21", "LG-02")
async def test_an_address_that_nobody_proved_is_nobodys(
    app: Litestar, http: httpx.AsyncClient, services: Services, outbox: Outbox
) -> None:
    """Non-verifying: no session, no reset and no link for an account that its holder never proved."""
    victim = somebody()
    async with browser(app) as stranger:
        planted = Person(victim.email, somebody().nickname, PLANTED)
        handle = await begin_sign_up(stranger, planted)
        assert told(await sign_in(stranger, planted)) == (403, "email_not_verified")
        assert "access_token" not in (await sign_in(stranger, planted)).text
        await forgot(stranger, victim.email)
        assert await links(services, outbox, victim.email, "reset") == []
        assert await accounts_of(services, victim.email) == 0

        await sign_up(http, services, outbox, victim)
        assert told(await verify(stranger, registration=handle, code="000000")) == DEAD_LINK
        assert (await http.get("/me", headers=victim.headers)).json()["nickname"] == victim.nickname


@pytest.mark.standard("LG-21")
async def test_a_change_to_an_address_that_is_being_signed_up_takes_nothing_from_its_owner(
    app: Litestar, http: httpx.AsyncClient, services: Services, outbox: Outbox
) -> None:
    """A stranger with an account of their own wants the victim's address for it, before the victim has an account."""
    victim, stranger = somebody(), await with_account(services)
    handle = await begin_sign_up(http, victim)
    async with browser(app) as elsewhere:
        await enter(elsewhere, stranger)
        token = await email_link(elsewhere, services, outbox, stranger, victim.email)
        assert (await http.post("/me/email/confirm", json={"token": token})).status_code == 401
        proved = await verify(
            http, token=await mailed_link(services, outbox, victim.email, "verify"), registration=handle
        )
        assert proved.status_code == 200
        assert told(await confirm(elsewhere, stranger, token)) == DEAD_LINK
    assert (await sign_in(http, victim)).status_code == 200
