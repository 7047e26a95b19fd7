"""The software that acts here: front ends (public) and services (confidential), and the APIs they ask tokens for."""

import asyncio
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

import structlog
from advanced_alchemy.repository import SQLAlchemyAsyncRepository
from sqlalchemy import ColumnElement, ForeignKey, Index, select, true, update
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, TEXT
from sqlalchemy.orm import Mapped, lazyload, mapped_column, relationship
from sqlalchemy.orm.attributes import set_committed_value

from service.clock import Clock
from service.crypto.roots import RootKeys
from service.errors import Unavailable, UnknownClient
from service.store.postgres import Database, Table
from service.tokens.scopes import ACCOUNT, ADMIN, BUILT_IN

log = structlog.get_logger("vestibule.clients")

DEFAULT_FRONT_END = "web"
SECRET_DIGEST = "client secret"  # noqa: S105  the purpose of a derived key
CLIENT_ID = re.compile(r"(?![0-9a-f-]{32,}$)[a-z][a-z0-9_-]{1,62}", re.ASCII)
"""Nothing that could be taken for an account's id (RFC 9068 section 5)."""
FRESH_ENOUGH = 0.2

PUBLIC_METHOD = "none"
SECRET_METHODS = ("client_secret_basic", "client_secret_post")
ASSERTION_METHOD = "private_key_jwt"
METHODS = (*SECRET_METHODS, ASSERTION_METHOD, PUBLIC_METHOD)
"""How a client may prove itself (RFC 7591 section 2)."""


class Client(Table):
    """A registered client. What it may have is in lists of its own; an empty one allows nothing.

    `audiences` are the APIs it may ask tokens for beside our own; `serves` are those whose tokens it may introspect
    (our own when empty). Lifetimes are seconds and only ever shorten what the settings say.
    """

    __tablename__ = "clients"

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    secret_digest: Mapped[str | None]
    """Read by the release before this one alone: the newest secret, or a mark that no secret matches."""
    may_introspect: Mapped[bool]
    auth_methods: Mapped[list[str]] = mapped_column(ARRAY(TEXT))
    grants: Mapped[list[str]] = mapped_column(ARRAY(TEXT))
    scopes: Mapped[list[str]] = mapped_column(ARRAY(TEXT))
    audiences: Mapped[list[str]] = mapped_column(ARRAY(TEXT))
    serves: Mapped[list[str]] = mapped_column(ARRAY(TEXT))
    redirect_uris: Mapped[list[str]] = mapped_column(ARRAY(TEXT))
    origins: Mapped[list[str]] = mapped_column(ARRAY(TEXT))
    jwks: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    access_token_life: Mapped[int | None]
    session_idle: Mapped[int | None]
    session_absolute: Mapped[int | None]
    created_at: Mapped[datetime]
    disabled_at: Mapped[datetime | None]
    secrets: Mapped[list["ClientSecret"]] = relationship(
        lazy="selectin", order_by="ClientSecret.created_at", cascade="all, delete-orphan", passive_deletes=True
    )

    @property
    def is_confidential(self) -> bool:
        return PUBLIC_METHOD not in self.auth_methods

    @property
    def lets_operators_in(self) -> bool:
        """Whether operators can sign in through it at this moment."""
        return self.is_front_end and ADMIN in self.scopes and self.disabled_at is None

    @property
    def is_front_end(self) -> bool:
        """Whether people sign in through it."""
        return not self.is_confidential and ACCOUNT in self.scopes and "refresh_token" in self.grants


class ClientSecret(Table):
    """A secret of a client, as a keyed digest; it ends when its row does, or at `expires_at`.

    `reminded` is the day before its end on which operators were told last: 30, 7 or 1.
    """

    __tablename__ = "client_secrets"
    __table_args__ = (Index(None, "client_id"),)

    id: Mapped[UUID] = mapped_column(primary_key=True)
    client_id: Mapped[str] = mapped_column(ForeignKey("clients.id", ondelete="CASCADE"))
    digest: Mapped[str]
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime | None]
    reminded: Mapped[int | None]

    def is_live(self, now: datetime) -> bool:
        """Whether it still opens anything."""
        return self.expires_at is None or now < self.expires_at


class Api(Table):
    """Something that accepts our tokens: its identifier is their audience, its scopes mean nothing elsewhere."""

    __tablename__ = "apis"

    identifier: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    scopes: Mapped[list[str]] = mapped_column(ARRAY(TEXT))
    created_at: Mapped[datetime]


class ClientRepository(SQLAlchemyAsyncRepository[Client]):
    """Queries on clients."""

    model_type = Client

    async def with_secrets(self, *which: ColumnElement[bool]) -> list[Client]:
        """Clients by id, with their secrets: of a thousand in two queries and little work, since every worker reads all
        of them again and again."""
        statement = select(Client).options(lazyload(Client.secrets)).where(*which).order_by(Client.id)
        clients = list(await self.session.scalars(statement))
        held: dict[str, list[ClientSecret]] = {client.id: [] for client in clients}
        wanted = ClientSecret.client_id.in_(held) if which else true()
        for secret in await self.session.scalars(select(ClientSecret).where(wanted).order_by(ClientSecret.created_at)):
            if secret.client_id in held:
                held[secret.client_id].append(secret)
        for client in clients:
            set_committed_value(client, "secrets", held[client.id])
        return clients


class ApiRepository(SQLAlchemyAsyncRepository[Api]):
    """Queries on APIs."""

    model_type = Api


@dataclass(slots=True)
class Clients:
    """The registry. Look-ups answer from memory; a change reaches every worker within `key_refresh`, mostly at once.

    The registry is small (it holds software, not people), so each worker keeps it whole: introspection then needs
    no PostgreSQL at all.
    """

    database: Database
    roots: RootKeys
    clock: Clock
    audience: str
    """Our own: the `aud` of every token that names no other API."""
    announce: Callable[[], Awaitable[None]]
    """Tells the other workers that something changed."""
    _known: dict[str, Client] = field(default_factory=dict)
    _apis: dict[str, frozenset[str]] = field(default_factory=dict)
    _origins: frozenset[bytes] = frozenset()
    readings: int = 0
    """How often the registry was read: what was true of a client before may not be any more."""
    _begun: int = 0
    _kept: int = 0
    _asked: set[str] = field(default_factory=set)
    _last_look: float = float("-inf")
    _coming_look: asyncio.Task[None] | None = None

    async def reload(self) -> None:
        """Reads the registry anew; a reading that was overtaken by a later one is forgotten.

        Raises `Unavailable`; what was known stays known.
        """
        self._begun = mine = self._begun + 1
        async with self.database.begin() as transaction:
            clients = await ClientRepository(session=transaction).with_secrets()
            apis = (await transaction.scalars(select(Api))).all()
        if mine > self._kept:
            self._kept = mine
            self._keep(clients, apis)

    def _keep(self, clients: Sequence[Client], apis: Sequence[Api]) -> None:
        self.readings += 1
        self._known = {row.id: row for row in clients}
        self._apis = {row.identifier: frozenset(row.scopes) for row in apis}
        enabled = [row for row in self._known.values() if row.disabled_at is None]
        self._origins = frozenset(origin.encode() for row in enabled for origin in row.origins)

    async def changed(self) -> None:
        """Makes a change known here at once, and to the other workers as soon as they hear of it.

        It is done already: whoever does not see it now looks within `key_refresh`.
        """
        for tell in (self.reload, self.announce):
            try:
                await tell()
            except Unavailable as error:
                log.warning("a change of clients will be seen at the next look", reason=error.reason)

    def origins(self) -> frozenset[bytes]:
        """Every web origin that an enabled client registered."""
        return self._origins

    def audiences(self) -> frozenset[str]:
        """Whom tokens may be for: our own audience and every registered API."""
        return frozenset((self.audience, *self._apis))

    def scopes_of(self, audience: str) -> frozenset[str]:
        """The scopes that mean something to an API, empty for one that is not registered."""
        own = BUILT_IN if audience == self.audience else frozenset[str]()
        return own | self._apis.get(audience, frozenset())

    async def front_end(self, client_id: str) -> Client:
        """The enabled public client under whose name a person signs in. Raises `UnknownClient`."""
        client = self._known.get(client_id) or await self._looked_up(client_id)
        if client is None or client.disabled_at is not None or not client.is_front_end:
            raise UnknownClient(f"no front end {client_id[:64]!r}")
        return client

    async def find(self, client_id: str) -> Client | None:
        """The enabled client of this id, looked for anew when it is not known yet."""
        return (self.enabled(client_id) if self._known else None) or await self._looked_up(client_id)

    async def holder(self, client_id: str, secret: str) -> Client | None:
        """The enabled client whose live secret this is, or None. Constant-time, without a slow hash: secrets are
        256 random bits. For a secret that is not known yet the client is looked up, at most five times a second.
        """
        held = self._held(client_id, secret) if self._known else None
        if held is None and await self._looked_up(client_id):
            held = self._held(client_id, secret)
        if held is None:
            return None
        if self.roots.is_stale(held.digest):
            await self._digest_anew(held, secret)
        return self.enabled(client_id)

    async def acting(self, client_id: str) -> Client | None:
        """The client in whose name a token speaks, None when it was disabled. Raises `Unavailable`."""
        client = self._known.get(client_id)
        if client is None:
            return await self._looked_up(client_id)
        return client if client.disabled_at is None else None

    def enabled(self, client_id: str) -> Client | None:
        """A client that is known and not disabled. Raises `Unavailable` while the registry was never read."""
        if not self._known:
            raise Unavailable("the client registry is not loaded")
        client = self._known.get(client_id)
        return client if client is not None and client.disabled_at is None else None

    def _held(self, client_id: str, secret: str) -> ClientSecret | None:
        client, now = self.enabled(client_id), self.clock()
        live = [held for held in client.secrets if held.is_live(now)] if client else []
        return next((held for held in live if self.roots.matches(SECRET_DIGEST, secret, held.digest)), None)

    async def _digest_anew(self, held: ClientSecret, secret: str) -> None:
        """Under today's root key, so that the older one can go. The client is in already: a failure waits."""
        old, held.digest = held.digest, self.roots.digest(SECRET_DIGEST, secret)
        statement = update(ClientSecret).where(ClientSecret.id == held.id, ClientSecret.digest == old)
        try:
            async with self.database.begin() as transaction:
                await transaction.execute(statement.values(digest=held.digest))
        except Unavailable as error:
            log.warning("a digest of an older root key was kept", reason=error.reason)

    async def _looked_up(self, client_id: str) -> Client | None:
        """Looks for a client that is not known as it was presented: read after this call, at most five times a second
        for all callers, and only those that were asked for. Anybody can ask, so it must cost next to nothing."""
        if not CLIENT_ID.fullmatch(client_id):
            return None
        self._asked.add(client_id)
        if self._coming_look is None:
            self._coming_look = asyncio.create_task(self._look_soon())
        await asyncio.shield(self._coming_look)
        return self.enabled(client_id)

    async def _look_soon(self) -> None:
        now = asyncio.get_running_loop().time()
        await asyncio.sleep(max(0.0, self._last_look + FRESH_ENOUGH - now))
        self._last_look = asyncio.get_running_loop().time()
        self._coming_look = None  # whoever comes now needs a later one: this one has begun to read
        asked, self._asked = self._asked, set()
        if not self._known:
            await self.reload()
            return
        self._begun = mine = self._begun + 1
        async with self.database.begin() as transaction:
            found = await ClientRepository(session=transaction).with_secrets(Client.id.in_(asked))
            apis = (await transaction.scalars(select(Api))).all()
        is_news = bool(found) or {row.identifier for row in apis} != self._apis.keys()
        if is_news and mine > self._kept:  # else a whole reading that began later is there already
            self._keep([*self._known.values(), *found], apis)
