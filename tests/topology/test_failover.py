"""A primary dies, hangs or hands a slot over while people refresh, are introspected and sign out.

Nobody is signed out by it, nobody who signed out comes back, and it ends by itself.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest
from redis.crc import key_slot

from service.embedded.packages import valkey_program
from service.wiring import Services
from tests.conftest import Introspector, Outbox
from tests.tokens.acting import account_of
from tests.topologies import HOST, Cluster, Node, Sentinels, cluster, sentinel, until
from tests.topology.crowd import Crowd, crowd
from tests.topology.standing import DURABLE, PROMPT, worker_before

BACK_WITHIN = 30.0
"""Seconds from the end of the outage; an idle machine needs three, most of them for the vote."""
DEAD_WITHIN = 20.0


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sentinels]:
    with sentinel(valkey_program(), tmp_path_factory.mktemp("sentinel"), DURABLE, down_after=700) as topology:
        yield topology


@pytest.fixture
async def before_sentinel(
    introspector: Introspector, watched: Sentinels, environ: dict[str, str], outbox: Outbox
) -> AsyncIterator[Services]:
    async with worker_before(watched, environ, outbox, **PROMPT) as running:
        yield running


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("cluster")
    with cluster(valkey_program(), folder, DURABLE, replicas=True, node_timeout=1000) as topology:
        yield topology


@pytest.fixture
async def before_cluster(
    introspector: Introspector, shared: Cluster, environ: dict[str, str], outbox: Outbox
) -> AsyncIterator[Services]:
    async with worker_before(shared, environ, outbox, **PROMPT) as running:
        yield running


@pytest.fixture
async def patient_before_cluster(
    introspector: Introspector, shared: Cluster, environ: dict[str, str], outbox: Outbox
) -> AsyncIterator[Services]:
    """For what is no outage: a busy machine must not look like one."""
    async with worker_before(shared, environ, outbox) as running:
        yield running


async def test_a_dead_primary_signs_nobody_out_and_nobody_in(
    before_sentinel: Services, watched: Sentinels, introspector: Introspector
) -> None:
    old = watched.primary()
    async with crowd(before_sentinel, introspector) as people:
        await people.go_on(1)
        _lose_what_follows(old, watched.replicas())
        await people.sign_out(20)
        old.kill()
        _thaw(watched.nodes, but=old)
        await elsewhere(watched, old)
        await people.recovered(BACK_WITHIN)
        await all_dead(people)
        old.start()  # as a replica, soon
        await asyncio.to_thread(until, lambda: old in watched.replicas())
        await people.go_on(0.5)
        await all_dead(people)
    assert ("logout", "204") in people.told


async def test_a_primary_that_hangs_for_eight_seconds_is_not_missed(
    before_sentinel: Services, watched: Sentinels, introspector: Introspector
) -> None:
    """It wakes up as one who believes to be the primary still."""
    old = watched.primary()
    async with crowd(before_sentinel, introspector) as people:
        await people.go_on(0.5)
        old.freeze()
        wakes = asyncio.get_running_loop().time() + 8
        try:
            await elsewhere(watched, old)
            await people.recovered(BACK_WITHIN)
            await people.go_on(wakes - asyncio.get_running_loop().time())
        finally:
            old.thaw()
        await asyncio.to_thread(until, lambda: old in watched.replicas())
        await people.go_on(0.5)
        await all_dead(people)


async def test_a_dead_node_of_a_cluster_signs_nobody_out_and_nobody_in(
    before_cluster: Services, shared: Cluster, introspector: Introspector
) -> None:
    async with crowd(before_cluster, introspector) as people:
        key = _key_of(people)
        old = shared.primary(key)
        await people.go_on(1)
        _lose_what_follows(old, shared.replicas(key))
        await people.sign_out(20)
        old.kill()
        _thaw(shared.nodes, but=old)
        await elsewhere(shared, old, key)
        await people.recovered(BACK_WITHIN)
        await all_dead(people)
        old.start()
        await asyncio.to_thread(until, lambda: old in shared.replicas(key))
        await people.go_on(0.5)
        await all_dead(people)


async def test_a_slot_that_moves_is_followed_without_one_refusal(
    patient_before_cluster: Services, shared: Cluster, introspector: Introspector
) -> None:
    async with crowd(patient_before_cluster, introspector) as people:
        key = _key_of(people)
        source = shared.primary(key)
        target = next(node for node in (shared.primary(name) for name in "abcdefgh") if node is not source)
        await people.go_on(0.3)
        people.told.clear()
        for here, there in ((source, target), (target, source)):
            await _move(key_slot(key.encode()), here, there, shared, people)
            await people.go_on(0.7)  # by then the map was read anew
        refusals = {pair: times for pair, times in people.told.items() if pair[1] == "503"}
        assert not refusals
        await all_dead(people)


async def _move(slot: int, here: Node, there: Node, shared: Cluster, people: Crowd) -> None:
    """As `valkey-cli --cluster reshard` does it, with people between any two steps."""
    ours, theirs = str(here.ask("CLUSTER", "MYID")), str(there.ask("CLUSTER", "MYID"))
    there.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", ours)
    here.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", theirs)
    await people.go_on(0.3)
    keys = here.ask("CLUSTER", "GETKEYSINSLOT", slot, 1000)
    assert isinstance(keys, list)
    for key in keys:
        here.ask("MIGRATE", HOST, there.port, key, 0, 2000)
        await people.sign_out(1)
    await people.go_on(0.3)
    for node in (there, here, *shared.nodes):
        if node.told("replication", "role") == "master":
            node.ask("CLUSTER", "SETSLOT", slot, "NODE", theirs)


def _lose_what_follows(primary: Node, replicas: list[Node]) -> None:
    """What is written from now on reaches nobody else."""
    for replica in replicas:
        replica.freeze()
    primary.ask("CLIENT", "KILL", "TYPE", "replica")


def _thaw(nodes: list[Node], *, but: Node) -> None:
    for node in nodes:
        if node is not but:
            node.thaw()


async def elsewhere(topology: Sentinels | Cluster, old: Node, key: str = "") -> None:
    """Waits for another primary."""

    def is_elsewhere() -> bool:
        try:
            found = topology.primary(key)
        except LookupError:
            return False
        return found is not old and found.told("replication", "role") == "master"

    await asyncio.to_thread(until, is_elsewhere)


async def all_dead(people: Crowd) -> None:
    """Within five seconds, and the patience of a busy machine."""
    assert people.dead
    loop = asyncio.get_running_loop()
    ends = loop.time() + DEAD_WITHIN
    alive = await people.dead_that_live()
    while alive and loop.time() < ends:
        alive = await people.dead_that_live()
    assert alive == 0


def _key_of(people: Crowd) -> str:
    """Where the sessions of one of them live."""
    return f"vestibule:sessions:{{{account_of(people.staying[0].access_token)}}}"
