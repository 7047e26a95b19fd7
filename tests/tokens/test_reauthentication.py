"""Giving the password again: the same session with a new `auth_time`, both timeouts anew, and its next token."""

import asyncio
from typing import Any

import httpx
import pytest

from service.wiring import Services
from tests.conftest import Introspector, Person, TestClock
from tests.tokens.acting import (
    BROWSER,
    account_of,
    asked_again,
    bearer,
    claims_of,
    ended,
    is_active,
    opens_me,
    reauthenticated,
    refresh,
    refused,
    renewed,
    row_of,
    session_of,
    signed_in,
)

DAYS = 86_400
FRESH = 300
GRACE = 10
LOST_ANSWER = 3600
WRONG = "not the one of this account"


def code_of(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]


class TestWhatItGives:
    @pytest.mark.standard("SE-07", "SE-14", "SE-19")
    async def test_it_is_the_same_session_with_a_new_time_and_new_tokens(
        self, http: httpx.AsyncClient, introspector: Introspector, person: Person, clock: TestClock
    ) -> None:
        before = claims_of(person.access_token)
        await clock.advance(minutes=6)
        tokens = await reauthenticated(http, person, person.access_token)
        after = claims_of(tokens["access_token"])

        kept = ("sid", "sub", "scope", "aud", "iss", "client_id", "roles")
        assert {name: after[name] for name in kept} == {name: before[name] for name in kept}
        assert after["auth_time"] - before["auth_time"] >= 360
        assert abs(after["auth_time"] - clock().timestamp()) < 30
        # A mailed code opened the session; the password raised what it stands for.
        assert (before["amr"], after["amr"]) == (["email"], ["pwd"])
        assert tokens["token_type"] == "Bearer"
        assert tokens["refresh_token"] != person.refresh_token
        told = await introspector.ask(http, tokens["access_token"])
        assert (told["auth_time"], told["amr"]) == (after["auth_time"], ["pwd"])
        # What was issued before says what it said.
        told = await introspector.ask(http, person.access_token)
        assert (told["auth_time"], told["amr"]) == (before["auth_time"], ["email"])

    @pytest.mark.standard("SE-14", "SE-19")
    async def test_refresh_afterwards_keeps_the_time_and_makes_nothing_fresh(
        self, http: httpx.AsyncClient, person: Person, clock: TestClock
    ) -> None:
        await clock.advance(minutes=6)
        tokens = await reauthenticated(http, person, person.access_token)
        first = claims_of(tokens["access_token"])
        for _ in range(3):
            await clock.advance(minutes=2)
            tokens = await renewed(http, tokens["refresh_token"])
            again = claims_of(tokens["access_token"])
            assert (again["auth_time"], again["amr"]) == (first["auth_time"], ["pwd"])
        assert await ended(http, tokens["access_token"]) == 401
        tokens = await reauthenticated(http, person, tokens["access_token"])
        assert await ended(http, tokens["access_token"]) == 204

    @pytest.mark.standard("SE-19")
    async def test_it_opens_what_is_dangerous_for_five_minutes(
        self, http: httpx.AsyncClient, person: Person, clock: TestClock
    ) -> None:
        await clock.advance(seconds=FRESH + 1)
        answer = await http.delete("/me", headers=person.headers)
        assert code_of(answer) == (401, "insufficient_user_authentication")
        assert f"max_age={FRESH}" in answer.headers["www-authenticate"]
        tokens = await reauthenticated(http, person, person.access_token)
        await clock.advance(seconds=FRESH - 30)
        assert (await http.delete("/me", headers=bearer(tokens["access_token"]))).status_code == 204

    @pytest.mark.standard("SE-08", "SE-13")
    async def test_the_idle_time_begins_anew(self, http: httpx.AsyncClient, person: Person, clock: TestClock) -> None:
        other = await signed_in(http, person)
        await clock.advance(seconds=FRESH)
        tokens = await reauthenticated(http, person, person.access_token)
        await clock.advance(seconds=14 * DAYS - FRESH)
        await refused(http, other["refresh_token"])
        await renewed(http, tokens["refresh_token"])

    @pytest.mark.standard("SE-09", "SE-13", "SE-25")
    async def test_the_absolute_end_moves_in_both_stores(
        self, http: httpx.AsyncClient, services: Services, person: Person, clock: TestClock
    ) -> None:
        first_end = (await row_of(services, session_of(person.access_token))).expires_at
        tokens = {"access_token": person.access_token, "refresh_token": person.refresh_token}
        for _ in range(2):
            await clock.advance(days=12)
            tokens = await renewed(http, tokens["refresh_token"])
        tokens = await reauthenticated(http, person, tokens["access_token"])
        end = (await row_of(services, session_of(person.access_token))).expires_at
        assert (end - first_end).days == 24
        assert abs(end.timestamp() - clock().timestamp() - 30 * DAYS) < 60
        for days in (12, 12, 5):
            await clock.advance(days=days)
            tokens = await renewed(http, tokens["refresh_token"])
        await clock.advance(days=1)
        await refused(http, tokens["refresh_token"])

    @pytest.mark.standard("SE-07")
    async def test_the_token_before_it_ends_once_the_new_one_was_seen(
        self, http: httpx.AsyncClient, services: Services, person: Person, clock: TestClock
    ) -> None:
        tokens = await reauthenticated(http, person, person.access_token)
        assert await opens_me(http, tokens["access_token"])
        await clock.advance(seconds=GRACE + 1)
        await refused(http, person.refresh_token)
        await refused(http, tokens["refresh_token"])
        assert (await row_of(services, session_of(person.access_token))).ended_reason == "reused"


class TestTheCookie:
    @pytest.mark.standard("SE-07")
    async def test_the_next_token_takes_the_place_of_the_cookie_and_shows_nowhere_else(
        self, http: httpx.AsyncClient, person: Person
    ) -> None:
        login = await http.post("/auth/login", json=person.credentials(transport="cookie"), headers=BROWSER)
        token = login.json()["access_token"]
        name = "__Host-vestibule-refresh"
        old = login.cookies[name]
        answer = await http.post(
            "/auth/reauthenticate",
            json={"password": person.password, "transport": "cookie"},
            headers={**BROWSER, **bearer(token)},
        )
        assert answer.status_code == 200
        assert "refresh_token" not in answer.json()
        (line,) = [each for each in answer.headers.get_list("set-cookie") if each.startswith(name)]
        value = line.partition(";")[0].partition("=")[2]
        assert value.startswith("vrt_")
        assert value != old
        assert value not in answer.text
        for attribute in ("Path=/", "Secure", "HttpOnly", "SameSite=strict"):
            assert attribute.lower() in line.lower()
        assert (answer.headers["cache-control"], answer.headers["pragma"]) == ("no-store", "no-cache")
        headers = {**BROWSER, "Cookie": f"{name}={value}"}
        http.cookies.clear()
        assert (await http.post("/auth/refresh", json={}, headers=headers)).status_code == 200

    @pytest.mark.parametrize("headers", [{}, {**BROWSER, "Origin": "https://evil.example"}], ids=["none", "foreign"])
    async def test_no_other_site_gets_a_cookie_set(
        self, http: httpx.AsyncClient, person: Person, headers: dict[str, str]
    ) -> None:
        body = {"password": person.password, "transport": "cookie"}
        headers = {**headers, **person.headers}
        answer = await http.post("/auth/reauthenticate", json=body, headers=headers)
        assert code_of(answer) == (403, "cross_site_refused")
        assert "set-cookie" not in answer.headers
        # And nothing has changed: the token is still the current one.
        assert claims_of((await renewed(http, person.refresh_token))["access_token"])["jti"].startswith("1.")


class TestWhoIsRefused:
    @pytest.mark.standard("SE-14", "SE-19")
    async def test_a_wrong_password_changes_nothing(
        self, http: httpx.AsyncClient, person: Person, clock: TestClock
    ) -> None:
        await clock.advance(seconds=FRESH + 1)
        answer = await asked_again(http, person, person.access_token, password=WRONG)
        assert code_of(answer) == (401, "invalid_credentials")
        assert answer.headers["www-authenticate"].startswith("Bearer ")
        tokens = await renewed(http, person.refresh_token)
        claims = claims_of(tokens["access_token"])
        assert claims["jti"].startswith("1.")
        assert (claims["auth_time"], claims["amr"]) == (claims_of(person.access_token)["auth_time"], ["email"])
        assert await ended(http, tokens["access_token"]) == 401

    @pytest.mark.standard("SE-19")
    async def test_wrong_passwords_are_counted(self, http: httpx.AsyncClient, person: Person) -> None:
        answers = [await asked_again(http, person, person.access_token, password=WRONG) for _ in range(12)]
        assert [answer.status_code for answer in answers] == [401] * 10 + [429] * 2
        assert int(answers[-1].headers["retry-after"]) > 0
        # The right one does not help any more.
        assert (await asked_again(http, person, person.access_token)).status_code == 429

    async def test_a_right_password_forgives_the_wrong_ones(self, http: httpx.AsyncClient, person: Person) -> None:
        token = person.access_token
        for _ in range(3):
            for _ in range(7):
                assert (await asked_again(http, person, token, password=WRONG)).status_code == 401
            token = (await reauthenticated(http, person, token))["access_token"]

    @pytest.mark.standard("SE-15")
    async def test_an_ended_session_does_not_begin_anew(
        self, http: httpx.AsyncClient, http_of_second_worker: httpx.AsyncClient, person: Person
    ) -> None:
        await http.post("/auth/logout", json={"refresh_token": person.refresh_token})
        for each in (http, http_of_second_worker):
            answer = await asked_again(each, person, person.access_token)
            assert code_of(answer) == (401, "invalid_token")
            assert 'error="invalid_token"' in answer.headers["www-authenticate"]
        await refused(http, person.refresh_token)

    @pytest.mark.standard("SE-15", "SE-16")
    async def test_a_session_that_ends_during_the_hash_does_not_begin_anew(
        self, http: httpx.AsyncClient, services: Services, person: Person
    ) -> None:
        for number in range(8):
            tokens = await signed_in(http, person)
            asking = asyncio.create_task(asked_again(http, person, tokens["access_token"]))
            await asyncio.sleep(number * 0.004)
            await http.post("/auth/logout", json={"refresh_token": tokens["refresh_token"]})
            answer = await asking
            if answer.status_code == 200:
                tokens = answer.json()
                assert not await opens_me(http, tokens["access_token"])
            else:
                assert code_of(answer) == (401, "invalid_token")
            await refused(http, tokens["refresh_token"])

    @pytest.mark.standard("SE-16")
    async def test_nobody_gets_a_token_for_a_disabled_account(
        self, http: httpx.AsyncClient, services: Services, person: Person
    ) -> None:
        await services.administration.disable(account_of(person.access_token))
        assert code_of(await asked_again(http, person, person.access_token)) == (401, "invalid_token")

    async def test_the_password_alone_is_not_enough(self, http: httpx.AsyncClient, person: Person) -> None:
        body = {"password": person.password}
        assert code_of(await http.post("/auth/reauthenticate", json=body)) == (401, "unauthenticated")
        answer = await http.post("/auth/reauthenticate", json=body, headers=bearer(person.refresh_token))
        assert code_of(answer) == (401, "invalid_token")
        for odd in ({}, {"password": 1}, {**body, "email": person.email}, {"password": "a\0b"}):
            answer = await http.post("/auth/reauthenticate", json=odd, headers=person.headers)
            assert answer.status_code == 400


class TestTogetherWithRefresh:
    """Other tabs go on with what they have: none of them is taken for a thief."""

    @pytest.mark.standard("SE-29", "SE-33")
    @pytest.mark.parametrize("later", [0, GRACE + 1, LOST_ANSWER - 30])
    async def test_a_lost_answer_heals(
        self, http: httpx.AsyncClient, services: Services, person: Person, clock: TestClock, later: float
    ) -> None:
        """The client has the token of before, and gets the successor that it never saw."""
        lost = await reauthenticated(http, person, person.access_token)
        await clock.advance(seconds=later)
        tokens = await renewed(http, person.refresh_token)
        assert tokens["refresh_token"] == lost["refresh_token"]
        await renewed(http, tokens["refresh_token"])
        assert (await row_of(services, session_of(person.access_token))).ended_at is None

    @pytest.mark.standard("SE-29", "SE-33")
    async def test_giving_the_password_again_after_a_lost_answer_heals_too(
        self, http: httpx.AsyncClient, person: Person, clock: TestClock
    ) -> None:
        await reauthenticated(http, person, person.access_token)
        await clock.advance(seconds=GRACE + 1)
        tokens = await reauthenticated(http, person, person.access_token)
        assert await opens_me(http, tokens["access_token"])
        await clock.advance(seconds=GRACE + 1)
        await renewed(http, tokens["refresh_token"])

    @pytest.mark.standard("SE-29", "SE-33")
    async def test_two_tabs_at_once_sign_nobody_out(
        self, http: httpx.AsyncClient, http_of_second_worker: httpx.AsyncClient, services: Services, person: Person
    ) -> None:
        tokens: dict[str, Any] = await signed_in(http, person)
        for number in range(15):
            asking = asyncio.create_task(asked_again(http, person, tokens["access_token"]))
            await asyncio.sleep(number * 0.003)
            refreshed = await refresh(http_of_second_worker, tokens["refresh_token"])
            anew = await asking
            assert (refreshed.status_code, anew.status_code) == (200, 200)
            for each in (refreshed.json(), anew.json()):
                assert await opens_me(http, each["access_token"])
            following = [await refresh(http, each.json()["refresh_token"]) for each in (refreshed, anew)]
            assert [answer.status_code for answer in following] == [200, 200]
            tokens = following[1].json()
        assert (await row_of(services, session_of(tokens["access_token"]))).ended_at is None

    @pytest.mark.standard("SE-29", "SE-33")
    async def test_a_double_click_does_not_sign_out_the_tab_that_refreshes_next(
        self, http: httpx.AsyncClient, services: Services, person: Person
    ) -> None:
        """Both clicks carry the same access token; the other tab has the refresh token of that time."""
        clicks = await asyncio.gather(*(reauthenticated(http, person, person.access_token) for _ in range(2)))
        await renewed(http, person.refresh_token)
        for each in clicks:
            assert await opens_me(http, each["access_token"])
            await renewed(http, each["refresh_token"])
        assert (await row_of(services, session_of(person.access_token))).ended_at is None

    @pytest.mark.standard("SE-29", "SE-33")
    async def test_a_refresh_whose_answer_was_lost_can_be_repeated_although_the_password_came_between(
        self, http: httpx.AsyncClient, services: Services, person: Person
    ) -> None:
        """Two tabs share a session: one lost an answer and retries, the other gave the password meanwhile."""
        await renewed(http, person.refresh_token)
        tokens = await reauthenticated(http, person, person.access_token)
        await renewed(http, person.refresh_token)
        await renewed(http, tokens["refresh_token"])
        assert (await row_of(services, session_of(person.access_token))).ended_at is None

    @pytest.mark.standard("SE-22")
    async def test_a_token_of_long_ago_still_ends_the_session(
        self, http: httpx.AsyncClient, introspector: Introspector, person: Person, clock: TestClock
    ) -> None:
        older = await renewed(http, person.refresh_token)
        assert await is_active(http, introspector, older["access_token"])
        await clock.advance(seconds=GRACE + 1)
        tokens = await reauthenticated(http, person, older["access_token"])
        assert await is_active(http, introspector, tokens["access_token"])
        await refused(http, person.refresh_token)
        assert not await is_active(http, introspector, tokens["access_token"])
        await refused(http, tokens["refresh_token"])
