"""The providers of this installation, by their ids."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

import httpx

from service import __version__, background
from service.clock import Clock
from service.errors import NotFound, ProviderUnavailable
from service.providers.calls import AGENT, Calls
from service.providers.discord import DiscordProvider
from service.providers.github import GitHubProvider
from service.providers.openid import OpenIdProvider
from service.providers.provider import Provider
from service.settings import Settings

PAUSE = timedelta(minutes=10)


@dataclass(slots=True)
class Providers:
    """Finds them, and looks after what is kept of them."""

    all: dict[str, Provider]
    _task: asyncio.Task[None] | None = None

    @classmethod
    def of(cls, settings: Settings, clock: Clock, transport: httpx.AsyncBaseTransport | None = None) -> "Providers":
        """Those of the settings; nothing is asked yet. `transport` is what tests put in the place of the network."""
        return cls({name: _made(name, settings, clock, transport) for name in settings.providers})

    def __iter__(self) -> Iterator[Provider]:
        """Those that can be offered at this moment."""
        return (provider for provider in self.all.values() if provider.is_usable)

    def get(self, name: str) -> Provider:
        """Raises `NotFound`."""
        found = self.all.get(name)
        if found is None:
            raise NotFound("no such provider")
        return found

    def issuers(self) -> list[str]:
        """Whose identities open accounts here."""
        return [provider.issuer for provider in self.all.values()]

    def start(self) -> None:
        """Begins to fetch metadata in the background, so that a misconfigured provider shows at the start."""
        self._task = asyncio.create_task(self._look_on(), name="providers")

    async def stop(self) -> None:
        """Ends that."""
        await background.end(self._task)

    async def close(self) -> None:
        """Lets go of connections."""
        for provider in self.all.values():
            await provider.calls.close()

    async def _look_on(self) -> None:
        while self.all:
            await asyncio.gather(*(_looked_at(provider) for provider in self.all.values()))
            await asyncio.sleep(PAUSE.total_seconds())


async def _looked_at(provider: Provider) -> None:
    try:
        await provider.look()
    except ProviderUnavailable:
        return  # it was logged where it failed; whoever signs in asks again


def _made(name: str, settings: Settings, clock: Clock, transport: httpx.AsyncBaseTransport | None) -> Provider:
    given = settings.providers[name]
    seconds = settings.provider_timeout.total_seconds()
    agent = f"DiscordBot ({settings.issuer}, {__version__})" if given.kind == "discord" else AGENT  # as its rules want
    calls = Calls.to(seconds, is_private=given.private_network, agent=agent, transport=transport, name=name)
    if given.kind == "openid":
        return OpenIdProvider(name, given, calls, clock, settings.leeway)
    if given.kind == "discord":
        return DiscordProvider(name, given, calls, clock)
    return GitHubProvider(name, given, calls, clock)
