"""`vestibule keys` beside a running service: what it says, what it asks, and how it ends."""

import re
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from sqlalchemy import delete, select

from service.audit import AuditEvent
from service.crypto.keyring import thumbprint
from service.crypto.roots import RootKeys
from service.crypto.sealing import seal
from service.settings import Settings
from service.tokens.keys import SigningKeyRow
from tests.cli.test_clients import QUICKER
from tests.cli.test_production import NOWHERE, PROJECT, Commander, Result, one_line
from tests.conftest import Outbox, Servers, TestClock, root_key
from tests.tokens.two_workers import (
    Pair,
    is_active,
    kid_of,
    listening,
    paired,
    renewed,
    settings_of_ones_own,
    signed_in,
    told,
)

KID = re.compile(r"[A-Za-z0-9_-]{43}")
MOMENT = r"\d{4}-\d\d-\d\d \d\d:\d\d"
LINE = re.compile(rf"({KID.pattern})  (\w+) +created {MOMENT}(  signs from {MOMENT})?")
NO_NUMBERS = ("0", "256")
LAST = "older keys are needed by refresh tokens alone, until the sessions that do not refresh have ended"
ROOTS = {number: root_key(number) for number in (1, 2)}


@pytest.fixture(scope="module")
def own_settings(servers: Servers, environ: dict[str, str]) -> Iterator[Settings]:
    other = {"VESTIBULE_KEYS": ROOTS[1], "VESTIBULE_KEY_REFRESH": "3600", "VESTIBULE_KEY_ROTATION": "0"}
    with settings_of_ones_own(servers, environ, **other) as own:
        yield own


@pytest.fixture(scope="module")
def commander(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commander]:
    command = [sys.executable, "-c", QUICKER]
    with subprocess.Popen(command, cwd=PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield Commander(process, tmp_path_factory.mktemp("commands"))


@dataclass(frozen=True)
class Keys:
    """Runs `vestibule keys …` where two workers serve."""

    commander: Commander
    environ: dict[str, str]
    pair: Pair

    def run(self, *arguments: str, typed: str = "", **changed: str) -> Result:
        return self.commander.run({**self.environ, **changed}, "keys", *arguments, typed=typed)

    def refused(self, *commands: tuple[str, ...], **changed: str) -> list[str]:
        """What commands say that are refused in one line, all run at once."""
        environ = {**self.environ, **changed}
        results = self.commander.run_at_once([(environ, ("keys", *arguments)) for arguments in commands])
        for arguments, result in zip(commands, results, strict=True):
            assert (result.code, result.out) == (1, ""), (arguments, result)
            assert one_line(result.err).startswith("vestibule: "), arguments
        return [result.err for result in results]

    def said(self, *arguments: str, typed: str = "", **changed: str) -> list[str]:
        """The lines of a command that must succeed."""
        result = self.run(*arguments, typed=typed, **changed)
        assert (result.code, result.err) == (0, ""), result
        return result.out.splitlines()

    def states(self) -> dict[str, str]:
        """What `list` tells of each key."""
        found = [LINE.fullmatch(line) for line in self.said("list")]
        return {match[1]: match[2] for match in found if match is not None}

    async def audited(self, name: str) -> list[dict[str, Any]]:
        """What the trail holds of an event."""
        async with self.pair.workers[0].database.begin() as transaction:
            rows = await transaction.scalars(select(AuditEvent).where(AuditEvent.event == name))
            return [row.detail for row in rows]


@pytest.fixture(scope="module")
async def both(own_settings: Settings, wall_clock: TestClock, outbox: Outbox) -> AsyncIterator[Pair]:
    async with paired(own_settings, wall_clock, outbox) as running:
        yield running


@pytest.fixture
async def keys(both: Pair, clock: TestClock, commander: Commander, environ: dict[str, str]) -> Keys:
    """Two workers that look for changes once in an hour, and listen."""
    await renewed(both)
    for number in (0, 1):
        await listening(both, number)
    async with both.workers[0].database.begin() as transaction:
        await transaction.execute(delete(AuditEvent))
    mine = {"DATABASE_URL": str(both.settings.database_url), "VESTIBULE_KEYS": ROOTS[1]}
    return Keys(commander, {**environ, **mine}, both)


async def test_every_key_is_listed_with_its_state_and_nothing_secret(keys: Keys) -> None:
    (signing,), (coming,) = keys.pair.in_state("active"), keys.pair.in_state("next")
    assert list(keys.states().items()) == [(signing, "active"), (coming, "next")]

    keys.said("rotate")
    keys.said("revoke", "--yes", signing)
    listed = keys.said("list")
    assert all(LINE.fullmatch(line) for line in listed), listed
    assert [line.split()[1] for line in listed] == ["revoked", "active", "next"]
    assert "PRIVATE" not in "".join(listed)


@pytest.mark.standard("KY-21")
async def test_a_rotation_says_which_key_signs_from_when_and_so_it_does_when_it_is_asked_again(keys: Keys) -> None:
    (coming,) = keys.pair.in_state("next")
    first = keys.said("rotate")

    scheduled, successor = first
    assert re.fullmatch(rf"{coming}  signs from {MOMENT}:\d\d UTC", scheduled)
    assert re.fullmatch(rf"{KID.pattern}  is published as the next one", successor)
    assert keys.said("rotate") == first
    await keys.pair.reload()
    assert keys.pair.in_state("next") == [coming, successor.split()[0]]
    assert [detail["kid"] for detail in await keys.audited("keys.rotate")] == [coming, coming]


@pytest.mark.standard("KY-31")
async def test_a_revocation_reaches_the_workers_at_once_and_says_which_key_signs_now(keys: Keys) -> None:
    tokens = await signed_in(keys.pair)
    kid, (coming,) = kid_of(tokens["access_token"]), keys.pair.in_state("next")
    assert await is_active(keys.pair, tokens["access_token"], 1) is True

    assert keys.said("revoke", "--yes", kid) == [f"{kid}  is believed no more", f"{coming}  signs now"]

    for number in (0, 1):
        await told(keys.pair, kid, number)
        assert await is_active(keys.pair, tokens["access_token"], number) is False
        assert kid not in await keys.pair.jwks(number)
    assert await keys.audited("keys.revoke") == [{"by": "command line", "kid": kid}]


async def test_a_revocation_is_asked_about_first(keys: Keys) -> None:
    (kid,) = keys.pair.in_state("active")
    for typed in ("n\n", ""):
        refused = keys.run("revoke", kid, typed=typed)
        assert refused.code == 1, refused
    assert keys.states()[kid] == "active"
    assert "Every token that this key signed ends now" in refused.out
    assert await keys.audited("keys.revoke") == []

    assert keys.said("revoke", kid, typed="y\n")[-1].endswith("signs now")
    assert keys.states()[kid] == "revoked"


async def test_a_key_that_is_not_there_is_refused_in_one_line(keys: Keys) -> None:
    (kid,) = keys.pair.in_state("active")
    keys.said("revoke", "--yes", kid)
    states = keys.states()
    keys.refused(*(("revoke", "--yes", wrong) for wrong in (kid, "é" * 100, "")))
    assert keys.run("revoke", "--yes").code == 2
    assert keys.states() == states


@pytest.mark.standard("KY-31")
async def test_a_key_whose_id_begins_with_a_hyphen_is_revoked_as_any_other(keys: Keys) -> None:
    """One in 64 does: whoever copies it from `list` in an emergency must not be taught about options."""
    pair = keys.pair
    while True:
        private = ec.generate_private_key(ec.SECP256R1())
        kid = thumbprint(private.public_key())
        if kid.startswith("-"):
            break
    der = private.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    now, sealed = pair.clock(), seal(RootKeys.parse(ROOTS[1]), der, f"signing_keys/{kid}")
    async with pair.workers[0].database.begin() as transaction:
        transaction.add(
            SigningKeyRow(kid=kid, private_sealed=sealed, created_at=now, activates_at=now, revoked_at=None)
        )
    assert keys.states()[kid] == "active"

    assert keys.said("revoke", "--yes", kid)[0] == f"{kid}  is believed no more"
    assert keys.states()[kid] == "revoked"


# Root keys


@pytest.mark.standard("KY-06", "KY-21")
async def test_rewrapping_says_what_it_did_and_what_still_needs_the_old_key(keys: Keys) -> None:
    rolled_out = {"VESTIBULE_KEYS": f"{ROOTS[2]},{ROOTS[1]}"}
    await signed_in(keys.pair)
    await keys.pair.workers[0].mailer.drain()

    first, needed = keys.said("rewrap", **rolled_out)
    assert first == "sealed anew: 2 signing keys, 0 mails, 0 identities"
    assert re.fullmatch(r"key 1 is still needed: passwords \d+, client secrets 1", needed)
    assert keys.said("rewrap", **rolled_out)[0] == "sealed anew: 0 signing keys, 0 mails, 0 identities"
    assert keys.said("list", VESTIBULE_KEYS=ROOTS[2])  # the old one is out of the ring
    assert "nothing" not in keys.said("rewrap", **rolled_out)[-1]

    back = keys.said("rewrap", VESTIBULE_KEYS=f"{ROOTS[1]},{ROOTS[2]}")
    assert back[0] == "sealed anew: 2 signing keys, 0 mails, 0 identities"
    assert back[1:] == [LAST]


@pytest.mark.standard("KY-09")
async def test_without_the_root_key_every_command_says_what_to_put_back_in_one_line(keys: Keys) -> None:
    (kid,) = keys.pair.in_state("active")
    before = await keys.pair.rows()
    commands = (("list",), ("rotate",), ("rewrap",), ("revoke", "--yes", kid))
    assert all("VESTIBULE_KEYS" in line for line in keys.refused(*commands, VESTIBULE_KEYS=ROOTS[2]))
    after = await keys.pair.rows()
    assert {kid: row.private_sealed for kid, row in after.items()} == {
        kid: row.private_sealed for kid, row in before.items()
    }


def test_a_generated_root_key_has_the_number_that_is_asked_for(commander: Commander) -> None:
    asked = {"": 1, "255": 255}
    chosen = [["--number", number] if number else [] for number in (*asked, *NO_NUMBERS)]
    orders: list[tuple[dict[str, str], tuple[str, ...]]] = [({}, ("keys", "generate", *more)) for more in chosen]
    results = commander.run_at_once(orders)
    for number, made in zip(asked.values(), results, strict=False):
        assert (made.code, made.err) == (0, "")
        assert RootKeys.parse(one_line(made.out)).current == number
    assert [result.code for result in results[len(asked) :]] == [2] * len(NO_NUMBERS)


async def test_each_command_ends_in_one_line_when_the_database_is_away(keys: Keys) -> None:
    keys.refused(("list",), ("rotate",), ("rewrap",), ("revoke", "--yes", "nothing"), DATABASE_URL=NOWHERE)
