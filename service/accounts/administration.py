"""What an operator does to accounts."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import select

from service.accounts.models import Account
from service.accounts.names import canonical_email, login_name, nickname_key
from service.accounts.new_passwords import NewPasswords
from service.accounts.registration import add_account
from service.accounts.repository import AccountRepository
from service.audit import Audit
from service.clock import Clock
from service.errors import FieldError, InvalidInput, LastAdmin, NotFound
from service.languages import DEFAULT
from service.store.postgres import Database, Transaction, new_id
from service.tokens.journal import Journal
from service.tokens.scopes import ADMIN
from service.tokens.session_facts import Ended
from service.tokens.sessions import Sessions

ROLE = re.compile(r"[a-z][a-z0-9:_-]{0,62}", re.ASCII)
MOST_ROLES, LONGEST_ROLES = 50, 1000
"""Characters of all roles of an account: every token holds them."""


@dataclass(frozen=True, slots=True)
class Administration:
    """Makes, disables and appoints accounts from outside. `by` and `why` go to the audit."""

    database: Database
    new_passwords: NewPasswords
    sessions: Sessions
    journal: Journal
    audit: Audit
    clock: Clock

    async def create(self, email: str, nickname: str, password: str, roles: tuple[str, ...]) -> Account:
        """Makes an account whose address the operator vouches for.

        Raises `InvalidInput`, `NicknameTaken`, `EmailTaken`.
        """
        address, key = canonical_email(email), nickname_key(nickname)
        _ensure_roles(roles)
        now = self.clock()
        account = Account(
            id=new_id(),
            email=address,
            nickname=nickname,
            nickname_key=key,
            password_hash=await self.new_passwords.hashed(password, email=address, nickname=nickname),
            password_changed_at=now,
            locale=DEFAULT,
            avatar_url=None,
            roles=list(roles),
            created_at=now,
            disabled_at=None,
        )
        await add_account(self.database, account)
        self.audit.record("account.create", account=account.id, roles=list(roles))
        return account

    async def find(self, name: str) -> Account | None:
        """The account with this address or nickname."""
        by_email = "@" in name
        looked_up = login_name(name if by_email else None, None if by_email else name)
        async with self.database.begin() as transaction:
            return await AccountRepository(session=transaction).by_name(looked_up)

    async def disable(self, account: UUID, *, by: str = "", why: str = "") -> Account:
        """Shuts an account out and ends all its sessions, while its row is held (decision 0006): all or nothing.

        Raises `NotFound`, `LastAdmin`, `Unavailable`.
        """
        async with self.database.begin() as transaction:
            await ensure_other_admin(transaction, account)
            row = await _held(transaction, account)
            was_disabled = row.disabled_at is not None
            row.disabled_at = row.disabled_at or self.clock()
            await self.journal.all_ended(transaction, account, "disabled")
            await self.sessions.close_all(account)
        self.audit.record("account.disable", "already" if was_disabled else "ok", account=account, by=by, why=why)
        return row

    async def enable(self, account: UUID, *, by: str = "", why: str = "") -> Account:
        """Lets an account in again; its old sessions stay ended. Raises `NotFound`."""
        async with self.database.begin() as transaction:
            row = await _held(transaction, account)
            was_disabled, row.disabled_at = row.disabled_at is not None, None
        self.audit.record("account.enable", "ok" if was_disabled else "already", account=account, by=by, why=why)
        return row

    async def set_roles(self, account: UUID, roles: Sequence[str], *, by: str = "", why: str = "") -> Account:
        """Gives an account these roles and no others; they show at the next introspection of each of its tokens.

        Redis is told while the row is held, see deploy/decisions/0006: of what is taken away before the commit, of what
        is given after it, so that no outage leaves a role that is not written down. Raises `NotFound`, `InvalidInput`,
        `LastAdmin`, and `Unavailable` when it is not done: call again.
        """
        _ensure_roles(roles)
        async with self.database.begin() as transaction:
            if ADMIN not in roles:
                await ensure_other_admin(transaction, account)
            row = await _held(transaction, account)
            before, row.roles = row.roles, sorted(set(roles))
            self.journal.note_roles(transaction, account, self.sessions.settings.session_absolute)
            await transaction.flush()
            await self.sessions.appoint(account, [role for role in row.roles if role in before])
        self.audit.record("account.set_roles", account=account, by=by, why=why, before=before, after=row.roles)
        async with self.database.begin() as transaction:
            row = await _held(transaction, account)
            await self.sessions.appoint(account, row.roles)
        return row

    async def require_password_change(self, account: UUID, *, by: str = "", why: str = "") -> Account:
        """Makes the password worthless until a mailed link has set another one, and ends every session
        (NIST SP 800-63B-4 3.1.1.2). Raises `NotFound`."""
        async with self.database.begin() as transaction:
            row = await _held(transaction, account)
            row.password_change_required = True
            await self.journal.all_ended(transaction, account, "administrator")
            await self.sessions.close_all(account)
        self.audit.record("account.require_password_change", account=account, by=by, why=why)
        return row

    async def end_sessions(self, account: UUID, *, by: str = "", why: str = "") -> None:
        """Ends every session of an account. Raises `NotFound`."""
        async with self.database.begin() as transaction:
            await _held(transaction, account)
            await self.journal.all_ended(transaction, account, "administrator")
            await self.sessions.close_all(account)
        self.audit.record("session.close_all", "administrator", account=account, by=by, why=why)

    def note_reset(self, account: UUID, *, by: str, why: str) -> None:
        """Puts into the audit trail who had a reset link mailed to an account."""
        self.audit.record("account.start_reset", account=account, by=by, why=why)

    async def end_session(self, account: UUID, session: UUID, *, by: str = "", why: str = "") -> None:
        """Ends one session of an account. Raises `NotFound` unless it lived."""
        outcome = await self.sessions.end(account, session.bytes, Ended.ADMINISTRATOR)
        if outcome in {"closed", "revoked"}:  # an end that the journal missed is written when it is asked for again
            await self.journal.ended(session.bytes, "administrator")
        if outcome != "closed":
            raise NotFound("no such session of this account")
        self.audit.record("session.close", "administrator", account=account, session=str(session), by=by, why=why)


async def ensure_other_admin(transaction: Transaction, account: UUID) -> None:
    """Keeps every administrator's row until the transaction ends, so that two cannot take away each other's role.

    Raises `LastAdmin` when this account is the only one left.
    """
    enabled = Account.roles.contains([ADMIN]) & Account.disabled_at.is_(None)
    admins = (await transaction.scalars(select(Account.id).where(enabled).order_by(Account.id).with_for_update())).all()
    if list(admins) == [account]:
        raise LastAdmin


async def _held(transaction: Transaction, account: UUID) -> Account:
    row = await AccountRepository(session=transaction).held_for_change(account)
    if row is None:
        raise NotFound("no such account")
    return row


def _ensure_roles(roles: Sequence[str]) -> None:
    is_short = len(roles) <= MOST_ROLES and len(" ".join(roles)) <= LONGEST_ROLES
    if not is_short or not all(ROLE.fullmatch(role) for role in roles):
        detail = f"A role starts with a letter and holds a-z 0-9 : _ -; at most {LONGEST_ROLES} characters together."
        raise InvalidInput(fields=[FieldError("roles", "role_invalid", detail)])
