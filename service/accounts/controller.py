"""Sign-up and recovery over HTTP."""

from typing import Annotated, Any

import msgspec
from litestar import Controller, Request, Response, post
from litestar.di import NamedDependency
from litestar.params import JSONBody

from service.accounts.recovery import Recovery
from service.accounts.registration import Registration
from service.device import Device
from service.errors import (
    FieldError,
    InvalidInput,
    InvalidOrExpiredCode,
    NicknameTaken,
    UnknownClient,
)
from service.problems import NO_STORE, refusals
from service.settings import Settings
from service.tokens.clients import DEFAULT_FRONT_END
from service.tokens.principal import PUBLIC
from service.tokens.session_facts import Grant
from service.tokens.sessions import Sessions
from service.tokens.transport import (
    ClientId,
    TokenAnswer,
    Transport,
    ensure_same_site,
    leave_old_session,
    marked,
    token_answer,
)

Email = Annotated[str, msgspec.Meta(max_length=320, description="Compared in lower case.")]
Password = Annotated[
    str, msgspec.Meta(max_length=4096, description="At least 15 characters by default; no other rule.")
]
Nickname = Annotated[str, msgspec.Meta(max_length=64, description="2 to 32 letters, digits, `_`, `.`, `-`.")]
Handle = Annotated[str, msgspec.Meta(max_length=128, description="The `vrg_…` that sign-up answered.")]
LinkToken = Annotated[str, msgspec.Meta(max_length=128, description="What stands behind `=` in the mailed link.")]
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
    """`registration` and `code`, or the `token` of the link with either `registration` or `password`.

    `nickname` again if the first one was taken meanwhile.
    """

    registration: Handle | None = None
    code: Code | None = None
    token: LinkToken | None = None
    password: Password | None = None
    nickname: Nickname | None = None
    client_id: ClientId = DEFAULT_FRONT_END
    transport: Transport = "body"


class Resend(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    registration: Handle


class Forgotten(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    email: Email


class Accepted(msgspec.Struct, frozen=True):
    """Nothing: whatever happens shows in the mailbox alone."""


class NewPassword(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The token of the mailed link, and the password from now on."""

    token: LinkToken
    password: Password


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
        """Begins a sign-up and mails a code and a link. The answer does not tell whether the address is known."""
        kept = await registrations.register(data.email, data.password, data.nickname, device)
        answer = SignUpKept(kept.handle, int(kept.life.total_seconds()))
        return Response(answer, status_code=202, headers=NO_STORE)

    @post(
        "/verify",
        status_code=200,
        operation_id="verify",
        responses=refusals(InvalidOrExpiredCode, UnknownClient, NicknameTaken),
    )
    async def verify(
        self,
        request: Request[Any, Any, Any],
        *,
        data: JSONBody[Proof],
        registrations: NamedDependency[Registration],
        device: NamedDependency[Device],
        sessions: NamedDependency[Sessions],
        settings: NamedDependency[Settings],
    ) -> Response[TokenAnswer]:
        """Proves the address: the account exists from now on, and is signed in."""
        if data.transport == "cookie":
            ensure_same_site(request, settings)
            device = marked(device)
        grant = await _verified(registrations, data, device)
        if data.transport == "cookie":
            await leave_old_session(request, sessions)
        return token_answer(grant, data.transport)

    @post("/verify/resend", status_code=202, operation_id="resendCode", responses=refusals())
    async def resend(
        self,
        data: JSONBody[Resend],
        registrations: NamedDependency[Registration],
        device: NamedDependency[Device],
    ) -> Response[Accepted]:
        """Mails a new code and link. Tries that were spent stay spent."""
        await registrations.resend(data.registration, device)
        return Response(Accepted(), status_code=202, headers=NO_STORE)


class RecoveryController(Controller):
    """Back into an account whose password is forgotten."""

    path = "/auth/password"
    tags = ("Sign-in",)
    opt = {PUBLIC: True}  # noqa: RUF012  the framework's way of writing it
    security = [{}]  # noqa: RUF012

    @post("/forgot", status_code=202, operation_id="forgotPassword", responses=refusals())
    async def forgot(
        self, data: JSONBody[Forgotten], recovery: NamedDependency[Recovery], device: NamedDependency[Device]
    ) -> Response[Accepted]:
        """Mails a link to set a new password, if the address has an account: the answer is the same for everybody."""
        await recovery.request(data.email, device)
        return Response(Accepted(), status_code=202, headers=NO_STORE)

    @post(
        "/reset",
        status_code=204,
        operation_id="resetPassword",
        responses=refusals(InvalidOrExpiredCode),
    )
    async def reset(
        self, data: JSONBody[NewPassword], recovery: NamedDependency[Recovery], device: NamedDependency[Device]
    ) -> Response[None]:
        """Sets a new password by the link of a mail. Every session of the account ends."""
        await recovery.reset(data.token, data.password, device)
        return Response(None, status_code=204, headers=NO_STORE)


async def _verified(registrations: Registration, data: Proof, device: Device) -> Grant:
    if data.token is not None and data.code is None and (data.registration or data.password) is not None:
        return await registrations.verify_by_link(
            data.token,
            data.client_id,
            device,
            handle=data.registration,
            password=data.password,
            nickname=data.nickname,
        )
    if data.token is None and data.code is not None and data.registration is not None and data.password is None:
        return await registrations.verify(data.registration, data.code, data.client_id, device, data.nickname)
    detail = "Give `registration` and `code`, or `token` with `registration` or with `password`."
    raise InvalidInput(fields=[FieldError("code" if data.token is None else "token", "one_proof", detail)])
