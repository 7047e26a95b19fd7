"""Mails leave in the background, once and in order: tried as long as it makes sense, and never in anybody's way."""

from datetime import timedelta

import pytest
from structlog.testing import capture_logs

from service.errors import Unavailable
from service.mail.message import Mail, MailNotSent, MailRefused
from tests.mail.post_office import (
    LIFE,
    VERIFY,
    Hanging,
    Postbox,
    PostOffice,
    comes_true,
    drained,
    number,
    post,
    the_only,
)

ANN, BOB = "ann@example.com", "bob@example.com"
PEOPLE = [f"p{i}@example.com" for i in range(20)]


class Moody:
    """A server that says no: to everybody or to one person, until it is told otherwise."""

    def __init__(self, refusal: Exception, only: str = "") -> None:
        self.refusal: Exception | None = refusal
        self._only = only

    async def __call__(self, mail: Mail) -> None:
        if self.refusal and (mail.to == self._only or not self._only):
            raise self.refusal


def busy() -> MailNotSent:
    return MailNotSent("busy")


async def test_a_mail_arrives_once_with_its_subject_both_parts_and_a_mark_of_its_own(office: PostOffice) -> None:
    outbox, postbox = office.outbox(), Postbox()
    async with office.worker(postbox, outbox) as mailer:
        await post(outbox, ANN, BOB, first=12345)
        await drained(mailer)

    ann, bob = sorted(postbox.kept, key=lambda mail: mail.to)
    assert (ann.to, ann.subject, ann.language) == (ANN, "Confirm your address", "en")
    assert "your code is 012345" in ann.text
    assert "012345" in ann.html
    assert ann.id != bob.id
    assert await outbox.waiting() == []


async def test_a_worker_finds_mails_that_another_process_posted(office: PostOffice) -> None:
    postbox = Postbox()
    async with office.worker(postbox):
        await post(office.outbox(), ANN)
        await comes_true(lambda: len(postbox.kept) == 1)


async def test_the_pauses_between_tries_grow_and_are_bounded_and_every_try_is_the_same_mail(
    office: PostOffice,
) -> None:
    moody, outbox = Moody(busy()), office.outbox()
    office.clock.stop()
    postbox, pauses = Postbox(moody), list[float]()
    async with office.worker(postbox, outbox) as mailer:
        await post(outbox, ANN)
        for _ in range(12):
            await drained(mailer)
            row = await the_only(outbox)
            assert (row.reason, row.leased_until, row.dead_at) == ("busy", None, None)
            pause = row.next_try_at - office.clock()
            pauses.append(pause.total_seconds())
            office.clock.advance(pause)
        moody.refusal = None
        await drained(mailer)

    assert pauses == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]
    assert len(postbox.tried) == 13
    assert len({mail.id for mail in postbox.tried}) == len(postbox.kept) == 1


async def test_a_mail_that_was_put_off_is_not_tried_before_its_time(office: PostOffice) -> None:
    outbox, postbox = office.outbox(), Postbox(Moody(busy()))
    office.clock.stop()
    async with office.worker(postbox, outbox) as mailer:
        await post(outbox, ANN)
        await drained(mailer)
        office.clock.advance(timedelta(seconds=0.9))
        await post(outbox, BOB)
        await drained(mailer)
    assert [mail.to for mail in postbox.tried] == [ANN, BOB]


async def test_after_an_hour_without_a_mail_server_every_mail_arrives_once_and_in_order(office: PostOffice) -> None:
    moody, outbox = Moody(busy()), office.outbox()
    office.clock.stop()
    postbox = Postbox(moody)
    async with office.worker(postbox, outbox) as mailer, office.worker(postbox):
        for i in range(5):
            await post(outbox, *PEOPLE, first=i * 20)
        for _ in range(60):
            await drained(mailer)
            office.clock.advance(timedelta(minutes=1))
        assert postbox.kept == []
        assert len(postbox.tried) < 60 * len(PEOPLE) / 2
        moody.refusal = None
        office.clock.advance(timedelta(minutes=5))
        await drained(mailer)

    assert await outbox.waiting() == []
    for i, person in enumerate(PEOPLE):
        assert postbox.numbers(person) == [i + 20 * n for n in range(5)]


async def test_a_mail_that_is_refused_for_good_is_given_up_at_once_and_the_next_to_the_same_person_goes(
    office: PostOffice,
) -> None:
    class NotTheFirst:
        async def __call__(self, mail: Mail) -> None:
            if number(mail.text) == 0:
                raise MailRefused("recipient refused")

    outbox, postbox = office.outbox(), Postbox(NotTheFirst())
    with capture_logs() as lines:
        async with office.worker(postbox, outbox) as mailer:
            await post(outbox, ANN, ANN)
            await drained(mailer)

    assert [number(mail.text) for mail in postbox.tried] == [0, 1]
    dead = await the_only(outbox)
    assert dead.dead_at is not None
    assert (dead.reason, dead.tries) == ("recipient refused", 1)
    [told] = [line for line in lines if line["log_level"] == "error"]
    assert (told["mail"], told["template"], told["reason"]) == (dead.id, "verify", "recipient refused")
    assert not [line for line in lines if ANN in str(line) or "000000" in str(line)]


async def test_a_mail_that_nobody_takes_is_given_up_at_the_end_of_its_life_and_can_be_brought_back(
    office: PostOffice,
) -> None:
    moody, outbox = Moody(busy()), office.outbox()
    office.clock.stop()
    postbox = Postbox(moody)
    async with office.worker(postbox, outbox) as mailer:
        await post(outbox, ANN)
        await drained(mailer)
        office.clock.advance(LIFE - timedelta(seconds=1))
        await drained(mailer)
        assert (await the_only(outbox)).dead_at is None
        office.clock.advance(timedelta(minutes=5))
        await drained(mailer)
        dead = await the_only(outbox)
        assert (dead.dead_at, dead.reason) == (office.clock(), "busy")
        office.clock.advance(LIFE)
        await drained(mailer)
        assert len(postbox.tried) == 3

        assert await office.outbox().revive() == 1
        await drained(mailer)
        assert (await the_only(outbox)).dead_at is None
        moody.refusal = None
        office.clock.advance(timedelta(seconds=1))
        await drained(mailer)
    assert [mail.id for mail in postbox.kept] == [postbox.tried[0].id]
    assert await outbox.waiting() == []


@pytest.mark.standard("LO-10")
@pytest.mark.parametrize("trouble", ["the transport breaks", "no such template", "a value is missing", "an odd link"])
async def test_what_nobody_expected_makes_a_dead_letter_and_the_worker_goes_on(
    trouble: str, office: PostOffice
) -> None:
    broken = Moody(RuntimeError("broken"), ANN if trouble == "the transport breaks" else "nobody")
    outbox, postbox = office.outbox(), Postbox(broken)
    values = {**VERIFY, "code": "918273"}
    if trouble == "a value is missing":
        del values["minutes"]
    if trouble == "an odd link":
        values["link"] = "javascript:alert(1)"
    with capture_logs() as lines:
        async with office.worker(postbox, outbox) as mailer:
            async with outbox.database.begin() as transaction:
                template = "no_such_mail" if trouble == "no such template" else "verify"
                outbox.post(transaction, template, ANN, "en", **values)
            await post(outbox, BOB)
            await drained(mailer)
            await post(outbox, BOB, first=1)
            await drained(mailer)

    assert postbox.numbers(BOB) == [0, 1]
    dead = await the_only(outbox)
    assert dead.dead_at is not None
    named = {
        "no such template": "TemplateNotFound",
        "a value is missing": "UndefinedError",
        "an odd link": "ValueError",
    }
    assert dead.reason == named.get(trouble, "RuntimeError")
    assert [line for line in lines if line["log_level"] == "error"]
    assert "918273" not in str(lines)


async def test_a_transport_whose_store_is_away_does_not_cost_the_mail(office: PostOffice) -> None:
    """The mailbox of `vestibule dev` keeps mails in Redis."""
    moody, outbox = Moody(Unavailable("redis: ConnectionError")), office.outbox()
    office.clock.stop()
    postbox = Postbox(moody)
    async with office.worker(postbox, outbox) as mailer:
        await post(outbox, ANN)
        await drained(mailer)
        moody.refusal = None
        assert (await the_only(outbox)).dead_at is None
        office.clock.advance(timedelta(minutes=5))
        await drained(mailer)
    assert postbox.numbers(ANN) == [0]


async def test_a_server_that_never_answers_is_left_alone_in_time_and_asked_again_later(office: PostOffice) -> None:
    hanging, outbox = Hanging(), office.outbox()
    postbox = Postbox(hanging)
    async with office.worker(postbox, outbox, within=timedelta(milliseconds=300)) as mailer:
        await post(outbox, ANN)
        await drained(mailer)
        assert (await the_only(outbox)).reason == "the server was too slow"
        hanging.let_go.set()
        office.clock.advance(timedelta(minutes=5))
        await drained(mailer)
    assert postbox.numbers(ANN) == [0]
