"""The Discord servers of a person, asked with what Discord gave us for them."""

import asyncio
from dataclasses import dataclass
from datetime import timedelta

import structlog

from service.accounts.identities import Identities, Identity
from service.clock import Clock
from service.errors import NotFound, NotLinked, ProviderUnavailable
from service.limits import Limits
from service.providers.calls import TokenRefused
from service.providers.directory import Providers
from service.providers.discord import DiscordProvider, Guild
from service.providers.provider import ForeignTokens
from service.settings import Settings
from service.store.postgres import Database
from service.tokens.principal import Principal

log = structlog.get_logger("vestibule.guilds")

MARGIN = timedelta(seconds=60)
"""A token that ends within this is renewed before it is used."""
PAUSE = 0.1


@dataclass(frozen=True, slots=True)
class Guilds:
    """Asks for them, with tokens renewed when they are stale: by one of all who ask at the same time, since Discord
    takes each refresh token once."""

    database: Database
    providers: Providers
    identities: Identities
    limits: Limits
    settings: Settings
    clock: Clock

    async def of(self, principal: Principal, provider: str) -> list[Guild]:
        """The servers of whoever asks.

        Raises `NotFound` where Discord is not configured, `NotLinked` without an identity or its consent,
        `ProviderUnavailable`, `TooManyRequests`.
        """
        found = self.providers.get(provider)
        if not isinstance(found, DiscordProvider):
            raise NotFound("not Discord")
        await self.limits.take("guilds", self.settings.limit_guilds_account, str(principal.account))
        identity, tokens = await self._linked(principal, found)
        if tokens.is_stale(self.clock(), MARGIN):
            return await self._ask(found, *await self._renewed(principal, found, identity, tokens))
        try:
            return await found.guilds(tokens.access_token)
        except TokenRefused:
            return await self._ask(found, *await self._renewed(principal, found, identity, tokens))

    async def _ask(self, discord: DiscordProvider, identity: Identity, tokens: ForeignTokens) -> list[Guild]:
        try:
            return await discord.guilds(tokens.access_token)
        except TokenRefused:
            async with self.database.begin() as transaction:
                await self.identities.forget(transaction, identity)
            raise NotLinked("a renewed token is refused") from None

    async def _linked(self, principal: Principal, discord: DiscordProvider) -> tuple[Identity, ForeignTokens]:
        async with self.database.begin() as transaction:
            mine = await self.identities.of(transaction, principal.account)
        identity = next((identity for identity in mine if identity.issuer == discord.issuer), None)
        tokens = self.identities.tokens(identity) if identity else None
        if identity is None or tokens is None:
            raise NotLinked("no identity, or no tokens")
        return identity, tokens

    async def _renewed(
        self, principal: Principal, discord: DiscordProvider, identity: Identity, tokens: ForeignTokens
    ) -> tuple[Identity, ForeignTokens]:
        async with self.database.begin() as transaction:
            lease = await self.identities.lease(transaction, identity, self.settings.provider_timeout * 2)
        if lease is None:
            return await self._renewed_by_another(principal, discord, tokens)
        renewed: ForeignTokens | None = None
        try:
            renewed = await discord.renewed(tokens)
        except ProviderUnavailable:
            async with self.database.begin() as transaction:
                await self.identities.release(transaction, identity, lease)
            raise
        except TokenRefused:
            log.info("a person withdrew their consent at a provider", provider=discord.id)
        async with self.database.begin() as transaction:
            await self.identities.keep(transaction, identity, renewed, lease)
        return await self._linked(principal, discord)

    async def _renewed_by_another(
        self, principal: Principal, discord: DiscordProvider, seen: ForeignTokens
    ) -> tuple[Identity, ForeignTokens]:
        try:
            async with asyncio.timeout(self.settings.provider_timeout.total_seconds()):
                while True:
                    identity, tokens = await self._linked(principal, discord)
                    if tokens != seen:
                        return identity, tokens
                    if identity.leased_until is None or identity.leased_until <= self.clock():
                        raise ProviderUnavailable("whoever renewed the tokens could not", retry_after=1)
                    await asyncio.sleep(PAUSE)
        except TimeoutError:
            raise ProviderUnavailable("whoever renews the tokens takes too long", retry_after=1) from None
