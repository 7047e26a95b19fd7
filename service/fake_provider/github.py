"""GitHub: errors with status 200, forms where nobody asks for JSON, and addresses at an endpoint of their own."""

from typing import Any
from urllib.parse import quote, urlencode

import msgspec
from litestar import Controller, Request, Response, get, post
from litestar.di import NamedDependency

from service.fake_provider.authorization import choose, show
from service.fake_provider.backstage import GITHUB, Backstage
from service.fake_provider.claims import another, picture_of
from service.fake_provider.exchange import authorized, proved_form, redeemed
from service.fake_provider.grants import Grant
from service.fake_provider.mishaps import JSON, kind_of, spoilt
from service.fake_provider.reading import FORM, NotSignedIn, Refused

NAMES = {"invalid_client": "incorrect_client_credentials", "invalid_grant": "bad_verification_code"}
"""What GitHub calls the errors of RFC 6749."""
READS_ADDRESSES = {"user", "user:email"}


def as_github_error(request: Request[Any, Any, Any], error: Refused) -> Response[Any]:
    """An error of the token endpoint, with status 200."""
    told = {"error": NAMES.get(error.error, error.error), "error_description": error.description}
    return _encoded(request, told)


def as_bad_credentials(request: Request[Any, Any, Any], error: NotSignedIn) -> Response[Any]:
    """The body of its API for tokens that are unknown."""
    return Response({"message": "Bad credentials", "status": "401"}, status_code=401, media_type=JSON)


class GitHubController(Controller):
    """Everything below `/github`, at the paths of a GitHub server."""

    path = "/github"
    exception_handlers = {Refused: as_github_error, NotSignedIn: as_bad_credentials}  # noqa: RUF012  the framework's way

    @get("/login/oauth/authorize")
    async def ask(self, request: Request[Any, Any, Any], backstage: NamedDependency[Backstage]) -> Response[str]:
        """The page."""
        return await show(request, backstage, GITHUB)

    @post("/login/oauth/authorize")
    async def decide(self, request: Request[Any, Any, Any], backstage: NamedDependency[Backstage]) -> Response[str]:
        """The choice."""
        return await choose(request, backstage, GITHUB)

    @post("/login/oauth/access_token", status_code=200)
    async def token(self, request: Request[Any, Any, Any], backstage: NamedDependency[Backstage]) -> Response[Any]:
        """An access token for a code. It lives for ever, and there is no refresh token."""
        form, client_id = await proved_form(request, backstage)
        grant, mishap = redeemed(form, client_id, backstage, GITHUB)
        token = backstage.grants.new_access_token(grant, None)
        answer = {"access_token": token, "token_type": "bearer", "scope": ",".join(grant.scopes)}
        return await spoilt(mishap, _encoded(request, answer), backstage)

    @get("/api/v3/user")
    async def user(self, request: Request[Any, Any, Any], backstage: NamedDependency[Backstage]) -> Response[Any]:
        """The person, without their address, which they did not make public."""
        grant = authorized(request, backstage, GITHUB, "profile_unauthorized")
        good = Response(msgspec.json.encode(_user(grant, backstage.url)), media_type=JSON)
        return await spoilt(kind_of(grant.fault, "profile"), good, backstage)

    @get("/api/v3/user/emails")
    async def emails(self, request: Request[Any, Any, Any], backstage: NamedDependency[Backstage]) -> Response[Any]:
        """The person's addresses; without a scope for them, there is nothing here."""
        grant = authorized(request, backstage, GITHUB, "profile_unauthorized")
        if not READS_ADDRESSES.intersection(grant.scopes):
            return Response({"message": "Not Found", "status": "404"}, status_code=404, media_type=JSON)
        good = Response(msgspec.json.encode(_emails(grant)), media_type=JSON)
        return await spoilt(kind_of(grant.fault, "profile"), good, backstage)


def _encoded(request: Request[Any, Any, Any], answer: dict[str, str]) -> Response[bytes]:
    if "application/json" in request.headers.get("accept", ""):
        return Response(msgspec.json.encode(answer), status_code=200, media_type=JSON)
    return Response(urlencode(answer).encode(), status_code=200, media_type=FORM)


def _user(grant: Grant, url: str) -> dict[str, Any]:
    person, is_other = grant.person, grant.fault == "profile_other_subject"
    told = {
        "id": int(another(grant.subject) if is_other else grant.subject),
        "login": person.username,
        "name": person.name or None,
        "avatar_url": picture_of(person, url) or f"{url}/pictures/{quote(person.username, safe='')}.png",
        "email": None,
    }
    return {name: value for name, value in told.items() if name != "id" or grant.fault != "no_subject"}


def _emails(grant: Grant) -> list[dict[str, Any]]:
    """First a verified address that reaches nobody: a client has to look for the primary one."""
    person = grant.person
    if not person.email:
        return []
    hidden = f"{grant.subject}+{person.username}@users.noreply.github.example"
    primary = {"email": person.email, "primary": True, "verified": person.email_verified, "visibility": "private"}
    return [
        {"email": hidden, "primary": False, "verified": True, "visibility": None},
        {name: value for name, value in primary.items() if value is not None},
    ]
