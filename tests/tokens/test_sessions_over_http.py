"""A person ends the sessions that are not theirs, after the password was given just now (ASVS 7.5.2)."""

import asyncio
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from service.wiring import Services
from tests.conftest import Introspector, Outbox, Person, TestClock, sign_up
from tests.tokens.acting import (
    account_behind,
    account_of,
    admitted,
    bearer,
    ended,
    is_active,
    listed,
    opens_me,
    reauthenticated,
    refresh,
    refused,
    renewed,
    row_of,
    session_of,
    signed_in,
)

FRESH = 300


class TestEnding:
    @pytest.fixture
    async def other(self, http: httpx.AsyncClient, person: Person) -> dict[str, Any]:
        """A second session of the same person."""
        return await signed_in(http, person)

    @pytest.fixture
    def doors(
        self, http: httpx.AsyncClient, http_of_second_worker: httpx.AsyncClient
    ) -> tuple[httpx.AsyncClient, httpx.AsyncClient]:
        """Two workers over the same stores."""
        return http, http_of_second_worker

    @pytest.mark.standard("SE-15", "SE-20", "SE-31")
    async def test_one_that_is_ended_is_dead_at_once_everywhere(
        self,
        doors: tuple[httpx.AsyncClient, httpx.AsyncClient],
        services: Services,
        introspector: Introspector,
        person: Person,
        other: dict[str, Any],
    ) -> None:
        http, http_of_second_worker = doors
        assert await is_active(http_of_second_worker, introspector, other["access_token"])
        assert await ended(http, person.access_token, session_of(other["access_token"])) == 204
        for each in (http_of_second_worker, http):
            assert not await is_active(each, introspector, other["access_token"])
            assert not await opens_me(each, other["access_token"])
            await refused(each, other["refresh_token"])
        assert [each["current"] for each in await listed(http, person.access_token)] == [True]
        assert await ended(http, person.access_token, session_of(other["access_token"])) == 404
        row = await row_of(services, session_of(other["access_token"]))
        assert (row.ended_reason, row.ended_at is not None) == ("ended", True)
        await renewed(http, person.refresh_token)

    @pytest.mark.standard("SE-15", "SE-20")
    async def test_all_others_are_dead_at_once_everywhere_and_this_one_lives(
        self,
        doors: tuple[httpx.AsyncClient, httpx.AsyncClient],
        services: Services,
        introspector: Introspector,
        person: Person,
        other: dict[str, Any],
    ) -> None:
        http, http_of_second_worker = doors
        third = await renewed(http, (await signed_in(http, person))["refresh_token"])
        assert await ended(http, other["access_token"]) == 204
        gone = (person.access_token, person.refresh_token), (third["access_token"], third["refresh_token"])
        for access_token, refresh_token in gone:
            assert not await is_active(http_of_second_worker, introspector, access_token)
            await refused(http_of_second_worker, refresh_token)
            assert (await row_of(services, session_of(access_token))).ended_reason == "ended"
        assert await is_active(http_of_second_worker, introspector, other["access_token"])
        assert (await row_of(services, session_of(other["access_token"]))).ended_at is None
        await renewed(http, other["refresh_token"])
        # Once more is no mistake.
        assert await ended(http, other["access_token"]) == 204

    @pytest.mark.standard("SE-20")
    async def test_the_current_one_can_be_ended_too_and_however_long_ago_the_password_was_given(
        self, http: httpx.AsyncClient, person: Person, clock: TestClock
    ) -> None:
        await clock.advance(seconds=FRESH + 100)
        assert await ended(http, person.access_token, session_of(person.access_token)) == 204
        assert not await opens_me(http, person.access_token)
        await refused(http, person.refresh_token)

    @pytest.mark.standard("SE-20")
    async def test_other_peoples_sessions_and_unknown_ones_are_not_found_alike(
        self,
        http: httpx.AsyncClient,
        services: Services,
        outbox: Outbox,
        introspector: Introspector,
        person: Person,
    ) -> None:
        stranger = await sign_up(http, services, outbox)
        answers = [
            await http.delete(f"/me/sessions/{session}", headers=stranger.headers)
            for session in (session_of(person.access_token), uuid4(), UUID(int=0), account_of(person.access_token))
        ]
        assert [answer.status_code for answer in answers] == [404] * 4
        assert len({answer.json()["code"] for answer in answers}) == 1
        assert (await http.delete("/me/sessions/w", headers=stranger.headers)).status_code == 404
        assert await is_active(http, introspector, person.access_token)
        assert (await row_of(services, session_of(person.access_token))).ended_at is None

    @pytest.mark.standard("SE-19", "SE-20")
    async def test_who_gave_the_password_long_ago_is_asked_for_it_again(
        self, http: httpx.AsyncClient, person: Person, other: dict[str, Any], clock: TestClock
    ) -> None:
        await clock.advance(seconds=FRESH + 1)
        stale = await renewed(http, person.refresh_token)
        victim = session_of(other["access_token"])
        for path in ("/me/sessions", f"/me/sessions/{victim}", f"/me/sessions/{uuid4()}"):
            answer = await http.delete(path, headers=bearer(stale["access_token"]))
            assert (answer.status_code, answer.json()["code"]) == (401, "insufficient_user_authentication")
            challenge = answer.headers["www-authenticate"]
            assert challenge.startswith("Bearer ")
            assert 'error="insufficient_user_authentication"' in challenge
            assert f"max_age={FRESH}" in challenge
        assert len(await listed(http, stale["access_token"])) == 2

        fresh = await reauthenticated(http, person, stale["access_token"])
        # The token of before says what it said: only the new one is fresh.
        assert await ended(http, stale["access_token"], victim) == 401
        assert await ended(http, fresh["access_token"], victim) == 204
        assert await ended(http, fresh["access_token"]) == 204
        await refused(http, other["refresh_token"])

    @pytest.mark.standard("SE-19")
    async def test_fresh_is_five_minutes_and_no_more(
        self, http: httpx.AsyncClient, person: Person, clock: TestClock
    ) -> None:
        await clock.advance(seconds=FRESH - 30)
        assert await ended(http, person.access_token) == 204
        await clock.advance(seconds=32)
        assert await ended(http, person.access_token) == 401

    @pytest.mark.standard("SE-20", "SE-29", "SE-31")
    async def test_thirty_races_with_refresh_leave_the_kept_one_alone(
        self,
        http: httpx.AsyncClient,
        http_of_second_worker: httpx.AsyncClient,
        services: Services,
        introspector: Introspector,
        person: Person,
    ) -> None:
        account = await account_behind(services, person)
        for number in range(30):
            grants = [await admitted(services, account) for _ in range(2)]
            refreshing = [
                asyncio.create_task(refresh(each, grant.refresh_token))
                for grant in grants
                for each in (http, http_of_second_worker)
            ]
            for _ in range(number):
                await asyncio.sleep(0)
            assert await ended(http_of_second_worker, person.access_token) == 204
            answers = [await refresh(http, grant.refresh_token) for grant in grants]
            assert {answer.status_code for answer in answers} == {401}
            for answer in await asyncio.gather(*refreshing):
                assert answer.status_code in {200, 401}
                if answer.status_code == 200:
                    assert not await is_active(http, introspector, answer.json()["access_token"])
                    await refused(http_of_second_worker, answer.json()["refresh_token"])
            assert [each["current"] for each in await listed(http, person.access_token)] == [True]
            rows = [await row_of(services, session_of(grant.access_token)) for grant in grants]
            assert [row.ended_reason for row in rows] == ["ended"] * 2
        await renewed(http, person.refresh_token)
