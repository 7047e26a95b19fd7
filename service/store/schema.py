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
    config = _config()
    config.attributes["database_url"] = driver_url(database_url)
    command.upgrade(config, "head")


@cache
def expected_revision() -> str:
    """The revision that this version's tables need."""
    head = ScriptDirectory.from_config(_config()).get_current_head()
    if head is None:
        raise RuntimeError("there are no migrations")
    return head


async def is_current(database: Database) -> bool:
    """Whether the database knows this version's migrations. A newer schema counts: old pods serve beside new ones.

    Raises `Unavailable`.
    """
    known = {script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions()}
    try:
        async with database.begin() as transaction:
            revision = await transaction.scalar(text("SELECT version_num FROM alembic_version"))
    except Unavailable as error:
        if "UndefinedTable" in error.reason:
            return False
        raise
    return revision is not None and (revision == expected_revision() or revision not in known)


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(files("service.store") / "migrations"))
    return config
