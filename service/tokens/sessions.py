"""Sessions: opened, rotated, inspected and closed, each by one atomic script on the account's hash in Redis."""

import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, NoReturn
from uuid import UUID

import structlog

from service import metrics
from service.audit import Audit
from service.crypto.opaque import from_base64url
from service.crypto.signer import PersonClaims
from service.errors import InvalidToken, ServiceError, SessionExpired, SessionReused, Unavailable, UnknownClient
from service.settings import Settings
from service.store.redis import RedisStore
from service.tokens.access import AccessTokens, Holder
from service.tokens.clients import Client, Clients
from service.tokens.healing import Healing
from service.tokens.journal import EndReason, Journal
from service.tokens.places import sessions_of
from service.tokens.recall import Kept
from service.tokens.refresh import RefreshToken, RefreshTokens, Salts, public_id, secret_id_of
from service.tokens.scopes import in_force
from service.tokens.session_facts import Ended, Genuine, Grant, Held, HeldLive, LiveSession, Opened, Renewed
from service.tokens.verified import generation_of

log = structlog.get_logger("vestibule.sessions")

SALT_BYTES = 16
RECORD_HEAD = 42
RECORD_TAIL = RECORD_HEAD + SALT_BYTES
TOMBSTONE = 86_400_000
DAY = 86_400_000
REFUSED = {"unknown", "foreign", "revoked", "expired", "reused"}


@dataclass(frozen=True, slots=True)
class Aim:
    """What an access token is to be for: one API, and scopes that mean something to it."""

    audience: str
    scope: tuple[str, ...]


Aiming = Callable[[tuple[str, ...]], Aim]
"""Chooses within the scope that is in force. Raises a refusal, before anything changes."""


@dataclass(frozen=True, slots=True)
class Sessions:
    """The working state of every session. A store that is away raises `Unavailable`, never a refusal."""

    store: RedisStore
    refresh_tokens: RefreshTokens
    access_tokens: AccessTokens
    clients: Clients
    journal: Journal
    healing: Healing
    audit: Audit
    settings: Settings
    salts: Salts = field(default_factory=Salts)

    async def open(
        self,
        account: UUID,
        client: str,
        amr: tuple[str, ...],
        roles: tuple[str, ...],
        proved_ago: timedelta = timedelta(0),
    ) -> Opened:
        """Begins a session and issues its first tokens. Its tokens are good from now on, in every worker.

        It is granted what its client is registered for at this moment, and never more later. The roles of the account's
        other sessions stay: they may be newer than those that were read before. `proved_ago` is how long ago the person
        gave a credential, if that was elsewhere. Raises `UnknownClient`.
        """
        registered = await self._registered(client)
        salt = secrets.token_bytes(SALT_BYTES)
        secret_id = secret_id_of(salt)
        detail = f"{' '.join(registered.scopes)}\n{' '.join(amr)}"
        sid, created, absolute, roles_now, *evicted = await self.store.run(
            "open",
            sessions_of(account),
            public_id(secret_id),
            self._idle(registered),
            self._absolute(registered),
            self.settings.sessions_per_account,
            TOMBSTONE,
            salt,
            client,
            detail,
            " ".join(roles),
            _milliseconds(proved_ago),
        )
        session, now, roles = _same(sid, public_id(secret_id)), _moment(created), tuple(roles_now.decode().split())
        aim = self.everything(in_force(registered.scopes, registered.scopes, roles))
        holder = self._holder(
            registered, account, session, generation=0, aim=aim, amr=amr, roles=roles, signed_in_at=now - proved_ago
        )
        refresh_token = self.refresh_tokens.make(account, secret_id, 0, salt)
        self.salts.remember(session, salt)
        grant = self._grant(holder, refresh_token, int(absolute) - int(created))
        return Opened(
            grant=grant,
            session=holder.session,
            salt=salt,
            granted=" ".join(registered.scopes),
            opened_at=now,
            authenticated_at=now - proved_ago,
            expires_at=_moment(absolute),
            roles=roles,
            evicted=tuple(evicted),
        )

    def everything(self, in_force: tuple[str, ...]) -> Aim:
        """The aim of who asks for nothing: our own audience, with all that means something to it."""
        own = self.clients.audience
        return Aim(own, tuple(scope for scope in in_force if scope in self.clients.scopes_of(own)))

    async def rotate(self, presented: str, client: str, aiming: Aiming | None = None) -> Grant:
        """Exchanges a refresh token for its successor; a retry gets the same successor again.

        Raises `SessionExpired` for a token that is not ours, or whose session is unknown, ended or over,
        `SessionReused` when this very token ended its family, and whatever `aiming` refuses: the token stays good then.
        """
        known = await self._known(presented) if aiming is None else None
        held = await self.held(presented) if known is None else None
        genuine = known or held
        if genuine is None:
            metrics.refreshed("unknown")
            raise SessionExpired("not a refresh token of a session we know")
        registered = await self._registered(client)
        token, aim, refusal = genuine.token, None, None
        if aiming is not None and held is not None and held.client == client:  # what is not theirs tells nothing
            try:
                aim = aiming(in_force(held.granted, registered.scopes, held.roles))
            except ServiceError as refused:
                if await self._peek(token, is_retry_good=True) is not None:
                    raise
                # A token that is not good any more is refused for that, and a replay is one whatever else is wrong.
                refusal = refused
        answer = await self._rotated(token, registered)
        if answer[0] == b"unknown" and await self.healing.restore(token.session):  # lost since it was looked at
            answer = await self._rotated(token, registered)
        if answer[0] == b"expired" and await self.healing.outlives(token.session):
            raise Unavailable("over by the clock of the store, and not by ours")
        outcome = answer[0].decode()
        metrics.refreshed(outcome)
        if outcome in REFUSED:
            await self._refuse(token, client, outcome, ended=answer[2] if len(answer) > 2 else 0)  # noqa: PLR2004
        if outcome != "rotated":  # what happens all the time is counted, and its use noted in the journal
            self._record("session.refresh", outcome, token, client)
        self.journal.note_use(token.session, int(answer[2]), timedelta(milliseconds=self._idle(registered)))
        if refusal is not None:
            raise refusal
        return self._successor(genuine, registered, aim, answer)

    async def _known(self, presented: str) -> Genuine | None:
        """A refresh token of a session whose salt is remembered."""
        token = self.refresh_tokens.read(presented)
        salt = self.salts.find(token.session) if token is not None else None
        if token is None or salt is None or not self.refresh_tokens.proves(token, salt):
            return None
        return None if await self.healing.is_known_to_have_ended(token.session) else Genuine(token, salt)

    async def _rotated(self, token: RefreshToken, client: Client) -> list[Any]:
        answer: list[Any] = await self.store.run(
            "rotate",
            sessions_of(token.account),
            token.session,
            token.generation,
            client.id,
            _milliseconds(self.settings.rotation_grace),
            _milliseconds(self.settings.lost_answer_window),
            self._idle(client),
        )
        _same(answer[1], token.session)
        return answer

    async def close(self, presented: str) -> None:
        """Ends the session of a refresh token of any generation; nothing happens for a token that is not ours.

        Redis decides, so it comes first; done when the journal has it too. Raises `Unavailable` until then.
        """
        try:
            held = await self.held(presented)
        except Unavailable:
            await self._close_in_journal(presented, Ended.LOGOUT)
            raise
        if held is not None:
            await self.close_held(held, Ended.LOGOUT)

    async def close_held(self, held: Held, why: Ended) -> None:
        """The same, for a token that was looked at."""
        token = held.token
        try:
            answer = await self.store.run("close", sessions_of(token.account), token.session, int(why), held.client)
        finally:  # what Redis does not hear now it is told by the replay
            await self.journal.ended(token.session, why.reason)
        if answer[0] == b"unknown":  # lost just now, and perhaps brought back by another worker since
            await self.store.run("close", sessions_of(token.account), token.session, int(why), "")
        self._record("session.close", answer[0].decode(), token, client=held.client)

    async def held(self, presented: str) -> Held | None:
        """What a refresh token of any generation stands for; None unless it is genuine and its session known."""
        token = self.refresh_tokens.read(presented)
        if token is None:
            return None
        record, roles = await self.store.fields_of(sessions_of(token.account), token.session, "r")
        if record is None:
            kept = await self.healing.restore(token.session)
            held = _held_by_journal(token, kept) if kept is not None and kept.account == token.account else None
        else:
            client, granted, _ = record[RECORD_TAIL:].decode().split("\n")
            salt = record[RECORD_HEAD:RECORD_TAIL]
            held = Held(token, salt, client, tuple(granted.split()), tuple((roles or b"").decode().split()))
        if held is None or not self.refresh_tokens.proves(token, held.salt):
            return None
        self.salts.remember(token.session, held.salt)
        return None if await self.healing.is_known_to_have_ended(token.session) else held

    async def held_live(self, presented: str, client: str) -> HeldLive | None:
        """A refresh token of this client, if it would be taken now; looking at it changes nothing."""
        held = await self.held(presented)
        registered = await self.clients.acting(client)
        if held is None or registered is None or held.client != client:
            return None
        times = await self._peek(held.token, is_retry_good=False)
        if times is None:
            return None
        scope = in_force(held.granted, registered.scopes, held.roles)
        return HeldLive(held.token.account, client, scope, *times)

    async def reason_of_end(self, account: UUID, session: bytes) -> EndReason | None:
        """Why a session that was opened just now has ended again; None while it lives."""
        record, newest = await self.store.fields_of(sessions_of(account), session, "n")
        if record is None:
            return "evicted" if newest is not None else None  # nothing at all: Redis was emptied meanwhile
        return Ended(record[RECORD_HEAD - 1]).reason if record[RECORD_HEAD - 1] else None

    async def discard(self, account: UUID, session: bytes) -> None:
        """Ends a session whose tokens nobody was given."""
        self.journal.owe(session, "disabled")
        await self.store.run("close", sessions_of(account), session, int(Ended.DISABLED), "")

    async def reauthenticate(self, claims: PersonClaims, amr: tuple[str, ...]) -> Renewed:
        """Begins a live session anew: a new `auth_time`, both timeouts from now on (NIST SP 800-63B-4 5.2).

        Its next refresh token takes the place of the one before. Raises `InvalidToken` when it has ended meanwhile.
        """
        account, session = UUID(claims.sub), from_base64url(claims.sid) or b""
        registered = await self._registered(claims.client_id)
        answer = await self.store.run(
            "reauthenticate",
            sessions_of(account),
            session,
            generation_of(claims),
            _milliseconds(self.settings.rotation_grace),
            _milliseconds(self.settings.lost_answer_window),
            self._idle(registered),
            self._absolute(registered),
            " ".join(amr),
        )
        _same(answer[1], session)
        if answer[0] != b"live":
            raise InvalidToken("the session has ended")
        _, _, generation, authenticated, absolute, salt, _, detail, roles_now = answer
        roles = tuple(roles_now.decode().split())
        granted = detail.decode().partition("\n")[0].split()
        aim = self.everything(in_force(granted, registered.scopes, roles))
        holder = self._holder(
            registered,
            account,
            session,
            generation=int(generation),
            aim=aim,
            amr=amr,
            roles=roles,
            signed_in_at=_moment(authenticated),
        )
        refresh_token = self.refresh_tokens.make(account, secret_id_of(salt), holder.generation, salt)
        grant = self._grant(holder, refresh_token, int(absolute) - int(authenticated))
        return Renewed(grant, _moment(authenticated), _moment(absolute))

    async def live(self, account: UUID) -> list[LiveSession]:
        """The sessions of an account that live, in no order."""
        listed = await self.store.run("list", sessions_of(account))
        if await self.healing.restore_all(account, {sid for sid, *_ in listed}):
            listed = await self.store.run("list", sessions_of(account))
        return [
            LiveSession(sid, _moment(created), _moment(used), _moment(absolute), client.decode())
            for sid, created, used, absolute, client in listed
        ]

    async def end(self, account: UUID, session: bytes, why: Ended = Ended.ENDED) -> str:
        """Ends one session of an account: `closed`, or why it was over (`revoked`, `expired`, `unknown`).

        Raises `Unavailable` while Redis is away; it is written down then, and Redis is told when it is back.
        """
        try:
            answer = await self.store.run("close", sessions_of(account), session, int(why), "")
        except Unavailable:
            kept = await self.healing.recall.of(session)
            if kept is not None and kept.account == account:
                await self.journal.ended(session, why.reason)
            raise
        if answer[0] == b"unknown" and (kept := await self.healing.restore(session)) and kept.account == account:
            answer = await self.store.run("close", sessions_of(account), session, int(why), "")
        return str(answer[0].decode())

    async def close_others(self, account: UUID, keep: bytes, why: Ended) -> int:
        """Ends every session of the account but one, in one step; how many there were."""
        return len(await self.store.run("close_others", sessions_of(account), keep, int(why)))

    async def close_all(self, account: UUID) -> None:
        """Ends every session of the account that was opened up to now, in one step."""
        remember = _milliseconds(self.settings.session_absolute) + DAY
        await self.store.run("close_all", sessions_of(account), remember)

    async def appoint(self, account: UUID, roles: list[str]) -> None:
        """Gives every session of the account other roles: they show at the next introspection."""
        await self.store.run("appoint", sessions_of(account), " ".join(roles))

    async def _peek(self, token: RefreshToken, *, is_retry_good: bool) -> tuple[datetime, datetime] | None:
        """Since when a session has its newest generation, and when it ends; None when the token would not be taken, as
        the newest or also as a retry."""
        grace, lost = self.settings.rotation_grace, self.settings.lost_answer_window
        windows = (_milliseconds(grace), _milliseconds(lost)) if is_retry_good else (0, 0)
        answer = await self.store.run("peek", sessions_of(token.account), token.session, token.generation, *windows)
        _same(answer[1], token.session)
        return (_moment(answer[2]), _moment(answer[3])) if answer[0] == b"live" else None

    async def _registered(self, client_id: str) -> Client:
        client = await self.clients.acting(client_id)
        if client is None:
            raise UnknownClient(f"no enabled client {client_id[:64]!r}")
        return client

    def _idle(self, client: Client) -> int:
        return _shorter(self.settings.session_idle, client.session_idle)

    def _absolute(self, client: Client) -> int:
        return _shorter(self.settings.session_absolute, client.session_absolute)

    def _holder(
        self,
        client: Client,
        account: UUID,
        session: bytes,
        *,
        generation: int,
        aim: Aim,
        amr: tuple[str, ...],
        roles: tuple[str, ...],
        signed_in_at: datetime,
    ) -> Holder:
        life = _shorter(self.settings.access_token_life, client.access_token_life) // 1000
        scope = " ".join(aim.scope)
        return Holder(account, session, generation, client.id, scope, amr, roles, signed_in_at, aim.audience, life)

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
            self.journal.owe(token.session, ended.reason)

    def _successor(self, genuine: Genuine, client: Client, aim: Aim | None, answer: list[Any]) -> Grant:
        _, _, generation, authenticated, absolute, detail, roles_now = answer
        token, roles = genuine.token, tuple(roles_now.decode().split())  # the roles of the script's moment
        granted, _, how = detail.decode().partition("\n")
        amr = tuple(how.split())
        if aim is None:
            aim = self.everything(in_force(granted.split(), client.scopes, roles))
        else:
            aim = Aim(aim.audience, in_force(aim.scope, client.scopes, roles))
        holder = self._holder(
            client,
            token.account,
            token.session,
            generation=int(generation),
            aim=aim,
            amr=amr,
            roles=roles,
            signed_in_at=_moment(authenticated),
        )
        refresh_token = self.refresh_tokens.make(token.account, token.secret_id, holder.generation, genuine.salt)
        now = int(self.access_tokens.clock().timestamp() * 1000)
        return self._grant(holder, refresh_token, int(absolute) - now)

    def _grant(self, holder: Holder, refresh_token: str, milliseconds_left: int) -> Grant:
        return Grant(
            access_token=self.access_tokens.issue(holder),
            expires_in=holder.life,
            scope=holder.scope,
            refresh_token=refresh_token,
            refresh_expires_in=max(milliseconds_left // 1000, 0),
        )

    async def _close_in_journal(self, presented: str, why: Ended) -> None:
        """While Redis is away: the end stands in the journal, and Redis is told when it is back."""
        token = self.refresh_tokens.read(presented)
        kept = await self.healing.recall.of(token.session) if token is not None else None
        if token is not None and kept is not None and self.refresh_tokens.proves(token, kept.salt):
            await self.journal.ended(token.session, why.reason)
            self._record("session.close", "in_journal", token, client=kept.client)

    def _record(self, event: str, outcome: str, token: RefreshToken, client: str | None) -> None:
        session = str(UUID(bytes=token.session))
        self.audit.record(
            event, outcome, account=token.account, client=client, session=session, generation=token.generation
        )


def _held_by_journal(token: RefreshToken, kept: Kept) -> Held:
    return Held(token, kept.salt, kept.client, tuple(kept.granted.split()), kept.roles)


def _same(answered: bytes, asked: bytes) -> bytes:
    """An answer must be about the session that was asked for: a connection that mixed up answers must not pass."""
    if answered != asked:
        raise Unavailable("the store answered about another session")
    return asked


def _shorter(setting: timedelta, seconds: int | None) -> int:
    """A lifetime in milliseconds: what a client is registered with only ever shortens the setting."""
    return min(_milliseconds(setting), seconds * 1000) if seconds else _milliseconds(setting)


def _milliseconds(duration: timedelta) -> int:
    return int(duration.total_seconds() * 1000)


def _moment(milliseconds: int | bytes) -> datetime:
    return datetime.fromtimestamp(int(milliseconds) / 1000, UTC)
