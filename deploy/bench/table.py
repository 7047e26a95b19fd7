"""What a run prints, and what it writes."""

from collections.abc import Iterator, Sequence
from statistics import median
from typing import Any

from deploy.bench.goals import Verdict
from deploy.bench.measure import Sample, Size
from deploy.bench.rounds import Results, middle

FIGURES = (
    ("per second", "rate", ",.0f"),
    ("p50 ms", "p50", ".2f"),
    ("p99 ms", "p99", ".2f"),
    ("CPU µs", "cpu", ",.0f"),
    ("commands", "commands", ".1f"),
    ("reads", "reads", ".2f"),
    ("Redis µs", "redis_cpu", ".1f"),
    ("MiB", "memory", ".0f"),
)
FIRST, RATIO, COLUMN, GOAL = 26, 22, 11, 48
FILLS = 0.05
"""Below this share of R0 a load was not there to fill the service."""
EXPLANATION = """\
CPU is of the service's processes; commands (with those in scripts), reads (packets) and µs of Redis are per request.
R0 is an empty Litestar route that takes a form, measured before and after each round; medians and ranges of rounds."""


def lines(results: Results, verdicts: Sequence[Verdict]) -> Iterator[str]:
    """The figures of each step, those of many sessions, then the goals."""
    if results.steps:
        heads = ["of R0", "by CPU", *(head for head, _, _ in FIGURES)]
        yield f"{'':<{FIRST}}{heads[0]:>{RATIO}}" + "".join(f"{head:>{COLUMN}}" for head in heads[1:])
        yield _row("R0", "", "", results.yardstick)
        for name, samples in results.steps.items():
            yield _row(name, _range(results.ratios(name)), _by_cpu(results, samples), samples)
        yield from ("", EXPLANATION, "")
    if results.sizes:
        yield from _sizes(results.sizes)
        yield ""
    yield f"{'goal':<{GOAL}}{'wanted':>8}{'seen':>8}   {'range':<18}"
    for verdict in verdicts:
        yield _judgement(verdict)


def document(results: Results, verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """Everything, for a file."""
    judged = [
        {"goal": one.goal.name, "bound": one.goal.bound, "is_most": one.goal.is_most, "seen": one.seen}
        | {"range": [one.least, one.most], "is_met": one.is_met}
        for one in verdicts
    ]
    ratios = {name: results.ratios(name) for name in results.steps}
    figures = {"yardstick": results.yardstick, "steps": results.steps, "sizes": results.sizes}
    return {**figures, "ratios": ratios, "goals": judged}


def _row(name: str, ratio: str, by_cpu: str, samples: Sequence[Sample]) -> str:
    figures = ((middle(samples, what), shape) for _, what, shape in FIGURES)
    shown = (format(value, shape) if value else "·" for value, shape in figures)
    return f"{name:<{FIRST}}{ratio:>{RATIO}}{by_cpu:>{COLUMN}}" + "".join(f"{one:>{COLUMN}}" for one in shown)


def _by_cpu(results: Results, samples: Sequence[Sample]) -> str:
    """How many of these requests cost what one of R0 does, upside down: steadier than rates on a busy machine."""
    cost = middle(samples, "cpu")
    return f"{middle(results.yardstick, 'cpu') / cost:.2f}" if cost else ""


def _sizes(sizes: Sequence[Size]) -> Iterator[str]:
    heads = ("bytes each", "open µs", "inspect µs", "rotate µs")
    yield f"{'sessions':>{FIRST}}" + "".join(f"{head:>12}" for head in heads)
    for one in sizes:
        figures = f"{one.bytes:>12.0f}{one.open:>12.1f}{one.inspect:>12.1f}{one.rotate:>12.1f}"
        yield f"{one.sessions:>{FIRST},}{figures}"


def _judgement(verdict: Verdict) -> str:
    goal = verdict.goal
    wanted = f"{'≤' if goal.is_most else '≥'} {goal.bound:g}"
    spread = f"{verdict.least:.2f} to {verdict.most:.2f}"
    return f"{goal.name:<{GOAL}}{wanted:>8}{verdict.seen:>8.2f}   {spread:<18}{verdict.word}"


def _range(values: Sequence[float]) -> str:
    if median(values) < FILLS:
        return "·"
    return f"{median(values):.2f} ({min(values):.2f} to {max(values):.2f})"
