"""What a person changes about how they get in: password and address."""

from contextlib import suppress
from dataclasses import dataclass

from service.accounts.guesses import Guesses
from service.accounts.mail_budget import MailBudget
from service.accounts.models import Account
from service.accounts.names import Name, canonical_email
from service.accounts.new_passwords import NewPasswords
from service.accounts.notices import Notices, minutes, moment
from service.accounts.own_password import OwnPassword
from service.accounts.repository import AccountRepository, conflicts_named
from service.audit import Audit
from service.clock import Clock
from service.device import Device
from service.errors import (
    EmailTaken,
    FieldError,
    InvalidCredentials,
    InvalidInput,
    InvalidOrExpiredCode,
    Unavailable,
)
from service.languages import language_of
from service.limits import Limits
from service.settings import Settings
from service.store.postgres import Database, Transaction
from service.tokens.journal import Journal
from service.tokens.one_time import OneTimeToken, OneTimeTokens
from service.tokens.principal import Principal
from service.tokens.session_facts import Ended
from service.tokens.sessions import Sessions


@dataclass(frozen=True, slots=True)
class Credentials:
    """Changes them. Whoever else was signed in is out afterwards, and the holder is told."""

    database: Database
    own_password: OwnPassword
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

    async def change_password(self, principal: Principal, current: str, new: str, device: Device) -> None:
        """Sets a new password and ends every other session. Raises `InvalidCredentials`, `InvalidInput`."""
        seen = await self.own_password.prove(principal, current, "current_password")
        password_hash = await self.new_passwords.hashed(
            new, email=seen.email, nickname=seen.nickname, field="new_password"
        )
        async with self.database.begin() as transaction:
            account = await self._held(transaction, seen)
            account.password_hash, account.password_changed_at = password_hash, self.clock()
            await transaction.flush()
            await self.one_time.void(transaction, account.id, "reset", "email")
            self.notices.report(transaction, "password_changed", account, device, cause="changed")
            await self._end_others(transaction, principal, Ended.PASSWORD_CHANGED)
        self.audit.record("account.change_password", account=account.id)
        with suppress(Unavailable):
            await self.guesses.remember(account, device, before=seen)

    async def request_email(self, principal: Principal, email: str, password: str, device: Device) -> None:
        """Mails a link to a new address, and word of it to the old one. Silent about whose the new one is.

        Raises `InvalidCredentials`, `InvalidInput`.
        """
        address = canonical_email(email)
        account = await self.own_password.prove(principal, password)
        if address == account.email:
            raise InvalidInput(fields=[FieldError("email", "email_unchanged", "This is your address already.")])
        await self.limits.take("change", self.settings.limit_change_account, str(account.id))
        if not await self.mail_budget.allows("address", address, device):
            self.audit.record("account.mail", "limited", account=account.id)
            return
        async with self.database.begin() as transaction:
            life, since = self.settings.email_link_life, account.password_changed_at
            token = await self.one_time.issue(
                transaction, "email", account.id, life, password_changed_at=since, email=address
            )
            taken = await AccountRepository(session=transaction).by_name(Name("email", address))
            if taken is not None:
                self.notices.outbox.post(transaction, "email_in_use", address, language_of(taken.locale), account.id)
            else:
                self.notices.outbox.post(
                    transaction,
                    "email_change",
                    address,
                    language_of(account.locale),
                    account.id,
                    link=f"{self.settings.link_page}#email={token}",
                    minutes=minutes(life),
                    until=moment(self.clock() + life),
                )
            self.notices.report(transaction, "email_change_requested", account, device, new_email=address)
        self.audit.record("account.request_email", account=account.id)

    async def confirm_email(self, principal: Principal, token: str, device: Device) -> None:
        """Puts the new address in the place of the old one, which gets a link to undo it.

        It takes the session of the account too: a link that somebody opens for a stranger must not give that
        stranger's account their address. Raises `InvalidOrExpiredCode` for every doubt.
        """
        await self.guesses.count_network(device)
        try:
            with conflicts_named():
                async with self.database.begin() as transaction:
                    await self._confirm(transaction, principal, token, device)
        except EmailTaken:
            raise InvalidOrExpiredCode("the address has another account by now") from None
        except InvalidOrExpiredCode:
            self.audit.record("account.confirm_email", "refused", account=principal.account)
            raise
        self.audit.record("account.confirm_email", account=principal.account)

    async def _confirm(self, transaction: Transaction, principal: Principal, token: str, device: Device) -> None:
        found = await self.one_time.look(transaction, token)
        account = await AccountRepository(session=transaction).held_for_change(principal.account)
        if found is None or account is None or not _is_for(found, account):
            raise InvalidOrExpiredCode("no such link for this account")
        if not await self.one_time.redeem(transaction, found):
            raise InvalidOrExpiredCode("somebody was faster")
        old, account.email = account.email, found.email or account.email
        await transaction.flush()
        await self.one_time.void(transaction, account.id, "reset")
        life, since = self.settings.undo_link_life, account.password_changed_at
        undo = await self.one_time.issue(transaction, "undo", account.id, life, password_changed_at=since, email=old)
        link, hours = f"{self.settings.link_page}#undo={undo}", minutes(life) // 60
        for to, given in ((old, link), (account.email, "")):
            self.notices.report(
                transaction, "email_changed", account, device, to=to, new_email=account.email, link=given, hours=hours
            )
        await self._end_others(transaction, principal, Ended.EMAIL_CHANGED)

    async def _held(self, transaction: Transaction, seen: Account) -> Account:
        """The row to change, as long as it has the password that was proved."""
        account = await AccountRepository(session=transaction).held_for_change(seen.id)
        if account is None or account.password_changed_at != seen.password_changed_at:
            raise InvalidCredentials("the password is another one by now")
        return account

    async def _end_others(self, transaction: Transaction, principal: Principal, why: Ended) -> None:
        """Last of all, while the row is held: see deploy/decisions/0006."""
        await self.journal.all_ended(transaction, principal.account, why.reason, but=principal.session)
        await self.sessions.close_others(principal.account, principal.session, why)


def _is_for(found: OneTimeToken, account: Account) -> bool:
    return (
        found.purpose == "email"
        and found.account_id == account.id
        and found.password_changed_at == account.password_changed_at
    )
