"""What is measured in turn: A B C, A B C, … with the yardstick before, between and after the rounds."""

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Protocol

from deploy.bench.load import Answers, Load, run
from deploy.bench.measure import Meter, Sample, Size

BEGAN = time.monotonic()
WARM_UP = 1.0
"""Seconds of the checking run, which is thrown away."""


NOTHING = Answers(requests=0, seconds=0, bytes=0, p50=0, p99=0, failed=0, wrong=0, repeated=0)


class Step(Protocol):
    """One thing to measure."""

    name: str

    def prepare(self, rounds: int, seconds: float) -> None:
        """Warms it up, checks its answers, and makes what all rounds need."""

    def sample(self, seconds: float) -> Sample:
        """Measures once."""


@dataclass
class Steady(Step):
    """A load that can be put on again and again."""

    name: str
    meter: Meter
    load: Load
    checked: Answers = NOTHING

    def prepare(self, rounds: int, seconds: float) -> None:
        """Reads the answers of a short run."""
        self.checked = run(self.load, min(seconds, WARM_UP), check=True)

    def sample(self, seconds: float) -> Sample:
        """The load once more."""
        return self.meter.sample(self.load, seconds, self.checked)


@dataclass
class Fresh(Step):
    """A load that needs requests of its own each time: `make` writes a file with at least so many."""

    name: str
    meter: Meter
    make: Callable[[int, str], Load]
    first: int
    """How many requests the checking run may need."""
    many: Callable[[float, float], int]
    """How many the others may need, by the rate of the checking run and their seconds."""
    checked: Answers = NOTHING
    loads: list[Load] = field(default_factory=list)

    def prepare(self, rounds: int, seconds: float) -> None:
        """Reads the answers of a short run, whose rate says how many requests the others need."""
        self.checked = run(self.make(self.first, f"{self.name}-check"), min(seconds, WARM_UP), check=True)
        count = self.many(self.checked.rate, seconds)
        self.loads = [self.make(count, f"{self.name}-{i}") for i in range(rounds)]

    def sample(self, seconds: float) -> Sample:
        """The next of the loads."""
        return self.meter.sample(self.loads.pop(), seconds, self.checked)


@dataclass(frozen=True)
class Results:
    """The samples of each step by its name, and the yardstick's: one more than there were rounds. `sizes` are what was
    seen of many sessions."""

    yardstick: list[Sample]
    steps: dict[str, list[Sample]]
    sizes: list[Size] = field(default_factory=list)

    def ratios(self, name: str) -> list[float]:
        """Of each round, to the yardstick of that round."""
        return ratios([sample.rate for sample in self.steps.get(name, [])], [fence.rate for fence in self.yardstick])

    def beside(self, name: str, other: str, what: str = "rate") -> list[float]:
        """Of each round, one step's figure by another's."""
        return quotients(*([getattr(sample, what) for sample in self.steps.get(one, [])] for one in (name, other)))


def in_turn(yardstick: Step, steps: Sequence[Step], rounds: int, seconds: float) -> Results:
    """Prepares everything, then measures round by round."""
    for step in (yardstick, *steps):
        say(f"warming up: {step.name}")
        step.prepare(rounds, seconds)
    results = Results([yardstick.sample(seconds)], {step.name: [] for step in steps})
    for number in range(1, rounds + 1):
        for step in steps:
            results.steps[step.name].append(step.sample(seconds))
        results.yardstick.append(yardstick.sample(seconds))
        rates = ", ".join(f"{step.name} {results.steps[step.name][-1].rate:,.0f}/s" for step in steps)
        say(f"round {number} of {rounds}: {yardstick.name} {results.yardstick[-1].rate:,.0f}/s, {rates}")
    return results


def ratios(rates: Sequence[float], fences: Sequence[float]) -> list[float]:
    """Each rate by the mean of the yardstick before and after its round."""
    return [rate / ((before + after) / 2) for rate, before, after in zip(rates, fences, fences[1:], strict=False)]


def quotients(above: Sequence[float], below: Sequence[float]) -> list[float]:
    """Round by round, none where only one of them was measured."""
    return [one / other for one, other in zip(above, below, strict=False)]


def middle(samples: Sequence[Sample], what: str) -> float:
    """The median of one figure."""
    return float(median(getattr(sample, what) for sample in samples))


def say(line: str) -> None:
    """Progress, beside the table."""
    print(f"{time.monotonic() - BEGAN:6.1f} s  {line}", file=sys.stderr, flush=True)


def file_in(folder: Path, name: str) -> Path:
    """Where the requests of a load are written."""
    return folder / f"{name.replace(' ', '-').replace(',', '')}.requests"
