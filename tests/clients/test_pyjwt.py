"""PyJWT's key client: verifies our tokens by the `jwks_uri` of the metadata alone, whatever becomes of the keys."""

import asyncio
from datetime import timedelta
from typing import Any

import httpx
import jwt
import pytest

from tests.clients.server import Running
from tests.conftest import TestClock
from tests.oauth.acting import Software, header_of, new_api, new_backend, new_service, session_through

REQUIRED = ["iss", "sub", "aud", "exp", "iat", "jti", "client_id"]


class Counting(jwt.PyJWKClient):
    """The key client as it comes, which says how often it asked."""

    fetches = 0

    def fetch_data(self) -> Any:
        self.fetches += 1
        return super().fetch_data()


def keys_of(at: Running) -> Counting:
    return Counting(at.at("jwks_uri"))


async def verified(
    at: Running, keys: jwt.PyJWKClient, token: str, audience: str | None = None, leeway: float = 0
) -> dict[str, Any]:
    """The claims, as a resource server reads them that knows our metadata. Raises `PyJWTError`."""
    key = await asyncio.to_thread(keys.get_signing_key_from_jwt, token)
    return jwt.decode(
        token,
        key,
        algorithms=["ES256"],
        audience=audience or at.issuer,
        issuer=at.metadata["issuer"],
        leeway=leeway,
        options={"require": REQUIRED},
    )


async def bought(at: Running, client: Software) -> str:
    """A service's token for itself, asked for over TCP."""
    async with httpx.AsyncClient(base_url=at.issuer) as http:
        return await client.token(http)


@pytest.mark.standard("AT-19", "AT-20", "KY-23", "KY-24", "KY-25")
async def test_a_token_of_a_person_and_one_of_a_service_verify_by_the_published_keys(at: Running) -> None:
    api = await new_api(at.services)
    client = await new_service(at.services, scopes=api.scopes, audiences=[api.identifier])
    _, grant = await session_through(at.services, await new_backend(at.services))
    keys, for_itself = keys_of(at), await bought(at, client)

    assert (await verified(at, keys, grant.access_token))["scope"] == "account"
    assert (await verified(at, keys, for_itself, api.identifier))["sub"] == client.client_id
    assert keys.fetches == 1
    with pytest.raises(jwt.InvalidAudienceError):
        await verified(at, keys, grant.access_token, api.identifier)
    said, proof = grant.access_token.rpartition(".")[0], for_itself.rpartition(".")[2]
    with pytest.raises(jwt.InvalidSignatureError):
        await verified(at, keys, f"{said}.{proof}")


@pytest.mark.standard("KY-26")
async def test_a_rotation_costs_a_resource_server_neither_a_token_nor_a_request(at: Running, clock: TestClock) -> None:
    client = await new_service(at.services)
    before, keys = await bought(at, client), keys_of(at)
    await verified(at, keys, before)

    scheduled, _ = await at.services.signing_keys.rotate()
    during = await bought(at, client)
    assert header_of(during)["kid"] == header_of(before)["kid"]
    assert scheduled.activates_at is not None
    ahead = scheduled.activates_at - clock() + timedelta(seconds=1)
    await clock.advance(seconds=ahead.total_seconds())
    after = await bought(at, client)
    assert header_of(after)["kid"] == scheduled.kid

    leeway = ahead.total_seconds() + 1  # PyJWT reads the clock of the machine
    for token in (before, during, after):
        await verified(at, keys, token, leeway=leeway)
    assert keys.fetches == 1
    for token in (before, during, after):
        await verified(at, keys_of(at), token, leeway=leeway)


@pytest.mark.standard("KY-31")
async def test_a_revoked_key_is_gone_for_who_looks_and_the_next_one_is_known_already(at: Running) -> None:
    client = await new_service(at.services)
    before, early = await bought(at, client), keys_of(at)
    await verified(at, early, before)

    await at.services.signing_keys.revoke(header_of(before)["kid"])
    after = await bought(at, client)

    assert header_of(after)["kid"] != header_of(before)["kid"]
    await verified(at, early, after)
    assert early.fetches == 1
    await verified(at, keys_of(at), after)
    with pytest.raises(jwt.PyJWKClientError):
        await verified(at, keys_of(at), before)
