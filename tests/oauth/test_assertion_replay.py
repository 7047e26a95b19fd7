"""Assertions open once, by a key that is registered now, and are no other kind of token."""

import asyncio
import base64
import secrets
from collections.abc import AsyncIterator

import httpx
import msgspec
import pytest
from litestar import Litestar
from redis.asyncio import Redis

from service.app import create_app
from service.settings import Settings
from service.tokens.client_administration import ClientChanges
from service.wiring import Services
from tests.conftest import Outbox, TestClock, browser, worker
from tests.deeds import registered
from tests.oauth.acting import assert_error
from tests.oauth.proving import ENDPOINTS, by_basic, call, call_from_anywhere, new_id_of_client
from tests.oauth.robots import (
    EC_KEY,
    SECOND_KEY,
    STRANGE_KEY,
    Key,
    Robot,
    by,
    encoded,
    new_robot,
    rsa_key,
)
from tests.tokens.hearing import eventually, listening_worker

P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


@pytest.fixture
async def robot(services: Services, clock: TestClock) -> Robot:
    return await new_robot(services, clock, EC_KEY, rsa_key(), SECOND_KEY)


# Other kinds of tokens


@pytest.mark.standard("AT-33", "AT-05", "W-X")
async def test_our_own_tokens_are_no_assertions(app: Litestar, services: Services, clock: TestClock) -> None:
    """Even for a client that registered our public key as its own."""
    async with browser(app) as http:
        ours = (await http.get("/.well-known/jwks.json")).json()["keys"]
        client_id = new_id_of_client()
        methods = ["client_secret_basic", "private_key_jwt"]
        secret = await registered(services, client_id, auth_methods=methods, jwks={"keys": ours})
        access = (await call(http, "/token", by_basic(client_id, secret))).json()["access_token"]
        accept = {"Accept": "application/token-introspection+jwt"}
        headers = {**accept, "Authorization": by_basic(client_id, secret)["headers"][0][1]}
        introspected = (await http.post("/introspect", data={"token": access}, headers=headers)).text
        assert introspected.count(".") == 2

        for token in (access, introspected):
            for auth in (by(token), by(token, client_id=client_id)):
                assert_error(await call(http, "/token", auth), 401, "invalid_client")


@pytest.mark.standard("AT-33", "AT-05", "W-X")
async def test_an_assertion_is_no_access_token(http: httpx.AsyncClient, robot: Robot) -> None:
    for token in (robot.assertion(), robot.assertion(client_id=robot.client_id, scope="account admin")):
        for path in ("/me", "/admin/clients"):
            refused = await http.get(path, headers={"Authorization": f"Bearer {token}"})
            assert refused.status_code == 401
            assert 'error="invalid_token"' in refused.headers["www-authenticate"]
        told = await call(http, "/introspect", {"form": {**by(robot.assertion())["form"], "token": token}})
        assert told.json() == {"active": False}


# Once


@pytest.mark.standard("AT-18", "AT-51")
async def test_an_assertion_opens_once_whoever_is_asked(
    http: httpx.AsyncClient, http_of_second_worker: httpx.AsyncClient, services: Services, robot: Robot, redis: Redis
) -> None:
    now = int(robot.clock().timestamp())
    jti = secrets.token_urlsafe(12)
    forged = robot.assertion(key=STRANGE_KEY, jti=jti)
    assert_error(await call(http, "/token", by(forged)), 401, "invalid_client")  # and spends nothing

    assertion = robot.assertion(jti=jti, exp=now + 300)
    assert (await call(http, "/token", by(assertion))).status_code == 200
    head, claims, signature = assertion.split(".")
    point = base64.urlsafe_b64decode(signature + "==")
    mirrored = point[:32] + (P256_ORDER - int.from_bytes(point[32:])).to_bytes(32)
    for replay in (
        assertion,
        f"{head}.{claims}.{encoded(mirrored)}",
        robot.assertion(jti=jti),
        robot.assertion(jti=jti, key=rsa_key()),
    ):
        for path in ENDPOINTS:
            assert_error(await call(http, path, by(replay)), 401, "invalid_client")
    assert_error(await call(http_of_second_worker, "/token", by(assertion)), 401, "invalid_client")

    # It is remembered for longer than any assertion that is accepted can live.
    assert await redis.pttl(f"vestibule:assertion:{robot.client_id}:{jti}") > 330_000
    neighbour = await new_robot(services, robot.clock, EC_KEY)
    assert (await call(http, "/token", by(neighbour.assertion(jti=jti)))).status_code == 200


@pytest.mark.standard("AT-18", "AT-51")
async def test_of_thirty_at_once_exactly_one_opens(
    app: Litestar, http_of_second_worker: httpx.AsyncClient, robot: Robot
) -> None:
    assert (
        await call(http_of_second_worker, "/token", by(robot.assertion()))
    ).status_code == 200  # it knows the client
    auth = by(robot.assertion())
    async with browser(app) as here, browser(app) as also_here:
        askers = [here, also_here, http_of_second_worker] * 10
        answers = await asyncio.gather(*(call(asker, "/token", auth) for asker in askers))

    assert sorted(answer.status_code for answer in answers) == [200] + [401] * 29


@pytest.mark.standard("AT-18", "PF-39")
async def test_without_a_memory_of_what_was_used_there_is_no_answer(
    settings: Settings, wall_clock: TestClock, outbox: Outbox, services: Services
) -> None:
    robot = await new_robot(services, wall_clock, EC_KEY)
    cut_off = msgspec.structs.replace(settings, redis_url=type(settings.redis_url)("redis://127.0.0.1:1/0"))
    async with worker(cut_off, wall_clock, outbox) as running, browser(create_app(running)) as http:
        for path in ENDPOINTS:
            answer = await call(http, path, by(robot.assertion()))
            assert_error(answer, 503, "temporarily_unavailable")
            assert int(answer.headers["retry-after"]) >= 1


# Keys


@pytest.fixture
async def listening_app(
    services: Services, settings: Settings, wall_clock: TestClock, outbox: Outbox
) -> AsyncIterator[Litestar]:
    async with listening_worker(services, settings, wall_clock, outbox) as running:
        yield create_app(running)


@pytest.mark.standard("AT-51", "AT-31", "KY-21")
async def test_keys_are_exchanged_without_a_gap_and_a_removed_one_opens_nothing(
    app: Litestar, listening_app: Litestar, services: Services, clock: TestClock
) -> None:
    robot = await new_robot(services, clock, EC_KEY)

    async def opened(by_key: Key) -> list[int]:
        assertions = [by(robot.assertion(key=by_key)) for _ in range(2)]
        asked = zip((app, listening_app), assertions, strict=True)
        return [(await call_from_anywhere(where, "/token", auth)).status_code for where, auth in asked]

    async def register(*keys: Key) -> None:
        changes = ClientChanges(jwks={"keys": [key.jwk for key in keys]})
        await services.client_administration.change(robot.client_id, changes)

    assert (await opened(EC_KEY), (await opened(SECOND_KEY))[0]) == ([200, 200], 401)
    await register(EC_KEY, SECOND_KEY)
    await eventually(lambda: opened(SECOND_KEY), [200, 200])
    assert await opened(EC_KEY) == [200, 200]
    await register(SECOND_KEY)
    assert (await opened(EC_KEY))[0] == 401
    await eventually(lambda: opened(EC_KEY), [401, 401])
    assert await opened(SECOND_KEY) == [200, 200]
