"""Whether a session lives, whatever state Redis is in: empty, old, or away.

Redis is asked first. What it does not know is looked for in the journal and brought back; while it is away the journal
answers by itself. What is known to have been revoked lately (`replay.py`) is dead whatever Redis says.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from service import metrics
from service.clock import Clock
from service.crypto.signer import PersonClaims, ServiceClaims
from service.errors import Unavailable
from service.settings import Settings
from service.store.redis import RedisStore
from service.tokens.clients import Clients
from service.tokens.journal import noted_every
from service.tokens.places import denial, sessions_of
from service.tokens.recall import Kept, Recall
from service.tokens.replay import Overlay
from service.tokens.session_facts import Ended
from service.tokens.verified import Verified

USE_NOTED_EVERY = 60_000
"""Milliseconds: `last seen` is good to a minute, and a busy session costs no write at each request."""
DAY = 86_400_000


@dataclass(frozen=True, slots=True)
class Healing:
    """Answers, and brings sessions back. Raises `Unavailable` only where neither store can tell."""

    store: RedisStore
    recall: Recall
    overlay: Overlay
    clients: Clients
    settings: Settings
    clock: Clock

    async def roles_while_live(self, token: Verified) -> bytes | None:
        """The account's roles of this moment, separated by spaces, when a person's token and its session live, else
        None. One round trip. Whether its client may act is asked elsewhere.
        """
        claims, session = token.claims, token.session or b""
        if session in self.overlay.sessions or claims.jti in self.overlay.tokens:
            return None
        try:
            answer = await self._inspected(token)
            if answer[0] == b"unknown" and await self.restore(session):
                if await self.recall.is_denied(claims.jti):  # that was lost as well
                    return None
                answer = await self._inspected(token)
            elif self.overlay.is_behind and await self.is_known_to_have_ended(session):
                return None
        except Unavailable:
            return await self._roles_from_journal(claims, session)
        if answer[0] == b"expired" and await self.outlives(session):
            return await self._roles_from_journal(claims, session)
        return bytes(answer[2]) if answer[0] == b"live" else None

    async def is_known_to_have_ended(self, session: bytes) -> bool:
        """Whether a session that Redis believes in was ended: lately, or, while Redis may be old, ever."""
        if session in self.overlay.sessions:
            return True
        try:
            return self.overlay.is_behind and await self.recall.has_ended(session)
        except Unavailable:  # what both stores would say nobody knows: the one that answers is believed
            return False

    async def is_denied(self, claims: ServiceClaims) -> bool:
        """Whether a token by which a service speaks for itself was revoked."""
        if claims.jti in self.overlay.tokens:
            return True
        try:
            return await self.store.exists(denial(claims.sub, claims.jti))
        except Unavailable:
            is_denied = await self.recall.is_denied(claims.jti)
            metrics.answered_from_journal()
            return is_denied

    async def outlives(self, session: bytes) -> bool:
        """Whether a session that is over by the clock of Redis is not over by ours: one of them is wrong.

        Then nobody may be thrown out; an instance whose own clock is wrong is not ready. What the journal knows of its
        use is never younger than what Redis knows, so it is not believed beyond that. Raises `Unavailable`.
        """
        kept = await self.recall.of(session)
        return kept is not None and kept.idle_end(self._idle(kept)) > self.clock()

    async def restore(self, session: bytes) -> Kept | None:
        """Brings a session back that Redis does not know, None when the journal does not know it to live either.

        Raises `Unavailable`: a session that is not found must not be taken for one that has ended.
        """
        kept = await self._living(session)
        if kept is None or not await self._write(kept):
            return kept
        metrics.restored()
        # Whoever ended it, or changed the roles, between the look and the writing found nothing in Redis to change.
        key, now = sessions_of(kept.account), await self.recall.settled(session)
        if now is None:
            await self.store.run("close", key, session, int(Ended.ENDED), "")
        elif now.roles != kept.roles:
            await self.store.run("appoint", key, " ".join(now.roles))
        return now

    async def restore_all(self, account: UUID, known: set[bytes]) -> bool:
        """Brings back every session of an account that the journal knows and Redis does not; whether there were any."""
        missing = [kept for kept in await self.recall.of_account(account) if kept.session not in known]
        written = [await self._write(kept) for kept in missing if self._idle_end(kept) > self.clock()]
        return any(written)

    async def _inspected(self, token: Verified) -> Any:
        claims, asking = token.claims, token.asking
        if asking is None:
            keys = sessions_of(claims.sub), denial(claims.sub, claims.jti)
            arguments = token.session or b"", token.generation, USE_NOTED_EVERY
            asking = token.asking = self.store.prepare("inspect", keys, *arguments)
        answer = await self.store.again(asking)
        if answer[1] != token.session:  # a connection that mixed up answers must not pass
            raise Unavailable("the store answered about another session")
        return answer

    async def _roles_from_journal(self, claims: PersonClaims | ServiceClaims, session: bytes) -> bytes | None:
        kept = await self._living(session)
        is_live = kept is not None and not await self.recall.is_denied(claims.jti)
        metrics.answered_from_journal()
        return " ".join(kept.roles).encode() if kept is not None and is_live else None

    async def _living(self, session: bytes) -> Kept | None:
        kept = await self.recall.of(session)
        return kept if kept is not None and self._idle_end(kept) > self.clock() else None

    def _idle_end(self, kept: Kept) -> datetime:
        """When it ends unless it is used, at the latest: the journal knows of its use only so exactly."""
        idle = self._idle(kept)
        return kept.idle_end(idle + noted_every(idle))

    def _idle(self, kept: Kept) -> timedelta:
        client = self.clients.enabled(kept.client)
        idle = self.settings.session_idle
        return min(idle, timedelta(seconds=client.session_idle)) if client and client.session_idle else idle

    async def _write(self, kept: Kept) -> bool:
        moments = kept.opened_at, kept.authenticated_at, kept.used_at, kept.expires_at, self._idle_end(kept)
        return bool(
            await self.store.run(
                "restore",
                sessions_of(kept.account),
                kept.session,
                *(round(moment.timestamp() * 1000) for moment in moments),
                kept.generation,
                kept.salt,
                kept.client,
                f"{kept.granted}\n{' '.join(kept.amr)}",
                " ".join(kept.roles),
                DAY,
            )
        )
