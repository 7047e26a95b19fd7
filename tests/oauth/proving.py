"""The ways in which a request proves its client, for the endpoints that software calls."""

import base64
import secrets
from typing import Any
from urllib.parse import quote_plus

import httpx
from litestar import Litestar

from tests.conftest import browser

ENDPOINTS = {
    "/token": {"grant_type": "client_credentials"},
    "/revoke": {"token": "nothing"},
    "/introspect": {"token": "nothing"},
}
ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
Auth = dict[str, Any]
"""How a request proves its client: headers, and what is added to the form."""


def basic(client_id: str, secret: str) -> str:
    return "Basic " + base64.b64encode(f"{quote_plus(client_id)}:{quote_plus(secret)}".encode()).decode()


def by_basic(client_id: str, secret: str, /, **form: str) -> Auth:
    return {"headers": [("Authorization", basic(client_id, secret))], "form": form}


def by_post(client_id: str, secret: str) -> Auth:
    return {"form": {"client_id": client_id, "client_secret": secret}}


def by_name(client_id: str) -> Auth:
    return {"form": {"client_id": client_id}}


def merged(one: Auth, other: Auth) -> Auth:
    """Both proofs in one request."""
    return {
        "headers": [*one.get("headers", []), *other.get("headers", [])],
        "form": {**one.get("form", {}), **other.get("form", {})},
    }


async def call(http: httpx.AsyncClient, path: str, auth: Auth, query: str = "") -> httpx.Response:
    form = {**ENDPOINTS[path], **auth.get("form", {})}
    return await http.post(path + query, data=form, headers=auth.get("headers", []))


async def call_from_anywhere(app: Litestar, path: str, auth: Auth) -> httpx.Response:
    """From a network of its own: no other failure counts against it."""
    async with browser(app) as http:
        return await call(http, path, auth)


def new_id_of_client() -> str:
    return f"svc-{secrets.token_hex(5)}"
