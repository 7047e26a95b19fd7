"""Mails leave in the background: a slow or dead mail server never slows a request, and the time an answer takes
does not tell whether a mail was sent."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Protocol

import structlog
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from service import background

log = structlog.get_logger("vestibule.mail")

LANGUAGE = "en"
MOST_WAITING = 10_000
LINES = 4
"""Mails handed over at the same time."""
TRIES = 5
FIRST_PAUSE = 0.5
CLOSING_TIME = 5.0


@dataclass(frozen=True, slots=True)
class Mail:
    """One message to one person."""

    to: str
    subject: str
    text: str
    html: str


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


class Templates:
    """The messages in `messages/<language>/`: `<name>.txt` with a subject block, and `<name>.html`."""

    def __init__(self) -> None:
        self._environment = Environment(
            loader=PackageLoader("service.mail", "messages"),
            autoescape=select_autoescape(["html"]),
            undefined=StrictUndefined,
            keep_trailing_newline=True,
        )

    def render(self, name: str, to: str, values: dict[str, object]) -> Mail:
        """One mail; what people typed is escaped in HTML and is never itself a template (ASVS 1.3.7)."""
        text = self._environment.get_template(f"{LANGUAGE}/{name}.txt")
        html = self._environment.get_template(f"{LANGUAGE}/{name}.html")
        subject = "".join(text.blocks["subject"](text.new_context(values))).strip()
        return Mail(to, subject, text.render(values).partition("\n\n")[2], html.render(values))


@dataclass(slots=True)
class Mailer:
    """Takes mails from use cases and delivers them, a few at a time, each with a few tries.

    A mail that waits for its next try holds up no other one.
    """

    transport: Transport
    templates: Templates = field(default_factory=Templates)
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    _under_way: set[asyncio.Task[None]] = field(default_factory=set)
    _lines: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(LINES))

    def post(self, name: str, to: str, **values: object) -> None:
        """Puts a mail on its way and returns at once; beyond ten thousand under way it is dropped, and logged."""
        if len(self._under_way) >= MOST_WAITING:
            log.error("a mail was dropped: too many wait", template=name)
            return
        task = asyncio.create_task(self._send(name, to, values), name="mail")
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def drain(self) -> None:
        """Returns when every mail that was posted so far has been delivered or given up."""
        if self._under_way:
            await asyncio.wait(set(self._under_way))

    async def stop(self) -> None:
        """Delivers what waits, within five seconds, and ends."""
        if self._under_way:
            await asyncio.wait(set(self._under_way), timeout=CLOSING_TIME)
        if self._under_way:
            log.error("mails were dropped at the end", count=len(self._under_way))
        for task in set(self._under_way):
            await background.end(task)

    async def _send(self, name: str, to: str, values: dict[str, object]) -> None:
        try:
            await self._deliver(name, self.templates.render(name, to, values))
        except Exception:
            log.exception("a mail was lost", template=name)

    async def _deliver(self, name: str, mail: Mail) -> None:
        for attempt in range(TRIES):
            if attempt:
                await self.sleep(FIRST_PAUSE * 2 ** (attempt - 1))
            try:
                async with self._lines:
                    await self.transport.deliver(mail)
            except MailRefused as error:
                log.warning("a mail was refused", template=name, reason=str(error))
                return
            except MailNotSent as error:
                log.warning("a mail did not leave", template=name, attempt=attempt + 1, reason=str(error))
            else:
                log.info("a mail left", template=name)
                return
        log.error("a mail was given up", template=name)


class NoTransport:
    """For commands that send no mail."""

    async def deliver(self, mail: Mail) -> None:
        """Refuses."""
        raise MailNotSent("this command sends no mail")

    async def check(self) -> None:
        """Refuses."""
        raise MailNotSent("this command sends no mail")
