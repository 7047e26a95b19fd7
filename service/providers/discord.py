"""Discord: OAuth without OpenID. Who somebody is stands in their profile, by a number that never changes."""

from dataclasses import dataclass
from typing import Annotated

import msgspec
from httpx_oauth.oauth2 import OAuth2Token

from service.errors import ProviderUnavailable
from service.providers.provider import Endpoints, ForeignPerson, Provider, address, text

PICTURES = "https://cdn.discordapp.com"
MOST_GUILDS = 200
API_VERSION = 10
"""Without one, an old version answers."""


class _Profile(msgspec.Struct, frozen=True):
    id: Annotated[str, msgspec.Meta(pattern=r"^[0-9]{1,20}\Z")]
    username: str
    global_name: str | None = None
    avatar: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-z_]{1,64}\Z")] | None = None
    email: str | None = None
    verified: bool | None = None
    locale: str | None = None


class _Guild(msgspec.Struct, frozen=True):
    id: Annotated[str, msgspec.Meta(pattern=r"^[0-9]{1,20}\Z")]
    name: str
    icon: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-z_]{1,64}\Z")] | None = None
    owner: bool = False
    permissions: Annotated[str, msgspec.Meta(pattern=r"^[0-9]{1,40}\Z")] | int = "0"


@dataclass(frozen=True, slots=True)
class Guild:
    """One of the servers that a person is in; `permissions` is Discord's bit set as a decimal number."""

    id: str
    name: str
    icon_url: str | None
    owner: bool
    permissions: str


class DiscordProvider(Provider):
    """The site in `url`; its API is below it."""

    @property
    def has_use_for_tokens(self) -> bool:
        return "guilds" in self.settings.scopes

    async def endpoints(self) -> Endpoints:
        return Endpoints(f"{self.settings.url}/oauth2/authorize", f"{self.settings.url}/api/oauth2/token")

    async def person(self, token: OAuth2Token, nonce: str | None) -> ForeignPerson:
        try:
            profile = msgspec.convert(
                await self.calls.json(f"{self._api}/users/@me", token=token["access_token"]), _Profile
            )
        except msgspec.ValidationError:
            raise ProviderUnavailable(f"{self.id}: not a profile") from None
        return ForeignPerson(
            self.issuer,
            profile.id,
            username=text(profile.username) or text(profile.global_name),
            email=address(profile.email),
            email_verified=profile.verified is True,
            picture=f"{PICTURES}/avatars/{profile.id}/{profile.avatar}.png" if profile.avatar else "",
            locale=text(profile.locale),
        )

    async def guilds(self, access_token: str) -> list[Guild]:
        """The servers of a person, 200 at most. Raises `TokenRefused`, `ProviderUnavailable`."""
        document = await self.calls.json(f"{self._api}/users/@me/guilds", token=access_token)
        try:
            found = msgspec.convert(document, list[_Guild])
        except msgspec.ValidationError:
            raise ProviderUnavailable(f"{self.id}: not a list of guilds") from None
        return [
            Guild(guild.id, text(guild.name), _icon(guild), guild.owner, str(guild.permissions))
            for guild in found[:MOST_GUILDS]
        ]

    @property
    def _api(self) -> str:
        return f"{self.settings.url}/api/v{API_VERSION}"


def _icon(guild: _Guild) -> str | None:
    return f"{PICTURES}/icons/{guild.id}/{guild.icon}.png" if guild.icon else None
