"""Form bodies as OAuth wants them read (RFC 6749 section 3.2): repeated is refused, empty is absent, UTF-8 only."""

from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

from litestar import Request
from litestar.openapi.spec import (
    OpenAPIMediaType,
    OpenAPIResponse,
    OpenAPIType,
    Operation,
    Reference,
    RequestBody,
    Schema,
)

from service.oauth.errors import InvalidRequest

MEDIA_TYPE = "application/x-www-form-urlencoded"
MOST_FIELDS = 100
CREDENTIALS = ("client_id", "client_secret", "client_assertion_type", "client_assertion")
"""How a client proves itself in the body, where it does not use the Authorization header."""


def form_operation(required: tuple[str, ...], *optional: str, also_answers: str = "") -> type[Operation]:
    """Describes the form that a handler reads by itself (Litestar would coerce and cache it), and another media type
    of its answer."""
    text = Schema(type=OpenAPIType.STRING)
    properties: dict[str, Schema | Reference] = dict.fromkeys((*required, *optional, *CREDENTIALS), text)
    form = Schema(type=OpenAPIType.OBJECT, required=list(required), properties=properties)

    @dataclass
    class FormOperation(Operation):
        def __post_init__(self) -> None:
            self.request_body = RequestBody(content={MEDIA_TYPE: OpenAPIMediaType(schema=form)}, required=True)
            good = (self.responses or {}).get("200")
            if also_answers and isinstance(good, OpenAPIResponse):
                good.content = {**(good.content or {}), also_answers: OpenAPIMediaType(schema=text)}

    return FormOperation


async def read_form(request: Request[Any, Any, Any]) -> dict[str, str]:
    """The parameters of the body. Raises `InvalidRequest`."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != MEDIA_TYPE:
        raise InvalidRequest("not a form")
    body = await request.body()
    try:
        pairs = parse_qsl(body.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=MOST_FIELDS)
    except ValueError as error:
        raise InvalidRequest(f"unreadable form: {type(error).__name__}") from None
    form = dict(pairs)
    if len(form) != len(pairs):
        raise InvalidRequest("a parameter is repeated")
    if any("\x00" in part for pair in pairs for part in pair):
        raise InvalidRequest("a NUL character")
    return {name: value for name, value in form.items() if value}
