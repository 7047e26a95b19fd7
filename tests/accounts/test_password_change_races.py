"""Changes of a password that race: with each other, and with sign-ins by the old one."""

import asyncio
from collections import Counter

import httpx
import pytest
from litestar import Litestar

from service.app import create_app
from service.settings import load
from service.wiring import Services
from tests.conftest import PASSWORD, Introspector, Outbox, Person, TestClock, browser, new_address, worker
from tests.deeds import OTHER, bearer, id_of, is_in, session_of, sign_in, with_account


async def change(http: httpx.AsyncClient, headers: dict[str, str], new: str = OTHER) -> httpx.Response:
    body = {"current_password": PASSWORD, "new_password": new}
    return await http.post("/me/password", json=body, headers=headers)


@pytest.mark.standard("SE-17", "SE-29")
async def test_of_two_changes_at_once_one_wins(
    app: Litestar, http: httpx.AsyncClient, http_of_second_worker: httpx.AsyncClient, services: Services
) -> None:
    for _ in range(10):
        person = await with_account(services)
        first, second = await session_of(app, person), await session_of(app, person)
        passwords = (OTHER, "mist under the distant mountain")

        answers = await asyncio.gather(
            change(http, first, passwords[0]), change(http_of_second_worker, second, passwords[1])
        )

        assert sorted(answer.status_code for answer in answers) == [204, 401]
        won = 0 if answers[0].status_code == 204 else 1
        entered = [(await sign_in(http, person, password=password)).status_code for password in passwords]
        assert entered == ([200, 401] if won == 0 else [401, 200])
        assert [await is_in(http, headers) for headers in (first, second)] == [won == 0, won == 1]


@pytest.mark.standard("SE-17", "SE-29", "LG-07")
async def test_no_session_of_the_old_password_outlives_a_change_however_they_race(
    services: Services,
    second_worker: Services,
    *,
    environ: dict[str, str],
    wall_clock: TestClock,
    outbox: Outbox,
    introspector: Introspector,
) -> None:
    """Forty rounds: a change, and sign-ins with the old password before, during and after it, in two workers."""
    lax = load({**environ, "VESTIBULE_LIMIT_GUESS_NETWORK": "100000/s"})
    outcomes: Counter[int] = Counter()
    async with (
        worker(lax, wall_clock, outbox) as third,
        browser(create_app(third)) as http,
        browser(create_app(second_worker), new_address()) as elsewhere,
    ):
        for turn in range(16):
            person = await with_account(services)
            headers = bearer(await sign_in(http, person))

            async def enter(delay: float, person: Person = person, turn: int = turn) -> httpx.Response:
                await asyncio.sleep(delay)
                async with browser(create_app(third if turn % 2 else second_worker)) as somewhere:
                    return await sign_in(somewhere, person)

            tries = [enter(0.03 * i * (1 + turn % 4) / 4) for i in range(5)]
            changed, *entered = await asyncio.gather(change(elsewhere, headers), *tries)

            assert changed.status_code == 204, changed.text
            outcomes.update(answer.status_code for answer in entered)
            for answer in entered:
                assert answer.status_code in {200, 401}, answer.text
                if answer.status_code == 200:
                    assert not await is_in(http, bearer(answer))
                    told = await introspector.ask(elsewhere, answer.json()["access_token"])
                    assert told == {"active": False}
            assert await is_in(http, headers)
            live = await services.sessions.live(await id_of(services, person))
            assert len(live) == 1
    assert outcomes[200]
    assert outcomes[401]
