"""One measurement: what came back, and what it cost the service's processes and Redis."""

from dataclasses import dataclass
from typing import Any

import msgspec
from redis import Redis

from deploy.bench.load import Answers, BenchError, Load, run, same_kind
from deploy.bench.servers import Program


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """What one run showed. `rate` is per second, `p50` and `p99` are milliseconds, `cpu` and `redis_cpu` microseconds
    per request; `commands` (those within scripts too) and `reads` (packets that Redis read) are per request; `memory`
    is MiB of the largest worker. What does not apply is 0."""

    rate: float
    p50: float = 0.0
    p99: float = 0.0
    cpu: float = 0.0
    commands: float = 0.0
    reads: float = 0.0
    redis_cpu: float = 0.0
    memory: float = 0.0


class Size(msgspec.Struct, frozen=True):
    """So many sessions: bytes for each of them, and microseconds per call of each script."""

    sessions: int
    bytes: float
    open: float
    inspect: float
    rotate: float


@dataclass(frozen=True)
class Meter:
    """Measures loads on one program over one Redis."""

    program: Program
    redis: "Redis"

    def sample(self, load: Load, seconds: float, checked: Answers) -> Sample:
        """Puts a load on. Raises `BenchError` when the answers are not like those that were read before."""
        cpu, store = self.program.cpu_seconds(), _RedisUse.of(self.redis)
        answers = run(load, seconds)
        used, spent = self.program.cpu_seconds() - cpu, _RedisUse.of(self.redis).since(store)
        if not same_kind(answers, checked):
            raise BenchError(f"answers of {answers.size:.0f} bytes where right ones had {checked.size:.0f}")
        each = 1 / answers.requests
        return Sample(
            rate=answers.rate,
            p50=answers.p50,
            p99=answers.p99,
            cpu=used * 1e6 * each,
            commands=spent.commands * each,
            reads=spent.reads * each,
            redis_cpu=spent.cpu * 1e6 * each,
            memory=self.program.worker_mib(),
        )


@dataclass(frozen=True)
class _RedisUse:
    commands: int
    reads: int
    cpu: float

    @classmethod
    def of(cls, redis: "Redis") -> "_RedisUse":
        told: dict[str, Any] = redis.info("everything")
        cpu = told["used_cpu_user"] + told["used_cpu_sys"]
        return cls(told["total_commands_processed"], told["total_reads_processed"], cpu)

    def since(self, before: "_RedisUse") -> "_RedisUse":
        own = 1  # the INFO that told it
        return _RedisUse(self.commands - before.commands - own, self.reads - before.reads - own, self.cpu - before.cpu)
