"""Refresh over HTTP, from the first token to the end of the session: retries, races, replays, lifetimes, forgeries."""

import asyncio
import base64
import itertools
import secrets
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import cast
from uuid import UUID, uuid4

import httpx
import msgspec
import pytest
from redis.asyncio import Redis
from sqlalchemy import select, update

from service.accounts.models import Account
from service.app import create_app
from service.crypto import opaque
from service.crypto.roots import RootKeys
from service.errors import AccountDisabled, SessionExpired
from service.settings import Settings
from service.store.redis import RedisStore
from service.tokens.journal import EndReason, Journal, SessionRow
from service.tokens.refresh import BODY, MAC_BYTES, PREFIX, RefreshTokens
from service.tokens.session_facts import Grant
from service.tokens.transport import COOKIE
from service.wiring import Services
from tests.conftest import (
    PASSWORD,
    Introspector,
    Outbox,
    Person,
    TestClock,
    begin_sign_up,
    browser,
    root_key,
    shifted,
    sign_up,
    somebody,
    worker,
)
from tests.deeds import registered
from tests.tokens.acting import (
    BROWSER,
    account_behind,
    account_of,
    admitted,
    any_is_live,
    claims_of,
    events_of,
    is_active,
    opens_me,
    record_key,
    refresh,
    refused,
    renewed,
    row_of,
    session_of,
    signed_in,
)

DAYS = 86_400
GRACE = 10
LOST_ANSWER = 3600


@pytest.fixture
def both(http: httpx.AsyncClient, http_of_second_worker: httpx.AsyncClient) -> tuple[httpx.AsyncClient, ...]:
    """Clients of two workers over the same stores."""
    return http, http_of_second_worker


class TestRetriesAndRaces:
    """A retry is no theft: it gets the same successor, however many ask and whichever worker answers."""

    @pytest.mark.standard("SE-29")
    async def test_fifty_at_once_get_the_same_successor_and_leave_one_lineage(
        self,
        http: httpx.AsyncClient,
        http_of_second_worker: httpx.AsyncClient,
        services: Services,
        second_worker: Services,
        person: Person,
    ) -> None:
        browsers = itertools.cycle((http, http_of_second_worker))
        answers = await asyncio.gather(
            *(refresh(each, person.refresh_token) for each in itertools.islice(browsers, 50))
        )

        assert {answer.status_code for answer in answers} == {200}
        successors = {answer.json()["refresh_token"] for answer in answers}
        assert len(successors) == 1
        session = session_of(person.access_token)
        outcomes = await events_of(session, services, second_worker, least=49)
        assert outcomes == {"repeated": 49}
        # One lineage: the next generation is the second one, for everybody.
        following = await asyncio.gather(*(renewed(http, token) for token in successors for _ in range(5)))
        assert len({answer["refresh_token"] for answer in following}) == 1
        assert claims_of(following[0]["access_token"])["jti"].startswith("2.")

    @pytest.mark.standard("SE-29")
    async def test_fifty_at_once_on_one_worker_get_the_same_successor(
        self, http: httpx.AsyncClient, services: Services, person: Person
    ) -> None:
        answers = await asyncio.gather(*(renewed(http, person.refresh_token) for _ in range(50)))
        assert len({answer["refresh_token"] for answer in answers}) == 1
        outcomes = await events_of(session_of(person.access_token), services, least=49)
        assert outcomes == {"repeated": 49}

    @pytest.mark.standard("SE-29")
    @pytest.mark.parametrize("later", [0, 1, 9.999, GRACE + 1, LOST_ANSWER - 60])
    async def test_a_lost_answer_can_be_asked_for_again(
        self,
        http: httpx.AsyncClient,
        http_of_second_worker: httpx.AsyncClient,
        person: Person,
        clock: TestClock,
        later: float,
    ) -> None:
        first = await renewed(http, person.refresh_token)
        await clock.advance(seconds=later)
        assert (await renewed(http, person.refresh_token))["refresh_token"] == first["refresh_token"]
        again = await renewed(http_of_second_worker, person.refresh_token)
        assert again["refresh_token"] == first["refresh_token"]
        await renewed(http, first["refresh_token"])

    async def test_inside_the_grace_a_retry_is_answered_although_the_successor_was_seen(
        self, http: httpx.AsyncClient, introspector: Introspector, person: Person, clock: TestClock
    ) -> None:
        first = await renewed(http, person.refresh_token)
        assert await is_active(http, introspector, first["access_token"])
        await clock.advance(seconds=GRACE / 2)
        assert (await renewed(http, person.refresh_token))["refresh_token"] == first["refresh_token"]

    async def test_every_access_token_of_a_retry_is_good(
        self, http: httpx.AsyncClient, introspector: Introspector, person: Person
    ) -> None:
        answers = [await renewed(http, person.refresh_token) for _ in range(3)]
        assert len({answer["access_token"] for answer in answers}) == 3
        for answer in answers:
            assert await is_active(http, introspector, answer["access_token"])

    @pytest.mark.standard("SE-33")
    async def test_the_loser_of_a_race_never_clears_the_cookie_of_the_winner(
        self, http: httpx.AsyncClient, http_of_second_worker: httpx.AsyncClient, person: Person, clock: TestClock
    ) -> None:
        answer = await http.post("/auth/login", json=person.credentials(transport="cookie"), headers=BROWSER)
        headers = {**BROWSER, "Cookie": f"{COOKIE}={answer.cookies[COOKIE]}"}
        http.cookies.clear()

        async def with_cookie(browser: httpx.AsyncClient) -> httpx.Response:
            return await browser.post("/auth/refresh", json={}, headers=headers)

        answers = await asyncio.gather(*(with_cookie(each) for each in (http, http_of_second_worker) * 10))
        await clock.advance(seconds=GRACE / 2)
        answers += [await with_cookie(http)]
        await clock.advance(seconds=LOST_ANSWER / 2)
        answers += [await with_cookie(http_of_second_worker)]

        assert {answer.status_code for answer in answers} == {200}
        told = [answer.headers.get_list("set-cookie") for answer in answers]
        assert [len(cookies) for cookies in told] == [1] * len(answers)
        assert len({cookies[0].partition(";")[0] for cookies in told}) == 1
        assert not any("max-age=0" in cookies[0].lower() for cookies in told)
        assert all("refresh_token" not in answer.json() for answer in answers)


class TestReplay:
    """An old token that has no excuse was copied: the family ends, the others live (RFC 9700 section 4.14.2)."""

    @pytest.mark.standard("SE-22")
    async def test_a_replay_after_the_successor_was_seen_ends_this_session_and_no_other(
        self,
        both: tuple[httpx.AsyncClient, ...],
        services: Services,
        introspector: Introspector,
        person: Person,
        clock: TestClock,
    ) -> None:
        http, _ = both
        other = await signed_in(http, person)
        newest = await renewed(http, (await renewed(http, person.refresh_token))["refresh_token"])
        assert await is_active(http, introspector, newest["access_token"])
        assert (await row_of(services, session_of(person.access_token))).ended_at is None

        await clock.advance(seconds=GRACE + 1)
        await refused(http, person.refresh_token)

        for each in both:
            await refused(each, newest["refresh_token"])
            assert not await is_active(each, introspector, newest["access_token"])
            assert not await opens_me(each, newest["access_token"])
            assert await is_active(each, introspector, other["access_token"])
        await renewed(http, other["refresh_token"])

        row = await row_of(services, session_of(person.access_token))
        assert (row.ended_reason, row.ended_at is not None) == ("reused", True)
        assert (await row_of(services, session_of(other["access_token"]))).ended_at is None
        outcomes = await events_of(session_of(person.access_token), services)
        assert outcomes["reused"] == 1

    @pytest.mark.standard("SE-22")
    async def test_the_immediate_predecessor_ends_the_family_once_its_successor_was_seen_and_the_grace_is_over(
        self, http: httpx.AsyncClient, introspector: Introspector, person: Person, clock: TestClock
    ) -> None:
        successor = await renewed(http, person.refresh_token)
        assert await is_active(http, introspector, successor["access_token"])
        await clock.advance(seconds=GRACE + 1)
        await refused(http, person.refresh_token)
        await refused(http, successor["refresh_token"])
        assert not await is_active(http, introspector, successor["access_token"])

    @pytest.mark.standard("SE-22")
    async def test_an_own_request_with_the_successor_counts_as_seen(
        self, http: httpx.AsyncClient, http_of_second_worker: httpx.AsyncClient, person: Person, clock: TestClock
    ) -> None:
        successor = await renewed(http, person.refresh_token)
        assert await opens_me(http_of_second_worker, successor["access_token"])
        await clock.advance(seconds=GRACE + 1)
        await refused(http, person.refresh_token)
        await refused(http, successor["refresh_token"])

    @pytest.mark.standard("SE-22")
    async def test_after_the_window_for_lost_answers_a_replay_ends_the_family(
        self, http: httpx.AsyncClient, services: Services, person: Person, clock: TestClock
    ) -> None:
        successor = await renewed(http, person.refresh_token)
        await clock.advance(seconds=LOST_ANSWER)
        await refused(http, person.refresh_token)
        await refused(http, successor["refresh_token"])
        assert (await row_of(services, session_of(person.access_token))).ended_reason == "reused"

    @pytest.mark.standard("SE-22")
    async def test_a_retry_does_not_prolong_the_grace(
        self, http: httpx.AsyncClient, introspector: Introspector, person: Person, clock: TestClock
    ) -> None:
        successor = await renewed(http, person.refresh_token)
        assert await is_active(http, introspector, successor["access_token"])
        await clock.advance(seconds=6)
        await renewed(http, person.refresh_token)
        await clock.advance(seconds=6)
        await refused(http, person.refresh_token)

    @pytest.mark.standard("SE-22")
    async def test_a_token_two_generations_old_ends_the_family_even_inside_the_grace(
        self, http: httpx.AsyncClient, introspector: Introspector, person: Person
    ) -> None:
        second = await renewed(http, person.refresh_token)
        third = await renewed(http, second["refresh_token"])
        await refused(http, person.refresh_token)
        for token in (third["refresh_token"], second["refresh_token"], person.refresh_token):
            await refused(http, token)
        assert not await is_active(http, introspector, third["access_token"])

    @pytest.mark.standard("SE-22", "SE-33")
    async def test_a_cookie_whose_family_has_ended_is_cleared(self, http: httpx.AsyncClient, person: Person) -> None:
        newest = await renewed(http, (await renewed(http, person.refresh_token))["refresh_token"])
        await refused(http, person.refresh_token)
        headers = {**BROWSER, "Cookie": f"{COOKIE}={newest['refresh_token']}"}
        answer = await http.post("/auth/refresh", json={}, headers=headers)
        assert answer.status_code == 401
        [cookie] = answer.headers.get_list("set-cookie")
        assert cookie.startswith(f'{COOKIE}=""') or cookie.startswith(f"{COOKIE}=;")
        assert "max-age=0" in cookie.lower()


class TestLifetimes:
    @pytest.mark.standard("SE-08", "SE-13")
    async def test_a_session_that_nobody_uses_ends_after_the_idle_time(
        self, http: httpx.AsyncClient, person: Person, clock: TestClock
    ) -> None:
        other = await signed_in(http, person)
        await clock.advance(seconds=14 * DAYS - 60)
        await renewed(http, other["refresh_token"])
        await clock.advance(seconds=60)
        await refused(http, person.refresh_token)

    @pytest.mark.standard("SE-08", "SE-13")
    async def test_use_prolongs_the_idle_time(self, http: httpx.AsyncClient, person: Person, clock: TestClock) -> None:
        await clock.advance(days=13)
        tokens = await renewed(http, person.refresh_token)
        await clock.advance(days=13)
        tokens = await renewed(http, tokens["refresh_token"])
        await clock.advance(days=3)
        await renewed(http, tokens["refresh_token"])

    @pytest.mark.standard("SE-08")
    async def test_introspection_is_no_use(
        self, http: httpx.AsyncClient, introspector: Introspector, person: Person, clock: TestClock
    ) -> None:
        await clock.advance(minutes=9)
        assert await is_active(http, introspector, person.access_token)
        await clock.advance(seconds=14 * DAYS - 9 * 60)
        await refused(http, person.refresh_token)

    @pytest.mark.standard("SE-09", "SE-13", "SE-25", "SE-26")
    async def test_no_use_prolongs_a_session_beyond_its_absolute_end(
        self, http: httpx.AsyncClient, introspector: Introspector, person: Person, clock: TestClock
    ) -> None:
        token = person.refresh_token
        for days in (10, 10, 9):
            await clock.advance(days=days)
            token = (await renewed(http, token))["refresh_token"]
        await clock.advance(seconds=DAYS - 60)
        last = await renewed(http, token)
        assert await is_active(http, introspector, last["access_token"])
        await clock.advance(seconds=60)
        await refused(http, last["refresh_token"])
        # The access token has nine minutes left, the session has none.
        assert not await is_active(http, introspector, last["access_token"])

    @pytest.mark.standard("SE-13")
    async def test_signing_in_again_begins_both_times_anew(
        self, http: httpx.AsyncClient, person: Person, clock: TestClock
    ) -> None:
        await clock.advance(days=13)
        token = (await renewed(http, person.refresh_token))["refresh_token"]
        await clock.advance(days=13)
        token = (await renewed(http, token))["refresh_token"]
        again = await signed_in(http, person)
        await clock.advance(days=5)
        await refused(http, token)
        again = await renewed(http, again["refresh_token"])
        await clock.advance(days=13)
        await renewed(http, again["refresh_token"])

    @pytest.mark.standard("SE-25", "SE-26")
    async def test_a_thousand_rotations_never_promise_more_than_the_first_token_did(
        self, services: Services, person: Person, clock: TestClock
    ) -> None:
        grant = await admitted(services, await account_behind(services, person))
        end = clock().timestamp() + grant.refresh_expires_in
        token = grant.refresh_token
        step = 30 * DAYS // 1000 - 1
        for _ in range(1000):
            await clock.advance(seconds=step)
            asked_at = clock().timestamp()
            grant = await services.sessions.rotate(token, "web")
            token = grant.refresh_token
            assert asked_at + grant.refresh_expires_in <= end + 1
        await clock.advance(seconds=end - clock().timestamp() + 1)
        with pytest.raises(SessionExpired):
            await services.sessions.rotate(token, "web")

    @pytest.mark.standard("AT-22", "SE-14", "SE-23")
    async def test_refresh_changes_neither_rights_nor_the_sign_in_they_come_from(
        self, http: httpx.AsyncClient, introspector: Introspector, person: Person, clock: TestClock
    ) -> None:
        tokens = await signed_in(http, person)
        kept = ("scope", "amr", "auth_time", "aud", "client_id", "sub", "sid", "iss")
        first = claims_of(tokens["access_token"])
        assert first["amr"] == ["pwd"]
        for _ in range(3):
            await clock.advance(days=2)
            tokens = await renewed(http, tokens["refresh_token"])
            told = await introspector.ask(http, tokens["access_token"])
            for claims in (claims_of(tokens["access_token"]), told):
                assert {name: claims[name] for name in kept} == {name: first[name] for name in kept}
            assert tokens["scope"] == first["scope"]


class TestForgeries:
    """Whatever is not a token of ours is refused, and harms nobody."""

    @pytest.mark.standard("SE-27")
    async def test_another_client_is_refused_and_the_session_does_not_notice(
        self, http: httpx.AsyncClient, services: Services, introspector: Introspector, person: Person, redis: Redis
    ) -> None:
        other = f"app-{secrets.token_hex(4)}"
        await registered(services, other, confidential=False)
        newest = await renewed(http, person.refresh_token)
        before = await redis.hgetall(record_key(account_of(person.access_token)))

        for token in (newest["refresh_token"], person.refresh_token):
            await refused(http, token, other)
        assert await redis.hgetall(record_key(account_of(person.access_token))) == before
        assert await is_active(http, introspector, newest["access_token"])
        assert (await row_of(services, session_of(person.access_token))).ended_at is None
        await renewed(http, newest["refresh_token"])

        theirs = await signed_in(http, person, other)
        await refused(http, theirs["refresh_token"])
        await renewed(http, theirs["refresh_token"], other)

    @pytest.mark.standard("SE-04", "SE-27")
    async def test_a_token_with_any_byte_changed_is_refused_and_the_session_unharmed(
        self, http: httpx.AsyncClient, person: Person
    ) -> None:
        body = opaque.decode(PREFIX, person.refresh_token)
        assert body is not None
        assert len(body) == BODY.size + MAC_BYTES
        for place in range(len(body)):
            flipped = bytearray(body)
            flipped[place] ^= 1 << (place % 8)
            # With a checksum that fits: only the MAC is in the way.
            await refused(http, opaque.encode(PREFIX, bytes(flipped)))
        for place in range(len(PREFIX) + 1, len(person.refresh_token), 7):
            letter = "A" if person.refresh_token[place] != "A" else "B"
            await refused(http, person.refresh_token[:place] + letter + person.refresh_token[place + 1 :])
        await renewed(http, person.refresh_token)

    @pytest.mark.standard("SE-04", "SE-27")
    async def test_neither_a_stolen_database_nor_a_stolen_key_alone_makes_a_token(
        self, http: httpx.AsyncClient, services: Services, person: Person
    ) -> None:
        ours = services.sessions.refresh_tokens
        token = ours.read(person.refresh_token)
        assert token is not None
        salt = (await row_of(services, session_of(person.access_token))).salt
        parts = (token.account, token.secret_id)

        foreign_key = RefreshTokens(RootKeys.parse(root_key(token.key_id)))
        unknown_key = RefreshTokens(RootKeys.parse(root_key(200)))
        for generation in (0, 1, 2**32 - 1):
            await refused(http, foreign_key.make(*parts, generation, salt))
            await refused(http, unknown_key.make(*parts, generation, salt))
            await refused(http, ours.make(*parts, generation, secrets.token_bytes(16)))
            await refused(http, ours.make(*parts, generation, b""))
            await refused(http, ours.make(token.account, secrets.token_bytes(16), generation, salt))
        await refused(http, ours.make(uuid4(), token.secret_id, 0, salt))
        # The test would have noticed: with both, it is the very token.
        assert ours.make(*parts, 0, salt) == person.refresh_token
        await renewed(http, person.refresh_token)

    @pytest.mark.standard("SE-04")
    async def test_what_is_no_token_at_all_is_refused(self, http: httpx.AsyncClient, person: Person) -> None:
        token = person.refresh_token
        encoded = token.removeprefix("vrt_")
        nonsense = [
            "",
            "vrt_",
            "vrt",
            "_",
            encoded,
            f"vcs_{encoded}",
            f"VRT_{encoded}",
            f"vrt__{encoded}",
            token[:-1],
            token[:40],
            f"{token}=",
            f"{token}A",
            f" {token}",
            f"{token}\n",
            f"vrt_{encoded.swapcase()}",
            "vrt_" + "é" * 40,
            "vrt_" + "٣" * 98,
            "\N{FULLWIDTH LATIN SMALL LETTER V}rt_" + encoded,
            "\U0001f36a" * 30,
            person.access_token[:200],
            opaque.mint("vrt"),
            opaque.encode("vrt", b""),
            opaque.encode("vrt", bytes(BODY.size + MAC_BYTES)),
        ]
        for each in nonsense:
            await refused(http, each)
        await renewed(http, token)

    @pytest.mark.standard("SE-04")
    @pytest.mark.parametrize("junk", ["A" * 10_000, "é" * 5_000], ids=["ascii", "beyond_ascii"])
    async def test_ten_kilobytes_are_refused_before_anything_is_read_into_them(
        self, http: httpx.AsyncClient, person: Person, junk: str
    ) -> None:
        """The documented length of the field is 256, so a body says 400; a cookie has no schema and is no token."""
        answer = await refresh(http, person.refresh_token + junk)
        assert (answer.status_code, answer.json()["code"]) == (400, "invalid_input")
        headers: list[tuple[bytes, bytes]] = [(name.encode(), value.encode()) for name, value in BROWSER.items()]
        headers.append((b"Cookie", f"{COOKIE}={person.refresh_token}{junk}".encode()))
        answer = await http.post("/auth/refresh", json={}, headers=headers)
        assert answer.status_code == 401
        await renewed(http, person.refresh_token)

    @pytest.mark.standard("SE-05", "SE-06")
    async def test_ten_thousand_tokens_are_unique_and_look_random(self, services: Services, person: Person) -> None:
        tokens = services.sessions.refresh_tokens
        account, secret_ids, made = uuid4(), [], []
        for _ in range(500):
            opened = await services.sessions.open(account, "web", ("pwd",), ())
            token = tokens.read(opened.grant.refresh_token)
            assert token is not None
            secret_ids.append(token.secret_id)
            made += [tokens.make(account, token.secret_id, generation, opened.salt) for generation in range(20)]
        assert len(made) == len(set(made)) == 10_000
        assert len(set(secret_ids)) == 500

        macs = [read.mac for read in map(tokens.read, made) if read is not None]
        # 128 random bits in the id and 256 in the MAC; each is one about half of the time (six standard deviations).
        for samples, bits in ((secret_ids, 128), (macs, 256)):
            spread = 6 * (len(samples) ** 0.5) / 2
            for place in range(bits):
                ones = sum(sample[place // 8] >> (place % 8) & 1 for sample in samples)
                assert abs(ones - len(samples) / 2) < spread, f"bit {place} is not random"

    @pytest.mark.standard("SE-27")
    async def test_a_dump_of_redis_holds_no_refresh_token_and_nothing_to_make_one_of(
        self, http: httpx.AsyncClient, services: Services, redis: Redis, person: Person
    ) -> None:
        tokens = [person.refresh_token]
        for _ in range(3):
            tokens.append((await renewed(http, tokens[-1]))["refresh_token"])
        key = record_key(account_of(person.access_token))
        fields = cast("dict[bytes, bytes]", await redis.hgetall(key))
        dump = b"\n".join(itertools.chain.from_iterable(fields.items())) + bytes(await redis.dump(key) or b"")
        assert len(fields[session_of(person.access_token).bytes]) > 52
        for token in tokens:
            read = services.sessions.refresh_tokens.read(token)
            body = opaque.decode(PREFIX, token)
            assert read is not None
            assert body is not None
            for secret in (body, read.mac, read.mac[:16], read.secret_id):
                for spelled in spellings(secret):
                    assert spelled not in dump
            assert token.removeprefix("vrt_").encode()[:40] not in dump
            assert sha256(token.encode()).digest() not in dump


def spellings(secret: bytes) -> Iterable[bytes]:
    yield secret
    yield secret.hex().encode()
    yield base64.b64encode(secret).rstrip(b"=")
    yield base64.urlsafe_b64encode(secret).rstrip(b"=")


class TestRevocation:
    """What was ended is dead at the very next question, in every worker, whatever else happens meanwhile."""

    @pytest.mark.standard("SE-15", "IN-15")
    async def test_signing_out_shows_at_the_next_introspection_of_another_worker(
        self,
        http: httpx.AsyncClient,
        http_of_second_worker: httpx.AsyncClient,
        services: Services,
        introspector: Introspector,
        person: Person,
    ) -> None:
        other = await signed_in(http, person)
        newest = await renewed(http, person.refresh_token)
        assert await is_active(http_of_second_worker, introspector, newest["access_token"])

        out = await http.post("/auth/logout", json={"refresh_token": newest["refresh_token"]})
        assert out.status_code == 204
        for token in (newest["access_token"], person.access_token):
            assert not await is_active(http_of_second_worker, introspector, token)
            assert not await opens_me(http_of_second_worker, token)
        for token in (newest["refresh_token"], person.refresh_token):
            await refused(http_of_second_worker, token)
        assert await is_active(http_of_second_worker, introspector, other["access_token"])
        assert (await row_of(services, session_of(person.access_token))).ended_reason == "logout"

    @pytest.mark.standard("SE-16", "IN-15")
    async def test_disabling_an_account_ends_everything_and_enabling_it_revives_nothing(
        self,
        http: httpx.AsyncClient,
        http_of_second_worker: httpx.AsyncClient,
        services: Services,
        introspector: Introspector,
        person: Person,
    ) -> None:
        account = account_of(person.access_token)
        second = await signed_in(http_of_second_worker, person)
        third = await renewed(http, (await signed_in(http, person))["refresh_token"])
        access_tokens = [person.access_token, second["access_token"], third["access_token"]]
        refresh_tokens = [person.refresh_token, second["refresh_token"], third["refresh_token"]]

        async def nothing_lives() -> None:
            for each in (http_of_second_worker, http):
                for token in access_tokens:
                    assert not await is_active(each, introspector, token)
                    assert not await opens_me(each, token)
                for token in refresh_tokens:
                    await refused(each, token)

        await services.administration.disable(account)
        await nothing_lives()
        login = await http.post("/auth/login", json=person.credentials())
        assert (login.status_code, login.json()["code"]) == (403, "account_disabled")
        rows = [await row_of(services, session_of(token)) for token in access_tokens]
        assert [row.ended_reason for row in rows] == ["disabled"] * 3

        async with services.database.begin() as transaction:
            await transaction.execute(update(Account).where(Account.id == account).values(disabled_at=None))
        await nothing_lives()
        again = await signed_in(http, person)
        await nothing_lives()
        assert await is_active(http, introspector, again["access_token"])
        await renewed(http_of_second_worker, again["refresh_token"])

    @pytest.mark.standard("SE-16")
    async def test_everything_ends_although_the_clock_of_the_store_went_back(
        self, http: httpx.AsyncClient, services: Services, person: Person, clock: TestClock
    ) -> None:
        """A replica with a slow clock takes over: sessions were opened at a time that is still to come."""
        await clock.advance(seconds=20)
        tokens = await signed_in(http, person)
        await clock.reset()
        await services.administration.disable(account_of(person.access_token))
        await refused(http, person.refresh_token)
        await refused(http, tokens["refresh_token"])

    @pytest.mark.standard("SE-15", "SE-29", "SE-30")
    async def test_a_hundred_races_of_refresh_and_sign_out_leave_nothing_alive(
        self,
        http: httpx.AsyncClient,
        http_of_second_worker: httpx.AsyncClient,
        services: Services,
        introspector: Introspector,
        person: Person,
    ) -> None:
        account = await account_behind(services, person)
        for number in range(100):
            token = (await admitted(services, account)).refresh_token
            refreshing = [asyncio.create_task(refresh(each, token)) for each in (http, http_of_second_worker, http)]
            # The sign-out starts a little later each time, to meet the refresh at every one of its steps.
            for _ in range(number):
                await asyncio.sleep(0)
            out = await http_of_second_worker.post("/auth/logout", json={"refresh_token": token})
            assert out.status_code == 204
            late = [await refresh(http, token), *await asyncio.gather(*refreshing)]
            for tokens in [answer.json() for answer in late if answer.status_code == 200]:
                assert not await is_active(http, introspector, tokens["access_token"])
                await refused(http_of_second_worker, tokens["refresh_token"])
            assert late[0].status_code == 401

    @pytest.mark.standard("SE-15")
    async def test_a_refresh_that_meets_a_sign_out_does_not_make_it_look_like_a_theft(
        self, http: httpx.AsyncClient, services: Services, person: Person
    ) -> None:
        """The journal says why a session ended: whoever reads `reused` there looks for a thief."""
        journal = GatedJournal(services.database, services.clock)
        sessions = replace(services.sessions, journal=journal)
        out = asyncio.create_task(sessions.close(person.refresh_token))
        await journal.reached.wait()
        await refused(http, person.refresh_token)
        journal.gate.set()
        await out
        assert (await row_of(services, session_of(person.access_token))).ended_reason == "logout"

    @pytest.mark.standard("SE-16", "SE-30")
    async def test_sixty_races_of_admission_and_disabling_leave_nothing_alive(
        self, services: Services, second_worker: Services, redis: Redis
    ) -> None:
        """Each door has seen the account open: only the order of the stores decides."""
        for number in range(60):
            name = f"race{secrets.token_hex(6)}"
            account = Account(
                id=uuid4(),
                email=f"{name}@example.com",
                nickname=name,
                nickname_key=name,
                password_hash=None,
                password_changed_at=services.clock(),
                locale="en",
                avatar_url=None,
                roles=[],
                created_at=services.clock(),
                disabled_at=None,
            )
            async with services.database.begin() as transaction:
                transaction.add(account)
            entering = [asyncio.create_task(admitted(each, account)) for each in (services, second_worker, services)]
            for _ in range(number):
                await asyncio.sleep(0)
            await second_worker.administration.disable(account.id)
            await nothing_remains(services, redis, account.id, await outcomes_of(entering))

    @pytest.mark.standard("SE-16", "SE-30")
    async def test_signing_in_while_the_account_is_disabled_leaves_nothing_alive(
        self,
        http: httpx.AsyncClient,
        http_of_second_worker: httpx.AsyncClient,
        services: Services,
        introspector: Introspector,
        redis: Redis,
    ) -> None:
        for number in range(8):
            person = somebody()
            account = await services.administration.create(person.email, person.nickname, PASSWORD, ())
            entering = [
                asyncio.create_task(each.post("/auth/login", json=person.credentials()))
                for each in (http, http_of_second_worker, http, http_of_second_worker)
            ]
            if number % 2:
                await asyncio.wait(entering, return_when=asyncio.FIRST_COMPLETED)
            await services.administration.disable(account.id)
            answers = await asyncio.gather(*entering)
            assert {answer.status_code for answer in answers} <= {200, 403}
            for tokens in [answer.json() for answer in answers if answer.status_code == 200]:
                assert not await is_active(http, introspector, tokens["access_token"])
                await refused(http, tokens["refresh_token"])
            await nothing_remains(services, redis, account.id, [])


@dataclass(frozen=True)
class GatedJournal(Journal):
    """A PostgreSQL that takes its time."""

    reached: asyncio.Event = field(default_factory=asyncio.Event)
    gate: asyncio.Event = field(default_factory=asyncio.Event)

    async def ended(self, session: bytes, reason: EndReason) -> None:
        self.reached.set()
        await self.gate.wait()
        await Journal.ended(self, session, reason)


async def outcomes_of(entering: list[asyncio.Task[Grant]]) -> list[Grant]:
    """The grants of those who came in; whoever did not was told why."""
    grants = []
    for each in await asyncio.gather(*entering, return_exceptions=True):
        if isinstance(each, Grant):
            grants.append(each)
        else:
            assert isinstance(each, AccountDisabled)
    return grants


async def nothing_remains(services: Services, redis: Redis, account: UUID, grants: list[Grant]) -> None:
    for grant in grants:
        with pytest.raises(SessionExpired):
            await services.sessions.rotate(grant.refresh_token, "web")
    assert not await any_is_live(services, redis, account)
    statement = select(SessionRow).where(SessionRow.account_id == account, SessionRow.ended_at.is_(None))
    async with services.database.begin() as transaction:
        assert (await transaction.scalars(statement)).all() == []


class TestCap:
    @pytest.fixture
    async def small(
        self, services: Services, settings: Settings, wall_clock: TestClock, outbox: Outbox
    ) -> AsyncIterator[Services]:
        """A worker that allows three sessions per account."""
        async with worker(msgspec.structs.replace(settings, sessions_per_account=3), wall_clock, outbox) as running:
            yield running

    @pytest.mark.standard("SE-02")
    async def test_one_session_too_many_ends_the_one_used_longest_ago_and_says_so(
        self, small: Services, introspector: Introspector, outbox: Outbox, clock: TestClock
    ) -> None:
        async with browser(create_app(small)) as http:
            person = await sign_up(http, small, outbox)
            await clock.advance(seconds=1)
            second = await signed_in(http, person)
            await clock.advance(seconds=1)
            third = await signed_in(http, person)
            await clock.advance(seconds=1)
            # The first one is the oldest, but no longer the one used longest ago.
            first = await renewed(http, person.refresh_token)
            await clock.advance(seconds=1)

            fourth = await signed_in(http, person)
            await refused(http, second["refresh_token"])
            assert not await is_active(http, introspector, second["access_token"])
            for tokens in (first, third, fourth):
                assert await is_active(http, introspector, tokens["access_token"])
                await renewed(http, tokens["refresh_token"])
            evicted = session_of(second["access_token"])
            row = await row_of(small, evicted)
            assert (row.ended_reason, row.ended_at is not None) == ("evicted", True)
            assert (await events_of(evicted, small, event="session.close")) == {"evicted": 1}
            for token in (person.access_token, third["access_token"], fourth["access_token"]):
                assert (await row_of(small, session_of(token))).ended_at is None

    @pytest.mark.standard("SE-02")
    async def test_many_at_once_do_not_slip_over_the_cap(
        self, small: Services, introspector: Introspector, outbox: Outbox
    ) -> None:
        async with browser(create_app(small)) as http:
            person = await sign_up(http, small, outbox)
            account = await account_behind(small, person)
            grants = await asyncio.gather(*(admitted(small, account) for _ in range(20)))
            alive = [await is_active(http, introspector, grant.access_token) for grant in grants]
            assert sum(alive) == 3
            rows = [await row_of(small, session_of(grant.access_token)) for grant in grants]
            assert [row.ended_at is None for row in rows] == alive


class TestTheStore:
    @pytest.mark.standard("SE-35")
    async def test_every_key_that_the_service_writes_ends_by_itself(
        self, http: httpx.AsyncClient, services: Services, outbox: Outbox, redis: Redis
    ) -> None:
        person = await sign_up(http, services, outbox)
        await begin_sign_up(http, somebody())
        tokens = await renewed(http, (await signed_in(http, person))["refresh_token"])
        assert await opens_me(http, tokens["access_token"])
        await http.post("/auth/logout", json={"refresh_token": person.refresh_token})
        await http.post("/auth/login", json=person.credentials(password="not the one of this account"))
        never = uuid4()
        await services.sessions.close_all(account_of(person.access_token))
        await services.sessions.close_all(never)

        longest = {"sessions": 31 * DAYS, "signup": DAYS, "signup-of": DAYS, "limit": DAYS, "vouched": 90 * DAYS}
        longest["password-failures"] = 180 * DAYS
        found: set[str] = set()
        async for key in redis.scan_iter(match="vestibule:*", count=1000):
            kind, rule = [*key.decode().split(":"), ""][1:3]
            kind = rule if rule == "password-failures" else kind
            if kind in longest:
                found.add(kind)
                left = await redis.pttl(key)
                assert left == -2 or 0 <= left <= longest[kind] * 1000, key
        assert found == set(longest)
        for account in (account_of(person.access_token), never):
            assert await redis.pttl(record_key(account)) > 30 * DAYS * 1000

    async def test_scripts_that_the_server_forgets_are_brought_back_without_a_failure(
        self, http: httpx.AsyncClient, http_of_second_worker: httpx.AsyncClient, redis: Redis, person: Person
    ) -> None:
        """As after a failover: no answer may depend on what a server remembers."""
        tokens = {"refresh_token": person.refresh_token}

        done = asyncio.Event()

        async def forget() -> None:
            while not done.is_set():
                await redis.script_flush()

        forgetting = asyncio.create_task(forget())
        try:
            for _ in range(25):
                browsers = (http, http_of_second_worker) * 4
                answers = await asyncio.gather(*(refresh(each, tokens["refresh_token"]) for each in browsers))
                assert {answer.status_code for answer in answers} == {200}
                tokens = answers[0].json()
        finally:
            done.set()
            await forgetting

    async def test_two_thousand_cancelled_commands_give_nobody_the_answer_of_another(
        self, settings: Settings, services: Services
    ) -> None:
        """A request that is given up leaves its answer in a connection; the next one must not read it."""
        account = uuid4()
        opened = [await services.sessions.open(account, "web", ("pwd",), ()) for _ in range(50)]
        sessions = itertools.cycle([each.session for each in opened])
        store = RedisStore.connect(settings, shifted)

        async def ask(session: bytes) -> bool:
            keys = f"sessions:{{{account}}}", f"denied:{{{account}}}:none"
            state, about, *_ = await store.run("inspect", keys, session, -1, DAYS * 1000)
            return bool(state == b"live" and about == session)

        cancelled = 0
        try:
            for number in itertools.count():
                asked = [asyncio.create_task(ask(session)) for session in itertools.islice(sessions, 40)]
                for _ in range(number % 24):
                    await asyncio.sleep(0)
                for task in asked[::2]:
                    task.cancel()
                answers = await asyncio.gather(*asked, return_exceptions=True)
                cancelled += sum(isinstance(answer, asyncio.CancelledError) for answer in answers)
                assert all(answer is True for answer in answers[1::2])
                assert all(answer is True or isinstance(answer, asyncio.CancelledError) for answer in answers[::2])
                if cancelled >= 2000:
                    break
            # And nothing of them is left behind.
            assert all(await asyncio.gather(*(ask(session) for session in itertools.islice(sessions, 100))))
        finally:
            await store.close()

    async def test_requests_that_are_given_up_do_not_disturb_the_others(
        self, http: httpx.AsyncClient, introspector: Introspector, services: Services, person: Person
    ) -> None:
        account = await account_behind(services, person)
        grants = [await admitted(services, account) for _ in range(8)]
        for number in range(40):
            asked = [asyncio.create_task(introspector.ask(http, grant.access_token)) for grant in grants]
            for _ in range(number):
                await asyncio.sleep(0)
            for task in asked[::2]:
                task.cancel()
            answers = await asyncio.gather(*asked, return_exceptions=True)
            for grant, answer in list(zip(grants, answers, strict=True))[1::2]:
                assert isinstance(answer, dict)
                assert answer["sid"] == claims_of(grant.access_token)["sid"]
