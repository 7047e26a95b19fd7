"""Sign-in with a password, staying signed in, signing out."""

import asyncio
from dataclasses import dataclass, replace

import structlog

from service.accounts.entrance import Entrance
from service.accounts.models import Account
from service.accounts.names import Name, login_name
from service.accounts.password_rules import ensure_hashable
from service.accounts.pending import PendingSignUp, PendingSignUps
from service.accounts.registration import Registration
from service.accounts.repository import AccountRepository
from service.audit import Audit
from service.crypto.passwords import Passwords
from service.device import Device
from service.errors import (
    AccountDisabled,
    EmailNotVerified,
    InvalidCredentials,
    Unavailable,
)
from service.limits import Limits
from service.settings import Settings
from service.store.postgres import Database
from service.tokens.clients import Clients
from service.tokens.sessions import Grant, Sessions

log = structlog.get_logger("vestibule.login")

BY_PASSWORD = ("pwd",)
"""`amr` of a session that a password opened (RFC 8176)."""


@dataclass(frozen=True, slots=True)
class Login:
    """Lets a person in, keeps them in, lets them out."""

    database: Database
    passwords: Passwords
    pending: PendingSignUps
    registration: Registration
    entrance: Entrance
    sessions: Sessions
    clients: Clients
    limits: Limits
    audit: Audit
    settings: Settings

    async def with_password(
        self, email: str | None, nickname: str | None, password: str, client_id: str, device: Device
    ) -> Grant:
        """Signs in by address or nickname.

        Raises `InvalidCredentials` for every cause that would reveal whether the account exists; after a right
        password `AccountDisabled`, or `EmailNotVerified` for a pending sign-up, whose mail goes out again.
        """
        ensure_hashable(password)
        client = await self.clients.front_end(client_id)
        name = login_name(email, nickname)
        await self._count_attempt(name, device)
        account, held = await asyncio.gather(self._account(name), self._pending(name))
        is_owner = await self.passwords.verify(account.password_hash if account else None, password)
        # A stranger may have signed up with somebody's address and a password of their own. Being right about that
        # one looks the same, and takes the same time, whether or not the address has an account.
        has_signed_up = held is not None and self.pending.chose(held, password)
        if account is not None and is_owner:
            await self._forgive_attempts(name, device)
            return await self._enter(account, password, client.id, device)
        if held is not None and has_signed_up:
            known = held.address_known or account is not None
            raise await self._not_verified(replace(held, address_known=known), client.id, device)
        self.audit.record("login", "refused", account=account.id if account else None, client=client.id)
        raise InvalidCredentials("unknown name or wrong password")

    async def refresh(self, token: str, client_id: str) -> Grant:
        """The next pair of tokens. Raises `SessionExpired`."""
        client = await self.clients.front_end(client_id)
        return await self.sessions.rotate(token, client.id)

    async def logout(self, token: str) -> None:
        """Ends the session of this refresh token and with it its access tokens; idempotent."""
        await self.sessions.close(token)

    async def _count_attempt(self, name: Name, device: Device) -> None:
        """Three budgets: one network, one network at one name, and one name from everywhere.

        The last is wide and refills, and a network from which somebody signed in under this name before does not
        need it: strangers can neither lock an owner out for good nor slow them down where they are known.
        """
        await self.limits.take("login-network", self.settings.limit_login_network, device.network)
        rate = self.settings.limit_login_account_network
        await self.limits.take("login-account-network", rate, name.key, device.network)
        if not await self.limits.is_vouched("login", name.key, device.network):
            await self.limits.take("login-account", self.settings.limit_login_account, name.key)

    async def _forgive_attempts(self, name: Name, device: Device) -> None:
        await self.limits.forgive("login-account-network", name.key, device.network)
        await self.limits.forgive("login-account", name.key)
        await self.limits.vouch("login", self.settings.session_absolute, name.key, device.network)

    async def _account(self, name: Name) -> Account | None:
        async with self.database.begin() as transaction:
            return await AccountRepository(session=transaction).by_name(name)

    async def _pending(self, name: Name) -> PendingSignUp | None:
        found = await self.pending.latest_of(name.key)
        return found if name.kind == "email" else None

    async def _not_verified(self, held: PendingSignUp, client: str, device: Device) -> EmailNotVerified:
        await self.registration.mail_code(held, device)
        self.audit.record("login", "email_not_verified", client=client)
        return EmailNotVerified(members={"registration": self.pending.handle(held)})

    async def _enter(self, account: Account, password: str, client: str, device: Device) -> Grant:
        try:
            account.ensure_may_enter()
            grant = await self.entrance.admit(account, client, BY_PASSWORD, device)
        except AccountDisabled:
            self.audit.record("login", "disabled", account=account.id, client=client)
            raise
        self.audit.record("login", account=account.id, client=client)
        await self._strengthen(account, password)
        return grant

    async def _strengthen(self, account: Account, password: str) -> None:
        """Hashes anew with today's cost and pepper. The person is in already: a failure waits for the next time."""
        old = account.password_hash
        if old is None or not self.passwords.is_stale(old):
            return
        try:
            new = await self.passwords.hash(password)
            async with self.database.begin() as transaction:
                await AccountRepository(session=transaction).replace_hash(account.id, old, new)
        except Unavailable as error:
            log.warning("a stale password hash was kept", reason=error.reason)
