"""What the figures must be, and whether they are."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

from deploy.bench.rounds import Results


@dataclass(frozen=True)
class Goal:
    """A bound on the median of a figure that has one value for each round. `of` names what it is a multiple of."""

    name: str
    bound: float
    of: str
    values: Callable[[Results], Sequence[float]]
    is_most: bool = False

    def judged(self, values: Sequence[float], *, counts: bool = True) -> "Verdict":
        """What was seen beside the goal; what does not count is shown all the same."""
        seen = median(values)
        is_met = seen <= self.bound if self.is_most else seen >= self.bound
        return Verdict(self, seen, min(values), max(values), is_met if counts else None)


@dataclass(frozen=True)
class Verdict:
    """The median and range of a figure; `is_met` is None where it cannot be judged."""

    goal: Goal
    seen: float
    least: float
    most: float
    is_met: bool | None

    @property
    def word(self) -> str:
        return {True: "met", False: "MISSED", None: "not judged"}[self.is_met]


def to_yardstick(name: str, bound: float) -> Goal:
    """At least so many times R0."""
    return Goal(name, bound, "R0", lambda results: results.ratios(name))


GOALS = (
    to_yardstick("introspection, warm", 1.8),
    to_yardstick("introspection, cold", 0.6),
    to_yardstick("refresh", 0.5),
)
