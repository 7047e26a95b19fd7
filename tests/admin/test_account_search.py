"""Finding accounts: by how a name begins, by state, role and age, page by page without a gap."""

import secrets
import unicodedata
from datetime import timedelta
from typing import Any

import httpx
import msgspec
import pytest
from sqlalchemy import delete

from service.accounts.models import Account
from service.clock import utc_now
from service.crypto.opaque import base64url, from_base64url
from service.wiring import Services
from tests.admin.acting import Caller, added, refusal
from tests.deeds import field_codes

ACCOUNTS = "/admin/accounts"


async def search(http: httpx.AsyncClient, operator: Caller, **wanted: Any) -> dict[str, Any]:
    answer = await http.get(ACCOUNTS, params=wanted, headers=operator.headers)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def ids(http: httpx.AsyncClient, operator: Caller, **wanted: Any) -> list[str]:
    """Everybody who fits, over all pages."""
    found: list[str] = []
    cursor: dict[str, str] = {}
    while True:
        told = await search(http, operator, **wanted, **cursor)
        found += [item["id"] for item in told["items"]]
        if "next" not in told:
            return found
        cursor = {"cursor": told["next"]}


def idents(rows: list[dict[str, Any]]) -> list[str]:
    return [str(row["id"]) for row in rows]


async def test_a_search_goes_by_how_address_or_nickname_begins_in_any_case(
    http: httpx.AsyncClient, operator: Caller, services: Services
) -> None:
    mark = f"q{secrets.token_hex(4)}"
    rows = await added(
        services,
        most=3,
        nickname=(f"{mark}-Anna", f"x{mark}", f"y{mark}"),
        email=(f"{secrets.token_hex(6)}@example.com", f"{mark}@example.com", f"z{mark}@example.com"),
    )
    both = set(idents(rows[:2]))

    assert set(await ids(http, operator, q=mark)) == both
    assert set(await ids(http, operator, q=mark.upper())) == both
    assert await ids(http, operator, q=f"{mark}-ANN") == idents(rows[:1])
    assert await ids(http, operator, q=f"{mark.upper()}@Example.com") == idents(rows[1:2])
    assert await ids(http, operator, q=mark[1:]) == []


async def test_wildcards_of_the_database_are_letters_to_a_search(
    http: httpx.AsyncClient, operator: Caller, services: Services
) -> None:
    mark = f"w{secrets.token_hex(4)}"
    rows = await added(services, most=2, nickname=(f"{mark}_a", f"{mark}xa"))

    assert await ids(http, operator, q=f"{mark}_") == idents(rows[:1])
    for wild in (f"{mark}%", f"{mark}%a", f"{mark}\\", f"{mark}/", "%", "_", "\\", "%_"):
        assert await ids(http, operator, q=wild) == [], wild
    for odd in ("'", '"', "'; DROP TABLE accounts; --", "\u202e", " ", "\n", "\t"):
        assert (await search(http, operator, q=f"{mark}{odd}"))["items"] == []


@pytest.mark.parametrize("form", ["NFC", "NFD"])
async def test_a_korean_nickname_is_found_however_the_keyboard_spells_it(
    http: httpx.AsyncClient, operator: Caller, services: Services, form: Any
) -> None:
    mark = secrets.token_hex(4)
    rows = await added(services, nickname=f"한국{mark}사람")

    assert await ids(http, operator, q=unicodedata.normalize(form, f"한국{mark}")) == idents(rows)


async def test_accounts_are_filtered_by_state_role_and_age(
    http: httpx.AsyncClient, operator: Caller, services: Services
) -> None:
    mark, now = f"f{secrets.token_hex(4)}", utc_now()
    names = tuple(f"{mark}{number}" for number in range(4))
    rows = await added(
        services,
        most=4,
        nickname=names,
        disabled_at=(None, now, None, None),
        password_change_required=(False, False, True, False),
        roles=(["editor"], ["editor", "writer"], [], ["editors"]),
        created_at=tuple(now - timedelta(days=days) for days in (1, 2, 3, 4)),
    )
    first, second, third, fourth = idents(rows)

    async def found(**wanted: Any) -> set[str]:
        return set(await ids(http, operator, q=mark, **wanted))

    assert await found() == {first, second, third, fourth}
    assert await found(status="enabled") == {first, third, fourth}
    assert await found(status="disabled") == {second}
    assert await found(status="password_change_required") == {third}
    assert await found(role="editor") == {first, second}
    assert await found(role="edit") == await found(role="%") == set()
    assert await found(status="enabled", role="editor") == {first}
    edge = rows[1]["created_at"].isoformat()
    assert await found(created_after=edge) == {first, second}
    assert await found(created_before=edge) == {third, fourth}
    assert await found(created_after=rows[2]["created_at"].isoformat(), created_before=edge) == {third}


@pytest.mark.parametrize("sort", ["created_at", "email", "nickname"])
async def test_every_order_goes_both_ways_and_its_pages_hold_everybody_once(
    http: httpx.AsyncClient, operator: Caller, services: Services, sort: str
) -> None:
    mark, now = f"s{secrets.token_hex(4)}", utc_now()
    names = tuple(f"{mark}{letter}" for letter in ("b", "a", "_", "가", "é", "z1", "z-2"))
    rows = await added(
        services,
        most=7,
        nickname=names,
        created_at=tuple(now - timedelta(minutes=minutes) for minutes in (1, 1, 1, 2, 3, 4, 4)),
    )
    up = await ids(http, operator, q=mark, sort=sort, limit=2)
    down = await ids(http, operator, q=mark, sort=f"-{sort}", limit=3)

    assert sorted(up) == sorted(idents(rows))
    assert down == up[::-1]
    assert up == await ids(http, operator, q=mark, sort=sort, limit=100)
    if sort == "created_at":
        times = {str(row["id"]): row["created_at"] for row in rows}
        assert [times[each] for each in up] == sorted(times.values())


@pytest.mark.parametrize("sort", ["created_at", "-nickname"])
async def test_pages_neither_skip_nor_repeat_while_people_come_and_go(
    http: httpx.AsyncClient, operator: Caller, services: Services, sort: str
) -> None:
    mark, now = f"m{secrets.token_hex(4)}", utc_now()

    async def come(numbers: tuple[int, ...]) -> list[dict[str, Any]]:
        names = tuple(f"{mark}{number:03}" for number in numbers)
        times = tuple(now + timedelta(seconds=number) for number in numbers)
        return await added(services, most=len(numbers), nickname=names, created_at=times)

    staying = await come((10, 20, 30, 40, 50, 60))
    going = await come((25, 35))
    seen: list[str] = []
    cursor: dict[str, str] = {}
    page = 0
    while True:
        told = await search(http, operator, q=mark, sort=sort, limit=2, **cursor)
        seen += [item["id"] for item in told["items"]]
        if "next" not in told:
            break
        page, cursor = page + 1, {"cursor": told["next"]}
        await come((page, 99 - page))
        async with services.database.begin() as transaction:
            await transaction.execute(delete(Account).where(Account.id.in_([row["id"] for row in going])))

    assert len(seen) == len(set(seen))
    assert set(idents(staying)) <= set(seen)


@pytest.mark.standard("AD-17")
async def test_a_page_holds_at_most_a_hundred(http: httpx.AsyncClient, operator: Caller, services: Services) -> None:
    names = tuple(f"h{secrets.token_hex(2)}{number}" for number in range(101))
    await added(services, most=101, nickname=names)

    told = await search(http, operator, limit=100)
    assert len(told["items"]) == 100
    assert told["next"]
    for limit in ("0", "101", "-1", "abc", "1.5", "", "9" * 40, "true"):
        answer = await http.get(ACCOUNTS, params={"limit": limit}, headers=operator.headers)
        assert refusal(answer) == (400, "invalid_input"), limit
        assert field_codes(answer)[0][0] == "limit"


def cursor_of(*parts: object) -> str:
    return base64url(msgspec.json.encode(parts))


SOMEBODY = "00000000-0000-4000-8000-000000000000"
FORGED = [
    *("", "x", "AAAA", "....", "é", "null", "%00", "A" * 200),
    base64url(b"\xff\xfe"),
    base64url(b'["-created_at","2026-01-01T00:00:00Z"]'),
    base64url(b'["-created_at","\\ud800","' + SOMEBODY.encode() + b'"]'),
    base64url(b'["nickname","\\u0000","' + SOMEBODY.encode() + b'"]'),
    cursor_of("-created_at", "yesterday", SOMEBODY),
    cursor_of("-created_at", 5, SOMEBODY),
    cursor_of("-created_at", "2026-01-01T00:00:00", SOMEBODY),
    cursor_of("-created_at", "0001-01-01T00:00:00+14:00", SOMEBODY),
    cursor_of("-created_at", "9999-12-31T23:59:59-14:00", SOMEBODY),
    cursor_of("-created_at", "2026-01-01T00:00:00Z", "me"),
    cursor_of("-created_at", "2026-01-01T00:00:00Z", SOMEBODY, "more"),
    cursor_of("email", "a@example.com", SOMEBODY),
    cursor_of("created_at", "2026-01-01T00:00:00Z", SOMEBODY),
]


@pytest.mark.standard("AD-05")
async def test_a_cursor_of_another_order_or_of_nobodys_making_is_refused(
    http: httpx.AsyncClient, operator: Caller
) -> None:
    wrong: dict[object, object] = {}
    for cursor in FORGED:
        answer = await http.get(ACCOUNTS, params={"cursor": cursor}, headers=operator.headers)
        if refusal(answer) != (400, "invalid_input") or field_codes(answer)[0][0] != "cursor":
            wrong[from_base64url(cursor) or cursor] = answer.status_code
    assert not wrong


async def test_a_time_that_does_not_say_its_offset_or_lies_beyond_time_is_refused(
    http: httpx.AsyncClient, operator: Caller
) -> None:
    naive = ("2026-11-20T12:00:00", "2026-11-20")
    beyond = ("0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "10000-01-01T00:00:00Z")
    broken = ("yesterday", "", "2026-13-01T00:00:00Z", "\x00")
    wrong: dict[object, object] = {}
    for path, name in (
        (ACCOUNTS, "created_after"),
        (ACCOUNTS, "created_before"),
        ("/admin/audit-events", "since"),
        ("/admin/audit-events/export", "until"),
    ):
        for moment in (*naive, *beyond, *broken):
            try:
                answer = await http.get(path, params={name: moment}, headers=operator.headers)
            except Exception as error:  # noqa: BLE001  a stream that breaks off reaches the client as this
                wrong[path, moment] = type(error).__name__
                continue
            if refusal_or_empty(answer) != (400, "invalid_input"):
                wrong[path, moment] = str(answer.status_code)
    assert not wrong


def refusal_or_empty(answer: httpx.Response) -> tuple[int, str]:
    return refusal(answer) if answer.status_code >= 400 else (answer.status_code, "")
