"""The end of a worker, and of PostgreSQL under it: no mail is lost, and none has to wait for long."""

import asyncio

import pytest
from structlog.testing import capture_logs

from tests.mail.post_office import (
    LEASE,
    PATIENCE,
    Hanging,
    Postbox,
    PostOffice,
    comes_true,
    drained,
    post,
)

ANN = "ann@example.com"
PEOPLE = [f"p{i}@example.com" for i in range(10)]


async def test_when_a_worker_stops_what_is_being_handed_over_finishes_and_the_rest_stays(office: PostOffice) -> None:
    hanging, outbox = Hanging(), office.outbox()
    postbox = Postbox(hanging)
    async with office.worker(postbox, outbox) as mailer:
        await post(outbox, *PEOPLE)
        await comes_true(lambda: len(postbox.tried) == 4)
        stopping = asyncio.create_task(mailer.stop())
        await asyncio.sleep(0.05)
        hanging.let_go.set()
        async with asyncio.timeout(PATIENCE):
            await stopping
        assert len(postbox.kept) == 4

    rest = await outbox.waiting()
    assert len(rest) == 6
    assert {(row.tries, row.leased_until) for row in rest} == {(0, None)}
    async with office.worker(postbox) as mailer:
        await drained(mailer)
    assert sorted(mail.to for mail in postbox.kept) == sorted(PEOPLE)


async def test_a_hung_server_does_not_hold_up_the_end_and_costs_no_mail(
    office: PostOffice, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.mail.mailer.CLOSING_TIME", 0.05)
    hanging, outbox = Hanging(), office.outbox()
    postbox = Postbox(hanging)
    async with asyncio.timeout(PATIENCE), office.worker(postbox, outbox):
        await post(outbox, ANN)
        await hanging.asked.wait()
    assert len(await outbox.waiting()) == 1

    hanging.let_go.set()
    office.clock.advance(LEASE)
    async with office.worker(postbox) as mailer:
        await drained(mailer)
    assert len({mail.id for mail in postbox.tried}) == len(postbox.kept) == 1


async def test_a_worker_that_stops_takes_no_mail_with_it(office: PostOffice) -> None:
    """Whenever the end comes: a mail is with the server then, or free for the next worker at once."""
    outbox, postbox = office.outbox(), Postbox()
    for moment in range(60):
        await post(outbox, ANN, first=moment)
        async with office.worker(postbox, outbox):
            await asyncio.sleep(moment % 30 * 0.0003)
        assert [row.leased_until for row in await outbox.waiting() if row.leased_until] == [], moment
    async with office.worker(postbox) as mailer:
        await drained(mailer)
    assert postbox.numbers(ANN) == list(range(60))


@pytest.mark.standard("LO-10")
async def test_while_postgres_is_away_a_mail_on_its_way_arrives_and_the_worker_comes_back(office: PostOffice) -> None:
    """The worker says that the mail was taken as soon as it can, and until then nobody else takes it up."""
    hanging, outbox = Hanging(), office.outbox()
    postbox = Postbox(hanging)
    with capture_logs() as lines:
        async with office.worker(postbox, outbox) as mailer:
            await post(outbox, ANN, ANN)
            async with asyncio.timeout(PATIENCE):
                await hanging.asked.wait()
            async with office.closed():
                hanging.let_go.set()
                await comes_true(lambda: any("cannot be read" in line["event"] for line in lines))
            await drained(mailer)

    assert await outbox.waiting() == []
    assert postbox.numbers(ANN) == [0, 1]
