"""A native app that signs people in: it goes to the provider by itself, and to us with the code alone (RFC 8252)."""

import secrets
from dataclasses import dataclass, field
from typing import Any

import httpx

from service.crypto.pkce import challenge_of
from tests.conftest import CLIENT_ABROAD, ISSUER
from tests.fake_provider.visiting import PROVIDERS
from tests.social.acting import Stranger, query_of

OWN_SCHEME = "com.example.app:/callback"
LOOPBACK = "http://127.0.0.1/cb"
LOOPBACK_6 = "http://[::1]/cb"
NAMED = "http://localhost:7412/cb"
WEB = "https://app.test/cb"
CALLBACK = f"{ISSUER}/auth/social/openid/callback"
REGISTERED = (OWN_SCHEME, LOOPBACK, LOOPBACK_6, NAMED, WEB, CALLBACK)
"""All that the app of these tests is registered with; URLs of the web are among them, and of no use here."""

FOREIGN = {
    "another scheme": "com.example.other:/callback",
    "a longer scheme": "com.example.app2:/callback",
    "its scheme in another case": "COM.example.app:/callback",
    "its scheme with a host": "com.example.app://callback",
    "its scheme at another path": "com.example.app:/other",
    "its scheme with a slash more": "com.example.app:/callback/",
    "its scheme with a query": "com.example.app:/callback?x=1",
    "a scheme without a dot": "example:/callback",
    "a registered page of the web": WEB,
    "an unregistered page of the web": "https://evil.example/cb",
    "our own callback": CALLBACK,
    "localhost at another port": "http://localhost:7413/cb",
    "localhost without a port": "http://localhost/cb",
    "loopback at another path": "http://127.0.0.1:5000/other",
    "loopback at the same path and more": "http://127.0.0.1:5000/cb/",
    "loopback with a query": "http://127.0.0.1:5000/cb?x=1",
    "loopback with credentials": "http://me@127.0.0.1:5000/cb",
    "loopback as credentials": "http://127.0.0.1:5000@evil.example/cb",
    "loopback with TLS": "https://127.0.0.1:5000/cb",
    "loopback with a port that is none": "http://127.0.0.1:65536/cb",
    "another loopback address": "http://127.0.0.2:5000/cb",
    "a short loopback address": "http://127.1:5000/cb",
    "loopback as a number": "http://2130706433:5000/cb",
    "a long loopback address": "http://[0:0:0:0:0:0:0:1]:5000/cb",
    "loopback mapped into IPv6": "http://[::ffff:127.0.0.1]:5000/cb",
    "a name that begins like loopback": "http://127.0.0.1.evil.example/cb",
    "every address": "http://0.0.0.0:5000/cb",
    "a backslash": "http://127.0.0.1:5000\\@evil.example/cb",
    "a line break": "http://127.0.0.1:5000/cb\r\nX: 1",
    "a fragment": "http://127.0.0.1:5000/cb#x",
    "another script": "com.example.\u0430pp:/callback",
    "a script": "javascript:alert(1)",
    "data": "data:text/html,x",
    "no URI": "callback",
    "nothing": "",
}
"""Places that it is not registered with, or that no app on a device can be sure of."""


@dataclass(frozen=True)
class App:
    """An app on somebody's device, and their browser at the provider."""

    http: httpx.AsyncClient
    abroad: httpx.AsyncClient
    client_id: str

    async def begin(self, provider: str, who: Stranger, **wanted: Any) -> "Attempt":
        """Somebody signs in at the provider, and the app is given a code."""
        attempt = Attempt(self, provider, who, **wanted)
        attempt.code = await attempt.decide()
        return attempt


@dataclass
class Attempt:
    """One sign-in of an app; `nonce` is empty where it asked without one, `choice` is for the provider's page."""

    app: App
    provider: str
    who: Stranger
    redirect_uri: str = OWN_SCHEME
    nonce: str = field(default_factory=lambda: secrets.token_urlsafe(16))
    verifier: str = field(default_factory=lambda: secrets.token_urlsafe(48))
    choice: dict[str, str] = field(default_factory=dict)
    code: str = ""

    async def decide(self) -> str:
        """The code that the provider gives."""
        asked = {
            "response_type": "code",
            "client_id": CLIENT_ABROAD,
            "redirect_uri": self.redirect_uri,
            "scope": PROVIDERS[self.provider].scope,
            "state": "the app's own",
            "code_challenge": challenge_of(self.verifier),
            "code_challenge_method": "S256",
        }
        if self.nonce:
            asked["nonce"] = self.nonce
        answer = await self.app.abroad.post(
            PROVIDERS[self.provider].authorize, params=asked, data=self.who.choice(**self.choice)
        )
        assert answer.status_code == 302, answer.text
        location = answer.headers["location"]
        assert location.startswith(f"{self.redirect_uri}?"), location
        return query_of(location)["code"]

    async def exchange(self, headers: dict[str, str] | None = None, **other: Any) -> httpx.Response:
        """What we say to it; None in `other` leaves a member out."""
        usual = {
            "code": self.code,
            "code_verifier": self.verifier,
            "redirect_uri": self.redirect_uri,
            "nonce": self.nonce or None,
            "client_id": self.app.client_id,
        }
        body = {name: value for name, value in {**usual, **other}.items() if value is not None}
        return await self.app.http.post(f"/auth/social/{self.provider}/exchange", json=body, headers=headers)


def granted(answer: httpx.Response) -> dict[str, Any]:
    """The tokens of an app that got in."""
    assert answer.status_code == 200, answer.text
    assert answer.headers["cache-control"] == "no-store"
    tokens: dict[str, Any] = answer.json()
    assert set(tokens) == {"access_token", "token_type", "expires_in", "scope", "refresh_token"}
    assert "set-cookie" not in answer.headers
    return tokens


def assert_refused(answer: httpx.Response, status: int, code: str, *fields: tuple[str, str]) -> None:
    """A problem document with these words, no token and no cookie."""
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert [(wrong["field"], wrong["code"]) for wrong in answer.json().get("errors", [])] == list(fields)
    assert "set-cookie" not in answer.headers
    assert "token" not in answer.json()["detail"]
