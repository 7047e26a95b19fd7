"""What people are told by mail about their account, in their language."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from service.accounts.models import Account
from service.clock import Clock
from service.device import Device, device_name
from service.languages import language_of
from service.mail.outbox import Outbox
from service.store.postgres import Transaction


@dataclass(frozen=True, slots=True)
class Notices:
    """Posts mails to the holder of an account, in the transaction that makes the news."""

    outbox: Outbox
    clock: Clock

    def post(
        self, transaction: Transaction, template: str, account: Account, *, to: str = "", **values: str | int
    ) -> None:
        """One mail to the account's address, or to another one of the same person."""
        self.outbox.post(
            transaction,
            template,
            to or account.email,
            language_of(account.locale),
            account.id,
            nickname=account.nickname,
            **values,
        )

    def report(
        self,
        transaction: Transaction,
        template: str,
        account: Account,
        device: Device,
        *,
        to: str = "",
        **values: str | int,
    ) -> None:
        """One mail about what was done just now, with the time and the device (ASVS 6.3.7)."""
        self.post(
            transaction,
            template,
            account,
            to=to,
            at=moment(self.clock()),
            device=device_name(device.user_agent),
            place=device.place,
            **values,
        )


def moment(when: datetime) -> str:
    """A time as mails write it, to the minute and with its zone."""
    return f"{when:%Y-%m-%d %H:%M} UTC"


def minutes(life: timedelta) -> int:
    """A lifetime as mails tell it."""
    return int(life.total_seconds() // 60)
