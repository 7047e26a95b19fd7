"""Wrong passwords in a row are counted for as long as it takes: at the limit strangers need a reset, owners do not."""

import re
from collections.abc import AsyncIterator

import httpx
import pytest
from litestar import Litestar

from service.app import create_app
from service.settings import load
from service.wiring import Services
from tests.conftest import PASSWORD, Outbox, Person, TestClock, browser, new_address, somebody, worker

WRONG = "wind over the noisy harbour"
NEW = "other words about the same harbour"
MOST = 4
OPEN = {f"VESTIBULE_LIMIT_GUESS_{name}": "1000000/s" for name in ("NETWORK", "ACCOUNT", "ACCOUNT_NETWORK")}


@pytest.fixture(scope="module")
async def patient(
    services: Services, environ: dict[str, str], wall_clock: TestClock, outbox: Outbox
) -> AsyncIterator[Services]:
    """A worker that refuses a password after few failures, and whose other limits are out of the way."""
    few = {"VESTIBULE_PASSWORD_FAILURES": str(MOST)}
    async with worker(load({**environ, **OPEN, **few}), wall_clock, outbox) as running:
        yield running


@pytest.fixture(scope="module")
async def door(patient: Services) -> Litestar:
    return create_app(patient)


@pytest.fixture
async def owner(patient: Services) -> Person:
    person = somebody()
    await patient.administration.create(person.email, person.nickname, person.password, ())
    return person


async def login(
    door: Litestar, person: Person, password: str, address: str | None = None, *, nickname: bool = False
) -> httpx.Response:
    name = {"nickname": person.nickname} if nickname else {"email": person.email}
    async with browser(door, address) as http:
        given = {"X-Request-ID": "the-same-for-all"}
        return await http.post("/auth/login", json={**name, "password": password}, headers=given)


async def fail(door: Litestar, person: Person, times: int, clock: TestClock | None = None) -> httpx.Response:
    """So many wrong passwords from everywhere, by address and by nickname; the last answer."""
    for i in range(times):
        answer = await login(door, person, WRONG, nickname=bool(i % 2))
        assert answer.status_code == 401
        if clock is not None:
            await clock.advance(days=2)
    return answer


async def told(services: Services, outbox: Outbox, person: Person, subject: str) -> int:
    await services.mailer.drain()
    return len([mail for mail in outbox.to(person.email) if re.search(subject, mail.subject)])


@pytest.mark.standard("RL-05", "RL-07")
async def test_after_the_last_failure_the_password_is_refused_to_strangers_and_not_to_its_owner(
    door: Litestar, patient: Services, outbox: Outbox, owner: Person, clock: TestClock
) -> None:
    home = new_address()
    assert (await login(door, owner, PASSWORD, home)).status_code == 200
    await patient.mailer.drain()
    before = len(outbox.to(owner.email))
    wrong = await fail(door, owner, MOST, clock)

    for _ in range(3):
        refused = await login(door, owner, PASSWORD)
        assert (refused.status_code, refused.content) == (401, wrong.content)  # it does not show that it was right
        assert sorted(refused.headers.multi_items()) == sorted(wrong.headers.multi_items())
    assert (await login(door, owner, PASSWORD, home)).status_code == 200
    await patient.mailer.drain()
    news = {mail.id: mail.subject for mail in outbox.to(owner.email)[before:]}  # a lease may end when time is travelled
    assert len(news) == 1, news  # one word about it, not one for each guess


@pytest.mark.standard("RL-05")
async def test_one_failure_less_refuses_nobody(door: Litestar, owner: Person) -> None:
    await fail(door, owner, MOST - 1)

    assert (await login(door, owner, PASSWORD)).status_code == 200


@pytest.mark.standard("RL-05", "RL-06")
async def test_a_success_of_the_owner_ends_the_row(door: Litestar, owner: Person) -> None:
    for _ in range(3):
        await fail(door, owner, MOST - 1)
        assert (await login(door, owner, PASSWORD)).status_code == 200


@pytest.mark.standard("RL-05")
async def test_a_reset_opens_the_account_again(
    door: Litestar, patient: Services, outbox: Outbox, owner: Person
) -> None:
    await fail(door, owner, MOST)
    assert (await login(door, owner, PASSWORD)).status_code == 401
    async with browser(door) as http:
        assert (await http.post("/auth/password/forgot", json={"email": owner.email})).status_code == 202
        await patient.mailer.drain()
        (link,) = [found for mail in outbox.to(owner.email) if (found := re.search(r"#reset=(vpr_\S+)", mail.text))]
        body = {"token": link[1], "password": NEW}
        assert (await http.post("/auth/password/reset", json=body)).status_code == 204

    assert (await login(door, owner, PASSWORD)).status_code == 401
    assert (await login(door, owner, NEW)).status_code == 200


@pytest.mark.standard("RL-05", "RL-14", "LG-14")
async def test_a_name_that_nobody_has_is_refused_in_the_same_way(door: Litestar, owner: Person) -> None:
    nobody = somebody()
    theirs = [await login(door, owner, WRONG) for _ in range(MOST + 2)]
    nobodys = [await login(door, nobody, WRONG) for _ in range(MOST + 2)]

    def shape(answer: httpx.Response) -> tuple[object, ...]:
        return answer.status_code, sorted(answer.headers.multi_items()), answer.content

    assert [shape(answer) for answer in theirs] == [shape(answer) for answer in nobodys]
