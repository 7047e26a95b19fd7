"""What holds of a keyring whatever keys a database holds: none signs that is revoked, unpublished or gone."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import example, given, settings
from hypothesis import strategies as st

from service.crypto.keyring import Keyring, SigningKey, thumbprint

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
LINGER = timedelta(seconds=1230)
SECOND = timedelta(seconds=1)
PAIRS = [ec.generate_private_key(ec.SECP256R1()) for _ in range(7)]
KIDS = [thumbprint(private.public_key()) for private in PAIRS]
TWO_THAT_SIGNED = Keyring.of(
    [SigningKey(KIDS[number], PAIRS[number], NOW, NOW - SECOND * (60 - number)) for number in (0, 1)], LINGER
)
ORDER = ["next", "active", "retired", "gone"]


@st.composite
def keyrings(draw: st.DrawFn) -> Keyring:
    """Up to seven keys, each unscheduled or with a moment within two hours, some of them revoked."""
    moments = draw(st.lists(st.none() | st.integers(-3600, 3600), min_size=1, max_size=7))
    revoked = draw(st.lists(st.booleans(), min_size=7, max_size=7))
    keys = [
        SigningKey(
            KIDS[number],
            PAIRS[number],
            NOW - 2 * timedelta(hours=1),
            None if moment is None else NOW + SECOND * moment,
            is_revoked=moment is not None and revoked[number],
        )
        for number, moment in enumerate(moments)
    ]
    return Keyring.of(keys, LINGER)


@pytest.mark.standard("KY-31", "KY-26")
@settings(deadline=None)
@given(ring=keyrings(), seconds=st.lists(st.integers(-4000, 9000), min_size=1, max_size=5))
def test_what_signs_is_published_and_believed_and_never_revoked(ring: Keyring, seconds: list[int]) -> None:
    for at in (NOW + SECOND * each for each in seconds):
        signing, shown = ring.current(at), [jwk["kid"] for jwk in ring.jwks(at)["keys"]]
        assert len(set(shown)) == len(shown)
        assert {kid for kid in KIDS if ring.find(kid, at) is not None} == set(shown)
        assert not {key.kid for key in ring.keys if key.is_revoked} & set(shown)
        if signing is not None:
            assert signing.kid in shown
            assert signing.activates_at is not None
            assert signing.activates_at <= at
        elif not any(key.is_revoked for key in ring.keys):  # nothing has begun
            assert {ring.state(key, at) for key in ring.keys} == {"next"}


@pytest.mark.standard("KY-31", "KY-26")
@settings(deadline=None)
@given(ring=keyrings(), seconds=st.lists(st.integers(-4000, 9000), min_size=2, max_size=6))
def test_a_key_only_ever_gets_older(ring: Keyring, seconds: list[int]) -> None:
    moments = [NOW + SECOND * each for each in sorted(seconds)]
    for key in ring.keys:
        states = [ring.state(key, at) for at in moments]
        if key.is_revoked:
            assert set(states) == {"revoked"}
        else:
            assert states == sorted(states, key=ORDER.index)


@pytest.mark.standard("KY-31")
@settings(deadline=None)
@given(ring=keyrings(), second=st.integers(-4000, 9000), number=st.integers(0, 6))
@example(ring=TWO_THAT_SIGNED, second=0, number=1)
def test_revoking_a_key_makes_no_other_key_older_or_younger(ring: Keyring, second: int, number: int) -> None:
    """Above all it brings no retired one back to life."""
    at, ended = NOW + SECOND * second, ring.keys[number % len(ring.keys)]
    after = Keyring.of([replace(key, is_revoked=key is ended or key.is_revoked) for key in ring.keys], LINGER)

    for key, same in zip(ring.keys, after.keys, strict=True):
        assert after.state(same, at) == ("revoked" if key is ended else ring.state(key, at))
