"""Any OpenID provider, by its issuer: discovered, its metadata and keys kept, its ID tokens verified."""

import asyncio
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Any

import msgspec
import structlog
from httpx_oauth.oauth2 import OAuth2Token

from service.clock import Clock
from service.crypto.id_tokens import ALGORITHMS, Expected, IdClaims, IdTokenRefused, UnknownKey, read_jwks, verify
from service.errors import ProviderAnswerInvalid, ProviderUnavailable
from service.provider_settings import DISCOVERY, ProviderSettings
from service.providers.calls import Calls
from service.providers.provider import Asked, Endpoints, ForeignPerson, Provider, address, picture, text

log = structlog.get_logger("vestibule.providers")

KEPT = timedelta(hours=1)
"""How long metadata are good; what is older is used on when the provider does not answer."""
COOLDOWN = timedelta(seconds=60)
"""Between two fetches of keys for an unknown key id."""
PAUSE = timedelta(seconds=10)
"""After a fetch that failed."""
TRUTH_AS_TEXT = {"https://appleid.apple.com"}
"""Providers that document the text "true" for a verified address."""
PROMPTS = {"https://accounts.google.com": "select_account"}
"""Providers that do not know `prompt=login`, and what they know instead."""
PROFILE = ("email", "email_verified", "name", "preferred_username", "picture", "locale")

Url = Annotated[str, msgspec.Meta(min_length=1, max_length=2048)]


class Metadata(msgspec.Struct, frozen=True):
    """What we need of a discovery document (OpenID Connect Discovery 3)."""

    issuer: str
    authorization_endpoint: Url
    token_endpoint: Url
    jwks_uri: Url
    userinfo_endpoint: Url | None = None
    id_token_signing_alg_values_supported: tuple[str, ...] = ("RS256",)
    token_endpoint_auth_methods_supported: tuple[str, ...] = ("client_secret_basic",)
    authorization_response_iss_parameter_supported: bool = False


@dataclass(slots=True)
class _Kept:
    """What was fetched, and when it may be fetched next."""

    metadata: Metadata | None = None
    keys: tuple[dict[str, Any], ...] = ()
    fetched_at: datetime | None = None
    failed_at: datetime | None = None
    fault: str = ""
    keys_fetched_at: datetime | None = None
    keys_failed_at: datetime | None = None
    keys_wanted_at: datetime | None = None
    """When they were fetched for an unknown key id."""


class OpenIdProvider(Provider):
    """One issuer. Its metadata and keys are fetched once for all who ask at the same time."""

    def __init__(self, name: str, settings: ProviderSettings, calls: Calls, clock: Clock, leeway: timedelta) -> None:
        super().__init__(name, settings, calls, clock)
        self._leeway = leeway
        self._kept = _Kept()
        self._fetching = asyncio.Lock()
        self._is_impostor = False

    @property
    def names_itself(self) -> bool:
        metadata = self._kept.metadata
        return metadata is not None and metadata.authorization_response_iss_parameter_supported

    @property
    def is_usable(self) -> bool:
        """False once its discovery document named another issuer (ASVS 10.5.3), until that is mended."""
        return not self._is_impostor

    async def look(self) -> None:
        await self._metadata()

    async def endpoints(self) -> Endpoints:
        metadata = await self._metadata()
        methods = metadata.token_endpoint_auth_methods_supported
        is_basic = "client_secret_basic" in methods or "client_secret_post" not in methods
        return Endpoints(
            metadata.authorization_endpoint,
            metadata.token_endpoint,
            "client_secret_basic" if is_basic else "client_secret_post",
        )

    def particulars(self, asked: Asked) -> dict[str, str]:
        extra = {"nonce": asked.nonce}
        if self.settings.response_mode != "query":
            extra["response_mode"] = self.settings.response_mode
        if asked.login_again:
            extra |= {"prompt": PROMPTS.get(self.issuer, "login"), "max_age": "0"}
        return extra

    async def person(self, token: OAuth2Token, nonce: str | None) -> ForeignPerson:
        id_token, access_token = token.get("id_token"), str(token["access_token"])
        if not isinstance(id_token, str):
            raise ProviderAnswerInvalid(f"{self.id}: no ID token")
        metadata = await self._metadata()
        allowed = [name for name in metadata.id_token_signing_alg_values_supported if name in ALGORITHMS]
        expected = Expected(self.issuer, self.settings.client_id, nonce, access_token, allowed)
        try:
            claims = await self._verified(id_token, expected)
        except IdTokenRefused as refusal:
            raise ProviderAnswerInvalid(f"{self.id}: ID token: {refusal}") from None
        profile = {name: getattr(claims, name) for name in PROFILE}
        if profile["email"] is None and metadata.userinfo_endpoint:
            profile = {**profile, **await self._userinfo(metadata.userinfo_endpoint, access_token, claims.sub)}
        return _person(claims, profile)

    async def _verified(self, id_token: str, expected: Expected) -> IdClaims:
        """Looks for new keys once when the key is unknown, and not more often than the cooldown allows."""
        try:
            return verify(id_token, await self._keys(), expected, self.clock(), self._leeway)
        except UnknownKey:
            return verify(id_token, await self._keys(anew=True), expected, self.clock(), self._leeway)

    async def _userinfo(self, url: str, access_token: str, subject: str) -> dict[str, Any]:
        document = await self.calls.json(url, token=access_token)
        if not isinstance(document, dict):
            raise ProviderUnavailable(f"{self.id}: userinfo is no object")
        if document.get("sub") != subject:
            raise ProviderAnswerInvalid(f"{self.id}: userinfo is about somebody else")
        told = {name: document[name] for name in PROFILE if document.get(name) is not None}
        return {**told, "email_verified": document.get("email_verified")}  # said of the address beside it, of no other

    async def _metadata(self) -> Metadata:
        """The metadata, fetched anew after an hour; the old ones when that fails. Raises `ProviderUnavailable`."""
        if self._is_fresh():
            return self._known()
        async with self._fetching:
            if not self._is_fresh():
                await self._fetch_metadata()
        return self._known()

    def _known(self) -> Metadata:
        if self._kept.metadata is None or self._is_impostor:
            raise ProviderUnavailable(f"{self.id}: discovery: {self._kept.fault}")
        return self._kept.metadata

    def _is_fresh(self) -> bool:
        now, kept = self.clock(), self._kept
        return _is_within(PAUSE, kept.failed_at, now) or _is_within(KEPT, kept.fetched_at, now)

    async def _fetch_metadata(self) -> None:
        try:
            document = await self.calls.json(self.issuer.rstrip("/") + DISCOVERY)
            metadata = msgspec.convert(document, Metadata)
            for url in (metadata.authorization_endpoint, metadata.token_endpoint, metadata.jwks_uri):
                self.calls.checked(url)
            self.calls.checked(metadata.userinfo_endpoint or metadata.jwks_uri)
        except (ProviderUnavailable, msgspec.ValidationError) as error:
            self._kept.failed_at, self._kept.fault = self.clock(), str(error)[:200]
            log.warning("a provider's metadata cannot be had", provider=self.id, reason=self._kept.fault)
            return
        self._is_impostor = metadata.issuer != self.issuer
        if self._is_impostor:
            self._kept.failed_at = self.clock()
            self._kept.fault = f"it names the issuer {metadata.issuer[:200]!r}"
            log.error(
                "a provider is disabled: its discovery document names another issuer",
                provider=self.id,
                configured=self.issuer,
                named=metadata.issuer[:200],
            )
            return
        self._kept.metadata, self._kept.fetched_at, self._kept.failed_at = metadata, self.clock(), None

    async def _keys(self, *, anew: bool = False) -> tuple[dict[str, Any], ...]:
        """The keys, fetched anew after an hour, and with `anew` for an unknown key id; the old ones when that fails.

        A stranger's tokens must not make us call a provider again and again: `anew` has a cooldown.
        """
        jwks_uri = (await self._metadata()).jwks_uri
        async with self._fetching:
            kept, now = self._kept, self.clock()
            is_wanted = anew and not _is_within(COOLDOWN, kept.keys_wanted_at, now)
            is_old = not kept.keys or not _is_within(KEPT, kept.keys_fetched_at, now)
            if (is_wanted or is_old) and not _is_within(PAUSE, kept.keys_failed_at, now):
                kept.keys_wanted_at = now if anew else kept.keys_wanted_at
                await self._fetch_keys(jwks_uri)
        if not self._kept.keys:
            raise ProviderUnavailable(f"{self.id}: no keys")
        return self._kept.keys

    async def _fetch_keys(self, jwks_uri: str) -> None:
        try:
            self._kept.keys = read_jwks(await self.calls.json(jwks_uri))
            self._kept.keys_fetched_at, self._kept.keys_failed_at = self.clock(), None
        except (ProviderUnavailable, ValueError) as error:
            self._kept.keys_failed_at = self.clock()
            log.warning("a provider's keys cannot be had", provider=self.id, reason=str(error)[:200])


def _is_within(life: timedelta, moment: datetime | None, now: datetime) -> bool:
    """False for a moment in the future: the clock was set back."""
    return moment is not None and timedelta(0) <= now - moment < life


def _username(profile: dict[str, Any]) -> str:
    """What others may see: some providers put the address there (Microsoft Entra does)."""
    names = (text(profile["preferred_username"]), text(profile["name"]))
    return next((name for name in names if name and "@" not in name), "")


def _is_true_as_text(issuer: str, value: object) -> bool:
    return issuer in TRUTH_AS_TEXT and value == "true"


def _person(claims: IdClaims, profile: dict[str, Any]) -> ForeignPerson:
    """`email_verified` counts as the boolean true alone (OpenID Connect Core 5.1)."""
    return ForeignPerson(
        claims.iss,
        claims.sub,
        username=_username(profile),
        email=address(profile["email"]),
        email_verified=profile["email_verified"] is True or _is_true_as_text(claims.iss, profile["email_verified"]),
        picture=picture(profile["picture"]),
        locale=text(profile["locale"]),
        authenticated_at=claims.auth_time,
    )
