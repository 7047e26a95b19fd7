"""A person's own account over HTTP."""

from datetime import datetime
from typing import Annotated
from uuid import UUID

import msgspec
from litestar import Controller, Response, delete, get, patch, post
from litestar.di import NamedDependency
from litestar.params import JSONBody

from service.accounts.closing import Closing
from service.accounts.controller import Accepted, Email, LinkToken, Password
from service.accounts.credentials import Credentials
from service.accounts.export import Export, Exports
from service.accounts.models import Account
from service.accounts.profile import Changes, Profile
from service.device import Device
from service.errors import (
    CrossSiteRefused,
    InvalidCredentials,
    InvalidOrExpiredCode,
    LastAdmin,
    NicknameTaken,
    StaleAuthentication,
)
from service.problems import NO_STORE, refusals
from service.tokens.principal import BEARER, Principal


class Me(msgspec.Struct, frozen=True):
    """A person's own account."""

    id: UUID
    email: str
    nickname: str
    avatar_url: str | None
    locale: str
    roles: tuple[str, ...]
    created_at: datetime
    has_password: bool

    @classmethod
    def of(cls, account: Account) -> "Me":
        """What its holder sees of an account."""
        return cls(
            account.id,
            account.email,
            account.nickname,
            account.avatar_url,
            account.locale,
            tuple(account.roles),
            account.created_at,
            account.password_hash is not None,
        )


class PasswordChange(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    current_password: Annotated[str, msgspec.Meta(max_length=4096)]
    new_password: Password


class EmailChange(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The new address, and the password of the account."""

    email: Email
    password: Annotated[str, msgspec.Meta(max_length=4096)]


class EmailProof(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    token: LinkToken


class MeController(Controller):
    """A person's own account."""

    path = "/me"
    tags = ("Account",)

    @get("", operation_id="me", summary="Your account", responses=refusals(*BEARER, body=False))
    async def read(self, principal: NamedDependency[Principal], profile: NamedDependency[Profile]) -> Response[Me]:
        """The account behind the access token."""
        return Response(Me.of(await profile.read(principal.account)), headers=NO_STORE)

    @patch("", operation_id="changeMe", summary="Change your account", responses=refusals(*BEARER, NicknameTaken))
    async def change(
        self,
        data: JSONBody[Changes],
        principal: NamedDependency[Principal],
        profile: NamedDependency[Profile],
        device: NamedDependency[Device],
    ) -> Response[Me]:
        """Changes nickname, picture or language: what is absent stays."""
        return Response(Me.of(await profile.change(principal.account, data, device, by=principal)), headers=NO_STORE)

    @delete(
        "",
        status_code=204,
        operation_id="closeAccount",
        summary="Close your account",
        responses=refusals(*BEARER, CrossSiteRefused, StaleAuthentication, LastAdmin, body=False),
    )
    async def close(self, principal: NamedDependency[Principal], closing: NamedDependency[Closing]) -> Response[None]:
        """Erases the account and ends every session. Needs a password given within the last minutes."""
        await closing.close(principal)
        return Response(None, status_code=204, headers=NO_STORE)

    @post("/password", status_code=204, operation_id="changePassword", responses=refusals(*BEARER, InvalidCredentials))
    async def change_password(
        self,
        data: JSONBody[PasswordChange],
        principal: NamedDependency[Principal],
        credentials: NamedDependency[Credentials],
        device: NamedDependency[Device],
    ) -> Response[None]:
        """Sets a new password. Every other session ends."""
        await credentials.change_password(principal, data.current_password, data.new_password, device)
        return Response(None, status_code=204, headers=NO_STORE)

    @post("/email", status_code=202, operation_id="changeEmail", responses=refusals(*BEARER, InvalidCredentials))
    async def change_email(
        self,
        data: JSONBody[EmailChange],
        principal: NamedDependency[Principal],
        credentials: NamedDependency[Credentials],
        device: NamedDependency[Device],
    ) -> Response[Accepted]:
        """Mails a link to the new address; nothing changes before it was used."""
        await credentials.request_email(principal, data.email, data.password, device)
        return Response(Accepted(), status_code=202, headers=NO_STORE)

    @post(
        "/email/confirm",
        status_code=204,
        operation_id="confirmEmail",
        responses=refusals(*BEARER, InvalidOrExpiredCode),
    )
    async def confirm_email(
        self,
        data: JSONBody[EmailProof],
        principal: NamedDependency[Principal],
        credentials: NamedDependency[Credentials],
        device: NamedDependency[Device],
    ) -> Response[None]:
        """The new address takes the place of the old one, which is told. Every other session ends."""
        await credentials.confirm_email(principal, data.token, device)
        return Response(None, status_code=204, headers=NO_STORE)

    @get("/export", operation_id="exportMe", summary="Everything about you", responses=refusals(*BEARER, body=False))
    async def export(
        self, principal: NamedDependency[Principal], exports: NamedDependency[Exports]
    ) -> Response[Export]:
        """Everything that is held about you."""
        headers = {**NO_STORE, "Content-Disposition": 'attachment; filename="account.json"'}
        return Response(await exports.of(principal.account), headers=headers)
