"""How often somebody may try to sign in: strangers are slowed down, owners get in, and nothing is ever unlimited."""

import asyncio
import socket
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import argon2
import httpx
import pytest
import uvicorn
from litestar import Litestar
from sqlalchemy import text

from service.app import create_app
from service.device import Device
from service.server import options
from service.settings import load
from service.wiring import Services, build
from tests.conftest import (
    PASSWORD,
    Outbox,
    Person,
    TestClock,
    browser,
    new_address,
    root_key,
    shifted,
    somebody,
    worker,
)

WRONG = "wind over the noisy harbour"
NETWORK, PAIR, ACCOUNT = 8, 3, 6
"""Tries of one network, of one network at one name, and at one name from everywhere."""

SMALL = {
    "VESTIBULE_LIMIT_GUESS_NETWORK": f"{NETWORK}/h",
    "VESTIBULE_LIMIT_GUESS_ACCOUNT_NETWORK": f"{PAIR}/15m",
    "VESTIBULE_LIMIT_GUESS_ACCOUNT": f"{ACCOUNT}/h",
}


@pytest.fixture(scope="module")
async def strict(
    services: Services, environ: dict[str, str], wall_clock: TestClock, outbox: Outbox
) -> AsyncIterator[Services]:
    """A worker with small limits."""
    async with worker(load({**environ, **SMALL}), wall_clock, outbox) as running:
        yield running


@pytest.fixture(scope="module")
async def door(strict: Services) -> Litestar:
    return create_app(strict)


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How many passwords were really compared."""
    counted: Counter[str] = Counter()
    original = argon2.PasswordHasher.verify

    def verify(self: Any, *args: Any) -> bool:
        counted["verify"] += 1
        return original(self, *args)

    monkeypatch.setattr(argon2.PasswordHasher, "verify", verify)
    return counted


async def with_account(services: Services) -> Person:
    person = somebody()
    await services.administration.create(person.email, person.nickname, person.password, ())
    return person


async def login(http: httpx.AsyncClient, email: str, password: str = WRONG) -> httpx.Response:
    return await http.post("/auth/login", json={"email": email, "password": password})


async def login_from(app: Litestar, address: str, email: str, password: str = WRONG) -> httpx.Response:
    async with browser(app, address) as http:
        return await login(http, email, password)


def statuses(answers: list[httpx.Response]) -> Counter[int]:
    return Counter(answer.status_code for answer in answers)


def assert_too_many(answer: httpx.Response) -> int:
    """A 429 as the contract wants it; answers the seconds to wait."""
    assert answer.status_code == 429
    assert answer.headers["content-type"] == "application/problem+json"
    assert (answer.headers["cache-control"], answer.headers["pragma"]) == ("no-store", "no-cache")
    assert answer.json() == {
        "type": "urn:vestibule:problem:too_many_requests",
        "title": "Too many requests",
        "detail": "Too many attempts. Wait before you try again.",
        "status": 429,
        "code": "too_many_requests",
    }
    assert answer.headers["retry-after"].isdecimal()
    return int(answer.headers["retry-after"])


# Three budgets


@pytest.mark.standard("RL-02", "RL-13", "RL-16")
async def test_one_network_at_one_name_has_its_tries_and_then_waits(
    door: Litestar, strict: Services, clock: TestClock, checks: Counter[str]
) -> None:
    person = await with_account(strict)
    async with browser(door) as http:
        answers = [await login(http, person.email) for _ in range(PAIR + 2)]
        assert statuses(answers) == {401: PAIR, 429: 2}
        assert checks["verify"] == PAIR
        wait = assert_too_many(answers[-1])
        assert 0 < wait <= 15 * 60 / PAIR
        assert_too_many(await login(http, person.email, person.password))  # being right does not help now
        assert checks["verify"] == PAIR

        await clock.advance(seconds=wait)
        assert (await login(http, person.email)).status_code == 401
        assert_too_many(await login(http, person.email))


@pytest.mark.standard("RL-02", "RL-13")
async def test_one_network_has_its_tries_at_all_names_together(door: Litestar, clock: TestClock) -> None:
    async with browser(door) as http:
        answers = [await login(http, somebody().email) for _ in range(NETWORK + 2)]
        assert statuses(answers) == {401: NETWORK, 429: 2}
        wait = assert_too_many(answers[-1])
        assert 0 < wait <= 3600 / NETWORK
        await clock.advance(seconds=wait)
        assert (await login(http, somebody().email)).status_code == 401
    async with browser(door) as elsewhere:
        assert (await login(elsewhere, somebody().email)).status_code == 401


@pytest.mark.standard("RL-02", "RL-13")
async def test_one_name_has_its_tries_from_everywhere_together(
    door: Litestar, strict: Services, checks: Counter[str]
) -> None:
    person = await with_account(strict)
    answers = [await login_from(door, new_address(), person.email) for _ in range(ACCOUNT + 2)]

    assert statuses(answers) == {401: ACCOUNT, 429: 2}
    assert checks["verify"] == ACCOUNT
    assert 0 < assert_too_many(answers[-1]) <= 3600 / ACCOUNT


@pytest.mark.standard("RL-02")
async def test_address_and_spelling_make_no_second_budget(door: Litestar, strict: Services) -> None:
    person = await with_account(strict)
    spellings = [person.email, person.email.upper(), person.email.title(), person.email.replace("e", "E")]
    answers = [await login_from(door, new_address(), spellings[i % 4]) for i in range(ACCOUNT + 2)]

    assert statuses(answers) == {401: ACCOUNT, 429: 2}


@pytest.mark.standard("RL-02", "RL-14")
async def test_address_and_nickname_of_an_account_have_a_budget_each_and_no_more(
    door: Litestar, strict: Services, checks: Counter[str]
) -> None:
    """One budget for both would tell a stranger which address belongs to which nickname."""
    person = await with_account(strict)
    for i in range(3 * ACCOUNT):
        name = {"email": person.email} if i % 2 else {"nickname": person.nickname}
        async with browser(door) as http:
            await http.post("/auth/login", json={"password": WRONG, **name})

    assert checks["verify"] == 2 * ACCOUNT


@pytest.mark.standard("RL-14", "LG-14")
async def test_the_limits_are_the_same_for_who_exists_and_who_does_not(door: Litestar, strict: Services) -> None:
    existing, pending = await with_account(strict), somebody()
    async with browser(door) as http:
        body = {"email": pending.email, "password": pending.password, "nickname": pending.nickname}
        assert (await http.post("/auth/register", json=body)).status_code == 202

    def shape(answer: httpx.Response) -> tuple[object, ...]:
        headers = {n: v for n, v in answer.headers.items() if n not in {"x-request-id", "retry-after"}}
        return answer.status_code, headers, answer.content, "retry-after" in answer.headers

    seen = []
    waits = []
    for email in (existing.email, pending.email, somebody().email, f"no address {somebody().nickname}"):
        async with browser(door) as http:
            near = [await login(http, email) for _ in range(PAIR + 1)]
        far = [await login_from(door, new_address(), email) for _ in range(ACCOUNT)]
        seen.append([shape(answer) for answer in near + far])
        waits.append([int(answer.headers.get("retry-after", "0")) for answer in near + far])
    assert [each == seen[0] for each in seen] == [True] * 4
    for wait in waits:
        # A try more or less would be five minutes; a hash takes its time.
        assert all(abs(ours - theirs) <= 30 for ours, theirs in zip(waits[0], wait, strict=True))


@pytest.mark.standard("RL-06")
async def test_a_success_forgives_the_tries_at_its_own_name_and_nothing_else(door: Litestar, strict: Services) -> None:
    person, other = await with_account(strict), await with_account(strict)
    async with browser(door) as http:
        for _ in range(PAIR - 1):
            assert (await login(http, other.email)).status_code == 401
            assert (await login(http, person.email)).status_code == 401
        assert (await login(http, person.email, PASSWORD)).status_code == 200  # the fifth of this network
        assert (await login(http, other.email)).status_code == 401
        assert_too_many(await login(http, other.email))  # counted as before; the seventh
        assert (await login(http, person.email)).status_code == 401
        assert_too_many(await login(http, person.email))  # the network is out of tries, whoever succeeded


@pytest.mark.standard("RL-06")
async def test_a_right_password_of_a_disabled_or_pending_person_is_no_way_around_the_limits(
    door: Litestar, strict: Services
) -> None:
    person = await with_account(strict)
    async with browser(door) as http:
        answers = []
        for _ in range(NETWORK):
            answers.append(await login(http, person.email, PASSWORD))
            answers.append(await login(http, somebody().email))
    assert statuses(answers)[429] == NETWORK


@pytest.mark.standard("RL-07", "RL-01")
async def test_strangers_delay_an_owner_and_do_not_lock_them_out(
    door: Litestar, strict: Services, clock: TestClock
) -> None:
    person = await with_account(strict)
    for _ in range(ACCOUNT + 5):
        await login_from(door, new_address(), person.email)

    async with browser(door) as http:
        wait = assert_too_many(await login(http, person.email, PASSWORD))
        assert wait <= 3600 / ACCOUNT
        await clock.advance(seconds=wait)
        assert (await login(http, person.email, PASSWORD)).status_code == 200
        assert (await login(http, person.email, PASSWORD)).status_code == 200  # and is not slowed down any more


@pytest.mark.standard("RL-07")
async def test_strangers_do_not_even_delay_an_owner_where_they_signed_in_before(
    door: Litestar, strict: Services
) -> None:
    person, home = await with_account(strict), new_address()
    assert (await login_from(door, home, person.email, PASSWORD)).status_code == 200
    answers = [await login_from(door, new_address(), person.email) for _ in range(ACCOUNT + 5)]
    assert statuses(answers) == {401: ACCOUNT, 429: 5}

    assert (await login_from(door, home, person.email, PASSWORD)).status_code == 200
    # Being known there is no licence to guess.
    guesses = [await login_from(door, home, person.email) for _ in range(PAIR + 2)]
    assert statuses(guesses) == {401: PAIR, 429: 2}


@pytest.mark.standard("RL-16", "RL-02")
@pytest.mark.parametrize(("from_one_network", "expected"), [(True, PAIR), (False, ACCOUNT)])
async def test_of_two_hundred_tries_at_once_exactly_the_allowed_are_compared(
    door: Litestar, strict: Services, checks: Counter[str], from_one_network: bool, expected: int
) -> None:
    person, here = await with_account(strict), new_address()
    tries = [login_from(door, here if from_one_network else new_address(), person.email) for _ in range(200)]
    answers = await asyncio.gather(*tries)

    assert statuses(answers) == {401: expected, 429: 200 - expected}
    assert checks["verify"] == expected


@pytest.mark.standard("RL-02")
async def test_one_network_with_one_password_for_five_hundred_people_is_stopped(
    door: Litestar, checks: Counter[str]
) -> None:
    async with browser(door) as http:
        answers = [await login(http, f"{i}.{somebody().email}", PASSWORD) for i in range(500)]

    assert [answer.status_code for answer in answers] == [401] * NETWORK + [429] * (500 - NETWORK)
    assert checks["verify"] == NETWORK


@pytest.mark.standard("RL-02")
async def test_five_hundred_networks_at_one_person_are_stopped(
    door: Litestar, strict: Services, checks: Counter[str]
) -> None:
    person = await with_account(strict)
    addresses = [f"10.{i % 7}.{i // 250}.{i % 250 + 1}" for i in range(500)]
    answers = [await login_from(door, address, person.email) for address in addresses]

    assert [answer.status_code for answer in answers] == [401] * ACCOUNT + [429] * (500 - ACCOUNT)
    assert checks["verify"] == ACCOUNT


@pytest.mark.standard("RL-03")
async def test_sign_up_and_proof_have_limits_of_their_own(
    environ: dict[str, str], services: Services, wall_clock: TestClock, outbox: Outbox
) -> None:
    few = {"REGISTER_NETWORK": "2/h", "GUESS_NETWORK": "3/h", "MAIL_NETWORK": "4/h"}
    settings = load({**environ, **{f"VESTIBULE_LIMIT_{name}": rate for name, rate in few.items()}})
    async with worker(settings, wall_clock, outbox) as strict, browser(create_app(strict)) as http:
        people = [somebody() for _ in range(4)]
        bodies = [{"email": p.email, "password": p.password, "nickname": p.nickname} for p in people]
        answers = [await http.post("/auth/register", json=body) for body in bodies]
        assert statuses(answers) == {202: 2, 429: 2}
        assert 0 < assert_too_many(answers[-1]) <= 1800
        proof = {"registration": "vrg_nothing", "code": "000000"}
        answers = [await http.post("/auth/verify", json=proof) for _ in range(3)]
        assert statuses(answers) == {400: 3}
        # Codes, links and passwords are one budget: whoever is out of tries at one is at all of them.
        link = {"token": "vlk_nothing"}
        for path, body in (
            ("/auth/verify", proof),
            ("/auth/verify", {**link, "registration": "vrg_nothing"}),
            ("/auth/verify", {**link, "password": PASSWORD}),
            ("/auth/password/reset", {"token": "vpr_nothing", "password": PASSWORD}),
            ("/auth/login", people[0].credentials()),
        ):
            assert 0 < assert_too_many(await http.post(path, json=body)) <= 1200, body
        resend, forgot = {"registration": "vrg_nothing"}, {"email": somebody().email}
        answers = [
            await http.post(path, json=body)
            for path, body in [("/auth/verify/resend", resend), ("/auth/password/forgot", forgot)] * 3
        ]
        assert statuses(answers) == {202: 4, 429: 2}
        assert 0 < assert_too_many(answers[-1]) <= 900


# Whose tries they are


@pytest.mark.standard("RL-09")
async def test_the_addresses_of_one_ipv6_customer_are_one_network(door: Litestar) -> None:
    prefix = new_address().removesuffix("::1")
    addresses = [f"{prefix}:{i:x}:{i * 77:x}:abcd:{i:x}" for i in range(1, NETWORK + 3)]
    answers = [await login_from(door, address, somebody().email) for address in addresses]

    assert [answer.status_code for answer in answers] == [401] * NETWORK + [429] * 2
    neighbour = await login_from(door, new_address(), somebody().email)
    assert neighbour.status_code == 401


@pytest.mark.standard("RL-09")
@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:DB8:1:2::", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("unknown", "unknown"),
    ],
)
def test_a_network_is_an_ipv4_address_or_a_64(address: str, network: str) -> None:
    assert Device.seen(address, "").network == network


@contextmanager
def served(app: Litestar, settings: Any) -> Iterator[str]:
    """The address of uvicorn, run as in production."""
    listening = socket.create_server(("127.0.0.1", 0))
    port: int = listening.getsockname()[1]
    running = uvicorn.Server(uvicorn.Config(app, **options(settings, "127.0.0.1", port)))
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    try:
        deadline = time.monotonic() + 60
        while not running.started and time.monotonic() < deadline:
            time.sleep(0.02)
        assert running.started
        yield f"http://127.0.0.1:{port}"
    finally:
        running.should_exit = True
        thread.join(60)
    assert not thread.is_alive()


@pytest.fixture
def behind(services: Services, environ: dict[str, str], wall_clock: TestClock, outbox: Outbox) -> Callable[[str], Any]:
    """A real server behind these trusted proxies. Its oldest root key is its own, and so are its counters."""

    def serve(proxies: str) -> Any:
        keys = f"{environ['VESTIBULE_KEYS']},{root_key(0)}"
        more = {"VESTIBULE_KEYS": keys, "VESTIBULE_TRUSTED_PROXIES": proxies}
        settings = load({**environ, **SMALL, **more})
        built = build(settings, clock=wall_clock, mail=lambda _: outbox, scripts=shifted)
        return served(create_app(built), settings)

    return serve


SPOOFS = ("X-Forwarded-For", "X-Real-IP", "Forwarded", "X-Client-IP", "CF-Connecting-IP", "True-Client-IP", "X-User-Id")


def spoofed(i: int) -> dict[str, str]:
    return {name: f"for=198.51.100.{i}" if name == "Forwarded" else f"198.51.100.{i}" for name in SPOOFS}


@pytest.mark.standard("RL-09", "RL-10")
@pytest.mark.parametrize("proxies", ["", "10.0.0.0/8"])
async def test_a_peer_that_is_no_trusted_proxy_cannot_choose_its_address(
    behind: Callable[[str], Any], services: Services, proxies: str
) -> None:
    seen = somebody().nickname
    with behind(proxies) as url:
        async with httpx.AsyncClient(base_url=url, headers={"User-Agent": seen}) as http:
            answers = [
                await http.post(
                    "/auth/login", json={"email": somebody().email, "password": WRONG}, headers=spoofed(i + 1)
                )
                for i in range(NETWORK + 2)
            ]
    assert [answer.status_code for answer in answers] == [401] * NETWORK + [429] * 2
    assert await audited_addresses(services, seen) == {"127.0.0.1"}


@pytest.mark.standard("RL-09", "RL-10")
async def test_a_trusted_proxy_is_believed_about_the_last_hop_and_no_further(
    behind: Callable[[str], Any], services: Services
) -> None:
    seen = somebody().nickname
    with behind("127.0.0.1") as url:
        async with httpx.AsyncClient(base_url=url, headers={"User-Agent": seen}) as http:

            async def through_proxy(claimed: str) -> int:
                body = {"email": somebody().email, "password": WRONG}
                return (await http.post("/auth/login", json=body, headers={"X-Forwarded-For": claimed})).status_code

            everyone = [await through_proxy(f"203.0.113.{i}") for i in range(1, NETWORK + 4)]
            spoofing = [await through_proxy(f"198.51.100.{i}, 192.0.2.9") for i in range(1, NETWORK + 3)]
    assert everyone == [401] * len(everyone)
    assert spoofing == [401] * NETWORK + [429] * 2
    addresses = await audited_addresses(services, seen)
    assert "192.0.2.9" in addresses
    assert not any(address.startswith("198.51.100.") for address in addresses)


async def audited_addresses(services: Services, user_agent: str) -> set[str]:
    """Where a user agent was seen; the server has stopped, so everything is written."""
    statement = text("SELECT address FROM audit_events WHERE user_agent = :a")
    async with services.database.begin() as transaction:
        return set((await transaction.scalars(statement, {"a": user_agent})).all())


# Without the store that counts


@pytest.mark.standard("RL-15")
async def test_without_redis_nobody_signs_in_and_no_password_is_compared(
    services: Services,
    environ: dict[str, str],
    wall_clock: TestClock,
    outbox: Outbox,
    checks: Counter[str],
) -> None:
    person = await with_account(services)
    async with browser(create_app(services)) as http:
        entered = await http.post("/auth/login", json=person.credentials())
    bearer = {"Authorization": f"Bearer {entered.json()['access_token']}"}
    checks.clear()
    away = load({**environ, "REDIS_URL": "unix:///nonexistent/redis.sock"})
    await services.mailer.drain()
    mails = len(outbox.mails)
    register = {"email": somebody().email, "password": PASSWORD, "nickname": somebody().nickname}
    async with worker(away, wall_clock, outbox) as cut_off, browser(create_app(cut_off)) as http:
        for path, body in [
            *[("/auth/login", person.credentials())] * 15,
            ("/auth/login", {"nickname": person.nickname, "password": WRONG}),
            ("/auth/register", register),
            ("/auth/verify", {"registration": "vrg_nothing", "code": "000000"}),
            ("/auth/verify", {"token": "vlk_nothing", "password": PASSWORD}),
            ("/auth/verify/resend", {"registration": "vrg_nothing"}),
            ("/auth/password/forgot", {"email": person.email}),
            ("/auth/password/reset", {"token": "vpr_nothing", "password": PASSWORD}),
            ("/auth/reauthenticate", {"password": person.password}),
            ("/me/password", {"current_password": person.password, "new_password": WRONG}),
            ("/me/email", {"email": somebody().email, "password": person.password}),
        ]:
            answer = await http.post(path, json=body, headers=bearer)
            assert (answer.status_code, answer.json()["code"]) == (503, "temporarily_unavailable"), path
            assert int(answer.headers["retry-after"]) > 0
            assert answer.headers["cache-control"] == "no-store"
        assert (await http.get("/livez")).status_code == 200
    assert not checks
    assert len(outbox.mails) == mails
