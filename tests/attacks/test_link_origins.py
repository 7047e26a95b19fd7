"""What stands in mailed links and who may look at them: origin, fragment, mail scanners, and links in wrong places."""

import re
from itertools import product

import httpx
import pytest
from litestar import Litestar

from service.app import create_app
from service.settings import load
from service.wiring import Services
from tests.conftest import (
    ISSUER,
    Introspector,
    Outbox,
    Person,
    TestClock,
    begin_sign_up,
    browser,
    sign_up,
    somebody,
    worker,
)
from tests.deeds import letters, mailed_link, sign_in
from tests.journeys.links import DEAD_LINK, confirm, email_link, forged, is_dead, move, reset, reset_link, told, verify

EVIL = {
    "Host": "evil.example",
    "X-Forwarded-Host": "evil.example",
    "X-Forwarded-Server": "evil.example",
    "X-Forwarded-Proto": "http",
    "X-Forwarded-Prefix": "/evil",
    "X-Original-Host": "evil.example",
    "X-Host": "evil.example",
    "Forwarded": "host=evil.example;proto=http",
}


async def every_kind(http: httpx.AsyncClient, services: Services, outbox: Outbox) -> tuple[Person, dict[str, str]]:
    """Somebody with a live link of each kind; that of the sign-up is of somebody with the same password."""
    person, newcomer = await sign_up(http, services, outbox), somebody()
    undo = await move(http, services, outbox, person, somebody().email)
    await begin_sign_up(http, newcomer)
    return person, {
        "verify": await mailed_link(services, outbox, newcomer.email, "verify"),
        "reset": await reset_link(http, services, outbox, person),
        "email": await email_link(http, services, outbox, person, somebody().email),
        "undo": undo,
    }


# Origin


@pytest.mark.standard("CL-15", "CL-12", "RL-10")
@pytest.mark.parametrize("trusted", [False, True], ids=["from anybody", "from a trusted proxy"])
async def test_links_have_the_configured_origin_whatever_a_request_says(
    services: Services, environ: dict[str, str], wall_clock: TestClock, outbox: Outbox, *, trusted: bool
) -> None:
    given = {**environ, "VESTIBULE_TRUSTED_PROXIES": "2001:db8::/32"} if trusted else environ
    begun = len(outbox.mails)
    async with worker(load(given), wall_clock, outbox) as poisoned, browser(create_app(poisoned)) as http:
        http.headers.update(EVIL)
        newcomer = somebody()
        handle = await begin_sign_up(http, newcomer)
        await http.post("/auth/verify/resend", json={"registration": handle})
        await sign_in(http, newcomer)
        await every_kind(http, poisoned, outbox)
        await poisoned.mailer.drain()

    said = [mail.text + mail.html for mail in outbox.mails[begun:]]
    assert not any(re.search(r"evil\.|/evil", words) for words in said)  # a token may hold the bare word
    found = {link for words in said for link in re.findall(r"https?://[^\s\"'<>]+", words) if "#" in link}
    assert {re.sub(r"=\w{3}_[\w-]{64,}", "=…", link) for link in found} == {
        f"{ISSUER}/auth/confirm#{purpose}=…" for purpose in ("verify", "reset", "email", "undo")
    }


@pytest.mark.standard("CL-12")
async def test_a_token_stands_in_a_mail_once_as_text_and_only_in_the_fragment(
    http: httpx.AsyncClient, services: Services, outbox: Outbox
) -> None:
    person = await sign_up(http, services, outbox)
    token = await reset_link(http, services, outbox, person)
    mail = (await letters(services, outbox, person.email))[-1]

    assert mail.text.count(token) == 1
    for part in (mail.text, mail.html):
        before = [part[: place.start()] for place in re.finditer(re.escape(token), part)]
        assert before
        assert all(words.endswith(f"{ISSUER}/auth/confirm#reset=") for words in before)
    assert token not in mail.subject


# Scanners


@pytest.mark.standard("CL-13", "CL-01", "LG-19")
async def test_mail_scanners_burn_no_link_of_any_kind(
    app: Litestar, http: httpx.AsyncClient, services: Services, outbox: Outbox
) -> None:
    """They ask for the link as it stands, with the token where servers see it, and for what scripts would call."""
    person, tokens = await every_kind(http, services, outbox)
    hints = {"Purpose": "prefetch", "Sec-Purpose": "prefetch;prerender", "User-Agent": "Microsoft Office SafeLinks"}
    for (purpose, token), method in product(tokens.items(), ["HEAD", "GET", "GET", "GET", "GET", "GET"]):
        async with browser(app) as scanner:
            for path in (f"/auth/confirm#{purpose}={token}", f"/auth/confirm?{purpose}={token}"):
                seen = await scanner.request(method, path, headers=hints)
                assert seen.status_code == 200
                assert token not in seen.text
                assert "set-cookie" not in seen.headers
            for path in ("/auth/verify", "/auth/password/reset", "/me/email/confirm"):
                query = {"token": token, "password": person.password}
                seen = await scanner.request(method, path, params=query, headers=hints)
                assert seen.status_code in {401, 404, 405}

    assert (await verify(http, token=tokens["verify"], password=person.password)).status_code == 200
    assert (await confirm(http, person, tokens["email"])).status_code == 204
    assert (await reset(http, tokens["undo"])).status_code == 204


@pytest.mark.standard("CL-13")
async def test_mail_scanners_burn_no_reset(http: httpx.AsyncClient, services: Services, outbox: Outbox) -> None:
    person = await sign_up(http, services, outbox)
    token = await reset_link(http, services, outbox, person)
    for method in ("HEAD", "GET", "GET", "OPTIONS"):
        await http.request(method, f"/auth/confirm#reset={token}")
        await http.request(method, "/auth/password/reset", params={"token": token})

    assert (await sign_in(http, person)).status_code == 200
    assert (await reset(http, token)).status_code == 204


# Wrong places


@pytest.mark.standard("CL-07", "LG-02")
async def test_no_link_opens_what_another_one_is_for(
    http: httpx.AsyncClient, services: Services, outbox: Outbox, introspector: Introspector
) -> None:
    person, tokens = await every_kind(http, services, outbox)
    at = {
        "verify": lambda token: verify(http, token=token, password=person.password),
        "reset": lambda token: reset(http, token),
        "email": lambda token: confirm(http, person, token),
    }
    rightful = {("verify", "verify"), ("reset", "reset"), ("undo", "reset"), ("email", "email")}
    for kind, place in product(tokens, at):
        if (kind, place) not in rightful:
            assert told(await at[place](tokens[kind])) == DEAD_LINK, (kind, place)

    # Nor under the prefix of another kind: what a token is for is part of what it proves.
    for kind, place in product(tokens, at):
        for prefix in {"vlk", "vpr", "vec", "veu"} - {tokens[kind][:3]}:
            assert told(await at[place](forged(tokens[kind], prefix=prefix))) == DEAD_LINK, (kind, place, prefix)

    assert not await is_dead(http, introspector, person)
    for kind, place in (("verify", "verify"), ("email", "email"), ("undo", "reset")):
        assert (await at[place](tokens[kind])).status_code in {200, 204}, kind
