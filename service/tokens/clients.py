"""The software that acts here: front ends (public) and services (confidential, with a secret)."""

import asyncio
import re
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import structlog
from advanced_alchemy.exceptions import IntegrityError
from advanced_alchemy.repository import SQLAlchemyAsyncRepository
from sqlalchemy import update
from sqlalchemy.orm import Mapped, mapped_column

from service.clock import Clock
from service.crypto import opaque
from service.crypto.roots import RootKeys
from service.errors import ClientIdTaken, Unavailable, UnknownClient
from service.store.postgres import Database, Table

log = structlog.get_logger("vestibule.clients")

DEFAULT_FRONT_END = "web"
SECRET_PREFIX = "vcs"  # noqa: S105  the prefix of client secrets, not one
SECRET_DIGEST = "client secret"  # noqa: S105  the purpose of a derived key
CLIENT_ID = re.compile(r"(?![0-9a-f-]{32,}$)[a-z][a-z0-9_-]{1,62}", re.ASCII)
"""Nothing that could be taken for an account's id (RFC 9068 section 5)."""
FRESH_ENOUGH = 0.2


class Client(Table):
    """A registered client; it is confidential when it has a secret."""

    __tablename__ = "clients"

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    secret_digest: Mapped[str | None]
    may_introspect: Mapped[bool]
    created_at: Mapped[datetime]
    disabled_at: Mapped[datetime | None]

    @property
    def is_confidential(self) -> bool:
        return self.secret_digest is not None


class ClientRepository(SQLAlchemyAsyncRepository[Client]):
    """Queries on clients."""

    model_type = Client


@dataclass(slots=True)
class Clients:
    """The registry. Look-ups answer from memory; a change reaches every worker within `key_refresh`.

    The registry is small (it holds software, not people), so each worker keeps it whole: introspection then needs
    no PostgreSQL at all.
    """

    database: Database
    roots: RootKeys
    clock: Clock
    _known: dict[str, Client] = field(default_factory=dict)
    _last_reload: float = float("-inf")
    _coming_reload: asyncio.Task[None] | None = None

    async def create(self, client_id: str, name: str, *, confidential: bool, may_introspect: bool) -> str | None:
        """Registers a client and answers its secret, which is shown this once (ASVS 13.3.1).

        Raises `ClientIdTaken`, and `ValueError` when the id is not well-formed.
        """
        if not CLIENT_ID.fullmatch(client_id):
            raise ValueError("a client id starts with a letter and holds 2 to 63 of a-z 0-9 _ -")
        secret = opaque.mint(SECRET_PREFIX) if confidential else None
        row = Client(
            id=client_id,
            name=name,
            secret_digest=self.roots.digest(SECRET_DIGEST, secret) if secret else None,
            may_introspect=may_introspect and confidential,
            created_at=self.clock(),
            disabled_at=None,
        )
        try:
            async with self.database.begin() as transaction:
                await ClientRepository(session=transaction).add(row)
        except IntegrityError:
            raise ClientIdTaken from None
        return secret

    async def ensure_front_end(self) -> None:
        """Registers the default front end of a new installation."""
        with suppress(ClientIdTaken):
            await self.create(DEFAULT_FRONT_END, "Web", confidential=False, may_introspect=False)

    async def replace_secret(self, client_id: str) -> str:
        """Gives a confidential client a new secret; the old one ends."""
        secret = opaque.mint(SECRET_PREFIX)
        statement = (
            update(Client).where(Client.id == client_id).values(secret_digest=self.roots.digest(SECRET_DIGEST, secret))
        )
        async with self.database.begin() as transaction:
            await transaction.execute(statement)
        return secret

    async def disable(self, client_id: str) -> bool:
        """Shuts a client out. False when there is none of this id."""
        statement = update(Client).where(Client.id == client_id).values(disabled_at=self.clock())
        async with self.database.begin() as transaction:
            result: Any = await transaction.execute(statement)
        return bool(result.rowcount)

    async def list(self) -> list[Client]:
        """Every client, by id."""
        async with self.database.begin() as transaction:
            return await ClientRepository(session=transaction).get_many(order_by=[("id", False)])

    async def reload(self) -> None:
        """Reads the registry anew. Raises `Unavailable`; what was known stays known."""
        self._known = {row.id: row for row in await self.list()}

    async def front_end(self, client_id: str) -> Client:
        """The enabled public client under whose name a person signs in. Raises `UnknownClient`."""
        client = self._known.get(client_id) or await self._after_reload(client_id)
        if client is None or client.disabled_at is not None or client.is_confidential:
            raise UnknownClient(f"no public client {client_id[:64]!r}")
        return client

    async def authenticate(self, client_id: str, secret: str) -> Client | None:
        """The confidential client whose secret this is, or None. Constant-time, without a slow hash: secrets are
        256 random bits. A secret that is not known yet makes the registry reload, at most five times a second.
        """
        client = self._holder(client_id, secret) if self._known else None
        if client is None and await self._after_reload(client_id):
            client = self._holder(client_id, secret)
        return client

    async def may_act(self, client_id: str) -> bool:
        """Whether tokens made out to this client are good. Raises `Unavailable` when that cannot be known."""
        client = self._known.get(client_id)
        if client is None:
            return await self._after_reload(client_id) is not None
        return client.disabled_at is None

    def enabled(self, client_id: str) -> Client | None:
        """A client that is known and not disabled. Raises `Unavailable` while the registry was never read."""
        if not self._known:
            raise Unavailable("the client registry is not loaded")
        client = self._known.get(client_id)
        return client if client is not None and client.disabled_at is None else None

    def _holder(self, client_id: str, secret: str) -> Client | None:
        client = self.enabled(client_id)
        if client is None or client.secret_digest is None:
            return None
        return client if self.roots.matches(SECRET_DIGEST, secret, client.secret_digest) else None

    async def _after_reload(self, client_id: str) -> Client | None:
        """Looks again in a registry that was read after this call, at most five times a second for all callers."""
        if self._coming_reload is None:
            self._coming_reload = asyncio.create_task(self._reload_soon())
        await asyncio.shield(self._coming_reload)
        return self.enabled(client_id)

    async def _reload_soon(self) -> None:
        now = asyncio.get_running_loop().time()
        await asyncio.sleep(max(0.0, self._last_reload + FRESH_ENOUGH - now))
        self._last_reload = asyncio.get_running_loop().time()
        self._coming_reload = None  # whoever comes now needs a later one: this one has begun to read
        await self.reload()
