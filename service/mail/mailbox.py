"""The mailbox of `vestibule dev`: mails are kept and logged instead of sent."""

from dataclasses import dataclass
from datetime import datetime

import msgspec
import structlog

from service.clock import Clock
from service.mail.message import Mail
from service.store.redis import RedisStore

log = structlog.get_logger("vestibule.mailbox")

KEY = "dev:mailbox"
KEPT = 200


class ReceivedMail(msgspec.Struct, frozen=True):
    """A mail as the developer sees it."""

    to: str
    subject: str
    text: str
    html: str
    sent_at: datetime


@dataclass(frozen=True, slots=True)
class Mailbox:
    """Keeps the newest 200 mails in Redis, so that every run on the same data shows the same ones."""

    store: RedisStore
    clock: Clock

    async def deliver(self, mail: Mail) -> None:
        """Keeps a mail and writes it to the log, whole: this is development."""
        received = ReceivedMail(mail.to, mail.subject, mail.text, mail.html, self.clock())
        await self.store.push(KEY, msgspec.json.encode(received), KEPT)
        log.info("mail", to=mail.to, subject=mail.subject, text=mail.text)

    async def check(self) -> None:
        """A mailbox is always there."""

    async def mails(self) -> list[ReceivedMail]:
        """What arrived, newest first."""
        return [msgspec.json.decode(item, type=ReceivedMail) for item in await self.store.items(KEY)]

    async def empty(self) -> None:
        """Throws everything away."""
        await self.store.delete(KEY)
