"""The three shapes of Redis stand as promised: plain redis-py works on them, and a dead primary is replaced."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from redis import Redis, RedisError, ResponseError
from redis.cluster import ClusterNode, RedisCluster
from redis.sentinel import Sentinel

from service.embedded.packages import valkey_program
from tests.topologies import HOST, MASTER, Cluster, Sentinels, cluster, free_ports, sentinel, single, until

LEFT_BEHIND = """
import sys, time
from pathlib import Path
from tests.topologies import single
with single(Path(sys.argv[1]), Path(sys.argv[2])) as topology:
    topology.nodes[0].freeze()
    print(topology.nodes[0].pid, flush=True)
    time.sleep(60)
"""


@pytest.fixture
def valkey() -> Path:
    return valkey_program()


@pytest.fixture
def redis_7() -> Path:
    found = shutil.which("redis-server")
    if found is None:
        pytest.skip("no redis-server is installed")
    return Path(found)


@pytest.fixture
def watched(valkey: Path, tmp_path: Path) -> Iterator[Sentinels]:
    with sentinel(valkey, tmp_path, down_after=500) as topology:
        yield topology


@pytest.fixture
def shared(valkey: Path, tmp_path: Path) -> Iterator[Cluster]:
    with cluster(valkey, tmp_path, replicas=True, node_timeout=1000) as topology:
        yield topology


def test_a_single_node_takes_its_settings_and_comes_back_with_what_it_wrote(valkey: Path, tmp_path: Path) -> None:
    with single(valkey, tmp_path, {"appendonly": "yes", "appendfsync": "always"}) as topology:
        with Redis.from_url(topology.url) as client:
            client.set("kept", "yes")
        node = topology.primary()
        node.kill()
        assert not node.answers()
        node.start()
        node.await_answer()
        with Redis.from_url(topology.url) as client:
            assert client.get("kept") == b"yes"
    assert not psutil.pid_exists(node.pid)


def test_sentinels_replace_a_dead_primary(watched: Sentinels) -> None:
    old = watched.primary()
    writes = _by_sentinel(watched)
    assert _takes(writes, "before")
    until(lambda: all(_has(port, "before") for port in _ports(watched) if port != old.port))
    old.kill()
    until(lambda: watched.primary() is not old and _takes(writes, "after"))
    assert watched.primary().ask("GET", "before") == "2"


def test_a_cluster_sends_a_key_to_its_node_and_replaces_a_dead_one(shared: Cluster) -> None:
    old = shared.primary("a key")
    other = next(node for node in shared.nodes[:3] if node is not old)
    with pytest.raises(ResponseError, match=rf"{HOST}:{old.port}"), other.client() as client:
        client.execute_command("GET", "a key")
    client = _by_cluster(shared)
    assert _takes(client, "a key")
    client.close()
    [replica] = shared.replicas("a key")
    old.kill()
    until(lambda: _promoted(shared, "a key") == replica.port)
    client = _by_cluster(shared, avoiding=old.port)
    until(lambda: _takes(client, "a key"))
    client.close()


def test_a_frozen_node_hangs_until_it_thaws(valkey: Path, tmp_path: Path) -> None:
    with single(valkey, tmp_path) as topology:
        node = topology.primary()
        node.freeze()
        assert not node.answers()
        node.thaw()
        until(node.answers)


def test_redis_7_stands_in_all_three_shapes(redis_7: Path, tmp_path: Path) -> None:
    for number, shape in enumerate((single, sentinel, cluster)):
        folder = tmp_path / str(number)
        folder.mkdir()
        with shape(redis_7, folder) as topology:
            assert topology.primary("x").told("server", "redis_version").startswith("7.")
            assert topology.primary("x").ask("SET", "x", "1")
            assert len(topology.replicas("x")) == (2 if shape is sentinel else 0)
            pids = [node.pid for node in topology.servers()]
        assert not any(psutil.pid_exists(pid) for pid in pids)


def test_a_frozen_node_dies_with_the_process_that_started_it(valkey: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", LEFT_BEHIND, str(valkey), str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1]) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert _runs(pid)
        parent.kill()
    until(lambda: not _runs(pid))


def test_free_ports_are_as_many_as_asked_for() -> None:
    assert len(set(free_ports(12))) == 12


def _by_sentinel(topology: Sentinels) -> Redis:
    watchers = [(HOST, node.port) for node in topology.sentinels]
    found = Sentinel(watchers, sentinel_kwargs={"socket_timeout": 5}, socket_timeout=5)  # type: ignore[no-untyped-call]
    client: Redis = found.master_for(MASTER)  # type: ignore[no-untyped-call]
    return client


def _by_cluster(topology: Cluster, avoiding: int = 0) -> RedisCluster:
    ports = [port for port in _ports(topology) if port != avoiding]
    nodes = [ClusterNode(HOST, port) for port in ports]  # type: ignore[no-untyped-call]
    return RedisCluster(startup_nodes=nodes, socket_timeout=5)


def _ports(topology: Sentinels | Cluster) -> list[int]:
    return [node.port for node in topology.nodes]


def _has(port: int, key: str) -> bool:
    try:
        with Redis(host=HOST, port=port, socket_timeout=0.5) as client:
            return bool(client.exists(key))
    except RedisError:
        return False


def _takes(client: Redis | RedisCluster, key: str) -> bool:
    try:
        return bool(client.set(key, "2"))
    except RedisError:
        return False


def _promoted(topology: Cluster, key: str) -> int:
    try:
        return topology.primary(key).port
    except LookupError:
        return 0


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
