"""From the outbox to a real SMTP server on loopback: encrypted or not, of seven bits, dead, slow, and by kill -9."""

import os
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any, cast

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from service.mail.smtp import Smtp
from tests.mail.post_office import LEASE, VERIFY, PostOffice, comes_true, drained, number, post, the_only
from tests.mail.smtp_server import Postman, parsed, serving, texts

PROJECT = Path(__file__).parents[2]
SENDER = "Hafen <no-reply@vestibule.test>"
ANN, BOB = "ann@example.com", "bob@example.com"
SECONDS = 10.0


def smtp(port: int, scheme: str = "smtp") -> Smtp:
    return Smtp(f"{scheme}://127.0.0.1:{port}", SENDER, SECONDS)


def numbers(postman: Postman, to: str) -> list[int]:
    return [number(texts(envelope)[0]) for envelope in postman.taken if envelope.rcpt_tos == [to]]


@pytest.mark.standard("LG-16")
@pytest.mark.parametrize("eight_bits", [True, False], ids=["8BITMIME", "seven bits"])
@pytest.mark.parametrize(
    ("language", "subject", "words"),
    [
        ("en", "Confirm your address", "your code is 012345"),
        ("ko", "이메일 주소를 확인해 주세요", "인증 코드: 012345"),
        ("ja", "メールアドレスを確認してください", "確認コード\uff1a012345"),
    ],
    ids=["en", "ko", "ja"],
)
async def test_a_mail_arrives_word_for_word_at_one_person_in_every_language(
    language: str, subject: str, words: str, eight_bits: bool, office: PostOffice
) -> None:
    postman, outbox = Postman(offers_eight_bits=eight_bits), office.outbox()
    with serving(postman) as port:
        async with office.worker(smtp(port), outbox) as mailer:
            async with outbox.database.begin() as transaction:
                outbox.post(transaction, "verify", ANN, language, **{**VERIFY, "nickname": "한글名"}, code="012345")
            row = await the_only(outbox)
            await drained(mailer)

    [envelope] = postman.taken
    assert (envelope.mail_from, envelope.rcpt_tos) == ("no-reply@vestibule.test", [ANN])
    message = parsed(envelope)
    assert (message["To"], message["Cc"], message["Bcc"]) == (ANN, None, None)
    assert (message["Subject"], message["From"], message["Content-Language"]) == (subject, SENDER, language)
    assert message["Message-ID"] == f"<{row.id}.{row.lane}@vestibule.test>"
    text, html = texts(envelope)
    for part in (text, html):
        assert "한글名" in part
        assert "�" not in part
    assert words in text
    assert str(VERIFY["link"]) in text
    if not eight_bits:
        assert cast("bytes", envelope.content).isascii()
    assert await outbox.waiting() == []


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for 127.0.0.1 that nobody signed but itself, and its key."""
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "mail")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("certificate") / "mail.pem"
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.write_bytes(made.public_bytes(Encoding.PEM) + secret)
    return path


def encryption(scheme: str, certificate: Path) -> dict[str, Any]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return {"ssl_context": context} if scheme == "smtps" else {"tls_context": context, "require_starttls": True}


@pytest.mark.parametrize("scheme", ["smtps", "smtp+starttls"])
async def test_a_mail_leaves_encrypted_to_a_server_that_the_machine_trusts(
    scheme: str, certificate: Path, office: PostOffice, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))  # what this machine trusts, as OpenSSL reads it
    postman, outbox = Postman(), office.outbox()
    with serving(postman, **encryption(scheme, certificate)) as port:
        async with office.worker(smtp(port, scheme), outbox) as mailer:
            await post(outbox, ANN)
            await drained(mailer)
    assert numbers(postman, ANN) == [0]
    assert postman.encrypted == [True]


@pytest.mark.parametrize("scheme", ["smtps", "smtp+starttls"])
async def test_a_server_that_nobody_vouches_for_gets_nothing_and_the_mail_waits(
    scheme: str, certificate: Path, office: PostOffice
) -> None:
    postman, outbox = Postman(), office.outbox()
    with serving(postman, **encryption(scheme, certificate)) as port:
        async with office.worker(smtp(port, scheme), outbox) as mailer:
            await post(outbox, ANN)
            await drained(mailer)
    assert postman.seen == []
    waits = await the_only(outbox)
    assert (waits.dead_at, waits.tries) == (None, 1)


async def test_one_recipient_who_does_not_exist_and_one_who_is_busy_trouble_nobody_else(office: PostOffice) -> None:
    gone, slow = "gone@example.com", "slow@example.com"
    postman, outbox = Postman({gone: "550 no such user", slow: "451 greylisted"}), office.outbox()
    office.clock.stop()
    with serving(postman) as port:
        async with office.worker(smtp(port), outbox) as mailer:
            await post(outbox, gone, slow, ANN, slow)
            await drained(mailer)
            dead, first, second = await outbox.waiting()
            assert dead.dead_at is not None
            assert dead.reason == first.reason == "recipient refused"
            assert (first.dead_at, first.tries, second.tries) == (None, 1, 0)
            assert numbers(postman, ANN) == [2]

            postman.refused.clear()
            office.clock.advance(timedelta(minutes=5))
            assert await outbox.revive() == 1
            await drained(mailer)
    assert numbers(postman, slow) == [1, 3]
    assert numbers(postman, gone) == [0]
    assert await outbox.waiting() == []


async def test_mails_wait_for_a_server_that_is_dead_and_leave_when_it_is_back(office: PostOffice) -> None:
    postman, outbox = Postman(), office.outbox()
    with socket.socket() as dead:
        dead.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        dead.bind(("127.0.0.1", 0))  # it does not listen, and keeps the place for the one that does
        port: int = dead.getsockname()[1]
        office.clock.stop()
        async with office.worker(smtp(port), outbox) as mailer:
            await post(outbox, ANN, BOB, ANN)
            for tries in range(1, 5):
                await drained(mailer)
                assert {row.tries for row in await outbox.waiting()} == {0, tries}
                office.clock.advance(timedelta(minutes=1))
            with serving(postman, port):
                await drained(mailer)  # a lease must not end in the middle of a delivery because of our clock
                office.clock.advance(timedelta(minutes=5))
                await drained(mailer)
    assert (numbers(postman, ANN), numbers(postman, BOB)) == ([0, 2], [1])
    assert await outbox.waiting() == []


# Death

WORKER = """
import asyncio, os
from service.settings import load
from service.wiring import build

async def main():
    async with build(load(os.environ)).running():
        await asyncio.Event().wait()

asyncio.run(main())
"""


@contextmanager
def another_process(office: PostOffice, environ: dict[str, str], port: int) -> Iterator["subprocess.Popen[bytes]"]:
    """A worker of its own, with the SMTP transport of production."""
    more = {
        "DATABASE_URL": office.settings.database_url,
        "VESTIBULE_SMTP_URL": f"smtp://127.0.0.1:{port}",
        "VESTIBULE_MAIL_FROM": SENDER,
    }
    command = [sys.executable, "-c", WORKER]
    process = subprocess.Popen(command, cwd=PROJECT, env={**os.environ, **environ, **more}, stdout=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


async def test_a_worker_that_is_killed_while_it_hands_a_mail_over_loses_nothing(
    office: PostOffice, environ: dict[str, str]
) -> None:
    postman, outbox = Postman(), office.outbox()
    postman.let_go.clear()
    await post(outbox, ANN, ANN)
    with serving(postman) as hung, another_process(office, environ, hung) as process:
        await comes_true(lambda: len(postman.seen) == 1)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL

    well = Postman()
    with serving(well) as port:
        async with office.worker(smtp(port), outbox) as mailer:
            assert await outbox.claim(4, LEASE) == []  # the lease of the dead one still stands
            office.clock.advance(LEASE + office.settings.leeway)
            await drained(mailer)
    assert numbers(well, ANN) == [0, 1]
    assert parsed(well.taken[0])["Message-ID"] == parsed(postman.seen[0])["Message-ID"]
    assert await outbox.waiting() == []
