"""Tokens whose signature was checked before: what is remembered of them, and what is asked anew every time."""

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta

import pytest

from service import metrics
from service.settings import Settings
from service.tokens.verified import VerifiedTokens
from service.wiring import Services
from tests.conftest import ISSUER, Introspector, Outbox
from tests.tokens.forgetful import Guest, Ward, ward

DATABASE = 15


@pytest.fixture(scope="module")
async def here(
    anyio_backend: str, services: Services, settings: Settings, outbox: Outbox, introspector: Introspector
) -> AsyncIterator[Ward]:
    async with ward(settings, DATABASE, outbox, introspector) as made:
        yield made


@pytest.fixture
async def guest(here: Ward) -> Guest:
    return await here.guest()


@pytest.fixture
def seen(here: Ward) -> VerifiedTokens:
    """A memory of three tokens."""
    return VerifiedTokens(here.services.sessions.access_tokens.signer, most=3)


async def test_a_token_is_verified_once_and_remembered_whole(here: Ward, guest: Guest, seen: VerifiedTokens) -> None:
    ring, now = here.services.signing_keys.keyring, here.clock()
    metrics.flush()
    first = seen.find(guest.access, ring, now)
    assert first is not None
    assert (first.claims.sub, first.session, first.generation) == (str(guest.account), guest.session, 0)
    assert seen.find(guest.access, ring, now) is first
    assert metrics._looked_up == {"hit": 1, "miss": 1}


async def test_a_token_ends_in_memory_too(here: Ward, guest: Guest, seen: VerifiedTokens) -> None:
    ring, now = here.services.signing_keys.keyring, here.clock()
    found = seen.find(guest.access, ring, now)
    assert found is not None
    end = now + timedelta(seconds=found.claims.exp - now.timestamp())
    assert seen.find(guest.access, ring, end - timedelta(seconds=1)) is found
    assert seen.find(guest.access, ring, end) is None
    assert seen._known == {}


async def test_other_keys_forget_everything(here: Ward, guest: Guest, seen: VerifiedTokens) -> None:
    ring, now = here.services.signing_keys.keyring, here.clock()
    assert seen.find(guest.access, ring, now) is not None
    assert seen.find(guest.access, replace(ring, keys=ring.keys[:0]), now) is None
    assert seen._known == {}
    assert seen.find(guest.access, ring, now) is not None


async def test_a_revoked_key_ends_what_it_signed_at_once(here: Ward, guest: Guest, seen: VerifiedTokens) -> None:
    ring, now = here.services.signing_keys.keyring, here.clock()
    assert seen.find(guest.access, ring, now) is not None
    revoked = replace(ring, keys=tuple(replace(key, is_revoked=True) for key in ring.keys))
    assert seen.find(guest.access, revoked, now) is None


async def test_a_bounded_number_is_remembered_and_the_one_used_last_stays(here: Ward, seen: VerifiedTokens) -> None:
    guests = [await here.guest() for _ in range(4)]
    ring, now = here.services.signing_keys.keyring, here.clock()
    first = seen.find(guests[0].access, ring, now)
    for one in guests[1:3]:
        seen.find(one.access, ring, now)
    assert seen.find(guests[0].access, ring, now) is first
    seen.find(guests[3].access, ring, now)
    assert len(seen._known) == 3
    assert seen.find(guests[0].access, ring, now) is first
    metrics.flush()
    assert seen.find(guests[1].access, ring, now) is not None
    assert metrics._looked_up == {"hit": 0, "miss": 1}


async def test_what_is_forged_is_not_remembered(here: Ward, guest: Guest, seen: VerifiedTokens) -> None:
    ring, now = here.services.signing_keys.keyring, here.clock()
    head, body, signature = guest.access.split(".")
    other = "A" if signature[0] != "A" else "B"
    for forged in ("", "x", "\ud800", f"{head}.{body}.{other}{signature[1:]}", f"{guest.access}=", guest.access + " "):
        assert seen.find(forged, ring, now) is None
    assert seen._known == {}


async def test_no_text_of_a_token_is_kept(here: Ward, guest: Guest, seen: VerifiedTokens) -> None:
    seen.find(guest.access, here.services.signing_keys.keyring, here.clock())
    assert {len(key) for key in seen._known} == {32}
    assert guest.access.rpartition(".")[2] not in repr(seen._known)


async def test_the_audience_is_asked_every_time(here: Ward, guest: Guest) -> None:
    tokens = here.services.sessions.access_tokens
    for _ in range(2):
        assert tokens.inspect(guest.access) is not None
        assert tokens.inspect(guest.access, (ISSUER, "https://other.test")) is not None
        assert tokens.inspect(guest.access, ("https://other.test",)) is None
