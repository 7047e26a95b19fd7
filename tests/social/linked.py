"""Identities as they are written, and what people do with theirs."""

import asyncio
from typing import Any
from uuid import UUID

import httpx
from litestar import Litestar
from sqlalchemy import select

from service.accounts.identities import Identity
from service.accounts.models import Account
from service.audit import AuditEvent
from service.providers.provider import ForeignTokens
from service.tokens.journal import SessionRow
from service.wiring import Services
from tests.conftest import Introspector, Outbox, Person, browser
from tests.deeds import OTHER, mailed_link
from tests.social.acting import (
    PAGE,
    Stranger,
    begun,
    came_back,
    decided,
    error_of,
    signed_in,
    through,
)

PATIENCE = 60.0
"""Seconds, far more than anything needs that is waited for here."""


async def comes_in(
    http: httpx.AsyncClient, abroad: httpx.AsyncClient, provider: str, who: Stranger, **choice: str
) -> dict[str, str]:
    """Signs in through a provider; the bearer header."""
    return await signed_in(http, await through(http, abroad, provider, who, **choice))


async def comes_in_elsewhere(
    app: Litestar, abroad: httpx.AsyncClient, provider: str, who: Stranger, **choice: str
) -> dict[str, str]:
    """The same on another device."""
    async with browser(app) as http:
        return await comes_in(http, abroad, provider, who, **choice)


async def is_refused(app: Litestar, abroad: httpx.AsyncClient, provider: str, who: Stranger, **choice: str) -> str:
    """Why a sign-in on another device was refused; empty when it was not."""
    async with browser(app) as http:
        return error_of(await through(http, abroad, provider, who, **choice))


async def back_from(
    http: httpx.AsyncClient, abroad: httpx.AsyncClient, provider: str, who: Stranger, **query: str
) -> str:
    """The callback URL of a sign-in that this browser began and the provider agreed to."""
    return await decided(abroad, await begun(http, provider, **query), who)


async def link_begun(http: httpx.AsyncClient, headers: dict[str, str], provider: str) -> str:
    """Begins to link and answers where the browser is sent."""
    answer = await http.post(f"/me/identities/{provider}", params={"next": PAGE}, headers=headers)
    assert answer.status_code == 200, answer.text
    url: str = answer.json()["authorize_url"]
    return url


async def link(
    http: httpx.AsyncClient,
    abroad: httpx.AsyncClient,
    headers: dict[str, str],
    provider: str,
    who: Stranger,
    **choice: str,
) -> str:
    """Links a provider in this browser; the error, empty when it went well."""
    at_provider = await link_begun(http, headers, provider)
    return error_of(await came_back(http, await decided(abroad, at_provider, who, **choice)))


async def unlink(http: httpx.AsyncClient, headers: dict[str, str], provider: str) -> tuple[int, str]:
    """Unlinks a provider; the status, and the code of a refusal."""
    answer = await http.delete(f"/me/identities/{provider}", headers=headers)
    return answer.status_code, answer.json()["code"] if answer.content else ""


async def linked(http: httpx.AsyncClient, headers: dict[str, str]) -> list[str]:
    """The providers that are linked, the oldest first."""
    answer = await http.get("/me/identities", headers=headers)
    assert answer.status_code == 200, answer.text
    return [one["provider"] for one in answer.json()]


async def the_identity(services: Services, who: Stranger) -> Identity:
    """The row of somebody who has one identity."""
    (found,) = await identities_of(services, who)
    return found


async def identities_of(services: Services, who: Stranger) -> list[Identity]:
    """The rows of somebody's subject."""
    async with services.database.begin() as transaction:
        return list(await transaction.scalars(select(Identity).where(Identity.subject == who.subject)))


async def account_with(services: Services, email: str) -> Account | None:
    """The account that has an address."""
    async with services.database.begin() as transaction:
        found: Account | None = await transaction.scalar(select(Account).where(Account.email == email))
    return found


async def the_account(services: Services, email: str) -> Account:
    """The same, of somebody who has one."""
    found = await account_with(services, email)
    assert found is not None
    return found


async def journal_of(services: Services, account: UUID) -> list[SessionRow]:
    """The sessions of an account as the journal has them, the oldest first."""
    statement = select(SessionRow).where(SessionRow.account_id == account).order_by(SessionRow.opened_at)
    async with services.database.begin() as transaction:
        return list(await transaction.scalars(statement))


async def events_of(
    services: Services, account: UUID, until: str, times: int = 1
) -> list[tuple[str, str, dict[str, Any]]]:
    """What the audit trail has of an account, in order: event, outcome, detail. Waits until an event is there so many
    times: what the service is just writing down by itself cannot be flushed."""
    statement = select(AuditEvent).where(AuditEvent.account_id == account).order_by(AuditEvent.id)
    async with asyncio.timeout(PATIENCE):
        while True:
            await services.audit.flush()
            async with services.database.begin() as transaction:
                found = [(row.event, row.outcome, row.detail) for row in await transaction.scalars(statement)]
            if [event for event, _, _ in found].count(until) >= times:
                return found
            await asyncio.sleep(0.01)


async def is_active(http: httpx.AsyncClient, introspector: Introspector, headers: dict[str, str]) -> bool:
    """Whether the token of a bearer header is good."""
    told = await introspector.ask(http, headers["Authorization"].removeprefix("Bearer "))
    return told["active"] is True


async def set_password(
    http: httpx.AsyncClient, services: Services, outbox: Outbox, email: str, password: str = OTHER
) -> Person:
    """Sets a password by the link of a mail; whoever has the account now."""
    assert (await http.post("/auth/password/forgot", json={"email": email})).status_code == 202
    token = await mailed_link(services, outbox, email, "reset")
    answer = await http.post("/auth/password/reset", json={"token": token, "password": password})
    assert answer.status_code == 204, answer.text
    account = await the_account(services, email)
    return Person(email=email, nickname=account.nickname, password=password)


async def guilds_asked(http: httpx.AsyncClient, headers: dict[str, str]) -> tuple[int, str]:
    """Asks for one's servers; the status, and the code of a refusal."""
    answer = await http.get("/me/identities/discord/guilds", headers=headers)
    assert "access_token" not in answer.text
    return answer.status_code, answer.json()["code"] if answer.status_code != httpx.codes.OK else ""


async def tokens_of(services: Services, who: Stranger) -> ForeignTokens | None:
    """What a provider gave us for somebody, as far as it can be read."""
    return services.federation.identities.tokens(await the_identity(services, who))
