"""`POST /introspect`: the client first, the token second, and one answer for every token that is not alive."""

import asyncio
import base64
import json
import re
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from urllib.parse import quote, quote_plus
from uuid import UUID

import httpx
import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from litestar import Litestar
from redis.asyncio import Redis
from sqlalchemy import delete, select, text

from service.accounts.models import Account
from service.app import create_app
from service.audit import AuditEvent
from service.crypto.keyring import Keyring
from service.setting_values import Rate
from service.settings import Settings
from service.store.postgres import Database
from service.tokens.clients import ClientSecret
from service.tokens.journal import SessionRow
from service.wiring import Services
from tests.conftest import (
    ISSUER,
    Introspector,
    Outbox,
    Person,
    Servers,
    TestClock,
    browser,
    new_address,
    sign_up,
    worker,
)
from tests.deeds import registered
from tests.tokens.forgetful import ward

INACTIVE = b'{"active":false}'
CHALLENGE = re.compile(r'Basic realm="[^"]+", charset="UTF-8"')
WATCHED = 9
"""A database of Redis that nobody else uses."""


def encoded(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def claims_of(token: str) -> dict[str, Any]:
    text = token.split(".")[1]
    claims: dict[str, Any] = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    return claims


@dataclass(frozen=True)
class Forge:
    """Signs what it is told to, with the service's own key."""

    services: Services

    def token(self, claims: dict[str, Any], *, private: ec.EllipticCurvePrivateKey | None = None, **header: Any) -> str:
        key = self.services.signing_keys.keyring.current(self.services.clock())
        assert key is not None
        head = {"alg": "ES256", "kid": key.kid, "typ": "at+jwt", **header}
        message = ".".join(encoded(json.dumps(part).encode()) for part in (head, claims))
        r, s = decode_dss_signature((private or key.private).sign(message.encode(), ec.ECDSA(SHA256())))
        return f"{message}.{encoded(r.to_bytes(32) + s.to_bytes(32))}"


@pytest.fixture
def forge(services: Services) -> Forge:
    return Forge(services)


async def ask(http: httpx.AsyncClient, caller: Introspector, token: str, **more: str) -> httpx.Response:
    return await http.post("/introspect", data={"token": token, **more}, auth=(caller.client_id, caller.secret))


def assert_inactive(answer: httpx.Response) -> None:
    assert (answer.status_code, answer.content) == (200, INACTIVE)
    assert answer.headers["content-type"] == "application/json"
    assert (answer.headers["cache-control"], answer.headers["pragma"]) == ("no-store", "no-cache")
    assert answer.headers["content-length"] == "16"


def assert_refused(answer: httpx.Response, status: int, error: str) -> None:
    assert answer.status_code == status, answer.text
    body = answer.json()
    assert body["error"] == error
    assert "active" not in body
    # RFC 6749 section 5.2: no quotation marks, no backslash, nothing beyond ASCII.
    assert re.fullmatch(r"[\x20-\x21\x23-\x5b\x5d-\x7e]+", body["error_description"])
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["cache-control"] == "no-store"
    if status == 401:
        assert CHALLENGE.fullmatch(answer.headers["www-authenticate"])


# What is alive


@pytest.mark.standard("IN-05", "IN-10", "IN-12", "IN-14", "W-I")
async def test_a_live_token_is_told_with_every_member_in_its_type(
    http: httpx.AsyncClient, introspector: Introspector, person: Person
) -> None:
    answer = await ask(http, introspector, person.access_token)
    told, claims = answer.json(), claims_of(person.access_token)

    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert (answer.headers["cache-control"], answer.headers["pragma"]) == ("no-store", "no-cache")
    assert told == {"active": True, "token_type": "Bearer", **claims}
    assert told["active"] is True
    assert isinstance(told["scope"], str)
    assert all(type(told[name]) is int for name in ("exp", "iat", "auth_time"))
    assert None not in told.values()


@pytest.mark.standard("IN-11", "AT-27")
async def test_the_answer_holds_no_personal_data(
    http: httpx.AsyncClient, introspector: Introspector, person: Person
) -> None:
    text = (await ask(http, introspector, person.access_token)).text

    assert person.email not in text
    assert person.nickname not in text
    assert "username" not in text


@pytest.mark.standard("IN-04")
@pytest.mark.parametrize("hint", ["refresh_token", "access_token", "foo", "urn:x:y", "é", "a" * 5000, ""])
async def test_a_wrong_or_unknown_hint_changes_nothing(
    http: httpx.AsyncClient, introspector: Introspector, person: Person, hint: str
) -> None:
    assert (await ask(http, introspector, person.access_token, token_type_hint=hint)).json()["active"] is True


@pytest.mark.standard("IN-17")
async def test_an_answer_is_plain_json_whatever_is_accepted(
    http: httpx.AsyncClient, introspector: Introspector, person: Person
) -> None:
    for accept in (
        "application/token-introspection+json",
        "application/token-introspection+jwt;q=0",
        "text/html",
        "*/*",
        "nonsense",
        "",
    ):
        answer = await http.post(
            "/introspect",
            data={"token": person.access_token},
            auth=(introspector.client_id, introspector.secret),
            headers={"Accept": accept},
        )
        assert answer.headers["content-type"] == "application/json"
        assert answer.json()["active"] is True


# What is not

DAY = 86_400
Bent = Callable[[dict[str, Any], Forge], str]


def bent(**changed: Any) -> Bent:
    return lambda claims, forge: forge.token({**claims, **changed})


def late(name: str, seconds: int) -> Bent:
    return lambda claims, forge: forge.token({**claims, name: claims["iat"] + seconds})


OTHER_KEY = ec.generate_private_key(ec.SECP256R1())
UNLIVING: dict[str, Bent] = {
    "garbage": lambda claims, forge: "garbage",
    "one blank": lambda claims, forge: " ",
    "dots": lambda claims, forge: "..",
    "empty segments": lambda claims, forge: f"..{'A' * 86}",
    "100 kB... as far as fits": lambda claims, forge: "a" * 60_000,
    "not ASCII": lambda claims, forge: "é" * 40,
    "an emoji": lambda claims, forge: "💥",
    "expired": late("exp", 0),
    "of tomorrow": late("nbf", DAY),
    "issued tomorrow": late("iat", DAY),
    "of another key": lambda claims, forge: forge.token(claims, private=OTHER_KEY),
    "of an unknown key": lambda claims, forge: forge.token(claims, kid="unknown"),
    "of no algorithm": lambda claims, forge: forge.token(claims, alg="none"),
    "of another kind": lambda claims, forge: forge.token(claims, typ="JWT"),
    "a logout token": lambda claims, forge: forge.token(claims, typ="logout+jwt"),
    "of another issuer": bent(iss="https://evil.example"),
    "for another audience": bent(aud="https://other.test"),
    "for nobody": lambda claims, forge: forge.token({n: v for n, v in claims.items() if n != "aud"}),
    "of no client": bent(client_id="nobody-knows-me"),
    "of no session": bent(sid=encoded(bytes(16))),
    "of a session that is no id": bent(sid="!"),
    "of a short session id": bent(sid="AA"),
    "of the watermark": bent(sid=encoded(b"w")),
    "of the roles": bent(sid=encoded(b"r")),
    "of nobody": bent(sub="01998f4e-0000-7000-8000-000000000001"),
    "of no account id": bent(sub="nobody"),
    "of an account with a NUL": bent(sub="\x00"),
    "without claims": lambda claims, forge: forge.token({}),
    "with a header in no UTF-8": lambda claims, forge: encoded(b'{"alg":"\xff"}') + ".AA." + "A" * 86,
    "signed twice over": lambda claims, forge: forge.token(claims) + "==",
}


@pytest.mark.standard("IN-06", "IN-07", "IN-09", "TV-5", "AT-33")
@pytest.mark.parametrize("name", UNLIVING)
async def test_every_token_that_is_not_alive_gets_the_same_sixteen_bytes(
    http: httpx.AsyncClient, introspector: Introspector, person: Person, forge: Forge, name: str
) -> None:
    claims = claims_of(person.access_token)
    assert (await ask(http, introspector, forge.token(claims))).json()["active"] is True

    assert_inactive(await ask(http, introspector, UNLIVING[name](claims, forge)))


@pytest.mark.standard("IN-06", "IN-13")
async def test_a_refresh_token_is_inactive_to_a_resource_server(
    http: httpx.AsyncClient, introspector: Introspector, person: Person
) -> None:
    assert_inactive(await ask(http, introspector, person.refresh_token))
    assert_inactive(await ask(http, introspector, person.refresh_token, token_type_hint="refresh_token"))


@pytest.mark.standard("IN-06", "AT-04")
async def test_a_token_ends_to_the_second(
    http: httpx.AsyncClient, introspector: Introspector, person: Person, clock: TestClock
) -> None:
    await clock.advance(seconds=590)
    assert (await ask(http, introspector, person.access_token)).json()["active"] is True
    await clock.advance(seconds=11)
    assert_inactive(await ask(http, introspector, person.access_token))


@pytest.mark.standard("IN-06", "IN-15", "SE-15")
async def test_a_logout_shows_at_the_very_next_call_of_another_worker(
    http: httpx.AsyncClient, http_of_second_worker: httpx.AsyncClient, introspector: Introspector, person: Person
) -> None:
    assert (await ask(http_of_second_worker, introspector, person.access_token)).json()["active"] is True
    await http.post("/auth/logout", json={"refresh_token": person.refresh_token})

    assert_inactive(await ask(http_of_second_worker, introspector, person.access_token))


@pytest.mark.standard("IN-06", "IN-15", "SE-16")
async def test_a_disabled_account_shows_at_the_very_next_call_of_another_worker(
    http_of_second_worker: httpx.AsyncClient, introspector: Introspector, person: Person, services: Services
) -> None:
    await services.administration.disable(UUID(claims_of(person.access_token)["sub"]))

    assert_inactive(await ask(http_of_second_worker, introspector, person.access_token))


@pytest.mark.standard("IN-06")
async def test_the_sessions_of_a_deleted_account_are_inactive(
    http: httpx.AsyncClient, introspector: Introspector, person: Person, services: Services
) -> None:
    account = UUID(claims_of(person.access_token)["sub"])
    async with services.database.begin() as transaction:
        await transaction.execute(delete(SessionRow).where(SessionRow.account_id == account))
        await transaction.execute(delete(Account).where(Account.id == account))
    await services.sessions.close_all(account)

    assert_inactive(await ask(http, introspector, person.access_token))


@pytest.mark.standard("IN-06")
async def test_a_session_that_neither_store_knows_is_inactive(
    http: httpx.AsyncClient, introspector: Introspector, services: Services, person: Person, redis: Redis
) -> None:
    account = claims_of(person.access_token)["sub"]
    async with services.database.begin() as transaction:
        await transaction.execute(text("DELETE FROM sessions WHERE account_id = :account"), {"account": account})
    await redis.delete(f"vestibule:sessions:{{{account}}}")

    assert_inactive(await ask(http, introspector, person.access_token))


@pytest.mark.standard("IN-06", "SE-22")
async def test_a_session_that_a_replay_ended_is_inactive(
    http: httpx.AsyncClient, introspector: Introspector, person: Person
) -> None:
    renewed = []
    token = person.refresh_token
    for _ in range(2):
        answer = (await http.post("/auth/refresh", json={"refresh_token": token})).json()
        renewed.append(answer["access_token"])
        token = answer["refresh_token"]
    await http.post("/auth/refresh", json={"refresh_token": person.refresh_token})

    for access_token in (person.access_token, *renewed):
        assert_inactive(await ask(http, introspector, access_token))


async def new_client(services: Services, **rights: bool) -> Introspector:
    client_id = f"svc-{secrets.token_hex(4)}"
    return Introspector(client_id, await registered(services, client_id, **rights))


@pytest.mark.standard("IN-06", "IN-09")
async def test_the_tokens_of_a_disabled_front_end_are_inactive(
    http: httpx.AsyncClient, introspector: Introspector, person: Person, services: Services
) -> None:
    front_end = await new_client(services, confidential=False, may_introspect=False)
    login = await http.post("/auth/login", json=person.credentials(client_id=front_end.client_id))
    token = login.json()["access_token"]
    assert (await ask(http, introspector, token)).json()["active"] is True

    await services.client_administration.set_disabled(front_end.client_id, True)
    await services.clients.reload()

    assert_inactive(await ask(http, introspector, token))
    assert (await ask(http, introspector, person.access_token)).json()["active"] is True
    refused = await http.post(
        "/auth/refresh",
        json={"refresh_token": login.json()["refresh_token"], "client_id": front_end.client_id},
    )
    assert refused.json()["code"] == "unknown_client"


@pytest.mark.standard("IN-09")
async def test_a_token_of_a_key_that_is_gone_is_inactive(
    http: httpx.AsyncClient, introspector: Introspector, person: Person, services: Services
) -> None:
    kept = services.signing_keys.keyring
    signing = kept.current(services.clock())
    try:
        services.signing_keys.keyring = Keyring(tuple(key for key in kept.keys if key is not signing), kept.linger)
        assert_inactive(await ask(http, introspector, person.access_token))
    finally:
        services.signing_keys.keyring = kept


# Who may ask


@pytest.mark.standard("IN-03", "AT-41")
async def test_a_client_without_the_right_learns_nothing(
    http: httpx.AsyncClient, services: Services, person: Person
) -> None:
    caller = await new_client(services, may_introspect=False)

    answers = [await ask(http, caller, token) for token in (person.access_token, "garbage", person.refresh_token)]
    for answer in answers:
        assert_refused(answer, 403, "unauthorized_client")
    assert len({answer.content for answer in answers}) == 1


@pytest.mark.standard("IN-02", "IN-08", "AT-16", "W-C")
async def test_every_bad_client_gets_one_and_the_same_refusal(
    http: httpx.AsyncClient, introspector: Introspector, person: Person, services: Services
) -> None:
    disabled = await new_client(services)
    await services.client_administration.set_disabled(disabled.client_id, True)
    await services.clients.reload()
    good, secret = introspector.client_id, introspector.secret
    form = {"token": person.access_token}
    answers = {
        "wrong secret": await http.post(
            "/introspect", data=form, auth=(good, secret[:-1] + ("y" if secret[-1] == "x" else "x"))
        ),
        "empty secret": await http.post("/introspect", data=form, auth=(good, "")),
        "another's secret": await http.post("/introspect", data=form, auth=(disabled.client_id, secret)),
        "unknown client": await http.post("/introspect", data=form, auth=("nobody", secret)),
        "no client": await http.post("/introspect", data=form, auth=("", "")),
        "disabled client": await http.post("/introspect", data=form, auth=(disabled.client_id, disabled.secret)),
        "public client": await http.post("/introspect", data=form, auth=("web", "")),
        "public client with a secret": await http.post("/introspect", data=form, auth=("web", secret)),
        "no credentials": await http.post("/introspect", data=form),
        "id alone": await http.post("/introspect", data={**form, "client_id": good}),
        "public id alone": await http.post("/introspect", data={**form, "client_id": "web"}),
        "wrong secret in the body": await http.post(
            "/introspect", data={**form, "client_id": good, "client_secret": "x"}
        ),
        "empty secret in the body": await http.post(
            "/introspect", data={**form, "client_id": good, "client_secret": ""}
        ),
        "the person's token": await http.post("/introspect", data=form, headers=person.headers),
        "a secret in another case": await http.post("/introspect", data=form, auth=(good, secret.swapcase())),
        "an id in another case": await http.post("/introspect", data=form, auth=(good.upper(), secret)),
        "another scheme": await http.post("/introspect", data=form, headers={"Authorization": "Digest username=x"}),
    }

    for name, answer in answers.items():
        assert_refused(answer, 401, "invalid_client")
        assert answer.content == answers["wrong secret"].content, name
        assert answer.headers["www-authenticate"] == answers["wrong secret"].headers["www-authenticate"], name


@pytest.mark.standard("IN-02", "W-C")
@pytest.mark.parametrize(
    "header",
    [
        "Basic",
        "Basic ",
        "Basic !!!!",
        "Basic YQ",
        "Basic YWJj",
        "Basic =",
        "Basic YTpi YTpi",
        "Basic YTp\u00e9",
        "Basic \u00ff\u00fe",
        "Basic " + base64.b64encode(b"\xff:\xfe").decode(),
        "Basic " + base64.b64encode(b"%ff:%fe").decode(),
        "Basic " + base64.b64encode(b"%zz:%").decode(),
        "Basic " + base64.b64encode(b":").decode(),
        "Basic " + base64.b64encode(b"a" * 9000 + b":b").decode(),
        "Basic\tYTpi",
        "",
        "YTpi",
    ],
)
async def test_credentials_that_cannot_be_read_are_refused_like_wrong_ones(
    app: Litestar, person: Person, header: str
) -> None:
    async with browser(app) as http:
        headers = httpx.Headers([("Authorization", header)], encoding="latin-1")
        answer = await http.post("/introspect", data={"token": person.access_token}, headers=headers)

    assert_refused(answer, 401, "invalid_client")


@pytest.mark.standard("W-C")
async def test_the_secret_may_come_in_the_body(
    http: httpx.AsyncClient, introspector: Introspector, person: Person
) -> None:
    form = {"token": person.access_token, "client_id": introspector.client_id, "client_secret": introspector.secret}

    assert (await http.post("/introspect", data=form)).json()["active"] is True


def percent_encoded(text: str) -> str:
    """Every character escaped: what a client may send that encodes more than it must."""
    return "".join(f"%{byte:02X}" for byte in text.encode())


@pytest.mark.standard("AT-37", "W-C", "TV-2")
@pytest.mark.parametrize(
    "form", [str, quote, quote_plus, percent_encoded, lambda text: percent_encoded(text).lower()], ids=range(5)
)
async def test_both_halves_of_basic_credentials_are_form_decoded(
    http: httpx.AsyncClient, introspector: Introspector, person: Person, form: Callable[[str], str]
) -> None:
    pair = f"{form(introspector.client_id)}:{form(introspector.secret)}"
    header = {"Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}

    assert (await http.post("/introspect", data={"token": person.access_token}, headers=header)).json()[
        "active"
    ] is True


@pytest.mark.standard("AT-37", "TV-2")
async def test_a_secret_with_every_special_character_is_read_as_it_was_given(
    app: Litestar, services: Services, person: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TV-2, with the id and the secret of the standard's vector put into the registry by hand."""
    client_id, secret = "svc:orders/1", "p+ä %&=:/x"
    caller = await new_client(services)
    await services.clients.reload()
    known = services.clients._known
    row = known[caller.client_id]
    vector = type(row)(
        id=client_id,
        name="Vector",
        may_introspect=True,
        auth_methods=["client_secret_basic"],
        serves=[],
        created_at=row.created_at,
        disabled_at=None,
        secrets=[
            ClientSecret(digest=services.clients.roots.digest("client secret", secret), created_at=row.created_at)
        ],
    )
    monkeypatch.setitem(known, client_id, vector)
    header = "Basic c3ZjJTNBb3JkZXJzJTJGMTpwJTJCJUMzJUE0KyUyNSUyNiUzRCUzQSUyRng="

    async with browser(app) as http:
        answer = await http.post("/introspect", data={"token": person.access_token}, headers={"Authorization": header})
    assert answer.json()["active"] is True


@pytest.mark.standard("W-C")
@pytest.mark.parametrize("scheme", ["basic", "BASIC", "bAsIc"])
async def test_the_scheme_is_read_without_regard_to_case(
    http: httpx.AsyncClient, introspector: Introspector, person: Person, scheme: str
) -> None:
    pair = base64.b64encode(f"{introspector.client_id}:{introspector.secret}".encode()).decode()
    answer = await http.post(
        "/introspect", data={"token": person.access_token}, headers={"Authorization": f"{scheme} {pair}"}
    )

    assert answer.json()["active"] is True


@pytest.mark.standard("AT-38", "W-C")
async def test_two_ways_to_authenticate_at_once_are_an_invalid_request(
    http: httpx.AsyncClient, introspector: Introspector, person: Person
) -> None:
    auth = (introspector.client_id, introspector.secret)
    both = {"token": person.access_token, "client_id": introspector.client_id, "client_secret": introspector.secret}
    basic = "Basic " + base64.b64encode(":".join(auth).encode()).decode()

    answers = [
        await http.post("/introspect", data=both, auth=auth),
        await http.post("/introspect", data={**both, "client_secret": "wrong"}, auth=auth),
        await http.post("/introspect", data={"token": person.access_token, "client_id": "web"}, auth=auth),
        await http.post(
            "/introspect",
            data={"token": person.access_token},
            headers=[("Authorization", basic), ("Authorization", basic)],
        ),
        await http.post(
            "/introspect",
            data={"token": person.access_token},
            headers=[("Authorization", basic), ("Authorization", f"Bearer {person.access_token}")],
        ),
    ]

    for answer in answers:
        assert_refused(answer, 400, "invalid_request")


async def test_the_same_id_in_header_and_body_is_one_authentication(
    http: httpx.AsyncClient, introspector: Introspector, person: Person
) -> None:
    answer = await ask(http, introspector, person.access_token, client_id=introspector.client_id)

    assert answer.json()["active"] is True


@pytest.mark.standard("AT-37", "W-C")
async def test_credentials_in_the_query_are_refused(
    http: httpx.AsyncClient, introspector: Introspector, person: Person
) -> None:
    query = {"client_id": introspector.client_id, "client_secret": introspector.secret}
    alone = await http.post("/introspect", params=query, data={"token": person.access_token})
    beside = await http.post(
        "/introspect",
        params=query,
        data={"token": person.access_token},
        auth=(introspector.client_id, introspector.secret),
    )

    for answer in (alone, beside):
        assert_refused(answer, 400, "invalid_request")
        assert introspector.secret not in answer.text


@pytest.mark.standard("IN-02", "RV-04")
async def test_the_client_comes_first_and_nothing_shows_of_the_token(
    http: httpx.AsyncClient, introspector: Introspector, person: Person
) -> None:
    bad = Introspector(introspector.client_id, "wrong")
    answers = [await ask(http, bad, token) for token in (person.access_token, "garbage", person.refresh_token, "")]

    for answer in answers:
        assert_refused(answer, 401, "invalid_client")
    assert len({answer.content for answer in answers}) == 1


# Guessing


@pytest.mark.standard("RL-08", "RL-13", "RL-14")
async def test_guessing_a_secret_is_slowed_for_its_client_and_network_alone(
    app: Litestar, services: Services, person: Person, introspector: Introspector
) -> None:
    caller = await new_client(services)
    await services.clients.reload()
    async with browser(app) as guesser, browser(app) as neighbour:
        bad = Introspector(caller.client_id, "guess")
        guesses = await asyncio.gather(*(ask(guesser, bad, person.access_token) for _ in range(20)))
        limited = await ask(guesser, bad, person.access_token)
        right = await ask(guesser, caller, person.access_token)
        of_another_client = await ask(guesser, Introspector(introspector.client_id, "guess"), "x")
        from_another_network = await ask(neighbour, bad, "x")

    assert [guess.status_code for guess in guesses] == [401] * 20
    assert_refused(limited, 429, "too_many_requests")
    assert 1 <= int(limited.headers["retry-after"]) <= 600
    assert right.json()["active"] is True
    assert of_another_client.status_code == 401
    assert from_another_network.status_code == 401


@pytest.mark.standard("RL-14")
async def test_an_unknown_client_is_limited_like_a_known_one(app: Litestar) -> None:
    async with browser(app) as guesser:
        unknown = Introspector(f"nobody-{secrets.token_hex(4)}", "guess")
        guesses = await asyncio.gather(*(ask(guesser, unknown, "x") for _ in range(21)))

    assert sorted(guess.status_code for guess in guesses) == [401] * 20 + [429]


@pytest.mark.standard("RL-16")
async def test_guesses_made_at_once_are_counted_one_by_one(app: Litestar, services: Services) -> None:
    caller = await new_client(services)
    await services.clients.reload()
    async with browser(app) as guesser:
        bad = Introspector(caller.client_id, "guess")
        answers = await asyncio.gather(*(ask(guesser, bad, "x") for _ in range(40)))

    assert sorted(answer.status_code for answer in answers) == [401] * 20 + [429] * 20


@pytest.mark.standard("LO-09", "LO-10", "IN-08")
@pytest.mark.parametrize(
    "client_id", ["\x00nobody", "%00nobody", "no\x00body", "nobody\ud800", "no\nbody", "\u202enobody"]
)
async def test_no_client_id_whatsoever_stops_the_audit_trail(app: Litestar, services: Services, client_id: str) -> None:
    """An id that PostgreSQL cannot hold must not keep every later event out of the audit table."""
    marker = f"canary-{secrets.token_hex(6)}"
    pair = base64.b64encode(f"{client_id}:x".encode("utf-8", "surrogatepass")).decode()
    async with browser(app, new_address()) as http:
        odd = await http.post("/introspect", data={"token": "x"}, headers={"Authorization": f"Basic {pair}"})
        await ask(http, Introspector(marker, "x"), "x")
    assert_refused(odd, 401, "invalid_client")

    assert await eventually_told(services, marker) == "refused"


async def eventually_told(services: Services, client: str) -> str | None:
    """The outcome that the audit table has for a client: written in the background, so looked for repeatedly."""
    for _ in range(400):
        await services.audit.flush()
        async with services.database.begin() as transaction:
            found = await transaction.scalar(select(AuditEvent.outcome).where(AuditEvent.client_id == client))
        if found is not None:
            return found
        await asyncio.sleep(0.05)
    return None


# The registry


@pytest.mark.standard("KY-21")
async def test_a_new_client_may_ask_at_once_on_every_worker(
    http_of_second_worker: httpx.AsyncClient, services: Services, person: Person
) -> None:
    caller = await new_client(services)

    assert (await ask(http_of_second_worker, caller, person.access_token)).json()["active"] is True


@pytest.mark.standard("KY-21")
async def test_a_new_secret_works_at_once_and_the_old_one_stops_within_the_refresh(
    http: httpx.AsyncClient, services: Services, person: Person
) -> None:
    old = await new_client(services)
    assert (await ask(http, old, person.access_token)).json()["active"] is True

    new = Introspector(old.client_id, await services.client_administration.replace_secrets(old.client_id))
    assert (await ask(http, new, person.access_token)).json()["active"] is True
    await services.clients.reload()
    assert_refused(await ask(http, old, person.access_token), 401, "invalid_client")


@pytest.mark.standard("IN-08", "AT-16")
async def test_a_disabled_client_is_shut_out_within_the_refresh(
    services: Services, settings: Settings, wall_clock: TestClock, outbox: Outbox, person: Person
) -> None:
    quick = msgspec.structs.replace(settings, key_refresh=timedelta(seconds=0.1))
    async with worker(quick, wall_clock, outbox) as running, browser(create_app(running)) as http:
        caller = await new_client(services)
        assert (await ask(http, caller, person.access_token)).json()["active"] is True

        await services.client_administration.set_disabled(caller.client_id, True)
        for _ in range(600):
            answer = await ask(http, caller, person.access_token)
            if answer.status_code != 200:
                break
            await asyncio.sleep(0.05)
        assert_refused(answer, 401, "invalid_client")


# What an introspection costs


@pytest.mark.standard("IN-15")
async def test_an_introspection_is_one_round_trip(
    introspector: Introspector, settings: Settings, outbox: Outbox, servers: Servers
) -> None:
    """Every command that clients send meanwhile to a database of its own is watched, and nothing runs there in the
    background; what a script runs inside is marked `lua`."""
    watching, seen = Redis.from_url(servers.redis_url), list[str]()
    async with ward(settings, WATCHED, outbox, introspector) as here:
        guest = await here.guest()
        assert await here.is_live(guest)  # the script is known to the server from now on
        async with watching.monitor() as monitor:
            for _ in range(10):
                assert await here.is_live(guest)
            await introspector.ask(here.http, "end-of-the-watch")
            await here.redis.ping()
            while not seen or seen[-1] != "PING":
                command = await asyncio.wait_for(monitor.next_command(), 30)
                if int(command["db"]) == WATCHED and command["client_type"] != "lua":
                    seen.append(str(command["command"]).partition(" ")[0].upper())
    await watching.aclose()

    assert seen == ["EVALSHA"] * 10 + ["PING"]


@pytest.mark.standard("IN-06", "AT-32")
async def test_a_forged_token_asks_no_store(
    http: httpx.AsyncClient, introspector: Introspector, person: Person, forge: Forge, monkeypatch: pytest.MonkeyPatch
) -> None:
    from service.store.redis import RedisStore

    async def away(*_: object) -> None:
        raise AssertionError("the store was asked")

    await ask(http, introspector, person.access_token)
    monkeypatch.setattr(RedisStore, "run", away)
    claims = claims_of(person.access_token)
    for token in ("garbage", forge.token(claims, private=OTHER_KEY), forge.token({**claims, "iss": "https://x.test"})):
        assert_inactive(await ask(http, introspector, token))


@pytest.mark.standard("RV-12", "IN-06")
async def test_a_long_string_is_refused_quickly(http: httpx.AsyncClient, introspector: Introspector) -> None:
    began = time.process_time()
    assert_inactive(await ask(http, introspector, "a" * 60_000))
    too_large = await ask(http, introspector, "a" * 100_000)

    assert too_large.status_code == 413
    assert "active" not in too_large.text
    assert time.process_time() - began < 0.5


# Outages


@pytest.mark.standard("PF-39", "PF-40")
async def test_a_store_that_is_away_is_never_an_inactive_token(
    services: Services, settings: Settings, wall_clock: TestClock, outbox: Outbox, person: Person
) -> None:
    cut_off = msgspec.structs.replace(settings, redis_url=type(settings.redis_url)("redis://127.0.0.1:1/0"))
    nowhere = type(settings.database_url)("postgresql+asyncpg://nobody@127.0.0.1:1/nothing")
    no_journal = Database.connect(msgspec.structs.replace(settings, database_url=nowhere))
    caller = await new_client(services)
    async with worker(cut_off, wall_clock, outbox) as running, browser(create_app(running)) as http:
        kept = await ask(http, caller, person.access_token)
        running.recall.database = no_journal
        live = await ask(http, caller, person.access_token)
        refresh = await ask(http, caller, person.refresh_token)
        dead = await ask(http, caller, "garbage")
        guess = await ask(http, Introspector(caller.client_id, "x"), person.access_token)
    await no_journal.close()

    assert (kept.status_code, kept.json()["active"]) == (200, True)
    for answer in (live, refresh):
        assert_refused(answer, 503, "temporarily_unavailable")
        assert int(answer.headers["retry-after"]) >= 1
    assert_inactive(dead)
    assert guess.status_code in {401, 503}
    assert "active" not in guess.text


@pytest.mark.standard("RL-08")
async def test_the_limit_of_guesses_is_a_setting(
    services: Services, settings: Settings, wall_clock: TestClock, outbox: Outbox
) -> None:
    strict = msgspec.structs.replace(settings, limit_client_secret=Rate(2, 60))
    async with worker(strict, wall_clock, outbox) as running, browser(create_app(running)) as http:
        unknown = Introspector(f"nobody-{secrets.token_hex(4)}", "x")
        statuses = [(await ask(http, unknown, "x")).status_code for _ in range(3)]

    assert statuses == [401, 401, 429]


async def test_the_issuer_is_the_configured_one_whatever_the_host_says(
    app: Litestar, services: Services, outbox: Outbox, introspector: Introspector
) -> None:
    async with browser(app) as http:
        http.headers["Host"] = "evil.example"
        person = await sign_up(http, services, outbox)
        told = await introspector.ask(http, person.access_token)

    assert told["iss"] == told["aud"] == ISSUER
