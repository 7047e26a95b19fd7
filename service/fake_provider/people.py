"""Who signs in at the fake provider: people who are ready, or somebody whom the form describes."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace

from service.fake_provider.reading import Misasked, is_number

SOMEBODY_ELSE = "other"
MAY_BE_EMPTY = ("name", "email", "picture")
NEVER_EMPTY = ("subject", "username")
TRUTHS: dict[str, bool | None] = {"true": True, "false": False, "absent": None}
FIRST_SNOWFLAKE = 800_000_000_000_000_000
FIRST_GITHUB_ID = 9_000_000
STRANGERS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Guild:
    """A Discord server that somebody is in; `icon` is a hash or nothing, `permissions` a number as text."""

    id: str
    name: str
    permissions: str = "2248473465835073"
    icon: str = ""
    owner: bool = False


READERS = Guild("700000000000000001", "Readers of the quiet harbour", icon="a1b2c3d4e5f60718293a4b5c6d7e8f90")
GARDEN = Guild("700000000000000002", "정원 사람들")
WORKSHOP = Guild("700000000000000003", "Workshop & <Friends>", permissions="8", owner=True)


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody with an account at every provider that is played here.

    Empty texts are things they do not have. `email_verified` is a boolean for all who are ready; a form may make it
    text or a number, or None, which leaves it out.
    """

    id: str
    about: str
    number: int
    username: str
    name: str = ""
    email: str = ""
    email_verified: bool | str | int | None = False
    picture: str = ""
    locale: str = "en-US"
    guilds: tuple[Guild, ...] = (READERS,)
    subject: str = ""

    def subject_at(self, site: str) -> str:
        """Their lasting id there, as text: 18 digits at Discord, a number at GitHub."""
        if self.subject:
            return self.subject
        first = {"discord": FIRST_SNOWFLAKE, "github": FIRST_GITHUB_ID}.get(site)
        return f"{self.id}-{self.number}" if first is None else str(first + self.number)


PEOPLE = {
    person.id: person
    for person in (
        Person(
            id="ann",
            about="a verified e-mail address, a picture",
            number=1,
            username="ann",
            name="Ann Archer",
            email="ann@example.net",
            email_verified=True,
            picture="/pictures/ann.png",
            guilds=(READERS, GARDEN, WORKSHOP),
        ),
        Person(
            id="bob",
            about="an e-mail address that is not verified",
            number=2,
            username="bob",
            name="Bob Baker",
            email="bob@example.net",
            guilds=(READERS, WORKSHOP),
        ),
        Person(
            id="cho",
            about="no e-mail address at all, a Korean name",
            number=3,
            username="cho",
            name="조은",
            locale="ko",
            guilds=(READERS, GARDEN),
        ),
        Person(
            id="dai",
            about="a verified e-mail address, a Japanese name",
            number=4,
            username="dai",
            name="大地",
            email="dai@example.net",
            email_verified=True,
            locale="ja",
            guilds=(READERS, GARDEN),
        ),
        Person(
            id="eve",
            about="the verified address that the administrator of a new Vestibule has: accounts must not be merged",
            number=5,
            username="eve",
            name="Eve Evans",
            email="admin@example.com",
            email_verified=True,
            guilds=(READERS, WORKSHOP),
        ),
    )
}
"""Everybody who is ready, in the order in which a page shows them."""


def chosen(form: Mapping[str, str]) -> Person:
    """Whom a form names, with what it says otherwise of them. Raises `Misasked`.

    An empty name, e-mail address or picture is none; with `blank=keep`, as pages send it, it is not said at all.
    """
    keep = form.get("blank") == "keep"
    said = {field: form[field] for field in MAY_BE_EMPTY if field in form and (form[field] or not keep)}
    said |= {field: form[field] for field in NEVER_EMPTY if form.get(field)}
    person = replace(_named(form.get("person", "")), **said)  # type: ignore[arg-type]
    if form.get("email_verified"):
        return replace(person, email_verified=_truth(form["email_verified"]))
    if person.id == SOMEBODY_ELSE:
        return replace(person, email_verified=bool(person.email))
    return person


def _named(name: str) -> Person:
    if name == SOMEBODY_ELSE:
        stranger = secrets.randbelow(STRANGERS)
        return Person(SOMEBODY_ELSE, "", 1000 + stranger, f"stranger-{stranger:x}")
    if name not in PEOPLE:
        raise Misasked(f"There is nobody called “{name}” here.")
    return PEOPLE[name]


def _truth(text: str) -> bool | str | int | None:
    kind, colon, value = text.partition(":")
    if text in TRUTHS:
        return TRUTHS[text]
    if colon and kind == "text":
        return value
    if colon and kind == "number" and is_number(value):
        return int(value)
    raise Misasked("email_verified is true, false, absent, text:… or number:…")
