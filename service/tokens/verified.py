"""Access tokens whose signature was checked before, so that the next look costs a digest instead of a curve.

What is remembered is true for good: who signed it, and what it says. Whether it lives is asked every time, so nothing
here delays a revocation. A change of the signing keys forgets everything.
"""

import re
from collections import OrderedDict
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256
from typing import Any

from service import metrics
from service.crypto.keyring import Keyring
from service.crypto.opaque import from_base64url
from service.crypto.signer import PersonClaims, ServiceClaims, Signer
from service.store.redis import Prepared

MOST = 10_000
"""Tokens remembered by a worker; with 4 KB for the longest one there is also an end to the bytes."""
SESSION_BYTES = 16
ACCOUNT = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII)


@dataclass(slots=True, eq=False)
class Verified:
    """A genuine token taken apart. `session` is None for one of a service.

    `told` is for what was last said of it, `asking` for how Redis is asked about it.
    """

    claims: PersonClaims | ServiceClaims
    session: bytes | None = None
    generation: int = -1
    told: Any = field(default=None, repr=False)
    asking: Prepared | None = field(default=None, repr=False)

    @classmethod
    def of(cls, claims: PersonClaims | ServiceClaims) -> "Verified | None":
        """None for claims of a person that name no account or no session."""
        if not isinstance(claims, PersonClaims):
            return cls(claims)
        session = from_base64url(claims.sid)
        if session is None or len(session) != SESSION_BYTES or not ACCOUNT.fullmatch(claims.sub):
            return None
        return cls(claims, session, generation_of(claims))


class VerifiedTokens:
    """The tokens seen last, by the SHA-256 of their text: the text itself is kept nowhere."""

    def __init__(self, signer: Signer, most: int = MOST) -> None:
        self._signer = signer
        self._most = most
        self._known: OrderedDict[bytes, Verified] = OrderedDict()
        self._keyring: Keyring | None = None

    def find(self, token: str, keyring: Keyring, now: datetime) -> Verified | None:
        """A token of ours, whole and in its time, for whomever it is; None for every doubt. Raises `Unavailable`."""
        if keyring is not self._keyring:
            self._known.clear()
            self._keyring = keyring
        digest = sha256(token.encode("utf-8", "surrogatepass")).digest()
        known = self._known.get(digest)
        if known is None:
            metrics.looked_up("miss")
            return self._checked(token, digest, keyring, now)
        metrics.looked_up("hit")
        if known.claims.exp <= now.timestamp():
            del self._known[digest]
            return None
        self._known.move_to_end(digest)
        return known

    def _checked(self, token: str, digest: bytes, keyring: Keyring, now: datetime) -> Verified | None:
        claims = self._signer.authentic(token, keyring, now)
        if claims is None or not self._signer.in_force(claims, now):
            return None
        found = Verified.of(claims)
        if found is not None:
            self._known[digest] = found
            if len(self._known) > self._most:
                self._known.popitem(last=False)
        return found


def generation_of(claims: PersonClaims | ServiceClaims) -> int:
    """The session's generation for which the token was issued; it leads the `jti`."""
    leading = claims.jti.partition(".")[0]
    return int(leading) if leading.isdecimal() else -1
