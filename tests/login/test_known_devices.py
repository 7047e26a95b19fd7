"""Where somebody signed in before, strangers do not slow them down; and being known is no licence to guess."""

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest
from litestar import Litestar

from service.app import create_app
from service.settings import load
from service.wiring import Services
from tests.conftest import ISSUER, PASSWORD, Outbox, Person, TestClock, browser, new_address, somebody, worker

WRONG = "wind over the noisy harbour"
PAIR, ACCOUNT = 3, 6
"""Tries of one network or known device at one name, and of all unknown ones together."""
DEVICE_COOKIE = "__Host-vestibule-device"
CSRF = {"X-Vestibule-CSRF": "1", "Origin": ISSUER}
SMALL = {
    "VESTIBULE_LIMIT_GUESS_NETWORK": "1000000/s",
    "VESTIBULE_LIMIT_GUESS_ACCOUNT_NETWORK": f"{PAIR}/15m",
    "VESTIBULE_LIMIT_GUESS_ACCOUNT": f"{ACCOUNT}/h",
}


@pytest.fixture(scope="module")
async def strict(
    services: Services, environ: dict[str, str], wall_clock: TestClock, outbox: Outbox
) -> AsyncIterator[Services]:
    """A worker with small limits at one name."""
    async with worker(load({**environ, **SMALL}), wall_clock, outbox) as running:
        yield running


@pytest.fixture(scope="module")
async def door(strict: Services) -> Litestar:
    return create_app(strict)


@pytest.fixture
async def owner(strict: Services) -> Person:
    person = somebody()
    await strict.administration.create(person.email, person.nickname, person.password, ())
    return person


async def sign_in(http: httpx.AsyncClient, person: Person, password: str = PASSWORD) -> httpx.Response:
    """By cookie, as browsers do: the device gets its mark."""
    body = person.credentials(password=password, transport="cookie")
    return await http.post("/auth/login", json=body, headers=CSRF)


async def mark_of(door: Litestar, person: Person) -> str:
    """The mark of a device from which this person signed in."""
    async with browser(door) as http:
        assert (await sign_in(http, person)).status_code == 200
        return http.cookies[DEVICE_COOKIE]


@asynccontextmanager
async def device(door: Litestar, mark: str, address: str | None = None) -> AsyncIterator[httpx.AsyncClient]:
    """A browser with this mark, on a network where it was never seen."""
    async with browser(door, address) as http:
        http.cookies.set(DEVICE_COOKIE, mark, domain="auth.test", path="/")
        yield http


async def statuses_of_strangers(door: Litestar, person: Person, tries: int) -> Counter[int]:
    """One wrong guess from each of so many networks."""
    seen: Counter[int] = Counter()
    for _ in range(tries):
        async with browser(door) as http:
            seen[(await http.post("/auth/login", json=person.credentials(password=WRONG))).status_code] += 1
    return seen


@pytest.mark.standard("RL-07", "RL-01")
async def test_strangers_do_not_slow_down_a_device_that_is_known_wherever_it_is(door: Litestar, owner: Person) -> None:
    mark, here = await mark_of(door, owner), new_address()
    assert await statuses_of_strangers(door, owner, ACCOUNT + 3) == {401: ACCOUNT, 429: 3}
    async with browser(door, here) as stranger:
        for _ in range(PAIR + 1):
            await sign_in(stranger, owner, WRONG)

    async with browser(door) as unknown:
        assert (await sign_in(unknown, owner)).status_code == 429
    for address in (None, here):
        async with device(door, mark, address) as known:
            assert (await sign_in(known, owner)).status_code == 200
            assert known.cookies[DEVICE_COOKIE] == mark


@pytest.mark.standard("RL-02", "RL-16")
async def test_a_known_device_has_its_tries_from_all_networks_together_and_no_more(
    door: Litestar, owner: Person, clock: TestClock
) -> None:
    mark, seen = await mark_of(door, owner), []
    for _ in range(PAIR + 2):
        async with device(door, mark) as known:
            seen.append(await sign_in(known, owner, WRONG))
    assert [answer.status_code for answer in seen] == [401] * PAIR + [429] * 2
    async with device(door, mark) as known:
        assert (await sign_in(known, owner)).status_code == 429  # being right does not help now
    wait = int(seen[-1].headers["retry-after"])
    assert 0 < wait <= 15 * 60 / PAIR
    await clock.advance(seconds=wait)
    async with device(door, mark) as known:
        assert (await sign_in(known, owner)).status_code == 200


@pytest.mark.standard("RL-07")
async def test_the_tries_of_known_devices_and_networks_are_not_those_of_strangers(
    door: Litestar, owner: Person
) -> None:
    mark, home = await mark_of(door, owner), new_address()
    async with browser(door, home) as http:
        assert (await http.post("/auth/login", json=owner.credentials())).status_code == 200
        for _ in range(PAIR):
            assert (await http.post("/auth/login", json=owner.credentials(password=WRONG))).status_code == 401
    async with device(door, mark) as known:
        for _ in range(PAIR):
            assert (await sign_in(known, owner, WRONG)).status_code == 401

    assert await statuses_of_strangers(door, owner, ACCOUNT + 2) == {401: ACCOUNT, 429: 2}


@pytest.mark.standard("RL-07", "RL-02")
async def test_a_mark_is_worth_nothing_but_at_the_account_that_signed_in_with_it(
    door: Litestar, strict: Services, owner: Person
) -> None:
    other = somebody()
    await strict.administration.create(other.email, other.nickname, other.password, ())
    foreign = await mark_of(door, other)
    assert await statuses_of_strangers(door, owner, ACCOUNT) == {401: ACCOUNT}

    for mark in (foreign, foreign[:-1] + ("A" if foreign[-1] != "A" else "B"), "vdv_garbage", ""):
        async with device(door, mark) as http:
            assert (await sign_in(http, owner)).status_code == 429, mark


@pytest.mark.standard("RL-07", "SE-17")
async def test_whoever_knew_the_old_password_is_a_stranger_after_its_change(door: Litestar, owner: Person) -> None:
    mark, new = await mark_of(door, owner), "other words about the same harbour"
    async with browser(door) as http:
        token = (await http.post("/auth/login", json=owner.credentials())).json()["access_token"]
        body = {"current_password": PASSWORD, "new_password": new}
        changed = await http.post("/me/password", json=body, headers={"Authorization": f"Bearer {token}"})
        assert changed.status_code == 204, changed.text
        assert await statuses_of_strangers(door, owner, ACCOUNT) == {401: ACCOUNT}
        async with device(door, mark) as forgotten:
            assert (await sign_in(forgotten, owner, new)).status_code == 429
        # The device that changed it is known.
        again = await http.post("/auth/login", json=owner.credentials(password=new))
    assert again.status_code == 200
