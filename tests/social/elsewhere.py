"""Providers of one test alone: a fake provider that nobody else asks, and ways to it that may lead astray."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, cast

import httpx
import msgspec
from httpx_oauth.oauth2 import OAuth2Token
from litestar import Litestar

from service.app import create_app
from service.clock import Clock
from service.crypto.opaque import base64url
from service.crypto.pkce import new_verifier
from service.errors import ProviderUnavailable
from service.fake_provider.keys import Keys
from service.fake_provider.provider import FakeProvider
from service.providers.directory import Providers
from service.providers.openid import OpenIdProvider
from service.providers.provider import Asked, ForeignPerson, Provider
from service.settings import Settings
from service.wiring import Services
from tests.conftest import ABROAD, CLIENT_ABROAD, ISSUER, Outbox, TestClock, worker
from tests.social.acting import Stranger, decided, query_of

DOCUMENT = "/openid/.well-known/openid-configuration"
KEY_SET = "/openid/jwks"
TOKEN = "/openid/token"
USERINFO = "/openid/userinfo"
NONCE = "the nonce of this sign-in"
ACCESS_TOKEN = "an access token"


@dataclass
class Detour(httpx.AsyncBaseTransport):
    """The way to a provider. `answers` has what a path answers instead; every call takes `delay` seconds.

    `asked` are the paths of all calls, also of those that were given up; `taken` is set by the first.
    """

    inner: httpx.AsyncBaseTransport
    answers: dict[str, Callable[[], httpx.Response]] = field(default_factory=dict)
    delay: float = 0
    asked: list[str] = field(default_factory=list)
    taken: asyncio.Event = field(default_factory=asyncio.Event)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.taken.set()
        self.asked.append(request.url.path)
        await asyncio.sleep(self.delay)
        other = self.answers.get(request.url.path)
        return await self.inner.handle_async_request(request) if other is None else other()

    def answer(self, path: str, body: object, status: int = 200, **headers: str) -> None:
        """Puts an answer in the place of a path's: bytes as they are, anything else as JSON."""
        content = body if isinstance(body, bytes) else msgspec.json.encode(body)
        self.answers[path] = lambda: httpx.Response(status, headers=headers, stream=httpx.ByteStream(content))


@dataclass
class Elsewhere:
    """A fake provider, the way to it, and what the service knows of it."""

    fake: FakeProvider
    way: Detour
    providers: Providers
    browser: httpx.AsyncClient

    @property
    def openid(self) -> OpenIdProvider:
        found = self.providers.get("openid")
        assert isinstance(found, OpenIdProvider)
        return found

    def fetches(self, path: str) -> int:
        """How many times the service has asked for this."""
        return self.way.asked.count(path)

    def document(self, **other: object) -> None:
        """Another discovery document: with these members, without those that are None."""
        issuer = f"{ABROAD}/openid"
        usual = {
            "issuer": issuer,
            "authorization_endpoint": f"{issuer}/authorize",
            "token_endpoint": f"{issuer}/token",
            "userinfo_endpoint": f"{issuer}/userinfo",
            "jwks_uri": f"{issuer}/jwks",
            "id_token_signing_alg_values_supported": ["ES256"],
        }
        self.way.answer(DOCUMENT, {name: value for name, value in {**usual, **other}.items() if value is not None})

    async def authorize_url(self) -> str:
        """Where a sign-in begins."""
        return await self.openid.authorize_url(Asked(f"{ISSUER}/back", "state", NONCE, new_verifier()))

    async def identified(self, who: Stranger, name: str = "openid", **choice: str) -> ForeignPerson:
        """The whole way there and back, without an account."""
        provider: Provider = self.providers.get(name)
        asked = Asked(f"{ISSUER}/back", "state", NONCE, new_verifier())
        location = await decided(self.browser, await provider.authorize_url(asked), who, **choice)
        found, _ = await provider.identify(query_of(location)["code"], asked.redirect_uri, asked.verifier, NONCE)
        return found

    async def vouched(self, keys: Keys | None = None, **claims: object) -> ForeignPerson:
        """Who an ID token is about that these keys signed, the provider's own unless told."""
        return await self.presented(self.signed(keys or self.fake.keys, **claims))

    def signed(self, keys: Keys, **claims: object) -> str:
        """An ID token with these claims beside the usual ones."""
        now = int(self.fake.clock().timestamp())
        usual = {"iss": f"{ABROAD}/openid", "sub": "ann-1", "aud": CLIENT_ABROAD, "nonce": NONCE, "iat": now}
        return keys.sign({**usual, "exp": now + 600, "email": "ann@example.net", **claims})

    async def presented(self, id_token: str) -> ForeignPerson:
        """Who an ID token is about."""
        return await self.openid.person(OAuth2Token({"access_token": ACCESS_TOKEN, "id_token": id_token}), NONCE)


@asynccontextmanager
async def elsewhere(settings: Settings, clock: Clock) -> AsyncIterator[Elsewhere]:
    """Providers that nobody has looked at yet."""
    fake = _fake(settings, clock)
    inner = httpx.ASGITransport(app=cast("Any", fake.app), raise_app_exceptions=False)
    way = Detour(inner)
    providers = Providers.of(settings, clock, way)
    async with httpx.AsyncClient(transport=inner, base_url=ABROAD) as browser:
        yield Elsewhere(fake, way, providers, browser)
    await providers.close()


@dataclass
class Stage(Elsewhere):
    """The same with a whole service that knows no other provider."""

    services: Services
    app: Litestar


@asynccontextmanager
async def stage(settings: Settings, clock: TestClock, outbox: Outbox, fault: str = "") -> AsyncIterator[Stage]:
    """A service that has looked at its providers once; `fault` is what it found wrong with discovery."""
    fake = _fake(settings, clock)
    fake.discovery_fault = fault
    inner = httpx.ASGITransport(app=cast("Any", fake.app), raise_app_exceptions=False)
    way = Detour(inner)
    async with (
        worker(settings, clock, outbox, way) as services,
        httpx.AsyncClient(transport=inner, base_url=ABROAD) as browser,
    ):
        there = Stage(fake, way, services.providers, browser, services, create_app(services))
        await way.taken.wait()  # the service looks by itself, in the background
        with suppress(ProviderUnavailable):
            await there.openid.look()
        yield there


def _fake(settings: Settings, clock: Clock) -> FakeProvider:
    secret = settings.providers["openid"].client_secret
    return FakeProvider(ABROAD, {CLIENT_ABROAD: str(secret)}, clock=clock)


def random_kids(token: str, number: int) -> list[str]:
    """A token's claims under so many key ids that nobody has."""
    _, payload, signature = token.split(".")
    headers = [msgspec.json.encode({"alg": "ES256", "kid": secrets.token_hex(8)}) for _ in range(number)]
    return [f"{base64url(header)}.{payload}.{signature}" for header in headers]
