"""The scripts of a pending sign-up, beside a model of what they promise about its code and its link."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from redis import Redis

from service.store.redis import source
from tests.conftest import NODE_CLOCK, Servers
from tests.tokens.session_machine import ARGUMENT_CLOCK
from tests.tokens.session_model import DAY, START
from tests.tokens.test_scripts_model import profile

SCRIPTS = ("renew", "redeem")
LIVES = {"code": 600_000, "link": 3_600_000}
CLAIM = 10_000
TRIES = 3
SLACK = 600_000


@dataclass
class SignUp:
    """Which code and link are the right ones, until when, and what was tried."""

    right: dict[str, str] = field(default_factory=dict)
    until: dict[str, int] = field(default_factory=dict)
    tries: int = 0
    claimed: int = 0

    def redeem(self, now: int, kind: str, presented: str) -> str:
        self.tries += 1
        if self.tries > TRIES:
            return "burnt"
        if self.right.get(kind) != presented or now >= self.until[kind]:
            return "wrong"
        self.tries -= 1
        if now < self.claimed:
            return "claimed"
        self.claimed = now + CLAIM
        return "right"


def texts() -> dict[str, str]:
    """The scripts as they are, under a clock that a test sets."""
    return {name: source(name).replace(NODE_CLOCK, ARGUMENT_CLOCK) for name in SCRIPTS}


kinds = st.sampled_from(("code", "link"))
around = st.sampled_from((-1, 0, 1))
pauses = st.sampled_from((0, CLAIM - 1, CLAIM, CLAIM + 1))


class Proofs(RuleBasedStateMachine):
    """One sign-up whose code and link are presented, replaced, claimed, given back and late."""

    def __init__(self, redis: Redis, scripts: Mapping[str, str], reached: set[str]) -> None:
        super().__init__()
        self.redis = redis
        self.reached = reached
        self.scripts = {name: redis.register_script(text) for name, text in scripts.items()}
        self.key = f"vestibule:test:{secrets.token_hex(8)}"
        self.now = START
        self.made = 0
        self.model: SignUp | None = None

    def teardown(self) -> None:
        self.redis.delete(self.key)

    @initialize()
    def somebody_signs_up(self) -> None:
        self.redis.delete(self.key)
        self.redis.eval(source("hold"), 1, self.key, DAY, "email", "anna@example.com", "tries", "0")
        self.model = SignUp()
        self.mails_go_out()

    @rule()
    def mails_go_out(self) -> None:
        self.made += 1
        mailed = {kind: f"{kind} {self.made}" for kind in LIVES}
        answer = self.run("renew", mailed["code"], LIVES["code"], mailed["link"], LIVES["link"])
        assert answer == int(self.model is not None)
        if self.model is not None:
            self.model.right = mailed
            self.model.until = {kind: self.now + life for kind, life in LIVES.items()}

    @rule(kind=kinds, times=st.integers(1, TRIES + 1))
    def somebody_guesses(self, kind: str, times: int) -> None:
        for _ in range(times):
            self.redeem(kind, "a guess")
        self.redeem(kind, f"{kind} {self.made}")

    @rule(kind=kinds, back=st.integers(0, 1))
    def what_was_mailed_is_presented(self, kind: str, back: int) -> None:
        self.redeem(kind, f"{kind} {self.made - back}")

    @rule(kind=kinds)
    def one_kind_is_presented_as_the_other(self, kind: str) -> None:
        other = "link" if kind == "code" else "code"
        self.redeem(kind, f"{other} {self.made}")

    @rule(kind=kinds, off=around)
    def it_is_presented_at_its_end(self, kind: str, off: int) -> None:
        self.mails_go_out()
        self.now += LIVES[kind] + off
        self.redeem(kind, f"{kind} {self.made}")

    @rule(first=kinds, second=kinds, pause=pauses, how=st.sampled_from(("claimed", "released", "renewed")))
    def two_come_at_once(self, first: str, second: str, pause: int, how: str) -> None:
        """`released`: the first one could not go on, and gave back what was claimed."""
        self.mails_go_out()
        self.redeem(first, f"{first} {self.made}")
        if how == "released":
            self.redis.hdel(self.key, "claimed")
            if self.model is not None:
                self.model.claimed = 0
        elif how == "renewed":
            self.mails_go_out()
        self.now += pause
        self.redeem(second, f"{second} {self.made}")

    @rule(kind=kinds)
    def who_is_right_too_often_spends_nothing(self, kind: str) -> None:
        for _ in range(TRIES + 1):
            self.redeem(kind, f"{kind} {self.made}")

    @rule()
    def the_sign_up_is_forgotten(self) -> None:
        self.redis.delete(self.key)
        self.model = None
        self.redeem("code", f"code {self.made}")
        self.mails_go_out()

    @rule()
    def somebody_signs_up_again(self) -> None:
        self.somebody_signs_up()

    @invariant()
    def it_ends_by_itself(self) -> None:
        left = self.redis.pttl(self.key)
        assert left == -2 if self.model is None else DAY - SLACK < left <= DAY

    def redeem(self, kind: str, presented: str) -> None:
        expected = self.model.redeem(self.now, kind, presented) if self.model else "unknown"
        self.reached.add(expected)
        assert self.run("redeem", kind, presented, TRIES, CLAIM) == expected.encode()

    def run(self, name: str, *arguments: str | int) -> Any:
        return self.scripts[name](keys=[self.key], args=[*arguments, self.now])


def drive(servers: Servers, scripts: Mapping[str, str], examples: int) -> set[str]:
    """Runs the machine on these scripts and says which outcomes there were. Raises `AssertionError`."""
    reached: set[str] = set()
    redis = Redis.from_url(servers.redis_url)
    try:
        machine: Any = partial(Proofs, redis, scripts, reached)
        run_state_machine_as_test(machine, settings=profile(examples, 20))
    finally:
        redis.close()
    return reached
