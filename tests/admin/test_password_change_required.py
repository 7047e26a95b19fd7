"""A password that got out is worthless until a mailed link has set another one (NIST SP 800-63B-4 3.1.1.2)."""

from typing import Any

import httpx
import pytest
from litestar import Litestar

from service.device import Device
from service.errors import PasswordChangeRequired
from service.wiring import Services
from tests.admin.acting import Caller, caller, event_of, events, refusal, signed_in
from tests.conftest import Introspector, Outbox, Person
from tests.deeds import OTHER, WRONG, id_of, is_in, letters, mailed_link, row_of, session_of, sign_in, sign_in_from
from tests.tokens.acting import refused

REQUIRED = (403, "password_change_required")


async def require(
    http: httpx.AsyncClient, operator: Caller, account: object, deed: str = "require-password-change"
) -> Any:
    answer = await http.post(f"/admin/accounts/{account}/{deed}", json={"reason": "a leak"}, headers=operator.headers)
    assert answer.status_code in {200, 202}, answer.text
    return answer.json()


@pytest.fixture
async def somebody(http: httpx.AsyncClient, app: Litestar, services: Services, operator: Caller) -> Caller:
    """Somebody who was signed in when an operator made their password worthless."""
    found = await caller(services, app)
    await require(http, operator, found.name)
    return found


def person_of(somebody: Caller) -> Person:
    assert somebody.person is not None
    return somebody.person


@pytest.mark.standard("PW-15", "AD-13")
async def test_every_session_ends_at_once_and_a_link_is_mailed(
    *,
    http: httpx.AsyncClient,
    http_of_second_worker: httpx.AsyncClient,
    app: Litestar,
    services: Services,
    operator: Caller,
    outbox: Outbox,
    introspector: Introspector,
) -> None:
    somebody = await caller(services, app)
    person = person_of(somebody)
    tokens = await signed_in(app, person)
    shown = await require(http, operator, somebody.name)

    assert shown["password_change_required"] is True
    for token in (tokens["access_token"], somebody.headers["Authorization"].removeprefix("Bearer ")):
        assert await introspector.ask(http_of_second_worker, token) == {"active": False}
    await refused(http, tokens["refresh_token"])
    assert not await is_in(http, somebody.headers)
    link = await mailed_link(services, outbox, person.email, "reset")
    assert link not in str(shown)
    event = await event_of(services, "account.require_password_change", account_id=somebody.account)
    assert (event.detail["by"], event.detail["reason"]) == (operator.name, "a leak")


@pytest.mark.standard("PW-15")
async def test_the_right_password_gets_no_tokens_but_another_mail(
    http: httpx.AsyncClient, services: Services, somebody: Caller, outbox: Outbox
) -> None:
    person = person_of(somebody)
    mailed = len(await letters(services, outbox, person.email))
    by_address = await sign_in(http, person)
    by_nickname = await http.post("/auth/login", json={"nickname": person.nickname, "password": person.password})
    by_cookie = await sign_in(http, person, transport="cookie")

    for answer in (by_address, by_nickname, by_cookie):
        assert refusal(answer) == REQUIRED
        assert "token" not in answer.text
        assert "set-cookie" not in answer.headers
        assert "#reset=" not in answer.text
    assert len(await letters(services, outbox, person.email)) > mailed
    assert await services.sessions.live(somebody.account) == []
    assert len(await events(services, "session.open", account_id=somebody.account)) == 1
    assert [each.outcome for each in await events(services, "login", account_id=somebody.account)][-1] == REQUIRED[1]


@pytest.mark.standard("PW-15")
async def test_a_wrong_password_is_refused_as_ever(
    http: httpx.AsyncClient, services: Services, app: Litestar, somebody: Caller, outbox: Outbox
) -> None:
    person = person_of(somebody)
    mailed = len(await letters(services, outbox, person.email))
    other = await caller(services, app)
    wrong, ordinary = [await sign_in(http, each, password=WRONG) for each in (person, person_of(other))]

    assert refusal(wrong) == (401, "invalid_credentials")
    assert wrong.content == ordinary.content
    assert wrong.headers["www-authenticate"] == ordinary.headers["www-authenticate"]
    assert len(await letters(services, outbox, person.email)) == mailed


@pytest.mark.standard("PW-15")
async def test_only_a_new_password_opens_the_account_again(
    http: httpx.AsyncClient, services: Services, operator: Caller, somebody: Caller, outbox: Outbox
) -> None:
    person = person_of(somebody)
    for deed in ("disable", "enable", "reset-password", "sessions/end"):
        path = f"/admin/accounts/{somebody.name}/{deed}"
        assert (await http.post(path, json={}, headers=operator.headers)).status_code in {200, 202, 204}
        assert (await row_of(services, person)).password_change_required, deed
    await http.put(f"/admin/accounts/{somebody.name}/roles", json={"roles": []}, headers=operator.headers)
    assert refusal(await sign_in(http, person)) == REQUIRED

    link = await mailed_link(services, outbox, person.email, "reset")
    short = await http.post("/auth/password/reset", json={"token": link, "password": "short"})
    assert short.status_code == 400
    assert (await row_of(services, person)).password_change_required
    assert (await http.post("/auth/password/reset", json={"token": link, "password": OTHER})).status_code == 204
    assert not (await row_of(services, person)).password_change_required
    assert refusal(await sign_in(http, person)) == (401, "invalid_credentials")
    assert (await sign_in(http, person, password=OTHER)).status_code == 200


@pytest.mark.standard("PW-15")
async def test_a_disabled_account_says_that_it_is_disabled_first(
    http: httpx.AsyncClient, services: Services, operator: Caller, somebody: Caller, outbox: Outbox
) -> None:
    await require(http, operator, somebody.name, "disable")
    mailed = len(await letters(services, outbox, person_of(somebody).email))

    assert refusal(await sign_in(http, person_of(somebody))) == (403, "account_disabled")
    assert len(await letters(services, outbox, person_of(somebody).email)) == mailed


@pytest.mark.standard("PW-15")
async def test_a_sign_in_that_was_under_way_gets_no_session(
    app: Litestar, services: Services, operator: Caller, http: httpx.AsyncClient
) -> None:
    """It read the account before the flag, and asks for its session after it."""
    somebody = await caller(services, app)
    seen = await row_of(services, person_of(somebody))
    await require(http, operator, somebody.name)
    with pytest.raises(PasswordChangeRequired):
        await services.login.entrance.admit(seen, "web", ("pwd",), Device.seen("192.0.2.1", "tests"))

    assert await services.sessions.live(somebody.account) == []


@pytest.mark.standard("PW-15")
async def test_it_can_be_said_twice_and_of_an_operator_too(
    http: httpx.AsyncClient, app: Litestar, services: Services, operator: Caller, outbox: Outbox
) -> None:
    other = await caller(services, app, "admin")
    await require(http, operator, other.name)
    await require(http, operator, other.name)

    assert await is_in(http, operator.headers)
    assert not await is_in(http, other.headers)
    link = await mailed_link(services, outbox, person_of(other).email, "reset")
    assert (await http.post("/auth/password/reset", json={"token": link, "password": OTHER})).status_code == 204
    headers = await session_of(app, person_of(other), OTHER)
    assert (await http.get("/admin/keys", headers=headers)).status_code == 200
    assert (await id_of(services, person_of(other))) == other.account
    assert (await sign_in_from(app, "192.0.2.77", person_of(other))).status_code == 401
