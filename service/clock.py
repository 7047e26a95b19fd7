"""What time it is, as a value that tests can replace."""

from collections.abc import Callable
from datetime import UTC, datetime

Clock = Callable[[], datetime]
"""Answers the current time, always with an offset."""


def utc_now() -> datetime:
    """The machine's time in UTC."""
    return datetime.now(UTC)
