"""Signing keys in PostgreSQL, sealed under a key of the environment, and the keyring each worker holds.

States follow from times (see `crypto/keyring.py`), so a rotation is one row changed and one row added: every worker
reads them within `key_refresh` and changes over at the same moment, without a restart and without a gap.
"""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import structlog
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
from service.crypto.sealing import UnsealError, seal, sealed_with, unseal
from service.errors import Unavailable, UnknownKey
from service.settings import Settings
from service.store.postgres import Database, Table, Transaction

log = structlog.get_logger("vestibule.keys")

ROTATION_LOCK = 7_272_740_02
REFRESHES_BEFORE_USE = 3


class SigningKeyRow(Table):
    """A key pair at rest. The private half is DER (PKCS #8), sealed and bound to the kid."""

    __tablename__ = "signing_keys"

    kid: Mapped[str] = mapped_column(primary_key=True)
    private_sealed: Mapped[bytes]
    created_at: Mapped[datetime]
    activates_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]


@dataclass(slots=True)
class SigningKeys:
    """Keeps the keyring current and turns it over."""

    database: Database
    roots: RootKeys
    settings: Settings
    clock: Clock
    announce: Callable[[], Awaitable[None]]
    """Tells the other workers that something changed."""
    _begun: int = 0
    _kept: int = 0
    keyring: Keyring = field(default_factory=lambda: Keyring((), timedelta(0)))

    async def reload(self) -> None:
        """Reads the keys anew; a reading that was overtaken by a later one must not bring a revoked key back.

        Raises `Unavailable`, or `UnsealError` when the root key of a key is gone.
        """
        self._begun = mine = self._begun + 1
        async with self.database.begin() as transaction:
            rows = await _all(transaction)
        if mine > self._kept:
            found, self._kept = self._readable(rows), mine
            if found != self.keyring:  # what was verified with the same keys stays true
                self.keyring = found

    async def ensure(self) -> None:
        """Makes the first two keys of a new installation: one signs at once, one is published for the next turn."""
        now = self.clock()
        async with self.database.begin() as transaction:
            await _lock(transaction)
            keyring = self._assembled(await _all(transaction))
            # Scheduled counts, although it may lie ahead of this clock: clocks differ, and locks are waited for.
            if all(key.activates_at is None or key.is_revoked for key in keyring.keys):
                transaction.add(self._new_row(now, activates_at=now))
            if not any(keyring.state(key, now) == "next" for key in keyring.keys):
                transaction.add(self._new_row(now, activates_at=None))
        await self._changed()

    async def rotate(self) -> tuple[SigningKey, SigningKey]:
        """Schedules the next key to sign and publishes its successor: (the one that will sign, its successor).

        The moment is far enough away that every worker knows it, and every client that caches the JWKS for its
        max-age has seen the key (OIDC Core section 10.1.1). A turn that is already scheduled is answered as it is.
        """
        await self.ensure()
        scheduled = await self._schedule(self.clock(), lambda keyring, now: True)
        if scheduled is None:
            raise Unavailable("no key could be scheduled")
        return scheduled

    async def rotate_if_due(self) -> bool:
        """The same by itself, once the key that signs has done so for `key_rotation`; whether a turn was scheduled.

        Cheap while nothing is due; many workers may ask at once.
        """
        now = self.clock()
        return self._is_due(self.keyring, now) and await self._schedule(now, self._is_due) is not None

    def next_turn(self, now: datetime) -> datetime | None:
        """When another key takes over: as scheduled, else when that is due; in the past when it is overdue."""
        active = self.keyring.current(now)
        coming = [key.activates_at for key in self.keyring.keys if key.activates_at and key.activates_at > now]
        if coming or active is None or active.activates_at is None or not self.settings.key_rotation:
            return min(coming, default=None)
        return active.activates_at + self.settings.key_rotation

    async def revoke(self, kid: str) -> SigningKey:
        """Ends all trust in a key at once; where it was the one that signs, the next takes over in the same moment.

        For a key that got out: who verifies tokens alone believes it for as long as the JWKS is cached. Answers the
        key that signs now. Raises `UnknownKey` for one that is unknown or was revoked before.
        """
        now = self.clock()
        async with self.database.begin() as transaction:
            await _lock(transaction)
            rows = {row.kid: row for row in await _all(transaction)}
            found = rows.get(kid)
            if found is None or found.revoked_at is not None:
                raise UnknownKey(f"no key {kid[:64]!r} to revoke")
            if found.activates_at is None or found.activates_at > now:  # it never signed: nothing is to be remembered
                del rows[kid]
                await transaction.delete(found)
            else:
                found.revoked_at = now
                self._promote(rows, found.activates_at, now, transaction)
            if not any(row.activates_at is None for row in rows.values()):
                transaction.add(self._new_row(now, activates_at=None))
        await self._changed()
        signing = self.keyring.current(self.clock())
        if signing is None:
            raise Unavailable("no key signs")
        return signing

    async def rewrap(self) -> int:
        """Seals with the current root key what an older one sealed; how many keys those were."""
        async with self.database.begin() as transaction:
            await _lock(transaction)
            rows = await _all(transaction)
            believed = [row for row in rows if not self._is_gone(row, rows)]
            stale = [row for row in believed if sealed_with(row.private_sealed) != self.roots.current]
            for row in stale:
                plain = unseal(self.roots, row.private_sealed, _bound_to(row.kid))
                row.private_sealed = seal(self.roots, plain, _bound_to(row.kid))
        return len(stale)

    async def _schedule(
        self, now: datetime, is_wanted: Callable[[Keyring, datetime], bool]
    ) -> tuple[SigningKey, SigningKey] | None:
        async with self.database.begin() as transaction:
            await _lock(transaction)
            rows = {row.kid: row for row in await _all(transaction)}
            keyring = self._assembled(list(rows.values()))
            if not is_wanted(keyring, now):
                return None
            for row in list(rows.values()):
                if self._is_gone(row, list(rows.values())):
                    await transaction.delete(row)
            coming = [key for key in keyring.keys if keyring.state(key, now) == "next"]
            if coming and coming[0].activates_at is None:
                rows[coming[0].kid].activates_at = self._earliest_use(coming[0], now)
            turning = [rows[key.kid] for key in coming[:2]]
            if len(turning) < 2:  # noqa: PLR2004  the one that takes over, and the one published behind it
                turning.append(self._new_row(now, activates_at=None))
                transaction.add(turning[-1])
            scheduled, successor = (self._read(row) for row in turning)
        await self._changed()
        return scheduled, successor

    def _is_due(self, keyring: Keyring, now: datetime) -> bool:
        signing = keyring.current(now)
        if self.settings.key_rotation == timedelta(0) or signing is None or signing.activates_at is None:
            return False
        is_scheduled = any(key.activates_at is not None and key.activates_at > now for key in keyring.keys)
        return not is_scheduled and signing.activates_at + self.settings.key_rotation <= now

    def _promote(
        self, rows: dict[str, SigningKeyRow], since: datetime, now: datetime, transaction: Transaction
    ) -> None:
        """Lets the next key sign from a moment that has come on every worker's clock."""
        keyring = self._assembled(list(rows.values()))
        if any(keyring.state(key, now) == "active" for key in keyring.keys):
            return
        moment = max(now - self.settings.leeway, since + timedelta(milliseconds=1))
        coming = [key for key in keyring.keys if keyring.state(key, now) == "next"]
        if coming:
            rows[coming[0].kid].activates_at = moment
        else:
            transaction.add(self._new_row(now, activates_at=moment))

    async def _changed(self) -> None:
        """Makes a change known here at once, and to the other workers as soon as they hear of it.

        It is done already: whoever does not see it now looks within `key_refresh`.
        """
        for tell in (self.reload, self.announce):
            with suppress(Unavailable):
                await tell()

    def _earliest_use(self, key: SigningKey, now: datetime) -> datetime:
        propagation = self.settings.key_refresh * REFRESHES_BEFORE_USE
        return max(now + propagation, key.created_at + self.settings.jwks_max_age + propagation)

    def _assembled(self, rows: list[SigningKeyRow]) -> Keyring:
        # What is gone is not unsealed: its root key may be gone as well.
        return Keyring.of([self._read(row) for row in rows if not self._is_gone(row, rows)], self._linger)

    def _readable(self, rows: list[SigningKeyRow]) -> Keyring:
        """What this worker can use. A key that it cannot unseal must not hide from it what became of the others."""
        keys, unreadable = [], set()
        for row in rows:
            try:
                if not self._is_gone(row, rows):
                    keys.append(self._read(row))
            except UnsealError:
                if row.revoked_at is None:
                    unreadable.add(row.kid)
        if unreadable and not keys:
            raise UnsealError
        if unreadable:
            log.error(
                "a signing key cannot be unsealed: its root key is not in VESTIBULE_KEYS", kids=sorted(unreadable)
            )
        return Keyring.of(keys, self._linger, frozenset(unreadable))

    def _is_gone(self, row: SigningKeyRow, rows: list[SigningKeyRow]) -> bool:
        since = row.activates_at
        successors = [r.activates_at for r in rows if since and r.activates_at and r.activates_at > since]
        return bool(successors) and min(successors) + self._linger <= self.clock()

    @property
    def _linger(self) -> timedelta:
        return self.settings.access_token_life + self.settings.leeway + self.settings.jwks_max_age

    def _read(self, row: SigningKeyRow) -> SigningKey:
        private = load_der_private_key(unseal(self.roots, row.private_sealed, _bound_to(row.kid)), password=None)
        if not isinstance(private, ec.EllipticCurvePrivateKey):
            raise TypeError(f"signing key {row.kid} is not an EC key")
        return SigningKey(row.kid, private, row.created_at, row.activates_at, row.revoked_at is not None)

    def _new_row(self, now: datetime, activates_at: datetime | None) -> SigningKeyRow:
        private = ec.generate_private_key(ec.SECP256R1())
        kid = thumbprint(private.public_key())
        der = private.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
        sealed = seal(self.roots, der, _bound_to(kid))
        return SigningKeyRow(kid=kid, private_sealed=sealed, created_at=now, activates_at=activates_at, revoked_at=None)


def _bound_to(kid: str) -> str:
    return f"signing_keys/{kid}"


async def _all(transaction: Transaction) -> list[SigningKeyRow]:
    return list(await transaction.scalars(select(SigningKeyRow)))


async def _lock(transaction: Transaction) -> None:
    await transaction.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": ROTATION_LOCK})
