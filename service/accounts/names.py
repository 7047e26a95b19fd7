"""The names people go by, in the one form in which they are compared (a unique index stands on it).

An address is compared in lower case with its domain in ASCII (IDNA). A nickname is compared case-folded and must be
given in its NFKC form, so that compatibility spellings (full width, ligatures) cannot exist beside it; letters of
other scripts that look alike can.
"""

import secrets
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from email_validator import EmailNotValidError, validate_email

from service.errors import FieldError, InvalidInput

EMAIL_LIMIT = 254
NICKNAME_MIN, NICKNAME_MAX = 2, 32
NICKNAME_PUNCTUATION = "_.-"
ANYBODY = "user"
LONGEST_NUMBER = 8
"""Characters that make a foreign name unique."""
INVISIBLE_LETTERS = "\u115f\u1160"
"""Hangul fillers: letters to Unicode, nothing to the eye. NFKC turns all others of their kind into these."""


@dataclass(frozen=True, slots=True)
class Name:
    """What an account is looked up by."""

    kind: Literal["email", "nickname"]
    key: str


def canonical_email(text: str, field: str = "email") -> str:
    """The address as it is stored. Raises `InvalidInput`.

    The local part must be ASCII: providers that take others are rare, look-alikes are not.
    """
    try:
        checked = validate_email(text, check_deliverability=False, allow_smtputf8=False, test_environment=True)
    except (EmailNotValidError, UnicodeError):
        raise InvalidInput(fields=[FieldError(field, "email_invalid", "This is not an e-mail address.")]) from None
    address = f"{checked.ascii_local_part}@{checked.ascii_domain}".lower()
    if len(address) > EMAIL_LIMIT:
        raise InvalidInput(fields=[FieldError(field, "email_invalid", "The address is too long.")])
    return address


def nickname_key(text: str, field: str = "nickname") -> str:
    """The nickname as it is compared. Raises `InvalidInput`."""
    if not NICKNAME_MIN <= len(text) <= NICKNAME_MAX:
        raise InvalidInput(fields=[FieldError(field, "nickname_length", "A nickname has 2 to 32 characters.")])
    well_formed = all(c.isalnum() or c in NICKNAME_PUNCTUATION for c in text) and text[0].isalnum()
    if not well_formed or any(c in INVISIBLE_LETTERS for c in text) or unicodedata.normalize("NFKC", text) != text:
        detail = "A nickname starts with a letter or digit and holds letters, digits and _ . - in their plain forms."
        raise InvalidInput(fields=[FieldError(field, "nickname_invalid", detail)])
    return unicodedata.normalize("NFKC", text.casefold())


def nickname_from(name: str, attempt: int = 0) -> str:
    """A nickname that comes as near to a foreign name as ours may; from the second attempt on with a random number."""
    plain = unicodedata.normalize("NFKC", "_".join(name.split()))
    kept = "".join(c for c in plain if c.isalnum() or c in NICKNAME_PUNCTUATION)
    kept = kept.lstrip(NICKNAME_PUNCTUATION)[: NICKNAME_MAX - LONGEST_NUMBER]
    number = f"-{secrets.randbelow(10 ** min(attempt + 2, LONGEST_NUMBER - 1))}" if attempt else ""
    try:
        nickname_key(kept + number)
    except InvalidInput:
        return f"{ANYBODY}{number or '-' + str(secrets.randbelow(10 ** (LONGEST_NUMBER - 1)))}"
    return kept + number


def login_name(email: str | None, nickname: str | None) -> Name:
    """What somebody signs in with. Something that cannot be anybody's name is looked up all the same, in vain."""
    if email is not None:
        return Name("email", _or_as_given(canonical_email, email))
    return Name("nickname", _or_as_given(nickname_key, nickname or ""))


def _or_as_given(canonical: Callable[[str], str], text: str) -> str:
    try:
        return canonical(text)
    except InvalidInput:
        return text[:EMAIL_LIMIT]
