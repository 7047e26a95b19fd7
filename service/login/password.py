"""Sign-in with a password, staying signed in, signing out."""

import asyncio
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import NoReturn
from uuid import UUID

import structlog

from service import metrics
from service.accounts.entrance import Entrance
from service.accounts.guesses import Attempt, Guesses
from service.accounts.models import Account
from service.accounts.names import Name, login_name
from service.accounts.notices import Notices, moment
from service.accounts.own_password import OwnPassword
from service.accounts.password_rules import ensure_hashable
from service.accounts.pending import PendingSignUp, PendingSignUps
from service.accounts.recovery import Recovery
from service.accounts.registration import PROVED_BY_PASSWORD, Registration
from service.accounts.repository import AccountRepository
from service.audit import Audit
from service.clock import Clock
from service.crypto.passwords import Passwords
from service.device import Device
from service.errors import (
    AccountDisabled,
    EmailNotVerified,
    InvalidCredentials,
    PasswordChangeRequired,
    SessionReused,
    TooManyRequests,
    Unavailable,
)
from service.store.postgres import Database
from service.tokens.clients import Clients
from service.tokens.journal import Journal
from service.tokens.principal import Principal
from service.tokens.session_facts import Grant
from service.tokens.sessions import Aiming, Sessions

log = structlog.get_logger("vestibule.login")


@dataclass(frozen=True, slots=True)
class Login:
    """Lets a person in, keeps them in, lets them out."""

    database: Database
    passwords: Passwords
    pending: PendingSignUps
    registration: Registration
    entrance: Entrance
    own_password: OwnPassword
    recovery: Recovery
    sessions: Sessions
    journal: Journal
    clients: Clients
    guesses: Guesses
    notices: Notices
    audit: Audit
    clock: Clock

    async def with_password(
        self, email: str | None, nickname: str | None, password: str, client_id: str, device: Device
    ) -> Grant:
        """Signs in by address or nickname.

        Raises `InvalidCredentials` for every cause that would reveal whether the account exists; after a right
        password `AccountDisabled`, `PasswordChangeRequired` (a link for a new one is mailed), or `EmailNotVerified` for
        a pending sign-up, whose mail goes out again.
        """
        ensure_hashable(password)
        self.passwords.ensure_room()
        client = await self.clients.front_end(client_id)
        name = login_name(email, nickname)
        if not device.mark:
            await self.guesses.count_network(device)
        account, held = await asyncio.gather(self._account(name), self._pending(name))
        attempt = await self.guesses.attempt(name.key, account, device)
        is_owner = await self.passwords.verify(account.password_hash if account else None, password)
        # A stranger may have signed up with somebody's address and a password of their own. Being right about that
        # one looks the same, and takes the same time, whether or not the address has an account.
        has_signed_up = held is not None and self.pending.chose(held, password)
        if account is not None and is_owner and not attempt.is_refused:
            await self.guesses.forgive(name.key, account, device, attempt.origin)
            return await self._enter(account, password, client.id, device, attempt)
        if held is not None and has_signed_up:
            known = held.address_known or account is not None
            raise await self._not_verified(replace(held, address_known=known), client.id, device)
        await self._refuse(account, client.id, attempt)

    async def refresh(self, token: str, client_id: str, device: Device) -> Grant:
        """The next pair of tokens of a front end. Raises `UnknownClient`, `SessionExpired`."""
        client = await self.clients.front_end(client_id)
        return await self.renew(token, client.id, device)

    async def renew(self, token: str, client_id: str, device: Device, aiming: Aiming | None = None) -> Grant:
        """The next pair of tokens of any client. Raises `SessionExpired`; a replay ends the session, and its holder is
        told."""
        try:
            return await self.sessions.rotate(token, client_id, aiming)
        except SessionReused as replay:
            await self._tell_of_replay(replay.account, device)
            raise
        except Unavailable:
            metrics.refreshed("unavailable")
            raise

    async def reauthenticate(self, principal: Principal, password: str) -> Grant:
        """Begins the session anew for whoever gives the password. Raises `InvalidCredentials`."""
        account = await self.own_password.prove(principal, password)
        renewed = await self.sessions.reauthenticate(principal.claims, PROVED_BY_PASSWORD)
        await self.journal.renewed(principal.session, PROVED_BY_PASSWORD, renewed.authenticated_at, renewed.expires_at)
        self.audit.record("login.reauthenticate", account=account.id, client=principal.claims.client_id)
        return renewed.grant

    async def logout(self, token: str) -> None:
        """Ends the session of this refresh token and with it its access tokens; idempotent."""
        await self.sessions.close(token)

    async def _account(self, name: Name) -> Account | None:
        async with self.database.look() as transaction:
            return await AccountRepository(session=transaction).by_name(name)

    async def _pending(self, name: Name) -> PendingSignUp | None:
        found = await self.pending.latest_of(name.key)
        return found if name.kind == "email" else None

    async def _not_verified(self, held: PendingSignUp, client: str, device: Device) -> EmailNotVerified:
        await self.registration.mail_proofs(held, device)
        self.audit.record("login", "email_not_verified", client=client)
        return EmailNotVerified(members={"registration": self.pending.handle(held)})

    async def _refuse(self, account: Account | None, client: str, attempt: Attempt) -> NoReturn:
        """The last of many wrong passwords in a row is told to the holder, or to nobody with the same work."""
        if attempt.is_last and not attempt.is_known_device:
            async with self.database.begin() as transaction:
                if account is None:
                    self.notices.outbox.post_nothing(transaction)
                else:
                    at = moment(self.clock())
                    self.notices.post(transaction, "password_locked", account, at=at, failures=attempt.failures + 1)
        outcome = "locked" if attempt.is_refused else "refused"
        self.audit.record("login", outcome, account=account.id if account else None, client=client)
        raise InvalidCredentials("too many failures" if attempt.is_refused else "unknown name or wrong password")

    async def _enter(self, account: Account, password: str, client: str, device: Device, attempt: Attempt) -> Grant:
        news = None if attempt.is_known_device else attempt.failures
        try:
            account.ensure_may_enter()
            grant = await self.entrance.admit(account, client, PROVED_BY_PASSWORD, device, news=news)
        except AccountDisabled:
            self.audit.record("login", "disabled", account=account.id, client=client)
            raise
        except PasswordChangeRequired:
            self.audit.record("login", "password_change_required", account=account.id, client=client)
            with suppress(TooManyRequests, Unavailable):
                await self.recovery.request(account.email, device)
            raise
        self.audit.record("login", account=account.id, client=client)
        await self._strengthen(account, password)
        return grant

    async def _tell_of_replay(self, account: UUID, device: Device) -> None:
        """The session is over already: a mail that cannot be posted changes nothing about the refusal."""
        try:
            async with self.database.begin() as transaction:
                holder = await AccountRepository(session=transaction).get_one_or_none(Account.id == account)
                if holder is not None:
                    self.notices.report(transaction, "session_reused", holder, device)
        except Unavailable as error:
            log.warning("a replay was not told of", reason=error.reason)

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
