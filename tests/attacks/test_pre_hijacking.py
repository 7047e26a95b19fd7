"""Somebody signs up with a victim's address before or beside the victim (MSRC 2022): it must bring them nothing.

Who gets in holds both: the mailbox, and the password that was chosen together with that very handle.
"""

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from itertools import product

import httpx
import pytest
from litestar import Litestar
from sqlalchemy import text

from service.app import create_app
from service.settings import load
from service.wiring import Services
from tests.conftest import Outbox, Person, TestClock, begin_sign_up, browser, mailed_code, sign_up, somebody, worker

VICTIMS_PASSWORD = "my own words by the sea"
ATTACKERS_PASSWORD = "planted by a stranger long ago"


@pytest.fixture(scope="module")
async def lax(
    services: Services, environ: dict[str, str], wall_clock: TestClock, outbox: Outbox
) -> AsyncIterator[Services]:
    """A worker that mails as often as it is asked."""
    mails = ("MAIL_NETWORK", "MAIL_ADDRESS", "MAIL_ADDRESS_NETWORK")
    guesses = ("GUESS_NETWORK", "GUESS_ACCOUNT", "GUESS_ACCOUNT_NETWORK", "CODE_ADDRESS", "CODE_ADDRESS_NETWORK")
    limits = {f"VESTIBULE_LIMIT_{name}": "1000000/s" for name in (*mails, *guesses)}
    async with worker(load({**environ, **limits}), wall_clock, outbox) as running:
        yield running


@pytest.fixture(scope="module")
async def lax_app(lax: Services) -> Litestar:
    return create_app(lax)


@dataclass(frozen=True)
class Two:
    """A victim and an attacker with a sign-up each for the victim's address; the mailbox is the victim's alone."""

    victim: Person
    attacker: Person
    handles: dict[str, str]
    codes: dict[str, str]


async def both_sign_up(app: Litestar, services: Services, outbox: Outbox, first: str = "attacker") -> Two:
    victim = somebody()
    victim.password = VICTIMS_PASSWORD
    attacker = Person(victim.email, somebody().nickname, ATTACKERS_PASSWORD)
    people = {"attacker": attacker, "victim": victim}
    handles: dict[str, str] = {}
    codes: dict[str, str] = {}
    for who in (first, *({"attacker", "victim"} - {first})):
        async with browser(app) as http:
            handles[who] = await begin_sign_up(http, people[who])
        codes[who] = await mailed_code(services, outbox, victim.email)
    return Two(victim, attacker, handles, codes)


async def verify(http: httpx.AsyncClient, handle: str, code: str, **more: object) -> httpx.Response:
    return await http.post("/auth/verify", json={"registration": handle, "code": code, **more})


async def login(app: Litestar, person: Person, **other: object) -> httpx.Response:
    async with browser(app) as http:
        return await http.post("/auth/login", json=person.credentials(**other))


def assert_not_in(answer: httpx.Response) -> None:
    """Refused: as nobody, or as one whose own sign-up is not proved, which says nothing about the account."""
    code = (answer.status_code, answer.json()["code"])
    assert code in {(401, "invalid_credentials"), (403, "email_not_verified")}
    assert "token" not in answer.text
    assert "set-cookie" not in answer.headers


def every_code(outbox: Outbox, address: str) -> set[str]:
    """Whatever could be typed in by somebody to whom the owner reads every mail out aloud."""
    return {code for mail in outbox.to(address) for code in re.findall(r"\b\d{6}\b", mail.text)}


async def accounts_of(services: Services, address: str) -> int:
    async with services.database.begin() as transaction:
        found = await transaction.scalar(text("SELECT count(*) FROM accounts WHERE email = :a"), {"a": address})
    return int(found or 0)


@pytest.mark.standard("LG-21", "CL-07")
@pytest.mark.parametrize("first", ["attacker", "victim"])
@pytest.mark.parametrize(("handle", "code"), list(product(["attacker", "victim"], repeat=2)))
async def test_only_mailbox_and_password_of_one_sign_up_together_open_an_account(
    app: Litestar, services: Services, outbox: Outbox, *, first: str, handle: str, code: str
) -> None:
    two = await both_sign_up(app, services, outbox, first)
    async with browser(app) as http:
        answer = await verify(http, two.handles[handle], two.codes[code])
    entries = {
        "attacker": await login(app, two.attacker),
        "victim": await login(app, two.victim),
    }

    if handle != code:
        assert (answer.status_code, answer.json()["code"]) == (400, "invalid_or_expired_code")
        assert await accounts_of(services, two.victim.email) == 0
        for entry in entries.values():
            assert_not_in(entry)
        return
    # A code opens the account with the password of its own sign-up, and with no other.
    loser = "attacker" if handle == "victim" else "victim"
    assert answer.status_code == 200
    assert entries[handle].status_code == 200
    assert_not_in(entries[loser])
    await services.mailer.drain()
    async with browser(app) as http:
        for code_again in every_code(outbox, two.victim.email):
            for planted in {two.handles[loser], entries[loser].json().get("registration", "")}:
                assert (await verify(http, planted, code_again)).status_code == 400


@pytest.mark.standard("LG-21")
async def test_a_strangers_sign_up_is_worthless_once_the_owner_has_proved_the_address(
    lax_app: Litestar, lax: Services, outbox: Outbox
) -> None:
    two = await both_sign_up(lax_app, lax, outbox)
    # The attacker keeps the sign-up warm in every way there is.
    assert_not_in(await login(lax_app, two.attacker))
    async with browser(lax_app) as http:
        await http.post("/auth/verify/resend", json={"registration": two.handles["attacker"]})
        assert (await verify(http, two.handles["victim"], two.codes["victim"])).status_code == 200

    for attempt in ({}, {"email": two.victim.email.upper()}):
        assert_not_in(await login(lax_app, two.attacker, **attempt))
    async with browser(lax_app) as http:
        for body in ({"nickname": two.victim.nickname}, {"nickname": two.attacker.nickname}):
            refused = await http.post("/auth/login", json={"password": ATTACKERS_PASSWORD, **body})
            assert refused.status_code == 401
        await http.post("/auth/verify/resend", json={"registration": two.handles["attacker"]})
        await lax.mailer.drain()
        codes = every_code(outbox, two.victim.email)
        assert len(codes) >= 2
        for handle in two.handles.values():
            for code in codes:
                assert (await verify(http, handle, code)).status_code == 400
    assert (await login(lax_app, two.victim)).status_code == 200
    assert await accounts_of(lax, two.victim.email) == 1


@pytest.mark.standard("LG-21")
async def test_a_sign_up_after_the_proof_changes_nothing(app: Litestar, services: Services, outbox: Outbox) -> None:
    async with browser(app) as http:
        owner = await sign_up(http, services, outbox)
    attacker = Person(owner.email, somebody().nickname, ATTACKERS_PASSWORD)
    async with browser(app) as http:
        handle = await begin_sign_up(http, attacker)
        assert (await verify(http, handle, "000000")).status_code == 400

    assert_not_in(await login(app, attacker))
    assert (await login(app, owner)).status_code == 200


@pytest.mark.standard("LG-21", "CL-07")
async def test_taking_the_place_of_the_latest_sign_up_does_not_spoil_the_proof(
    lax_app: Litestar, lax: Services, outbox: Outbox
) -> None:
    two = await both_sign_up(lax_app, lax, outbox, first="victim")
    async with browser(lax_app) as http:
        for _ in range(5):
            await begin_sign_up(http, Person(two.victim.email, somebody().nickname, ATTACKERS_PASSWORD))
        assert_not_in(await login(lax_app, two.attacker))
        proved = await verify(http, two.handles["victim"], two.codes["victim"])

    assert proved.status_code == 200
    assert (await login(lax_app, two.victim)).status_code == 200
    assert_not_in(await login(lax_app, two.attacker))


@pytest.mark.standard("LG-21", "RL-07")
async def test_a_stranger_who_burns_a_sign_up_of_their_own_does_not_spend_the_owners_tries(
    app: Litestar, services: Services, outbox: Outbox
) -> None:
    two = await both_sign_up(app, services, outbox)
    async with browser(app) as http:
        for guess in range(40):
            refused = await verify(http, two.handles["attacker"], f"{guess:06d}")
            assert refused.status_code in {400, 429}

    async with browser(app) as http:
        proved = await verify(http, two.handles["victim"], two.codes["victim"])
    assert proved.status_code == 200, proved.json()


@pytest.mark.standard("LG-21")
async def test_of_two_proofs_at_once_one_wins_whole(app: Litestar, services: Services, outbox: Outbox) -> None:
    two = await both_sign_up(app, services, outbox)
    async with browser(app) as http:
        tries = [verify(http, two.handles[who], two.codes[who]) for who in ("attacker", "victim") for _ in range(5)]
        answers = await asyncio.gather(*tries)

    assert [answer.status_code for answer in answers].count(200) == 1
    assert {answer.status_code for answer in answers} <= {200, 400, 503}  # 503: another is at it, ask again
    winner = "attacker" if any(answer.status_code == 200 for answer in answers[:5]) else "victim"
    entries = {"attacker": await login(app, two.attacker), "victim": await login(app, two.victim)}
    assert {who for who, entry in entries.items() if entry.status_code == 200} == {winner}
    assert await accounts_of(services, two.victim.email) == 1


@pytest.mark.standard("LG-21", "LG-20")
async def test_another_spelling_of_the_address_is_the_same_victim(
    app: Litestar, services: Services, outbox: Outbox
) -> None:
    victim = somebody()
    victim.password = VICTIMS_PASSWORD
    attacker = Person(victim.email.upper(), somebody().nickname, ATTACKERS_PASSWORD)
    async with browser(app) as http:
        planted = await begin_sign_up(http, attacker)
        planted_code = await mailed_code(services, outbox, victim.email)
        await sign_up(http, services, outbox, victim)
        assert (await verify(http, planted, planted_code)).status_code == 400

    for spelling in (attacker.email, victim.email, victim.email.title()):
        assert_not_in(await login(app, attacker, email=spelling))
        assert (await login(app, victim, email=spelling)).status_code == 200
