"""The scripts of a pending sign-up keep what the model promises, and the machine notices when they do not."""

import pytest

from tests.conftest import Servers
from tests.tokens.mutants import Mutant
from tests.tokens.proofs_model import drive, texts

OUTCOMES = {"right", "claimed", "wrong", "burnt", "unknown"}

COUNT = "local tries = redis.call('HINCRBY', KEYS[1], 'tries', 1)"
BURNT = "if tries > tonumber(ARGV[3]) then return 'burnt' end"
WRONG = "if not digest or digest ~= ARGV[2] or now >= good_until then return 'wrong' end"
REFUND = "redis.call('HINCRBY', KEYS[1], 'tries', -1)\n"
CLAIMED = "if now < tonumber(redis.call('HGET', KEYS[1], 'claimed') or 0) then return 'claimed' end"
TAKEN = "redis.call('HSET', KEYS[1], 'claimed', now + ARGV[4])\n"
CODE = "'code', ARGV[1], 'code_until', now + ARGV[2], "
LINK = "'link', ARGV[3], 'link_until', now + ARGV[4]"
DIGEST = "'HGET', KEYS[1], kind)"


@pytest.mark.standard("CL-01", "CL-05", "CL-07", "CL-08", "CL-09")
def test_codes_and_links_keep_every_promise_of_the_model(servers: Servers) -> None:
    assert drive(servers, texts(), 150) == OUTCOMES


def broken(name: str, script: str, find: str, put: str) -> Mutant:
    return Mutant(name, script, ((find, put),), of=texts)


MUTANTS = (
    broken("a sign-up that is gone counts", "redeem", "'EXISTS', KEYS[1]) == 0", "'EXISTS', KEYS[1]) == 2"),
    broken("a mail to nobody makes a sign-up", "renew", "'EXISTS', KEYS[1]) == 0", "'EXISTS', KEYS[1]) == 2"),
    broken("tries are not counted", "redeem", COUNT, COUNT.replace(", 1)", ", 0)")),
    broken("there is one try more", "redeem", BURNT, BURNT.replace("tries >", "tries - 1 >")),
    broken("there is one try less", "redeem", BURNT, BURNT.replace("tries >", "tries >=")),
    broken("nothing is ever burnt", "redeem", BURNT, ""),
    broken("what is burnt is told as wrong", "redeem", BURNT, BURNT.replace("'burnt'", "'wrong'")),
    broken("any guess is right", "redeem", WRONG, WRONG.replace(" or digest ~= ARGV[2]", "")),
    broken("nothing is ever late", "redeem", WRONG, WRONG.replace(" or now >= good_until", "")),
    broken("the end is a millisecond late", "redeem", WRONG, WRONG.replace(">=", ">")),
    broken("a link is good as long as a code", "redeem", "kind .. '_until'", "'code_until'"),
    broken("a code is good as long as a link", "redeem", "kind .. '_until'", "'link_until'"),
    broken("kinds are mixed up", "redeem", DIGEST, DIGEST.replace("kind", "kind == 'code' and 'link' or 'code'")),
    broken("being right spends a try", "redeem", REFUND, ""),
    broken("being right gives two tries", "redeem", REFUND, REFUND.replace("-1", "-2")),
    broken("being right gives all tries", "redeem", REFUND, "redis.call('HSET', KEYS[1], 'tries', 0)\n"),
    broken("two go on at once", "redeem", CLAIMED, ""),
    broken("nothing is claimed", "redeem", TAKEN, ""),
    broken("a claim never ends", "redeem", CLAIMED, CLAIMED.replace("now <", "0 <")),
    broken("a claim is a millisecond too long", "redeem", CLAIMED, CLAIMED.replace("now <", "now <=")),
    broken("a wrong one claims", "redeem", WRONG, TAKEN + WRONG),
    broken("what is claimed is told to whoever guesses", "redeem", WRONG, f"{CLAIMED} {WRONG}"),
    broken("a new mail gives new tries", "renew", LINK, LINK + ", 'tries', 0"),
    broken("a new mail leaves the old code", "renew", CODE, ""),
    broken("a new mail leaves the old link", "renew", ", " + LINK, ""),
    broken("a new code has the end of the last one", "renew", CODE, "'code', ARGV[1], "),
    broken("a new link has the end of the last one", "renew", LINK, "'link', ARGV[3]"),
    broken("a new link ends with its code", "renew", LINK, LINK.replace("ARGV[4]", "ARGV[2]")),
    broken("a new mail ends the claim", "renew", LINK, LINK + ", 'claimed', 0"),
    broken("a sign-up stays for ever", "renew", "return 1\n", "redis.call('PERSIST', KEYS[1])\nreturn 1\n"),
)


@pytest.mark.standard("CL-01", "CL-07", "CL-08", "CL-09")
@pytest.mark.parametrize("script", [pytest.param(each, id=each.name.replace(" ", "_")) for each in MUTANTS])
def test_the_machine_catches_a_proof_of_which(script: Mutant, servers: Servers) -> None:
    scripts = script.texts()
    with pytest.raises(AssertionError):
        drive(servers, scripts, 200)


def test_every_broken_proof_is_another_one() -> None:
    assert len({each.name for each in MUTANTS}) == len(MUTANTS)
    assert len({tuple(each.texts().values()) for each in MUTANTS}) == len(MUTANTS)
