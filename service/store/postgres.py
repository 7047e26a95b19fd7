"""PostgreSQL: the engine, the base of all tables, and transactions that a use case opens itself."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from time import monotonic
from typing import Any, cast
from uuid import UUID

from advanced_alchemy.base import CommonTableAttributes, create_registry
from advanced_alchemy.exceptions import IntegrityError as RepositoryIntegrityError
from advanced_alchemy.exceptions import NotFoundError, RepositoryError
from advanced_alchemy.types import DateTimeUTC
from asyncpg import InterfaceError, PostgresError
from sqlalchemy import MetaData, event, text
from sqlalchemy.exc import DBAPIError, IntegrityError, InvalidatePoolError, SQLAlchemyError
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    AsyncSession,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.orm import DeclarativeBase
from sqlalchemy.pool import AsyncAdaptedQueuePool, ConnectionPoolEntry
from uuid_utils.compat import uuid7

from service import tracing
from service.errors import Unavailable
from service.settings import Settings

Transaction = AsyncSession

UNIQUE_VIOLATION = "23505"
DATA_EXCEPTION = "22"
"""The class of errors that a value causes: trying again does not help."""
STATEMENT_TIMEOUT_FACTOR = 2
RESTED = 1.0
"""Seconds of rest after which a connection is tried before it is lent: a try takes three round trips."""
NAMES = {
    "ix": "%(table_name)s_%(column_0_N_name)s_index",
    "uq": "%(table_name)s_%(column_0_N_name)s_key",
    "ck": "%(table_name)s_%(constraint_name)s_check",
    "fk": "%(table_name)s_%(column_0_N_name)s_fkey",
    "pk": "%(table_name)s_pkey",
}


class Table(CommonTableAttributes, DeclarativeBase):
    """The base of every table: UTC times with offset, native UUIDs, one naming rule for constraints."""

    registry = create_registry(custom_annotation_map={datetime: DateTimeUTC(timezone=True)})
    metadata = MetaData(naming_convention=NAMES)


def new_id() -> UUID:
    """A time-ordered UUID (version 7), so that primary keys are inserted at the end of their index."""
    return uuid7()


@dataclass(frozen=True, slots=True)
class PoolState:
    """Connections there may be, those at work, and how many wait for one."""

    size: int
    in_use: int
    waiting: int


class CountingPool(AsyncAdaptedQueuePool):
    """The usual pool, which also knows how many wait for a connection, or for one to be made."""

    waiting = 0

    def _do_get(self) -> ConnectionPoolEntry:
        self.waiting += 1
        try:
            return super()._do_get()
        finally:
            self.waiting -= 1


class Database:
    """Opens transactions; an outage becomes `Unavailable`, whatever layer noticed it."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._sessions = async_sessionmaker(engine, expire_on_commit=False)
        lone = engine.execution_options(isolation_level="AUTOCOMMIT")
        self._lone = async_sessionmaker(lone, expire_on_commit=False)

    @classmethod
    def connect(cls, settings: Settings, pool: int | None = None) -> "Database":
        """A pool that waits, connects and commands within the settings' bounds; no connection is made yet.

        `pool` makes it smaller than the settings' one: for work that must neither wait for requests nor hold them up.
        """
        seconds = settings.database_timeout.total_seconds()
        milliseconds = str(int(seconds * 1000 * STATEMENT_TIMEOUT_FACTOR))
        engine = create_async_engine(
            driver_url(settings.database_url),
            poolclass=CountingPool,
            pool_size=pool or settings.database_pool,
            max_overflow=0,
            pool_timeout=settings.database_pool_wait.total_seconds(),
            pool_recycle=1800,
            pool_use_lifo=True,
            hide_parameters=True,
            connect_args={
                "timeout": seconds,
                "command_timeout": seconds,
                "server_settings": {
                    "application_name": "vestibule",
                    "jit": "off",
                    "statement_timeout": milliseconds,
                    "idle_in_transaction_session_timeout": milliseconds,
                },
            },
        )
        _lend_what_lives(engine)
        return cls(engine)

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[Transaction]:
        """One transaction: commits at the end, rolls back on an exception.

        Never hold one across a password hash, Redis or mail. Raises `Unavailable` when PostgreSQL is away, slow or
        out of connections; violated constraints pass through for the use case to name, impossible values as crashes.
        """
        async with self._within(self._sessions) as transaction:
            yield transaction

    @asynccontextmanager
    async def look(self) -> AsyncIterator[Transaction]:
        """The same for one statement that reads: it is a transaction by itself, and two round trips cheaper."""
        async with self._within(self._lone) as transaction:
            yield transaction

    @asynccontextmanager
    async def _within(self, sessions: async_sessionmaker[AsyncSession]) -> AsyncIterator[Transaction]:
        try:
            with tracing.span("postgres transaction"):
                async with sessions.begin() as transaction:
                    yield transaction
        except (IntegrityError, RepositoryIntegrityError, NotFoundError):
            raise
        except DBAPIError as error:
            if str(getattr(error.orig, "sqlstate", None) or "").startswith(DATA_EXCEPTION):
                raise
            raise Unavailable(f"postgres: {_first_cause(error)}") from error
        except (SQLAlchemyError, RepositoryError, PostgresError, InterfaceError, OSError, TimeoutError) as error:
            raise Unavailable(f"postgres: {_first_cause(error)}") from error

    async def ping(self) -> None:
        """Asks for nothing. Raises `Unavailable`."""
        async with self.begin() as transaction:
            await transaction.execute(text("SELECT 1"))

    async def time(self) -> float:
        """The server's clock, in seconds since 1970. Raises `Unavailable`."""
        async with self.begin() as transaction:
            return float(await transaction.scalar(text("SELECT extract(epoch FROM clock_timestamp())")) or 0)

    @property
    def pool(self) -> PoolState:
        """The connections at this moment."""
        pool = cast("CountingPool", self._engine.pool)
        return PoolState(pool.size(), pool.checkedout(), pool.waiting)

    async def close(self) -> None:
        """Closes every connection of the pool."""
        await self._engine.dispose()


def _lend_what_lives(engine: AsyncEngine) -> None:
    """Lets go of all connections when one that is to be lent turns out to be dead."""

    @event.listens_for(engine.sync_engine, "checkin")
    def comes_back(dbapi_connection: Any, record: ConnectionPoolEntry) -> None:
        record.info["back_at"] = monotonic()

    @event.listens_for(engine.sync_engine, "checkout")
    def goes_out(dbapi_connection: Any, record: ConnectionPoolEntry, _: Any) -> None:
        back_at = record.info.get("back_at")
        if back_at is None:  # it was made just now
            return
        if dbapi_connection.driver_connection.is_closed() or (
            monotonic() - back_at > RESTED and not _answers(engine, dbapi_connection)
        ):
            raise InvalidatePoolError


def _answers(engine: AsyncEngine, dbapi_connection: Any) -> bool:
    dialect = engine.dialect
    try:
        return dialect.do_ping(dbapi_connection)
    except dialect.loaded_dbapi.Error as error:
        if dialect.is_disconnect(error, dbapi_connection, None):
            return False
        raise


def driver_url(url: str) -> str:
    """The URL as SQLAlchemy wants it; `postgres://` and `postgresql://` are what operators paste."""
    scheme, separator, rest = str(url).partition("://")
    return "postgresql+asyncpg" + separator + rest if scheme in {"postgres", "postgresql"} else str(url)


def violates(error: BaseException, constraint: str) -> bool:
    """Whether a failed write broke this unique constraint; the message is never shown, it holds the values."""
    cause: Any = error
    while cause is not None:
        name = getattr(cause, "constraint_name", None)
        if name is not None:
            return bool(name == constraint and getattr(cause, "sqlstate", "") == UNIQUE_VIOLATION)
        cause = getattr(cause, "orig", None) or cause.__cause__
    return False


def _first_cause(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return type(error).__name__
