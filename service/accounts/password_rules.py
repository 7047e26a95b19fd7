"""Which passwords may be chosen: long enough, and not one of those that everybody tries (NIST SP 800-63B-4 3.1.1.2).

No composition rules, no trimming, no expiry. Length counts Unicode code points; the password is hashed as received.
"""

from dataclasses import dataclass

from service.accounts.breaches import BreachedPasswords
from service.crypto.blocklist import Blocklist
from service.errors import FieldError, InvalidInput

MAX_BYTES = 4096


@dataclass(frozen=True, slots=True)
class PasswordRules:
    """The rules of this installation."""

    minimum: int
    blocklist: Blocklist
    breaches: BreachedPasswords

    def ensure_acceptable(self, password: str, *, email: str, nickname: str, field: str = "password") -> None:
        """Raises `InvalidInput` that says why and what would do."""
        if len(password) < self.minimum:
            detail = f"A password has at least {self.minimum} characters. A few unrelated words are easy to remember."
            raise _refused(field, "password_too_short", detail)
        ensure_hashable(password, field)
        local, _, domain = email.partition("@")
        if self.blocklist.refuses(password, own=(local, domain, domain.partition(".")[0], nickname)):
            detail = "This password is among those that are tried first. A few unrelated words make a better one."
            raise _refused(field, "password_blocklisted", detail)

    async def ensure_not_leaked(self, password: str, field: str = "password") -> None:
        """Raises `InvalidInput` for a password that leaked elsewhere."""
        if await self.breaches.contain(password):
            detail = "This password has leaked from another service. Choose one that you use nowhere else."
            raise _refused(field, "password_leaked", detail)


def ensure_hashable(password: str, field: str = "password") -> None:
    """Raises `InvalidInput` for what is too long to be worth hashing, before it costs anything."""
    if len(password.encode()) > MAX_BYTES:
        raise _refused(field, "password_too_long", f"A password has at most {MAX_BYTES} bytes.")


def _refused(field: str, code: str, detail: str) -> InvalidInput:
    return InvalidInput(fields=[FieldError(field, code, detail)])
