"""Discord, GitHub and Google by their names alone: what is called is what they document, and nothing else.

No network: a transport stands for their hosts, and knows the addresses and shapes of their own documentation.
"""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import httpx
import pytest

from service.clock import utc_now
from service.crypto.pkce import challenge_of, new_verifier
from service.errors import ProviderUnavailable
from service.providers.directory import Providers
from service.providers.discord import DiscordProvider
from service.providers.provider import Asked, Provider
from service.settings import load
from tests.test_settings import given

BACK = "https://auth.example.com/auth/social/x/callback"
VERIFIER = new_verifier()
ASKED = Asked(BACK, "the state", "the nonce", VERIFIER)
GOOGLE = {
    "issuer": "https://accounts.google.com",
    "authorization_endpoint": "https://accounts.google.com/o/oauth2/v2/auth",
    "token_endpoint": "https://oauth2.googleapis.com/token",
    "userinfo_endpoint": "https://openidconnect.googleapis.com/v1/userinfo",
    "jwks_uri": "https://www.googleapis.com/oauth2/v3/certs",
    "id_token_signing_alg_values_supported": ["RS256"],
    "token_endpoint_auth_methods_supported": ["client_secret_post", "client_secret_basic"],
}
TOKEN = {"access_token": "a token", "token_type": "bearer", "scope": "user:email"}
ADDRESSES = [
    {"email": "shown@users.example", "primary": False, "verified": True, "visibility": None},
    {"email": "octo@cat.example", "primary": True, "verified": True, "visibility": "private"},
]
GUILD: dict[str, Any] = {"id": "1", "name": "One", "icon": None, "owner": True, "features": []}


def github(api: str) -> dict[str, Any]:
    """A GitHub server whose API is there."""
    user = {"id": 583231, "login": "octocat", "avatar_url": "https://a.example/1", "email": None, "name": "Octo"}
    return {f"{api}/user": user, f"{api}/user/emails?per_page=100": ADDRESSES}


def discord(version: str, permissions: dict[str, Any]) -> dict[str, Any]:
    """One version of Discord's API; the one without a number is version 6, in which permissions were numbers."""
    site = f"https://discord.com/api{version}/users/@me"
    user = {"id": "80351110224678912", "username": "nelly", "global_name": None, "avatar": None}
    return {site: {**user, "email": "nelly@discord.example", "verified": True}, f"{site}/guilds": [GUILD | permissions]}


WEB: dict[str, Any] = {
    "https://accounts.google.com/.well-known/openid-configuration": GOOGLE,
    "https://github.com/login/oauth/access_token": TOKEN,
    "https://forge.example/login/oauth/access_token": TOKEN,
    "https://octo.ghe.example/login/oauth/access_token": TOKEN,
    **github("https://api.github.com"),
    **github("https://forge.example/api/v3"),
    **github("https://api.octo.ghe.example"),
    "https://discord.com/api/oauth2/token": {**TOKEN, "expires_in": 604800, "refresh_token": "another"},
    **discord("", {"permissions": 2147483647, "permissions_new": "2248473465835073"}),
    **discord("/v9", {"permissions": "2248473465835073"}),
    **discord("/v10", {"permissions": "2248473465835073"}),
}


class Web:
    """Their hosts: every call is kept, and what nobody documents is not there."""

    def __init__(self) -> None:
        self.calls: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.calls.append(request)
        found = WEB.get(str(request.url))
        return (
            httpx.Response(404, stream=httpx.ByteStream(b""))
            if found is None
            else httpx.Response(200, stream=httpx.ByteStream(json.dumps(found).encode()))
        )

    @property
    def called(self) -> list[str]:
        return [f"{request.method} {request.url}" for request in self.calls]


@asynccontextmanager
async def provider_of(web: Web, name: str, **fields: str) -> AsyncIterator[Provider]:
    """The one provider of these settings."""
    values = {"CLIENT_ID": "our-id", "CLIENT_SECRET": "our-secret", **fields}
    variables = {f"VESTIBULE_PROVIDER_{name.upper()}_{field}": value for field, value in values.items()}
    handler: Callable[[httpx.Request], httpx.Response] = web
    providers = Providers.of(load(given(**variables)), utc_now, httpx.MockTransport(handler))
    try:
        yield providers.get(name)
    finally:
        await providers.close()


USUAL = {
    "response_type": "code",
    "client_id": "our-id",
    "redirect_uri": BACK,
    "state": "the state",
    "code_challenge": challenge_of(VERIFIER),
    "code_challenge_method": "S256",
}
PLACES: dict[str, tuple[str, dict[str, str]]] = {
    "discord": ("https://discord.com/oauth2/authorize", {"scope": "identify email guilds"}),
    "github": ("https://github.com/login/oauth/authorize", {"scope": "user:email"}),
    "google": (
        "https://accounts.google.com/o/oauth2/v2/auth",
        {"scope": "openid email profile", "nonce": "the nonce"},
    ),
}


@pytest.mark.standard("SO-04", "SO-15")
@pytest.mark.parametrize("name", PLACES)
async def test_people_are_sent_to_the_real_place_with_the_least_that_is_needed(name: str) -> None:
    place, particular = PLACES[name]
    async with provider_of(Web(), name) as provider:
        parts = urlsplit(await provider.authorize_url(ASKED))
    assert parts._replace(query="").geturl() == place
    pairs = parse_qsl(parts.query, keep_blank_values=True)
    assert dict(pairs) == {**USUAL, **particular}
    assert len(pairs) == len(dict(pairs))


@pytest.mark.standard("SO-12")
async def test_a_new_proof_is_asked_for_where_the_provider_knows_how() -> None:
    again = Asked(BACK, "the state", "the nonce", VERIFIER, login_again=True)
    wanted = {"discord": (None, None), "github": (None, None), "google": ("select_account", "0")}
    for name, (prompt, max_age) in wanted.items():
        async with provider_of(Web(), name) as provider:
            query = dict(parse_qsl(urlsplit(await provider.authorize_url(again)).query))
        assert (query.get("prompt"), query.get("max_age")) == (prompt, max_age), name


@pytest.mark.standard("SO-23")
@pytest.mark.parametrize(
    ("fields", "site", "api"),
    [
        ({}, "https://github.com", "https://api.github.com"),
        ({"URL": "https://forge.example"}, "https://forge.example", "https://forge.example/api/v3"),
        (
            {"URL": "https://octo.ghe.example", "API_URL": "https://api.octo.ghe.example"},
            "https://octo.ghe.example",
            "https://api.octo.ghe.example",
        ),
    ],
)
async def test_a_github_is_asked_at_its_site_and_its_api(fields: dict[str, str], site: str, api: str) -> None:
    web = Web()
    async with provider_of(web, "github", **fields) as provider:
        assert provider.issuer == f"{site}/login/oauth"
        person, tokens = await provider.identify("a code", BACK, VERIFIER, "the nonce")
    assert web.called == [
        f"POST {site}/login/oauth/access_token",
        f"GET {api}/user",
        f"GET {api}/user/emails?per_page=100",
    ]
    assert (person.issuer, person.subject, person.username) == (f"{site}/login/oauth", "583231", "octocat")
    assert (person.email, person.email_verified) == ("octo@cat.example", True)
    assert tokens.access_token == "a token"
    sent = dict(parse_qsl(web.calls[0].content.decode()))
    assert sent == {
        "grant_type": "authorization_code",
        "code": "a code",
        "redirect_uri": BACK,
        "client_id": "our-id",
        "client_secret": "our-secret",
        "code_verifier": VERIFIER,
    }
    assert all(request.headers["user-agent"] for request in web.calls)  # GitHub refuses calls of nobody
    assert web.calls[0].headers["accept"] == "application/json"


async def test_discord_is_asked_at_its_site() -> None:
    web = Web()
    async with provider_of(web, "discord") as provider:
        assert provider.issuer == "https://discord.com"
        person, _ = await provider.identify("a code", BACK, VERIFIER, "the nonce")
    assert web.called[0] == "POST https://discord.com/api/oauth2/token"
    assert (person.subject, person.username) == ("80351110224678912", "nelly")
    assert (person.email, person.email_verified) == ("nelly@discord.example", True)


async def test_guilds_of_the_real_discord_have_permissions_as_text() -> None:
    """Without a version in its path, Discord answers as version 6 of its API did: with numbers."""
    async with provider_of(Web(), "discord") as provider:
        assert isinstance(provider, DiscordProvider)
        (guild,) = await provider.guilds("a token")
    assert (guild.id, guild.name, guild.owner, guild.permissions) == ("1", "One", True, "2248473465835073")


@pytest.mark.standard("SO-07")
async def test_google_is_found_by_its_issuer() -> None:
    web = Web()
    async with provider_of(web, "google") as provider:
        assert provider.issuer == "https://accounts.google.com"
        endpoints = await provider.endpoints()
    assert web.called == ["GET https://accounts.google.com/.well-known/openid-configuration"]
    assert (endpoints.authorize, endpoints.token) == (GOOGLE["authorization_endpoint"], GOOGLE["token_endpoint"])


@pytest.mark.standard("SO-19")
async def test_no_preset_is_in_a_private_network() -> None:
    for name in PLACES:
        async with provider_of(Web(), name) as provider:
            assert not provider.calls.is_private
            with pytest.raises(ProviderUnavailable):
                provider.calls.checked("http://localhost/")
