"""Accounts of people whom a foreign provider vouches for: found, made, linked and unlinked.

An address never links by itself. Whoever has an address at a provider need not be who has it here, and somebody may
have put it there to be let in as its owner (pre-hijacking, account takeover by e-mail).
"""

from contextlib import suppress
from dataclasses import dataclass, replace
from uuid import UUID

from service.accounts.identities import Identities, Identity
from service.accounts.models import Account
from service.accounts.names import Name, canonical_email, nickname_from, nickname_key
from service.accounts.notices import Notices
from service.accounts.pending import PendingSignUps
from service.accounts.profile import picture_url
from service.accounts.repository import AccountRepository, conflicts_named
from service.audit import Audit
from service.clock import Clock
from service.device import Device
from service.errors import (
    AccountLinkRequired,
    AlreadyLinked,
    EmailTaken,
    IdentityTaken,
    InvalidInput,
    InvalidToken,
    LastCredential,
    NicknameTaken,
    NotFound,
    ProviderEmailMissing,
    ProviderEmailUnverified,
    SessionExpired,
    Unavailable,
)
from service.languages import is_locale
from service.limits import Limits
from service.providers.directory import Providers
from service.providers.provider import ForeignPerson, ForeignTokens, Provider
from service.settings import Settings
from service.store.postgres import Database, Transaction, new_id
from service.tokens.journal import Journal
from service.tokens.principal import Principal
from service.tokens.session_facts import Ended
from service.tokens.sessions import Sessions

MOST_TRIES = 8


@dataclass(frozen=True, slots=True)
class Arrival:
    """Somebody who was proved by a provider: their account, the identity that opens it, and whether it is new."""

    account: Account
    identity: tuple[str, str]
    is_new: bool


@dataclass(frozen=True, slots=True)
class Linking:
    """Who asked to be linked: an account, the session it was asked in, and the credentials that it had then."""

    account: UUID
    session: bytes
    password_changed_at: float


@dataclass(frozen=True, slots=True)
class Federation:
    """Brings foreign people and accounts together."""

    database: Database
    providers: Providers
    identities: Identities
    pending: PendingSignUps
    sessions: Sessions
    journal: Journal
    notices: Notices
    limits: Limits
    audit: Audit
    settings: Settings
    clock: Clock

    async def enter(
        self, provider: Provider, person: ForeignPerson, tokens: ForeignTokens | None, device: Device
    ) -> Arrival:
        """The account of a person, made now if the provider vouches for an address that nobody has here.

        Raises `AccountDisabled`, `AccountLinkRequired`, `ProviderEmailMissing`, `ProviderEmailUnverified`,
        `TooManyRequests`.
        """
        for attempt in range(MOST_TRIES):
            known = await self._known(provider, person, tokens)
            if known is not None:
                return Arrival(known, (person.issuer, person.subject), is_new=False)
            if attempt == 0:
                await self.limits.take("register", self.settings.limit_register_network, device.network)
            with suppress(NicknameTaken, EmailTaken, IdentityTaken):
                made = await self._make(provider, person, tokens, device, attempt)
                with suppress(Unavailable):  # what is left of sign-ups for the address ends by itself
                    await self.pending.forget_all(made.email)
                return Arrival(made, (person.issuer, person.subject), is_new=True)
        raise Unavailable("no nickname was free, or others were faster each time")

    async def link(
        self, asked: Linking, provider: Provider, person: ForeignPerson, tokens: ForeignTokens | None, device: Device
    ) -> None:
        """Lets a person in to an account from now on, and tells its holder.

        Raises `SessionExpired` when who asked was signed out or changed their password meanwhile, `AccountDisabled`,
        `IdentityTaken`, `AlreadyLinked`.
        """
        async with self.database.begin() as transaction:
            account = await self._still_in(transaction, asked)
            account.ensure_may_enter()
            mine = await self.identities.of(transaction, account.id)
            known = await self.identities.find(transaction, person)
            if known is not None and known.account_id != account.id:
                raise IdentityTaken("linked to another account")
            if known is not None:
                await self.identities.note(transaction, known, provider.id, _shown(person), tokens)
                return
            if any(identity.issuer == person.issuer for identity in mine):
                raise AlreadyLinked("another subject of this issuer")
            await self.identities.add(transaction, account.id, provider.id, _shown(person), tokens, at=self.clock())
            self.notices.report(transaction, "identity_linked", account, device, provider=provider.settings.name)
        self.audit.record("identity.link", account=asked.account, provider=provider.id)

    async def unlink(self, principal: Principal, provider: str, device: Device) -> None:
        """Takes an identity away and ends every other session: which of them it opened is not known any more.

        Raises `StaleAuthentication`, `NotFound`, `LastCredential`.
        """
        principal.ensure_fresh(self.settings, self.clock)
        async with self.database.begin() as transaction:
            account = await AccountRepository(session=transaction).held_for_change(principal.account)
            if account is None:
                raise InvalidToken("the account is gone")
            mine = await self.identities.of(transaction, account.id)
            found = next((identity for identity in mine if identity.provider == provider), None)
            if found is None:
                raise NotFound("no such identity")
            self._ensure_other_way_in(account, [identity for identity in mine if identity is not found])
            await self.identities.remove(transaction, found)
            name = self._name(provider)
            self.notices.report(transaction, "identity_unlinked", account, device, provider=name)
            await self.journal.all_ended(transaction, account.id, "identity_unlinked", but=principal.session)
            await self.sessions.close_others(account.id, principal.session, Ended.ENDED)
        self.audit.record("identity.unlink", account=principal.account, provider=provider)

    async def of(self, account: UUID) -> list[Identity]:
        """The identities of an account."""
        async with self.database.begin() as transaction:
            return list(await self.identities.of(transaction, account))

    async def _known(self, provider: Provider, person: ForeignPerson, tokens: ForeignTokens | None) -> Account | None:
        """The account that the identity opens, with what the provider says today written down."""
        async with self.database.begin() as transaction:
            identity = await self.identities.find(transaction, person)
            if identity is None:
                return None
            account = await AccountRepository(session=transaction).held_for_change(identity.account_id)
            if account is None:
                return None
            account.ensure_enabled()
            identity = await self.identities.find(transaction, person)
            if identity is None or identity.account_id != account.id:
                return None
            await self.identities.note(transaction, identity, provider.id, _shown(person), tokens)
            return account

    async def _make(
        self,
        provider: Provider,
        person: ForeignPerson,
        tokens: ForeignTokens | None,
        device: Device,
        attempt: int,
    ) -> Account:
        address, shown = _address(person), _shown(person)
        nickname = nickname_from(person.username, attempt)
        now = self.clock()
        account = Account(
            id=new_id(),
            email=address,
            nickname=nickname,
            nickname_key=nickname_key(nickname),
            password_hash=None,
            password_changed_at=now,
            locale=person.locale if is_locale(person.locale) else device.language,
            avatar_url=shown.picture or None,
            roles=[],
            created_at=now,
            disabled_at=None,
        )
        with conflicts_named():
            async with self.database.begin() as transaction:
                await self._ensure_free(transaction, address, person)
                await AccountRepository(session=transaction).add(account)
                await self.identities.add(transaction, account.id, provider.id, shown, tokens, at=now)
        self.audit.record("account.create", account=account.id, provider=provider.id)
        return account

    async def _ensure_free(self, transaction: Transaction, address: str, person: ForeignPerson) -> None:
        if await AccountRepository(session=transaction).by_name(Name("email", address)) is None:
            return
        if await self.identities.find(transaction, person) is not None:
            raise IdentityTaken("the same person was faster")
        raise AccountLinkRequired("the address has an account")

    async def _still_in(self, transaction: Transaction, asked: Linking) -> Account:
        """The account of who asked, its row held: whatever ends sessions holds it too (deploy/decisions/0006)."""
        account = await AccountRepository(session=transaction).held_for_change(asked.account)
        if account is None or account.password_changed_at.timestamp() != asked.password_changed_at:
            raise SessionExpired("the account is gone, or its password another one")
        if asked.session not in {live.session for live in await self.sessions.live(asked.account)}:
            raise SessionExpired("the session that asked has ended")
        return account

    def _ensure_other_way_in(self, account: Account, others: list[Identity]) -> None:
        usable = self.providers.issuers()
        if account.password_hash is None and not any(identity.issuer in usable for identity in others):
            raise LastCredential("nothing else opens the account")

    def _name(self, provider: str) -> str:
        found = self.providers.all.get(provider)
        return found.settings.name if found else provider


def _address(person: ForeignPerson) -> str:
    """The address that a new account gets. Raises `ProviderEmailMissing`, `ProviderEmailUnverified`."""
    if not person.email:
        raise ProviderEmailMissing("the provider names no address")
    if not person.email_verified:
        raise ProviderEmailUnverified("the provider does not vouch for the address")
    try:
        return canonical_email(person.email)
    except InvalidInput:
        raise ProviderEmailMissing("what the provider names is no address") from None


def _shown(person: ForeignPerson) -> ForeignPerson:
    """The person with a picture that browsers may load, or none."""
    try:
        picture = picture_url(person.picture or None)
    except InvalidInput:
        picture = None
    return replace(person, picture=picture or "")
