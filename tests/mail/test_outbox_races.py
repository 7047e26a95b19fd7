"""Many workers at one outbox, really at the same time: nobody gets a mail twice, and nobody waits for another."""

import asyncio
import secrets
from collections import Counter
from datetime import timedelta

from service.mail.outbox import Outbox, OutboxRow
from tests.mail.post_office import LEASE, PATIENCE, VERIFY, Hanging, Postbox, PostOffice, drained, ids, post, shrinks

PEOPLE = [f"p{i}@example.com" for i in range(20)]


async def test_claims_at_the_same_moment_share_the_mails_without_waiting_and_without_any_twice(
    office: PostOffice,
) -> None:
    workers = [office.outbox() for _ in range(6)]
    for _ in range(8):
        await office.sql("TRUNCATE outbox")
        await post(workers[0], *PEOPLE, *PEOPLE)
        shares = await asyncio.gather(*(worker.claim(4, LEASE) for worker in workers))

        taken = [row for share in shares for row in share]
        assert len({row.id for row in taken}) == len(taken)
        assert len({row.lane for row in taken}) == len(taken)
        assert all(row.tries == 1 for row in taken)
        taken += [row for worker in workers for row in await worker.claim(20, LEASE)]
        assert len({row.lane for row in taken}) == len(taken) == len(PEOPLE)


async def test_a_claim_passes_by_what_another_one_is_taking_at_this_moment(office: PostOffice) -> None:
    """SKIP LOCKED: the first is in the middle of its transaction, and the second does not wait for its end."""
    outbox, other = office.outbox(), office.outbox()
    await post(outbox, "ann@example.com", "bob@example.com", "ann@example.com")
    ann, bob, _ = ids(await outbox.waiting())
    async with asyncio.timeout(PATIENCE), outbox.database.begin() as transaction:
        await transaction.get_one(OutboxRow, ann, with_for_update=True)
        assert ids(await other.claim(5, LEASE)) == [bob]
    assert ids(await other.claim(5, LEASE)) == [ann]


class Witness:
    """Sees who holds which mail, as nobody in the database can."""

    def __init__(self) -> None:
        self.held: Counter[str] = Counter()
        self.done: dict[str, list[int]] = {}
        self.tries: Counter[int] = Counter()

    async def work(self, outbox: Outbox) -> None:
        """Claims and settles until nothing is left, with everything that may become of a mail."""
        idle = 0
        while idle < 20:
            rows = await outbox.claim(3, LEASE)
            idle = 0 if rows else idle + 1
            for row in rows:
                self.held[row.lane] += 1
                assert self.held[row.lane] == 1, "two mails to one person are on their way"
            for row in rows:
                await asyncio.sleep(secrets.randbelow(4) / 1000)
                self.held[row.lane] -= 1
                self.tries[row.id] += 1
                if self.tries[row.id] < 3 and secrets.randbelow(3) == 0:
                    await outbox.postpone(row, timedelta(0), "busy")
                else:
                    self.done.setdefault(row.lane, []).append(row.id)
                    await outbox.delivered(row)
            await asyncio.sleep(0.005 if idle else 0)


async def test_under_a_crowd_of_workers_each_mail_goes_once_and_those_to_one_person_in_their_order(
    office: PostOffice,
) -> None:
    workers, witness = [office.outbox() for _ in range(8)], Witness()
    await post(workers[0], *PEOPLE * 6)
    posted: dict[str, list[int]] = {}
    for row in await workers[0].waiting():
        posted.setdefault(row.lane, []).append(row.id)

    async with asyncio.timeout(PATIENCE):
        await asyncio.gather(*(witness.work(outbox) for outbox in workers))
    assert witness.done == posted
    assert await workers[0].waiting() == []


async def test_four_workers_deliver_two_hundred_mails_to_twenty_people_once_each_and_in_order(
    office: PostOffice,
) -> None:
    postbox, posting = Postbox(), office.outbox()
    async with office.worker(postbox) as one, office.worker(postbox), office.worker(postbox), office.worker(postbox):
        for i in range(10):
            await post(posting, *PEOPLE, first=i * 20)
        await drained(one)

    assert len(postbox.kept) == len(postbox.tried) == 200
    for i, person in enumerate(PEOPLE):
        assert postbox.numbers(person) == [i + 20 * n for n in range(10)]
    assert postbox.most_at_once == 1
    assert await posting.waiting() == []


async def test_a_slow_mail_to_one_person_holds_up_nobody_else(office: PostOffice) -> None:
    hanging, outbox = Hanging(only=PEOPLE[0]), office.outbox()
    postbox = Postbox(hanging)
    async with office.worker(postbox, outbox), office.worker(postbox):
        await post(outbox, PEOPLE[0])
        async with asyncio.timeout(PATIENCE):
            await hanging.asked.wait()
        await post(outbox, *PEOPLE, first=1)
        await shrinks(outbox, 2)
        assert {mail.to for mail in postbox.kept} == set(PEOPLE[1:])
        hanging.let_go.set()
        await shrinks(outbox)
    assert postbox.numbers(PEOPLE[0]) == [0, 1]


async def test_a_mail_that_is_committed_late_is_not_lost(office: PostOffice) -> None:
    """Its number is older than those that left already."""
    outbox, postbox = office.outbox(), Postbox()
    async with office.worker(postbox) as mailer:
        async with outbox.database.begin() as transaction:
            outbox.post(transaction, "verify", PEOPLE[0], "en", **VERIFY, code="000000")
            await transaction.flush()
            await post(outbox, PEOPLE[0], first=1)
            await drained(mailer)
            assert postbox.numbers(PEOPLE[0]) == [1]
        await drained(mailer)
    assert postbox.numbers(PEOPLE[0]) == [1, 0]
