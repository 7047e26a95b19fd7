"""Answers that go wrong: the right one in a way that no client should put up with, or another one in its place."""

import gzip
from collections.abc import Callable
from typing import Any

from litestar import MediaType, Response

from service.fake_provider.backstage import Backstage
from service.fake_provider.reading import FORM

HUGE = 5 * 1024 * 1024
BOMB = 50 * 1024 * 1024
JSON = "application/json"


async def spoilt(kind: str, good: Response[bytes], backstage: Backstage) -> Response[Any]:
    """An answer as a kind of fault has it (`slow`, `500`, `rubbish`, …); as it was for every other word."""
    if kind == "slow":
        await backstage.wait()
    if kind == "redirect":
        return backstage.send_elsewhere(good)
    return KINDS[kind](good) if kind in KINDS else good


def kind_of(fault: str, step: str) -> str:
    """The kind of a fault that belongs to a step: `500` of `token_500` at `token`; nothing of any other."""
    name, _, kind = fault.partition("_")
    return kind if name == step else ""


def _broken(good: Response[bytes]) -> Response[Any]:
    return Response("Something broke.", status_code=500, media_type=MediaType.TEXT)


def _rubbish(good: Response[bytes]) -> Response[Any]:
    return Response("<!doctype html><title>Maintenance</title><p>Back soon.</p>", media_type=MediaType.HTML)


def _list(good: Response[bytes]) -> Response[Any]:
    return Response(b"[]", media_type=JSON)


def _empty(good: Response[bytes]) -> Response[Any]:
    return Response(b"{}", media_type=JSON)


def _huge(good: Response[bytes]) -> Response[Any]:
    return Response(_padded(good, HUGE), media_type=good.media_type)


def _bomb(good: Response[bytes]) -> Response[Any]:
    packed = gzip.compress(_padded(good, BOMB), compresslevel=1)
    return Response(packed, media_type=good.media_type, headers={"Content-Encoding": "gzip"})


def _padded(good: Response[bytes], size: int) -> bytes:
    """The same answer to whoever reads it whole."""
    if good.media_type == FORM:
        return b"padding=" + b"x" * size + b"&" + good.content
    return b" " * size + good.content


KINDS: dict[str, Callable[[Response[bytes]], Response[Any]]] = {
    "500": _broken,
    "rubbish": _rubbish,
    "list": _list,
    "without_token": _empty,
    "huge": _huge,
    "gzip_bomb": _bomb,
}
