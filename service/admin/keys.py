"""Signing keys, from the operator's side."""

from datetime import datetime

import msgspec
from litestar import Controller, Response, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody

from service.admin.wire import FOR_OPERATORS, Listed, Reason, reading, writing
from service.audit import Audit
from service.clock import Clock
from service.crypto.keyring import Keyring, State
from service.errors import UnknownKey
from service.problems import NO_STORE
from service.tokens.keys import SigningKeys
from service.tokens.principal import Operator


class KeyShown(msgspec.Struct, frozen=True):
    """A signing key, without its private half. `activates_at` is when it began to sign, or will."""

    kid: str
    state: State
    created_at: datetime
    activates_at: datetime | None


class KeysController(Controller):
    """Which keys sign, will sign, and are still believed."""

    path = "/admin/keys"
    tags = ("Administration",)
    opt = FOR_OPERATORS

    @get("", operation_id="keys", summary="Every signing key", responses=reading())
    async def every(
        self, signing_keys: NamedDependency[SigningKeys], clock: NamedDependency[Clock]
    ) -> Response[Listed[KeyShown]]:
        """All that are not gone, in the order in which they sign."""
        await signing_keys.reload()
        return Response(_shown(signing_keys.keyring, clock()), headers=NO_STORE)

    @post(
        "/rotate", status_code=200, operation_id="rotateKeys", summary="Let the next key take over", responses=writing()
    )
    async def rotate(
        self,
        data: JSONBody[Reason],
        operator: NamedDependency[Operator],
        signing_keys: NamedDependency[SigningKeys],
        audit: NamedDependency[Audit],
        clock: NamedDependency[Clock],
    ) -> Response[Listed[KeyShown]]:
        """Schedules the next key: it signs once every cache of the JWKS has seen it. Nobody notices."""
        scheduled, _ = await signing_keys.rotate()
        audit.record("keys.rotate", by=operator.name, why=data.reason, kid=scheduled.kid)
        return Response(_shown(signing_keys.keyring, clock()), headers=NO_STORE)

    @post(
        "/{kid:str}/revoke",
        status_code=200,
        operation_id="revokeKey",
        summary="End all trust in a key",
        responses=writing(UnknownKey),
    )
    async def revoke(
        self,
        *,
        kid: FromPath[str],
        data: JSONBody[Reason],
        operator: NamedDependency[Operator],
        signing_keys: NamedDependency[SigningKeys],
        audit: NamedDependency[Audit],
        clock: NamedDependency[Clock],
    ) -> Response[Listed[KeyShown]]:
        """For a key that got out: every token it signed is inactive at once, and people refresh theirs."""
        await signing_keys.revoke(kid)
        audit.record("keys.revoke", by=operator.name, why=data.reason, kid=kid)
        return Response(_shown(signing_keys.keyring, clock()), headers=NO_STORE)


def _shown(keyring: Keyring, now: datetime) -> Listed[KeyShown]:
    return Listed(
        [KeyShown(key.kid, keyring.state(key, now), key.created_at, key.activates_at) for key in keyring.keys]
    )
