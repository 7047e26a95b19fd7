"""What operators do, for the tests of everything below `/admin`."""

import asyncio
import json
import secrets
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

import httpx
from litestar import Litestar
from sqlalchemy import insert, select, update

from service.accounts.models import Account
from service.audit import AuditEvent
from service.clock import utc_now
from service.tokens.scopes import ADMIN
from service.wiring import Services
from tests.conftest import Person, new_address
from tests.deeds import id_of, registered, session_of, sign_in_from, with_account


@dataclass(frozen=True)
class Caller:
    """Somebody with an account who is signed in, or a service that holds a token."""

    name: str
    headers: dict[str, str] = field(default_factory=dict)
    person: Person | None = None

    @property
    def account(self) -> UUID:
        return UUID(self.name)


async def caller(services: Services, app: Litestar, *roles: str) -> Caller:
    """A new person with these roles, signed in just now."""
    person = await with_account(services, roles)
    return Caller(str(await id_of(services, person)), await session_of(app, person), person)


async def service_caller(services: Services, http: httpx.AsyncClient, *scopes: str) -> Caller:
    """A new service with these scopes, and a token that it got just now."""
    name = f"svc-{secrets.token_hex(4)}"
    secret = await registered(services, name, scopes=list(scopes), may_introspect=False)
    answer = await http.post("/token", data={"grant_type": "client_credentials"}, auth=(name, secret))
    assert answer.status_code == 200, answer.text
    return Caller(name, {"Authorization": f"Bearer {answer.json()['access_token']}"})


async def signed_in(app: Litestar, person: Person) -> dict[str, Any]:
    """The tokens of a further session, from a network of its own."""
    answer = await sign_in_from(app, new_address(), person, person.password)
    assert answer.status_code == 200, answer.text
    tokens: dict[str, Any] = answer.json()
    return tokens


async def only_admins(services: Services, *accounts: UUID) -> None:
    """Takes the role from everybody else, whom other tests appointed."""
    others = Account.roles.contains([ADMIN]) & Account.id.not_in(accounts)
    async with services.database.begin() as transaction:
        await transaction.execute(update(Account).where(others).values(roles=[]))


async def added(services: Services, *, most: int = 1, **values: Any) -> list[dict[str, Any]]:
    """Accounts that nobody signs in to, without the price of a password hash."""
    rows = []
    for number in range(most):
        row: dict[str, Any] = {
            "id": uuid4(),
            "email": f"e{secrets.token_hex(8)}@example.com",
            "nickname": f"n{secrets.token_hex(6)}",
            "password_hash": None,
            "password_changed_at": utc_now(),
            "password_change_required": False,
            "locale": "en",
            "avatar_url": None,
            "roles": [],
            "created_at": utc_now(),
            "disabled_at": None,
        }
        chosen = {name: value[number] if isinstance(value, tuple) else value for name, value in values.items()}
        row |= chosen
        rows.append({**row, "nickname_key": row["nickname"].casefold()})
    async with services.database.begin() as transaction:
        await transaction.execute(insert(Account), rows)
    return rows


async def settled(services: Services) -> None:
    """Waits until everything that was recorded before is in the trail: one task writes, in the order of events."""
    mark = secrets.token_hex(8)
    services.audit.record("test.mark", client=mark, is_anonymous=True)
    async with asyncio.timeout(60):
        while not await _written(services, "test.mark", client_id=mark):
            pass


async def events(services: Services, event: str, **where: Any) -> list[AuditEvent]:
    """The audit events of this name, the oldest first."""
    await settled(services)
    return await _written(services, event, **where)


async def event_of(services: Services, event: str, **where: Any) -> AuditEvent:
    """The one event that fits."""
    found = await events(services, event, **where)
    assert len(found) == 1, [(each.event, each.detail) for each in found]
    return found[0]


async def left_by(services: Services, request_id: str) -> list[AuditEvent]:
    """What one request wrote into the trail; ask once it is settled."""
    async with services.database.begin() as transaction:
        return list((await transaction.scalars(select(AuditEvent).where(AuditEvent.request_id == request_id))).all())


async def _written(services: Services, event: str, **where: Any) -> list[AuditEvent]:
    statement = select(AuditEvent).where(AuditEvent.event == event).order_by(AuditEvent.at)
    for column, value in where.items():
        statement = statement.where(getattr(AuditEvent, column) == value)
    async with services.database.begin() as transaction:
        return list((await transaction.scalars(statement)).all())


def lines(answer: httpx.Response) -> list[dict[str, Any]]:
    """The documents of a newline-delimited answer."""
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].split(";")[0] == "application/x-ndjson"
    return [json.loads(line) for line in answer.text.splitlines()]


def refusal(answer: httpx.Response) -> tuple[int, str]:
    """Status and code of a refusal."""
    return answer.status_code, str(answer.json().get("code") or answer.json().get("error"))
