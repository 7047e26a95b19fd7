"""`private_key_jwt` (RFC 7523 and its update): what a genuine assertion looks like, and every other one refused."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import httpx
import jwt
import pytest
from litestar import Litestar

from service.wiring import Services
from tests.conftest import ISSUER, TestClock
from tests.deeds import registered
from tests.oauth.acting import assert_error
from tests.oauth.proving import ENDPOINTS, Auth, by_basic, by_name, by_post, call, call_from_anywhere, new_id_of_client
from tests.oauth.robots import (
    EC_KEY,
    SECOND_KEY,
    STRANGE_KEY,
    Robot,
    by,
    encoded,
    new_robot,
    rsa_key,
    signed,
    text_of,
)


@pytest.fixture
async def robot(services: Services, clock: TestClock) -> Robot:
    return await new_robot(services, clock, EC_KEY, rsa_key(), SECOND_KEY)


# What opens


@pytest.mark.standard("AT-51", "AT-18", "W-C")
async def test_a_genuine_assertion_opens_each_endpoint(http: httpx.AsyncClient, robot: Robot) -> None:
    now = int(robot.clock().timestamp())
    good: dict[str, Auth] = {
        "as it should be": by(robot.assertion()),
        "with its client beside it": by(robot.assertion(), client_id=robot.client_id),
        "without a typ": by(robot.assertion(header={"typ": None})),
        "typ of the update": by(robot.assertion(header={"typ": "client-authentication+jwt"})),
        "without a kid": by(robot.assertion(header={"kid": None})),
        "without iat": by(robot.assertion(iat=None)),
        "by the second key": by(robot.assertion(key=SECOND_KEY)),
        "by PS256": by(robot.assertion(key=rsa_key())),
        "for five minutes": by(robot.assertion(exp=now + 300)),
        "in fractions": by(robot.assertion(exp=now + 59.5, iat=now + 0.25)),
        "of a clock that is a little ahead": by(robot.assertion(iat=now + 20, nbf=now + 20)),
        "with claims that nobody knows": by(robot.assertion(amr=["x"], scope="admin")),
    }
    for name, auth in good.items():
        answer = await call(http, "/token", auth)
        assert answer.status_code == 200, name
        assert jwt.decode(answer.json()["access_token"], options={"verify_signature": False})["sub"] == robot.client_id
    for path in ENDPOINTS:
        assert (await call(http, path, by(robot.assertion()))).status_code == 200


# What does not


def changed(**claims: Any) -> Callable[[Robot], str]:
    return lambda robot: robot.assertion(**claims)


def headed(**header: Any) -> Callable[[Robot], str]:
    return lambda robot: robot.assertion(header=header)


def later(**seconds: float) -> Callable[[Robot], str]:
    def make(robot: Robot) -> str:
        now = int(robot.clock().timestamp())
        moments: dict[str, Any] = {name: now + ahead for name, ahead in seconds.items()}
        return robot.assertion(**moments)

    return make


def raw(change: Callable[[bytes], bytes]) -> Callable[[Robot], str]:
    """Claims whose text was changed before it was signed."""
    head = {"alg": "ES256", "kid": EC_KEY.kid}
    return lambda robot: signed(head, change(json.dumps(robot.claims()).encode()), "ES256", EC_KEY.private)


def with_algorithm(name: str, key: Any, **header: Any) -> Callable[[Robot], str]:
    return lambda robot: signed({"alg": name, "kid": EC_KEY.kid, **header}, robot.claims(), name, key)


def by_rsa(algorithm: str, robot: Robot) -> str:
    return with_algorithm(algorithm, rsa_key().private, kid="rsa")(robot)


def unsigned(algorithm: str) -> Callable[[Robot], str]:
    head = encoded(text_of({"alg": algorithm, "kid": EC_KEY.kid}))
    return lambda robot: f"{head}.{encoded(text_of(robot.claims()))}."


OTHER_JWK = STRANGE_KEY.jwk
REFUSED: dict[str, Callable[[Robot], str]] = {
    "aud: the token endpoint": changed(aud=f"{ISSUER}/token"),
    "aud: the introspection endpoint": changed(aud=f"{ISSUER}/introspect"),
    "aud: our issuer in an array": changed(aud=[ISSUER]),
    "aud: an array of two": changed(aud=[ISSUER, f"{ISSUER}/token"]),
    "aud: with a slash": changed(aud=f"{ISSUER}/"),
    "aud: in capitals": changed(aud=ISSUER.upper()),
    "aud: another server": changed(aud="https://other.test"),
    "aud: none": changed(aud=None),
    "aud: empty": changed(aud=""),
    "aud: an object": changed(aud={"https://auth.test": True}),
    "iss: another client": changed(iss="web"),
    "iss: none": changed(iss=None),
    "sub: another client": changed(sub="web"),
    "sub: none": changed(sub=None),
    "iss and sub: another client": changed(iss="web", sub="web"),
    "iss and sub: nobody": changed(iss="nobody-knows", sub="nobody-knows"),
    "iss: in capitals": lambda robot: robot.assertion(iss=robot.client_id.upper(), sub=robot.client_id.upper()),
    "exp: none": changed(exp=None),
    "exp: now": later(exp=0),
    "exp: past": later(exp=-1, iat=-60),
    "exp: too far": later(exp=300 + 31 + 5),
    "exp: a day": later(exp=86_400),
    "exp: negative": changed(exp=-1),
    "exp: a text": lambda robot: robot.assertion(exp=str(int(robot.clock().timestamp()) + 60)),
    "exp: true": changed(exp=True),
    "exp: endless": raw(lambda text: text.replace(b'"exp": ', b'"exp": 1e400, "x": ')),
    "exp: Infinity": raw(lambda text: text.replace(b'"exp": ', b'"exp": Infinity, "x": ')),
    "iat: to come": later(iat=45),
    "iat: a text": changed(iat="now"),
    "nbf: to come": later(nbf=45),
    "jti: none": changed(jti=None),
    "jti: empty": changed(jti=""),
    "jti: a number": changed(jti=7),
    "jti: too long": changed(jti="j" * 257),
    "alg: none": unsigned("none"),
    "alg: None": unsigned("None"),
    "alg: none, signed": headed(alg="none"),
    "alg: empty": headed(alg=""),
    "alg: in lower case": headed(alg="es256"),
    "alg: none at all": headed(alg=None),
    "alg: another of the same family": headed(alg="ES384"),
    "HS256 with the public key": with_algorithm("HS256", EC_KEY.pem),
    "HS256 with the public JWK": with_algorithm("HS256", json.dumps(EC_KEY.jwk).encode()),
    "HS256 with nothing": with_algorithm("HS256", b""),
    "RS256 with the RSA key": lambda robot: by_rsa("RS256", robot),
    "PS384 with the RSA key": lambda robot: by_rsa("PS384", robot),
    "a kid of another kind of key": lambda robot: robot.assertion(header={"kid": "rsa"}),
    "a kid of another key": headed(kid="second"),
    "an unknown kid": headed(kid="unknown"),
    "a kid that is a path": headed(kid="../../../dev/null"),
    "a kid that is a number": headed(kid=1),
    "a key that is not registered": lambda robot: robot.assertion(key=STRANGE_KEY),
    "a key that is not registered, without kid": lambda robot: robot.assertion(key=STRANGE_KEY, header={"kid": None}),
    "jwk": lambda robot: robot.assertion(key=STRANGE_KEY, header={"jwk": OTHER_JWK}),
    "jwk beside the right key": headed(jwk=EC_KEY.jwk),
    "jku": headed(jku="https://evil.example/jwks.json"),
    "x5u": headed(x5u="https://evil.example/chain.pem"),
    "x5c": headed(x5c=["AA"]),
    "crit": headed(crit=["exp"]),
    "b64": headed(b64=False, crit=["b64"]),
    "typ: an access token": headed(typ="at+jwt"),
    "typ: an introspection": headed(typ="token-introspection+jwt"),
    "typ: a proof": headed(typ="dpop+jwt"),
    "typ: a logout": headed(typ="logout+jwt"),
    "a claim twice": raw(lambda text: text.replace(b'"aud": ', b'"aud": "https://other.test", "aud": ')),
    "a client twice": raw(lambda text: text.replace(b'"iss": ', b'"iss": "web", "iss": ')),
    "a header member twice": lambda robot: signed(
        b'{"alg":"ES256","alg":"ES256"}', robot.claims(), "ES256", EC_KEY.private
    ),
    "no UTF-8": raw(lambda text: text.replace(b'"jti"', b'"x": "\xff", "jti"')),
    "UTF-16": raw(lambda text: text.decode().encode("utf-16")),
    "a byte-order mark": raw(lambda text: b"\xef\xbb\xbf" + text),
    "no object": raw(lambda text: b"[" + text + b"]"),
    "something behind it": raw(lambda text: text + b"{}"),
    "deep": raw(lambda text: text.replace(b'"jti"', b'"x": ' + b"[" * 600 + b"]" * 600 + b', "jti"')),
    "too long": changed(x="x" * 4096),
    "no signature": lambda robot: robot.assertion().rpartition(".")[0] + ".",
    "two parts": lambda robot: robot.assertion().rpartition(".")[0],
    "four parts": lambda robot: robot.assertion() + ".AA",
    "a DER signature": lambda robot: f"{robot.assertion().rpartition('.')[0]}.{encoded(b'0' * 70)}",
    "other claims under a signature": lambda robot: ".".join(
        (robot.assertion().split(".")[0], encoded(text_of(robot.claims())), robot.assertion().split(".")[2])
    ),
    "dots": lambda robot: "..",
    "garbage": lambda robot: "garbage",
    "no ASCII": lambda robot: "é.é.é",
}


@pytest.mark.standard("AT-51", "AT-02", "AT-03", "AT-29", "AT-30", "AT-32", "AT-33", "AT-34", "W-C", "W-X")
async def test_every_other_assertion_is_refused_like_any_client(app: Litestar, robot: Robot) -> None:
    answers = await asyncio.gather(
        *(call_from_anywhere(app, "/token", by(make(robot))) for make in REFUSED.values()),
    )
    for name, answer in zip(REFUSED, answers, strict=True):
        assert answer.status_code == 401, name
        assert_error(answer, 401, "invalid_client")
    assert len({answer.content for answer in answers}) == 1
    assert (await call_from_anywhere(app, "/token", by(robot.assertion()))).status_code == 200


@pytest.mark.standard("W-C", "AT-16", "AT-51")
async def test_an_assertion_speaks_for_its_own_client_and_a_registered_one(
    app: Litestar, services: Services, clock: TestClock, robot: Robot
) -> None:
    other = await new_robot(services, clock, SECOND_KEY)
    keyless = new_id_of_client()
    secret = await registered(services, keyless)
    disabled = await new_robot(services, clock, EC_KEY)
    await services.client_administration.set_disabled(disabled.client_id, True)

    wrongs = {
        "beside another's id": by(robot.assertion(), client_id=other.client_id),
        "another's key": by(Robot(other.client_id, EC_KEY, clock).assertion()),
        "a client without keys": by(Robot(keyless, EC_KEY, clock).assertion()),
        "a front end": by(Robot("web", EC_KEY, clock).assertion()),
        "a disabled client": by(disabled.assertion()),
        "no assertion from who needs one": by_name(robot.client_id),
        "a secret from who has none": by_basic(robot.client_id, secret),
        "an empty secret": by_basic(robot.client_id, ""),
        "a secret in the body": by_post(robot.client_id, secret),
    }
    for path in ENDPOINTS:
        answers = await asyncio.gather(*(call_from_anywhere(app, path, auth) for auth in wrongs.values()))
        for name, answer in zip(wrongs, answers, strict=True):
            assert answer.status_code == 401, name
            assert_error(answer, 401, "invalid_client")
