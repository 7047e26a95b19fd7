"""Secrets of clients: two at most, changed without a gap, kept as keyed digests, and shown this once."""

import dataclasses
import re
import secrets
from collections.abc import AsyncIterator
from datetime import timedelta
from hashlib import sha256

import httpx
import msgspec
import pytest
from redis.asyncio import Redis
from sqlalchemy import select, text
from structlog.testing import capture_logs

from service.app import create_app
from service.crypto import opaque
from service.errors import InvalidInput, TooManySecrets
from service.settings import Settings
from service.tokens.client_administration import ClientChanges
from service.tokens.clients import ClientSecret
from service.wiring import Services
from tests.conftest import Outbox, TestClock, browser, root_key, worker
from tests.deeds import bearer, sign_in, with_account
from tests.oauth.acting import Software, assert_error, new_service
from tests.tokens.hearing import eventually, listening_worker, outcomes
from tests.tokens.test_client_rules import BY_KEY, GOOD_KEY, fresh_id

TABLES = ("clients", "client_secrets", "audit_events")


@pytest.fixture(scope="module")
async def listening(
    services: Services, settings: Settings, wall_clock: TestClock, outbox: Outbox
) -> AsyncIterator[Services]:
    async with listening_worker(services, settings, wall_clock, outbox) as running:
        yield running


@pytest.fixture
async def elsewhere(listening: Services) -> AsyncIterator[httpx.AsyncClient]:
    """Another worker, which hears of changes and does not look for them."""
    async with browser(create_app(listening)) as http:
        yield http


def with_secret(client: Software, secret: str) -> Software:
    return dataclasses.replace(client, secret=secret)


async def opens(http: httpx.AsyncClient, client: Software, secret: str) -> bool:
    """Whether a secret is good; there is no third answer."""
    answer = await with_secret(client, secret).ask_token(http)
    if answer.status_code != 200:
        assert_error(answer, 401, "invalid_client")
    return answer.status_code == 200


async def held(services: Services, client: Software) -> list[ClientSecret]:
    """What is kept of a client's secrets, the oldest first."""
    statement = select(ClientSecret).where(ClientSecret.client_id == client.client_id)
    async with services.database.begin() as transaction:
        return list((await transaction.scalars(statement.order_by(ClientSecret.created_at))).all())


@pytest.mark.standard("KY-21", "W-C")
async def test_a_secret_is_changed_without_a_gap(
    http: httpx.AsyncClient, elsewhere: httpx.AsyncClient, services: Services
) -> None:
    administration = services.client_administration
    client = await new_service(services)
    (first,) = await held(services, client)
    second = await administration.add_secret(client.client_id)

    for worker_of in (http, elsewhere):
        assert await opens(worker_of, client, second.secret)
        assert await opens(worker_of, client, client.secret)
    with pytest.raises(TooManySecrets):
        await administration.add_secret(client.client_id)
    assert [row.id for row in await held(services, client)] == [first.id, second.id]

    await administration.end_secret(client.client_id, first.id)
    assert await opens(http, client, second.secret)
    assert not await opens(http, client, client.secret)
    await eventually(lambda: opens(elsewhere, client, client.secret), False)
    assert await opens(elsewhere, client, second.secret)
    third = await administration.add_secret(client.client_id)
    assert await opens(elsewhere, client, third.secret)


@pytest.mark.standard("KY-21")
async def test_of_many_secrets_asked_for_at_once_two_live(services: Services, second_worker: Services) -> None:
    client = await new_service(services)
    workers = [services.client_administration, second_worker.client_administration] * 10
    told = await outcomes(*(one.add_secret(client.client_id) for one in workers))

    assert told.count(TooManySecrets) == 19
    assert len(await held(services, client)) == 2
    (added,) = [answer for answer in told if answer is not TooManySecrets]
    assert await services.clients.holder(client.client_id, added.secret) is not None
    assert await services.clients.holder(client.client_id, client.secret) is not None


@pytest.mark.standard("KY-21")
async def test_a_secret_ends_at_its_time_on_every_worker(
    http: httpx.AsyncClient, elsewhere: httpx.AsyncClient, services: Services, clock: TestClock
) -> None:
    administration = services.client_administration
    client = await new_service(services)
    short = await administration.add_secret(client.client_id, timedelta(hours=1))
    assert short.expires_at is not None
    for worker_of in (http, elsewhere):
        assert await opens(worker_of, client, short.secret)

    await clock.advance(seconds=(short.expires_at - clock()).total_seconds() - 60)
    for worker_of in (http, elsewhere):
        assert await opens(worker_of, client, short.secret)
    await clock.advance(seconds=61)
    for worker_of in (http, elsewhere):
        assert not await opens(worker_of, client, short.secret)
        assert await opens(worker_of, client, client.secret)

    # One that is over is in nobody's way, and goes.
    next_one = await administration.add_secret(client.client_id)
    assert await opens(http, client, next_one.secret)
    assert short.id not in [row.id for row in await held(services, client)]


@pytest.mark.standard("KY-21")
async def test_all_secrets_are_replaced_by_one(http: httpx.AsyncClient, services: Services) -> None:
    client = await new_service(services)
    other = await services.client_administration.add_secret(client.client_id)
    new = await services.client_administration.replace_secrets(client.client_id)

    assert await opens(http, client, new)
    assert not await opens(http, client, client.secret)
    assert not await opens(http, client, other.secret)
    assert len(await held(services, client)) == 1


async def test_who_uses_no_secret_gets_none(services: Services) -> None:
    by_key = ClientChanges(auth_methods=BY_KEY, jwks={"keys": [GOOD_KEY]})
    for is_confidential, changes in ((False, ClientChanges()), (True, by_key)):
        client_id = fresh_id()
        _, secret = await services.client_administration.register(client_id, changes, confidential=is_confidential)
        assert secret is None
        with pytest.raises(InvalidInput) as refusal:
            await services.client_administration.add_secret(client_id)
        assert [(problem.field, problem.code) for problem in refusal.value.fields] == [
            ("client_id", "no_secret_method")
        ]


@pytest.mark.standard("KY-21")
async def test_a_secret_of_one_client_is_not_ended_through_another(http: httpx.AsyncClient, services: Services) -> None:
    victim, other = await new_service(services), await new_service(services)
    (kept,) = await held(services, victim)
    headers = bearer(await sign_in(http, await with_account(services, ("admin",))))
    refused = await http.post(f"/admin/clients/{other.client_id}/secrets/{kept.id}/end", json={}, headers=headers)

    assert refused.status_code == 404
    assert await opens(http, victim, victim.secret)


# What is kept and shown


@pytest.mark.standard("KY-32", "LO-06", "AD-22")
async def test_a_secret_is_kept_as_a_keyed_digest_and_shown_once(
    http: httpx.AsyncClient, services: Services, redis: Redis
) -> None:
    headers = bearer(await sign_in(http, await with_account(services, ("admin",))))
    client_id = fresh_id()
    with capture_logs() as lines:
        body = {"client_id": client_id, "confidential": True, "reason": "new"}
        made = await http.post("/admin/clients", json=body, headers=headers)
        added = await http.post(f"/admin/clients/{client_id}/secrets", json={"life": 3600}, headers=headers)
        client = Software(client_id, made.json()["client_secret"])
        given = (client.secret, added.json()["client_secret"])
        for secret in given:
            assert await opens(http, client, secret)
        assert not await opens(http, client, given[0].swapcase())
        later = [
            await http.get("/admin/clients", headers=headers),
            await http.get(f"/admin/clients/{client_id}", headers=headers),
            await http.patch(f"/admin/clients/{client_id}", json={"name": "Other"}, headers=headers),
            await http.post(f"/admin/clients/{client_id}/disable", json={}, headers=headers),
            await http.post(f"/admin/clients/{client_id}/enable", json={}, headers=headers),
            await http.get("/admin/audit-events", headers=headers),
        ]
    assert [answer.status_code for answer in (made, added, *later)] == [201, 201] + [200] * 6
    assert {answer.headers["cache-control"] for answer in (made, added, *later)} == {"no-store"}
    await services.audit.flush()

    digests = [row.digest for row in await held(services, client)]
    assert digests == [services.clients.roots.digest("client secret", secret) for secret in given]
    stored = await everything(services, redis)
    for secret, digest in zip(given, digests, strict=True):
        body_of_it = opaque.decode("vcs", secret)
        assert body_of_it is not None
        assert len(body_of_it) == 32
        assert re.fullmatch(r"[A-Za-z0-9_-]+", secret)
        assert re.fullmatch(r"1:[0-9a-f]{64}", digest)
        assert sha256(secret.encode()).hexdigest() not in stored  # nothing that a copy of the database can be tried on
        for told in (stored, str(lines), *(answer.text for answer in later)):
            assert secret not in told
            assert secret.partition("_")[2] not in told
        for answer in later:
            assert digest not in answer.text
    assert len(set(given)) == 2


async def everything(services: Services, redis: Redis) -> str:
    """Every table that could hold a secret, and every name in Redis."""
    found = []
    async with services.database.begin() as transaction:
        for table in TABLES:
            rows = await transaction.execute(text(f"SELECT * FROM {table}"))  # noqa: S608  our own names
            found += [str(tuple(row)) for row in rows]
    return "\n".join([*found, *[str(name) async for name in redis.scan_iter("vestibule:*client*", 1000)]])


@pytest.mark.standard("KY-32", "KY-21", "KY-06")
async def test_a_digest_of_an_older_root_key_is_made_anew_when_its_secret_is_used(
    http: httpx.AsyncClient, services: Services, settings: Settings, wall_clock: TestClock, outbox: Outbox
) -> None:
    used, unused = await new_service(services), await new_service(services)
    second = await services.client_administration.add_secret(used.client_id)
    both_keys = f"{root_key(2)},{settings.keys}"
    newer = msgspec.structs.replace(settings, keys=type(settings.keys)(both_keys))
    only_new = msgspec.structs.replace(settings, keys=type(settings.keys)(both_keys.partition(",")[0]))
    try:
        async with worker(newer, wall_clock, outbox) as running, browser(create_app(running)) as renewing:
            assert not await opens(renewing, used, f"vcs_{secrets.token_urlsafe(32)}")
            assert [row.digest[:2] for row in await held(services, used)] == ["1:", "1:"]
            assert await opens(renewing, used, used.secret)
            digests = [row.digest for row in await held(services, used)]
            assert [digest[:2] for digest in digests] == ["2:", "1:"]
            assert await opens(renewing, used, used.secret)
            assert [row.digest for row in await held(services, used)] == digests
            assert await opens(renewing, used, second.secret)
        async with worker(only_new, wall_clock, outbox) as without_old:
            for secret in (used.secret, second.secret):
                assert await without_old.clients.holder(used.client_id, secret) is not None
            assert await without_old.clients.holder(unused.client_id, unused.secret) is None
        assert await opens(http, unused, unused.secret)
    finally:
        await services.client_administration.replace_secrets(used.client_id)
