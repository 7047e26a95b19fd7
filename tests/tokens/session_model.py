"""What the scripts of a session promise, written down once more without any store."""

from dataclasses import dataclass, field
from typing import Literal

START = 1_800_000_000_000
DAY = 86_400_000
GRACE = 10_000
LOST = 3_600_000
IDLE = 14 * DAY
ABSOLUTE = 30 * DAY
TOMBSTONE = DAY
REMEMBER = ABSOLUTE + DAY
PAUSE = 60_000
SLACK = 60_000
MOST = 3

CLIENTS = ("web", "phone")
SALT = bytes(range(16))
LOGOUT, REUSED, EVICTED, ENDED, PASSWORD_CHANGED = 1, 2, 3, 5, 6
NO_GENERATION = -1
NEVER = 10**15
OUTCOMES = {"rotated", "repeated", "healed", "reused", "revoked", "expired", "foreign", "unknown"}

Verdict = Literal["live", "revoked", "expired", "unknown"]


@dataclass
class Session:
    """What the model knows of one session. `ended`: why, 0 while it lives. `kept`: its record was neither swept nor
    lost. `over`: the journal has its end.
    """

    sid: bytes
    client: str
    detail: str
    created: int
    authenticated: int
    used: int
    rotated: int
    absolute: int
    idle: int
    generation: int = 0
    confirmed: bool = True
    ended: int = 0
    kept: bool = True
    over: bool = False


@dataclass
class Model:
    """One account and all that happened to it."""

    now: int = START
    mark: int = 0
    newest: int = 0
    sessions: list[Session] = field(default_factory=list)
    roles: bytes | None = None

    def verdict(self, session: Session) -> Verdict:
        if not session.kept:
            return "unknown"
        if session.ended or session.created <= self.mark:
            return "revoked"
        return "live" if self.now < min(session.idle, session.absolute) else "expired"

    def live(self) -> list[Session]:
        return [session for session in self.sessions if self.verdict(session) == "live"]

    def open(self, sid: bytes, client: str, detail: str, gone: list[Session], proved_ago: int) -> Session:
        """A new session; `gone` are those that had to go for it, as `overflow` told before."""
        for session in self.sessions:
            forgettable = session.used + TOMBSTONE <= self.now
            if self.verdict(session) == "expired" or (self.verdict(session) == "revoked" and forgettable):
                session.kept = False
        dead = [one for one in self.sessions if one not in gone and self.verdict(one) == "revoked"]
        for session in sorted(dead, key=lambda one: (one.used, one.sid))[: max(len(dead) - MOST, 0)]:
            session.kept = False
        end = self.now + ABSOLUTE
        created = max(self.now, self.mark + 1)
        opened = Session(sid, client, detail, created, created - proved_ago, self.now, self.now, end, self.now + IDLE)
        self.sessions.append(opened)
        self.newest = max(self.newest, created)
        self.roles = b"newcomer" if self.roles is None else self.roles
        return opened

    def overflow(self) -> list[int]:
        """When the sessions were last used that have to go for one more."""
        live = sorted(session.used for session in self.live())
        return live[: max(len(live) - MOST + 1, 0)]

    def rotate(self, session: Session, presented: int, client: str) -> str:
        verdict = self.verdict(session)
        if verdict == "unknown":
            return "unknown"
        if client != session.client:
            return "foreign"
        if verdict != "live":
            return verdict
        if presented >= session.generation:
            outcome = "rotated" if presented == session.generation else "healed"
            session.generation, session.confirmed = presented + 1, False
            session.rotated = session.used = self.now
            session.idle = min(self.now + IDLE, session.absolute)
            return outcome
        if self.is_retry(session, presented):
            return "repeated"
        self.end(session, REUSED)
        return "reused"

    def inspect(self, session: Session, generation: int) -> Verdict:
        verdict = self.verdict(session)
        if verdict == "live":
            confirms = not session.confirmed and generation == session.generation
            if confirms or self.now - session.used >= PAUSE:
                session.used = max(session.used, self.now)
            session.confirmed = session.confirmed or confirms
        return verdict

    def is_retry(self, session: Session, presented: int) -> bool:
        age = self.now - session.rotated
        excused = age < GRACE or (age < LOST and not session.confirmed)
        return presented == session.generation - 1 and excused

    def reauthenticate(self, session: Session, presented: int, how: str) -> Verdict:
        verdict = self.verdict(session)
        if verdict == "live":
            if not self.is_retry(session, presented):
                session.generation, session.confirmed = session.generation + 1, False
                session.rotated = self.now
            session.authenticated = session.used = self.now
            session.detail = f"{session.detail.partition(chr(10))[0]}\n{how}"
            session.absolute, session.idle = self.now + ABSOLUTE, self.now + IDLE
        return verdict

    def peek(self, session: Session, generation: int) -> list[bytes | int | str]:
        """What would become of a refresh token of this generation, and until when if it would be taken."""
        verdict = self.verdict(session)
        if verdict != "live" or (generation < session.generation and not self.is_retry(session, generation)):
            return ["superseded" if verdict == "live" else verdict, session.sid]
        return ["live", session.sid, session.rotated, min(session.idle, session.absolute)]

    def close(self, session: Session, client: str = "") -> str:
        verdict = self.verdict(session)
        if session.kept and client not in {"", session.client}:
            return "foreign"
        if session.kept and not session.ended:
            self.end(session, LOGOUT)
        return "closed" if verdict == "live" else verdict

    def close_others(self, keep: Session, why: int) -> list[bytes]:
        others = [session for session in self.live() if session is not keep]
        for session in self.sessions:
            session.over = session.over or session is not keep
        for session in others:
            self.end(session, why)
        return sorted(session.sid for session in others)

    def listed(self) -> list[list[bytes | int]]:
        """Every session that lives, as its holder sees it."""
        told: list[list[bytes | int]] = [
            [one.sid, one.created, one.used, one.absolute, one.client.encode()] for one in self.live()
        ]
        return sorted(told, key=str)

    def close_all(self) -> int:
        self.mark = max(self.mark + 1, self.now, self.newest)
        for session in self.sessions:
            session.over = True
        return self.mark

    def end(self, session: Session, why: int) -> None:
        session.ended, session.used, session.over = why, self.now, True

    def lose(self) -> None:
        """The whole account is gone from the store."""
        self.mark, self.newest, self.roles = 0, 0, None
        for session in self.sessions:
            session.kept = False

    def noted_use(self, session: Session, earlier: int) -> int:
        """When the journal thinks that a session was used: what is newer by less than `earlier` it does not know."""
        return max(session.idle - IDLE - earlier, session.created)

    def may_come_back(self, session: Session, earlier: int) -> bool:
        """Whether the journal says that a session lives, or said so before its end was noted."""
        idle_end = min(self.noted_use(session, earlier) + IDLE, session.absolute)
        return idle_end > self.now and (not session.over or 0 < session.created <= self.mark)

    def restore(self, session: Session, behind: int, earlier: int, roles: bytes) -> int:
        if session.kept:
            return 0
        session.used = session.rotated = self.noted_use(session, earlier)
        session.generation, session.confirmed = max(session.generation - behind, 0), False
        session.idle = min(session.used + IDLE, session.absolute)
        session.kept, session.ended = True, 0
        self.newest = max(self.newest, session.created)
        self.roles = roles if self.roles is None else self.roles
        return 1

    def edges(self, session: Session) -> list[int]:
        """The moments at which something changes for a session."""
        return [
            session.rotated + GRACE,
            session.rotated + LOST,
            session.idle,
            session.absolute,
            session.used + TOMBSTONE,
        ]
