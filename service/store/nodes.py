"""Which node a key lives on: the one there is, the primary that Sentinel names, or the one of its slot in a cluster."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import hiredis
import structlog
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.exceptions import RedisClusterException, RedisError

from service import background
from service.redis_url import RedisUrl
from service.settings import Settings
from service.store.lane import NOT_PRIMARY, ROUND_TRIPS, Lane, LaneDown, packed

log = structlog.get_logger("vestibule.redis")

REFRESH_PAUSE = 0.5
"""Seconds between two looks at a cluster that has lost a node."""
REDIRECTS = ("MOVED", "ASK", "TRYAGAIN")
MISPLACED = (*REDIRECTS, *NOT_PRIMARY, "CLUSTERDOWN")
"""What a node of a cluster says when our map of the slots may be old."""
MOST_HOPS = 4
HOP_PAUSE = 0.02
"""Seconds until a command on several keys is tried again, of which some have moved and some have not."""
MOST_IDLE = 10

Command = tuple[str | bytes | int, ...]


class Nodes(ABC):
    """Sends a command to where its key lives. `reconnected` is set whenever a connection was made."""

    is_sharded = False

    def __init__(self) -> None:
        self.reconnected = asyncio.Event()

    @abstractmethod
    def call(self, key: str, command: Command, by_digest: bytes | None = None) -> Awaitable[Any]:
        """The answer, an error of the server as a `hiredis.ReplyError`. Raises `LaneDown` or `RedisError`.

        `by_digest` is a shorter form of the command, packed already, which is tried first.
        """

    @abstractmethod
    async def everywhere(self, command: Command, *, may_miss: bool = False) -> list[Any]:
        """The answers of every primary, of the others where some may be missed. Raises like `call`."""

    @abstractmethod
    async def client(self) -> Redis:
        """A plain client of one primary, for what is rare: listening to a channel."""

    @abstractmethod
    async def close(self) -> None:
        """Closes every connection."""


class OneNode(Nodes):
    """One server, or the primary that Sentinel names at the moment of connecting."""

    def __init__(self, client: Redis, timeout: float, sentinels: Sequence[Redis] = ()) -> None:
        super().__init__()
        self._client = client
        self._sentinels = sentinels
        make = client.connection_pool.make_connection
        self._lane = Lane(make, timeout, self.reconnected.set, leaves_replicas=bool(sentinels))

    def call(self, key: str, command: Command, by_digest: bytes | None = None) -> Awaitable[Any]:
        """See `Nodes`."""
        return self._lane.call(by_digest or packed(command))

    async def everywhere(self, command: Command, *, may_miss: bool = False) -> list[Any]:
        """See `Nodes`."""
        return [await self.call("", command)]

    async def client(self) -> Redis:
        """See `Nodes`."""
        return self._client

    async def close(self) -> None:
        """See `Nodes`."""
        await self._lane.close()
        for client in (self._client, *self._sentinels):
            await client.aclose()
            await client.connection_pool.aclose()


class ClusterNodes(Nodes):
    """A cluster. redis-py reads its map of slots, each primary has a lane of ours, and so has each node that a slot
    moves to."""

    is_sharded = True

    def __init__(self, cluster: RedisCluster, timeout: float) -> None:
        super().__init__()
        self._cluster = cluster
        self._known = cluster.nodes_manager
        self._seeds = dict(self._known.startup_nodes)
        self._timeout = timeout
        self._lanes: dict[str, Lane] = {}
        self._is_mapped = False
        self._tried_at = float("-inf")
        self._mapping: asyncio.Task[None] | None = None
        self._refreshing: asyncio.Task[None] | None = None
        self._listener: Redis | None = None
        self._listens_to = ""

    async def call(self, key: str, command: Command, by_digest: bytes | None = None) -> Any:
        """See `Nodes`. Goes after a slot that moves or has moved."""
        await self._map()
        try:
            answer = await self._lane(self._owner(key)).call(by_digest or packed(command))
            if _is_misplaced(answer):
                self._look_again()
                answer = await self._followed(key, command, answer)
        except LaneDown:
            self._look_again()
            raise
        return answer

    async def everywhere(self, command: Command, *, may_miss: bool = False) -> list[Any]:
        """See `Nodes`."""
        await self._map()
        answers = []
        for node in self._cluster.get_primaries():
            try:
                answers.append(await self._lane(node).call(packed(command)))
            except LaneDown:
                self._look_again()
                if not may_miss:
                    raise
        return answers

    async def client(self) -> Redis:
        """See `Nodes`. What one node publishes, all of them hear."""
        await self._map()
        if self._listener is None:
            node = self._cluster.get_primaries()[0]
            self._listener = Redis(connection_pool=BlockingConnectionPool(**_alone(node)))
            self._listens_to = node.name
        return self._listener

    async def close(self) -> None:
        """See `Nodes`."""
        await background.end(self._mapping)
        await background.end(self._refreshing)
        for lane in self._lanes.values():
            await lane.close()
        await self._stop_listening()
        for seed in self._seeds.values():
            await seed.disconnect()
        await self._known.aclose()
        await self._known.aclose("startup_nodes")

    def _owner(self, key: str) -> ClusterNode:
        try:
            node = self._cluster.get_node_from_key(key)
        except RedisClusterException:
            node = None
        if node is None:
            raise LaneDown("no node serves the slot")
        return node

    def _lane(self, node: ClusterNode) -> Lane:
        lane = self._lanes.get(node.name)
        if lane is None:
            lane = self._lanes[node.name] = Lane(_maker(node), self._timeout, self.reconnected.set)
        return lane

    async def _followed(self, key: str, command: Command, answer: Any) -> Any:
        """The answer from where the first one led, or the last refusal when that leads nowhere."""
        for _ in range(MOST_HOPS):
            if not _is_misplaced(answer, REDIRECTS):
                break
            word, *told = str(answer).split()
            if word == "TRYAGAIN":
                await asyncio.sleep(HOP_PAUSE)
                answer = await self._lane(self._owner(key)).call(packed(command))
            else:
                lane = self._lane(self._at(told[-1], key))
                answer = await (lane.ask(packed(command)) if word == "ASK" else lane.call(packed(command)))
        return answer

    def _at(self, address: str, key: str) -> ClusterNode:
        """The node of a redirection, which names no host where it is the host that was asked."""
        host, _, port = address.rpartition(":")
        host = host or self._owner(key).host
        known = self._known.get_node(host, int(port))
        return known or ClusterNode(host, int(port), **self._cluster.connection_kwargs)

    async def _map(self) -> None:
        """Waits for the first map of slots. While it cannot be read, it is tried now and then."""
        if self._is_mapped:
            return
        now = asyncio.get_running_loop().time()
        if self._mapping is None or (self._mapping.done() and now >= self._tried_at + REFRESH_PAUSE):
            self._tried_at = now
            self._mapping = asyncio.create_task(self._read_map(), name="redis-cluster-map")
        async with asyncio.timeout(self._timeout * ROUND_TRIPS):
            await asyncio.shield(self._mapping)

    async def _read_map(self) -> None:
        """Raises `LaneDown`. The nodes of the URL are asked too: every other may have another address by now."""
        for name, node in self._seeds.items():
            self._known.startup_nodes.setdefault(name, node)
        try:
            async with asyncio.timeout(self._timeout * max(ROUND_TRIPS, len(self._known.startup_nodes))):
                await self._known.initialize()
        except (RedisError, RedisClusterException, OSError, TimeoutError) as error:
            raise LaneDown("the map of the cluster could not be read") from error
        self._is_mapped = True

    def _look_again(self) -> None:
        """Reads the map anew in the background, once at a time and not too often."""
        if self._refreshing is None or self._refreshing.done():
            self._refreshing = asyncio.create_task(self._refresh(), name="redis-cluster-map")

    async def _refresh(self) -> None:
        try:
            await self._read_map()
        except LaneDown as error:
            log.warning("the map of the cluster could not be read", reason=type(error.__cause__).__name__)
        served = {node.name for node in self._cluster.get_primaries()}
        for name in [name for name in self._lanes.keys() - served if self._lanes[name].is_idle]:
            await self._lanes.pop(name).close()
        if self._listens_to not in served:
            await self._stop_listening()
        await asyncio.sleep(REFRESH_PAUSE)

    async def _stop_listening(self) -> None:
        """Who listens is told that the connection ended, and asks for another client."""
        self._listener, listener = None, self._listener
        if listener is not None:
            await listener.connection_pool.aclose()


def connect(settings: Settings) -> Nodes:
    """The nodes of the settings' URL; no connection is made yet, and none is ever tried twice for one call."""
    url = RedisUrl.parse(str(settings.redis_url))
    seconds = settings.redis_timeout.total_seconds()
    limits: dict[str, Any] = {
        "socket_timeout": seconds,
        "socket_connect_timeout": seconds,
        "protocol": 2,
        "client_name": "vestibule",
    }
    if url.kind == "single":
        pool = BlockingConnectionPool.from_url(url.url, max_connections=MOST_IDLE, retry=_never(), **limits)
        return OneNode(Redis(connection_pool=pool), seconds)
    limits |= {"username": url.username, "password": url.password}
    if url.kind == "cluster":
        nodes = [ClusterNode(host, port) for host, port in url.hosts]
        cluster = RedisCluster(startup_nodes=nodes, ssl=url.is_encrypted, retry=_never(), **limits)
        return ClusterNodes(cluster, seconds)
    sentinel_limits = {
        "socket_timeout": seconds,
        "socket_connect_timeout": seconds,
        "retry": _never(),
        "username": url.sentinel_username,
        "password": url.sentinel_password,
        "ssl": url.is_encrypted,
    }
    sentinel: Any = Sentinel(  # type: ignore[no-untyped-call]
        list(url.hosts), sentinel_kwargs=sentinel_limits, ssl=url.is_encrypted, **limits
    )
    client = sentinel.master_for(url.primary, db=url.database, retry=_never())
    return OneNode(client, seconds, sentinel.sentinels)


def _is_misplaced(answer: Any, by: tuple[str, ...] = MISPLACED) -> bool:
    return isinstance(answer, hiredis.ReplyError) and str(answer).startswith(by)


def _never() -> Retry:
    return Retry(NoBackoff(), 0)


def _alone(node: ClusterNode) -> dict[str, Any]:
    return {"connection_class": node.connection_class, **node.connection_kwargs, "retry": _never()}


def _maker(node: ClusterNode) -> Callable[[], AbstractConnection]:
    return lambda: node.connection_class(**{**node.connection_kwargs, "retry": _never()})
