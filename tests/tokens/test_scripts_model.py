"""The Lua scripts against a model of what they promise, on the real server, driven by hypothesis.

Rules that call one script each hardly ever meet the moments that matter. So most rules here tell a whole story (an
answer is lost and asked for again, two tabs refresh at once, a refresh meets a revocation, the store forgets its last
writes), or put the clock right before, at and after the edge of a window. `test_scripts_mutants.py` shows that this
machine notices when a script is wrong.
"""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from hashlib import sha256
from typing import Any, Literal

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from redis import Redis

from service.store.redis import source
from tests.conftest import NODE_CLOCK, Servers

SCRIPTS = ("open", "rotate", "inspect", "close", "close_all")
ARGUMENT_CLOCK = """(function()
  local now = tonumber(ARGV[#ARGV])
  return { math.floor(now / 1000), now % 1000 * 1000 }
end)()"""
"""The scripts' clock: their last argument, in milliseconds."""

START = 1_800_000_000_000
DAY = 86_400_000
GRACE = 10_000
LOST = 3_600_000
IDLE = 14 * DAY
ABSOLUTE = 30 * DAY
TOMBSTONE = DAY
REMEMBER = ABSOLUTE + DAY
SLACK = 60_000
MOST = 3

CLIENTS = ("web", "phone")
SALT = bytes(range(16))
LOGOUT, REUSED, EVICTED = 1, 2, 3
NO_GENERATION = -1
OUTCOMES = {"rotated", "repeated", "healed", "reused", "revoked", "expired", "foreign", "unknown"}

Verdict = Literal["live", "revoked", "expired", "unknown"]


@dataclass
class Session:
    """What the model knows of one session. `ended`: why, 0 while it lives. `kept`: its record was not swept."""

    sid: bytes
    client: str
    detail: str
    created: int
    used: int
    rotated: int
    absolute: int
    idle: int
    generation: int = 0
    confirmed: bool = True
    ended: int = 0
    kept: bool = True


@dataclass
class Model:
    """The promises, written down once more without any store."""

    now: int = START
    mark: int = 0
    sessions: list[Session] = field(default_factory=list)

    def verdict(self, session: Session) -> Verdict:
        if not session.kept:
            return "unknown"
        if session.ended or session.created <= self.mark:
            return "revoked"
        return "live" if self.now < min(session.idle, session.absolute) else "expired"

    def live(self) -> list[Session]:
        return [session for session in self.sessions if self.verdict(session) == "live"]

    def open(self, sid: bytes, client: str, detail: str, gone: list[Session]) -> Session:
        """A new session; `gone` are those that had to go for it, as `overflow` told before."""
        for session in self.sessions:
            forgettable = session.used + TOMBSTONE <= self.now
            if self.verdict(session) == "expired" or (self.verdict(session) == "revoked" and forgettable):
                session.kept = False
        dead = [one for one in self.sessions if one not in gone and self.verdict(one) == "revoked"]
        for session in sorted(dead, key=lambda one: (one.used, one.sid))[: max(len(dead) - MOST, 0)]:
            session.kept = False
        end = self.now + ABSOLUTE
        created = max(self.now, self.mark + 1)
        opened = Session(sid, client, detail, created, self.now, self.now, end, self.now + IDLE)
        self.sessions.append(opened)
        return opened

    def overflow(self) -> list[int]:
        """When the sessions were last used that have to go for one more."""
        live = sorted(session.used for session in self.live())
        return live[: max(len(live) - MOST + 1, 0)]

    def rotate(self, session: Session, presented: int, client: str) -> str:
        verdict = self.verdict(session)
        if verdict == "unknown":
            return "unknown"
        if client != session.client:
            return "foreign"
        if verdict != "live":
            return verdict
        if presented >= session.generation:
            outcome = "rotated" if presented == session.generation else "healed"
            session.generation, session.confirmed = presented + 1, False
            session.rotated = session.used = self.now
            session.idle = min(self.now + IDLE, session.absolute)
            return outcome
        age = self.now - session.rotated
        excused = age < GRACE or (age < LOST and not session.confirmed)
        if presented == session.generation - 1 and excused:
            return "repeated"
        self.end(session, REUSED)
        return "reused"

    def inspect(self, session: Session, generation: int) -> Verdict:
        verdict = self.verdict(session)
        if verdict == "live" and generation == session.generation:
            session.confirmed = True
        return verdict

    def close(self, session: Session) -> str:
        verdict = self.verdict(session)
        if session.kept and not session.ended:
            self.end(session, LOGOUT)
        return "closed" if verdict == "live" else verdict

    def close_all(self) -> int:
        newest = max((session.created for session in self.sessions), default=0)
        self.mark = max(self.mark + 1, self.now, newest)
        return self.mark

    def end(self, session: Session, why: int) -> None:
        session.ended, session.used = why, self.now

    def edges(self, session: Session) -> list[int]:
        """The moments at which something changes for a session."""
        return [
            session.rotated + GRACE,
            session.rotated + LOST,
            session.idle,
            session.absolute,
            session.used + TOMBSTONE,
        ]


def texts() -> dict[str, str]:
    """The scripts as they are, under a clock that a test sets."""
    return {name: source(name).replace(NODE_CLOCK, ARGUMENT_CLOCK) for name in SCRIPTS}


sessions = st.integers(0, 5)
clients = st.sampled_from(CLIENTS)
behind = st.sampled_from((0, 1, 2, 3))
around = st.sampled_from((-1, 0, 1))
introspected = st.sampled_from((None, -1, 0, 1))
waits = st.sampled_from((0, GRACE - 1, GRACE, GRACE + 1, LOST - 1, LOST, LOST + 1))


class TokenStore(RuleBasedStateMachine):
    """One account with a few sessions of two clients."""

    def __init__(self, redis: Redis, scripts: Mapping[str, str], reached: set[str]) -> None:
        super().__init__()
        self.redis = redis
        self.reached = reached
        self.scripts = {name: redis.register_script(text) for name, text in scripts.items()}
        self.key = f"vestibule:test:{{{secrets.token_hex(8)}}}"
        self.model = Model()

    def teardown(self) -> None:
        self.redis.delete(self.key)

    # One script each

    @rule(client=clients)
    def somebody_signs_in(self, client: str) -> None:
        self.open(client)

    @rule(number=sessions, back=behind)
    def a_token_is_presented(self, number: int, back: int) -> None:
        session = self.any(number)
        self.rotate(session, max(session.generation - back, 0))

    @rule(number=sessions, off=around)
    def a_token_is_introspected(self, number: int, off: int) -> None:
        session = self.any(number)
        self.inspect(session, session.generation + off)

    @rule(number=sessions)
    def somebody_signs_out(self, number: int) -> None:
        self.close(self.any(number))

    @rule()
    def everybody_is_signed_out(self) -> None:
        self.close_all()

    @rule(milliseconds=st.sampled_from((1, 999, 1000, LOST, DAY)))
    def time_passes(self, milliseconds: int) -> None:
        self.model.now += milliseconds

    # Stories

    @rule(
        number=sessions,
        seen=introspected,
        pauses=st.lists(waits, min_size=1, max_size=2),
    )
    def an_answer_is_lost_and_asked_for_again(self, number: int, seen: int | None, pauses: list[int]) -> None:
        """`seen`: which token is introspected in between, counted from the generation that was answered."""
        session = self.alive(number)
        token = session.generation
        self.rotate(session, token)
        if seen is not None:
            self.inspect(session, session.generation + seen)
        for pause in pauses:
            self.model.now += pause
            self.rotate(session, token)
        self.rotate(session, token + 1)

    @rule(
        number=sessions,
        seen=introspected,
        window=st.sampled_from((GRACE, LOST)),
        repeated=st.booleans(),
        off=around,
    )
    def a_token_comes_back_at_the_edge_of_a_window(
        self, number: int, seen: int | None, window: int, repeated: bool, off: int
    ) -> None:
        """`seen`: as above; only the successor itself closes the longer window. `repeated`: it came half-way, too."""
        session = self.alive(number)
        token = session.generation
        self.rotate(session, token)
        if seen is not None:
            self.inspect(session, session.generation + seen)
        self.model.now += window // 2
        if repeated:
            self.rotate(session, token)
        self.model.now += window - window // 2 + off
        self.rotate(session, token)

    @rule(number=sessions, confirmed=st.booleans())
    def two_tabs_refresh_at_once(self, number: int, confirmed: bool) -> None:
        session = self.alive(number)
        for token in (session.generation, session.generation + 1):
            self.rotate(session, token)
            if confirmed:
                self.inspect(session, token + 1)
            self.rotate(session, token)

    @rule(number=sessions, how=st.sampled_from(("close", "close_all", "reuse")), refreshed_first=st.booleans())
    def a_refresh_meets_a_revocation(self, number: int, how: str, refreshed_first: bool) -> None:
        session = self.alive(number)
        token = session.generation
        if refreshed_first:
            self.rotate(session, token)
        if how == "close":
            self.close(session)
        elif how == "close_all":
            self.close_all()
        else:
            self.rotate(session, max(session.generation - 2, 0))
        for again in (token, token + 1):
            self.rotate(session, again)
            self.inspect(session, again)
        self.close(session)

    @rule(number=sessions, back=behind)
    def a_thief_comes_with_another_client(self, number: int, back: int) -> None:
        session = self.alive(number)
        other = next(client for client in CLIENTS if client != session.client)
        self.rotate(session, max(session.generation - back, 0), other)
        self.rotate(session, session.generation + 1, other)
        self.rotate(session, session.generation)

    @rule(number=sessions, lost=st.integers(1, 3), retried=st.booleans(), old=behind)
    def the_store_loses_its_last_writes(self, number: int, lost: int, retried: bool, old: int) -> None:
        """An older copy of the record comes back, as after a failover; its holder is ahead of it."""
        session = self.alive(number)
        copy, known = self.redis.hget(self.key, session.sid), replace(session)
        for _ in range(lost):
            self.rotate(session, session.generation)
        token = session.generation
        self.redis.hset(self.key, session.sid, copy)
        self.model.sessions[self.model.sessions.index(session)] = known
        self.rotate(known, token)
        if retried:
            self.rotate(known, token)
        self.rotate(known, max(token - old, 0))

    @rule(steps=st.lists(st.sampled_from(("open", "close_all")), min_size=2, max_size=5))
    def all_within_one_millisecond(self, steps: list[str]) -> None:
        for step in steps:
            if step == "open":
                self.open(CLIENTS[0])
            else:
                self.close_all()
            self.everybody_is_what_they_should_be()

    @rule(behind_by=st.sampled_from((1, 20_000)), opened_since=st.integers(0, 1), closed=st.booleans())
    def a_server_with_a_slower_clock_takes_over(self, behind_by: int, opened_since: int, closed: bool) -> None:
        """Sessions were opened at a time that is still to come."""
        self.open(CLIENTS[0])
        self.model.now -= behind_by
        for _ in range(opened_since):
            self.open(CLIENTS[1])
        if closed:
            self.close_all()
            self.open(CLIENTS[0])

    @rule(refreshed=st.lists(sessions, max_size=2), apart=st.sampled_from((1, 5000)))
    def one_session_too_many(self, refreshed: list[int], apart: int) -> None:
        while len(self.model.live()) < MOST:
            self.model.now += apart
            self.open(CLIENTS[0])
        for number in refreshed:
            self.model.now += apart
            session = self.alive(number)
            self.rotate(session, session.generation)
        self.model.now += apart
        self.open(CLIENTS[1])

    @rule(number=sessions, off=around)
    def somebody_stays_to_the_very_end(self, number: int, off: int) -> None:
        """Refreshed right before each idle end, until the absolute one."""
        session = self.alive(number)
        while session.idle < session.absolute:
            self.model.now = max(self.model.now, session.idle - 1)
            self.rotate(session, session.generation)
        self.model.now = max(self.model.now, session.absolute + off)
        self.inspect(session, session.generation)
        self.rotate(session, session.generation)

    @rule(number=sessions, off=around)
    def a_session_is_looked_at_but_not_refreshed(self, number: int, off: int) -> None:
        session = self.alive(number)
        self.rotate(session, session.generation)
        self.inspect(session, session.generation)
        self.model.now = max(self.model.now, session.idle + off)
        self.inspect(session, session.generation)
        self.rotate(session, session.generation)

    @rule(number=sessions, off=around, how=st.sampled_from(("close", "close_all")))
    def an_ended_session_is_forgotten_a_day_later(self, number: int, off: int, how: str) -> None:
        session = self.alive(number)
        if how == "close":
            self.close(session)
        else:
            self.close_all()
        self.model.now = max(self.model.now, session.used + TOMBSTONE + off)
        self.open(CLIENTS[0])
        self.inspect(session, session.generation)
        self.rotate(session, session.generation)
        self.close(session)

    # Edges

    @rule(
        number=sessions,
        edge=st.integers(0, 4),
        off=around,
        then=st.sampled_from(("refresh", "retry", "inspect", "open", "close")),
    )
    def the_clock_stands_at_an_edge(self, number: int, edge: int, off: int, then: str) -> None:
        session = self.alive(number)
        self.model.now = max(self.model.now, self.model.edges(session)[edge] + off)
        if then == "refresh":
            self.rotate(session, session.generation)
        elif then == "retry":
            self.rotate(session, max(session.generation - 1, 0))
        elif then == "inspect":
            self.inspect(session, session.generation)
        elif then == "close":
            self.close(session)
        else:
            self.open(session.client)

    # After every rule

    @invariant()
    def everybody_is_what_they_should_be(self) -> None:
        """Every session is looked at without being touched: no generation is confirmed by this."""
        pipeline = self.redis.pipeline(transaction=False)
        for session in self.model.sessions:
            self.scripts["inspect"]([self.key], [session.sid, NO_GENERATION, self.model.now], client=pipeline)
        found = [answer[0].decode() for answer in pipeline.execute()]
        assert found == [self.model.verdict(session) for session in self.model.sessions]

    @invariant()
    def nothing_stays_forever(self) -> None:
        assert self.redis.pttl(self.key) != -1

    # Each script beside the model

    def open(self, client: str) -> Session:
        # Not random, so that an example does the same whenever it is run.
        sid = sha256(str(len(self.model.sessions)).encode()).digest()[:16]
        detail = f"account\npwd {len(self.model.sessions)}"
        overflow = self.model.overflow()
        answered, created, absolute, *evicted = self.run(
            "open", sid, IDLE, ABSOLUTE, MOST, TOMBSTONE, SALT, client, detail, "reader"
        )
        gone = [session for session in self.model.sessions if session.sid in evicted]
        # Of several that were used in the same millisecond any one may go.
        assert sorted(session.used for session in gone) == overflow
        assert len(evicted) == len(overflow)
        assert all(self.model.verdict(session) == "live" for session in gone)
        for session in gone:
            self.model.end(session, EVICTED)
        opened = self.model.open(sid, client, detail, gone)
        assert (answered, created, absolute) == (sid, opened.created, opened.absolute)
        assert self.redis.pttl(self.key) > ABSOLUTE + DAY - SLACK
        return opened

    def rotate(self, session: Session, presented: int, client: str | None = None) -> None:
        client = client or session.client
        expected = self.model.rotate(session, presented, client)
        self.reached.add(expected)
        outcome, sid, *rest = self.run("rotate", session.sid, presented, client, GRACE, LOST, IDLE)
        assert (outcome.decode(), sid) == (expected, session.sid)
        if expected in {"rotated", "repeated", "healed"}:
            told = [session.generation, session.created, session.absolute, session.detail.encode(), b"reader"]
            assert rest == told
        elif expected in {"revoked", "expired", "reused"}:
            assert rest == [session.ended]
        else:
            assert rest == []

    def inspect(self, session: Session, generation: int) -> None:
        expected = self.model.inspect(session, generation)
        rest = [b"reader"] if expected == "live" else []
        assert self.run("inspect", session.sid, generation) == [expected.encode(), session.sid, *rest]

    def close(self, session: Session) -> None:
        expected = self.model.close(session)
        assert self.run("close", session.sid, LOGOUT) == [expected.encode(), session.sid]

    def close_all(self) -> None:
        assert self.run("close_all", REMEMBER) == self.model.close_all()
        assert self.redis.pttl(self.key) > REMEMBER - SLACK

    # What the rules need

    def any(self, number: int) -> Session:
        """One of the newest sessions, dead or alive; the first one is opened for this."""
        if not self.model.sessions:
            self.open(CLIENTS[0])
        known = self.model.sessions
        return known[-1 - number % len(known)]

    def alive(self, number: int) -> Session:
        """A session that lives, opened for this when there is none."""
        live = self.model.live() or [self.open(CLIENTS[number % 2])]
        return live[-1 - number % len(live)]

    def run(self, name: str, *arguments: bytes | str | int) -> Any:
        return self.scripts[name](keys=[self.key], args=[*arguments, self.model.now])


def profile(examples: int, steps: int) -> settings:
    """The same examples in every run, nothing remembered; a failure is told as it was found."""
    return settings(
        max_examples=examples,
        stateful_step_count=steps,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )


def drive(servers: Servers, scripts: Mapping[str, str], how: settings, reached: set[str]) -> None:
    """Runs the machine on these scripts. Raises `AssertionError` where they and the model disagree."""
    redis = Redis.from_url(servers.redis_url)
    try:
        machine: Any = partial(TokenStore, redis, scripts, reached)
        run_state_machine_as_test(machine, settings=how)
    finally:
        redis.close()


@pytest.mark.standard("SE-02", "SE-08", "SE-09", "SE-15", "SE-16", "SE-22", "SE-25", "SE-26", "SE-27", "SE-29", "SE-35")
def test_the_scripts_keep_every_promise_of_the_model(servers: Servers) -> None:
    reached: set[str] = set()
    drive(servers, texts(), profile(120, 25), reached)
    assert reached >= OUTCOMES


def test_the_clock_of_each_script_is_the_one_that_the_model_sets() -> None:
    assert all(source(name).count(NODE_CLOCK) == 1 for name in SCRIPTS)
    assert all(NODE_CLOCK not in text for text in texts().values())
