"""The arithmetic of `just bench`: ratios of rounds, what is met, what is missed, what is not judged."""

import pytest

from deploy.bench.crowd import sizes, undisturbed
from deploy.bench.goals import Goal, goals, verdicts
from deploy.bench.load import Answers, same_kind
from deploy.bench.measure import Sample, Size
from deploy.bench.rounds import Results, ratios
from deploy.bench.table import document, lines


def samples(*rates: float, p99: float = 1.0) -> list[Sample]:
    return [Sample(rate=rate, p99=p99, cpu=100.0) for rate in rates]


def answers(size: int) -> Answers:
    return Answers(requests=100, seconds=2, bytes=100 * size, p50=1, p99=2, failed=0, wrong=0, repeated=0)


def judged(results: Results, cores: int = 8) -> dict[str, bool | None]:
    return {one.goal.name: one.is_met for one in verdicts(results, goals(cores))}


def test_a_round_is_compared_with_the_yardstick_on_both_its_sides() -> None:
    assert ratios([100, 300], [50, 150, 450]) == [1.0, 1.0]


def test_a_goal_looks_at_the_median_and_shows_the_range() -> None:
    verdict = Goal("speed", 2.0, lambda _: ()).judged([1.0, 2.0, 9.0])
    assert (verdict.seen, verdict.least, verdict.most, verdict.word) == (2.0, 1.0, 9.0, "met")


@pytest.mark.parametrize(("seen", "word"), [(1.99, "met"), (2.0, "met"), (2.01, "MISSED")])
def test_a_goal_may_be_a_most(seen: float, word: str) -> None:
    assert Goal("time", 2.0, lambda _: (), is_most=True).judged([seen]).word == word


def test_what_this_machine_cannot_show_is_shown_without_a_judgement() -> None:
    results = Results(samples(10, 10), {"introspection, warm": samples(20), "two workers": samples(21)})
    assert judged(results, cores=2) == {"introspection, warm / R0": True, "two workers / one": None}
    assert judged(results, cores=4)["two workers / one"] is False


def test_only_what_was_measured_is_judged() -> None:
    assert judged(Results(samples(10, 10), {"refresh": samples(4)})) == {"refresh / R0": False}
    assert judged(Results([], {})) == {}


def test_sign_in_is_compared_with_hashing_alone() -> None:
    results = Results(samples(1, 1), {"argon2 alone": samples(40), "login": samples(36)})
    assert judged(results) == {"login / argon2 alone": True}


def test_the_flood_is_judged_by_its_p99_and_not_by_its_rate() -> None:
    steps = {"introspection, unhurried": samples(9, p99=1), "introspection in a flood": samples(1, p99=3.1)}
    assert judged(Results(samples(1, 1), steps)) == {"introspection's p99, in a login flood / idle": False}


def test_scripts_must_not_grow_with_the_number_of_sessions() -> None:
    first, last = Size(1000, 170, open=10, inspect=5, rotate=5), Size(10_000, 170, open=10, inspect=10, rotate=10.1)
    name = "script {}, most sessions / fewest"
    seen = judged(Results([], {}, [first, last]))
    assert seen == {name.format("open"): True, name.format("inspect"): True, name.format("rotate"): False}
    assert judged(Results([], {}, [first])) == {}


@pytest.mark.parametrize(
    ("most", "expected"), [(1000, [1000]), (2000, [1000, 2000]), (100_000, [1000, 10_000, 100_000])]
)
def test_sessions_are_looked_at_in_powers_of_ten(most: int, expected: list[int]) -> None:
    assert sizes(most) == expected


def test_a_refusal_is_told_by_its_size() -> None:
    right = answers(600)
    assert same_kind(answers(603), right)
    assert not same_kind(answers(220), right)


def test_the_table_has_each_figure_and_each_goal() -> None:
    results = Results(samples(100, 100), {"introspection, warm": samples(150)}, [Size(1000, 173, 10, 5, 6)])
    wanted = verdicts(results, goals(2))
    text = "\n".join(lines(results, wanted))
    assert "1.50 (1.50 to 1.50)" in text
    assert "173" in text
    [goal] = [line for line in text.splitlines() if line.startswith("introspection, warm / R0")]
    assert goal.endswith("MISSED")
    assert document(results, wanted)["goals"][0]["is_met"] is False


def test_a_disturbed_lot_does_not_count() -> None:
    assert undisturbed([5.0, 5.0, 5.0, 5.0, 90.0, 70.0, 5.0, 60.0]) == 5.0
