"""Accounts, from the operator's side. Nobody here sees or sets a password (ASVS 6.4.6)."""

from contextlib import suppress
from datetime import datetime
from uuid import UUID

import msgspec
from litestar import Controller, Response, get, post, put
from litestar.di import NamedDependency
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import FromPath, FromQuery, JSONBody

from service.accounts.administration import Administration
from service.accounts.directory import Directory, Sort, State, Wanted
from service.accounts.models import Account
from service.accounts.recovery import Recovery
from service.admin.wire import (
    DEFAULT_LIMIT,
    FOR_OPERATORS,
    Limit,
    Listed,
    Moment,
    Reason,
    Text,
    listed,
    moment,
    reading,
    writing,
)
from service.device import Device
from service.errors import InvalidInput, LastAdmin, NotFound, TooManyRequests, Unavailable
from service.problems import NO_STORE
from service.tokens.overview import Overview, SeenSession
from service.tokens.principal import Operator


class AccountShown(msgspec.Struct, frozen=True):
    """An account as operators see it; no hash, no token."""

    id: UUID
    email: str
    nickname: str
    locale: str
    avatar_url: str | None
    roles: list[str]
    created_at: datetime
    disabled_at: datetime | None
    has_password: bool
    password_changed_at: datetime
    password_change_required: bool

    @classmethod
    def of(cls, row: Account) -> "AccountShown":
        """What is shown of a row."""
        return cls(
            id=row.id,
            email=row.email,
            nickname=row.nickname,
            locale=row.locale,
            avatar_url=row.avatar_url,
            roles=list(row.roles),
            created_at=row.created_at,
            disabled_at=row.disabled_at,
            has_password=row.password_hash is not None,
            password_changed_at=row.password_changed_at,
            password_change_required=row.password_change_required,
        )


class Roles(Reason, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The whole list: what is not in it is taken away."""

    roles: list[str]


class AccountsController(Controller):
    """Finds people, and keeps some out."""

    path = "/admin/accounts"
    tags = ("Administration",)
    opt = FOR_OPERATORS

    @get("", operation_id="accounts", summary="Find accounts", responses=reading(InvalidInput))
    async def search(
        self,
        *,
        directory: NamedDependency[Directory],
        q: Text = None,
        status: FromQuery[State | None] = None,
        role: Text = None,
        created_after: Moment = None,
        created_before: Moment = None,
        sort: FromQuery[Sort] = "-created_at",
        limit: Limit = DEFAULT_LIMIT,
        cursor: Text = None,
    ) -> Response[Listed[AccountShown]]:
        """One page of accounts: by how the address or nickname begins, by state, role and age."""
        wanted = Wanted(
            begins=q or "",
            state=status,
            role=role,
            created_after=moment("created_after", created_after),
            created_before=moment("created_before", created_before),
        )
        found = await directory.search(wanted, sort, limit, cursor)
        return Response(listed(found, AccountShown.of), headers=NO_STORE)

    @get("/{account_id:uuid}", operation_id="account", summary="One account", responses=reading(NotFound))
    async def read(self, account_id: FromPath[UUID], directory: NamedDependency[Directory]) -> Response[AccountShown]:
        """Everything an operator may know of an account."""
        return Response(AccountShown.of(await directory.read(account_id)), headers=NO_STORE)

    @post(
        "/{account_id:uuid}/disable",
        status_code=200,
        operation_id="disableAccount",
        summary="Shut an account out",
        responses=writing(NotFound, LastAdmin),
    )
    async def disable(
        self,
        account_id: FromPath[UUID],
        data: JSONBody[Reason],
        operator: NamedDependency[Operator],
        administration: NamedDependency[Administration],
    ) -> Response[AccountShown]:
        """Nobody can sign in to it, and all its sessions end at once."""
        row = await administration.disable(account_id, by=operator.name, why=data.reason)
        return Response(AccountShown.of(row), headers=NO_STORE)

    @post(
        "/{account_id:uuid}/enable",
        status_code=200,
        operation_id="enableAccount",
        summary="Let an account in again",
        responses=writing(NotFound),
    )
    async def enable(
        self,
        account_id: FromPath[UUID],
        data: JSONBody[Reason],
        operator: NamedDependency[Operator],
        administration: NamedDependency[Administration],
    ) -> Response[AccountShown]:
        """Its person can sign in again; sessions that ended stay ended."""
        row = await administration.enable(account_id, by=operator.name, why=data.reason)
        return Response(AccountShown.of(row), headers=NO_STORE)

    @put(
        "/{account_id:uuid}/roles",
        operation_id="setRoles",
        summary="Appoint somebody",
        responses=writing(NotFound, LastAdmin),
    )
    async def set_roles(
        self,
        account_id: FromPath[UUID],
        data: JSONBody[Roles],
        operator: NamedDependency[Operator],
        administration: NamedDependency[Administration],
    ) -> Response[AccountShown]:
        """Gives an account exactly these roles; they show at the next introspection of every token it has."""
        row = await administration.set_roles(account_id, data.roles, by=operator.name, why=data.reason)
        return Response(AccountShown.of(row), headers=NO_STORE)

    @post(
        "/{account_id:uuid}/require-password-change",
        status_code=202,
        operation_id="requirePasswordChange",
        summary="Make a password worthless",
        responses=writing(NotFound),
    )
    async def require_password_change(
        self,
        *,
        account_id: FromPath[UUID],
        data: JSONBody[Reason],
        operator: NamedDependency[Operator],
        administration: NamedDependency[Administration],
        recovery: NamedDependency[Recovery],
        device: NamedDependency[Device],
    ) -> Response[AccountShown]:
        """Ends every session and mails a link for a new password; until then the old one opens nothing."""
        row = await administration.require_password_change(account_id, by=operator.name, why=data.reason)
        with suppress(TooManyRequests, Unavailable):  # it is done; the next sign-in asks for the mail again
            await recovery.request(row.email, device)
        return Response(AccountShown.of(row), status_code=202, headers=NO_STORE)

    @post(
        "/{account_id:uuid}/reset-password",
        status_code=202,
        operation_id="startReset",
        summary="Mail somebody a link for a new password",
        responses={202: ResponseSpec(None, description="It is on its way."), **writing(NotFound)},
    )
    async def reset_password(
        self,
        *,
        account_id: FromPath[UUID],
        data: JSONBody[Reason],
        operator: NamedDependency[Operator],
        administration: NamedDependency[Administration],
        directory: NamedDependency[Directory],
        recovery: NamedDependency[Recovery],
        device: NamedDependency[Device],
    ) -> Response[bytes]:
        """The link goes to the account's address and nowhere else."""
        row = await directory.read(account_id)
        administration.note_reset(row.id, by=operator.name, why=data.reason)
        await recovery.request(row.email, device)
        return Response(b"", status_code=202, headers=NO_STORE, media_type="application/json")

    @get(
        "/{account_id:uuid}/sessions",
        operation_id="sessionsOfAccount",
        summary="Where somebody is signed in",
        responses=reading(NotFound),
    )
    async def sessions(
        self,
        account_id: FromPath[UUID],
        directory: NamedDependency[Directory],
        overview: NamedDependency[Overview],
    ) -> Response[list[SeenSession]]:
        """The sessions of an account that live, the one used last first."""
        await directory.read(account_id)
        return Response(await overview.of_account(account_id), headers=NO_STORE)

    @post(
        "/{account_id:uuid}/sessions/end",
        status_code=204,
        operation_id="endSessionsOfAccount",
        summary="Sign somebody out everywhere",
        responses=writing(NotFound),
    )
    async def end_sessions(
        self,
        account_id: FromPath[UUID],
        data: JSONBody[Reason],
        operator: NamedDependency[Operator],
        administration: NamedDependency[Administration],
    ) -> Response[None]:
        """Ends every session of an account, in every worker at once."""
        await administration.end_sessions(account_id, by=operator.name, why=data.reason)
        return Response(None, status_code=204, headers=NO_STORE)

    @post(
        "/{account_id:uuid}/sessions/{session_id:uuid}/end",
        status_code=204,
        operation_id="endSessionOfAccount",
        summary="End one session of somebody",
        responses=writing(NotFound),
    )
    async def end_session(
        self,
        account_id: FromPath[UUID],
        session_id: FromPath[UUID],
        data: JSONBody[Reason],
        operator: NamedDependency[Operator],
        administration: NamedDependency[Administration],
    ) -> Response[None]:
        """Ends one session of an account, in every worker at once."""
        await administration.end_session(account_id, session_id, by=operator.name, why=data.reason)
        return Response(None, status_code=204, headers=NO_STORE)
