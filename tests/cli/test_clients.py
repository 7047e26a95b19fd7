"""`vestibule client`, `api`, `user` and `sessions` beside a running service: what they say, and that it hears of it."""

import json
import re
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest
from redis.asyncio import Redis
from sqlalchemy import select

from service.audit import AuditEvent
from service.wiring import Services
from tests.cli.test_production import COMMANDER, PROJECT, Commander, one_line
from tests.conftest import PASSWORD, Outbox, somebody
from tests.deeds import bearer, id_of, is_in, mailed_link, row_of, sign_in, with_account
from tests.oauth.acting import Software, admitted, new_front_end
from tests.tokens.acting import record_key
from tests.tokens.hearing import eventually
from tests.tokens.test_client_rules import GOOD_KEY, fresh_id

# Reads the list of common passwords once, for all the processes that it starts.
QUICKER = COMMANDER.replace(
    "gc.freeze()", "from service.crypto.blocklist import Blocklist; Blocklist.load(()); gc.freeze()"
)
NOBODY = "01998f4e-0000-7000-8000-000000000001"
Told = Callable[..., dict[str, str]]


@pytest.fixture(scope="module")
def commander(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commander]:
    command = [sys.executable, "-c", QUICKER]
    with subprocess.Popen(command, cwd=PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield Commander(process, tmp_path_factory.mktemp("commands"))


@pytest.fixture
def told(commander: Commander, environ: dict[str, str], services: Services) -> Told:
    """Runs a command that succeeds, and answers what it says by the first word of each line."""

    def run(*arguments: str, typed: str = "") -> dict[str, str]:
        result = commander.run(environ, *arguments, typed=typed)
        assert result.code == 0, result
        lines = [line.split(maxsplit=1) for line in result.out.splitlines()]
        return {first: "".join(rest) for first, *rest in lines}

    return run


@pytest.fixture
def refused(commander: Commander, environ: dict[str, str], services: Services) -> Callable[..., list[str]]:
    """Runs commands that end with these codes, all at once, and answers what they say: one line when it is 1."""

    def run(*expected: tuple[int, list[str]]) -> list[str]:
        results = commander.run_at_once([(environ, tuple(arguments)) for _, arguments in expected])
        for (code, arguments), result in zip(expected, results, strict=True):
            assert "Traceback" not in result.err, (arguments, result.err[-400:])
            assert (result.code, result.out) == (code, ""), (arguments, result)
            assert code != 1 or one_line(result.err).startswith("vestibule: ")
        return [result.err for result in results]

    return run


Refused = Callable[..., list[str]]


def answer_to(client: Software, http: httpx.AsyncClient, **form: str) -> Callable[[], Any]:
    """How the running service answers a client: its status, and the scope or the error."""

    async def ask() -> tuple[int, str | None]:
        answer = await client.ask_token(http, **form)
        return answer.status_code, answer.json().get("scope", answer.json().get("error"))

    return ask


async def noted(services: Services, column: Any, value: object) -> list[str]:
    """What the audit trail says the command line did."""
    statement = select(AuditEvent).where(column == value).order_by(AuditEvent.id)
    async with services.database.begin() as transaction:
        rows = (await transaction.scalars(statement)).all()
    by_command = [row for row in rows if row.detail.get("by") == "command line"]
    assert {row.user_agent for row in by_command} <= {"vestibule command line"}
    return [row.event for row in by_command]


# Clients and APIs


@pytest.mark.standard("AT-17", "AD-22", "KY-32")
async def test_a_service_and_its_api_from_the_first_day_to_the_last(
    http: httpx.AsyncClient, services: Services, told: Told, refused: Refused
) -> None:
    name, client_id = f"https://{secrets.token_hex(6)}.test", fresh_id()
    read, write = f"{client_id}:read", f"{client_id}:write"
    told("api", "create", name, "--name", "Orders", "--scope", read, "--scope", write)
    wanted = ["--scope", read, "--audience", name, "--serves", name, "--origin", "https://app.test", "--introspect"]
    wanted += ["--name", "Orders", "--redirect-uri", "https://app.test/cb", "--auth-method", "client_secret_basic"]
    made = told("client", "create", client_id, *wanted)
    assert made["client_id"] == client_id
    client = Software(client_id, made["client_secret"])
    assert await answer_to(client, http)() == (200, read)
    assert (await client.introspect(http, "x")).status_code == 200

    shown = told("client", "show", client_id)
    assert shown["secret"] == f"{made['secret_id']} for good"
    assert (shown["state"], shown["scopes"], shown["audiences"], shown["serves"]) == ("enabled", read, name, name)
    assert (shown["origins"], shown["redirect_uris"]) == ("https://app.test", "https://app.test/cb")
    assert (shown["auth_methods"], shown["grants"]) == ("client_secret_basic", "client_credentials")
    assert client.secret not in str(shown)

    told("client", "change", client_id, "-", typed=json.dumps({"scopes": [read, write], "access_token_life": 60}))
    await eventually(answer_to(client, http), (200, f"{read} {write}"))
    refused((1, ["api", "remove", name]))
    told("client", "disable", client_id)
    await eventually(answer_to(client, http), (401, "invalid_client"))
    told("client", "enable", client_id)
    await eventually(answer_to(client, http, scope=write), (200, write))
    assert told("api", "list")[name] == f"{read} {write}"
    told("client", "change", client_id, "-", typed=json.dumps({"scopes": [], "audiences": [], "serves": []}))
    told("api", "remove", name)
    await eventually(answer_to(client, http, resource=name), (400, "invalid_target"))
    events = ["client.create", "client.change", "client.disable", "client.enable", "client.change"]
    assert await noted(services, AuditEvent.client_id, client_id) == events


@pytest.mark.standard("KY-21", "KY-32")
async def test_a_secret_is_exchanged_by_command(
    http: httpx.AsyncClient, services: Services, told: Told, refused: Refused
) -> None:
    client_id = fresh_id()
    first = told("client", "create", client_id)
    second = told("client", "add-secret", client_id, "--days", "1")
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC", second["expires"])
    for made in (first, second):
        assert (await answer_to(Software(client_id, made["client_secret"]), http)())[0] == 200

    told("client", "end-secret", client_id, first["secret_id"])
    await eventually(answer_to(Software(client_id, first["client_secret"]), http), (401, "invalid_client"))
    assert (await answer_to(Software(client_id, second["client_secret"]), http)())[0] == 200
    shown = told("client", "show", client_id)
    assert shown["secret"] == f"{second['secret_id']} until {second['expires'].removesuffix(' UTC')}"
    refused((1, ["client", "end-secret", client_id, first["secret_id"]]))
    events = ["client.create", "client.add_secret", "client.end_secret"]
    assert await noted(services, AuditEvent.client_id, client_id) == events


@pytest.mark.standard("AT-18", "KY-32")
def test_a_client_with_keys_or_of_people_gets_no_secret(told: Told, tmp_path: Path) -> None:
    (tmp_path / "jwks.json").write_text(json.dumps({"keys": [GOOD_KEY]}))
    by_key, front_end = fresh_id(), fresh_id()
    keys = ("--auth-method", "private_key_jwt", "--jwks", str(tmp_path / "jwks.json"))
    assert told("client", "create", by_key, *keys) == {"client_id": by_key}
    assert told("client", "create", front_end, "--public") == {"client_id": front_end}
    assert "secret" not in told("client", "show", by_key)


def test_what_cannot_be_is_refused_and_says_why(refused: Refused, tmp_path: Path) -> None:
    def file(text: str) -> str:
        path = tmp_path / secrets.token_hex(4)
        path.write_bytes(text.encode("latin-1"))
        return str(path)

    fresh, nothing = fresh_id(), str(tmp_path / "nothing")
    messages = refused(
        (1, ["client", "create", fresh, "--scope", "nothing:known"]),
        (1, ["client", "create", fresh, "--origin", "http://app.test"]),
        (1, ["client", "create", fresh, "--jwks", file(json.dumps({"keys": [GOOD_KEY]}))]),
        (1, ["client", "show", fresh]),
        (1, ["client", "add-secret", "web"]),
        (1, ["client", "end-secret", "web", NOBODY]),
        (1, ["api", "create", "orders"]),
        (1, ["api", "remove", "https://nowhere.test"]),
        (2, ["client", "create", NOBODY]),
        (2, ["client", "create", fresh, "--grant", "password"]),
        (2, ["client", "create", fresh, "--jwks", file("no JSON")]),
        (2, ["client", "create", fresh, "--jwks", file("[]")]),
        (2, ["client", "create", fresh, "--jwks", nothing]),
        (2, ["client", "change", "web", file("\xff\xfe")]),
        (2, ["client", "change", "web", file("[]")]),
        (2, ["client", "change", "web", file('{"secret": "x"}')]),
        (2, ["client", "add-secret", "web", "--days", "0"]),
        (2, ["client", "end-secret", "web", "nothing"]),
    )
    for message, word in zip(messages, ["scope", "origin", "jwks", "nothing", "secret"], strict=False):
        assert word in message


def test_a_change_of_the_wrong_kind_is_refused_and_no_crash(
    commander: Commander, environ: dict[str, str], told: Told, tmp_path: Path
) -> None:
    client_id = fresh_id()
    told("client", "create", client_id)
    before = told("client", "show", client_id)
    wrong: list[dict[str, object]] = [
        {"name": None},
        {"name": 7},
        {"grants": "refresh_token"},
        {"scopes": [7]},
        {"may_introspect": "yes"},
        {"access_token_life": "60"},
        {"access_token_life": 10**12},
        {"jwks": []},
    ]
    commands = []
    for number, change in enumerate(wrong):
        (tmp_path / str(number)).write_text(json.dumps(change))
        commands.append((environ, ("client", "change", client_id, str(tmp_path / str(number)))))
    for change, result in zip(wrong, commander.run_at_once(commands), strict=True):
        assert "Traceback" not in result.err, change
        assert result.code in {1, 2}, (change, result)
        assert next(iter(change)) in result.err
    (tmp_path / "odd").write_text('{"name": "nul\\u0000"}')
    assert commander.run(environ, "client", "change", client_id, str(tmp_path / "odd")).code == 2
    assert told("client", "show", client_id) == before


# People


@pytest.mark.standard("AD-22", "AD-05")
async def test_an_administrator_is_made_and_unmade_by_command(
    http: httpx.AsyncClient, services: Services, told: Told, refused: Refused
) -> None:
    await with_account(services, ("admin",))  # the last one stays
    person = somebody()
    named = ("--email", person.email, "--nickname", person.nickname)
    made = told("user", "create", *named, "--role", "editor", "--admin", "--password-stdin", typed=f"{PASSWORD}\n")
    signed_in = await sign_in(http, person)
    assert signed_in.json()["scope"].split() == ["account", "admin"]
    headers = bearer(signed_in)
    assert (await http.get("/admin/clients", headers=headers)).status_code == 200
    assert UUID(made["id"]) == await id_of(services, person)

    told("user", "roles", person.email, "editor", "author")
    assert (await row_of(services, person)).roles == ["author", "editor"]
    assert (await http.get("/admin/clients", headers=headers)).status_code == 403
    assert await is_in(http, headers)
    events = await noted(services, AuditEvent.account_id, await id_of(services, person))
    assert events == ["account.set_roles"]


@pytest.mark.standard("AD-14", "AD-22")
async def test_a_password_is_made_worthless_by_command(
    http: httpx.AsyncClient, services: Services, outbox: Outbox, told: Told
) -> None:
    person = await with_account(services)
    headers = bearer(await sign_in(http, person))
    told("user", "require-password-change", person.nickname)

    assert not await is_in(http, headers)
    refusal = await sign_in(http, person)
    assert (refusal.status_code, refusal.json()["code"]) == (403, "password_change_required")
    assert await mailed_link(services, outbox, person.email, "reset")
    assert await noted(services, AuditEvent.account_id, await id_of(services, person)) == [
        "account.require_password_change"
    ]


@pytest.mark.standard("AD-13", "AD-22")
async def test_sessions_are_ended_of_one_of_some_and_of_all(
    http: httpx.AsyncClient, services: Services, told: Told
) -> None:
    front_end, web, role = await new_front_end(services), Software("web"), f"role-{secrets.token_hex(4)}"
    plain, with_role = await with_account(services), await with_account(services, (role,))
    pairs = [(plain, web), (plain, front_end), (with_role, web), (with_role, front_end)]

    for arguments, left in (
        (["--user", plain.email], [False, False, True, True]),
        (["--client", front_end.client_id], [True, False, True, False]),
        (["--role", role, "--client", front_end.client_id], [True, True, True, False]),
        (["--role", role, "--opened-before", "2100-01-01T00:00:00"], [True, True, False, False]),
        (["--client", front_end.client_id, "--opened-before", "2020-01-01"], [True] * 4),
        (["--everybody"], [False] * 4),
    ):
        tokens = [(await admitted(services, *pair)).access_token for pair in pairs]
        said = told("sessions", "end", *arguments)
        found = [await is_in(http, {"Authorization": f"Bearer {token}"}) for token in tokens]
        assert found == left, arguments
    assert int(next(iter(said))) >= 4
    assert told("sessions", "end", "--everybody") == {"0": "sessions ended, 0 looked at"}
    assert await noted(services, AuditEvent.event, "session.close_many")
    events = await noted(services, AuditEvent.account_id, await id_of(services, plain))
    assert events == ["session.close_all"]


@pytest.mark.standard("AD-13")
async def test_sessions_that_redis_forgot_are_counted_when_they_end(
    http: httpx.AsyncClient, services: Services, redis: Redis, told: Told
) -> None:
    role, web = f"role-{secrets.token_hex(4)}", Software("web")
    person = await with_account(services, (role,))
    tokens = [(await admitted(services, person, web)).access_token for _ in range(3)]
    assert await redis.delete(record_key(await id_of(services, person))) == 1

    assert told("sessions", "end", "--role", role) == {"3": "sessions ended, 3 looked at"}
    assert not any([await is_in(http, {"Authorization": f"Bearer {token}"}) for token in tokens])


async def test_people_that_are_not_there_and_contradictions_are_refused(services: Services, refused: Refused) -> None:
    person = await with_account(services, ("editor",))
    refused(
        (1, ["user", "roles", "nobody-knows", "admin"]),
        (1, ["user", "roles", person.nickname, "Admin"]),
        (1, ["user", "require-password-change", "nobody@example.com"]),
        (1, ["sessions", "end", "--user", "nobody-knows"]),
        (2, ["sessions", "end"]),
        (2, ["sessions", "end", "--user", "x", "--everybody"]),
        (2, ["sessions", "end", "--user", "x", "--role", "admin"]),
        (2, ["sessions", "end", "--client", "web", "--everybody"]),
        (2, ["sessions", "end", "--opened-before", "yesterday"]),
        (2, ["user", "roles"]),
    )
    assert (await row_of(services, person)).roles == ["editor"]
