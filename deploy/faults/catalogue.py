"""Every fault by its number."""

import ast
from pathlib import Path

from deploy.faults import (
    held_by_tests,
    of_the_clock,
    of_the_database,
    of_the_disk,
    of_the_process,
    of_the_replicas,
    of_the_rollout,
    of_the_store,
    of_the_upkeep,
    of_the_wire,
)
from deploy.faults.table import Fault

PROJECT = Path(__file__).parents[2]
FAMILIES = (
    of_the_store,
    of_the_replicas,
    of_the_disk,
    of_the_clock,
    of_the_database,
    of_the_process,
    of_the_upkeep,
    of_the_rollout,
    of_the_wire,
    held_by_tests,
)
FAULTS: tuple[Fault, ...] = tuple(
    sorted((fault for family in FAMILIES for fault in family.FAULTS), key=lambda fault: fault.number)
)


def has_test(name: str) -> bool:
    """Whether the suite has the test `file::name` or `file::Class::name`; read, not run."""
    file, *names = name.split("::")
    path = PROJECT / file
    if not path.is_file():
        return False
    found: list[ast.stmt] = ast.parse(path.read_text(encoding="utf-8")).body
    for wanted in names:
        kinds = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        inside = next((node for node in found if isinstance(node, kinds) and node.name == wanted), None)
        if inside is None:
            return False
        found = inside.body
    return True
