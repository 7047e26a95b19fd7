"""What an operator does to clients and APIs. Every change reaches every worker, mostly at once."""

from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec
from advanced_alchemy.exceptions import IntegrityError
from msgspec import UNSET, UnsetType
from sqlalchemy import Select, func, select

from service.audit import Audit
from service.clock import Clock
from service.crypto import opaque
from service.crypto.roots import RootKeys
from service.errors import (
    ApiInUse,
    ApiTaken,
    ClientIdTaken,
    FieldError,
    InvalidInput,
    NotFound,
    OperatorsShutOut,
    TooManyClients,
    TooManySecrets,
)
from service.settings import Settings
from service.store.postgres import Database, Transaction, new_id, violates
from service.tokens.client_rules import problems_of_api, problems_of_client
from service.tokens.clients import (
    CLIENT_ID,
    DEFAULT_FRONT_END,
    PUBLIC_METHOD,
    SECRET_DIGEST,
    SECRET_METHODS,
    Api,
    ApiRepository,
    Client,
    ClientRepository,
    Clients,
    ClientSecret,
)
from service.tokens.scopes import ACCOUNT, ADMIN, BUILT_IN

SECRET_PREFIX = "vcs"  # noqa: S105  the prefix of client secrets, not one
MATCHES_NO_SECRET = "-"  # noqa: S105  a mark in the place of a digest
CLIENT_KEY, API_KEY = "clients_pkey", "apis_pkey"
COUNTING_LOCK = 7_272_740_04
MOST_SECRETS = 2
"""So that a secret can be changed without a gap: the new one works before the old one goes."""
NOT_AUDITED = {"jwks"}


class ClientChanges(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a client is registered with; what is absent stays (or is the default of a new one). Lifetimes in seconds."""

    name: str | UnsetType = UNSET
    auth_methods: list[str] | UnsetType = UNSET
    grants: list[str] | UnsetType = UNSET
    scopes: list[str] | UnsetType = UNSET
    audiences: list[str] | UnsetType = UNSET
    may_introspect: bool | UnsetType = UNSET
    serves: list[str] | UnsetType = UNSET
    redirect_uris: list[str] | UnsetType = UNSET
    origins: list[str] | UnsetType = UNSET
    jwks: dict[str, Any] | UnsetType | None = UNSET
    access_token_life: int | UnsetType | None = UNSET
    session_idle: int | UnsetType | None = UNSET
    session_absolute: int | UnsetType | None = UNSET


@dataclass(frozen=True, slots=True)
class NewSecret:
    """A secret, to be shown this once."""

    id: UUID
    secret: str
    expires_at: datetime | None


@dataclass(frozen=True, slots=True)
class ClientAdministration:
    """Registers, changes and disables clients; gives them secrets; registers APIs. `by` and `why` go to the audit."""

    database: Database
    clients: Clients
    roots: RootKeys
    audit: Audit
    settings: Settings
    clock: Clock

    async def register(
        self, client_id: str, values: ClientChanges, *, confidential: bool, by: str = "", why: str = ""
    ) -> tuple[Client, NewSecret | None]:
        """A new client, and its first secret when it authenticates with one.

        Raises `ClientIdTaken`, `InvalidInput`, `TooManyClients`.
        """
        if not CLIENT_ID.fullmatch(client_id):
            detail = "A client id starts with a letter and holds 2 to 63 of a-z 0-9 _ -"
            raise InvalidInput(fields=[FieldError("client_id", "client_id_invalid", detail)])
        merged = {**_defaults(client_id, confidential=confidential), **_given(values)}
        row = Client(id=client_id, created_at=self.clock(), disabled_at=None, **merged)
        row.secrets, secret = [], None
        if set(SECRET_METHODS) & set(row.auth_methods):
            secret, held = self._new_secret(client_id, None)
            row.secrets.append(held)
        _show_to_the_release_before(row)
        try:
            async with self.database.begin() as transaction:
                await self._ensure_fine(transaction, merged, confidential=confidential)
                await transaction.execute(select(func.pg_advisory_xact_lock(COUNTING_LOCK)))
                if await ClientRepository(session=transaction).count() >= self.settings.most_clients:
                    raise TooManyClients
                await ClientRepository(session=transaction).add(row)
        except IntegrityError as error:
            if not violates(error, CLIENT_KEY):
                raise
            raise ClientIdTaken from None
        self.audit.record("client.create", client=client_id, by=by, why=why, after=_told(merged))
        await self.clients.changed()
        return row, secret

    async def ensure_front_end(self) -> None:
        """Registers the default front end of a new installation; operators may sign in through it."""
        async with self.database.begin() as transaction:
            if await ClientRepository(session=transaction).exists(Client.id == DEFAULT_FRONT_END):
                return
        with suppress(ClientIdTaken):  # somebody was faster
            values = ClientChanges(name="Web", scopes=[ACCOUNT, ADMIN])
            await self.register(DEFAULT_FRONT_END, values, confidential=False)

    async def change(self, client_id: str, changes: ClientChanges, *, by: str = "", why: str = "") -> Client:
        """Changes what is given. Raises `NotFound`, `InvalidInput`, `OperatorsShutOut`."""
        given = _given(changes)
        async with self.database.begin() as transaction:
            row = await self._held(transaction, client_id)
            before, was_way_in = {name: getattr(row, name) for name in given}, row.lets_operators_in
            current = {name: getattr(row, name) for name in ClientChanges.__struct_fields__}
            await self._ensure_fine(transaction, {**current, **given}, confidential=row.is_confidential)
            for name, value in given.items():
                setattr(row, name, value)
            if not set(SECRET_METHODS) & set(row.auth_methods):
                row.secrets = []  # or they would come back with the method, long forgotten
                _show_to_the_release_before(row)
            await self._ensure_way_in(transaction, row, was_way_in)
        self.audit.record("client.change", client=client_id, by=by, why=why, before=_told(before), after=_told(given))
        await self.clients.changed()
        return row

    async def set_disabled(self, client_id: str, disabled: bool, *, by: str = "", why: str = "") -> Client:
        """Shuts a client out with every token it was given, or lets it in again.

        Raises `NotFound`, `OperatorsShutOut`.
        """
        async with self.database.begin() as transaction:
            row = await self._held(transaction, client_id)
            was_way_in = row.lets_operators_in
            outcome = "already" if disabled == (row.disabled_at is not None) else "ok"
            if outcome == "ok":
                row.disabled_at = self.clock() if disabled else None
            await self._ensure_way_in(transaction, row, was_way_in)
        if disabled:
            self.audit.record("client.disable", outcome, client=client_id, by=by, why=why)
        else:
            self.audit.record("client.enable", outcome, client=client_id, by=by, why=why)
        await self.clients.changed()
        return row

    async def add_secret(
        self, client_id: str, life: timedelta | None = None, *, by: str = "", why: str = ""
    ) -> NewSecret:
        """A further secret, good at once; at most two live. Raises `NotFound`, `InvalidInput`, `TooManySecrets`."""
        async with self.database.begin() as transaction:
            row = await self._held(transaction, client_id)
            if not set(SECRET_METHODS) & set(row.auth_methods):
                detail = "This client does not authenticate with a secret."
                raise InvalidInput(fields=[FieldError("client_id", "no_secret_method", detail)])
            now = self.clock()
            live = [held for held in row.secrets if held.is_live(now)]
            if len(live) >= MOST_SECRETS:
                raise TooManySecrets
            secret, held = self._new_secret(client_id, now + life if life else None)
            row.secrets = [*live, held]
            _show_to_the_release_before(row)
        until = secret.expires_at.isoformat() if secret.expires_at else None
        self.audit.record(
            "client.add_secret", client=client_id, by=by, why=why, secret=str(secret.id), expires_at=until
        )
        await self.clients.changed()
        return secret

    async def end_secret(self, client_id: str, which: UUID, *, by: str = "", why: str = "") -> None:
        """Ends one secret at once; tokens that it got live out their minutes. Raises `NotFound`."""
        async with self.database.begin() as transaction:
            row = await self._held(transaction, client_id)
            ended = [held for held in row.secrets if held.id == which]
            if not ended:
                raise NotFound("no such secret")
            row.secrets.remove(ended[0])
            _show_to_the_release_before(row)
        self.audit.record("client.end_secret", client=client_id, by=by, why=why, secret=str(which))
        await self.clients.changed()

    async def replace_secrets(self, client_id: str) -> str:
        """One new secret in the place of all others."""
        async with self.database.begin() as transaction:
            row = await self._held(transaction, client_id)
            secret, held = self._new_secret(client_id, None)
            row.secrets = [held]
            _show_to_the_release_before(row)
        self.audit.record("client.replace_secrets", client=client_id)
        await self.clients.changed()
        return secret.secret

    async def every(self) -> list[Client]:
        """Every client, by id."""
        async with self.database.begin() as transaction:
            return await ClientRepository(session=transaction).with_secrets()

    async def read(self, client_id: str) -> Client:
        """One client, disabled ones too. Raises `NotFound`."""
        async with self.database.begin() as transaction:
            return await self._found(transaction, select(Client), client_id)

    async def apis(self) -> list[Api]:
        """Every registered API, by identifier."""
        async with self.database.begin() as transaction:
            return await ApiRepository(session=transaction).get_many(order_by=[("identifier", False)])

    async def register_api(
        self, identifier: str, name: str, scopes: tuple[str, ...], *, by: str = "", why: str = ""
    ) -> Api:
        """A new API. Raises `ApiTaken`, `InvalidInput`."""
        _refuse(problems_of_api(identifier, name, scopes))
        row = Api(identifier=identifier, name=name, scopes=list(scopes), created_at=self.clock())
        try:
            async with self.database.begin() as transaction:
                await ApiRepository(session=transaction).add(row)
        except IntegrityError as error:
            if not violates(error, API_KEY):
                raise
            raise ApiTaken from None
        self.audit.record("api.create", by=by, why=why, api=identifier, name=name, scopes=list(scopes))
        await self.clients.changed()
        return row

    async def remove_api(self, identifier: str, *, by: str = "", why: str = "") -> None:
        """Forgets an API: tokens for it are inactive from then on. Raises `NotFound`, `ApiInUse`."""
        async with self.database.begin() as transaction:
            row = await transaction.scalar(select(Api).where(Api.identifier == identifier).with_for_update())
            if row is None:
                raise NotFound("no such API")
            others = await transaction.scalars(select(Api).where(Api.identifier != identifier))
            orphaned = set(row.scopes) - {scope for other in others for scope in other.scopes}
            is_used = Client.audiences.contains([identifier]) | Client.serves.contains([identifier])
            if await ClientRepository(session=transaction).exists(is_used | Client.scopes.overlap(list(orphaned))):
                raise ApiInUse
            await transaction.delete(row)
        self.audit.record("api.remove", by=by, why=why, api=identifier)
        await self.clients.changed()

    async def _held(self, transaction: Transaction, client_id: str) -> Client:
        return await self._found(transaction, select(Client).with_for_update(), client_id)

    async def _found(self, transaction: Transaction, statement: Select[tuple[Client]], client_id: str) -> Client:
        is_id = CLIENT_ID.fullmatch(client_id)
        row: Client | None = await transaction.scalar(statement.where(Client.id == client_id)) if is_id else None
        if row is None:
            raise NotFound("no such client")
        return row

    async def _ensure_fine(self, transaction: Transaction, values: dict[str, Any], *, confidential: bool) -> None:
        """Against the APIs of this moment, which stay until the transaction ends."""
        rows = (await transaction.scalars(select(Api).with_for_update(read=True))).all()
        own = self.settings.token_audience
        known = {own: set(BUILT_IN)}
        for row in rows:
            known.setdefault(row.identifier, set()).update(row.scopes)
        longest = {
            name: int(getattr(self.settings, name).total_seconds())
            for name in ("access_token_life", "session_idle", "session_absolute")
        }
        _refuse(problems_of_client(values, known, longest, confidential=confidential))

    async def _ensure_way_in(self, transaction: Transaction, row: Client, was_way_in: bool) -> None:
        """Raises `OperatorsShutOut` for a change that shuts the last front end through which operators come in."""
        if not was_way_in or row.lets_operators_in:
            return
        await transaction.execute(select(func.pg_advisory_xact_lock(COUNTING_LOCK)))
        others = await ClientRepository(session=transaction).with_secrets(Client.id != row.id)
        if not any(other.lets_operators_in for other in others):
            raise OperatorsShutOut

    def _new_secret(self, client_id: str, expires_at: datetime | None) -> tuple[NewSecret, ClientSecret]:
        secret, secret_id = opaque.mint(SECRET_PREFIX), new_id()
        held = ClientSecret(
            id=secret_id,
            client_id=client_id,
            digest=self.roots.digest(SECRET_DIGEST, secret),
            created_at=self.clock(),
            expires_at=expires_at,
            reminded=None,
        )
        return NewSecret(secret_id, secret, expires_at), held


def _show_to_the_release_before(row: Client) -> None:
    """Keeps the one digest that its instances read, during a rollout and after one that was taken back."""
    newest = row.secrets[-1].digest if row.secrets else MATCHES_NO_SECRET
    row.secret_digest = newest if row.is_confidential else None


def _defaults(client_id: str, *, confidential: bool) -> dict[str, Any]:
    """The least a new client needs: a front end for people, or a service that speaks for itself, without scopes."""
    return {
        "name": client_id,
        "auth_methods": list(SECRET_METHODS) if confidential else [PUBLIC_METHOD],
        "grants": ["client_credentials"] if confidential else ["refresh_token"],
        "scopes": [] if confidential else [ACCOUNT],
        "audiences": [],
        "may_introspect": False,
        "serves": [],
        "redirect_uris": [],
        "origins": [],
        "jwks": None,
        "access_token_life": None,
        "session_idle": None,
        "session_absolute": None,
    }


def _given(changes: ClientChanges) -> dict[str, Any]:
    return {name: value for name, value in msgspec.structs.asdict(changes).items() if value is not UNSET}


def _told(values: dict[str, Any]) -> dict[str, Any]:
    """What the audit gets of a registration."""
    return {name: "…" if name in NOT_AUDITED and value else value for name, value in values.items()}


def _refuse(problems: list[FieldError]) -> None:
    if problems:
        raise InvalidInput(fields=problems)
