"""The floors hold: who may import whom is written in pyproject.toml, and import-linter looks."""

import ast
from pathlib import Path

from importlinter.api import read_configuration
from importlinter.application import use_cases

ROOT = Path(__file__).parents[1]
READS_ENVIRONMENT = {"service/cli/running.py", "service/cli/dev.py", "service/cli/metrics_port.py", "service/server.py"}


def test_every_floor_imports_only_lower_floors() -> None:
    assert use_cases.lint_imports(config_filename=str(ROOT / "pyproject.toml"), cache_dir=None)


def test_every_room_stands_on_a_floor() -> None:
    layers = read_configuration(str(ROOT / "pyproject.toml"))["contracts_options"][0]["layers"]
    named = {room.strip() for layer in layers for room in layer.replace("|", " ").split()}
    rooms = {f"service.{path.stem}" for path in (ROOT / "service").iterdir() if _is_room(path)}
    assert rooms == named


def test_the_environment_is_read_where_commands_begin_and_nowhere_else() -> None:
    readers = {path.relative_to(ROOT).as_posix() for path in (ROOT / "service").rglob("*.py") if _reads(path)}
    assert readers == READS_ENVIRONMENT


def _is_room(path: Path) -> bool:
    return (path.is_dir() and (path / "__init__.py").exists()) or (path.suffix == ".py" and path.stem != "__init__")


def _reads(path: Path) -> bool:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return any(isinstance(node, ast.Attribute) and node.attr in {"environ", "getenv"} for node in ast.walk(tree))
