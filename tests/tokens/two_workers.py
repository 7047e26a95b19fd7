"""Two workers over stores of their own, whose keys a test may turn over without disturbing any other."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import httpx
import jwt
from jwt.types import Options
from sqlalchemy import delete, select

from service.app import create_app
from service.crypto.keyring import SigningKey
from service.settings import Settings, load
from service.store.schema import migrate
from service.tokens.keys import SigningKeyRow, SigningKeys
from service.wiring import CHANGED, Services
from tests.conftest import (
    ISSUER,
    PASSWORD,
    Introspector,
    Outbox,
    Servers,
    TestClock,
    _own_database,
    browser,
    root_key,
    somebody,
    worker,
)
from tests.deeds import registered

JWKS = "/.well-known/jwks.json"
INACTIVE = {"active": False}
PATIENCE = 20.0
"""Seconds, far more than anything needs that is waited for here."""
WITHOUT_TIMES: Options = {"verify_exp": False, "verify_iat": False}
"""The library's clock does not travel."""


@contextmanager
def settings_of_ones_own(servers: Servers, environ: dict[str, str], **other: str) -> Iterator[Settings]:
    """Those of the service with a database and a root key of their own, and whatever else a test wants to be other."""
    with _own_database(servers.database_url) as url:
        migrate(url)
        yield load({**environ, "VESTIBULE_KEYS": root_key(1), **other, "DATABASE_URL": url})


@dataclass
class Pair:
    """Two workers over the same stores, and somebody who asks them."""

    workers: list[Services]
    clients: list[httpx.AsyncClient]
    caller: Introspector
    settings: Settings
    clock: TestClock

    @property
    def keys(self) -> SigningKeys:
        return self.workers[0].signing_keys

    async def reload(self) -> None:
        for services in self.workers:
            await services.signing_keys.reload()

    async def rows(self) -> dict[str, SigningKeyRow]:
        async with self.workers[0].database.begin() as transaction:
            return {row.kid: row for row in await transaction.scalars(select(SigningKeyRow))}

    async def jwks(self, number: int = 0) -> list[str]:
        answer = await self.clients[number].get(JWKS)
        return [key["kid"] for key in answer.json()["keys"]]

    def states(self, number: int = 0) -> dict[str, str]:
        ring, now = self.workers[number].signing_keys.keyring, self.clock()
        return {key.kid: ring.state(key, now) for key in ring.keys}

    def in_state(self, state: str, number: int = 0) -> list[str]:
        """The keys of a state, in the order in which they sign."""
        return [kid for kid, found in self.states(number).items() if found == state]

    async def until(self, moment: datetime | None, **later: float) -> None:
        """Goes to a moment, or a little beyond."""
        assert moment is not None
        await self.clock.advance(seconds=(moment + timedelta(**later) - self.clock()).total_seconds())

    async def turned(self) -> SigningKey:
        """Lets the next key take over, on both workers, and answers it."""
        scheduled, _ = await self.keys.rotate()
        await self.workers[1].signing_keys.reload()
        await self.until(scheduled.activates_at, seconds=1)
        return scheduled


@asynccontextmanager
async def paired(settings: Settings, clock: TestClock, outbox: Outbox) -> AsyncIterator[Pair]:
    """Two workers, without any key yet."""
    async with worker(settings, clock, outbox) as one, worker(settings, clock, outbox) as two:
        await one.client_administration.ensure_front_end()
        client_id = f"svc-{secrets.token_hex(4)}"
        secret = await registered(one, client_id)
        async with browser(create_app(one)) as first, browser(create_app(two)) as second:
            yield Pair([one, two], [first, second], Introspector(client_id, secret), settings, clock)


async def renewed(pair: Pair) -> Pair:
    """The same two with the keys of a new installation."""
    async with pair.workers[0].database.begin() as transaction:
        await transaction.execute(delete(SigningKeyRow))
    await pair.keys.ensure()
    await pair.workers[1].signing_keys.reload()
    return pair


async def listening(pair: Pair, number: int) -> None:
    """Announces until a worker listens: it has read its keys anew."""
    keys, end = pair.workers[number].signing_keys, time.monotonic() + PATIENCE
    before = keys._kept
    while keys._kept == before:
        assert time.monotonic() < end, "nobody listens"
        await pair.workers[1 - number].store.announce(CHANGED)
        await asyncio.sleep(0.01)


async def told(pair: Pair, kid: str, number: int = 1) -> None:
    """Waits until a worker knows, by the word of the other, that a key is revoked or gone."""
    end = time.monotonic() + PATIENCE
    while pair.states(number).get(kid, "revoked") != "revoked":
        assert time.monotonic() < end, "the word did not come"
        await asyncio.sleep(0.005)


async def is_active(pair: Pair, token: str, number: int) -> bool:
    """What a worker says of a token to who asks."""
    answer = await pair.caller.ask(pair.clients[number], token)
    assert answer == INACTIVE or answer["active"] is True
    return answer != INACTIVE


async def signed_in(pair: Pair) -> dict[str, Any]:
    """The tokens of somebody new."""
    person = somebody()
    account = await pair.workers[0].administration.create(person.email, person.nickname, PASSWORD, ())
    answer = await pair.clients[0].post("/auth/login", json={"email": account.email, "password": PASSWORD})
    assert answer.status_code == 200, answer.text
    told: dict[str, Any] = answer.json()
    return told


async def refreshed(http: httpx.AsyncClient, refresh_token: str) -> dict[str, Any]:
    """The next tokens of a session, which must go on."""
    answer = await http.post("/auth/refresh", json={"refresh_token": refresh_token})
    assert answer.status_code == 200, answer.text
    told: dict[str, Any] = answer.json()
    return told


def kid_of(token: str) -> str:
    return str(jwt.get_unverified_header(token)["kid"])


@dataclass
class Verifier:
    """A resource server of the simplest kind: keeps the JWKS for its max-age and asks for nothing else."""

    http: httpx.AsyncClient
    clock: TestClock
    max_age: timedelta
    fetched_at: datetime | None = None
    kept: dict[str, Any] = field(default_factory=dict)

    async def verify(self, token: str) -> None:
        now = self.clock()
        if self.fetched_at is None or now - self.fetched_at >= self.max_age:
            answer = await self.http.get(JWKS)
            assert answer.headers["cache-control"] == f"public, max-age={int(self.max_age.total_seconds())}"
            self.kept = {key["kid"]: jwt.PyJWK(key) for key in answer.json()["keys"]}
            self.fetched_at = now
        jwt.decode(token, self.kept[kid_of(token)], ["ES256"], audience=ISSUER, issuer=ISSUER, options=WITHOUT_TIMES)
