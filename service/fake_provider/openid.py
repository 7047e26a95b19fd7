"""The OpenID provider: discovery, key set, tokens with an ID token, userinfo."""

from typing import Any

import msgspec
from litestar import Controller, Request, Response, get, post
from litestar.di import NamedDependency

from service.fake_provider.authorization import choose, show
from service.fake_provider.backstage import ANOTHER_ISSUER, OPENID, Backstage
from service.fake_provider.claims import another, claims_of, id_token
from service.fake_provider.exchange import authorized, exchange
from service.fake_provider.mishaps import JSON, kind_of, spoilt
from service.fake_provider.reading import NotSignedIn, Refused

TOKEN_LIFE = 3600
INTERNAL = "http://169.254.169.254"
NO_STORE = {"Cache-Control": "no-store"}
DOCUMENT_MISHAPS = {"down": "500", "rubbish": "rubbish", "slow": "slow", "http_redirect": "redirect"}
KEY_SET_MISHAPS = {"jwks_down": "500", "jwks_rubbish": "rubbish"}


def as_oauth_error(request: Request[Any, Any, Any], error: Refused) -> Response[Any]:
    """RFC 6749 section 5.2, which Discord keeps to as well."""
    is_client = error.error == "invalid_client"
    headers = NO_STORE | ({"WWW-Authenticate": 'Basic realm="fake"'} if is_client else {})
    body = {"error": error.error, "error_description": error.description}
    return Response(body, status_code=401 if is_client else 400, headers=headers, media_type=JSON)


def as_challenge(request: Request[Any, Any, Any], error: NotSignedIn) -> Response[Any]:
    """RFC 6750 section 3."""
    headers = {"WWW-Authenticate": 'Bearer error="invalid_token"'}
    return Response({"error": "invalid_token"}, status_code=401, headers=headers, media_type=JSON)


class OpenIdController(Controller):
    """Everything below the issuer."""

    path = "/openid"
    exception_handlers = {Refused: as_oauth_error, NotSignedIn: as_challenge}  # noqa: RUF012  the framework's way

    @get("/.well-known/openid-configuration")
    async def discovery(self, backstage: NamedDependency[Backstage]) -> Response[Any]:
        """The document, or what is said to be wrong with it."""
        good = Response(msgspec.json.encode(_document(backstage)), media_type=JSON)
        return await spoilt(DOCUMENT_MISHAPS.get(backstage.discovery_fault, ""), good, backstage)

    @get("/jwks")
    async def jwks(self, backstage: NamedDependency[Backstage]) -> Response[Any]:
        """The public keys."""
        good = Response(msgspec.json.encode(backstage.keys.jwks), media_type=JSON)
        return await spoilt(KEY_SET_MISHAPS.get(backstage.discovery_fault, ""), good, backstage)

    @get("/authorize")
    async def ask(self, request: Request[Any, Any, Any], backstage: NamedDependency[Backstage]) -> Response[str]:
        """The page."""
        return await show(request, backstage, OPENID)

    @post("/authorize")
    async def decide(self, request: Request[Any, Any, Any], backstage: NamedDependency[Backstage]) -> Response[str]:
        """The choice."""
        return await choose(request, backstage, OPENID)

    @post("/token", status_code=200)
    async def token(self, request: Request[Any, Any, Any], backstage: NamedDependency[Backstage]) -> Response[Any]:
        """Tokens for a code or a refresh token, with an ID token each time."""
        done = await exchange(request, backstage, OPENID, TOKEN_LIFE)
        answer = {
            "access_token": done.access_token,
            "token_type": "Bearer",
            "expires_in": TOKEN_LIFE,
            "refresh_token": done.refresh_token,
            "scope": " ".join(done.grant.scopes),
        }
        signed = id_token(backstage, done.grant, backstage.issuer(OPENID), done.access_token)
        if signed is not None:
            answer["id_token"] = signed
        good = Response(msgspec.json.encode(answer), headers=NO_STORE, media_type=JSON)
        return await spoilt(done.mishap, good, backstage)

    @get("/userinfo")
    async def userinfo(self, request: Request[Any, Any, Any], backstage: NamedDependency[Backstage]) -> Response[Any]:
        """The claims of the scopes."""
        grant = authorized(request, backstage, OPENID, "profile_unauthorized")
        is_other = grant.fault == "profile_other_subject"
        told = {"sub": another(grant.subject) if is_other else grant.subject, **claims_of(grant, backstage.url)}
        return await spoilt(
            kind_of(grant.fault, "profile"), Response(msgspec.json.encode(told), media_type=JSON), backstage
        )


def _document(backstage: Backstage) -> dict[str, Any]:
    """OpenID Connect Discovery section 3, with what is to be wrong in it."""
    issuer, fault = backstage.issuer(OPENID), backstage.discovery_fault
    inner = INTERNAL if fault == "internal_endpoints" else issuer
    wrong = {"wrong_issuer": f"{issuer}/", "other_issuer": ANOTHER_ISSUER}
    return {
        "issuer": wrong.get(fault, issuer),
        "authorization_endpoint": f"{issuer}/authorize",
        "token_endpoint": f"{inner}/token",
        "userinfo_endpoint": f"{issuer}/userinfo",
        "jwks_uri": f"{inner}/jwks",
        "scopes_supported": ["openid", "profile", "email", "offline_access"],
        "response_types_supported": ["code"],
        "response_modes_supported": ["query", "form_post"],
        "grant_types_supported": ["authorization_code", "refresh_token"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["ES256"],
        "token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post"],
        "code_challenge_methods_supported": ["S256"],
        "authorization_response_iss_parameter_supported": fault != "no_iss_support",
    }
