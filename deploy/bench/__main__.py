"""`just bench`: measures the service beside a bare route of its framework, and judges the figures.

Everything runs on this machine, on loopback and in a folder that goes away: the bundled servers, `vestibule serve`,
the yardstick, the load. The code of the end is 1 when a goal is missed.
"""

import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import click
from redis import Redis

from deploy.bench.goals import GOALS
from deploy.bench.house import furnish
from deploy.bench.rounds import Results, Step, in_turn, say
from deploy.bench.servers import BenchError, service, stores, yardstick
from deploy.bench.steps import CHAINS, COLD_SESSIONS, STEPS, WARM_TOKENS, Bench
from deploy.bench.table import lines
from service import logs
from service.store.schema import migrate

PEOPLE = 16


@click.command(help=__doc__)
@click.option("--quick", is_flag=True, help="A short run: fewer rounds, shorter ones.")
@click.option("--only", multiple=True, type=click.Choice(list(STEPS)), help="Only this; repeatable.")
@click.option("--rounds", type=click.IntRange(1, 100), help="How often everything is measured.")
@click.option("--seconds", type=click.FloatRange(0.1, 60), help="How long each measurement takes.")
def main(quick: bool, only: tuple[str, ...], rounds: int | None, seconds: float | None) -> None:
    logs.configure(readable=True, level="warning")
    rounds, seconds = rounds or (3 if quick else 5), seconds or (2.0 if quick else 4.0)
    try:
        with tempfile.TemporaryDirectory(prefix="vestibule-bench-") as folder:
            results = measured(Path(folder), only or tuple(STEPS), rounds, seconds)
    except BenchError as error:
        raise SystemExit(f"bench: {error}") from None
    verdicts = [goal.judged(goal.values(results)) for goal in GOALS if goal.name in results.steps]
    for line in lines(results, verdicts):
        print(line)
    sys.exit(1 if any(verdict.is_met is False for verdict in verdicts) else 0)


def measured(folder: Path, names: tuple[str, ...], rounds: int, seconds: float) -> Results:
    """Starts everything, measures, and ends everything."""
    with ExitStack() as running:
        say("starting the servers")
        bare = running.enter_context(yardstick(folder))
        settings = running.enter_context(stores(folder))
        migrate(settings["DATABASE_URL"])
        program = running.enter_context(service(settings, folder))
        say("making people and sessions")
        house = furnish(settings, 1 + COLD_SESSIONS + 4 * WARM_TOKENS + (rounds + 1) * CHAINS, PEOPLE)
        for one in (bare, program):
            one.wait()
        bench = Bench(program, bare, Redis.from_url(settings["REDIS_URL"]), house, folder, slots=2)
        steps: list[Step] = [step for name in names for step in STEPS[name](bench)]
        return in_turn(bench.yardstick_step(), steps, rounds, seconds)


if __name__ == "__main__":
    main()
