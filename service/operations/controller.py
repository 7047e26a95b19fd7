"""Probes: from memory, whatever state the dependencies are in."""

import msgspec
from litestar import Controller, HttpMethod, Response, route
from litestar.di import NamedDependency
from litestar.openapi.datastructures import ResponseSpec

from service.operations.health import Health, State
from service.tokens.principal import PUBLIC

PROBE = [HttpMethod.GET, HttpMethod.HEAD]
NO_STORE = {"Cache-Control": "no-store"}


class Report(msgspec.Struct, frozen=True):
    """`status` and a line for each thing looked at."""

    status: str
    checks: dict[str, State]


UNWELL = {503: ResponseSpec(Report, description="Not now; `checks` says why.", generate_examples=False)}


class ProbeController(Controller):
    """For Kubernetes, load balancers and monitors."""

    tags = ("Operations",)
    opt = {PUBLIC: True}  # noqa: RUF012  the framework's way of writing it
    security = [{}]  # noqa: RUF012

    @route("/livez", http_method=PROBE)
    async def livez(self) -> Response[Report]:
        """200 while the process serves."""
        return Response(Report("ok", {}), headers=NO_STORE)

    @route("/readyz", http_method=PROBE, responses=UNWELL)
    async def readyz(self, health: NamedDependency[Health]) -> Response[Report]:
        """200 while this instance can take work; 503 when it drains, or has no current schema or no signing key."""
        if health.draining:
            return _report("draining", health.states, well=False)
        return _report("ready" if health.is_ready else "not ready", health.states, well=health.is_ready)

    @route("/startupz", http_method=PROBE, responses=UNWELL)
    async def startupz(self, health: NamedDependency[Health]) -> Response[Report]:
        """200 once migrations are current and a signing key is loaded."""
        checks: dict[str, State] = {
            "migrations": "ok" if health.schema_is_current else "failing",
            "signing_keys": "ok" if health.has_signing_key else "failing",
        }
        return _report("started" if health.is_started else "starting", checks, well=health.is_started)

    @route("/healthz", http_method=PROBE, responses=UNWELL)
    async def healthz(self, health: NamedDependency[Health]) -> Response[Report]:
        """The deep check for people and monitors: 503 when one dependency is not well."""
        well = bool(health.states) and health.is_well
        return _report("ok" if well else "failing", health.states, well=well)


def _report(status: str, checks: dict[str, State], *, well: bool) -> Response[Report]:
    headers = NO_STORE if well else {**NO_STORE, "Retry-After": "3"}
    return Response(Report(status, checks), status_code=200 if well else 503, headers=headers)
