"""Where Redis or Valkey is: one server, a primary that Sentinel watches, or a cluster, by URL alone.

`redis://[user:password@]host:6379/0`, `unix:///path`, `redis+sentinel://host:26379,host:26379/primary[/0]` (with
`?sentinel_username=…&sentinel_password=…` where the Sentinels ask for one), `redis+cluster://host:6379,host:6379`.
A scheme that begins with `rediss` encrypts.
"""

from dataclasses import dataclass
from typing import Literal
from urllib.parse import parse_qsl, unquote, urlsplit

Kind = Literal["single", "sentinel", "cluster"]

SCHEMES: dict[str, Kind] = {
    "redis": "single",
    "rediss": "single",
    "unix": "single",
    "redis+sentinel": "sentinel",
    "rediss+sentinel": "sentinel",
    "redis+cluster": "cluster",
    "rediss+cluster": "cluster",
}
PORTS = {"sentinel": 26379, "cluster": 6379}


@dataclass(frozen=True, slots=True)
class RedisUrl:
    """An address taken apart. `url` is whole for one server, whose other parts redis-py reads by itself."""

    kind: Kind
    url: str
    is_encrypted: bool = False
    hosts: tuple[tuple[str, int], ...] = ()
    username: str | None = None
    password: str | None = None
    primary: str = ""
    database: int = 0
    sentinel_username: str | None = None
    sentinel_password: str | None = None

    @classmethod
    def parse(cls, url: str) -> "RedisUrl":
        """Raises `ValueError` for what leads nowhere."""
        scheme = url.partition("://")[0].lower()
        if scheme not in SCHEMES:
            raise ValueError("an unknown scheme")
        kind, parts = SCHEMES[scheme], urlsplit(url)
        if kind == "single":
            _ = parts.port  # raises for a port that is none
            return cls(kind, url, scheme == "rediss")
        credentials, at, listed = parts.netloc.rpartition("@")
        username, _, password = credentials.partition(":")
        options = dict(parse_qsl(parts.query))
        primary, _, database = parts.path.strip("/").partition("/")
        if kind == "sentinel" and not primary:
            raise ValueError("the name of the primary is missing")
        if kind == "cluster" and primary not in {"", "0"}:
            raise ValueError("a cluster has one database, 0")
        return cls(
            kind,
            url,
            is_encrypted=scheme.startswith("rediss"),
            hosts=tuple(_host(one, PORTS[kind]) for one in listed.split(",")),
            username=unquote(username) or None if at else None,
            password=unquote(password) or None if at else None,
            primary=unquote(primary),
            database=int(database or 0) if kind == "sentinel" else 0,
            sentinel_username=options.get("sentinel_username"),
            sentinel_password=options.get("sentinel_password"),
        )


def _host(text: str, port: int) -> tuple[str, int]:
    parts = urlsplit(f"//{text}")
    if not parts.hostname or parts.path:
        raise ValueError("a host is missing")
    return parts.hostname, parts.port or port
