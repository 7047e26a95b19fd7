"""The Lua scripts against a model of what they promise, on the real server, driven by hypothesis.

Rules that call one script each hardly ever meet the moments that matter. So most rules here tell a whole story (an
answer is lost and asked for again, two tabs refresh at once, a refresh meets a revocation, the store forgets its last
writes), or put the clock right before, at and after the edge of a window. `test_scripts_mutants.py` shows that this
machine notices when a script is wrong.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import rule, run_state_machine_as_test
from redis import Redis

from service.store.redis import source
from tests.conftest import NODE_CLOCK, Servers
from tests.tokens.session_machine import SCRIPTS, BesideTheModel, texts
from tests.tokens.session_model import (
    CLIENTS,
    DAY,
    ENDED,
    GRACE,
    LOST,
    MOST,
    OUTCOMES,
    PASSWORD_CHANGED,
    PAUSE,
    TOMBSTONE,
)

sessions = st.integers(0, 5)
clients = st.sampled_from(CLIENTS)
behind = st.sampled_from((0, 1, 2, 3))
around = st.sampled_from((-1, 0, 1))
pauses_of_use = st.sampled_from((1, PAUSE - 1, PAUSE, PAUSE + 1))
introspected = st.sampled_from((None, -1, 0, 1))
uncertain = st.sampled_from((0, 1, GRACE, LOST, DAY))
reasons = st.sampled_from((ENDED, PASSWORD_CHANGED))
waits = st.sampled_from((0, GRACE - 1, GRACE, GRACE + 1, LOST - 1, LOST, LOST + 1))


class TokenStore(BesideTheModel):
    """All that happens to sessions."""

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

    @rule(number=sessions, client=clients)
    def a_client_gives_a_session_up(self, number: int, client: str) -> None:
        self.close(self.any(number), client)

    @rule(roles=st.sampled_from((b"", b"reader", b"reader admin")))
    def somebody_is_appointed(self, roles: bytes) -> None:
        self.appoint(roles)

    @rule()
    def everybody_is_signed_out(self) -> None:
        self.close_all()

    @rule(number=sessions, behind=st.integers(-1, 3))
    def somebody_gives_the_password_again(self, number: int, behind: int) -> None:
        self.reauthenticate(self.any(number), behind)

    @rule(number=sessions, seen=introspected, pause=waits)
    def a_double_click_gives_the_password_twice(self, number: int, seen: int | None, pause: int) -> None:
        """Both with one access token; whichever token of the two is refreshed then, and the one before them."""
        session = self.alive(number)
        token = session.generation
        self.reauthenticate(session)
        if seen is not None:
            self.inspect(session, session.generation + seen)
        self.model.now += pause
        self.reauthenticate(session, session.generation - token)
        self.rotate(session, token)
        self.rotate(session, token + 1)

    @rule(number=sessions, why=reasons)
    def everybody_else_is_signed_out(self, number: int, why: int) -> None:
        self.close_others(self.any(number), why)

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

    @rule(
        number=sessions,
        how=st.sampled_from(("close", "close_all", "close_others", "reuse")),
        refreshed_first=st.booleans(),
    )
    def a_refresh_meets_a_revocation(self, number: int, how: str, refreshed_first: bool) -> None:
        session = self.alive(number)
        token = session.generation
        if refreshed_first:
            self.rotate(session, token)
        if how == "close":
            self.close(session)
        elif how == "close_all":
            self.close_all()
        elif how == "close_others":
            self.close_others(self.open(CLIENTS[0]), ENDED)
        else:
            self.rotate(session, max(session.generation - 2, 0))
        for again in (token, token + 1):
            self.rotate(session, again)
            self.inspect(session, again)
            self.reauthenticate(session)
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

    @rule()
    def the_store_is_emptied(self) -> None:
        self.lose()

    @rule(number=sessions, behind=behind, earlier=uncertain)
    def a_session_is_brought_back(self, number: int, behind: int, earlier: int) -> None:
        """Or was never away: then nothing happens to it."""
        self.restore(self.any(number), behind, earlier)

    @rule(number=sessions, all_gone=st.booleans(), rotated=behind, behind=behind, earlier=uncertain, old=behind)
    def the_store_is_healed_from_the_journal(
        self, number: int, *, all_gone: bool, rotated: int, behind: int, earlier: int, old: int
    ) -> None:
        """Its holder goes on with the newest token, whatever the journal has noted; then an old one comes."""
        session = self.alive(number)
        for _ in range(rotated):
            self.rotate(session, session.generation)
        token = session.generation
        self.lose(None if all_gone else session)
        self.rotate(session, token)
        self.restore(session, behind, earlier)
        self.inspect(session, token)
        self.everybody_is_what_they_should_be()
        self.rotate(session, token)
        self.rotate(session, token)
        self.rotate(session, max(token - old, 0))

    @rule(number=sessions, closed=st.booleans(), behind_by=st.sampled_from((1, 20_000)))
    def a_server_that_is_healed_has_a_slower_clock(self, number: int, closed: bool, behind_by: int) -> None:
        """Who came back was opened at a time that is still to come, and is signed out with all others."""
        older = self.open(CLIENTS[0])
        self.model.now += 1
        session = self.open(CLIENTS[number % 2])
        self.lose()
        self.model.now -= behind_by
        self.restore(session)
        self.restore(older)
        if closed:
            self.close_all()
            self.lose(session)
            self.restore(session)
        self.inspect(session, session.generation)
        self.close_all()

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

    @rule(number=sessions, off=around, how=st.sampled_from(("close", "close_all", "close_others")))
    def an_ended_session_is_forgotten_a_day_later(self, number: int, off: int, how: str) -> None:
        session = self.alive(number)
        if how == "close":
            self.close(session)
        elif how == "close_others":
            self.model.now += 1
            self.close_others(self.open(CLIENTS[0]), PASSWORD_CHANGED)
        else:
            self.close_all()
        self.model.now = max(self.model.now, session.used + TOMBSTONE + off)
        self.open(CLIENTS[0])
        self.inspect(session, session.generation)
        self.rotate(session, session.generation)
        self.close(session)

    @rule(number=sessions, pause=waits, seen=introspected, retried=st.booleans(), off=around)
    def an_answer_to_the_password_is_lost(
        self, number: int, pause: int, seen: int | None, retried: bool, off: int
    ) -> None:
        """The token before it is refreshed, as by another tab; and the session lasts as long as a new one."""
        session = self.alive(number)
        token = session.generation
        self.model.now += 1
        self.reauthenticate(session)
        if seen is not None:
            self.inspect(session, session.generation + seen)
        self.model.now += pause
        if retried:
            self.rotate(session, token)
        self.model.now = max(self.model.now, session.idle - 1)
        self.rotate(session, token + 1)
        self.model.now = max(self.model.now, session.absolute + off)
        self.inspect(session, session.generation)

    @rule(number=sessions, refreshed=st.integers(0, 3), off=around)
    def who_gives_the_password_begins_anew(self, number: int, refreshed: int, off: int) -> None:
        """Refreshed a few times, each time late, before and after; then left alone."""
        session = self.alive(number)
        for _ in range(refreshed):
            self.model.now = max(self.model.now, session.idle - 1)
            self.rotate(session, session.generation)
        self.model.now = max(self.model.now, min(session.idle, session.absolute) - 1)
        self.reauthenticate(session)
        for _ in range(refreshed):
            self.model.now = max(self.model.now, session.idle - 1)
            self.rotate(session, session.generation)
        self.model.now = max(self.model.now, session.idle + off)
        self.inspect(session, session.generation)
        self.reauthenticate(session)

    @rule(number=sessions, why=reasons, dead=st.sampled_from(("closed", "expired", "none")))
    def who_stays_alone_stays(self, number: int, why: int, dead: str) -> None:
        """Two others at least; one of them may be dead before."""
        session = self.alive(number)
        others = [self.open(CLIENTS[0]), self.open(CLIENTS[1])]
        if dead == "closed":
            self.close(others[0])
        elif dead == "expired":
            self.model.now = max(self.model.now, others[0].idle - 1)
            self.rotate(session, session.generation)
            self.model.now += 1
        self.close_others(session, why)
        for each in (session, *others):
            self.rotate(each, each.generation)

    @rule(number=sessions, seen=st.sampled_from((-1, 0, 1)), pauses=st.lists(pauses_of_use, min_size=1, max_size=3))
    def use_is_noted_once_in_a_while(self, number: int, seen: int, pauses: list[int]) -> None:
        """And moves no end: neither that of the session nor, unless it is the successor's, that of the excuse."""
        session = self.alive(number)
        token = session.generation
        self.rotate(session, token)
        for pause in pauses:
            self.model.now += pause
            self.inspect(session, session.generation + seen)
            self.everybody_is_what_they_should_be()
        self.rotate(session, token)
        self.model.now = max(self.model.now, session.idle)
        self.inspect(session, session.generation)

    @rule(number=sessions, behind_by=st.sampled_from((1, 5000)))
    def use_is_noted_by_a_slower_clock(self, number: int, behind_by: int) -> None:
        session = self.alive(number)
        self.model.now += DAY
        self.rotate(session, session.generation)
        self.model.now -= behind_by
        self.inspect(session, session.generation)

    # Edges

    @rule(
        number=sessions,
        edge=st.integers(0, 4),
        off=around,
        then=st.sampled_from(
            ("refresh", "retry", "inspect", "open", "close", "reauthenticate", "reauthenticate again", "close_others")
        ),
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
        elif then.startswith("reauthenticate"):
            self.reauthenticate(session, behind=1 if then.endswith("again") else 0)
        elif then == "close_others":
            self.close_others(self.any(number + 1), ENDED)
        else:
            self.open(session.client)


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
    assert all(source(name).count(NODE_CLOCK) == 1 for name in SCRIPTS if name != "appoint")  # it needs no time
    assert all(NODE_CLOCK not in text for text in texts().values())
