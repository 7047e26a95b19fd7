"""Guessing passwords, codes and links: one budget for all of them, nothing refills it, and it ends for good."""

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator

import httpx
import pytest
from litestar import Litestar

from service.app import create_app
from service.crypto import opaque
from service.settings import load
from service.wiring import Services
from tests.conftest import (
    PASSWORD,
    Outbox,
    Person,
    TestClock,
    begin_sign_up,
    browser,
    mailed_code,
    new_address,
    sign_up,
    somebody,
    worker,
)
from tests.deeds import (
    DEVICE_COOKIE,
    OTHER,
    WRONG,
    guessed,
    letters,
    mailed_link,
    sign_in,
    sign_in_from,
    with_account,
)

PAIR, FAILURES = 4, 5
LOCKED = "Your password needs a reset on new devices"
UNLIMITED = {
    f"VESTIBULE_LIMIT_GUESS_{name}": "1000000/s" for name in ("NETWORK", "ACCOUNT", "ACCOUNT_NETWORK")
}  # fmt: skip


@pytest.fixture(scope="module")
async def frugal(
    services: Services, environ: dict[str, str], wall_clock: TestClock, outbox: Outbox
) -> AsyncIterator[Services]:
    """A worker that lets a network guess four times at a name."""
    few = {"VESTIBULE_LIMIT_GUESS_ACCOUNT_NETWORK": f"{PAIR}/15m"}
    async with worker(load({**environ, **few}), wall_clock, outbox) as running:
        yield running


@pytest.fixture(scope="module")
async def locking(
    services: Services, environ: dict[str, str], wall_clock: TestClock, outbox: Outbox
) -> AsyncIterator[Services]:
    """A worker without other limits that refuses a password after five wrong ones in a row."""
    few = {**UNLIMITED, "VESTIBULE_PASSWORD_FAILURES": str(FAILURES)}
    async with worker(load({**environ, **few}), wall_clock, outbox) as running:
        yield running


@pytest.fixture(scope="module")
async def safe(locking: Services) -> Litestar:
    return create_app(locking)


async def reset(app: Litestar, services: Services, outbox: Outbox, person: Person, password: str = OTHER) -> None:
    async with browser(app) as http:
        assert (await http.post("/auth/password/forgot", json={"email": person.email})).status_code == 202
        token = await mailed_link(services, outbox, person.email, "reset")
        answer = await http.post("/auth/password/reset", json={"token": token, "password": password})
        assert answer.status_code == 204, answer.text


def shape(answer: httpx.Response) -> tuple[object, ...]:
    headers = sorted((name, value) for name, value in answer.headers.items() if name != "x-request-id")
    return answer.status_code, headers, answer.content


# One budget


@pytest.mark.standard("CL-09", "CL-10", "CL-08", "RL-02", "RL-06")
@pytest.mark.parametrize("first", ["code", "password", "link"])
async def test_passwords_codes_and_links_share_one_budget_that_no_new_mail_refills(
    frugal: Services, outbox: Outbox, first: str
) -> None:
    async with browser(create_app(frugal)) as http:
        person = somebody()
        handle = await begin_sign_up(http, person)
        code = await mailed_code(frugal, outbox, person.email)
        link = await mailed_link(frugal, outbox, person.email, "verify")

        async def guess(kind: str) -> int:
            if kind == "password":
                return (await sign_in(http, person, password=WRONG)).status_code
            wrong = {"registration": handle, "code": "000000" if code != "000000" else "111111"}
            body = wrong if kind == "code" else {"token": link, "password": WRONG}
            return (await http.post("/auth/verify", json=body)).status_code

        kinds = ["code", "password", "link"]
        kinds = [first, *(kind for kind in kinds if kind != first), first]
        assert sorted([await guess(kind) for kind in kinds]) == sorted(401 if k == "password" else 400 for k in kinds)

        async def nothing_works() -> None:
            for kind in ("code", "password", "link"):
                assert await guess(kind) == 429, kind
            right = {"registration": handle, "code": code}
            assert (await http.post("/auth/verify", json=right)).status_code == 429

        await nothing_works()
        for path, body in (
            ("/auth/verify/resend", {"registration": handle}),
            ("/auth/password/forgot", {"email": person.email}),
        ):
            assert (await http.post(path, json=body)).status_code == 202
            await nothing_works()
        handle = await begin_sign_up(http, person)
        code = await mailed_code(frugal, outbox, person.email)
        await nothing_works()


@pytest.mark.standard("CL-09", "CL-10")
async def test_codes_of_ever_new_sign_ups_are_guessed_no_more_than_the_day_allows(
    services: Services, environ: dict[str, str], wall_clock: TestClock, outbox: Outbox, clock: TestClock
) -> None:
    few = {**UNLIMITED, "VESTIBULE_LIMIT_CODE_ADDRESS": "12/24h"}
    many = {f"VESTIBULE_LIMIT_MAIL_{name}": "1000/s" for name in ("NETWORK", "ADDRESS", "ADDRESS_NETWORK")}
    person, tried = somebody(), 0
    async with worker(load({**environ, **few, **many}), wall_clock, outbox) as running:
        app = create_app(running)
        for _ in range(6):
            async with browser(app) as http:
                handle = await begin_sign_up(http, person)
                code = await mailed_code(running, outbox, person.email)
                wrong = {"registration": handle, "code": f"{(int(code) + 1) % 1_000_000:06d}"}
                answers = [(await http.post("/auth/verify", json=wrong)).status_code for _ in range(5)]
                tried += answers.count(400)
            await clock.advance(minutes=1)
        assert tried == 12
        async with browser(app) as http:
            right = {"registration": handle, "code": code}
            assert (await http.post("/auth/verify", json=right)).status_code == 429


# And an end


@pytest.mark.standard("RL-05", "LG-14", "RL-01")
async def test_after_so_many_failures_strangers_are_refused_until_a_reset_and_the_owner_is_not(
    safe: Litestar, locking: Services, outbox: Outbox
) -> None:
    home = new_address()
    async with browser(safe, home) as http:
        person = await sign_up(http, locking, outbox)
    assert await guessed(safe, person, FAILURES) == [401] * FAILURES

    wrong = await sign_in_from(safe, new_address(), person, WRONG)
    right = await sign_in_from(safe, new_address(), person, PASSWORD)
    assert right.status_code == 401
    assert shape(right) == shape(wrong)
    assert not await letters(locking, outbox, person.email, "new device signed in")

    (mail,) = await letters(locking, outbox, person.email, LOCKED)
    assert f"{FAILURES} times in a row" in mail.text
    assert "forgot password" in mail.text

    assert (await sign_in_from(safe, home, person, PASSWORD)).status_code == 200
    await reset(safe, locking, outbox, person)
    assert (await sign_in_from(safe, new_address(), person, PASSWORD)).status_code == 401
    assert (await sign_in_from(safe, new_address(), person, OTHER)).status_code == 200
    assert len(await letters(locking, outbox, person.email, LOCKED)) == 1


@pytest.mark.standard("RL-05")
async def test_an_owner_who_goes_on_at_a_known_device_does_not_open_the_door_for_strangers_again(
    safe: Litestar, locking: Services, outbox: Outbox
) -> None:
    """The mail says "until you reset it", and a guesser need only wait for the owner otherwise."""
    home = new_address()
    async with browser(safe, home) as http:
        person = await sign_up(http, locking, outbox)
    await guessed(safe, person, FAILURES)
    assert (await sign_in_from(safe, home, person, PASSWORD)).status_code == 200
    assert (await sign_in_from(safe, new_address(), person, PASSWORD)).status_code == 401
    await guessed(safe, person, FAILURES)
    assert len(await letters(locking, outbox, person.email, LOCKED)) == 1


@pytest.mark.standard("RL-05")
async def test_an_owner_who_never_signed_in_anywhere_gets_in_by_a_reset(
    safe: Litestar, locking: Services, outbox: Outbox
) -> None:
    person = await with_account(locking)
    assert await guessed(safe, person, FAILURES + 3) == [401] * (FAILURES + 3)
    assert (await sign_in_from(safe, new_address(), person, PASSWORD)).status_code == 401
    await reset(safe, locking, outbox, person, PASSWORD)
    assert (await sign_in_from(safe, new_address(), person, PASSWORD)).status_code == 200


@pytest.mark.standard("RL-05", "RL-06")
async def test_only_failures_in_a_row_count(safe: Litestar, locking: Services, outbox: Outbox) -> None:
    person = await with_account(locking)
    for _ in range(3):
        await guessed(safe, person, FAILURES - 1)
        assert (await sign_in_from(safe, new_address(), person, PASSWORD)).status_code == 200
    assert not await letters(locking, outbox, person.email, LOCKED)
    await guessed(safe, person, FAILURES)
    assert (await sign_in_from(safe, new_address(), person, PASSWORD)).status_code == 401


@pytest.mark.standard("RL-05")
async def test_address_and_nickname_count_as_the_one_account_they_are(
    safe: Litestar, locking: Services, outbox: Outbox
) -> None:
    person = await with_account(locking)
    for i in range(FAILURES):
        async with browser(safe) as http:
            name = {"email": person.email} if i % 2 else {"nickname": person.nickname}
            await http.post("/auth/login", json={"password": WRONG, **name})
    assert (await sign_in_from(safe, new_address(), person, PASSWORD)).status_code == 401


@pytest.mark.standard("RL-05", "RL-14", "LG-14")
async def test_names_of_nobody_are_refused_like_those_of_somebody_and_get_no_mail(
    safe: Litestar, locking: Services, outbox: Outbox
) -> None:
    existing, unknown = await with_account(locking), somebody()
    await locking.mailer.drain()  # of what came before
    before = len(outbox.mails)
    seen: list[list[tuple[object, ...]]] = []
    for person in (existing, unknown):
        answers = [await sign_in_from(safe, new_address(), person) for _ in range(FAILURES + 3)]
        seen.append([shape(answer) for answer in answers])
    assert seen[0] == seen[1]
    await locking.mailer.drain()
    assert [mail.to for mail in outbox.mails[before:]] == [existing.email]


@pytest.mark.standard("RL-05")
async def test_forged_marks_from_the_network_of_an_owner_do_not_begin_the_row_anew(
    safe: Litestar, locking: Services, outbox: Outbox
) -> None:
    home = new_address()
    async with browser(safe, home) as http:
        person = await sign_up(http, locking, outbox)

    async def with_forged_mark(password: str) -> int:
        async with browser(safe, home) as http:
            http.cookies.set(DEVICE_COOKIE, opaque.mint("vdv"))
            return (await sign_in(http, person, password=password)).status_code

    # The row of the network first, then that of strangers: a network of which a neighbour makes use is any network.
    tries = 2 * FAILURES + 2
    assert [await with_forged_mark(WRONG) for _ in range(tries)] == [401] * tries
    assert await with_forged_mark(PASSWORD) == 401


@pytest.mark.standard("RL-05", "RL-16")
async def test_of_many_wrong_passwords_at_once_none_is_left_uncounted_and_one_mail_is_sent(
    safe: Litestar, locking: Services, second_worker: Services, outbox: Outbox
) -> None:
    person = await with_account(locking)
    answers = await asyncio.gather(*(sign_in_from(safe, new_address(), person) for _ in range(60)))
    assert Counter(answer.status_code for answer in answers) == {401: 60}
    assert (await sign_in_from(safe, new_address(), person, PASSWORD)).status_code == 401
    assert len(await letters(locking, outbox, person.email, LOCKED)) == 1


@pytest.mark.standard("RL-05")
async def test_a_hundred_failures_over_ten_days_are_enough_by_default(
    app: Litestar, services: Services, outbox: Outbox, clock: TestClock
) -> None:
    person = await with_account(services)
    for day in range(10):
        assert await guessed(app, person, 10) == [401] * 10, day
        await services.mailer.drain()  # a day on, a mail that is being handed over would be handed over again
        await clock.advance(days=1)
    assert (await sign_in_from(app, new_address(), person, PASSWORD)).status_code == 401
    (mail,) = await letters(services, outbox, person.email, LOCKED)
    assert re.search(r"\b100 times in a row", mail.text)
    await reset(app, services, outbox, person)
    assert (await sign_in_from(app, new_address(), person, OTHER)).status_code == 200


@pytest.mark.standard("RL-05")
async def test_ninety_nine_failures_are_not_enough(app: Litestar, services: Services, clock: TestClock) -> None:
    person = await with_account(services)
    for _ in range(11):
        assert await guessed(app, person, 9) == [401] * 9
        await clock.advance(days=1)
    assert (await sign_in_from(app, new_address(), person, PASSWORD)).status_code == 200
