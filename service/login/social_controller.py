"""Foreign providers over HTTP: which there are, the way to them, and native apps' way back."""

from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import msgspec
from litestar import Controller, MediaType, Request, Response, get, post
from litestar.datastructures import Cookie
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody, QueryParameter

from service.device import Device
from service.errors import (
    AccountDisabled,
    AccountLinkRequired,
    CrossSiteRefused,
    InvalidInput,
    InvalidOrExpiredCode,
    MalformedRequest,
    NotFound,
    PasswordChangeRequired,
    ProviderAnswerInvalid,
    ProviderEmailMissing,
    ProviderEmailUnverified,
    ProviderUnavailable,
    UnknownClient,
)
from service.login.social import Begun, Browser, NativeCode, SocialLogin
from service.problems import NO_STORE, refusals
from service.providers.directory import Providers
from service.setting_values import LOOPBACK, parts_of
from service.settings import Settings
from service.tokens.clients import DEFAULT_FRONT_END
from service.tokens.principal import PUBLIC
from service.tokens.sessions import Sessions
from service.tokens.transport import (
    COOKIE,
    ClientId,
    TokenAnswer,
    Transport,
    ensure_same_site,
    leave_old_session,
    marked,
    token_answer,
)

BROWSER_COOKIE = "__Host-vestibule-social"

Wanted = Annotated[
    str | None,
    QueryParameter(name="next", description="Where to go afterwards: a path of ours, or a URL of an allowed origin."),
]


class OfferedProvider(msgspec.Struct, frozen=True):
    """One way in; `authorize_url` is ours, add `next` to it."""

    provider: str
    name: str
    authorize_url: str


class PresentedCode(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a native app was given at its redirect URI, and what it began with."""

    code: Annotated[str, msgspec.Meta(min_length=1, max_length=4096)]
    code_verifier: Annotated[str, msgspec.Meta(max_length=128, description="Of the S256 challenge it began with.")]
    redirect_uri: Annotated[str, msgspec.Meta(max_length=2048, description="As its client is registered with it.")]
    nonce: Annotated[str, msgspec.Meta(max_length=256, description="Where the request had one.")] | None = None
    client_id: ClientId = DEFAULT_FRONT_END
    transport: Transport = "body"


class SocialController(Controller):
    """The way to a provider, and native apps' way back."""

    path = "/auth/social"
    tags = ("Sign-in through providers",)
    opt = {PUBLIC: True}  # noqa: RUF012  the framework's way of writing it
    security = [{}]  # noqa: RUF012

    @get("", operation_id="providers", summary="Ways to sign in", responses=refusals(body=False))
    async def offered(
        self, providers: NamedDependency[Providers], settings: NamedDependency[Settings]
    ) -> Response[list[OfferedProvider]]:
        """The providers that are configured and can be used."""
        base = f"{settings.issuer}/auth/social"
        found = [OfferedProvider(one.id, one.settings.name, f"{base}/{one.id}") for one in providers]
        return Response(found, headers=NO_STORE)

    @get(
        "/{provider:str}",
        status_code=303,
        media_type=MediaType.TEXT,
        operation_id="beginSocialLogin",
        summary="Sign in through a provider",
        responses=refusals(NotFound, InvalidInput, MalformedRequest, CrossSiteRefused, UnknownClient, body=False),
    )
    async def begin(
        self,
        request: Request[Any, Any, Any],
        *,
        provider: FromPath[str],
        social: NamedDependency[SocialLogin],
        device: NamedDependency[Device],
        wanted: Wanted = None,
        client_id: Annotated[str, QueryParameter(max_length=64)] = DEFAULT_FRONT_END,
        prompt: Annotated[
            Literal["login"] | None,
            QueryParameter(description="`login`: the provider shall ask for a credential anew, where it can."),
        ] = None,
    ) -> Response[bytes]:
        """Sends the browser to the provider. It comes back signed in, or with `error` in the query of `next`."""
        ensure_once(request)
        ensure_navigation(request)
        issued = _at_issuer(request, social.providers.get(provider).id, social.settings)
        if issued is not None:
            return Response(b"", status_code=303, headers={**NO_STORE, "Location": issued})
        browser = Browser(request.cookies.get(BROWSER_COOKIE, ""), request.cookies.get(COOKIE, ""))
        begun = await social.begin(provider, wanted, client_id, device, browser, login_again=prompt is not None)
        headers = {**NO_STORE, "Location": begun.authorize_url}
        return Response(
            b"",
            status_code=303,
            media_type=MediaType.TEXT,
            headers=headers,
            cookies=[browser_cookie(begun, social.settings)],
        )

    @post(
        "/{provider:str}/exchange",
        status_code=200,
        operation_id="exchangeSocialCode",
        summary="Sign in to a native app through a provider",
        responses=refusals(
            NotFound,
            InvalidOrExpiredCode,
            UnknownClient,
            AccountDisabled,
            AccountLinkRequired,
            PasswordChangeRequired,
            ProviderEmailMissing,
            ProviderEmailUnverified,
            ProviderUnavailable,
            ProviderAnswerInvalid,
        ),
    )
    async def exchange(
        self,
        request: Request[Any, Any, Any],
        *,
        provider: FromPath[str],
        data: JSONBody[PresentedCode],
        social: NamedDependency[SocialLogin],
        sessions: NamedDependency[Sessions],
        settings: NamedDependency[Settings],
        device: NamedDependency[Device],
    ) -> Response[TokenAnswer]:
        """Signs in with the code that a provider gave an app at its loopback or custom-scheme URI (RFC 8252)."""
        if data.transport == "cookie":
            ensure_same_site(request, settings)
            device = marked(device)
        native = NativeCode(
            code=data.code,
            verifier=data.code_verifier,
            redirect_uri=data.redirect_uri,
            client_id=data.client_id,
            nonce=data.nonce,
        )
        grant = await social.exchange(provider, native, device)
        if data.transport == "cookie":
            await leave_old_session(request, sessions)
        return token_answer(grant, data.transport)


def ensure_once(request: Request[Any, Any, Any]) -> None:
    """Raises `MalformedRequest` for a query that gives something twice: whoever checks the one must not follow the
    other."""
    names = [name for name, _ in request.query_params.multi_items()]
    if len(names) != len(set(names)):
        raise MalformedRequest("a parameter is repeated")


def ensure_navigation(request: Request[Any, Any, Any]) -> None:
    """Raises `CrossSiteRefused` for what does not open a page, where the browser says so: pictures and frames of a
    foreign page must not use up what a network may begin."""
    opens_page = {"sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
    if any(request.headers.get(name, usual) != usual for name, usual in opens_page.items()):
        raise CrossSiteRefused("not a navigation")


def _at_issuer(request: Request[Any, Any, Any], provider: str, settings: Settings) -> str | None:
    """The same URL at the issuer, for developers who typed `localhost` instead of `127.0.0.1` or the other way round:
    the cookie would stay at the one, and the provider leads to the other."""
    issuer = urlsplit(settings.issuer)
    here = parts_of(f"http://{request.headers.get('host', '')}") if issuer.hostname in LOOPBACK else None
    if here is None or here.hostname not in LOOPBACK or here.hostname == issuer.hostname or here.port != issuer.port:
        return None
    query = request.scope["query_string"].decode("latin-1")
    return f"{settings.issuer}/auth/social/{provider}{'?' if query else ''}{query}"


def browser_cookie(begun: Begun, settings: Settings) -> Cookie:
    """What ties a browser to its transactions. Providers may post their answer, and browsers send no other than
    `SameSite=None` cookies along with that; this one opens nothing by itself."""
    return Cookie(
        key=BROWSER_COOKIE,
        value=begun.browser,
        max_age=int(settings.provider_transaction_life.total_seconds()),
        path="/",
        secure=True,
        httponly=True,
        samesite="none",
    )
