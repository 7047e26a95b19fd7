"""A person's sessions over HTTP."""

from uuid import UUID

from litestar import Controller, Response, delete, get
from litestar.di import NamedDependency
from litestar.params import FromPath

from service.errors import (
    CrossSiteRefused,
    NotFound,
    StaleAuthentication,
)
from service.problems import NO_STORE, refusals
from service.tokens.overview import Overview, SeenSession
from service.tokens.principal import BEARER, Principal


class SessionsController(Controller):
    """Where a person is signed in."""

    path = "/me/sessions"
    tags = ("Account",)

    @get("", operation_id="sessions", summary="Where you are signed in", responses=refusals(*BEARER, body=False))
    async def read(
        self, principal: NamedDependency[Principal], overview: NamedDependency[Overview]
    ) -> Response[list[SeenSession]]:
        """Your sessions, the one used last first."""
        return Response(await overview.of(principal), headers=NO_STORE)

    @delete(
        "",
        status_code=204,
        operation_id="endOtherSessions",
        summary="Sign out everywhere else",
        responses=refusals(*BEARER, CrossSiteRefused, StaleAuthentication, body=False),
    )
    async def end_others(
        self, principal: NamedDependency[Principal], overview: NamedDependency[Overview]
    ) -> Response[None]:
        """Ends every session but this one. Needs a password given within the last minutes."""
        await overview.end_others(principal)
        return Response(None, status_code=204, headers=NO_STORE)

    @delete(
        "/{session_id:uuid}",
        status_code=204,
        operation_id="endSession",
        summary="End one of your sessions",
        responses=refusals(*BEARER, CrossSiteRefused, StaleAuthentication, NotFound, body=False),
    )
    async def end(
        self,
        session_id: FromPath[UUID],
        principal: NamedDependency[Principal],
        overview: NamedDependency[Overview],
    ) -> Response[None]:
        """Ends one session at once. Any but this one needs a password given within the last minutes."""
        await overview.end(principal, session_id)
        return Response(None, status_code=204, headers=NO_STORE)
