"""Signing keys on two workers: sealed at rest, turned over without a restart and without one token in vain."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from datetime import datetime, timedelta

import httpx
import jwt
import msgspec
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from sqlalchemy import delete, update

from service.crypto.keyring import SigningKey
from service.crypto.roots import RootKeys
from service.crypto.sealing import UnsealError, unseal
from service.settings import Settings
from service.tokens.keys import SigningKeyRow, SigningKeys
from tests.conftest import Outbox, Servers, TestClock, root_key, worker
from tests.tokens.two_workers import (
    JWKS,
    Pair,
    Verifier,
    kid_of,
    paired,
    renewed,
    settings_of_ones_own,
    signed_in,
)

MAX_AGE = 600
LIFE, LEEWAY, REFRESH = 600, 30, 5
LINGER = LIFE + LEEWAY + MAX_AGE


@pytest.fixture(scope="module")
def own_settings(servers: Servers, environ: dict[str, str]) -> Iterator[Settings]:
    with settings_of_ones_own(servers, environ) as own:
        yield own


@pytest.fixture(scope="module")
async def both(own_settings: Settings, wall_clock: TestClock, outbox: Outbox) -> AsyncIterator[Pair]:
    async with paired(own_settings, wall_clock, outbox) as running:
        yield running


@pytest.fixture
async def pair(both: Pair, clock: TestClock) -> Pair:
    return await renewed(both)


# At rest


@pytest.mark.standard("KY-11", "KY-18")
async def test_a_private_key_is_nowhere_in_the_clear(pair: Pair) -> None:
    rows = await pair.rows()

    assert len(rows) == 2
    for key in pair.keys.keyring.keys:
        sealed = rows[key.kid].private_sealed
        for encoding in (Encoding.DER, Encoding.PEM):
            assert key.private.private_bytes(encoding, PrivateFormat.PKCS8, NoEncryption()) not in sealed
        assert key.private.private_numbers().private_value.to_bytes(32) not in sealed


@pytest.mark.standard("KY-12", "KY-09")
async def test_two_private_keys_that_were_swapped_are_not_read_and_the_worker_goes_on_with_what_it_has(
    pair: Pair,
) -> None:
    one, two = (await pair.rows()).values()
    async with pair.workers[0].database.begin() as transaction:
        for kid, blob in ((one.kid, two.private_sealed), (two.kid, one.private_sealed)):
            change = update(SigningKeyRow).where(SigningKeyRow.kid == kid).values(private_sealed=blob)
            await transaction.execute(change)

    before = pair.keys.keyring
    with pytest.raises(UnsealError):
        await pair.keys.reload()
    assert pair.keys.keyring is before
    assert (await pair.clients[0].get(JWKS)).status_code == 200


@pytest.mark.standard("KY-21", "KY-06")
async def test_a_new_root_key_in_front_reads_the_old_keys_and_seals_the_new_ones(pair: Pair, outbox: Outbox) -> None:
    second = root_key(2)
    both = msgspec.structs.replace(pair.settings, keys=type(pair.settings.keys)(f"{second},{pair.settings.keys}"))
    async with worker(both, pair.clock, outbox) as newer:
        assert {key.kid for key in newer.signing_keys.keyring.keys} == set(await pair.rows())
        scheduled, successor = await newer.signing_keys.rotate()
        sealed = (await pair.rows())[successor.kid].private_sealed

    assert sealed[1] == 2
    assert unseal(RootKeys.parse(second), sealed, f"signing_keys/{successor.kid}")
    assert (await pair.rows())[scheduled.kid].private_sealed[1] == 1
    await pair.keys.reload()  # a worker that knows the old root key alone goes on with what it can read, and knows so
    assert pair.keys.keyring.unreadable == {successor.kid}


# Two workers, one turn


async def test_a_new_installation_signs_with_one_key_and_shows_the_next(pair: Pair) -> None:
    assert sorted(pair.states().values()) == ["active", "next"]
    assert await pair.jwks(0) == await pair.jwks(1)
    assert len(await pair.jwks()) == 2


async def test_ensuring_again_and_from_everywhere_at_once_makes_no_more_keys(pair: Pair) -> None:
    kept = set(await pair.rows())
    await asyncio.gather(*(services.signing_keys.ensure() for services in pair.workers * 5))
    assert set(await pair.rows()) == kept

    async with pair.workers[0].database.begin() as transaction:
        await transaction.execute(delete(SigningKeyRow))
    await asyncio.gather(*(services.signing_keys.ensure() for services in pair.workers * 5))
    await pair.reload()
    assert sorted(pair.states().values()) == ["active", "next"]
    assert len(await pair.rows()) == 2


async def test_a_worker_whose_clock_is_behind_makes_no_second_key(pair: Pair) -> None:
    """So does one that read its clock first and had to wait for the lock behind another."""
    async with pair.workers[0].database.begin() as transaction:
        await transaction.execute(delete(SigningKeyRow))
    await pair.keys.ensure()
    behind = SigningKeys(
        pair.keys.database,
        pair.keys.roots,
        pair.settings,
        lambda: pair.clock() - timedelta(seconds=2),
        pair.keys.announce,
    )
    await behind.ensure()

    assert len(await pair.rows()) == 2


async def test_rotating_from_everywhere_at_once_is_one_rotation(pair: Pair) -> None:
    answers = await asyncio.gather(*(services.signing_keys.rotate() for services in pair.workers * 8))

    assert len({(scheduled.kid, scheduled.activates_at, successor.kid) for scheduled, successor in answers}) == 1
    assert len(await pair.rows()) == 3
    scheduled, successor = answers[0]
    await pair.reload()
    assert pair.states(0) == pair.states(1)
    assert (pair.states()[scheduled.kid], pair.states()[successor.kid]) == ("next", "next")
    assert successor.activates_at is None


async def test_rotating_and_ensuring_at_once_makes_no_more_keys(pair: Pair) -> None:
    one, two = (services.signing_keys for services in pair.workers)
    await asyncio.gather(*(call() for call in (one.ensure, two.rotate, two.ensure, one.rotate) * 4))

    assert len(await pair.rows()) == 3


@pytest.mark.standard("KY-26")
async def test_the_next_key_is_shown_at_least_max_age_before_it_signs(pair: Pair) -> None:
    shown_since = {row.kid: row.created_at for row in (await pair.rows()).values()}

    for _ in range(3):
        scheduled, successor = await pair.keys.rotate()
        assert scheduled.activates_at is not None
        assert scheduled.activates_at - shown_since[scheduled.kid] >= timedelta(seconds=MAX_AGE)
        assert scheduled.activates_at - pair.clock() >= timedelta(seconds=REFRESH)
        shown_since[successor.kid] = pair.clock()
        assert {scheduled.kid, successor.kid} <= set(await pair.jwks())
        await pair.clock.advance(seconds=(scheduled.activates_at - pair.clock()).total_seconds() + 1)
        assert pair.states()[scheduled.kid] == "active"


@pytest.mark.standard("KY-26")
async def test_both_workers_change_over_at_the_same_moment_without_reading_again(pair: Pair) -> None:
    scheduled, _ = await pair.keys.rotate()
    await pair.workers[1].signing_keys.reload()
    assert scheduled.activates_at is not None
    until = (scheduled.activates_at - pair.clock()).total_seconds()

    def signers() -> set[str]:
        found = [services.signing_keys.keyring.current(pair.clock()) for services in pair.workers]
        return {key.kid for key in found if key is not None}

    await pair.clock.advance(seconds=until - 30)
    assert len(signers()) == 1
    assert scheduled.kid not in signers()
    await pair.clock.advance(seconds=31)
    assert signers() == {scheduled.kid}


@pytest.mark.standard("KY-26", "KY-31")
async def test_a_retired_key_goes_when_its_last_token_has_ended(pair: Pair) -> None:
    old = next(kid for kid, state in pair.states().items() if state == "active")
    scheduled, _ = await pair.keys.rotate()
    await pair.workers[1].signing_keys.reload()
    assert scheduled.activates_at is not None
    await pair.clock.advance(seconds=(scheduled.activates_at - pair.clock()).total_seconds() + LINGER - 5)
    assert pair.states()[old] == "retired"
    assert old in await pair.jwks(1)

    await pair.clock.advance(seconds=6)
    assert old not in await pair.jwks(0)  # nobody has read anything again
    assert old not in await pair.jwks(1)
    assert old in await pair.rows()
    await pair.keys.rotate()
    assert old not in await pair.rows()


@pytest.mark.standard("KY-26", "IN-09")
async def test_four_turns_while_tokens_are_issued_and_checked_leave_none_unverifiable(pair: Pair) -> None:
    """Faults row 49. Each worker lags behind by the refresh; tokens are checked where they were not issued."""
    refresh_token = (await signed_in(pair))["refresh_token"]
    verifiers = [Verifier(client, pair.clock, timedelta(seconds=MAX_AGE)) for client in pair.clients]
    issued: list[tuple[datetime, str]] = []
    signers: list[str] = []

    for step in range(110):
        here, there = step % 2, 1 - step % 2
        await pair.clock.advance(seconds=32)
        if step in {3, 40, 41, 75}:
            await pair.workers[there].signing_keys.rotate()  # the other one does not know yet
        answer = await pair.clients[here].post("/auth/refresh", json={"refresh_token": refresh_token})
        assert answer.status_code == 200, (step, answer.text)
        refresh_token, token = answer.json()["refresh_token"], answer.json()["access_token"]
        issued = [(at, kept) for at, kept in issued if pair.clock() - at < timedelta(seconds=LIFE - 2)]
        issued.append((pair.clock(), token))
        for _, kept in (issued[0], issued[-1]):
            told = await pair.caller.ask(pair.clients[there], kept)
            assert told["active"] is True, (step, kid_of(kept), pair.states(there))
            await verifiers[there].verify(kept)
        if kid_of(token) not in signers:
            signers.append(kid_of(token))
        await pair.clock.advance(seconds=REFRESH)
        await pair.reload()

    assert len(signers) == 5


# Over HTTP


@pytest.mark.standard("KY-23", "KY-25", "KY-30", "W-J", "CK-10")
async def test_the_key_set_is_public_cacheable_and_readable_from_everywhere(http: httpx.AsyncClient) -> None:
    answer = await http.get(JWKS, headers={"Origin": "https://anything.example", "Cookie": "a=b"})

    assert answer.status_code == 200
    assert answer.headers["content-type"] in {"application/jwk-set+json", "application/json"}
    assert answer.headers["cache-control"] == f"public, max-age={MAX_AGE}"
    assert answer.headers["access-control-allow-origin"] == "*"
    assert "access-control-allow-credentials" not in answer.headers
    assert "set-cookie" not in answer.headers
    assert "pragma" not in answer.headers
    assert set(answer.json()) == {"keys"}
    for key in answer.json()["keys"]:
        assert set(key) == {"kty", "crv", "x", "y", "kid", "use", "alg"}
        assert jwt.PyJWK(key).key_id == key["kid"]


@pytest.mark.standard("KY-30", "W-J")
async def test_a_key_set_that_has_not_changed_is_not_sent_again(http: httpx.AsyncClient) -> None:
    first = await http.get(JWKS)
    etag = first.headers["etag"]

    assert etag == (await http.get(JWKS)).headers["etag"]
    for matching in (etag, f"W/{etag}", f'"other", {etag}', f'{etag}, "other"'):
        again = await http.get(JWKS, headers={"If-None-Match": matching})
        assert (again.status_code, again.content) == (304, b""), matching
        assert again.headers["etag"] == etag
        assert again.headers["cache-control"] == first.headers["cache-control"]
        assert again.headers["access-control-allow-origin"] == "*"
    for other in ("", '"other"', etag.strip('"'), "garbage", '"' + etag.strip('"')[:-1] + '"'):
        assert (await http.get(JWKS, headers={"If-None-Match": other})).status_code == 200, other


@pytest.mark.standard("KY-30")
async def test_the_etag_changes_when_a_key_comes_and_is_the_same_on_both_workers(pair: Pair) -> None:
    before = [(await client.get(JWKS)).headers["etag"] for client in pair.clients]
    await pair.keys.rotate()
    await pair.reload()
    after = [(await client.get(JWKS)).headers["etag"] for client in pair.clients]

    assert len(set(before)) == len(set(after)) == 1
    assert before != after


async def test_without_any_key_the_set_is_not_an_empty_one(pair: Pair) -> None:
    """An empty set would be cached, and every token refused for ten minutes."""
    async with pair.workers[0].database.begin() as transaction:
        await transaction.execute(delete(SigningKeyRow))
    await pair.keys.reload()
    answer = await pair.clients[0].get(JWKS)

    assert answer.status_code == 503
    assert answer.headers["cache-control"] == "no-store"
    assert int(answer.headers["retry-after"]) >= 1


async def test_a_private_key_does_not_show_in_its_representation(pair: Pair) -> None:
    key: SigningKey = pair.keys.keyring.keys[0]
    value = str(key.private.private_numbers().private_value)

    assert value not in repr(key)
    assert value not in repr(pair.keys.keyring)
