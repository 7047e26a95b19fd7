"""Pre-hijacking: whoever prepares an account for somebody else's address, or inherits one, gets nothing by it."""

import asyncio
import re

import httpx
import pytest
from litestar import Litestar

from service.wiring import Services
from tests.attacks.social import (
    accounts_with,
    assert_signs_nobody_in,
    assert_untouched,
    linked_to,
)
from tests.conftest import Outbox, Person, begin_sign_up, browser, mailed_code, somebody
from tests.deeds import (
    WRONG,
    bearer,
    id_of,
    letters,
    mailed_link,
    row_of,
    session_of,
    sign_in,
    with_account,
)
from tests.social.acting import (
    PROVIDERS,
    Stranger,
    begun,
    came_back,
    decided,
    error_of,
    known_as,
    me,
    signed_in,
    through,
)

# An account that is prepared


@pytest.mark.standard("SO-21")
@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_sign_up_that_an_attacker_left_waiting_is_worth_nothing_once_the_owner_came_by_a_provider(
    app: Litestar, services: Services, outbox: Outbox, abroad: httpx.AsyncClient, provider: str
) -> None:
    """Not even with everything that was mailed to the owner."""
    planted = somebody()
    owner = known_as(planted)
    async with browser(app) as attacker:
        handle = await begin_sign_up(attacker, planted)
        second = await begin_sign_up(attacker, planted)
    code = await mailed_code(services, outbox, planted.email)
    link = await mailed_link(services, outbox, planted.email, "verify")
    async with browser(app) as http:
        mine = await signed_in(http, await through(http, abroad, provider, owner))
        account = (await me(http, mine))["id"]
    ways: list[dict[str, str]] = [
        *[{"registration": one, "code": code} for one in (handle, second)],
        *[{"registration": one, "token": link} for one in (handle, second)],
        {"token": link, "password": planted.password},
    ]
    async with browser(app) as attacker:
        for way in ways:
            answer = await attacker.post("/auth/verify", json=way)
            assert (answer.status_code, answer.json()["code"]) == (400, "invalid_or_expired_code"), way
        refused = await sign_in(attacker, planted)
        assert (refused.status_code, refused.json()["code"]) == (401, "invalid_credentials")
        for one in (handle, second):
            assert (await attacker.post("/auth/verify/resend", json={"registration": one})).status_code == 202
        again = await begin_sign_up(attacker, Person(planted.email, somebody().nickname, planted.password))
        for six in re.findall(r"\b\d{6}\b", "".join(mail.text for mail in outbox.to(planted.email))):
            answer = await attacker.post("/auth/verify", json={"registration": again, "code": six})
            assert answer.json()["code"] == "invalid_or_expired_code"
        assert_signs_nobody_in(await sign_in(attacker, planted))
    assert [str(one) for one in await accounts_with(services, planted.email)] == [account]
    assert (await row_of(services, planted)).password_hash is None
    assert await letters(services, outbox, planted.email)


@pytest.mark.standard("SO-21")
async def test_of_a_sign_up_and_a_provider_at_the_same_time_one_makes_the_account(
    app: Litestar, services: Services, outbox: Outbox, abroad: httpx.AsyncClient
) -> None:
    for _ in range(6):
        person = somebody()
        async with browser(app) as typing, browser(app) as coming:
            handle = await begin_sign_up(typing, person)
            code = await mailed_code(services, outbox, person.email)
            location = await decided(abroad, await begun(coming, "openid"), known_as(person))
            verified, came = await asyncio.gather(
                typing.post("/auth/verify", json={"registration": handle, "code": code}), came_back(coming, location)
            )
        by_code, error = verified.status_code == 200, error_of(came)
        assert len(await accounts_with(services, person.email)) == 1
        assert by_code is (error == "account_link_required")
        assert by_code or verified.json()["code"] == "invalid_or_expired_code"
        assert by_code or error == ""


@pytest.mark.standard("SO-21", "SO-22")
@pytest.mark.parametrize("provider", PROVIDERS)
async def test_an_attacker_cannot_prepare_an_account_with_an_address_that_is_not_vouched_for(
    app: Litestar, services: Services, outbox: Outbox, abroad: httpx.AsyncClient, provider: str
) -> None:
    owner = somebody()
    attacker = Stranger(email=owner.email, email_verified="false")
    async with browser(app) as http:
        assert error_of(await through(http, abroad, provider, attacker)) == "provider_email_unverified"
    async with browser(app) as http:
        handle = await begin_sign_up(http, owner)
        body = {"registration": handle, "code": await mailed_code(services, outbox, owner.email)}
        mine = bearer(await http.post("/auth/verify", json=body))
        assert await linked_to(http, mine) == []
    for said in ("false", "true"):
        async with browser(app) as http:
            answer = await through(http, abroad, provider, attacker, email_verified=said)
            assert error_of(answer) in {"provider_email_unverified", "account_link_required"}
            assert_signs_nobody_in(answer)
    await assert_untouched(app, services, owner, attacker)


@pytest.mark.standard("SO-21")
async def test_an_attackers_change_of_address_does_not_wait_for_the_owner_of_it(
    app: Litestar, services: Services, outbox: Outbox, abroad: httpx.AsyncClient
) -> None:
    """The attacker asks for the owner's address first; the owner comes by a provider, and then presses every link."""
    attacker, owner = await with_account(services), Stranger()
    theirs = await session_of(app, attacker)
    async with browser(app) as http:
        body = {"email": owner.email, "password": attacker.password}
        assert (await http.post("/me/email", json=body, headers=theirs)).status_code == 202
        token = await mailed_link(services, outbox, owner.email, "email")
        mine = await signed_in(http, await through(http, abroad, "openid", owner))
        for headers in (mine, theirs):
            answer = await http.post("/me/email/confirm", json={"token": token}, headers=headers)
            assert answer.status_code in {400, 409}, answer.text
        assert (await me(http, mine))["email"] == owner.email
        assert (await me(http, theirs))["email"] == attacker.email
        assert await linked_to(http, theirs) == []


# Addresses that change hands


@pytest.mark.standard("SO-06")
@pytest.mark.parametrize("provider", PROVIDERS)
async def test_an_identity_keeps_its_account_whatever_address_it_has_today(
    app: Litestar, services: Services, abroad: httpx.AsyncClient, provider: str
) -> None:
    victim, who = await with_account(services), Stranger()
    async with browser(app) as http:
        first = await me(http, await signed_in(http, await through(http, abroad, provider, who)))
    for today, said in (
        (somebody().email, "true"),
        (victim.email, "true"),
        (victim.email.upper(), "true"),
        (victim.email, "false"),
        ("", "false"),
    ):
        async with browser(app) as http:
            answer = await through(http, abroad, provider, who, email=today, email_verified=said)
            account = await me(http, await signed_in(http, answer))
            assert (account["id"], account["email"]) == (first["id"], first["email"])
    async with browser(app) as http:
        headers = bearer(await sign_in(http, victim))
        assert (await me(http, headers))["id"] != first["id"]
        assert await linked_to(http, headers) == []


@pytest.mark.standard("SO-06", "SO-21")
@pytest.mark.parametrize("provider", PROVIDERS)
async def test_whoever_takes_over_an_address_does_not_take_over_its_account(
    app: Litestar, services: Services, abroad: httpx.AsyncClient, provider: str
) -> None:
    former = Stranger()
    address = former.email
    async with browser(app) as http:
        old = await me(http, await signed_in(http, await through(http, abroad, provider, former)))
    heir = Stranger(email=address)
    async with browser(app) as http:
        assert error_of(await through(http, abroad, provider, heir)) == "account_link_required"
        former.email = somebody().email
        assert (await me(http, await signed_in(http, await through(http, abroad, provider, former))))["id"] == old["id"]
        headers = await signed_in(http, await through(http, abroad, provider, former))
        assert (await http.delete("/me", headers=headers)).status_code == 204
    async with browser(app) as http:
        new = await me(http, await signed_in(http, await through(http, abroad, provider, heir)))
        assert (new["email"], new["nickname"]) == (address, heir.username)
        assert new["id"] != old["id"]


@pytest.mark.standard("SO-06", "SO-21")
async def test_the_address_of_a_closed_account_begins_from_nothing(
    app: Litestar, services: Services, abroad: httpx.AsyncClient
) -> None:
    person = await with_account(services)
    before = await id_of(services, person)
    async with browser(app) as http:
        headers = bearer(await sign_in(http, person))
        assert (await http.delete("/me", headers=headers)).status_code == 204
        who = known_as(person)
        mine = await signed_in(http, await through(http, abroad, "github", who))
        account = await me(http, mine)
        assert account["id"] != str(before)
        assert account["roles"] == []
        refused = await sign_in(http, person)
        assert (refused.status_code, refused.json()["code"]) == (401, "invalid_credentials")


@pytest.mark.standard("SO-21")
async def test_a_disabled_account_is_neither_opened_nor_passed_by(
    app: Litestar, services: Services, abroad: httpx.AsyncClient
) -> None:
    person, linked = await with_account(services), Stranger()
    async with browser(app) as http:
        mine = await signed_in(http, await through(http, abroad, "openid", linked))
        account = (await me(http, mine))["id"]
    own = (await accounts_with(services, linked.email))[0]
    assert str(own) == account
    await services.administration.disable(own)
    await services.administration.disable(await id_of(services, person))
    for who, error in ((linked, "account_disabled"), (known_as(person), "account_link_required")):
        async with browser(app) as http:
            answer = await through(http, abroad, "openid", who)
            assert error_of(answer) == error
            assert_signs_nobody_in(answer)
    async with browser(app) as http:  # the same person by another provider is not a new one
        other = Stranger(email=linked.email)
        assert error_of(await through(http, abroad, "discord", other)) == "account_link_required"


@pytest.mark.standard("SO-21", "LG-21")
async def test_an_account_without_a_password_takes_no_password(
    app: Litestar, abroad: httpx.AsyncClient, services: Services
) -> None:
    who = Stranger()
    async with browser(app) as http:
        mine = await signed_in(http, await through(http, abroad, "openid", who))
    person = Person(who.email, who.username)
    async with browser(app) as attacker:
        for password in (person.password, WRONG, "None", "null", " " * 20):
            for name in ({"email": who.email}, {"nickname": who.username}):
                answer = await attacker.post("/auth/login", json={**name, "password": password})
                assert (answer.status_code, answer.json()["code"]) == (401, "invalid_credentials")
        answer = await attacker.post("/auth/reauthenticate", json={"password": WRONG}, headers=mine)
        assert answer.status_code == 401
        body = {"current_password": WRONG, "new_password": person.password}
        assert (await attacker.post("/me/password", json=body, headers=mine)).status_code in {400, 401, 403, 409}
    assert (await row_of(services, person)).password_hash is None
