"""Calls to providers: JSON within a time and a size, no redirects, and never into the network we stand in.

A provider's metadata name URLs, and whoever writes them would choose what we call: the address that a host resolves
to is looked at before the connection is made to that very address, so a name cannot change its mind in between
(ASVS 1.3.6, 15.3.2).
"""

import asyncio
import ipaddress
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest
from typing import Any

import httpx

from service import strict_json, tracing
from service.errors import ProviderUnavailable
from service.provider_settings import is_secure
from service.setting_values import parts_of

AGENT = "vestibule"
HEADERS = {"Accept": "application/json", "Accept-Encoding": "identity"}
MOST_BYTES = 512 * 1024
MOST_ADDRESSES = 4
PROTOCOLS = ipaddress.ip_network("192.0.0.0/24")
SITES = ipaddress.ip_network("fec0::/10")
"""Addresses that are nobody's, whatever Python's tables say of them."""
METADATA = (ipaddress.ip_network("fd00:ec2::/32"), ipaddress.ip_network("100.100.100.200/32"))
"""Where clouds hand out the credentials of a machine, beside the link-local addresses."""
SHARED = ipaddress.ip_network("100.64.0.0/10")
TRANSLATED = ipaddress.ip_network("64:ff9b::/96")
"""IPv4 addresses as hosts without IPv4 call them (RFC 6052)."""


class TokenRefused(Exception):
    """The provider does not take a token (any more)."""


class NotGiven(ProviderUnavailable):
    """The token is good, but not for this; or somebody on the way says so."""


Resolve = Callable[[str, int], Coroutine[Any, Any, list[str]]]


async def resolved(host: str, port: int, threads: ThreadPoolExecutor | None = None) -> list[str]:
    """The addresses of a host, as this machine would connect to them, looked up in these threads."""
    flags = 0 if _is_address(host) else socket.AI_ADDRCONFIG
    ask = partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM, flags=flags)
    found = await asyncio.get_running_loop().run_in_executor(threads, ask)
    return [str(address[4][0]) for address in found]


class GuardedTransport(httpx.AsyncBaseTransport):
    """Connects to addresses that were looked at. Connections are not kept: two hosts at one address (a CDN's) would
    share one whose certificate was checked for the other."""

    def __init__(self, *, is_private: bool, resolve: Resolve | None = None) -> None:
        self._is_private = is_private
        # Threads of its own: a name server that does not answer must hold up nobody else's look-ups.
        self._threads = ThreadPoolExecutor(max_workers=4, thread_name_prefix="provider-names")
        self._resolve = resolve or partial(resolved, threads=self._threads)
        self._inner = httpx.AsyncHTTPTransport(limits=httpx.Limits(max_keepalive_connections=0))

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """One request. Raises `httpx.ConnectError` when no allowed address takes it."""
        timeouts = request.extensions.get("timeout", {})
        host, port = request.url.host, request.url.port or (443 if request.url.scheme == "https" else 80)
        try:
            addresses = await self._resolve(host, port)
        except (OSError, UnicodeError):
            raise httpx.ConnectError("the host has no address") from None
        allowed = [address for address in addresses if is_allowed(address, is_private=self._is_private)]
        tried = _of_both_families(allowed)[:MOST_ADDRESSES]
        for address in tried:
            request.url = request.url.copy_with(host=address)
            request.extensions = {**request.extensions, "sni_hostname": host, "timeout": _shared(timeouts, len(tried))}
            try:
                return await self._inner.handle_async_request(request)
            except (httpx.ConnectError, httpx.ConnectTimeout):
                continue
        raise httpx.ConnectError("no address of the host may be called, or takes the call")

    async def aclose(self) -> None:
        """Closes what is open."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        await self._inner.aclose()


def _shared(timeouts: dict[str, float | None], addresses: int) -> dict[str, float | None]:
    """The time to connect, as one of several addresses may take it."""
    connect = timeouts.get("connect")
    return {**timeouts, "connect": connect / addresses if connect else connect}


def _of_both_families(addresses: list[str]) -> list[str]:
    """IPv6 and IPv4 in turn, the system's choice first: a host may have many of a family that leads nowhere."""
    first = ":" in addresses[0] if addresses else False
    families = ([one for one in addresses if (":" in one) is family] for family in (first, not first))
    return [one for pair in zip_longest(*families) for one in pair if one is not None]


class BoundedTransport(httpx.AsyncBaseTransport):
    """Reads bodies before anybody else does: up to half a MiB, and nothing that would have to be unfolded.

    Cookies are dropped: what one person's sign-in brought must not go along with another's.
    """

    def __init__(self, inner: httpx.AsyncBaseTransport) -> None:
        self._inner = inner

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """One request. Raises `httpx.ReadError` for a body that is too long, `httpx.DecodingError` for a packed one."""
        response = await self._inner.handle_async_request(request)
        try:
            headers = [(name, value) for name, value in response.headers.raw if name.lower() != b"set-cookie"]
            return httpx.Response(response.status_code, headers=headers, content=await _content(response))
        finally:
            await response.aclose()

    async def aclose(self) -> None:
        """Closes what is open."""
        await self._inner.aclose()


async def _content(response: httpx.Response) -> bytes:
    if response.headers.get("content-encoding", "identity").lower() != "identity":
        raise httpx.DecodingError("a packed body although none was accepted")
    content = b""
    async for chunk in response.aiter_raw():
        content += chunk
        if len(content) > MOST_BYTES:
            raise httpx.ReadError("too long")
    return content


def is_allowed(address: str, *, is_private: bool) -> bool:
    """Whether a provider may be at this address: on the internet, or for private ones in the operator's network.

    Link-local addresses never are: clouds hand out machine credentials there.
    """
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(found, ipaddress.IPv6Address):
        translated = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF) if found in TRANSLATED else None
        inner = found.ipv4_mapped or found.sixtofour or translated or (found.teredo[1] if found.teredo else None)
        if inner is not None:
            return is_allowed(str(inner), is_private=is_private)
    if found.is_loopback:
        return is_private
    if found.is_link_local or found.is_multicast or found.is_unspecified or found.is_reserved:
        return False
    if any(found in network for network in (PROTOCOLS, SITES, *METADATA)):
        return False
    return found.is_global or (is_private and (found.is_private or found in SHARED))


@dataclass(frozen=True, slots=True)
class Calls:
    """What one provider is called through. `timeout` in seconds, for a call as a whole; `name` is for traces."""

    client: httpx.AsyncClient
    timeout: float
    is_private: bool
    name: str = ""

    @classmethod
    def to(
        cls,
        timeout: float,
        *,
        is_private: bool,
        agent: str = AGENT,
        transport: httpx.AsyncBaseTransport | None = None,
        name: str = "",
    ) -> "Calls":
        """`transport` is what tests put in the place of the network."""
        client = httpx.AsyncClient(
            transport=BoundedTransport(transport or GuardedTransport(is_private=is_private)),
            headers={**HEADERS, "User-Agent": agent},
            timeout=timeout,
            follow_redirects=False,
            trust_env=False,
        )
        return cls(client, timeout, is_private, name)

    async def json(self, url: str, *, token: str = "") -> Any:
        """The JSON document at a URL. Raises `TokenRefused` for a 401, `NotGiven` for 403 and 404, else
        `ProviderUnavailable`."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        async with self.bounded():
            response = await self.client.get(self.checked(url), headers=headers)
        if token and response.status_code == httpx.codes.UNAUTHORIZED:
            raise TokenRefused("401 for a token")
        is_limit = "retry-after" in response.headers or response.headers.get("x-ratelimit-remaining") == "0"
        if response.status_code in {httpx.codes.FORBIDDEN, httpx.codes.NOT_FOUND} and not is_limit:
            raise NotGiven(f"answered {response.status_code}")
        if response.status_code != httpx.codes.OK:
            raise ProviderUnavailable(f"answered {response.status_code}", retry_after=_retry_after(response.headers))
        return parsed(response.content)

    @asynccontextmanager
    async def bounded(self) -> AsyncIterator[None]:
        """A call, or several, within the time; what goes wrong on the way is `ProviderUnavailable`."""
        try:
            with tracing.span(f"provider {self.name}"):
                async with asyncio.timeout(self.timeout):
                    yield
        except (httpx.HTTPError, httpx.InvalidURL, OSError, TimeoutError, UnicodeError) as error:
            raise ProviderUnavailable(type(error).__name__) from error

    def checked(self, url: str) -> str:
        """A URL that may be called. Raises `ProviderUnavailable`."""
        parts = parts_of(url)
        is_plain = url.isascii() and url.isprintable() and " " not in url
        if parts is None or not is_plain or not parts.hostname or not is_secure(parts, is_private=self.is_private):
            raise ProviderUnavailable("a URL that is not https")
        return url

    async def close(self) -> None:
        """Lets go of connections."""
        await self.client.aclose()


def parsed(content: bytes) -> Any:
    """A JSON document of a provider. Raises `ProviderUnavailable` for rubbish."""
    try:
        return strict_json.loads(content)
    except ValueError:
        raise ProviderUnavailable("not JSON") from None


def _retry_after(headers: Mapping[str, str]) -> int | None:
    text = headers.get("retry-after", "")
    return min(int(text), 3600) if text.isascii() and text.isdecimal() and len(text) <= 6 else None  # noqa: PLR2004


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
