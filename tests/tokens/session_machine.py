"""The scripts of a session beside the model: each call is made to both, and their answers compared."""

import secrets
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

from hypothesis.stateful import RuleBasedStateMachine, invariant
from redis import Redis

from service.store.redis import source
from tests.conftest import NODE_CLOCK
from tests.tokens.session_model import (
    ABSOLUTE,
    CLIENTS,
    DAY,
    EVICTED,
    GRACE,
    IDLE,
    LOGOUT,
    LOST,
    MOST,
    NEVER,
    NO_GENERATION,
    PAUSE,
    REMEMBER,
    SALT,
    SLACK,
    TOMBSTONE,
    Model,
    Session,
)

SCRIPTS = (
    "open",
    "rotate",
    "inspect",
    "close",
    "close_all",
    "close_others",
    "reauthenticate",
    "list",
    "peek",
    "appoint",
    "restore",
)
ARGUMENT_CLOCK = """(function()
  local now = tonumber(ARGV[#ARGV])
  return { math.floor(now / 1000), now % 1000 * 1000 }
end)()"""
"""The scripts' clock: their last argument, in milliseconds."""


def texts() -> dict[str, str]:
    """The scripts as they are, under a clock that a test sets."""
    return {name: source(name).replace(NODE_CLOCK, ARGUMENT_CLOCK) for name in SCRIPTS}


class BesideTheModel(RuleBasedStateMachine):
    """One account with a few sessions of two clients; what happens to them, the rules of a subclass say."""

    def __init__(self, redis: Redis, scripts: Mapping[str, str], reached: set[str]) -> None:
        super().__init__()
        self.redis = redis
        self.reached = reached
        self.scripts = {name: redis.register_script(text) for name, text in scripts.items()}
        self.key = f"vestibule:test:{{{secrets.token_hex(8)}}}"
        self.denial = f"{self.key}:denied"
        self.model = Model()

    def teardown(self) -> None:
        self.redis.delete(self.key, self.denial)

    # After every rule

    @invariant()
    def everybody_is_what_they_should_be(self) -> None:
        """Every session is looked at without being touched: nothing is confirmed or noted by this."""
        pipeline = self.redis.pipeline(transaction=False)
        for session in self.model.sessions:
            arguments: list[bytes | int] = [session.sid, NO_GENERATION, NEVER, self.model.now]
            self.scripts["inspect"]([self.key, self.denial], list(arguments), client=pipeline)
        found = [answer[0].decode() for answer in pipeline.execute()]
        assert found == [self.model.verdict(session) for session in self.model.sessions]
        for session in self.model.sessions:
            for generation in (session.generation - 1, session.generation, session.generation + 1):
                answer = self.run("peek", session.sid, generation, GRACE, LOST)
                assert [answer[0].decode(), *answer[1:]] == self.model.peek(session, generation)
        assert sorted(self.run("list"), key=str) == self.model.listed()

    @invariant()
    def nothing_stays_forever(self) -> None:
        assert self.redis.pttl(self.key) != -1

    # Each script beside the model

    def open(self, client: str) -> Session:
        # Not random, so that an example does the same whenever it is run.
        sid = sha256(str(len(self.model.sessions)).encode()).digest()[:16]
        detail = f"account\npwd {len(self.model.sessions)}"
        overflow, proved_ago = self.model.overflow(), len(self.model.sessions) % 3 * 90_000
        answered, created, absolute, roles, *evicted = self.run(
            "open", sid, IDLE, ABSOLUTE, MOST, TOMBSTONE, SALT, client, detail, "newcomer", proved_ago
        )
        gone = [session for session in self.model.sessions if session.sid in evicted]
        # Of several that were used in the same millisecond any one may go.
        assert sorted(session.used for session in gone) == overflow
        assert len(evicted) == len(overflow)
        assert all(self.model.verdict(session) == "live" for session in gone)
        for session in gone:
            self.model.end(session, EVICTED)
        opened = self.model.open(sid, client, detail, gone, proved_ago)
        assert roles == self.model.roles
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
            told = [
                session.generation,
                session.authenticated,
                session.absolute,
                session.detail.encode(),
                self.model.roles,
            ]
            assert rest == told
        elif expected in {"revoked", "expired", "reused"}:
            assert rest == [session.ended]
        else:
            assert rest == []

    def inspect(self, session: Session, generation: int) -> None:
        expected = self.model.inspect(session, generation)
        rest = [self.model.roles] if expected == "live" else []
        assert self.run("inspect", session.sid, generation, PAUSE) == [expected.encode(), session.sid, *rest]

    def reauthenticate(self, session: Session, behind: int = 0) -> None:
        """`behind` is by how many generations the access token is older than the session."""
        # As if little time was left to the account: the script must see to it that its sessions do not vanish.
        self.redis.pexpire(self.key, REMEMBER - 2 * SLACK)
        how = f"anew {session.generation}"
        presented = session.generation - behind
        expected = self.model.reauthenticate(session, presented, how)
        windows = (GRACE, LOST, IDLE, ABSOLUTE)
        state, sid, *rest = self.run("reauthenticate", session.sid, presented, *windows, how)
        assert (state.decode(), sid) == (expected, session.sid)
        if expected != "live":
            assert rest == []
            return
        times = [session.generation, session.authenticated, session.absolute]
        assert rest == [*times, SALT, session.client.encode(), session.detail.encode(), self.model.roles]
        assert self.redis.pttl(self.key) > ABSOLUTE + DAY - SLACK

    def close_others(self, keep: Session, why: int) -> None:
        expected = self.model.close_others(keep, why)
        assert sorted(self.run("close_others", keep.sid, why)) == expected

    def close(self, session: Session, client: str = "") -> None:
        """`client` is the one that must hold it; whichever when empty."""
        expected = self.model.close(session, client)
        assert self.run("close", session.sid, LOGOUT, client) == [expected.encode(), session.sid]

    def appoint(self, roles: bytes) -> None:
        has_sessions = bool(self.redis.exists(self.key))
        assert self.run("appoint", roles) == int(has_sessions)
        self.model.roles = roles if has_sessions else self.model.roles

    def close_all(self) -> None:
        assert self.run("close_all", REMEMBER) == self.model.close_all()
        assert self.redis.pttl(self.key) > REMEMBER - SLACK

    def lose(self, session: Session | None = None) -> None:
        """The store forgets the account, or one session as if it had been opened after the copy was made."""
        if session is None:
            self.redis.delete(self.key)
            self.model.lose()
        else:
            self.redis.hdel(self.key, session.sid)
            session.kept = False

    def restore(self, session: Session, behind: int = 0, earlier: int = 0) -> None:
        """What the journal noted of the session may be some generations `behind` and milliseconds `earlier`."""
        if not self.model.may_come_back(session, earlier):
            return
        used, generation = self.model.noted_use(session, earlier), max(session.generation - behind, 0)
        # As if little time was left to the account, as above.
        self.redis.pexpire(self.key, SLACK)
        times = (session.created, session.authenticated, used, session.absolute, min(used + IDLE, session.absolute))
        words = (SALT, session.client, session.detail, b"written", DAY)
        expected = self.model.restore(session, behind, earlier, b"written")
        assert self.run("restore", session.sid, *times, generation, *words) == expected
        if expected:
            assert self.redis.pttl(self.key) > session.absolute - self.model.now + DAY - SLACK
        else:
            self.redis.pexpire(self.key, REMEMBER)

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
        return self.scripts[name](keys=[self.key, self.denial], args=[*arguments, self.model.now])
