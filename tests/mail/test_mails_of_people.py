"""The mails that people cause over HTTP: with the change or not at all, in their language, and never in its way."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from service.app import create_app
from service.mail.message import MailNotSent, Transport
from service.wiring import Services, build
from tests.conftest import (
    Outbox,
    Person,
    TestClock,
    begin_sign_up,
    browser,
    mailed_code,
    shifted,
    sign_up,
    somebody,
)
from tests.mail.post_office import PATIENCE, Hanging, Postbox, PostOffice, comes_true, shrinks

REFUSE = """
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''full''; END';
"""


@asynccontextmanager
async def serving(office: PostOffice, clock: TestClock, transport: Transport) -> AsyncIterator[Services]:
    """The whole service over the post office's database, and this mail server."""
    services = build(office.settings, clock=clock, mail=lambda _: transport, scripts=shifted)
    await services.signing_keys.ensure()
    await services.client_administration.ensure_front_end()
    async with services.running():
        yield services


# Nobody waits for a mail server


@pytest.mark.standard("LG-14")
@pytest.mark.parametrize("server", ["hangs", "is dead"])
async def test_a_mail_server_in_trouble_slows_no_request(
    server: str, office: PostOffice, wall_clock: TestClock
) -> None:
    hanging = Hanging()

    async def dead(_: object) -> None:
        raise MailNotSent("SMTPConnectError")

    postbox = Postbox(hanging if server == "hangs" else dead)
    async with serving(office, wall_clock, postbox) as services, browser(create_app(services)) as http:
        people = [somebody() for _ in range(8)]  # more than a worker hands over at once
        async with asyncio.timeout(PATIENCE):
            for person in people:
                await begin_sign_up(http, person)
            for address in (people[0].email, somebody().email):
                answer = await http.post("/auth/password/forgot", json={"email": address})
                assert answer.status_code == 202
        await comes_true(lambda: len(postbox.tried) >= 4)
        if server == "hangs":
            assert postbox.at_once.total() == 4
        assert postbox.kept == []

        hanging.let_go.set()
        postbox.answer = hanging
        async with asyncio.timeout(PATIENCE):
            await comes_true(lambda: {mail.to for mail in postbox.kept} == {person.email for person in people})


# A change and its mail are one


@pytest.mark.standard("LG-12")
async def test_a_change_whose_mail_cannot_be_posted_does_not_happen(office: PostOffice, wall_clock: TestClock) -> None:
    outbox, new_name = Outbox(), somebody().nickname
    async with serving(office, wall_clock, outbox) as services, browser(create_app(services)) as http:
        person = await sign_up(http, services, outbox)
        await services.mailer.drain()
        before = len(outbox.mails)
        await office.sql("DROP FUNCTION IF EXISTS refuse CASCADE")
        await office.sql(REFUSE)
        await office.sql("CREATE TRIGGER full_up BEFORE INSERT ON outbox EXECUTE FUNCTION refuse()")
        try:
            renamed = await http.patch("/me", json={"nickname": new_name}, headers=person.headers)
            passwords = {"current_password": person.password, "new_password": f"{person.password} again"}
            changed = await http.post("/me/password", json=passwords, headers=person.headers)
        finally:
            await office.sql("DROP FUNCTION refuse CASCADE")
        assert (renamed.status_code, changed.status_code) == (503, 503)
        me = await http.get("/me", headers=person.headers)
        assert me.json()["nickname"] == person.nickname
        assert (await http.post("/auth/login", json=person.credentials())).status_code == 200

        await services.mailer.drain()
        assert len(outbox.mails) == before
        renamed = await http.patch("/me", json={"nickname": new_name}, headers=person.headers)
        assert renamed.status_code == 200
        await services.mailer.drain()
        assert new_name in outbox.to(person.email)[-1].text


# Languages


@pytest.mark.parametrize(
    ("accepted", "language", "subject"),
    [
        ("ko-KR,ko;q=0.9,en;q=0.5", "ko", "이메일 주소를 확인해 주세요"),
        ("fr, ja;q=0.8, en;q=0.1", "ja", "メールアドレスを確認してください"),
        ("fr", "en", "Confirm your address"),
    ],
)
async def test_a_new_person_is_written_to_in_the_language_of_their_browser(
    accepted: str, language: str, subject: str, services: Services, outbox: Outbox
) -> None:
    person = somebody()
    async with browser(create_app(services)) as http:
        http.headers["Accept-Language"] = accepted
        await begin_sign_up(http, person)
    await services.mailer.drain()
    [mail] = outbox.to(person.email)
    assert (mail.language, mail.subject) == (language, subject)


async def test_later_the_locale_of_the_account_decides_whatever_a_browser_says(
    services: Services, outbox: Outbox
) -> None:
    async with browser(create_app(services)) as http:
        http.headers["Accept-Language"] = "ko"
        person = somebody()
        handle = await begin_sign_up(http, person)
        await services.mailer.drain()
        code = re.findall(r"\b\d{6}\b", outbox.to(person.email)[0].text)[0]
        answer = await http.post("/auth/verify", json={"registration": handle, "code": code})
        assert answer.status_code == 200, answer.text
        headers = {"Authorization": f"Bearer {answer.json()['access_token']}"}
        for locale, language in ((None, "ko"), ("ja", "ja"), ("en-GB", "en")):
            if locale:
                assert (await http.patch("/me", json={"locale": locale}, headers=headers)).status_code == 200
            await http.post("/auth/password/forgot", json={"email": person.email})
            await services.mailer.drain()
            assert outbox.to(person.email)[-1].language == language
        # A stranger's browser does not decide either.
        await begin_sign_up(http, somebody_at(person.email))
        await services.mailer.drain()
        assert outbox.to(person.email)[-1].language == "en"


def somebody_at(address: str) -> Person:
    person = somebody()
    person.email = address
    return person


# Nobody


@pytest.mark.standard("LG-14")
async def test_for_an_address_without_an_account_nothing_leaves_and_nothing_stays(
    office: PostOffice, wall_clock: TestClock
) -> None:
    outbox, nobody = Outbox(), somebody().email
    async with serving(office, wall_clock, outbox) as services, browser(create_app(services)) as http:
        posted = list[int]()
        services.outbox.listeners.append(lambda: posted.append(1))
        answer = await http.post("/auth/password/forgot", json={"email": nobody})
        assert answer.status_code == 202
        assert posted == [1]
        await shrinks(services.outbox)
        assert outbox.mails == []


async def test_a_code_that_was_mailed_is_good(office: PostOffice, wall_clock: TestClock) -> None:
    """From the row of a table to the session of a person."""
    outbox, person = Outbox(), somebody()
    async with serving(office, wall_clock, outbox) as services, browser(create_app(services)) as http:
        handle = await begin_sign_up(http, person)
        code = await mailed_code(services, outbox, person.email)
        answer = await http.post("/auth/verify", json={"registration": handle, "code": code})
        assert answer.status_code == 200
        assert len(outbox.mails) == 1
