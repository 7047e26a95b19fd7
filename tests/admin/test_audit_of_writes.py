"""Every write of an operator leaves one event: who, whom, what it was before and is now, and why (AD-22)."""

import secrets
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from litestar import Litestar

from service.tokens.scopes import ADMIN
from service.wiring import Services
from tests.admin.acting import Caller, caller, left_by, service_caller, settled, signed_in
from tests.admin.matrix import description, operations
from tests.tokens.acting import session_of

WHY = "ticket 4711, seen by two"


@dataclass
class Deed:
    """One write: where, with what body; the event it leaves, about which account or client, with which detail."""

    name: str
    method: str
    path: str
    body: dict[str, Any]
    event: str
    outcome: str = "ok"
    account: object = None
    client: str | None = None
    detail: dict[str, Any] = field(default_factory=dict)


async def deeds(http: httpx.AsyncClient, app: Litestar, services: Services, by: Caller) -> list[Deed]:
    """All of them, in an order in which each finds something to change."""
    somebody = await caller(services, app, "old")
    assert somebody.person is not None
    tokens = await signed_in(app, somebody.person)
    session = str(session_of(tokens["access_token"]))
    account, path = somebody.account, f"/admin/accounts/{somebody.name}"
    client, api = f"c-{secrets.token_hex(4)}", f"https://{secrets.token_hex(4)}.test"
    made = f"/admin/clients/{client}"
    roles = {"before": ["old"], "after": ["new"]}
    renamed = {"before": {"name": "One"}, "after": {"name": "Two"}}
    spare = await http.get("/admin/keys", headers=by.headers)
    kid = [key["kid"] for key in spare.json()["items"] if key["state"] == "next"][-1]
    closed: dict[str, Any] = {"outcome": "administrator", "account": account}
    return [
        Deed(
            "setRoles", "PUT", f"{path}/roles", {"roles": ["new"]}, "account.set_roles", account=account, detail=roles
        ),
        Deed("endSessionOfAccount", "POST", f"{path}/sessions/{session}/end", {}, "session.close", **closed),
        Deed("endSessionsOfAccount", "POST", f"{path}/sessions/end", {}, "session.close_all", **closed),
        Deed("disableAccount", "POST", f"{path}/disable", {}, "account.disable", account=account),
        Deed("disableAccount", "POST", f"{path}/disable", {}, "account.disable", "already", account=account),
        Deed("enableAccount", "POST", f"{path}/enable", {}, "account.enable", account=account),
        Deed("enableAccount", "POST", f"{path}/enable", {}, "account.enable", "already", account=account),
        Deed("startReset", "POST", f"{path}/reset-password", {}, "account.start_reset", account=account),
        Deed(
            *("requirePasswordChange", "POST", f"{path}/require-password-change", {}),
            "account.require_password_change",
            account=account,
        ),
        Deed(
            *("endSessions", "POST", "/admin/sessions/end", {"role": f"r-{client}"}, "session.close_many"),
            detail={"role": f"r-{client}", "ended": 0},
        ),
        Deed(
            *("registerClient", "POST", "/admin/clients", {"client_id": client, "confidential": True, "name": "One"}),
            "client.create",
            client=client,
        ),
        Deed("changeClient", "PATCH", made, {"name": "Two"}, "client.change", client=client, detail=renamed),
        Deed("addSecret", "POST", f"{made}/secrets", {}, "client.add_secret", client=client),
        Deed("endSecret", "POST", f"{made}/secrets/{{secret}}/end", {}, "client.end_secret", client=client),
        Deed("disableClient", "POST", f"{made}/disable", {}, "client.disable", client=client),
        Deed("enableClient", "POST", f"{made}/enable", {}, "client.enable", client=client),
        Deed(
            *("registerApi", "POST", "/admin/apis", {"identifier": api, "name": "A", "scopes": ["a:b"]}, "api.create"),
            detail={"api": api, "scopes": ["a:b"]},
        ),
        Deed("removeApi", "POST", "/admin/apis/remove", {"identifier": api}, "api.remove", detail={"api": api}),
        Deed("rotateKeys", "POST", "/admin/keys/rotate", {}, "keys.rotate"),
        Deed("revokeKey", "POST", f"/admin/keys/{kid}/revoke", {}, "keys.revoke", detail={"kid": kid}),
    ]


@pytest.mark.standard("AD-22", "AD-13")
@pytest.mark.parametrize("kind", ["person", "service"])
async def test_every_write_leaves_one_event_that_says_who_whom_what_and_why(
    http: httpx.AsyncClient, app: Litestar, services: Services, kind: str
) -> None:
    by = await (caller(services, app, ADMIN) if kind == "person" else service_caller(services, http, ADMIN))
    table = await deeds(http, app, services, by)
    writes = {
        each.name
        for each in operations(await description(http))
        if each.path.startswith("/admin") and each.method != "get"
    }
    assert {deed.name for deed in table} == writes

    secret, requests = "", [secrets.token_hex(8) for _ in table]
    for deed, request_id in zip(table, requests, strict=True):
        answer = await http.request(
            deed.method,
            deed.path.replace("{secret}", secret),
            json={**deed.body, "reason": WHY},
            headers={**by.headers, "X-Request-Id": request_id},
        )
        assert answer.is_success, (deed.name, answer.text)
        if deed.name == "addSecret":
            secret = answer.json()["id"]
    await settled(services)
    for deed, request_id in zip(table, requests, strict=True):
        found = await left_by(services, request_id)
        own = [event for event in found if event.event == deed.event]
        assert len(own) == 1, (deed.name, [event.event for event in found])
        assert {event.event for event in found} <= {deed.event, "account.forgot", "account.mail"}, deed.name
        (event,) = own
        assert event.outcome == deed.outcome, deed.name
        assert (event.account_id, event.client_id) == (deed.account, deed.client), deed.name
        assert (event.detail["by"], event.detail["reason"]) == (by.name, WHY), deed.name
        assert {name: event.detail.get(name) for name in deed.detail} == deed.detail, deed.name
        assert event.address


@pytest.mark.standard("AD-22")
async def test_a_write_that_is_refused_changes_nothing_and_says_nothing_of_having_been_done(
    http: httpx.AsyncClient, app: Litestar, services: Services
) -> None:
    person, requests = await caller(services, app), []
    for method, path, body in (
        ("PUT", f"/admin/accounts/{person.name}/roles", {"roles": ["admin"]}),
        ("POST", f"/admin/accounts/{person.name}/disable", {}),
        ("POST", "/admin/sessions/end", {"everybody": True}),
        ("POST", "/admin/keys/rotate", {}),
    ):
        request_id = secrets.token_hex(8)
        headers = {**person.headers, "X-Request-Id": request_id}
        assert (await http.request(method, path, json=body, headers=headers)).status_code == 403
        requests.append(request_id)
    await settled(services)
    for request_id in requests:
        assert await left_by(services, request_id) == []


@pytest.mark.standard("AD-22")
async def test_a_reason_is_kept_as_it_was_given_but_for_what_no_log_can_take(
    http: httpx.AsyncClient, services: Services, operator: Caller
) -> None:
    path, asked = f"/admin/accounts/{operator.name}/enable", dict[str, str]()
    for given, kept in (
        ("가입자 요청", "가입자 요청"),
        ("x" * 128, "x" * 128),
        ("a\nb\x1b[31m", "ab[31m"),
        ("=cmd|' /C calc'!A0", "=cmd|' /C calc'!A0"),
    ):
        request_id = secrets.token_hex(8)
        headers = {**operator.headers, "X-Request-Id": request_id}
        assert (await http.post(path, json={"reason": given}, headers=headers)).status_code == 200
        asked[request_id] = kept
    await settled(services)
    for request_id, kept in asked.items():
        assert [event.detail["reason"] for event in await left_by(services, request_id)] == [kept]
    for wrong in ("x" * 129, None, 5, ["a"]):
        assert (await http.post(path, json={"reason": wrong}, headers=operator.headers)).status_code == 400


@pytest.mark.standard("AD-22")
async def test_a_profile_that_an_administrator_changes_says_who_did_it(
    http: httpx.AsyncClient, app: Litestar, services: Services, operator: Caller
) -> None:
    somebody = await caller(services, app)
    request_id = secrets.token_hex(8)
    headers = {**operator.headers, "X-Request-Id": request_id}
    assert (await http.patch(f"/users/{somebody.name}", json={"locale": "ko"}, headers=headers)).status_code == 200

    await settled(services)
    (event,) = await left_by(services, request_id)
    assert (event.event, event.account_id) == ("account.change", somebody.account)
    assert (event.detail["by"], event.detail["fields"]) == (operator.name, ["locale"])
