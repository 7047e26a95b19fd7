"""Whatever operators do to signing keys, and whenever: one key signs, everybody knows it, and the dead stay dead.

Hypothesis makes up the sequences; the keys are turned and revoked in a real database, by one worker after the other.
"""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete

from service.crypto.roots import RootKeys
from service.errors import UnknownKey
from service.settings import Settings
from service.store.postgres import Database
from service.tokens.keys import SigningKeyRow, SigningKeys
from tests.conftest import Servers
from tests.tokens.two_workers import settings_of_ones_own

MAX_AGE = timedelta(minutes=10)
TOKEN_LIFE = timedelta(minutes=10)
MOMENT = timedelta(milliseconds=2)
Step = tuple[str, int]


@pytest.fixture(scope="module")
def own_settings(servers: Servers, environ: dict[str, str]) -> Iterator[Settings]:
    with settings_of_ones_own(servers, environ, VESTIBULE_KEY_ROTATION="7200") as own:
        yield own


@dataclass
class Life:
    """What happened to the keys so far, as an onlooker saw it."""

    now: datetime = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
    shown_since: dict[str, datetime] = field(default_factory=dict)
    last_signed: dict[str, datetime] = field(default_factory=dict)
    revoked: set[str] = field(default_factory=set)
    signer: str = ""

    async def take(self, step: Step, keys: SigningKeys) -> None:
        """Does one thing, a moment after the one before."""
        self.now += MOMENT
        deed, number = step
        if deed == "advance":
            self.now += timedelta(seconds=number)
        elif deed == "rotate":
            await keys.rotate()
        elif deed == "wait":
            await keys.rotate_if_due()
        else:
            known = [*self.shown_since, "nothing"]
            kid = known[number % len(known)]
            try:
                signing = await keys.revoke(kid)
            except UnknownKey:
                assert kid in self.revoked or kid not in [key.kid for key in keys.keyring.keys]
            else:
                self.revoked.add(kid)
                assert signing.kid not in self.revoked

    def look(self, keys: SigningKeys) -> None:
        """Checks everything that must hold at every moment."""
        ring = keys.keyring
        shown = {jwk["kid"] for jwk in ring.jwks(self.now)["keys"]}
        active = [key for key in ring.keys if ring.state(key, self.now) == "active"]
        assert [ring.current(self.now)] == active
        assert not self.revoked & shown
        assert any(ring.state(key, self.now) == "next" for key in ring.keys)
        if self.signer not in {"", active[0].kid}:
            seen = self.shown_since.get(active[0].kid, self.now)
            began = active[0].activates_at
            assert began is not None
            assert began - seen >= MAX_AGE or self.signer in self.revoked
        for kid, at in self.last_signed.items():
            assert kid in shown or kid in self.revoked or self.now > at + TOKEN_LIFE + keys.settings.leeway
        for kid in shown:
            self.shown_since.setdefault(kid, self.now)
        self.signer = active[0].kid
        self.last_signed[self.signer] = self.now


async def live(steps: list[Step], own_settings: Settings) -> None:
    database, roots, life = Database.connect(own_settings), RootKeys.parse(own_settings.keys), Life()

    async def announce() -> None:
        pass

    workers = [SigningKeys(database, roots, own_settings, lambda: life.now, announce) for _ in range(2)]
    try:
        async with database.begin() as transaction:
            await transaction.execute(delete(SigningKeyRow))
        await workers[0].ensure()
        life.look(workers[0])
        for number, step in enumerate(steps):
            acting, other = workers[number % 2], workers[1 - number % 2]
            await other.reload()
            await life.take(step, acting)
            await acting.reload()
            life.look(acting)
            late = other.keyring.current(life.now)
            assert late is None or late.kid in life.revoked or acting.keyring.find(late.kid, life.now)
    finally:
        await database.close()


STEPS = st.one_of(
    st.tuples(st.just("advance"), st.sampled_from([1, 14, 16, 40, 300, 599, 616, 1229, 1231, 7201, 20_000])),
    st.tuples(st.sampled_from(["rotate", "wait"]), st.just(0)),
    st.tuples(st.just("revoke"), st.integers(0, 20)),
)


@pytest.mark.standard("KY-26", "KY-31")
@settings(
    deadline=None, max_examples=25, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
@given(steps=st.lists(STEPS, min_size=4, max_size=16))
def test_one_published_key_signs_at_every_moment_whatever_is_done(steps: list[Step], own_settings: Settings) -> None:
    asyncio.run(live(steps, own_settings))
