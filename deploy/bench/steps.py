"""The loads of a run, by the names that `--only` takes."""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlencode

from redis import Redis

from deploy.bench.house import PASSWORD, House
from deploy.bench.load import CONNECTIONS, Load, Order, get, post, write
from deploy.bench.measure import Meter
from deploy.bench.rounds import Fresh, Steady, Step, file_in
from deploy.bench.servers import Program

FORM, JSON = "application/x-www-form-urlencoded", "application/json"
ACTIVE = '"active":true'
WARM_TOKENS = 100
COLD_SESSIONS = 20
FIRST_COLD = 12_000
"""Tokens for the checking run, more than any worker verifies in its second."""
CHAINS = CONNECTIONS + 8
"""A chain for each connection of a run, and some that end with what is under way when it does."""


@dataclass(frozen=True)
class Bench:
    """What the loads are made from: the processes, the people in the house, and a folder for the requests."""

    program: Program
    yardstick: Program
    redis: "Redis"
    house: House
    folder: Path
    slots: int
    """Hashes that the service computes at once."""

    @property
    def meter(self) -> Meter:
        return Meter(self.program, self.redis)

    def yardstick_step(self) -> Step:
        """R0: posts as much as an introspection does."""
        [(_, opened)] = self.house.take(1)
        request = post("/", self._form(opened.grant.access_token), FORM)
        load = replace(self._load("R0", [request], ACTIVE), port=self.yardstick.port)
        return Steady("R0", Meter(self.yardstick, self.redis), load)

    def introspection(self) -> list[Step]:
        """The same tokens again and again, and tokens that are all new."""
        sessions = self.house.take(COLD_SESSIONS)

        def cold(count: int, name: str) -> Load:
            return self._introspect(name, self.house.new_tokens(sessions, count), order="once")

        return [
            Steady("introspection, warm", self.meter, self.warm_tokens()),
            Fresh("introspection, cold", self.meter, cold, FIRST_COLD),
        ]

    def refresh(self) -> list[Step]:
        """Each connection exchanges its refresh token for the next, and that one for the next."""

        def chains(count: int, name: str) -> Load:
            tokens = [opened.grant.refresh_token for _, opened in self.house.take(count)]
            requests = [post("/auth/refresh", json.dumps({"refresh_token": one}).encode(), JSON) for one in tokens]
            return self._load(name, requests, '"refresh_token":"vrt_', order="chain")

        return [Fresh("refresh", self.meter, chains, CHAINS, many=lambda rate, seconds: CHAINS)]

    def jwks(self) -> list[Step]:
        """The public keys."""
        return [Steady("JWKS", self.meter, self._load("jwks", [get("/.well-known/jwks.json")], '"kid"'))]

    def warm_tokens(self, name: str = "warm") -> Load:
        """Introspections of a few tokens, each of a session of its own."""
        tokens = [opened.grant.access_token for _, opened in self.house.take(WARM_TOKENS)]
        return self._introspect(name, tokens)

    def logins(self) -> Load:
        """Sign-ins of people whose device is known after the first."""
        bodies = [json.dumps({"email": email, "password": PASSWORD}).encode() for email in self.house.people]
        requests = [post("/auth/login", body, JSON) for body in bodies]
        load = self._load("login", requests, '"refresh_token":"vrt_')
        return replace(load, connections=4 * self.slots)

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
    "jwks": Bench.jwks,
}
