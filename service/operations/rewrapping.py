"""Changing the root key of the environment: what it sealed is sealed anew, and what cannot be is counted."""

from dataclasses import dataclass

from sqlalchemy import ColumnElement, func, or_, select
from sqlalchemy.orm import InstrumentedAttribute

from service.accounts.identities import Identities
from service.accounts.models import Account
from service.crypto.roots import RootKeys
from service.mail.outbox import Outbox
from service.store.postgres import Database
from service.tokens.clients import ClientSecret
from service.tokens.keys import SigningKeys


@dataclass(frozen=True, slots=True)
class Rewrapped:
    """What was sealed anew, and by older key what still needs it: `{1: {"passwords": 7}}`."""

    keys: int
    mails: int
    identities: int
    needed: dict[int, dict[str, int]]


@dataclass(frozen=True, slots=True)
class Rewrapping:
    """A digest is made anew when its secret is used: a password at the next sign-in, a client's secret at its next
    call."""

    database: Database
    roots: RootKeys
    signing_keys: SigningKeys
    outbox: Outbox
    identities: Identities

    async def run(self) -> Rewrapped:
        """Seals anew and counts. Raises `Unavailable`, `UnsealError`."""
        keys, mails = await self.signing_keys.rewrap(), await self.outbox.rewrap()
        identities = await self.identities.rewrap()
        needed: dict[int, dict[str, int]] = {}
        lives = or_(ClientSecret.expires_at.is_(None), ClientSecret.expires_at > self.signing_keys.clock())
        for what, column, counts in (
            ("passwords", Account.password_hash, Account.password_hash.is_not(None)),
            ("client secrets", ClientSecret.digest, lives),
        ):
            for key_id, count in (await self._by_key(column, counts)).items():
                if key_id != self.roots.current:
                    needed.setdefault(key_id, {})[what] = count
        return Rewrapped(keys, mails, identities, needed)

    async def _by_key(
        self, column: InstrumentedAttribute[str] | InstrumentedAttribute[str | None], counts: ColumnElement[bool]
    ) -> dict[int, int]:
        key_id: ColumnElement[str] = func.split_part(column, ":", 1)
        statement = select(key_id, func.count()).where(counts).group_by(key_id)
        async with self.database.begin() as transaction:
            return {int(found): count for found, count in await transaction.execute(statement) if found.isdecimal()}
