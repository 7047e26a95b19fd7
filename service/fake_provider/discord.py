"""Discord: a token endpoint without ID tokens, and the two calls of its API that sign-in needs."""

import re
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

import msgspec
from litestar import Controller, Request, Response, get, post
from litestar.di import NamedDependency

from service.fake_provider.authorization import choose, show
from service.fake_provider.backstage import DISCORD, Backstage
from service.fake_provider.claims import another
from service.fake_provider.exchange import authorized, exchange
from service.fake_provider.grants import Grant
from service.fake_provider.mishaps import JSON, kind_of, spoilt
from service.fake_provider.openid import as_oauth_error
from service.fake_provider.reading import NotSignedIn, Refused

AVATAR = re.compile(r"(a_)?[0-9a-f]{32}", re.ASCII)
WAIT = 7


def as_discord_error(request: Request[Any, Any, Any], error: NotSignedIn) -> Response[Any]:
    """The body of its API for tokens that are over, unknown, or lack the scope."""
    return Response({"message": "401: Unauthorized", "code": 0}, status_code=401, media_type=JSON)


class DiscordController(Controller):
    """Everything below `/discord`, at the paths that Discord has below `https://discord.com`."""

    path = "/discord"
    exception_handlers = {Refused: as_oauth_error, NotSignedIn: as_discord_error}  # noqa: RUF012  the framework's way

    @get("/oauth2/authorize")
    async def ask(self, request: Request[Any, Any, Any], backstage: NamedDependency[Backstage]) -> Response[str]:
        """The page."""
        return await show(request, backstage, DISCORD)

    @post("/oauth2/authorize")
    async def decide(self, request: Request[Any, Any, Any], backstage: NamedDependency[Backstage]) -> Response[str]:
        """The choice."""
        return await choose(request, backstage, DISCORD)

    @post("/api/oauth2/token", status_code=200)
    async def token(self, request: Request[Any, Any, Any], backstage: NamedDependency[Backstage]) -> Response[Any]:
        """Tokens for a code or a refresh token; a refresh token is good once."""
        life = backstage.discord_token_life
        done = await exchange(request, backstage, DISCORD, life)
        answer = {
            "token_type": "Bearer",
            "access_token": done.access_token,
            "expires_in": int(life),
            "refresh_token": done.refresh_token,
            "scope": " ".join(done.grant.scopes),
        }
        good = Response(msgspec.json.encode(answer), media_type=JSON)
        return await spoilt(done.mishap, good, backstage)

    @get("/api/v10/users/@me")
    async def user(self, request: Request[Any, Any, Any], backstage: NamedDependency[Backstage]) -> Response[Any]:
        """The person, for the scope `identify`; their address for `email` too."""
        grant = authorized(request, backstage, DISCORD, "profile_unauthorized")
        if "identify" not in grant.scopes:
            raise NotSignedIn
        good = Response(msgspec.json.encode(_user(grant)), media_type=JSON)
        return await spoilt(kind_of(grant.fault, "profile"), good, backstage)

    @get("/api/v10/users/@me/guilds")
    async def guilds(self, request: Request[Any, Any, Any], backstage: NamedDependency[Backstage]) -> Response[Any]:
        """The servers that the person is in, for the scope `guilds`."""
        grant = authorized(request, backstage, DISCORD, "guilds_unauthorized")
        if "guilds" not in grant.scopes:
            raise NotSignedIn
        if grant.fault == "guilds_limited":
            body = {"message": "You are being rate limited.", "retry_after": float(WAIT), "global": False}
            return Response(body, status_code=429, headers={"Retry-After": str(WAIT)}, media_type=JSON)
        good = Response(msgspec.json.encode(_guilds(grant)), media_type=JSON)
        return await spoilt(kind_of(grant.fault, "guilds"), good, backstage)


def _user(grant: Grant) -> Mapping[str, Any]:
    person, is_other = grant.person, grant.fault == "profile_other_subject"
    told: dict[str, Any] = {
        "id": another(grant.subject) if is_other else grant.subject,
        "username": person.username,
        "discriminator": "0",
        "global_name": person.name or None,
        "avatar": _avatar(person.picture),
        "locale": person.locale,
        "mfa_enabled": False,
    }
    if "email" in grant.scopes:
        told |= {"email": person.email or None, "verified": person.email_verified}
    absent = {"id"} if grant.fault == "no_subject" else set()
    return {name: value for name, value in told.items() if name not in absent and (name, value) != ("verified", None)}


def _avatar(picture: str) -> str | None:
    """A hash as Discord's are: the picture itself where it is one, else made of its URL."""
    if not picture or AVATAR.fullmatch(picture):
        return picture or None
    return sha256(picture.encode()).hexdigest()[:32]


def _guilds(grant: Grant) -> list[dict[str, Any]]:
    return [
        {
            "id": guild.id,
            "name": guild.name,
            "icon": guild.icon or None,
            "owner": guild.owner,
            "permissions": guild.permissions,
            "features": [],
        }
        for guild in grant.person.guilds
    ]
