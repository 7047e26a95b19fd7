"""Everything that is held about a person, for that person: complete, and without a secret."""

import json
from collections.abc import Iterable
from datetime import datetime
from typing import Any

import httpx
import msgspec
import pytest
from sqlalchemy import text, update

from service.accounts.export import (
    Export,
    ExportedAccount,
    ExportedEvent,
    ExportedIdentity,
    ExportedLink,
    ExportedMail,
    ExportedSession,
)
from service.accounts.identities import Identity
from service.accounts.models import Account
from service.audit import AuditEvent
from service.mail.outbox import OutboxRow
from service.store.postgres import Table
from service.tokens.journal import SessionRow
from service.tokens.one_time import OneTimeToken
from service.wiring import Services
from tests.conftest import PASSWORD, Outbox, Person, sign_up, somebody
from tests.deeds import FIREFOX, OTHER, WRONG, id_of, letters, row_of, sign_in

LEFT_OUT: dict[type[Table], dict[str, str]] = {
    Account: {
        "password_hash": "a secret, told as has_password",
        "nickname_key": "the nickname again, as it is compared",
        "disabled_at": "whoever reads it is not disabled",
        "password_change_required": "whoever reads it is signed in, so it is not",
    },
    SessionRow: {
        "account_id": "the person",
        "salt": "a secret",
        "amr": "in the event of its opening",
        "scope": "what the front end is registered for",
        "granted": "what the front end was registered for when it began",
        "authenticated_at": "in the event of its opening, or of the password given again",
        "used_at": "the same as last_seen_at, but less exact",
        "generation": "says nothing",
    },
    Identity: {"account_id": "the person", "sealed": "secrets", "leased_until": "says nothing"},
    AuditEvent: {"id": "says nothing", "account_id": "the person", "request_id": "says nothing"},
    OneTimeToken: {
        "account_id": "the person",
        "slot": "a digest of a secret",
        "digest": "a digest of a secret",
        "password_changed_at": "the account's",
    },
    OutboxRow: {
        "id": "says nothing",
        "lane": "a digest of the address",
        "account_id": "whose export it is",
        "sealed": "may hold a code or a link",
        "next_try_at": "says nothing",
        "leased_until": "says nothing",
        "tries": "says nothing",
        "dead_at": "says nothing",
        "reason": "words of a mail server",
    },
}
"""Columns that an export does not show, and why."""
SHOWN: dict[type[Table], type[msgspec.Struct]] = {
    Account: ExportedAccount,
    SessionRow: ExportedSession,
    AuditEvent: ExportedEvent,
    OneTimeToken: ExportedLink,
    OutboxRow: ExportedMail,
    Identity: ExportedIdentity,
}
OF_NOBODY = {"clients", "client_secrets", "apis", "signing_keys", "revocations"}
"""Tables that hold nothing about people, or only ids of what has ended: sessions tells the same."""
DERIVED: dict[type[Table], set[str]] = {Account: {"has_password"}, SessionRow: {"last_seen_at"}}


async def export(http: httpx.AsyncClient, person: Person) -> dict[str, Any]:
    answer = await http.get("/me/export", headers=person.headers)
    assert answer.status_code == 200, answer.text
    told: dict[str, Any] = answer.json()
    return told


async def count(services: Services, table: str, person: Person) -> int:
    async with services.database.begin() as transaction:
        statement = text(f"SELECT count(*) FROM {table} WHERE account_id = :a")  # noqa: S608  the test's own words
        return int(await transaction.scalar(statement, {"a": await id_of(services, person)}) or 0)


@pytest.mark.parametrize("table", SHOWN, ids=lambda table: str(table.__tablename__))
def test_a_column_is_exported_or_left_out_for_a_reason(table: type[Table]) -> None:
    shown = set(SHOWN[table].__struct_fields__) - DERIVED.get(table, set())
    left_out = set(LEFT_OUT[table])
    assert shown | left_out == {column.key for column in table.__table__.columns}
    assert not shown & left_out


async def test_a_table_is_exported_or_holds_nothing_about_people(services: Services) -> None:
    async with services.database.begin() as transaction:
        statement = text("SELECT tablename FROM pg_tables WHERE schemaname = current_schema()")
        tables = set((await transaction.scalars(statement)).all()) - {"alembic_version"}
    assert tables == {str(table.__tablename__) for table in SHOWN} | OF_NOBODY
    parts = set(Export.__struct_fields__) - {"exported_at"}
    assert len(parts) == len(SHOWN)


async def test_an_export_is_json_to_keep_that_no_cache_keeps(http: httpx.AsyncClient, person: Person) -> None:
    answer = await http.get("/me/export", headers=person.headers)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("application/json")
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["content-disposition"] == 'attachment; filename="account.json"'
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert json.loads(answer.content)["account"]["email"] == person.email


async def test_the_account_its_sessions_events_links_and_mails_are_in_it(
    http: httpx.AsyncClient, services: Services, outbox: Outbox, person: Person
) -> None:
    await http.patch("/me", json={"locale": "ko", "avatar_url": "https://a.example/b.png"}, headers=person.headers)
    assert (await sign_in(http, person, password=WRONG)).status_code == 401
    second = await http.post("/auth/login", json=person.credentials(), headers={"User-Agent": FIREFOX})
    await http.post("/auth/logout", json={"refresh_token": second.json()["refresh_token"]})
    new_email = somebody().email
    body = {"email": new_email, "password": PASSWORD}
    assert (await http.post("/me/email", json=body, headers=person.headers)).status_code == 202
    await letters(services, outbox, person.email)
    await _post_for_later(services, person)

    told = await export(http, person)

    row = await row_of(services, person)
    account = told["account"]
    assert set(account) == set(ExportedAccount.__struct_fields__)
    assert (account["id"], account["email"], account["nickname"]) == (str(row.id), person.email, person.nickname)
    assert (account["locale"], account["avatar_url"], account["roles"]) == ("ko", "https://a.example/b.png", [])
    assert account["has_password"] is True
    assert datetime.fromisoformat(account["created_at"]) == row.created_at
    assert datetime.fromisoformat(account["password_changed_at"]) == row.password_changed_at
    assert len(told["sessions"]) == await count(services, "sessions", person) == 2
    by_agent = {session["user_agent"]: session for session in told["sessions"]}
    assert by_agent[FIREFOX]["ended_reason"] == "logout"
    assert {session["client_id"] for session in told["sessions"]} == {"web"}
    assert all(session["address"].startswith("2001:db8:") for session in told["sessions"])
    assert len(told["events"]) == await count(services, "audit_events", person)
    events = {(event["event"], event["outcome"]) for event in told["events"]}
    assert events >= {
        ("account.verify", "ok"),
        ("session.open", "ok"),
        ("login", "refused"),
        ("account.change", "ok"),
        ("account.export", "ok"),
        ("account.request_email", "ok"),
    }
    assert [(link["purpose"], link["email"]) for link in told["links"]] == [("email", new_email)]
    assert [mail["template"] for mail in told["mails"]] == ["already_registered"]


async def _post_for_later(services: Services, person: Person) -> None:
    async with services.database.begin() as transaction:
        services.outbox.post(transaction, "already_registered", person.email, "en")
        await transaction.flush()
        (row,) = await services.outbox.of(transaction, person.email)
        later = text("UPDATE outbox SET next_try_at = next_try_at + interval '1 day' WHERE id = :id")
        await transaction.execute(later, {"id": row.id})


@pytest.mark.standard("SE-20", "LO-06")
async def test_no_secret_is_in_it(http: httpx.AsyncClient, services: Services, outbox: Outbox, person: Person) -> None:
    new_email = somebody().email
    body = {"email": new_email, "password": PASSWORD}
    assert (await http.post("/me/email", json=body, headers=person.headers)).status_code == 202
    assert (await http.post("/auth/password/forgot", json={"email": person.email})).status_code == 202
    mails = [*await letters(services, outbox, person.email), *await letters(services, outbox, new_email)]
    links = [word.partition("=")[2] for mail in mails for word in mail.text.split() if "#" in word]
    assert len(links) >= 2

    answer = (await http.get("/me/export", headers=person.headers)).text

    row = await row_of(services, person)
    statement = text("SELECT encode(salt, 'hex') FROM sessions WHERE account_id = :a "
                     "UNION SELECT digest FROM one_time_tokens WHERE account_id = :a")  # fmt: skip
    async with services.database.begin() as transaction:
        digests: Iterable[str] = (await transaction.scalars(statement, {"a": row.id})).all()
    for secret in (*links, *digests, row.password_hash or "", PASSWORD, person.access_token, person.refresh_token):
        assert secret
        assert secret not in answer
    for word in ("argon2", "digest", "salt", "sealed", "password_hash"):
        assert word not in answer


async def test_nobody_else_is_in_it(
    http: httpx.AsyncClient, services: Services, outbox: Outbox, person: Person
) -> None:
    other = await sign_up(http, services, outbox)
    await sign_in(http, other, password=WRONG)
    answer = await http.get("/me/export", headers=person.headers)
    for word in (other.email, other.nickname, str(await id_of(services, other))):
        assert word not in answer.text


async def test_an_export_says_when_it_was_made_and_counts_itself(http: httpx.AsyncClient, person: Person) -> None:
    first, second = await export(http, person), await export(http, person)
    assert datetime.fromisoformat(first["exported_at"]) < datetime.fromisoformat(second["exported_at"])
    assert [event["event"] for event in second["events"]].count("account.export") == 2
    moments = [datetime.fromisoformat(event["at"]) for event in second["events"]]
    assert moments == sorted(moments, reverse=True)


async def test_an_account_without_a_password_says_so(
    http: httpx.AsyncClient, services: Services, person: Person
) -> None:
    async with services.database.begin() as transaction:
        await transaction.execute(update(Account).where(Account.email == person.email).values(password_hash=None))
    assert (await export(http, person))["account"]["has_password"] is False
    body = {"current_password": PASSWORD, "new_password": OTHER}
    assert (await http.post("/me/password", json=body, headers=person.headers)).status_code == 401


async def test_an_export_takes_an_access_token(http: httpx.AsyncClient) -> None:
    answer = await http.get("/me/export")
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Bearer")
