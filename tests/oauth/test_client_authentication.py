"""Table W-C, once for each endpoint that software calls: one method, a registered one, and one answer to all others."""

import asyncio
import base64
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from urllib.parse import quote_plus

import httpx
import msgspec
import pytest
from litestar import Litestar
from sqlalchemy import delete, select
from structlog.testing import capture_logs

from service.app import create_app
from service.audit import AuditEvent
from service.settings import Settings
from service.store.postgres import new_id
from service.tokens.client_administration import ClientChanges
from service.tokens.clients import SECRET_METHODS, Client, ClientSecret
from service.wiring import Services
from tests.conftest import Outbox, TestClock, browser, new_address, worker
from tests.deeds import bearer, registered, sign_in, with_account
from tests.oauth.acting import assert_error
from tests.oauth.proving import (
    ASSERTION_TYPE,
    ENDPOINTS,
    Auth,
    basic,
    by_basic,
    by_name,
    by_post,
    call,
    call_from_anywhere,
    merged,
    new_id_of_client,
)

TV_2 = ("svc:orders/1", "p+ä %&=:/x", "Basic c3ZjJTNBb3JkZXJzJTJGMTpwJTJCJUMzJUE0KyUyNSUyNiUzRCUzQSUyRng=")


@dataclass(frozen=True)
class Callers:
    """Services of every kind, by id and secret."""

    both: tuple[str, str]
    only_basic: tuple[str, str]
    only_post: tuple[str, str]
    disabled: tuple[str, str]


@pytest.fixture(scope="module")
async def callers(services: Services) -> Callers:
    async def one(*methods: str) -> tuple[str, str]:
        client_id = new_id_of_client()
        return client_id, await registered(services, client_id, auth_methods=list(methods or SECRET_METHODS))

    found = Callers(await one(), await one("client_secret_basic"), await one("client_secret_post"), await one())
    await services.client_administration.set_disabled(found.disabled[0], True)
    return found


# What opens


@pytest.mark.standard("W-C", "AT-37", "AT-16")
@pytest.mark.parametrize("path", ENDPOINTS)
async def test_each_registered_method_opens_each_endpoint(http: httpx.AsyncClient, callers: Callers, path: str) -> None:
    ways = {
        "header": by_basic(*callers.both),
        "body": by_post(*callers.both),
        "header alone": by_basic(*callers.only_basic),
        "body alone": by_post(*callers.only_post),
        "the id said twice": by_basic(*callers.both, client_id=callers.both[0]),
        "an empty secret in the body is none": by_basic(*callers.both, client_secret="", client_assertion=""),
        "an empty id in the body is none": by_basic(*callers.both, client_id=""),
        "what nobody knows is ignored": by_basic(*callers.both, foo="1", client_name="x"),
    }
    for name, auth in ways.items():
        assert (await call(http, path, auth)).status_code == 200, name


@pytest.mark.standard("W-C")
async def test_a_public_client_says_its_name_and_proves_nothing(http: httpx.AsyncClient, services: Services) -> None:
    signed_in = await sign_in(http, await with_account(services))
    form = {"grant_type": "refresh_token", "refresh_token": signed_in.json()["refresh_token"], "client_id": "web"}
    renewed = await http.post("/token", data=form)
    assert renewed.status_code == 200, renewed.text

    revoked = await http.post("/revoke", data={"token": renewed.json()["access_token"], "client_id": "web"})
    assert (revoked.status_code, revoked.content) == (200, b"")
    assert (await http.get("/me", headers=bearer(renewed))).status_code == 401


@pytest.mark.standard("AT-37", "TV-2", "W-C")
@pytest.mark.parametrize("path", ENDPOINTS)
async def test_both_halves_of_basic_are_form_decoded(
    http: httpx.AsyncClient, services: Services, vector: str, path: str
) -> None:
    answer = await http.post(path, data=ENDPOINTS[path], headers={"Authorization": vector})
    assert answer.status_code == 200, answer.text

    client_id, secret, _ = TV_2
    assert (await call(http, path, by_post(client_id, secret))).status_code == 200
    undecoded = base64.b64encode(f"{quote_plus(client_id)}:{secret}".encode()).decode()
    refused = await http.post(path, data=ENDPOINTS[path], headers={"Authorization": f"Basic {undecoded}"})
    assert_error(refused, 401, "invalid_client")


@pytest.fixture(scope="module")
async def vector(services: Services) -> AsyncIterator[str]:
    """The header of TV-2; its id is none that we would register, so it goes into the table by hand."""
    client_id, secret, header = TV_2
    pattern = ClientChanges(name="Vector", may_introspect=True)
    template, _ = await services.client_administration.register(new_id_of_client(), pattern, confidential=True)
    values = {column.key: getattr(template, column.key) for column in Client.__table__.columns}
    row, digest = Client(**{**values, "id": client_id}), services.clients.roots.digest("client secret", secret)
    held = ClientSecret(
        id=new_id(), client_id=client_id, digest=digest, created_at=row.created_at, expires_at=None, reminded=None
    )
    row.secrets = [held]
    async with services.database.begin() as transaction:
        transaction.add(row)
    await services.clients.changed()
    yield header
    async with services.database.begin() as transaction:
        await transaction.execute(delete(Client).where(Client.id == client_id))
    await services.clients.changed()


# What does not


@pytest.mark.standard("W-C", "AT-16", "AT-37", "IN-02", "KY-21")
@pytest.mark.parametrize("path", ENDPOINTS)
async def test_every_other_client_gets_one_and_the_same_answer(
    app: Litestar, services: Services, callers: Callers, path: str
) -> None:
    (good, secret), (off, its_secret) = callers.both, callers.disabled
    ended = await services.client_administration.add_secret(good)
    await services.client_administration.end_secret(good, ended.id)
    wrongs: dict[str, Auth] = {
        "wrong secret": by_basic(good, "wrong"),
        "wrong secret in the body": by_post(good, "wrong"),
        "no secret": by_basic(good, ""),
        "one letter less": by_basic(good, secret[:-1]),
        "one letter more": by_post(good, secret + "A"),
        "another case": by_basic(good, secret.swapcase()),
        "a blank": by_post(good, f"{secret} "),
        "ended secret": by_basic(good, ended.secret),
        "another's secret": by_basic(good, callers.only_basic[1]),
        "unknown client": by_basic("nobody-knows", secret),
        "unknown client in the body": by_post("nobody-knows", secret),
        "unknown client by name": by_name("nobody-knows"),
        "id in another case": by_basic(good.upper(), secret),
        "id alone": by_name(good),
        "id alone where only Basic is registered": by_name(callers.only_basic[0]),
        "secret alone": {"form": {"client_secret": secret}},
        "nothing": {},
        "disabled client": by_basic(off, its_secret),
        "disabled client in the body": by_post(off, its_secret),
        "disabled client by name": by_name(off),
        "not registered for the body": by_post(*callers.only_basic),
        "not registered for Basic": by_basic(*callers.only_post),
        "a public client with a secret": by_basic("web", secret),
        "a public client with a secret in the body": by_post("web", secret),
        "a public client with an empty secret": by_basic("web", ""),
        "Bearer": {"headers": [("Authorization", f"Bearer {secret}")]},
        "no scheme": {"headers": [("Authorization", basic(good, secret).removeprefix("Basic "))]},
        "no Base64": {"headers": [("Authorization", f"Basic {good}:{secret}")]},
        "no colon": {"headers": [("Authorization", "Basic " + base64.b64encode(good.encode()).decode())]},
        "no UTF-8": {"headers": [("Authorization", "Basic " + base64.b64encode(b"\xff:\xfe").decode())]},
        "too long": by_basic(good, secret * 40),
        "an assertion that is none": {"form": {"client_assertion_type": ASSERTION_TYPE, "client_assertion": "x"}},
    }
    if path == "/introspect":
        wrongs["a public client"] = by_name("web")

    answers = await asyncio.gather(*(call_from_anywhere(app, path, auth) for auth in wrongs.values()))
    told = {(answer.content, answer.headers["www-authenticate"]) for answer in answers}
    for name, answer in zip(wrongs, answers, strict=True):
        assert answer.status_code == 401, name
        assert_error(answer, 401, "invalid_client")
    assert len(told) == 1


@pytest.mark.standard("AT-38", "W-C")
@pytest.mark.parametrize("path", ENDPOINTS)
async def test_two_methods_at_once_are_an_invalid_request(http: httpx.AsyncClient, callers: Callers, path: str) -> None:
    header, body = by_basic(*callers.both), by_post(*callers.both)
    assertion: Auth = {"form": {"client_assertion_type": ASSERTION_TYPE, "client_assertion": "a.b.c"}}
    pairs = {
        "header and body": merged(header, body),
        "header and a wrong secret": merged(header, by_post(callers.both[0], "wrong")),
        "header and an assertion": merged(header, assertion),
        "body and an assertion": merged(body, assertion),
        "header and half an assertion": merged(header, {"form": {"client_assertion_type": ASSERTION_TYPE}}),
        "all three": merged(merged(header, body), assertion),
        "the header twice": merged(header, header),
        "Basic and Bearer": merged(header, {"headers": [("Authorization", "Bearer x")]}),
        "two ids": merged(header, by_name(callers.only_basic[0])),
        "a public client's name beside a header": merged(header, by_name("web")),
        "half an assertion": {"form": {"client_assertion_type": ASSERTION_TYPE}},
        "the other half": {"form": {"client_assertion": "a.b.c"}},
        "an assertion of another type": {"form": {"client_assertion_type": "urn:x", "client_assertion": "a.b.c"}},
    }
    for name, auth in pairs.items():
        answer = await call(http, path, auth)
        assert answer.status_code == 400, name
        assert_error(answer, 400, "invalid_request")


@pytest.mark.standard("AT-37", "W-C", "LO-06")
@pytest.mark.parametrize("path", ENDPOINTS)
async def test_a_secret_in_the_query_is_refused_and_noted_without_it(
    app: Litestar, services: Services, callers: Callers, path: str
) -> None:
    client_id, secret = callers.both
    async with browser(app) as http:
        with capture_logs() as lines:
            for query in (
                f"?client_id={client_id}&client_secret={secret}",
                f"?client_secret={secret}",
                "?client_secret=",
                f"?client_assertion={secret}",
                f"?token={secret}",
                f"?refresh_token={secret}",
            ):
                answer = await call(http, path, by_basic(client_id, secret), query)
                assert_error(answer, 400, "invalid_request")
            nowhere = await call(http, path, {}, f"?client_id={client_id}")
    assert_error(nowhere, 401, "invalid_client")

    noted = [line for line in lines if line["event"] == "client.authenticate"]
    assert [line["outcome"] for line in noted] == ["secret_in_query"] * 6 + ["refused"]
    assert secret not in str(lines)
    await services.audit.flush()
    async with services.database.begin() as transaction:
        newest = select(AuditEvent).where(AuditEvent.event == "client.authenticate").order_by(AuditEvent.id.desc())
        written = [vars(row) for row in (await transaction.scalars(newest.limit(20))).all()]
    assert "secret_in_query" in str(written)
    assert secret not in str(written)


@pytest.mark.standard("W-C", "RL-08", "RL-13", "AT-16")
async def test_guesses_are_counted_over_all_endpoints_and_both_places(app: Litestar, services: Services) -> None:
    client_id = new_id_of_client()
    secret = await registered(services, client_id)
    address = new_address()
    ways = [(path, by) for path in ENDPOINTS for by in (by_basic, by_post)]
    async with browser(app, address) as guesser:
        guesses = await asyncio.gather(
            *(call(guesser, *_guess(ways[number % len(ways)], client_id)) for number in range(24))
        )
        right = [await call(guesser, path, by_basic(client_id, secret)) for path in ENDPOINTS]
    elsewhere = await call_from_anywhere(app, "/token", by_basic(client_id, "guess"))

    limited = [answer for answer in guesses if answer.status_code == 429]
    assert sorted(answer.status_code for answer in guesses) == [401] * 20 + [429] * 4
    for answer in limited:
        assert_error(answer, 429, "too_many_requests")
        assert 1 <= int(answer.headers["retry-after"]) <= 600
    assert [answer.status_code for answer in right] == [200] * 3
    assert elsewhere.status_code == 401


def _guess(way: tuple[str, Any], client_id: str) -> tuple[str, Auth]:
    path, by = way
    return path, by(client_id, f"vcs_{secrets.token_hex(8)}")


@pytest.mark.standard("W-C", "AT-16")
async def test_the_client_comes_first_and_its_refusal_tells_nothing_of_the_rest(http: httpx.AsyncClient) -> None:
    bad = by_basic("nobody-knows", "x")["headers"]
    forms: list[dict[str, str]] = [
        {"foo": "1"},
        {"grant_type": "password"},
        {"grant_type": "refresh_token", "scope": "\\"},
    ]
    answers = await asyncio.gather(*(http.post("/token", data=form, headers=bad) for form in forms))
    answers += await asyncio.gather(*(http.post(path, data={"foo": "1"}, headers=bad) for path in ENDPOINTS))

    for answer in answers:
        assert_error(answer, 401, "invalid_client")
    assert len({answer.content for answer in answers}) == 1


@pytest.mark.standard("W-T", "PF-39")
async def test_a_registry_that_cannot_be_read_is_an_outage_and_no_refusal(
    settings: Settings, wall_clock: TestClock, outbox: Outbox, callers: Callers
) -> None:
    nowhere = type(settings.database_url)("postgresql+asyncpg://nobody@127.0.0.1:1/nothing")
    cut_off = msgspec.structs.replace(settings, database_url=nowhere, database_timeout=timedelta(seconds=1))
    async with worker(cut_off, wall_clock, outbox) as running, browser(create_app(running)) as http:
        for auth in (by_basic(*callers.both), by_post(*callers.both), by_name("web"), by_basic(*callers.disabled)):
            answers = await asyncio.gather(*(call(http, path, auth) for path in ENDPOINTS))
            for answer in answers:
                assert_error(answer, 503, "temporarily_unavailable")
                assert int(answer.headers["retry-after"]) >= 1
