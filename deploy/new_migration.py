"""Drafts the next migration: compares the tables in the code with a database that has every migration so far.

Usage: uv run deploy/new_migration.py "what it does". Read the draft: expand now, contract in a later release.
"""

import sys
import tempfile
from pathlib import Path

from alembic import command
from alembic.script import ScriptDirectory

import service.wiring  # noqa: F401  knows every table
from service.embedded.servers import EmbeddedServers
from service.store.schema import alembic_config, migrate


def main(message: str) -> None:
    with tempfile.TemporaryDirectory() as folder, EmbeddedServers(Path(folder) / "data", durable=False) as running:
        migrate(running.database_url)
        config = alembic_config(running.database_url)
        head = ScriptDirectory.from_config(config).get_current_head() or "0000"
        command.revision(config, message, autogenerate=True, rev_id=f"{int(head) + 1:04d}")


if __name__ == "__main__":
    if len(sys.argv) != 2:  # noqa: PLR2004  the program and the message
        sys.exit(__doc__)
    main(sys.argv[1])
