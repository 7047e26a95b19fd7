"""What the figures must be, and whether they are."""

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from deploy.bench.rounds import Results

FLAT = 2.0
"""A script that looked through sessions would take a thousand times longer among a thousand times more; what no longer
fits into the processor's cache costs each of them some microseconds, once."""
CORES_FOR_TWO_WORKERS = 4
"""Fewer, and the load generator, Redis and the workers wait for each other."""


@dataclass(frozen=True)
class Goal:
    """A bound on the median of a figure that has one value for each round, or none when it was not measured.

    `counts` is False where this machine cannot show it.
    """

    name: str
    bound: float
    values: Callable[[Results], Sequence[float]]
    is_most: bool = False
    counts: bool = True

    def judged(self, values: Sequence[float]) -> "Verdict":
        """What was seen beside the goal."""
        seen = median(values)
        is_met = seen <= self.bound if self.is_most else seen >= self.bound
        return Verdict(self, seen, min(values), max(values), is_met if self.counts else None)


@dataclass(frozen=True)
class Verdict:
    """The median and range of a figure; `is_met` is None where it is not judged."""

    goal: Goal
    seen: float
    least: float
    most: float
    is_met: bool | None

    @property
    def word(self) -> str:
        return {True: "met", False: "MISSED", None: "not judged: too few cores"}[self.is_met]


def goals(cores: int) -> list[Goal]:
    """All of them, on a machine of so many cores."""
    return [
        _to_yardstick("introspection, warm", 1.8),
        _to_yardstick("introspection, cold", 0.6),
        _to_yardstick("refresh", 0.5),
        Goal("login / argon2 alone", 0.9, _beside("login", "argon2 alone")),
        Goal(
            "introspection's p99, in a login flood / idle",
            3.0,
            _beside("introspection in a flood", "introspection, unhurried", "p99"),
            is_most=True,
        ),
        Goal(
            "two workers / one",
            1.7,
            _beside("two workers", "introspection, warm"),
            counts=cores >= CORES_FOR_TWO_WORKERS,
        ),
        *(
            Goal(f"script {name}, most sessions / fewest", FLAT, _growth(name), is_most=True)
            for name in ("open", "inspect", "rotate")
        ),
    ]


def verdicts(results: Results, wanted: Iterable[Goal]) -> list[Verdict]:
    """On everything that was measured."""
    measured = ((goal, goal.values(results)) for goal in wanted)
    return [goal.judged(values) for goal, values in measured if values]


def cores() -> int:
    """Those that this process may run on, where the system tells."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def _to_yardstick(name: str, bound: float) -> Goal:
    return Goal(f"{name} / R0", bound, lambda results: results.ratios(name))


def _beside(name: str, other: str, what: str = "rate") -> Callable[[Results], Sequence[float]]:
    return lambda results: results.beside(name, other, what)


def _growth(script: str) -> Callable[[Results], Sequence[float]]:
    def grown(results: Results) -> list[float]:
        times = [getattr(size, script) for size in results.sizes]
        return [times[-1] / times[0]] if len(times) > 1 else []

    return grown
