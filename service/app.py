"""The application: controllers, dependencies, the shape of errors, the lifespan."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import litestar._kwargs.extractors
import litestar._parsers
import litestar.connection.base
import litestar.connection.request
import litestar.data_extractors
import litestar.datastructures.url
import structlog
from litestar import HttpMethod, Litestar, Request, Response, Router
from litestar.config.app import AppConfig
from litestar.di import Provide
from litestar.exceptions import HTTPException
from litestar.openapi.config import OpenAPIConfig
from litestar.openapi.spec import Components, SecurityScheme
from litestar.routes import HTTPRoute

from service import __version__
from service.accounts.avatar_controller import AvatarController
from service.accounts.controller import RecoveryController, SignUpController
from service.accounts.me_controller import MeController
from service.accounts.users_controller import UsersController
from service.admin.accounts import AccountsController
from service.admin.audit import AuditController
from service.admin.clients import ApisController, ClientsController
from service.admin.keys import KeysController
from service.admin.sessions import SessionsOfManyController
from service.edge import Edge, StrictRequest, provide_device
from service.errors import ServiceError
from service.login.controller import LoginController, ReauthenticationController
from service.login.identities_controller import IdentitiesController
from service.login.social_controller import SocialController
from service.oauth.discovery import DiscoveryController
from service.oauth.errors import as_oauth_error, as_oauth_http_error
from service.oauth.introspect import IntrospectionController
from service.oauth.revoke import RevocationController
from service.oauth.token import TokenController
from service.operations.controller import ProbeController
from service.operations.docs import DocsController, DocsRouter
from service.operations.mailbox import MailboxController
from service.problems import Crashed, as_http_problem, as_problem
from service.shortcut import IntrospectionShortcut, RefreshShortcut
from service.tokens.principal import provide_operator, provide_principal
from service.tokens.sessions_controller import SessionsController
from service.tokens.transport import COOKIE
from service.web.controller import ConfirmController
from service.web.social import CallbackController, DoneController
from service.wiring import Services

log = structlog.get_logger("vestibule.app")

MAX_BODY = 64 * 1024
INJECTED = (
    "settings",
    "clock",
    "signing_keys",
    "sessions",
    "registrations",
    "recovery",
    "profile",
    "credentials",
    "overview",
    "avatars",
    "exports",
    "closing",
    "login",
    "providers",
    "federation",
    "social",
    "guilds",
    "client_authentication",
    "token_endpoint",
    "introspections",
    "revocation",
    "limits",
    "audit",
    "administration",
    "directory",
    "mass_sign_out",
    "client_administration",
    "audit_trail",
    "health",
    "mailbox",
)


class Application(Litestar):
    """Litestar, with a shortcut before it."""

    shortcut: IntrospectionShortcut

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """One connection, or the lifespan."""
        await self.shortcut(scope, receive, send)

    async def whole(self, scope: Any, receive: Any, send: Any) -> None:
        """The same without the shortcut."""
        await super().__call__(scope, receive, send)


def create_app(services: Services, *, dev: bool = False) -> Application:
    """The whole application over wired services; `dev` adds the mailbox page."""
    forget_bodies_and_cookies()
    oauth = Router(
        "/",
        route_handlers=[IntrospectionController, TokenController, RevocationController],
        exception_handlers={
            ServiceError: as_oauth_error,
            HTTPException: as_oauth_http_error,
            Exception: as_oauth_crash,
        },
    )
    controllers = [
        SignUpController,
        LoginController,
        ReauthenticationController,
        SocialController,
        CallbackController,
        IdentitiesController,
        RecoveryController,
        MeController,
        SessionsController,
        AvatarController,
        UsersController,
        AccountsController,
        SessionsOfManyController,
        ClientsController,
        ApisController,
        KeysController,
        AuditController,
        DiscoveryController,
        ProbeController,
        ConfirmController,
        DoneController,
    ]
    app = Application.from_config(
        AppConfig(
            route_handlers=[*controllers, oauth, *([MailboxController] if dev else [])],
            guards=[services.bearer.guard],
            dependencies=_dependencies(services),
            exception_handlers={
                ServiceError: as_problem,
                HTTPException: as_http_problem,
                Exception: as_crash,
            },
            request_class=StrictRequest,
            request_max_body_size=MAX_BODY,
            openapi_config=_openapi(services),
            lifespan=[_lifespan(services)],
            logging_config=None,
        )
    )
    tell_true_methods(app)
    resolve_in_turn(app)
    refreshing = RefreshShortcut(app.asgi_handler, services.login)
    app.asgi_handler = Edge(refreshing, services.settings, services.clients.origins)
    app.shortcut = IntrospectionShortcut(app.whole, services.introspections, services.proved_callers)
    return app


def as_crash(request: Request[Any, Any, Any], error: Exception) -> Response[Any]:
    """The last resort: the log gets everything, the client a sentence (ASVS 16.5.1)."""
    log.error("a request crashed", exc_info=error)
    return as_problem(request, Crashed(type(error).__name__))


def as_oauth_crash(request: Request[Any, Any, Any], error: Exception) -> Response[Any]:
    """The same in the shape of the OAuth endpoints."""
    log.error("a request crashed", exc_info=error)
    return as_oauth_error(request, Crashed(type(error).__name__))


def forget_bodies_and_cookies() -> None:
    """Takes away Litestar's process-wide `lru_cache` of bodies, queries and Cookie headers (still there in 2.25).

    It would keep client secrets and refresh tokens in memory for as long as the process lives.
    """
    parse_cookies = _uncached(litestar._parsers.parse_cookie_string)
    parse_form = _uncached(litestar._parsers.parse_url_encoded_form_data)
    parse_query = _uncached(litestar._parsers.parse_query_string)
    for module in (litestar._parsers, litestar.data_extractors, litestar.connection.base):
        module.parse_cookie_string = parse_cookies  # type: ignore[attr-defined]
    for module in (litestar._parsers, litestar._kwargs.extractors, litestar.connection.request):
        module.parse_url_encoded_form_data = parse_form  # type: ignore[attr-defined]
    for module in (litestar._parsers, litestar.connection.base, litestar.datastructures.url):
        module.parse_query_string = parse_query  # type: ignore[attr-defined]


def tell_true_methods(app: Litestar) -> None:
    """Lets `OPTIONS` name every method of a path.

    Litestar (still in 2.25) keeps the handler that it made for the first route of a path, which knows only that one.
    """
    for route in app.routes:
        if isinstance(route, HTTPRoute):
            for handler in route.route_handlers:
                if handler.http_methods == {HttpMethod.OPTIONS} and handler.fn.__closure__:
                    handler.fn.__closure__[0].cell_contents = route


def resolve_in_turn(app: Litestar) -> None:
    """Lets a route's dependencies be resolved one after the other.

    Litestar (still in 2.25) starts a task for each, as if they waited for something; ours are at hand, and the tasks
    cost more than many a route.
    """
    for route in app.routes:
        if isinstance(route, HTTPRoute):
            for _, kwargs in route.route_handler_map.values():
                kwargs.dependency_batches = [{one} for batch in kwargs.dependency_batches for one in batch]


def _uncached(function: Callable[..., Any]) -> Callable[..., Any]:
    plain: Callable[..., Any] = getattr(function, "__wrapped__", function)
    return plain


def _dependencies(services: Services) -> dict[str, Provide | Callable[..., Any]]:
    provided = {name: _provide(getattr(services, name)) for name in INJECTED}
    return {
        **provided,
        "device": Provide(provide_device),
        "principal": Provide(provide_principal),
        "operator": Provide(provide_operator),
    }


def _provide(service: object) -> Provide:
    return Provide(lambda: service, sync_to_thread=False)


def _lifespan(services: Services) -> Callable[[Litestar], Any]:
    @asynccontextmanager
    async def lifespan(app: Litestar) -> AsyncIterator[None]:
        async with services.running():
            yield

    return lifespan


def _openapi(services: Services) -> OpenAPIConfig:
    return OpenAPIConfig(
        title="Vestibule",
        version=__version__,
        description="Signs people up and in, hands out revocable tokens, and answers for them to other services.",
        use_handler_docstrings=True,
        openapi_router=DocsRouter("/", route_handlers=[DocsController]),
        security=[{"bearer": []}],
        components=Components(
            security_schemes={
                "bearer": SecurityScheme(type="http", scheme="bearer", bearer_format="JWT"),
                "client": SecurityScheme(
                    type="http",
                    scheme="basic",
                    description="A client's id and secret (RFC 6749 2.3.1). Clients that are registered for it send "
                    "`client_id` and `client_secret` in the form, or a `client_assertion` (RFC 7523); public ones "
                    "`client_id` alone.",
                ),
                "refresh_cookie": SecurityScheme(type="apiKey", name=COOKIE, security_scheme_in="cookie"),
            }
        ),
    )
