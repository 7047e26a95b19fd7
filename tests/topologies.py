"""Redis or Valkey in its three shapes, on loopback: a single node, Sentinel, Cluster.

Every process is ours alone: it dies with us, frozen or not, and what ends it knows its pid. Call from the main thread
(see `service/embedded/processes.py`). Nothing here is asynchronous: the tests' own waiting is `until`.
"""

import fcntl
import os
import secrets
import signal
import socket
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from itertools import cycle, islice
from pathlib import Path

from redis import Redis, RedisError
from redis.backoff import NoBackoff
from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot
from redis.retry import Retry

from service.embedded import processes
from service.embedded.folders import ours

HOST = "127.0.0.1"
MASTER = "mymaster"
LIMIT = 60.0
"""Seconds that a start or a failover may take on a busy machine; an idle one needs two or three."""
PORTS = range(20000, 32000)
"""Below the ports that the kernel gives to outgoing connections."""
BLOCK = 500
"""How many of them one process has to itself."""
ANSWER_LIMIT = 5.0
"""Seconds that a node has for one answer on a busy machine."""

PERIOD = 500
"""Milliseconds between two looks of a sentinel (its own are 10 s and 2 s): an old primary is soon made a replica."""

Settings = Mapping[str, str]
"""Settings of the servers by name, on top of ours: `{"appendonly": "yes"}`."""
NOTHING: Settings = {}


@dataclass
class Node:
    """One server. After `kill` it can `start` again, on the same port and folder."""

    port: int
    command: Sequence[str | Path]
    log: Path
    child: processes.Child = field(init=False)

    @property
    def pid(self) -> int:
        return self.child.process.pid

    def start(self) -> None:
        """Starts without waiting for an answer."""
        self.child = processes.start(f"Node {self.port}", self.command, self.log, signal.SIGKILL, lambda: None)

    def await_answer(self) -> None:
        """Returns when it takes commands. Raises EmbeddedError, with the end of its log, if it never will."""
        self.child.await_answer(self.answers)

    def freeze(self) -> None:
        """Connections stay and hang."""
        self.child.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.child.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """At once, also when it is frozen or gone."""
        self.child.process.kill()
        self.child.process.wait()

    def client(self) -> Redis:
        """A plain connection that tries once; close it."""
        return self._client(ANSWER_LIMIT)

    def ask(self, *command: str | int) -> object:
        """The answer to one command as redis-py reads it. Raises RedisError."""
        with self.client() as client:
            answer: object = client.execute_command(*command)
            return answer

    def answers(self) -> bool:
        """Whether commands are taken now, within half a second."""
        with suppress(RedisError), self._client(0.5) as client:
            return bool(client.ping())
        return False

    def told(self, section: str, name: str) -> str:
        """A value of INFO, "" from one that does not answer."""
        with suppress(RedisError), self.client() as client:
            return str(client.info(section).get(name, ""))
        return ""

    def _client(self, patience: float) -> Redis:
        once = Retry(NoBackoff(), 0)
        return Redis(host=HOST, port=self.port, socket_timeout=patience, decode_responses=True, retry=once)


@dataclass
class Topology:
    """Running servers, and what the service calls them. Of a single node: the one."""

    url: str
    nodes: list[Node]

    def primary(self, key: str = "") -> Node:
        """Who takes the writes of a key. Raises LookupError while nobody does."""
        return self.nodes[0]

    def replicas(self, key: str = "") -> list[Node]:
        """Who follows the primary of a key, of those that answer."""
        primary = str(self.primary(key).port)
        return [node for node in self.nodes if node.told("replication", "master_port") == primary]

    def servers(self) -> list[Node]:
        """Every process."""
        return self.nodes


@dataclass
class Sentinels(Topology):
    """A primary and its replicas, and the sentinels that watch them."""

    sentinels: list[Node]

    def primary(self, key: str = "") -> Node:
        """Whom most of the sentinels that answer name."""
        votes = [port for sentinel in self.sentinels if (port := _named_by(sentinel))]
        if not votes:
            raise LookupError("no sentinel answers")
        return next(node for node in self.nodes if node.port == max(votes, key=votes.count))

    def servers(self) -> list[Node]:
        return [*self.nodes, *self.sentinels]


@dataclass
class Cluster(Topology):
    """Primaries that share the slots, and perhaps a replica of each."""

    def primary(self, key: str = "") -> Node:
        """Of those that answer and believe to own the slot, the one that was elected last."""
        slot = key_slot(key.encode())
        claims = {epoch: node for node in self.nodes if (epoch := _claim(node, slot)) is not None}
        if not claims:
            raise LookupError(f"nobody owns the slot {slot}")
        return claims[max(claims)]


@contextmanager
def single(program: Path, folder: Path, settings: Settings = NOTHING) -> Iterator[Topology]:
    """One node, empty and in memory unless the settings say otherwise."""
    [port] = free_ports(1)
    node = _server(program, folder, port, settings)
    with _running([node]):
        yield Topology(f"redis://{HOST}:{port}", [node])


@contextmanager
def sentinel(
    program: Path, folder: Path, settings: Settings = NOTHING, *, down_after: int = 1000
) -> Iterator[Sentinels]:
    """A primary, two replicas and three sentinels, all in agreement. `down_after` in milliseconds."""
    ports = free_ports(6)
    first, *others = ports[:3]
    following = {**settings, "replicaof": f"{HOST} {first}"}
    nodes = [_server(program, folder, first, settings)]
    nodes += [_server(program, folder, port, following) for port in others]
    watchers = _watchers(program, folder, ports[3:], ports[:3], down_after)
    url = "redis+sentinel://" + ",".join(f"{HOST}:{port}" for port in ports[3:]) + f"/{MASTER}"
    with _running(nodes):
        until(lambda: all(_follows_well(node) for node in nodes[1:]))
        with _running(watchers):
            for watcher in watchers:
                watcher.ask("SENTINEL", "DEBUG", "INFO-PERIOD", PERIOD, "PUBLISH-PERIOD", PERIOD)
            until(lambda: all(_sees_all(one) for one in watchers))
            yield Sentinels(url, nodes, watchers)


@contextmanager
def cluster(
    program: Path, folder: Path, settings: Settings = NOTHING, *, replicas: bool = False, node_timeout: int = 1500
) -> Iterator[Cluster]:
    """Three primaries, each with a replica if wanted, all slots served. `node_timeout` in milliseconds."""
    count = 6 if replicas else 3
    free = free_ports(count * 2)
    ports, buses = free[:count], free[count:]
    own = {"cluster-enabled": "yes", "cluster-node-timeout": str(node_timeout), "cluster-config-file": "nodes.conf"}
    nodes = [
        _server(program, folder, port, {**own, **settings, "cluster-port": str(bus)})
        for port, bus in zip(ports, buses, strict=True)
    ]
    url = "redis+cluster://" + ",".join(f"{HOST}:{port}" for port in ports[:3])
    with _running(nodes):
        _share_slots(nodes[:3])
        _introduce(nodes, buses)
        for replica, primary in zip(nodes[3:], nodes, strict=False):
            _follow(replica, str(primary.ask("CLUSTER", "MYID")))
        until(lambda: all(_is_settled(node, count) for node in nodes))
        yield Cluster(url, nodes)


def until(holds: Callable[[], bool], limit: float = LIMIT) -> None:
    """Returns once a condition holds. Raises TimeoutError after `limit` seconds."""
    for _ in processes.ticks(limit):
        if holds():
            return
    raise TimeoutError(f"not within {limit} s")


def free_ports(count: int) -> list[int]:
    """Different ports that nobody listens at, and that no other process of the tests will be given."""
    found: list[int] = []
    for port in islice(_own_ports(), 2 * BLOCK):
        with suppress(OSError), socket.socket() as tried:
            tried.bind((HOST, port))
            found.append(port)
        if len(found) == count:
            break
    return found


@cache
def _own_ports() -> Iterator[int]:
    """A block of ports of this process, over and over: one that was given away comes back as late as possible."""
    blocks = [PORTS[start : start + BLOCK] for start in range(0, len(PORTS), BLOCK)]
    first = secrets.randbelow(len(blocks))
    for block in (*blocks[first:], *blocks[:first]):
        name = Path(tempfile.gettempdir(), f"vestibule-ports-{os.getuid()}-{block[0]}")
        lock = os.open(name, os.O_CREAT | os.O_RDWR, 0o600)  # held until the process ends
        with suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return cycle(block)
        os.close(lock)
    raise LookupError("every block of ports is taken")


@contextmanager
def _running(nodes: list[Node]) -> Iterator[None]:
    with ExitStack() as started:
        for node in nodes:
            node.start()
            started.callback(node.kill)
        for node in nodes:
            node.await_answer()
        yield


def _server(program: Path, folder: Path, port: int, settings: Settings) -> Node:
    data = ours(folder / str(port))
    all_settings = {
        "bind": HOST,
        "port": str(port),
        "dir": str(data),
        "save": '""',
        "appendonly": "no",
        "repl-diskless-sync-delay": "0",
        "repl-ping-replica-period": "1",
        **settings,
    }
    configuration = data / "node.conf"
    configuration.write_text("".join(f"{name} {value}\n" for name, value in all_settings.items()))
    return Node(port, [program, configuration], data / "log")


def _watchers(program: Path, folder: Path, ports: list[int], nodes: list[int], down_after: int) -> list[Node]:
    """Sentinels that know each other and the nodes from the start, as if they had been at it for long."""
    names = {port: secrets.token_hex(20) for port in ports}
    primary, *replicas = nodes
    watchers = []
    for port in ports:
        data = ours(folder / str(port))
        lines = [
            f"bind {HOST}",
            f"port {port}",
            f"dir {data}",
            f"sentinel myid {names[port]}",
            f"sentinel monitor {MASTER} {HOST} {primary} {len(ports) // 2 + 1}",
            f"sentinel down-after-milliseconds {MASTER} {down_after}",
            f"sentinel failover-timeout {MASTER} {down_after * 5}",
            *(f"sentinel known-replica {MASTER} {HOST} {replica}" for replica in replicas),
            *(f"sentinel known-sentinel {MASTER} {HOST} {peer} {names[peer]}" for peer in ports if peer != port),
        ]
        configuration = data / "sentinel.conf"
        configuration.write_text("\n".join(lines) + "\n")
        watchers.append(Node(port, [program, configuration, "--sentinel"], data / "log"))
    return watchers


def _follows_well(replica: Node) -> bool:
    return replica.told("replication", "master_link_status") == "up"


def _named_by(sentinel: Node) -> int | None:
    with suppress(RedisError), sentinel.client() as client:
        return int(client.sentinel_get_master_addr_by_name(MASTER)[1])
    return None


def _sees_all(sentinel: Node) -> bool:
    """Whether it could carry out a failover: its peers answer, and it knows how the replicas are."""
    with suppress(RedisError), sentinel.client() as client:
        peers, replicas = client.sentinel_sentinels(MASTER), client.sentinel_slaves(MASTER)
        return all(one["flags"] == "sentinel" for one in peers) and all(
            one["flags"] == "slave" and one["master-link-status"] == "ok" for one in replicas
        )
    return False


def _share_slots(primaries: list[Node]) -> None:
    """With an epoch for each, so that nobody has to quarrel about one."""
    share = REDIS_CLUSTER_HASH_SLOTS // len(primaries)
    for number, node in enumerate(primaries):
        last = REDIS_CLUSTER_HASH_SLOTS if node is primaries[-1] else (number + 1) * share
        node.ask("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        node.ask("CLUSTER", "ADDSLOTSRANGE", number * share, last - 1)


def _introduce(nodes: list[Node], buses: list[int]) -> None:
    for node in nodes:
        for other, bus in zip(nodes, buses, strict=True):
            if other is not node:
                node.ask("CLUSTER", "MEET", HOST, other.port, bus)


def _follow(replica: Node, primary: str) -> None:
    """Makes a node the replica of another as soon as it has heard of it."""

    def follows() -> bool:
        with suppress(RedisError):
            return bool(replica.ask("CLUSTER", "REPLICATE", primary))
        return False

    until(follows)


def _is_settled(node: Node, count: int) -> bool:
    if node.told("replication", "role") == "slave" and not _follows_well(node):
        return False
    with suppress(RedisError), node.client() as client:
        known, state = client.cluster("nodes"), client.cluster("info")
        joined = [one for one in known.values() if one["connected"]]
        return bool(state["cluster_state"] == "ok") and len(joined) == count
    return False


def _claim(node: Node, slot: int) -> int | None:
    """The epoch in which a node won the slot that it believes to own."""
    with suppress(RedisError), node.client() as client:
        own = next(one for one in client.cluster("nodes").values() if "myself" in one["flags"])
        if any(int(part[0]) <= slot <= int(part[-1]) for part in own["slots"]):
            return int(own["epoch"])
    return None
