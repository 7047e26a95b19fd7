"""Signing keys in PostgreSQL, sealed under a key of the environment, and the keyring each worker holds.

States follow from times (see `crypto/keyring.py`), so a rotation is one row changed and one row added: every worker
reads them within `key_refresh` and changes over at the same moment, without a restart and without a gap.
"""

from dataclasses import dataclass, field
from datetime import datetime, timedelta

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
)
from sqlalchemy import select, text
from sqlalchemy.orm import Mapped, mapped_column

from service.clock import Clock
from service.crypto.keyring import Keyring, SigningKey, thumbprint
from service.crypto.roots import RootKeys
from service.crypto.sealing import seal, unseal
from service.settings import Settings
from service.store.postgres import Database, Table, Transaction

ROTATION_LOCK = 7_272_740_02
REFRESHES_BEFORE_USE = 3


class SigningKeyRow(Table):
    """A key pair at rest. The private half is DER (PKCS #8), sealed and bound to the kid."""

    __tablename__ = "signing_keys"

    kid: Mapped[str] = mapped_column(primary_key=True)
    private_sealed: Mapped[bytes]
    created_at: Mapped[datetime]
    activates_at: Mapped[datetime | None]


@dataclass(slots=True)
class SigningKeys:
    """Keeps the keyring current and turns it over."""

    database: Database
    roots: RootKeys
    settings: Settings
    clock: Clock
    keyring: Keyring = field(default_factory=lambda: Keyring((), timedelta(0)))

    async def reload(self) -> None:
        """Reads the keys anew. Raises `Unavailable`, or `UnsealError` when the root key of a key is gone."""
        async with self.database.begin() as transaction:
            rows = await _all(transaction)
        self.keyring = self._assembled(rows)

    async def ensure(self) -> None:
        """Makes the first two keys of a new installation: one signs at once, one is published for the next turn."""
        now = self.clock()
        async with self.database.begin() as transaction:
            await _lock(transaction)
            keyring = self._assembled(await _all(transaction))
            # Scheduled counts, although it may lie ahead of this clock: clocks differ, and locks are waited for.
            if all(key.activates_at is None for key in keyring.keys):
                transaction.add(self._new_row(now, activates_at=now))
            if not any(keyring.state(key, now) == "next" for key in keyring.keys):
                transaction.add(self._new_row(now, activates_at=None))
        await self.reload()

    async def rotate(self) -> tuple[SigningKey, SigningKey]:
        """Schedules the next key to sign and publishes its successor: (the one that will sign, its successor).

        The moment is far enough away that every worker knows it, and every client that caches the JWKS for its
        max-age has seen the key (OIDC Core section 10.1.1). A turn that is already scheduled is answered as it is.
        """
        await self.ensure()
        now = self.clock()
        async with self.database.begin() as transaction:
            await _lock(transaction)
            rows = {row.kid: row for row in await _all(transaction)}
            for row in list(rows.values()):
                if self._is_gone(row, list(rows.values())):
                    await transaction.delete(row)
            keyring = self._assembled(list(rows.values()))
            coming = [key for key in keyring.keys if keyring.state(key, now) == "next"]
            if coming and coming[0].activates_at is None:
                rows[coming[0].kid].activates_at = self._earliest_use(coming[0], now)
            if len(coming) < 2:  # noqa: PLR2004  the one that takes over, and the one published behind it
                transaction.add(self._new_row(now, activates_at=None))
        await self.reload()
        scheduled, successor = [key for key in self.keyring.keys if self.keyring.state(key, now) == "next"][:2]
        return scheduled, successor

    def _earliest_use(self, key: SigningKey, now: datetime) -> datetime:
        propagation = self.settings.key_refresh * REFRESHES_BEFORE_USE
        return max(now + propagation, key.created_at + self.settings.jwks_max_age + propagation)

    def _assembled(self, rows: list[SigningKeyRow]) -> Keyring:
        # What is gone is not unsealed: its root key may be gone as well.
        return Keyring.of([self._read(row) for row in rows if not self._is_gone(row, rows)], self._linger)

    def _is_gone(self, row: SigningKeyRow, rows: list[SigningKeyRow]) -> bool:
        since = row.activates_at
        successors = [r.activates_at for r in rows if since and r.activates_at and r.activates_at > since]
        return bool(successors) and min(successors) + self._linger <= self.clock()

    @property
    def _linger(self) -> timedelta:
        return self.settings.access_token_life + self.settings.leeway + self.settings.jwks_max_age

    def _read(self, row: SigningKeyRow) -> SigningKey:
        private = load_der_private_key(unseal(self.roots, row.private_sealed, f"signing_keys/{row.kid}"), password=None)
        if not isinstance(private, ec.EllipticCurvePrivateKey):
            raise TypeError(f"signing key {row.kid} is not an EC key")
        return SigningKey(row.kid, private, row.created_at, row.activates_at)

    def _new_row(self, now: datetime, activates_at: datetime | None) -> SigningKeyRow:
        private = ec.generate_private_key(ec.SECP256R1())
        kid = thumbprint(private.public_key())
        der = private.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
        sealed = seal(self.roots, der, f"signing_keys/{kid}")
        return SigningKeyRow(kid=kid, private_sealed=sealed, created_at=now, activates_at=activates_at)


async def _all(transaction: Transaction) -> list[SigningKeyRow]:
    return list(await transaction.scalars(select(SigningKeyRow)))


async def _lock(transaction: Transaction) -> None:
    await transaction.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": ROTATION_LOCK})
