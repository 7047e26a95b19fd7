"""The languages we write in, and which of them somebody reads best."""

import re

LANGUAGES = ("en", "ko", "ja")
DEFAULT = "en"

LONGEST_HEADER = 1000
"""Characters of an Accept-Language header that are looked at: browsers send far fewer."""

LOCALE = re.compile(r"[A-Za-z]{2,3}(-[A-Za-z]{4})?(-([A-Za-z]{2}|[0-9]{3}))?")
QUALITY = re.compile(r"[qQ][ \t]*=[ \t]*([01](\.[0-9]{0,3})?)")


def preferred(accept_language: str) -> str:
    """The language with the highest quality, the first one of equals (RFC 9110 section 12.5.4).

    `*` stands for the first of our languages that the header does not name. What is malformed is passed over.
    """
    wishes = [_wish(item) for item in accept_language[:LONGEST_HEADER].split(",")]
    named = {language for language, _ in wishes}
    rest = next((language for language in LANGUAGES if language not in named), "")
    offers = [(quality, rest if language == "*" else language) for language, quality in wishes]
    served = [offer for offer in offers if offer[0] > 0 and offer[1] in LANGUAGES]
    return max(served, key=lambda offer: offer[0], default=(0, DEFAULT))[1]


def language_of(locale: str) -> str:
    """The language of a tag such as `ko-KR`; the default one when we do not write in it."""
    language = _primary(locale)
    return language if language in LANGUAGES else DEFAULT


def is_locale(text: str) -> bool:
    """Whether this is language, script and region of BCP 47, the last two optional: `ja`, `zh-Hant-TW`, `es-419`.

    Variants, extensions and private use are not taken, so a locale has twelve characters at most, all ASCII.
    """
    return LOCALE.fullmatch(text) is not None


def _wish(item: str) -> tuple[str, float]:
    """Language and quality of one element; quality 0 when it makes no sense."""
    tag, parameter, weight = item.partition(";")
    if not parameter:
        return _primary(tag), 1.0
    quality = QUALITY.fullmatch(weight.strip())
    return _primary(tag), min(float(quality[1]), 1.0) if quality else 0.0


def _primary(tag: str) -> str:
    return tag.strip().partition("-")[0].lower()
