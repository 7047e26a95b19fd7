"""Keyset pages: each begins behind the last row of the one before, so the hundredth costs what the first does."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Generic, TypeVar
from uuid import UUID

import msgspec
from sqlalchemy import Select, literal, tuple_
from sqlalchemy.orm import InstrumentedAttribute

from service.crypto.opaque import base64url, from_base64url
from service.errors import FieldError, InvalidInput
from service.store.postgres import Table, Transaction

LARGEST = 100

Row = TypeVar("Row", bound=Table)


@dataclass(frozen=True, slots=True)
class Order:
    """By one column, and by the id where that is equal; `name` keeps a cursor from another order out."""

    name: str
    column: InstrumentedAttribute[Any]
    id: InstrumentedAttribute[UUID]
    kind: type[str] | type[datetime]
    descending: bool


@dataclass(frozen=True, slots=True)
class Page(Generic[Row]):
    """Some rows, and the cursor of the next page; None on the last one."""

    rows: Sequence[Row]
    next: str | None


async def page(
    transaction: Transaction, statement: Select[tuple[Row]], order: Order, limit: int, cursor: str | None
) -> Page[Row]:
    """The rows behind a cursor, at most `limit`. Raises `InvalidInput` for a cursor that is none of this order."""
    if cursor is not None:
        value, row = _read(order, cursor)
        begun, last = tuple_(order.column, order.id), tuple_(literal(value), literal(row))
        statement = statement.where(begun < last if order.descending else begun > last)
    columns = (order.column, order.id)
    statement = statement.order_by(*((column.desc() for column in columns) if order.descending else columns))
    rows = (await transaction.scalars(statement.limit(limit + 1))).all()
    return Page(rows[:limit], _written(order, rows[limit - 1]) if len(rows) > limit else None)


def is_moment(time: datetime) -> bool:
    """Whether a time says its offset, and has a place in the calendar of UTC."""
    try:
        return time.tzinfo is not None and time.astimezone(UTC) is not None
    except OverflowError:
        return False


def _written(order: Order, row: Table) -> str:
    return base64url(msgspec.json.encode([order.name, getattr(row, order.column.key), getattr(row, order.id.key)]))


def _read(order: Order, cursor: str) -> tuple[str | datetime, UUID]:
    try:
        name, value, row = msgspec.json.decode(from_base64url(cursor) or b"", type=tuple[str, str, UUID])
        last = msgspec.convert(value, order.kind, strict=False)
        if name == order.name and (is_moment(last) if isinstance(last, datetime) else "\x00" not in last):
            return last, row
    except (msgspec.DecodeError, msgspec.ValidationError, ValueError):
        pass
    detail = "Take `next` of the page before, with the same sort."
    raise InvalidInput(fields=[FieldError("cursor", "cursor_invalid", detail)])
