"""Another password for somebody who is signed in: what it takes, and what ends with the old one."""

import hashlib
from collections import Counter
from dataclasses import replace
from typing import Any

import httpx
import pytest
from litestar import Litestar
from sqlalchemy import text

from service.accounts.breaches import BreachedPasswords
from service.app import create_app
from service.crypto.blocklist import Blocklist
from service.wiring import Services
from tests.conftest import PASSWORD, Introspector, Outbox, Person, browser, somebody
from tests.deeds import (
    FIREFOX,
    OTHER,
    WRONG,
    bearer,
    field_codes,
    is_in,
    letters,
    mailed_link,
    row_of,
    session_of,
    sign_in,
    with_account,
)


async def change(
    http: httpx.AsyncClient, headers: dict[str, str], new: str = OTHER, current: str = PASSWORD
) -> httpx.Response:
    body = {"current_password": current, "new_password": new}
    return await http.post("/me/password", json=body, headers=headers)


@pytest.mark.standard("PW-03", "PW-04")
async def test_the_old_password_fails_and_the_new_one_works(
    http: httpx.AsyncClient, services: Services, person: Person
) -> None:
    before = await row_of(services, person)

    answer = await change(http, person.headers)

    assert (answer.status_code, answer.content) == (204, b"")
    assert answer.headers["cache-control"] == "no-store"
    after = await row_of(services, person)
    assert after.password_hash != before.password_hash
    assert after.password_changed_at > before.password_changed_at
    refused = await sign_in(http, person)
    assert (refused.status_code, refused.json()["code"]) == (401, "invalid_credentials")
    assert (await sign_in(http, person, password=OTHER)).status_code == 200


@pytest.mark.standard("SE-17", "SE-15", "IN-15")
async def test_every_other_session_is_dead_at_once_in_every_worker_and_this_one_lives_on(
    http: httpx.AsyncClient,
    http_of_second_worker: httpx.AsyncClient,
    services: Services,
    person: Person,
    introspector: Introspector,
) -> None:
    elsewhere = [await sign_in(http, person) for _ in range(3)]
    for answer in elsewhere:
        assert await is_in(http_of_second_worker, bearer(answer))
    before = await row_of(services, person)

    assert (await change(http, person.headers)).status_code == 204

    for answer in elsewhere:
        for worker_of in (http_of_second_worker, http):
            assert not await is_in(worker_of, bearer(answer))
            dead = await worker_of.post("/auth/refresh", json={"refresh_token": answer.json()["refresh_token"]})
            assert (dead.status_code, dead.json()["code"]) == (401, "session_expired")
            assert await introspector.ask(worker_of, answer.json()["access_token"]) == {"active": False}
    assert await is_in(http_of_second_worker, person.headers)
    assert (await introspector.ask(http_of_second_worker, person.access_token))["active"] is True
    assert (await http.post("/auth/refresh", json={"refresh_token": person.refresh_token})).status_code == 200
    statement = text("SELECT ended_reason FROM sessions WHERE account_id = :a")
    async with services.database.begin() as transaction:
        reasons = Counter((await transaction.scalars(statement, {"a": before.id})).all())
    assert reasons == {"password_changed": 3, None: 1}


@pytest.mark.standard("PW-04")
@pytest.mark.parametrize(
    "body",
    [
        {"new_password": OTHER},
        {"current_password": None, "new_password": OTHER},
        {"current_password": PASSWORD},
        {"current_password": PASSWORD, "new_password": OTHER, "user_id": 1},
        {"current_password": [PASSWORD], "new_password": OTHER},
        {"current_password": "x" * 4097, "new_password": OTHER},
        {"current_password": PASSWORD, "new_password": "x" * 4097},
    ],
)
async def test_both_passwords_are_wanted(
    http: httpx.AsyncClient, services: Services, person: Person, body: dict[str, Any]
) -> None:
    before = (await row_of(services, person)).password_hash
    assert (await http.post("/me/password", json=body, headers=person.headers)).status_code == 400
    assert (await row_of(services, person)).password_hash == before


@pytest.mark.standard("PW-04", "PW-09", "RL-06")
async def test_a_wrong_current_password_is_counted_and_changes_nothing(
    http: httpx.AsyncClient, services: Services, outbox: Outbox, person: Person
) -> None:
    other = await sign_in(http, person)
    before = (await row_of(services, person)).password_hash
    wrong = [WRONG, f" {PASSWORD}", f"{PASSWORD} ", PASSWORD.swapcase(), PASSWORD[:-1], ""]
    for current in wrong:
        answer = await change(http, person.headers, current=current)
        assert (answer.status_code, answer.json()["code"]) == (401, "invalid_credentials")
        assert answer.headers["www-authenticate"].startswith("Bearer")
    answers = [await change(http, person.headers, current=WRONG) for _ in range(10 - len(wrong) + 1)]
    assert [answer.status_code for answer in answers] == [401] * (10 - len(wrong)) + [429]
    assert (await change(http, person.headers)).status_code == 429  # being right does not help now

    assert (await row_of(services, person)).password_hash == before
    assert await is_in(http, bearer(other))
    assert not await letters(services, outbox, person.email, "password was changed")


@pytest.mark.standard("PW-04", "RL-06", "RL-16")
@pytest.mark.parametrize("last", ["/me/password", "/me/email", "/auth/reauthenticate"])
async def test_whatever_asks_for_the_password_of_a_session_shares_its_guesses(
    app: Litestar, http: httpx.AsyncClient, services: Services, person: Person, last: str
) -> None:
    bodies: dict[str, dict[str, str]] = {
        "/me/password": {"current_password": WRONG, "new_password": OTHER},
        "/me/email": {"email": somebody().email, "password": WRONG},
        "/auth/reauthenticate": {"password": WRONG},
    }
    guesses = [*[path for path in bodies for _ in range(3)], "/me/email", last]
    answers = []
    for path in guesses:
        async with browser(app) as anywhere:  # neither another network nor another worker has more of them
            answers.append((await anywhere.post(path, json=bodies[path], headers=person.headers)).status_code)

    assert answers == [401] * 10 + [429]
    # A stranger who stole this session's token takes nothing from the owner's others.
    assert (await change(http, await session_of(app, person))).status_code == 204


@pytest.mark.standard("RL-06")
async def test_the_right_password_gives_a_session_its_guesses_back(http: httpx.AsyncClient, person: Person) -> None:
    for _ in range(3):
        for _ in range(9):
            answer = await http.post("/auth/reauthenticate", json={"password": WRONG}, headers=person.headers)
            assert answer.status_code == 401
        answer = await http.post("/auth/reauthenticate", json={"password": PASSWORD}, headers=person.headers)
        assert answer.status_code == 200


@pytest.mark.standard("PW-09", "PW-13")
async def test_a_new_password_is_kept_as_it_was_received(
    http: httpx.AsyncClient, services: Services, person: Person
) -> None:
    new = "  \u00e9" + "x" * 197 + "A "
    assert (await change(http, person.headers, new)).status_code == 204
    for near in (new.strip(), new.lower(), new[:-1], new[:72], new.replace("\u00e9", "e\u0301")):
        assert (await sign_in(http, person, password=near)).status_code == 401
    assert (await sign_in(http, person, password=new)).status_code == 200


@pytest.mark.standard("PW-01", "PW-05", "PW-10", "PW-17", "PW-19")
async def test_a_new_password_meets_the_rules_of_a_first_one(
    http: httpx.AsyncClient, services: Services, person: Person
) -> None:
    before = (await row_of(services, person)).password_hash
    blocked = "passwordpassword"
    assert Blocklist.load(()).refuses(blocked)
    for new, code in (
        ("x" * 14, "password_too_short"),
        ("\U0001f600" * 14, "password_too_short"),
        ("\u00e4" * 2049, "password_too_long"),
        (blocked, "password_blocklisted"),
        (person.nickname + person.nickname, "password_blocklisted"),
        (person.email, "password_blocklisted"),
    ):
        answer = await change(http, person.headers, new)
        assert field_codes(answer) == [("new_password", code)], new[:20]
        assert answer.json()["errors"][0]["detail"]
    assert (await row_of(services, person)).password_hash == before


@pytest.mark.standard("PW-18")
async def test_a_leaked_password_is_refused_and_the_old_one_stays(services: Services, outbox: Outbox) -> None:
    digest = hashlib.sha1(OTHER.encode(), usedforsecurity=False).hexdigest().upper()
    asked: list[str] = []

    def answer_range(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.path)
        return httpx.Response(200, text=f"{digest[5:]}:9")

    breaches = BreachedPasswords("https://range.test/range/", 1.0, httpx.MockTransport(answer_range))
    made = services.credentials.new_passwords
    new_passwords = replace(made, rules=replace(made.rules, breaches=breaches))
    strict = replace(services, credentials=replace(services.credentials, new_passwords=new_passwords))
    person = await with_account(services)
    async with browser(create_app(strict)) as http:
        headers = bearer(await sign_in(http, person))
        assert field_codes(await change(http, headers)) == [("new_password", "password_leaked")]
        assert asked == [f"/range/{digest[:5]}"]
        assert (await sign_in(http, person)).status_code == 200
        assert (await change(http, headers, "mist under the distant mountain")).status_code == 204


@pytest.mark.standard("CL-16", "LG-21", "CL-07")
async def test_a_link_to_reset_and_a_change_of_address_that_were_under_way_are_void(
    http: httpx.AsyncClient, services: Services, outbox: Outbox, person: Person
) -> None:
    new_email = somebody().email
    body = {"email": new_email, "password": PASSWORD}
    assert (await http.post("/me/email", json=body, headers=person.headers)).status_code == 202
    assert (await http.post("/auth/password/forgot", json={"email": person.email})).status_code == 202
    reset = await mailed_link(services, outbox, person.email, "reset")
    confirm = await mailed_link(services, outbox, new_email, "email")

    assert (await change(http, person.headers)).status_code == 204

    answers = (
        await http.post("/auth/password/reset", json={"token": reset, "password": "yet another long password"}),
        await http.post("/me/email/confirm", json={"token": confirm}, headers=person.headers),
    )
    for answer in answers:
        assert (answer.status_code, answer.json()["code"]) == (400, "invalid_or_expired_code")
    statement = text("SELECT count(*) FROM one_time_tokens WHERE account_id = :a")
    async with services.database.begin() as transaction:
        assert await transaction.scalar(statement, {"a": (await row_of(services, person)).id}) == 0
    assert (await sign_in(http, person, password=OTHER)).status_code == 200


@pytest.mark.standard("LG-12", "LG-13")
async def test_the_owner_is_told_of_another_password_and_what_to_do(
    http: httpx.AsyncClient, services: Services, outbox: Outbox, person: Person
) -> None:
    assert (await change(http, {**person.headers, "User-Agent": FIREFOX})).status_code == 204
    (mail,) = await letters(services, outbox, person.email, "Your password was changed")
    for words in ("Firefox, Linux", "Was it not you?", "forgot password"):
        assert words in mail.text
    assert OTHER not in mail.text
