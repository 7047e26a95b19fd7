"""Form bodies as OAuth wants them read (RFC 6749 section 3.2): repeated is refused, empty is absent, UTF-8 only."""

from typing import Any
from urllib.parse import parse_qsl

from litestar import Request

from service.oauth.errors import InvalidRequest

MEDIA_TYPE = "application/x-www-form-urlencoded"
MOST_FIELDS = 100


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
