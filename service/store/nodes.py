"""Which node a key lives on: the one there is, the primary that Sentinel names, or the one of its slot in a cluster."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
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
REDIRECTS = ("MOVED", "ASK", "TRYAGAIN", "CLUSTERDOWN")
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
    async def everywhere(self, command: Command) -> list[Any]:
        """The answers of every primary. Raises like `call`."""

    @abstractmethod
    async def client(self) -> Redis:
        """A plain client of one primary, for what is rare: listening to a channel."""

    @abstractmethod
    async def close(self) -> None:
        """Closes every connection."""


class OneNode(Nodes):
    """One server, or the primary that Sentinel names at the moment of connecting."""

    def __init__(self, client: Redis, timeout: float) -> None:
        super().__init__()
        self._client = client
        self._lane = Lane(client.connection_pool.make_connection, timeout, self.reconnected.set)

    def call(self, key: str, command: Command, by_digest: bytes | None = None) -> Awaitable[Any]:
        """See `Nodes`."""
        return self._lane.call(by_digest or packed(command))

    async def everywhere(self, command: Command) -> list[Any]:
        """See `Nodes`."""
        return [await self.call("", command)]

    async def client(self) -> Redis:
        """See `Nodes`."""
        return self._client

    async def close(self) -> None:
        """See `Nodes`."""
        await self._lane.close()
        await self._client.aclose()
        await self._client.connection_pool.aclose()


class ClusterNodes(Nodes):
    """A cluster. redis-py knows its map of slots and follows redirections, each primary has a lane of ours."""

    is_sharded = True

    def __init__(self, cluster: RedisCluster, timeout: float) -> None:
        super().__init__()
        self._cluster = cluster
        self._timeout = timeout
        self._lanes: dict[str, Lane] = {}
        self._is_mapped = False
        self._map_failed_at = float("-inf")
        self._refreshing: asyncio.Task[None] | None = None
        self._listener: Redis | None = None

    async def call(self, key: str, command: Command, by_digest: bytes | None = None) -> Any:
        """See `Nodes`. What a slot's move or a failover interrupts goes through redis-py, which finds the new place."""
        await self._map()
        try:
            node = self._cluster.get_node_from_key(key)
            if node is None:
                raise LaneDown("no node serves the slot")
            answer = await self._lane(node).call(by_digest or packed(command))
        except (LaneDown, RedisClusterException):
            self._look_again()
            raise
        if isinstance(answer, hiredis.ReplyError) and str(answer).startswith((*REDIRECTS, *NOT_PRIMARY)):
            self._look_again()
            async with asyncio.timeout(self._timeout):
                return await self._cluster.execute_command(*command)
        return answer

    async def everywhere(self, command: Command) -> list[Any]:
        """See `Nodes`."""
        await self._map()
        return [await self._lane(node).call(packed(command)) for node in self._cluster.get_primaries()]

    async def client(self) -> Redis:
        """See `Nodes`. What one node publishes, all of them hear."""
        await self._map()
        if self._listener is None:
            node = self._cluster.get_default_node()
            self._listener = Redis(connection_pool=BlockingConnectionPool(**_alone(node)))
        return self._listener

    async def close(self) -> None:
        """See `Nodes`."""
        await background.end(self._refreshing)
        for lane in self._lanes.values():
            await lane.close()
        if self._listener is not None:
            await self._listener.aclose()
        await self._cluster.aclose()

    def _lane(self, node: ClusterNode) -> Lane:
        lane = self._lanes.get(node.name)
        if lane is None:
            lane = self._lanes[node.name] = Lane(_maker(node), self._timeout, self.reconnected.set)
        return lane

    async def _map(self) -> None:
        """Reads the map of slots before the first command; while that fails, one caller at a time tries."""
        if self._is_mapped:
            return
        now = asyncio.get_running_loop().time()
        if now < self._map_failed_at + REFRESH_PAUSE:
            raise LaneDown("the map of the cluster could not be read")
        self._map_failed_at = now
        async with asyncio.timeout(self._timeout * ROUND_TRIPS):
            await self._cluster.initialize()
        self._is_mapped, self._map_failed_at = True, float("-inf")

    def _look_again(self) -> None:
        """Reads the map anew in the background, once at a time and not too often."""
        if self._refreshing is None or self._refreshing.done():
            self._refreshing = asyncio.create_task(self._refresh(), name="redis-cluster-map")

    async def _refresh(self) -> None:
        try:
            await self._cluster.nodes_manager.initialize()
        except (RedisError, OSError, TimeoutError) as error:
            log.warning("the map of the cluster could not be read", reason=type(error).__name__)
        served = {node.name for node in self._cluster.get_primaries()}
        for name in self._lanes.keys() - served:
            await self._lanes.pop(name).close()
        self._listener, listener = None, self._listener
        if listener is not None:
            await listener.aclose()
        await asyncio.sleep(REFRESH_PAUSE)


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
        return ClusterNodes(
            RedisCluster(startup_nodes=nodes, ssl=url.is_encrypted, cluster_error_retry_attempts=1, **limits), seconds
        )
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
    return OneNode(sentinel.master_for(url.primary, db=url.database, retry=_never()), seconds)


def _never() -> Retry:
    return Retry(NoBackoff(), 0)


def _alone(node: ClusterNode) -> dict[str, Any]:
    return {"connection_class": node.connection_class, **node.connection_kwargs, "retry": _never()}


def _maker(node: ClusterNode) -> Callable[[], AbstractConnection]:
    return lambda: node.connection_class(**{**node.connection_kwargs, "retry": _never()})
