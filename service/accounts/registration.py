"""Sign-up: no account before the address is proved, and nobody in it who does not hold mailbox and password."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TypeVar

from service.accounts.entrance import Entrance
from service.accounts.guesses import FROM_ANYWHERE, Guesses
from service.accounts.mail_budget import MailBudget
from service.accounts.models import Account
from service.accounts.names import Name, canonical_email, nickname_key
from service.accounts.notices import minutes, moment
from service.accounts.password_rules import PasswordRules
from service.accounts.pending import PendingSignUp, PendingSignUps, Proof
from service.accounts.repository import AccountRepository, conflicts_named
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
from service.languages import language_of
from service.limits import Limits
from service.mail.outbox import Outbox
from service.settings import Settings
from service.store.postgres import Database, new_id
from service.tokens.clients import Clients
from service.tokens.session_facts import Grant

T = TypeVar("T")

PROVED_BY_PASSWORD = ("pwd",)
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
    guesses: Guesses
    mail_budget: MailBudget
    outbox: Outbox
    entrance: Entrance
    clients: Clients
    audit: Audit
    settings: Settings
    clock: Clock

    async def register(self, email: str, password: str, nickname: str, device: Device) -> Registered:
        """Keeps a sign-up and mails its code and link.

        A known address gets the same answer after the same work, and its owner a mail that says so. Raises
        `InvalidInput` with every field that is wrong, `NicknameTaken`, `TooManyRequests`.
        """
        address, key = self._checked(email, password, nickname)
        await self.limits.take("register", self.settings.limit_register_network, device.network)
        await self.rules.ensure_not_leaked(password)
        known = await self._look_up(address, key)
        password_hash = await self.passwords.hash(password)
        language = language_of(known.locale) if known else device.language
        held = await self.pending.hold(
            address, nickname, password, password_hash, address_known=known is not None, language=language
        )
        self.audit.record("account.register", "address_known" if known else "ok")
        await self.mail_proofs(held, device)
        return Registered(self.pending.handle(held), self.settings.registration_life)

    async def resend(self, handle: str, device: Device) -> None:
        """Mails a new code and link; nothing happens for a handle that is not ours, which does not show."""
        await self.limits.take("mail-network", self.settings.limit_mail_network, device.network)
        held = await self.pending.find(handle)
        if held is None:
            return
        self.audit.record("account.resend_code")
        async with self.database.begin() as transaction:
            proved = await AccountRepository(session=transaction).by_name(Name("email", held.email))
        await self.mail_proofs(replace(held, address_known=held.address_known or proved is not None), device)

    async def verify(
        self, handle: str, code: str, client_id: str, device: Device, nickname: str | None = None
    ) -> Grant:
        """Turns a sign-up into an account and signs it in, by the mailed code.

        Raises `InvalidOrExpiredCode` for every doubt about the code, and `NicknameTaken` when somebody was faster:
        the code stays good, send it again with another `nickname`.
        """
        client = await self.clients.front_end(client_id)
        await self.guesses.count_network(device)
        held = self._found(await self.pending.find(handle))
        await self._count_code(held, device)
        await self._redeem(held, "code", code)
        return await self._enter(held, client.id, PROVED_BY_MAIL, device, nickname)

    async def verify_by_link(
        self,
        token: str,
        client_id: str,
        device: Device,
        *,
        handle: str | None,
        password: str | None,
        nickname: str | None = None,
    ) -> Grant:
        """The same by the mailed link, together with the handle of the browser that signed up, or its password.

        The link alone proves a mailbox, and whoever reads it may have been signed up by somebody else: the account
        would be theirs, with a stranger's password in it.
        """
        client = await self.clients.front_end(client_id)
        await self.guesses.count_network(device)
        held = self._found(await self.pending.find_by_link(token))
        named = await self.pending.find(handle) if handle is not None else None
        signed_up_here = named is not None and named.id == held.id
        if password is not None and not signed_up_here:
            await self.guesses.count(held.email, None, device)
        is_theirs = signed_up_here or (password is not None and self.pending.chose(held, password))
        await self._redeem(held, "link", token if is_theirs else "somebody else's")
        amr = PROVED_BY_MAIL if signed_up_here else PROVED_BY_PASSWORD
        return await self._enter(held, client.id, amr, device, nickname)

    async def mail_proofs(self, held: PendingSignUp, device: Device) -> None:
        """Mails a fresh code and link, or to a known address the notice. Beyond its limit nothing is sent."""
        if not await self.mail_budget.allows("sign-up", held.email, device):
            self.audit.record("account.mail", "limited")
            return
        proofs = await self.pending.new_proofs(held)
        async with self.database.begin() as transaction:
            if held.address_known:
                self.outbox.post(transaction, "already_registered", held.email, held.language)
                return
            self.outbox.post(
                transaction,
                "verify",
                held.email,
                held.language,
                code=proofs.code,
                minutes=minutes(self.settings.code_life),
                until=moment(self.clock() + self.settings.code_life),
                link=f"{self.settings.link_page}#verify={proofs.link}",
                link_minutes=minutes(self.settings.verify_link_life),
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

    async def _look_up(self, address: str, key: str) -> Account | None:
        async with self.database.begin() as transaction:
            accounts = AccountRepository(session=transaction)
            known = await accounts.by_name(Name("email", address))
            if await accounts.nickname_is_taken(key):
                raise NicknameTaken
        return known

    def _found(self, held: PendingSignUp | None) -> PendingSignUp:
        if held is None:
            self.audit.record("account.verify", "unknown_registration")
            raise InvalidOrExpiredCode("unknown registration")
        return held

    async def _count_code(self, held: PendingSignUp, device: Device) -> None:
        """Counts the try for the address: a new sign-up brings new tries, not a new address.

        Six digits can be guessed, so besides the budget of all guesses they have one for a day. A network has one
        of its own within that of the address, so that a stranger's guesses do not spend what the owner of the mailbox
        needs; and guesses at a sign-up that is burnt spend nothing.
        """
        if held.tries < self.settings.code_tries:
            await self.guesses.count(held.email, None, device)
            rate = self.settings.limit_code_address_network
            await self.limits.take("code-address-network", rate, held.email, device.network)
            await self.limits.take("code-address", self.settings.limit_code_address, held.email)

    async def _redeem(self, held: PendingSignUp, kind: Proof, presented: str) -> None:
        outcome = await self.pending.redeem(held, kind, presented)
        if outcome == "claimed":
            raise Unavailable("the same proof is being redeemed at this moment")
        if outcome != "right":
            self.audit.record("account.verify", f"{kind}_{outcome}")
            raise InvalidOrExpiredCode(outcome)

    async def _enter(
        self, held: PendingSignUp, client: str, amr: tuple[str, ...], device: Device, nickname: str | None
    ) -> Grant:
        try:
            account = await self._create(held, nickname)
            grant = await self.entrance.admit(account, client, amr, device)
        except ServiceError:
            await self.pending.release(held)
            raise
        self.audit.record("account.verify", account=account.id, client=client)
        with suppress(Unavailable):  # signed in is signed in; what is left over ends by itself
            await self.pending.forget_all(held.email)
            await self._forgive_tries(held, device)
        return grant

    async def _forgive_tries(self, held: PendingSignUp, device: Device) -> None:
        await self.guesses.forgive(held.email, None, device, FROM_ANYWHERE)
        await self.limits.forgive(("code-address-network", held.email, device.network), ("code-address", held.email))

    async def _create(self, held: PendingSignUp, nickname: str | None) -> Account:
        chosen = nickname if nickname is not None else held.nickname
        key = nickname_key(chosen)
        if nickname is not None and await self.passwords.verify(held.password_hash, nickname):
            detail = "The nickname is public, and the password you chose. Take another one."
            raise InvalidInput(fields=[FieldError("nickname", "nickname_is_password", detail)])
        now = self.clock()
        account = Account(
            id=new_id(),
            email=held.email,
            nickname=chosen,
            nickname_key=key,
            password_hash=held.password_hash,
            password_changed_at=now,
            locale=held.language,
            avatar_url=None,
            roles=[],
            created_at=now,
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
    with conflicts_named():
        async with database.begin() as transaction:
            await AccountRepository(session=transaction).add(account)


def _or_note(wrong: list[FieldError], check: Callable[[], T], otherwise: T) -> T:
    try:
        return check()
    except InvalidInput as refusal:
        wrong.extend(refusal.fields)
        return otherwise
