"""Clients and APIs, from the operator's side. A secret is in the answer that makes it, and in no other."""

from datetime import datetime, timedelta
from typing import Annotated, Any
from uuid import UUID

import msgspec
from litestar import Controller, Response, get, patch, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody
from msgspec import UNSET, UnsetType

from service.admin.wire import FOR_OPERATORS, Listed, Reason, Why, reading, writing
from service.errors import (
    ApiInUse,
    ApiTaken,
    ClientIdTaken,
    NotFound,
    OperatorsShutOut,
    TooManyClients,
    TooManySecrets,
)
from service.problems import NO_STORE
from service.tokens.client_administration import ClientAdministration, ClientChanges, NewSecret
from service.tokens.clients import Api, Client
from service.tokens.principal import Operator

SecretLife = Annotated[
    int, msgspec.Meta(ge=3600, le=10 * 365 * 86400, description="Seconds until it ends; never when absent.")
]


class SecretShown(msgspec.Struct, frozen=True):
    """A secret of a client, without the secret."""

    id: UUID
    created_at: datetime
    expires_at: datetime | None


class ClientShown(msgspec.Struct, frozen=True, kw_only=True):
    """A client as it is registered. `client_secret` is there once, when it was made."""

    client_id: str
    name: str
    confidential: bool
    auth_methods: list[str]
    grants: list[str]
    scopes: list[str]
    audiences: list[str]
    may_introspect: bool
    serves: list[str]
    redirect_uris: list[str]
    origins: list[str]
    jwks: dict[str, Any] | None
    access_token_life: int | None
    session_idle: int | None
    session_absolute: int | None
    created_at: datetime
    disabled_at: datetime | None
    secrets: list[SecretShown]
    client_secret: str | UnsetType = UNSET

    @classmethod
    def of(cls, row: Client, secret: NewSecret | None = None) -> "ClientShown":
        """What is shown of a row."""
        return cls(
            client_id=row.id,
            confidential=row.is_confidential,
            created_at=row.created_at,
            disabled_at=row.disabled_at,
            secrets=[SecretShown(held.id, held.created_at, held.expires_at) for held in row.secrets],
            client_secret=secret.secret if secret else UNSET,
            **{name: getattr(row, name) for name in ClientChanges.__struct_fields__},
        )


class Registration(ClientChanges, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A new client."""

    client_id: str
    confidential: bool
    reason: Why = ""


class Change(ClientChanges, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What to change of a client; what is absent stays."""

    reason: Why = ""


class SecretWanted(Reason, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A further secret."""

    life: SecretLife | None = None


class SecretMade(msgspec.Struct, frozen=True):
    """A secret, shown this once."""

    id: UUID
    client_secret: str
    expires_at: datetime | None


class ApiShown(msgspec.Struct, frozen=True):
    """An API that tokens may be for."""

    identifier: str
    name: str
    scopes: list[str]
    created_at: datetime

    @classmethod
    def of(cls, row: Api) -> "ApiShown":
        """What is shown of a row."""
        return cls(row.identifier, row.name, list(row.scopes), row.created_at)


class ApiWanted(Reason, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A new API: its identifier becomes the `aud` of its tokens."""

    identifier: str
    name: str
    scopes: tuple[str, ...] = ()


class ApiUnwanted(Reason, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An API that goes."""

    identifier: str


class ClientsController(Controller):
    """The software that may act here."""

    path = "/admin/clients"
    tags = ("Administration",)
    opt = FOR_OPERATORS

    @get("", operation_id="clients", summary="Every client", responses=reading())
    async def every(
        self, client_administration: NamedDependency[ClientAdministration]
    ) -> Response[Listed[ClientShown]]:
        """All of them, by id: the registry is bounded and small."""
        rows = await client_administration.every()
        return Response(Listed([ClientShown.of(row) for row in rows]), headers=NO_STORE)

    @post(
        "",
        operation_id="registerClient",
        summary="Register a client",
        responses=writing(ClientIdTaken, TooManyClients),
    )
    async def register(
        self,
        data: JSONBody[Registration],
        operator: NamedDependency[Operator],
        client_administration: NamedDependency[ClientAdministration],
    ) -> Response[ClientShown]:
        """A new client, with its first secret if it authenticates with one."""
        row, secret = await client_administration.register(
            data.client_id, _values(data), confidential=data.confidential, by=operator.name, why=data.reason
        )
        return Response(ClientShown.of(row, secret), status_code=201, headers=NO_STORE)

    @get("/{client_id:str}", operation_id="client", summary="One client", responses=reading(NotFound))
    async def read(
        self, client_id: FromPath[str], client_administration: NamedDependency[ClientAdministration]
    ) -> Response[ClientShown]:
        """How a client is registered."""
        return Response(ClientShown.of(await client_administration.read(client_id)), headers=NO_STORE)

    @patch(
        "/{client_id:str}",
        operation_id="changeClient",
        summary="Change a client",
        responses=writing(NotFound, OperatorsShutOut),
    )
    async def change(
        self,
        client_id: FromPath[str],
        data: JSONBody[Change],
        operator: NamedDependency[Operator],
        client_administration: NamedDependency[ClientAdministration],
    ) -> Response[ClientShown]:
        """Changes what is given. What a client loses, its tokens lose at their next introspection."""
        row = await client_administration.change(client_id, _values(data), by=operator.name, why=data.reason)
        return Response(ClientShown.of(row), headers=NO_STORE)

    @post(
        "/{client_id:str}/disable",
        status_code=200,
        operation_id="disableClient",
        summary="Shut a client out",
        responses=writing(NotFound, OperatorsShutOut),
    )
    async def disable(
        self,
        client_id: FromPath[str],
        data: JSONBody[Reason],
        operator: NamedDependency[Operator],
        client_administration: NamedDependency[ClientAdministration],
    ) -> Response[ClientShown]:
        """Its credentials and every token made out to it stop working."""
        row = await client_administration.set_disabled(client_id, True, by=operator.name, why=data.reason)
        return Response(ClientShown.of(row), headers=NO_STORE)

    @post(
        "/{client_id:str}/enable",
        status_code=200,
        operation_id="enableClient",
        summary="Let a client in again",
        responses=writing(NotFound),
    )
    async def enable(
        self,
        client_id: FromPath[str],
        data: JSONBody[Reason],
        operator: NamedDependency[Operator],
        client_administration: NamedDependency[ClientAdministration],
    ) -> Response[ClientShown]:
        """Its credentials, and the sessions that have not ended meanwhile, work again."""
        row = await client_administration.set_disabled(client_id, False, by=operator.name, why=data.reason)
        return Response(ClientShown.of(row), headers=NO_STORE)

    @post(
        "/{client_id:str}/secrets",
        operation_id="addSecret",
        summary="Give a client another secret",
        responses=writing(NotFound, TooManySecrets),
    )
    async def add_secret(
        self,
        client_id: FromPath[str],
        data: JSONBody[SecretWanted],
        operator: NamedDependency[Operator],
        client_administration: NamedDependency[ClientAdministration],
    ) -> Response[SecretMade]:
        """A second secret beside the first: bring it to the client, then end the old one."""
        life = timedelta(seconds=data.life) if data.life else None
        made = await client_administration.add_secret(client_id, life, by=operator.name, why=data.reason)
        return Response(SecretMade(made.id, made.secret, made.expires_at), status_code=201, headers=NO_STORE)

    @post(
        "/{client_id:str}/secrets/{secret_id:uuid}/end",
        status_code=204,
        operation_id="endSecret",
        summary="End a secret",
        responses=writing(NotFound),
    )
    async def end_secret(
        self,
        client_id: FromPath[str],
        secret_id: FromPath[UUID],
        data: JSONBody[Reason],
        operator: NamedDependency[Operator],
        client_administration: NamedDependency[ClientAdministration],
    ) -> Response[None]:
        """It opens nothing from now on; tokens that it got live out their minutes."""
        await client_administration.end_secret(client_id, secret_id, by=operator.name, why=data.reason)
        return Response(None, status_code=204, headers=NO_STORE)


class ApisController(Controller):
    """What tokens may be for."""

    path = "/admin/apis"
    tags = ("Administration",)
    opt = FOR_OPERATORS

    @get("", operation_id="apis", summary="Every API", responses=reading())
    async def every(self, client_administration: NamedDependency[ClientAdministration]) -> Response[Listed[ApiShown]]:
        """All of them, by identifier; our own needs no entry."""
        return Response(Listed([ApiShown.of(row) for row in await client_administration.apis()]), headers=NO_STORE)

    @post("", operation_id="registerApi", summary="Register an API", responses=writing(ApiTaken))
    async def register(
        self,
        data: JSONBody[ApiWanted],
        operator: NamedDependency[Operator],
        client_administration: NamedDependency[ClientAdministration],
    ) -> Response[ApiShown]:
        """Something that accepts our tokens, with the scopes that mean something to it."""
        row = await client_administration.register_api(
            data.identifier, data.name, data.scopes, by=operator.name, why=data.reason
        )
        return Response(ApiShown.of(row), status_code=201, headers=NO_STORE)

    @post(
        "/remove",
        status_code=204,
        operation_id="removeApi",
        summary="Forget an API",
        responses=writing(NotFound, ApiInUse),
    )
    async def remove(
        self,
        data: JSONBody[ApiUnwanted],
        operator: NamedDependency[Operator],
        client_administration: NamedDependency[ClientAdministration],
    ) -> Response[None]:
        """Tokens for it are inactive from then on. Refused while a client is registered for it."""
        await client_administration.remove_api(data.identifier, by=operator.name, why=data.reason)
        return Response(None, status_code=204, headers=NO_STORE)


def _values(given: Registration | Change) -> ClientChanges:
    return ClientChanges(**{name: getattr(given, name) for name in ClientChanges.__struct_fields__})
