"""Errors of the OAuth endpoints, in the shape of RFC 6749 section 5.2."""

from typing import Any

import msgspec
from litestar import Request, Response
from litestar.exceptions import HTTPException
from litestar.openapi.datastructures import ResponseSpec

from service.errors import ServiceError, TooManyRequests, Unavailable
from service.problems import NO_STORE, BodyTooLarge, described, refusal_headers


class InvalidRequest(ServiceError):
    code = "invalid_request"
    detail = "The request is missing a parameter, repeats one, or could not be read."


class InvalidClient(ServiceError):
    """One body for every cause: unknown, disabled, wrong secret, no secret, or a method it may not use."""

    status = 401
    code = "invalid_client"
    detail = "Client authentication failed."
    challenge = 'Basic realm="vestibule", charset="UTF-8"'


class InvalidGrant(ServiceError):
    """One body for every cause: unknown, expired, revoked, replayed, or another client's."""

    code = "invalid_grant"
    detail = "The grant is not valid, has expired or was revoked, or belongs to another client."


class UnsupportedGrantType(ServiceError):
    code = "unsupported_grant_type"
    detail = "This grant type is not served here."


class GrantNotAllowed(ServiceError):
    code = "unauthorized_client"
    detail = "This client may not use this grant type."


class InvalidTarget(ServiceError):
    """RFC 8707 section 2."""

    code = "invalid_target"
    detail = "The resource is unknown, malformed, or not open to this client."


class MayNotIntrospect(ServiceError):
    status = 403
    code = "unauthorized_client"
    detail = "This client may not introspect tokens."


def as_oauth_error(request: Request[Any, Any, Any], error: ServiceError) -> Response[Any]:
    """A refusal as `{"error", "error_description"}`, never to be cached."""
    request.scope.setdefault("state", {})["refusal"] = error
    body = {"error": error.code, "error_description": error.detail}
    return Response(body, status_code=error.status, headers=refusal_headers(error), media_type="application/json")


def as_oauth_http_error(request: Request[Any, Any, Any], error: HTTPException) -> Response[Any]:
    """What the framework refused (a body too large, say) in the same shape, without its own words."""
    body = {"error": InvalidRequest.code, "error_description": InvalidRequest.detail}
    headers = {**(error.headers or {}), **NO_STORE}
    return Response(body, status_code=error.status_code, headers=headers, media_type="application/json")


class OAuthError(msgspec.Struct, frozen=True):
    """RFC 6749 section 5.2."""

    error: str
    error_description: str


def oauth_refusals(*errors: type[ServiceError]) -> dict[int, ResponseSpec]:
    """The `responses` of an OAuth route: these refusals, and those of every such route."""
    told = described(*errors, InvalidRequest, InvalidClient, BodyTooLarge, TooManyRequests, Unavailable)
    return {
        status: ResponseSpec(OAuthError, description=description, generate_examples=False)
        for status, description in told.items()
    }
