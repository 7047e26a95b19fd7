"""What people do with their tokens, and what the stores say afterwards."""

import asyncio
import base64
import json
from collections import Counter
from typing import Any
from uuid import UUID

import httpx
from redis.asyncio import Redis
from sqlalchemy import select

from service.accounts.models import Account
from service.audit import AuditEvent
from service.crypto.opaque import from_base64url
from service.device import Device
from service.tokens.journal import SessionRow
from service.tokens.session_facts import Grant
from service.wiring import Services
from tests.conftest import (
    ISSUER,
    Introspector,
    Person,
)

BROWSER = {"X-Vestibule-CSRF": "1", "Origin": ISSUER}
INACTIVE = {"active": False}
UNNOTED = 10**15
"""Milliseconds: to look at a session without being noted as its use."""


async def refresh(http: httpx.AsyncClient, token: str, client_id: str = "web") -> httpx.Response:
    return await http.post("/auth/refresh", json={"refresh_token": token, "client_id": client_id})


async def renewed(http: httpx.AsyncClient, token: str, client_id: str = "web") -> dict[str, Any]:
    """The answer to a refresh that must succeed."""
    answer = await refresh(http, token, client_id)
    assert answer.status_code == 200, answer.text
    tokens: dict[str, Any] = answer.json()
    return tokens


async def refused(http: httpx.AsyncClient, token: str, client_id: str = "web") -> None:
    answer = await refresh(http, token, client_id)
    assert (answer.status_code, answer.json()["code"]) == (401, "session_expired"), answer.text


async def signed_in(http: httpx.AsyncClient, person: Person, client_id: str = "web") -> dict[str, Any]:
    answer = await http.post("/auth/login", json=person.credentials(client_id=client_id))
    assert answer.status_code == 200, answer.text
    tokens: dict[str, Any] = answer.json()
    return tokens


async def is_active(http: httpx.AsyncClient, introspector: Introspector, access_token: str) -> bool:
    told = await introspector.ask(http, access_token)
    assert told == INACTIVE or told["active"] is True
    return told != INACTIVE


async def opens_me(http: httpx.AsyncClient, access_token: str) -> bool:
    answer = await http.get("/me", headers={"Authorization": f"Bearer {access_token}"})
    assert answer.status_code in {200, 401}
    return answer.status_code == 200


def claims_of(access_token: str) -> dict[str, Any]:
    body = access_token.split(".")[1]
    claims: dict[str, Any] = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    return claims


def session_of(access_token: str) -> UUID:
    return UUID(bytes=from_base64url(claims_of(access_token)["sid"]))


def account_of(access_token: str) -> UUID:
    return UUID(claims_of(access_token)["sub"])


def record_key(account: UUID) -> str:
    return f"vestibule:sessions:{{{account}}}"


async def row_of(services: Services, session: UUID) -> SessionRow:
    async with services.database.begin() as transaction:
        row = await transaction.scalar(select(SessionRow).where(SessionRow.id == session))
    assert row is not None
    return row


async def events_of(session: UUID, *workers: Services, least: int = 1, event: str = "session.refresh") -> Counter[str]:
    """How often each outcome was recorded for a session, once there are so many."""
    statement = select(AuditEvent.outcome).where(AuditEvent.session_id == str(session), AuditEvent.event == event)
    async with asyncio.timeout(20):
        while True:
            for each in workers:
                await each.audit.flush()
            async with workers[0].database.begin() as transaction:
                outcomes = Counter((await transaction.scalars(statement)).all())
            if outcomes.total() >= least:
                return outcomes


async def admitted(services: Services, account: Account) -> Grant:
    """A new session without the price of a password hash."""
    return await services.login.entrance.admit(account, "web", ("pwd",), Device.seen("192.0.2.1", "tests"))


async def account_behind(services: Services, person: Person) -> Account:
    account = await services.administration.find(person.email)
    assert account is not None
    return account


async def any_is_live(services: Services, redis: Redis, account: UUID) -> bool:
    """Whether the record of any session of the account would still open a door."""
    fields = await redis.hkeys(record_key(account))
    sessions = [name for name in fields if len(name) == 16]
    answers = [await services.store.run("inspect", f"sessions:{{{account}}}", sid, -1, UNNOTED) for sid in sessions]
    return any(answer[0] == b"live" for answer in answers)


def bearer(access_token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {access_token}"}


async def listed(http: httpx.AsyncClient, access_token: str) -> list[dict[str, Any]]:
    """The sessions that their holder is shown."""
    answer = await http.get("/me/sessions", headers=bearer(access_token))
    assert answer.status_code == 200, answer.text
    shown: list[dict[str, Any]] = answer.json()
    return shown


async def ended(http: httpx.AsyncClient, access_token: str, session: UUID | None = None) -> int:
    """The answer to ending one session, or all others."""
    path = "/me/sessions" if session is None else f"/me/sessions/{session}"
    answer = await http.delete(path, headers=bearer(access_token))
    return answer.status_code


async def asked_again(http: httpx.AsyncClient, person: Person, access_token: str, **more: object) -> httpx.Response:
    """The answer to giving the password again."""
    body = {"password": person.password, **more}
    return await http.post("/auth/reauthenticate", json=body, headers=bearer(access_token))


async def reauthenticated(http: httpx.AsyncClient, person: Person, access_token: str) -> dict[str, Any]:
    """The tokens of somebody who gave the password again."""
    answer = await asked_again(http, person, access_token)
    assert answer.status_code == 200, answer.text
    tokens: dict[str, Any] = answer.json()
    return tokens
