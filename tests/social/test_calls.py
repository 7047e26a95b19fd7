"""Calls to providers: never into our own network, and never elsewhere than was looked at (ASVS 1.3.6)."""

import asyncio
import socket
import ssl
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path

import pytest

from service.errors import ProviderUnavailable
from service.providers.calls import is_allowed, resolved
from tests.social.certificates import Authority
from tests.social.wires import LIMIT, SHORT, answer, calling, endlessly, get, leading_to, listening, saying

NAME = "provider.test"
"""Nothing that a name server knows."""

PUBLIC = ["8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "2002:808:808::1"]
INNER = ["127.0.0.1", "127.255.0.1", "::1", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "fd00::1"]
INNER += [f"::ffff:{address}" for address in ("127.0.0.1", "10.0.0.1")] + ["2002:7f00:1::", "2002:a00:1::"]
METADATA = ["169.254.169.254", "169.254.170.2", "fe80::1", "fe80::1%eth0", "::ffff:169.254.169.254"]
METADATA += ["2002:a9fe:a9fe::", "64:ff9b::a9fe:a9fe", "::169.254.169.254"]
NOBODY = ["0.0.0.0", "::", "224.0.0.1", "239.1.2.3", "ff02::1", "240.0.0.1", "255.255.255.255", "::ffff:0.0.0.0"]  # noqa: S104
NO_ADDRESS = ["", "localhost", "1", "127.1", "0x7f.0.0.1", "127.0.0.1:80", "[::1]", "8.8.8.8 ", "8.8.8.8/32"]
OTHERS = {
    "carriers": ["100.64.0.1", "100.100.100.200", "100.127.255.255"],
    "documents": ["192.0.2.1", "198.51.100.1", "203.0.113.1", "2001:db8::1"],
    "benches": ["198.18.0.1", "198.19.255.255", "2001:2::1"],
    "translators": ["64:ff9b::7f00:1", "64:ff9b::a00:1", "64:ff9b:1::a00:1", "::ffff:0:10.0.0.1"],
    "tunnels": ["2001:0:4136:e378:8000:63bf:f5ff:fffe", "::10.0.0.1"],
    "sites": ["fec0::1", "feff::1"],
    "protocols": ["192.0.0.1", "192.0.0.192"],
}


@pytest.mark.standard("SO-19")
@pytest.mark.parametrize("address", PUBLIC)
def test_an_address_on_the_internet_may_be_called(address: str) -> None:
    assert [is_allowed(address, is_private=private) for private in (False, True)] == [True, True]


@pytest.mark.standard("SO-19")
@pytest.mark.parametrize("address", INNER)
def test_an_address_of_our_own_network_may_be_called_for_private_providers_alone(address: str) -> None:
    assert [is_allowed(address, is_private=private) for private in (False, True)] == [False, True]


@pytest.mark.standard("SO-19")
@pytest.mark.parametrize("address", [*METADATA, *NOBODY, *NO_ADDRESS])
def test_what_is_a_machines_own_or_nobodys_may_never_be_called(address: str) -> None:
    assert [is_allowed(address, is_private=private) for private in (False, True)] == [False, False]


@pytest.mark.standard("SO-19")
@pytest.mark.parametrize("kind", OTHERS)
def test_what_is_no_address_of_the_internet_may_not_be_called_as_one(kind: str) -> None:
    assert [address for address in OTHERS[kind] if is_allowed(address, is_private=False)] == []


# Which address is called


@pytest.mark.standard("SO-19")
async def test_a_name_that_leads_into_our_network_is_not_called() -> None:
    async with listening(saying(answer())) as wire, calling(leading_to("127.0.0.1"), is_private=False) as calls:
        for url in (f"http://{NAME}:{wire.port}/", f"https://{NAME}:{wire.port}/"):
            with pytest.raises(ProviderUnavailable):
                await get(calls, url)
        assert wire.connections == 0


@pytest.mark.standard("SO-19")
@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.1", "2130706433", "0x7f000001", "017700000001", "localhost", "[::1]", "[::ffff:7f00:1]"]
)
async def test_a_host_is_judged_by_where_it_leads_however_it_is_written(host: str) -> None:
    async with listening(saying(answer())) as wire, calling(is_private=False) as calls:
        for scheme in ("http", "https"):
            with pytest.raises(ProviderUnavailable):
                await get(calls, f"{scheme}://{host}:{wire.port}/")
        assert wire.connections == 0


@pytest.mark.standard("SO-19")
async def test_a_name_cannot_change_its_mind_between_the_look_and_the_call() -> None:
    asked: list[tuple[str, int]] = []
    answers = iter([["127.0.0.1"], ["169.254.169.254"], []])

    async def changing(host: str, port: int) -> list[str]:
        asked.append((host, port))
        return next(answers)

    async with listening(saying(answer(b'{"a": 1}'))) as wire, calling(changing) as calls:
        url = f"http://{NAME}:{wire.port}/a?b=c"
        assert (await get(calls, url)).json() == {"a": 1}
        assert wire.header("host") == [f"{NAME}:{wire.port}"]
        assert wire.heads[0].startswith("GET /a?b=c HTTP/1.1\r\n")
        for _ in range(2):
            with pytest.raises(ProviderUnavailable):
                await get(calls, url)
        assert (asked, wire.connections) == ([(NAME, wire.port)] * 3, 1)


@pytest.mark.standard("SO-19")
async def test_of_many_addresses_the_allowed_ones_are_tried_in_turn() -> None:
    addresses = leading_to("169.254.169.254", "0.0.0.0", "127.0.0.3", "127.0.0.1")  # noqa: S104
    async with listening(saying(answer(b'{"a": 1}'))) as wire, calling(addresses) as calls:
        with socket.socket() as deaf:
            deaf.bind(("127.0.0.3", wire.port))  # it does not listen: whoever calls is turned away
            assert (await get(calls, f"http://{NAME}:{wire.port}/")).json() == {"a": 1}
            assert wire.header("host") == [f"{NAME}:{wire.port}"]
            assert wire.connections == 1


async def test_an_address_that_does_not_answer_leaves_time_for_the_next_one() -> None:
    async with listening(saying(answer(b'{"a": 1}'))) as wire:
        with full("127.0.0.2", wire.port):
            async with calling(leading_to("127.0.0.2", "127.0.0.1"), seconds=LIMIT / 2) as calls:
                assert (await get(calls, f"http://{NAME}:{wire.port}/")).json() == {"a": 1}


def full(host: str, port: int) -> "Crowd":
    """An address that takes no more calls and says nothing about it."""
    return Crowd(host, port)


class Crowd:
    """A server with a queue that is full."""

    def __init__(self, host: str, port: int) -> None:
        self._sockets = [socket.socket()]
        self._sockets[0].bind((host, port))
        self._sockets[0].listen(0)
        self._where = (host, port)

    def __enter__(self) -> None:
        for _ in range(4):
            waiting = socket.socket()
            waiting.setblocking(False)
            waiting.connect_ex(self._where)
            self._sockets.append(waiting)

    def __exit__(self, *_: object) -> None:
        for one in self._sockets:
            one.close()


@pytest.mark.standard("SO-19")
async def test_a_name_without_an_address_or_with_forbidden_ones_alone_is_unavailable() -> None:
    async def unknown(host: str, port: int) -> list[str]:
        raise socket.gaierror(-2, "Name or service not known")

    async def unspeakable(host: str, port: int) -> list[str]:
        raise UnicodeError("label too long")

    for resolve in (unknown, unspeakable, leading_to(), leading_to("169.254.169.254", "fe80::1%lo", "rubbish")):
        async with calling(resolve) as calls:
            with pytest.raises(ProviderUnavailable):
                await calls.json(f"https://{NAME}/")


async def test_this_machine_resolves_as_it_would_connect() -> None:
    assert await resolved("127.0.0.1", 80) == ["127.0.0.1"]
    assert await resolved("::1", 80) == ["::1"]
    assert all(ip_address(address).is_loopback for address in await resolved("localhost", 80))


# TLS


@pytest.fixture
def tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ssl.SSLContext]:
    """Server contexts with certificates for a name; their authority is trusted for as long as the test lasts."""
    authority = Authority(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.root))
    return authority.serving


@pytest.mark.standard("SO-19")
async def test_a_certificate_is_that_of_the_name_although_an_address_is_called(
    tls: Callable[[str], ssl.SSLContext],
) -> None:
    async with listening(saying(answer(b'{"a": 1}')), context=tls(NAME)) as wire:
        async with calling(leading_to("127.0.0.1")) as calls:
            assert await calls.json(f"https://{NAME}:{wire.port}/") == {"a": 1}
            with pytest.raises(ProviderUnavailable):
                await calls.json(f"https://other.test:{wire.port}/")
        assert wire.hosts == [NAME, "other.test"]
        assert (wire.header("host"), len(wire.heads)) == ([f"{NAME}:{wire.port}"], 1)


@pytest.mark.standard("SO-19")
async def test_two_names_at_one_address_do_not_share_a_connection(tls: Callable[[str], ssl.SSLContext]) -> None:
    async with listening(saying(answer()), context=tls("*.provider.test"), stays=True) as wire:
        async with calling(leading_to("127.0.0.1")) as calls:
            for name in ("a", "b", "a"):
                assert await calls.json(f"https://{name}.{NAME}:{wire.port}/") == {}
        assert wire.hosts == [f"{name}.{NAME}" for name in ("a", "b", "a")]
        assert wire.connections == 3


async def test_a_server_without_tls_or_without_a_known_authority_is_unavailable(
    tls: Callable[[str], ssl.SSLContext], monkeypatch: pytest.MonkeyPatch
) -> None:
    context = tls(NAME)
    monkeypatch.delenv("SSL_CERT_FILE")
    for given in (None, context):
        async with (
            listening(saying(answer()), context=given) as wire,
            calling(leading_to("127.0.0.1"), seconds=SHORT if given is None else LIMIT) as calls,
        ):
            with pytest.raises(ProviderUnavailable):
                await calls.json(f"https://{NAME}:{wire.port}/")
            assert wire.heads == []


async def test_a_handshake_or_a_name_server_without_an_end_does_not_prolong_it_either() -> None:
    async def never(host: str, port: int) -> list[str]:
        await asyncio.Event().wait()
        return []

    async with listening(endlessly(b"", b"", SHORT)) as wire:
        for resolve in (leading_to("127.0.0.1"), never):
            async with asyncio.timeout(100 * SHORT), calling(resolve, seconds=SHORT) as calls:
                with pytest.raises(ProviderUnavailable):
                    await calls.json(f"https://{NAME}:{wire.port}/")


# Which URLs are called


@pytest.mark.standard("SO-19")
@pytest.mark.parametrize(
    "url",
    [
        "",
        "/",
        "//provider.test/",
        "provider.test",
        "http://provider.test/",
        "http://169.254.169.254/latest/meta-data/",
        "http://10.0.0.1/",
        "http://localhost.provider.test/",
        "http://127.0.0.1.provider.test/",
        "http://127.0.0.1@provider.test/",
        "file:///etc/passwd",
        "file://localhost/etc/passwd",
        "ftp://127.0.0.1/",
        "gopher://127.0.0.1:6379/_",
        "data:application/json,{}",
        "javascript:0",
        "unix:///run/redis.sock",
        "https://",
        "https:///path",
        "https:provider.test",
        "https://provider.test:0/",
        "https://provider.test:99999/",
        "https://provider.test:port/",
        "https://[::1/",
        "https://[rubbish]/",
        "https://provider.test/\x00",
        "https://provider.test/\r\nHost: other.test",
        "https://pro vider.test/",
        "https://xn--/",
        "https://..provider.test/",
        f"https://{'a' * 300}.test/",
        f"https://provider.test/{'a' * 100_000}",
        "https://provider.test\\@127.0.0.1/",
    ],
    ids=range(33),
)
async def test_what_is_no_secure_url_is_unavailable_and_nothing_worse(url: str) -> None:
    async with calling(leading_to("169.254.169.254")) as calls:
        with pytest.raises(ProviderUnavailable):
            await calls.json(url)


@pytest.mark.standard("SO-19")
async def test_plain_http_is_for_private_providers_on_this_machine() -> None:
    async with listening(saying(answer())) as wire:
        for host in ("127.0.0.1", "localhost"):
            async with calling() as calls:
                assert await calls.json(f"http://{host}:{wire.port}/") == {}
            async with calling(is_private=False) as calls:
                with pytest.raises(ProviderUnavailable):
                    await calls.json(f"http://{host}:{wire.port}/")
        assert wire.connections == 2


async def test_a_private_provider_may_be_on_the_loopback_of_either_kind() -> None:
    async with listening(saying(answer()), host="::1") as wire, calling() as calls:
        assert await calls.json(f"http://[::1]:{wire.port}/") == {}
