"""Refusals on the wire: `application/problem+json` (RFC 9457), and how the API's description names them."""

from http import HTTPStatus
from typing import Annotated, Any

import msgspec
from litestar import Request, Response
from litestar.exceptions import (
    HTTPException,
    MethodNotAllowedException,
    ValidationException,
)
from litestar.openapi.datastructures import ResponseSpec

from service.errors import (
    CrossSiteRefused,
    FieldError,
    InvalidInput,
    MalformedRequest,
    NotFound,
    ServiceError,
    TooManyRequests,
    Unavailable,
)

MEDIA_TYPE = "application/problem+json"
TYPE = "urn:vestibule:problem:"
NO_STORE = {"Cache-Control": "no-store", "Pragma": "no-cache"}


class WrongField(msgspec.Struct, frozen=True):
    """One thing that is wrong with one field."""

    field: str
    code: str
    detail: str


class Problem(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """RFC 9457. `code` is stable: programs decide by it, people read `detail`."""

    type: Annotated[str, msgspec.Meta(examples=[TYPE + "invalid_input"])]
    title: str
    status: int
    detail: str
    code: str
    errors: list[WrongField] | None = None
    registration: str | None = None


class UnsupportedMediaType(ServiceError):
    status = 415
    code = "unsupported_media_type"
    detail = "The body must be application/json."


class BodyTooLarge(ServiceError):
    status = 413
    code = "body_too_large"
    detail = "The body is too large."


class HeadersTooLarge(ServiceError):
    status = 431
    code = "headers_too_large"
    detail = "The request has too many headers, or too long ones."


class TooSlow(ServiceError):
    status = 408
    code = "request_timeout"
    detail = "The request took too long to arrive."


class ClientLeft(ServiceError):
    """Nobody hears this: it is for the log."""

    status = 499
    code = "client_left"
    detail = "The client left before its request was complete."


class MethodNotAllowed(ServiceError):
    status = 405
    code = "method_not_allowed"
    detail = "This method is not served here."


class Crashed(ServiceError):
    status = 500
    code = "internal_error"
    detail = "Something went wrong on our side."


EVERYWHERE: tuple[type[ServiceError], ...] = (TooManyRequests, Unavailable)
WITH_BODY: tuple[type[ServiceError], ...] = (
    MalformedRequest,
    CrossSiteRefused,
    InvalidInput,
    BodyTooLarge,
    UnsupportedMediaType,
)


def refusals(*errors: type[ServiceError], body: bool = True) -> dict[int, ResponseSpec]:
    """The `responses` of a route: these refusals, and those that every route (with a body) may answer."""
    told = described(*errors, *(WITH_BODY if body else ()), *EVERYWHERE)
    return {
        status: ResponseSpec(Problem, description=description, media_type=MEDIA_TYPE, generate_examples=False)
        for status, description in told.items()
    }


def described(*errors: type[ServiceError]) -> dict[int, str]:
    """What each status means, for people: every refusal that has it, once."""
    by_status: dict[int, list[str]] = {}
    for error in dict.fromkeys(errors):
        by_status.setdefault(error.status, []).append(f"`{error.code}`: {error.detail}")
    return {status: " · ".join(lines) for status, lines in by_status.items()}


def as_problem(request: Request[Any, Any, Any], error: ServiceError) -> Response[Any]:
    """A refusal as a problem document; its private reason goes to the log (see `edge.py`)."""
    request.scope.setdefault("state", {})["refusal"] = error
    return Response(document(error), status_code=error.status, headers=refusal_headers(error), media_type=MEDIA_TYPE)


def refused(error: ServiceError) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    """The same without the framework: status, headers and body."""
    body = msgspec.json.encode(document(error))
    named = {"content-type": MEDIA_TYPE, **refusal_headers(error), "content-length": str(len(body))}
    return error.status, [(name.lower().encode(), value.encode()) for name, value in named.items()], body


def refusal_headers(error: ServiceError) -> dict[str, str]:
    """What every refusal carries, in whichever shape: never cached, with its challenge and the time to wait."""
    headers = dict(NO_STORE)
    if error.challenge:
        headers["WWW-Authenticate"] = error.challenge
    if error.retry_after is not None:
        headers["Retry-After"] = str(error.retry_after)
    return headers


def document(error: ServiceError) -> dict[str, object]:
    """The members of a problem document."""
    body: dict[str, object] = {
        "type": TYPE + error.code,
        "title": error.title(),
        "status": error.status,
        "detail": error.detail,
        "code": error.code,
        **error.members,
    }
    if error.fields:
        body["errors"] = [{"field": f.field, "code": f.code, "detail": f.detail} for f in error.fields]
    return body


def as_http_problem(request: Request[Any, Any, Any], error: HTTPException) -> Response[Any]:
    """What the framework refused, in our words: its own would repeat the query string."""
    response = as_problem(request, translated(error))
    if isinstance(error, MethodNotAllowedException):
        response.headers["Allow"] = (error.headers or {}).get("allow", "")
    return response


def translated(error: HTTPException) -> ServiceError:
    """The refusal of ours that says the same."""
    if isinstance(error, ValidationException) and _is_bodiless(error):
        return MalformedRequest("no body")
    if isinstance(error, ValidationException):
        return InvalidInput(fields=_wrong_fields(error)) if error.extra else MalformedRequest(error.detail)
    by_status: dict[int, type[ServiceError]] = {
        HTTPStatus.NOT_FOUND: NotFound,
        HTTPStatus.METHOD_NOT_ALLOWED: MethodNotAllowed,
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE: BodyTooLarge,
        HTTPStatus.UNSUPPORTED_MEDIA_TYPE: UnsupportedMediaType,
    }
    otherwise = MalformedRequest if error.status_code < HTTPStatus.INTERNAL_SERVER_ERROR else Crashed
    return by_status.get(error.status_code, otherwise)(error.detail)


def _wrong_fields(error: ValidationException) -> list[FieldError]:
    entries = error.extra if isinstance(error.extra, list) else []
    return [
        FieldError(_field(entry), "invalid", str(entry.get("message") or "not valid"))
        for entry in entries
        if isinstance(entry, dict)
    ]


def _field(entry: dict[str, object]) -> str:
    """The field's name as the client knows it: `data` is what the framework calls the whole body."""
    key = str(entry.get("key") or "data")
    return "body" if key == "data" else key


def _is_bodiless(error: ValidationException) -> bool:
    entries = error.extra if isinstance(error.extra, list) else []
    return any(isinstance(entry, dict) and entry.get("message") == "'data'" for entry in entries)
