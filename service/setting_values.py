"""What settings are made of: secrets, rates and origins, each checked by itself."""

import re
from typing import Self
from urllib.parse import SplitResult, urlsplit

LOOPBACK = {"localhost", "127.0.0.1", "::1"}
DEFAULT_PORTS = {"http": 80, "https": 443}
HOST = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?|[0-9a-f:]*:[0-9a-f:.]*", re.ASCII)
PERIODS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class SettingsError(Exception):
    """A setting is missing, weak or contradicts another; the text is one line for the operator."""


class Secret(str):
    """A text that does not show itself in a log, a traceback or a debugger."""

    def __repr__(self) -> str:
        return "Secret(…)"


class Rate:
    """So many attempts in so many seconds, refilled evenly."""

    __slots__ = ("attempts", "seconds")

    def __init__(self, attempts: int, seconds: int) -> None:
        self.attempts = attempts
        self.seconds = seconds

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads `10/15m`; the unit is one of s, m, h, d and may stand alone (`10/m`)."""
        attempts, _, period = text.partition("/")
        number, unit = period[:-1] or "1", period[-1:]
        if not (attempts.isdecimal() and number.isdecimal() and unit in PERIODS) or int(attempts) * int(number) == 0:
            raise ValueError(f"a rate looks like 10/15m, not {text!r}")
        return cls(int(attempts), int(number) * PERIODS[unit])


def is_label(text: str, longest: int) -> bool:
    """Whether people can read it as a name: printable, and without a space at either end."""
    return 1 <= len(text) <= longest and text.isprintable() and text.strip() == text


def weak_origin(issuer: str) -> list[str]:
    """What is wrong with an issuer, at most one line."""
    parts = parts_of(issuer)
    if parts is None or parts.scheme not in DEFAULT_PORTS or not parts.hostname or parts.query or parts.fragment:
        return [f"VESTIBULE_ISSUER must be an http(s) URL without query and fragment, not {issuer!r}"]
    if issuer != issuer.lower() or parts.port == DEFAULT_PORTS[parts.scheme]:
        return ["VESTIBULE_ISSUER must be in lower case and without its scheme's own port: clients compare it exactly"]
    if issuer.endswith("/") or "//" in parts.path or parts.username is not None:
        return ["VESTIBULE_ISSUER must not end with a slash, nor hold empty segments or credentials"]
    if parts.scheme == "http" and parts.hostname not in LOOPBACK:
        return ["VESTIBULE_ISSUER must be https (http is for loopback only)"]
    return []


def parts_of(url: str) -> SplitResult | None:
    """A URL taken apart; None when it is none, or its port is none."""
    try:
        parts = urlsplit(url)
        return None if parts.port == 0 else parts
    except ValueError:
        return None


def odd_origins(origins: tuple[str, ...]) -> list[str]:
    """What is wrong with a list of allowed origins, at most one line."""
    for origin in origins:
        if not _is_origin(origin):
            return [f"VESTIBULE_ALLOWED_ORIGINS takes exact origins such as https://app.example.com, not {origin!r}"]
    return []


def _is_origin(text: str) -> bool:
    """Whether a browser would name it just so: scheme, host and a port that is not the scheme's own, in lower case."""
    parts = parts_of(text)
    if parts is None or parts.scheme not in DEFAULT_PORTS or not HOST.fullmatch(parts.hostname or ""):
        return False
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    port = f":{parts.port}" if parts.port and parts.port != DEFAULT_PORTS[parts.scheme] else ""
    return text == f"{parts.scheme}://{host}{port}"
