"""GitHub: OAuth without OpenID. The login can be renamed and taken over, the number cannot."""

from typing import Annotated

import msgspec
from httpx_oauth.oauth2 import OAuth2Token

from service.errors import ProviderUnavailable
from service.providers.provider import Endpoints, ForeignPerson, Provider, text


class _Profile(msgspec.Struct, frozen=True):
    id: Annotated[int, msgspec.Meta(gt=0)]
    login: str
    avatar_url: str | None = None


class _Address(msgspec.Struct, frozen=True):
    email: str
    primary: bool
    verified: bool


class GitHubProvider(Provider):
    """github.com, or a GitHub Enterprise Server."""

    @property
    def issuer(self) -> str:
        """What GitHub writes into `iss` of its callbacks."""
        return f"{self.settings.url}/login/oauth"

    async def endpoints(self) -> Endpoints:
        return Endpoints(f"{self.issuer}/authorize", f"{self.issuer}/access_token")

    async def person(self, token: OAuth2Token, nonce: str | None) -> ForeignPerson:
        """Their address is the primary one of the list: what stands in the profile is what they like to show."""
        access_token = token["access_token"]
        try:
            profile = msgspec.convert(
                await self.calls.json(f"{self.settings.api_url}/user", token=access_token), _Profile
            )
            addresses = msgspec.convert(
                await self.calls.json(f"{self.settings.api_url}/user/emails", token=access_token), list[_Address]
            )
        except msgspec.ValidationError:
            raise ProviderUnavailable(f"{self.id}: not a profile") from None
        primary = next((address for address in addresses if address.primary), None)
        return ForeignPerson(
            self.issuer,
            str(profile.id),
            username=text(profile.login),
            email=text(primary.email) if primary else "",
            email_verified=primary.verified if primary else False,
            picture=text(profile.avatar_url),
        )
