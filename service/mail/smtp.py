"""Mail over SMTP."""

from dataclasses import dataclass, field
from email.errors import HeaderParseError
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import localtime, make_msgid, parseaddr
from urllib.parse import unquote, urlsplit

import aiosmtplib

from service.mail.message import Mail, MailNotSent, MailRefused
from service.setting_values import SettingsError, parts_of
from service.settings import Settings

PERMANENT = 500
"""Replies from here on are final (RFC 5321 section 4.2.1)."""

DEFAULT_PORTS = {"smtp": 25, "smtps": 465, "smtp+starttls": 587}


@dataclass(frozen=True, slots=True)
class Smtp:
    """One mail server and one sender, `a@b` or `Name <a@b>`.

    `url` is `smtps://`, `smtp+starttls://` or plain `smtp://`, with `user:password@` if the server wants it.
    """

    url: str = field(repr=False)
    sender: str
    timeout: float

    @classmethod
    def of(cls, settings: Settings) -> "Smtp":
        """The server of the settings. Raises `SettingsError` when there is none or it makes no sense."""
        if not settings.smtp_url or not settings.mail_from:
            raise SettingsError("VESTIBULE_SMTP_URL and VESTIBULE_MAIL_FROM must be set: sign-up needs mail")
        parts = parts_of(str(settings.smtp_url))
        if parts is None or parts.scheme not in DEFAULT_PORTS or not parts.hostname:
            raise SettingsError("VESTIBULE_SMTP_URL must look like smtps://user:password@host:465")
        try:
            Address(addr_spec=parseaddr(settings.mail_from)[1])
        except (ValueError, IndexError, HeaderParseError):
            raise SettingsError("VESTIBULE_MAIL_FROM is not an e-mail address") from None
        return cls(str(settings.smtp_url), settings.mail_from, settings.mail_timeout.total_seconds())

    async def deliver(self, mail: Mail) -> None:
        """Sends one mail. Raises `MailNotSent`, or `MailRefused` when the server says that it is for good."""
        try:
            async with self._connection() as server:
                await server.send_message(self._message(mail))
        except aiosmtplib.SMTPRecipientsRefused as error:
            kind = MailRefused if all(refused.code >= PERMANENT for refused in error.recipients) else MailNotSent
            raise kind("recipient refused") from error
        except aiosmtplib.SMTPDataError as error:
            raise (MailRefused if error.code >= PERMANENT else MailNotSent)("content refused") from error
        except (aiosmtplib.SMTPException, OSError, TimeoutError) as error:
            raise MailNotSent(type(error).__name__) from error

    async def check(self) -> None:
        """Connects, signs in and says goodbye. Raises `MailNotSent`."""
        try:
            async with self._connection() as server:
                await server.noop()
        except (aiosmtplib.SMTPException, OSError, TimeoutError) as error:
            raise MailNotSent(type(error).__name__) from error

    def _connection(self) -> aiosmtplib.SMTP:
        parts = urlsplit(self.url)
        return aiosmtplib.SMTP(
            hostname=parts.hostname,
            port=parts.port or DEFAULT_PORTS[parts.scheme],
            username=unquote(parts.username) if parts.username else None,
            password=unquote(parts.password) if parts.password else None,
            use_tls=parts.scheme == "smtps",
            start_tls=parts.scheme == "smtp+starttls",
            timeout=self.timeout,
        )

    def _message(self, mail: Mail) -> EmailMessage:
        message = EmailMessage(policy=SMTP)
        name, address = parseaddr(self.sender)
        message["From"] = Address(name or "Vestibule", addr_spec=address)
        message["To"] = Address(addr_spec=mail.to)
        message["Subject"] = mail.subject
        message["Date"] = localtime()
        domain = address.partition("@")[2]
        message["Message-ID"] = f"<{mail.id}@{domain}>" if mail.id else make_msgid(domain=domain)
        message["Auto-Submitted"] = "auto-generated"
        message.set_content(mail.text)
        message.add_alternative(mail.html, subtype="html")
        message["Content-Language"] = mail.language  # before there are parts it would move into the first
        return message
