"""What an operator does to clients and APIs: on record, at once in every worker, and never at cross purposes."""

import secrets
from collections.abc import AsyncIterator
from datetime import timedelta
from uuid import UUID

import httpx
import msgspec
import pytest
from sqlalchemy import select

from service.app import create_app
from service.audit import AuditEvent
from service.errors import ApiInUse, ApiTaken, ClientIdTaken, InvalidInput, NotFound, TooManyClients
from service.settings import Settings
from service.store.postgres import new_id
from service.tokens.client_administration import ClientChanges
from service.wiring import Services
from tests.conftest import Outbox, TestClock, browser, worker
from tests.oauth.acting import Software, assert_error, claims_of, new_api, new_service
from tests.tokens.hearing import eventually, listening_worker, outcomes
from tests.tokens.test_client_rules import BY_KEY, GOOD_KEY, fresh_id


@pytest.fixture(scope="module")
async def deaf_worker(
    services: Services, settings: Settings, wall_clock: TestClock, outbox: Outbox
) -> AsyncIterator[Services]:
    async with listening_worker(services, settings, wall_clock, outbox) as running:
        yield running


@pytest.fixture
async def elsewhere(deaf_worker: Services) -> AsyncIterator[httpx.AsyncClient]:
    async with browser(create_app(deaf_worker)) as http:
        yield http


async def events_of(services: Services, client_id: str) -> list[AuditEvent]:
    """What the audit trail has of a client, the oldest first."""
    await services.audit.flush()
    statement = select(AuditEvent).where(AuditEvent.client_id == client_id).order_by(AuditEvent.id)
    async with services.database.begin() as transaction:
        return list((await transaction.scalars(statement)).all())


# What tokens of a client say


@pytest.mark.standard("AT-21", "AT-17", "AT-16")
async def test_a_service_speaks_for_itself_with_the_scopes_it_holds_and_no_others(
    http: httpx.AsyncClient, services: Services
) -> None:
    api = await new_api(services)
    poor = await new_service(services)
    rich = await new_service(services, scopes=[api.read], audiences=[api.identifier])

    assert "scope" not in (await poor.ask_token(http)).json()
    for scope in ("admin", "account", api.read, "nothing:known"):
        assert_error(await poor.ask_token(http, scope=scope), 400, "invalid_scope")
    for scope in (api.write, "admin", "account", f"{api.read} {api.write}"):
        assert_error(await rich.ask_token(http, scope=scope), 400, "invalid_scope")
    told = claims_of(await rich.token(http, scope=api.read))
    assert (told["sub"], told["client_id"], told["scope"]) == (rich.client_id, rich.client_id, api.read)
    with pytest.raises(ValueError, match="badly formed"):
        UUID(told["sub"])
    assert_error(await Software(rich.client_id).ask_token(http), 401, "invalid_client")


# Changes


@pytest.mark.standard("IN-08", "AT-16", "AT-17")
async def test_a_worker_hears_of_changes_without_looking_for_them(
    http: httpx.AsyncClient, elsewhere: httpx.AsyncClient, services: Services
) -> None:
    administration = services.client_administration
    client = await new_service(services, may_introspect=False)

    async def answer() -> tuple[int, str | None]:
        got = await client.ask_token(elsewhere, scope="admin")
        return got.status_code, got.json().get("error", got.json().get("scope"))

    async def introspects() -> int:
        return (await client.introspect(elsewhere, "x")).status_code

    assert await answer() == (400, "invalid_scope")
    for change, expected in (
        (ClientChanges(scopes=["admin"]), (200, "admin")),
        (ClientChanges(scopes=[]), (400, "invalid_scope")),
        (ClientChanges(grants=[]), (400, "unauthorized_client")),
        (ClientChanges(grants=["client_credentials"], scopes=["admin"]), (200, "admin")),
        (ClientChanges(auth_methods=["client_secret_post"]), (401, "invalid_client")),
        (ClientChanges(auth_methods=["client_secret_basic"]), (200, "admin")),
    ):
        await administration.change(client.client_id, change)
        await eventually(answer, expected)
    assert await introspects() == 403
    await administration.change(client.client_id, ClientChanges(may_introspect=True))
    await eventually(introspects, 200)
    await administration.set_disabled(client.client_id, True)
    assert_error(await client.ask_token(http), 401, "invalid_client")
    await eventually(answer, (401, "invalid_client"))
    await administration.set_disabled(client.client_id, False)
    await eventually(answer, (200, "admin"))


@pytest.mark.standard("AD-22", "KY-32", "LO-06")
async def test_every_change_is_on_record_with_who_what_and_why(services: Services) -> None:
    administration, client_id = services.client_administration, fresh_id()
    words = {"by": "somebody", "why": "Because."}
    keys = ClientChanges(auth_methods=[*BY_KEY, "client_secret_basic"], jwks={"keys": [GOOD_KEY]})
    await administration.register(client_id, ClientChanges(name="Before"), confidential=True, **words)
    await administration.change(client_id, ClientChanges(name="After", access_token_life=300), **words)
    await administration.change(client_id, keys, **words)
    await administration.set_disabled(client_id, True, **words)
    await administration.set_disabled(client_id, False, **words)
    added = await administration.add_secret(client_id, timedelta(days=1), **words)
    await administration.end_secret(client_id, added.id, **words)

    assert added.expires_at is not None
    events = await events_of(services, client_id)
    told = [(event.event, {**event.detail}) for event in events]
    assert {event.outcome for event in events} == {"ok"}
    assert {(detail.pop("by"), detail.pop("reason")) for _, detail in told} == {("somebody", "Because.")}
    created = told[0][1]["after"]
    assert (created["name"], created["scopes"], created["grants"]) == ("Before", [], ["client_credentials"])
    before, after = ["client_secret_basic", "client_secret_post"], [*BY_KEY, "client_secret_basic"]
    assert told[1:] == [
        (
            "client.change",
            {
                "before": {"name": "Before", "access_token_life": None},
                "after": {"name": "After", "access_token_life": 300},
            },
        ),
        (
            "client.change",
            {"before": {"auth_methods": before, "jwks": None}, "after": {"auth_methods": after, "jwks": "…"}},
        ),
        ("client.disable", {}),
        ("client.enable", {}),
        ("client.add_secret", {"secret": str(added.id), "expires_at": added.expires_at.isoformat()}),
        ("client.end_secret", {"secret": str(added.id)}),
    ]


@pytest.mark.standard("AD-22")
async def test_a_refused_change_is_not_on_record_as_one(services: Services) -> None:
    administration = services.client_administration
    client = await new_service(services)
    before = len(await events_of(services, client.client_id))
    for refused in (
        administration.change(client.client_id, ClientChanges(scopes=["nothing:known"])),
        administration.end_secret(client.client_id, new_id()),
        administration.register(client.client_id, ClientChanges(), confidential=True),
    ):
        with pytest.raises((InvalidInput, NotFound, ClientIdTaken)):
            await refused
    assert len(await events_of(services, client.client_id)) == before


async def test_nothing_is_done_to_a_client_that_is_not_there(services: Services) -> None:
    administration = services.client_administration
    for client_id in (fresh_id(), "", "No Id", "x\x00", "a" * 70):
        for call in (
            administration.read(client_id),
            administration.change(client_id, ClientChanges(name="x")),
            administration.set_disabled(client_id, True),
            administration.add_secret(client_id),
            administration.end_secret(client_id, new_id()),
            administration.replace_secrets(client_id),
        ):
            with pytest.raises(NotFound):
                await call
    with pytest.raises(NotFound):
        await administration.remove_api(f"urn:{secrets.token_hex(8)}")


# Many at once


@pytest.mark.standard("AD-17")
async def test_an_id_is_given_once(services: Services, second_worker: Services) -> None:
    client_id = fresh_id()
    workers = [services.client_administration, second_worker.client_administration] * 4
    told = await outcomes(*(one.register(client_id, ClientChanges(), confidential=True) for one in workers))

    assert sorted(answer is ClientIdTaken for answer in told) == [False] + [True] * 7
    (secret,) = [answer[1].secret for answer in told if isinstance(answer, tuple)]
    assert await services.clients.holder(client_id, secret) is not None
    with pytest.raises(ClientIdTaken):
        await services.client_administration.register("web", ClientChanges(), confidential=True)


@pytest.mark.standard("AD-17")
async def test_there_are_never_more_clients_than_the_setting_allows(
    services: Services, settings: Settings, wall_clock: TestClock, outbox: Outbox
) -> None:
    registered = len(await services.client_administration.every())
    full = msgspec.structs.replace(settings, most_clients=registered + 1)
    async with worker(full, wall_clock, outbox) as running:
        administration = running.client_administration
        await administration.register(fresh_id(), ClientChanges(), confidential=True)
        for is_confidential in (True, False):
            with pytest.raises(TooManyClients):
                await administration.register(fresh_id(), ClientChanges(), confidential=is_confidential)
        await administration.change("web", ClientChanges(name="Web"))  # what is there can be changed
    assert len(await services.client_administration.every()) == registered + 1


@pytest.mark.standard("AD-17")
async def test_nor_when_they_are_registered_at_once(
    services: Services, settings: Settings, wall_clock: TestClock, outbox: Outbox
) -> None:
    registered = len(await services.client_administration.every())
    full = msgspec.structs.replace(settings, most_clients=registered + 2)
    async with worker(full, wall_clock, outbox) as running:
        register = running.client_administration.register
        told = await outcomes(*(register(fresh_id(), ClientChanges(), confidential=True) for _ in range(8)))

    assert told.count(TooManyClients) == 6
    assert len(await services.client_administration.every()) == registered + 2


@pytest.mark.standard("AT-07")
async def test_an_api_has_one_identifier_and_stays_while_a_client_needs_it(services: Services) -> None:
    administration = services.client_administration
    api = await new_api(services)
    with pytest.raises(ApiTaken):
        await administration.register_api(api.identifier, "Other", ())
    asks = await new_service(services, audiences=[api.identifier], scopes=[api.read])
    serves = await new_service(services, serves=[api.identifier])

    for client, changes in ((asks, ClientChanges(audiences=[], scopes=[])), (serves, ClientChanges(serves=[]))):
        with pytest.raises(ApiInUse):
            await administration.remove_api(api.identifier)
        await administration.change(client.client_id, changes)
    await administration.remove_api(api.identifier)
    assert api.identifier not in {row.identifier for row in await administration.apis()}
    assert api.identifier not in services.clients.audiences()


@pytest.mark.standard("AT-07")
async def test_an_api_does_not_go_while_a_client_is_registered_for_it(
    services: Services, second_worker: Services
) -> None:
    """Whichever is first, no client is left with an API that nobody knows."""
    for _ in range(6):
        api, client_id = await new_api(services), fresh_id()
        values = ClientChanges(audiences=[api.identifier], serves=[api.identifier])
        registering = services.client_administration.register(client_id, values, confidential=True)
        removing = second_worker.client_administration.remove_api(api.identifier)
        registered, removed = await outcomes(registering, removing)

        assert (registered, removed) == (InvalidInput, None) or removed is ApiInUse
