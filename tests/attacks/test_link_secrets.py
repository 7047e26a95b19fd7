"""What is kept of a link: nothing that opens anything."""

import base64
from typing import Any

import httpx
import pytest
from redis.asyncio import Redis
from sqlalchemy import text

from service.app import create_app
from service.settings import load
from service.wiring import Services
from tests.conftest import (
    Outbox,
    TestClock,
    browser,
    root_key,
    sign_up,
    somebody,
    worker,
)
from tests.journeys.links import (
    DEAD_LINK,
    email_link,
    move,
    reset_link,
    signed_up,
    told,
    verify,
)


@pytest.mark.standard("CL-02", "CL-11")
async def test_no_store_holds_what_a_link_holds(
    http: httpx.AsyncClient, services: Services, outbox: Outbox, redis: Redis
) -> None:
    """Neither the token nor its secret part, in any spelling; a backup of both stores opens nothing."""
    _, _, pending = await signed_up(http, services, outbox)
    person = await sign_up(http, services, outbox)
    undo = await move(http, services, outbox, person, somebody().email)
    change = await email_link(http, services, outbox, person, somebody().email)
    await http.post("/auth/password/forgot", json={"email": person.email})
    tokens = [pending, await reset_link(http, services, outbox, person), change, undo]
    kept = await _everything(services, redis)

    assert len({token[:4] for token in tokens}) == 4
    for token in tokens:
        secret = base64.urlsafe_b64decode(token[4:] + "=" * (-len(token[4:]) % 4))[16:48]
        assert len(secret) == 32
        for spelling in (token.encode(), token[4:].encode(), secret, secret.hex().encode()):
            assert spelling not in kept


async def _everything(services: Services, redis: Redis) -> bytes:
    parts: list[Any] = []
    async for key in redis.scan_iter("vestibule:*"):
        kind = await redis.type(key)
        parts.append(key)
        if kind == b"hash":
            parts += [part for pair in (await redis.hgetall(key)).items() for part in pair]
        elif kind == b"string":
            parts.append(await redis.get(key) or b"")
    async with services.database.begin() as transaction:
        for table in ("one_time_tokens", "outbox", "accounts", "sessions", "audit_events"):
            rows = await transaction.execute(text(f"SELECT t::text FROM {table} t"))  # noqa: S608
            parts += [str(row[0]).encode() for row in rows]
    return b"\n".join(parts)


@pytest.mark.standard("CL-11")
async def test_a_link_is_bound_to_the_keys_of_the_installation(
    http: httpx.AsyncClient,
    services: Services,
    outbox: Outbox,
    environ: dict[str, str],
    wall_clock: TestClock,
) -> None:
    """A copy of the stores under other keys takes none of our links."""
    person, handle, token = await signed_up(http, services, outbox)
    other = load({**environ, "VESTIBULE_KEYS": root_key()})
    async with worker(other, wall_clock, outbox) as copy, browser(create_app(copy)) as elsewhere:
        assert told(await verify(elsewhere, token=token, password=person.password)) == DEAD_LINK
        assert told(await verify(elsewhere, token=token, registration=handle)) == DEAD_LINK
    assert (await verify(http, token=token, registration=handle)).status_code == 200
