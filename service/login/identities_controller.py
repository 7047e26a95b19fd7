"""A person's identities at foreign providers over HTTP."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from litestar import Controller, Request, Response, delete, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath

from service.accounts.federation import Federation
from service.accounts.identities import Identity
from service.device import Device
from service.errors import (
    CrossSiteRefused,
    InvalidInput,
    LastCredential,
    NotFound,
    NotLinked,
    ProviderUnavailable,
    StaleAuthentication,
)
from service.login.guilds import Guilds
from service.login.social import SocialLogin
from service.login.social_controller import BROWSER_COOKIE, Wanted, browser_cookie, ensure_once
from service.problems import NO_STORE, refusals
from service.providers.discord import Guild
from service.tokens.principal import BEARER, Principal


@dataclass(frozen=True, slots=True)
class LinkedIdentity:
    """One way into the account, as its provider last described it; `subject` is the person's id there."""

    provider: str
    subject: str
    username: str
    email: str | None
    email_verified: bool
    avatar_url: str | None
    linked_at: datetime
    last_seen_at: datetime

    @classmethod
    def of(cls, identity: Identity) -> "LinkedIdentity":
        """What the holder of an account sees of an identity; never its tokens."""
        return cls(**{name: getattr(identity, name) for name in cls.__slots__})


@dataclass(frozen=True, slots=True)
class LinkBegun:
    """Where to send the browser that asked."""

    authorize_url: str


class IdentitiesController(Controller):
    """What is linked to one's own account."""

    path = "/me/identities"
    tags = ("Account",)

    @get("", operation_id="identities", summary="Linked providers", responses=refusals(*BEARER, body=False))
    async def read(
        self, principal: NamedDependency[Principal], federation: NamedDependency[Federation]
    ) -> Response[list[LinkedIdentity]]:
        """Your identities at other providers, the oldest first."""
        found = [LinkedIdentity.of(identity) for identity in await federation.of(principal.account)]
        return Response(found, headers=NO_STORE)

    @post(
        "/{provider:str}",
        status_code=200,
        operation_id="linkIdentity",
        summary="Link a provider",
        responses=refusals(
            *BEARER, CrossSiteRefused, StaleAuthentication, NotFound, InvalidInput, ProviderUnavailable, body=False
        ),
    )
    async def link(
        self,
        request: Request[Principal, Any, Any],
        *,
        provider: FromPath[str],
        principal: NamedDependency[Principal],
        social: NamedDependency[SocialLogin],
        wanted: Wanted = None,
    ) -> Response[LinkBegun]:
        """Begins to link a provider. It is linked when this very browser, which gets a cookie here, comes back from
        there. Needs a sign-in within the last minutes."""
        ensure_once(request)
        begun = await social.begin_link(principal, provider, wanted, request.cookies.get(BROWSER_COOKIE, ""))
        cookies = [browser_cookie(begun, social.settings)]
        return Response(LinkBegun(begun.authorize_url), headers=NO_STORE, cookies=cookies)

    @delete(
        "/{provider:str}",
        status_code=204,
        operation_id="unlinkIdentity",
        summary="Unlink a provider",
        responses=refusals(*BEARER, CrossSiteRefused, StaleAuthentication, NotFound, LastCredential, body=False),
    )
    async def unlink(
        self,
        provider: FromPath[str],
        principal: NamedDependency[Principal],
        federation: NamedDependency[Federation],
        device: NamedDependency[Device],
    ) -> Response[None]:
        """Takes a provider away, and signs out everywhere else. Needs a sign-in within the last minutes."""
        await federation.unlink(principal, provider, device)
        return Response(None, status_code=204, headers=NO_STORE)

    @get(
        "/{provider:str}/guilds",
        operation_id="guilds",
        summary="Your Discord servers",
        responses=refusals(*BEARER, NotFound, NotLinked, ProviderUnavailable, body=False),
    )
    async def guilds(
        self, provider: FromPath[str], principal: NamedDependency[Principal], guilds: NamedDependency[Guilds]
    ) -> Response[list[Guild]]:
        """The servers that you are in, asked of Discord at this moment; 200 at most."""
        return Response(await guilds.of(principal, provider), headers=NO_STORE)
