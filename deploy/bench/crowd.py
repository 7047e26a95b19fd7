"""Many sessions in Redis: what one takes, and whether the scripts care how many there are.

Sessions are opened by the service's own script, five to an account. What they are called follows from their number, so
that nothing has to be remembered about a million of them.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from secrets import SystemRandom
from statistics import quantiles
from typing import Any
from uuid import UUID

from redis import Redis

from deploy.bench.load import BenchError
from deploy.bench.measure import Size
from deploy.bench.rounds import say
from service.settings import Settings
from service.store.redis import PREFIX, source
from service.tokens.clients import DEFAULT_FRONT_END
from service.tokens.healing import USE_NOTED_EVERY
from service.tokens.sessions import TOMBSTONE

PER_ACCOUNT = 5
SMALLEST = 1000
CALLS = 20_000
"""Of each script at each size."""
AT_ONCE = 500
LOT = 100
LONGEST_REWRITE = 60.0
PROBES = 1 << 62
"""Where the numbers of sessions begin that are opened to be measured, and removed."""
DETAIL = "account\npwd"


def sizes(most: int) -> list[int]:
    """A thousand, ten thousand and so on, up to the number itself."""
    steps = [SMALLEST]
    while steps[-1] * 10 < most:
        steps.append(steps[-1] * 10)
    return [step for step in steps if step < most] + [most]


def undisturbed(times: Iterable[float]) -> float:
    """The quarter of the way up: what else the machine does only ever adds, and not to every lot."""
    return quantiles(times, n=4)[0]


def measured(redis: "Redis", settings: Settings, most: int) -> list[Size]:
    """Fills Redis up to so many sessions, and looks at each size on the way."""
    crowd = _Crowd(redis, settings)
    crowd.warm_up()
    seen = []
    for size in sizes(most):
        crowd.grow(size)
        seen.append(crowd.look())
        say(f"{size:,} sessions: {seen[-1].bytes:.0f} bytes each")
    return seen


@dataclass
class _Crowd:
    redis: "Redis"
    settings: Settings
    sessions: int = 0
    generations: defaultdict[int, int] = field(default_factory=lambda: defaultdict(int))

    def __post_init__(self) -> None:
        self._digests = {name: self.redis.script_load(source(name)) for name in ("open", "inspect", "rotate")}
        self._idle, self._absolute, self._grace, self._lost = (
            int(one.total_seconds() * 1000)
            for one in (
                self.settings.session_idle,
                self.settings.session_absolute,
                self.settings.rotation_grace,
                self.settings.lost_answer_window,
            )
        )
        self._empty = self._used()

    def warm_up(self) -> None:
        """Each script a little, on sessions that go again."""
        self._open_and_remove(SMALLEST)
        self._empty = self._used()

    def grow(self, size: int) -> None:
        """Opens sessions until there are so many."""
        for _ in self._run("open", range(self.sessions, size), self._opening):
            pass
        self.sessions = size

    def look(self) -> Size:
        """What each of them takes, and what the scripts do."""
        self._let_it_write()
        each = (self._used() - self._empty) / self.sessions
        opening = self._open_and_remove(CALLS // 4)
        some = [SystemRandom().randrange(self.sessions) for _ in range(CALLS)]
        rotating = undisturbed(self._times("rotate", some, self._rotating, b"rotated"))
        for _ in self._run("inspect", some, self._inspecting):  # the first sight of a generation is written down
            pass
        inspecting = undisturbed(self._times("inspect", some, self._inspecting, b"live"))
        return Size(self.sessions, each, opening, inspecting, rotating)

    def _open_and_remove(self, count: int) -> float:
        """Microseconds per opening; the size stays what it is."""
        took: list[float] = []
        for begin in range(PROBES, PROBES + count, AT_ONCE):
            some = range(begin, begin + AT_ONCE)
            took += self._times("open", some, self._opening)
            self.redis.unlink(*{_key(number) for number in some})
        return undisturbed(took)

    def _times(
        self, script: str, numbers: Sequence[int], words: Callable[[int], tuple[Any, ...]], expect: bytes = b""
    ) -> Iterator[float]:
        """Microseconds per call, as Redis counts them, of one lot after the other. Raises `BenchError` for an answer
        other than expected."""
        for begin in range(0, len(numbers), LOT):
            lot, before = numbers[begin : begin + LOT], self._spent()
            for answer in self._run(script, lot, words):
                if expect and answer[0] != expect:
                    raise BenchError(f"{script} answered {answer[0]!r}")
            yield (self._spent() - before) / len(lot)

    def _run(self, script: str, numbers: Sequence[int], words: Callable[[int], tuple[Any, ...]]) -> Iterator[Any]:
        for begin in range(0, len(numbers), AT_ONCE):
            pipeline = self.redis.pipeline(transaction=False)
            for number in numbers[begin : begin + AT_ONCE]:
                pipeline.evalsha(self._digests[script], *words(number))
            yield from pipeline.execute()

    def _opening(self, number: int) -> tuple[Any, ...]:
        lives = self._idle, self._absolute, self.settings.sessions_per_account, TOMBSTONE
        return (1, _key(number), _sid(number), *lives, _sid(-number), DEFAULT_FRONT_END, DETAIL, "", 0)

    def _inspecting(self, number: int) -> tuple[Any, ...]:
        denial = f"{PREFIX}denied:{{{_account(number)}}}:0.{number}"
        return 2, _key(number), denial, _sid(number), self.generations[number], USE_NOTED_EVERY

    def _rotating(self, number: int) -> tuple[Any, ...]:
        presented = self.generations[number]
        self.generations[number] += 1
        windows = self._grace, self._lost, self._idle
        return 1, _key(number), _sid(number), presented, DEFAULT_FRONT_END, *windows

    def _let_it_write(self) -> None:
        """Waits for a rewrite of the append-only file, while which every page that is written to is copied."""
        until = time.monotonic() + LONGEST_REWRITE
        while self.redis.info("persistence")["aof_rewrite_in_progress"] and time.monotonic() < until:
            time.sleep(0.1)

    def _spent(self) -> int:
        return int(self.redis.info("commandstats")["cmdstat_evalsha"]["usec"])

    def _used(self) -> int:
        return int(self.redis.info("memory")["used_memory"])


def _account(number: int) -> UUID:
    return UUID(bytes=sha256(b"account %d" % (number // PER_ACCOUNT)).digest()[:16], version=4)


def _key(number: int) -> str:
    return f"{PREFIX}sessions:{{{_account(number)}}}"


def _sid(number: int) -> bytes:
    return sha256(b"session %d" % number).digest()[:16]
