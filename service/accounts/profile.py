"""What people see and change of an account: their own, or the public part of another one."""

from dataclasses import dataclass
from urllib.parse import urlsplit
from uuid import UUID

import msgspec
from msgspec import UNSET, UnsetType

from service.accounts.avatars import Avatars
from service.accounts.models import Account
from service.accounts.names import nickname_key
from service.accounts.notices import Notices
from service.accounts.repository import AccountRepository, conflicts_named
from service.audit import Audit
from service.clock import Clock
from service.crypto.passwords import Passwords
from service.device import Device
from service.errors import FieldError, InvalidInput, InvalidToken, NotFound, NotYours
from service.languages import is_locale
from service.limits import Limits
from service.settings import Settings
from service.store.postgres import Database
from service.tokens.principal import Principal

URL_LIMIT = 2048


class Changes(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What to change; what is absent stays. `avatar_url` may be null."""

    nickname: str | UnsetType = UNSET
    avatar_url: str | UnsetType | None = UNSET
    locale: str | UnsetType = UNSET


@dataclass(frozen=True, slots=True)
class Profile:
    """Reads and changes accounts for people."""

    database: Database
    passwords: Passwords
    avatars: Avatars
    limits: Limits
    notices: Notices
    audit: Audit
    settings: Settings
    clock: Clock

    async def read(self, account: UUID) -> Account:
        """One's own account. Raises `InvalidToken` when it is gone: nobody is left whom the token could speak for."""
        found = await self._find(account)
        if found is None:
            raise InvalidToken("the account is gone")
        return found

    async def see(self, account: UUID) -> Account:
        """Anybody's account. Raises `NotFound`."""
        found = await self._find(account)
        if found is None:
            raise NotFound("no such account")
        return found

    async def change(self, account: UUID, changes: Changes, device: Device, *, by: Principal) -> Account:
        """Changes what is given, for the person or an administrator; another nickname is told by mail.

        Raises `NotYours`, `NotFound`, `InvalidInput`, `NicknameTaken`, `TooManyRequests`; for an administrator
        `StaleAuthentication`.
        """
        is_mine = by.account == account
        if not is_mine and not by.is_admin:
            raise NotYours("somebody else's account")
        if not is_mine:
            by.ensure_fresh(self.settings, self.clock)
        values = _checked(changes)
        await self.limits.take("change", self.settings.limit_change_account, str(by.account))
        seen = await (self.read(account) if is_mine else self.see(account))
        if is_mine:
            await self._ensure_not_password(seen, changes.nickname)
        with conflicts_named():
            async with self.database.begin() as transaction:
                found = await AccountRepository(session=transaction).held_for_change(account)
                if found is None:
                    raise InvalidToken("the account is gone") if is_mine else NotFound("no such account")
                before, picture = found.nickname, found.avatar_url
                for name, value in values.items():
                    setattr(found, name, value)
                await transaction.flush()
                if found.nickname != before:
                    names = {"old_nickname": before, "new_nickname": found.nickname}
                    teller = device if is_mine else Device.seen("", "")
                    self.notices.report(transaction, "nickname_changed", found, teller, **names)
        if found.avatar_url != picture:
            await self.avatars.discard(account, picture)
        self.audit.record("account.change", account=account, fields=sorted(values), by=str(by.account))
        return found

    async def _find(self, account: UUID) -> Account | None:
        async with self.database.look() as transaction:
            return await AccountRepository(session=transaction).get_one_or_none(Account.id == account)

    async def _ensure_not_password(self, account: Account, nickname: str | UnsetType) -> None:
        """A nickname is public: somebody who types the password into the wrong field must not publish it."""
        if not isinstance(nickname, str) or len(nickname) < self.settings.password_min_length:
            return
        if await self.passwords.verify(account.password_hash, nickname):
            detail = "The nickname is public, and this is your password. Take another one."
            raise InvalidInput(fields=[FieldError("nickname", "nickname_is_password", detail)])


def _checked(changes: Changes) -> dict[str, str | None]:
    values: dict[str, str | None] = {}
    if changes.nickname is not UNSET:
        values |= {"nickname": changes.nickname, "nickname_key": nickname_key(changes.nickname)}
    if changes.locale is not UNSET:
        if not is_locale(changes.locale):
            detail = "A language tag such as en, ko or ja-JP."
            raise InvalidInput(fields=[FieldError("locale", "locale_invalid", detail)])
        values["locale"] = changes.locale
    if changes.avatar_url is not UNSET:
        values["avatar_url"] = picture_url(changes.avatar_url)
    return values


def picture_url(url: str | None) -> str | None:
    """A link that a browser may load as a picture: https, no credentials, nothing that could be a script."""
    if url is None:
        return None
    try:
        parts = urlsplit(url)
        is_plain = url.isascii() and url.isprintable() and " " not in url and "\\" not in url
        is_fine = is_plain and parts.scheme == "https" and bool(parts.hostname) and parts.username is None
        is_fine = is_fine and parts.port != 0 and len(url) <= URL_LIMIT
    except ValueError:
        is_fine = False
    if not is_fine:
        detail = f"An https URL of at most {URL_LIMIT} characters, or null."
        raise InvalidInput(fields=[FieldError("avatar_url", "avatar_url_invalid", detail)])
    return url
