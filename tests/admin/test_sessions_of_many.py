"""The day on which something has gone wrong: many sessions end, step by step, and a second call does what was left."""

import asyncio
import json
from typing import Any
from uuid import UUID

import httpx
import pytest
from litestar import Litestar
from sqlalchemy import select

from service.accounts.mass_sign_out import WhoseSessions
from service.clock import utc_now
from service.tokens.journal import SessionRow
from service.wiring import Services
from tests.admin.acting import Caller, caller, events, lines, refusal, service_caller, signed_in
from tests.conftest import ISSUER, TestClock
from tests.deeds import bearer, field_codes, is_in, registered, sign_in, with_account
from tests.tokens.acting import account_behind, admitted, refused, session_of

END = "/admin/sessions/end"


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a handful of sessions takes several steps."""
    monkeypatch.setattr("service.accounts.mass_sign_out.BATCH", 2)


async def end(http: httpx.AsyncClient, operator: Caller, **whose: Any) -> list[dict[str, Any]]:
    answer = await http.post(END, json=whose, headers=operator.headers)
    assert answer.headers["cache-control"] == "no-store"
    return lines(answer)


async def reasons(services: Services, account: UUID) -> list[str | None]:
    statement = select(SessionRow.ended_reason).where(SessionRow.account_id == account).order_by(SessionRow.opened_at)
    async with services.database.begin() as transaction:
        return list((await transaction.scalars(statement)).all())


@pytest.mark.standard("AD-13", "AD-22")
async def test_everybody_with_a_role_is_signed_out_step_by_step(
    http: httpx.AsyncClient,
    http_of_second_worker: httpx.AsyncClient,
    app: Litestar,
    services: Services,
    operator: Caller,
) -> None:
    role = f"r{operator.name[-8:]}"
    people = [await caller(services, app, role) for _ in range(3)]
    bystander = await caller(services, app, f"{role}-not")
    assert people[0].person is not None
    tokens = [await signed_in(app, people[0].person) for _ in range(2)]
    told = await end(http, operator, role=role, reason="a leak")

    assert [(step["looked_at"], step["total"], step["ended"]) for step in told] == [
        (0, 5, 0),
        (2, 5, 2),
        (4, 5, 4),
        (5, 5, 5),
        (5, 5, 5),
    ]
    assert [step["done"] for step in told] == [None, None, None, None, True]
    for one in people:
        assert not await is_in(http_of_second_worker, one.headers)
        assert set(await reasons(services, one.account)) == {"administrator"}
    await refused(http_of_second_worker, tokens[0]["refresh_token"])
    assert await is_in(http, bystander.headers)
    found = [each for each in await events(services, "session.close_many") if each.detail.get("role") == role]
    assert len(found) == 1
    assert (found[0].detail["by"], found[0].detail["reason"]) == (operator.name, "a leak")
    assert (found[0].detail["looked_at"], found[0].detail["ended"]) == (5, 5)
    assert [step["ended"] for step in await end(http, operator, role=role)] == [0, 0]


@pytest.mark.standard("AD-13")
async def test_the_sessions_of_one_front_end_or_of_an_age_end(
    http: httpx.AsyncClient, app: Litestar, services: Services, operator: Caller
) -> None:
    client = f"app-{operator.name[-8:]}"
    await registered(services, client, confidential=False)
    person = await with_account(services)
    old, other = await sign_in(http, person, client_id=client), await sign_in(http, person)
    between = utc_now()
    later = await sign_in(http, person, client_id=client)

    assert (await end(http, operator, client_id=client, opened_before=between.isoformat()))[-1]["ended"] == 1
    await refused(http, old.json()["refresh_token"], client)
    assert await is_in(http, bearer(later))
    assert (await end(http, operator, client_id=client))[-1]["ended"] == 1
    await refused(http, later.json()["refresh_token"], client)
    assert await is_in(http, bearer(other))
    filters = {"client_id": client, "role": "nobody-has-it", "opened_before": utc_now().isoformat()}
    assert (await end(http, operator, **filters))[-1] == {"looked_at": 0, "total": 0, "ended": 0, "done": True}


@pytest.mark.standard("AD-13")
async def test_everybody_is_everybody_and_the_operator_too(
    http: httpx.AsyncClient, app: Litestar, services: Services, operator: Caller
) -> None:
    people = [await caller(services, app) for _ in range(3)]
    told = await end(http, operator, everybody=True)

    assert told[-1]["done"] is True
    assert told[-1]["ended"] >= 4
    for one in (*people, operator):
        assert not await is_in(http, one.headers)
    assert people[0].person is not None
    assert (await sign_in(http, people[0].person)).status_code == 200


@pytest.mark.standard("AD-13")
async def test_whose_sessions_end_must_be_said_and_only_once(http: httpx.AsyncClient, operator: Caller) -> None:
    moment = utc_now().isoformat()
    body: dict[str, Any]
    for body in (
        {},
        {"reason": "because"},
        {"everybody": False},
        {"role": None},
        {"everybody": True, "role": "editor"},
        {"everybody": True, "client_id": "web"},
        {"everybody": True, "opened_before": moment},
    ):
        answer = await http.post(END, json=body, headers=operator.headers)
        assert field_codes(answer) == [("everybody", "whose_sessions")], body
    for body in (
        {"role": ["editor"]},
        {"role": "a\x00"},
        {"opened_before": "2026-11-20T12:00:00"},
        {"opened_before": "yesterday"},
        {"account_id": operator.name},
        {"everybody": True, "password": "x"},
    ):
        answer = await http.post(END, json=body, headers=operator.headers)
        assert answer.status_code == 400, body
    assert await is_in(http, operator.headers)


@pytest.mark.standard("AD-13")
async def test_a_time_beyond_time_is_refused(http: httpx.AsyncClient, operator: Caller) -> None:
    for moment in ("0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"):
        answer = await http.post(END, json={"opened_before": moment, "role": "nobody-has-it"}, headers=operator.headers)
        assert refusal(answer) == (400, "invalid_input"), moment


@pytest.mark.standard("AD-13")
async def test_a_session_that_is_opened_while_it_runs_lives(
    http: httpx.AsyncClient, services: Services, operator: Caller, clock: TestClock
) -> None:
    person = await with_account(services, (role := f"r{operator.name[-8:]}",))
    account = await account_behind(services, person)
    before = [await admitted(services, account) for _ in range(4)]
    await clock.advance(seconds=1)
    steps = services.mass_sign_out.run(WhoseSessions(role=role))
    assert (await anext(steps)).total == 4
    await clock.advance(seconds=1)
    after = await admitted(services, account)
    last = [step async for step in steps][-1]

    assert (last.looked_at, last.ended) == (4, 4)
    for grant in before:
        await refused(http, grant.refresh_token)
    assert await is_in(http, {"Authorization": f"Bearer {after.access_token}"})


async def broken_off(app: Litestar, operator: Caller, body: dict[str, Any], after: int) -> int:
    """Asks like a client that goes away after so many pieces of the answer; how many it got."""
    pieces, asked, gone = 0, False, asyncio.Event()

    async def receive() -> dict[str, Any]:
        nonlocal asked
        if not asked:
            asked = True
            return {"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        nonlocal pieces
        pieces += message["type"] == "http.response.body"
        if pieces == after:
            gone.set()
            await asyncio.sleep(0)
            raise OSError("the client is gone")

    headers = {"host": ISSUER.partition("://")[2], "content-type": "application/json", **operator.headers}
    scope: dict[str, Any] = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "https",
        "path": END,
        "raw_path": END.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
        "client": ("192.0.2.9", 40000),
        "server": ("auth.test", 443),
        "state": {},
    }
    asgi: Any = app
    try:
        async with asyncio.timeout(60):
            await asgi(scope, receive, send)
    except* OSError:
        pass
    return pieces


@pytest.mark.standard("AD-13", "AD-22")
async def test_a_client_that_goes_away_leaves_something_that_a_second_call_finishes(
    http: httpx.AsyncClient, app: Litestar, services: Services, operator: Caller
) -> None:
    person = await with_account(services, (role := f"r{operator.name[-8:]}",))
    account = await account_behind(services, person)
    grants = [await admitted(services, account) for _ in range(7)]
    assert await broken_off(app, operator, {"role": role, "reason": "a leak"}, after=2) == 2

    first = await reasons(services, account.id)
    assert first.count("administrator") in range(2, 7)
    assert first.count(None) == 7 - first.count("administrator")
    assert len(await services.sessions.live(account.id)) <= first.count(None)
    second = await end(http, operator, role=role)
    assert second[-1]["done"] is True
    assert await reasons(services, account.id) == ["administrator"] * 7
    for grant in grants:
        assert session_of(grant.access_token)
        await refused(http, grant.refresh_token)
    # The one that broke off is written down as well, with what it had done.
    found = [e for e in await events(services, "session.close_many") if e.detail.get("role") == role]
    assert len(found) == 2
    assert sum(event.detail["ended"] for event in found) in {6, 7}
    assert {event.detail["by"] for event in found} == {operator.name}


@pytest.mark.standard("AD-22")
async def test_a_service_may_do_it_too_and_is_named(http: httpx.AsyncClient, services: Services) -> None:
    service = await service_caller(services, http, "admin")
    told = await end(http, service, role=f"r-{service.name}")

    assert told[-1]["done"] is True
    found = [e for e in await events(services, "session.close_many") if e.detail.get("by") == service.name]
    assert len(found) == 1
