"""The mark of a device that somebody signed in from: what it looks like, what it is worth, and who is told of new ones.

How known devices and strangers count beside each other is in `test_known_devices.py`.
"""

from collections.abc import AsyncIterator

import pytest
from litestar import Litestar
from redis.asyncio import Redis

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
    COOKIE_HEADERS,
    DEVICE_COOKIE,
    FIREFOX,
    OTHER,
    WRONG,
    letters,
    mailed_link,
    sign_in,
    sign_in_from,
    with_account,
)

PAIR, ACCOUNT = 4, 8
NEW_DEVICE = "A new device signed in"


@pytest.fixture(scope="module")
async def strict(
    services: Services, environ: dict[str, str], wall_clock: TestClock, outbox: Outbox
) -> AsyncIterator[Services]:
    """A worker that lets people guess four times from a network, and eight times from everywhere."""
    few = {
        "VESTIBULE_LIMIT_GUESS_ACCOUNT_NETWORK": f"{PAIR}/15m",
        "VESTIBULE_LIMIT_GUESS_ACCOUNT": f"{ACCOUNT}/h",
        "VESTIBULE_LIMIT_GUESS_NETWORK": "1000000/s",
    }
    async with worker(load({**environ, **few}), wall_clock, outbox) as running:
        yield running


@pytest.fixture(scope="module")
async def door(strict: Services) -> Litestar:
    return create_app(strict)


async def marked_by(app: Litestar, person: Person, address: str) -> str:
    """The mark of a browser in which somebody signs in."""
    async with browser(app, address) as http:
        answer = await sign_in(http, person, transport="cookie")
        assert answer.status_code == 200, answer.text
        return str(http.cookies[DEVICE_COOKIE])


async def enter(app: Litestar, mark: str, person: Person, password: str = PASSWORD, address: str = "") -> int:
    async with browser(app, address or new_address()) as http:
        http.cookies.set(DEVICE_COOKIE, mark)
        return (await sign_in(http, person, password=password)).status_code


async def burn(app: Litestar, person: Person, *more: str) -> None:
    """Strangers use up all guesses at somebody's name, from ten networks and the given ones."""
    for address in (*more, *(new_address() for _ in range(10))):
        for _ in range(PAIR + 1):
            await sign_in_from(app, address, person)
    assert (await sign_in_from(app, new_address(), person, PASSWORD)).status_code == 429


# The cookie


@pytest.mark.standard("RL-07")
async def test_a_browser_with_cookie_transport_gets_a_mark_that_says_nothing(
    app: Litestar, services: Services, outbox: Outbox
) -> None:
    person = somebody()
    async with browser(app) as http:
        handle = await begin_sign_up(http, person)
        code = await mailed_code(services, outbox, person.email)
        body = {"registration": handle, "code": code, "transport": "cookie"}
        proved = await http.post("/auth/verify", json=body, headers=COOKIE_HEADERS)
        entered = await sign_in(http, person, transport="cookie")
    async with browser(app) as elsewhere:
        other = await sign_in(elsewhere, person, transport="cookie")

    marks = []
    for answer in (proved, entered, other):
        assert answer.status_code == 200, answer.text
        (cookie,) = [line for line in answer.headers.get_list("set-cookie") if line.startswith(f"{DEVICE_COOKIE}=")]
        value, *attributes = [part.strip().lower() for part in cookie.split(";")]
        assert set(attributes) == {"secure", "httponly", "samesite=strict", "path=/", "max-age=34560000"}
        assert person.nickname not in value
        marks.append(cookie.partition(";")[0].partition("=")[2])
    assert marks[0] == marks[1] != marks[2]
    secret = opaque.decode("vdv", marks[0])
    assert secret is not None
    assert len(secret) >= 16


async def test_no_mark_is_set_where_tokens_travel_in_the_body_or_nobody_came_in(
    app: Litestar, services: Services, outbox: Outbox
) -> None:
    async with browser(app) as http:
        person = await sign_up(http, services, outbox)
        answers = [await sign_in(http, person)]
        answers.append(await http.post("/auth/refresh", json={"refresh_token": person.refresh_token}))
        answers.append(await sign_in(http, person, password=WRONG))
        answers.append(await sign_in(http, person, password=WRONG, transport="cookie"))
        http.cookies.set(DEVICE_COOKIE, opaque.mint("vdv"))
        answers.append(await sign_in(http, person))
    for answer in answers:
        assert DEVICE_COOKIE not in str(answer.headers.get_list("set-cookie"))


@pytest.mark.standard("SE-35")
async def test_no_key_holds_a_mark_itself_nor_lives_for_ever(app: Litestar, services: Services, redis: Redis) -> None:
    mark, seen = await marked_by(app, await with_account(services), new_address()), 0
    async for key in redis.scan_iter(match="vestibule:vouched:*", count=500):
        assert mark.encode() not in key
        assert 0 < await redis.ttl(key) <= 90 * 86400
        seen += 1
    assert seen >= 2


# What it is worth


@pytest.mark.standard("RL-07", "RL-01")
@pytest.mark.parametrize("from_the_same_network", [False, True])
async def test_an_owner_with_a_mark_enters_whatever_strangers_on_ten_networks_have_used_up(
    door: Litestar, strict: Services, from_the_same_network: bool
) -> None:
    person, home = await with_account(strict), new_address()
    mark = await marked_by(door, person, home)

    await burn(door, person, *([home] if from_the_same_network else []))

    assert await enter(door, mark, person, address=home) == 200
    assert await enter(door, mark, person) == 200  # wherever the browser is carried to


@pytest.mark.standard("RL-07")
async def test_a_neighbour_who_uses_up_a_network_does_not_keep_a_marked_browser_out(
    services: Services, environ: dict[str, str], wall_clock: TestClock, outbox: Outbox
) -> None:
    few = load({**environ, "VESTIBULE_LIMIT_GUESS_NETWORK": "5/h"})
    async with worker(few, wall_clock, outbox) as running:
        app, cafe, person = create_app(running), new_address(), await with_account(running)
        mark = await marked_by(app, person, new_address())
        neighbour = [(await sign_in_from(app, cafe, somebody())).status_code for _ in range(6)]
        assert neighbour == [401] * 5 + [429]

        assert await enter(app, mark, person, address=cafe) == 200


@pytest.mark.standard("RL-06", "RL-07")
async def test_an_owner_on_a_known_device_enters_as_often_as_they_like(door: Litestar, strict: Services) -> None:
    person = await with_account(strict)
    mark = await marked_by(door, person, new_address())
    assert [await enter(door, mark, person) for _ in range(2 * PAIR)] == [200] * (2 * PAIR)


@pytest.mark.standard("RL-02", "RL-07")
async def test_a_forged_mark_or_that_of_another_account_gives_nothing(door: Litestar, strict: Services) -> None:
    person, thief = await with_account(strict), await with_account(strict)
    own = await marked_by(door, thief, new_address())
    await burn(door, person)
    for mark in (own, opaque.mint("vdv"), "vdv_nothing", "", "x" * 4000, own[:-1], own + "0", "vrt_" + own[4:]):
        assert await enter(door, mark, person) == 429, mark[:20]
    assert await enter(door, own, thief) == 200


@pytest.mark.standard("RL-02")
async def test_a_new_mark_for_every_guess_makes_no_new_guesses(door: Litestar, strict: Services) -> None:
    person, home = await with_account(strict), new_address()
    assert (await sign_in_from(door, home, person, PASSWORD)).status_code == 200
    tries = [await enter(door, opaque.mint("vdv"), person, WRONG, home) for _ in range(PAIR + 2)]
    assert tries == [401] * PAIR + [429] * 2


@pytest.mark.standard("RL-07", "LG-21")
async def test_a_reset_forgets_every_device_but_the_one_it_was_made_on(
    door: Litestar, strict: Services, outbox: Outbox
) -> None:
    person = await with_account(strict)
    old, mine = [await marked_by(door, person, new_address()) for _ in range(2)]
    async with browser(door) as elsewhere:
        elsewhere.cookies.set(DEVICE_COOKIE, mine)
        assert (await elsewhere.post("/auth/password/forgot", json={"email": person.email})).status_code == 202
        token = await mailed_link(strict, outbox, person.email, "reset")
        answer = await elsewhere.post("/auth/password/reset", json={"token": token, "password": OTHER})
        assert answer.status_code == 204, answer.text
    await burn(door, person)
    assert await enter(door, old, person, OTHER) == 429
    assert await enter(door, mine, person, OTHER) == 200


# Who is told of a device without one


@pytest.mark.standard("LG-09")
async def test_failures_and_then_a_sign_in_from_a_new_device_make_one_notice_that_counts_them(
    app: Litestar, services: Services, outbox: Outbox, person: Person
) -> None:
    for _ in range(5):
        assert (await sign_in_from(app, new_address(), person)).status_code == 401
    assert not await letters(services, outbox, person.email, NEW_DEVICE)
    async with browser(app) as thief:
        thief.headers["User-Agent"] = FIREFOX
        for _ in range(2):
            assert (await sign_in(thief, person)).status_code == 200

    (mail,) = await letters(services, outbox, person.email, NEW_DEVICE)
    for words in ("5 attempts with wrong passwords", "Firefox, Linux", "Change it now"):
        assert words in mail.text


@pytest.mark.standard("LG-09")
@pytest.mark.parametrize("transport", ["body", "cookie"])
async def test_neither_the_first_sign_in_after_a_sign_up_nor_failures_on_a_known_device_make_one(
    app: Litestar, services: Services, outbox: Outbox, transport: str
) -> None:
    person, home = somebody(), new_address()
    async with browser(app, home) as http:
        handle = await begin_sign_up(http, person)
        code = await mailed_code(services, outbox, person.email)
        body = {"registration": handle, "code": code, "transport": transport}
        assert (await http.post("/auth/verify", json=body, headers=COOKIE_HEADERS)).status_code == 200
        mark = http.cookies.get(DEVICE_COOKIE) or ""
    assert bool(mark) == (transport == "cookie")
    where = "" if mark else home  # a browser is known by its mark wherever it is, an app by its network
    passwords = [PASSWORD, *[WRONG] * 5, PASSWORD]
    assert [await enter(app, mark, person, each, where) for each in passwords] == [200, *[401] * 5, 200]
    assert not await letters(services, outbox, person.email, NEW_DEVICE)
