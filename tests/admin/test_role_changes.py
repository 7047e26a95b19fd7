"""A change of roles is in force at once, in every worker, whatever happens at the same time (ASVS 8.3.2)."""

import asyncio

import httpx
import pytest
from litestar import Litestar

from service.app import create_app
from service.device import Device
from service.errors import InvalidCredentials
from service.tokens.scopes import ADMIN
from service.wiring import Services
from tests.admin.acting import Caller, caller, refusal, signed_in
from tests.conftest import Introspector, browser
from tests.deeds import OTHER, bearer, row_of, sign_in

DEVICE = Device.seen("192.0.2.1", "tests")


async def appoint(http: httpx.AsyncClient, operator: Caller, account: str, *roles: str) -> None:
    answer = await http.put(f"/admin/accounts/{account}/roles", json={"roles": roles}, headers=operator.headers)
    assert answer.status_code == 200, answer.text


def token_of(headers: dict[str, str]) -> str:
    return headers["Authorization"].removeprefix("Bearer ")


@pytest.mark.standard("AT-47", "AD-05")
async def test_roles_that_are_given_or_taken_show_at_the_next_introspection_of_every_worker(
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
    other = await signed_in(app, somebody.person)
    for roles in (("editor",), (), ("b", "a"), ()):
        await appoint(http, operator, somebody.name, *roles)
        for each in (token_of(somebody.headers), other["access_token"]):
            for asked in (http_of_second_worker, http):
                told = await introspector.ask(asked, each)
                assert (told["active"], told["roles"]) == (True, sorted(roles))


@pytest.mark.standard("AT-47", "AD-05", "AD-09")
async def test_who_is_no_operator_any_more_does_nothing_more_on_any_worker(
    *,
    http: httpx.AsyncClient,
    http_of_second_worker: httpx.AsyncClient,
    app: Litestar,
    services: Services,
    operator: Caller,
    introspector: Introspector,
) -> None:
    former = await caller(services, app, ADMIN)
    assert (await http_of_second_worker.get("/admin/keys", headers=former.headers)).status_code == 200
    await appoint(http, operator, former.name, "editor")

    for asked in (http_of_second_worker, http):
        assert refusal(await asked.get("/admin/keys", headers=former.headers)) == (403, "insufficient_scope")
        answer = await asked.put(
            f"/admin/accounts/{former.name}/roles", json={"roles": ["admin"]}, headers=former.headers
        )
        assert refusal(answer) == (403, "insufficient_scope")
        assert (await introspector.ask(asked, token_of(former.headers)))["scope"] == "account"
        assert (await asked.get("/me", headers=former.headers)).status_code == 200


@pytest.mark.standard("AT-47")
async def test_a_token_refreshed_after_a_change_has_the_new_roles_and_no_scope_of_the_old_ones(
    http: httpx.AsyncClient, app: Litestar, services: Services, operator: Caller, introspector: Introspector
) -> None:
    former = await caller(services, app, ADMIN)
    assert former.person is not None
    tokens = await signed_in(app, former.person)
    assert tokens["scope"] == "account admin"
    await appoint(http, operator, former.name)
    fresh = await http.post("/auth/refresh", json={"refresh_token": tokens["refresh_token"]})

    assert fresh.json()["scope"] == "account"
    assert (await introspector.ask(http, fresh.json()["access_token"]))["roles"] == []
    again = await http.post("/auth/reauthenticate", json={"password": former.person.password}, headers=bearer(fresh))
    assert again.json()["scope"] == "account"


@pytest.mark.standard("AT-47")
async def test_a_sign_in_that_began_before_a_change_of_roles_ends_with_the_new_ones(
    http: httpx.AsyncClient, app: Litestar, services: Services, operator: Caller, introspector: Introspector
) -> None:
    """It read the account before, and opens its session after the change."""
    former = await caller(services, app, ADMIN)
    assert former.person is not None
    seen = await row_of(services, former.person)
    await appoint(http, operator, former.name)
    grant = await services.login.entrance.admit(seen, "web", ("pwd",), DEVICE)

    for token in (grant.access_token, token_of(former.headers)):
        told = await introspector.ask(http, token)
        assert (told["roles"], told["scope"]) == ([], "account")


@pytest.mark.standard("AT-47")
async def test_a_sign_in_that_is_refused_in_the_end_brings_no_old_roles_back(
    http: httpx.AsyncClient, app: Litestar, services: Services, operator: Caller, introspector: Introspector
) -> None:
    """It read the account before its password and its roles changed, and the person's other session lives on."""
    former = await caller(services, app, ADMIN)
    assert former.person is not None
    seen = await row_of(services, former.person)
    await appoint(http, operator, former.name)
    passwords = {"current_password": former.person.password, "new_password": OTHER}
    assert (await http.post("/me/password", json=passwords, headers=former.headers)).status_code == 204
    with pytest.raises(InvalidCredentials):
        await services.login.entrance.admit(seen, "web", ("pwd",), DEVICE)

    told = await introspector.ask(http, token_of(former.headers))
    assert (told["roles"], told["scope"]) == ([], "account")
    assert refusal(await http.get("/admin/keys", headers=former.headers)) == (403, "insufficient_scope")


@pytest.mark.standard("AT-47")
async def test_sign_ins_and_changes_of_roles_at_once_leave_the_roles_that_are_written(
    *,
    http: httpx.AsyncClient,
    app: Litestar,
    services: Services,
    second_worker: Services,
    operator: Caller,
    introspector: Introspector,
) -> None:
    somebody = await caller(services, app, "first")
    person = somebody.person
    assert person is not None

    async def enters() -> httpx.Response:
        async with browser(create_app(second_worker)) as own:
            return await sign_in(own, person)

    turns = asyncio.gather(*(appoint(http, operator, somebody.name, f"r{number}") for number in range(6)))
    answers = await asyncio.gather(*(enters() for _ in range(6)))
    await turns
    written = (await row_of(services, person)).roles

    assert len(written) == 1
    for headers in (somebody.headers, *map(bearer, answers)):
        assert (await introspector.ask(http, token_of(headers)))["roles"] == written
