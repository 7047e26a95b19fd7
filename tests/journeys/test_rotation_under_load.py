"""Signing keys turn over three times under load, and nobody notices.

Three kinds of clients work without a pause: services that introspect, people who refresh, and services that verify by
themselves with a JWKS that they keep for exactly its max-age. Time moves on beneath them in steps of one `key_refresh`,
and each worker reads its keys once in a step, as in production: that a machine is slow changes nothing.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from datetime import timedelta
from itertools import count
from typing import Any

import httpx
import jwt
import pytest

from service.app import create_app
from service.settings import Settings
from service.wiring import Services
from tests.conftest import Introspector, Outbox, Servers, TestClock, browser, worker
from tests.deeds import registered, sign_in, with_account
from tests.tokens.two_workers import JWKS, Verifier, kid_of, settings_of_ones_own

REFRESH = 5
MAX_AGE = 60
LIFE = 120
STEPS_OF_A_TURN = MAX_AGE // REFRESH + 8
"""Until the next key signs for sure, and a little longer."""
STEPS_OF_THE_REST = (LIFE + 30 + MAX_AGE) // REFRESH + 4
"""Until the key before is gone."""


@pytest.fixture(scope="module")
def own_settings(servers: Servers, environ: dict[str, str]) -> Iterator[Settings]:
    short = {"KEY_REFRESH": REFRESH, "JWKS_MAX_AGE": MAX_AGE, "ACCESS_TOKEN_LIFE": LIFE, "KEY_ROTATION": 0}
    with settings_of_ones_own(
        servers, environ, **{f"VESTIBULE_{name}": str(value) for name, value in short.items()}
    ) as own:
        yield own


@dataclass
class Load:
    """Clients that do not stop, the workers that serve them, and everything that went wrong."""

    clock: TestClock
    caller: Introspector
    serving: list[tuple[Services, httpx.AsyncClient]]
    refresh_token: str
    tokens: list[str] = field(default_factory=list)
    verifiers: list[Verifier] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    checks: int = 0
    signers: list[str] = field(default_factory=list)
    _turns: Iterator[int] = field(default_factory=count)

    def somewhere(self) -> httpx.AsyncClient:
        """Whichever worker is next."""
        return self.serving[next(self._turns) % len(self.serving)][1]

    async def introspect(self) -> None:
        """The newest token, and the oldest that has not ended."""
        for token in {self.tokens[0], self.tokens[-1]}:
            self.checks += 1
            told = await self.caller.ask(self.somewhere(), token)
            if told != {**told, "active": True} and self.lives(token):
                self.failures.append(f"inactive: {kid_of(token)}")

    async def refresh(self) -> None:
        """The next tokens of one session, from whichever worker."""
        answer = await self.somewhere().post("/auth/refresh", json={"refresh_token": self.refresh_token})
        if answer.status_code != 200:
            self.failures.append(f"refresh: {answer.text}")
            return
        self.refresh_token, token = answer.json()["refresh_token"], answer.json()["access_token"]
        self.tokens = [*filter(self.lives, self.tokens), token]
        if kid_of(token) not in self.signers:
            self.signers.append(kid_of(token))

    async def verify(self) -> None:
        """Each of those who verify alone looks at the newest token, and at the oldest."""
        for verifier in self.verifiers:
            for token in (self.tokens[-1], self.tokens[0]):
                self.checks += 1
                try:
                    await verifier.verify(token)
                except (KeyError, jwt.PyJWTError) as error:
                    if self.lives(token):
                        self.failures.append(f"verify: {type(error).__name__} {kid_of(token)}")

    def lives(self, token: str) -> bool:
        """Whether a token has not ended by the clock of this moment."""
        claims: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
        return int(claims["exp"]) > self.clock().timestamp()

    async def pass_time(self, steps: int, *also: Awaitable[object]) -> None:
        """Lets time pass while everybody works: in each step every worker reads its keys, some time."""
        deeds = list(also)
        for number in range(steps):
            reading = [services.signing_keys.reload() for services, _ in self.serving]
            asking = [self.introspect(), self.refresh(), self.verify(), self.introspect(), self.verify()]
            passing = self.clock.advance(seconds=REFRESH)
            at_once = [*asking[: number % 5], *deeds, passing, *reading, *asking[number % 5 :]]
            await asyncio.gather(*at_once)
            deeds = []


@pytest.fixture
async def workers(
    own_settings: Settings, clock: TestClock, outbox: Outbox
) -> AsyncIterator[Callable[[], Awaitable[tuple[Services, httpx.AsyncClient]]]]:
    """Starts one more worker."""
    async with AsyncExitStack() as stack:

        async def start() -> tuple[Services, httpx.AsyncClient]:
            services = await stack.enter_async_context(worker(own_settings, clock, outbox))
            return services, await stack.enter_async_context(browser(create_app(services)))

        yield start


@pytest.mark.standard("KY-26", "KY-30", "IN-09")
async def test_three_turns_under_load_while_workers_come_and_go_fail_nobody(
    workers: Callable[[], Awaitable[tuple[Services, httpx.AsyncClient]]], clock: TestClock
) -> None:
    serving = [await workers()]
    first, http = serving[0]
    await first.signing_keys.ensure()
    await first.client_administration.ensure_front_end()
    serving.append(await workers())
    caller = Introspector("svc", await registered(first, "svc"))
    tokens = (await sign_in(http, await with_account(first))).json()
    load = Load(clock, caller, serving, tokens["refresh_token"], [tokens["access_token"]])
    load.verifiers = [Verifier(client, clock, timedelta(seconds=MAX_AGE)) for _, client in serving]

    await load.pass_time(4)
    load.verifiers += [replace(each, fetched_at=None) for each in load.verifiers]  # they ask anew at other moments
    await load.pass_time(6, first.signing_keys.rotate())
    serving.append(await workers())  # in the middle of the turn
    load.verifiers.append(Verifier(serving[-1][1], clock, timedelta(seconds=MAX_AGE)))
    await load.pass_time(STEPS_OF_A_TURN - 6)
    assert (len(load.signers), load.failures) == (2, [])

    await load.pass_time(STEPS_OF_A_TURN, serving[-1][0].signing_keys.rotate())
    assert (len(load.signers), load.failures) == (3, [])

    await load.pass_time(3, *(services.signing_keys.rotate() for services, _ in serving))
    serving.pop(0)  # one worker less
    await load.pass_time(STEPS_OF_A_TURN - 3 + STEPS_OF_THE_REST)
    assert (len(load.signers), load.failures) == (4, [])
    shown = {key["kid"] for key in (await serving[0][1].get(JWKS)).json()["keys"]}
    assert shown & set(load.signers) == {load.signers[-1]}
    assert load.checks > 500
