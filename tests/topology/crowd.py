"""People who refresh, are introspected and sign out while something happens to Redis, and what they were told."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import httpx

from service.accounts.models import Account
from service.app import create_app
from service.wiring import Services
from tests.conftest import PASSWORD, Introspector, browser, somebody
from tests.tokens.acting import admitted, is_active, refresh

ACCOUNTS = 6
STAYING, LEAVING = 4, 12
"""Sessions of each account: those that go on to the end, and those that sign out on the way."""
BREATH = 0.03
"""Seconds between two deeds of the same person."""
MOST_TRIES = 2000


@dataclass
class Holder:
    """One session, and the tokens its holder has."""

    access_token: str
    refresh_token: str


@dataclass
class Crowd:
    """`told` counts answers by deed and status; `dead` are those whose sign-out was acknowledged."""

    http: httpx.AsyncClient
    introspector: Introspector
    staying: list[Holder]
    leaving: list[Holder]
    told: Counter[tuple[str, str]] = field(default_factory=Counter)
    dead: list[Holder] = field(default_factory=list)
    is_over: bool = False

    async def stays(self, holder: Holder) -> None:
        """Refreshes and is introspected, again and again."""
        while not self.is_over:
            await self.refreshes(holder)
            await self.is_introspected(holder)
            await asyncio.sleep(BREATH)

    async def refreshes(self, holder: Holder) -> bool:
        answer = await refresh(self.http, holder.refresh_token)
        self.told["refresh", str(answer.status_code)] += 1
        if answer.status_code == 200:
            tokens = answer.json()
            holder.access_token, holder.refresh_token = tokens["access_token"], tokens["refresh_token"]
        return answer.status_code == 200

    async def is_introspected(self, holder: Holder) -> None:
        asked = {"token": holder.access_token}
        caller = (self.introspector.client_id, self.introspector.secret)
        answer = await self.http.post("/introspect", data=asked, auth=caller)
        told = str(answer.json()["active"]) if answer.status_code == 200 else str(answer.status_code)
        self.told["introspect", told] += 1

    async def sign_out(self, most: int) -> None:
        """As many as this, one after another; who is told 503 is not counted as signed out."""
        for holder in self._next(most):
            answer = await self.http.post("/auth/logout", json={"refresh_token": holder.refresh_token})
            self.told["logout", str(answer.status_code)] += 1
            if answer.status_code == 204:
                self.dead.append(holder)

    async def go_on(self, seconds: float) -> None:
        """Lets them act for a while, some signing out all the time."""
        ends = asyncio.get_running_loop().time() + seconds
        while asyncio.get_running_loop().time() < ends:
            await self.sign_out(1)
            await asyncio.sleep(BREATH)

    async def recovered(self, within: float) -> float:
        """The seconds until everybody who stays was refreshed once more. Raises TimeoutError."""
        began = asyncio.get_running_loop().time()
        async with asyncio.timeout(within):
            for holder in self.staying:
                await self._refreshed(holder)
        return asyncio.get_running_loop().time() - began

    async def _refreshed(self, holder: Holder) -> None:
        for _ in range(MOST_TRIES):
            if await self.refreshes(holder):
                return
            await asyncio.sleep(BREATH)
        raise TimeoutError("nobody is refreshed")

    async def dead_that_live(self) -> int:
        """How many whose sign-out was acknowledged would still be let in."""
        alive = 0
        for holder in self.dead:
            answer = await refresh(self.http, holder.refresh_token)
            alive += answer.status_code != 401 or await is_active(self.http, self.introspector, holder.access_token)
        return alive

    def was_told_well(self) -> None:
        """Nobody was refused for good, and who asked for a token was always told that it is active."""
        assert {told for deed, told in self.told if deed == "refresh"} <= {"200", "503"}, self.told
        assert {told for deed, told in self.told if deed == "introspect"} == {"True"}, self.told
        assert {told for deed, told in self.told if deed == "logout"} <= {"204", "503"}, self.told

    def _next(self, most: int) -> Iterator[Holder]:
        for _ in range(min(most, len(self.leaving))):
            yield self.leaving.pop()


@asynccontextmanager
async def crowd(services: Services, introspector: Introspector) -> AsyncIterator[Crowd]:
    """They act until the block ends."""
    accounts = [await _somebody(services) for _ in range(ACCOUNTS)]
    staying = [await _holder(services, each) for each in accounts for _ in range(STAYING)]
    leaving = [await _holder(services, each) for each in accounts for _ in range(LEAVING)]
    async with browser(create_app(services)) as http:
        found = Crowd(http, introspector, staying, leaving)
        async with asyncio.TaskGroup() as acting:
            for holder in staying:
                acting.create_task(found.stays(holder))
            try:
                yield found
            finally:
                found.is_over = True
        for holder in staying:
            assert await found.refreshes(holder)
            await found.is_introspected(holder)
        found.was_told_well()


async def _somebody(services: Services) -> Account:
    person = somebody()
    return await services.administration.create(person.email, person.nickname, PASSWORD, ())


async def _holder(services: Services, account: Account) -> Holder:
    grant = await admitted(services, account)
    return Holder(grant.access_token, grant.refresh_token)
