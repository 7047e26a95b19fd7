"""One-time tokens: each works once, for one purpose and one account, for a while, and no store gives them away."""

import asyncio
import secrets
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID, uuid4

import pytest
from sqlalchemy import select, text

from service.crypto import opaque
from service.crypto.opaque import base64url, from_base64url
from service.store.postgres import Transaction
from service.tokens.one_time import PREFIXES, OneTimeToken, OneTimeTokens, Purpose
from service.wiring import Services
from tests.conftest import TestClock

HALF_AN_HOUR = timedelta(minutes=30)
PURPOSES: tuple[Purpose, ...] = ("reset", "email", "undo")


@dataclass
class Desk:
    """Issues and takes tokens, each in a transaction of its own."""

    services: Services
    tokens: OneTimeTokens

    async def issue(self, purpose: Purpose, account: UUID, email: str | None = None) -> str:
        async with self.services.database.begin() as transaction:
            return await self.issue_in(transaction, purpose, account, email)

    async def issue_in(
        self, transaction: Transaction, purpose: Purpose, account: UUID, email: str | None = None
    ) -> str:
        since = self.services.clock()
        return await self.tokens.issue(
            transaction, purpose, account, HALF_AN_HOUR, password_changed_at=since, email=email
        )

    async def look(self, token: str) -> OneTimeToken | None:
        async with self.services.database.begin() as transaction:
            return await self.tokens.look(transaction, token)

    async def use(self, token: str) -> bool:
        async with self.services.database.begin() as transaction:
            found = await self.tokens.look(transaction, token)
            return found is not None and await self.tokens.redeem(transaction, found)

    async def rows(self, account: UUID) -> list[OneTimeToken]:
        async with self.services.database.begin() as transaction:
            return list(await self.tokens.of(transaction, account))


@pytest.fixture
def desk(services: Services) -> Desk:
    return Desk(services, services.recovery.one_time)


@pytest.mark.standard("CL-01")
@pytest.mark.parametrize("purpose", PURPOSES)
async def test_a_token_works_once(desk: Desk, purpose: Purpose) -> None:
    token = await desk.issue(purpose, uuid4())
    assert await desk.use(token)
    assert not await desk.use(token)
    assert await desk.look(token) is None


@pytest.mark.standard("CL-01")
@pytest.mark.parametrize("purpose", PURPOSES)
async def test_of_fifty_at_once_one_goes_on(desk: Desk, second_worker: Services, purpose: Purpose) -> None:
    token = await desk.issue(purpose, uuid4())
    other = Desk(second_worker, second_worker.recovery.one_time)
    used = await asyncio.gather(*(each.use(token) for each in (desk, other) * 25))
    assert sum(used) == 1


@pytest.mark.standard("CL-01")
async def test_of_many_who_all_found_it_good_one_goes_on(desk: Desk) -> None:
    """As in a reset: between looking at a link and using it up lies a password hash."""
    token = await desk.issue("reset", uuid4())
    found = [await desk.look(token) for _ in range(20)]

    async def redeem(seen: OneTimeToken | None) -> bool:
        assert seen is not None
        async with desk.services.database.begin() as transaction:
            return await desk.tokens.redeem(transaction, seen)

    assert sum(await asyncio.gather(*(redeem(each) for each in found))) == 1


@pytest.mark.standard("CL-01", "SE-30")
async def test_a_transaction_that_fails_gives_the_token_back(desk: Desk) -> None:
    token = await desk.issue("reset", uuid4())

    async def use_and_fail() -> None:
        async with desk.services.database.begin() as transaction:
            found = await desk.tokens.look(transaction, token)
            assert found is not None
            assert await desk.tokens.redeem(transaction, found)
            raise LookupError

    with pytest.raises(LookupError):
        await use_and_fail()
    assert await desk.use(token)


@pytest.mark.standard("CL-01", "SE-30")
async def test_who_waits_for_a_use_that_fails_goes_on(desk: Desk) -> None:
    token = await desk.issue("reset", uuid4())
    redeemed, waiting = asyncio.Event(), asyncio.Event()

    async def use_and_fail() -> None:
        async with desk.services.database.begin() as transaction:
            found = await desk.tokens.look(transaction, token)
            assert found is not None
            assert await desk.tokens.redeem(transaction, found)
            redeemed.set()
            await waiting.wait()
            raise LookupError

    failing = asyncio.create_task(use_and_fail())
    await redeemed.wait()
    second = asyncio.create_task(desk.use(token))
    waiting.set()
    with pytest.raises(LookupError):
        await failing
    assert await second


@pytest.mark.standard("CL-07")
async def test_a_token_of_one_purpose_is_none_of_another(desk: Desk) -> None:
    """Neither as it is nor under the other prefix, with a checksum that is right."""
    account = uuid4()
    issued = {purpose: await desk.issue(purpose, account) for purpose in PURPOSES}
    for purpose, token in issued.items():
        found = await desk.look(token)
        assert found is not None
        assert (found.purpose, found.account_id) == (purpose, account)
        body = opaque.decode(PREFIXES[purpose], token)
        assert body is not None
        for other in set(PURPOSES) - {purpose}:
            assert await desk.look(opaque.encode(PREFIXES[other], body)) is None
    assert all([await desk.use(token) for token in issued.values()])


@pytest.mark.standard("CL-05", "CL-06")
async def test_a_token_ends_on_the_clock(desk: Desk, clock: TestClock) -> None:
    early, late = await desk.issue("reset", uuid4()), await desk.issue("email", uuid4())
    await clock.advance(seconds=HALF_AN_HOUR.total_seconds() - 10)
    assert await desk.use(early)
    assert await desk.look(late) is not None
    await clock.advance(seconds=10)
    assert await desk.look(late) is None
    assert not await desk.use(late)


@pytest.mark.standard("CL-07")
@pytest.mark.parametrize("purpose", ["reset", "email"])
async def test_the_next_token_of_a_purpose_ends_the_one_before(desk: Desk, purpose: Purpose) -> None:
    account = uuid4()
    first = await desk.issue(purpose, account)
    seen = await desk.look(first)
    second = await desk.issue(purpose, account)
    assert await desk.look(first) is None
    # Nor does it help to have looked at the first one before the second was issued.
    assert seen is not None
    async with desk.services.database.begin() as transaction:
        assert not await desk.tokens.redeem(transaction, seen)
    assert await desk.use(second)
    assert await desk.rows(account) == []


@pytest.mark.standard("CL-07")
async def test_many_asked_for_at_once_leave_one_that_works(desk: Desk) -> None:
    account = uuid4()
    issued = await asyncio.gather(*(desk.issue("reset", account) for _ in range(20)))
    assert len(set(issued)) == 20
    assert sum([await desk.look(token) is not None for token in issued]) == 1
    assert len(await desk.rows(account)) == 1


@pytest.mark.standard("CL-07")
async def test_a_new_token_carries_nothing_of_the_one_before(desk: Desk, clock: TestClock) -> None:
    account = uuid4()
    await desk.issue("email", account, "first@example.com")
    (before,) = await desk.rows(account)
    await clock.advance(minutes=20)
    token = await desk.issue("email", account, "second@example.com")
    found = await desk.look(token)
    assert found is not None
    assert found.email == "second@example.com"
    assert found.digest != before.digest
    for name in ("created_at", "expires_at", "password_changed_at"):
        assert getattr(found, name) - getattr(before, name) >= timedelta(minutes=20)


async def test_undos_stand_beside_each_other(desk: Desk) -> None:
    """Or a thief would get rid of one by changing the address once more."""
    account = uuid4()
    tokens = [await desk.issue("undo", account, f"number{number}@example.com") for number in range(3)]
    found = [await desk.look(token) for token in tokens]
    assert [each.email if each else None for each in found] == [f"number{number}@example.com" for number in range(3)]
    assert await desk.use(tokens[1])
    assert [await desk.look(token) is not None for token in tokens] == [True, False, True]


@pytest.mark.standard("CL-07")
async def test_ending_tokens_takes_those_purposes_of_that_account(desk: Desk) -> None:
    account, other = uuid4(), uuid4()
    mine = {purpose: await desk.issue(purpose, account) for purpose in PURPOSES}
    theirs = {purpose: await desk.issue(purpose, other) for purpose in PURPOSES}
    async with desk.services.database.begin() as transaction:
        await desk.tokens.void(transaction, account, "reset", "email")
    assert [await desk.look(mine[purpose]) is not None for purpose in PURPOSES] == [False, False, True]
    assert all([await desk.use(token) for token in theirs.values()])


@pytest.mark.standard("CL-02", "CL-11")
async def test_what_is_in_the_table_is_no_secret(desk: Desk) -> None:
    account = uuid4()
    issued = {purpose: await desk.issue(purpose, account, "anna@example.com") for purpose in PURPOSES}
    async with desk.services.database.begin() as transaction:
        statement = text("SELECT * FROM one_time_tokens WHERE account_id = :account")
        dump = "\n".join(str(row) for row in (await transaction.execute(statement, {"account": account})).mappings())
    for purpose, token in issued.items():
        body = opaque.decode(PREFIXES[purpose], token)
        assert body is not None
        secret = body[16:]
        # 256 random bits, in none of their spellings.
        assert len(secret) == 32
        for spelling in (token, token.partition("_")[2], base64url(secret), secret.hex(), repr(secret)[2:-1]):
            assert spelling not in dump
    # And what is there, presented, opens nothing.
    for row in await desk.rows(account):
        for prefix in PREFIXES.values():
            for body in (account.bytes + bytes.fromhex(row.digest)[:32], bytes.fromhex(row.digest)):
                assert await desk.look(opaque.encode(prefix, body)) is None
        assert await desk.look(row.digest) is None


@pytest.mark.standard("CL-03", "CL-11")
async def test_no_two_tokens_share_a_secret(desk: Desk) -> None:
    account = uuid4()
    async with desk.services.database.begin() as transaction:
        issued = [await desk.issue_in(transaction, "reset", account) for _ in range(300)]
    bodies = [opaque.decode("vpr", token) for token in issued]
    secret_parts = {body[16:] for body in bodies if body}
    assert len(secret_parts) == 300
    # No byte of it stands still.
    assert all(len({part[place] for part in secret_parts}) > 100 for place in range(32))


@pytest.mark.standard("CL-11")
async def test_forged_tokens_open_nothing(desk: Desk) -> None:
    account, other = uuid4(), uuid4()
    token = await desk.issue("reset", account)
    await desk.issue("reset", other)
    raw = from_base64url(token.partition("_")[2])
    body = opaque.decode("vpr", token)
    assert raw is not None
    assert body is not None
    secret = body[16:]
    forged = {
        "another account": opaque.encode("vpr", other.bytes + secret),
        "another secret": opaque.encode("vpr", account.bytes + secrets.token_bytes(32)),
        "one bit less": opaque.encode("vpr", body[:-1] + bytes([body[-1] ^ 1])),
        "no secret": opaque.encode("vpr", account.bytes),
        "an empty secret": opaque.encode("vpr", account.bytes + bytes(32)),
        "a shorter secret": opaque.encode("vpr", body[:-1]),
        "a longer secret": opaque.encode("vpr", body + b"\0"),
        "a wrong checksum": f"vpr_{base64url(raw[:-1] + bytes([raw[-1] ^ 1]))}",
        "padding": token + "=",
        "a line feed": token + "\n",
        "a space": f" {token}",
        "another case": token.swapcase(),
        "no prefix": token.partition("_")[2],
        "a refresh token": opaque.encode("vrt", body),
        "nothing": "",
        "a NUL": "vpr_\0",
        "no ASCII": "vpr_äöü",
        "very long": "vpr_" + "A" * 100_000,
    }
    found = [name for name, forgery in forged.items() if await desk.look(forgery) is not None]
    assert found == []
    assert await desk.use(token)


@pytest.mark.standard("CL-07")
async def test_an_address_without_an_account_gets_a_row_that_no_account_has(desk: Desk) -> None:
    first, second = (f"nobody{secrets.token_hex(6)}@example.com" for _ in range(2))
    assert desk.tokens.decoy(first) == desk.tokens.decoy(first) != desk.tokens.decoy(second)
    token = await desk.issue("reset", desk.tokens.decoy(first))
    found = await desk.look(token)
    assert found is not None
    async with desk.services.database.begin() as transaction:
        statement = select(OneTimeToken).where(OneTimeToken.account_id == found.account_id)
        assert len((await transaction.scalars(statement)).all()) == 1
    assert first.partition("@")[0] not in str(found.account_id) + found.digest
