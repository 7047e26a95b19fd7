"""What every request and answer of `/admin` has in common."""

from collections.abc import AsyncIterator, Callable
from datetime import datetime
from typing import Annotated, Any, Generic, TypeVar

import msgspec
from litestar.params import QueryParameter
from msgspec import UNSET, UnsetType

from service.errors import CrossSiteRefused, FieldError, InvalidInput, ServiceError, StaleAuthentication
from service.problems import refusals
from service.store.paging import LARGEST, Page, is_moment
from service.tokens.principal import BEARER, SCOPE
from service.tokens.scopes import ADMIN

FOR_OPERATORS = {SCOPE: ADMIN}
DEFAULT_LIMIT = 50

Limit = Annotated[int, QueryParameter(ge=1, le=LARGEST)]
Moment = Annotated[
    str | None,
    QueryParameter(description="With its offset, as in 2026-11-20T12:00:00Z.", schema_extra={"format": "date-time"}),
]
Text = Annotated[str | None, QueryParameter(max_length=254, pattern=r"^[^\x00]*$")]
Why = Annotated[str, msgspec.Meta(max_length=128)]
NDJSON = "application/x-ndjson"

Item = TypeVar("Item")


class Reason(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Why, in the operator's words; the audit trail keeps it."""

    reason: Why = ""


class Listed(msgspec.Struct, Generic[Item], frozen=True):
    """One page. `next` is the cursor of the one behind it, absent on the last."""

    items: list[Item]
    next: str | UnsetType = UNSET


def listed(found: Page[Any], shape: Callable[[Any], Item]) -> Listed[Item]:
    """A page of rows in the shape they are shown in: no row is ever serialized as it is."""
    return Listed([shape(row) for row in found.rows], found.next or UNSET)


def moment(name: str, text: str | None) -> datetime | None:
    """The time that a parameter names. Raises `InvalidInput` for anything but RFC 3339 with an offset."""
    try:
        read = None if text is None else msgspec.convert(text, datetime)
    except ValueError:  # a ValidationError, or a year beyond the calendar
        raise _no_time(name) from None
    return ensure_offset(name, read)


def ensure_offset(name: str, time: datetime | None) -> datetime | None:
    """Raises `InvalidInput` for a time that does not say its offset, or that no calendar has in UTC."""
    if time is not None and not is_moment(time):
        raise _no_time(name)
    return time


def _no_time(name: str) -> InvalidInput:
    return InvalidInput(
        fields=[FieldError(name, "time_invalid", "A time with its offset, such as 2026-11-20T12:00:00Z.")]
    )


async def begun(items: AsyncIterator[Item]) -> AsyncIterator[Item]:
    """The same items, of which the first is there already: a store that is away is a 503 then, and no torn answer."""
    first = await anext(items, None)

    async def all_of_them() -> AsyncIterator[Item]:
        if first is not None:
            yield first
        async for item in items:
            yield item

    return all_of_them()


def reading(*errors: type[ServiceError]) -> dict[int, Any]:
    """The `responses` of a route that reads."""
    return refusals(*BEARER, *errors, body=False)


def writing(*errors: type[ServiceError]) -> dict[int, Any]:
    """The `responses` of a route that changes something."""
    return refusals(*BEARER, StaleAuthentication, CrossSiteRefused, *errors)
