"""Nicknames made of foreign names: whatever a provider says, one of ours comes of it."""

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.accounts.names import ANYBODY, NICKNAME_MAX, nickname_from, nickname_key

INVISIBLE = "\u3164\u115f\u1160\uffa0"
JOINED = "\u1100\u200d\u1161\u11a8"
"""Hangul letters that become one when what stands between them is taken away."""
TRICKY = f"{INVISIBLE}{JOINED}\u202e\u0000\ud800\u0301\u00a8\ufb03\u0130\u00df\u1e9e\u2460._-@ \U0001f468\u200d"
TRIES = 8


@settings(max_examples=400, derandomize=True, deadline=None)
@given(name=st.text(max_size=120) | st.text(alphabet=TRICKY, max_size=60), attempt=st.integers(0, TRIES))
def test_every_name_becomes_a_nickname_that_we_take(name: str, attempt: int) -> None:
    made = nickname_from(name, attempt)
    assert nickname_key(made)
    assert made.isprintable()
    assert unicodedata.normalize("NFKC", made) == made


@settings(max_examples=200, derandomize=True, deadline=None)
@given(name=st.from_regex(r"[a-z0-9][a-z0-9_.-]{1,23}", fullmatch=True))
def test_a_name_that_we_would_take_ourselves_stays_as_it_is(name: str) -> None:
    assert nickname_from(name) == name


@pytest.mark.parametrize(
    ("name", "nickname"),
    [
        ("조은", "조은"),
        ("大地", "大地"),
        ("Ann Archer", "Ann_Archer"),
        ("  Ann \t\n Archer  ", "Ann_Archer"),
        ("_.-ann-._", "ann-._"),
        ("\uff21\uff4e\uff4e", "Ann"),
        ("ﬁne", "fine"),
        ("ann🦊", "ann"),
        ("a\u0301nn", "ánn"),
        ("<b>ann</b>", "bannb"),
        ("ann\u202egnp.exe", "anngnp.exe"),
        ("user", "user"),
        ("n" * 100, "n" * 24),
    ],
)
def test_a_name_is_kept_as_far_as_it_can_be(name: str, nickname: str) -> None:
    assert nickname_from(name) == nickname


@pytest.mark.parametrize("name", ["", " ", "a", "🦊", "...---", "___", INVISIBLE, "\u0301\u0302", "\x00"])
def test_where_nothing_is_left_of_a_name_a_number_makes_it_somebody(name: str) -> None:
    made = {nickname_from(name) for _ in range(20)}
    assert all(one.startswith(f"{ANYBODY}-") and one.removeprefix(f"{ANYBODY}-").isdecimal() for one in made)
    assert len(made) > 1


@pytest.mark.parametrize("name", ["ann", "n" * 100, "조은", "", "🦊"])
def test_each_further_attempt_is_another_name_that_begins_like_the_first(name: str) -> None:
    first = nickname_from(name)
    for attempt in range(1, TRIES):
        made = {nickname_from(name, attempt) for _ in range(20)}
        assert len(made) > 1
        assert all(one.startswith(first[:4]) and len(one) <= NICKNAME_MAX for one in made)
