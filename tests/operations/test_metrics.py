"""What Prometheus is told: the right numbers, few labels, nothing about people, and an answer whatever hangs."""

import asyncio
import re
import secrets
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import msgspec
import pytest
from litestar import Litestar
from sqlalchemy import delete, text

from service import metrics
from service.cli.metrics_port import metrics_served
from service.clock import utc_now
from service.crypto.passwords import Cost, Passwords
from service.crypto.roots import RootKeys
from service.device import Device
from service.edge import PREFLIGHT
from service.errors import Unavailable
from service.mail.message import NoTransport
from service.mail.outbox import OutboxRow
from service.setting_values import Secret
from service.settings import load
from service.store.postgres import PoolState
from service.wiring import Services, build
from tests.conftest import Introspector, Outbox, Person, root_key, sign_up
from tests.deeds import WRONG, sign_in
from tests.operations.scraped import Page, free_port

LABELS = {
    "vestibule_requests": "method route status",
    "vestibule_request_seconds": "route le",
    "vestibule_refreshes": "outcome",
    "vestibule_introspections": "outcome",
    "vestibule_token_cache": "cache",
    "vestibule_sign_ins": "way outcome",
    "vestibule_sign_ups": "step outcome",
    "vestibule_mails": "outcome",
    "vestibule_hashes": "state",
    "vestibule_hash_seconds": "le",
    "vestibule_postgres_pool": "state",
    "vestibule_clock_skew_seconds": "store",
    "vestibule_build_info": "version python",
}
"""Every metric that has labels, and which."""


@dataclass
class Counted:
    """By how much a counter grows."""

    sample: str
    labels: dict[str, str]
    before: float

    @classmethod
    def of(cls, sample: str, **labels: str) -> "Counted":
        return cls(sample, labels, Page.now().value(sample, **labels))

    @property
    def more(self) -> float:
        return Page.now().value(self.sample, **self.labels) - self.before


# What is counted


async def test_each_outcome_of_a_refresh_is_counted(http: httpx.AsyncClient, person: Person) -> None:
    outcomes = {name: Counted.of("vestibule_refreshes_total", outcome=name) for name in metrics.REFRESHED}
    first = {"refresh_token": person.refresh_token}
    second = (await http.post("/auth/refresh", json=first)).json()["refresh_token"]
    assert (await http.post("/auth/refresh", json=first)).status_code == 200
    third = (await http.post("/auth/refresh", json={"refresh_token": second})).json()["refresh_token"]
    assert (await http.post("/auth/refresh", json={"refresh_token": third})).status_code == 200
    for token in (person.refresh_token, person.refresh_token, "vrt_nonsense"):
        assert (await http.post("/auth/refresh", json={"refresh_token": token})).status_code == 401
    found = {name: count.more for name, count in outcomes.items() if count.more}
    assert found == {"rotated": 3, "repeated": 1, "reused": 1, "revoked": 1, "unknown": 1}


async def test_a_refresh_that_met_no_store_is_counted_as_unavailable(environ: dict[str, str], person: Person) -> None:
    services = build(load({**environ, "REDIS_URL": "redis://127.0.0.1:1"}), mail=lambda _: NoTransport())
    counted = Counted.of("vestibule_refreshes_total", outcome="unavailable")
    with pytest.raises(Unavailable):
        await services.login.renew(person.refresh_token, "web", Device.seen("192.0.2.1", "", ""))
    assert counted.more == 1
    await services.close()


async def test_sign_ins_and_sign_ups_are_counted_by_their_outcome(
    http: httpx.AsyncClient, services: Services, outbox: Outbox
) -> None:
    await services.mailer.drain()
    counted = [
        Counted.of("vestibule_sign_ups_total", step="begun", outcome="ok"),
        Counted.of("vestibule_sign_ups_total", step="proved", outcome="ok"),
        Counted.of("vestibule_sign_ins_total", way="password", outcome="ok"),
        Counted.of("vestibule_sign_ins_total", way="password", outcome="refused"),
        Counted.of("vestibule_mails_total", outcome="sent"),
    ]
    person = await sign_up(http, services, outbox)
    await sign_in(http, person)
    for _ in range(2):
        await sign_in(http, person, password=WRONG)
    assert [one.more for one in counted] == [1, 1, 1, 2, 1]


async def test_a_sign_in_through_a_provider_is_counted_by_its_name(http: httpx.AsyncClient, services: Services) -> None:
    counted = Counted.of("vestibule_sign_ins_total", way="github", outcome="access_denied")
    begun = await http.get("/auth/social/github")
    state = parse_qs(urlsplit(begun.headers["location"]).query)["state"][0]
    await http.get("/auth/social/github/callback", params={"state": state, "error": "access_denied"})
    assert counted.more == 1


def test_introspections_are_on_the_page_after_a_flush() -> None:
    counted = [
        Counted.of("vestibule_introspections_total", outcome="active"),
        Counted.of("vestibule_introspections_total", outcome="inactive"),
        Counted.of("vestibule_token_cache_total", cache="hit"),
        Counted.of("vestibule_token_cache_total", cache="miss"),
    ]
    for outcome in ("active", "active", "active", "inactive"):
        metrics.introspected(outcome)
    for result in ("hit", "hit", "miss", "miss"):
        metrics.looked_up(result)
    metrics.flush()
    assert [one.more for one in counted] == [3, 1, 2, 2]


def test_what_becomes_of_redis_and_the_journal_is_on_the_page() -> None:
    names = ("redis_losses", "answers_from_journal", "replayed_revocations")
    counted = [Counted.of(f"vestibule_{name}_total") for name in names]
    metrics.redis_lost()
    assert Page.now().value("vestibule_redis_breaker_open") == 1
    metrics.redis_found()
    metrics.answered_from_journal()
    metrics.replayed(7)
    metrics.replay_lag(4.5)
    assert [one.more for one in counted] == [1, 1, 7]
    assert Page.now().value("vestibule_redis_breaker_open") == 0
    assert Page.now().value("vestibule_replay_lag_seconds") == 4.5


async def test_hashes_that_run_wait_and_find_no_place_are_told() -> None:
    told: list[float] = []
    refused: list[None] = []
    passwords = Passwords(
        RootKeys.parse(Secret(root_key())),
        Cost(1, 1024, 1),
        slots=1,
        queue=1,
        took=told.append,
        refused=lambda: refused.append(None),
    )
    gate = threading.Event()
    under_way = [asyncio.ensure_future(passwords._in_thread(gate.wait)) for _ in range(2)]
    await asyncio.sleep(0)
    assert (passwords.running, passwords.waiting) == (1, 1)
    with pytest.raises(Unavailable):
        await passwords.hash("rain over the quiet harbour")
    gate.set()
    await asyncio.gather(*under_way)
    passwords.close()
    assert (len(refused), len(told)) == (1, 2)


async def test_the_backlog_of_mails_is_told_without_the_dead(services: Services) -> None:
    await services.mailer.drain()
    before, now = await services.outbox.backlog(), utc_now()
    old, later = now - timedelta(days=9), now + timedelta(days=1)
    values: dict[str, Any] = {
        "lane": secrets.token_hex(16),
        "template": "code",
        "account_id": None,
        "sealed": b"",
        "created_at": old,
        "next_try_at": later,
        "leased_until": None,
        "tries": 1,
        "reason": None,
    }
    async with services.database.begin() as transaction:
        transaction.add_all([OutboxRow(**values, dead_at=None), OutboxRow(**values, dead_at=now)])
    after = await services.outbox.backlog()
    async with services.database.begin() as transaction:
        await transaction.execute(delete(OutboxRow).where(OutboxRow.lane == values["lane"]))
    assert (after.waiting - before.waiting, after.dead - before.dead, after.oldest) == (1, 1, old)


async def test_a_look_tells_of_stores_keys_and_clocks(services: Services) -> None:
    await services.vitals.look()
    page = Page.now()
    ups = ("redis_up", "postgres_up", "schema_current", "signing_key_active")
    assert [page.value(f"vestibule_{name}") for name in ups] == [1, 1, 1, 1]
    assert page.value("vestibule_postgres_pool", state="size") == services.settings.database_pool
    assert page.value("vestibule_signing_key_turn_seconds") == float("inf")  # these tests turn keys by hand
    assert page.value("vestibule_clock_skew_seconds", store="postgres") < 60
    for name in ("redis_round_trip_seconds", "postgres_check_seconds", "signing_key_age_seconds"):
        assert page.value(f"vestibule_{name}") > 0


async def test_who_waits_for_a_connection_is_told(environ: dict[str, str]) -> None:
    services = build(load({**environ, "VESTIBULE_DATABASE_POOL": "1"}), mail=lambda _: NoTransport())
    async with services.database.begin() as transaction:
        await transaction.execute(text("SELECT 1"))
        second = asyncio.create_task(services.database.ping())
        async with asyncio.timeout(10):
            while not services.database.pool.waiting:  # noqa: ASYNC110  a pool has no event for it
                await asyncio.sleep(0)
        assert services.database.pool == PoolState(size=1, in_use=1, waiting=1)
    await second
    assert services.database.pool == PoolState(size=1, in_use=0, waiting=0)
    await services.close()


async def test_a_turn_of_keys_is_awaited_as_long_as_the_settings_say(services: Services) -> None:
    keys, now = services.signing_keys, services.clock()
    due = msgspec.structs.replace(services.settings, key_rotation=timedelta(days=90))
    active = keys.keyring.current(now)
    assert active is not None
    assert active.activates_at is not None
    by_themselves = type(keys)(keys.database, keys.roots, due, keys.clock, keys.announce, keyring=keys.keyring)
    assert by_themselves.next_turn(now) == active.activates_at + timedelta(days=90)
    assert keys.next_turn(now) is None


# What is not there


async def test_names_and_labels_are_these_and_values_are_ours(
    app: Litestar, http: httpx.AsyncClient, person: Person, introspector: Introspector
) -> None:
    await introspector.ask(http, person.access_token)
    await sign_in(http, person)
    await sign_in(http, person, password=WRONG)
    page = Page.now()
    for name, family in page.families.items():
        labels = {label for one in family.samples for label in one.labels}
        assert labels <= set(LABELS.get(name, "").split()), name
        assert re.fullmatch(r"vestibule_[a-z_]+", name)
    ours = {route.path_format for route in app.routes} | {"<unmatched>", PREFLIGHT, "/dev/mailbox"}
    assert {dict(one)["route"] for one in page.labels("vestibule_requests")} <= ours
    secret = (person.email, person.nickname, person.password, person.access_token, person.refresh_token)
    for told in (*secret, introspector.client_id, introspector.secret, "@", "eyJ", "vrt_", "2001:db8"):
        assert told not in page.text


async def test_what_strangers_make_up_makes_no_labels(http: httpx.AsyncClient) -> None:
    async def ask(method: str) -> None:
        headers = {"User-Agent": secrets.token_hex(), "X-Request-ID": secrets.token_hex()}
        await http.request(method, f"/{secrets.token_hex()}/{secrets.token_hex()}", headers=headers)

    for method in ("GET", "BREW"):
        await ask(method)
    before = Page.now()
    for method in ("GET", "BREW", "GET", "WHEN"):
        await ask(method)
    after = Page.now()
    assert after.labels("vestibule_requests") == before.labels("vestibule_requests")
    assert after.labels("vestibule_request_seconds") == before.labels("vestibule_request_seconds")
    unmatched = {"route": "<unmatched>", "method": metrics.OTHER_METHOD}
    grown = [page.value("vestibule_requests_total", **unmatched) for page in (before, after)]
    assert grown[1] - grown[0] == 2


# While nothing answers


@pytest.fixture
def nobody() -> Iterator[int]:
    """A port at which everybody is let in and nobody ever answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=100) as silent:
        yield silent.getsockname()[1]


@pytest.fixture
async def hung(environ: dict[str, str], nobody: int) -> AsyncIterator[Services]:
    """A service whose stores hang, with far more patience than a scrape has."""
    stores = {
        "DATABASE_URL": f"postgresql://a:b@127.0.0.1:{nobody}/c",
        "REDIS_URL": f"redis://127.0.0.1:{nobody}",
        "VESTIBULE_METRICS_HOST": "127.0.0.1",
        "VESTIBULE_METRICS_PORT": str(free_port()),
    }
    services = build(load({**environ, **stores}), mail=lambda _: NoTransport())
    yield services
    await services.close()


async def test_a_scrape_does_not_wait_for_stores_that_hang(hung: Services) -> None:
    with metrics_served(hung.settings, workers=1):
        looking = asyncio.create_task(hung.vitals.look())
        async with httpx.AsyncClient() as prometheus:
            answer = await prometheus.get(f"http://127.0.0.1:{hung.settings.metrics_port}/metrics")
        assert not looking.done()
        await looking
    assert answer.status_code == 200
    assert Page(answer.text).value("vestibule_build_info") == 1
