"""Services, front ends and APIs of the tests, what they ask of the OAuth endpoints, and what refusals look like."""

import base64
import json
import re
import secrets
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import httpx
import jwt

from service.device import Device
from service.tokens.client_administration import ClientChanges
from service.tokens.session_facts import Grant
from service.wiring import Services
from tests.conftest import Person, new_address
from tests.deeds import registered, row_of, with_account

INACTIVE = b'{"active":false}'
ENDPOINTS = ("/token", "/revoke", "/introspect")
CHALLENGE = re.compile(r'Basic realm="[^"]+", charset="UTF-8"')
PLAIN = re.compile(r"[\x20-\x21\x23-\x5b\x5d-\x7e]+")
"""RFC 6749 section 5.2: no quotation mark, no backslash, nothing beyond ASCII."""


@dataclass(frozen=True)
class Software:
    """A registered client and how it calls; one without a secret is public."""

    client_id: str
    secret: str = ""

    async def post(self, http: httpx.AsyncClient, path: str, **form: str) -> httpx.Response:
        """One call under its own name."""
        if self.secret:
            return await http.post(path, data=form, auth=(self.client_id, self.secret))
        return await http.post(path, data={"client_id": self.client_id, **form})

    async def ask_token(self, http: httpx.AsyncClient, **form: str) -> httpx.Response:
        """The answer to asking for a token for itself."""
        return await self.post(http, "/token", grant_type="client_credentials", **form)

    async def token(self, http: httpx.AsyncClient, **form: str) -> str:
        """An access token by which it speaks for itself."""
        return str(granted(await self.ask_token(http, **form))["access_token"])

    async def refresh(self, http: httpx.AsyncClient, token: str, **form: str) -> httpx.Response:
        """The answer to presenting a refresh token."""
        return await self.post(http, "/token", grant_type="refresh_token", refresh_token=token, **form)

    async def renewed(self, http: httpx.AsyncClient, token: str, **form: str) -> dict[str, Any]:
        """The answer to a refresh that must succeed."""
        return granted(await self.refresh(http, token, **form))

    async def revoke(self, http: httpx.AsyncClient, token: str, **form: str) -> httpx.Response:
        """The answer to giving a token up."""
        return await self.post(http, "/revoke", token=token, **form)

    async def introspect(self, http: httpx.AsyncClient, token: str, **form: str) -> httpx.Response:
        """The answer to asking about a token."""
        return await self.post(http, "/introspect", token=token, **form)

    async def told(self, http: httpx.AsyncClient, token: str) -> dict[str, Any]:
        """What it hears about a token that it may ask about."""
        answer = await self.introspect(http, token)
        assert answer.status_code == 200, answer.text
        told: dict[str, Any] = answer.json()
        return told

    async def sees(self, http: httpx.AsyncClient, token: str) -> bool:
        """Whether a token is active to it; one that is not shows as nothing else."""
        answer = await self.introspect(http, token)
        assert answer.status_code == 200, answer.text
        assert answer.content == INACTIVE or answer.json()["active"] is True
        return answer.content != INACTIVE


@dataclass(frozen=True)
class Api:
    """A registered API with two scopes of its own."""

    identifier: str
    read: str
    write: str

    @property
    def scopes(self) -> list[str]:
        return [self.read, self.write]


async def new_service(services: Services, **values: Any) -> Software:
    """A confidential client that speaks for itself and may introspect, unless it is told otherwise."""
    client_id = f"svc-{secrets.token_hex(6)}"
    return Software(client_id, await registered(services, client_id, **values))


async def new_front_end(services: Services, **values: Any) -> Software:
    """A public client through which people sign in."""
    client_id = f"app-{secrets.token_hex(6)}"
    await registered(services, client_id, confidential=False, **values)
    return Software(client_id)


async def new_api(services: Services) -> Api:
    """An API that nobody else of the tests knows."""
    name = secrets.token_hex(6)
    api = Api(f"https://{name}.api.test", f"{name}:read", f"{name}:write")
    await services.client_administration.register_api(api.identifier, name, tuple(api.scopes))
    return api


async def new_backend(services: Services, *apis: Api, **values: Any) -> Software:
    """A confidential client that holds sessions of people, for these APIs beside our own."""
    scopes = ["account", *(scope for api in apis for scope in api.scopes)]
    audiences = [api.identifier for api in apis]
    grants = ["client_credentials", "refresh_token"]
    return await new_service(services, **{"grants": grants, "scopes": scopes, "audiences": audiences, **values})


async def change(services: Services, client: Software, **values: Any) -> None:
    """Registers a client with other values."""
    await services.client_administration.change(client.client_id, ClientChanges(**values))


async def admitted(services: Services, person: Person, client: Software) -> Grant:
    """A new session of somebody's through a client, without the price of a password hash."""
    account = await row_of(services, person)
    device = Device.seen(new_address(), "tests")
    return await services.login.entrance.admit(account, client.client_id, ("pwd",), device)


async def session_through(services: Services, client: Software, *roles: str) -> tuple[Person, Grant]:
    """Somebody new, and their first session through a client."""
    person = await with_account(services, roles)
    return person, await admitted(services, person, client)


def granted(answer: httpx.Response) -> dict[str, Any]:
    """A good answer of `/token`: its shape and its headers are those of W-T."""
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert (answer.headers["cache-control"], answer.headers["pragma"]) == ("no-store", "no-cache")
    tokens: dict[str, Any] = answer.json()
    assert {"access_token", "token_type", "expires_in"} <= set(tokens)
    assert set(tokens) <= {"access_token", "token_type", "expires_in", "scope", "refresh_token"}
    assert (tokens["token_type"], type(tokens["expires_in"])) == ("Bearer", int)
    assert None not in tokens.values()
    assert "" not in tokens.values()
    return tokens


def assert_error(answer: httpx.Response, status: int, error: str) -> None:
    """A refusal as RFC 6749 section 5.2 has it, never cached and with nothing else in it."""
    assert (answer.status_code, answer.json().get("error")) == (status, error), answer.text
    assert set(answer.json()) == {"error", "error_description"}
    assert PLAIN.fullmatch(answer.json()["error_description"])
    assert answer.headers["content-type"] == "application/json"
    assert (answer.headers["cache-control"], answer.headers["pragma"]) == ("no-store", "no-cache")
    assert ("www-authenticate" in answer.headers) == (status == 401)
    assert status != 401 or CHALLENGE.fullmatch(answer.headers["www-authenticate"])


def assert_inactive(answer: httpx.Response) -> None:
    """The one answer for every token that is not alive, or not for the caller."""
    assert (answer.status_code, answer.content) == (200, INACTIVE), answer.text
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["cache-control"] == "no-store"


def bearer(token: str) -> dict[str, str]:
    """The header that an access token makes."""
    return {"Authorization": f"Bearer {token}"}


def header_of(token: str) -> dict[str, Any]:
    """The header of a JWT, unproved."""
    return _part(token, 0)


def claims_of(token: str) -> dict[str, Any]:
    """The claims of a JWT, unproved."""
    return _part(token, 1)


def account_of(token: str) -> UUID:
    """Whose access token it is."""
    return UUID(claims_of(token)["sub"])


def forged(services: Services, claims: dict[str, Any], **header: Any) -> str:
    """Whatever claims, signed with the service's own key."""
    key = services.signing_keys.keyring.current(services.clock())
    assert key is not None
    return jwt.encode(claims, key.private, algorithm="ES256", headers={"kid": key.kid, "typ": "at+jwt", **header})


def _part(token: str, number: int) -> dict[str, Any]:
    text = token.split(".")[number]
    part: dict[str, Any] = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    return part
