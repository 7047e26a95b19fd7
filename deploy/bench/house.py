"""What a run needs from the service itself, made with its own code: a client, people, sessions, genuine tokens."""

import asyncio
import base64
import secrets
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import cycle, islice
from uuid import UUID, uuid4

from service.cli.running import prepare
from service.mail.message import NoTransport
from service.settings import Settings
from service.tokens.access import AccessTokens, Holder
from service.tokens.client_administration import ClientChanges
from service.tokens.clients import DEFAULT_FRONT_END
from service.tokens.session_facts import Opened
from service.wiring import Services, build

INTROSPECTING = "bench"
PASSWORD = "rain over the quiet harbour"
AMR = ("pwd",)
AT_ONCE = 20


@dataclass(frozen=True)
class House:
    """What was made; every session is of an account of its own that only Redis knows."""

    authorization: str
    """The header by which the bench's client proves itself."""
    people: list[str]
    """Addresses of accounts with `PASSWORD`."""
    access_tokens: AccessTokens
    sessions: deque[tuple[UUID, Opened]] = field(repr=False)

    def take(self, count: int) -> list[tuple[UUID, Opened]]:
        """Sessions that nobody has used yet."""
        return [self.sessions.popleft() for _ in range(count)]

    def new_tokens(self, sessions: list[tuple[UUID, Opened]], count: int) -> Iterator[str]:
        """Access tokens that nobody has seen, spread over these sessions; each is signed when it is asked for."""
        audience, life = self.access_tokens.signer.audience, self.access_tokens.life
        holders = [
            Holder(
                account=account,
                session=opened.session,
                generation=0,
                client=DEFAULT_FRONT_END,
                scope=opened.grant.scope,
                amr=AMR,
                roles=(),
                signed_in_at=opened.opened_at,
                audience=audience,
                life=life,
            )
            for account, opened in sessions
        ]
        return (self.access_tokens.issue(holder) for holder in islice(cycle(holders), count))


def furnish(settings: Settings, sessions: int, people: int) -> House:
    """Makes everything there must be; the schema is there, and may be in use."""
    return asyncio.run(_furnished(settings, sessions, people))


async def _furnished(settings: Settings, sessions: int, people: int) -> House:
    services = build(settings, mail=lambda _: NoTransport())
    try:
        await prepare(services)
        secret = await _client(services)
        addresses = [await _person(services) for _ in range(people)]
        opened: list[tuple[UUID, Opened]] = []
        while len(opened) < sessions:
            accounts = [uuid4() for _ in range(AT_ONCE)]
            grants = (services.sessions.open(account, DEFAULT_FRONT_END, AMR, ()) for account in accounts)
            opened += zip(accounts, await asyncio.gather(*grants), strict=True)
        await services.audit.flush()
    finally:
        await services.close()
    basic = base64.b64encode(f"{INTROSPECTING}:{secret}".encode()).decode()
    return House(f"Authorization: Basic {basic}", addresses, services.sessions.access_tokens, deque(opened))


async def _client(services: Services) -> str:
    values = ClientChanges(name="The bench", may_introspect=True)
    _, made = await services.client_administration.register(INTROSPECTING, values, confidential=True)
    return made.secret if made else ""


async def _person(services: Services) -> str:
    name = f"p{secrets.token_hex(6)}"
    await services.administration.create(f"{name}@example.com", name, PASSWORD, ())
    return f"{name}@example.com"
