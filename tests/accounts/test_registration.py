"""Sign-up over HTTP: no account before the proof, one account per address, and codes that cannot be guessed."""

import asyncio
import hashlib
import hmac
import re
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any, cast

import httpx
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from litestar import Litestar
from redis.asyncio import Redis
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from service.accounts.pending import PROOF_PURPOSES, PendingSignUp, PendingSignUps, Proofs
from service.app import create_app
from service.audit import Audit
from service.crypto import opaque
from service.crypto.roots import RootKeys
from service.settings import Settings, load
from service.store.redis import RedisStore
from service.store.schema import migrate
from service.wiring import Services
from tests.conftest import (
    PASSWORD,
    Outbox,
    Person,
    Servers,
    TestClock,
    _own_database,
    begin_sign_up,
    browser,
    mailed_code,
    new_address,
    sign_up,
    somebody,
    worker,
)

ALWAYS = "1000000/s"
OUT_OF_THE_WAY = (
    *("REGISTER_NETWORK", "GUESS_NETWORK", "GUESS_ACCOUNT", "GUESS_ACCOUNT_NETWORK"),
    *("MAIL_NETWORK", "MAIL_ADDRESS", "MAIL_ADDRESS_NETWORK"),
)
CODE = re.compile(r"your code is (\d{6})")
MOST_TRIES = 5
A_NETWORKS_TRIES, EVERYBODYS_TRIES = 10, 20
"""Daily tries at the codes of one address, on the worker `patient`."""


@pytest.fixture(scope="module")
async def patient(
    services: Services, environ: dict[str, str], wall_clock: TestClock, outbox: Outbox
) -> AsyncIterator[Services]:
    """A worker whose limits are out of the way, but for the tries of one code and the daily ones of one address."""
    limits = {f"VESTIBULE_LIMIT_{name}": ALWAYS for name in OUT_OF_THE_WAY}
    limits["VESTIBULE_LIMIT_CODE_ADDRESS_NETWORK"] = f"{A_NETWORKS_TRIES}/d"
    limits["VESTIBULE_LIMIT_CODE_ADDRESS"] = f"{EVERYBODYS_TRIES}/d"
    async with worker(load({**environ, **limits}), wall_clock, outbox) as running:
        yield running


@pytest.fixture(scope="module")
async def lax(
    services: Services, environ: dict[str, str], wall_clock: TestClock, outbox: Outbox
) -> AsyncIterator[Services]:
    """A worker on which nothing but the five tries of one code is limited."""
    names = (*OUT_OF_THE_WAY, "CODE_ADDRESS_NETWORK", "CODE_ADDRESS")
    limits = {f"VESTIBULE_LIMIT_{name}": ALWAYS for name in names}
    async with worker(load({**environ, **limits}), wall_clock, outbox) as running:
        yield running


@pytest.fixture
def decided(monkeypatch: pytest.MonkeyPatch) -> Counter[tuple[str, str]]:
    """How often which event was recorded with which outcome."""
    counted: Counter[tuple[str, str]] = Counter()
    record = Audit.record

    def count(self: Audit, event: str, outcome: str = "ok", **rest: Any) -> None:
        counted[event, outcome] += 1
        record(self, event, outcome, **rest)

    monkeypatch.setattr(Audit, "record", count)
    return counted


async def verify(http: httpx.AsyncClient, handle: str, code: str, **more: object) -> httpx.Response:
    body = {"registration": handle, "code": code, **more}
    return await http.post("/auth/verify", json=body, headers={"X-Request-ID": "the-same-for-all"})


async def register(http: httpx.AsyncClient, person: Person, **other: object) -> httpx.Response:
    body = {"email": person.email, "password": person.password, "nickname": person.nickname, **other}
    return await http.post("/auth/register", json=body, headers={"X-Request-ID": "the-same-for-all"})


def wrong(code: str, by: int = 1) -> str:
    return f"{(int(code) + by) % 1_000_000:06d}"


def everything(answer: httpx.Response) -> tuple[int, list[tuple[str, str]], bytes]:
    return answer.status_code, sorted(answer.headers.multi_items()), answer.content


def assert_refused(answer: httpx.Response) -> None:
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_or_expired_code"), answer.text


async def accounts_of(services: Services, address: str) -> int:
    async with services.database.begin() as transaction:
        found = await transaction.scalar(text("SELECT count(*) FROM accounts WHERE email = :a"), {"a": address})
    return int(found or 0)


async def everything_in_postgres(services: Services) -> str:
    """Each row of each table, as text."""
    rows: list[str] = []
    async with services.database.begin() as transaction:
        tables = await transaction.scalars(text("SELECT tablename FROM pg_tables WHERE schemaname = 'public'"))
        for table in tables.all():
            found = await transaction.scalars(text(f'SELECT t::text FROM "{table}" t'))  # noqa: S608  our own tables
            rows.extend(found.all())
    return "\n".join(rows)


async def audited(services: Services, request_id: str) -> None:
    """Returns when the events of this request are in the database."""
    statement = text("SELECT count(*) FROM audit_events WHERE request_id = :id")
    for _ in range(100):
        await services.audit.flush()
        async with services.database.begin() as transaction:
            if await transaction.scalar(statement, {"id": request_id}):
                return
        await asyncio.sleep(0.05)
    raise AssertionError("no event was written")


# Nobody before the proof, one account after it


@pytest.mark.standard("LG-21")
async def test_postgresql_knows_nothing_of_a_person_before_the_proof_and_has_the_account_after_it(
    http: httpx.AsyncClient, services: Services, outbox: Outbox
) -> None:
    person, marker = somebody(), secrets.token_hex(8)
    body = {"email": person.email, "password": person.password, "nickname": person.nickname}
    answer = await http.post("/auth/register", json=body, headers={"X-Request-ID": marker})
    await audited(services, marker)

    before = await everything_in_postgres(services)
    assert person.nickname not in before  # the nickname is the local part of the address too
    assert "argon2" not in "".join(line for line in before.splitlines() if marker in line)
    assert await accounts_of(services, person.email) == 0

    code = await mailed_code(services, outbox, person.email)
    verified = await verify(http, answer.json()["registration"], code)
    assert verified.status_code == 200
    assert await accounts_of(services, person.email) == 1
    me = await http.get("/me", headers={"Authorization": f"Bearer {verified.json()['access_token']}"})
    assert (me.json()["email"], me.json()["nickname"], me.json()["roles"]) == (person.email, person.nickname, [])


@pytest.mark.standard("LG-01")
def test_a_fresh_database_holds_no_account_and_no_client(servers: Servers) -> None:
    async def counted(url: str) -> list[int]:
        engine = create_async_engine(url)
        async with engine.connect() as connection:
            tables = ("accounts", "sessions", "clients", "signing_keys", "audit_events")
            found = [await connection.scalar(text(f"SELECT count(*) FROM {t}")) for t in tables]  # noqa: S608
        await engine.dispose()
        return [int(number or 0) for number in found]

    with _own_database(servers.database_url) as url:
        migrate(url)
        assert asyncio.run(counted(url)) == [0, 0, 0, 0, 0]


@pytest.mark.standard("CL-01", "CL-05", "CL-07", "CL-08", "LG-14")
async def test_every_doubt_about_a_code_gets_the_same_answer(lax: Services, outbox: Outbox, clock: TestClock) -> None:
    async with browser(create_app(lax)) as http:
        ann, ben, eve = somebody(), somebody(), somebody()
        handles = {who.email: await begin_sign_up(http, who) for who in (ann, ben, eve)}
        codes = {who.email: await mailed_code(lax, outbox, who.email) for who in (ann, ben, eve)}
        ours, code = handles[ann.email], codes[ann.email]
        assert (await verify(http, handles[eve.email], codes[eve.email])).status_code == 200
        known = await begin_sign_up(http, Person(eve.email, somebody().nickname))
        flipped = ours[:-1] + ("A" if ours[-1] != "A" else "B")
        odd = {"five digits": code[:5], "seven": code + "0", "none": "", "words": "secret", "spaces": f" {code}"}

        answers = {
            "wrong": await verify(http, ours, wrong(code)),
            "used": await verify(http, handles[eve.email], codes[eve.email]),
            "unknown": await verify(http, opaque.encode("vrg", secrets.token_bytes(32)), code),
            "of another kind": await verify(http, opaque.mint("vrt"), code),
            "no handle": await verify(http, "", code),
            "a typing error in the handle": await verify(http, flipped, code),
            "a foreign code": await verify(http, handles[ben.email], code),
            "a known address": await verify(http, known, code),
        }
        for name, value in odd.items():
            answers[name] = await verify(http, handles[ben.email], value)
        answers["burnt"] = await verify(http, handles[ben.email], codes[ben.email])
        await clock.advance(minutes=10, seconds=1)
        answers["expired"] = await verify(http, ours, code)
        await clock.advance(hours=24)
        answers["forgotten"] = await verify(http, ours, code)

    assert_refused(answers["wrong"])
    assert {name: everything(answer) for name, answer in answers.items()} == dict.fromkeys(
        answers, everything(answers["wrong"])
    )


@pytest.mark.standard("CL-01", "RL-16")
async def test_fifty_right_submissions_at_once_make_one_account_and_one_session(
    lax: Services, outbox: Outbox, redis: Redis
) -> None:
    async with browser(create_app(lax)) as http:
        person = somebody()
        handle = await begin_sign_up(http, person)
        code = await mailed_code(lax, outbox, person.email)
        answers = await asyncio.gather(*(verify(http, handle, code) for _ in range(50)))

        assert [answer.status_code for answer in answers].count(200) == 1
        for answer in answers:
            if answer.status_code == 503:  # whoever comes while another is at it may ask again
                assert int(answer.headers["retry-after"]) > 0
            elif answer.status_code != 200:
                assert_refused(answer)
        assert_refused(await verify(http, handle, code))
    async with lax.database.begin() as transaction:
        statement = text("SELECT s.account_id FROM sessions s JOIN accounts a ON a.id = account_id WHERE email = :a")
        sessions = (await transaction.scalars(statement, {"a": person.email})).all()
    assert len(sessions) == 1
    fields = await cast("Any", redis.hkeys(f"vestibule:sessions:{{{sessions[0]}}}"))
    assert [len(field) for field in fields if len(field) != 1] == [16]


@pytest.mark.standard("LG-20")
async def test_fifty_sign_ups_at_once_in_every_spelling_end_in_one_account(
    lax: Services, outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    codes: dict[str, str] = {}
    new_proofs = PendingSignUps.new_proofs

    async def noted(self: PendingSignUps, pending: PendingSignUp) -> Proofs:
        proofs = await new_proofs(self, pending)
        codes[self.handle(pending)] = proofs.code
        return proofs

    monkeypatch.setattr(PendingSignUps, "new_proofs", noted)
    name, site = f"user{secrets.token_hex(4)}", f"ex{secrets.token_hex(4)}"
    address = f"{name}@{site}.com"
    wide = "".join(chr(ord(letter) + 0xFEE0) for letter in site)
    spellings = [address, address.upper(), f"{name.title()}@{site.upper()}.com", f"{name}@{wide}.com"]
    people = [Person(spellings[i % len(spellings)], f"{name}-{i}") for i in range(50)]
    async with browser(create_app(lax)) as http:
        handles = await asyncio.gather(*(begin_sign_up(http, person) for person in people))
        await lax.mailer.drain()
        mailed = {found(CODE, mail.text) for mail in outbox.to(address)}
        assert mailed == set(codes.values())
        answers = await asyncio.gather(*(verify(http, handle, codes[handle]) for handle in handles))

    assert Counter(answer.status_code for answer in answers) == {200: 1, 400: 49}
    assert await accounts_of(lax, address) == 1


def found(pattern: re.Pattern[str], where: str) -> str:
    match = pattern.search(where)
    assert match is not None, where
    return match[1]


# Codes


@pytest.mark.standard("CL-05")
@pytest.mark.parametrize(("seconds", "status"), [(9 * 60 + 30, 200), (10 * 60 + 1, 400)])
async def test_a_code_lives_for_ten_minutes(
    http: httpx.AsyncClient, services: Services, outbox: Outbox, clock: TestClock, *, seconds: int, status: int
) -> None:
    person = somebody()
    handle = await begin_sign_up(http, person)
    code = await mailed_code(services, outbox, person.email)

    await clock.advance(seconds=seconds)
    assert (await verify(http, handle, code)).status_code == status


@pytest.mark.standard("CL-08")
@pytest.mark.parametrize(("misses", "status"), [(4, 200), (5, 400)])
async def test_five_wrong_tries_burn_a_code(
    http: httpx.AsyncClient, services: Services, outbox: Outbox, misses: int, status: int
) -> None:
    person = somebody()
    handle = await begin_sign_up(http, person)
    code = await mailed_code(services, outbox, person.email)
    for miss in range(misses):
        assert_refused(await verify(http, handle, wrong(code, miss + 1)))

    assert (await verify(http, handle, code)).status_code == status


@pytest.mark.standard("CL-08", "RL-16")
@pytest.mark.parametrize("guesses", [10, 200])
async def test_parallel_wrong_codes_are_compared_five_times_at_most(
    lax: Services, outbox: Outbox, decided: Counter[tuple[str, str]], guesses: int
) -> None:
    async with browser(create_app(lax)) as http:
        person = somebody()
        handle = await begin_sign_up(http, person)
        code = await mailed_code(lax, outbox, person.email)
        answers = await asyncio.gather(*(verify(http, handle, wrong(code, i + 1)) for i in range(guesses)))

        assert {answer.status_code for answer in answers} == {400}
        assert decided["account.verify", "code_wrong"] == MOST_TRIES
        assert decided["account.verify", "code_burnt"] == guesses - MOST_TRIES
        assert_refused(await verify(http, handle, code))
    assert await accounts_of(lax, person.email) == 0


@pytest.mark.standard("CL-08", "RL-16")
async def test_the_right_code_among_two_hundred_parallel_guesses_has_no_better_chance(
    lax: Services, outbox: Outbox, decided: Counter[tuple[str, str]]
) -> None:
    async with browser(create_app(lax)) as http:
        person = somebody()
        handle = await begin_sign_up(http, person)
        code = await mailed_code(lax, outbox, person.email)
        guesses = [wrong(code, 200 - i) for i in range(200)] + [code]
        answers = await asyncio.gather(*(verify(http, handle, guess) for guess in guesses))

    evaluated = decided["account.verify", "code_wrong"] + decided["account.verify", "ok"]
    assert evaluated <= MOST_TRIES + 1
    assert sum(answer.status_code == 200 for answer in answers) <= 1


@pytest.mark.standard("CL-09")
async def test_a_new_code_brings_no_new_tries(http: httpx.AsyncClient, services: Services, outbox: Outbox) -> None:
    person = somebody()
    handle = await begin_sign_up(http, person)
    code = await mailed_code(services, outbox, person.email)
    for miss in range(4):
        assert_refused(await verify(http, handle, wrong(code, miss + 1)))
    assert (await http.post("/auth/verify/resend", json={"registration": handle})).status_code == 202
    code = await mailed_code(services, outbox, person.email)
    assert_refused(await verify(http, handle, wrong(code)))

    assert_refused(await verify(http, handle, code))


@pytest.mark.standard("CL-07", "LG-02")
async def test_a_new_code_ends_the_old_one(http: httpx.AsyncClient, services: Services, outbox: Outbox) -> None:
    person = somebody()
    handle = await begin_sign_up(http, person)
    old = await mailed_code(services, outbox, person.email)
    answer = await http.post("/auth/verify/resend", json={"registration": handle})
    assert (answer.status_code, answer.headers["cache-control"]) == (202, "no-store")
    new = await mailed_code(services, outbox, person.email)
    assert len(outbox.to(person.email)) == 2

    if new != old:
        assert_refused(await verify(http, handle, old))
    assert (await verify(http, handle, new)).status_code == 200


async def test_a_resend_for_a_handle_that_is_not_ours_does_not_show(http: httpx.AsyncClient, outbox: Outbox) -> None:
    person, before = somebody(), len(outbox.mails)
    ours = await begin_sign_up(http, person)
    given = {"X-Request-ID": "the-same-for-all"}
    handles = [ours, opaque.encode("vrg", secrets.token_bytes(32)), "vrg_nothing", ""]
    answers = [
        await http.post("/auth/verify/resend", json={"registration": handle}, headers=given) for handle in handles
    ]

    assert [everything(answer) for answer in answers] == [everything(answers[0])] * 4
    assert {mail.to for mail in outbox.mails[before:]} <= {person.email}


@pytest.mark.standard("CL-10", "CL-09")
@pytest.mark.parametrize(
    ("loop", "networks", "compared"),
    [
        ("resend", "one", MOST_TRIES),
        ("resend", "many", MOST_TRIES),
        ("register", "one", A_NETWORKS_TRIES),
        ("register", "many", EVERYBODYS_TRIES),
    ],
)
async def test_an_address_has_a_days_tries_whatever_brings_new_codes(
    patient: Services,
    outbox: Outbox,
    clock: TestClock,
    decided: Counter[tuple[str, str]],
    *,
    loop: str,
    networks: str,
    compared: int,
) -> None:
    app, person, here = create_app(patient), somebody(), new_address()

    async def new_sign_up() -> str:
        async with browser(app, here) as http:
            return await begin_sign_up(http, Person(person.email, somebody().nickname))

    handle = await new_sign_up()
    answers: list[httpx.Response] = []
    for _ in range(8):
        if loop == "register":
            handle = await new_sign_up()
        async with browser(app, here if networks == "one" else None) as http:
            await http.post("/auth/verify/resend", json={"registration": handle})
            code = await mailed_code(patient, outbox, person.email)
            answers += [await verify(http, handle, wrong(code, i + 1)) for i in range(5)]

    assert decided["account.verify", "code_wrong"] == compared
    assert {answer.status_code for answer in answers} <= {400, 429}
    if loop == "register":
        assert [answer.status_code for answer in answers] == [400] * compared + [429] * (40 - compared)
        assert answers[-1].json()["code"] == "too_many_requests"
        assert 0 < int(answers[-1].headers["retry-after"]) <= 86400 / compared
    async with browser(app, here if networks == "one" else None) as http:
        right = await mailed_code(patient, outbox, person.email)
        assert (await verify(http, handle, right)).status_code in {400, 429}

        await clock.advance(hours=24)
        handle = await new_sign_up()
        assert (await verify(http, handle, await mailed_code(patient, outbox, person.email))).status_code == 200


@pytest.mark.standard("CL-10", "CL-08")
def test_by_default_an_address_has_at_most_a_hundred_tries_a_day(settings: Settings) -> None:
    a_day = 86400
    near, far = settings.limit_code_address_network, settings.limit_code_address
    assert near.attempts * a_day / near.seconds <= 20
    assert far.attempts * a_day / far.seconds <= 100
    assert settings.code_tries == MOST_TRIES


@pytest.mark.standard("CL-07")
@pytest.mark.parametrize("same_address", [True, False])
async def test_the_code_of_one_sign_up_proves_no_other(
    http: httpx.AsyncClient, services: Services, outbox: Outbox, same_address: bool
) -> None:
    first = somebody()
    second = Person(first.email, somebody().nickname) if same_address else somebody()
    ours = await begin_sign_up(http, first)
    code = await mailed_code(services, outbox, first.email)
    theirs = await begin_sign_up(http, second)
    other = await mailed_code(services, outbox, second.email)

    if code != other:
        assert_refused(await verify(http, theirs, code))
        assert_refused(await verify(http, ours, other))
    assert (await verify(http, theirs, other)).status_code == 200


class Nowhere:
    """A store that takes everything."""

    async def run(self, script: str, key: str, *arguments: object) -> int:
        return 1


@pytest.mark.standard("CL-04", "CL-03")
async def test_codes_are_six_digits_with_leading_zeros_and_uniform(settings: Settings) -> None:
    store = cast("RedisStore", Nowhere())
    pending = PendingSignUps(store, RootKeys.parse(settings.keys), settings)
    nobody = PendingSignUp("00" * 16, "a@example.com", "ann", "", address_known=False, language="en")
    codes = [(await pending.new_proofs(nobody)).code for _ in range(100_000)]

    assert all(re.fullmatch(r"[0-9]{6}", code) for code in codes)
    assert any(code.startswith("00") for code in codes)
    for place in range(6):  # 9 degrees of freedom: 62 is one in 10^9
        assert chi_square(Counter(code[place] for code in codes), 10) < 62
    assert chi_square(Counter(code[:2] for code in codes), 100) < 200
    assert chi_square(Counter(code[4:] for code in codes), 100) < 200


def chi_square(seen: Counter[str], cells: int) -> float:
    expected = seen.total() / cells
    return sum((number - expected) ** 2 / expected for number in seen.values()) + expected * (cells - len(seen))


@pytest.mark.standard("CL-02", "CL-11")
async def test_redis_holds_neither_code_nor_password_and_no_plain_hash_of_either(
    http: httpx.AsyncClient, services: Services, outbox: Outbox, redis: Redis
) -> None:
    before = {key async for key in redis.scan_iter("vestibule:*", count=1000)}
    person = somebody()
    person.password = f"canary words {secrets.token_hex(8)}"
    handle = await begin_sign_up(http, person)
    code = await mailed_code(services, outbox, person.email)
    new = {key async for key in redis.scan_iter("vestibule:*", count=1000)} - before
    held = {value for key in new for value in await values_at(redis, key)} | new
    dump = b"\n".join(held)

    assert b"argon2id" in dump  # we look at the right place
    for secret in (person.password, handle, person.password[13:]):
        assert secret.encode() not in dump
    # Six digits stand in many a digest or time; a code would stand by itself.
    assert re.search(rb"(?<![0-9a-f.])%s(?![0-9a-f])" % code.encode(), dump) is None
    body = opaque.decode("vrg", handle)
    assert body is not None
    identity = body[:16].hex()
    assert body[16:].hex().encode() not in dump
    held_hex = {value.lower() for value in held}
    for number in range(1_000_000):
        guess = f"{number:06d}".encode()
        assert hashlib.sha256(guess).hexdigest().encode() not in held_hex
        assert hashlib.sha256(identity.encode() + b":" + guess).hexdigest().encode() not in held_hex
    for text_of_it in (person.password, f"{identity}:{person.password}", f"{person.password}{identity}"):
        for name in ("md5", "sha1", "sha256", "sha512"):
            assert hashlib.new(name, text_of_it.encode()).hexdigest().encode() not in held_hex
    assert len(body) >= 32


async def values_at(redis: Redis, key: bytes) -> list[bytes]:
    kind = await redis.type(key)
    if kind == b"hash":
        fields: dict[bytes, bytes] = await cast("Any", redis.hgetall(key))
        return [*fields, *fields.values()]
    if kind == b"set":
        return list(await cast("Any", redis.smembers(key)))
    if kind == b"list":
        return cast("list[bytes]", await cast("Any", redis.lrange(key, 0, -1)))
    return [cast("bytes", await redis.get(key) or b"")]


# Nicknames


async def test_a_nickname_that_was_taken_meanwhile_is_asked_for_again_with_the_same_code(
    lax: Services, outbox: Outbox
) -> None:
    async with browser(create_app(lax)) as http:
        first, second = somebody(), somebody()
        handle = await begin_sign_up(http, Person(second.email, first.nickname))
        code = await mailed_code(lax, outbox, second.email)
        await sign_up(http, lax, outbox, first)

        assert_refused(await verify(http, handle, wrong(code)))
        for other in ({}, {"nickname": first.nickname.upper()}):
            answer = await verify(http, handle, code, **other)
            assert (answer.status_code, answer.json()["code"]) == (409, "nickname_taken")
        for odd in ("", "x", "two words", "{{7*7}}", "a\r\nb", "x" * 33):
            answer = await verify(http, handle, code, nickname=odd)
            assert (answer.status_code, answer.json()["code"]) == (400, "invalid_input"), odd
            assert answer.json()["errors"][0]["field"] == "nickname"
        # A bad nickname tells nothing of the code.
        assert_refused(await verify(http, handle, wrong(code), nickname="x"))
        done = await verify(http, handle, code, nickname=second.nickname)
        assert done.status_code == 200
        me = await http.get("/me", headers={"Authorization": f"Bearer {done.json()['access_token']}"})
        assert (me.json()["email"], me.json()["nickname"]) == (second.email, second.nickname)


async def test_of_ten_people_who_prove_the_same_nickname_at_once_one_gets_it(lax: Services, outbox: Outbox) -> None:
    nickname = somebody().nickname
    people = [Person(somebody().email, nickname) for _ in range(10)]
    async with browser(create_app(lax)) as http:
        handles = await asyncio.gather(*(begin_sign_up(http, person) for person in people))
        codes = [await mailed_code(lax, outbox, person.email) for person in people]
        proofs = list(zip(handles, codes, people, strict=True))
        answers = await asyncio.gather(*(verify(http, handle, code) for handle, code, _ in proofs))
        assert Counter(answer.status_code for answer in answers) == {200: 1, 409: 9}

        again = [
            await verify(http, handle, code, nickname=somebody().nickname)
            for (handle, code, _), answer in zip(proofs, answers, strict=True)
            if answer.status_code == 409
        ]
    assert {answer.status_code for answer in again} == {200}


@pytest.mark.standard("LG-20")
async def test_a_nickname_that_somebody_has_is_refused_in_every_case(http: httpx.AsyncClient, person: Person) -> None:
    for nickname in (person.nickname, person.nickname.upper(), person.nickname.title()):
        answer = await register(http, somebody(), nickname=nickname)
        assert (answer.status_code, answer.json()["code"]) == (409, "nickname_taken")
        assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.standard("LG-20")
async def test_letters_that_fold_into_each_other_make_one_nickname(
    http: httpx.AsyncClient, services: Services, outbox: Outbox
) -> None:
    tail = secrets.token_hex(4)
    await sign_up(http, services, outbox, Person(somebody().email, f"straße{tail}"))
    await sign_up(http, services, outbox, Person(somebody().email, f"ΣΊΣΥΦΟΣ{tail}"))

    for nickname in (f"strasse{tail}", f"STRASSE{tail}", f"STRAẞE{tail}", f"σίσυφος{tail}", f"σίσυφοσ{tail}"):
        assert (await register(http, somebody(), nickname=nickname)).status_code == 409, nickname


INVISIBLE = {
    "zero-width space": "\u200b",
    "zero-width joiner": "\u200d",
    "soft hyphen": "\xad",
    "word joiner": "\u2060",
    "right-to-left override": "\u202e",
    "variation selector": "\ufe0f",
    "tag": "\U000e0061",
    "Hangul filler": "\u3164",
    "half-width Hangul filler": "\uffa0",
    "Hangul leading filler": "\u115f",
    "Hangul vowel filler": "\u1160",
    "Khmer inherent vowel": "\u17b4",
    "Braille blank": "\u2800",
}


@pytest.mark.standard("LG-20", "LG-03")
@pytest.mark.parametrize("name", INVISIBLE)
async def test_nothing_invisible_makes_another_nickname_that_looks_the_same(
    http: httpx.AsyncClient, person: Person, name: str
) -> None:
    for nickname in (person.nickname + INVISIBLE[name], person.nickname[:3] + INVISIBLE[name] + person.nickname[3:]):
        answer = await register(http, somebody(), nickname=nickname)
        assert (answer.status_code, answer.json()["code"]) == (400, "invalid_input"), ascii(nickname)


@pytest.mark.standard("LG-20")
@pytest.mark.parametrize(
    "change",
    [
        lambda n: "".join(chr(ord(c) + 0xFEE0) for c in n),  # full-width
        lambda n: n + "ﬁ",
        lambda n: n + "²",
        lambda n: n + "ⓐ",
        lambda n: n + "\u210c",
        lambda n: n + "\U0001d41a",
        lambda n: n + "e\u0301",
    ],
    ids=["full width", "ligature", "superscript", "circled", "black letter", "mathematical", "combining"],
)
async def test_a_spelling_that_is_only_another_form_of_plain_letters_is_refused(
    http: httpx.AsyncClient, person: Person, change: Callable[[str], str]
) -> None:
    answer = await register(http, somebody(), nickname=change(person.nickname))

    assert (answer.status_code, answer.json()["errors"][0]["code"]) == (400, "nickname_invalid")


# Known addresses


@pytest.mark.standard("LG-14", "RL-14")
async def test_a_known_address_is_answered_like_an_unknown_one_and_its_owner_is_told(
    http: httpx.AsyncClient, services: Services, outbox: Outbox, person: Person
) -> None:
    before = len(outbox.mails)
    unknown = await register(http, somebody())
    known = await register(http, Person(person.email.upper(), somebody().nickname, "words of a perfect stranger"))
    await services.mailer.drain()

    assert (known.status_code, sorted(known.headers.multi_items())) == (
        unknown.status_code,
        sorted(unknown.headers.multi_items()),
    )
    shape = re.compile(rb'\{"registration":"vrg_[A-Za-z0-9_-]{48}","expires_in":86400\}')
    assert shape.fullmatch(known.content)
    assert shape.fullmatch(unknown.content)
    notice = [mail for mail in outbox.mails[before:] if mail.to == person.email]
    assert [mail.subject for mail in notice] == ["You have an account already"]
    assert not re.search(r"\d{6}|code|vrg_|vlk_", notice[0].text + re.sub(r"<[^>]*>", "", notice[0].html))
    assert (await http.post("/auth/login", json=person.credentials())).status_code == 200


@pytest.mark.standard("LG-14", "LG-21")
async def test_none_of_a_million_codes_proves_a_known_address(
    http: httpx.AsyncClient, services: Services, outbox: Outbox, *, redis: Redis, settings: Settings, person: Person
) -> None:
    roots = RootKeys.parse(settings.keys)
    key = roots.derive(PROOF_PURPOSES["code"], roots.oldest)

    async def digest_of(handle: str) -> tuple[str, str]:
        body = opaque.decode("vrg", handle)
        assert body is not None
        identity = body[:16].hex()
        kept = await cast("Any", redis.hget(f"vestibule:signup:{identity}", "code"))
        return identity, kept.decode()

    def is_digest(identity: str, code: str, kept: str) -> bool:
        return hmac.digest(key, f"{identity}:{code}".encode(), "sha256").hex() == kept

    stranger = somebody()
    identity, kept = await digest_of(await begin_sign_up(http, stranger))
    assert is_digest(identity, await mailed_code(services, outbox, stranger.email), kept)  # the search would find it

    identity, kept = await digest_of(await begin_sign_up(http, Person(person.email, somebody().nickname)))
    assert not any(is_digest(identity, f"{number:06d}", kept) for number in range(1_000_000))


@pytest.mark.standard("RL-03", "LG-14")
@pytest.mark.parametrize(("networks", "most"), [("one", 5), ("many", 20)])
async def test_an_address_gets_so_many_mails_an_hour_and_the_answers_do_not_show_it(
    app: Litestar, services: Services, outbox: Outbox, clock: TestClock, *, networks: str, most: int
) -> None:
    person, here, answers, handle = somebody(), new_address(), list[httpx.Response](), ""
    for _ in range(14):
        async with browser(app, here if networks == "one" else None) as http:
            answers.append(await register(http, Person(person.email, somebody().nickname)))
            handle = handle or answers[0].json()["registration"]
            resent = await http.post("/auth/verify/resend", json={"registration": handle})
            assert resent.status_code == 202
    await services.mailer.drain()

    assert len(outbox.to(person.email)) == most
    assert {answer.status_code for answer in answers} == {202}
    assert len({str(sorted(answer.headers.multi_items())) for answer in answers}) == 1
    assert len({len(answer.content) for answer in answers}) == 1
    await clock.advance(minutes=13)
    async with browser(app, here) as http:
        await http.post("/auth/verify/resend", json={"registration": handle})
    await services.mailer.drain()
    assert len(outbox.to(person.email)) == most + 1


@pytest.mark.standard("RL-03")
async def test_a_network_signs_up_thirty_times_an_hour(app: Litestar, http: httpx.AsyncClient) -> None:
    answers = await asyncio.gather(*(register(http, somebody()) for _ in range(33)))

    assert Counter(answer.status_code for answer in answers) == {202: 30, 429: 3}
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert 0 < int(refused.headers["retry-after"]) <= 120
    async with browser(app) as elsewhere:
        assert (await register(elsewhere, somebody())).status_code == 202


# What is refused at the door


@pytest.mark.standard("LG-16", "LG-03")
@pytest.mark.parametrize(
    "email",
    [
        "{}\r\nBcc: eve@example.com",
        "{}\nBcc: eve@example.com",
        "{}\rBcc: eve@example.com",
        "{}%0d%0aBcc: eve@example.com",
        "{},eve@example.com",
        "{};eve@example.com",
        "{} eve@example.com",
        "Ann <{}>",
        "<{}>",
        "{}\u2028eve@example.com",
        "{}\x0bx",
        "(comment){}",
        '"a\r\nBcc: eve@example.com"@example.com',
    ],
)
async def test_an_address_that_would_become_a_second_one_or_a_header_is_refused(
    http: httpx.AsyncClient, services: Services, outbox: Outbox, email: str
) -> None:
    before, person = len(outbox.mails), somebody()
    answer = await register(http, person, email=email.format(person.email))
    await services.mailer.drain()

    assert (answer.status_code, answer.json()["errors"][0]["code"]) == (400, "email_invalid")
    assert person.email not in answer.text
    assert [mail for mail in outbox.mails[before:] if "eve" in mail.to or person.email in mail.to] == []


@pytest.mark.standard("LG-16", "LG-17", "LG-18")
@pytest.mark.parametrize(
    "nickname",
    ["ann\r\nBcc: eve@x.com", "ann\nbob", "{{7*7}}", "${7*7}", "<%=7*7%>", "{%x%}", '"><img', "<b>ann</b>", "a'b"],
)
async def test_a_nickname_that_would_become_a_header_a_template_or_markup_is_refused(
    http: httpx.AsyncClient, services: Services, outbox: Outbox, nickname: str
) -> None:
    person = somebody()
    answer = await register(http, person, nickname=nickname)
    await services.mailer.drain()

    assert (answer.status_code, answer.json()["errors"][0]["code"]) == (400, "nickname_invalid")
    assert nickname not in answer.text
    assert outbox.to(person.email) == []


@pytest.mark.standard("LG-16")
async def test_a_mail_has_one_recipient(http: httpx.AsyncClient, services: Services, outbox: Outbox) -> None:
    person, before = somebody(), len(outbox.mails)
    await begin_sign_up(http, Person(person.email.replace("@", "+tag&x=1@"), person.nickname))
    await services.mailer.drain()

    assert [mail.to for mail in outbox.mails[before:]] == [person.email.replace("@", "+tag&x=1@")]


@pytest.mark.standard("LG-15")
@pytest.mark.parametrize(
    "more",
    [{"roles": ["admin"]}, {"id": "0"}, {"is_admin": True}, {"email_verified": True}, {"created_at": "2020-01-01"}],
    ids=lambda more: next(iter(more)),
)
async def test_nobody_chooses_what_is_not_theirs_to_choose(
    http: httpx.AsyncClient, services: Services, outbox: Outbox, more: dict[str, object]
) -> None:
    person = somebody()
    answer = await register(http, person, **more)
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_input")
    assert outbox.to(person.email) == []

    handle = await begin_sign_up(http, person)
    code = await mailed_code(services, outbox, person.email)
    assert (await verify(http, handle, code, **more)).status_code == 400
    done = await verify(http, handle, code)
    me = await http.get("/me", headers={"Authorization": f"Bearer {done.json()['access_token']}"})
    assert me.json()["roles"] == []


@pytest.mark.standard("LG-03")
async def test_everything_that_is_wrong_is_said_at_once(http: httpx.AsyncClient) -> None:
    answer = await http.post("/auth/register", json={"email": "no", "password": "short", "nickname": "?"})

    assert answer.status_code == 400
    assert [(error["field"], error["code"]) for error in answer.json()["errors"]] == [
        ("email", "email_invalid"),
        ("nickname", "nickname_length"),
        ("password", "password_too_short"),
    ]


ANY = st.text(st.characters(codec="utf-8"), max_size=200)
CONTROLS = st.text(st.sampled_from("\x00\r\n\t\x1b\x7f\x85\u2028\u202e\ufeff"), min_size=1, max_size=20)
LONG = st.builds(lambda unit, times: unit * times, ANY.filter(bool), st.integers(10, 200))
HUGE = st.text(st.characters(min_codepoint=0x10000, codec="utf-8"), min_size=1, max_size=500)
ADDRESSES = st.builds("{}@{}".format, ANY, ANY)
FUZZED = ANY | CONTROLS | LONG | HUGE | ADDRESSES


@pytest.mark.standard("LG-03", "LG-04")
@pytest.mark.parametrize("field", ["email", "nickname", "password"])
@hypothesis_settings(
    max_examples=60,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(value=FUZZED)
async def test_no_text_in_any_field_of_a_sign_up_is_a_crash(app: Litestar, field: str, value: str) -> None:
    async with browser(app) as http:
        answer = await register(http, somebody(), **{field: value})

    assert answer.status_code in {202, 400, 413}, answer.text
    if answer.status_code == 400:
        assert answer.json()["code"] in {"invalid_input", "malformed_request"}


@pytest.mark.standard("LG-03", "LG-04")
@pytest.mark.parametrize("field", ["registration", "code", "nickname"])
@hypothesis_settings(
    max_examples=40,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(value=FUZZED)
async def test_no_text_in_any_field_of_a_proof_is_a_crash(app: Litestar, field: str, value: str) -> None:
    body = {"registration": opaque.encode("vrg", bytes(32)), "code": "000000", field: value}
    async with browser(app) as http:
        answer = await http.post("/auth/verify", json=body)
        again = await http.post("/auth/verify/resend", json={"registration": value})

    assert answer.status_code == 400, answer.text
    assert again.status_code in {202, 400}


@pytest.mark.standard("LG-03", "PW-12")
async def test_the_password_of_a_sign_up_is_never_repeated(http: httpx.AsyncClient) -> None:
    for password in ("canary", "canary" * 800, PASSWORD):
        answer = await register(http, somebody(), email="not an address", password=password)
        assert answer.status_code == 400
        assert password not in answer.text
