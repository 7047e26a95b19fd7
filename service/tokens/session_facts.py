"""What is known and said of a session: how it ended, what was granted, what lives."""

from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum
from uuid import UUID

from service.tokens.journal import EndReason
from service.tokens.refresh import RefreshToken


class Ended(IntEnum):
    """Why a session ended, as its record in Redis says it."""

    LOGOUT = 1
    REUSED = 2
    EVICTED = 3
    DISABLED = 4
    ENDED = 5
    PASSWORD_CHANGED = 6
    EMAIL_CHANGED = 7
    REVOKED = 8
    ADMINISTRATOR = 9

    @classmethod
    def _missing_(cls, value: object) -> "Ended":
        """What a newer release wrote."""
        return cls.ENDED

    @property
    def reason(self) -> EndReason:
        """The same in the journal's words."""
        return REASONS[self]


REASONS: dict[Ended, EndReason] = {
    Ended.LOGOUT: "logout",
    Ended.REUSED: "reused",
    Ended.EVICTED: "evicted",
    Ended.DISABLED: "disabled",
    Ended.ENDED: "ended",
    Ended.PASSWORD_CHANGED: "password_changed",
    Ended.EMAIL_CHANGED: "email_changed",
    Ended.REVOKED: "revoked",
    Ended.ADMINISTRATOR: "administrator",
}

_ENDED: dict[str, Ended] = {reason: ended for ended, reason in REASONS.items()}


def ended_for(reason: str) -> Ended:
    """The mark in Redis that says most nearly what the journal says."""
    return _ENDED.get(reason, Ended.ENDED)


@dataclass(frozen=True, slots=True)
class Grant:
    """What a person is handed: both tokens, and what they are good for."""

    access_token: str
    expires_in: int
    scope: str
    refresh_token: str
    refresh_expires_in: int
    device_mark: str = ""


@dataclass(frozen=True, slots=True)
class Opened:
    """A session just opened, for the journal; `roles` are in force, `evicted` the sessions that had to go for it.

    `granted` is the scope of the session, that of its first token may be less.
    """

    grant: Grant
    session: bytes
    salt: bytes
    granted: str
    opened_at: datetime
    authenticated_at: datetime
    expires_at: datetime
    roles: tuple[str, ...]
    evicted: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Renewed:
    """A session that began anew, and its new end."""

    grant: Grant
    authenticated_at: datetime
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class Genuine:
    """A refresh token that we made, and the salt by which its successor is made."""

    token: RefreshToken
    salt: bytes


@dataclass(frozen=True, slots=True)
class Held(Genuine):
    """What it stands for, before anything is decided: whether its session lives is not said.

    `granted` is the scope of the session, `roles` are those of its account at this moment.
    """

    client: str
    granted: tuple[str, ...]
    roles: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class HeldLive:
    """A refresh token that would be taken at this moment, and when it ends unless it is used."""

    account: UUID
    client: str
    scope: tuple[str, ...]
    issued_at: datetime
    ends_at: datetime


@dataclass(frozen=True, slots=True)
class LiveSession:
    """One session of an account, as Redis knows it."""

    session: bytes
    opened_at: datetime
    used_at: datetime
    expires_at: datetime
    client: str
