"""The permission matrix is what the service does: each operation, asked as each kind of caller, by raw HTTP."""

import secrets
from collections.abc import Iterable
from typing import Any

import httpx
import pytest
from litestar import Litestar

from service.tokens.scopes import ADMIN
from service.wiring import Services
from tests.admin.acting import Caller, caller, refusal, service_caller
from tests.admin.matrix import MATRIX, Operation, answer_of, body_of, description, operations
from tests.conftest import TestClock
from tests.deeds import registered

WHO = {"everybody", "client", "introspecting client", "person", "operator"}
OPERATORS = {"operator", "old operator", "service with admin"}
PEOPLE = {"person", "person with another role", "operator", "old operator"}
FOREIGN = {
    "id",
    "roles",
    "role",
    "verified",
    "password_hash",
    "password",
    "created_at",
    "disabled_at",
    "client_secret",
    "sub",
}
"""Members that somebody in the wrong place would like to write."""
LAST = {"closeAccount", "endOtherSessions"}
"""These end what the others need."""

Outcome = tuple[int, str]


@pytest.fixture
async def callers(services: Services, app: Litestar, http: httpx.AsyncClient, clock: TestClock) -> dict[str, Caller]:
    """One of each kind; one operator signed in too long ago for what needs a fresh sign-in."""
    old = await caller(services, app, ADMIN)
    await clock.advance(seconds=services.settings.fresh_life.total_seconds() + 1)
    return {
        "nobody": Caller(""),
        "person": await caller(services, app),
        "person with another role": await caller(services, app, "support", "administrator", "admin2"),
        "service without scopes": await service_caller(services, http),
        "service with admin": await service_caller(services, http, ADMIN),
        "old operator": old,
        "operator": await caller(services, app, ADMIN),
    }


async def asked(http: httpx.AsyncClient, operation: Operation, who: Caller) -> Outcome:
    """The refusal, or `(0, "")`: the body is one that no operation takes, so nothing happens."""
    is_form = operation.entry["who"].endswith("client")
    content: dict[str, Any] = {"data": {"token": "x"}} if is_form else {"json": ["neither this nor that"]}
    if operation.method in {"get", "delete"}:
        content = {}
    answer = await http.request(operation.method, operation.here, headers=who.headers, **content)
    assert answer.status_code < 500 or operation.path == "/healthz", (operation.name, answer.text)
    if answer.status_code not in {401, 403}:
        return 0, ""
    told = answer.json()
    code = told.get("code") or told["error"]
    assert answer.headers["cache-control"] == "no-store", operation.name
    if code in {"invalid_token", "insufficient_scope", "insufficient_user_authentication"}:
        assert f'error="{code}"' in answer.headers["www-authenticate"], operation.name
    return answer.status_code, code


def expected(operation: Operation, kind: str) -> Outcome:
    """What the file says of a kind of caller."""
    who, is_fresh = operation.entry["who"], operation.entry.get("fresh", False)
    if who == "everybody":
        return 0, ""
    if who.endswith("client"):
        return 401, "invalid_client"
    if kind == "nobody":
        return 401, "unauthenticated"
    if kind not in (PEOPLE if who == "person" else OPERATORS):
        return 403, "insufficient_scope"
    if kind == "old operator" and is_fresh:
        return 401, "insufficient_user_authentication"
    return 0, ""


def in_order(found: Iterable[Operation]) -> list[Operation]:
    """Those that end the session of who asks come last."""
    return sorted(found, key=lambda operation: (operation.name in LAST, operation.name == "closeAccount"))


@pytest.mark.standard("AD-01", "AD-05")
async def test_every_operation_has_its_entry_and_every_entry_its_operation(http: httpx.AsyncClient) -> None:
    found = [operation.name for operation in operations(await description(http))]

    assert len(found) == len(set(found))
    assert set(found) == set(MATRIX["operations"])
    assert {entry["who"] for entry in MATRIX["operations"].values()} == WHO
    for name, entry in MATRIX["operations"].items():
        assert set(entry) <= {"who", "fresh", "reads", "writes", "items"}, name
        assert entry.get("reads", "account") in MATRIX["shapes"], name


@pytest.mark.standard("AD-01", "AD-05", "AD-09", "AT-44")
async def test_every_operation_refuses_whom_the_file_refuses_and_nobody_else(
    http: httpx.AsyncClient, callers: dict[str, Caller]
) -> None:
    wrong = {}
    for operation in in_order(operations(await description(http))):
        for kind, who in callers.items():
            outcome = await asked(http, operation, who)
            if outcome != expected(operation, kind):
                wrong[operation.name, kind] = outcome, expected(operation, kind)
    assert not wrong


@pytest.mark.standard("AD-05", "AD-09")
async def test_everything_below_admin_is_for_operators_and_every_write_of_it_wants_a_fresh_sign_in(
    http: httpx.AsyncClient,
) -> None:
    """The file itself obeys the rule, so that an entry in haste cannot open a door."""
    below = [operation for operation in operations(await description(http)) if operation.path.startswith("/admin")]

    assert len(below) >= 25
    for operation in below:
        assert operation.entry["who"] == "operator", operation.name
        assert operation.entry.get("fresh", False) is (operation.method != "get"), operation.name


@pytest.mark.standard("AD-02", "AD-07", "AD-18")
async def test_bodies_and_answers_have_the_members_of_the_file_and_no_others(http: httpx.AsyncClient) -> None:
    document = await description(http)
    for operation in operations(document):
        body, answer = body_of(document, operation), answer_of(document, operation)
        assert set(body["properties"] if body else ()) == set(operation.entry.get("writes", ())), operation.name
        members = set((answer or {}).get("properties", ()))
        if operation.reads is not None and answer is not None:
            optional = members - set(answer["required"])
            assert members - optional <= operation.reads <= members, operation.name
            assert optional <= {"client_secret"}, operation.name
        elif operation.path.startswith("/admin"):
            assert not members, operation.name


@pytest.mark.standard("AD-02", "AD-07")
async def test_nobody_writes_a_member_that_is_not_theirs(
    http: httpx.AsyncClient, callers: dict[str, Caller], services: Services
) -> None:
    """Mass assignment (ASVS 8.2.3): refused, not ignored, whoever sends it."""
    document = await description(http)
    client = (await services.client_administration.read("web")).id
    for operation in operations(document):
        body, who = body_of(document, operation), operation.entry["who"]
        if body is None or who not in {"person", "operator"}:
            continue
        caller_of = callers["operator"]
        path = operation.path.replace("{account_id}", caller_of.name).replace("{client_id}", client)
        required = dict.fromkeys(body.get("required", ()), "x")
        for foreign in sorted(FOREIGN - set(operation.entry["writes"])):
            answer = await http.request(
                operation.method,
                Operation(operation.name, operation.method, path, {}).here,
                json={**required, foreign: ["admin"] if foreign == "roles" else "x"},
                headers=caller_of.headers,
            )
            assert answer.status_code == 400, (operation.name, foreign, answer.text)
    me = (await http.get("/me", headers=callers["operator"].headers)).json()
    assert me["roles"] == [ADMIN]


@pytest.mark.standard("AD-05")
async def test_a_token_of_a_kind_that_is_not_known_opens_nothing(
    http: httpx.AsyncClient, callers: dict[str, Caller]
) -> None:
    token = callers["operator"].headers["Authorization"].removeprefix("Bearer ")
    for header in (f"Basic {token}", token, "Bearer ", f"Bearer {token[:-4]}AAAA", "Bearer admin"):
        answer = await http.get("/admin/accounts", headers={"Authorization": header})
        assert answer.status_code in {400, 401}, header


@pytest.mark.standard("AD-05", "AD-09")
async def test_clients_do_what_they_are_registered_for(http: httpx.AsyncClient, services: Services) -> None:
    ids = {right: f"svc-{secrets.token_hex(4)}" for right in (False, True)}
    given = {right: await registered(services, name, may_introspect=right) for right, name in ids.items()}
    for operation in operations(await description(http)):
        if not operation.entry["who"].endswith("client"):
            continue
        for right, name in ids.items():
            form = {"token": "x", "grant_type": "client_credentials"}
            answer = await http.post(operation.path, data=form, auth=(name, given[right]))
            is_refused = operation.entry["who"] == "introspecting client" and not right
            assert answer.status_code == (403 if is_refused else 200), (operation.name, right, answer.text)
    bad = await http.post("/token", data={"grant_type": "client_credentials"}, auth=(ids[True], "wrong"))
    assert refusal(bad) == (401, "invalid_client")


@pytest.mark.standard("AD-02", "AD-06", "AD-07")
async def test_a_profile_is_changed_by_its_person_or_an_administrator(
    http: httpx.AsyncClient, callers: dict[str, Caller]
) -> None:
    person, operator = callers["person"], callers["operator"]
    for kind, who in callers.items():
        answer = await http.patch(f"/users/{person.name}", json={"locale": "ko"}, headers=who.headers)
        if kind == "old operator":
            assert refusal(answer) == (401, "insufficient_user_authentication")
        elif kind in {"person", "operator"}:
            assert answer.status_code == 200, kind
            assert set(answer.json()) == set(MATRIX["shapes"]["public_profile"])
        elif kind == "person with another role":
            assert refusal(answer) == (403, "not_yours")
        else:
            assert answer.status_code in {401, 403}
    for body in ({"roles": ["admin"]}, {"email": "x@example.com"}, {"disabled_at": None}, {"password": "x" * 20}):
        for who in (person, operator):
            assert (await http.patch(f"/users/{person.name}", json=body, headers=who.headers)).status_code == 400
            assert (await http.patch("/me", json=body, headers=who.headers)).status_code == 400
