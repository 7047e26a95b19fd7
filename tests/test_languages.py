"""Which language somebody is written to in, whatever their browser sends."""

import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.languages import DEFAULT, LANGUAGES, is_locale, language_of, preferred

of_any = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""Of any machine, however busy."""
QUALITIES = st.integers(0, 1000).map(lambda thousandths: thousandths / 1000)


@pytest.mark.parametrize(
    ("header", "language"),
    [
        ("", "en"),
        ("ko", "ko"),
        ("ko-KR,ko;q=0.9,en-US;q=0.8,en;q=0.7", "ko"),
        ("JA-jp", "ja"),
        ("en;q=0.8, ja;q=0.9", "ja"),
        ("ja, ko", "ja"),
        ("ko, ja", "ko"),
        ("fr, de;q=0.9, ko;q=0.1", "ko"),
        ("fr-FR, de", "en"),
        ("ko;q=0", "en"),
        ("ko;q=0, ja;q=0.1", "ja"),
        ("ko ; Q = 0.3 , ja\t;q=0.2", "ko"),
    ],
)
def test_the_best_language_wins_and_the_first_of_equals(header: str, language: str) -> None:
    assert preferred(header) == language


@pytest.mark.parametrize(
    ("header", "language"),
    [
        ("*", "en"),
        ("fr, *;q=0.1", "en"),
        ("ko;q=0.8, *;q=0.5", "ko"),
        ("ko;q=0.5, *", "en"),
        ("en;q=0, *", "ko"),
        ("en;q=0, ko;q=0, *;q=0.1", "ja"),
        ("en;q=0.1, ko;q=0, ja;q=0, *", "en"),
        ("*;q=0", "en"),
    ],
)
def test_a_star_stands_for_the_first_language_that_is_not_named(header: str, language: str) -> None:
    assert preferred(header) == language


@pytest.mark.parametrize(
    "nonsense",
    [
        *(",", ";", ";q=1", "ja;q=", "ja;q=x", "ja;q=-1", "ja;q=nan", "ja;q=inf", "ja;q=1e3", "ja;q=\u0660.\u0665"),
        *("ja;level=1", "ja_JP"),
    ],
)
def test_what_is_malformed_is_passed_over_and_the_rest_still_counts(nonsense: str) -> None:
    assert preferred(nonsense) == "en"
    assert preferred(f"{nonsense}, ko;q=0.1") == "ko"


def test_a_very_long_header_costs_next_to_nothing() -> None:
    started = time.thread_time()
    assert preferred("xx;q=0.1," * 1_000_000 + "ko") == DEFAULT
    assert preferred("q" + "=" * 5_000_000) == DEFAULT
    assert preferred("ja," + " " * 5_000_000) == "ja"
    assert time.thread_time() - started < 0.5


@of_any
@given(st.text())
def test_any_header_leads_to_one_of_our_languages(header: str) -> None:
    assert preferred(header) in LANGUAGES


@of_any
@given(st.lists(st.tuples(st.sampled_from(LANGUAGES), QUALITIES), max_size=3, unique_by=lambda wish: wish[0]))
def test_no_language_of_the_header_is_better_than_the_one_chosen(wishes: list[tuple[str, float]]) -> None:
    qualities = dict(wishes)
    chosen = preferred(", ".join(f"{language};q={quality}" for language, quality in wishes))

    best = max(qualities.values(), default=0)
    assert chosen == next((name for name, quality in wishes if quality == best > 0), DEFAULT)


@pytest.mark.parametrize(
    ("locale", "language"),
    [
        ("ko", "ko"),
        ("ko-KR", "ko"),
        ("JA-Jpan-JP", "ja"),
        ("en-GB", "en"),
        ("fr-FR", "en"),
        ("", "en"),
        ("kok-IN", "en"),
    ],
)
def test_a_locale_is_written_to_in_its_language_or_the_default_one(locale: str, language: str) -> None:
    assert language_of(locale) == language


@pytest.mark.parametrize("tag", ["en", "ko-KR", "kok", "zh-Hant", "zh-Hant-TW", "es-419", "JA-jpan-JP"])
def test_language_script_and_region_make_a_locale(tag: str) -> None:
    assert is_locale(tag)


@pytest.mark.parametrize(
    "text",
    [
        *("", "e", "engl", "en-", "-en", "en_US", "en US", "en\n", "en-US\n"),
        *("en-USA", "en-12", "en-Latn-Latn", "en-US-Latn", "de-1996", "en-x-private", "en-US" + "-a" * 20),
        *("\u212ao", "en-\u017fa", "\uff45\uff4e", "es-\uff14\uff11\uff19"),
    ],
)
def test_anything_else_is_no_locale(text: str) -> None:
    assert not is_locale(text)


@of_any
@given(
    st.from_regex(r"[a-zA-Z]{2,3}", fullmatch=True),
    st.from_regex(r"(-[a-zA-Z]{4})?", fullmatch=True),
    st.from_regex(r"(-([a-zA-Z]{2}|[0-9]{3}))?", fullmatch=True),
)
def test_every_well_formed_tag_is_a_locale_in_any_case(language: str, script: str, region: str) -> None:
    tag = language + script + region
    assert is_locale(tag)
    assert is_locale(tag.swapcase())
    assert language_of(tag) in LANGUAGES


@of_any
@given(st.text(max_size=50))
def test_a_locale_is_short_and_ascii(text: str) -> None:
    if is_locale(text):
        assert text.isascii()
        assert len(text) <= 12
    assert language_of(text) in LANGUAGES
