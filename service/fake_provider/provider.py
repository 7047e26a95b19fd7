"""The fake provider as a whole, for `vestibule dev` and for tests."""

from collections.abc import Mapping

from litestar import Litestar
from litestar.di import Provide
from litestar.enums import ScopeType
from litestar.types import ASGIApp, Receive, Scope, Send

from service.clock import Clock, utc_now
from service.fake_provider.backstage import Backstage
from service.fake_provider.discord import DiscordController
from service.fake_provider.front import FrontController
from service.fake_provider.github import GitHubController
from service.fake_provider.openid import OpenIdController
from service.fake_provider.pages import as_page
from service.fake_provider.reading import Misasked

MAX_BODY = 64 * 1024
KEPT = 1000


class FakeProvider(Backstage):
    """An OpenID provider (issuer `{url}/openid`), Discord (`{url}/discord`) and GitHub (`{url}/github`), as `app`.

    `url` is its origin, `clients` maps ids to secrets. `requests` are the newest 1000 calls, each "METHOD path".
    """

    def __init__(self, url: str, clients: Mapping[str, str], *, clock: Clock = utc_now) -> None:
        super().__init__(url, clients, clock)
        self.requests: list[str] = []
        self.app = self._application()

    def add_key(self) -> None:
        """A new key signs ID tokens from now on; the old ones stay in the key set."""
        self.keys.add()

    def rotate_key(self) -> None:
        """A new key signs ID tokens from now on, and takes the place of the old ones in the key set."""
        self.keys.rotate()

    def _application(self) -> Litestar:
        app = Litestar(
            [FrontController, OpenIdController, DiscordController, GitHubController],
            dependencies={"backstage": Provide(lambda: self, sync_to_thread=False)},
            exception_handlers={Misasked: as_page},
            request_max_body_size=MAX_BODY,
            logging_config=None,
            openapi_config=None,
        )
        app.asgi_handler = self._noting(app.asgi_handler)
        return app

    def _noting(self, inner: ASGIApp) -> ASGIApp:
        """The outermost layer, since the framework's own miss what leads to no handler."""

        async def noting(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == ScopeType.HTTP:
                self.requests.append(f"{scope['method']} {scope['path']}")
                del self.requests[:-KEPT]
            await inner(scope, receive, send)

        return noting
