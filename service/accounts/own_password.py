"""The password of somebody who is signed in, asked for again before what matters (ASVS 7.5.1)."""

from dataclasses import dataclass

from service.accounts.guesses import Guesses
from service.accounts.models import Account
from service.accounts.password_rules import ensure_hashable
from service.accounts.profile import Profile
from service.audit import Audit
from service.crypto.passwords import Passwords
from service.errors import InvalidCredentials
from service.tokens.principal import Principal


@dataclass(frozen=True, slots=True)
class OwnPassword:
    """Asks for it. A stolen access token must not become a stolen account by guessing."""

    profile: Profile
    passwords: Passwords
    guesses: Guesses
    audit: Audit

    async def prove(self, principal: Principal, password: str, field: str = "password") -> Account:
        """The account, once its password was given.

        Raises `InvalidCredentials`, `TooManyRequests`, and as at sign-in `AccountDisabled`, `PasswordChangeRequired`.
        """
        ensure_hashable(password, field)
        self.passwords.ensure_room()
        account = await self.profile.read(principal.account)
        attempt = await self.guesses.attempt_within(account, principal.claims.sid)
        is_right = await self.passwords.verify(account.password_hash, password)
        if not is_right or attempt.is_refused:
            self.audit.record("account.prove", "locked" if attempt.is_refused else "refused", account=account.id)
            raise InvalidCredentials("wrong password")
        await self.guesses.forgive_within(account, principal.claims.sid)
        account.ensure_may_enter()
        return account
