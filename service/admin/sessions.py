"""Many sessions at once, from the operator's side."""

from collections.abc import AsyncIterator
from datetime import datetime
from typing import Annotated

import msgspec
from litestar import Controller, post
from litestar.di import NamedDependency
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import JSONBody
from litestar.response import Stream

from service.accounts.mass_sign_out import MassSignOut, Progress, WhoseSessions
from service.admin.wire import FOR_OPERATORS, NDJSON, Reason, begun, ensure_offset, writing
from service.errors import FieldError, InvalidInput, Unavailable
from service.problems import NO_STORE
from service.tokens.principal import Operator

Name = Annotated[str, msgspec.Meta(max_length=63, pattern=r"^[a-z0-9:_-]*$")]


class Unwanted(Reason, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which sessions end: all that fit what is given, or with `everybody` every one."""

    role: Name | None = None
    client_id: Name | None = None
    opened_before: datetime | None = None
    everybody: bool = False


class Step(msgspec.Struct, frozen=True):
    """One line of the answer; the last has `done`, true when nothing is left to do."""

    looked_at: int
    total: int
    ended: int
    done: bool | None = None


class SessionsOfManyController(Controller):
    """For the day on which something has gone wrong."""

    path = "/admin/sessions"
    tags = ("Administration",)
    opt = FOR_OPERATORS

    @post(
        "/end",
        status_code=200,
        operation_id="endSessions",
        summary="End many sessions",
        responses={
            200: ResponseSpec(Step, media_type=NDJSON, description="One line a step.", generate_examples=False),
            **writing(),
        },
    )
    async def end(
        self,
        data: JSONBody[Unwanted],
        operator: NamedDependency[Operator],
        mass_sign_out: NamedDependency[MassSignOut],
    ) -> Stream:
        """Ends every session that fits, and tells line by line how far it is. Calling it again does what was left."""
        is_filtered = data.role is not None or data.client_id is not None or data.opened_before is not None
        if is_filtered == data.everybody:
            detail = "Give `role`, `client_id` or `opened_before`, or else `everybody`."
            raise InvalidInput(fields=[FieldError("everybody", "whose_sessions", detail)])
        ensure_offset("opened_before", data.opened_before)
        wanted = WhoseSessions(role=data.role, client=data.client_id, opened_before=data.opened_before)
        steps = mass_sign_out.run(wanted, by=operator.name, why=data.reason)
        return Stream(_lines(await begun(steps)), status_code=200, media_type=NDJSON, headers=NO_STORE)


async def _lines(steps: AsyncIterator[Progress]) -> AsyncIterator[bytes]:
    last, done = Progress(0, 0, 0), True
    try:
        async for last in steps:
            yield _line(last, None)
    except Unavailable:
        done = False
    yield _line(last, done)


def _line(step: Progress, done: bool | None) -> bytes:
    return msgspec.json.encode(Step(step.looked_at, step.total, step.ended, done)) + b"\n"
