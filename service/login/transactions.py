"""Sign-ins that wait for a provider: each for one browser, good once, for ten minutes (ASVS 10.1.2, RFC 9700 4.4)."""

import hmac
import secrets
from dataclasses import dataclass
from uuid import UUID

import msgspec

from service.crypto import opaque
from service.crypto.pkce import new_verifier
from service.crypto.roots import RootKeys
from service.crypto.sealing import UnsealError, seal, unseal
from service.settings import Settings
from service.store.redis import RedisStore

BROWSER_PREFIX = "vsb"
STATE_PREFIX = "vss"
STATE_PURPOSE = "provider state"
BROWSER_PURPOSE = "provider browser"
NONCE_BYTES = 32


class Waiting(msgspec.Struct, frozen=True, kw_only=True):
    """One transaction: what was asked of whom, and where its person wants to go. Linking has an account and a session.

    `verifier` and `nonce` never leave the service but to the provider they are for. `mark` is the device's, and `left`
    the session that the browser has: on the way back from another site it keeps those cookies to itself.
    """

    provider: str
    issuer: str
    redirect_uri: str
    next: str
    client_id: str
    browser: str
    nonce: str
    verifier: str
    account: UUID | None = None
    session: bytes = b""
    password_changed_at: float = 0
    mark: str = ""
    left: tuple[UUID, bytes] | None = None


@dataclass(frozen=True, slots=True)
class Transactions:
    """Keeps them in Redis, sealed, under a digest of their state. Raises `Unavailable`."""

    store: RedisStore
    roots: RootKeys
    settings: Settings

    def browser(self, presented: str) -> str:
        """The value that ties transactions to a browser: the one it has, or a new one."""
        return presented if opaque.decode(BROWSER_PREFIX, presented) else opaque.mint(BROWSER_PREFIX)

    def secrets(self) -> tuple[str, str]:
        """A nonce and a verifier, never used before."""
        return secrets.token_urlsafe(NONCE_BYTES), new_verifier()

    async def hold(self, waiting: Waiting, browser: str) -> str:
        """Keeps a transaction and answers its state."""
        state = opaque.mint(STATE_PREFIX)
        bound = msgspec.structs.replace(waiting, browser=self._digest(BROWSER_PURPOSE, browser))
        key = self._key(state)
        life = int(self.settings.provider_transaction_life.total_seconds())
        await self.store.put(key, seal(self.roots, msgspec.json.encode(bound), key), life)
        return state

    async def take(self, state: str, browser: str, provider: str) -> Waiting | None:
        """The transaction of a state, which is over with this; None unless browser and provider are the ones it began
        with."""
        if not opaque.decode(STATE_PREFIX, state):
            return None
        key = self._key(state)
        sealed = await self.store.pick(key)
        if sealed is None:
            return None
        try:
            waiting = msgspec.json.decode(unseal(self.roots, sealed, key), type=Waiting)
        except UnsealError:
            return None
        is_theirs = hmac.compare_digest(waiting.browser, self._digest(BROWSER_PURPOSE, browser))
        return waiting if is_theirs and waiting.provider == provider else None

    def _key(self, state: str) -> str:
        return f"social:{self._digest(STATE_PURPOSE, state)}"

    def _digest(self, purpose: str, text: str) -> str:
        return self.roots.mac(purpose, text.encode(), self.roots.oldest).hex()
