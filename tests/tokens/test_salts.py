"""The salts that a worker remembers: they spare a look-up, and decide nothing."""

from typing import Any

import httpx
import pytest
from redis.asyncio import Redis

from service.crypto import opaque
from service.store.redis import RedisStore
from service.tokens.refresh import MAC_BYTES, PREFIX, Salts
from service.wiring import Services
from tests.conftest import Person
from tests.tokens.acting import account_behind, record_key, refresh, refused


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The records that were looked up."""
    seen: list[str] = []
    original = RedisStore.fields_of

    async def counted(self: RedisStore, key: str, *fields: Any) -> Any:
        seen.append(key)
        return await original(self, key, *fields)

    monkeypatch.setattr(RedisStore, "fields_of", counted)
    return seen


async def test_a_session_that_was_used_lately_is_renewed_without_a_look_at_its_record(
    http: httpx.AsyncClient, services: Services, person: Person, looks: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    token = (await refresh(http, person.refresh_token)).json()["refresh_token"]
    assert looks == []
    monkeypatch.setattr(services.sessions.salts, "_known", type(services.sessions.salts._known)())
    token = (await refresh(http, token)).json()["refresh_token"]
    assert len(looks) == 1
    assert (await refresh(http, token)).status_code == 200
    assert len(looks) == 1


async def test_a_remembered_salt_lets_no_forged_token_in_and_ends_nothing(
    http: httpx.AsyncClient, person: Person
) -> None:
    raw = opaque.decode(PREFIX, person.refresh_token) or b""
    for at in (-1, -MAC_BYTES, 20, 40):
        changed = bytearray(raw)
        changed[at] ^= 1
        await refused(http, opaque.encode(PREFIX, bytes(changed)))
    assert (await refresh(http, person.refresh_token)).status_code == 200


async def test_a_session_whose_record_is_gone_for_good_is_over_although_its_salt_is_remembered(
    http: httpx.AsyncClient, services: Services, person: Person, redis: Redis
) -> None:
    account = (await account_behind(services, person)).id
    await services.administration.end_sessions(account)
    await redis.delete(record_key(account))
    await refused(http, person.refresh_token)


def test_who_was_not_used_for_longest_is_forgotten_first() -> None:
    salts = Salts(most=2)
    for each in (b"a", b"b"):
        salts.remember(each, each * 16)
    assert salts.find(b"a") == b"a" * 16
    salts.remember(b"c", b"c" * 16)
    assert salts.find(b"b") is None
    assert (salts.find(b"a"), salts.find(b"c")) == (b"a" * 16, b"c" * 16)
