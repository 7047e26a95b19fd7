"""A real SMTP server on loopback, in a thread of its own."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage
from typing import Any, cast

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session


class Server(Controller):
    """Listens wherever there is room."""

    def _trigger_server(self) -> None:
        self.port = cast("Any", self.server).sockets[0].getsockname()[1]
        super()._trigger_server()  # type: ignore[no-untyped-call]


@dataclass
class Postman:
    """What the server does with mails: keeps them, says no to some, and may hang before it takes them."""

    refused: dict[str, str] = field(default_factory=dict)
    let_go: threading.Event = field(default_factory=threading.Event)
    offers_eight_bits: bool = True
    seen: list[Envelope] = field(default_factory=list)
    taken: list[Envelope] = field(default_factory=list)
    encrypted: list[bool] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.let_go.set()

    async def handle_EHLO(
        self, server: SMTP, session: Session, envelope: Envelope, hostname: str, responses: list[str]
    ) -> list[str]:
        session.host_name = hostname
        return [line for line in responses if self.offers_eight_bits or "8BITMIME" not in line]

    async def handle_RCPT(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if address in self.refused:
            return self.refused[address]
        envelope.rcpt_tos.append(address)
        return "250 ok"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        self.seen.append(envelope)
        self.encrypted.append(cast("Any", server.transport).get_extra_info("cipher") is not None)
        for _ in range(6000):
            if self.let_go.is_set():
                break
            await asyncio.sleep(0.01)
        self.taken.append(envelope)
        return "250 queued"


@contextmanager
def serving(postman: Postman, port: int = 0, **settings: Any) -> Iterator[int]:
    """The port of a server that this postman works for."""
    server = Server(postman, hostname="127.0.0.1", port=port, ready_timeout=60, **settings)
    server.start()
    try:
        yield int(server.port)
    finally:
        postman.let_go.set()
        server.stop()


def parsed(envelope: Envelope) -> EmailMessage:
    assert isinstance(envelope.content, bytes)
    return message_from_bytes(envelope.content, policy=policy.default)


def texts(envelope: Envelope) -> list[str]:
    parts = cast("list[EmailMessage]", list(parsed(envelope).iter_parts()))
    return [part.get_content().replace("\r\n", "\n") for part in parts]
