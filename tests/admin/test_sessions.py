"""Operators end one session, all of an account, or many: at once, in every worker, and the audit trail says who."""

from typing import Any
from uuid import uuid4

import httpx
import pytest
from litestar import Litestar

from service.wiring import Services
from tests.admin.acting import Caller, caller, event_of, refusal, signed_in
from tests.admin.matrix import assert_shown
from tests.conftest import Introspector
from tests.deeds import is_in
from tests.tokens.acting import refused, row_of, session_of

INACTIVE = {"active": False}


async def ended(http: httpx.AsyncClient, operator: Caller, account: object, session: object = "") -> httpx.Response:
    path = f"/admin/accounts/{account}/sessions/{session}/end" if session else f"/admin/accounts/{account}/sessions/end"
    return await http.post(path, json={"reason": "a lost phone"}, headers=operator.headers)


@pytest.mark.standard("AD-13", "AD-18")
async def test_the_sessions_of_an_account_are_shown_without_what_opens_them(
    http: httpx.AsyncClient, app: Litestar, services: Services, operator: Caller
) -> None:
    somebody = await caller(services, app)
    assert somebody.person is not None
    tokens = [await signed_in(app, somebody.person) for _ in range(2)]
    answer = await http.get(f"/admin/accounts/{somebody.name}/sessions", headers=operator.headers)
    shown = assert_shown("sessionsOfAccount", answer)

    assert {str(session_of(each["access_token"])) for each in tokens} < {each["id"] for each in shown}
    assert len(shown) == 3
    assert not any(each["current"] for each in shown)
    assert all(each["client_id"] == "web" and each["address"].startswith("2001:db8:") for each in shown)


@pytest.mark.standard("AD-13", "AD-22")
async def test_one_session_ends_at_once_on_every_worker_and_the_others_live(
    *,
    http: httpx.AsyncClient,
    http_of_second_worker: httpx.AsyncClient,
    app: Litestar,
    services: Services,
    operator: Caller,
    introspector: Introspector,
) -> None:
    somebody = await caller(services, app)
    assert somebody.person is not None
    tokens = await signed_in(app, somebody.person)
    session = session_of(tokens["access_token"])
    assert (await ended(http, operator, somebody.name, session)).status_code == 204

    assert await introspector.ask(http_of_second_worker, tokens["access_token"]) == INACTIVE
    await refused(http_of_second_worker, tokens["refresh_token"])
    assert await is_in(http_of_second_worker, somebody.headers)
    assert (await row_of(services, session)).ended_reason == "administrator"
    event = await event_of(services, "session.close", session_id=str(session))
    assert (event.outcome, event.account_id) == ("administrator", somebody.account)
    assert (event.detail["by"], event.detail["reason"]) == (operator.name, "a lost phone")
    again = await ended(http, operator, somebody.name, session)
    assert refusal(again) == (404, "not_found")


@pytest.mark.standard("AD-13", "AD-22")
async def test_all_sessions_of_an_account_end_at_once_on_every_worker(
    *,
    http: httpx.AsyncClient,
    http_of_second_worker: httpx.AsyncClient,
    app: Litestar,
    services: Services,
    operator: Caller,
    introspector: Introspector,
) -> None:
    somebody, bystander = await caller(services, app), await caller(services, app)
    assert somebody.person is not None
    tokens = [await signed_in(app, somebody.person) for _ in range(2)]
    answer = await ended(http, operator, somebody.name)

    assert (answer.status_code, answer.content) == (204, b"")
    for each in tokens:
        assert await introspector.ask(http_of_second_worker, each["access_token"]) == INACTIVE
        await refused(http, each["refresh_token"])
        assert (await row_of(services, session_of(each["access_token"]))).ended_reason == "administrator"
    assert not await is_in(http, somebody.headers)
    assert await is_in(http, bystander.headers)
    assert await is_in(http, operator.headers)
    event = await event_of(services, "session.close_all", account_id=somebody.account)
    assert (event.detail["by"], event.detail["reason"]) == (operator.name, "a lost phone")
    tokens = [await signed_in(app, somebody.person)]
    assert (await introspector.ask(http, tokens[0]["access_token"]))["active"] is True
    assert (await ended(http, operator, somebody.name)).status_code == 204
    assert (await ended(http, operator, somebody.name)).status_code == 204


@pytest.mark.standard("AD-06")
async def test_a_session_of_another_account_is_not_found_under_this_one(
    http: httpx.AsyncClient, app: Litestar, services: Services, operator: Caller
) -> None:
    one, other = await caller(services, app), await caller(services, app)
    theirs = session_of(other.headers["Authorization"].removeprefix("Bearer "))

    for session in (theirs, uuid4(), other.name):
        assert refusal(await ended(http, operator, one.name, session)) == (404, "not_found")
    assert await is_in(http, other.headers)


async def test_an_operator_may_end_the_own_session_and_is_out(http: httpx.AsyncClient, operator: Caller) -> None:
    mine: Any = session_of(operator.headers["Authorization"].removeprefix("Bearer "))

    assert (await ended(http, operator, operator.name, mine)).status_code == 204
    assert refusal(await http.get("/admin/keys", headers=operator.headers)) == (401, "invalid_token")
