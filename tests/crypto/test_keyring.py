"""What the keyring shows of itself, and that no turn of it leaves a token unverifiable."""

import base64
import hashlib
import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from service.crypto.keyring import Keyring, SigningKey, thumbprint

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
LINGER = timedelta(seconds=1230)
SECOND = timedelta(seconds=1)
PAIRS = [ec.generate_private_key(ec.SECP256R1()) for _ in range(9)]


def key(number: int, activates_at: datetime | None, created_at: datetime = NOW) -> SigningKey:
    return SigningKey(thumbprint(PAIRS[number].public_key()), PAIRS[number], created_at, activates_at)


def pair_with_a_leading_zero(coordinate: str) -> ec.EllipticCurvePrivateKey:
    """One key in 256 has it; the smallest exponents are tried until one does."""
    for exponent in range(1, 10_000):
        private = ec.derive_private_key(exponent, ec.SECP256R1())
        if getattr(private.public_key().public_numbers(), coordinate) < 2**248:
            return private
    raise AssertionError("no key has a leading zero")


# What is published


@pytest.mark.standard("KY-24")
@pytest.mark.parametrize("coordinate", ["x", "y"])
def test_a_coordinate_keeps_its_leading_zeros(coordinate: str) -> None:
    private = pair_with_a_leading_zero(coordinate)
    jwk = SigningKey("kid", private, NOW, NOW).jwk

    assert len(jwk["x"]) == len(jwk["y"]) == 43
    raw = base64.urlsafe_b64decode(jwk[coordinate] + "=")
    assert (len(raw), raw[0]) == (32, 0)
    assert int.from_bytes(raw) == getattr(private.public_key().public_numbers(), coordinate)


class Point:
    """TV-3 is no point of the curve: a public key of nothing but numbers."""

    def public_numbers(self) -> "Point":
        return self

    x = int.from_bytes(bytes(range(32)))
    y = int.from_bytes(bytes(range(32, 64)))


@pytest.mark.standard("KY-24")
def test_the_thumbprint_of_the_test_vector() -> None:
    assert thumbprint(Point()) == "0r62zgBj277RicA3LnaBKQ5_9RCDIomrlbpWjO0QTG0"  # type: ignore[arg-type]


@pytest.mark.standard("KY-24", "W-J")
def test_the_thumbprint_is_the_digest_of_the_required_members_in_order() -> None:
    jwk = key(0, NOW).jwk
    canonical = json.dumps({name: jwk[name] for name in ("crv", "kty", "x", "y")}, separators=(",", ":"))
    digest = base64.urlsafe_b64encode(hashlib.sha256(canonical.encode()).digest()).rstrip(b"=").decode()

    assert key(0, NOW).kid == jwk["kid"] == digest


@pytest.mark.standard("KY-23", "KY-25", "W-J")
def test_a_published_key_has_its_public_members_and_no_others() -> None:
    ring = Keyring.of([key(0, NOW), key(1, None)], LINGER)
    keys = ring.jwks(NOW)["keys"]

    for jwk in keys:
        assert set(jwk) == {"kty", "crv", "x", "y", "kid", "use", "alg"}
        assert (jwk["kty"], jwk["crv"], jwk["use"], jwk["alg"]) == ("EC", "P-256", "sig", "ES256")
        assert "=" not in "".join(jwk.values())
    assert len({jwk["kid"] for jwk in keys}) == len(keys) == 2
    assert set(ring.jwks(NOW)) == {"keys"}


def test_an_empty_keyring_signs_nothing_and_shows_nothing() -> None:
    ring = Keyring.of([], LINGER)

    assert ring.current(NOW) is None
    assert ring.find("anything", NOW) is None
    assert ring.jwks(NOW) == {"keys": []}


# States by time


@pytest.mark.standard("KY-26")
def test_a_key_goes_through_its_states_to_the_second() -> None:
    old, new = key(0, NOW - LINGER), key(1, NOW)
    ring = Keyring.of([new, old], LINGER)

    def states(at: datetime) -> tuple[str, str]:
        return ring.state(old, at), ring.state(new, at)

    assert states(NOW - LINGER - SECOND) == ("next", "next")
    assert states(NOW - LINGER) == ("active", "next")
    assert states(NOW - SECOND) == ("active", "next")
    assert states(NOW) == ("retired", "active")
    assert states(NOW + LINGER - SECOND) == ("retired", "active")
    assert states(NOW + LINGER) == ("gone", "active")
    assert states(NOW + timedelta(days=3650)) == ("gone", "active")


@pytest.mark.standard("KY-26")
def test_the_key_that_signs_changes_at_the_moment_its_successor_activates() -> None:
    ring = Keyring.of([key(0, NOW - timedelta(hours=1)), key(1, NOW), key(2, None)], LINGER)

    before, after = ring.current(NOW - timedelta(microseconds=1)), ring.current(NOW)
    assert before is not None
    assert after is not None
    assert (before.kid, after.kid) == (key(0, None).kid, key(1, None).kid)


@pytest.mark.standard("KY-26")
def test_a_key_without_a_moment_never_signs_and_is_always_shown() -> None:
    waiting = key(1, None)
    ring = Keyring.of([waiting, key(0, NOW)], LINGER)
    years_later = NOW + timedelta(days=3650)

    assert ring.state(waiting, years_later) == "next"
    current = ring.current(years_later)
    assert current is not None
    assert current.kid == key(0, None).kid
    assert waiting.kid in {jwk["kid"] for jwk in ring.jwks(years_later)["keys"]}


@pytest.mark.standard("KY-31")
def test_a_key_is_found_exactly_as_long_as_it_is_shown() -> None:
    ring = Keyring.of(
        [key(0, NOW - timedelta(hours=2)), key(1, NOW), key(2, NOW + timedelta(hours=2)), key(3, None)], LINGER
    )

    for minutes in range(-180, 300, 7):
        at = NOW + timedelta(minutes=minutes)
        shown = {jwk["kid"] for jwk in ring.jwks(at)["keys"]}
        assert shown == {each.kid for each in ring.keys if ring.find(each.kid, at) is not None}


def test_two_keys_of_the_same_moment_never_leave_none() -> None:
    """Nothing schedules two keys for one moment, but a restored database might hold them."""
    ring = Keyring.of([key(0, NOW), key(1, NOW)], LINGER)
    current = ring.current(NOW)

    assert current is not None
    assert ring.state(current, NOW) == "active"
    assert len(ring.jwks(NOW)["keys"]) == 2


# No turn leaves a token unverifiable

ACCESS_TOKEN_LIFE = timedelta(minutes=10)
LEEWAY = timedelta(seconds=30)
JWKS_MAX_AGE = timedelta(minutes=10)
KEY_REFRESH = timedelta(seconds=5)
PROPAGATION = KEY_REFRESH * 3


def rotated(pauses: Sequence[int]) -> list[tuple[datetime, list[SigningKey]]]:
    """The rows of the database after each rotation, by the rule of `tokens/keys.py`."""
    at = NOW
    rows = [key(0, NOW), key(1, None)]
    history = [(at, list(rows))]
    for pause in pauses:
        at += timedelta(seconds=pause)
        ring = Keyring.of(rows, LINGER)
        coming = [each for each in ring.keys if ring.state(each, at) == "next"]
        first = coming[0]
        if first.activates_at is None:
            moment = max(at + PROPAGATION, first.created_at + JWKS_MAX_AGE + PROPAGATION)
            rows[rows.index(first)] = SigningKey(first.kid, first.private, first.created_at, moment)
        if len(coming) < 2:
            rows.append(key(len(rows), None, at))
        history.append((at, list(rows)))
    return history


def as_seen(history: list[tuple[datetime, list[SigningKey]]], read_at: datetime) -> Keyring:
    """What a worker holds that read the database at this moment."""
    return Keyring.of(next(rows for since, rows in reversed(history) if since <= read_at), LINGER)


@pytest.mark.standard("KY-26")
@settings(deadline=None)
@given(
    pauses=st.lists(st.integers(0, 4000), min_size=1, max_size=7),
    issued_after=st.integers(0, 9000),
    token_age=st.integers(0, 630),
    cache_age=st.integers(0, 600),
    lag_of_signer=st.integers(0, 5),
    lag_of_publisher=st.integers(0, 5),
)
def test_no_token_is_ever_unknown_to_a_verifier_whose_keys_are_no_older_than_their_max_age(
    *,
    pauses: list[int],
    issued_after: int,
    token_age: int,
    cache_age: int,
    lag_of_signer: int,
    lag_of_publisher: int,
) -> None:
    history = rotated(pauses)
    issued_at = NOW + timedelta(seconds=issued_after)
    signing = as_seen(history, max(NOW, issued_at - SECOND * lag_of_signer)).current(issued_at)
    assert signing is not None

    presented_at = issued_at + SECOND * token_age
    fetched_at = max(NOW, presented_at - SECOND * cache_age)
    published = as_seen(history, max(NOW, fetched_at - SECOND * lag_of_publisher)).jwks(fetched_at)
    assert signing.kid in {jwk["kid"] for jwk in published["keys"]}

    believed = as_seen(history, max(NOW, presented_at - SECOND * lag_of_publisher))
    assert believed.find(signing.kid, presented_at) is not None


@pytest.mark.standard("KY-26")
@settings(deadline=None)
@given(pauses=st.lists(st.integers(0, 4000), min_size=1, max_size=7), after=st.integers(0, 20_000))
def test_exactly_one_key_signs_at_any_moment_and_all_workers_agree_on_it(pauses: list[int], after: int) -> None:
    history = rotated(pauses)
    at = NOW + timedelta(seconds=after)
    fresh, late = as_seen(history, at), as_seen(history, max(NOW, at - KEY_REFRESH))

    assert [each.kid for each in fresh.keys if fresh.state(each, at) == "active"] == [_kid(fresh.current(at))]
    assert _kid(fresh.current(at)) == _kid(late.current(at))


def _kid(found: SigningKey | None) -> str:
    assert found is not None
    return found.kid
