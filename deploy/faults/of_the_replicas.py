"""Failovers: three sentinels over three servers, and a cluster of three primaries with a replica each."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from deploy.faults.judging import SETTLE, everything
from deploy.faults.load import Crowd, Load, claims
from deploy.faults.servers import PERSISTENT, Valkey, free_port, stopped
from deploy.faults.table import Fault, Finding
from deploy.faults.world import World

NAME = "mymaster"
QUORUM = 2
SAFE = {**PERSISTENT, "min-replicas-to-write": "1", "min-replicas-max-lag": "3", "repl-diskless-sync-delay": "0"}
CLUSTER = {**PERSISTENT, "cluster-enabled": "yes", "cluster-node-timeout": "1000", "repl-diskless-sync-delay": "0"}
SLOTS = 16384
PRIMARIES = 3
STORE_MOVES = ("introspect", "login", "refresh", "logout")
LONGEST_FORMING = 15.0


class Sentinels:
    """A primary, two replicas, three sentinels."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.servers = [Valkey(folder / f"server{number}", SAFE) for number in range(3)]
        self.watchers = [Valkey(folder / f"sentinel{number}", {}) for number in range(3)]

    def start(self) -> None:
        """Starts them, and waits until the replicas follow."""
        primary, *replicas = [server.start() for server in self.servers]
        for replica in replicas:
            replica.say("REPLICAOF", "127.0.0.1", primary.port)
        for watcher in self.watchers:
            watch(watcher, primary)
        wait_for(lambda: _followers(primary) == len(replicas))
        wait_for(lambda: all(self._is_seen_by(watcher) for watcher in self.watchers))

    @property
    def url(self) -> str:
        """What the service connects to."""
        return f"redis+sentinel://{','.join(f'127.0.0.1:{each.port}' for each in self.watchers)}/{NAME}"

    def stop(self) -> None:
        """The sentinels first."""
        for each in (*self.watchers, *self.servers):
            each.stop()

    def _is_seen_by(self, watcher: Valkey) -> bool:
        state = watcher.say("SENTINEL", "MASTER", NAME)
        seen = int(state[b"num-slaves"]), int(state[b"num-other-sentinels"])
        return seen == (len(self.servers) - 1, len(self.watchers) - 1)


def watch(watcher: Valkey, primary: Valkey) -> None:
    """Starts a sentinel with its file."""
    watcher.folder.mkdir(mode=0o700)
    file = watcher.folder / "sentinel.conf"
    lines = [
        f"sentinel monitor {NAME} 127.0.0.1 {primary.port} {QUORUM}",
        f"sentinel down-after-milliseconds {NAME} 1000",
        f"sentinel failover-timeout {NAME} 4000",
    ]
    file.write_text("\n".join(lines) + "\n")
    watcher.start_sentinel(file)


def failed_over(world: World) -> Finding:
    def lose(primary: Valkey) -> None:
        primary.kill()
        time.sleep(5)

    return _with_sentinels(world, "lost", lose)


def split_brain(world: World) -> Finding:
    def freeze(primary: Valkey) -> None:
        with stopped(primary.child):
            time.sleep(8)

    return _with_sentinels(world, "split", freeze)


def cluster_moved(world: World) -> Finding:
    with _cluster(world.home / "cluster") as nodes:
        url = f"redis+cluster://{','.join(f'127.0.0.1:{node.port}' for node in nodes[:PRIMARIES])}"
        with world.house(nodes[0], url) as house, Load(house, Crowd.gather(house)) as load:
            account = claims(load.crowd.stay[0].access)["sub"]
            slot = int(nodes[0].say("CLUSTER", "KEYSLOT", f"vestibule:sessions:{{{account}}}"))
            old = next(node for node in nodes[:PRIMARIES] if _owns(node, slot))
            new = next(node for node in nodes[:PRIMARIES] if node is not old)
            with load.fault():
                _move(nodes[:PRIMARIES], slot, old, new)
                time.sleep(1.5)
                new.kill()
                time.sleep(4)
            return everything(load, may_fail=STORE_MOVES[1:], again=5, settle=SETTLE)


def _with_sentinels(world: World, name: str, inflict: Callable[[Valkey], None]) -> Finding:
    sentinels = Sentinels(world.home / f"sentinels-{name}")
    try:
        sentinels.start()
        with world.house(sentinels.servers[0], sentinels.url) as house, Load(house, Crowd.gather(house)) as load:
            with load.fault():
                time.sleep(1)
                inflict(sentinels.servers[0])
            return everything(load, may_fail=STORE_MOVES[1:], settle=SETTLE)
    finally:
        sentinels.stop()


@contextmanager
def _cluster(folder: Path) -> Iterator[list[Valkey]]:
    folder.mkdir()
    buses = [free_port() for _ in range(2 * PRIMARIES)]
    options = [{**CLUSTER, "cluster-port": str(bus)} for bus in buses]
    nodes = [Valkey(folder / f"node{number}", given) for number, given in enumerate(options)]
    with ExitStack() as undo:
        for node in nodes:
            undo.callback(node.stop)
            node.start()
        share = SLOTS // PRIMARIES
        for number, node in enumerate(nodes[:PRIMARIES]):
            last = SLOTS - 1 if number == PRIMARIES - 1 else (number + 1) * share - 1
            node.say("CLUSTER", "ADDSLOTSRANGE", number * share, last)
        for node, bus in zip(nodes[1:], buses[1:], strict=True):
            nodes[0].say("CLUSTER", "MEET", "127.0.0.1", node.port, bus)
        wait_for(lambda: all(_text(node, "CLUSTER", "NODES").count("127.0.0.1") == len(nodes) for node in nodes))
        for primary, replica in zip(nodes[:PRIMARIES], nodes[PRIMARIES:], strict=True):
            replica.say("CLUSTER", "REPLICATE", _id(primary))
        wait_for(lambda: all("cluster_state:ok" in _text(node, "CLUSTER", "INFO") for node in nodes))
        wait_for(lambda: all(_followers(node) == 1 for node in nodes[:PRIMARIES]))
        yield nodes


def _move(primaries: list[Valkey], slot: int, old: Valkey, new: Valkey) -> None:
    """The slot with its keys, step by step as the manual of the cluster has it."""
    new.say("CLUSTER", "SETSLOT", slot, "IMPORTING", _id(old))
    old.say("CLUSTER", "SETSLOT", slot, "MIGRATING", _id(new))
    time.sleep(0.5)
    while keys := old.say("CLUSTER", "GETKEYSINSLOT", slot, 10):
        old.say("MIGRATE", "127.0.0.1", new.port, "", 0, 2000, "KEYS", *keys)
    for node in (new, old, *(each for each in primaries if each not in {old, new})):
        node.say("CLUSTER", "SETSLOT", slot, "NODE", _id(new))


def _owns(node: Valkey, slot: int) -> bool:
    mine = next(line for line in _text(node, "CLUSTER", "NODES").splitlines() if "myself" in line)
    ranges = [part.split("-") for part in mine.split()[8:] if not part.startswith("[")]
    return any(int(part[0]) <= slot <= int(part[-1]) for part in ranges)


def _id(node: Valkey) -> str:
    return _text(node, "CLUSTER", "MYID")


def _text(node: Valkey, *words: object) -> str:
    with node.line() as line:
        line.response_callbacks.clear()
        told = line.execute_command(*words)
    return told.decode() if isinstance(told, bytes) else str(told)


def _followers(primary: Valkey) -> int:
    return int(primary.say("INFO", "replication")["connected_slaves"])


def wait_for(condition: Callable[[], bool]) -> None:
    """Raises `TimeoutError` when it does not come true."""
    until = time.monotonic() + LONGEST_FORMING
    while not condition():
        if time.monotonic() > until:
            raise TimeoutError("the servers did not find one another")
        time.sleep(0.1)


LIVE = "5 s later 0 acknowledged sign-outs undone, nobody thrown out"
FAULTS = (
    Fault(3, "primary lost", "kill -9 the primary of three, sentinels promote", LIVE, failed_over),
    Fault(4, "split brain", "SIGSTOP the primary for 8 s, sentinels promote", LIVE, split_brain),
    Fault(
        16,
        "cluster changes",
        "a slot moved under load, its new primary killed",
        f"followed, well within 5 s; {LIVE}",
        cluster_moved,
    ),
)
