"""What mails say: one text per message and language, and an HTML part that is made of the very same paragraphs."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from service.languages import language_of
from service.mail.message import Mail

NAMES = (
    "verify",
    "already_registered",
    "reset",
    "password_changed",
    "password_locked",
    "email_change",
    "email_change_requested",
    "email_in_use",
    "email_changed",
    "email_undone",
    "nickname_changed",
    "new_device",
    "session_reused",
    "identity_linked",
    "identity_unlinked",
    "account_closed",
    "secret_expires",
)
"""Every message there is."""

LINK = re.compile(r"https?://[!-~]+")
LIKE_A_LINK = re.compile(r"[^\W_]\.[^\W\d_]{2}|://")
LEFT_OUT = {"nickname", "device", "place"}
"""Values that a mail can do without."""
SHOWN_ALL_THE_SAME = {"old_nickname", "new_nickname"}


@dataclass(frozen=True, slots=True)
class Paragraph:
    """Plain text, which may end with a link on a line of its own, or with a code."""

    words: str
    link: str = ""
    code: str = ""


class Templates:
    """The messages in `messages/<language>/<name>.txt`: a subject block, then paragraphs, an empty line between each.

    A line that is nothing but the value `link` becomes an anchor in HTML, labelled with the line above it, and a
    paragraph that ends with the value `code` shows it large.
    """

    def __init__(self) -> None:
        self._environment = Environment(
            loader=PackageLoader("service.mail", "messages"),
            autoescape=select_autoescape(["html"]),
            undefined=StrictUndefined,
            auto_reload=False,
        )

    def render(self, name: str, to: str, language: str, values: Mapping[str, object], *, mail_id: str = "") -> Mail:
        """One mail, in English when we do not write in `language`, which may be a whole locale.

        What people typed is never a template, markup, a link or a paragraph of its own (ASVS 1.2.1, 1.3.7). A value
        that is missing raises `jinja2.UndefinedError`, a link that is not one `ValueError`.
        """
        language = language_of(language)
        safe = {key: _tame(key, value) for key, value in values.items()}
        text = self._environment.get_template(f"{language}/{name}.txt").render(safe)
        subject, *paragraphs = (part.strip() for part in text.split("\n\n") if part.strip())
        subject = " ".join(subject.split())
        html = self._environment.get_template("layout.html").render(
            language=language,
            subject=subject,
            paragraphs=[_paragraph(part, str(safe.get("link", "")), str(safe.get("code", ""))) for part in paragraphs],
        )
        return Mail(to, subject, "\n\n".join(paragraphs) + "\n", html, language, mail_id)


def _tame(key: str, value: object) -> object:
    """A value as a template may have it: numbers as they are, a link checked, all else on one printable line."""
    if isinstance(value, int):
        return value
    text = "" if value is None else str(value)
    if key == "link":
        return _checked(text)
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    # Mail programs make links of what looks like a host name. Anybody may call themselves `evil.example`, or come with
    # such a user agent: we would carry that link for them, in a mail about security of all things.
    if key in LEFT_OUT and LIKE_A_LINK.search(line):
        return ""
    return line.replace(".", "[.]") if key in SHOWN_ALL_THE_SAME and LIKE_A_LINK.search(line) else line


def _checked(link: str) -> str:
    if link and not LINK.fullmatch(link):
        raise ValueError("a mailed link must be a whole http or https URL")
    return link


def _paragraph(text: str, link: str, code: str) -> Paragraph:
    words, _, last = text.rpartition("\n")
    if link and last == link:
        return Paragraph(words, link=link)
    if code and text.endswith(code):
        return Paragraph(text.removesuffix(code), code=code)
    return Paragraph(text)
