"""More scripts that are broken on purpose: what notes use, begins a session anew, lists sessions and ends the others.

Missing because nobody could notice it: that an idle end stays within the absolute one, as in `test_scripts_mutants.py`.
"""

import pytest

from tests.conftest import Servers
from tests.tokens.mutants import ENDED_OR_MARKED, OVER, REFUSE_DEAD, Mutant, mutant
from tests.tokens.test_scripts_model import drive, profile

REFRESHED = "presented + 1, 0, now, now"
NOTE = "if confirms or now - s.used >= pause then"
CONFIRMED = "  if confirms then s.confirmed = 1 end\n"
USED = "s.used = math.max(s.used, now)"
WRITE = "write(key, sid, s)\nif"
ANEW = "s.absolute, s.idle = now + absolute, now + math.min(idle, absolute)\n"
PROVED = "s.detail = string.match(s.detail, '^[^\\n]*') .. '\\n' .. how\n"
NEXT = "s.generation, s.confirmed, s.rotated = s.generation + 1, 0, now"
AGAIN = "s.used, s.authenticated = now, now"
KEPT = "if not is_retry(s, presented, now, grace, lost) then"
STAY = "if redis.call('PTTL', key) < absolute + DAY then redis.call('PEXPIRE', key, absolute + DAY) end\n"
BEGUN = "now, s.absolute, s.salt, s.client, s.detail, redis.call('HGET', key, 'r') or '' }"
ENDS = "    if verdict(s, mark, now) == 'live' then\n      s.ended"
END = "      s.ended, s.used = reason, now\n      write(key, stored[i], s)\n"
TOLD = "      closed[#closed + 1] = stored[i]\n"
LISTED = "if verdict(s, mark, now) == 'live' then live[#live + 1]"
LINE = "{ stored[i], s.created, s.used, s.absolute, s.client }"


def edited(name: str, script: str, find: str, old: str, new: str) -> Mutant:
    """One mistake within a longer text."""
    assert find.count(old) == 1
    return mutant(name, script, (find, find.replace(old, new)))


def everywhere(name: str, find: str, put: str, *scripts: str) -> list[Mutant]:
    """The same mistake in several scripts."""
    return [mutant(f"{script} {name}", script, (find, put)) for script in scripts]


NOTICING = (
    edited("inspect notes no use", "inspect", NOTE, " or now - s.used >= pause", ""),
    edited("inspect notes every use", "inspect", NOTE, "now - s.used >= pause", "true"),
    edited("inspect notes use a millisecond late", "inspect", NOTE, ">=", ">"),
    edited("inspect notes use a millisecond early", "inspect", NOTE, ">= pause", ">= pause - 1"),
    edited("inspect does not write down what confirms", "inspect", NOTE, "confirms or ", ""),
    edited("a first sight is no use", "inspect", CONFIRMED, "1 end", "1 now = s.used end"),
    mutant("whatever is noted confirms", "inspect", (CONFIRMED, "  s.confirmed = 1\n")),
    mutant("a slower clock takes use back", "inspect", (USED, "s.used = now")),
    mutant("noting use moves the idle end", "inspect", (USED, USED + " s.idle = s.absolute")),
    mutant("noting use begins a new grace", "inspect", (USED, USED + " s.rotated = now")),
    mutant("use is noted for the dead", "inspect", (REFUSE_DEAD, "if now - s.used < pause and state ~= 'live' then")),
)

BEGINNING = (
    *everywhere(
        "does not look at the end", ENDED_OR_MARKED, ENDED_OR_MARKED.replace(" or s.ended ~= 0", ""), "reauthenticate"
    ),
    *everywhere("does not look at the ends in time", OVER, "", "reauthenticate"),
    *everywhere("does not look at the idle end", OVER, OVER.replace(" or now >= s.idle", ""), "reauthenticate"),
    *everywhere("is a millisecond late", OVER, OVER.replace(">=", ">"), "reauthenticate"),
    *everywhere(
        "does not look at the watermark",
        ENDED_OR_MARKED,
        ENDED_OR_MARKED.replace("s.created <= mark or ", ""),
        "reauthenticate",
    ),
    mutant("the password wakes the dead", "reauthenticate", (REFUSE_DEAD, "if false then")),
    edited("the password brings no new token", "reauthenticate", NEXT, "s.generation + 1", "s.generation"),
    edited("the password steps over a generation", "reauthenticate", NEXT, "+ 1", "+ 2"),
    edited("the new token counts as seen", "reauthenticate", NEXT, ", 0,", ", 1,"),
    edited("whether a token was seen is kept", "reauthenticate", NEXT, ", 0,", ", s.confirmed,"),
    edited("the password begins no grace", "reauthenticate", NEXT, "0, now", "0, s.rotated"),
    edited("giving the password is no use", "reauthenticate", AGAIN, "now, now", "s.used, now"),
    edited("the time is not kept", "reauthenticate", AGAIN, "now, now", "now, s.authenticated"),
    mutant("a double click steps twice", "reauthenticate", (KEPT, "if true then")),
    mutant("the password never steps", "reauthenticate", (KEPT, "if presented > s.generation then")),
    mutant("the password makes another session", "reauthenticate", (WRITE, "s.created = now\n" + WRITE)),
    edited("the absolute end stays", "reauthenticate", ANEW, "= now + absolute,", "= s.absolute,"),
    edited(
        "the absolute end moves too far",
        "reauthenticate",
        ANEW,
        "= now + absolute,",
        "= s.absolute + absolute,",
    ),
    edited("the idle end stays", "reauthenticate", ANEW, "now + math.min(idle, absolute)", "s.idle"),
    edited("the idle end is the absolute one", "reauthenticate", ANEW, "now + math.min(idle, absolute)", "s.absolute"),
    mutant("how the person was proved stays", "reauthenticate", (PROVED, "")),
    edited("what was granted is forgotten", "reauthenticate", PROVED, "string.match(s.detail, '^[^\\n]*')", "''"),
    mutant("what began anew is not written", "reauthenticate", (WRITE, "if")),
    mutant("the account goes before its session", "reauthenticate", (STAY, "")),
    edited("the time of the password is not told", "reauthenticate", BEGUN, "now", "s.created"),
    edited("roles are not told", "reauthenticate", BEGUN, "redis.call('HGET', key, 'r') or ''", "''"),
)

ENDING = (
    *everywhere(
        "does not look at the end",
        ENDED_OR_MARKED,
        ENDED_OR_MARKED.replace(" or s.ended ~= 0", ""),
        "close_others",
        "list",
    ),
    *everywhere("does not look at the ends in time", OVER, "", "close_others", "list"),
    *everywhere("does not look at the idle end", OVER, OVER.replace(" or now >= s.idle", ""), "close_others", "list"),
    *everywhere(
        "does not look at the watermark",
        ENDED_OR_MARKED,
        ENDED_OR_MARKED.replace("s.created <= mark or ", ""),
        "close_others",
        "list",
    ),
    *everywhere("takes the watermark for life", "s.created <= mark", "s.created < mark", "close_others", "list"),
    mutant("whoever asks is out as well", "close_others", (" and stored[i] ~= keep then", " then")),
    mutant("nobody is out", "close_others", (" and stored[i] ~= keep then", " and stored[i] == keep then")),
    mutant("the dead are ended once more", "close_others", (ENDS, "    if true then\n      s.ended")),
    mutant("the others are told but not ended", "close_others", (END, "")),
    mutant("the others are forgotten", "close_others", (END, "      redis.call('HDEL', key, stored[i])\n")),
    edited("why the others ended is not kept", "close_others", END, "reason, now", "5, now"),
    edited("the others go too early", "close_others", END, "s.ended, s.used = reason, now", "s.ended = reason"),
    mutant("one of the others is ended", "close_others", (TOLD, TOLD + "      break\n")),
    mutant("the others are not told", "close_others", (TOLD, "")),
)

LISTING = (
    mutant("all are listed", "list", (LISTED, "if true then live[#live + 1]")),
    mutant("the revoked are listed", "list", (LISTED, LISTED.replace("== 'live'", "~= 'expired'"))),
    mutant("one is listed", "list", (LISTED, "if verdict(s, mark, now) == 'live' then live[1]")),
    edited("the list tells when the password was given", "list", LINE, "s.created", "s.authenticated"),
    edited("the list tells when a session was refreshed", "list", LINE, "s.used", "s.rotated"),
    edited("the list tells the idle end", "list", LINE, "s.absolute", "s.idle"),
)

LOOKING = (
    mutant("a dead token would be taken", "peek", (REFUSE_DEAD, "if false then")),
    mutant("an old token would be taken", "peek", ("if generation < s.generation and", "if false and")),
    mutant("a retry would not be taken", "peek", (" and not is_retry(s, generation, now, grace, lost)", "")),
    mutant("the newest token would not", "peek", ("generation < s.generation", "generation <= s.generation")),
    mutant("whoever asks may give a session up", "close", ("client ~= '' and s.client ~= client", "false")),
    mutant("nobody may give a session up", "close", ("s.client ~= client", "true")),
    mutant("roles are never changed", "appoint", ("redis.call('HSET', KEYS[1], 'r', ARGV[1])\n", "")),
)

NEWEST = "redis.call('HSET', key, 'n', math.max(created, newest(key)))\n"
REMEMBERED = "if redis.call('PTTL', key) < remember then redis.call('PEXPIRE', key, remember) end\n"

SIGNING_IN = (
    mutant("a proof elsewhere is one of now", "open", ("created - tonumber(ARGV[10])", "created")),
    mutant(
        "a sign-in has no time of its own",
        "open",
        ("authenticated = created - tonumber(ARGV[10])", "authenticated = 0"),
    ),
    mutant("a refresh makes a session fresh", "rotate", (REFRESHED, REFRESHED + " s.authenticated = now")),
    mutant(
        "a refresh tells when the session was opened",
        "rotate",
        ("sid, s.generation, s.authenticated", "sid, s.generation, s.created"),
    ),
)

COMING_BACK = (
    mutant(
        "what is there is written over", "restore", ("if redis.call('HEXISTS', key, sid) == 1 then return 0 end\n", "")
    ),
    mutant("who comes back has no excuse", "restore", ("confirmed = 0, ended = 0", "confirmed = 1, ended = 0")),
    mutant("who comes back was refreshed just now", "restore", ("rotated = tonumber(ARGV[4])", "rotated = now")),
    mutant("who comes back is never idle", "restore", ("idle = tonumber(ARGV[6])", "idle = absolute")),
    mutant("who comes back begins again", "restore", ("generation = tonumber(ARGV[7])", "generation = 0")),
    mutant("the roles of the journal are newer", "restore", ("HSETNX", "HSET")),
    mutant("the newest session is forgotten", "restore", (NEWEST, "")),
    mutant(
        "the newest session is the last one",
        "restore",
        (NEWEST, NEWEST.replace("math.max(created, newest(key))", "created")),
    ),
    mutant("what came back is gone too early", "restore", (REMEMBERED, "")),
)

MUTANTS = (*COMING_BACK, *SIGNING_IN, *NOTICING, *BEGINNING, *ENDING, *LISTING, *LOOKING)


@pytest.mark.standard("SE-13", "SE-20", "SE-29")
@pytest.mark.parametrize("broken", [pytest.param(each, id=each.name.replace(" ", "_")) for each in MUTANTS])
def test_the_machine_catches_a_script_in_which(broken: Mutant, servers: Servers) -> None:
    scripts = broken.texts()
    with pytest.raises(AssertionError):
        drive(servers, scripts, profile(200, 20), reached=set())


def test_every_mutant_is_another_one() -> None:
    assert len({each.name for each in MUTANTS}) == len(MUTANTS)
    assert len({tuple(each.texts().values()) for each in MUTANTS}) == len(MUTANTS)
