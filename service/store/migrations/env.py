"""How migrations run: one transaction for all of them, under an advisory lock, with a bound on waiting for tables."""

import asyncio

from alembic import context
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from service.store.postgres import Table

MIGRATION_LOCK = 7_272_740_01


def run(connection: Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=Table.metadata,
        compare_type=True,
        transaction_per_migration=False,
    )
    with context.begin_transaction():
        # Another migrator may work for long; somebody's forgotten transaction must not stop the whole service.
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({MIGRATION_LOCK})")
        connection.exec_driver_sql("SET LOCAL lock_timeout = '3s'")
        context.run_migrations()


async def main() -> None:
    url = context.config.attributes["database_url"]
    engine = create_async_engine(url, poolclass=NullPool, hide_parameters=True, connect_args={"timeout": 10})
    try:
        async with engine.connect() as connection:
            await connection.run_sync(run)
    finally:
        await engine.dispose()


asyncio.run(main())
