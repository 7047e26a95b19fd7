"""Attacks on the link that proves an address: alone it is worth nothing, nor used, and guessed at it dies."""

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator

import httpx
import pytest
from litestar import Litestar

from service.app import create_app
from service.settings import load
from service.wiring import Services
from tests.conftest import (
    Outbox,
    Person,
    TestClock,
    begin_sign_up,
    browser,
    mailed_code,
    sign_up,
    somebody,
    worker,
)
from tests.deeds import WRONG, mailed_link, sign_in
from tests.journeys.links import DEAD_LINK, accounts_of, count, flipped, forged, signed_up, told, verify


@pytest.fixture(scope="module")
async def lax(
    services: Services, environ: dict[str, str], wall_clock: TestClock, outbox: Outbox
) -> AsyncIterator[Services]:
    """A worker where only the counters of the sign-up itself say no."""
    names = ("GUESS_NETWORK", "GUESS_ACCOUNT", "GUESS_ACCOUNT_NETWORK", "CODE_ADDRESS", "CODE_ADDRESS_NETWORK")
    limits = {f"VESTIBULE_LIMIT_{name}": "1000000/s" for name in names}
    async with worker(load({**environ, **limits}), wall_clock, outbox) as running:
        yield running
        await running.mailer.drain()


@pytest.fixture
async def lax_http(lax: Services) -> AsyncIterator[httpx.AsyncClient]:
    async with browser(create_app(lax)) as client:
        yield client


# Alone


@pytest.mark.standard("CL-07", "LG-02")
async def test_the_link_alone_opens_nothing(
    app: Litestar, http: httpx.AsyncClient, services: Services, outbox: Outbox
) -> None:
    person, handle, token = await signed_up(http, services, outbox)
    stranger = somebody()
    stranger.password = "planted by a stranger long ago"
    async with browser(app) as other:
        strangers = await begin_sign_up(other, stranger)
        bare = await verify(other, token=token)
        answers = [
            await verify(other, token=token, registration=strangers),
            await verify(other, token=token, password=stranger.password),
            await verify(other, token=token, registration=strangers, password=WRONG),
        ]

    assert told(bare) == (400, "invalid_input")
    assert {told(answer) for answer in answers} == {DEAD_LINK}
    assert len({answer.content for answer in answers}) == 1
    assert await accounts_of(services, person.email) == await accounts_of(services, stranger.email) == 0
    assert (await verify(http, token=token, registration=handle)).status_code == 200


@pytest.mark.standard("CL-07", "LG-02")
async def test_a_handle_alone_or_with_a_link_of_another_sign_up_opens_nothing(
    http: httpx.AsyncClient, services: Services, outbox: Outbox
) -> None:
    person, handle, token = await signed_up(http, services, outbox)
    _, _, foreign = await signed_up(http, services, outbox)
    noise = token[:10] + ("A" if token[10] != "A" else "B") + token[11:]
    changed = [forged(token, flipped(place)) for place in (15, 16, -1)]

    assert told(await verify(http, registration=handle)) == (400, "invalid_input")
    for wrong in (foreign, noise, changed[0], handle, "vlk_", "", "vlk_" + "A" * 70):
        assert told(await verify(http, token=wrong, registration=handle)) == DEAD_LINK, wrong
    for wrong in changed:
        assert told(await verify(http, token=wrong, password=person.password)) == DEAD_LINK
    assert (await verify(http, token=token, registration=handle)).status_code == 200
    assert await accounts_of(services, person.email) == 1


@pytest.mark.standard("CL-07")
async def test_both_proofs_in_one_request_are_no_proof(
    http: httpx.AsyncClient, services: Services, outbox: Outbox
) -> None:
    person, handle, token = await signed_up(http, services, outbox)
    code = await mailed_code(services, outbox, person.email)
    for body in (
        {"registration": handle, "code": code, "token": token},
        {"registration": handle, "code": code, "password": person.password},
        {"code": code, "password": person.password},
        {"code": code, "token": token},
    ):
        assert told(await verify(http, **body)) == (400, "invalid_input")

    assert (await verify(http, token=token, registration=handle)).status_code == 200


# Once


@pytest.mark.standard("CL-01", "LG-02")
@pytest.mark.parametrize("first", ["code", "link", "link elsewhere"])
async def test_link_and_code_end_together(
    http: httpx.AsyncClient, services: Services, outbox: Outbox, first: str
) -> None:
    person, handle, token = await signed_up(http, services, outbox)
    code = await mailed_code(services, outbox, person.email)
    ways = {
        "code": {"registration": handle, "code": code},
        "link": {"registration": handle, "token": token},
        "link elsewhere": {"token": token, "password": person.password},
    }
    assert (await verify(http, **ways[first])).status_code == 200

    for way, body in ways.items():
        answer = await verify(http, **body)
        assert told(answer) == DEAD_LINK, way
        assert "set-cookie" not in answer.headers
    assert await count(services, "SELECT count(*) FROM sessions JOIN accounts a ON a.id = account_id WHERE email = :a",
                       a=person.email) == 1  # fmt: skip


@pytest.mark.standard("CL-07")
@pytest.mark.parametrize("again", ["resend", "sign-in"])
async def test_another_mail_ends_the_link_and_the_code_of_the_one_before(
    http: httpx.AsyncClient, services: Services, outbox: Outbox, again: str
) -> None:
    person, handle, old = await signed_up(http, services, outbox)
    old_code = await mailed_code(services, outbox, person.email)
    if again == "resend":
        await http.post("/auth/verify/resend", json={"registration": handle})
    else:
        assert told(await sign_in(http, person)) == (403, "email_not_verified")
    new = await mailed_link(services, outbox, person.email, "verify")
    new_code = await mailed_code(services, outbox, person.email)

    assert new != old
    assert told(await verify(http, token=old, registration=handle)) == DEAD_LINK
    if new_code != old_code:
        assert told(await verify(http, code=old_code, registration=handle)) == DEAD_LINK
    assert (await verify(http, token=new, registration=handle)).status_code == 200


@pytest.mark.standard("CL-01")
@pytest.mark.parametrize("proof", ["link", "link elsewhere", "link and code"])
async def test_fifty_right_proofs_at_once_make_one_account_and_one_session(
    lax_http: httpx.AsyncClient, lax: Services, outbox: Outbox, proof: str
) -> None:
    person, handle, token = await signed_up(lax_http, lax, outbox)
    by_link: dict[str, object] = {"token": token, "registration": handle}
    others: dict[str, dict[str, object]] = {
        "link": by_link,
        "link elsewhere": {"token": token, "password": person.password},
        "link and code": {"code": await mailed_code(lax, outbox, person.email), "registration": handle},
    }
    other = others[proof]
    bodies = [by_link if proof == "link and code" and number % 2 else other for number in range(50)]
    answers = await asyncio.gather(*(verify(lax_http, **body) for body in bodies))

    statuses = Counter(answer.status_code for answer in answers)
    assert statuses[200] == 1
    assert set(statuses) <= {200, 400, 503}  # 503: another is at it, ask again
    assert {told(answer) for answer in answers if answer.status_code == 400} <= {DEAD_LINK}
    assert await accounts_of(lax, person.email) == 1
    sessions = "SELECT count(*) FROM sessions JOIN accounts a ON a.id = account_id WHERE email = :a"
    assert await count(lax, sessions, a=person.email) == 1


# Guessed at


@pytest.mark.standard("CL-08")
async def test_five_wrong_passwords_burn_link_and_code_together(
    lax_http: httpx.AsyncClient, lax: Services, outbox: Outbox
) -> None:
    """Whoever reads the mail must not guess the password that belongs to it."""
    person, handle, token = await signed_up(lax_http, lax, outbox)
    code = await mailed_code(lax, outbox, person.email)
    for number in range(5):
        assert told(await verify(lax_http, token=token, password=f"{WRONG} {number}")) == DEAD_LINK

    assert told(await verify(lax_http, token=token, password=person.password)) == DEAD_LINK
    assert told(await verify(lax_http, token=token, registration=handle)) == DEAD_LINK
    assert told(await verify(lax_http, code=code, registration=handle)) == DEAD_LINK


@pytest.mark.standard("CL-08", "CL-09")
async def test_another_link_brings_no_new_tries(lax_http: httpx.AsyncClient, lax: Services, outbox: Outbox) -> None:
    person, handle, token = await signed_up(lax_http, lax, outbox)
    for number in range(4):
        await verify(lax_http, token=token, password=f"{WRONG} {number}")
    await lax_http.post("/auth/verify/resend", json={"registration": handle})
    token = await mailed_link(lax, outbox, person.email, "verify")
    await verify(lax_http, token=token, password=WRONG)

    assert told(await verify(lax_http, token=token, password=person.password)) == DEAD_LINK


@pytest.mark.standard("CL-08", "RL-16")
async def test_the_right_password_among_fifty_parallel_guesses_has_no_better_chance(
    lax_http: httpx.AsyncClient, lax: Services, outbox: Outbox
) -> None:
    person, _, token = await signed_up(lax_http, lax, outbox)
    guesses = [*(f"{WRONG} {number}" for number in range(49)), person.password]
    answers = await asyncio.gather(*(verify(lax_http, token=token, password=guess) for guess in guesses))

    assert [answer.status_code for answer in answers[:-1]] == [400] * 49
    assert answers[-1].status_code in {200, 400}
    assert told(await verify(lax_http, token=token, password=person.password)) == DEAD_LINK


@pytest.mark.standard("RL-02")
async def test_guesses_at_the_password_of_a_link_share_the_budget_of_sign_in(
    http: httpx.AsyncClient, services: Services, outbox: Outbox
) -> None:
    person, _, token = await signed_up(http, services, outbox)
    for number in range(4):
        assert told(await verify(http, token=token, password=f"{WRONG} {number}")) == DEAD_LINK
    statuses = [(await sign_in(http, person, password=WRONG)).status_code for _ in range(7)]

    assert statuses == [401] * 6 + [429]


# Known addresses


@pytest.mark.standard("LG-14", "LG-21")
async def test_no_link_is_mailed_for_an_address_that_has_an_account(
    app: Litestar, services: Services, outbox: Outbox
) -> None:
    async with browser(app) as http:
        owner = await sign_up(http, services, outbox)
    before = len(outbox.to(owner.email))
    async with browser(app) as http:
        handle = await begin_sign_up(http, Person(owner.email, somebody().nickname, "planted by a stranger"))
        await http.post("/auth/verify/resend", json={"registration": handle})
    await services.mailer.drain()

    mails = outbox.to(owner.email)[before:]
    assert len(mails) == 2
    assert not any(re.search(r"#\w+=|your code is", mail.text + mail.html) for mail in mails)
