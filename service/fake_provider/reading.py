"""Reading what browsers and clients send, and what is said when it cannot be read."""

from typing import Any
from urllib.parse import parse_qsl

from litestar import Request

FORM = "application/x-www-form-urlencoded"
MOST_DIGITS = 18


class Misasked(Exception):
    """A person, or whoever sent them here, asked for something that is not there. The sentence is for their page."""


class Refused(Exception):
    """An OAuth error of a token endpoint (RFC 6749 section 5.2), in whatever shape the provider says it."""

    def __init__(self, error: str, description: str) -> None:
        super().__init__(error)
        self.error = error
        self.description = description


class NotSignedIn(Exception):
    """An API was called without an access token that is good for it."""


def read_query(request: Request[Any, Any, Any]) -> dict[str, str]:
    """The parameters of the URL. Raises `Misasked` for a repeated one."""
    return _parameters(request.scope["query_string"])


async def read_form(request: Request[Any, Any, Any]) -> dict[str, str]:
    """The fields of a form body, empty ones too. Raises `Misasked`."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != FORM:
        raise Misasked("That is not a form.")
    return _parameters(await request.body())


def is_number(text: str, digits: int = MOST_DIGITS) -> bool:
    """Whether it is a whole number of so many digits at most, 18 unless told."""
    return text.isascii() and text.isdecimal() and len(text) <= digits


def _parameters(encoded: bytes) -> dict[str, str]:
    try:
        pairs = parse_qsl(encoded.decode("ascii"), keep_blank_values=True, errors="strict")
    except ValueError:
        raise Misasked("That cannot be read.") from None
    if len(dict(pairs)) != len(pairs):
        raise Misasked("A parameter is there twice.")
    return dict(pairs)
