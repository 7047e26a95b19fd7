"""Whatever is sent to operators' routes, the answer is a refusal and never a crash."""

from typing import Any

import httpx
import pytest

from service.wiring import Services
from tests.admin.acting import Caller, added
from tests.admin.matrix import body_of, description, operations
from tests.deeds import is_in

SEGMENTS = ("%00", "a%00b", "%ed%a0%80", "%ff", "%c3%28", "..%2f..%2fme", "%0a", "'", "%25", "%c3%a9", "a" * 3000)
QUERIES = (
    b"q=%00",
    b"q=%ed%a0%80",
    b"q=%ff%fe",
    b"role=%ed%bf%bf",
    b"event=%ed%a0%80",
    b"client_id=%ff",
    b"cursor=%ed%a0%80",
    b"account_id=%ed%a0%80",
    b"created_after=%ff",
    b"sort=%ed%a0%80",
    b"sort=password_hash",
    b"sort=-",
    b"status=gone",
    b"q=a&q=b",
    b"limit=1&limit=2",
    b"sort=email&sort=-email",
    b"status=enabled&status=disabled",
    b"cursor=a&cursor=b",
    b"account_id=a&account_id=b",
    b"event=a&event=b",
    b"q[]=a&q[$ne]=b",
    b"%00=%00",
    b"&&&===",
    b"q=" + b"a" * 255,
    b"limit=" + b"9" * 400,
)
LONG_AGO = b"&until=2000-01-01T00:00:00Z"
NOTHING = {"/admin/accounts": b"", "/admin/audit-events": LONG_AGO, "/admin/audit-events/export": LONG_AGO}
"""The lists, and what keeps their answers short."""


@pytest.mark.standard("AD-05")
async def test_no_query_makes_a_search_crash(http: httpx.AsyncClient, operator: Caller) -> None:
    for path, short in NOTHING.items():
        for query in QUERIES:
            url = httpx.URL("https://auth.test").copy_with(raw_path=path.encode() + b"?" + query + short)
            answer = await http.get(url, headers=operator.headers)
            assert answer.status_code in {200, 400}, (path, query, answer.text)
            if answer.status_code == 400:
                assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.standard("AD-05")
async def test_no_path_makes_a_route_crash(http: httpx.AsyncClient, operator: Caller) -> None:
    """As an operator with an empty body: nothing that these could name exists."""
    for operation in operations(await description(http)):
        if not operation.path.startswith("/admin") or "{" not in operation.path:
            continue
        for segment in SEGMENTS:
            parts = [segment if part.startswith("{") else part for part in operation.path.split("/")]
            url = httpx.URL("https://auth.test").copy_with(raw_path="/".join(parts).encode())
            content: dict[str, Any] = {} if operation.method == "get" else {"json": {}}
            answer = await http.request(operation.method, url, headers=operator.headers, **content)
            assert 400 <= answer.status_code < 500, (operation.name, segment, answer.status_code)
    assert await is_in(http, operator.headers)


@pytest.mark.standard("AD-05", "AD-07")
async def test_no_body_makes_a_write_crash(http: httpx.AsyncClient, services: Services, operator: Caller) -> None:
    account = (await added(services))[0]["id"]
    bodies = (
        *(b"", b"{", b"[]", b"null", b'"x"', b"5", b"\xff", b'{"reason":"\\ud800"}', b'{"reason":"\\u0000"}'),
        *(b'{"reason":"a","reason":"b"}', b'{"reason":{}}', b"[" * 100, b'{"unknown":1}', b'{"__proto__":{}}'),
        b'{"reason":"' + b"x" * 70_000 + b'"}',
    )
    document = await description(http)
    for operation in operations(document):
        if not operation.path.startswith("/admin") or body_of(document, operation) is None:
            continue
        path = operation.path.replace("{account_id}", str(account)).replace("{client_id}", "nobody-here")
        path = (
            path.replace("{kid}", "nobody").replace("{session_id}", str(account)).replace("{secret_id}", str(account))
        )
        for body in bodies:
            headers = {**operator.headers, "Content-Type": "application/json"}
            answer = await http.request(operation.method, path, content=body, headers=headers)
            assert 400 <= answer.status_code < 500, (operation.name, body[:40], answer.text)
        as_form = await http.request(operation.method, path, data={"reason": "x"}, headers=operator.headers)
        assert as_form.status_code == 415, operation.name


@pytest.mark.standard("AD-05")
async def test_a_number_beyond_all_numbers_is_a_wrong_one(http: httpx.AsyncClient, operator: Caller) -> None:
    client = {"client_id": "c-of-numbers", "confidential": True}
    for number in (2**31, 10**30):
        for field in ("access_token_life", "session_absolute"):
            answers = [
                await http.post("/admin/clients", json={**client, field: number}, headers=operator.headers),
                await http.patch("/admin/clients/web", json={field: number}, headers=operator.headers),
            ]
            assert [answer.status_code for answer in answers] == [400, 400], (field, number)
        life = await http.post("/admin/clients/web/secrets", json={"life": number}, headers=operator.headers)
        assert life.status_code == 400
