"""The audit trail, from the operator's side."""

from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
from litestar import Controller, Response, get
from litestar.di import NamedDependency
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import FromQuery
from litestar.response import Stream

from service.admin.wire import (
    DEFAULT_LIMIT,
    FOR_OPERATORS,
    NDJSON,
    Limit,
    Listed,
    Moment,
    Text,
    begun,
    listed,
    moment,
    reading,
)
from service.audit import Audit, AuditEvent
from service.audit_search import AuditTrail, WantedEvents
from service.errors import InvalidInput
from service.problems import NO_STORE
from service.tokens.principal import Operator


class EventShown(msgspec.Struct, frozen=True):
    """One decision: when, what, about whom, for whom, from where."""

    id: UUID
    at: datetime
    event: str
    outcome: str
    account_id: UUID | None
    client_id: str | None
    session_id: str | None
    address: str | None
    user_agent: str | None
    request_id: str | None
    detail: dict[str, Any]

    @classmethod
    def of(cls, row: AuditEvent) -> "EventShown":
        """What is shown of a row."""
        return cls(**{name: getattr(row, name) for name in cls.__struct_fields__})


class AuditController(Controller):
    """What was decided."""

    path = "/admin/audit-events"
    tags = ("Administration",)
    opt = FOR_OPERATORS

    @get("", operation_id="auditEvents", summary="Find audit events", responses=reading(InvalidInput))
    async def search(
        self,
        *,
        audit_trail: NamedDependency[AuditTrail],
        event: Text = None,
        outcome: Text = None,
        account_id: FromQuery[UUID | None] = None,
        client_id: Text = None,
        since: Moment = None,
        until: Moment = None,
        limit: Limit = DEFAULT_LIMIT,
        cursor: Text = None,
    ) -> Response[Listed[EventShown]]:
        """One page, the newest first. `event` is a name, or with a dot at its end a family: `session.`"""
        wanted = WantedEvents(
            event=event,
            outcome=outcome,
            account=account_id,
            client=client_id,
            since=moment("since", since),
            until=moment("until", until),
        )
        return Response(listed(await audit_trail.search(wanted, limit, cursor), EventShown.of), headers=NO_STORE)

    @get(
        "/export",
        operation_id="exportAuditEvents",
        summary="Take audit events away",
        responses={
            200: ResponseSpec(bytes, media_type=NDJSON, description="One event a line.", generate_examples=False),
            **reading(InvalidInput),
        },
    )
    async def export(
        self,
        *,
        audit_trail: NamedDependency[AuditTrail],
        audit: NamedDependency[Audit],
        operator: NamedDependency[Operator],
        event: Text = None,
        outcome: Text = None,
        account_id: FromQuery[UUID | None] = None,
        client_id: Text = None,
        since: Moment = None,
        until: Moment = None,
    ) -> Stream:
        """Every event that fits, as newline-delimited JSON, the newest first."""
        wanted = WantedEvents(
            event=event,
            outcome=outcome,
            account=account_id,
            client=client_id,
            since=moment("since", since),
            until=moment("until", until),
        )
        lines = await begun(_lines(audit_trail, wanted))
        audit.record("audit.export", account=operator.account, by=operator.name)
        return Stream(lines, media_type=NDJSON, headers=NO_STORE)


async def _lines(audit_trail: AuditTrail, wanted: WantedEvents) -> AsyncIterator[bytes]:
    async for row in audit_trail.stream(wanted):
        yield msgspec.json.encode(EventShown.of(row)) + b"\n"
