"""Callers that proved themselves a moment ago, so that the next request of theirs costs a digest."""

import secrets
from dataclasses import dataclass, field
from hashlib import sha256

from service.clock import Clock
from service.tokens.clients import Client, Clients

LIFE = 60.0
"""Seconds for which a proof is remembered; less when the registry is read anew, which every worker does often."""
MOST = 1000


@dataclass(slots=True)
class ProvedCallers:
    """Clients that may introspect, by a keyed digest of the Authorization header that proved them.

    The key is made by each worker for itself and the header is kept nowhere. Whatever changes in the registry, and
    every secret that ends, makes its caller prove itself again.
    """

    clients: Clients
    clock: Clock
    _key: bytes = field(default_factory=lambda: secrets.token_bytes(32))
    _known: dict[bytes, tuple[Client, float]] = field(default_factory=dict)
    _reading: int = -1

    def find(self, authorization: bytes) -> Client | None:
        """Who proved itself by this header, while nothing can have changed about it."""
        if self._reading != self.clients.readings:
            self._known.clear()
            return None
        client, until = self._known.get(self._digest(authorization), (None, 0.0))
        return client if self.clock().timestamp() < until else None

    def remember(self, authorization: bytes, client: Client) -> None:
        """Notes a proof that was just given, for as long as every live secret of its client lives."""
        if self._reading != self.clients.readings or len(self._known) >= MOST:
            self._known.clear()
            self._reading = self.clients.readings
        now = self.clock()
        ends = [held.expires_at.timestamp() for held in client.secrets if held.expires_at and held.is_live(now)]
        self._known[self._digest(authorization)] = client, min(now.timestamp() + LIFE, *ends, float("inf"))

    def _digest(self, authorization: bytes) -> bytes:
        return sha256(self._key + authorization).digest()
