"""What stands behind all pages and endpoints: what tests turn, who may ask, the keys, what was handed out."""

import asyncio
import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from litestar import Response

from service.clock import Clock
from service.crypto.opaque import mint
from service.fake_provider.faults import DISCOVERY_FAULTS
from service.fake_provider.grants import Grants, Newest
from service.fake_provider.keys import Keys

LONG_TIME = 30.0
WEEK = 604_800.0
ANOTHER_ISSUER = "https://another-issuer.example"


@dataclass(frozen=True, slots=True)
class Site:
    """One provider that is played. `issuer` is a path; a provider without one names no issuer in its answers."""

    name: str
    title: str
    issuer: str


OPENID = Site("openid", "an OpenID Connect provider", "/openid")
DISCORD = Site("discord", "Discord", "")
GITHUB = Site("github", "GitHub", "/github/login/oauth")


class Backstage:
    """The memory of the fake provider, all of it lost at the end of the process.

    `slow` is how many seconds a slow fault waits, unless `closing` is set; `discord_token_life` how many an access
    token of Discord lives; `discovery_fault` is a name of `DISCOVERY_FAULTS` or empty: any other is a `ValueError`.
    """

    def __init__(self, url: str, clients: Mapping[str, str], clock: Clock) -> None:
        self.url = url.rstrip("/")
        self.clients = dict(clients)
        self.clock = clock
        self.slow = LONG_TIME
        self.closing = asyncio.Event()
        self.discord_token_life = WEEK
        self._discovery_fault = ""
        self.keys = Keys()
        self.grants = Grants(clock)
        self._elsewhere = Newest[Response[Any]]()

    async def wait(self) -> None:
        """As long as a slow fault takes, or until the provider closes."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.closing.wait(), self.slow)

    @property
    def discovery_fault(self) -> str:
        """What is wrong with discovery, for everybody."""
        return self._discovery_fault

    @discovery_fault.setter
    def discovery_fault(self, fault: str) -> None:
        if fault and fault not in DISCOVERY_FAULTS:
            raise ValueError(f"no fault of discovery: {fault}")
        self._discovery_fault = fault

    def issuer(self, site: Site) -> str:
        """The issuer of a provider that has one, else nothing."""
        return f"{self.url}{site.issuer}" if site.issuer else ""

    def send_elsewhere(self, answer: Response[Any]) -> Response[Any]:
        """A redirect to a path where the very answer is, so that a client that follows it is none the wiser."""
        ticket = mint("fpe")
        self._elsewhere.put(ticket, answer)
        return Response(b"", status_code=302, headers={"Location": f"{self.url}/elsewhere/{ticket}"})

    def found_elsewhere(self, ticket: str) -> Response[Any] | None:
        """The answer behind such a path."""
        return self._elsewhere.get(ticket)
