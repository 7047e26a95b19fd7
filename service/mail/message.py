"""A mail, and how mails leave."""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Mail:
    """One message to one person. `id` is the same at every try, and becomes part of the Message-ID."""

    to: str
    subject: str
    text: str
    html: str
    language: str = "en"
    id: str = ""


class Transport(Protocol):
    """How mails leave: SMTP, the mailbox of `vestibule dev`, or a list in a test."""

    async def deliver(self, mail: Mail) -> None:
        """Hands one mail over. Raises `MailNotSent`."""
        ...

    async def check(self) -> None:
        """Raises `MailNotSent` when mails could not leave at this moment."""
        ...


class MailNotSent(Exception):
    """The mail was not taken; trying again may help."""


class MailRefused(MailNotSent):
    """The mail will never be taken: an address that does not exist, say."""


class NoTransport:
    """For commands that send no mail."""

    async def deliver(self, mail: Mail) -> None:
        """Refuses."""
        raise MailNotSent("this command sends no mail")

    async def check(self) -> None:
        """Refuses."""
        raise MailNotSent("this command sends no mail")
