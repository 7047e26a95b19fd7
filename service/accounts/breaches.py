"""Passwords that leaked elsewhere (ASVS 6.2.12), asked of a service with the range protocol of Pwned Passwords.

Five of the forty hexadecimal digits of a SHA-1 leave this host; the answer lists the rest of every leaked password
that begins alike, padded, so that not even its length tells. SHA-1 is what the protocol fixes.
"""

from dataclasses import dataclass
from hashlib import sha1

import httpx
import structlog

log = structlog.get_logger("vestibule.breaches")

PREFIX_LENGTH = 5
HEADERS = {"Add-Padding": "true", "User-Agent": "vestibule"}


@dataclass(frozen=True, slots=True)
class BreachedPasswords:
    """Asks `url` + five digits; knows nothing when the URL is empty. `timeout` in seconds."""

    url: str
    timeout: float
    transport: httpx.AsyncBaseTransport | None = None

    async def contain(self, password: str) -> bool:
        """Whether the password leaked. When the service does not answer, the local block list has to do."""
        if not self.url:
            return False
        digest = sha1(password.encode(), usedforsecurity=False).hexdigest().upper()
        try:
            return digest[PREFIX_LENGTH:] in await self._leaked(digest[:PREFIX_LENGTH])
        except (httpx.HTTPError, UnicodeError) as error:
            log.warning("breached passwords were not looked up", reason=type(error).__name__)
            return False

    async def _leaked(self, prefix: str) -> set[str]:
        async with httpx.AsyncClient(transport=self.transport, timeout=self.timeout, headers=HEADERS) as client:
            answer = await client.get(self.url + prefix)
        answer.raise_for_status()
        lines = (line.partition(":") for line in answer.text.splitlines())
        return {suffix.strip().upper() for suffix, _, count in lines if count.strip() != "0"}
