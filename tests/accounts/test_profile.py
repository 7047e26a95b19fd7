"""One's own account over HTTP: what is shown, what may be changed, and what never becomes a nickname or a picture."""

import asyncio
from collections import Counter
from typing import Any

import httpx
import pytest
from litestar import Litestar
from sqlalchemy import delete

from service.accounts.models import Account
from service.app import create_app
from service.settings import load
from service.wiring import Services
from tests.conftest import PASSWORD, Outbox, Person, TestClock, browser, sign_up, somebody, worker
from tests.deeds import OTHER, field_codes, letters, row_of, session_of, with_account

PICTURE = "https://pictures.example.com/me.png?size=80#face"


async def change(http: httpx.AsyncClient, person: Person, body: dict[str, Any]) -> httpx.Response:
    return await http.patch("/me", json=body, headers=person.headers)


async def test_a_person_sees_their_account_and_no_more_than_is_theirs(
    http: httpx.AsyncClient, services: Services, person: Person
) -> None:
    answer = await http.get("/me", headers=person.headers)

    row = await row_of(services, person)
    assert answer.headers["cache-control"] == "no-store"
    me = answer.json()
    assert me.pop("created_at").startswith(row.created_at.isoformat()[:19])
    assert me == {
        "id": str(row.id),
        "email": person.email,
        "nickname": person.nickname,
        "avatar_url": None,
        "locale": "en",
        "roles": [],
        "has_password": True,
    }


async def test_what_is_absent_stays_and_null_takes_the_picture_away(
    http: httpx.AsyncClient, services: Services, person: Person
) -> None:
    nickname = somebody().nickname
    for body, now in (
        ({"avatar_url": PICTURE}, (person.nickname, PICTURE, "en")),
        ({"locale": "ja-JP"}, (person.nickname, PICTURE, "ja-JP")),
        ({"nickname": nickname}, (nickname, PICTURE, "ja-JP")),
        ({}, (nickname, PICTURE, "ja-JP")),
        ({"avatar_url": None}, (nickname, None, "ja-JP")),
    ):
        answer = await change(http, person, body)
        assert answer.status_code == 200, answer.text
        assert answer.headers["cache-control"] == "no-store"
        for me in (answer.json(), (await http.get("/me", headers=person.headers)).json()):
            assert (me["nickname"], me["avatar_url"], me["locale"]) == now
    row = await row_of(services, person)
    assert (row.nickname, row.nickname_key, row.avatar_url, row.locale) == (nickname, nickname, None, "ja-JP")


async def test_a_nickname_of_somebody_else_is_taken_in_every_spelling(
    http: httpx.AsyncClient, services: Services, person: Person
) -> None:
    other = await with_account(services)
    for spelling in (other.nickname, other.nickname.upper()):
        answer = await change(http, person, {"nickname": spelling, "locale": "ko"})
        assert (answer.status_code, answer.json()["code"]) == (409, "nickname_taken")
        assert other.email not in answer.text
    assert (await row_of(services, person)).locale == "en"
    mine = await change(http, person, {"nickname": person.nickname.upper()})
    assert (mine.status_code, mine.json()["nickname"]) == (200, person.nickname.upper())


@pytest.mark.standard("LG-20")
async def test_of_thirty_who_claim_one_nickname_at_once_one_has_it(
    app: Litestar, http: httpx.AsyncClient, http_of_second_worker: httpx.AsyncClient, services: Services
) -> None:
    people = [await with_account(services) for _ in range(30)]
    sessions = [await session_of(app, person) for person in people]
    wanted = somebody().nickname

    answers = await asyncio.gather(
        *(
            (http_of_second_worker if i % 2 else http).patch(
                "/me", json={"nickname": wanted.upper() if i % 3 else wanted}, headers=headers
            )
            for i, headers in enumerate(sessions)
        )
    )

    assert Counter(answer.status_code for answer in answers) == {200: 1, 409: 29}
    rows = [await row_of(services, person) for person in people]
    assert [row.nickname_key for row in rows].count(wanted) == 1


async def test_the_password_never_becomes_a_nickname(
    http: httpx.AsyncClient, services: Services, outbox: Outbox
) -> None:
    person = somebody()
    person.password = "rain-over.the_quiet-harbour"
    await sign_up(http, services, outbox, person)

    answer = await change(http, person, {"nickname": person.password})

    assert field_codes(answer) == [("nickname", "nickname_is_password")]
    assert person.password not in answer.text
    assert (await row_of(services, person)).nickname == person.nickname


@pytest.mark.standard("LG-12", "LG-13")
@pytest.mark.parametrize(
    ("locale", "subject", "advice"),
    [
        ("en", "Your nickname was changed", "Change your password now"),
        ("ko-KR", "닉네임이 변경되었습니다", "비밀번호를 변경해 주세요"),
        ("ja", "ニックネームが変更されました", "パスワードを変更してください"),
        ("de", "Your nickname was changed", "Change your password now"),
    ],
)
async def test_another_nickname_is_told_in_the_language_of_its_owner(
    http: httpx.AsyncClient,
    services: Services,
    outbox: Outbox,
    person: Person,
    *,
    locale: str,
    subject: str,
    advice: str,
) -> None:
    assert (await change(http, person, {"locale": locale})).status_code == 200
    nickname = somebody().nickname
    for body in ({"nickname": nickname}, {"nickname": nickname}, {"avatar_url": PICTURE}):
        assert (await change(http, person, body)).status_code == 200

    (mail,) = await letters(services, outbox, person.email, subject)
    assert advice in mail.text
    assert person.nickname in mail.text
    assert nickname in mail.text


@pytest.mark.standard("RL-03", "RL-13")
async def test_somebody_may_change_their_account_only_so_often(
    environ: dict[str, str], services: Services, wall_clock: TestClock, outbox: Outbox, clock: TestClock
) -> None:
    few = load({**environ, "VESTIBULE_LIMIT_CHANGE_ACCOUNT": "3/m"})
    async with worker(few, wall_clock, outbox) as strict, browser(create_app(strict)) as http:
        person, other = await sign_up(http, strict, outbox), await sign_up(http, strict, outbox)
        answers = [await change(http, person, {"locale": "ko"}) for _ in range(4)]
        assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
        wait = int(answers[-1].headers["retry-after"])
        assert 0 < wait <= 20
        assert (await change(http, other, {"locale": "ko"})).status_code == 200
        await clock.advance(seconds=wait)
        assert (await change(http, person, {"locale": "ja"})).status_code == 200


async def test_nobody_is_shown_or_changed_without_an_access_token(http: httpx.AsyncClient) -> None:
    for method in ("GET", "PATCH", "DELETE"):
        answer = await http.request(method, "/me", json={} if method == "PATCH" else None)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"].startswith("Bearer")


@pytest.mark.standard("SE-16")
@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/me", None),
        ("PATCH", "/me", {"locale": "ko"}),
        ("PATCH", "/me", {"nickname": "nobody-is-left"}),
        ("DELETE", "/me", None),
        ("GET", "/me/export", None),
        ("POST", "/me/password", {"current_password": PASSWORD, "new_password": OTHER}),
        ("POST", "/me/email", {"email": "elsewhere@example.com", "password": PASSWORD}),
        ("POST", "/auth/reauthenticate", {"password": PASSWORD}),
    ],
)
async def test_a_token_of_an_account_that_is_gone_is_refused_like_any_dead_one(
    http: httpx.AsyncClient,
    services: Services,
    person: Person,
    *,
    method: str,
    path: str,
    body: dict[str, str] | None,
) -> None:
    """A session may outlive its account for the moment that closing takes."""
    async with services.database.begin() as transaction:
        await transaction.execute(delete(Account).where(Account.email == person.email))
    answer = await http.request(method, path, json=body, headers=person.headers)
    assert (answer.status_code, answer.json()["code"]) == (401, "invalid_token")
    assert answer.headers["www-authenticate"].startswith("Bearer")
