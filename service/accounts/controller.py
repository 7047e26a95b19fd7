"""Sign-up over HTTP, and what a person sees of their own account."""

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

import msgspec
from litestar import Controller, Request, Response, get, post
from litestar.di import NamedDependency
from litestar.params import JSONBody

from service.accounts.profile import Profile
from service.accounts.registration import Registration
from service.device import Device
from service.errors import (
    AmbiguousCredentials,
    CrossSiteRefused,
    InvalidOrExpiredCode,
    InvalidToken,
    NicknameTaken,
    Unauthenticated,
    UnknownClient,
)
from service.problems import NO_STORE, refusals
from service.settings import Settings
from service.tokens.clients import DEFAULT_FRONT_END
from service.tokens.principal import PUBLIC, Principal
from service.tokens.transport import (
    ClientId,
    TokenAnswer,
    Transport,
    ensure_same_site,
    token_answer,
)

Email = Annotated[str, msgspec.Meta(max_length=320, description="Compared in lower case.")]
Password = Annotated[
    str, msgspec.Meta(max_length=4096, description="At least 15 characters by default; no other rule.")
]
Nickname = Annotated[str, msgspec.Meta(max_length=64, description="2 to 32 letters, digits, `_`, `.`, `-`.")]
Handle = Annotated[str, msgspec.Meta(max_length=128, description="The `vrg_…` that sign-up answered.")]
Code = Annotated[str, msgspec.Meta(max_length=16, description="The six digits of the mail.")]


class SignUp(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a new person chooses."""

    email: Email
    password: Password
    nickname: Nickname


class SignUpKept(msgspec.Struct, frozen=True):
    """The handle to come back with, and the seconds it is good for."""

    registration: str
    expires_in: int


class Proof(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The handle and the code; `nickname` again if the first one was taken meanwhile."""

    registration: Handle
    code: Code
    nickname: Nickname | None = None
    client_id: ClientId = DEFAULT_FRONT_END
    transport: Transport = "body"


class Resend(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    registration: Handle


class Me(msgspec.Struct, frozen=True):
    """A person's own account."""

    id: UUID
    email: str
    nickname: str
    roles: tuple[str, ...]
    created_at: datetime


class SignUpController(Controller):
    """From nobody to an account."""

    path = "/auth"
    tags = ("Sign-up",)
    opt = {PUBLIC: True}  # noqa: RUF012  the framework's way of writing it
    security = [{}]  # noqa: RUF012

    @post("/register", status_code=202, operation_id="register", responses=refusals(NicknameTaken))
    async def register(
        self,
        data: JSONBody[SignUp],
        registrations: NamedDependency[Registration],
        device: NamedDependency[Device],
    ) -> Response[SignUpKept]:
        """Begins a sign-up and mails a six-digit code. The answer does not tell whether the address is known."""
        kept = await registrations.register(data.email, data.password, data.nickname, device)
        answer = SignUpKept(kept.handle, int(kept.life.total_seconds()))
        return Response(answer, status_code=202, headers=NO_STORE)

    @post(
        "/verify",
        status_code=200,
        operation_id="verify",
        responses=refusals(InvalidOrExpiredCode, UnknownClient, CrossSiteRefused, NicknameTaken),
    )
    async def verify(
        self,
        request: Request[Any, Any, Any],
        data: JSONBody[Proof],
        registrations: NamedDependency[Registration],
        device: NamedDependency[Device],
        settings: NamedDependency[Settings],
    ) -> Response[TokenAnswer]:
        """Proves the address: the account exists from now on, and is signed in."""
        if data.transport == "cookie":
            ensure_same_site(request, settings)
        grant = await registrations.verify(data.registration, data.code, data.client_id, device, data.nickname)
        return token_answer(grant, data.transport)

    @post("/verify/resend", status_code=202, operation_id="resendCode", responses=refusals())
    async def resend(
        self,
        data: JSONBody[Resend],
        registrations: NamedDependency[Registration],
        device: NamedDependency[Device],
    ) -> Response[None]:
        """Mails a new code. Tries that were spent stay spent."""
        await registrations.resend(data.registration, device)
        return Response(None, status_code=202, headers=NO_STORE)


class MeController(Controller):
    """A person's own account."""

    path = "/me"
    tags = ("Account",)

    @get(
        "",
        operation_id="me",
        summary="Your account",
        responses=refusals(AmbiguousCredentials, Unauthenticated, InvalidToken, body=False),
    )
    async def read(self, principal: NamedDependency[Principal], profile: NamedDependency[Profile]) -> Response[Me]:
        """The account behind the access token."""
        account = await profile.read(principal.account)
        body = Me(account.id, account.email, account.nickname, tuple(account.roles), account.created_at)
        return Response(body, headers=NO_STORE)
