"""What clients look up before they call us: keys (RFC 7517) and metadata (RFC 8414), true to the letter."""

from collections.abc import Iterable
from hashlib import sha256
from typing import Any
from urllib.parse import urlsplit

import msgspec
from litestar import Controller, HttpMethod, Request, Response, route
from litestar.di import NamedDependency
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import FromPath

from service.clock import Clock
from service.crypto.assertions import ALGORITHMS
from service.crypto.keyring import ALGORITHM
from service.errors import NotFound, Unavailable
from service.oauth.token import TokenEndpoint
from service.problems import refusals
from service.settings import Settings
from service.tokens.clients import METHODS, PUBLIC_METHOD
from service.tokens.keys import SigningKeys
from service.tokens.principal import PUBLIC
from service.tokens.scopes import BUILT_IN

MEDIA_TYPE = "application/jwk-set+json"


class Jwk(msgspec.Struct, frozen=True):
    """One public key."""

    kty: str
    crv: str
    x: str
    y: str
    kid: str
    use: str
    alg: str


class JwkSet(msgspec.Struct, frozen=True):
    """The JWK Set."""

    keys: list[Jwk]


class Metadata(msgspec.Struct, frozen=True):
    """RFC 8414 section 2: what is served, and nothing that is not. `response_types_supported` is required there, and
    empty as long as there is no `authorization_endpoint`."""

    issuer: str
    token_endpoint: str
    jwks_uri: str
    revocation_endpoint: str
    introspection_endpoint: str
    response_types_supported: tuple[str, ...]
    grant_types_supported: tuple[str, ...]
    scopes_supported: tuple[str, ...]
    token_endpoint_auth_methods_supported: tuple[str, ...]
    token_endpoint_auth_signing_alg_values_supported: tuple[str, ...]
    revocation_endpoint_auth_methods_supported: tuple[str, ...]
    revocation_endpoint_auth_signing_alg_values_supported: tuple[str, ...]
    introspection_endpoint_auth_methods_supported: tuple[str, ...]
    introspection_endpoint_auth_signing_alg_values_supported: tuple[str, ...]
    introspection_signing_alg_values_supported: tuple[str, ...]

    @classmethod
    def of(cls, issuer: str, grants: Iterable[str]) -> "Metadata":
        """What an issuer with these grants says of itself."""
        confidential = tuple(method for method in METHODS if method != PUBLIC_METHOD)
        assertions = tuple(ALGORITHMS.values())
        return cls(
            issuer=issuer,
            token_endpoint=f"{issuer}/token",
            jwks_uri=f"{issuer}/.well-known/jwks.json",
            revocation_endpoint=f"{issuer}/revoke",
            introspection_endpoint=f"{issuer}/introspect",
            response_types_supported=(),
            grant_types_supported=tuple(sorted(grants)),
            scopes_supported=tuple(sorted(BUILT_IN)),
            token_endpoint_auth_methods_supported=METHODS,
            token_endpoint_auth_signing_alg_values_supported=assertions,
            revocation_endpoint_auth_methods_supported=METHODS,
            revocation_endpoint_auth_signing_alg_values_supported=assertions,
            introspection_endpoint_auth_methods_supported=confidential,
            introspection_endpoint_auth_signing_alg_values_supported=assertions,
            introspection_signing_alg_values_supported=(ALGORITHM,),
        )


class DiscoveryController(Controller):
    """What clients need to know, from memory: no store is asked."""

    tags = ("For services",)

    @route(
        "/.well-known/jwks.json",
        http_method=[HttpMethod.GET, HttpMethod.HEAD],
        summary="The keys that verify our tokens",
        opt={PUBLIC: True},
        security=[{}],
        responses={
            200: ResponseSpec(JwkSet, media_type=MEDIA_TYPE, description="The keys.", generate_examples=False),
            304: ResponseSpec(None, description="The keys have not changed."),
            **refusals(body=False),
        },
    )
    async def jwks(
        self,
        request: Request[Any, Any, Any],
        signing_keys: NamedDependency[SigningKeys],
        settings: NamedDependency[Settings],
        clock: NamedDependency[Clock],
    ) -> Response[bytes]:
        """The public signing keys. A key is here before it signs and stays until its last token has ended."""
        keys = signing_keys.keyring.jwks(clock())
        if not keys["keys"]:
            raise Unavailable("no signing key is loaded")
        return _cacheable(request, msgspec.json.encode(keys), MEDIA_TYPE, settings)

    @route(
        "/.well-known/oauth-authorization-server",
        http_method=[HttpMethod.GET, HttpMethod.HEAD],
        summary="What libraries need to know",
        opt={PUBLIC: True},
        security=[{}],
        responses={
            200: ResponseSpec(Metadata, description="The metadata.", generate_examples=False),
            304: ResponseSpec(None, description="The metadata have not changed."),
            **refusals(body=False),
        },
    )
    async def metadata(
        self,
        request: Request[Any, Any, Any],
        settings: NamedDependency[Settings],
        token_endpoint: NamedDependency[TokenEndpoint],
    ) -> Response[bytes]:
        """The authorization server's metadata."""
        body = msgspec.json.encode(Metadata.of(settings.issuer, token_endpoint.grants))
        return _cacheable(request, body, "application/json", settings)

    @route(
        "/.well-known/oauth-authorization-server/{issuer_path:path}",
        http_method=[HttpMethod.GET, HttpMethod.HEAD],
        opt={PUBLIC: True},
        include_in_schema=False,
    )
    async def metadata_of_path(
        self,
        request: Request[Any, Any, Any],
        issuer_path: FromPath[str],
        settings: NamedDependency[Settings],
        token_endpoint: NamedDependency[TokenEndpoint],
    ) -> Response[bytes]:
        """The same for an issuer with a path, which stands behind the well-known part (RFC 8414 section 3)."""
        if issuer_path != urlsplit(settings.issuer).path:
            raise NotFound("another issuer's metadata")
        body = msgspec.json.encode(Metadata.of(settings.issuer, token_endpoint.grants))
        return _cacheable(request, body, "application/json", settings)


def _cacheable(request: Request[Any, Any, Any], body: bytes, media_type: str, settings: Settings) -> Response[bytes]:
    etag = f'"{sha256(body).hexdigest()[:32]}"'
    headers = {
        "ETag": etag,
        "Cache-Control": f"public, max-age={int(settings.jwks_max_age.total_seconds())}",
        "Access-Control-Allow-Origin": "*",
    }
    known = request.headers.get("if-none-match", "")
    if etag in known or known.strip() == "*":
        return Response(b"", status_code=304, headers=headers)
    return Response(body, media_type=media_type, headers=headers)
