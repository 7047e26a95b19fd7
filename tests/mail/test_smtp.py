"""SMTP against a server that speaks it: one mail, both parts, and never longer than the settings say."""

import asyncio
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email import message_from_bytes, policy
from email.message import EmailMessage
from email.utils import parsedate_to_datetime
from typing import Any, cast

import pytest

from service.mail.message import Mail, MailNotSent, MailRefused
from service.mail.smtp import Smtp
from service.setting_values import SettingsError
from service.settings import Settings, load

MAIL = Mail(
    "ann+tag@example.com",
    "Confirm your address",
    "Hello ann,\n\nyour code is 012345\n.\n.a line with a dot, ünïcode and a very " + "long " * 60 + "line\n",
    "<!doctype html>\n<p>your code is <strong>012345</strong>, ünïcode</p>\n",
)
TIMEOUT = 10.0
IMPATIENT = 1.0
"""Seconds, where a server is silent."""
AT_ONCE = 30
"""Seconds, half of those for which it is."""
TAKEN = b"250 queued\r\n"
USUAL = {
    "EHLO": b"250-mail.test\r\n250-AUTH PLAIN\r\n250 8BITMIME\r\n",
    "DATA": b"354 go on\r\n",
    "QUIT": b"221 bye\r\n",
    "AUTH": b"235 welcome\r\n",
}


@dataclass
class Server:
    """Just enough of a mail server. `answers` replaces what it says to a verb; None is silence, b'' hangs up."""

    answers: dict[str, bytes | None] = field(default_factory=dict)
    port: int = 0
    connections: int = 0
    envelopes: list[tuple[str, list[str]]] = field(default_factory=list)
    messages: list[bytes] = field(default_factory=list)
    verbs: list[str] = field(default_factory=list)
    credentials: list[str] = field(default_factory=list)

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        sender, recipients = "", list[str]()
        go_on = await self._say(writer, "GREETING", b"220 mail.test ESMTP\r\n")
        while go_on and (line := (await reader.readline()).decode("latin-1").rstrip("\r\n")):
            verb = line.split(" ")[0].upper()
            self.verbs.append(verb)
            if verb == "MAIL":
                sender, recipients = line, []
            elif verb == "RCPT":
                recipients.append(line)
            elif verb == "AUTH":
                self.credentials.append(line)
            go_on = await self._say(writer, verb, USUAL.get(verb, b"250 ok\r\n")) and verb != "QUIT"
            if verb == "DATA" and go_on and "DATA" not in self.answers:
                raw = await reader.readuntil(b"\r\n.\r\n")
                go_on = await self._say(writer, "MESSAGE", TAKEN)
                if self.answers.get("MESSAGE", TAKEN) == TAKEN:
                    self.messages.append(re.sub(rb"\r\n\.", b"\r\n", raw[:-3]))
                    self.envelopes.append((sender, recipients))

    async def _say(self, writer: asyncio.StreamWriter, verb: str, usual: bytes) -> bool:
        """Whether the talk goes on."""
        words = self.answers.get(verb, usual)
        if words is None:
            await asyncio.sleep(60)
        writer.write(words or b"")
        await writer.drain()
        return bool(words)


@asynccontextmanager
async def mail_server(**answers: bytes | None) -> AsyncIterator[Server]:
    server = Server(answers)
    tasks: set[asyncio.Task[None]] = set()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = cast("asyncio.Task[None]", asyncio.current_task())
        tasks.add(task)
        try:
            await server.talk(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.close()
            tasks.discard(task)

    listening = await asyncio.start_server(talk, "127.0.0.1", 0)
    server.port = listening.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listening.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*list(tasks), return_exceptions=True)


def smtp(server: Server, credentials: str = "", timeout: float = TIMEOUT) -> Smtp:
    return Smtp(f"smtp://{credentials}127.0.0.1:{server.port}", "no-reply@vestibule.test", timeout)


async def test_a_mail_arrives_once_from_us_to_one_person_with_both_parts() -> None:
    async with mail_server() as server:
        await smtp(server).deliver(MAIL)

    assert server.connections == 1
    [(sender, recipients)] = server.envelopes
    assert sender.upper().startswith("MAIL FROM:<NO-REPLY@VESTIBULE.TEST>")
    assert [recipient.upper() for recipient in recipients] == ["RCPT TO:<ANN+TAG@EXAMPLE.COM>"]
    assert server.verbs[-1] == "QUIT"
    [raw] = server.messages
    assert max(len(line) for line in raw.split(b"\r\n")) <= 998
    assert re.search(rb"[^\r]\n", raw) is None
    message = message_from_bytes(raw, policy=policy.default)
    assert message["From"] == "Vestibule <no-reply@vestibule.test>"
    assert (message["To"], message["Subject"]) == (MAIL.to, MAIL.subject)
    assert message["Cc"] is None
    assert message["Bcc"] is None
    assert abs((parsedate_to_datetime(message["Date"]) - datetime.now(UTC)).total_seconds()) < 60
    assert re.fullmatch(r"<[^<>@\s]+@vestibule\.test>", message["Message-ID"])
    assert message["Auto-Submitted"] == "auto-generated"
    assert message.get_content_type() == "multipart/alternative"
    text, html = (cast("EmailMessage", part) for part in message.iter_parts())
    assert (text.get_content_type(), html.get_content_type()) == ("text/plain", "text/html")
    assert text.get_content().replace("\r\n", "\n") == MAIL.text
    assert html.get_content().replace("\r\n", "\n") == MAIL.html


async def test_a_server_of_seven_bits_gets_seven_bits() -> None:
    async with mail_server(EHLO=b"250 mail.test\r\n") as server:
        await smtp(server).deliver(MAIL)

    [raw] = server.messages
    assert raw.isascii()
    message = message_from_bytes(raw, policy=policy.default)
    assert [cast("EmailMessage", part).get_content().replace("\r\n", "\n") for part in message.iter_parts()] == [
        MAIL.text,
        MAIL.html,
    ]


async def test_every_mail_has_an_id_of_its_own() -> None:
    async with mail_server() as server:
        for _ in range(3):
            await smtp(server).deliver(MAIL)

    ids = {message_from_bytes(raw)["Message-ID"] for raw in server.messages}
    assert len(ids) == 3


async def test_it_signs_in_when_the_settings_say_so() -> None:
    async with mail_server() as server:
        await smtp(server, "mailer%40site:p%3Aw%2F1@").deliver(MAIL)

    assert server.credentials == ["AUTH PLAIN AG1haWxlckBzaXRlAHA6dy8x"]
    assert len(server.messages) == 1


BUSY, NO = b"451 try later\r\n", b"550 no such user\r\n"


@pytest.mark.parametrize(
    ("verb", "answer"),
    [
        ("GREETING", b"554 go away\r\n"),
        ("EHLO", b"421 closing\r\n"),
        ("MAIL", BUSY),
        ("RCPT", NO),
        ("RCPT", BUSY),
        ("DATA", BUSY),
        ("MESSAGE", BUSY),
        ("AUTH", b"535 who are you\r\n"),
        ("GREETING", b""),
        ("EHLO", b""),
        ("RCPT", b""),
        ("MESSAGE", b""),
        ("GREETING", None),
        ("MAIL", None),
        ("MESSAGE", None),
        ("GREETING", b"\x16\x03\x01 not SMTP at all\r\n"),
    ],
)
async def test_a_mail_that_is_not_taken_is_said_so_in_bounded_time(verb: str, answer: bytes | None) -> None:
    async with mail_server(**{verb: answer}) as server:
        started = time.perf_counter()
        with pytest.raises(MailNotSent) as refusal:
            await smtp(server, "user:secret-word@" if verb == "AUTH" else "", IMPATIENT).deliver(MAIL)
        assert time.perf_counter() - started < AT_ONCE
    assert server.messages == []
    told = str(refusal.value)
    assert told
    for private in ("012345", "secret-word", MAIL.to):
        assert private not in told


@pytest.mark.parametrize(("answer", "for_good"), [(NO, True), (BUSY, False), (b"450 greylisted\r\n", False)])
async def test_a_recipient_is_refused_for_good_or_for_now(answer: bytes, for_good: bool) -> None:
    async with mail_server(RCPT=answer) as server:
        with pytest.raises(MailNotSent) as refusal:
            await smtp(server).deliver(MAIL)
    assert isinstance(refusal.value, MailRefused) is for_good


@pytest.mark.parametrize("goodbye", [None, b"", b"500 what\r\n"])
async def test_a_mail_that_was_taken_counts_whatever_the_server_says_at_the_end(goodbye: bytes | None) -> None:
    """Otherwise it would be tried again, and arrive twice."""
    async with mail_server(QUIT=goodbye) as server:
        started = time.perf_counter()
        await smtp(server, timeout=IMPATIENT).deliver(MAIL)
        assert time.perf_counter() - started < AT_ONCE
    assert len(server.messages) == 1


async def test_a_server_that_is_not_there_is_said_so() -> None:
    async with mail_server() as server:
        pass
    with pytest.raises(MailNotSent):
        await smtp(server).deliver(MAIL)
    with pytest.raises(MailNotSent):
        await smtp(server).check()
    with pytest.raises(MailNotSent):
        await Smtp("smtp://nowhere.invalid:25", "no-reply@vestibule.test", IMPATIENT).check()


async def test_the_check_says_whether_mails_could_leave_and_sends_none() -> None:
    async with mail_server() as server:
        await smtp(server).check()
        assert server.verbs == ["EHLO", "NOOP", "QUIT"]
    for verb, answer in (("GREETING", None), ("AUTH", b"535 no\r\n"), ("EHLO", b"421 closing\r\n")):
        async with mail_server(**{verb: answer}) as server:
            with pytest.raises(MailNotSent):
                await smtp(server, "user:word@", IMPATIENT).check()


async def test_encryption_that_was_asked_for_is_never_left_out() -> None:
    for scheme in ("smtps", "smtp+starttls"):
        async with mail_server() as server:  # which offers neither
            url = f"{scheme}://u:p@127.0.0.1:{server.port}"
            with pytest.raises(MailNotSent):
                await Smtp(url, "no-reply@vestibule.test", IMPATIENT).deliver(MAIL)
            assert server.credentials == []
            assert server.messages == []


@pytest.mark.standard("LG-16")
@pytest.mark.parametrize(
    "odd",
    [
        {"to": "ann@example.com\r\nBcc: eve@example.com"},
        {"to": "ann@example.com, eve@example.com"},
        {"subject": "Hello\r\nBcc: eve@example.com"},
        {"subject": "Hello\nBcc: eve@example.com"},
    ],
)
async def test_nothing_adds_a_header_or_a_recipient_even_past_the_checks_of_sign_up(odd: dict[str, str]) -> None:
    given: dict[str, Any] = {"to": MAIL.to, "subject": MAIL.subject, "text": MAIL.text, "html": MAIL.html, **odd}
    async with mail_server() as server:
        with pytest.raises(Exception):  # noqa: B017, PT011  whatever stops it
            await smtp(server).deliver(Mail(**given))
        assert server.messages == []


# Settings


def given(environ: dict[str, str], url: str | None, sender: str | None = "no-reply@vestibule.test") -> Settings:
    more = {"VESTIBULE_SMTP_URL": url, "VESTIBULE_MAIL_FROM": sender, "VESTIBULE_MAIL_TIMEOUT": "7"}
    return load({**environ, **{name: value for name, value in more.items() if value is not None}})


@pytest.mark.parametrize(
    ("url", "sender", "named"),
    [
        (None, "a@vestibule.test", "VESTIBULE_SMTP_URL"),
        ("smtp://mail.test", None, "VESTIBULE_MAIL_FROM"),
        ("", "a@vestibule.test", "VESTIBULE_SMTP_URL"),
        ("mail.test:25", "a@vestibule.test", "VESTIBULE_SMTP_URL"),
        ("https://mail.test", "a@vestibule.test", "VESTIBULE_SMTP_URL"),
        ("smtp://", "a@vestibule.test", "VESTIBULE_SMTP_URL"),
        ("smtp://user:secret-word@mail.test:port", "a@vestibule.test", "VESTIBULE_SMTP_URL"),
        ("smtp://user:secret-word@mail.test:99999", "a@vestibule.test", "VESTIBULE_SMTP_URL"),
        ("smtp://mail.test", "nobody", "VESTIBULE_MAIL_FROM"),
    ],
)
def test_a_mail_server_that_makes_no_sense_stops_the_start(
    environ: dict[str, str], url: str | None, sender: str | None, named: str
) -> None:
    with pytest.raises(SettingsError, match=named) as refusal:
        Smtp.of(given(environ, url, sender))
    assert "secret-word" not in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("url", ["smtp://mail.test", "smtps://u:p@mail.test:465", "smtp+starttls://u:p@mail.test"])
def test_the_settings_are_taken_as_they_are(environ: dict[str, str], url: str) -> None:
    server = Smtp.of(given(environ, url))

    assert (server.url, server.sender, server.timeout) == (url, "no-reply@vestibule.test", 7.0)
    assert ":p@" not in repr(server)
