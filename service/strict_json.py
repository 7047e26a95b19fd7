"""JSON as a security service must read it: every ambiguity is a refusal (ASVS 1.5.3, RFC 8259 section 8)."""

import json
import math
from typing import NoReturn

MAX_DEPTH = 32


def loads(raw: bytes) -> object:
    """Reads one JSON document.

    Raises `ValueError` for invalid UTF-8, a byte-order mark, duplicate keys, NUL characters, lone surrogates,
    NaN, infinities, numbers too long to read, and nesting beyond 32 levels.
    """
    try:
        document = json.loads(raw.decode("utf-8"), object_pairs_hook=_without_duplicates, parse_constant=_refuse)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    _check_values(document, MAX_DEPTH)
    return document


def _without_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("duplicate member")
    return members


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def _check_values(value: object, depth: int) -> None:
    if depth == 0:
        raise ValueError("nested too deeply")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("a number without end")
    if isinstance(value, str):
        _check_text(value)
    elif isinstance(value, list):
        for item in value:
            _check_values(item, depth - 1)
    elif isinstance(value, dict):
        for name, item in value.items():
            _check_text(name)
            _check_values(item, depth - 1)


def _check_text(text: str) -> None:
    if "\x00" in text:
        raise ValueError("NUL character")
    text.encode("utf-8")
