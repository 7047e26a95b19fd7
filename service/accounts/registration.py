"""Sign-up: no account before the address is proved, and nobody in it who does not hold mailbox and password."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TypeVar

from advanced_alchemy.exceptions import IntegrityError

from service.accounts.entrance import Entrance
from service.accounts.models import EMAIL_KEY, NICKNAME_KEY, Account
from service.accounts.names import Name, canonical_email, nickname_key
from service.accounts.password_rules import PasswordRules
from service.accounts.pending import PendingSignUp, PendingSignUps
from service.accounts.repository import AccountRepository
from service.audit import Audit
from service.clock import Clock
from service.crypto.passwords import Passwords
from service.device import Device
from service.errors import (
    EmailTaken,
    FieldError,
    InvalidInput,
    InvalidOrExpiredCode,
    NicknameTaken,
    ServiceError,
    Unavailable,
)
from service.limits import Limits
from service.mail.mailer import Mailer
from service.settings import Settings
from service.store.postgres import Database, new_id, violates
from service.tokens.clients import Clients
from service.tokens.sessions import Grant

T = TypeVar("T")

PROVED_BY_MAIL = ("email",)
"""`amr` of a session that a mailed code opened: a mailbox is no authentication factor (NIST SP 800-63B-4 3.1.3.1)."""


@dataclass(frozen=True, slots=True)
class Registered:
    """What a new person is handed: the handle to come back with, and how long it is good for."""

    handle: str
    life: timedelta


@dataclass(frozen=True, slots=True)
class Registration:
    """Takes people in."""

    database: Database
    pending: PendingSignUps
    passwords: Passwords
    rules: PasswordRules
    limits: Limits
    mailer: Mailer
    entrance: Entrance
    clients: Clients
    audit: Audit
    settings: Settings
    clock: Clock

    async def register(self, email: str, password: str, nickname: str, device: Device) -> Registered:
        """Keeps a sign-up and mails its code.

        A known address gets the same answer after the same work, and its owner a mail that says so. Raises
        `InvalidInput` with every field that is wrong, `NicknameTaken`, `TooManyRequests`.
        """
        address, key = self._checked(email, password, nickname)
        await self.limits.take("register", self.settings.limit_register_network, device.network)
        await self.rules.ensure_not_leaked(password)
        known = await self._look_up(address, key)
        password_hash = await self.passwords.hash(password)
        held = await self.pending.hold(address, nickname, password, password_hash, address_known=known)
        self.audit.record("account.register", "address_known" if known else "ok")
        await self.mail_code(held, device)
        return Registered(self.pending.handle(held), self.settings.registration_life)

    async def resend(self, handle: str, device: Device) -> None:
        """Mails a new code; nothing happens for a handle that is not ours, which does not show."""
        await self.limits.take("verify", self.settings.limit_verify_network, device.network)
        held = await self.pending.find(handle)
        if held is None:
            return
        self.audit.record("account.resend_code")
        async with self.database.begin() as transaction:
            proved = await AccountRepository(session=transaction).by_name(Name("email", held.email))
        await self.mail_code(replace(held, address_known=held.address_known or proved is not None), device)

    async def verify(
        self, handle: str, code: str, client_id: str, device: Device, nickname: str | None = None
    ) -> Grant:
        """Turns a sign-up into an account and signs it in.

        Raises `InvalidOrExpiredCode` for every doubt about the code, and `NicknameTaken` when somebody was faster:
        the code stays good, send it again with another `nickname`.
        """
        client = await self.clients.front_end(client_id)
        await self.limits.take("verify", self.settings.limit_verify_network, device.network)
        held = await self.pending.find(handle)
        if held is None:
            self.audit.record("account.verify", "unknown_registration", client=client.id)
            raise InvalidOrExpiredCode("unknown registration")
        await self._redeem(held, code, device)
        try:
            account = await self._create(held, nickname)
            grant = await self.entrance.admit(account, client.id, PROVED_BY_MAIL, device)
        except ServiceError:
            await self.pending.release(held)
            raise
        self.audit.record("account.verify", account=account.id, client=client.id)
        with suppress(Unavailable):  # signed in is signed in; what is left over ends by itself
            await self.pending.forget(held)
            await self._forgive_tries(held, device)
        return grant

    async def mail_code(self, held: PendingSignUp, device: Device) -> None:
        """Mails a fresh code, or to a known address the notice. Beyond the address's limit nothing is sent."""
        if not await self._may_mail(held.email, device):
            self.audit.record("account.mail", "limited")
            return
        code = await self.pending.new_code(held)
        if held.address_known:
            self.mailer.post("already_registered", held.email)
        else:
            minutes = int(self.settings.code_life.total_seconds() // 60)
            self.mailer.post("verify", held.email, code=code, minutes=minutes)

    async def _may_mail(self, email: str, device: Device) -> bool:
        """A network has a budget within that of the address: a stranger's sign-ups do not spend the owner's mails."""
        rate = self.settings.limit_mail_address_network
        return await self.limits.allows("mail-address-network", rate, email, device.network) and (
            await self.limits.allows("mail-address", self.settings.limit_mail_address, email)
        )

    def _checked(self, email: str, password: str, nickname: str) -> tuple[str, str]:
        """The canonical address and nickname. Raises `InvalidInput` with all that is wrong at once."""
        wrong: list[FieldError] = []
        address = _or_note(wrong, lambda: canonical_email(email), "")
        key = _or_note(wrong, lambda: nickname_key(nickname), "")
        _or_note(wrong, lambda: self.rules.ensure_acceptable(password, email=address, nickname=nickname), None)
        if wrong:
            raise InvalidInput(fields=wrong)
        return address, key

    async def _look_up(self, address: str, key: str) -> bool:
        async with self.database.begin() as transaction:
            accounts = AccountRepository(session=transaction)
            known = await accounts.by_name(Name("email", address))
            if await accounts.nickname_is_taken(key):
                raise NicknameTaken
        return known is not None

    async def _redeem(self, held: PendingSignUp, code: str, device: Device) -> None:
        """Counts the try for the sign-up and for the address: a new sign-up brings new tries, not a new address.

        A network has a budget of its own within that of the address, so that a stranger's guesses do not spend what
        the owner of the mailbox needs; and guesses at a sign-up that is burnt spend nothing.
        """
        if held.tries < self.settings.code_tries:
            rate = self.settings.limit_code_address_network
            await self.limits.take("code-address-network", rate, held.email, device.network)
            await self.limits.take("code-address", self.settings.limit_code_address, held.email)
        outcome = await self.pending.redeem(held, code)
        if outcome == "claimed":
            raise Unavailable("the same code is being redeemed at this moment")
        if outcome != "right":
            self.audit.record("account.verify", f"code_{outcome}")
            raise InvalidOrExpiredCode(outcome)

    async def _forgive_tries(self, held: PendingSignUp, device: Device) -> None:
        await self.limits.forgive("code-address-network", held.email, device.network)
        await self.limits.forgive("code-address", held.email)

    async def _create(self, held: PendingSignUp, nickname: str | None) -> Account:
        chosen = nickname if nickname is not None else held.nickname
        key = nickname_key(chosen)
        if nickname is not None and await self.passwords.verify(held.password_hash, nickname):
            detail = "The nickname is public, and the password you chose. Take another one."
            raise InvalidInput(fields=[FieldError("nickname", "nickname_is_password", detail)])
        account = Account(
            id=new_id(),
            email=held.email,
            nickname=chosen,
            nickname_key=key,
            password_hash=held.password_hash,
            roles=[],
            created_at=self.clock(),
            disabled_at=None,
        )
        try:
            await add_account(self.database, account)
        except (EmailTaken, NicknameTaken):
            existing = await self._made_by(held)
            if existing is None:
                raise
            return existing
        return account

    async def _made_by(self, held: PendingSignUp) -> Account | None:
        """The account that this very sign-up made before, when its answer was lost: the salted hash is its mark.

        Raises `InvalidOrExpiredCode` when the address has another account: somebody else proved it meanwhile.
        """
        async with self.database.begin() as transaction:
            existing = await AccountRepository(session=transaction).by_name(Name("email", held.email))
        if existing is not None and existing.password_hash != held.password_hash:
            raise InvalidOrExpiredCode("the address was proved by somebody else meanwhile")
        return existing


async def add_account(database: Database, account: Account) -> None:
    """Writes one account. Raises `NicknameTaken` or `EmailTaken`."""
    try:
        async with database.begin() as transaction:
            await AccountRepository(session=transaction).add(account)
    except IntegrityError as error:
        if violates(error, NICKNAME_KEY):
            raise NicknameTaken from None
        if violates(error, EMAIL_KEY):
            raise EmailTaken from None
        raise


def _or_note(wrong: list[FieldError], check: Callable[[], T], otherwise: T) -> T:
    try:
        return check()
    except InvalidInput as refusal:
        wrong.extend(refusal.fields)
        return otherwise
