"""Mails leave in the background: tried a few times, never in anybody's way, and never a template by accident."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from html.parser import HTMLParser
from importlib.resources import files

import pytest
from jinja2 import UndefinedError
from structlog.testing import capture_logs

from service.mail.mailer import FIRST_PAUSE, TRIES, Mail, Mailer, MailNotSent, MailRefused, Templates

VALUES: dict[str, object] = {"code": "012345", "minutes": 10}
PATIENCE = 2.0
"""Seconds after which something that should happen has not."""


class Moody:
    """A mail server that refuses some addresses, breaks at others and keeps the rest."""

    def __init__(
        self,
        *,
        refuses: str = "",
        breaks: str = "",
        times: int | None = None,
        refusal: type[MailNotSent] = MailNotSent,
    ) -> None:
        self.kept: list[Mail] = []
        self.tries: list[str] = []
        self._refusal = refusal
        self._refuses, self._breaks, self._times = refuses, breaks, times

    async def deliver(self, mail: Mail) -> None:
        self.tries.append(mail.to)
        if mail.to == self._breaks:
            raise RuntimeError("broken")
        if mail.to == self._refuses and (self._times is None or self.tries.count(mail.to) <= self._times):
            raise self._refusal("busy")
        self.kept.append(mail)

    async def check(self) -> None:
        pass


class Hung:
    """A mail server that never answers."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()

    async def deliver(self, mail: Mail) -> None:
        self.asked.set()
        await asyncio.Event().wait()

    async def check(self) -> None:
        pass


@asynccontextmanager
async def delivering(
    transport: Moody | Hung, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
) -> AsyncIterator[Mailer]:
    mailer = Mailer(transport, sleep=sleep)
    try:
        yield mailer
    finally:
        await mailer.stop()


class Pauses:
    """Notes the pauses instead of making them."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)
        await asyncio.sleep(0)


# Delivery


async def test_a_mail_is_delivered_once_with_its_subject_and_both_parts() -> None:
    transport = Moody()
    async with delivering(transport) as mailer:
        mailer.post("verify", "ann@example.com", **VALUES)
        await mailer.drain()

    [mail] = transport.kept
    assert (mail.to, mail.subject) == ("ann@example.com", "Confirm your address")
    assert "your code is 012345" in mail.text
    assert "012345" in mail.html


@pytest.mark.parametrize("failures", [1, TRIES - 1])
async def test_a_mail_that_did_not_leave_is_tried_again_after_growing_pauses(failures: int) -> None:
    transport, pauses = Moody(refuses="ann@example.com", times=failures), Pauses()
    async with delivering(transport, pauses) as mailer:
        mailer.post("verify", "ann@example.com", **VALUES)
        await mailer.drain()

    assert len(transport.tries) == failures + 1
    assert [mail.to for mail in transport.kept] == ["ann@example.com"]
    assert pauses.seconds == [FIRST_PAUSE * 2**n for n in range(failures)]


async def test_a_mail_that_nobody_takes_is_given_up_at_once_after_its_last_try_and_the_log_says_so() -> None:
    transport, pauses = Moody(refuses="ann@example.com"), Pauses()
    with capture_logs() as lines:
        async with delivering(transport, pauses) as mailer:
            mailer.post("verify", "ann@example.com", **VALUES)
            await mailer.drain()

    assert len(transport.tries) == TRIES
    assert lines[-1] == {"event": "a mail was given up", "log_level": "error", "template": "verify"}
    assert not [line for line in lines if "ann@example.com" in str(line) or "012345" in str(line)]
    assert pauses.seconds == [FIRST_PAUSE * 2**n for n in range(TRIES - 1)]


async def test_a_mail_that_is_refused_for_good_is_not_tried_again() -> None:
    transport, pauses = Moody(refuses="ann@example.com", refusal=MailRefused), Pauses()
    with capture_logs() as lines:
        async with delivering(transport, pauses) as mailer:
            mailer.post("verify", "ann@example.com", **VALUES)
            await mailer.drain()

    assert (len(transport.tries), pauses.seconds) == (1, [])
    assert [line["log_level"] for line in lines] == ["warning"]
    assert "ann@example.com" not in str(lines)


@pytest.mark.parametrize("trouble", ["breaks", "refuses", "no such template", "a value is missing"])
async def test_one_mail_in_trouble_does_not_stop_those_behind_it(trouble: str) -> None:
    bad = "bad@example.com"
    transport = Moody(refuses=bad if trouble == "refuses" else "", breaks=bad if trouble == "breaks" else "")
    async with delivering(transport, Pauses()) as mailer:
        if trouble == "no such template":
            mailer.post("nothing", "bad@example.com", **VALUES)
        elif trouble == "a value is missing":
            mailer.post("verify", "bad@example.com", code="012345")
        else:
            mailer.post("verify", "bad@example.com", **VALUES)
        mailer.post("verify", "ann@example.com", **VALUES)
        async with asyncio.timeout(PATIENCE):
            await mailer.drain()

    assert [mail.to for mail in transport.kept] == ["ann@example.com"]


async def test_an_address_that_nobody_takes_does_not_hold_up_everybody_elses_codes() -> None:
    """A code lives ten minutes: somebody who signs up with dead addresses must not fill them with pauses."""
    transport = Moody(refuses="dead@example.com")
    go_on = asyncio.Event()

    async def pause(seconds: float) -> None:
        await go_on.wait()

    async with delivering(transport, pause) as mailer:
        mailer.post("verify", "dead@example.com", **VALUES)
        mailer.post("verify", "ann@example.com", **VALUES)
        for _ in range(50):
            await asyncio.sleep(0.01)
            if transport.kept:
                break
        in_time = [mail.to for mail in transport.kept]
        go_on.set()
    assert in_time == ["ann@example.com"]


async def test_posting_never_waits_and_a_flood_is_dropped_loudly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.mail.mailer.CLOSING_TIME", 0.05)
    monkeypatch.setattr("service.mail.mailer.MOST_WAITING", 100)
    with capture_logs() as lines:
        async with delivering(Hung()) as mailer:
            started = time.perf_counter()
            for _ in range(150):
                mailer.post("verify", "ann@example.com", **VALUES)
            assert time.perf_counter() - started < 1
    dropped = [line for line in lines if line["event"] == "a mail was dropped: too many wait"]
    assert len(dropped) == 50
    assert "012345" not in str(lines)


async def test_what_waits_at_the_end_is_still_delivered() -> None:
    transport = Moody()
    async with delivering(transport) as mailer:
        for i in range(50):
            mailer.post("verify", f"a{i}@example.com", **VALUES)
    assert {mail.to for mail in transport.kept} == {f"a{i}@example.com" for i in range(50)}


async def test_a_hung_server_does_not_hold_up_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.mail.mailer.CLOSING_TIME", 0.05)
    transport = Hung()
    mailer = Mailer(transport)
    mailer.post("verify", "ann@example.com", **VALUES)
    await transport.asked.wait()
    async with asyncio.timeout(PATIENCE):
        await mailer.stop()


async def test_draining_waits_for_what_was_posted_before_it() -> None:
    transport = Moody(refuses="ann@example.com", times=2)
    async with delivering(transport, Pauses()) as mailer:
        mailer.post("verify", "ann@example.com", **VALUES)
        assert transport.kept == []
        await mailer.drain()
        assert len(transport.kept) == 1


# What mails say

MESSAGES = sorted(
    path.name.removesuffix(".txt")
    for path in (files("service.mail") / "messages" / "en").iterdir()
    if path.name.endswith(".txt")
)


@pytest.mark.parametrize("name", MESSAGES)
def test_every_message_has_a_subject_of_one_line_and_two_parts_that_say_the_same(name: str) -> None:
    mail = Templates().render(name, "ann@example.com", {**VALUES})

    assert mail.subject
    assert "\n" not in mail.subject
    assert "{" not in mail.subject
    assert mail.text.strip()
    assert mail.subject not in mail.text.splitlines()[0]
    assert mail.html.startswith("<!doctype html>")
    for part in (mail.text, mail.html):
        assert "{{" not in part
        assert "{%" not in part
    assert " ".join(mail.text.split()) == " ".join(words(mail.html).split())


@pytest.mark.standard("CL-12")
@pytest.mark.parametrize("name", MESSAGES)
def test_no_message_loads_anything_from_outside(name: str) -> None:
    html = Templates().render(name, "ann@example.com", {**VALUES}).html

    for telling in ("<img", "<script", "<link", "<iframe", "src=", "url(", "@import", "http:"):
        assert telling not in html


def words(html: str) -> str:
    found: list[str] = []

    class Words(HTMLParser):
        def handle_data(self, data: str) -> None:
            found.append(data)

    Words().feed(html)
    return " ".join(found)


def test_a_missing_value_is_an_error_and_never_an_empty_place() -> None:
    with pytest.raises(UndefinedError, match="code"):
        Templates().render("verify", "ann@example.com", {"minutes": 10})


EVIL = [
    "{{7*7}}${7*7}<%=7*7%>#{7*7}{%print(7*7)%}",
    "{% block subject %}owned{% endblock %}",
    "{{ self.__init__.__globals__ }}",
    '"><img src=x onerror=alert(1)>',
    "<script>alert('1')</script>",
    "<b>bold</b> & 'quoted'",
    "ann\r\nBcc: eve@example.com",
]


@pytest.mark.standard("LG-17", "LG-18", "LG-16")
@pytest.mark.parametrize("value", EVIL)
def test_a_value_is_never_a_template_nor_markup(value: str) -> None:
    mail = Templates().render("verify", "ann@example.com", {**VALUES, "code": value})

    assert f"your code is {value}\n" in mail.text
    assert "49" not in mail.text + mail.html
    assert mail.subject == "Confirm your address"
    shown = words(mail.html)
    assert " ".join(value.split()) in " ".join(shown.split())
    plain = Templates().render("verify", "ann@example.com", {**VALUES})
    assert tags(mail.html) == tags(plain.html)


def tags(html: str) -> list[tuple[str, list[tuple[str, str | None]]]]:
    found: list[tuple[str, list[tuple[str, str | None]]]] = []

    class Tags(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            found.append((tag, attrs))

    Tags().feed(html)
    return found
