"""Nobody learns who has an account: not by status, headers, cookies or text, and not by the work behind an answer.

Work is counted, not timed: the statements that PostgreSQL gets, the commands that Redis gets and the hashes, in their
order. Equal work has equal times; a clock could only show that it has not been found unequal today.
"""

import re
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import argon2
import httpx
import pytest
from litestar import Litestar
from sqlalchemy import event

from service.app import create_app
from service.settings import Settings
from service.wiring import Services, build
from tests.conftest import Outbox, Person, TestClock, begin_sign_up, browser, shifted, somebody
from tests.deeds import WRONG, sign_in, with_account
from tests.journeys.links import disable, enter, forged, forgot, links, verify

SAME_ID = {"X-Request-ID": "the-same-for-all"}
STRANGERS = "a stranger at the harbour"
KINDS = ("unknown", "known", "disabled", "unverified", "known, with a sign-up")


@dataclass
class Work:
    """What one worker asks of its stores and of its processor while it is watched."""

    done: dict[str, list[str]] | None = None

    def note(self, where: str, what: str) -> None:
        if self.done is not None:
            self.done.setdefault(where, []).append(what)

    @contextmanager
    def watched(self) -> Iterator[dict[str, list[str]]]:
        """What is done meanwhile, in its order at each place: what is asked of both stores at once has none."""
        done = self.done = {}
        try:
            yield done
        finally:
            self.done = None


@pytest.fixture(scope="module")
async def quiet(
    services: Services, settings: Settings, wall_clock: TestClock, outbox: Outbox
) -> AsyncIterator[Services]:
    """A worker with nothing going on in the background."""
    made = build(settings, clock=wall_clock, mail=lambda _: outbox, scripts=shifted)
    await made.signing_keys.reload()
    await made.clients.reload()
    yield made
    await made.close()


@pytest.fixture(scope="module")
async def door(quiet: Services) -> Litestar:
    return create_app(quiet)


@pytest.fixture
async def work(quiet: Services, door: Litestar, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Work]:
    """Every statement, command and hash of the quiet worker; its scripts are known to the server already."""
    await _warm_up(quiet, door)
    seen = Work()
    engine = quiet.database._engine.sync_engine
    nodes: Any = quiet.store._nodes
    plain = nodes.call

    def statement(_c: Any, _cursor: Any, sql: str, *_: Any) -> None:
        seen.note("postgres", sql.split("VALUES", maxsplit=1)[0])

    async def command(key: str, words: tuple[Any, ...], by_digest: bytes | None = None) -> Any:
        seen.note("redis", " ".join(map(str, words[: 2 if words[0] == "EVAL" else 1])))
        return await plain(key, words, by_digest)

    for name in ("hash", "verify"):
        original = getattr(argon2.PasswordHasher, name)

        def hashed(self: Any, *args: Any, name: str = name, original: Any = original, **more: Any) -> Any:
            seen.note("argon2", name)
            return original(self, *args, **more)

        monkeypatch.setattr(argon2.PasswordHasher, name, hashed)
    monkeypatch.setattr(nodes, "call", command)
    event.listen(engine, "before_cursor_execute", statement)
    yield seen
    event.remove(engine, "before_cursor_execute", statement)


async def _warm_up(quiet: Services, door: Litestar) -> None:
    async with browser(door) as http:
        person = await with_account(quiet)
        handle = await begin_sign_up(http, somebody())
        await verify(http, registration=handle, code="no code")
        await forgot(http, person.email)
        await sign_in(http, person, password=WRONG)
        await enter(http, person)
        await _ask_for(http, person, somebody().email)


async def of_kind(kind: str, app: Litestar, services: Services) -> Person:
    """A person of whom somebody would like to know whether they have an account."""
    person = somebody()
    if kind.startswith("known") or kind == "disabled":
        await with_account(services, person=person)
    if kind == "disabled":
        await disable(services, person)
    async with browser(app) as http:
        if kind == "unverified":
            await begin_sign_up(http, person)
        if kind.endswith("sign-up"):
            await begin_sign_up(http, Person(person.email, somebody().nickname, STRANGERS))
    return person


def everything(answer: httpx.Response) -> tuple[int, list[tuple[str, str]], str]:
    """An answer to the byte, but for the handle of a sign-up, which is random."""
    body = re.sub(r"vrg_[\w-]{40,}", lambda handle: f"vrg_{len(handle[0])}", answer.text)
    return answer.status_code, sorted(answer.headers.multi_items()), body


# What a stranger can ask about an address


async def _forgot(http: httpx.AsyncClient, person: Person) -> httpx.Response:
    return await http.post("/auth/password/forgot", json={"email": person.email}, headers=SAME_ID)


async def _register(http: httpx.AsyncClient, person: Person) -> httpx.Response:
    body = {"email": person.email, "password": STRANGERS, "nickname": somebody().nickname}
    return await http.post("/auth/register", json=body, headers=SAME_ID)


async def _login(http: httpx.AsyncClient, person: Person) -> httpx.Response:
    return await http.post("/auth/login", json={"email": person.email, "password": WRONG}, headers=SAME_ID)


async def _login_by_nickname(http: httpx.AsyncClient, person: Person) -> httpx.Response:
    return await http.post("/auth/login", json={"nickname": person.nickname, "password": WRONG}, headers=SAME_ID)


async def _ask_for(http: httpx.AsyncClient, asking: Person, address: str) -> httpx.Response:
    body = {"email": address, "password": asking.password}
    return await http.post("/me/email", json=body, headers={**SAME_ID, **asking.headers})


Question = Callable[[httpx.AsyncClient, Person], Awaitable[httpx.Response]]
QUESTIONS: dict[str, Question] = {
    "forgot": _forgot,
    "register": _register,
    "login": _login,
    "login by nickname": _login_by_nickname,
}


@pytest.mark.standard("LG-14")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("question", QUESTIONS)
async def test_the_answer_and_the_work_are_the_same_for_every_kind_of_address(
    door: Litestar, quiet: Services, work: Work, question: str, kind: str
) -> None:
    answers, efforts = [], []
    for person in (await of_kind("unknown", door, quiet), await of_kind(kind, door, quiet)):
        async with browser(door) as http:
            for _ in range(2):
                with work.watched() as done:
                    answers.append(everything(await QUESTIONS[question](http, person)))
                efforts.append(done)

    assert len(set(map(str, answers))) == 1
    assert efforts[0]
    assert efforts[2:] == efforts[:2]


@pytest.mark.standard("LG-14")
async def test_resending_does_not_tell_whether_the_address_was_known(
    door: Litestar, quiet: Services, work: Work
) -> None:
    answers, efforts = {}, {}
    for kind in KINDS:
        person = await of_kind(kind, door, quiet)
        async with browser(door) as http:
            handle = await begin_sign_up(http, Person(person.email, somebody().nickname, STRANGERS))
            with work.watched() as done:
                answer = await http.post("/auth/verify/resend", json={"registration": handle}, headers=SAME_ID)
            answers[kind], efforts[kind] = everything(answer), done

    assert answers == dict.fromkeys(KINDS, answers["unknown"])
    assert efforts == dict.fromkeys(KINDS, efforts["unknown"])
    assert efforts["unknown"]


@pytest.mark.standard("LG-14")
async def test_signing_in_with_the_password_of_ones_own_sign_up_does_not_tell_either(
    door: Litestar, quiet: Services, work: Work
) -> None:
    answers, efforts = {}, {}
    for kind in KINDS:
        person = await of_kind(kind, door, quiet)
        stranger = Person(person.email, somebody().nickname, STRANGERS)
        async with browser(door) as http:
            await begin_sign_up(http, stranger)
            with work.watched() as done:
                answer = await http.post("/auth/login", json=stranger.credentials(), headers=SAME_ID)
            answers[kind], efforts[kind] = everything(answer), done

    assert answers["unknown"][0] == 403
    assert answers == dict.fromkeys(KINDS, answers["unknown"])
    assert efforts == dict.fromkeys(KINDS, efforts["unknown"])


@pytest.mark.standard("LG-14")
async def test_a_guessed_code_or_link_of_ones_own_sign_up_does_not_tell_either(
    door: Litestar, quiet: Services, work: Work
) -> None:
    answers, efforts = {}, {}
    for kind in KINDS:
        person = await of_kind(kind, door, quiet)
        async with browser(door) as http:
            handle = await begin_sign_up(http, Person(person.email, somebody().nickname, STRANGERS))
            body = {"registration": handle, "code": "no code"}
            with work.watched() as done:
                answer = await http.post("/auth/verify", json=body, headers=SAME_ID)
            answers[kind], efforts[kind] = everything(answer), done

    assert answers == dict.fromkeys(KINDS, answers["unknown"])
    assert efforts == dict.fromkeys(KINDS, efforts["unknown"])


@pytest.mark.standard("LG-14")
async def test_asking_for_an_address_does_not_tell_whose_it_is(door: Litestar, quiet: Services, work: Work) -> None:
    asking = await with_account(quiet)
    answers, efforts = {}, {}
    async with browser(door) as http:
        await enter(http, asking)
        for kind in KINDS:
            person = await of_kind(kind, door, quiet)
            with work.watched() as done:
                answer = await _ask_for(http, asking, person.email)
            answers[kind], efforts[kind] = everything(answer), done

    assert answers["unknown"][0] == 202
    assert answers == dict.fromkeys(KINDS, answers["unknown"])
    assert efforts == dict.fromkeys(KINDS, efforts["unknown"])


@pytest.mark.standard("LG-14", "RL-14", "RL-03")
async def test_beyond_the_mails_of_an_hour_nothing_shows_either(
    door: Litestar, quiet: Services, services: Services, outbox: Outbox, work: Work
) -> None:
    answers, efforts = {}, {}
    for kind in ("unknown", "known", "disabled"):
        person = await of_kind(kind, door, quiet)
        async with browser(door) as http:
            first = await _forgot(http, person)
            for _ in range(4):
                await _forgot(http, person)
            with work.watched() as done:
                sixth = await _forgot(http, person)
            assert everything(sixth) == everything(first)
            answers[kind], efforts[kind] = everything(sixth), done
        assert len(await links(services, outbox, person.email, "reset")) == (5 if kind == "known" else 0)

    assert answers == dict.fromkeys(answers, answers["unknown"])
    assert efforts == dict.fromkeys(efforts, efforts["unknown"])


@pytest.mark.standard("LG-14")
async def test_a_link_that_is_not_good_is_refused_alike_whoever_it_names(
    door: Litestar, quiet: Services, services: Services, outbox: Outbox, work: Work
) -> None:
    """A token names its account openly: put together with another secret it must not tell whether that exists."""
    person = await with_account(quiet)
    async with browser(door) as http:
        await forgot(http, person.email)
        token = (await links(services, outbox, person.email, "reset"))[-1]
        named = forged(token, lambda body: body[:16] + secrets.token_bytes(32))
        unnamed = forged(token, lambda body: secrets.token_bytes(48))
        answers, efforts = [], []
        for wrong in (named, unnamed):
            with work.watched() as done:
                body = {"token": wrong, "password": STRANGERS}
                answers.append(everything(await http.post("/auth/password/reset", json=body, headers=SAME_ID)))
            efforts.append(done)

    assert answers[0] == answers[1]
    assert efforts[0] == efforts[1]
