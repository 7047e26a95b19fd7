"""Signing in with a password: whom it lets in, what its refusals tell (nothing), and how passwords are kept."""

import asyncio
import base64
import hashlib
import json
import re
import secrets
import threading
import time
import unicodedata
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from importlib.resources import files
from string import ascii_lowercase, ascii_uppercase, digits, printable
from typing import Any, cast

import argon2
import httpx
import pytest
from litestar import Litestar
from redis.asyncio import Redis
from sqlalchemy import text

from service.app import create_app
from service.crypto.blocklist import Blocklist
from service.setting_values import SettingsError
from service.settings import Settings, load
from service.wiring import Services
from tests.conftest import (
    PASSWORD,
    Outbox,
    Person,
    TestClock,
    begin_sign_up,
    browser,
    mailed_code,
    root_key,
    sign_up,
    somebody,
    worker,
)

SAME_ID = {"X-Request-ID": "the-same-for-all"}
WRONG = "wind over the noisy harbour"
ALL_ASCII = "".join(sorted(set(printable) - set("\t\n\r\x0b\x0c")))


class Hashing:
    """What argon2 was asked to do: how often, and how much of it at once."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.at_once = self.most_at_once = 0
        self.threads: set[int] = set()
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        with self._lock:
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
            self.threads.add(threading.get_ident())

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self.at_once -= 1


@pytest.fixture
def hashing(monkeypatch: pytest.MonkeyPatch) -> Hashing:
    seen = Hashing()
    for name in ("hash", "verify"):
        original = getattr(argon2.PasswordHasher, name)

        def counted(self: Any, *args: Any, name: str = name, original: Any = original, **more: Any) -> Any:
            seen.calls[name] += 1
            with seen:
                return original(self, *args, **more)

        monkeypatch.setattr(argon2.PasswordHasher, name, counted)
    return seen


async def with_account(services: Services, password: str = PASSWORD) -> Person:
    """Somebody with an account, made by the operator."""
    person = somebody()
    person.password = password
    await services.administration.create(person.email, person.nickname, password, ())
    return person


async def disabled(services: Services) -> Person:
    person = await with_account(services)
    account = await services.administration.find(person.email)
    assert account is not None
    await services.administration.disable(account.id)
    return person


async def login(http: httpx.AsyncClient, person: Person, **other: object) -> httpx.Response:
    return await http.post("/auth/login", json=person.credentials(**other), headers=SAME_ID)


async def by_nickname(http: httpx.AsyncClient, nickname: str, password: str = PASSWORD) -> httpx.Response:
    return await http.post("/auth/login", json={"nickname": nickname, "password": password}, headers=SAME_ID)


def everything(answer: httpx.Response) -> tuple[int, list[tuple[str, str]], bytes]:
    return answer.status_code, sorted(answer.headers.multi_items()), answer.content


def told(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json().get("code", "")


async def stored_hash(services: Services, person: Person) -> str:
    async with services.database.begin() as transaction:
        statement = text("SELECT password_hash FROM accounts WHERE email = :a")
        return str(await transaction.scalar(statement, {"a": person.email}))


# In


async def test_a_person_signs_in_by_address_or_nickname_in_any_case(
    http: httpx.AsyncClient, services: Services
) -> None:
    person = await with_account(services)
    for email in (person.email, person.email.upper(), person.email.title()):
        assert (await login(http, person, email=email)).status_code == 200
    for nickname in (person.nickname, person.nickname.upper(), person.nickname.title()):
        assert (await by_nickname(http, nickname)).status_code == 200


@pytest.mark.standard("SE-05", "SE-07")
async def test_every_sign_in_brings_tokens_and_a_session_of_its_own(
    http: httpx.AsyncClient, services: Services
) -> None:
    person = await with_account(services)
    first = (await login(http, person)).json()
    # Somebody planted tokens in the browser: they are neither taken over nor answered.
    cookie = {"Cookie": f"__Host-vestibule-refresh={first['refresh_token']}"}
    headers = {**cookie, "Authorization": f"Bearer {first['access_token']}"}
    second = (await http.post("/auth/login", json=person.credentials(), headers=headers)).json()

    assert first["access_token"] != second["access_token"]
    assert first["refresh_token"] != second["refresh_token"]
    sessions = [claims(grant["access_token"])["sid"] for grant in (first, second)]
    assert sessions[0] != sessions[1]
    assert (await http.post("/auth/logout", json={"refresh_token": first["refresh_token"]})).status_code == 204
    assert (await http.post("/auth/refresh", json={"refresh_token": second["refresh_token"]})).status_code == 200


def claims(token: str) -> dict[str, Any]:
    body = token.split(".")[1]
    return cast("dict[str, Any]", json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4))))


@pytest.mark.standard("LG-19")
async def test_no_get_opens_a_session(
    app: Litestar, http: httpx.AsyncClient, services: Services, redis: Redis, person: Person
) -> None:
    account = claims(person.access_token)["sub"]

    async def sessions() -> tuple[int, set[bytes]]:
        async with services.database.begin() as transaction:
            statement = text("SELECT count(*) FROM sessions WHERE account_id = :a")
            rows = int(await transaction.scalar(statement, {"a": account}) or 0)
        return rows, set(await cast("Any", redis.hkeys(f"vestibule:sessions:{{{account}}}")))

    before = await sessions()
    headers = {
        "Cookie": f"__Host-vestibule-refresh={person.refresh_token}",
        "X-Vestibule-CSRF": "1",
        **person.headers,
    }
    query = {"email": person.email, "password": person.password, "refresh_token": person.refresh_token}
    for path in {route.path for route in app.routes} | {"/auth/login", "/auth/refresh", "/auth/verify"}:
        answer = await http.get(path, params=query, headers=headers)
        assert "set-cookie" not in answer.headers
        # With the dot behind its head: coordinates of public keys may begin like a token.
        assert not re.search(r"vrt_[\w-]{20}|eyJ[\w-]{10,}\.", answer.text)
    assert await sessions() == before


# Refusals


@pytest.mark.standard("LG-14", "RL-14")
async def test_every_refusal_that_could_tell_who_exists_is_the_same_to_the_byte(
    app: Litestar, http: httpx.AsyncClient, services: Services
) -> None:
    person, shut_out, pending, nobody = await with_account(services), await disabled(services), somebody(), somebody()
    await begin_sign_up(http, pending)
    await begin_sign_up(http, Person(person.email, somebody().nickname, "a stranger at the harbour"))

    async with browser(app) as other:
        answers = {
            "unknown address": await login(http, nobody),
            "unknown nickname": await by_nickname(http, nobody.nickname),
            "wrong password": await login(http, person, password=WRONG),
            "wrong password, by nickname": await by_nickname(http, person.nickname, WRONG),
            "empty password": await login(http, person, password=""),
            "disabled, wrong password": await login(http, shut_out, password=WRONG),
            "disabled, by nickname": await by_nickname(http, shut_out.nickname, WRONG),
            "pending, wrong password": await login(http, pending, password=WRONG),
            "pending, by nickname": await by_nickname(http, pending.nickname),
            "no address at all": await login(other, person, email=f"no address {nobody.nickname}"),
            "an empty address": await login(other, person, email=""),
            "no nickname at all": await by_nickname(other, f"no nickname {nobody.nickname}"),
            "an empty nickname": await by_nickname(other, ""),
            "an address as nickname": await by_nickname(other, person.email),
        }

    assert told(answers["wrong password"]) == (401, "invalid_credentials")
    assert {name: everything(answer) for name, answer in answers.items()} == dict.fromkeys(
        answers, everything(answers["wrong password"])
    )


@pytest.mark.standard("LG-14")
async def test_signing_up_and_in_with_ones_own_password_does_not_tell_whether_the_address_was_known(
    http: httpx.AsyncClient, services: Services
) -> None:
    """A stranger chooses the password of a sign-up themselves, so being right about it must prove nothing."""
    owner, nobody = await with_account(services), somebody()
    strangers = "a stranger at the harbour"
    answers = []
    for address in (owner.email, nobody.email):
        stranger = Person(address, somebody().nickname, strangers)
        await begin_sign_up(http, stranger)
        answers.append(await login(http, stranger))

    known, unknown = answers
    assert told(known) == told(unknown)
    assert sorted(known.json()) == sorted(unknown.json())
    assert len(known.content) == len(unknown.content)


@pytest.mark.standard("LG-14")
@pytest.mark.parametrize("with_sign_up", [False, True])
async def test_a_refusal_costs_as_many_hashes_for_who_exists_as_for_who_does_not(
    http: httpx.AsyncClient, services: Services, hashing: Hashing, with_sign_up: bool
) -> None:
    """And with a sign-up for the name, which a stranger may have made, no more than without."""
    people = [await with_account(services), await disabled(services), somebody()]
    if with_sign_up:
        for who in people:
            await begin_sign_up(http, Person(who.email, somebody().nickname, "a stranger at the harbour"))

    for who in people:
        hashing.calls.clear()
        assert (await login(http, who, password=WRONG)).status_code == 401
        assert hashing.calls == {"verify": 1}
        hashing.calls.clear()
        assert (await by_nickname(http, who.nickname, WRONG)).status_code == 401
        assert hashing.calls == {"verify": 1}


@pytest.mark.standard("LG-14", "PW-23")
async def test_an_account_whose_pepper_is_gone_costs_a_hash_like_everybody(
    services: Services, environ: dict[str, str], wall_clock: TestClock, outbox: Outbox, hashing: Hashing
) -> None:
    person = await with_account(services)
    settings = load({**environ, "VESTIBULE_KEYS": root_key(9)})
    async with worker(settings, wall_clock, outbox) as without, browser(create_app(without)) as http:
        hashing.calls.clear()
        assert told(await login(http, person)) == (401, "invalid_credentials")
        assert hashing.calls == {"verify": 1}


@pytest.mark.standard("LG-14")
async def test_after_the_right_password_a_disabled_person_is_told_so(
    http: httpx.AsyncClient, services: Services
) -> None:
    person = await disabled(services)
    for answer in (await login(http, person), await by_nickname(http, person.nickname)):
        assert told(answer) == (403, "account_disabled")
        assert answer.headers["cache-control"] == "no-store"
        assert "token" not in answer.text


async def test_after_the_right_password_a_pending_person_gets_a_new_mail_and_the_handle_for_its_code(
    http: httpx.AsyncClient, services: Services, outbox: Outbox
) -> None:
    person = somebody()
    first = await begin_sign_up(http, person)
    old = await mailed_code(services, outbox, person.email)

    answer = await login(http, person)
    assert told(answer) == (403, "email_not_verified")
    assert "access_token" not in answer.json()
    handle = answer.json()["registration"]
    assert handle == first
    new = await mailed_code(services, outbox, person.email)
    assert len(outbox.to(person.email)) == 2
    if old != new:
        assert (await http.post("/auth/verify", json={"registration": handle, "code": old})).status_code == 400
    assert (await http.post("/auth/verify", json={"registration": handle, "code": new})).status_code == 200
    assert (await login(http, person)).status_code == 200


@pytest.mark.parametrize("names", [{}, {"email": "a@example.com", "nickname": "ann"}, {"email": None}])
async def test_both_names_or_none_are_no_sign_in(
    http: httpx.AsyncClient, names: dict[str, object], hashing: Hashing
) -> None:
    answer = await http.post("/auth/login", json={"password": PASSWORD, **names})

    assert told(answer) == (400, "invalid_input")
    assert not hashing.calls


# Passwords, byte for byte


@pytest.mark.standard("PW-09", "PW-13")
async def test_a_password_is_compared_byte_for_byte(services: Services) -> None:
    composed = unicodedata.normalize("NFC", "Überall große Bäume é")
    long = "".join(secrets.choice(ascii_lowercase) for _ in range(199)) + "x"
    others = {
        " blanks around the words ": [
            "blanks around the words",
            " blanks around the words",
            "blanks around the words ",
        ],
        "Mixed Case Of Some Words": ["mixed case of some words", "Mixed Case Of Some WORDS"],
        long: [long[:-1] + "y", long[:-1], long[:72], long + "x"],
        composed: [unicodedata.normalize("NFD", composed), unicodedata.normalize("NFKD", composed)],
        "a tab\tand a line\nin the words": ["a tab and a line in the words", "a tab\tand a line\r\nin the words"],
    }
    app = create_app(services)
    for password, wrong in others.items():
        person = await with_account(services, password)
        async with browser(app) as http:
            for other in wrong:
                assert told(await login(http, person, password=other)) == (401, "invalid_credentials"), ascii(other)
            assert (await login(http, person)).status_code == 200


@pytest.mark.standard("PW-12", "PW-06")
@pytest.mark.parametrize(
    "password",
    [
        ALL_ASCII,
        "今日は港の上に静かな雨が降っています",
        "🌊🌧️🏠🐈🎻🌲🍋🚲🧭🎈🌙🧦🪁🥨🗝️🐙",
        "дождь над тихой гаванью",
        "مطر فوق المرفأ الهادئ",
    ],
    ids=["all of ASCII", "Japanese", "emoji", "Russian", "Arabic"],
)
async def test_a_password_may_hold_anything_that_prints(
    http: httpx.AsyncClient, services: Services, outbox: Outbox, password: str
) -> None:
    person = somebody()
    person.password = password
    await sign_up(http, services, outbox, person)

    assert (await login(http, person)).status_code == 200
    assert (await login(http, person, password=password[:-1])).status_code == 401


# How passwords are kept


@pytest.mark.standard("PW-20", "PW-21")
async def test_a_password_is_kept_as_salted_argon2id_above_the_floor(services: Services) -> None:
    kept = [await stored_hash(services, await with_account(services)) for _ in range(3)]

    salts = set()
    for stored in kept:
        parts = re.fullmatch(r"\d+:\$argon2id\$v=19\$m=(\d+),t=(\d+),p=(\d+)\$([^$]+)\$([^$]+)", stored)
        assert parts is not None, stored
        memory, passes, lanes = (int(part) for part in parts.groups()[:3])
        floors = ((1, 47104), (2, 19456), (3, 12288))
        assert any(passes >= t and memory >= m for t, m in floors)
        assert lanes >= 1
        salt = base64.b64decode(parts[4] + "=" * (-len(parts[4]) % 4))
        assert len(salt) >= 16
        salts.add(salt)
    assert len(salts) == 3


@pytest.mark.standard("PW-23")
async def test_the_database_alone_cannot_check_a_password(services: Services) -> None:
    person = await with_account(services)
    phc = (await stored_hash(services, person)).partition(":")[2]

    plain = PASSWORD.encode()
    candidates = [plain, *(hashlib.new(name, plain).digest() for name in ("sha256", "sha512", "sha1", "md5"))]
    candidates += [base64.b64encode(c) for c in candidates] + [c.hex().encode() for c in candidates]
    for candidate in candidates:
        with pytest.raises(argon2.exceptions.VerifyMismatchError):
            argon2.PasswordHasher().verify(phc, candidate)


@pytest.mark.standard("PW-22")
async def test_a_sign_in_raises_an_old_hash_to_todays_cost(
    services: Services, environ: dict[str, str], wall_clock: TestClock, outbox: Outbox
) -> None:
    person = await with_account(services)
    old = await stored_hash(services, person)
    stronger = load({**environ, "VESTIBULE_ARGON2_TIME_COST": "3"})
    async with worker(stronger, wall_clock, outbox) as today, browser(create_app(today)) as http:
        assert (await login(http, person, password=WRONG)).status_code == 401
        assert await stored_hash(services, person) == old
        assert (await login(http, person)).status_code == 200
        raised = await stored_hash(services, person)
        assert "t=2," in old
        assert "t=3," in raised
        assert (await login(http, person)).status_code == 200
        assert await stored_hash(services, person) == raised  # good as it is


@pytest.mark.standard("PW-22", "PW-23")
async def test_a_new_root_key_reads_old_hashes_and_takes_them_over_at_sign_in(
    services: Services, environ: dict[str, str], wall_clock: TestClock, outbox: Outbox
) -> None:
    person, later = await with_account(services), await with_account(services)
    new = root_key(2)
    both = load({**environ, "VESTIBULE_KEYS": f"{new},{environ['VESTIBULE_KEYS']}"})
    async with worker(both, wall_clock, outbox) as rotated, browser(create_app(rotated)) as http:
        assert (await stored_hash(services, person)).startswith("1:")
        assert (await login(http, person, password=WRONG)).status_code == 401
        assert (await login(http, person)).status_code == 200
        assert (await stored_hash(services, person)).startswith("2:")
        assert (await login(http, person)).status_code == 200
        assert (await login(http, person, password=WRONG)).status_code == 401
    async with worker(load({**environ, "VESTIBULE_KEYS": new}), wall_clock, outbox) as alone:
        for who, matches in ((person, True), (later, False)):
            assert await alone.passwords.verify(await stored_hash(services, who), PASSWORD) is matches


@pytest.mark.standard("PW-22")
async def test_a_sign_in_succeeds_although_its_stronger_hash_could_not_be_kept(
    services: Services, environ: dict[str, str], wall_clock: TestClock, outbox: Outbox
) -> None:
    person = await with_account(services)
    old = await stored_hash(services, person)
    hurried = load({**environ, "VESTIBULE_ARGON2_TIME_COST": "3", "VESTIBULE_DATABASE_TIMEOUT": "2"})
    async with worker(hurried, wall_clock, outbox) as today, browser(create_app(today)) as http:
        async with services.database.begin() as held:  # whoever would change the row waits for us
            await held.execute(text("SELECT 1 FROM accounts WHERE email = :a FOR SHARE"), {"a": person.email})
            answer = await login(http, person)
        assert answer.status_code == 200
        assert await stored_hash(services, person) == old
        headers = {"Authorization": f"Bearer {answer.json()['access_token']}"}
        assert (await http.get("/me", headers=headers)).status_code == 200


@pytest.mark.standard("PW-14")
async def test_a_password_does_not_grow_too_old(http: httpx.AsyncClient, services: Services) -> None:
    person = await with_account(services)
    async with services.database.begin() as transaction:
        statement = text("UPDATE accounts SET created_at = created_at - interval '5 years' WHERE email = :a")
        await transaction.execute(statement, {"a": person.email})

    answer = await login(http, person)
    assert answer.status_code == 200
    assert set(answer.json()) == {"access_token", "token_type", "expires_in", "scope", "refresh_token"}
    about_age = re.compile(r"password.*(age|expir|life|days|rotat)|(age|expir|life)\w*_password")
    assert [name for name in Settings.__struct_fields__ if about_age.search(name)] == []


# Which passwords may be chosen


async def sign_up_with(http: httpx.AsyncClient, password: str) -> httpx.Response:
    person = somebody()
    body = {"email": person.email, "password": password, "nickname": person.nickname}
    return await http.post("/auth/register", json=body)


def why(answer: httpx.Response) -> str:
    assert told(answer) == (400, "invalid_input"), answer.text
    [error] = answer.json()["errors"]
    assert error["field"] == "password"
    assert len(error["detail"].split()) > 5  # says what would do (PW-19)
    return str(error["code"])


@pytest.mark.standard("PW-01", "PW-02", "PW-11", "PW-19")
@pytest.mark.parametrize(
    "alphabet", ["qzmvwpfjxkbdhtg", "🌊🌧🏠🐈🎻🌲🍋🚲🧭🎈🌙🧦🪁🥨🗝", "日本海港雨静木山川空風鳥花月石"]
)
async def test_a_password_has_fifteen_characters_whatever_they_weigh(
    http: httpx.AsyncClient, alphabet: str, hashing: Hashing
) -> None:
    assert len(alphabet) == 15
    for length in (0, 1, 7, 8, 14):
        assert why(await sign_up_with(http, alphabet[:length])) == "password_too_short"
    assert not hashing.calls
    assert (await sign_up_with(http, alphabet)).status_code == 202


@pytest.mark.standard("PW-01")
def test_a_shorter_minimum_than_eight_stops_the_start(environ: dict[str, str]) -> None:
    with pytest.raises(SettingsError, match=r"^VESTIBULE_PASSWORD_MIN_LENGTH must be at least 8"):
        load({**environ, "VESTIBULE_PASSWORD_MIN_LENGTH": "7"})
    assert load({**environ, "VESTIBULE_PASSWORD_MIN_LENGTH": "8"}).password_min_length == 8
    usual = {name: value for name, value in environ.items() if name != "VESTIBULE_PASSWORD_MIN_LENGTH"}
    assert load(usual).password_min_length == 15


@pytest.mark.standard("PW-10")
@pytest.mark.parametrize("unit", ["a", "é", "語", "🌊"])
async def test_a_password_may_be_long_but_not_endless(http: httpx.AsyncClient, unit: str, hashing: Hashing) -> None:
    size = len(unit.encode())
    words = secrets.token_hex(20)
    for length in (64, 256):
        assert (await sign_up_with(http, words + unit * (length - len(words)))).status_code == 202
    most = words + unit * ((4096 - len(words)) // size)
    most += "x" * (4096 - len(most.encode()))
    assert len(most.encode()) == 4096
    assert (await sign_up_with(http, most)).status_code == 202
    hashing.calls.clear()
    for over in (most + "x", most + unit * 500):
        answer = await sign_up_with(http, over)
        assert told(answer) == (400, "invalid_input")
        assert [error["field"] for error in answer.json()["errors"]] == ["password"]
        answer = await login(http, somebody(), password=over)
        assert told(answer) == (400, "invalid_input")
    assert not hashing.calls


@pytest.mark.standard("PW-05", "PW-19")
async def test_the_passwords_that_everybody_tries_are_refused(http: httpx.AsyncClient, hashing: Hashing) -> None:
    assert Blocklist.load().longer_than(15) >= 3000
    listed = (files("service.crypto") / "blocklist" / "passwords.txt").read_text(encoding="utf-8").splitlines()
    long_enough = [line for line in listed if len(line) >= 15 and not line.startswith("# ")]
    sample = long_enough[:: len(long_enough) // 30][:30]
    assert len(sample) == 30
    for password in sample:
        assert why(await sign_up_with(http, password)) == "password_blocklisted", password
        assert why(await sign_up_with(http, password.title())) == "password_blocklisted", password
    assert not hashing.calls


@pytest.mark.standard("PW-17")
async def test_ones_own_names_are_no_password(http: httpx.AsyncClient) -> None:
    tail = secrets.token_hex(3)
    for password in (f"annabelle.quist{tail}@example.com", f"annabelle-quist{tail}", f"Annabelle-Quist{tail}1"):
        body = {"email": f"annabelle.quist{tail}@example.com", "nickname": f"annabelle-quist{tail}"}
        answer = await http.post("/auth/register", json={**body, "password": password})
        assert why(answer) == "password_blocklisted", password


@pytest.mark.standard("PW-17")
async def test_the_nickname_that_is_chosen_at_the_proof_is_no_password_either(
    http: httpx.AsyncClient, services: Services, outbox: Outbox
) -> None:
    person = somebody()
    person.password = f"brindlewick-moor{secrets.token_hex(3)}"
    handle = await begin_sign_up(http, person)
    code = await mailed_code(services, outbox, person.email)

    proof = {"registration": handle, "code": code, "nickname": person.password}
    assert told(await http.post("/auth/verify", json=proof)) == (400, "invalid_input")


@pytest.mark.standard("PW-06")
@pytest.mark.parametrize(
    "letters", [ascii_lowercase, ascii_uppercase, digits, "абвгдежзийклмнопрстуфхц", "!#%&*+-/=?^_|~:;"]
)
async def test_no_kind_of_character_is_required(http: httpx.AsyncClient, letters: str) -> None:
    password = "".join(secrets.choice(letters) for _ in range(22))

    assert (await sign_up_with(http, password)).status_code == 202, password


@pytest.mark.standard("PW-25")
async def test_nothing_asks_for_a_hint_or_a_secret_question(http: httpx.AsyncClient, services: Services) -> None:
    described = (await http.get("/openapi.json")).text
    async with services.database.begin() as transaction:
        names = text("SELECT column_name FROM information_schema.columns WHERE table_schema = 'public'")
        columns = (await transaction.scalars(names)).all()
    assert "password_hash" in columns

    odd = re.compile(r"hint|question|(secret|security)_?answer|memorable|mother", re.IGNORECASE)
    assert odd.findall(described.replace("token_type_hint", "")) == []
    assert [column for column in columns if odd.search(column)] == []


# Hashing and everybody else


@pytest.fixture
async def narrow(
    services: Services, environ: dict[str, str], wall_clock: TestClock, outbox: Outbox
) -> AsyncIterator[Services]:
    """A worker that computes two hashes at once and lets eight wait."""
    few = {"VESTIBULE_HASH_SLOTS": "2", "VESTIBULE_HASH_QUEUE": "8"}
    async with worker(load({**environ, **few}), wall_clock, outbox) as running:
        yield running


@pytest.mark.standard("RL-12")
async def test_two_hundred_sign_ins_at_once_neither_pile_up_nor_stop_the_others(
    narrow: Services, hashing: Hashing
) -> None:
    app = create_app(narrow)
    lags: list[float] = []
    waits: list[float] = []
    done = asyncio.Event()

    async def one() -> httpx.Response:
        async with browser(app) as http:
            return await login(http, somebody())

    async def watch() -> None:
        async with browser(app) as http:
            while not done.is_set():
                before = time.perf_counter()
                await asyncio.sleep(0.005)
                woken = time.perf_counter()
                assert (await http.get("/livez")).status_code == 200
                lags.append(woken - before - 0.005)
                waits.append(time.perf_counter() - woken)

    async def arrivals() -> list[httpx.Response]:
        tasks = []
        for _ in range(40):  # in bursts of five, as from a network
            tasks += [asyncio.create_task(one()) for _ in range(5)]
            await asyncio.sleep(0.002)
        return await asyncio.gather(*tasks)

    watching = asyncio.create_task(watch())
    try:
        answers = await arrivals()
    finally:
        done.set()
        await watching

    seen = Counter(answer.status_code for answer in answers)
    assert set(seen) == {401, 503}
    assert seen[503] > 20
    for answer in answers:
        if answer.status_code == 503:
            assert told(answer) == (503, "temporarily_unavailable")
            assert int(answer.headers["retry-after"]) > 0
            assert answer.headers["cache-control"] == "no-store"
    assert hashing.calls["verify"] == seen[401]
    assert hashing.most_at_once <= 2
    assert threading.get_ident() not in hashing.threads
    assert len(lags) >= 5
    assert percentile(lags, 95) < 1
    assert percentile(waits, 95) < 1
    # And afterwards it takes work again.
    async with browser(app) as http:
        assert (await login(http, somebody())).status_code == 401


def percentile(values: list[float], which: int) -> float:
    return sorted(values)[min(len(values) - 1, len(values) * which // 100)]


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Hashes that wait until the test lets them go."""
    go = threading.Event()
    original = argon2.PasswordHasher.verify

    def wait(self: Any, *args: Any) -> bool:
        go.wait(60)
        return original(self, *args)

    monkeypatch.setattr(argon2.PasswordHasher, "verify", wait)
    yield go
    go.set()


@pytest.mark.standard("RL-12")
async def test_people_who_went_away_make_room_in_the_queue(narrow: Services, slow: threading.Event) -> None:
    waiting = [asyncio.create_task(narrow.passwords.verify(None, WRONG)) for _ in range(10)]
    await asyncio.sleep(0.05)
    async with browser(create_app(narrow)) as http:
        assert told(await login(http, somebody())) == (503, "temporarily_unavailable")
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        coming = asyncio.create_task(login(http, somebody()))
        await asyncio.sleep(0.05)
        slow.set()
        assert told(await coming) == (401, "invalid_credentials")


@pytest.mark.standard("RL-12")
async def test_a_password_that_found_no_room_was_no_attempt(narrow: Services, slow: threading.Event) -> None:
    """Whoever tries on while the service is busy has their tries left when it is not."""
    person = await with_account(narrow)
    waiting = [asyncio.create_task(narrow.passwords.verify(None, WRONG)) for _ in range(10)]
    await asyncio.sleep(0.05)
    async with browser(create_app(narrow)) as http:
        for _ in range(40):
            assert told(await login(http, person)) == (503, "temporarily_unavailable")
        slow.set()
        await asyncio.gather(*waiting)
        assert (await login(http, person)).status_code == 200
