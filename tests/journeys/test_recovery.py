"""A forgotten password: a mail, a new password, and nobody else in the account afterwards."""

from collections.abc import AsyncIterator
from hashlib import sha1

import httpx
import pytest
from litestar import Litestar

from service.accounts.breaches import BreachedPasswords
from service.app import create_app
from service.crypto.blocklist import Blocklist
from service.settings import load
from service.wiring import Services
from tests.conftest import Introspector, Outbox, TestClock, browser, new_address, sign_up, worker
from tests.deeds import WRONG, letters, sign_in, with_account
from tests.journeys.links import (
    DEAD_LINK,
    NEW_PASSWORD,
    change_password,
    claims,
    enter,
    refresh,
    reset,
    reset_link,
    told,
)


@pytest.mark.standard("SE-17", "LG-12", "LG-13")
async def test_a_forgotten_password_is_replaced_and_every_session_ends(
    app: Litestar,
    http: httpx.AsyncClient,
    http_of_second_worker: httpx.AsyncClient,
    services: Services,
    outbox: Outbox,
    *,
    introspector: Introspector,
) -> None:
    person = await sign_up(http, services, outbox)
    first = (person.access_token, person.refresh_token)
    async with browser(app) as phone:
        await enter(phone, person)
        token = await reset_link(phone, services, outbox, person)
        answer = await reset(phone, token)
    assert (answer.status_code, answer.content) == (204, b"")
    assert "set-cookie" not in answer.headers

    for access_token, refresh_token in (first, (person.access_token, person.refresh_token)):
        assert await introspector.ask(http_of_second_worker, access_token) == {"active": False}
        me = await http.get("/me", headers={"Authorization": f"Bearer {access_token}"})
        assert me.status_code == 401
        body = {"refresh_token": refresh_token}
        assert told(await http.post("/auth/refresh", json=body)) == (401, "session_expired")
    assert told(await sign_in(http, person)) == (401, "invalid_credentials")
    person.password = NEW_PASSWORD
    assert (await sign_in(http, person)).status_code == 200
    by_nickname = await http.post("/auth/login", json={"nickname": person.nickname, "password": NEW_PASSWORD})
    assert by_nickname.status_code == 200


@pytest.mark.standard("LG-13", "LG-12")
async def test_the_holder_is_told_of_a_reset_and_what_to_do_if_it_was_not_them(
    http: httpx.AsyncClient, services: Services, outbox: Outbox
) -> None:
    person = await sign_up(http, services, outbox)
    token = await reset_link(http, services, outbox, person)
    mail = (await letters(services, outbox, person.email))[-1]
    assert "within 30 minutes" in mail.text
    assert "Ignore this mail" in mail.text
    before = len(outbox.to(person.email))
    agent = {"User-Agent": "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"}
    await http.post("/auth/password/reset", json={"token": token, "password": NEW_PASSWORD}, headers=agent)

    (notice,) = (await letters(services, outbox, person.email))[before:]
    assert notice.subject == "Your password was changed"
    assert "Device: Firefox" in notice.text
    for words in ("reset, with a link", "Was it not you?", "change the password of your mailbox", "forgot password"):
        assert words in notice.text
    for secret in (token, NEW_PASSWORD):
        assert secret not in notice.text + notice.html


@pytest.mark.standard("CL-06")
async def test_a_link_to_reset_lives_for_half_an_hour(
    http: httpx.AsyncClient, services: Services, outbox: Outbox, clock: TestClock
) -> None:
    people = [await with_account(services), await with_account(services)]
    tokens = [await reset_link(http, services, outbox, person) for person in people]

    await clock.advance(minutes=29)
    assert (await reset(http, tokens[0])).status_code == 204
    await clock.advance(minutes=1, seconds=1)
    assert told(await reset(http, tokens[1])) == DEAD_LINK
    assert (await sign_in(http, people[1])).status_code == 200


@pytest.mark.standard("PW-05", "PW-06")
async def test_a_password_that_cannot_be_taken_keeps_the_link_good_and_says_why(
    http: httpx.AsyncClient, services: Services, outbox: Outbox
) -> None:
    person = await sign_up(http, services, outbox)
    token = await reset_link(http, services, outbox, person)
    refused = {
        "": "password_too_short",
        "fourteen chars": "password_too_short",
        "passwordpassword": "password_blocklisted",
        person.email: "password_blocklisted",
        f"{person.nickname}{person.nickname}": "password_blocklisted",
        "é" * 2049: "password_too_long",
    }
    for password, code in refused.items():
        answer = await reset(http, token, password)
        assert told(answer) == (400, "invalid_input")
        assert [(error["field"], error["code"]) for error in answer.json()["errors"]] == [("password", code)]
        assert not password or password not in answer.text

    assert (await http.get("/me", headers=person.headers)).status_code == 200, "nothing has happened yet"
    assert (await reset(http, token)).status_code == 204


@pytest.mark.standard("PW-05")
async def test_the_passwords_that_everybody_tries_are_refused_at_reset_and_change(
    http: httpx.AsyncClient, services: Services, outbox: Outbox
) -> None:
    common = [
        word for word in sorted(Blocklist.load().bundled.entries) if len(word) >= services.settings.password_min_length
    ]
    sample = common[:: max(1, len(common) // 20)][:20]
    assert len(sample) == 20
    person = await sign_up(http, services, outbox)
    token = await reset_link(http, services, outbox, person)
    for password in sample:
        answers = [
            await reset(http, token, password),
            await http.post(
                "/me/password",
                json={"current_password": person.password, "new_password": password},
                headers=person.headers,
            ),
        ]
        codes = {error["code"] for answer in answers for error in answer.json()["errors"]}
        assert codes == {"password_blocklisted"}, password


@pytest.fixture
async def warned(
    services: Services,
    environ: dict[str, str],
    wall_clock: TestClock,
    outbox: Outbox,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[httpx.AsyncClient]:
    """A worker that asks a range service, which knows one password."""
    digest = sha1(NEW_PASSWORD.encode(), usedforsecurity=False).hexdigest().upper()
    transport = httpx.MockTransport(lambda _: httpx.Response(200, text=f"{digest[5:]}:12"))
    monkeypatch.setattr(
        "service.wiring.BreachedPasswords", lambda url, timeout: BreachedPasswords(url, timeout, transport)
    )
    given = {**environ, "VESTIBULE_BREACHED_PASSWORDS_URL": "https://range.test/range/"}
    async with worker(load(given), wall_clock, outbox) as running, browser(create_app(running)) as client:
        yield client
        await running.mailer.drain()


@pytest.mark.standard("PW-18")
async def test_a_leaked_password_is_refused_at_reset_and_change_and_the_link_stays_good(
    warned: httpx.AsyncClient, services: Services, outbox: Outbox
) -> None:
    person = await with_account(services)
    await enter(warned, person)
    token = await reset_link(warned, services, outbox, person)
    body = {"current_password": person.password, "new_password": NEW_PASSWORD}
    answers = [await reset(warned, token), await warned.post("/me/password", json=body, headers=person.headers)]

    errors = [[(error["field"], error["code"]) for error in answer.json()["errors"]] for answer in answers]
    assert errors == [[("password", "password_leaked")], [("new_password", "password_leaked")]]
    assert (await reset(warned, token, "one more quiet evening")).status_code == 204


# What a reset puts right


@pytest.mark.standard("RL-05", "CL-10")
async def test_a_reset_opens_a_password_that_strangers_had_locked(
    services: Services, environ: dict[str, str], wall_clock: TestClock, outbox: Outbox
) -> None:
    async with worker(load({**environ, "VESTIBULE_PASSWORD_FAILURES": "5"}), wall_clock, outbox) as strict:
        door = create_app(strict)
        person = await with_account(strict)
        async with browser(door) as guesser:
            for _ in range(5):
                assert (await sign_in(guesser, person, password=WRONG)).status_code == 401
        async with browser(door) as owner:
            assert told(await sign_in(owner, person)) == (401, "invalid_credentials"), "locked, and does not say so"
            token = await reset_link(owner, strict, outbox, person)
            assert (await reset(owner, token)).status_code == 204
        person.password = NEW_PASSWORD
        async with browser(door) as elsewhere:
            assert (await sign_in(elsewhere, person)).status_code == 200
        await strict.mailer.drain()


@pytest.mark.standard("LG-09", "SE-17")
@pytest.mark.parametrize("how", ["reset", "change"])
async def test_a_new_password_forgets_the_devices_that_knew_the_old_one(
    app: Litestar, services: Services, outbox: Outbox, how: str
) -> None:
    """A thief's browser was known, too. The device that chose the new password is known from then on."""
    person, home, thiefs = await with_account(services), new_address(), new_address()

    async def notices_of_sign_in_from(address: str) -> int:
        before = len(await letters(services, outbox, person.email))
        async with browser(app, address) as http:
            await enter(http, person)
        mails = (await letters(services, outbox, person.email))[before:]
        return [mail.subject for mail in mails].count("A new device signed in")

    assert [await notices_of_sign_in_from(thiefs) for _ in range(2)] == [1, 0]
    async with browser(app, home) as http:
        await enter(http, person)
        if how == "reset":
            token = await reset_link(http, services, outbox, person)
            assert (await reset(http, token)).status_code == 204
            person.password = NEW_PASSWORD
        else:
            await change_password(http, person, NEW_PASSWORD)

    assert await notices_of_sign_in_from(home) == 0
    assert [await notices_of_sign_in_from(thiefs) for _ in range(2)] == [1, 0]


@pytest.mark.standard("LG-09")
async def test_failures_before_a_sign_in_from_a_new_place_are_told_once(
    app: Litestar, services: Services, outbox: Outbox
) -> None:
    person = await with_account(services)
    async with browser(app) as http:
        for _ in range(5):
            await sign_in(http, person, password=WRONG)
        await enter(http, person)
        await enter(http, person)

    (notice,) = await letters(services, outbox, person.email)
    assert notice.subject == "A new device signed in"
    assert "5 attempts with wrong passwords came before it." in notice.text


@pytest.mark.standard("SE-17")
async def test_a_changed_password_ends_every_other_session_and_keeps_this_one(
    app: Litestar, http: httpx.AsyncClient, services: Services, outbox: Outbox, introspector: Introspector
) -> None:
    person = await sign_up(http, services, outbox)
    other = (person.access_token, person.refresh_token)
    await enter(http, person)
    await change_password(http, person, NEW_PASSWORD)

    assert await introspector.ask(http, other[0]) == {"active": False}
    assert told(await http.post("/auth/refresh", json={"refresh_token": other[1]})) == (401, "session_expired")
    mine = await introspector.ask(http, person.access_token)
    assert (mine["active"], mine["sid"]) == (True, claims(person.access_token)["sid"])
    assert (await refresh(http, person)).status_code == 200
