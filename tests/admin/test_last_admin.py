"""Somebody can always administer: the last administrator is not shut out, demoted or closed."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from uuid import UUID

import httpx
import pytest
from litestar import Litestar
from sqlalchemy import select

from service.accounts.models import Account
from service.app import create_app
from service.clock import utc_now
from service.crypto.signer import PersonClaims
from service.errors import LastAdmin
from service.tokens.principal import Principal
from service.tokens.scopes import ADMIN
from service.wiring import Services
from tests.admin.acting import Caller, added, caller, only_admins, refusal
from tests.conftest import browser

LAST = (409, "last_admin")


@pytest.fixture
async def last(services: Services, operator: Caller) -> Caller:
    """The only administrator there is."""
    await only_admins(services, operator.account)
    return operator


@pytest.fixture
async def http_of_another(second_worker: Services) -> AsyncIterator[httpx.AsyncClient]:
    async with browser(create_app(second_worker)) as client:
        yield client


async def admins(services: Services) -> set[UUID]:
    statement = select(Account.id).where(Account.roles.contains([ADMIN]), Account.disabled_at.is_(None))
    async with services.database.begin() as transaction:
        return set((await transaction.scalars(statement)).all())


async def demote(http: httpx.AsyncClient, by: Caller, account: str, *roles: str) -> httpx.Response:
    return await http.put(f"/admin/accounts/{account}/roles", json={"roles": roles}, headers=by.headers)


async def disable(http: httpx.AsyncClient, by: Caller, account: str) -> httpx.Response:
    return await http.post(f"/admin/accounts/{account}/disable", json={}, headers=by.headers)


@pytest.mark.standard("AD-24")
async def test_the_last_administrator_is_neither_shut_out_nor_demoted_nor_closed(
    http: httpx.AsyncClient, services: Services, last: Caller
) -> None:
    for roles in ((), ("editor",), ("administrator", "admin2")):
        assert refusal(await demote(http, last, last.name, *roles)) == LAST
    assert refusal(await disable(http, last, last.name)) == LAST
    assert refusal(await http.delete("/me", headers=last.headers)) == LAST
    for attempt in (
        services.administration.set_roles(last.account, ()),
        services.administration.disable(last.account),
    ):
        with pytest.raises(LastAdmin):
            await attempt

    assert await admins(services) == {last.account}
    assert (await http.get("/admin/keys", headers=last.headers)).status_code == 200
    assert (await demote(http, last, last.name, ADMIN, "editor")).status_code == 200


@pytest.mark.standard("AD-24")
async def test_an_administrator_who_is_shut_out_does_not_count(
    http: httpx.AsyncClient, services: Services, last: Caller
) -> None:
    (shut_out,) = await added(services, roles=[ADMIN], disabled_at=utc_now() - timedelta(days=1))

    assert refusal(await demote(http, last, last.name)) == LAST
    assert (await demote(http, last, str(shut_out["id"]))).status_code == 200
    assert await admins(services) == {last.account}


@pytest.mark.standard("AD-24")
async def test_as_long_as_there_is_another_one_an_administrator_may_go(
    http: httpx.AsyncClient, app: Litestar, services: Services, last: Caller
) -> None:
    second, third = await caller(services, app, ADMIN), await caller(services, app, ADMIN)
    assert (await http.delete("/me", headers=second.headers)).status_code == 204
    assert (await disable(http, last, third.name)).status_code == 200
    fourth = await caller(services, app, ADMIN)
    assert (await demote(http, last, last.name)).status_code == 200

    assert await admins(services) == {fourth.account}
    assert refusal(await http.delete("/me", headers=fourth.headers)) == LAST


@pytest.mark.standard("AD-24")
async def test_two_administrators_who_remove_each_other_at_once_leave_one(
    http: httpx.AsyncClient, http_of_another: httpx.AsyncClient, app: Litestar, services: Services
) -> None:
    for deed in (demote, disable):
        one, two = await caller(services, app, ADMIN), await caller(services, app, ADMIN)
        await only_admins(services, one.account, two.account)
        answers = await asyncio.gather(deed(http, one, two.name), deed(http_of_another, two, one.name))

        assert len(await admins(services)) == 1, deed
        assert sorted(answer.status_code for answer in answers)[0] == 200
        assert sorted(answer.status_code for answer in answers)[1] in {401, 403, 409}


@pytest.mark.standard("AD-24")
async def test_two_administrators_who_leave_at_once_leave_one(
    http: httpx.AsyncClient, http_of_another: httpx.AsyncClient, app: Litestar, services: Services
) -> None:
    one, two = await caller(services, app, ADMIN), await caller(services, app, ADMIN)
    await only_admins(services, one.account, two.account)
    answers = await asyncio.gather(http.delete("/me", headers=one.headers), demote(http_of_another, two, two.name))

    assert len(await admins(services)) == 1
    assert sorted(answer.status_code for answer in answers) in ([200, 409], [204, 409])


@pytest.mark.standard("AD-24")
async def test_who_becomes_the_last_administrator_while_closing_the_account_stays(
    http: httpx.AsyncClient, app: Litestar, services: Services, last: Caller
) -> None:
    """The closing request was let in before the appointment: the role in the row decides, not the one of the token."""
    somebody = await caller(services, app)
    active = await services.inspection.of(somebody.headers["Authorization"].removeprefix("Bearer "))
    assert active is not None
    assert isinstance(active.claims, PersonClaims)
    let_in = Principal(somebody.account, active.claims, active.roles, is_admin=False)
    await services.administration.set_roles(somebody.account, [ADMIN])
    assert (await demote(http, last, last.name)).status_code == 200
    with pytest.raises(LastAdmin):
        await services.closing.close(let_in)

    assert await admins(services) == {somebody.account}
