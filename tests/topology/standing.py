"""What stands for the tests of this folder: a shape of Redis by its name, and a worker of the service before it."""

import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from service.embedded.packages import valkey_program
from service.settings import load
from service.wiring import Services, build
from tests.conftest import Outbox
from tests.topologies import Settings, Topology, cluster, sentinel, single

DURABLE = {"appendonly": "yes", "maxmemory-policy": "noeviction"}
"""What production sets, as far as it shows here."""
PROMPT = {"VESTIBULE_REDIS_TIMEOUT": "0.5", "VESTIBULE_KEY_REFRESH": "0.3"}
"""For outages: the fourfold of half of production's patience is still patience on a busy machine."""
STARTS: dict[str, Callable[[Path, Path, Settings], AbstractContextManager[Topology]]] = {
    "single": single,
    "sentinel": sentinel,
    "cluster": partial(cluster, node_timeout=5000),
}


@dataclass(frozen=True)
class Standing:
    """A topology and where it stands."""

    shape: str
    topology: Topology


def program(name: str) -> Path:
    """`valkey`, the bundled one, or `redis-7`, where it is installed."""
    if name == "valkey":
        return valkey_program()
    found = shutil.which("redis-server")
    if found is None:
        pytest.skip("no redis-server is installed")
    return Path(found)


@contextmanager
def standing(name: str, folder: Path) -> Iterator[Standing]:
    """`single on valkey`, `cluster on redis-7` and so on; a cluster here has no replicas."""
    shape, _, server = name.partition(" on ")
    with STARTS[shape](program(server), folder, DURABLE) as topology:
        yield Standing(shape, topology)


@asynccontextmanager
async def worker_before(
    topology: Topology, environ: dict[str, str], outbox: Outbox, **other: str
) -> AsyncIterator[Services]:
    """A running instance as `vestibule serve` wires it, except for the mail."""
    settings = load({**environ, **other, "REDIS_URL": topology.url})
    services = build(settings, mail=lambda _: outbox)
    async with services.running():
        yield services
