"""npm's `oidc-provider` on loopback, and a person's browser that goes there and back."""

import asyncio
import json
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urljoin, urlsplit

import httpx
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from tests.clients.packages import RUNS
from tests.clients.server import Running

CLIENT = "vestibule"
APP = "com.example.app:/signed-in"
"""Where the app of these tests is called back."""
MOST_STEPS = 12


@dataclass(frozen=True)
class Kind:
    """How one of the providers differs from the others."""

    algorithm: str
    auth_method: str
    response_mode: str = "query"
    conform: bool = True
    """Whether claims of scopes are at userinfo alone, as OpenID Connect Core 5.4 wants them with a code."""
    more: dict[str, Any] = field(default_factory=dict)
    secret: str = field(default_factory=lambda: secrets.token_urlsafe(32))


KINDS = {
    "basic": Kind("RS256", "client_secret_basic"),
    "odd": Kind("RS256", "client_secret_basic", secret=f"{secrets.token_hex(12)} 100%+1:2&=/?~|%41"),
    "posting": Kind("ES256", "client_secret_post", "form_post", conform=False),
    "apps": Kind(
        "EdDSA",
        "client_secret_post",
        more={"application_type": "native", "require_auth_time": True},
    ),
}


@dataclass(frozen=True)
class Abroad:
    """The running providers, by name."""

    issuers: dict[str, str]
    process: asyncio.subprocess.Process

    def environ(self) -> dict[str, str]:
        """What an operator sets to let people in through them."""
        found: dict[str, str] = {}
        for name, kind in KINDS.items():
            head = f"VESTIBULE_PROVIDER_{name.upper()}_"
            found |= {f"{head}ISSUER": self.issuers[name], f"{head}PRIVATE_NETWORK": "true"}
            found |= {f"{head}CLIENT_ID": CLIENT, f"{head}CLIENT_SECRET": kind.secret}
            found[f"{head}RESPONSE_MODE"] = kind.response_mode
        return found

    async def register(self, at: Running) -> None:
        """Tells each of them where our callback is."""
        registered = {}
        for name in KINDS:
            apps = [APP] * (name == "apps")
            registered[name] = {"redirect_uris": [f"{at.issuer}/auth/social/{name}/callback", *apps]}
        await say(self.process, registered)

    async def seen(self, provider: str) -> list[str]:
        """What it was asked so far, each "METHOD path"."""
        async with httpx.AsyncClient(base_url=self.issuers[provider]) as http:
            seen: list[str] = (await http.get("/seen")).json()
            return seen

    async def tell(self, provider: str, login: str, **claims: object) -> None:
        """What it says of somebody from now on."""
        async with httpx.AsyncClient(base_url=self.issuers[provider]) as http:
            (await http.put(f"/people/{login}", json=claims)).raise_for_status()


async def say(process: asyncio.subprocess.Process, what: object) -> None:
    """One line to the script."""
    assert process.stdin is not None
    process.stdin.write(json.dumps(what).encode() + b"\n")
    await process.stdin.drain()


@asynccontextmanager
async def going_abroad(folder: Path) -> AsyncIterator[Abroad]:
    """The providers, for as long as somebody holds them."""
    pipe = asyncio.subprocess.PIPE
    complaints = folder / "complaints"
    with complaints.open("wb") as stderr:
        process = await asyncio.create_subprocess_exec(
            "node", "oidc-provider.mjs", cwd=folder, stdin=pipe, stdout=pipe, stderr=stderr
        )
    assert process.stdout is not None
    try:
        await say(process, [asked(name, kind) for name, kind in KINDS.items()])
        async with asyncio.timeout(RUNS):
            line = await process.stdout.readline()
        assert line, complaints.read_text()
        yield Abroad(json.loads(line), process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def asked(name: str, kind: Kind) -> dict[str, Any]:
    """What the script needs to know of one provider."""
    client = {
        "client_id": CLIENT,
        "client_secret": kind.secret,
        "token_endpoint_auth_method": kind.auth_method,
        "id_token_signed_response_alg": kind.algorithm,
        **kind.more,
    }
    key = {"kid": secrets.token_hex(4), "use": "sig", "alg": kind.algorithm, **_jwk(kind.algorithm)}
    return {
        "name": name,
        "client": client,
        "keys": [key],
        "secret": secrets.token_urlsafe(16),
        "conform": kind.conform,
    }


def _jwk(algorithm: str) -> dict[str, Any]:
    made: dict[str, Any]
    if algorithm == "ES256":
        made = ECAlgorithm.to_jwk(ec.generate_private_key(ec.SECP256R1()), as_dict=True)
    elif algorithm == "EdDSA":
        made = OKPAlgorithm.to_jwk(ed25519.Ed25519PrivateKey.generate(), as_dict=True)
    else:
        made = RSAAlgorithm.to_jwk(rsa.generate_private_key(65537, 2048), as_dict=True)
    return {name: value for name, value in made.items() if name != "key_ops"}


class Page(HTMLParser):
    """The form of a page, and its links."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.action = ""
        self.fields: dict[str, str] = {}
        self.links: dict[str, str] = {}
        self._link = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag == "form":
            self.action = given["action"]
        if tag == "input" and "name" in given:
            self.fields[given["name"]] = given.get("value", "")
        if tag == "a":
            self._link = given.get("href", "")

    def handle_data(self, data: str) -> None:
        if self._link and data.strip():
            self.links[data.strip()], self._link = self._link, ""


@asynccontextmanager
async def browsing() -> AsyncIterator[httpx.AsyncClient]:
    """A browser with cookies, to which loopback is as good as https."""

    async def keep(_: httpx.Response) -> None:
        for cookie in http.cookies.jar:
            cookie.secure = False

    async with httpx.AsyncClient(timeout=RUNS, event_hooks={"response": [keep]}) as http:
        yield http


@dataclass
class Traveller:
    """Somebody with a browser, and what they do at a provider: who they are, and whether they cancel."""

    http: httpx.AsyncClient
    at: Running
    login: str = field(default_factory=lambda: f"n{secrets.token_hex(6)}")
    cancels_at: str = ""
    prompts: list[str] = field(default_factory=list)
    """The pages on which the provider asked something, newest last."""

    async def begin(self, provider: str, **query: str) -> str:
        """Where the browser is sent."""
        answer = await self.http.get(f"{self.at.issuer}/auth/social/{provider}", params=query)
        assert answer.status_code == 303, answer.text
        return answer.headers["location"]

    async def decide(self, url: str) -> httpx.Request:
        """Goes through the provider's pages, up to the request that leads back."""
        request = self.http.build_request("GET", url)
        for _ in range(MOST_STEPS):
            if not str(request.url).startswith(f"http://{urlsplit(url).netloc}/"):
                return request
            answer = await self.http.send(request)
            if answer.has_redirect_location:
                location = answer.headers["location"]
                if not location.startswith(("http", "/")):  # an app's own scheme
                    return httpx.Request("GET", location)
                request = self.http.build_request("GET", urljoin(str(request.url), location))
            else:
                assert "<form" in answer.text, answer.text  # also with status 400, where the form holds an error
                request = self._chosen(answer)
        raise AssertionError(f"no end: {request.url}")

    async def back(self, request: httpx.Request) -> httpx.Response:
        """Comes back to us."""
        return await self.http.send(request)

    async def sign_in(self, provider: str, **query: str) -> httpx.Response:
        """The whole way, up to the answer of the callback."""
        return await self.back(await self.decide(await self.begin(provider, **query)))

    def _chosen(self, answer: httpx.Response) -> httpx.Request:
        page = Page(answer.text)
        if "prompt" in page.fields:
            self.prompts.append(page.fields["prompt"])
            if self.cancels_at == page.fields["prompt"]:
                return self.http.build_request("GET", urljoin(str(answer.url), page.links["[ Cancel ]"]))
        filled = {**page.fields, **({"login": self.login, "password": "any"} if "login" in page.fields else {})}
        here = urlsplit(str(answer.url))
        headers = {"Origin": f"{here.scheme}://{here.netloc}"}
        return self.http.build_request("POST", urljoin(str(answer.url), page.action), data=filled, headers=headers)


def told_in(request: httpx.Request) -> dict[str, str]:
    """What the provider answers through the browser, in the query or in a form."""
    carried = request.content.decode() if request.method == "POST" else urlsplit(str(request.url)).query
    return dict(parse_qsl(carried, keep_blank_values=True))
