"""What an attacker sees and does between a browser, us and a provider."""

import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from http.cookies import SimpleCookie
from urllib.parse import parse_qsl
from uuid import UUID

import httpx
from litestar import Litestar
from sqlalchemy import select, text

from service.accounts.identities import Identity
from service.app import create_app
from service.crypto.pkce import challenge_of, new_verifier
from service.fake_provider.provider import FakeProvider
from service.settings import Settings
from service.wiring import Services
from tests.conftest import CLIENT_ABROAD, Outbox, Person, TestClock, browser, worker
from tests.deeds import bearer, sign_in
from tests.social.acting import PAGE, REFRESH_COOKIE, SOCIAL_COOKIE, Stranger, begun, decided, me, query_of, with_query

BACK = "com.example.reader:/back"
"""Where a native app is given its codes."""
TOKEN_PATHS = {
    "openid": "/openid/token",
    "discord": "/discord/api/oauth2/token",
    "github": "/github/login/oauth/access_token",
}
AUTHORIZE_PATHS = {
    "openid": "/openid/authorize",
    "discord": "/discord/oauth2/authorize",
    "github": "/github/login/oauth/authorize",
}


@dataclass(frozen=True)
class Call:
    """One call of a provider: what we sent, and what it answered."""

    method: str
    path: str
    form: dict[str, str]
    answer: httpx.Response


@dataclass
class Wiretap(httpx.AsyncBaseTransport):
    """Notes every call of a provider on its way, and may put another answer in the place of the right one."""

    inner: httpx.AsyncBaseTransport
    calls: list[Call] = field(default_factory=list)
    change: Callable[[httpx.Request, bytes], bytes] | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        sent = (await request.aread()).decode()
        response = await self.inner.handle_async_request(request)
        content = b"".join([chunk async for chunk in response.aiter_raw()])
        if self.change is not None:
            content = self.change(request, content)
        headers = {name: value for name, value in response.headers.items() if name != "content-length"}
        noted = httpx.Response(response.status_code, headers=headers, content=content)
        self.calls.append(Call(request.method, request.url.path, dict(parse_qsl(sent)), noted))
        return httpx.Response(response.status_code, headers=headers, stream=httpx.ByteStream(content))

    def tokens(self) -> set[str]:
        """Access, refresh and ID tokens that were handed out; of the last also the signature alone."""
        told = [call.answer.json() for call in self.exchanges() if call.answer.status_code == httpx.codes.OK]
        kinds = ("access_token", "refresh_token", "id_token")
        found = {answer[kind] for answer in told for kind in kinds if kind in answer}
        return found | {token.rpartition(".")[2] for token in found if token.count(".") == 2}

    def exchanges(self) -> list[Call]:
        """The calls of token endpoints."""
        return [call for call in self.calls if call.path in TOKEN_PATHS.values()]


@asynccontextmanager
async def own_worker(
    settings: Settings, clock: TestClock, outbox: Outbox, abroad: httpx.AsyncBaseTransport
) -> AsyncIterator[tuple[Services, Litestar]]:
    """A worker with settings or a way abroad of its own."""
    async with worker(settings, clock, outbox, abroad) as own:
        yield own, create_app(own)


def token_calls(fake_provider: FakeProvider) -> list[str]:
    """The calls of token endpoints since `requests` was cleared."""
    return [call for call in fake_provider.requests if call.removeprefix("POST ") in TOKEN_PATHS.values()]


async def returning(http: httpx.AsyncClient, abroad: httpx.AsyncClient, provider: str, who: Stranger) -> str:
    """Where a browser comes back to us after somebody agreed: with state and code, not yet followed."""
    return await decided(abroad, await begun(http, provider), who)


async def code_for(app: Litestar, abroad: httpx.AsyncClient, provider: str, who: Stranger) -> str:
    """The code of a sign-in that somebody began in a browser of their own and kept from coming back."""
    async with browser(app) as own:
        return query_of(await returning(own, abroad, provider, who))["code"]


async def code_of_request(abroad: httpx.AsyncClient, provider: str, who: Stranger, **request: str | None) -> str:
    """The code for an authorization request that is written by hand; None leaves a parameter out."""
    usual: dict[str, str | None] = {
        "response_type": "code",
        "client_id": CLIENT_ABROAD,
        "scope": "openid email profile identify guilds user:email",
    }
    url = with_query(f"{abroad.base_url}{AUTHORIZE_PATHS[provider]}", **{**usual, **request})
    return query_of(await decided(abroad, url, who))["code"]


def cookies_of(answer: httpx.Response) -> dict[str, str]:
    """The cookies that an answer sets, by their names."""
    jar: SimpleCookie = SimpleCookie()
    for line in answer.headers.get_list("set-cookie"):
        jar.load(line)
    return {name: morsel.value for name, morsel in jar.items()}


def attributes_of(answer: httpx.Response, name: str) -> set[str]:
    """The attributes of one cookie that an answer sets, in lower case."""
    lines = [line for line in answer.headers.get_list("set-cookie") if line.startswith(f"{name}=")]
    (line,) = lines
    return {part.strip().lower() for part in line.split(";")[1:]}


def assert_turned_away(answer: httpx.Response, status: int = 400) -> None:
    """The page with a fixed text: nobody is signed in, and nobody sent on."""
    assert answer.status_code == status, (answer.status_code, answer.headers.get("location"), answer.text)
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["cache-control"] == "no-store"
    assert "location" not in answer.headers
    assert "set-cookie" not in answer.headers


def assert_signs_nobody_in(answer: httpx.Response) -> None:
    """No token by any way, whatever else it says."""
    assert REFRESH_COOKIE not in cookies_of(answer)
    assert "access_token" not in answer.text
    assert "refresh_token" not in answer.text


def social_cookie(http: httpx.AsyncClient) -> str:
    """What ties this browser to its transactions."""
    value = http.cookies.get(SOCIAL_COOKIE)
    assert value, "nothing was begun here"
    return value


def transaction_key(services: Services, state: str) -> str:
    """Where a transaction is in Redis."""
    return f"vestibule:{services.social.transactions._key(state)}"


async def accounts_with(services: Services, address: str) -> list[UUID]:
    """The accounts that have an address."""
    async with services.database.begin() as transaction:
        statement = text("SELECT id FROM accounts WHERE email = :address")
        return list((await transaction.scalars(statement, {"address": address})).all())


async def identities_of(services: Services, who: Stranger) -> list[Identity]:
    """What is linked anywhere to somebody's subject, at any provider."""
    async with services.database.begin() as transaction:
        return list((await transaction.scalars(select(Identity).where(Identity.subject == who.subject))).all())


async def linked_to(http: httpx.AsyncClient, headers: dict[str, str]) -> list[str]:
    """The providers of one's own account."""
    answer = await http.get("/me/identities", headers=headers)
    assert answer.status_code == 200, answer.text
    return [one["provider"] for one in answer.json()]


async def live_sessions(http: httpx.AsyncClient, headers: dict[str, str]) -> int:
    """How many sessions the account has."""
    answer = await http.get("/me/sessions", headers=headers)
    assert answer.status_code == 200, answer.text
    return len(answer.json())


async def assert_untouched(app: Litestar, services: Services, victim: Person, who: Stranger) -> None:
    """The victim's account is as it was, and opens by its own password alone."""
    assert await identities_of(services, who) == []
    async with browser(app) as http:
        entered = await sign_in(http, victim)
        assert entered.status_code == 200, entered.text
        headers = bearer(entered)
        assert await linked_to(http, headers) == []
        account = await me(http, headers)
        assert (account["email"], account["nickname"]) == (victim.email, victim.nickname)


@dataclass
class NativeAttempt:
    """One sign-in of a native app, from the challenge to the exchange."""

    http: httpx.AsyncClient
    abroad: httpx.AsyncClient
    native: str
    provider: str
    verifier: str = field(default_factory=new_verifier)
    nonce: str | None = None

    def __post_init__(self) -> None:
        self.nonce = secrets.token_urlsafe(32) if self.provider == "openid" else None

    async def code(self, who: Stranger, **request: str | None) -> str:
        usual: dict[str, str | None] = {
            "redirect_uri": BACK,
            "nonce": self.nonce,
            "code_challenge": challenge_of(self.verifier),
            "code_challenge_method": "S256",
        }
        return await code_of_request(self.abroad, self.provider, who, **{**usual, **request})

    async def exchange(self, code: str, **other: object) -> httpx.Response:
        body = {
            "code": code,
            "code_verifier": self.verifier,
            "redirect_uri": BACK,
            "nonce": self.nonce,
            "client_id": self.native,
        }
        return await self.http.post(f"/auth/social/{other.pop('at', self.provider)}/exchange", json={**body, **other})


async def link_begun(http: httpx.AsyncClient, provider: str, headers: dict[str, str]) -> str:
    """Where the browser is sent to link."""
    answer = await http.post(f"/me/identities/{provider}", params={"next": PAGE}, headers=headers)
    assert answer.status_code == 200, answer.text
    url: str = answer.json()["authorize_url"]
    return url
