"""Authlib as the client, as the resource server that asks, and as the one that verifies for itself."""

import asyncio
import time
from dataclasses import dataclass, field
from typing import Any

import pytest
import requests
from authlib.integrations.base_client import OAuthError
from authlib.integrations.httpx_client import AsyncOAuth2Client
from authlib.integrations.requests_client import OAuth2Session
from authlib.oauth2 import ResourceProtector
from authlib.oauth2.rfc6750.errors import InsufficientScopeError, InvalidTokenError
from authlib.oauth2.rfc7523 import PrivateKeyJWT
from authlib.oauth2.rfc7662 import IntrospectTokenValidator
from authlib.oauth2.rfc9068 import JWTBearerTokenValidator
from joserfc.jwk import ECKey, KeySet

from tests.clients.server import KeyPair, Running
from tests.oauth.acting import Software, new_api, new_backend, new_front_end, new_service, session_through

ANSWER = {"access_token", "token_type", "expires_in", "expires_at", "scope"}
"""What Authlib makes of an answer without a refresh token; the moment of its end is its own addition."""


def session(at: Running, client: Software, method: str | None = None) -> OAuth2Session:
    """Authlib on top of requests, for a client with a secret or without."""
    return OAuth2Session(
        client.client_id,
        client.secret or None,
        token_endpoint=at.at("token_endpoint"),
        token_endpoint_auth_method=method,
        revocation_endpoint_auth_method=method,
    )


class ShortLived(PrivateKeyJWT):  # type: ignore[misc]
    """Authlib's own assertions live for an hour, and those with claims of one's own share one `jti`."""

    def sign(self, auth: Any, token_endpoint: str) -> Any:
        self.claims = {"exp": int(time.time()) + 60}
        return super().sign(auth, token_endpoint)


def asserting(at: Running, client: Software, pair: KeyPair, method: PrivateKeyJWT) -> AsyncOAuth2Client:
    """Authlib on top of httpx, for a client with a key."""
    made = AsyncOAuth2Client(
        client.client_id,
        ECKey.import_key(pair.pem),
        token_endpoint=at.at("token_endpoint"),
        token_endpoint_auth_method="private_key_jwt",
        revocation_endpoint_auth_method="private_key_jwt",
    )
    made.register_client_auth_method(method)
    return made


@dataclass
class Seen:
    """A request to a resource, as Authlib wants to see one."""

    token: str
    headers: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        self.headers = {"Authorization": f"Bearer {self.token}"}


class Asking(IntrospectTokenValidator):  # type: ignore[misc]
    """A resource server that asks us."""

    def __init__(self, at: Running, caller: Software) -> None:
        super().__init__(realm="api")
        self._session, self._url = session(at, caller), at.at("introspection_endpoint")

    def introspect_token(self, token_string: str) -> Any:
        answer = self._session.introspect_token(self._url, token=token_string, token_type_hint="access_token")
        answer.raise_for_status()
        return answer.json()


class Verifying(JWTBearerTokenValidator):  # type: ignore[misc]
    """A resource server that verifies by the keys of the metadata alone (RFC 9068 section 4)."""

    def __init__(self, at: Running, audience: str) -> None:
        super().__init__(issuer=at.metadata["issuer"], resource_server=audience)
        self._url = at.at("jwks_uri")

    def get_jwks(self) -> Any:
        return KeySet.import_key_set(requests.get(self._url, timeout=20).json())


def protector(validator: Any) -> ResourceProtector:
    made = ResourceProtector()
    made.register_token_validator(validator)
    return made


@pytest.mark.standard("AT-37", "AT-39", "AT-41", "AT-42")
async def test_authlib_gets_tokens_with_a_secret_in_the_header_or_in_the_body(at: Running) -> None:
    api = await new_api(at.services)
    client = await new_service(at.services, scopes=api.scopes, audiences=[api.identifier])

    def ask() -> None:
        for method in ("client_secret_basic", "client_secret_post"):
            got = session(at, client, method).fetch_token(scope=api.read)
            assert set(got) == ANSWER, method
            assert (got["token_type"], got["scope"], got.is_expired()) == ("Bearer", api.read, False)
            with pytest.raises(OAuthError) as caught:
                session(at, Software(client.client_id, "another secret"), method).fetch_token()
            assert caught.value.error == "invalid_client"

    await asyncio.to_thread(ask)


@pytest.mark.standard("AT-51", "AT-39", "IN-02", "RV-04")
async def test_authlib_proves_itself_by_a_key_at_every_endpoint(at: Running) -> None:
    pair = KeyPair.new()
    client = await new_service(at.services, auth_methods=["private_key_jwt"], jwks=pair.jwks)
    asking, revoking = at.at("introspection_endpoint"), at.at("revocation_endpoint")

    async with asserting(at, client, pair, ShortLived(at.issuer, alg="ES256")) as holder:
        token = (await holder.fetch_token())["access_token"]
        assert (await holder.introspect_token(asking, token=token)).json()["active"] is True
        answer = await holder.revoke_token(revoking, token=token, token_type_hint="access_token")
        assert (answer.status_code, answer.content) == (200, b"")
        assert (await holder.introspect_token(asking, token=token)).json() == {"active": False}


@pytest.mark.standard("AT-51", "AT-18")
async def test_authlib_is_refused_when_its_assertion_is_for_the_endpoint_lives_for_an_hour_or_comes_twice(
    at: Running,
) -> None:
    pair, soon = KeyPair.new(), int(time.time()) + 60
    client = await new_service(at.services, auth_methods=["private_key_jwt"], jwks=pair.jwks)
    for method, times in (
        (ShortLived(at.at("token_endpoint"), alg="ES256"), 0),
        (PrivateKeyJWT(at.issuer, alg="ES256"), 0),
        (PrivateKeyJWT(at.issuer, alg="ES256", claims={"exp": soon}), 1),
    ):
        async with asserting(at, client, pair, method) as holder:
            for _ in range(times):
                await holder.fetch_token()
            with pytest.raises(OAuthError) as caught:
                await holder.fetch_token()
            assert caught.value.error == "invalid_client"


@pytest.mark.standard("AT-39", "AT-40", "AT-43")
async def test_authlib_refreshes_for_a_public_client_and_for_one_with_a_secret(at: Running) -> None:
    api = await new_api(at.services)
    backend = await new_backend(at.services, api)
    front_end = await new_front_end(at.services)
    for client in (backend, front_end):
        _, grant = await session_through(at.services, client)

        def refresh(client: Software = client, token: str = grant.refresh_token) -> None:
            with session(at, client) as holder:
                first = dict(holder.refresh_token(refresh_token=token))
                assert set(first) == {*ANSWER, "refresh_token"}
                second = dict(holder.refresh_token())
                assert len({token, first["refresh_token"], second["refresh_token"]}) == 3
                holder.token = {**second, "expires_at": 1}
                assert holder.get(f"{at.issuer}/me").status_code == 200  # it refreshes by itself before it asks
                assert holder.token["refresh_token"] != second["refresh_token"]
                with pytest.raises(OAuthError) as caught:
                    holder.refresh_token(refresh_token="vrt_nobody")
                assert caught.value.error == "invalid_grant"

        await asyncio.to_thread(refresh)


@pytest.mark.standard("RV-01", "RV-06", "RV-10", "IN-06", "IN-15")
async def test_authlib_revokes_a_refresh_token_and_sees_that_everything_of_it_is_over(at: Running) -> None:
    backend = await new_backend(at.services)
    _, grant = await session_through(at.services, backend)
    asking, revoking = at.at("introspection_endpoint"), at.at("revocation_endpoint")

    def act() -> None:
        with session(at, backend) as holder:
            for token in (grant.access_token, grant.refresh_token):
                assert holder.introspect_token(asking, token=token).json()["active"] is True
            for _ in range(2):
                answer = holder.revoke_token(revoking, token=grant.refresh_token, token_type_hint="refresh_token")
                assert (answer.status_code, answer.content) == (200, b"")
            for token in (grant.access_token, grant.refresh_token):
                assert holder.introspect_token(asking, token=token).json() == {"active": False}

    await asyncio.to_thread(act)


@pytest.mark.standard("IN-05", "IN-10", "AT-08", "AT-09")
async def test_a_resource_of_authlib_that_asks_us_lets_in_who_has_the_scope(at: Running) -> None:
    api = await new_api(at.services)
    client = await new_service(at.services, scopes=api.scopes, audiences=[api.identifier])
    resource = await new_service(at.services, serves=[api.identifier])

    def act() -> None:
        guard = protector(Asking(at, resource))
        token = session(at, client).fetch_token(scope=api.read)["access_token"]
        assert guard.validate_request([api.read], Seen(token))["sub"] == client.client_id
        with pytest.raises(InsufficientScopeError):
            guard.validate_request([api.write], Seen(token))
        session(at, client).revoke_token(at.at("revocation_endpoint"), token=token)
        for dead in (token, "nonsense"):
            with pytest.raises(InvalidTokenError):
                guard.validate_request([api.read], Seen(dead))

    await asyncio.to_thread(act)


@pytest.mark.standard("AT-19", "AT-20", "AT-23", "AT-24", "AT-26")
async def test_a_resource_of_authlib_verifies_what_people_and_services_hold_by_rfc_9068(at: Running) -> None:
    api = await new_api(at.services)
    client = await new_service(at.services, scopes=api.scopes, audiences=[api.identifier])
    _, grant = await session_through(at.services, await new_backend(at.services), "admin")

    def act() -> None:
        ours, theirs = (protector(Verifying(at, audience)) for audience in (at.issuer, api.identifier))
        claims = ours.validate_request(["account"], Seen(grant.access_token), roles=["admin"])
        assert (claims["iss"], claims["aud"], claims["amr"]) == (at.issuer, at.issuer, ["pwd"])
        for_itself = session(at, client).fetch_token()["access_token"]
        assert theirs.validate_request([api.read], Seen(for_itself))["client_id"] == client.client_id
        for guard, foreign in ((theirs, grant.access_token), (ours, for_itself)):
            with pytest.raises(InvalidTokenError):
                guard.validate_request(None, Seen(foreign))

    await asyncio.to_thread(act)
