"""Issuers that are not ours and may be broken, and time that passes for the guard alone."""

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from examples import guard as module
from examples.guard import Caller, Guard, Refused
from tests.conftest import ISSUER

AUDIENCE = "https://api.test"
INVALID_TOKEN = 'Bearer realm="api", error="invalid_token"'


@dataclass
class StandIn:
    """An issuer that answers whatever it is told to, or raises it, and remembers what it was asked."""

    answer: httpx.Response | Exception | Callable[[httpx.Request], Awaitable[httpx.Response]]
    asked: list[httpx.Request] = field(default_factory=list)

    @property
    def http(self) -> httpx.AsyncClient:
        """A client that reaches this issuer whatever the address, and would follow it anywhere."""
        return httpx.AsyncClient(transport=httpx.MockTransport(self._respond), follow_redirects=True)

    async def _respond(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)
        if isinstance(self.answer, Exception):
            raise self.answer
        if callable(self.answer):
            return await self.answer(request)
        return httpx.Response(self.answer.status_code, headers=self.answer.headers, content=self.answer.content)


class Passing:
    """The guard's clocks, which stand still until a test moves them; nobody else's are touched."""

    def __init__(self) -> None:
        self.began = int(time.time())
        self.seconds = 0.0

    def monotonic(self) -> float:
        return 1000 + self.seconds

    def time(self) -> float:
        return self.began + self.seconds


@pytest.fixture
def passing(monkeypatch: pytest.MonkeyPatch) -> Passing:
    clock = Passing()
    monkeypatch.setattr(module, "monotonic", clock.monotonic)
    monkeypatch.setattr(module, "time", clock.time)
    return clock


def live(**changed: Any) -> dict[str, Any]:
    """The claims of a person's token, as of now."""
    now = int(time.time())
    return {
        "iss": ISSUER,
        "sub": "01998f4e-0000-7000-8000-000000000001",
        "aud": AUDIENCE,
        "exp": now + 600,
        "iat": now,
        "jti": "0.abcdefghijklmnop",
        "client_id": "web",
        "scope": "orders:read orders:write",
        "sid": "AAAAAAAAAAAAAAAAAAAAAA",
        "auth_time": now,
        "amr": ["pwd"],
        "roles": ["admin"],
        **changed,
    }


def of_a_service(**changed: Any) -> dict[str, Any]:
    """The claims of a token by which a service speaks for itself."""
    personal = {"sid", "auth_time", "amr", "roles"}
    members = {name: value for name, value in live(sub="billing", client_id="billing").items() if name not in personal}
    return {**members, **changed}


def without(claims: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in claims.items() if key != name}


async def let_in(guard: Guard, token: str) -> Caller:
    return await guard.caller([f"Bearer {token}"])


async def refusal(guard: Guard, token: str) -> Refused:
    return await refusal_of(guard, [f"Bearer {token}"])


async def refusal_of(guard: Guard, authorization: Sequence[str]) -> Refused:
    with pytest.raises(Refused) as caught:
        await guard.caller(authorization)
    return caught.value


def assert_invalid(refused: Refused) -> None:
    """401 `invalid_token`, and exactly that."""
    assert type(refused) is module.InvalidToken, repr(refused)
    assert (refused.status, refused.www_authenticate) == (401, INVALID_TOKEN)
    assert refused.headers == {"WWW-Authenticate": INVALID_TOKEN}


def assert_unavailable(refused: Refused) -> None:
    """503 with a time to wait, and nothing that makes a client throw its token away."""
    assert type(refused) is module.Unavailable, repr(refused)
    assert (refused.status, refused.www_authenticate) == (503, "")
    assert refused.headers == {"Retry-After": "5"}
