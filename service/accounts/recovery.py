"""Forgotten passwords: whoever proves the mailbox sets a new one, and is alone in the account afterwards."""

from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

from service.accounts.guesses import Guesses
from service.accounts.identities import Identities
from service.accounts.mail_budget import MailBudget
from service.accounts.models import Account
from service.accounts.names import Name, canonical_email
from service.accounts.new_passwords import NewPasswords
from service.accounts.notices import Notices, minutes, moment
from service.accounts.repository import AccountRepository, conflicts_named
from service.audit import Audit
from service.clock import Clock
from service.device import Device
from service.errors import EmailTaken, InvalidOrExpiredCode, Unavailable
from service.limits import Limits
from service.settings import Settings
from service.store.postgres import Database, Transaction
from service.tokens.journal import Journal
from service.tokens.one_time import OneTimeToken, OneTimeTokens
from service.tokens.sessions import Sessions


@dataclass(frozen=True, slots=True)
class Recovery:
    """Gives people their account back, by mail."""

    database: Database
    identities: Identities
    new_passwords: NewPasswords
    one_time: OneTimeTokens
    sessions: Sessions
    journal: Journal
    guesses: Guesses
    mail_budget: MailBudget
    limits: Limits
    notices: Notices
    audit: Audit
    settings: Settings
    clock: Clock

    async def request(self, email: str, device: Device) -> None:
        """Mails a link, if there is an account; the same work and the same silence for every address."""
        address = canonical_email(email)
        await self.limits.take("mail-network", self.settings.limit_mail_network, device.network)
        if not await self.mail_budget.allows("reset", address, device):
            self.audit.record("account.mail", "limited")
            return
        async with self.database.begin() as transaction:
            account = await AccountRepository(session=transaction).by_name(Name("email", address))
            is_reachable = account is not None and account.disabled_at is None
            life, now = self.settings.reset_link_life, self.clock()
            owner = account.id if account and is_reachable else self.one_time.decoy(address)
            since = account.password_changed_at if account and is_reachable else now
            token = await self.one_time.issue(transaction, "reset", owner, life, password_changed_at=since)
            if account is not None and is_reachable:
                link = f"{self.settings.link_page}#reset={token}"
                until = moment(now + life)
                self.notices.post(transaction, "reset", account, link=link, minutes=minutes(life), until=until)
            else:
                self.notices.outbox.post_nothing(transaction)
        self.audit.record(
            "account.forgot", "ok" if is_reachable else "unknown", account=account.id if account else None
        )

    async def reset(self, token: str, password: str, device: Device) -> None:
        """Sets a new password by the link of a mail; every session and every pending change ends.

        The link of an undo takes the address back as well. Raises `InvalidOrExpiredCode` for every doubt about the
        link, `InvalidInput` for the password: the link stays good then.
        """
        await self.guesses.count_network(device)
        async with self.database.begin() as transaction:
            found = await self.one_time.look(transaction, token)
            account = await self._account(transaction, found)
        if found is None or account is None:
            self.audit.record("account.reset", "refused")
            raise InvalidOrExpiredCode("no such link, or its account changed since")
        address = found.email or account.email
        password_hash = await self.new_passwords.hashed(password, email=address, nickname=account.nickname)
        changed = await self._replace(found, account, password_hash, device)
        self.audit.record("account.reset", "undone" if found.purpose == "undo" else "ok", account=account.id)
        with suppress(Unavailable):  # done is done: the device is told of at its next sign-in then
            await self.guesses.remember(changed, device, before=account)

    async def _account(self, transaction: Transaction, found: OneTimeToken | None) -> Account | None:
        """The account that a link may change: a reset is good for the password it was asked for, an undo for any."""
        if found is None or found.purpose not in {"reset", "undo"}:
            return None
        account = await AccountRepository(session=transaction).get_one_or_none(Account.id == found.account_id)
        if account is None or account.disabled_at is not None:
            return None
        is_current = found.purpose == "undo" or found.password_changed_at == account.password_changed_at
        return account if is_current else None

    def _back_to(self, found: OneTimeToken) -> datetime:
        """Whoever was in the account may have linked an identity of their own: what is younger than a day goes, and
        what is younger than the change that is undone."""
        day_ago = self.clock() - self.settings.undo_link_life
        return min(found.created_at, day_ago) if found.purpose == "undo" else day_ago

    async def _replace(self, found: OneTimeToken, seen: Account, password_hash: str, device: Device) -> Account:
        """Password, address, link, journal, mails and the end of all sessions: all of it, or nothing.

        Redis is asked while the row is held, see deploy/decisions/0006.
        """
        try:
            with conflicts_named():
                async with self.database.begin() as transaction:
                    account = await AccountRepository(session=transaction).held_for_change(seen.id)
                    is_current = account is not None and account.password_changed_at == seen.password_changed_at
                    if account is None or not is_current or not await self.one_time.redeem(transaction, found):
                        raise InvalidOrExpiredCode("somebody was faster")
                    displaced = account.email
                    account.password_hash, account.password_changed_at = password_hash, self.clock()
                    account.password_change_required = False
                    account.email = found.email or account.email
                    await transaction.flush()
                    await self.one_time.void(transaction, account.id, "reset", "email")
                    await self.identities.remove_since(transaction, account, self._back_to(found))
                    if found.purpose == "undo":
                        await self.one_time.void_undos(transaction, found)
                    await self.journal.all_ended(transaction, account.id, "password_reset")
                    self.notices.report(transaction, "password_changed", account, device, cause="reset")
                    if displaced != account.email:
                        self.notices.report(transaction, "email_undone", account, device, to=displaced)
                    await self.sessions.close_all(account.id)
                return account
        except EmailTaken:
            raise InvalidOrExpiredCode("the address has another account by now") from None
