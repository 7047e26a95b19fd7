"""Clients and APIs, from the operator's side: a secret is shown once, a change is in force everywhere, limits hold."""

import asyncio
import secrets
from typing import Any
from uuid import uuid4

import httpx
import msgspec
import pytest
from sqlalchemy import func, select

from service.app import create_app
from service.settings import Settings
from service.tokens.clients import Client, ClientSecret
from service.wiring import Services
from tests.admin.acting import Caller, refusal
from tests.admin.matrix import assert_shown
from tests.conftest import Outbox, TestClock, browser, worker
from tests.deeds import field_codes

CLIENTS = "/admin/clients"
WRONG: tuple[dict[str, Any], ...] = (
    *({"client_id": "other"}, {"confidential": False}, {"secrets": []}, {"disabled_at": None}, {"secret": "x"}),
    *({"client_secret": "x"}, {"secret_digest": "x"}, {"created_at": None}, {"id": "x"}),
    *({"auth_methods": ["none"]}, {"auth_methods": []}, {"auth_methods": ["password"]}, {"name": ""}),
    *({"grants": ["password"]}, {"grants": ["implicit"]}, {"scopes": ["nobody:knows"]}, {"scopes": ["account"]}),
    *({"audiences": ["https://unknown.test"]}, {"serves": ["https://unknown.test"]}, {"origins": ["*"]}),
    *({"origins": ["http://app.test"]}, {"redirect_uris": ["javascript:alert(1)"]}, {"jwks": {"keys": []}}),
    *({"access_token_life": 1}, {"access_token_life": 10**30}, {"session_idle": -1}, {"name": None}),
    *({"may_introspect": None}, {"scopes": None}, {"scopes": "admin"}, {"name": "a\x00b"}, {"name": "a\nb"}),
)
"""What no client may be changed to."""


async def made(http: httpx.AsyncClient, operator: Caller, **values: Any) -> dict[str, Any]:
    """A new client, confidential unless it says something else."""
    body = {"client_id": f"c-{secrets.token_hex(4)}", "confidential": True, **values}
    answer = await http.post(CLIENTS, json=body, headers=operator.headers)
    assert answer.status_code == 201, answer.text
    shown: dict[str, Any] = answer.json()
    return shown


async def told(http: httpx.AsyncClient, operator: Caller, method: str, path: str, **body: Any) -> httpx.Response:
    return await http.request(method, f"{CLIENTS}{path}", json=body, headers=operator.headers)


async def opens(http: httpx.AsyncClient, client_id: str, secret: str) -> bool:
    answer = await http.post("/token", data={"grant_type": "client_credentials"}, auth=(client_id, secret))
    assert answer.status_code in {200, 401}, answer.text
    return answer.status_code == 200


@pytest.mark.standard("AD-02", "AD-07", "AD-18")
async def test_a_secret_is_in_the_answer_that_makes_it_and_in_no_other(
    http: httpx.AsyncClient, services: Services, operator: Caller
) -> None:
    body = {"client_id": f"c-{secrets.token_hex(4)}", "confidential": True, "name": "Orders", "reason": "new"}
    answer = await http.post(CLIENTS, json=body, headers=operator.headers)
    first = assert_shown("registerClient", answer)
    client_id, secret = first["client_id"], first["client_secret"]
    second = assert_shown("addSecret", await told(http, operator, "POST", f"/{client_id}/secrets", life=7200))
    answers = [
        await http.get(CLIENTS, headers=operator.headers),
        await http.get(f"{CLIENTS}/{client_id}", headers=operator.headers),
        await told(http, operator, "PATCH", f"/{client_id}", name="Orders 2"),
        await told(http, operator, "POST", f"/{client_id}/disable"),
        await told(http, operator, "POST", f"/{client_id}/enable"),
        await http.get("/admin/audit-events", params={"client_id": client_id}, headers=operator.headers),
    ]

    assert_shown("clients", answers[0])
    for name, each in zip(("client", "changeClient", "disableClient", "enableClient"), answers[1:5], strict=True):
        shown = assert_shown(name, each)
        assert [set(held) for held in shown["secrets"]] == [{"id", "created_at", "expires_at"}] * 2
    for each in answers:
        assert secret not in each.text
        assert second["client_secret"] not in each.text
    async with services.database.begin() as transaction:
        kept = (await transaction.scalars(select(ClientSecret).where(ClientSecret.client_id == client_id))).all()
    assert not any(secret in row.digest or second["client_secret"] in row.digest for row in kept)
    assert await opens(http, client_id, secret)
    assert await opens(http, client_id, second["client_secret"])


async def test_a_public_client_gets_no_secret_and_can_be_given_none(http: httpx.AsyncClient, operator: Caller) -> None:
    shown = await made(http, operator, confidential=False)

    assert "client_secret" not in shown
    assert (shown["confidential"], shown["auth_methods"], shown["secrets"]) == (False, ["none"], [])
    answer = await told(http, operator, "POST", f"/{shown['client_id']}/secrets")
    assert field_codes(answer) == [("client_id", "no_secret_method")]


async def test_what_is_registered_must_agree_with_the_kind_that_was_asked_for(
    http: httpx.AsyncClient, operator: Caller
) -> None:
    wrong = {}
    for confidential, more in (
        (True, {"auth_methods": ["none"], "grants": ["refresh_token"], "scopes": ["account"]}),
        (False, {"auth_methods": ["client_secret_basic"], "grants": ["client_credentials"], "scopes": []}),
    ):
        body = {"client_id": f"c-{secrets.token_hex(4)}", "confidential": confidential, **more}
        answer = await http.post(CLIENTS, json=body, headers=operator.headers)
        if answer.status_code != 400:
            wrong[confidential] = answer.json()["confidential"]
    assert not wrong


@pytest.mark.standard("AD-17")
async def test_a_client_has_at_most_two_live_secrets_even_when_several_ask_at_once(
    http: httpx.AsyncClient, operator: Caller, clock: TestClock
) -> None:
    shown = await made(http, operator)
    path = f"/{shown['client_id']}/secrets"
    answers = await asyncio.gather(*(told(http, operator, "POST", path, life=3600) for _ in range(5)))

    assert sorted(answer.status_code for answer in answers) == [201, 409, 409, 409, 409]
    assert {refusal(answer) for answer in answers if answer.status_code == 409} == {(409, "too_many_secrets")}
    first = shown["secrets"][0]["id"]
    assert (await told(http, operator, "POST", f"{path}/{first}/end")).status_code == 204
    assert not await opens(http, shown["client_id"], shown["client_secret"])
    assert refusal(await told(http, operator, "POST", f"{path}/{first}/end")) == (404, "not_found")
    assert refusal(await told(http, operator, "POST", f"{path}/{uuid4()}/end")) == (404, "not_found")
    assert (await told(http, operator, "POST", path)).status_code == 201
    for life in (0, 3599, 10 * 365 * 86400 + 1, -1, "soon", 1.5):
        assert (await told(http, operator, "POST", path, life=life)).status_code == 400, life


@pytest.mark.standard("AD-17")
async def test_no_more_clients_than_the_setting_says_even_when_several_are_registered_at_once(
    settings: Settings, services: Services, wall_clock: TestClock, outbox: Outbox, operator: Caller
) -> None:
    async with services.database.begin() as transaction:
        now = await transaction.scalar(select(func.count()).select_from(Client)) or 0
    full = msgspec.structs.replace(settings, most_clients=now + 1)
    async with worker(full, wall_clock, outbox) as running, browser(create_app(running)) as http:
        await asyncio.gather(*(http.get(CLIENTS, headers=operator.headers) for _ in range(6)))  # connections are made
        bodies = [{"client_id": f"c-{secrets.token_hex(4)}", "confidential": False} for _ in range(6)]
        answers = await asyncio.gather(*(http.post(CLIENTS, json=body, headers=operator.headers) for body in bodies))
        last = await http.post(CLIENTS, json={**bodies[0], "client_id": "c-one-more"}, headers=operator.headers)

    assert refusal(last) == (409, "too_many_clients")
    assert sorted(answer.status_code for answer in answers) == [201, 409, 409, 409, 409, 409]


async def test_an_id_is_given_once_and_must_look_like_one(http: httpx.AsyncClient, operator: Caller) -> None:
    shown = await made(http, operator)
    again = {"client_id": shown["client_id"], "confidential": True}
    assert refusal(await http.post(CLIENTS, json=again, headers=operator.headers)) == (409, "client_id_taken")
    for client_id in ("", "a", "A-b", "1a", "a b", "é" * 3, "a\n", "a" * 64, str(uuid4()), "-a", "a/b", "a%2fb"):
        body = {"client_id": client_id, "confidential": False}
        answer = await http.post(CLIENTS, json=body, headers=operator.headers)
        assert field_codes(answer) == [("client_id", "client_id_invalid")], client_id


@pytest.mark.standard("AD-05", "AD-06")
async def test_a_disabled_client_and_its_tokens_are_out_on_every_worker_at_once(
    http: httpx.AsyncClient, http_of_second_worker: httpx.AsyncClient, operator: Caller
) -> None:
    shown = await made(http, operator, scopes=["admin"])
    auth = shown["client_id"], shown["client_secret"]
    answer = await http.post("/token", data={"grant_type": "client_credentials"}, auth=auth)
    headers = {"Authorization": f"Bearer {answer.json()['access_token']}"}
    assert (await http_of_second_worker.get("/admin/keys", headers=headers)).status_code == 200
    disabled = await told(http, operator, "POST", f"/{auth[0]}/disable", reason="a leak")
    assert disabled.json()["disabled_at"] is not None

    assert refusal(await http.get("/admin/keys", headers=headers)) == (401, "invalid_token")
    assert not await opens(http, *auth)
    async with asyncio.timeout(60):  # the other worker hears of it over Redis
        while (await http_of_second_worker.get("/admin/keys", headers=headers)).status_code != 401:
            pass
    assert (await told(http, operator, "POST", f"/{auth[0]}/enable")).json()["disabled_at"] is None
    assert await opens(http, *auth)


@pytest.mark.standard("AD-05")
async def test_a_scope_that_is_taken_from_a_client_is_gone_from_its_tokens(
    http: httpx.AsyncClient, operator: Caller
) -> None:
    shown = await made(http, operator, scopes=["admin"])
    auth = shown["client_id"], shown["client_secret"]
    answer = await http.post("/token", data={"grant_type": "client_credentials"}, auth=auth)
    headers = {"Authorization": f"Bearer {answer.json()['access_token']}"}
    assert (await told(http, operator, "PATCH", f"/{auth[0]}", scopes=[])).json()["scopes"] == []

    assert refusal(await http.get("/admin/keys", headers=headers)) == (403, "insufficient_scope")


@pytest.mark.standard("AD-07")
async def test_what_a_client_may_not_be_is_refused_and_changes_nothing(
    http: httpx.AsyncClient, operator: Caller
) -> None:
    shown = await made(http, operator)
    path = f"/{shown['client_id']}"
    for body in WRONG:
        answer = await told(http, operator, "PATCH", path, **body)
        assert answer.status_code == 400, (body, answer.text)
    now = (await http.get(f"{CLIENTS}{path}", headers=operator.headers)).json()
    assert now == {name: value for name, value in shown.items() if name != "client_secret"}
    for deed in ("PATCH", "GET"):
        assert refusal(await told(http, operator, deed, "/nobody-here")) == (404, "not_found")


async def test_an_api_is_registered_used_and_forgotten(http: httpx.AsyncClient, operator: Caller) -> None:
    api = f"https://{secrets.token_hex(4)}.test/orders"
    body = {"identifier": api, "name": "Orders", "scopes": ["orders:read"]}
    answer = await http.post("/admin/apis", json=body, headers=operator.headers)
    assert answer.status_code == 201
    assert_shown("registerApi", answer)
    again = await http.post("/admin/apis", json=body, headers=operator.headers)
    assert refusal(again) == (409, "api_taken")
    client = (await made(http, operator, audiences=[api], scopes=["orders:read"]))["client_id"]

    listed = assert_shown("apis", await http.get("/admin/apis", headers=operator.headers))
    assert api in [each["identifier"] for each in listed["items"]]
    gone = {"identifier": api}
    used = await http.post("/admin/apis/remove", json=gone, headers=operator.headers)
    assert refusal(used) == (409, "api_in_use")
    await told(http, operator, "PATCH", f"/{client}", audiences=[], scopes=[])
    assert (await http.post("/admin/apis/remove", json=gone, headers=operator.headers)).status_code == 204
    again = await http.post("/admin/apis/remove", json=gone, headers=operator.headers)
    assert refusal(again) == (404, "not_found")
    for wrong in (
        *({"identifier": ""}, {"identifier": "orders"}, {"identifier": f"{api}#x"}, {"name": ""}, {"name": "a\nb"}),
        *(
            {"scopes": ["admin"]},
            {"scopes": ["account"]},
            {"scopes": ["a b"]},
            {"scopes": ["a", "a"]},
            {"scopes": [""]},
        ),
    ):
        answer = await http.post("/admin/apis", json={**body, **wrong}, headers=operator.headers)
        assert answer.status_code == 400, wrong
