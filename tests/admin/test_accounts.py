"""What operators see and change of an account, and what they never see."""

from typing import Any
from uuid import uuid4

import httpx
import pytest
from litestar import Litestar

from service.wiring import Services
from tests.admin.acting import Caller, added, caller, refusal, signed_in
from tests.admin.matrix import assert_shown, body_of, description, operations, resolved
from tests.conftest import Introspector, Outbox
from tests.deeds import is_in, letters, mailed_link, row_of, session_of, sign_in, with_account

DEEDS = {
    "disableAccount": ("POST", "/disable", {}),
    "enableAccount": ("POST", "/enable", {}),
    "setRoles": ("PUT", "/roles", {"roles": ["editor"]}),
    "requirePasswordChange": ("POST", "/require-password-change", {}),
    "startReset": ("POST", "/reset-password", {}),
    "endSessionsOfAccount": ("POST", "/sessions/end", {}),
}
"""Every write of an account: its method, the end of its path, a body."""


async def done(http: httpx.AsyncClient, operator: Caller, account: object, name: str, **more: Any) -> httpx.Response:
    method, end, body = DEEDS[name]
    return await http.request(
        method, f"/admin/accounts/{account}{end}", json={**body, **more}, headers=operator.headers
    )


@pytest.mark.standard("AD-02", "AD-07", "AD-18")
async def test_what_is_shown_of_an_account_is_what_the_matrix_says(
    http: httpx.AsyncClient, app: Litestar, services: Services, operator: Caller
) -> None:
    somebody = await caller(services, app, "editor")
    assert somebody.person is not None
    path = f"/admin/accounts/{somebody.name}"
    shown = assert_shown("account", await http.get(path, headers=operator.headers))
    row = await row_of(services, somebody.person)

    assert (shown["id"], shown["email"], shown["nickname"]) == (somebody.name, row.email, row.nickname)
    assert (shown["roles"], shown["has_password"], shown["disabled_at"]) == (["editor"], True, None)
    found = await http.get("/admin/accounts", params={"q": row.email}, headers=operator.headers)
    assert assert_shown("accounts", found)["items"] == [shown]
    assert_shown("sessionsOfAccount", await http.get(f"{path}/sessions", headers=operator.headers))
    for name in DEEDS:
        answer = await done(http, operator, somebody.name, name, reason="a test")
        if name in {"startReset", "endSessionsOfAccount"}:
            assert answer.content in {b"", b"null"}, name
        else:
            assert_shown(name, answer)


@pytest.mark.standard("AD-06")
async def test_an_account_that_is_not_there_is_not_found_by_any_of_its_routes(
    http: httpx.AsyncClient, operator: Caller
) -> None:
    for account in (uuid4(), "00000000-0000-0000-0000-000000000000"):
        for name in DEEDS:
            assert refusal(await done(http, operator, account, name)) == (404, "not_found"), name
        for end in ("", "/sessions"):
            answer = await http.get(f"/admin/accounts/{account}{end}", headers=operator.headers)
            assert refusal(answer) == (404, "not_found")
        one = await http.post(f"/admin/accounts/{account}/sessions/{uuid4()}/end", json={}, headers=operator.headers)
        assert refusal(one) == (404, "not_found")


async def test_a_disabled_account_is_out_at_once_and_in_again_when_it_is_enabled(
    http: httpx.AsyncClient,
    http_of_second_worker: httpx.AsyncClient,
    app: Litestar,
    services: Services,
    operator: Caller,
) -> None:
    somebody = await caller(services, app)
    assert somebody.person is not None
    disabled = (await done(http, operator, somebody.name, "disableAccount")).json()["disabled_at"]

    assert disabled is not None
    assert not await is_in(http_of_second_worker, somebody.headers)
    assert refusal(await sign_in(http, somebody.person)) == (403, "account_disabled")
    again = await done(http, operator, somebody.name, "disableAccount")
    assert again.json()["disabled_at"] == disabled
    assert (await done(http, operator, somebody.name, "enableAccount")).json()["disabled_at"] is None
    assert not await is_in(http, somebody.headers)
    assert (await sign_in(http, somebody.person)).status_code == 200


async def test_roles_are_replaced_and_those_that_are_none_are_refused(
    http: httpx.AsyncClient, services: Services, operator: Caller
) -> None:
    account = (await added(services, roles=["old"]))[0]["id"]
    for given, kept in ((["writer", "editor", "writer"], ["editor", "writer"]), (["a:b_c-9"], ["a:b_c-9"]), ([], [])):
        answer = await done(http, operator, account, "setRoles", roles=given)
        assert assert_shown("setRoles", answer)["roles"] == kept
    wrong = ("", "Admin", "a b", "1a", "a\n", "é", "a" * 64, "admin,editor", "a\u0000")
    for role in wrong:
        answer = await done(http, operator, account, "setRoles", roles=["editor", role])
        assert answer.status_code == 400, role
    for roles in ("admin", None, [None], [["admin"]], {"admin": True}, [f"r{number}" for number in range(51)]):
        assert (await done(http, operator, account, "setRoles", roles=roles)).status_code == 400, roles
    shown = await http.get(f"/admin/accounts/{account}", headers=operator.headers)
    assert shown.json()["roles"] == []


@pytest.mark.standard("AD-14")
async def test_no_request_or_answer_of_operators_has_a_place_for_a_password(http: httpx.AsyncClient) -> None:
    document = await description(http)

    def names(schema: Any) -> set[str]:
        if isinstance(schema, list):
            return set().union(*map(names, schema))
        if not isinstance(schema, dict):
            return set()
        plain = resolved(document, schema)
        return set(plain.get("properties", ())).union(*map(names, plain.values()))

    allowed = {"has_password", "password_changed_at", "password_change_required"}
    for operation in operations(document):
        if operation.path.startswith("/admin"):
            found = names(operation.described["responses"]) | names(body_of(document, operation))
            found |= {parameter["name"] for parameter in operation.described.get("parameters", [])}
            assert {name for name in found if "passw" in name.lower() or "link" in name.lower()} <= allowed, operation


@pytest.mark.standard("AD-14")
async def test_a_reset_that_an_operator_starts_is_mailed_to_the_person_and_to_nobody_else(
    http: httpx.AsyncClient, services: Services, operator: Caller, outbox: Outbox
) -> None:
    person = await with_account(services)
    account = (await row_of(services, person)).id
    answer = await done(http, operator, account, "startReset", reason="asked by phone")
    link = await mailed_link(services, outbox, person.email, "reset")

    assert answer.status_code == 202
    assert answer.content in {b"", b"null"}
    assert link not in str(answer.headers)
    assert operator.person is not None
    assert link not in str(await letters(services, outbox, operator.person.email))
    assert (await sign_in(http, person)).status_code == 200  # the old password opens until there is another one
    new = {"token": link, "password": "clouds over a silent meadow"}
    assert (await http.post("/auth/password/reset", json=new)).status_code == 204
    person.password = new["password"]
    assert (await sign_in(http, person)).status_code == 200


@pytest.mark.standard("AD-14")
async def test_an_operator_who_sends_a_password_is_refused(
    http: httpx.AsyncClient, services: Services, operator: Caller, outbox: Outbox
) -> None:
    person = await with_account(services)
    before = await row_of(services, person)
    for name in DEEDS:
        for field in ("password", "new_password", "password_hash", "link"):
            answer = await done(http, operator, before.id, name, **{field: "clouds over a silent meadow"})
            assert answer.status_code == 400, (name, field)
    after = await row_of(services, person)

    assert (after.password_hash, after.roles, after.disabled_at) == (before.password_hash, [], None)
    assert await letters(services, outbox, person.email) == []


@pytest.mark.standard("AD-23")
async def test_nobody_becomes_somebody_else(
    http: httpx.AsyncClient, app: Litestar, services: Services, operator: Caller, introspector: Introspector
) -> None:
    """There is no impersonation: no route for it, no grant, no `act` claim, and no way to say whom one means."""
    somebody = await caller(services, app)
    assert operator.person is not None
    for operation in operations(await description(http)):
        assert not any(word in operation.path.lower() for word in ("impersonat", "sudo", "login-as", "act-as"))
    for end in ("impersonate", "token", "login", "session"):
        answer = await http.post(f"/admin/accounts/{somebody.name}/{end}", json={}, headers=operator.headers)
        assert answer.status_code in {404, 405}
    for extra in ({"act": somebody.name}, {"sub": somebody.name}, {"subject": somebody.name}):
        assert (await sign_in(http, operator.person, **extra)).status_code == 400
    headers = {**operator.headers, "X-Act-As": somebody.name, "X-User-Id": somebody.name}
    assert (await http.get("/me", headers=headers)).json()["id"] == operator.name
    told = await introspector.ask(http, (await signed_in(app, operator.person))["access_token"])
    assert "act" not in told
    assert "may_act" not in told
    assert told["sub"] == operator.name
    exchange = {"grant_type": "urn:ietf:params:oauth:grant-type:token-exchange", "client_id": "web"}
    assert refusal(await http.post("/token", data=exchange)) == (400, "unsupported_grant_type")


@pytest.mark.standard("AD-06", "AD-10")
async def test_an_operators_own_account_is_theirs_alone_to_use(
    http: httpx.AsyncClient, app: Litestar, services: Services
) -> None:
    """What is below `/me` is of who asks: no parameter makes it somebody else's."""
    one, other = await caller(services, app), await caller(services, app)
    for path in ("/me", "/me/export"):
        answer = await http.get(path, params={"id": other.name, "account_id": other.name}, headers=one.headers)
        assert other.name not in answer.text
    sessions = await http.get("/me/sessions", headers=other.headers)
    for shown in sessions.json():
        answer = await http.delete(f"/me/sessions/{shown['id']}", headers=one.headers)
        assert refusal(answer) == (404, "not_found")
    assert await is_in(http, other.headers)
    assert other.person is not None
    await session_of(app, other.person)
