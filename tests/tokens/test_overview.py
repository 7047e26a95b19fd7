"""Ending sessions while other things happen: the journal says what Redis says, whoever comes in between."""

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field, replace
from uuid import UUID

import pytest

from service.crypto.signer import PersonClaims
from service.errors import InvalidToken, NotFound, StaleAuthentication, Unavailable
from service.store.postgres import Transaction
from service.tokens.journal import EndReason, Journal
from service.tokens.overview import Overview
from service.tokens.principal import Principal
from service.tokens.session_facts import Grant
from service.wiring import Services
from tests.conftest import Person, TestClock
from tests.tokens.acting import account_behind, admitted, row_of, session_of


@dataclass(frozen=True)
class SlowJournal(Journal):
    """A PostgreSQL that takes its time over the end of all sessions."""

    reached: asyncio.Event = field(default_factory=asyncio.Event)
    gate: asyncio.Event = field(default_factory=asyncio.Event)

    async def all_ended(
        self, transaction: Transaction, account: UUID, reason: EndReason, but: bytes | None = None
    ) -> None:
        self.reached.set()
        await self.gate.wait()
        await Journal.all_ended(self, transaction, account, reason, but)


@dataclass(frozen=True)
class FailingJournal(Journal):
    """A PostgreSQL that is away for the first moments."""

    failures: list[str] = field(default_factory=list)

    async def note_end(self, transaction: Transaction, session: bytes, reason: EndReason) -> None:
        self._fail_once()
        await Journal.note_end(self, transaction, session, reason)

    async def all_ended(
        self, transaction: Transaction, account: UUID, reason: EndReason, but: bytes | None = None
    ) -> None:
        self._fail_once()
        await Journal.all_ended(self, transaction, account, reason, but)

    def _fail_once(self) -> None:
        if self.failures:
            raise Unavailable(self.failures.pop())


async def principal_of(services: Services, access_token: str) -> Principal:
    active = await services.inspection.of(access_token)
    assert active is not None
    assert isinstance(active.claims, PersonClaims)
    return Principal(UUID(active.claims.sub), active.claims, active.roles, is_admin=False)


async def lives(services: Services, grant: Grant) -> bool:
    return await services.inspection.of(grant.access_token) is not None


def with_journal(services: Services, journal: Journal) -> Overview:
    return replace(services.overview, journal=journal, sessions=replace(services.sessions, journal=journal))


@pytest.mark.standard("SE-20", "SE-30")
async def test_a_session_opened_while_all_others_end_is_alive_in_both_stores_or_in_none(
    services: Services, second_worker: Services, person: Person
) -> None:
    """Redis has ended the others, the journal is about to: whoever comes in now must not be written down as ended."""
    principal = await principal_of(services, person.access_token)
    account = await account_behind(services, person)
    before = await admitted(services, account)
    journal = SlowJournal(services.database, services.clock)
    ending = asyncio.create_task(with_journal(services, journal).end_others(principal))
    waiting = asyncio.create_task(journal.reached.wait())
    await asyncio.wait({ending, waiting}, return_when=asyncio.FIRST_COMPLETED)
    entering = asyncio.create_task(admitted(second_worker, account))
    # Whether or not the end of the others keeps the door shut meanwhile, both must come to their end.
    await asyncio.wait({entering}, timeout=1)
    journal.gate.set()
    waiting.cancel()
    await ending
    late = await entering
    assert not await lives(services, before)
    assert (await row_of(services, session_of(before.access_token))).ended_reason == "ended"
    row = await row_of(services, session_of(late.access_token))
    assert (row.ended_reason is None) == await lives(services, late)


@pytest.mark.standard("SE-20", "SE-30")
async def test_forty_races_with_sign_ins_leave_redis_and_the_journal_of_one_mind(
    services: Services, second_worker: Services, person: Person
) -> None:
    principal = await principal_of(services, person.access_token)
    account = await account_behind(services, person)
    for number in range(40):
        entering = [asyncio.create_task(admitted(each, account)) for each in (services, second_worker)]
        for _ in range(number):
            await asyncio.sleep(0)
        await services.overview.end_others(principal)
        for grant in await asyncio.gather(*entering):
            row = await row_of(services, session_of(grant.access_token))
            assert (row.ended_at is None) == await lives(services, grant)
    assert (await row_of(services, session_of(person.access_token))).ended_at is None


@pytest.mark.standard("SE-30")
async def test_an_end_that_the_journal_missed_is_written_when_it_is_asked_for_again(
    services: Services, person: Person
) -> None:
    principal = await principal_of(services, person.access_token)
    other = await admitted(services, await account_behind(services, person))
    overview = with_journal(services, FailingJournal(services.database, services.clock, failures=["away"]))
    with pytest.raises(Unavailable):
        await overview.end(principal, session_of(other.access_token))
    with suppress(NotFound):
        await overview.end(principal, session_of(other.access_token))
    assert not await lives(services, other)
    assert (await row_of(services, session_of(other.access_token))).ended_reason == "ended"


@pytest.mark.standard("SE-30")
async def test_ends_of_all_others_that_the_journal_missed_are_written_when_asked_for_again(
    services: Services, person: Person
) -> None:
    principal = await principal_of(services, person.access_token)
    other = await admitted(services, await account_behind(services, person))
    overview = with_journal(services, FailingJournal(services.database, services.clock, failures=["away"]))
    with pytest.raises(Unavailable):
        await overview.end_others(principal)
    await overview.end_others(principal)
    assert not await lives(services, other)
    assert (await row_of(services, session_of(other.access_token))).ended_reason == "ended"


@pytest.mark.standard("SE-20", "SE-30")
async def test_two_who_end_each_other_at_once_leave_stores_of_one_mind(
    services: Services, second_worker: Services, person: Person
) -> None:
    account = await account_behind(services, person)
    for number in range(20):
        grants = [await admitted(services, account) for _ in range(2)]
        principals = [await principal_of(services, grant.access_token) for grant in grants]
        first = asyncio.create_task(services.overview.end_others(principals[0]))
        for _ in range(number):
            await asyncio.sleep(0)
        await asyncio.gather(first, second_worker.overview.end_others(principals[1]))
        for grant in grants:
            row = await row_of(services, session_of(grant.access_token))
            assert (row.ended_at is None) == await lives(services, grant)


@pytest.mark.standard("SE-20")
async def test_nothing_but_the_own_session_ends_without_a_fresh_password(
    services: Services, person: Person, clock: TestClock
) -> None:
    other = await admitted(services, await account_behind(services, person))
    principal = await principal_of(services, person.access_token)
    await clock.advance(minutes=6)
    with pytest.raises(StaleAuthentication):
        await services.overview.end(principal, session_of(other.access_token))
    with pytest.raises(StaleAuthentication):
        await services.overview.end_others(principal)
    assert await lives(services, other)
    await services.overview.end(principal, session_of(person.access_token))
    assert await lives(services, other)


async def test_a_session_that_is_not_in_the_journal_is_shown_all_the_same(services: Services, person: Person) -> None:
    """Between the stores, or after a loss: who looks for a stranger must see everything that lives."""
    principal = await principal_of(services, person.access_token)
    opened = await services.sessions.open(principal.account, "web", ("pwd",), ())
    shown = await services.overview.of(principal)
    assert {session.id for session in shown} == {UUID(bytes=opened.session), UUID(bytes=principal.session)}
    (unknown,) = (session for session in shown if not session.current)
    assert (unknown.device, unknown.place, unknown.address) == ("", "", "")
    await services.overview.end(principal, unknown.id)
    assert len(await services.overview.of(principal)) == 1


@pytest.mark.standard("SE-13", "SE-15")
async def test_a_password_given_in_a_session_that_others_end_meanwhile_brings_nothing_back(
    services: Services, person: Person
) -> None:
    """Only one of two orders is possible: begun anew and then ended, or refused."""
    account = await account_behind(services, person)
    principal = await principal_of(services, person.access_token)
    for number in range(30):
        grant = await admitted(services, account)
        claims = (await principal_of(services, grant.access_token)).claims
        renewing = asyncio.create_task(services.sessions.reauthenticate(claims, ("pwd",)))
        for _ in range(number % 10):
            await asyncio.sleep(0)
        await services.overview.end_others(principal)
        (outcome,) = await asyncio.gather(renewing, return_exceptions=True)
        if isinstance(outcome, BaseException):
            assert isinstance(outcome, InvalidToken)
        else:
            assert not await lives(services, outcome.grant)
        assert not await lives(services, grant)
