"""The audit trail: every decision once, nobody's secret ever, and no decision that waits for its record."""

import asyncio
import base64
import io
import logging
import re
import secrets
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, cast

import httpx
import pytest
import structlog
from litestar import Litestar
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine
from structlog.testing import capture_logs

from service import logs
from service.accounts.profile import Profile
from service.app import create_app
from service.audit import Audit
from service.clock import utc_now
from service.errors import Unavailable
from service.settings import load
from service.store.postgres import Database
from service.store.schema import migrate
from service.wiring import Services, build
from tests.conftest import (
    PASSWORD,
    Introspector,
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

AGENT = "Reader/1.0 (of trails)"
PATIENCE = 5.0
"""Seconds after which something that should happen has not."""


@dataclass(frozen=True)
class Trail:
    """Somebody whose requests carry their own id, and what was noted about them."""

    http: httpx.AsyncClient
    services: Services
    address: str

    async def post(self, path: str, body: dict[str, object]) -> tuple[httpx.Response, str]:
        """The answer, and the id of the request."""
        request_id = secrets.token_hex(12)
        headers = {"X-Request-ID": request_id, "User-Agent": AGENT}
        return await self.http.post(path, json=body, headers=headers), request_id

    async def noted(self, request_id: str, expected: int) -> list[dict[str, Any]]:
        """The events of one request, oldest first, once this many are written; then none may follow."""
        rows = await rows_of(self.services, "request_id", request_id, expected)
        for row in rows:
            assert (row["address"], row["user_agent"]) == (self.address, AGENT)
            assert abs((row["at"] - self.services.clock()).total_seconds()) < 60
        return rows


async def rows_of(services: Services, column: str, value: str, expected: int) -> list[dict[str, Any]]:
    """Audit rows by one of their columns."""
    statement = text(f"SELECT * FROM audit_events WHERE {column} = :value ORDER BY id")  # noqa: S608  our own column
    rows: list[dict[str, Any]] = []
    for _ in range(100):
        await services.audit.flush()
        async with services.database.begin() as transaction:
            rows = [dict(row) for row in (await transaction.execute(statement, {"value": value})).mappings()]
        if len(rows) >= expected:
            break
        await asyncio.sleep(PATIENCE / 100)
    assert len(rows) == expected, rows
    return rows


@pytest.fixture
async def trail(app: Litestar, services: Services) -> AsyncIterator[Trail]:
    address = new_address()
    async with browser(app, address) as http:
        yield Trail(http, services, address)


async def account_of(services: Services, person: Person) -> Any:
    account = await services.administration.find(person.email)
    assert account is not None
    return account.id


# One event for each decision


@pytest.mark.standard("LO-02")
async def test_the_way_in_and_out_leaves_one_event_for_each_decision(
    trail: Trail, services: Services, outbox: Outbox
) -> None:
    person = somebody()
    sign_up_body: dict[str, object] = {
        "email": person.email,
        "password": person.password,
        "nickname": person.nickname,
    }
    kept, request = await trail.post("/auth/register", sign_up_body)
    [event] = await trail.noted(request, 1)
    assert (event["event"], event["outcome"], event["account_id"]) == ("account.register", "ok", None)

    handle = kept.json()["registration"]
    code = await mailed_code(services, outbox, person.email)
    _, request = await trail.post("/auth/verify", {"registration": handle, "code": f"{(int(code) + 1) % 10**6:06d}"})
    [event] = await trail.noted(request, 1)
    assert (event["event"], event["outcome"]) == ("account.verify", "code_wrong")
    _, request = await trail.post("/auth/verify", {"registration": "vrg_nothing", "code": code})
    [event] = await trail.noted(request, 1)
    assert (event["event"], event["outcome"]) == ("account.verify", "unknown_registration")
    _, request = await trail.post("/auth/verify/resend", {"registration": handle})
    [event] = await trail.noted(request, 1)
    assert event["event"] == "account.resend_code"

    code = await mailed_code(services, outbox, person.email)
    _, request = await trail.post("/auth/verify", {"registration": handle, "code": code})
    account = await account_of(services, person)
    proved, opened = sorted(await trail.noted(request, 2), key=lambda event: str(event["event"]))
    assert (proved["event"], proved["outcome"], proved["account_id"]) == ("account.verify", "ok", account)
    assert (opened["event"], opened["outcome"], opened["account_id"]) == ("session.open", "ok", account)
    assert opened["detail"] == {"amr": ["email"]}

    entered, request = await trail.post("/auth/login", person.credentials())
    opened, event = await trail.noted(request, 2)
    assert (event["event"], event["outcome"], event["account_id"]) == ("login", "ok", account)
    assert (opened["event"], opened["client_id"], opened["detail"]) == ("session.open", "web", {"amr": ["pwd"]})
    session = opened["session_id"]
    assert session

    first = entered.json()["refresh_token"]
    await trail.post("/auth/refresh", {"refresh_token": first})  # what happens all the time is counted, not noted
    for _ in range(2):
        answer, request = await trail.post("/auth/refresh", {"refresh_token": first})
        [event] = await trail.noted(request, 1)
        assert (event["event"], event["outcome"]) == ("session.refresh", "repeated")
        assert (event["account_id"], event["client_id"], event["session_id"]) == (account, "web", session)
        assert event["detail"] == {"generation": 0}
    _, request = await trail.post("/auth/logout", {"refresh_token": answer.json()["refresh_token"]})
    [event] = await trail.noted(request, 1)
    assert (event["event"], event["outcome"], event["session_id"]) == ("session.close", "closed", session)
    assert event["account_id"] == account
    for path, name in (("/auth/refresh", "session.refresh"), ("/auth/logout", "session.close")):
        _, request = await trail.post(path, {"refresh_token": first})
        [event] = await trail.noted(request, 1)
        assert (event["event"], event["outcome"], event["session_id"]) == (name, "revoked", session)


@pytest.mark.standard("LO-02", "SE-22")
async def test_a_refresh_token_that_comes_back_late_is_noted_as_reused(
    trail: Trail, services: Services, outbox: Outbox, clock: TestClock
) -> None:
    person = await sign_up(trail.http, services, outbox)
    token = person.refresh_token
    for _ in range(2):
        answer, _ = await trail.post("/auth/refresh", {"refresh_token": token})
        token = answer.json()["refresh_token"]
    await clock.advance(hours=2)
    _, request = await trail.post("/auth/refresh", {"refresh_token": person.refresh_token})

    [event] = await trail.noted(request, 1)
    assert (event["event"], event["outcome"]) == ("session.refresh", "reused")
    assert event["account_id"] == await account_of(services, person)


@pytest.mark.standard("LO-02")
async def test_refused_sign_ins_are_noted_with_their_true_cause(
    trail: Trail, services: Services, outbox: Outbox
) -> None:
    person, pending, nobody = await sign_up(trail.http, services, outbox), somebody(), somebody()
    account = await account_of(services, person)
    await begin_sign_up(trail.http, pending)

    _, request = await trail.post("/auth/login", person.credentials(password="wrong but long enough"))
    [event] = await trail.noted(request, 1)
    assert (event["event"], event["outcome"], event["account_id"]) == ("login", "refused", account)
    assert event["client_id"] == "web"
    _, request = await trail.post("/auth/login", nobody.credentials())
    [event] = await trail.noted(request, 1)
    assert (event["event"], event["outcome"], event["account_id"]) == ("login", "refused", None)
    _, request = await trail.post("/auth/login", pending.credentials())
    assert ("login", "email_not_verified") in [(e["event"], e["outcome"]) for e in await trail.noted(request, 1)]

    await services.administration.disable(account)
    shut_out = await rows_of(services, "account_id::text", str(account), 4)
    assert (shut_out[-1]["event"], shut_out[-1]["outcome"]) == ("account.disable", "ok")
    _, request = await trail.post("/auth/login", person.credentials())
    [event] = await trail.noted(request, 1)
    assert (event["event"], event["outcome"], event["account_id"]) == ("login", "disabled", account)
    await services.administration.disable(account)
    assert (await rows_of(services, "account_id::text", str(account), 6))[-1]["outcome"] == "already"


@pytest.mark.standard("LO-02")
async def test_a_known_address_at_sign_up_is_noted_and_a_mail_beyond_the_limit_too(
    trail: Trail, services: Services, outbox: Outbox
) -> None:
    person = await sign_up(trail.http, services, outbox)
    requests = []
    for _ in range(5):
        body: dict[str, object] = {"email": person.email, "password": PASSWORD, "nickname": somebody().nickname}
        requests.append((await trail.post("/auth/register", body))[1])

    [event] = await trail.noted(requests[0], 1)
    assert (event["event"], event["outcome"]) == ("account.register", "address_known")
    first, last = await trail.noted(requests[-1], 2)
    assert (first["event"], last["event"], last["outcome"]) == ("account.register", "account.mail", "limited")


@pytest.mark.standard("LO-02")
async def test_a_client_that_cannot_prove_itself_is_noted(trail: Trail, introspector: Introspector) -> None:
    for credentials in ((introspector.client_id, "vcs_wrong"), ("nobody-of-this-name", "vcs_wrong")):
        request = secrets.token_hex(12)
        headers = {"X-Request-ID": request, "User-Agent": AGENT}
        await trail.http.post("/introspect", data={"token": "x"}, auth=credentials, headers=headers)
        [event] = await trail.noted(request, 1)
        assert (event["event"], event["outcome"]) == ("client.authenticate", "refused")
        assert event["client_id"] == credentials[0]
    request = secrets.token_hex(12)
    await trail.http.post(
        "/introspect",
        data={"token": "x"},
        auth=(introspector.client_id, introspector.secret),
        headers={"X-Request-ID": request},
    )
    assert await rows_of(trail.services, "request_id", request, 0) == []


async def test_an_event_stands_in_the_log_as_well(trail: Trail) -> None:
    with capture_logs(processors=[structlog.contextvars.merge_contextvars]) as lines:
        _, request = await trail.post("/auth/login", somebody().credentials())

    [line] = [line for line in lines if line["event"] == "login"]
    assert (line["outcome"], line["client"], line["log_level"]) == ("refused", "web", "info")
    assert (line["request_id"], line["address"], line["user_agent"]) == (request, trail.address, AGENT)


# Secrets


class Terminal(io.StringIO):
    def __init__(self, tty: bool) -> None:
        super().__init__()
        self._tty = tty

    def isatty(self) -> bool:
        return self._tty


@asynccontextmanager
async def everything_logged(*, readable: bool, tty: bool = False) -> AsyncIterator[Terminal]:
    """The log of ours and of every library at its most talkative, as `logs.configure` writes it."""
    root, stream, stdout, config = logging.getLogger(), Terminal(tty), sys.stdout, structlog.get_config()
    levels = {name: logging.getLogger(name).level for name in ("", "vestibule", "httpx", "httpcore", "hypothesis")}
    handlers = root.handlers[:]
    sys.stdout = stream
    try:
        logs.configure(readable=readable, level="debug")
        structlog.configure(cache_logger_on_first_use=False)
        root.setLevel(logging.DEBUG)
        for name in ("httpx", "httpcore"):  # the clients of the tests
            logging.getLogger(name).setLevel(logging.WARNING)
        yield stream
    finally:
        for handler in root.handlers:
            sink = getattr(handler, "stream", None)
            if isinstance(sink, logs.Sink):
                await asyncio.to_thread(sink.settle)
        sys.stdout = stdout
        root.handlers = handlers
        structlog.configure(**config)
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


class Canaries(dict[str, str]):
    """Secrets that are found again wherever they went."""

    def __missing__(self, name: str) -> str:
        self[name] = f"canary-{len(self)}-{secrets.token_hex(8)}"
        return self[name]

    def seen_in(self, text: str) -> set[str]:
        """The names of those that show, as they are or coded."""
        found = set()
        for name, secret in self.items():
            raw = secret.encode()
            shapes = {secret, base64.b64encode(raw).decode().rstrip("="), raw.hex()}
            bounded = name.startswith("code")  # six digits stand in many a time of day
            if any(re.search(rf"(?<![\w.]){s}(?!\w)" if bounded else re.escape(s), text) for s in shapes):
                found.add(name)
        return found


@pytest.mark.standard("LO-06")
@pytest.mark.parametrize("readable", [False, True])
async def test_no_secret_of_a_request_reaches_the_log_or_the_trail(
    app: Litestar,
    services: Services,
    outbox: Outbox,
    introspector: Introspector,
    *,
    monkeypatch: pytest.MonkeyPatch,
    readable: bool,
) -> None:
    canaries, started = Canaries(), utc_now()
    async with everything_logged(readable=readable) as log, browser(app) as http:
        person = await act(http, services, outbox, introspector, canaries)
        entered = await http.post("/auth/login", json=person.credentials())
        canaries["access at the crash"] = entered.json()["access_token"]

        async def crash(*_: object) -> None:
            raise RuntimeError("crashed on purpose")

        monkeypatch.setattr(Profile, "read", crash)
        headers = {"Authorization": f"Bearer {canaries['access at the crash']}"}
        assert (await http.get("/me", headers=headers)).status_code == 500
        await services.mailer.drain()
        await services.audit.flush()
    written = log.getvalue()

    for line in ("account.register", "account.verify", "session.open", "a mail left", "crashed"):
        assert line in written  # we looked at the right place
    assert len(canaries) > 20
    assert canaries.seen_in(written) == set()
    async with services.database.begin() as transaction:
        statement = text("SELECT e::text FROM audit_events e WHERE at >= :started")
        rows = "\n".join((await transaction.scalars(statement, {"started": started})).all())
    assert "account.register" in rows
    assert canaries.seen_in(rows) == set()


async def act(
    http: httpx.AsyncClient, services: Services, outbox: Outbox, introspector: Introspector, canaries: Canaries
) -> Person:
    """Everything one can do here, with a secret in every place that takes one."""
    person = somebody()
    person.password = canaries["password"]
    canaries["handle"] = handle = await begin_sign_up(http, person)
    canaries["code"] = code = await mailed_code(services, outbox, person.email)
    for guess in (canaries["wrong code"][:16], f"{(int(code) + 1) % 10**6:06d}"):
        await http.post("/auth/verify", json={"registration": handle, "code": guess})
    await http.post("/auth/verify", json={"registration": canaries["wrong handle"], "code": code})
    await http.post("/auth/verify/resend", json={"registration": canaries["wrong handle"]})
    await http.post("/auth/login", json=person.credentials())  # pending: the mail goes out again
    canaries["code again"] = code = await mailed_code(services, outbox, person.email)
    first = (await http.post("/auth/verify", json={"registration": handle, "code": code})).json()
    canaries["first refresh"], canaries["first access"] = first["refresh_token"], first["access_token"]

    await http.post("/auth/login", json=person.credentials(password=canaries["wrong password"]))
    await http.post("/auth/login", json={"password": canaries["password of nobody"], "email": "nobody@example.com"})
    await http.post("/auth/login", json={"password": [canaries["password in a list"]], "email": person.email})
    await http.post("/auth/login", json={"password": "x", canaries["field"]: 1})
    await http.post("/auth/login", json={"password": canaries["password over length"] * 500, "email": person.email})
    await http.post("/auth/login", content=b'{"password": "' + canaries["cut off"].encode())
    json_type = {"Content-Type": "application/json"}
    broken = b'{"password": "' + canaries["broken"].encode() + b'\\x"}'
    await http.post("/auth/login", content=broken, headers=json_type)
    await http.post("/auth/register", json={"email": "x", "password": canaries["password refused"], "nickname": "?"})
    second = (await http.post("/auth/login", json=person.credentials())).json()
    canaries["refresh"] = second["refresh_token"]
    third = (await http.post("/auth/refresh", json={"refresh_token": canaries["refresh"]})).json()
    canaries["refresh again"], canaries["access"] = third["refresh_token"], third["access_token"]
    cookie = {"Cookie": f"__Host-vestibule-refresh={canaries['refresh cookie']}; other={canaries['other cookie']}"}
    await http.post("/auth/refresh", json={}, headers={**cookie, "X-Vestibule-CSRF": "1"})
    await http.post("/auth/refresh", json={"refresh_token": f"vrt_{canaries['no refresh token']}"})

    await http.get("/me", headers={"Authorization": f"Bearer {canaries['access']}"})
    for scheme in ("Bearer", "Basic", "Digest", ""):
        await http.get("/me", headers={"Authorization": f"{scheme} {canaries['authorization ' + scheme]}".strip()})
    query = {"access_token": canaries["query token"], "code": canaries["query code"], canaries["query name"]: "1"}
    for path in ("/me", "/livez", "/nothing", f"/nothing/{canaries['path']}", "/auth/login"):
        await http.get(path, params=query, headers={"Referer": f"https://x.test/?t={canaries['referer']}"})
    ours = (introspector.client_id, introspector.secret)
    canaries["client secret"] = introspector.secret
    await http.post("/introspect", data={"token": canaries["access"]}, auth=ours, params=query)
    await http.post("/introspect", data={"token": canaries["no token"]}, auth=ours)
    await http.post("/introspect", data={"token": "x"}, auth=(introspector.client_id, canaries["wrong secret"]))
    post = {"token": "x", "client_id": introspector.client_id, "client_secret": canaries["posted secret"]}
    await http.post("/introspect", data=post)
    await http.post("/introspect", params={"client_secret": canaries["secret in the query"]}, data={"token": "x"})
    await http.post("/auth/logout", json={"refresh_token": third["refresh_token"]})
    return person


@pytest.mark.standard("LO-06")
@pytest.mark.parametrize("readable", [False, True])
@pytest.mark.parametrize("tty", [False, True])
async def test_a_traceback_shows_no_values(readable: bool, tty: bool) -> None:
    """What a frame held when it broke, a password for one, is nobody's business: not on a terminal either."""
    canary = secrets.token_hex(8)

    def broken(password: str) -> None:
        raise RuntimeError("broken on purpose")

    async with everything_logged(readable=readable, tty=tty) as log:
        try:
            broken(canary)
        except RuntimeError:
            structlog.get_logger("vestibule.test").exception("it broke")
            logging.getLogger("vestibule.test").exception("it broke")
    written = log.getvalue()

    assert written.count("broken on purpose") >= 2
    assert canary not in written


# PostgreSQL away


@pytest.fixture(scope="module")
def own_database(servers: Servers) -> Iterator[tuple[str, str]]:
    """A database of our own, and the one from which it can be shut."""
    with _own_database(servers.database_url) as url:
        migrate(url)
        yield url, servers.database_url


async def let_in(database: tuple[str, str], allowed: bool) -> None:
    """Opens or shuts the database, for everybody."""
    name = database[0].partition("://")[2].partition("/")[2].partition("?")[0]
    engine = create_async_engine(database[1], isolation_level="AUTOCOMMIT")
    async with engine.connect() as connection:
        await connection.execute(text(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS {str(allowed).lower()}'))
        if not allowed:
            ending = text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :name")
            await connection.execute(ending, {"name": name})
    await engine.dispose()


@pytest.mark.standard("PF-39")
async def test_without_postgresql_people_stay_signed_in_and_their_events_are_written_later(
    own_database: tuple[str, str], environ: dict[str, str], wall_clock: TestClock, outbox: Outbox
) -> None:
    settings = load({**environ, "DATABASE_URL": own_database[0]})
    first = build(settings, mail=lambda _: outbox)
    await first.signing_keys.ensure()
    await first.client_administration.ensure_front_end()
    await first.close()
    async with worker(settings, wall_clock, outbox) as services, browser(create_app(services)) as http:
        person = await sign_up(http, services, outbox)
        account = str(await account_of(services, person))
        before = len(await rows_of(services, "account_id::text", account, 2))
        await let_in(own_database, False)
        try:
            refreshed = await http.post("/auth/refresh", json={"refresh_token": person.refresh_token})
            assert refreshed.status_code == 200
            login = await http.post("/auth/login", json=person.credentials())
            assert (login.status_code, login.json()["code"]) == (503, "temporarily_unavailable")
            for _ in range(2):
                again = await http.post("/auth/refresh", json={"refresh_token": person.refresh_token})
                assert again.status_code == 200
            with pytest.raises(Unavailable):
                await services.audit.flush()
        finally:
            await let_in(own_database, True)
        events = await rows_of(services, "account_id::text", account, before + 2)
        assert [event["event"] for event in events[before:]] == ["session.refresh"] * 2
        assert {event["outcome"] for event in events[before:]} == {"repeated"}
        assert services.audit.lost == 0


async def test_events_beyond_the_bound_are_counted_and_push_out_none_before_them(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.audit.MOST_WAITING", 50)
    audit, marker = Audit(services.database, utc_now), secrets.token_hex(8)
    for number in range(60):
        audit.record("test.flood", client=marker, number=number)
    assert audit.lost == 10
    await audit.flush()

    rows = await rows_of(services, "client_id", marker, 50)
    assert [row["detail"]["number"] for row in rows] == list(range(50))


class AnswerLost:
    """A database that commits and then is away before it can say so, the first time."""

    def __init__(self, database: Database) -> None:
        self._database, self.away = database, True

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[Any]:
        async with self._database.begin() as transaction:
            yield transaction
        if self.away:
            self.away = False
            raise Unavailable("the answer was lost")


async def test_events_whose_commit_was_not_heard_of_are_written_once_and_hold_up_nothing(services: Services) -> None:
    audit, marker = Audit(cast("Database", AnswerLost(services.database)), utc_now), secrets.token_hex(8)
    audit.record("test.first", client=marker)
    with pytest.raises(Unavailable):
        await audit.flush()
    audit.record("test.second", client=marker)
    await audit.flush()

    rows = await rows_of(services, "client_id", marker, 2)
    assert [row["event"] for row in rows] == ["test.first", "test.second"]


@pytest.mark.standard("LG-03", "LO-11")
@pytest.mark.parametrize("odd", ["\x00", "a\x00b", "\x1b[31m", "\r\nadmin", "é" * 100, "\ud7ff\U0010ffff", "a" * 600])
async def test_nothing_a_stranger_sends_keeps_other_events_from_being_written(
    trail: Trail, services: Services, odd: str
) -> None:
    header = base64.b64encode(f"{odd}:vcs_wrong".encode()).decode()
    await trail.http.post("/introspect", data={"token": "x"}, headers={"Authorization": f"Basic {header}"})
    await trail.http.post("/introspect", data={"token": "x", "client_id": odd, "client_secret": "y"})
    _, request = await trail.post("/auth/login", somebody().credentials())

    [event] = await trail.noted(request, 1)
    assert event["event"] == "login"


async def test_events_that_wait_are_written_at_the_end(services: Services) -> None:
    marker = secrets.token_hex(8)
    audit = Audit(services.database, utc_now)
    audit.start()
    audit.record("test.last", client=marker)
    await audit.stop()

    assert len(await rows_of(services, "client_id", marker, 1)) == 1


async def test_recording_never_waits_and_the_end_comes_without_a_database(environ: dict[str, str]) -> None:
    nowhere = {"DATABASE_URL": "postgresql://nobody@127.0.0.1:1/nothing", "VESTIBULE_DATABASE_TIMEOUT": "0.3"}
    database = Database.connect(load({**environ, **nowhere}))
    audit = Audit(database, utc_now)
    audit.start()
    with capture_logs() as lines:
        for _ in range(500):
            audit.record("test.away")
        async with asyncio.timeout(PATIENCE):
            await audit.stop()
    assert Counter(line["event"] for line in lines)["test.away"] == 500
    await database.close()
