"""What a browser and a client do at the fake provider, in-process."""

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any, cast
from urllib.parse import parse_qsl, urlsplit

import httpx
import jwt

from service.crypto.opaque import base64url
from service.fake_provider.provider import FakeProvider

URL = "http://provider.test"
BACK = "https://app.test/back?site=1"
NONCE = "nonce-of-this-sign-in"
STATE = "state & <more>"
CLIENT = ("vestibule", secrets.token_urlsafe(16))
OTHER_CLIENT = ("<b>other</b>", secrets.token_urlsafe(16))
CLIENTS = dict((CLIENT, OTHER_CLIENT))
VERIFIER = secrets.token_urlsafe(32)


class StandingClock:
    """A time that moves when a test says so."""

    def __init__(self) -> None:
        self.now = datetime(2026, 5, 1, 12, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


@dataclass(frozen=True)
class Provider:
    """Where one provider has its endpoints, and the scopes that show most."""

    authorize: str
    token: str
    profile: str
    scope: str
    json: dict[str, str] = field(default_factory=dict)


PROVIDERS = {
    "openid": Provider("/openid/authorize", "/openid/token", "/openid/userinfo", "openid profile email"),
    "discord": Provider(
        "/discord/oauth2/authorize", "/discord/api/oauth2/token", "/discord/api/v10/users/@me", "identify email guilds"
    ),
    "github": Provider(
        "/github/login/oauth/authorize",
        "/github/login/oauth/access_token",
        "/github/api/v3/user",
        "read:user user:email",
        {"Accept": "application/json"},
    ),
}


def challenge_of(verifier: str) -> str:
    return base64url(sha256(verifier.encode()).digest())


def at_hash_of(access_token: str) -> str:
    return base64url(sha256(access_token.encode()).digest()[:16])


def query(site: str, **other: str | None) -> dict[str, str]:
    """The parameters of an authorization request; None leaves one out."""
    usual = {
        "response_type": "code",
        "client_id": CLIENT[0],
        "redirect_uri": BACK,
        "scope": PROVIDERS[site].scope,
        "state": STATE,
        "nonce": NONCE,
        "code_challenge": challenge_of(VERIFIER),
        "code_challenge_method": "S256",
    }
    return {name: value for name, value in (usual | other).items() if value is not None}


def told_by(location: str) -> dict[str, str]:
    return dict(parse_qsl(urlsplit(location).query))


@dataclass(frozen=True)
class Visitor:
    """Somebody with a browser, and the client that sent them."""

    http: httpx.AsyncClient
    fake: FakeProvider

    async def choose(self, site: str = "openid", *, asked: Any = None, **form: str) -> Any:
        """The answer to a choice on the page: ann, unless somebody else is named. `asked` is for `query`."""
        return await self.http.post(
            PROVIDERS[site].authorize, params=query(site, **(asked or {})), data={"person": "ann", **form}
        )

    async def code(self, site: str = "openid", *, asked: Any = None, **form: str) -> str:
        answer = await self.choose(site, asked=asked, **form)
        assert answer.status_code == 302, answer.text
        return told_by(answer.headers["location"])["code"]

    async def redeem(self, site: str, code: str, client: tuple[str, str] = CLIENT, **other: str) -> httpx.Response:
        form = {"grant_type": "authorization_code", "code": code, "redirect_uri": BACK, "code_verifier": VERIFIER}
        provider = PROVIDERS[site]
        return await self.http.post(provider.token, data=form | other, auth=client, headers=provider.json)

    async def tokens(self, site: str = "openid", **form: str) -> dict[str, Any]:
        """A whole sign-in."""
        answer = await self.redeem(site, await self.code(site, **form))
        assert answer.status_code == 200, answer.text
        return cast("dict[str, Any]", answer.json())

    async def refresh(self, site: str, refresh_token: str) -> httpx.Response:
        form = {"grant_type": "refresh_token", "refresh_token": refresh_token}
        return await self.http.post(PROVIDERS[site].token, data=form, auth=CLIENT)

    async def get(self, path: str, tokens: dict[str, Any]) -> httpx.Response:
        return await self.http.get(path, headers={"Authorization": f"Bearer {tokens['access_token']}"})

    async def claims(self, id_token: str) -> dict[str, Any]:
        """The claims of a token whose signature is that of the published key that it names."""
        keys = jwt.PyJWKSet.from_dict((await self.http.get("/openid/jwks")).json())
        key = keys[jwt.get_unverified_header(id_token)["kid"]]
        options = {"verify_exp": False, "verify_iat": False, "verify_aud": False}
        return jwt.decode(id_token, key.key, algorithms=["ES256"], options=cast("Any", options))


@asynccontextmanager
async def visiting(fake: FakeProvider) -> AsyncIterator[Visitor]:
    transport = httpx.ASGITransport(app=cast("Any", fake.app))
    async with httpx.AsyncClient(transport=transport, base_url=URL) as http:
        yield Visitor(http, fake)
