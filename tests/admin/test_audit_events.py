"""The audit trail over HTTP: filtered, page by page, and as one long stream that equals the pages."""

import json
import secrets
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from sqlalchemy import insert

from service.audit import AuditEvent
from service.audit_search import STREAMED, WantedEvents
from service.clock import utc_now
from service.crypto.opaque import base64url
from service.wiring import Services
from tests.admin.acting import Caller, event_of, lines, refusal
from tests.admin.matrix import assert_shown
from tests.conftest import Person, sign_up
from tests.deeds import field_codes, id_of

EVENTS = "/admin/audit-events"


async def noted(services: Services, most: int, **values: Any) -> list[dict[str, Any]]:
    """Events as they are written, one a second, the oldest first; a callable makes a value of its number."""
    begun = utc_now() - timedelta(days=1)
    rows = []
    for number in range(most):
        row = {
            "id": uuid4(),
            "at": begun + timedelta(seconds=number),
            "event": "test.event",
            "outcome": "ok",
            "account_id": None,
            "client_id": None,
            "session_id": None,
            "address": None,
            "user_agent": None,
            "request_id": None,
            "detail": {},
        }
        rows.append({**row, **{name: each(number) if callable(each) else each for name, each in values.items()}})
    async with services.database.begin() as transaction:
        await transaction.execute(insert(AuditEvent), rows)
    return rows


async def pages(http: httpx.AsyncClient, operator: Caller, **wanted: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    cursor: dict[str, str] = {}
    while True:
        answer = await http.get(EVENTS, params={**wanted, **cursor}, headers=operator.headers)
        told = assert_shown("auditEvents", answer)
        found += told["items"]
        if "next" not in told:
            return found
        cursor = {"cursor": told["next"]}


async def exported(http: httpx.AsyncClient, operator: Caller, **wanted: Any) -> list[dict[str, Any]]:
    answer = await http.get(f"{EVENTS}/export", params=wanted, headers=operator.headers)
    assert answer.headers["cache-control"] == "no-store"
    return lines(answer)


async def test_events_are_filtered_by_whatever_they_say(
    http: httpx.AsyncClient, services: Services, operator: Caller
) -> None:
    mark, account = secrets.token_hex(4), uuid4()
    names = (f"{mark}.open", f"{mark}.close", f"{mark}x.open", mark)
    rows = await noted(
        services,
        4,
        event=lambda number: names[number],
        outcome=lambda number: ("ok", "refused")[number % 2],
        account_id=lambda number: account if number < 3 else None,
        client_id=lambda number: f"c{mark}" if number > 1 else None,
    )
    found = {name: str(row["id"]) for name, row in zip(("open", "close", "xopen", "bare"), rows, strict=True)}

    async def ids(**wanted: Any) -> list[str]:
        shown = await pages(http, operator, limit=2, **wanted)
        assert [each["id"] for each in await exported(http, operator, **wanted)] == [each["id"] for each in shown]
        return [each["id"] for each in shown]

    assert await ids(account_id=str(account)) == [found["xopen"], found["close"], found["open"]]
    assert await ids(event=f"{mark}.open") == [found["open"]]
    assert await ids(event=f"{mark}.") == [found["close"], found["open"]]
    assert await ids(event=mark) == [found["bare"]]
    assert await ids(client_id=f"c{mark}") == [found["bare"], found["xopen"]]
    assert await ids(account_id=str(account), outcome="refused") == [found["close"]]
    assert await ids(account_id=str(account), event=f"{mark}.", outcome="ok") == [found["open"]]
    edge = rows[1]["at"].isoformat()
    assert await ids(account_id=str(account), since=edge) == [found["xopen"], found["close"]]
    assert await ids(account_id=str(account), until=edge) == [found["open"]]
    for nothing in ({"event": f"{mark[:-1]}%."}, {"event": "_."}, {"event": f"{mark}.OPEN"}, {"outcome": mark}):
        assert await ids(**nothing) == []


async def test_what_people_do_is_found_by_account_and_family(
    http: httpx.AsyncClient, services: Services, operator: Caller, person: Person
) -> None:
    account = await id_of(services, person)
    await event_of(services, "session.open", account_id=account)
    shown = await pages(http, operator, account_id=str(account), event="session.")

    assert [(each["event"], each["account_id"], each["client_id"]) for each in shown] == [
        ("session.open", str(account), "web")
    ]
    assert UUID(shown[0]["session_id"])


@pytest.mark.standard("AD-21")
async def test_an_export_of_several_batches_equals_the_pages_and_escapes_what_strangers_wrote(
    http: httpx.AsyncClient, services: Services, operator: Caller
) -> None:
    """Nothing is exported as CSV: a formula is a string of JSON, and a line feed within a value is escaped."""
    mark = secrets.token_hex(4)
    odd = ('=cmd|"/c calc"!A1', "@SUM(1)", "a\nb\r\nc", "\u2028\u2029", '","x":"', "\x7f\x1b[31m", "한국", "<script>")
    await noted(
        services,
        2 * STREAMED + 7,
        event=f"test.{mark}",
        user_agent=lambda number: odd[number % len(odd)],
        detail=lambda number: {odd[number % len(odd)]: [odd[(number + 1) % len(odd)]]},
        at=lambda number: utc_now().replace(microsecond=0) - timedelta(seconds=number // 9),
    )
    answer = await http.get(f"{EVENTS}/export", params={"event": f"test.{mark}"}, headers=operator.headers)
    raw = answer.content.split(b"\n")

    assert raw.pop() == b""
    assert len(raw) == 2 * STREAMED + 7
    assert not any(b"\r" in line or b"\x1b" in line for line in raw)
    documents = [json.loads(line) for line in raw]
    assert documents == await pages(http, operator, event=f"test.{mark}", limit=100)
    assert {document["user_agent"] for document in documents} == set(odd)
    assert "csv" not in (await http.get("/openapi.json")).text.lower()
    as_csv = await http.get(
        f"{EVENTS}/export",
        params={"event": f"test.{mark}", "format": "csv"},
        headers={**operator.headers, "Accept": "text/csv"},
    )
    assert as_csv.headers["content-type"].startswith("application/x-ndjson")


async def test_an_export_is_streamed_piece_by_piece(services: Services) -> None:
    """The second batch is not even asked for before the first was taken."""
    mark = secrets.token_hex(4)
    await noted(services, STREAMED + 1, event=f"test.{mark}")
    stream = services.audit_trail.stream(WantedEvents(event=f"test.{mark}"))
    first = [await anext(stream) for _ in range(STREAMED)]
    late = await noted(services, 1, event=f"test.{mark}", at=first[-1].at - timedelta(seconds=0.5))
    rest = [row.id async for row in stream]

    assert len(rest) == 2
    assert late[0]["id"] in rest


async def test_whoever_takes_events_away_is_written_down(
    http: httpx.AsyncClient, services: Services, operator: Caller
) -> None:
    await exported(http, operator, event="nothing.like.this")

    event = await event_of(services, "audit.export", account_id=operator.account)
    assert event.detail["by"] == operator.name


@pytest.mark.standard("AD-17")
async def test_what_cannot_be_looked_for_is_refused(http: httpx.AsyncClient, operator: Caller) -> None:
    wrong: dict[str, tuple[str, ...]] = {
        "limit": ("0", "101", "abc", ""),
        "account_id": ("me", "1", "", "\x00"),
        "since": ("2026-11-20T12:00:00", "yesterday", ""),
        "until": ("2026-11-20T12:00:00", "now"),
        "cursor": ("x", "", base64url(b'["-created_at","2026-01-01T00:00:00Z","' + str(uuid4()).encode() + b'"]')),
        "event": ("a\x00b", "x" * 255),
        "outcome": ("\x00",),
        "client_id": ("\x00",),
    }
    for name, values in wrong.items():
        for value in values:
            answer = await http.get(EVENTS, params={name: value}, headers=operator.headers)
            assert refusal(answer) == (400, "invalid_input"), (name, value)
            assert field_codes(answer)[0][0] == name


@pytest.mark.standard("AD-11", "AD-18")
async def test_the_trail_shows_no_secret_of_a_whole_life(
    http: httpx.AsyncClient, services: Services, operator: Caller, outbox: Any
) -> None:
    person = await sign_up(http, services, outbox)
    await http.post("/auth/refresh", json={"refresh_token": person.refresh_token})
    await http.post("/auth/password/forgot", json={"email": person.email})
    account = await id_of(services, person)
    await event_of(services, "account.forgot", account_id=account)
    shown = json.dumps(await pages(http, operator, account_id=str(account)))

    for secret in (person.password, person.access_token, person.refresh_token, person.email):
        assert secret not in shown


async def test_nobody_changes_the_trail_over_http(http: httpx.AsyncClient, operator: Caller) -> None:
    for method in ("POST", "PUT", "PATCH", "DELETE"):
        for path in (EVENTS, f"{EVENTS}/{uuid4()}", f"{EVENTS}/export"):
            answer = await http.request(method, path, headers=operator.headers)
            assert answer.status_code in {404, 405}, (method, path)
