"""Another password for an account that is there: acceptable first, hashed then."""

from dataclasses import dataclass

from service.accounts.password_rules import PasswordRules
from service.crypto.passwords import Passwords


@dataclass(frozen=True, slots=True)
class NewPasswords:
    """Makes the hashes that are stored."""

    passwords: Passwords
    rules: PasswordRules

    async def hashed(self, password: str, *, email: str, nickname: str, field: str = "password") -> str:
        """The hash of a password that keeps all the rules. Raises `InvalidInput` that names the field."""
        self.rules.ensure_acceptable(password, email=email, nickname=nickname, field=field)
        await self.rules.ensure_not_leaked(password, field)
        return await self.passwords.hash(password)
