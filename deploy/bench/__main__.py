"""`just bench`: measures the service beside a bare route of its framework, and judges the figures.

Everything runs on this machine, on loopback and in a folder that goes away: the bundled servers, `vestibule serve`,
the yardstick, the load. The code of the end is 1 when a goal is missed,
and 2 when the figures are worth nothing.
"""

import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import click
import msgspec
from redis import Redis

from deploy.bench import crowd
from deploy.bench.goals import CORES_FOR_TWO_WORKERS, cores, goals, verdicts
from deploy.bench.house import furnish
from deploy.bench.load import BenchError
from deploy.bench.rounds import Results, in_turn, say
from deploy.bench.servers import service, stores, yardstick
from deploy.bench.steps import STEPS, Bench, sessions_for
from deploy.bench.table import document, lines
from service import logs
from service.settings import load
from service.store.schema import migrate

PEOPLE = 16
MANY, QUICK = 1_000_000, 20_000
NAMES = [*STEPS, "sessions"]
USELESS = 2
SIGN_IN = {"login", "flood"}


@click.command(help=__doc__)
@click.option("--quick", is_flag=True, help=f"Fewer and shorter rounds, and {QUICK:,} sessions.")
@click.option("--only", multiple=True, type=click.Choice(NAMES), help="Only this; repeatable.")
@click.option("--rounds", type=click.IntRange(1, 100), help="How often everything is measured.")
@click.option("--seconds", type=click.FloatRange(0.1, 60), help="How long each measurement takes.")
@click.option("--sessions", type=click.IntRange(1000, 100_000_000), help=f"The most at once; {MANY:,} by default.")
@click.option("--json", "file", type=click.Path(dir_okay=False, path_type=Path), help="Write all figures there.")
def main(
    only: tuple[str, ...], *, quick: bool, rounds: int | None, seconds: float | None, sessions: int | None, file: Path
) -> None:
    logs.configure(readable=True, level="error")
    rounds, seconds, sessions = (
        rounds or (4 if quick else 5),
        seconds or (1 if quick else 4),
        sessions or (QUICK if quick else MANY),
    )
    try:
        with tempfile.TemporaryDirectory(prefix="vestibule-bench-") as folder:
            results = measured(Path(folder), only or tuple(NAMES), rounds=rounds, seconds=seconds, sessions=sessions)
    except BenchError as error:
        say(f"bench: {error}")
        sys.exit(USELESS)
    judged = verdicts(results, goals(cores()))
    print(*lines(results, judged), sep="\n")
    if file:
        file.write_bytes(msgspec.json.format(msgspec.json.encode(document(results, judged))))
    sys.exit(1 if any(verdict.is_met is False for verdict in judged) else 0)


def measured(folder: Path, names: tuple[str, ...], *, rounds: int, seconds: float, sessions: int) -> Results:
    """Starts everything, measures, and ends everything."""
    if cores() < CORES_FOR_TWO_WORKERS:
        say(f"{cores()} cores: the load generator, Redis and the workers share them")
    with ExitStack() as running:
        say("starting the servers")
        bare = running.enter_context(yardstick(folder))
        environ = running.enter_context(stores(folder))
        settings = load(environ)
        migrate(settings.database_url)
        program = running.enter_context(service(environ, folder))
        two = running.enter_context(service(environ, folder, workers=2)) if "workers" in names else None
        say("making people and sessions")
        house = furnish(settings, sessions_for(rounds), PEOPLE if SIGN_IN & {*names} else 0)
        say("waiting for the service and the yardstick")
        for one in filter(None, (bare, program, two)):
            one.wait()
        redis = Redis.from_url(settings.redis_url)
        bench = Bench(program, two, bare, redis, house, folder, settings, settings.hash_slots or cores())
        steps = {step.name: step for name in names if name in STEPS for step in STEPS[name](bench)}
        results = in_turn(bench.yardstick_step(), list(steps.values()), rounds, seconds) if steps else Results([], {})
        if "sessions" in names:
            results.sizes.extend(crowd.measured(redis, settings, sessions))
        return results


if __name__ == "__main__":
    main()
