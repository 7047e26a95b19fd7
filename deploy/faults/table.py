"""What a fault is, what came of it, and the table."""

import json
import shutil
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from deploy.faults.world import World

Verdict = Literal["held", "OPEN", "not here"]
COLUMNS = (("#", 3), ("fault", 18), ("injected", 24), ("promised", 30), ("seen", 0), ("verdict", 9))
"""Heads and widths; the one without a width gets the rest of the screen."""
NARROWEST, WIDEST = 120, 200


class NotHere(Exception):
    """This machine cannot be made to have the fault; the text says why."""


@dataclass(slots=True)
class Finding:
    """What was seen, and which promises were broken."""

    seen: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)

    def expect(self, holds: bool, otherwise: str) -> None:
        """Notes a promise that does not hold, by what is wrong."""
        if not holds:
            self.broken.append(otherwise)


@dataclass(frozen=True, slots=True)
class Fault:
    """One row. It is injected by `inject`, or held by `tests` (`file::name`), or `elsewhere` says why it is neither."""

    number: int
    name: str
    injection: str
    promise: str
    inject: Callable[[World], Finding] | None = None
    tests: tuple[str, ...] = ()
    elsewhere: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """A fault with its outcome."""

    fault: Fault
    verdict: Verdict
    seen: str
    seconds: float

    def as_json(self) -> dict[str, object]:
        """For machines."""
        fault = self.fault
        return {
            "number": fault.number,
            "fault": fault.name,
            "injected": fault.injection,
            "promised": fault.promise,
            "seen": self.seen,
            "verdict": self.verdict,
            "seconds": round(self.seconds, 1),
        }


def printed(rows: Sequence[Row]) -> str:
    """The table, as wide as the screen."""
    screen = min(max(shutil.get_terminal_size((160, 40)).columns, NARROWEST), WIDEST)
    rest = screen - sum(width for _, width in COLUMNS) - 2 * (len(COLUMNS) - 1)
    widths = [width or rest for _, width in COLUMNS]
    lines = [*_lines([head for head, _ in COLUMNS], widths), "-" * screen]
    for row in rows:
        fault = row.fault
        cells = [str(fault.number), fault.name, fault.injection, fault.promise, row.seen, row.verdict]
        lines += _lines(cells, widths)
    return "\n".join(lines)


def as_json(rows: Sequence[Row]) -> str:
    """All rows as one document."""
    return json.dumps([row.as_json() for row in rows], indent=1)


def _lines(cells: list[str], widths: list[int]) -> list[str]:
    columns = [textwrap.wrap(cell, width) or [""] for cell, width in zip(cells, widths, strict=True)]
    height = max(map(len, columns))
    padded = [
        [line.ljust(width) for line in [*column, *[""] * (height - len(column))]]
        for column, width in zip(columns, widths, strict=True)
    ]
    return ["  ".join(line).rstrip() for line in zip(*padded, strict=True)]
