"""Operators are told before a secret of a client ends: 30, 7 and 1 days before, once each."""

import asyncio
import secrets
from datetime import timedelta

import pytest

from service.operations.reminders import Reminders
from service.wiring import Services
from tests.conftest import Outbox, Person, TestClock
from tests.deeds import letters, registered, with_account

SUBJECT = "The secret of"


def reminders(services: Services) -> Reminders:
    return services.housekeeping.reminders


@pytest.fixture
async def admin(services: Services) -> Person:
    return await with_account(services, roles=("admin",))


async def secret_ending_in(services: Services, life: timedelta) -> str:
    client_id = f"svc-{secrets.token_hex(4)}"
    await registered(services, client_id)
    await services.client_administration.add_secret(client_id, life)
    return client_id


async def told(services: Services, outbox: Outbox, admin: Person, client_id: str) -> list[str]:
    subjects = [mail.subject for mail in await letters(services, outbox, admin.email, SUBJECT)]
    return [subject for subject in subjects if client_id in subject]


@pytest.mark.standard("AD-15")
async def test_administrators_are_told_a_month_a_week_and_a_day_before(
    services: Services, outbox: Outbox, clock: TestClock, admin: Person
) -> None:
    client_id = await secret_ending_in(services, timedelta(days=40))
    counts = []
    for days in (9, 2, 20, 5, 3, 1):
        await clock.advance(days=days)
        await reminders(services).send()
        counts.append(len(await told(services, outbox, admin, client_id)))
    # 31, 29, 9, 4, 1 and 0 days before the end
    assert counts == [0, 1, 1, 2, 3, 3]
    assert "in 1 day" in (await told(services, outbox, admin, client_id))[-1]


@pytest.mark.standard("AD-15")
async def test_many_workers_tell_it_once(services: Services, outbox: Outbox, admin: Person) -> None:
    client_id = await secret_ending_in(services, timedelta(days=20))
    await asyncio.gather(*(reminders(services).send() for _ in range(10)))
    assert len(await told(services, outbox, admin, client_id)) == 1


async def test_a_secret_that_ends_tomorrow_is_told_of_once_and_not_three_times(
    services: Services, outbox: Outbox, admin: Person
) -> None:
    client_id = await secret_ending_in(services, timedelta(hours=20))
    await reminders(services).send()
    await reminders(services).send()
    assert len(await told(services, outbox, admin, client_id)) == 1


async def test_nobody_hears_of_secrets_without_an_end_of_disabled_clients_or_replaced_ones(
    services: Services, outbox: Outbox, admin: Person
) -> None:
    forever = f"svc-{secrets.token_hex(4)}"
    await registered(services, forever)
    disabled, replaced = [await secret_ending_in(services, timedelta(days=5)) for _ in range(2)]
    await services.client_administration.set_disabled(disabled, True)
    await services.client_administration.replace_secrets(replaced)
    await reminders(services).send()
    for client_id in (forever, disabled, replaced):
        assert await told(services, outbox, admin, client_id) == []


async def test_people_without_the_role_and_disabled_administrators_get_nothing(
    services: Services, outbox: Outbox, admin: Person
) -> None:
    plain, gone = await with_account(services), await with_account(services, roles=("admin",))
    account = await services.administration.find(gone.email)
    assert account is not None
    await services.administration.disable(account.id)
    client_id = await secret_ending_in(services, timedelta(days=5))
    await reminders(services).send()
    assert [len(await told(services, outbox, each, client_id)) for each in (admin, plain, gone)] == [1, 0, 0]
