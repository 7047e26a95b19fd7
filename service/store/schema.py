"""The schema of the database: brought up to this version by one migrator at a time, and compared by everyone else."""

from functools import cache
from importlib.resources import files

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import text

from service.errors import Unavailable
from service.store.postgres import Database, driver_url


def migrate(database_url: str) -> None:
    """Applies every missing migration, in one transaction under a lock: safe from two pods at once.

    Opens its own event loop, so call it outside of one. Raises what the driver raises.
    """
    command.upgrade(alembic_config(database_url), "head")


async def is_current(database: Database) -> bool:
    """Whether the database has every migration of this version. Raises `Unavailable`.

    A revision that this version does not know counts as newer: old pods serve beside new ones during a rollout.
    """
    try:
        async with database.begin() as transaction:
            revision = await transaction.scalar(text("SELECT version_num FROM alembic_version"))
    except Unavailable as error:
        if "UndefinedTable" in error.reason:
            return False
        raise
    head, known = _revisions()
    return revision is not None and (revision == head or revision not in known)


def alembic_config(database_url: str = "") -> Config:
    """What Alembic needs to work on a database; `env.py` reads the URL from its attributes."""
    config = Config()
    config.set_main_option("script_location", str(files("service.store") / "migrations"))
    config.attributes["database_url"] = driver_url(database_url)
    return config


@cache
def _revisions() -> tuple[str | None, frozenset[str]]:
    scripts = ScriptDirectory.from_config(alembic_config())
    return scripts.get_current_head(), frozenset(script.revision for script in scripts.walk_revisions())
