"""requests-oauthlib: a service of its own, and a front end without a secret that refreshes by itself."""

import asyncio
from typing import Any

import pytest
import requests
from oauthlib.oauth2 import BackendApplicationClient, LegacyApplicationClient, WebApplicationClient
from oauthlib.oauth2.rfc6749.errors import (
    InvalidClientError,
    InvalidGrantError,
    InvalidScopeError,
    UnsupportedGrantTypeError,
)
from requests.auth import HTTPBasicAuth
from requests_oauthlib import OAuth2Session

from tests.clients.server import Running
from tests.conftest import PASSWORD
from tests.deeds import with_account
from tests.oauth.acting import Software, new_api, new_front_end, new_service, session_through


@pytest.fixture(autouse=True)
def plain_http(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library's own switch for tests on loopback."""
    monkeypatch.setenv("OAUTHLIB_INSECURE_TRANSPORT", "1")


def fetched(at: Running, client: Software, scope: str | None = None, **more: Any) -> dict[str, Any]:
    """What the library reads from an answer to client_credentials."""
    with OAuth2Session(client=BackendApplicationClient(client.client_id, scope=scope)) as session:
        return dict(session.fetch_token(at.at("token_endpoint"), client_secret=client.secret, **more))


@pytest.mark.standard("AT-37", "AT-39", "AT-40", "AT-42")
async def test_a_backend_gets_a_token_with_its_secret_in_the_header_or_in_the_body(at: Running) -> None:
    api = await new_api(at.services)
    client = await new_service(at.services, scopes=api.scopes, audiences=[api.identifier])
    basic = HTTPBasicAuth(client.client_id, client.secret)

    def ask() -> None:
        for how in ({"auth": basic}, {"include_client_id": True}):
            # The library raises when the scope of the answer is another one than it asked for.
            got = fetched(at, client, api.read, **how)
            assert set(got) == {"access_token", "token_type", "expires_in", "expires_at", "scope"}
            assert (got["token_type"], got["expires_in"], got["scope"]) == ("Bearer", 600, [api.read])

    await asyncio.to_thread(ask)


@pytest.mark.standard("AT-15", "AT-17", "AT-41")
async def test_a_backend_reads_our_refusals_by_their_names(at: Running) -> None:
    client = await new_service(at.services)
    stranger = Software(client.client_id, "another secret")

    def ask() -> None:
        with pytest.raises(InvalidClientError):
            fetched(at, stranger)
        with pytest.raises(InvalidScopeError):
            fetched(at, client, "unheard:of")
        with (
            OAuth2Session(client=LegacyApplicationClient(client.client_id)) as session,
            pytest.raises(UnsupportedGrantTypeError),
        ):
            session.fetch_token(
                at.at("token_endpoint"), username="somebody", password=PASSWORD, client_secret=client.secret
            )

    await asyncio.to_thread(ask)


@pytest.mark.standard("AT-39", "AT-43", "SE-22")
async def test_a_front_end_without_a_secret_refreshes_by_itself_and_keeps_what_it_got(at: Running) -> None:
    person = await with_account(at.services)
    credentials = {"email": person.email, "password": person.password}

    def act() -> None:
        kept: list[dict[str, Any]] = []
        with OAuth2Session(
            "web",
            auto_refresh_url=at.at("token_endpoint"),
            auto_refresh_kwargs={"client_id": "web"},
            token_updater=kept.append,
        ) as session:
            answer = requests.post(f"{at.issuer}/auth/login", json=credentials, timeout=20)
            session.token = {**answer.json(), "expires_at": 1}
            for _ in range(2):
                assert session.get(f"{at.issuer}/me").json()["email"] == person.email
            (token,) = kept
            assert token["refresh_token"] != answer.json()["refresh_token"]
            assert token["scope"] == ["account"]
            session.token = {**token, "expires_at": 1}
            assert session.get(f"{at.issuer}/me").status_code == 200
            assert len({held["refresh_token"] for held in kept}) == 2

    await asyncio.to_thread(act)


@pytest.mark.standard("RV-01", "RV-04", "SE-27")
async def test_a_front_end_gives_its_refresh_token_up_and_learns_that_it_is_over(at: Running) -> None:
    front_end = await new_front_end(at.services)
    _, grant = await session_through(at.services, front_end)

    def act() -> None:
        client = WebApplicationClient(front_end.client_id)
        with OAuth2Session(client=client) as session:
            url, headers, body = client.prepare_token_revocation_request(
                at.at("revocation_endpoint"), grant.refresh_token, "refresh_token", client_id=front_end.client_id
            )
            answer = requests.post(url, data=body, headers=headers, timeout=20)
            assert (answer.status_code, answer.content) == (200, b"")
            with pytest.raises(InvalidGrantError):
                session.refresh_token(at.at("token_endpoint"), grant.refresh_token, client_id=front_end.client_id)

    await asyncio.to_thread(act)
