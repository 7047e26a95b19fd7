"""What a run prints and writes."""

from collections.abc import Iterator, Sequence
from statistics import median

from deploy.bench.goals import Verdict
from deploy.bench.measure import Sample
from deploy.bench.rounds import Results, middle

FIGURES = (
    ("per second", "rate", ",.0f"),
    ("p50 ms", "p50", ".2f"),
    ("p99 ms", "p99", ".2f"),
    ("CPU µs", "cpu", ",.0f"),
    ("Redis commands", "commands", ".1f"),
    ("reads", "reads", ".2f"),
    ("CPU µs", "redis_cpu", ".1f"),
    ("MiB", "memory", ".0f"),
)
FIRST = 24


def lines(results: Results, verdicts: Sequence[Verdict]) -> Iterator[str]:
    """The figures of each step, then the goals."""
    yield f"{'':<{FIRST}}{'of R0':>20}" + "".join(f"{head:>{_width(head)}}" for head, _, _ in FIGURES)
    yield _row("R0", "", results.yardstick)
    for name, samples in results.steps.items():
        yield _row(name, _range(results.ratios(name)), samples)
    yield ""
    yield f"{'goal':<{FIRST + 26}}{'wanted':>14}{'seen':>8}  {'range':<14}"
    for verdict in verdicts:
        yield _judgement(verdict)


def _row(name: str, ratio: str, samples: Sequence[Sample]) -> str:
    figures = ((head, middle(samples, what), shape) for head, what, shape in FIGURES)
    shown = (f"{format(value, shape) if value else '·':>{_width(head)}}" for head, value, shape in figures)
    return f"{name:<{FIRST}}{ratio:>20}" + "".join(shown)


def _judgement(verdict: Verdict) -> str:
    goal = verdict.goal
    wanted = f"{'≤' if goal.is_most else '≥'} {goal.bound:g}"
    name = f"{goal.name} / {goal.of}"
    seen = f"{verdict.seen:>8.2f}  {f'{verdict.least:.2f} to {verdict.most:.2f}':<14}"
    return f"{name:<{FIRST + 26}}{wanted:>14}{seen}  {verdict.word}"


def _range(values: Sequence[float]) -> str:
    return f"{median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def _width(head: str) -> int:
    return max(len(head) + 2, 10)
