"""What every provider has in common: it is asked for a code, and the code stands for a person."""

import re
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal
from urllib.parse import parse_qsl, quote_plus, urlsplit

import httpx
import msgspec
import structlog
from httpx_oauth.oauth2 import BaseOAuth2, GetAccessTokenError, OAuth2RequestError, OAuth2Token, RefreshTokenError

from service.clock import Clock
from service.crypto.pkce import challenge_of
from service.errors import InvalidOrExpiredCode, ProviderEmailUnverified, ProviderUnavailable, ServiceError
from service.provider_settings import ProviderSettings
from service.providers.calls import Calls, TokenRefused, parsed

log = structlog.get_logger("vestibule.providers")

AuthMethod = Literal["client_secret_basic", "client_secret_post"]
CODE_REFUSED = {"invalid_grant", "bad_verification_code", "bad_refresh_token"}
LONGEST_TEXT = 255
LONGEST_URL = 2048
TOKEN = re.compile(r"[\x20-\x7e]{1,16384}", re.ASCII)
"""RFC 6749 appendix A.12: what a header can hold."""
OURS = {
    *("response_type", "client_id", "redirect_uri", "state", "scope", "code_challenge", "code_challenge_method"),
    *("nonce", "response_mode", "prompt", "max_age", "request", "request_uri"),
}
"""What the query of an endpoint, which is the provider's, may not say in our place."""
LONGEST_LIFE = 10 * 365 * 86_400


@dataclass(frozen=True, slots=True)
class Asked:
    """One sign-in as it is begun: what must come back, and what the answer must be bound to."""

    redirect_uri: str
    state: str
    nonce: str
    verifier: str
    login_again: bool = False


@dataclass(frozen=True, slots=True)
class ForeignPerson:
    """Somebody as a provider knows them. `issuer` and `subject` are who it is; all else may change.

    `authenticated_at` is when they gave a credential there, in seconds since 1970, where the provider says so.
    """

    issuer: str
    subject: str
    username: str = ""
    email: str = ""
    email_verified: bool = False
    picture: str = ""
    locale: str = ""
    authenticated_at: float | None = None


class ForeignTokens(msgspec.Struct, frozen=True):
    """What a provider gave us to ask it with; `expires_at` in seconds since 1970."""

    access_token: str
    refresh_token: str = ""
    expires_at: int | None = None

    def is_stale(self, now: datetime, margin: timedelta) -> bool:
        """Whether it ends within the margin."""
        return self.expires_at is not None and self.expires_at <= (now + margin).timestamp()


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Where a provider takes people and codes."""

    authorize: str
    token: str
    auth_method: AuthMethod = "client_secret_post"


class Provider(ABC):
    """One configured provider. Its methods raise `ProviderUnavailable` when it is down, slow or talks rubbish."""

    def __init__(self, name: str, settings: ProviderSettings, calls: Calls, clock: Clock) -> None:
        self.id = name
        self.settings = settings
        self.calls = calls
        self.clock = clock

    @property
    def issuer(self) -> str:
        """Who says who somebody is: with the subject, the key of an identity."""
        return self.settings.identity_issuer

    @property
    def names_itself(self) -> bool:
        """Whether its callbacks always carry `iss` (RFC 9207)."""
        return False

    @property
    def has_use_for_tokens(self) -> bool:
        """Whether we ask it for anything later: its tokens are kept only then."""
        return False

    @property
    def is_usable(self) -> bool:
        """Whether it can be offered."""
        return True

    async def look(self) -> None:
        """Fetches what is kept of it."""
        return

    @abstractmethod
    async def endpoints(self) -> Endpoints:
        """Where to ask."""

    @abstractmethod
    async def person(self, token: OAuth2Token, nonce: str | None) -> ForeignPerson:
        """Who the tokens are about. Raises `ProviderAnswerInvalid` when they prove nothing."""

    def particulars(self, asked: Asked) -> dict[str, str]:
        """Parameters of the authorization request that this provider alone has."""
        return {}

    async def authorize_url(self, asked: Asked) -> str:
        """Where to send the browser, with state and an S256 challenge (RFC 7636, RFC 9700 section 2.1.1)."""
        endpoints = await self.endpoints()
        own = parse_qsl(urlsplit(endpoints.authorize).query, keep_blank_values=True)
        return await self._oauth(endpoints).get_authorization_url(
            asked.redirect_uri,
            state=asked.state,
            scope=list(self.settings.scopes),
            code_challenge=challenge_of(asked.verifier),
            code_challenge_method="S256",
            extras_params={**{name: value for name, value in own if name not in OURS}, **self.particulars(asked)},
        )

    async def identify(
        self, code: str, redirect_uri: str, verifier: str, nonce: str | None
    ) -> tuple[ForeignPerson, ForeignTokens]:
        """The person behind a code. Raises `InvalidOrExpiredCode`, `ProviderAnswerInvalid`."""
        endpoints = await self.endpoints()
        async with self._asking():
            token = await self._oauth(endpoints).get_access_token(code, redirect_uri, verifier)
        tokens = self._tokens(token)
        try:
            return await self.person(token, nonce), tokens
        except TokenRefused as refusal:
            raise ProviderUnavailable(f"{self.id}: a new token was refused: {refusal}") from None

    async def renewed(self, tokens: ForeignTokens) -> ForeignTokens:
        """The next tokens. Raises `TokenRefused` when the person withdrew their consent."""
        if not tokens.refresh_token:
            raise TokenRefused("no refresh token")
        endpoints = await self.endpoints()
        try:
            async with self._asking():
                token = await self._oauth(endpoints).refresh_token(tokens.refresh_token)
            renewed = self._tokens(token)
        except InvalidOrExpiredCode:
            raise TokenRefused("the refresh token") from None
        return (
            renewed if renewed.refresh_token else msgspec.structs.replace(renewed, refresh_token=tokens.refresh_token)
        )

    def _oauth(self, endpoints: Endpoints) -> "_Client":
        return _Client(self.settings, endpoints, self.calls.client)

    @asynccontextmanager
    async def _asking(self) -> AsyncIterator[None]:
        """The token endpoint, with its ways of failing told apart."""
        try:
            async with self.calls.bounded():
                yield
        except (GetAccessTokenError, RefreshTokenError) as error:
            raise self._refusal(error) from None
        except (ValueError, TypeError, OverflowError, RecursionError, KeyError) as error:
            raise ProviderUnavailable(f"{self.id}: token endpoint: {type(error).__name__}") from None

    def _refusal(self, error: OAuth2RequestError) -> ServiceError:
        response = error.response
        if response is None or response.status_code not in {400, 401, 403}:
            return ProviderUnavailable(
                f"{self.id}: token endpoint: {response.status_code if response else 'no answer'}"
            )
        try:
            document = parsed(response.content)
        except ProviderUnavailable:
            document = None
        return self._told(document.get("error") if isinstance(document, dict) else None)

    def _tokens(self, token: OAuth2Token) -> ForeignTokens:
        """What was handed out; GitHub says with status 200 what is wrong."""
        access_token, refresh_token, life = (
            token.get(name) for name in ("access_token", "refresh_token", "expires_in")
        )
        if "error" in token:
            raise self._told(token["error"])
        if not isinstance(access_token, str) or not TOKEN.fullmatch(access_token):
            raise ProviderUnavailable(f"{self.id}: token endpoint: no token")
        return ForeignTokens(
            access_token,
            refresh_token if isinstance(refresh_token, str) and TOKEN.fullmatch(refresh_token) else "",
            int(self.clock().timestamp()) + life if isinstance(life, int) and 0 < life <= LONGEST_LIFE else None,
        )

    def _told(self, error: object) -> ServiceError:
        """What the `error` of a token endpoint means (RFC 6749 section 5.2); GitHub has a word of its own."""
        if isinstance(error, str) and error in CODE_REFUSED:
            return InvalidOrExpiredCode(f"{self.id}: {error}")
        if error == "unverified_user_email":
            return ProviderEmailUnverified(f"{self.id}: {error}")
        log.error("a provider refuses us: are client_id, client_secret and callback URL right?", provider=self.id)
        return ProviderUnavailable(f"{self.id}: token endpoint refused us")


class _Client(BaseOAuth2[dict[str, Any]]):
    """The library's client, made to call through ours."""

    def __init__(self, settings: ProviderSettings, endpoints: Endpoints, client: httpx.AsyncClient) -> None:
        super().__init__(
            settings.client_id,
            str(settings.client_secret),
            endpoints.authorize.partition("?")[0],
            endpoints.token,
            refresh_token_endpoint=endpoints.token,
            token_endpoint_auth_method=endpoints.auth_method,
        )
        self._client = client

    def build_request(
        self,
        client: httpx.AsyncClient,
        method: str,
        url: str,
        *,
        auth_method: AuthMethod | None = None,
        data: Mapping[str, Any] | None = None,
    ) -> tuple[httpx.Request, httpx.Auth | None]:
        """Encodes both parts of Basic credentials as in a form (RFC 6749 section 2.3.1), which the library does not."""
        request, auth = super().build_request(client, method, url, auth_method=auth_method, data=data)
        if auth_method == "client_secret_basic":
            auth = httpx.BasicAuth(quote_plus(self.client_id), quote_plus(self.client_secret))
        return request, auth

    @asynccontextmanager
    async def get_httpx_client(self) -> AsyncIterator[httpx.AsyncClient]:
        yield self._client


def text(value: object) -> str:
    """A text of a profile, cut, without what is not printable; empty for anything else."""
    return "".join(c for c in value[:LONGEST_TEXT] if c.isprintable()) if isinstance(value, str) else ""


def address(value: object) -> str:
    """An e-mail address as it was vouched for, character for character: a mended one would be somebody else's.

    Empty for what is no text, too long, or has characters that an eye does not see.
    """
    is_plain = isinstance(value, str) and len(value) <= LONGEST_TEXT and value.isprintable() and " " not in value
    return str(value) if is_plain else ""


def picture(value: object) -> str:
    """The URL of a picture, whole or none."""
    is_plain = isinstance(value, str) and len(value) <= LONGEST_URL and value.isprintable()
    return str(value) if is_plain else ""
