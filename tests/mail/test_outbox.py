"""The outbox: what is committed is mailed, what is rolled back never was, and who reads the table learns nothing."""

import asyncio
import hashlib
from contextlib import suppress
from datetime import timedelta

import pytest

from service.crypto.sealing import UnsealError
from service.mail.outbox import NOTHING, Outbox
from service.store.postgres import new_id
from tests.conftest import root_key
from tests.mail.post_office import LEASE, VERIFY, Postbox, PostOffice, drained, ids, post, the_only

ANN, BOB = "ann@example.com", "bob@example.com"
SECRETS = {"code": "918273", "link": "https://auth.test/auth/confirm#verify=vlk_s3cr3tOfAnn", "nickname": "annabel"}


class OwnError(Exception):
    pass


async def claimed(outbox: Outbox, most: int = 10) -> list[int]:
    return sorted(ids(await outbox.claim(most, LEASE)))


# The transaction


async def test_a_mail_waits_from_the_commit_on_and_not_before(office: PostOffice) -> None:
    outbox, elsewhere = office.outbox(), office.outbox()
    async with outbox.database.begin() as transaction:
        outbox.post(transaction, "verify", ANN, "en", **VERIFY, code="000001")
        await transaction.flush()
        assert await elsewhere.waiting() == []
        assert await claimed(elsewhere) == []

    assert await claimed(elsewhere) == ids([await the_only(outbox)])


async def test_a_change_that_is_rolled_back_mails_nothing_and_wakes_nobody(office: PostOffice) -> None:
    outbox, woken = office.outbox(), list[str]()
    outbox.listeners.append(lambda: woken.append("woken"))
    with suppress(OwnError):
        async with outbox.database.begin() as transaction:
            outbox.post(transaction, "verify", ANN, "en", **VERIFY, code="000001")
            await transaction.flush()
            raise OwnError
    assert (await outbox.waiting(), woken) == ([], [])

    await post(outbox, ANN)
    assert woken == ["woken"]


# Sealed


@pytest.mark.standard("CL-02")
async def test_no_column_tells_a_code_a_link_an_address_or_a_nickname(office: PostOffice) -> None:
    outbox, address = office.outbox(), "annabelle.of.harbour@example.com"
    async with outbox.database.begin() as transaction:
        outbox.post(transaction, "verify", address, "en", **{**VERIFY, **SECRETS})
    row = await the_only(outbox)
    await outbox.bury(row, "recipient refused")

    [kept] = await office.sql("SELECT * FROM outbox")
    dump = b"\n".join(
        value if isinstance(value, bytes) else str(value).encode() for value in dict(kept).values()
    ).lower()
    for secret in (*SECRETS.values(), "vlk_s3cr3tOfAnn", address, "annabel", "example.com", "harbour"):
        assert secret.lower().encode() not in dump, secret
    # Nor a digest that anybody can compute: there are few codes and addresses to try.
    for secret in (SECRETS["code"], address):
        for algorithm in ("md5", "sha1", "sha256", "sha512", "blake2b"):
            assert hashlib.new(algorithm, secret.encode()).hexdigest()[:16].encode() not in dump, algorithm


async def test_a_letter_opens_with_all_that_was_put_in_and_in_its_own_row_alone(office: PostOffice) -> None:
    outbox = office.outbox()
    async with outbox.database.begin() as transaction:
        outbox.post(transaction, "verify", ANN, "ko", **{**VERIFY, **SECRETS})
        outbox.post(transaction, "verify", BOB, "en", **VERIFY, code="000002")
    ann, bob = await outbox.waiting()

    letter = outbox.open(ann)
    assert (letter.to, letter.language) == (ANN, "ko")
    assert letter.values == {**VERIFY, **SECRETS, "service": "Harbour"}
    await office.sql("UPDATE outbox SET sealed = $1 WHERE id = $2", ann.sealed, bob.id)
    with pytest.raises(UnsealError):
        outbox.open((await outbox.waiting())[1])


async def test_a_new_root_key_in_front_leaves_old_mails_readable_and_in_their_order(office: PostOffice) -> None:
    old, new = root_key(1), root_key(2)
    await post(office.outbox(old), ANN)
    rotated = office.outbox(f"{new},{old}")
    await post(rotated, ANN, first=1)
    before, after = await rotated.waiting()

    assert (before.sealed[1], after.sealed[1]) == (1, 2)
    assert await claimed(rotated) == [before.id]
    postbox = Postbox()
    office.clock.advance(LEASE)
    async with office.worker(postbox, rotated) as mailer:
        await drained(mailer)
    assert postbox.numbers(ANN) == [0, 1]


async def test_a_letter_whose_root_key_is_gone_becomes_a_dead_one_and_the_next_leaves(office: PostOffice) -> None:
    await post(office.outbox(root_key(1)), BOB)
    outbox, postbox = office.outbox(root_key(2)), Postbox()
    await post(outbox, BOB, first=1)
    async with office.worker(postbox, outbox) as mailer:
        await drained(mailer)

    assert postbox.numbers(BOB) == [1]
    dead = await the_only(outbox)
    assert dead.dead_at is not None
    assert dead.reason == "its root key is not in VESTIBULE_KEYS"
    with pytest.raises(UnsealError):
        outbox.open(dead)


# Claims


async def test_a_claim_takes_the_oldest_mail_of_each_person_and_no_more_than_it_asks_for(office: PostOffice) -> None:
    outbox = office.outbox()
    await post(outbox, ANN, ANN, BOB, "cat@example.com", "dan@example.com")
    first, _, bob, cat, dan = ids(await outbox.waiting())

    assert await claimed(outbox, 3) == [first, bob, cat]
    assert await claimed(outbox, 3) == [dan]
    assert await claimed(outbox, 3) == []


async def test_a_claim_takes_no_more_than_it_asks_for_whatever_the_planner_believes(office: PostOffice) -> None:
    """`IN (SELECT … LIMIT … FOR UPDATE)` may lock more when the planner runs it once for every row."""
    outbox = office.outbox()
    await office.sql("VACUUM ANALYZE outbox")
    for size in (24, 60, 400):
        await post(outbox, *(f"p{size}.{i}@example.com" for i in range(size)))
        for _ in range(8):  # beyond five a plan may be one for all values
            assert len(await claimed(outbox, 2)) == 2
        await office.sql("ANALYZE outbox")
        assert len(await claimed(outbox, 3)) == 3


async def test_a_lease_ends_and_the_mail_is_there_for_the_next_worker(office: PostOffice) -> None:
    outbox = office.outbox()
    await post(outbox, ANN)
    [first] = await outbox.claim(1, LEASE)
    office.clock.advance(LEASE - timedelta(seconds=5))
    assert await claimed(outbox) == []
    office.clock.advance(timedelta(seconds=6))
    [second] = await outbox.claim(1, LEASE)
    assert (second.id, first.tries, second.tries) == (first.id, 1, 2)


@pytest.mark.parametrize("late", ["postpones", "buries"])
async def test_a_worker_that_comes_late_takes_no_mail_out_of_the_hands_of_another(
    late: str, office: PostOffice
) -> None:
    """It stood still past its lease, and then says what became of a mail that is somebody else's by now."""
    outbox, other = office.outbox(), office.outbox()
    await post(outbox, ANN)
    [mine] = await outbox.claim(1, LEASE)
    office.clock.advance(LEASE)
    [theirs] = await other.claim(1, LEASE)

    if late == "postpones":
        await outbox.postpone(mine, timedelta(0), "the server was too slow")
    else:
        await outbox.bury(mine, "recipient refused")
    assert await claimed(outbox) == []
    row = await the_only(outbox)
    assert (row.leased_until, row.dead_at, row.tries) == (theirs.leased_until, None, 2)


async def test_a_mail_that_is_put_off_holds_back_the_next_to_the_same_person_alone(office: PostOffice) -> None:
    outbox = office.outbox()
    await post(outbox, ANN, ANN, BOB)
    first, _, bob = ids(await outbox.waiting())
    [row] = await outbox.claim(1, LEASE)
    await outbox.postpone(row, timedelta(minutes=5), "busy")

    assert await claimed(outbox) == [bob]
    office.clock.advance(timedelta(minutes=5))
    assert first in await claimed(outbox)


# Dead letters


async def test_a_dead_letter_lets_the_next_go_and_comes_back_as_new(office: PostOffice) -> None:
    outbox = office.outbox()
    await post(outbox, ANN, ANN)
    [row] = await outbox.claim(1, LEASE)
    await outbox.bury(row, "recipient refused")
    [second] = await outbox.claim(5, LEASE)
    assert second.id > row.id
    await outbox.delivered(second)
    office.clock.advance(timedelta(days=30))

    assert await outbox.revive() == 1
    back = await the_only(outbox)
    assert (back.id, back.tries, back.dead_at, back.reason) == (row.id, 0, None, None)
    assert abs(back.created_at - office.clock()) < timedelta(minutes=1)
    assert await claimed(outbox) == [row.id]


async def test_only_the_dead_letters_that_are_named_come_back(office: PostOffice) -> None:
    outbox = office.outbox()
    await post(outbox, ANN, BOB, "cat@example.com")
    ann, bob, _ = await outbox.waiting()
    await outbox.bury(ann, "recipient refused")
    await outbox.bury(bob, "recipient refused")

    assert await outbox.revive([bob.id, 2**62]) == 1
    assert [row.dead_at is None for row in await outbox.waiting()] == [False, True, True]
    assert await outbox.revive() == 1
    assert await outbox.revive() == 0


async def test_a_letter_that_comes_back_waits_for_the_one_that_is_on_its_way(office: PostOffice) -> None:
    """Mails to one person leave one after the other."""
    outbox = office.outbox()
    await post(outbox, ANN, ANN)
    first, second = await outbox.waiting()
    await outbox.bury(first, "recipient refused")
    assert await claimed(outbox) == [second.id]
    await outbox.revive()

    assert await claimed(outbox) == []
    await outbox.delivered(second)
    office.clock.advance(LEASE)
    assert await claimed(outbox) == [first.id]


# What is not for anybody, and what is for nobody any more


@pytest.mark.standard("LG-14")
async def test_the_stand_in_for_a_mail_never_leaves_and_is_gone(office: PostOffice) -> None:
    outbox, postbox = office.outbox(), Postbox()
    async with outbox.database.begin() as transaction:
        outbox.post_nothing(transaction)
    row = await the_only(outbox)
    assert row.template == NOTHING

    async with office.worker(postbox, outbox) as mailer:
        await drained(mailer)
    assert (await outbox.waiting(), postbox.tried) == ([], [])


async def test_what_waits_for_one_person_is_found_and_thrown_away_for_that_person_alone(office: PostOffice) -> None:
    outbox = office.outbox()
    await post(outbox, ANN, BOB, ANN)
    async with outbox.database.begin() as transaction:
        assert [outbox.open(row).to for row in await outbox.of(transaction, ANN)] == [ANN, ANN]
        await outbox.drop(transaction, new_id(), ANN)
    assert outbox.open(await the_only(outbox)).to == BOB


async def test_posting_leaves_nothing_behind_in_the_process(office: PostOffice) -> None:
    """Every post listens to its commit once."""
    from sqlalchemy.event import registry

    outbox = office.outbox()
    await post(outbox, ANN)
    before = len(registry._key_to_collection)
    await post(outbox, *[ANN] * 100)
    await asyncio.sleep(0)
    assert len(registry._key_to_collection) < before + 50
