"""Secrets at rest: nothing but the very blob in its very place opens, and every failure looks the same."""

import secrets

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st

from service.crypto.roots import RootKeys
from service.crypto.sealing import UnsealError, seal, unseal
from tests.conftest import root_key

ROOTS = RootKeys.parse(root_key(1))
SECRET = b"the private half of a signing key"
ROW = "signing_keys/one"


@pytest.mark.standard("KY-11")
@settings(deadline=None)
@given(st.binary(max_size=300), st.text(max_size=40))
def test_what_was_sealed_opens_in_its_place(plaintext: bytes, row: str) -> None:
    assert unseal(ROOTS, seal(ROOTS, plaintext, row), row) == plaintext


@pytest.mark.standard("KY-11")
def test_a_blob_names_its_version_and_key_and_shows_nothing_of_its_content() -> None:
    blob = seal(ROOTS, SECRET, ROW)

    assert (blob[0], blob[1]) == (1, 1)
    assert len(blob) == 2 + 12 + len(SECRET) + 16
    assert SECRET not in blob


@pytest.mark.standard("KY-09", "KY-12")
def test_no_byte_of_a_blob_can_be_another() -> None:
    blob = seal(ROOTS, SECRET, ROW)

    for position in range(len(blob)):
        for change in (0x01, 0x80, 0xFF):
            damaged = bytearray(blob)
            damaged[position] ^= change
            with pytest.raises(UnsealError) as refusal:
                unseal(ROOTS, bytes(damaged), ROW)
            assert refusal.value.args == ()
            assert refusal.value.__cause__ is None


@pytest.mark.standard("KY-09")
def test_no_shortened_or_lengthened_blob_opens() -> None:
    blob = seal(ROOTS, SECRET, ROW)

    for length in range(len(blob)):
        with pytest.raises(UnsealError):
            unseal(ROOTS, blob[:length], ROW)
    with pytest.raises(UnsealError):
        unseal(ROOTS, blob + b"\x00", ROW)


@pytest.mark.standard("KY-09")
@settings(deadline=None)
@given(st.binary(max_size=100))
def test_no_bytes_whatsoever_open(blob: bytes) -> None:
    with pytest.raises(UnsealError):
        unseal(ROOTS, blob, ROW)


@pytest.mark.standard("KY-12")
@pytest.mark.parametrize(
    "row", ["signing_keys/two", "signing_keys/", "", "accounts/one", "signing_keys/one ", "Signing_keys/one"]
)
def test_a_blob_put_into_another_row_does_not_open(row: str) -> None:
    with pytest.raises(UnsealError):
        unseal(ROOTS, seal(ROOTS, SECRET, ROW), row)


@pytest.mark.standard("KY-12")
def test_two_rows_whose_blobs_were_swapped_open_neither() -> None:
    one, two = seal(ROOTS, b"first", "keys/1"), seal(ROOTS, b"other", "keys/2")

    for blob, row in ((one, "keys/2"), (two, "keys/1")):
        with pytest.raises(UnsealError):
            unseal(ROOTS, blob, row)


@pytest.mark.standard("KY-13")
def test_a_nonce_never_comes_twice() -> None:
    nonces = {seal(ROOTS, b"", ROW)[2:14] for _ in range(20_000)}

    assert len(nonces) == 20_000


@pytest.mark.standard("KY-21")
def test_an_older_root_key_still_opens_and_the_newest_seals() -> None:
    first, second = root_key(1), root_key(2)
    old, both, new = RootKeys.parse(first), RootKeys.parse(f"{second},{first}"), RootKeys.parse(second)
    blob = seal(old, SECRET, ROW)

    assert unseal(both, blob, ROW) == SECRET
    assert seal(both, SECRET, ROW)[1] == 2
    assert unseal(new, seal(both, SECRET, ROW), ROW) == SECRET
    with pytest.raises(UnsealError):
        unseal(new, blob, ROW)


@pytest.mark.standard("KY-12")
def test_the_key_id_of_a_blob_cannot_be_changed_to_that_of_an_equal_key() -> None:
    key = root_key(1).partition(":")[2]
    roots = RootKeys.parse(f"2:{key},1:{key}")
    blob = seal(RootKeys.parse(f"1:{key}"), SECRET, ROW)

    with pytest.raises(UnsealError):
        unseal(roots, bytes([blob[0], 2]) + blob[2:], ROW)


@pytest.mark.standard("KY-11", "KY-09")
def test_a_blob_of_another_version_does_not_open_although_its_tag_is_right() -> None:
    nonce, header = secrets.token_bytes(12), b"\x02\x01"
    sealed = AESGCM(ROOTS.derive("sealing", 1)).encrypt(nonce, SECRET, header + ROW.encode())

    with pytest.raises(UnsealError):
        unseal(ROOTS, header + nonce + sealed, ROW)
