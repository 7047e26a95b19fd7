"""Every operation of `/openapi.json` keeps its word, whatever it is sent: Schemathesis 4 thinks of the input.

What it cannot guess (ids that are there, a password, a grant that is served) is offered to it as an example.
Limits are out of the way. Each operation gets a fresh session, so that none spoils the next one's; those that change
what a caller signs in with get a fresh account (`closeAccount` ends it: what follows there meets 401), and what ends
everybody's sessions is called by a service, which has none.

Not asked:

* whether what fits a schema is accepted (`positive_data_acceptance`): that two fields exclude each other, that a code
  is the right one or that an address can be mailed to is said by no schema. The refusals themselves are checked.
* whether headers are described: none are.
* `ignored_auth`: `test_permissions.py` and `test_bearer.py` ask every route with every kind of caller.
"""

import asyncio
import base64
from collections.abc import AsyncIterator, Iterator
from typing import Any
from uuid import UUID

import httpx
import pytest

from service.crypto.opaque import from_base64url
from service.oauth.form import CREDENTIALS
from service.oauth.introspect import JWT_MEDIA_TYPE
from service.problems import MEDIA_TYPE as PROBLEM
from service.settings import Settings
from service.store.schema import migrate
from service.tokens.scopes import ADMIN
from service.tokens.session_facts import Grant
from tests.clients.server import Running, running
from tests.conftest import PASSWORD, Outbox, Servers, TestClock, _own_database
from tests.deeds import OTHER
from tests.oauth.acting import (
    Software,
    account_of,
    admitted,
    bearer,
    claims_of,
    new_api,
    new_backend,
    new_service,
    session_through,
)
from tests.wire.generated import Findings, informed, operations

NO_LIMITS = {
    f"VESTIBULE_{name.upper()}": "1000000/s" for name in Settings.__struct_fields__ if name.startswith("limit_")
}
OAUTH = ("/token", "/introspect", "/revoke")
ONE_SESSION = "/admin/accounts/{account_id}/sessions/{session_id}/end"
OF_A_CLIENT = ("", "/disable", "/enable", "/secrets", "/secrets/{secret_id}/end")
BAD = 400
OUT_OF_REACH = {
    "POST /auth/verify",
    "POST /auth/password/reset",
    "POST /me/email/confirm",
    "GET /avatars/{account_id}/{name}",
    "HEAD /avatars/{account_id}/{name}",
    "POST /auth/social/{provider}/exchange",
    "DELETE /me/identities/{provider}",
    "GET /me/identities/{provider}/guilds",
}
"""What needs a secret that was mailed, a picture that is there, or a provider that answers: only refusals are seen."""
GOOD: dict[str, list[Any]] = {
    "provider": ["discord"],
    "next": ["/auth/done"],
    "prompt": ["login"],
    "password": [PASSWORD],
    "current_password": [PASSWORD],
    "new_password": [OTHER],
    "nickname": ["Another"],
    "locale": ["en"],
    "avatar_url": [None],
    "roles": [[]],
    "name": ["Another"],
    "/admin/clients client_id": ["another"],
    "identifier": ["https://another.test"],
    "auth_methods": [["client_secret_basic"]],
    "grants": [["client_credentials"]],
    **{field: [[]] for field in ("scopes", "audiences", "serves")},
    "origins": [["https://another.test"]],
    "redirect_uris": [["https://another.test/callback"]],
    **{field: [None] for field in ("jwks", "access_token_life", "session_idle", "session_absolute")},
}
"""What anybody may say, by name."""


@pytest.fixture(scope="module")
def own_database(servers: Servers) -> Iterator[str]:
    with _own_database(servers.database_url) as url:
        migrate(url)
        yield url


@pytest.fixture(scope="module")
async def at(
    environ: dict[str, str], own_database: str, wall_clock: TestClock, outbox: Outbox
) -> AsyncIterator[Running]:
    """The service over TCP, with a database that may be filled with nonsense."""
    async with running(environ, own_database, wall_clock, outbox, **NO_LIMITS) as found:
        yield found


@pytest.fixture(scope="module")
async def description(at: Running) -> dict[str, Any]:
    async with httpx.AsyncClient(base_url=at.issuer) as http:
        document: dict[str, Any] = (await http.get("/openapi.json")).json()
    return document


@pytest.mark.standard("CK-27", "CK-28", "PF-19")
async def test_whatever_an_operator_sends_to_any_operation_is_answered_as_described(
    at: Running, description: dict[str, Any]
) -> None:
    web, findings = Software("web"), Findings()
    operator, held = await session_through(at.services, web, ADMIN)
    target, seen = await session_through(at.services, web)
    other, kept = await session_through(at.services, web)
    service = await new_service(at.services, scopes=[ADMIN])
    client, api = await new_service(at.services), await new_api(at.services)
    document = informed(
        description,
        {
            "account_id": [str(account_of(seen.access_token))],
            f"{ONE_SESSION} account_id": [str(account_of(kept.access_token))],
            f"{ONE_SESSION} session_id": [session_of(kept)],
            "/me/sessions/{session_id} session_id": [session_of(held)],
            "client_id": ["web"],
            **{f"/admin/clients/{{client_id}}{more} client_id": [client.client_id] for more in OF_A_CLIENT},
            "secret_id": [str((await at.services.client_administration.read(client.client_id)).secrets[0].id)],
            "kid": [key.kid for key in at.services.signing_keys.keyring.keys if key.activates_at is None],
            "email": [target.email],
            "/auth/logout refresh_token": [(await admitted(at.services, other, web)).refresh_token],
            "/auth/refresh refresh_token": [(await admitted(at.services, other, web)).refresh_token],
            "/admin/apis/remove identifier": [api.identifier],
            **GOOD,
        },
    )
    for operation in operations(at, document):
        if operation.path in OAUTH:
            continue
        if operation.definition.raw["operationId"] == "endSessions":
            async with httpx.AsyncClient(base_url=at.issuer) as http:
                token = await service.token(http)
        elif operation.definition.raw["operationId"] in {"closeAccount", "changePassword"}:
            token = (await session_through(at.services, web))[1].access_token
        else:
            token = (await admitted(at.services, operator, web)).access_token
        headers = {**bearer(token), "X-Vestibule-CSRF": "1", "Origin": at.issuer}
        await asyncio.to_thread(findings.cover, operation, headers)

    findings.assert_none()
    assert {label for label, statuses in findings.answered.items() if min(statuses) >= BAD} == OUT_OF_REACH


@pytest.mark.standard("CK-27", "IN-17")
async def test_whatever_a_client_sends_to_the_oauth_endpoints_is_answered_as_described(
    at: Running, description: dict[str, Any]
) -> None:
    findings, api = Findings(), await new_api(at.services)
    backend = await new_backend(at.services, api)
    _, grant = await session_through(at.services, backend)
    known = {
        "grant_type": ["client_credentials", "refresh_token"],
        "token": [grant.access_token, "nonsense"],
        "refresh_token": [grant.refresh_token],
        "scope": [api.read],
        "resource": [api.identifier],
    }
    basic = "Basic " + base64.b64encode(f"{backend.client_id}:{backend.secret}".encode()).decode()
    for operation in operations(at, informed(description, known, CREDENTIALS)):
        if operation.path in OAUTH:
            await asyncio.to_thread(findings.cover, operation, {"Authorization": basic})
        if operation.path == "/introspect":
            await asyncio.to_thread(findings.cover, operation, {"Authorization": basic, "Accept": JWT_MEDIA_TYPE})

    assert all(200 in statuses for statuses in findings.answered.values()), findings.answered
    findings.assert_none()


@pytest.mark.standard("CK-27", "PF-38")
async def test_whatever_nobody_in_particular_sends_to_any_operation_is_answered_as_described(
    at: Running, description: dict[str, Any]
) -> None:
    findings = Findings()
    for operation in operations(at, description):
        await asyncio.to_thread(findings.fuzz, operation)

    findings.assert_none()


@pytest.fixture
async def operator(at: Running) -> AsyncIterator[httpx.AsyncClient]:
    """Somebody who may administer, with a client of theirs."""
    _, grant = await session_through(at.services, Software("web"), ADMIN)
    async with httpx.AsyncClient(base_url=at.issuer, headers=bearer(grant.access_token)) as http:
        yield http


@pytest.mark.standard("PF-19")
async def test_no_text_or_number_of_an_operator_passes_for_another_type(operator: httpx.AsyncClient) -> None:
    one = {"client_id": "lax", "name": "Lax"}
    for path, body in (
        ("/admin/sessions/end", {"role": "nobody", "everybody": 0}),
        ("/admin/sessions/end", {"role": "nobody", "everybody": "false"}),
        ("/admin/sessions/end", {"opened_before": 0}),
        ("/admin/sessions/end", {"opened_before": "0"}),
        ("/admin/clients", {**one, "confidential": "true"}),
        ("/admin/clients", {**one, "confidential": 1}),
        ("/admin/clients", {**one, "confidential": True, "access_token_life": "300"}),
        ("/admin/clients", {**one, "confidential": True, "access_token_life": "null"}),
        ("/admin/clients/web/secrets", {"life": "3600"}),
    ):
        answer = await operator.post(path, json=body)
        assert (answer.status_code, answer.headers["content-type"]) == (400, PROBLEM), (path, body, answer.text)


@pytest.mark.standard("PF-19")
async def test_a_moment_that_is_none_in_our_time_is_bad_input_and_no_outage(operator: httpx.AsyncClient) -> None:
    for moment in ("9999-12-31T23:59:59-12:00", "0001-01-01T00:00:00+14:00", "0", "0.5"):
        for path, name in (
            ("/admin/accounts", "created_after"),
            ("/admin/accounts", "created_before"),
            ("/admin/audit-events", "since"),
            ("/admin/audit-events/export", "until"),
        ):
            answer = await operator.get(path, params={name: moment})
            assert answer.status_code == 400, (path, name, moment, answer.status_code, answer.text)
        answer = await operator.post("/admin/sessions/end", json={"opened_before": moment, "role": "nobody"})
        assert answer.status_code == 400, (moment, answer.text)


def session_of(grant: Grant) -> str:
    """The id of a grant's session, as it is listed."""
    return str(UUID(bytes=from_base64url(claims_of(grant.access_token)["sid"])))
