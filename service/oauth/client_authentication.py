"""How a confidential client proves itself: `client_secret_basic` or `client_secret_post`, one of them.

RFC 6749 section 2.3.
"""

import base64
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote_plus

from litestar import Request

from service.audit import Audit
from service.device import Device
from service.limits import Limits
from service.oauth.errors import InvalidClient, InvalidRequest, UnauthorizedClient
from service.settings import Settings
from service.tokens.clients import Client, Clients

MAX_CREDENTIALS = 1024


@dataclass(frozen=True, slots=True)
class ClientAuthentication:
    """Authenticates the caller before anything else about a request is looked at."""

    clients: Clients
    limits: Limits
    audit: Audit
    settings: Settings

    async def verify(self, request: Request[Any, Any, Any], form: dict[str, str], device: Device) -> Client:
        """The client that calls. Raises `InvalidClient` (401), `InvalidRequest` for two methods at once,
        `TooManyRequests` for guessing: only failures count, so a right secret always passes."""
        if "client_secret" in request.query_params or "client_assertion" in request.query_params:
            raise InvalidRequest("credentials in the query")
        client_id, secret = _presented(request.headers.getall("authorization", []), form)
        client = await self.clients.authenticate(client_id, secret) if secret else None
        if client is None:
            await self._refuse(client_id, device)
            raise InvalidClient("unknown client or wrong secret")
        return client

    async def verify_introspecting(
        self, request: Request[Any, Any, Any], form: dict[str, str], device: Device
    ) -> Client:
        """The same, for a client that must have the right to introspect. Raises `UnauthorizedClient` too."""
        client = await self.verify(request, form, device)
        if not client.may_introspect:
            self.audit.record("client.introspect", "refused", client=client.id)
            raise UnauthorizedClient(f"{client.id} may not introspect")
        return client

    async def _refuse(self, client_id: str, device: Device) -> None:
        await self.limits.take("client-network", self.settings.limit_client_network, device.network)
        await self.limits.take("client-secret", self.settings.limit_client_secret, client_id, device.network)
        self.audit.record("client.authenticate", "refused", client=client_id[:64])


def _presented(headers: list[str], form: dict[str, str]) -> tuple[str, str]:
    if not headers:
        return form.get("client_id", ""), form.get("client_secret", "")
    if len(headers) > 1 or "client_secret" in form:
        raise InvalidRequest("more than one client authentication")
    client_id, secret = _basic(headers[0])
    if form.get("client_id", client_id) != client_id:
        raise InvalidRequest("two client ids")
    return client_id, secret


def _basic(header: str) -> tuple[str, str]:
    """Both halves are form-decoded after Base64 (RFC 6749 section 2.3.1); the first colon parts them."""
    scheme, _, encoded = header.partition(" ")
    if scheme.lower() != "basic" or len(encoded) > MAX_CREDENTIALS:
        raise InvalidClient("not Basic")
    try:
        decoded = base64.b64decode(encoded.strip(), validate=True).decode("utf-8")
        client_id, colon, secret = decoded.partition(":")
        pair = unquote_plus(client_id, errors="strict"), unquote_plus(secret, errors="strict")
    except ValueError:
        raise InvalidClient("unreadable credentials") from None
    if not colon or "\x00" in "".join(pair):
        raise InvalidClient("no colon, or a NUL character")
    return pair
