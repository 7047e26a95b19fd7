"""How a client proves itself (RFC 6749 section 2.3, RFC 7523): by exactly one method, and one it is registered for."""

import base64
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote_plus

from litestar import Request

from service.audit import Audit
from service.clock import Clock
from service.crypto.assertions import LONGEST_LIFE, claimed_client, read_keys, verify
from service.device import Device
from service.limits import Limits
from service.oauth.callers import ProvedCallers
from service.oauth.errors import InvalidClient, InvalidRequest, MayNotIntrospect
from service.settings import Settings
from service.store.redis import RedisStore
from service.tokens.clients import ASSERTION_METHOD, PUBLIC_METHOD, Client, Clients

MAX_CREDENTIALS = 1024
ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
NEVER_IN_THE_QUERY = {"client_secret", "client_assertion", "token", "refresh_token"}


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a request brought: the method, the client it names, and the secret or the assertion."""

    method: str
    client_id: str
    proof: str = ""


@dataclass(frozen=True, slots=True)
class ClientAuthentication:
    """Authenticates the caller before anything else about a request is looked at."""

    clients: Clients
    limits: Limits
    store: RedisStore
    audit: Audit
    settings: Settings
    clock: Clock
    proved: ProvedCallers

    async def verify(self, request: Request[Any, Any, Any], form: dict[str, str], device: Device) -> Client:
        """The client that calls; a public one by its name alone.

        Raises `InvalidClient` (401) for every doubt about it, `InvalidRequest` for two methods at once and for secrets
        in the query, `TooManyRequests` for guessing: only failures count, so a right secret always passes.
        """
        if NEVER_IN_THE_QUERY & request.query_params.keys():
            await self.limits.take("client-network", self.settings.limit_client_network, device.network)
            self.audit.record("client.authenticate", "secret_in_query")
            raise InvalidRequest("a secret in the query")
        try:
            given = _presented(request.headers.getall("authorization", []), form)
        except InvalidClient:
            await self.limits.take("client-network", self.settings.limit_client_network, device.network)
            raise
        client = await self._proved(given)
        if client is None:
            await self._refuse(given.client_id, device)
            raise InvalidClient("unknown client, wrong proof, or a method it is not registered for")
        return client

    async def verify_introspecting(
        self, request: Request[Any, Any, Any], form: dict[str, str], device: Device
    ) -> Client:
        """The same, for a confidential client with the right to introspect. Raises `MayNotIntrospect` too."""
        client = await self.verify(request, form, device)
        if not client.is_confidential:
            await self._refuse(client.id, device)
            raise InvalidClient("a public client proves nothing")
        if not client.may_introspect:
            self.audit.record("client.introspect", "refused", client=client.id)
            raise MayNotIntrospect(f"{client.id} may not introspect")
        for authorization in (value for name, value in request.scope["headers"] if name == b"authorization"):
            self.proved.remember(authorization, client)
        return client

    async def _proved(self, given: Credentials) -> Client | None:
        if given.method == ASSERTION_METHOD:
            return await self._by_assertion(given)
        if given.method == PUBLIC_METHOD:
            client = await self.clients.find(given.client_id) if given.client_id else None
        else:
            client = await self.clients.holder(given.client_id, given.proof)
        return client if client is not None and given.method in client.auth_methods else None

    async def _by_assertion(self, given: Credentials) -> Client | None:
        client = await self.clients.find(given.client_id) if given.client_id else None
        if client is None or client.jwks is None or ASSERTION_METHOD not in client.auth_methods:
            return None
        said = verify(given.proof, read_keys(client.jwks), self.settings.issuer, self.clock(), self.settings.leeway)
        if said is None or said.sub != client.id:
            return None
        remember = int((LONGEST_LIFE + 2 * self.settings.leeway).total_seconds() * 1000)
        is_new = await self.store.run("spend", f"assertion:{client.id}:{said.jti}", remember)
        return client if is_new else None

    async def _refuse(self, client_id: str, device: Device) -> None:
        await self.limits.take("client-network", self.settings.limit_client_network, device.network)
        await self.limits.take("client-secret", self.settings.limit_client_secret, client_id, device.network)
        self.audit.record("client.authenticate", "refused", client=client_id[:64])


def _presented(headers: list[str], form: dict[str, str]) -> Credentials:
    methods = [bool(headers), "client_secret" in form, "client_assertion" in form or "client_assertion_type" in form]
    if sum(methods) > 1 or len(headers) > 1:
        raise InvalidRequest("more than one client authentication")
    client_id = form.get("client_id", "")
    if headers:
        basic_id, secret = _basic(headers[0])
        if client_id not in {"", basic_id}:
            raise InvalidRequest("two client ids")
        return Credentials("client_secret_basic", basic_id, secret)
    if "client_secret" in form:
        return Credentials("client_secret_post", client_id, form["client_secret"])
    if any(methods):
        return _assertion(client_id, form)
    return Credentials(PUBLIC_METHOD, client_id)


def _assertion(client_id: str, form: dict[str, str]) -> Credentials:
    if form.get("client_assertion_type") != ASSERTION_TYPE or "client_assertion" not in form:
        raise InvalidRequest("an assertion needs its type, and the type its assertion")
    assertion = form["client_assertion"]
    claimed = claimed_client(assertion) or ""
    if client_id not in {"", claimed}:
        raise InvalidClient("the assertion speaks for another client")
    return Credentials(ASSERTION_METHOD, claimed, assertion)


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
