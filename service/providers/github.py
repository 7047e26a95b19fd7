"""GitHub: OAuth without OpenID. The login can be renamed and taken over, the number cannot."""

from typing import Annotated

import msgspec
from httpx_oauth.oauth2 import OAuth2Token

from service.errors import ProviderUnavailable
from service.providers.calls import NotGiven
from service.providers.provider import Endpoints, ForeignPerson, Provider, address, picture, text


class _Profile(msgspec.Struct, frozen=True):
    id: Annotated[int, msgspec.Meta(gt=0, le=2**63 - 1)]
    login: str
    avatar_url: str | None = None


class _Address(msgspec.Struct, frozen=True):
    email: str
    primary: bool
    verified: bool


class GitHubProvider(Provider):
    """github.com, or a GitHub Enterprise Server."""

    async def endpoints(self) -> Endpoints:
        return Endpoints(f"{self.issuer}/authorize", f"{self.issuer}/access_token")

    async def person(self, token: OAuth2Token, nonce: str | None) -> ForeignPerson:
        """Their address is the primary one of the list: what stands in the profile is what they like to show."""
        api, access_token = self.settings.api_url, token["access_token"]
        try:
            profile = msgspec.convert(await self.calls.json(f"{api}/user", token=access_token), _Profile)
            addresses = msgspec.convert(await self._addresses(access_token), list[_Address])
        except msgspec.ValidationError:
            raise ProviderUnavailable(f"{self.id}: not a profile") from None
        primary = next((address for address in addresses if address.primary), None)
        return ForeignPerson(
            self.issuer,
            str(profile.id),
            username=text(profile.login),
            email=address(primary.email) if primary else "",
            email_verified=primary.verified if primary else False,
            picture=picture(profile.avatar_url),
        )

    async def _addresses(self, access_token: str) -> object:
        """The list of addresses; empty for an app that was not given the permission for it."""
        try:
            return await self.calls.json(f"{self.settings.api_url}/user/emails?per_page=100", token=access_token)
        except NotGiven:
            return []
