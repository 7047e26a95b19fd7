"""Sessions: opened, rotated, inspected and closed, each by one atomic script on the account's hash in Redis."""

import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NoReturn
from uuid import UUID

import structlog

from service.audit import Audit
from service.crypto.opaque import from_base64url
from service.crypto.signer import Claims
from service.errors import InvalidToken, SessionExpired, SessionReused, Unavailable
from service.settings import Settings
from service.store.redis import RedisStore
from service.tokens.access import AccessTokens, Holder, generation_of
from service.tokens.clients import Clients
from service.tokens.journal import EndReason, Journal
from service.tokens.refresh import RefreshToken, RefreshTokens, public_id, secret_id_of
from service.tokens.session_facts import Ended, Grant, LiveSession, Opened, Renewed

log = structlog.get_logger("vestibule.sessions")

ID_BYTES = 16
SALT_BYTES = 16
RECORD_HEAD = 42
TOMBSTONE = 86_400_000
DAY = 86_400_000
USE_NOTED_EVERY = 60_000
"""Milliseconds: `last seen` is good to a minute, and a busy session costs no write at each request."""
FIRST_PARTY_SCOPE = "account"
REFUSED = {"unknown", "foreign", "revoked", "expired", "reused"}


@dataclass(frozen=True, slots=True)
class Sessions:
    """The working state of every session. A store that is away raises `Unavailable`, never a refusal."""

    store: RedisStore
    refresh_tokens: RefreshTokens
    access_tokens: AccessTokens
    clients: Clients
    journal: Journal
    audit: Audit
    settings: Settings

    async def open(self, account: UUID, client: str, amr: tuple[str, ...], roles: tuple[str, ...]) -> Opened:
        """Begins a session and issues its first tokens. Its tokens are good from now on, in every worker."""
        salt = secrets.token_bytes(SALT_BYTES)
        secret_id = secret_id_of(salt)
        detail = f"{FIRST_PARTY_SCOPE}\n{' '.join(amr)}"
        sid, created, absolute, *evicted = await self.store.run(
            "open",
            _key(account),
            public_id(secret_id),
            _milliseconds(self.settings.session_idle),
            _milliseconds(self.settings.session_absolute),
            self.settings.sessions_per_account,
            TOMBSTONE,
            salt,
            client,
            detail,
            " ".join(roles),
        )
        holder = Holder(
            account,
            _same(sid, public_id(secret_id)),
            0,
            client,
            FIRST_PARTY_SCOPE,
            amr,
            roles,
            _moment(created),
        )
        refresh_token = self.refresh_tokens.make(account, secret_id, 0, salt)
        grant = self._grant(holder, refresh_token, int(absolute) - int(created))
        return Opened(grant, holder.session, salt, _moment(created), _moment(absolute), tuple(evicted))

    async def rotate(self, presented: str, client: str) -> Grant:
        """Exchanges a refresh token for its successor; a retry gets the same successor again.

        Raises `SessionExpired` for a token that is not ours, or whose session is unknown, ended or over, and
        `SessionReused` when this very token ended its family.
        """
        token, salt = await self._proved(presented)
        if token is None:
            raise SessionExpired("not a refresh token of a session we know")
        answer = await self.store.run(
            "rotate",
            _key(token.account),
            token.session,
            token.generation,
            client,
            _milliseconds(self.settings.rotation_grace),
            _milliseconds(self.settings.lost_answer_window),
            _milliseconds(self.settings.session_idle),
        )
        outcome = answer[0].decode()
        _same(answer[1], token.session)
        if outcome in REFUSED:
            await self._refuse(token, client, outcome, ended=answer[2] if len(answer) > 2 else 0)  # noqa: PLR2004
        self._record("session.refresh", outcome, token, client)
        return self._successor(token, salt, client, answer)

    async def is_live(self, claims: Claims) -> tuple[str, ...] | None:
        """The account's roles of this moment when the token's session lives, else None. One round trip."""
        session = from_base64url(claims.sid)
        account = _account(claims.sub)
        if (
            session is None
            or len(session) != ID_BYTES
            or account is None
            or not await self.clients.may_act(claims.client_id)
        ):
            return None
        generation = generation_of(claims)
        answer = await self.store.run("inspect", _key(account), session, generation, USE_NOTED_EVERY)
        _same(answer[1], session)
        return tuple(answer[2].decode().split()) if answer[0] == b"live" else None

    async def close(self, presented: str) -> None:
        """Ends the session of a refresh token of any generation; nothing happens for a token that is not ours.

        Redis decides, so it comes first; done when the journal has it too. Raises `Unavailable` until then.
        """
        token, _ = await self._proved(presented)
        if token is None:
            return
        answer = await self.store.run("close", _key(token.account), token.session, int(Ended.LOGOUT))
        await self.journal.ended(token.session, "logout")
        self._record("session.close", answer[0].decode(), token, client=None)

    async def reason_of_end(self, account: UUID, session: bytes) -> EndReason | None:
        """Why a session that was opened just now has ended again; None while it lives."""
        record = await self.store.field(_key(account), session)
        if record is None:
            return "evicted"
        return Ended(record[RECORD_HEAD - 1]).reason if record[RECORD_HEAD - 1] else None

    async def discard(self, account: UUID, session: bytes) -> None:
        """Ends a session whose tokens nobody was given."""
        await self.store.run("close", _key(account), session, int(Ended.DISABLED))

    async def reauthenticate(self, account: UUID, session: bytes, generation: int, amr: tuple[str, ...]) -> Renewed:
        """Begins a live session anew: a new `auth_time`, both timeouts from now on (NIST SP 800-63B-4 5.2).

        Its next refresh token takes the place of the one before. Raises `InvalidToken` when it has ended meanwhile.
        """
        answer = await self.store.run(
            "reauthenticate",
            _key(account),
            session,
            generation,
            _milliseconds(self.settings.rotation_grace),
            _milliseconds(self.settings.lost_answer_window),
            _milliseconds(self.settings.session_idle),
            _milliseconds(self.settings.session_absolute),
            f"{FIRST_PARTY_SCOPE}\n{' '.join(amr)}",
        )
        _same(answer[1], session)
        if answer[0] != b"live":
            raise InvalidToken("the session has ended")
        _, _, generation, authenticated, absolute, salt, client, roles = answer
        holder = Holder(
            account=account,
            session=session,
            generation=int(generation),
            client=client.decode(),
            scope=FIRST_PARTY_SCOPE,
            amr=amr,
            roles=tuple(roles.decode().split()),
            signed_in_at=_moment(authenticated),
        )
        refresh_token = self.refresh_tokens.make(account, secret_id_of(salt), holder.generation, salt)
        return Renewed(self._grant(holder, refresh_token, int(absolute) - int(authenticated)), _moment(absolute))

    async def live(self, account: UUID) -> list[LiveSession]:
        """The sessions of an account that live, in no order."""
        return [
            LiveSession(sid, _moment(created), _moment(used), _moment(absolute), client.decode())
            for sid, created, used, absolute, client in await self.store.run("list", _key(account))
        ]

    async def end(self, account: UUID, session: bytes) -> str:
        """Ends one session of an account: `closed`, or why it was over (`revoked`, `expired`, `unknown`)."""
        answer = await self.store.run("close", _key(account), session, int(Ended.ENDED))
        return str(answer[0].decode())

    async def close_others(self, account: UUID, keep: bytes, why: Ended) -> int:
        """Ends every session of the account but one, in one step; how many there were."""
        return len(await self.store.run("close_others", _key(account), keep, int(why)))

    async def close_all(self, account: UUID) -> None:
        """Ends every session of the account that was opened up to now, in one step."""
        remember = _milliseconds(self.settings.session_absolute) + DAY
        await self.store.run("close_all", _key(account), remember)

    async def _proved(self, presented: str) -> tuple[RefreshToken | None, bytes]:
        token = self.refresh_tokens.read(presented)
        if token is None:
            return None, b""
        record = await self.store.field(_key(token.account), token.session)
        salt = record[RECORD_HEAD : RECORD_HEAD + SALT_BYTES] if record else b""
        return (token, salt) if record and self.refresh_tokens.proves(token, salt) else (None, b"")

    async def _refuse(self, token: RefreshToken, client: str, outcome: str, ended: int) -> NoReturn:
        self._record("session.refresh", outcome, token, client)
        if ended:
            await self._leave_in_journal(token, Ended(ended))
        if outcome == "reused":
            raise SessionReused(token.account)
        raise SessionExpired(outcome)

    async def _leave_in_journal(self, token: RefreshToken, ended: Ended) -> None:
        """The family is dead in Redis already: a journal that is away delays its note, not the refusal."""
        try:
            await self.journal.ended(token.session, ended.reason)
        except Unavailable as error:
            log.warning("the end of a session is not in the journal yet", reason=error.reason)

    def _successor(self, token: RefreshToken, salt: bytes, client: str, answer: list[Any]) -> Grant:
        _, _, generation, authenticated, absolute, detail, roles = answer
        scope, _, amr = detail.decode().partition("\n")
        holder = Holder(
            account=token.account,
            session=token.session,
            generation=int(generation),
            client=client,
            scope=scope,
            amr=tuple(amr.split()),
            roles=tuple(roles.decode().split()),
            signed_in_at=_moment(authenticated),
        )
        refresh_token = self.refresh_tokens.make(token.account, token.secret_id, holder.generation, salt)
        now = int(self.access_tokens.clock().timestamp() * 1000)
        return self._grant(holder, refresh_token, int(absolute) - now)

    def _grant(self, holder: Holder, refresh_token: str, milliseconds_left: int) -> Grant:
        return Grant(
            access_token=self.access_tokens.issue(holder),
            expires_in=self.access_tokens.life,
            scope=holder.scope,
            refresh_token=refresh_token,
            refresh_expires_in=max(milliseconds_left // 1000, 0),
        )

    def _record(self, event: str, outcome: str, token: RefreshToken, client: str | None) -> None:
        session = str(UUID(bytes=token.session))
        self.audit.record(
            event, outcome, account=token.account, client=client, session=session, generation=token.generation
        )


def _key(account: UUID) -> str:
    return f"sessions:{{{account}}}"


def _same(answered: bytes, asked: bytes) -> bytes:
    """An answer must be about the session that was asked for: a connection that mixed up answers must not pass."""
    if answered != asked:
        raise Unavailable("the store answered about another session")
    return asked


def _account(subject: str) -> UUID | None:
    try:
        return UUID(subject)
    except ValueError:
        return None


def _milliseconds(duration: timedelta) -> int:
    return int(duration.total_seconds() * 1000)


def _moment(milliseconds: int | bytes) -> datetime:
    return datetime.fromtimestamp(int(milliseconds) / 1000, UTC)
