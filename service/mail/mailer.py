"""Delivers what waits in the outbox, in the background: a slow or dead mail server never slows a request."""

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta

import structlog

from service import background, metrics, tracing
from service.crypto.sealing import UnsealError
from service.errors import Unavailable
from service.mail.message import MailNotSent, MailRefused, Transport
from service.mail.outbox import NOTHING, Outbox, OutboxRow
from service.mail.templates import Templates

log = structlog.get_logger("vestibule.mail")

LINES = 4
"""Mails handed over at the same time by one worker."""
LOOK = 1.0
"""Seconds between looks for mails that other workers posted, or whose pause is over."""
PAUSE_AFTER_FAILURE = 2.0
FIRST_PAUSE = timedelta(seconds=1)
LONGEST_PAUSE = timedelta(minutes=5)
MOST_DOUBLINGS = 10
LEASE = 4
"""A lease lasts so many times as a delivery may."""
CLOSING_TIME = 5.0


@dataclass(slots=True)
class Mailer:
    """Delivers mails, a few at a time. Any number of workers may do so beside each other.

    A mail is forgotten when the server took it: a worker that dies in between sends it once more, under the same
    Message-ID. `life` is how long a mail is tried, `timeout` how long one step of a delivery may take, `leeway` by how
    much the clocks of workers may differ.
    """

    outbox: Outbox
    transport: Transport
    templates: Templates
    life: timedelta
    timeout: timedelta
    leeway: timedelta = timedelta(0)
    _wake: asyncio.Event = field(default_factory=asyncio.Event)
    _under_way: set[asyncio.Task[None]] = field(default_factory=set)
    _in_hand: set[int] = field(default_factory=set)
    _task: asyncio.Task[None] | None = None
    _stopping: bool = False

    def start(self) -> None:
        """Begins to deliver in the background."""
        self._stopping = False
        self.outbox.listeners.append(self._wake.set)
        self._task = asyncio.create_task(self._deliver_on(), name="mail")

    async def stop(self) -> None:
        """Lets what is being handed over finish, within five seconds, and ends; the rest waits in the outbox."""
        self._stopping = True
        self._wake.set()
        if self._task is not None:
            # Not in the middle of a claim: what it leased would wait for the lease to end.
            await asyncio.wait([self._task], timeout=CLOSING_TIME)
        await background.end(self._task)
        if self._under_way:
            await asyncio.wait(set(self._under_way), timeout=CLOSING_TIME)
        for task in set(self._under_way):
            await background.end(task)

    async def drain(self) -> None:
        """Returns when every mail that is due has left or was put off. Raises `Unavailable`."""
        while await self.outbox.busy():
            self._wake.set()
            await asyncio.sleep(0.005)

    async def _deliver_on(self) -> None:
        while not self._stopping:
            self._wake.clear()
            pause = LOOK
            try:
                await self._take_up()
            except Unavailable as error:
                log.warning("the outbox cannot be read", reason=error.reason)
                pause = PAUSE_AFTER_FAILURE
            except Exception:
                log.exception("the outbox cannot be read")
                pause = PAUSE_AFTER_FAILURE
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), 0 if self._stopping else pause)

    async def _take_up(self) -> None:
        free = LINES - len(self._under_way)
        for row in await self.outbox.claim(free, self.timeout * LEASE + self.leeway) if free else ():
            if row.id in self._in_hand:  # a clock that jumped ended our own lease
                continue
            self._in_hand.add(row.id)
            task = asyncio.create_task(self._deliver(row), name="mail delivery")
            self._under_way.add(task)
            task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._under_way.discard(task)
        self._wake.set()

    async def _deliver(self, row: OutboxRow) -> None:
        try:
            await self._settle(row)
        except Unavailable as error:
            log.warning("the outbox does not know yet what became of a mail", mail=row.id, reason=error.reason)
        finally:
            self._in_hand.discard(row.id)

    async def _settle(self, row: OutboxRow) -> None:
        """Hands a mail over, and leaves in the outbox what became of it."""
        try:
            if row.template != NOTHING:
                with tracing.work(f"mail {row.template}"):
                    await self._hand_over(row)
        except MailRefused as error:
            await self._bury(row, str(error))
        except MailNotSent as error:
            await self._put_off(row, str(error))
        except Unavailable as error:
            await self._put_off(row, error.reason)
        except UnsealError:
            await self._bury(row, "its root key is not in VESTIBULE_KEYS")
        except Exception as error:  # noqa: BLE001  whatever it was, its text may hold the address
            await self._bury(row, type(error).__name__)
        else:
            await self._forget(row)

    async def _forget(self, row: OutboxRow) -> None:
        """Once it was taken, a mail must not leave again: tries to say so for as long as it is ours."""
        while True:
            try:
                return await self.outbox.delivered(row)
            except Unavailable:
                if row.leased_until is None or self.outbox.clock() >= row.leased_until:
                    raise
            await asyncio.sleep(PAUSE_AFTER_FAILURE)

    async def _hand_over(self, row: OutboxRow) -> None:
        letter = self.outbox.open(row)
        mail_id = f"{row.id}.{row.lane}"
        mail = self.templates.render(row.template, letter.to, letter.language, letter.values, mail_id=mail_id)
        try:
            async with asyncio.timeout((self.timeout * (LEASE - 1)).total_seconds()):
                await self.transport.deliver(mail)
        except TimeoutError:
            raise MailNotSent("the server was too slow") from None
        metrics.mails.labels("sent").inc()
        log.info("a mail left", template=row.template, attempt=row.tries)

    async def _put_off(self, row: OutboxRow, reason: str) -> None:
        if self.outbox.clock() - row.created_at >= self.life:
            await self._bury(row, reason)
            return
        pause = min(FIRST_PAUSE * 2 ** min(row.tries - 1, MOST_DOUBLINGS), LONGEST_PAUSE)
        metrics.mails.labels("postponed").inc()
        log.warning("a mail did not leave", template=row.template, attempt=row.tries, reason=reason)
        await self.outbox.postpone(row, pause, reason)

    async def _bury(self, row: OutboxRow, reason: str) -> None:
        metrics.mails.labels("dead").inc()
        log.error("a mail was given up: see `vestibule mail list`", mail=row.id, template=row.template, reason=reason)
        await self.outbox.bury(row, reason)
