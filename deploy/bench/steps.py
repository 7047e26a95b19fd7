"""The loads of a run, by the names that `--only` takes."""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlencode

from redis import Redis

from deploy.bench.hashing import Alone, Flooded, SignIns
from deploy.bench.house import PASSWORD, House
from deploy.bench.load import CONNECTIONS, Load, Order, get, post, write
from deploy.bench.measure import Meter
from deploy.bench.rounds import Fresh, Steady, Step, file_in
from deploy.bench.servers import Program
from service.settings import Settings

FORM, JSON = "application/x-www-form-urlencoded", "application/json"
ACTIVE = '"active":true'
WARM_TOKENS = 100
COLD_SESSIONS = 20
FIRST_COLD = 12_000
"""Tokens for the checking run, more than any worker verifies in its second."""
RESERVE = 1.6
"""How many more requests than expected there are for a run whose requests are all new: reading every answer slows the
run that the expectation is from."""
FORMS = 4096
FEW, PAUSE = 4, 10
"""Connections, and milliseconds before each of them asks again."""
CHAINS = CONNECTIONS + 8
"""A chain for each connection of a run, and some that end with what is under way when it does."""


@dataclass(frozen=True)
class Bench:
    """What the loads are made from: the processes, the people in the house, and a folder for the requests.

    `slots` is how many hashes the service computes at once.
    """

    program: Program
    two_workers: Program | None
    yardstick: Program
    redis: "Redis"
    house: House
    folder: Path
    settings: Settings
    slots: int

    @property
    def meter(self) -> Meter:
        return Meter(self.program, self.redis)

    def yardstick_step(self) -> Step:
        """R0: posts as much as an introspection does, and more different forms than Litestar remembers."""
        tokens = self.house.new_tokens(self.house.take(1), FORMS)
        load = self._load("R0", (post("/", self._form(token), FORM) for token in tokens), ACTIVE)
        return Steady("R0", Meter(self.yardstick, self.redis), replace(load, port=self.yardstick.port))

    def introspection(self) -> list[Step]:
        """The same tokens again and again, and tokens that are all new."""
        sessions = self.house.take(COLD_SESSIONS)

        def cold(count: int, name: str) -> Load:
            return self._introspect(name, self.house.new_tokens(sessions, count), order="once")

        def many(rate: float, seconds: float) -> int:
            return int(max(rate * RESERVE, FIRST_COLD) * seconds)  # the machine may have been busy when it was asked

        return [self._warm(), Fresh("introspection, cold", self.meter, cold, FIRST_COLD, many)]

    def refresh(self) -> list[Step]:
        """Each connection exchanges its refresh token for the next, and that one for the next."""

        def chains(count: int, name: str) -> Load:
            tokens = [opened.grant.refresh_token for _, opened in self.house.take(count)]
            requests = [post("/auth/refresh", json.dumps({"refresh_token": one}).encode(), JSON) for one in tokens]
            return self._load(name, requests, '"refresh_token":"vrt_', order="chain")

        return [Fresh("refresh", self.meter, chains, CHAINS, lambda rate, seconds: CHAINS)]

    def jwks(self) -> list[Step]:
        """The public keys."""
        return [Steady("JWKS", self.meter, self._load("jwks", [get("/.well-known/jwks.json")], '"kid"'))]

    def login(self) -> list[Step]:
        """Sign-ins, beside what their hashes alone would take."""
        return [
            Alone("argon2 alone", self.settings, self.slots),
            SignIns("login", self.meter, self._logins(4 * self.slots)),
        ]

    def flood(self) -> list[Step]:
        """A few unhurried introspections, by themselves and while sign-ins stand in line."""
        load = replace(self._known_tokens("unhurried"), connections=FEW, pause=PAUSE)
        return [
            Steady("introspection, unhurried", self.meter, load),
            Flooded("introspection in a flood", self.meter, load, self._logins(16 * self.slots)),
        ]

    def workers(self) -> list[Step]:
        """One worker beside two."""
        if self.two_workers is None:
            return []
        meter, load = Meter(self.two_workers, self.redis), self._known_tokens("two workers")
        return [self._warm(), Steady("two workers", meter, replace(load, port=self.two_workers.port))]

    def _warm(self) -> Step:
        return Steady("introspection, warm", self.meter, self._known_tokens("warm"))

    def _known_tokens(self, name: str) -> Load:
        """Introspections of a few tokens, each of a session of its own."""
        return self._introspect(name, (opened.grant.access_token for _, opened in self.house.take(WARM_TOKENS)))

    def _logins(self, connections: int) -> Load:
        bodies = [json.dumps({"email": email, "password": PASSWORD}).encode() for email in self.house.people]
        requests = [post("/auth/login", body, JSON) for body in bodies]
        load = self._load(f"login-{connections}", requests, '"refresh_token":"vrt_')
        return replace(load, connections=connections)

    def _introspect(self, name: str, tokens: Iterable[str], order: Order = "cycle") -> Load:
        requests = (post("/introspect", self._form(token), FORM, self.house.authorization) for token in tokens)
        return self._load(name, requests, ACTIVE, order)

    def _load(self, name: str, requests: Iterable[bytes], expect: str, order: Order = "cycle") -> Load:
        return Load(self.program.port, write(file_in(self.folder, name), requests), expect, order)

    def _form(self, token: str) -> bytes:
        return urlencode({"token": token}).encode()


STEPS: dict[str, Callable[[Bench], list[Step]]] = {
    "introspection": Bench.introspection,
    "refresh": Bench.refresh,
    "login": Bench.login,
    "jwks": Bench.jwks,
    "flood": Bench.flood,
    "workers": Bench.workers,
}


def sessions_for(rounds: int) -> int:
    """How many sessions all steps take."""
    return 1 + COLD_SESSIONS + 4 * WARM_TOKENS + (rounds + 1) * CHAINS
