"""Who asks while a fault happens: services that introspect at a steady pace, people who refresh, come and go."""

import asyncio
import base64
import json
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count, cycle
from typing import Any

import httpx

from deploy.faults.world import EMAIL, PASSWORD, VISITOR, House

BEAT = 0.01
"""Seconds between two introspections; they do not wait for one another."""
REFRESHES, LOGINS, LOGOUTS = 20, 60, 40
"""Every so many beats one of these."""
STAY, RENEW, LEAVE = 8, 4, 14
AT_ONCE, SIGN_IN_TRIES = 8, 5
"""How the crowd comes in: a machine that is busy with something else must not look like a fault."""


@dataclass(slots=True)
class Person:
    """One session; its refresh token changes."""

    access: str
    refresh: str
    is_asking: bool = False

    @property
    def jti(self) -> str:
        """The id of the access token."""
        return str(claims(self.access)["jti"])


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer; the status is 0 when there was none, `wrong` says what nobody may ever be told."""

    kind: str
    at: float
    status: int
    seconds: float
    wrong: str = ""


@dataclass(frozen=True, slots=True)
class Answers:
    """Some of the answers."""

    all: tuple[Answer, ...]

    def of(self, *kinds: str) -> "Answers":
        return Answers(tuple(answer for answer in self.all if answer.kind in kinds))

    def between(self, began: float, ended: float) -> "Answers":
        """Those to requests that were sent then."""
        return Answers(tuple(answer for answer in self.all if began <= answer.at < ended))

    def within(self, began: float, ended: float) -> "Answers":
        """Those that were asked for and came then."""
        inside = (answer for answer in self.all if began <= answer.at and answer.at + answer.seconds <= ended)
        return Answers(tuple(inside))

    def statuses(self) -> Counter[int]:
        return Counter(answer.status for answer in self.all)

    def slowest(self, share: float = 1.0) -> float:
        """Seconds, without the slowest when `share` is less than 1."""
        times = sorted(answer.seconds for answer in self.all)
        return times[min(int(len(times) * share), len(times) - 1)] if times else 0.0

    def told(self) -> str:
        """`introspect 200x612 503x3, …`."""
        parts = []
        for kind in sorted({answer.kind for answer in self.all}):
            found = self.of(kind)
            counts = " ".join(f"{status or 'none'}x{n}" for status, n in sorted(found.statuses().items()))
            parts.append(f"{kind} {counts}")
        return ", ".join(parts)


@dataclass
class Crowd:
    """Sessions that only live, sessions that refresh, and sessions that end while the fault lasts: acknowledged, or
    answered with 503."""

    stay: list[Person]
    renew: list[Person]
    leave: list[Person]
    gone: list[Person] = field(default_factory=list)
    put_off: list[Person] = field(default_factory=list)

    @classmethod
    def gather(cls, house: House, leave: int = LEAVE) -> "Crowd":
        """Signs them in."""
        people = signed_in(house, STAY + RENEW + leave)
        return cls(people[:STAY], people[STAY : STAY + RENEW], people[STAY + RENEW :])


USUAL = 0.03
"""Seconds of the slowest introspection in a hundred on a machine that does nothing else."""


class Load:
    """Asks from a thread of its own for the length of a `with` block."""

    def __init__(self, house: House, crowd: Crowd, url: str = "", logins: bool = True) -> None:
        self.house, self.crowd = house, crowd
        self.began, self.ended = math.inf, math.inf
        self._url, self._logins = url or house.service.url, logins
        self._answers: list[Answer] = []
        self._end = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._ask_on()), daemon=True)

    def __enter__(self) -> "Load":
        self._thread.start()
        time.sleep(1)
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join(40)

    @property
    def answers(self) -> Answers:
        """All so far."""
        return Answers(tuple(self._answers))

    @property
    def meanwhile(self) -> Answers:
        """Those to requests that were sent while the fault lasted."""
        return self.answers.between(self.began, self.ended)

    @property
    def slowness(self) -> float:
        """By how much everything takes longer here than usual, before the fault: promises of time are so much wider."""
        return max(1.0, self.answers.of("introspect").between(0, self.began).slowest(0.99) / USUAL)

    @contextmanager
    def fault(self) -> Iterator[None]:
        """Marks when the fault lasted."""
        self.began = time.monotonic()
        yield
        self.ended = time.monotonic()

    async def _ask_on(self) -> None:
        limits = httpx.Limits(max_connections=1000, max_keepalive_connections=200)
        asked: set[asyncio.Task[Any]] = set()
        stay, renew = cycle(self.crowd.stay), cycle(self.crowd.renew)
        async with httpx.AsyncClient(base_url=self._url, timeout=30, limits=limits) as http:
            started = time.monotonic()
            for beat in count():
                if self._end.is_set():
                    break
                for request in self._due(http, beat, stay, renew):
                    task = asyncio.create_task(request)
                    asked.add(task)
                    task.add_done_callback(asked.discard)
                await asyncio.sleep(max(0.0, started + beat * BEAT - time.monotonic()))
            await asyncio.gather(*asked)

    def _due(
        self, http: httpx.AsyncClient, beat: int, stay: Iterator[Person], renew: Iterator[Person]
    ) -> Iterable[Coroutine[Any, Any, object]]:
        yield self._introspect(http, next(stay))
        if beat % REFRESHES == 0 and not (person := next(renew)).is_asking:
            yield self._refresh(http, person)
        if beat % LOGINS == 0 and self._logins:
            yield self._ask(http, "login", "/auth/login", login_refused, json=login_body())
        if beat % LOGOUTS == 0 and self.crowd.leave and self.began <= time.monotonic() < self.ended:
            yield self._logout(http, self.crowd.leave.pop())

    async def _introspect(self, http: httpx.AsyncClient, person: Person) -> None:
        headers = {"Authorization": self.house.basic}
        jti = person.jti

        def wrong(answer: httpx.Response) -> str:
            return wrong_introspection(answer, jti)

        await self._ask(http, "introspect", "/introspect", wrong, data={"token": person.access}, headers=headers)

    async def _refresh(self, http: httpx.AsyncClient, person: Person) -> None:
        person.is_asking = True
        answer = await self._ask(http, "refresh", "/auth/refresh", refused, json={"refresh_token": person.refresh})
        if answer is not None and answer.status_code == httpx.codes.OK:
            person.access, person.refresh = answer.json()["access_token"], answer.json()["refresh_token"]
        person.is_asking = False

    async def _logout(self, http: httpx.AsyncClient, person: Person) -> None:
        answer = await self._ask(http, "logout", "/auth/logout", refused, json={"refresh_token": person.refresh})
        if answer is not None and answer.status_code == httpx.codes.NO_CONTENT:
            self.crowd.gone.append(person)
        if answer is not None and answer.status_code == httpx.codes.SERVICE_UNAVAILABLE:
            self.crowd.put_off.append(person)

    async def _ask(
        self, http: httpx.AsyncClient, kind: str, path: str, wrong: Callable[[httpx.Response], str], **request: Any
    ) -> httpx.Response | None:
        at = time.monotonic()
        try:
            answer = await http.post(path, **request)
        except httpx.HTTPError as error:
            self._answers.append(Answer(kind, at, 0, time.monotonic() - at, f"{type(error).__name__}"))
            return None
        self._answers.append(Answer(kind, at, answer.status_code, time.monotonic() - at, wrong(answer)))
        return answer


def wrong_introspection(answer: httpx.Response, jti: str) -> str:
    """What is wrong with the answer for a live token: an outage may be admitted, nothing else."""
    if answer.status_code == httpx.codes.SERVICE_UNAVAILABLE:
        return no_retry_after(answer)
    if answer.status_code != httpx.codes.OK:
        return f"introspect {answer.status_code}"
    told = answer.json()
    if not told["active"]:
        return "a live token was inactive"
    return "" if told["jti"] == jti else "the answer of somebody else"


def refused(answer: httpx.Response) -> str:
    """What is wrong with the answer for a live refresh token."""
    if answer.status_code == httpx.codes.SERVICE_UNAVAILABLE:
        return no_retry_after(answer)
    return "" if answer.is_success else f"a live refresh token met {answer.status_code}"


def login_refused(answer: httpx.Response) -> str:
    """What is wrong with the answer to the right password."""
    if answer.status_code == httpx.codes.SERVICE_UNAVAILABLE:
        return no_retry_after(answer)
    return "" if answer.is_success else f"the right password met {answer.status_code}"


def no_retry_after(answer: httpx.Response) -> str:
    """A 503 says when to come back."""
    return "" if "retry-after" in answer.headers else "503 without Retry-After"


def login_body(email: str = VISITOR) -> dict[str, str]:
    """Of somebody with an account."""
    return {"email": email, "password": PASSWORD}


def signed_in(house: House, number: int) -> list[Person]:
    """So many sessions."""

    async def gather() -> list[Person]:
        gate = asyncio.Semaphore(AT_ONCE)
        async with httpx.AsyncClient(base_url=house.service.url, timeout=30) as http:

            async def one() -> Person:
                async with gate:
                    for _ in range(SIGN_IN_TRIES):
                        answer = await http.post("/auth/login", json=login_body(EMAIL))
                        if answer.status_code != httpx.codes.SERVICE_UNAVAILABLE:
                            break
                        await asyncio.sleep(1)
                answer.raise_for_status()
                return Person(answer.json()["access_token"], answer.json()["refresh_token"])

            return list(await asyncio.gather(*(one() for _ in range(number))))

    return asyncio.run(gather())


def claims(token: str) -> dict[str, Any]:
    """What a token says, unverified."""
    return _part(token, 1)


def header(token: str) -> dict[str, Any]:
    """Which key it names."""
    return _part(token, 0)


def _part(token: str, number: int) -> dict[str, Any]:
    text = token.split(".")[number]
    told: dict[str, Any] = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    return told
