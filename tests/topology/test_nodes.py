"""How the store finds its node: scripts a node has never seen, nodes that refuse, move and go, and a clean end."""

import asyncio
import gc
import secrets
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from redis.crc import key_slot

from service.embedded.packages import valkey_program
from service.errors import Unavailable
from service.settings import load
from service.store.redis import PREFIX, RedisStore
from tests.tokens.hearing import eventually
from tests.topologies import HOST, Cluster, Node, Sentinels, Topology, cluster, free_ports, sentinel, single, until
from tests.topology.standing import DURABLE, PROMPT, STARTS

MINUTE = 60_000
PATIENCE = 20.0


@asynccontextmanager
async def store_of(url: str, environ: dict[str, str]) -> AsyncIterator[RedisStore]:
    store = RedisStore.connect(load({**environ, **PROMPT, "REDIS_URL": url}))
    try:
        yield store
    finally:
        await store.close()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with cluster(valkey_program(), tmp_path_factory.mktemp("cluster"), DURABLE, node_timeout=1000) as topology:
        yield topology


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Topology]:
    with single(valkey_program(), tmp_path_factory.mktemp("single"), DURABLE) as topology:
        yield topology


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sentinels]:
    with sentinel(valkey_program(), tmp_path_factory.mktemp("sentinel"), DURABLE) as topology:
        yield topology


def new_key() -> str:
    return f"test:{secrets.token_hex(6)}"


async def test_a_slot_moves_to_a_node_that_has_never_seen_the_script(shared: Cluster, environ: dict[str, str]) -> None:
    key = new_key()
    slot, here = key_slot((PREFIX + key).encode()), shared.primary(PREFIX + key)
    there = next(node for node in shared.nodes if node is not here)
    async with store_of(shared.url, environ) as store:
        assert await store.run("count", key, MINUTE) == 1
        ours, theirs = str(here.ask("CLUSTER", "MYID")), str(there.ask("CLUSTER", "MYID"))
        there.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", ours)
        here.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", theirs)
        here.ask("MIGRATE", HOST, there.port, PREFIX + key, 0, 2000)
        there.ask("SCRIPT", "FLUSH")
        assert await store.run("count", key, MINUTE) == 2  # ASK
        assert await store.get(key) == b"2"
        there.ask("SCRIPT", "FLUSH")
        for node in (there, here, *shared.nodes):
            node.ask("CLUSTER", "SETSLOT", slot, "NODE", theirs)
        assert await store.run("count", key, MINUTE) == 3  # MOVED
        assert await store.fields(new_key()) == {}


async def test_keys_of_which_one_has_moved_are_no_outage_of_the_others(
    shared: Cluster, environ: dict[str, str]
) -> None:
    """A command on both is refused while they are apart, and answered when they are together again."""
    tag = secrets.token_hex(4)
    moved, stays = f"{{{tag}}}:moved", f"{{{tag}}}:stays"
    slot, here = key_slot((PREFIX + moved).encode()), shared.primary(PREFIX + moved)
    there = next(node for node in shared.nodes if node is not here)
    ours, theirs = str(here.ask("CLUSTER", "MYID")), str(there.ask("CLUSTER", "MYID"))
    async with store_of(shared.url, environ) as store:
        for key in (moved, stays):
            await store.put(key, 1, 60)
        there.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", ours)
        here.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", theirs)
        here.ask("MIGRATE", HOST, there.port, PREFIX + moved, 0, 2000)
        assert [await store.get(key) for key in (moved, stays)] == [b"1", b"1"]
        with pytest.raises(Unavailable, match="TRYAGAIN"):
            await store.run("inspect", (moved, stays), "no session", 0, MINUTE)
        here.ask("MIGRATE", HOST, there.port, PREFIX + stays, 0, 2000)
        await store.delete(moved)
        await store.delete(stays)
        for node in (there, here, *shared.nodes):
            node.ask("CLUSTER", "SETSLOT", slot, "NODE", theirs)
        assert (await store.run("inspect", (moved, stays), "no session", 0, MINUTE))[0] == b"unknown"


async def test_a_cluster_that_is_down_is_an_outage_and_comes_back(tmp_path: Path, environ: dict[str, str]) -> None:
    with cluster(valkey_program(), tmp_path, DURABLE, node_timeout=500) as topology:
        first, *others = topology.nodes
        async with store_of(topology.url, environ) as store, store_of(topology.url, environ) as late:
            await store.put("kept", 1, 60)
            for node in others:
                node.kill()
            await asyncio.to_thread(until, partial(_is_down, first))
            for key in (new_key() for _ in range(12)):
                with pytest.raises(Unavailable):
                    await store.put(key, 1, 60)
                with pytest.raises(Unavailable):
                    await late.put(key, 1, 60)
            for node in others:
                node.start()
            await eventually(lambda: _takes(store), True)
            await eventually(lambda: _takes(late), True)


async def test_the_keys_of_the_other_nodes_go_on(tmp_path: Path, environ: dict[str, str]) -> None:
    """Also for a worker that starts while one node is gone, where the cluster may serve a part of its slots."""
    partly = {**DURABLE, "cluster-require-full-coverage": "no"}
    with cluster(valkey_program(), tmp_path, partly, node_timeout=500) as topology:
        gone, *others = topology.nodes
        async with store_of(topology.url, environ) as store, store_of(topology.url, environ) as late:
            await store.put("kept", 1, 60)
            of_it = [key for key in (new_key() for _ in range(40)) if topology.primary(PREFIX + key) is gone]
            of_others = [key for key in (new_key() for _ in range(40)) if topology.primary(PREFIX + key) is not gone]
            gone.kill()
            await asyncio.to_thread(until, lambda: all(_misses_one(node) for node in others))
            for one in (store, late):
                await eventually(partial(_all_taken, one, of_others), True)
                with pytest.raises(Unavailable):
                    await one.put(of_it[0], 1, 60)
                assert await _all_taken(one, of_others)


@pytest.mark.parametrize("shape", ["sentinel", "cluster"])
async def test_a_user_of_its_own_needs_these_keys_and_this_channel(
    shape: str, tmp_path: Path, environ: dict[str, str]
) -> None:
    """Of the servers; Sentinels are asked by name and password only where the URL has such for them."""
    user = {**DURABLE, "user": f"vestibule on >s3cret ~{PREFIX}* &{PREFIX}* +@all"}
    with STARTS[shape](valkey_program(), tmp_path, user) as topology:
        url = topology.url.replace("://", "://vestibule:s3cret@")
        async with store_of(url, environ) as store:
            await _used(store)
        async with store_of(url.replace("s3cret", "wrong"), environ) as store:
            with pytest.raises(Unavailable):
                await store.put(new_key(), 1, 60)


async def test_nodes_whose_addresses_change_are_found_again(tmp_path: Path, environ: dict[str, str]) -> None:
    """First one, of which the others know; then all of them, and of the addresses that are known one in the URL is
    left."""
    last_resort, *others = free_ports(4)
    with cluster(valkey_program(), tmp_path, DURABLE) as topology:
        async with store_of(f"{topology.url},{HOST}:{last_resort}", environ) as store:
            assert await _takes(store)
            _move(topology.nodes[0], others[0])
            await eventually(lambda: _takes(store), True)
            for node, port in zip(topology.nodes, (last_resort, *others[1:]), strict=True):
                _move(node, port)
            await eventually(lambda: _takes(store), True)


async def test_a_server_that_became_a_replica_is_an_outage_until_it_is_none(
    tmp_path: Path, environ: dict[str, str]
) -> None:
    with single(valkey_program(), tmp_path, DURABLE) as topology:
        node = topology.primary()
        async with store_of(topology.url, environ) as store:
            await store.put("kept", 1, 60)
            node.ask("REPLICAOF", HOST, free_ports(1)[0])
            with pytest.raises(Unavailable, match="READONLY"):
                await store.put("kept", 2, 60)
            node.ask("REPLICAOF", "NO", "ONE")
            await eventually(lambda: _takes(store), True)


@pytest.mark.parametrize("shape", ["single", "sentinel", "cluster"])
async def test_nothing_is_left_open(
    shape: str,
    *,
    alone: Topology,
    watched: Sentinels,
    shared: Cluster,
    environ: dict[str, str],
    recwarn: pytest.WarningsRecorder,
) -> None:
    gc.collect()  # what others left behind is not ours to answer for
    recwarn.clear()
    warnings.simplefilter("always", ResourceWarning)
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, told: complaints.append(told))
    topology = {"single": alone, "sentinel": watched, "cluster": shared}[shape]
    try:
        await _come_and_go(topology, environ)
        await asyncio.sleep(0)
        gc.collect()
    finally:
        asyncio.get_running_loop().set_exception_handler(None)
    assert [str(each.message) for each in recwarn if each.category is ResourceWarning] == []
    assert complaints == []


@pytest.mark.parametrize("goes", [Node.kill, Node.freeze], ids=["dies", "hangs"])
async def test_who_listens_to_a_node_that_goes_is_told(
    goes: Callable[[Node], None], tmp_path: Path, environ: dict[str, str]
) -> None:
    with cluster(valkey_program(), tmp_path, DURABLE, replicas=True, node_timeout=500) as topology:
        async with store_of(topology.url, environ) as store:
            heard = asyncio.Event()
            listening = asyncio.create_task(_listen(store, heard))
            await eventually(lambda: _told(store, heard), True)
            listened_to = int((await store.info())["tcp_port"])
            goes(next(node for node in topology.nodes if node.port == listened_to))
            heard.clear()
            await eventually(lambda: _takes(store), True)
            with pytest.raises(Unavailable):
                await asyncio.wait_for(listening, PATIENCE)
            listening = asyncio.create_task(_listen(store, heard))
            await eventually(lambda: _told(store, heard), True)
            listening.cancel()
            await asyncio.wait([listening])


async def _come_and_go(topology: Topology, environ: dict[str, str]) -> None:
    async with store_of(topology.url, environ) as store:
        await _used(store)
        _cut(topology)
        await eventually(lambda: _takes(store), True)
        await _used(store)


async def _listen(store: RedisStore, heard: asyncio.Event) -> None:
    async for _ in store.announcements("tests"):
        heard.set()


async def _told(store: RedisStore, heard: asyncio.Event) -> bool:
    await store.announce("tests")
    await asyncio.sleep(0)
    return heard.is_set()


async def _used(store: RedisStore) -> None:
    """In every way there is."""
    heard = asyncio.Event()
    listening = asyncio.create_task(_listen(store, heard))
    await eventually(lambda: _told(store, heard), True)
    listening.cancel()
    await asyncio.wait([listening])
    await store.info()
    await store.identity()
    assert await _takes(store)


async def _takes(store: RedisStore) -> bool:
    """Whether every node is written to, as far as chance goes: 24 keys."""
    return await _all_taken(store, [new_key() for _ in range(24)])


async def _all_taken(store: RedisStore, keys: list[str]) -> bool:
    try:
        for key in keys:
            await store.put(key, 1, 60)
    except Unavailable:
        return False
    return True


def _misses_one(node: Node) -> bool:
    return "cluster_slots_fail:0" not in str(node.ask("CLUSTER", "INFO"))


def _is_down(node: Node) -> bool:
    return "cluster_state:fail" in str(node.ask("CLUSTER", "INFO"))


def _move(node: Node, port: int) -> None:
    """To another port, and whoever is connected has to connect anew."""
    node.ask("CONFIG", "SET", "port", port)
    node.port = port
    _cut_off(node)


def _cut(topology: Topology) -> None:
    for node in topology.nodes:
        _cut_off(node)


def _cut_off(node: Node) -> None:
    for kind in ("normal", "pubsub"):
        node.ask("CLIENT", "KILL", "TYPE", kind)
