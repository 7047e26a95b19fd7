"""Scopes (RFC 6749 section 3.3): what a token may be used for, and how far a client, a person and an API reach."""

import re
from collections.abc import Collection

from service.errors import InvalidScope

ACCOUNT = "account"
"""A person's own account: everything below `/me`. Only a person's session has it."""
ADMIN = "admin"
"""The role of an operator, and the scope that lets it be used: everything below `/admin`."""
BUILT_IN = frozenset({ACCOUNT, ADMIN})
"""What this service itself offers, as the API of its own audience."""
SCOPE = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]{1,64}")
MOST_SCOPES = 50


def parse(text: str) -> tuple[str, ...]:
    """The scopes of a parameter, each once, in their order. Raises `InvalidScope`."""
    scopes = tuple(dict.fromkeys(text.split(" ")))
    if len(scopes) > MOST_SCOPES or not all(SCOPE.fullmatch(scope) for scope in scopes):
        raise InvalidScope("malformed")
    return scopes


def in_force(granted: Collection[str], registered: Collection[str], roles: Collection[str] | None) -> tuple[str, ...]:
    """What is left of a grant at this moment: what its client may still have, and for a person `admin` only with the
    role. A service has no `roles` (None): its registration says it all."""
    return tuple(s for s in granted if s in registered and (s != ADMIN or roles is None or ADMIN in roles))
