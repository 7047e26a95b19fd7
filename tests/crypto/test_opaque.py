"""Opaque tokens: one spelling each, noise refused before any store is asked."""

import base64
import re
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.crypto import opaque

BODIES = st.binary(min_size=1, max_size=120)
PREFIXES = st.from_regex(r"[a-z]{1,8}", fullmatch=True)
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


@settings(deadline=None)
@given(PREFIXES, BODIES)
def test_what_was_encoded_comes_back(prefix: str, body: bytes) -> None:
    token = opaque.encode(prefix, body)

    assert opaque.decode(prefix, token) == body
    assert re.fullmatch(rf"{prefix}_[A-Za-z0-9_-]+", token)


@settings(deadline=None)
@given(PREFIXES, PREFIXES, BODIES)
def test_a_token_is_read_under_its_own_prefix_alone(one: str, other: str, body: bytes) -> None:
    if one == other:
        return
    token = opaque.encode(one, body)

    assert opaque.decode(other, token) is None
    assert opaque.decode(other, token.replace(one, other, 1)) is None  # the checksum covers the prefix


@settings(deadline=None)
@given(st.text())
def test_no_text_whatsoever_is_a_crash(text: str) -> None:
    assert opaque.decode("vrt", text) is None
    assert opaque.decode("vrt", f"vrt_{text}") is None


@settings(deadline=None)
@given(st.text())
def test_base64url_has_one_spelling_for_everything(text: str) -> None:
    raw = opaque.from_base64url(text)

    assert raw is None or opaque.base64url(raw) == text


@settings(deadline=None)
@given(st.binary(min_size=1, max_size=100))
def test_base64url_has_no_padding_and_comes_back(raw: bytes) -> None:
    text = opaque.base64url(raw)

    assert "=" not in text
    assert opaque.from_base64url(text) == raw


@pytest.mark.parametrize(
    "text", ["", "=", "A", "AB==", "AB", "AAF", "A A", "AA\n", "A+/A", "AAAA=", "\uff21" * 4, "AAAAA", "é", "\ud800"]
)
def test_a_text_that_is_not_the_one_spelling_is_refused(text: str) -> None:
    assert opaque.from_base64url(text) is None


@pytest.mark.standard("CL-11", "SE-06", "KY-32")
def test_a_minted_token_holds_256_random_bits_and_none_comes_twice() -> None:
    tokens = [opaque.mint("vcs") for _ in range(10_000)]

    assert len(set(tokens)) == len(tokens)
    for token in tokens[:100]:
        body = opaque.decode("vcs", token)
        assert body is not None
        assert len(body) == 32
        assert re.fullmatch(r"vcs_[A-Za-z0-9_-]{48}", token)


def test_no_single_character_can_be_another() -> None:
    token = opaque.mint("vrt")

    for position, character in enumerate(token):
        for step in range(1, 64):
            other = ALPHABET[(ALPHABET.index(character) + step) % 64]
            assert opaque.decode("vrt", token[:position] + other + token[position + 1 :]) is None


def test_no_shortened_lengthened_or_padded_token_is_one() -> None:
    token = opaque.mint("vrt")

    assert all(opaque.decode("vrt", token[:length]) is None for length in range(len(token)))
    for altered in (
        token + "A",
        token + "=",
        token + "\n",
        " " + token,
        token + "==",
        token.upper(),
        "vrt__" + token[4:],
    ):
        assert opaque.decode("vrt", altered) is None


def test_the_checksum_is_the_crc_32_of_prefix_and_body() -> None:
    raw = base64.urlsafe_b64decode(opaque.encode("vcs", b"body").partition("_")[2] + "==")

    assert raw == b"body" + zlib.crc32(b"vcsbody").to_bytes(4)


@pytest.mark.parametrize("body", [b"", b"\x00", b"\x00\x00\x00"])
def test_a_checksum_alone_is_no_token(body: bytes) -> None:
    assert opaque.decode("vrt", "vrt_" + opaque.base64url(body)) is None
    assert opaque.decode("vrt", opaque.encode("vrt", b"")) is None
