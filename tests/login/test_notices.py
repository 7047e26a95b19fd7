"""What people are told by mail about what happens to their account, in words that help, in their language."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import httpx
import pytest
from litestar import Litestar
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from service.app import create_app
from service.settings import load
from service.wiring import Services
from tests.conftest import ISSUER, PASSWORD, Outbox, Person, TestClock, browser, new_address, sign_up, somebody, worker
from tests.deeds import FIREFOX, OTHER, bearer, letters, mailed_link, sign_in, sign_in_from, with_account

SAFARI = (
    "Mozilla/5.0 (iPhone; CPU iPhone OS 18_0 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) "
    "Version/18.0 Mobile/15E148 Safari/604.1"
)
REUSED = {"en": "We ended one of your sessions", "ko": "세션 하나를 종료했습니다", "ja": "セッションを一つ終了しました"}
NEW = {
    "en": "A new device signed in",
    "ko": "새 기기에서 로그인했습니다",
    "ja": "新しい端末からログインがありました",
}
PASSWORD_SET = {
    "en": "Your password was changed",
    "ko": "비밀번호가 변경되었습니다",
    "ja": "パスワードが変更されました",
}
ADDRESS = {
    "en": "Your address was changed",
    "ko": "이메일 주소가 변경되었습니다",
    "ja": "メールアドレスが変更されました",
}
NICKNAME = {
    "en": "Your nickname was changed",
    "ko": "닉네임이 변경되었습니다",
    "ja": "ニックネームが変更されました",
}
CHANGE_IT = {"en": "hange your password", "ko": "비밀번호를 변경", "ja": "パスワードを変更"}
LANGUAGES = ("en", "ko", "ja")


async def in_language(http: httpx.AsyncClient, person: Person, locale: str) -> None:
    http.headers["User-Agent"] = FIREFOX
    answer = await http.patch("/me", json={"locale": locale}, headers=person.headers)
    assert answer.status_code == 200, answer.text


@asynccontextmanager
async def visitor(app: Litestar, port: int, headers: dict[str, str]) -> AsyncIterator[httpx.AsyncClient]:
    """Somebody who is seen through a proxy that uvicorn trusts (port 0), or directly (any other)."""
    transport = httpx.ASGITransport(app=cast("Any", app), client=(new_address(), port))
    async with httpx.AsyncClient(transport=transport, base_url=ISSUER, headers=headers) as client:
        yield client


@pytest.mark.standard("SE-22", "LG-12", "LG-13")
@pytest.mark.parametrize("language", LANGUAGES)
async def test_the_owner_of_a_session_is_told_once_when_an_old_refresh_token_came_back(
    app: Litestar, services: Services, outbox: Outbox, clock: TestClock, language: str
) -> None:
    async with browser(app) as http:
        person = await _signed_up(http, services, outbox, language)
        token = person.refresh_token
        for _ in range(2):
            answer = await http.post("/auth/refresh", json={"refresh_token": token})
            token = answer.json()["refresh_token"]
        await clock.advance(hours=2)
        assert not await letters(services, outbox, person.email, REUSED[language])
    async with browser(app) as thief:
        thief.headers["User-Agent"] = SAFARI
        for _ in range(3):
            answer = await thief.post("/auth/refresh", json={"refresh_token": person.refresh_token})
            assert (answer.status_code, answer.json()["code"]) == (401, "session_expired")

    (mail,) = await letters(services, outbox, person.email, REUSED[language])
    for words in (person.nickname, "Mobile Safari, iOS", CHANGE_IT[language]):
        assert words in mail.text
    assert person.refresh_token not in mail.text


async def test_a_retry_that_only_lost_its_answer_is_no_news(
    http: httpx.AsyncClient, services: Services, outbox: Outbox, person: Person
) -> None:
    for _ in range(2):
        answer = await http.post("/auth/refresh", json={"refresh_token": person.refresh_token})
        assert answer.status_code == 200
    await http.post("/auth/logout", json={"refresh_token": person.refresh_token})
    assert (await http.post("/auth/refresh", json={"refresh_token": person.refresh_token})).status_code == 401
    assert not await letters(services, outbox, person.email, REUSED["en"])


@pytest.mark.standard("LG-09", "LG-13")
@pytest.mark.parametrize("language", LANGUAGES)
async def test_a_new_device_is_told_of(app: Litestar, services: Services, outbox: Outbox, language: str) -> None:
    async with browser(app) as http:
        person = await _signed_up(http, services, outbox, language)
    assert (await sign_in_from(app, new_address(), person)).status_code == 401
    async with browser(app) as http:
        http.headers["User-Agent"] = SAFARI
        assert (await sign_in(http, person)).status_code == 200

    (mail,) = await letters(services, outbox, person.email, NEW[language])
    now = services.clock()
    failed = {"en": "One attempt with a wrong password", "ko": "시도가 1번", "ja": "試みが 1 回"}
    for words in (person.nickname, "Mobile Safari, iOS", failed[language], f"{now:%Y-%m-}", "UTC"):
        assert words in mail.text
    assert PASSWORD not in mail.text


@pytest.mark.standard("LG-12", "LG-13")
@pytest.mark.parametrize("language", LANGUAGES)
async def test_password_address_and_nickname_are_told_when_they_changed(
    app: Litestar, services: Services, outbox: Outbox, language: str
) -> None:
    async with browser(app) as http:
        person = await _signed_up(http, services, outbox, language)
        nickname, new_email = somebody().nickname, somebody().email
        await http.patch("/me", json={"nickname": nickname}, headers=person.headers)
        body = {"current_password": PASSWORD, "new_password": OTHER}
        assert (await http.post("/me/password", json=body, headers=person.headers)).status_code == 204
        body = {"email": new_email, "password": OTHER}
        assert (await http.post("/me/email", json=body, headers=person.headers)).status_code == 202
        token = await mailed_link(services, outbox, new_email, "email")
        answer = await http.post("/me/email/confirm", json={"token": token}, headers=person.headers)
        assert answer.status_code == 204, answer.text

    for subject, more in ((NICKNAME, person.nickname), (PASSWORD_SET, "UTC"), (ADDRESS, "#undo=veu_")):
        (mail,) = await letters(services, outbox, person.email, subject[language])
        for words in (nickname, "Firefox, Linux", more):
            assert words in mail.text, mail.text
        assert "httpx" not in mail.text
    (mail,) = await letters(services, outbox, new_email, ADDRESS[language])
    assert new_email in mail.text
    assert "#undo=" not in mail.text


async def _signed_up(http: httpx.AsyncClient, services: Services, outbox: Outbox, language: str) -> Person:
    person = await sign_up(http, services, outbox)
    await in_language(http, person, {"en": "en", "ko": "ko-KR", "ja": "ja-JP"}[language])
    return person


# Where


@pytest.fixture(scope="module")
async def placed(
    services: Services, environ: dict[str, str], wall_clock: TestClock, outbox: Outbox
) -> AsyncIterator[Services]:
    """A worker behind a proxy that says where people are."""
    more = {"VESTIBULE_PLACE_HEADER": "CF-IPCountry", "VESTIBULE_TRUSTED_PROXIES": "10.0.0.0/8"}
    async with worker(load({**environ, **more}), wall_clock, outbox) as running:
        yield running


async def _told(services: Services, outbox: Outbox, port: int, headers: dict[str, str]) -> tuple[str, str]:
    """The mail about a new device, and the place in the list of sessions."""
    person = await with_account(services)
    async with visitor(create_app(services), port, {"User-Agent": FIREFOX, **headers}) as http:
        answer = await sign_in(http, person)
        token = {"Authorization": f"Bearer {answer.json()['access_token']}"}
        (session,) = (await http.get("/me/sessions", headers=token)).json()
    (mail,) = await letters(services, outbox, person.email, NEW["en"])
    return mail.text, session["place"]


@pytest.mark.standard("RL-09", "RL-10")
async def test_a_place_comes_from_the_header_of_a_trusted_proxy(placed: Services, outbox: Outbox) -> None:
    mail, place = await _told(placed, outbox, 0, {"CF-IPCountry": "KR"})
    assert "Place: KR\n" in mail
    assert place == "KR"


@pytest.mark.standard("RL-09", "RL-10")
@pytest.mark.parametrize(
    ("port", "headers"),
    [
        (40000, {"CF-IPCountry": "KR"}),
        (0, {"X-Country": "KR", "X-Place": "KR", "GeoIP-Country": "KR"}),
        (0, {}),
    ],
)
async def test_nobody_says_of_themselves_where_they_are(
    placed: Services, outbox: Outbox, port: int, headers: dict[str, str]
) -> None:
    mail, place = await _told(placed, outbox, port, headers)
    assert "Place" not in mail
    assert place == ""


@pytest.mark.standard("RL-09", "RL-10")
@pytest.mark.parametrize(("peer", "place"), [("10.1.2.3", "KR"), ("192.0.2.7", "")])
async def test_uvicorn_marks_who_came_through_a_trusted_proxy(
    placed: Services, outbox: Outbox, peer: str, place: str
) -> None:
    person = await with_account(placed)
    proxied = ProxyHeadersMiddleware(cast("Any", create_app(placed)), trusted_hosts=["10.0.0.0/8"])
    transport = httpx.ASGITransport(app=cast("Any", proxied), client=(peer, 40000))
    headers = {"X-Forwarded-For": "203.0.113.9", "CF-IPCountry": "KR"}
    async with httpx.AsyncClient(transport=transport, base_url=ISSUER, headers=headers) as http:
        token = bearer(await sign_in(http, person))
        (session,) = (await http.get("/me/sessions", headers=token)).json()
    assert (session["place"], session["address"]) == (place, "203.0.113.9" if place else peer)
    (mail,) = await letters(placed, outbox, person.email, NEW["en"])
    assert ("Place: KR" in mail.text) == bool(place)


@pytest.mark.standard("RL-10")
async def test_no_place_is_told_where_no_header_is_named(services: Services, outbox: Outbox) -> None:
    mail, place = await _told(services, outbox, 0, {"CF-IPCountry": "KR"})
    assert ("Place" in mail, place) == (False, "")


@pytest.mark.standard("LG-16", "LG-17", "LG-18")
async def test_what_a_device_and_a_place_say_of_themselves_stays_words(placed: Services, outbox: Outbox) -> None:
    person = await with_account(placed)
    odd = {"User-Agent": "<b>{{7*7}}</b> http://evil.example/ ${7*7}", "CF-IPCountry": "<i>{{7*7}}</i>" + "x" * 200}
    async with visitor(create_app(placed), 0, odd) as http:
        assert (await sign_in(http, person)).status_code == 200
    (mail,) = await letters(placed, outbox, person.email, NEW["en"])
    assert mail.to == person.email
    assert "49" not in mail.text.replace(f"{placed.clock():%H:%M}", "").partition("Device:")[2]
    assert "<b>" not in mail.html
    assert "<i>" not in mail.html
    assert "x" * 65 not in mail.text
