"""`just bench` as a whole, much too short for its figures to mean anything."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
SHORT = ["--rounds", "1", "--seconds", "0.2", "--sessions", "1000"]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> "tuple[subprocess.CompletedProcess[str], Path]":
    """One run, and the file that it wrote."""
    file = tmp_path_factory.mktemp("bench") / "figures.json"
    names = ["--only", "introspection", "--only", "refresh", "--only", "sessions"]
    command = [sys.executable, "-m", "deploy.bench", *names, *SHORT, "--json", str(file)]
    run = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False, timeout=300)
    assert run.returncode in {0, 1}, run.stderr
    return run, file


def test_every_figure_is_shown_beside_its_goal(done: "tuple[subprocess.CompletedProcess[str], Path]") -> None:
    run, _ = done
    rows = [line.split("  ")[0] for line in run.stdout.splitlines()]
    assert {"R0", "introspection, warm", "introspection, cold", "refresh"} <= {*rows}
    assert {"introspection, warm / R0", "introspection, cold / R0", "refresh / R0"} <= {*rows}
    assert "1,000" in run.stdout


def test_a_missed_goal_is_the_code_of_the_end(done: "tuple[subprocess.CompletedProcess[str], Path]") -> None:
    run, file = done
    missed = [goal["goal"] for goal in json.loads(file.read_text())["goals"] if goal["is_met"] is False]
    assert len(missed) == run.stdout.count("MISSED")
    assert run.returncode == bool(missed)


def test_each_request_cost_redis_what_it_should(done: "tuple[subprocess.CompletedProcess[str], Path]") -> None:
    steps = json.loads(done[1].read_text())["steps"]
    [warm], [cold] = steps["introspection, warm"], steps["introspection, cold"]
    assert warm["commands"] > 1, "the live session is looked up on every call"
    assert cold["commands"] > 1
    assert warm["cpu"] > 0
    assert warm["memory"] > 0
