"""What everybody sees of an account, and what an administrator may change of it."""

from datetime import datetime
from uuid import UUID

import msgspec
from litestar import Controller, Response, get, patch
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody

from service.accounts.models import Account
from service.accounts.profile import Changes, Profile
from service.device import Device
from service.errors import (
    MalformedRequest,
    NicknameTaken,
    NotFound,
    NotYours,
    StaleAuthentication,
)
from service.problems import NO_STORE, refusals
from service.tokens.principal import BEARER, PUBLIC, Principal


class PublicProfile(msgspec.Struct, frozen=True):
    """What everybody may know."""

    id: UUID
    nickname: str
    avatar_url: str | None
    created_at: datetime

    @classmethod
    def of(cls, account: Account) -> "PublicProfile":
        """The public part of an account."""
        return cls(account.id, account.nickname, account.avatar_url, account.created_at)


class UsersController(Controller):
    """Other people."""

    path = "/users"
    tags = ("Account",)

    @get(
        "/{account_id:uuid}",
        operation_id="user",
        summary="Somebody's public profile",
        opt={PUBLIC: True},
        security=[{}],
        responses=refusals(MalformedRequest, NotFound, body=False),
    )
    async def read(self, account_id: FromPath[UUID], profile: NamedDependency[Profile]) -> Response[PublicProfile]:
        """The public part of an account; no address, no roles."""
        return Response(PublicProfile.of(await profile.see(account_id)), headers=NO_STORE)

    @patch(
        "/{account_id:uuid}",
        operation_id="changeUser",
        summary="Change a profile",
        responses=refusals(*BEARER, StaleAuthentication, NotYours, NotFound, NicknameTaken),
    )
    async def change(
        self,
        account_id: FromPath[UUID],
        data: JSONBody[Changes],
        principal: NamedDependency[Principal],
        profile: NamedDependency[Profile],
        device: NamedDependency[Device],
    ) -> Response[PublicProfile]:
        """Changes one's own profile, or as an administrator who signed in just now anybody's."""
        changed = await profile.change(account_id, data, device, by=principal)
        return Response(PublicProfile.of(changed), headers=NO_STORE)
