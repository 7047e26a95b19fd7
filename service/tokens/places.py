"""Where in Redis things of an account stand: all in one slot, so that one script may touch them together."""

from uuid import UUID


def sessions_of(account: UUID | str) -> str:
    """The key of the hash that holds every session of an account."""
    return f"sessions:{{{account}}}"


def denial(subject: str, jti: str) -> str:
    """The key that stands while one access token is revoked."""
    return f"denied:{{{subject}}}:{jti}"
