"""`/.well-known/jwks.json` (RFC 7517): the keys that verify our tokens, before they sign and after."""

from hashlib import sha256
from typing import Any

import msgspec
from litestar import Controller, HttpMethod, Request, Response, route
from litestar.di import NamedDependency
from litestar.openapi.datastructures import ResponseSpec

from service.clock import Clock
from service.errors import Unavailable
from service.problems import refusals
from service.settings import Settings
from service.tokens.keys import SigningKeys
from service.tokens.principal import PUBLIC

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


class DiscoveryController(Controller):
    """What clients need to know, from memory: no store is asked."""

    tags = ("For services",)

    @route(
        "/.well-known/jwks.json",
        http_method=[HttpMethod.GET, HttpMethod.HEAD],
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
        body = msgspec.json.encode(keys)
        etag = f'"{sha256(body).hexdigest()[:32]}"'
        headers = {
            "ETag": etag,
            "Cache-Control": f"public, max-age={int(settings.jwks_max_age.total_seconds())}",
            "Access-Control-Allow-Origin": "*",
        }
        if etag in request.headers.get("if-none-match", ""):
            return Response(b"", status_code=304, headers=headers)
        return Response(body, media_type=MEDIA_TYPE, headers=headers)
