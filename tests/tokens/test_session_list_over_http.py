"""A person sees where they are signed in (ASVS 7.5.2)."""

import asyncio
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import httpx
import msgspec
import pytest
from redis.asyncio import Redis

from service.app import create_app
from service.settings import Settings
from service.wiring import Services
from tests.conftest import ISSUER, Introspector, Outbox, Person, TestClock, new_address, sign_up, worker
from tests.tokens.acting import (
    account_of,
    is_active,
    listed,
    opens_me,
    record_key,
    refused,
    renewed,
    row_of,
    session_of,
    signed_in,
)

FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"
FIELDS = {
    "id",
    "device",
    "place",
    "address",
    "client_id",
    "first_seen_at",
    "last_seen_at",
    "expires_at",
    "current",
}


class TestTheList:
    @pytest.mark.standard("SE-20")
    async def test_each_session_is_shown_with_device_address_and_times_and_one_is_the_current_one(
        self, http: httpx.AsyncClient, http_of_second_worker: httpx.AsyncClient, person: Person, clock: TestClock
    ) -> None:
        await clock.advance(minutes=5)
        http_of_second_worker.headers["User-Agent"] = FIREFOX
        second = await signed_in(http_of_second_worker, person)

        for token, other in ((second["access_token"], person.access_token), (person.access_token, "")):
            shown = await listed(http, token)
            assert [set(each) for each in shown] == [FIELDS] * 2
            assert [UUID(each["id"]) for each in shown if each["current"]] == [session_of(token)]
            assert other == "" or UUID(shown[1]["id"]) == session_of(other)
        of_second = next(each for each in shown if UUID(each["id"]) == session_of(second["access_token"]))
        assert of_second["device"] == "Firefox, Linux"
        assert of_second["address"].startswith("2001:db8:")
        assert of_second["client_id"] == "web"
        assert of_second["address"] not in {each["address"] for each in shown if each is not of_second}

    @pytest.mark.standard("SE-20")
    async def test_times_are_utc_with_offset_and_in_their_order(
        self, http: httpx.AsyncClient, person: Person, clock: TestClock
    ) -> None:
        (shown,) = await listed(http, person.access_token)
        first, last, end = (
            datetime.fromisoformat(shown[f"{name}_at"]) for name in ("first_seen", "last_seen", "expires")
        )
        assert {moment.utcoffset() for moment in (first, last, end)} == {timedelta(0)}
        assert first <= last <= clock() <= end
        assert abs(end - first - timedelta(days=30)) < timedelta(seconds=1)

    @pytest.mark.standard("SE-20")
    async def test_the_one_used_last_comes_first(
        self, http: httpx.AsyncClient, person: Person, clock: TestClock
    ) -> None:
        tokens = [person.refresh_token]
        for _ in range(2):
            await clock.advance(minutes=2)
            tokens.append((await signed_in(http, person))["refresh_token"])
        await clock.advance(minutes=2)
        used_last = await renewed(http, tokens[1])
        shown = await listed(http, used_last["access_token"])
        moments = [datetime.fromisoformat(each["last_seen_at"]) for each in shown]
        assert moments == sorted(moments, reverse=True)
        assert [each["current"] for each in shown] == [True, False, False]

    @pytest.mark.standard("SE-20", "SE-27")
    async def test_no_token_and_no_part_of_one_is_shown(
        self, http: httpx.AsyncClient, services: Services, person: Person
    ) -> None:
        await signed_in(http, person)
        answer = await http.get("/me/sessions", headers=person.headers)
        assert answer.headers["cache-control"] == "no-store"
        token = services.sessions.refresh_tokens.read(person.refresh_token)
        row = await row_of(services, session_of(person.access_token))
        assert token is not None
        secret = (person.refresh_token, person.access_token, token.secret_id.hex(), str(UUID(bytes=token.secret_id)))
        for value in (*secret, row.salt.hex(), "vrt_", "eyJ", "salt", "token"):
            assert value not in answer.text

    async def test_ended_and_expired_sessions_are_not_shown(
        self, http: httpx.AsyncClient, person: Person, clock: TestClock
    ) -> None:
        out = await signed_in(http, person)
        await http.post("/auth/logout", json={"refresh_token": out["refresh_token"]})
        assert len(await listed(http, person.access_token)) == 1
        await clock.advance(days=13)
        kept = await renewed(http, person.refresh_token)
        await signed_in(http, person)
        await clock.advance(days=2)
        kept = await renewed(http, kept["refresh_token"])
        assert len(await listed(http, kept["access_token"])) == 2
        await clock.advance(days=13)
        kept = await renewed(http, kept["refresh_token"])
        assert [each["current"] for each in await listed(http, kept["access_token"])] == [True]

    @pytest.mark.standard("SE-20")
    async def test_nobody_sees_the_sessions_of_somebody_else(
        self, http: httpx.AsyncClient, services: Services, outbox: Outbox, person: Person
    ) -> None:
        other = await sign_up(http, services, outbox)
        shown = {each["id"] for each in await listed(http, other.access_token)}
        assert shown == {str(session_of(other.access_token))}
        assert (await http.get("/me/sessions")).status_code == 401

    @pytest.mark.standard("SE-20")
    @pytest.mark.parametrize(("port", "place"), [(0, "Busan, KR"), (40_000, "")], ids=["proxy", "anybody"])
    async def test_the_place_is_the_one_that_a_trusted_proxy_names(
        self, settings: Settings, wall_clock: TestClock, outbox: Outbox, *, port: int, place: str
    ) -> None:
        """The server puts port 0 where it took the address from a trusted proxy; anybody can send a header."""
        behind = msgspec.structs.replace(settings, trusted_proxies=("2001:db8::/32",), place_header="X-Place")
        async with worker(behind, wall_clock, outbox) as services:
            app: Any = create_app(services)
            transport = httpx.ASGITransport(app=app, client=(new_address(), port))
            async with httpx.AsyncClient(transport=transport, base_url=ISSUER) as http:
                http.headers["X-Place"] = "Busan, KR"
                person = await sign_up(http, services, outbox)
                (shown,) = await listed(http, person.access_token)
        assert shown["place"] == place


class TestUse:
    """`last_seen_at` is good to a minute, and costs no write at each request."""

    @pytest.mark.standard("SE-08", "SE-20")
    async def test_last_seen_follows_use_without_a_write_per_request(
        self, http: httpx.AsyncClient, introspector: Introspector, redis: Redis, person: Person, clock: TestClock
    ) -> None:
        key, session = record_key(account_of(person.access_token)), session_of(person.access_token)
        records, start = set(), clock()
        for number in range(40):
            await clock.advance(seconds=10)
            assert await opens_me(http, person.access_token)
            if number % 2:
                assert await is_active(http, introspector, person.access_token)
            records.add(await redis.hget(key, session.bytes))
            (shown,) = await listed(http, person.access_token)
            behind = clock() - datetime.fromisoformat(shown["last_seen_at"])
            assert timedelta(seconds=-1) < behind < timedelta(seconds=75)
        # What was there at the start, and a write each minute at most.
        assert 6 <= len(records) <= (clock() - start) // timedelta(minutes=1) + 2

    async def test_the_server_counts_no_write_for_a_hundred_requests_at_once(
        self, http: httpx.AsyncClient, introspector: Introspector, redis: Redis, person: Person
    ) -> None:
        key, session = record_key(account_of(person.access_token)), session_of(person.access_token)
        assert await opens_me(http, person.access_token)
        before = await redis.hget(key, session.bytes)
        alive = await asyncio.gather(*(is_active(http, introspector, person.access_token) for _ in range(100)))
        assert all(alive)
        assert await redis.hget(key, session.bytes) == before

    @pytest.mark.standard("SE-08")
    async def test_being_seen_moves_no_end(self, http: httpx.AsyncClient, person: Person, clock: TestClock) -> None:
        (before,) = await listed(http, person.access_token)
        await clock.advance(minutes=8)
        (after,) = await listed(http, person.access_token)
        assert after["last_seen_at"] > before["last_seen_at"]
        assert (after["expires_at"], after["first_seen_at"]) == (before["expires_at"], before["first_seen_at"])
        await clock.advance(seconds=14 * 86_400 - 8 * 60)
        await refused(http, person.refresh_token)
