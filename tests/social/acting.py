"""What people do at a provider and back, over HTTP."""

import secrets
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import httpx

from tests.conftest import Person

PROVIDERS = ("openid", "discord", "github")
SOCIAL_COOKIE = "__Host-vestibule-social"
REFRESH_COOKIE = "__Host-vestibule-refresh"
PAGE = "https://app.test/welcome"


@dataclass
class Stranger:
    """Somebody as the fake provider shall know them; a new one each time."""

    subject: str = field(default_factory=lambda: str(10**17 + secrets.randbelow(10**17)))
    username: str = field(default_factory=lambda: f"s{secrets.token_hex(6)}")
    email: str = ""
    email_verified: str = "true"

    def __post_init__(self) -> None:
        self.email = self.email or f"{self.username}@example.net"

    def choice(self, **more: str) -> dict[str, str]:
        """The fields of the provider's page."""
        said = {
            "person": "other",
            "subject": self.subject,
            "username": self.username,
            "name": self.username,
            "email": self.email,
            "email_verified": self.email_verified,
        }
        return {**said, **more}


def known_as(person: Person) -> Stranger:
    """Somebody whose provider vouches for the address of a person here."""
    return Stranger(email=person.email)


async def begun(http: httpx.AsyncClient, provider: str, **query: str) -> str:
    """Begins a sign-in and answers where the browser is sent."""
    answer = await http.get(f"/auth/social/{provider}", params={"next": PAGE, **query})
    assert answer.status_code == 303, answer.text
    return answer.headers["location"]


async def decided(abroad: httpx.AsyncClient, authorize_url: str, who: Stranger, **choice: str) -> str:
    """Decides at the provider and answers where the browser is sent: back to us."""
    answer = await abroad.post(authorize_url, data=who.choice(**choice))
    assert answer.status_code in {302, 303}, answer.text
    location: str = answer.headers["location"]
    return location


async def came_back(http: httpx.AsyncClient, location: str) -> httpx.Response:
    """The browser comes back to us."""
    return await http.get(location)


async def through(
    http: httpx.AsyncClient, abroad: httpx.AsyncClient, provider: str, who: Stranger, **choice: str
) -> httpx.Response:
    """The whole way, up to the answer of the callback."""
    return await came_back(http, await decided(abroad, await begun(http, provider), who, **choice))


def error_of(answer: httpx.Response) -> str:
    """The `error` in the URL that a callback leads to; empty when it went well."""
    assert answer.status_code == 303, answer.text
    location = urlsplit(answer.headers["location"])
    assert f"{location.scheme}://{location.netloc}{location.path}" == PAGE, answer.headers["location"]
    return dict(parse_qsl(location.query)).get("error", "")


def query_of(url: str) -> dict[str, str]:
    """The parameters of a URL."""
    return dict(parse_qsl(urlsplit(url).query, keep_blank_values=True))


def with_query(url: str, **changes: str | None) -> str:
    """The URL with other parameters; None leaves one out."""
    query = {name: value for name, value in {**query_of(url), **changes}.items() if value is not None}
    return str(httpx.URL(url).copy_with(params=query))


async def signed_in(http: httpx.AsyncClient, answer: httpx.Response) -> dict[str, str]:
    """The bearer header of whoever a callback signed in, by the cookie that it set."""
    assert error_of(answer) == ""
    assert answer.cookies.get(REFRESH_COOKIE), answer.headers
    token = answer.cookies[REFRESH_COOKIE]
    renewed = await http.post("/auth/refresh", json={"refresh_token": token})
    assert renewed.status_code == 200, renewed.text
    return {"Authorization": f"Bearer {renewed.json()['access_token']}"}


async def me(http: httpx.AsyncClient, headers: dict[str, str]) -> dict[str, Any]:
    """One's own account."""
    answer = await http.get("/me", headers=headers)
    assert answer.status_code == 200, answer.text
    told: dict[str, Any] = answer.json()
    return told
