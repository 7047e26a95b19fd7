"""What providers answer: within a size and a time, from where they were asked, and nothing of it goes on to others."""

import asyncio
import gzip
import json
import zlib
from pathlib import Path

import pytest

from service.errors import ProviderUnavailable
from service.providers.calls import MOST_BYTES, NotGiven, TokenRefused
from tests.social.wires import LIMIT, SHORT, Answering, Wire, answer, calling, endlessly, listening, saying


async def told_by(wire: Wire, seconds: float = LIMIT, token: str = "") -> object:
    async with calling(seconds=seconds) as calls:
        told: object = await calls.json(f"http://127.0.0.1:{wire.port}/", token=token)
    return told


@pytest.mark.standard("SO-20")
@pytest.mark.parametrize("status", [300, 301, 302, 303, 304, 305, 307, 308])
async def test_a_redirect_is_not_followed(status: int) -> None:
    async with listening(saying(answer(b'{"elsewhere": true}'))) as elsewhere:
        location = f"http://127.0.0.1:{elsewhere.port}/"
        async with listening(saying(answer(b"{}", f"{status} Elsewhere", Location=location))) as wire:
            with pytest.raises(ProviderUnavailable, match=str(status)):
                await told_by(wire, token="secret")
        assert (wire.connections, elsewhere.connections) == (1, 0)


@pytest.mark.standard("SO-20")
async def test_a_page_that_refreshes_itself_is_not_followed() -> None:
    async with listening(saying(answer(b'{"elsewhere": true}'))) as elsewhere:
        url = f"http://127.0.0.1:{elsewhere.port}/"
        async with listening(saying(answer(b"{}", Refresh=f"0; url={url}", Location=url, Link=f"<{url}>"))) as wire:
            assert await told_by(wire) == {}
        assert elsewhere.connections == 0


@pytest.mark.parametrize(
    "said",
    [
        saying(),
        saying(b"not http at all\r\n\r\n"),
        saying(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{}"),
        saying(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nrubbish\r\n"),
        saying(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}"),
        saying(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 200_000 + b"\r\nContent-Length: 2\r\n\r\n{}"),
        saying(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n{}"),
        saying(answer(b"")),
        saying(answer(b"<!doctype html>", Content_Type="text/html")),
        saying(answer(b'{"a": 1, "a": 2}')),
        saying(answer(b'{"a": NaN}')),
        saying(answer(b"\xff\xfe{}")),
        saying(answer(b"[" * 100_000)),
        saying(answer(b"9" * 10_000)),
        saying(answer(b"{}", "204 No Content")),
        saying(answer(b"{}", "206 Partial Content")),
        saying(answer(b"{}", "404 Not Found")),
        saying(answer(b"{}", "500 Broken")),
    ],
    ids=range(18),
)
async def test_an_answer_that_is_none_is_unavailable(said: Answering) -> None:
    async with listening(said) as wire:
        with pytest.raises(ProviderUnavailable):
            await told_by(wire)


async def test_a_refused_token_is_told_apart_from_a_refused_call() -> None:
    for status, refusal in (("401 Unauthorized", TokenRefused), ("403 Forbidden", NotGiven)):
        async with listening(saying(answer(b"{}", status))) as wire:
            with pytest.raises(refusal):
                await told_by(wire, token="of somebody")
            assert wire.header("authorization") == ["Bearer of somebody"]
            with pytest.raises(ProviderUnavailable):
                await told_by(wire)
            assert wire.header("authorization") == []


@pytest.mark.parametrize(
    ("said", "waits"), [("7", 7), ("999999", 3600), ("9" * 30, None), ("-1", None), ("soon", None), ("7.5", None)]
)
async def test_how_long_to_wait_is_a_number_of_seconds_within_reason(said: str, waits: int | None) -> None:
    async with listening(saying(answer(b"{}", "429 Too Many", Retry_After=said))) as wire:
        with pytest.raises(ProviderUnavailable) as refusal:
            await told_by(wire)
    assert refusal.value.retry_after == waits


async def test_a_body_may_be_half_a_mebibyte_and_no_more() -> None:
    most = json.dumps("x" * (MOST_BYTES - 2)).encode()
    assert len(most) == MOST_BYTES
    async with listening(saying(answer(most))) as wire:
        assert await told_by(wire) == "x" * (MOST_BYTES - 2)
    async with listening(saying(answer(most + b" "))) as wire:
        with pytest.raises(ProviderUnavailable):
            await told_by(wire)


async def test_a_body_without_an_end_ends_by_its_size() -> None:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with listening(endlessly(head, b"10000\r\n" + b" " * 65_536 + b"\r\n")) as wire:
        with pytest.raises(ProviderUnavailable) as refusal:
            await told_by(wire, seconds=60)
        assert refusal.value.reason == "ReadError"


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd", "x-gzip", "GZIP", "identity, gzip", "rot13"])
async def test_a_packed_body_is_not_unfolded(encoding: str) -> None:
    packed = {"deflate": zlib.compress(b"{}")}.get(encoding, gzip.compress(b"{}"))
    async with listening(saying(answer(packed, Content_Encoding=encoding))) as wire:
        with pytest.raises(ProviderUnavailable):
            await told_by(wire)
        assert wire.header("accept-encoding") == ["identity"]


@pytest.mark.parametrize(
    "said",
    [
        endlessly(b"", b"", SHORT / 10),
        endlessly(b"HTTP/1.1 200 OK\r\n", b"X-A: b\r\n", SHORT / 10),
        endlessly(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n", b" ", SHORT / 10),
        endlessly(b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\n\r\n", SHORT / 10),
    ],
    ids=["nothing", "headers", "body", "hints"],
)
async def test_a_drip_does_not_prolong_the_call(said: Answering) -> None:
    async with listening(said) as wire:
        async with asyncio.timeout(100 * SHORT):
            with pytest.raises(ProviderUnavailable):
                await told_by(wire, seconds=SHORT)
        assert wire.connections == 1


# What is sent


async def test_nothing_of_one_answer_is_sent_with_the_next_call() -> None:
    cookie = answer(b"{}", Set_Cookie="session=of-somebody; Path=/")
    async with listening(saying(cookie)) as wire, calling() as calls:
        for token in ("one", "another"):
            await calls.json(f"http://127.0.0.1:{wire.port}/", token=token)
        assert wire.header("cookie") == []
        assert len(calls.client.cookies.jar) == 0


async def test_the_environment_decides_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secrets_file = tmp_path / "netrc"
    secrets_file.write_text("default login root password secret\n")
    monkeypatch.setenv("NETRC", str(secrets_file))
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    async with listening(saying(answer())) as wire:
        assert await told_by(wire) == {}
        assert wire.header("authorization") == []
        assert wire.heads[0].startswith("GET / HTTP/1.1")
