"""A signing key that got out: what it signed is worth nothing at once and everywhere, and people stay signed in."""

import secrets
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from datetime import timedelta

import jwt
import pytest

from service.crypto.keyring import SigningKey
from service.errors import UnknownKey
from service.settings import Settings
from tests.conftest import Outbox, Servers, TestClock
from tests.tokens.two_workers import (
    WITHOUT_TIMES,
    Pair,
    Verifier,
    is_active,
    kid_of,
    listening,
    paired,
    refreshed,
    renewed,
    settings_of_ones_own,
    signed_in,
    told,
)

MAX_AGE = timedelta(minutes=10)
LEEWAY = timedelta(seconds=30)


@pytest.fixture(scope="module")
def own_settings(servers: Servers, environ: dict[str, str]) -> Iterator[Settings]:
    """Workers look for changes once in an hour: what they know before, they were told."""
    with settings_of_ones_own(servers, environ, VESTIBULE_KEY_REFRESH="3600", VESTIBULE_KEY_ROTATION="0") as own:
        yield own


@pytest.fixture(scope="module")
async def both(own_settings: Settings, wall_clock: TestClock, outbox: Outbox) -> AsyncIterator[Pair]:
    async with paired(own_settings, wall_clock, outbox) as running:
        yield running


@pytest.fixture
async def pair(both: Pair, clock: TestClock) -> Pair:
    await renewed(both)
    for number in (0, 1):
        await listening(both, number)
    return both


def key_of(pair: Pair, kid: str) -> SigningKey:
    return next(key for key in pair.keys.keyring.keys if key.kid == kid)


def forged(pair: Pair, key: SigningKey, like: str) -> str:
    """What somebody makes who has the private key: a fresh token with the claims of an old one."""
    now = int(pair.clock().timestamp())
    claims = jwt.decode(like, options={"verify_signature": False, **WITHOUT_TIMES})
    claims |= {"iat": now, "exp": now + 300, "jti": f"{claims['jti'].partition('.')[0]}.{secrets.token_urlsafe(16)}"}
    return jwt.encode(claims, key.private, "ES256", headers={"kid": key.kid, "typ": "at+jwt"})


# The key that signs


@pytest.mark.standard("KY-31", "KY-06")
async def test_what_a_revoked_key_signed_is_inactive_at_once_here_and_soon_as_told_elsewhere(pair: Pair) -> None:
    """No worker looks by itself: the announcement brings it."""
    tokens = await signed_in(pair)
    token, kid = tokens["access_token"], kid_of(tokens["access_token"])
    assert [await is_active(pair, token, number) for number in (0, 1)] == [True, True]

    await pair.keys.revoke(kid)

    assert await is_active(pair, token, 0) is False
    assert kid not in await pair.jwks(0)
    assert (await pair.clients[0].get("/me", headers={"Authorization": f"Bearer {token}"})).status_code == 401
    await told(pair, kid)
    assert await is_active(pair, token, 1) is False
    assert kid not in await pair.jwks(1)
    assert (await pair.clients[1].get("/me", headers={"Authorization": f"Bearer {token}"})).status_code == 401


@pytest.mark.standard("KY-26", "KY-31")
async def test_the_next_key_signs_in_the_same_moment_and_everybody_had_seen_it(pair: Pair) -> None:
    (kid,), (coming,) = pair.in_state("active"), pair.in_state("next")
    cached = await pair.jwks(1)

    signing = await pair.keys.revoke(kid)

    assert signing.kid == coming
    assert coming in cached
    assert pair.in_state("active") == [coming]
    assert len(pair.in_state("next")) == 1
    await told(pair, kid)
    assert pair.states(0) == pair.states(1)
    for number in (0, 1):
        tokens = await signed_in(pair)
        assert kid_of(tokens["access_token"]) == coming
        assert await is_active(pair, tokens["access_token"], number) is True


@pytest.mark.standard("KY-31")
async def test_people_stay_signed_in_through_a_revocation(pair: Pair) -> None:
    tokens = await signed_in(pair)
    await pair.keys.revoke(kid_of(tokens["access_token"]))
    await told(pair, kid_of(tokens["access_token"]))

    again = await refreshed(pair.clients[1], tokens["refresh_token"])
    retried = await refreshed(pair.clients[0], tokens["refresh_token"])  # the answer to the first one got lost

    for number, answer in enumerate((again, retried)):
        assert kid_of(answer["access_token"]) == pair.in_state("active")[0]
        assert await is_active(pair, answer["access_token"], number) is True
    assert again["refresh_token"] == retried["refresh_token"]


@pytest.mark.standard("KY-31")
async def test_who_verifies_alone_stops_believing_a_revoked_key_within_max_age_and_knows_the_new_one(
    pair: Pair,
) -> None:
    verifier = Verifier(pair.clients[1], pair.clock, MAX_AGE)
    old = (await signed_in(pair))["access_token"]
    await verifier.verify(old)
    await pair.keys.revoke(kid_of(old))
    await told(pair, kid_of(old))
    await verifier.verify((await signed_in(pair))["access_token"])  # with what it had before

    await pair.clock.advance(seconds=MAX_AGE.seconds)
    with pytest.raises(KeyError):
        await verifier.verify(old)


@pytest.mark.standard("KY-31")
async def test_a_worker_whose_clock_is_behind_signs_with_the_new_key_at_once(pair: Pair) -> None:
    (kid,), (coming,) = pair.in_state("active"), pair.in_state("next")
    await pair.clock.advance(seconds=60)
    behind = replace(pair.keys, clock=lambda: pair.clock() - LEEWAY + timedelta(seconds=1))
    await pair.keys.revoke(kid)
    await behind.reload()

    signing = behind.keyring.current(behind.clock())
    assert signing is not None
    assert signing.kid == coming


# Any other key


@pytest.mark.standard("KY-31")
async def test_a_retired_key_can_be_revoked_and_nothing_else_changes(pair: Pair) -> None:
    tokens = await signed_in(pair)
    turn = await pair.turned()
    newer = await refreshed(pair.clients[0], tokens["refresh_token"])
    retired = kid_of(tokens["access_token"])
    forgery = forged(pair, key_of(pair, retired), tokens["access_token"])
    assert pair.states()[retired] == "retired"
    assert await is_active(pair, forgery, 0) is True
    others = {kid: state for kid, state in pair.states().items() if kid != retired}

    signing = await pair.keys.revoke(retired)

    assert signing.kid == turn.kid == kid_of(newer["access_token"])
    await told(pair, retired)
    for number in (0, 1):
        assert {kid: state for kid, state in pair.states(number).items() if kid != retired} == others
        assert retired not in await pair.jwks(number)
        assert await is_active(pair, forgery, number) is False
        assert await is_active(pair, newer["access_token"], number) is True


async def test_a_next_key_that_is_revoked_is_replaced_and_never_signs(pair: Pair) -> None:
    (kid,), (coming,) = pair.in_state("active"), pair.in_state("next")

    signing = await pair.keys.revoke(coming)

    assert signing.kid == kid
    (replacement,) = pair.in_state("next")
    assert coming not in await pair.jwks()
    turn = await pair.turned()
    assert turn.kid == replacement


async def test_a_scheduled_key_that_is_revoked_takes_its_turn_with_it(pair: Pair) -> None:
    (kid,) = pair.in_state("active")
    turn, successor = await pair.keys.rotate()
    assert turn.activates_at is not None

    signing = await pair.keys.revoke(turn.kid)

    assert signing.kid == kid
    assert turn.kid not in await pair.jwks()
    await pair.until(turn.activates_at, seconds=1)
    assert pair.in_state("active") == [kid]
    again = await pair.turned()
    assert again.kid == successor.kid
    assert pair.in_state("active") == [successor.kid]


async def test_revoking_the_key_that_signs_while_a_turn_is_scheduled_brings_the_turn_forward(pair: Pair) -> None:
    (kid,) = pair.in_state("active")
    turn, successor = await pair.keys.rotate()

    signing = await pair.keys.revoke(kid)

    assert signing.kid == turn.kid
    assert pair.in_state("next") == [successor.kid]
    await pair.until(turn.activates_at, seconds=1)
    assert pair.in_state("active") == [turn.kid]


@pytest.mark.standard("KY-31")
async def test_every_key_there_is_can_be_revoked_one_after_the_other_and_one_always_signs(pair: Pair) -> None:
    tokens = await signed_in(pair)
    revoked: set[str] = set()
    for _ in range(6):
        for kid in await pair.jwks():
            signing = await pair.keys.revoke(kid)
            revoked.add(kid)
            assert signing.kid not in revoked
            assert not revoked & set(await pair.jwks())
            tokens = await refreshed(pair.clients[0], tokens["refresh_token"])
            assert kid_of(tokens["access_token"]) == signing.kid
            assert await is_active(pair, tokens["access_token"], 0) is True

    assert len(revoked) == 12


async def test_a_key_that_is_unknown_or_was_revoked_is_refused_and_nothing_changes(pair: Pair) -> None:
    (kid,) = pair.in_state("active")
    await pair.keys.revoke(kid)
    rows, states = set(await pair.rows()), pair.states()

    for wrong in (kid, "", "nothing", "a" * 5000, "é", f"{kid}x", kid.lower() + " ", "'; DROP TABLE signing_keys; --"):
        with pytest.raises(UnknownKey):
            await pair.keys.revoke(wrong)
    assert set(await pair.rows()) == rows
    assert pair.states() == states


# For good


@pytest.mark.standard("KY-31", "KY-26")
async def test_a_revoked_key_never_returns_whatever_turns_and_time_bring(pair: Pair) -> None:
    """Whoever has it signs a fresh token each time; it is never believed, before and after its row is gone."""
    tokens = await signed_in(pair)
    kid = kid_of(tokens["access_token"])
    stolen = key_of(pair, kid)
    assert await is_active(pair, forged(pair, stolen, tokens["access_token"]), 0) is True
    await pair.keys.revoke(kid)

    async def is_dead() -> None:
        await pair.reload()
        forgery = forged(pair, stolen, tokens["access_token"])
        for number in (0, 1):
            assert await is_active(pair, forgery, number) is False
            assert kid not in await pair.jwks(number)
        signing = pair.keys.keyring.current(pair.clock())
        assert signing is not None
        assert signing.kid != kid

    await is_dead()
    for seconds in (29, 31, 600, 1300):
        await pair.clock.advance(seconds=seconds)
        await is_dead()
    for _ in range(2):
        await pair.turned()
        await is_dead()
        await pair.clock.advance(seconds=1300)
        await is_dead()
    await pair.keys.rotate()
    assert kid not in await pair.rows()
    await is_dead()


@pytest.mark.standard("KY-31")
async def test_an_older_key_does_not_come_back_to_life_when_its_successors_are_revoked(pair: Pair) -> None:
    (first,) = pair.in_state("active")
    second = await pair.turned()
    third = await pair.turned()
    for kid in (third.kid, second.kid):
        await pair.keys.revoke(kid)

    assert pair.states().get(first, "gone") in {"retired", "gone"}
    signing = pair.keys.keyring.current(pair.clock())
    assert signing is not None
    assert signing.kid not in {first, second.kid, third.kid}
    await pair.clock.advance(seconds=1300)
    await pair.reload()
    assert first not in await pair.jwks()
