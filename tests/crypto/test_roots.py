"""The root keys: strong or no start, one label per purpose, and a way to turn them over."""

import base64
import os
import secrets
import subprocess
import sys
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.crypto.roots import RootKeys
from service.setting_values import SettingsError
from tests.conftest import root_key

RAW = bytes(range(100, 132))


def entry(raw: bytes, number: object = 1) -> str:
    return f"{number}:{base64.urlsafe_b64encode(raw).decode()}"


WEAK = {
    "nothing": "",
    "white space": " , ,",
    "no key": "1:",
    "16 bytes": entry(secrets.token_bytes(16)),
    "31 bytes": entry(secrets.token_bytes(31)),
    "33 bytes": entry(secrets.token_bytes(33)),
    "64 bytes": entry(secrets.token_bytes(64)),
    "zeros": entry(bytes(32)),
    "one letter": entry(b"a" * 32),
    "two letters": entry(b"ab" * 16),
    "four letters": entry(b"pass" * 8),
    "a sentence": entry(b"rain over the quiet harbour 2026"),
    "hexadecimal digits": entry(secrets.token_hex(16).encode()),
    "a password that is no base64": "1:correct horse battery staple!",
    "a short password": "1:hunter2",
    "no base64url": "1:" + "*" * 43,
    "no ASCII": "1:" + "é" * 43,
    "no number": base64.urlsafe_b64encode(RAW).decode(),
    "a name for a number": entry(secrets.token_bytes(32), "a"),
    "a negative number": entry(secrets.token_bytes(32), -1),
    "a number over 255": entry(secrets.token_bytes(32), 256),
    "a number twice": entry(secrets.token_bytes(32)) + "," + entry(secrets.token_bytes(32)),
    "a good one and a weak one": entry(secrets.token_bytes(32), 2) + "," + entry(b"a" * 32, 1),
}


@pytest.mark.standard("KY-07", "KY-27")
@pytest.mark.parametrize("name", WEAK)
def test_a_weak_or_unreadable_key_is_refused_in_one_line_that_does_not_show_it(name: str) -> None:
    with pytest.raises(SettingsError) as refusal:
        RootKeys.parse(WEAK[name])

    text = str(refusal.value)
    assert "VESTIBULE_KEYS" in text
    assert "\n" not in text
    assert not any(len(value) > 8 and value in text for value in WEAK[name].split(":"))
    assert refusal.value.__cause__ is None


@pytest.mark.standard("KY-07", "KY-27", "PF-25")
def test_a_weak_key_stops_the_start_with_one_line() -> None:
    environ = {
        **{name: value for name, value in os.environ.items() if not name.startswith("VESTIBULE_")},
        "DATABASE_URL": "postgresql://127.0.0.1:1/x",
        "REDIS_URL": "redis://127.0.0.1:1/0",
        "VESTIBULE_ISSUER": "https://auth.test",
        "VESTIBULE_KEYS": entry(b"a" * 32),
    }
    command = [sys.executable, "-m", "service", "serve", "--port", "1"]
    ended = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=False)

    assert ended.returncode == 2
    assert ended.stdout == ""
    (line,) = ended.stderr.splitlines()
    assert "VESTIBULE_KEYS" in line
    assert WEAK["one letter"].partition(":")[2] not in line


@pytest.mark.standard("KY-07")
@settings(deadline=None)
@given(st.binary(min_size=32, max_size=32).filter(lambda raw: len(set(raw)) > 24 and max(raw) > 127))
def test_a_strong_key_is_read_with_and_without_padding(raw: bytes) -> None:
    padded = RootKeys.parse(entry(raw, 7))
    bare = RootKeys.parse(entry(raw, 7).rstrip("="))

    assert padded.current == bare.current == 7
    assert padded.derive("a", 7) == bare.derive("a", 7) != raw


@pytest.mark.standard("KY-21")
def test_the_first_key_makes_and_every_key_reads() -> None:
    first, second = root_key(1), root_key(2)
    old, both, new = RootKeys.parse(first), RootKeys.parse(f"{second}, {first}"), RootKeys.parse(second)
    digest = old.digest("client secret", "s3cret")

    assert (both.current, both.oldest) == (2, 1)
    assert digest.startswith("1:")
    assert both.matches("client secret", "s3cret", digest)
    assert both.digest("client secret", "s3cret").startswith("2:")
    assert new.matches("client secret", "s3cret", both.digest("client secret", "s3cret"))
    assert not new.matches("client secret", "s3cret", digest)  # the old key is gone


@pytest.mark.standard("KY-02")
def test_each_purpose_and_each_key_has_a_derived_key_of_its_own() -> None:
    roots = RootKeys.parse(f"{root_key(2)},{root_key(1)}")
    purposes = ["sealing", "client secret", "refresh token", "limits", "registration handle", "pepper", ""]
    derived = [roots.derive(purpose, number) for purpose in purposes for number in (1, 2)]

    assert all(len(key) == 32 for key in derived)
    assert all(one != other for one, other in combinations(derived, 2))


@pytest.mark.standard("KY-02")
def test_a_digest_for_one_purpose_says_nothing_for_another() -> None:
    roots = RootKeys.parse(root_key(1))

    assert not roots.matches("refresh token", "s3cret", roots.digest("client secret", "s3cret"))


@pytest.mark.standard("KY-09")
@pytest.mark.parametrize(
    "digest", ["", ":", "1", "1:", "x:00", "2:00", "1:00", "-1:00", "1" * 5000 + ":00", "1:" + "g" * 64]
)
def test_a_digest_that_is_none_matches_nothing(digest: str) -> None:
    assert not RootKeys.parse(root_key(1)).matches("client secret", "s3cret", digest)


@pytest.mark.standard("KY-32")
def test_a_digest_matches_its_very_text_alone() -> None:
    roots = RootKeys.parse(root_key(1))
    digest = roots.digest("client secret", "s3cret")

    assert roots.matches("client secret", "s3cret", digest)
    assert "s3cret" not in digest
    for other in ("", "s3cre", "s3cret ", "S3cret", "s3cret\x00"):
        assert not roots.matches("client secret", other, digest)


def test_a_purpose_of_a_key_that_is_gone_is_an_error() -> None:
    with pytest.raises(KeyError):
        RootKeys.parse(root_key(1)).derive("sealing", 9)
