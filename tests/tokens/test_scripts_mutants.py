"""The test of the test: scripts that are broken on purpose, each of which the state machine must catch.

Tempting mutants that are missing because nobody could notice them: a record's idle end never exceeds its absolute end
(`open` and `rotate` both see to that), and the verdict looks at both, so breaking one of the two guards leaves the
other; the mutant of the "absolute end" breaks both. And `open` may note its clock as the newest session where it
stepped over the watermark: `close_all` steps over that watermark, too.
"""

import pytest

from tests.conftest import Servers
from tests.tokens.mutants import ENDED_OR_MARKED, OVER, REFUSE_DEAD, Mutant, mutant
from tests.tokens.test_scripts_model import drive, profile

SLIDE = "s.idle = math.min(now + idle, s.absolute)"
ADVANCE = "s.generation, s.confirmed, s.rotated, s.used = presented + 1, 0, now, now"
EXCUSED = "return presented == s.generation - 1 and (age < grace or (s.confirmed == 0 and age < lost))"
FOREIGN = "if s.client ~= client then return { 'foreign', sid } end"
END_REUSED = "s.ended, s.used = REUSED, now\nwrite(key, sid, s)\n"
CLOSE = "  s.ended, s.used = reason, now\n  write(key, sid, s)\n"
MARK = "math.max(watermark(key) + 1, newest(key), clock())"
SWEEP = "elseif state == 'expired' or now - s.used >= tombstone then"
EVICT = "live[i].s.ended, live[i].s.used = EVICTED, now"
BY_LAST_USE = "  if a.s.used == b.s.used then return a.sid < b.sid end\n  return a.s.used < b.s.used\n"
CONFIRM = "local confirms = s.confirmed == 0 and generation == s.generation"


MUTANTS = (
    # What rotate must refuse
    mutant(
        "rotate does not look at the end", "rotate", (ENDED_OR_MARKED, ENDED_OR_MARKED.replace(" or s.ended ~= 0", ""))
    ),
    mutant(
        "rotate does not look at the watermark",
        "rotate",
        (ENDED_OR_MARKED, ENDED_OR_MARKED.replace("s.created <= mark or ", "")),
    ),
    mutant(
        "rotate takes the watermark for the first living moment", "rotate", ("s.created <= mark", "s.created < mark")
    ),
    mutant(
        "the grace speaks before the end does",
        "rotate",
        (
            REFUSE_DEAD,
            REFUSE_DEAD.replace("'live'", "'live' and not (presented == s.generation - 1 and now - s.rotated < grace)"),
        ),
    ),
    mutant("rotate does not look at the idle end", "rotate", (OVER, OVER.replace(" or now >= s.idle", ""))),
    mutant(
        "rotate does not look at the absolute end",
        "rotate",
        (OVER, OVER.replace("now >= s.absolute or ", "")),
        (SLIDE, "s.idle = now + idle"),
    ),
    mutant("the ends are a millisecond late for rotate", "rotate", (OVER, OVER.replace(">=", ">"))),
    mutant("the idle end is a millisecond late for rotate", "rotate", ("now >= s.idle", "now > s.idle")),
    mutant("the client is not checked", "rotate", (FOREIGN, "")),
    mutant(
        "another client ends the session",
        "rotate",
        (FOREIGN, FOREIGN.replace("return", "s.ended = REUSED write(key, sid, s) return")),
    ),
    mutant(
        "the client is checked after the generation was taken",
        "rotate",
        (
            FOREIGN,
            FOREIGN.replace("return", "s.generation = s.generation + 1 write(key, sid, s) return"),
        ),
    ),
    # What rotate must do
    mutant("the idle end does not move", "rotate", (SLIDE, "")),
    mutant(
        "the absolute end moves", "rotate", (SLIDE, "s.absolute = math.max(s.absolute, now + idle) s.idle = now + idle")
    ),
    mutant("a rotation does not count as use", "rotate", (ADVANCE, ADVANCE.replace("0, now, now", "0, now, s.used"))),
    mutant(
        "a rotation does not begin a new grace",
        "rotate",
        (ADVANCE, ADVANCE.replace("0, now, now", "0, s.rotated, now")),
    ),
    mutant(
        "a new generation counts as seen", "rotate", (ADVANCE, ADVANCE.replace("0, now, now", "s.confirmed, now, now"))
    ),
    mutant(
        "each rotation is a new sign-in",
        "rotate",
        ("s.generation, s.authenticated, s.absolute, s.detail", "s.generation, now, s.absolute, s.detail"),
    ),
    mutant(
        "a store that lost writes is not healed",
        "rotate",
        ("if presented >= s.generation then", "if presented == s.generation then"),
    ),
    mutant(
        "healing stops at the presented generation",
        "rotate",
        (ADVANCE, ADVANCE.replace("presented + 1", "presented > s.generation and presented or presented + 1")),
    ),
    mutant("healing advances by one only", "rotate", (ADVANCE, ADVANCE.replace("presented + 1", "s.generation + 1"))),
    mutant("healing is not told", "rotate", ("presented > s.generation and 'healed' or 'rotated'", "'rotated'")),
    # The two windows
    mutant("there is no grace", "rotate", (EXCUSED, EXCUSED.replace("age < grace or ", ""))),
    mutant("the grace is a millisecond too long", "rotate", ("age < grace", "age <= grace")),
    mutant(
        "the grace slides",
        "rotate",
        ("  return answer('repeated')\n", "  s.rotated = now\n  write(key, sid, s)\n  return answer('repeated')\n"),
    ),
    mutant(
        "a repeat is a rotation",
        "rotate",
        (
            "  return answer('repeated')\n",
            "  s.generation = s.generation + 1\n  write(key, sid, s)\n  return answer('repeated')\n",
        ),
    ),
    mutant(
        "there is no window for a lost answer",
        "rotate",
        (EXCUSED, EXCUSED.replace(" or (s.confirmed == 0 and age < lost)", "")),
    ),
    mutant("the window for a lost answer never ends", "rotate", (EXCUSED, EXCUSED.replace(" and age < lost", ""))),
    mutant("the window for a lost answer is a millisecond too long", "rotate", ("age < lost", "age <= lost")),
    mutant(
        "the window for a lost answer outlives its answer", "rotate", ("s.confirmed == 0 and age < lost", "age < lost")
    ),
    mutant(
        "the token before the last one is excused",
        "rotate",
        ("presented == s.generation - 1", "presented >= s.generation - 2"),
    ),
    mutant("any old token is excused", "rotate", ("presented == s.generation - 1 and ", "")),
    mutant("reuse is told but not recorded", "rotate", (END_REUSED, "")),
    mutant("rotate does not tell why a session ended", "rotate", ("{ state, sid, s.ended }", "{ state, sid, REUSED }")),
    # inspect
    mutant(
        "inspect does not look at the end",
        "inspect",
        (ENDED_OR_MARKED, ENDED_OR_MARKED.replace(" or s.ended ~= 0", "")),
    ),
    mutant(
        "inspect takes the watermark for the first living moment", "inspect", ("s.created <= mark", "s.created < mark")
    ),
    mutant("inspect does not look at the ends in time", "inspect", (OVER, "")),
    mutant("inspect takes anything for alive", "inspect", (REFUSE_DEAD, "if false then")),
    mutant("inspect confirms nothing", "inspect", ("if confirms then s.confirmed = 1 end\n", "")),
    mutant(
        "inspect confirms by a token of the generation before",
        "inspect",
        (CONFIRM, CONFIRM.replace("generation == s.generation", "generation >= s.generation - 1")),
    ),
    mutant(
        "inspect confirms by a token of a generation to come",
        "inspect",
        (CONFIRM, CONFIRM.replace("generation == s.generation", "generation >= s.generation")),
    ),
    mutant(
        "inspect extends the session",
        "inspect",
        ("if confirms then s.confirmed = 1 end", "if confirms then s.confirmed = 1 s.idle = s.absolute end"),
    ),
    # close and close_all
    mutant(
        "close does not set the flag", "close", (CLOSE, CLOSE.replace("s.ended, s.used = reason, now", "s.used = now"))
    ),
    mutant("close does not write", "close", (CLOSE, "")),
    mutant("close forgets the session", "close", (CLOSE, "  redis.call('HDEL', key, sid)\n")),
    mutant(
        "close tells of every session that it was alive", "close", ("state == 'live' and 'closed' or state", "'closed'")
    ),
    mutant("the watermark does not step over itself", "close_all", (MARK, MARK.replace(" + 1", ""))),
    mutant("the watermark is the clock", "close_all", (MARK, "clock()")),
    mutant("the watermark lies a millisecond back", "close_all", (MARK, MARK.replace("clock()", "clock() - 1"))),
    mutant(
        "the watermark lies below a session of a faster clock", "close_all", (MARK, MARK.replace("newest(key), ", ""))
    ),
    mutant("the watermark is not written", "close_all", ("redis.call('HSET', key, 'w', mark)\n", "")),
    mutant(
        "the watermark stays for ever",
        "close_all",
        ("if redis.call('PTTL', key) < remember then redis.call('PEXPIRE', key, remember) end\n", ""),
    ),
    # open
    mutant(
        "open does not note how new it is",
        "open",
        ("redis.call('HSET', key, 'n', math.max(created, newest(key)))\n", ""),
    ),
    mutant("open notes a slower clock over a faster one", "open", ("math.max(created, newest(key))", "created")),
    mutant("open does not step over the watermark", "open", ("math.max(now, mark + 1)", "now")),
    mutant(
        "open takes the watermark back",
        "open",
        ("redis.call('HSETNX', key, 'r'", "redis.call('HDEL', key, 'w')\nredis.call('HSETNX', key, 'r'"),
    ),
    mutant("open brings old roles back", "open", ("redis.call('HSETNX', key, 'r'", "redis.call('HSET', key, 'r'")),
    mutant("open keeps one session too many", "open", ("#live - most + 1", "#live - most")),
    mutant("open keeps one session too few", "open", ("#live - most + 1 do", "math.min(#live, #live - most + 2) do")),
    mutant(
        "open evicts the session used last",
        "open",
        (BY_LAST_USE, BY_LAST_USE.replace("a.s.used < b.s.used", "a.s.used > b.s.used")),
    ),
    mutant("open evicts the session opened first", "open", (BY_LAST_USE, "  return a.s.created < b.s.created\n")),
    mutant("an evicted session lives on", "open", (EVICT, "live[i].s.used = now")),
    mutant("dead sessions count", "open", ("    if state == 'live' then\n", "    if state ~= 'expired' then\n")),
    mutant(
        "open sweeps a session that was not used for a day",
        "open",
        ("    if state == 'live' then\n", "    if state == 'live' and now - s.used < tombstone then\n"),
    ),
    mutant("open sweeps tombstones at once", "open", (SWEEP, "elseif true then")),
    mutant("open keeps tombstones without bound", "open", ("for i = 1, #dead - most do", "for i = 1, 0 do")),
    mutant("open keeps one tombstone less", "open", ("for i = 1, #dead - most do", "for i = 1, #dead - most + 1 do")),
    mutant("open never sweeps tombstones", "open", (SWEEP, "elseif state == 'expired' then")),
    mutant(
        "open sweeps tombstones a millisecond late", "open", ("now - s.used >= tombstone", "now - s.used > tombstone")
    ),
    mutant(
        "open begins as if its first token had been lost",
        "open",
        ("generation = 0, confirmed = 1", "generation = 1, confirmed = 0"),
    ),
    mutant("open forgets the idle end", "open", ("now + math.min(idle, absolute)", "now + absolute")),
    mutant(
        "the account stays for ever",
        "open",
        ("if redis.call('PTTL', key) < absolute + DAY then redis.call('PEXPIRE', key, absolute + DAY) end\n", ""),
    ),
)


@pytest.mark.standard("SE-22", "SE-29")
@pytest.mark.parametrize("broken", [pytest.param(each, id=each.name.replace(" ", "_")) for each in MUTANTS])
def test_the_machine_catches_a_script_in_which(broken: Mutant, servers: Servers) -> None:
    scripts = broken.texts()
    # Only a disagreement counts: a script that does not even run proves nothing, and its error passes through.
    with pytest.raises(AssertionError):
        drive(servers, scripts, profile(200, 20), reached=set())


def test_every_mutant_is_another_one() -> None:
    assert len({each.name for each in MUTANTS}) == len(MUTANTS)
    assert len({tuple(each.texts().values()) for each in MUTANTS}) == len(MUTANTS)
