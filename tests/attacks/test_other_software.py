"""Side doors of clients, tokens for software and administration: what is half done, what strangers make us do, clocks
that differ, rights that come back."""

import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any

import httpx
import msgspec
import pytest
from sqlalchemy import select

from service.accounts.mass_sign_out import WhoseSessions
from service.app import create_app
from service.audit import AuditEvent
from service.audit_search import AuditTrail
from service.crypto.assertions import read_keys
from service.crypto.opaque import base64url
from service.errors import OperatorsShutOut, Unavailable
from service.setting_values import Rate
from service.settings import Settings
from service.store.postgres import Database, Transaction
from service.store.redis import RedisStore, Value
from service.tokens.client_administration import ClientChanges
from service.tokens.clients import Client, Clients
from service.wiring import Services
from tests.conftest import Introspector, Outbox, Person, Servers, TestClock, browser, worker
from tests.deeds import bearer, id_of, is_in, registered, row_of, sign_in, with_account
from tests.tokens.two_workers import settings_of_ones_own

BEYOND_THE_CALENDAR = 253402300800


class Cut(RedisStore):
    """Redis, away for one script."""

    def __init__(self, store: RedisStore, script: str, calls: int = 1) -> None:
        self._store, self._script, self._calls = store, script, calls

    async def run(self, script: str, key: str | tuple[str, ...], *arguments: Value) -> Any:
        if script == self._script:
            self._calls -= 1
            if self._calls < 0:
                raise Unavailable("cut")
        return await self._store.run(script, key, *arguments)


class Away(Database):
    """PostgreSQL that does not answer."""

    def __init__(self) -> None:
        pass

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[Transaction]:
        raise Unavailable("away")
        yield


def new_id() -> str:
    return f"svc-{secrets.token_hex(4)}"


async def operator(services: Services, http: httpx.AsyncClient) -> dict[str, str]:
    return bearer(await sign_in(http, await with_account(services, roles=("admin",))))


async def events(services: Services, person: Person, event: str) -> list[AuditEvent]:
    await services.audit.flush()
    wanted = (AuditEvent.account_id == await id_of(services, person), AuditEvent.event == event)
    async with services.database.begin() as transaction:
        return list(await transaction.scalars(select(AuditEvent).where(*wanted).order_by(AuditEvent.id)))


# Half done


@pytest.mark.standard("AD-22", "PW-15")
@pytest.mark.parametrize("verb", ["disable", "require_password_change"])
async def test_an_outage_in_the_middle_leaves_nothing_half_done(
    services: Services, http: httpx.AsyncClient, person: Person, verb: str
) -> None:
    cut = replace(
        services.administration, sessions=replace(services.sessions, store=Cut(services.store, "close_all", calls=0))
    )
    with pytest.raises(Unavailable):
        await getattr(cut, verb)(await id_of(services, person))
    row = await row_of(services, person)
    assert (row.disabled_at, row.password_change_required) == (None, False)
    assert await is_in(http, person.headers)

    await getattr(services.administration, verb)(await id_of(services, person))
    assert not await is_in(http, person.headers)


@pytest.mark.standard("AD-22", "AT-47")
async def test_a_role_that_was_given_during_an_outage_is_on_record_and_in_no_token(
    services: Services, person: Person
) -> None:
    account = await id_of(services, person)
    cut = replace(services.administration, sessions=replace(services.sessions, store=Cut(services.store, "appoint")))
    with pytest.raises(Unavailable):
        await cut.set_roles(account, ["editor"], by="mallory")
    (written,) = await events(services, person, "account.set_roles")
    assert (written.detail["by"], written.detail["before"], written.detail["after"]) == ("mallory", [], ["editor"])
    active = await services.inspection.of(person.access_token)
    assert active is not None
    assert active.roles == ()

    await services.administration.set_roles(account, ["editor"])
    active = await services.inspection.of(person.access_token)
    assert active is not None
    assert active.roles == ("editor",)


@pytest.mark.standard("PF-39")
async def test_a_stream_that_cannot_begin_is_a_503_and_no_torn_answer(
    services: Services, http: httpx.AsyncClient
) -> None:
    headers = await operator(services, http)
    broken = replace(
        services, audit_trail=AuditTrail(Away()), mass_sign_out=replace(services.mass_sign_out, database=Away())
    )
    async with browser(create_app(broken)) as there:
        for answer in (
            await there.get("/admin/audit-events/export", headers=headers),
            await there.post("/admin/sessions/end", json={"everybody": True}, headers=headers),
        ):
            assert (answer.status_code, answer.json()["code"]) == (503, "temporarily_unavailable")
            assert answer.headers["retry-after"]


# What strangers make us do


@pytest.mark.standard("RL-03", "AT-37")
async def test_secrets_in_queries_do_not_fill_the_audit_trail(
    settings: Settings, wall_clock: TestClock, outbox: Outbox
) -> None:
    strict = msgspec.structs.replace(settings, limit_client_network=Rate(3, 3600))
    async with worker(strict, wall_clock, outbox) as own, browser(create_app(own)) as http:
        answers = [(await http.post("/token?client_secret=x", data={"a": "b"})).status_code for _ in range(6)]
    assert answers == [400, 400, 400, 429, 429, 429]


class Watched(Clients):
    """A registry that must not be read as a whole."""

    async def reload(self) -> None:
        raise AssertionError("the whole registry was read")


@pytest.mark.standard("RL-03")
async def test_an_unknown_client_is_looked_for_alone_and_not_with_all_others(services: Services) -> None:
    known = services.clients
    watched = Watched(known.database, known.roots, known.clock, known.audience, known.announce)
    watched._known = dict(known._known)
    secret = await registered(services, client_id := new_id())
    for unknown in (new_id(), "x" * 5000, "\u00e9", "", "nul\x00"):
        assert await watched.find(unknown) is None
    assert await watched.holder(client_id, secret) is not None
    assert await watched.holder(client_id, "vcs_wrong") is None


# Clocks that differ


@pytest.mark.standard("RV-09", "AT-04")
async def test_a_worker_whose_clock_is_ahead_revokes_what_another_one_still_believes(
    services: Services, person: Person
) -> None:
    claims = services.sessions.access_tokens.inspect(person.access_token)
    assert claims is not None
    left = claims.exp - services.clock().timestamp()

    def ahead() -> Any:
        return services.clock() + timedelta(seconds=left + 10)

    early = replace(
        services.revocation, access_tokens=replace(services.sessions.access_tokens, clock=ahead), clock=ahead
    )
    web = services.clients.enabled("web")
    assert web is not None
    await early.revoke(person.access_token, web)
    assert await services.inspection.of(person.access_token) is None


@pytest.mark.standard("RV-02")
async def test_a_token_that_was_revoked_while_its_api_was_gone_stays_dead_when_the_api_is_back(
    services: Services, http: httpx.AsyncClient
) -> None:
    api, client_id = f"https://{secrets.token_hex(4)}.example", new_id()
    await services.client_administration.register_api(api, "Api", ())
    secret = await registered(services, client_id, audiences=[api], serves=[api])
    form = {"grant_type": "client_credentials", "resource": api}
    token = (await http.post("/token", data=form, auth=(client_id, secret))).json()["access_token"]
    caller = Introspector(client_id, secret)
    assert (await caller.ask(http, token))["active"] is True
    await services.client_administration.change(client_id, ClientChanges(audiences=[], serves=[]))
    await services.client_administration.remove_api(api)
    assert (await http.post("/revoke", data={"token": token}, auth=(client_id, secret))).status_code == 200
    await services.client_administration.register_api(api, "Api", ())
    await services.client_administration.change(client_id, ClientChanges(audiences=[api], serves=[api]))
    assert await caller.ask(http, token) == {"active": False}


@pytest.mark.standard("AD-13")
async def test_a_worker_whose_clock_is_behind_ends_the_newest_sessions_too(
    services: Services, http: httpx.AsyncClient, person: Person
) -> None:
    role = f"r{secrets.token_hex(4)}"
    await services.administration.set_roles(await id_of(services, person), [role])
    late = replace(services.mass_sign_out, clock=lambda: services.clock() - timedelta(seconds=20))
    steps = [step async for step in late.run(WhoseSessions(role=role))]
    assert steps[-1].ended == 1
    assert not await is_in(http, person.headers)


# Rights that come back, or were never given


@pytest.mark.standard("AT-15")
async def test_a_front_end_without_the_grant_signs_nobody_in(
    services: Services, http: httpx.AsyncClient, person: Person
) -> None:
    await registered(services, front_end := new_id(), confidential=False, grants=[])
    answer = await sign_in(http, person, client_id=front_end)
    assert (answer.status_code, answer.json()["code"]) == (400, "unknown_client")


@pytest.mark.standard("KY-32")
async def test_a_secret_does_not_come_back_with_the_method_that_was_taken_away(
    services: Services, http: httpx.AsyncClient
) -> None:
    key = {"kty": "EC", "crv": "P-256", "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU"}
    key["y"] = "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"
    secret = await registered(services, client_id := new_id())
    change = services.client_administration.change
    await change(client_id, ClientChanges(auth_methods=["private_key_jwt"], jwks={"keys": [key]}))
    await change(client_id, ClientChanges(auth_methods=["client_secret_basic"], jwks=None))
    answer = await http.post("/token", data={"grant_type": "client_credentials"}, auth=(client_id, secret))
    assert answer.status_code == 401


async def test_the_release_before_knows_the_newest_secret_and_none_that_ended(services: Services) -> None:
    """It reads one column, while both serve and after a rollout that was taken back."""

    async def shown() -> str | None:
        async with services.database.begin() as transaction:
            return await transaction.scalar(select(Client.secret_digest).where(Client.id == client_id))

    first = await registered(services, client_id := new_id())
    roots = services.clients.roots
    assert roots.matches("client secret", first, await shown() or "")
    second = await services.client_administration.add_secret(client_id)
    assert roots.matches("client secret", second.secret, await shown() or "")
    await services.client_administration.end_secret(client_id, second.id)
    assert roots.matches("client secret", first, await shown() or "")
    (row,) = (await services.client_administration.read(client_id)).secrets
    await services.client_administration.end_secret(client_id, row.id)
    assert await shown() == "-"


@pytest.fixture
def alone(servers: Servers, environ: dict[str, str]) -> Iterator[Settings]:
    """An installation of its own."""
    with settings_of_ones_own(servers, environ) as own:
        yield own


@pytest.mark.standard("AD-24")
async def test_operators_cannot_shut_the_door_behind_themselves(
    alone: Settings, wall_clock: TestClock, outbox: Outbox
) -> None:
    """Their last way in is a front end with both scopes."""
    async with worker(alone, wall_clock, outbox) as services:
        await services.client_administration.ensure_front_end()
        change = services.client_administration.change
        with pytest.raises(OperatorsShutOut):
            await change("web", ClientChanges(scopes=["account"]))
        with pytest.raises(OperatorsShutOut):
            await services.client_administration.set_disabled("web", True)
        assert services.clients.enabled("web") is not None
        await registered(
            services, other := new_id(), confidential=False, scopes=["account", "admin"], may_introspect=False
        )
        await change("web", ClientChanges(scopes=["account"]))
        with pytest.raises(OperatorsShutOut):
            await services.client_administration.set_disabled(other, True)


async def test_a_client_can_be_shut_out_where_operators_have_no_front_end_at_all(
    alone: Settings, wall_clock: TestClock, outbox: Outbox
) -> None:
    """They use the command line then: what takes no way in from them is none of this rule's business."""
    async with worker(alone, wall_clock, outbox) as services:
        await registered(services, front_end := new_id(), confidential=False)
        await services.client_administration.set_disabled(front_end, True)
        await services.client_administration.set_disabled(front_end, False)
        await services.client_administration.change(front_end, ClientChanges(name="Kiosk"))


@pytest.mark.standard("AD-17")
async def test_a_full_registry_does_not_stop_an_upgrade(alone: Settings, wall_clock: TestClock, outbox: Outbox) -> None:
    """`vestibule migrate` sees to the default front end each time it runs."""
    full = msgspec.structs.replace(alone, most_clients=1)
    async with worker(full, wall_clock, outbox) as services:
        await services.client_administration.ensure_front_end()
        await services.client_administration.ensure_front_end()
        assert [client.id for client in await services.client_administration.every()] == ["web"]


@pytest.mark.standard("SE-28", "SE-33")
async def test_a_lost_answer_and_a_scope_taken_away_cost_nobody_the_refresh_token(
    services: Services, http: httpx.AsyncClient
) -> None:
    admin = await with_account(services, roles=("admin",))
    token = (await sign_in(http, admin)).json()["refresh_token"]
    form = {"grant_type": "refresh_token", "client_id": "web", "refresh_token": token, "scope": "account admin"}
    assert (await http.post("/token", data=form)).status_code == 200  # its answer never arrives
    await with_account(services, roles=("admin",))
    await services.administration.set_roles(await id_of(services, admin), [])
    refused = await http.post("/token", data=form)
    assert (refused.status_code, refused.json()["error"]) == (400, "invalid_scope")
    del form["scope"]
    assert (await http.post("/token", data=form)).status_code == 200


# Input of operators


@pytest.mark.standard("PF-19")
async def test_times_beyond_the_calendar_are_bad_input(services: Services, http: httpx.AsyncClient) -> None:
    headers = await operator(services, http)
    for path in (
        "accounts?created_after=",
        "accounts?created_before=",
        "audit-events?since=",
        "audit-events/export?until=",
    ):
        answer = await http.get(f"/admin/{path}{BEYOND_THE_CALENDAR}", headers=headers)
        assert answer.status_code == 400, path
    for body in ({"opened_before": BEYOND_THE_CALENDAR}, {"opened_before": 0}, {"role": "x" * 64}, {"role": "a\r\nb"}):
        answer = await http.post("/admin/sessions/end", json=body, headers=headers)
        assert answer.status_code == 400, body


@pytest.mark.standard("KY-07")
def test_a_key_of_a_client_may_be_too_large_as_well() -> None:
    modulus = base64url(((1 << 9000) | 1).to_bytes(1126))
    with pytest.raises(ValueError, match="8192"):
        read_keys({"keys": [{"kty": "RSA", "n": modulus, "e": "AQAB"}]})


async def test_options_names_every_method_of_a_path(http: httpx.AsyncClient) -> None:
    for path, methods in {"/me": "DELETE, GET, OPTIONS, PATCH", "/admin/clients": "GET, OPTIONS, POST"}.items():
        assert (await http.options(path)).headers["allow"] == methods
