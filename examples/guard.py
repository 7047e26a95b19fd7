"""Lets into your service whom Vestibule vouches for. Copy this file; it needs httpx, msgspec and pyjwt[crypto].

    guard = IntrospectionGuard(issuer, client_id, client_secret, audience)  # a sign-out shows at the next request
    guard = JwksGuard(issuer, audience)  # no question per request; a sign-out shows when the token ends
    caller = await guard.caller(request.headers.getlist("authorization"))  # every value of the header
    caller.require("orders:write")

Whoever may not pass meets a `Refused`: answer its `status` with its `headers`. Times are seconds.
"""

import asyncio
import json
import logging
import re
from base64 import urlsafe_b64decode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from hashlib import sha256
from math import inf
from time import monotonic, time
from types import MappingProxyType
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import quote_plus

import httpx
import jwt
import msgspec

MAX_TOKEN, MAX_LEEWAY, MAX_CACHE_SECONDS, MAX_NEGATIVE_SECONDS, MAX_CACHED = 4096, 60, 30, 5, 10_000
B64TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")
ES256_JWS = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]{86}")
JWS = jwt.PyJWS(algorithms=["ES256"])
OUR_KEYS = {"kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig"}
Text = Annotated[str, msgspec.Meta(min_length=1)]
Seconds = Annotated[int, msgspec.Meta(ge=0, le=2**43)]
T = TypeVar("T")
log = logging.getLogger("vestibule.guard")


class Refused(Exception):
    """A refusal by RFC 6750 section 3. Its text is for the log, never for the caller."""

    status, error = 401, ""

    def __init__(self, reason: str = "", parameter: str = "") -> None:
        super().__init__(reason)
        error = f', error="{self.error}"' if self.error else ""
        self.www_authenticate = f'Bearer realm="api"{error}{parameter}'
        self.headers = {"WWW-Authenticate": self.www_authenticate}


class MissingToken(Refused):
    """No Authorization header, or another scheme."""


class InvalidToken(Refused):
    """Forged, of another kind, for somebody else, out of time, or its session has ended."""

    error = "invalid_token"


class MalformedRequest(Refused):
    """Several Authorization headers, or one that does not hold exactly one token."""

    status, error = 400, "invalid_request"


class InsufficientScope(Refused):
    """A good token, but not for this."""

    status, error = 403, "insufficient_scope"


class StaleAuthentication(Refused):
    """Nobody signed in recently enough (RFC 9470)."""

    error = "insufficient_user_authentication"


class Unavailable(Refused):
    """Nothing can be known now, and not by the caller's fault: a 401 would make clients throw good tokens away."""

    status = 503

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.www_authenticate, self.headers = "", {"Retry-After": "5"}


@dataclass(frozen=True, slots=True)
class Caller:
    """Whose request it is: `subject` is an account's id, or the `client_id` when a service calls for itself.

    `claims` are all that the issuer said; only those of people have `sid`, `auth_time`, `amr` and `roles`.
    """

    subject: str
    client_id: str
    scope: frozenset[str]
    roles: frozenset[str]
    claims: Mapping[str, Any] = field(hash=False, repr=False)

    def require(self, scope: str) -> None:
        """Raises `InsufficientScope` unless the token has every word of `scope`."""
        if not self.scope.issuperset(scope.split()):
            raise InsufficientScope(f"lacks {scope}", f', scope="{scope}"')

    def require_fresh(self, max_age: int) -> None:
        """Raises `StaleAuthentication` unless a person signed in within `max_age`."""
        if time() - self.claims.get("auth_time", -inf) > max_age:
            raise StaleAuthentication("not fresh", f", max_age={max_age}")


class _Claims(msgspec.Struct):
    iss: Text
    sub: Text
    aud: Text | tuple[Text, ...]
    exp: Seconds
    client_id: Text
    iat: Seconds = 0
    nbf: Seconds = 0
    jti: str = ""
    scope: str = ""
    auth_time: Seconds = 0
    roles: tuple[str, ...] = ()
    active: bool = False
    cnf: None = None  # a token bound to a key wants a proof (RFC 9449), which nobody checks here


class _Header(msgspec.Struct, forbid_unknown_fields=True):  # no jku, x5u, jwk, x5c, crit: nothing that names a key
    alg: Literal["ES256"]
    kid: Text
    typ: str


class _JwkSet(msgspec.Struct):
    keys: list[dict[str, Any]]


@dataclass(eq=False)
class Guard:
    """What both modes share. Make one when the service starts, `http.aclose()` it when it ends; one event loop each.

    `url`: where the issuer answers, if not at its own name. `leeway`: for clocks that differ, at most 60.
    """

    issuer: str
    _: KW_ONLY
    url: str = ""
    timeout: float = 3.0
    leeway: int = 30
    http: httpx.AsyncClient = field(default_factory=httpx.AsyncClient, repr=False)

    def __post_init__(self) -> None:
        if not 0 <= self.leeway <= MAX_LEEWAY:
            raise ValueError(f"leeway: 0 to {MAX_LEEWAY}")

    async def caller(self, authorization: Sequence[str]) -> Caller:
        """Who calls, by all values of the Authorization header. Raises `Refused`."""
        if not authorization:
            raise MissingToken
        scheme, _, rest = authorization[0].partition(" ")
        token, is_bearer = rest.strip(), scheme.lower() == "bearer"
        if len(authorization) > 1 or (is_bearer and len(token.split()) != 1):
            raise MalformedRequest
        if not is_bearer:
            raise MissingToken
        if len(token) > MAX_TOKEN or not B64TOKEN.fullmatch(token):
            raise InvalidToken("no token at all")
        return await self._examine(token)

    async def _examine(self, token: str) -> Caller:
        raise NotImplementedError

    async def _ask(self, method: str, path: str, **request: Any) -> bytes:
        url = (self.url or self.issuer).rstrip("/") + path
        try:
            async with asyncio.timeout(self.timeout):
                answer = await self.http.request(method, url, follow_redirects=False, **request)
                if answer.status_code == httpx.codes.OK:
                    return answer.content
                trouble = str(answer.status_code)
        except (httpx.HTTPError, TimeoutError) as error:
            trouble = repr(error)
        log.warning("%s: %s", url, trouble)
        raise Unavailable(f"{url}: {trouble}")

    def _admitted(self, claims: _Claims, document: dict[str, Any], audience: str) -> Caller:
        audiences = (claims.aud,) if isinstance(claims.aud, str) else claims.aud
        if claims.iss != self.issuer or audience not in audiences:
            raise InvalidToken("of another issuer, or for another audience")
        if claims.exp + self.leeway <= time() or max(claims.iat, claims.nbf) > time() + self.leeway:
            raise InvalidToken("out of time")
        scope, roles = frozenset(claims.scope.split()), frozenset(claims.roles)
        return Caller(claims.sub, claims.client_id, scope, roles, MappingProxyType(document))


@dataclass(eq=False)
class IntrospectionGuard(Guard):
    """Asks the issuer about every token (RFC 7662), as a client with the right to introspect.

    `cache_seconds`, at most 30, keeps a good answer that long but never beyond `exp`, and a refusal 5 at most.
    """

    client_id: str
    client_secret: str = field(repr=False)
    audience: str
    _: KW_ONLY
    cache_seconds: float = 0
    _cache: dict[bytes, tuple[float, float, Caller | None]] = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.cache_seconds <= MAX_CACHE_SECONDS:
            raise ValueError(f"cache_seconds: 0 to {MAX_CACHE_SECONDS}")

    async def _examine(self, token: str) -> Caller:
        name = sha256(token.encode()).digest()
        until, exp, caller = self._cache.get(name, (-inf, inf, None))
        if monotonic() >= until or time() >= exp:
            caller = await self._introspected(token)
            self._keep(name, caller)
        if caller is None:
            raise InvalidToken("not active, or not for us")
        return caller

    async def _introspected(self, token: str) -> Caller | None:
        credentials = quote_plus(self.client_id), quote_plus(self.client_secret)  # RFC 6749 section 2.3.1
        answer = await self._ask("POST", "/introspect", data={"token": token}, auth=credentials)
        if answer == b'{"active":false}':
            return None
        if not answer.startswith(b"{"):  # a page of something in between, which says nothing about a token
            raise Unavailable("/introspect: not JSON")
        try:
            claims, document = _read(answer, _Claims)
            return self._admitted(claims, document, self.audience) if claims.active else None
        except InvalidToken as error:
            log.info("introspection: %r", error)
            return None

    def _keep(self, name: bytes, caller: Caller | None) -> None:
        exp = caller.claims["exp"] if caller else inf
        seconds = min(self.cache_seconds, inf if caller else MAX_NEGATIVE_SECONDS)
        self._cache.pop(name, None)
        if seconds > 0:
            self._cache[name] = monotonic() + seconds, exp, caller
        if len(self._cache) > MAX_CACHED:
            del self._cache[next(iter(self._cache))]


@dataclass(eq=False)
class JwksGuard(Guard):
    """Verifies RFC 9068 access tokens with the published keys, which it asks for every `max_age` at the latest.

    A key id that is unknown asks again, once per `cooldown`; while the issuer is away the known keys stay good.
    `is_revoked` may refuse a token by its `sid` or `jti`.
    """

    audience: str
    _: KW_ONLY
    is_revoked: Callable[[Mapping[str, Any]], bool] = lambda _: False
    max_age: float = 600
    cooldown: float = 10
    _keys: dict[str, jwt.PyJWK] = field(init=False, repr=False, default_factory=dict)
    _tried: float = field(init=False, repr=False, default=-inf)
    _loaded: float = field(init=False, repr=False, default=-inf)
    _lock: asyncio.Lock = field(init=False, repr=False, default_factory=asyncio.Lock)

    async def _examine(self, token: str) -> Caller:
        claims, document = _read(await self._authentic(token), _Claims)
        if not claims.jti or not claims.iat:
            raise InvalidToken("no access token of RFC 9068")
        caller = self._admitted(claims, document, self.audience)
        if self.is_revoked(caller.claims):
            raise InvalidToken("revoked")
        return caller

    async def _authentic(self, token: str) -> bytes:
        if not ES256_JWS.fullmatch(token):
            raise InvalidToken("no ES256 signature")
        try:
            header, _ = _read(urlsafe_b64decode(token.partition(".")[0] + "=="), _Header)
            if header.typ.lower() not in {"at+jwt", "application/at+jwt"}:
                raise InvalidToken("of another kind")
            payload: bytes = JWS.decode(token, await self._key(header.kid), algorithms=["ES256"])
        except (ValueError, jwt.PyJWTError) as error:
            raise InvalidToken("not genuine") from error
        return payload

    async def _key(self, kid: str) -> jwt.PyJWK:
        if kid not in self._keys or (self._is_old() and not self._lock.locked()):
            async with self._lock:
                if (kid not in self._keys or self._is_old()) and monotonic() - self._tried >= self.cooldown:
                    await self._load()
        if kid in self._keys:
            return self._keys[kid]
        raise InvalidToken("unknown key") if self._loaded == self._tried else Unavailable("no news of keys")

    def _is_old(self) -> bool:
        return monotonic() - self._loaded >= self.max_age

    async def _load(self) -> None:
        self._tried = monotonic()
        try:
            found, _ = _read(await self._ask("GET", "/.well-known/jwks.json"), _JwkSet)
            ours = [jwk for jwk in found.keys if OUR_KEYS.items() <= jwk.items() and isinstance(jwk.get("kid"), str)]
            keys = {jwk["kid"]: jwt.PyJWK(jwk, "ES256") for jwk in ours}
        except (Refused, jwt.PyJWTError) as error:
            log.warning("the known keys stay: %r", error)
            return
        if keys:
            self._keys, self._loaded = keys, self._tried


def _read(raw: bytes, kind: type[T]) -> tuple[T, dict[str, Any]]:
    try:
        document = json.loads(raw.decode(), object_pairs_hook=_members)
        return msgspec.convert(document, kind), document
    except (ValueError, RecursionError, msgspec.ValidationError) as error:
        raise InvalidToken(f"unreadable: {error}") from error


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a member twice")
    return members
