"""Avatars: one picture per account, painted anew, in a folder or a bucket."""

import asyncio
import re
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from urllib.parse import unquote, urlsplit
from uuid import UUID

import structlog
from obstore.exceptions import BaseError
from obstore.store import LocalStore, MemoryStore, S3Store
from sqlalchemy import select, update

from service.accounts.models import Account
from service.accounts.pictures import Studio
from service.audit import Audit
from service.clock import Clock
from service.errors import InvalidToken, NotFound, ServiceError, Unavailable
from service.limits import Limits
from service.problems import BodyTooLarge
from service.setting_values import SettingsError
from service.settings import Settings
from service.store.postgres import Database

log = structlog.get_logger("vestibule.avatars")

Store = LocalStore | MemoryStore | S3Store

MOST_BYTES = 2 * 1024 * 1024
NAME = re.compile(r"[0-9a-f]{32}\.webp", re.ASCII)
STORAGE_SECONDS = 5.0
"""How long one step of the storage may take, with everything that its client tries again."""
LEFT_BEHIND = timedelta(hours=1)
"""An object that nobody removed is a leftover when it is this old; a younger one may be an upload under way."""


class AvatarsNotOffered(ServiceError):
    status = 404
    code = "avatars_not_offered"
    detail = "This service keeps no avatars."


class Avatars:
    """Keeps, shows and forgets avatars. An object is `{account}/{128 random bits}.webp`, never a person's words.

    Each PUT removes the object that its own row change replaced, so that of many at once the last one's stays.
    """

    def __init__(
        self,
        database: Database,
        limits: Limits,
        audit: Audit,
        settings: Settings,
        clock: Clock,
        *,
        store: Store | None,
    ) -> None:
        self.database = database
        self.limits = limits
        self.audit = audit
        self.settings = settings
        self.clock = clock
        self.store = store
        self.studio = Studio()

    async def replace(self, account: UUID, raw: bytes) -> str:
        """Makes this upload the account's avatar and answers its URL.

        Raises `NotAPicture`, `InvalidInput`, `BodyTooLarge`, `TooManyRequests`, `AvatarsNotOffered`, and
        `InvalidToken` when the account is gone.
        """
        store = self._offered()
        await self._count(account)
        if len(raw) > MOST_BYTES:
            raise BodyTooLarge("a picture over 2 MiB")
        picture = await self.studio.reencoded(raw)
        name = f"{secrets.token_hex(16)}.webp"
        async with _storage():
            await store.put_async(f"{account}/{name}", picture, mode="create", use_multipart=False)
        url = f"{self.settings.issuer}/avatars/{account}/{name}"
        try:
            replaced = await self._point_at(account, url)
        except InvalidToken:
            await self._tidy(store, account, {name})
            raise
        self.audit.record("account.avatar", "ok", account=account)
        await self._tidy(store, account, {_own(replaced, account)} - {name})
        return url

    async def remove(self, account: UUID) -> None:
        """Takes the avatar away: the picture first, so that nothing is left to show once this was answered."""
        await self._count(account)
        url = await self._url(account)
        if self.store is not None:
            async with _storage():
                await self._sweep(self.store, account, {_own(url, account)})
        if url is not None:
            await self._forget_url(account, url)
            self.audit.record("account.avatar", "removed", account=account)

    async def read(self, account: UUID, name: str) -> bytes:
        """The picture of this name. Raises `NotFound`, `AvatarsNotOffered`."""
        store = self._offered()
        if not NAME.fullmatch(name):
            raise NotFound("not the name of an avatar")
        async with _storage():
            try:
                found = await store.get_async(f"{account}/{name}")
                return bytes(await found.bytes_async())
            except FileNotFoundError:
                raise NotFound("no such avatar") from None

    async def discard(self, account: UUID, url: str | None) -> None:
        """Removes the picture that an account showed until now; what fails here is removed by the next change."""
        if self.store is not None and url is not None:
            await self._tidy(self.store, account, {_own(url, account)})

    async def ensure_reachable(self, account: UUID) -> None:
        """Raises `Unavailable` when pictures could not be removed at this moment."""
        if self.store is not None:
            async with _storage():
                await self.store.list(str(account)).collect_async()

    async def forget(self, account: UUID) -> None:
        """Removes every picture of an account. Call it once the row is gone: an upload under way then ends itself."""
        if self.store is not None:
            async with _storage():
                await self._sweep(self.store, account, set(), everything=True)

    def close(self) -> None:
        """Lets go of the thread."""
        self.studio.close()

    def _offered(self) -> Store:
        if self.store is None:
            raise AvatarsNotOffered("VESTIBULE_AVATAR_STORE is empty")
        return self.store

    async def _count(self, account: UUID) -> None:
        await self.limits.take("change", self.settings.limit_change_account, str(account))

    async def _point_at(self, account: UUID, url: str) -> str | None:
        """Changes the row and answers what was there. Raises `InvalidToken` when the account is gone."""
        async with self.database.begin() as transaction:
            row = select(Account.avatar_url).where(Account.id == account).with_for_update()
            before = (await transaction.execute(row)).one_or_none()
            if before is None:
                raise InvalidToken("the account is gone")
            await transaction.execute(update(Account).where(Account.id == account).values(avatar_url=url))
            replaced: str | None = before.avatar_url
            return replaced

    async def _url(self, account: UUID) -> str | None:
        async with self.database.look() as transaction:
            row = (await transaction.execute(select(Account.avatar_url).where(Account.id == account))).one_or_none()
        if row is None:
            raise InvalidToken("the account is gone")
        url: str | None = row.avatar_url
        return url

    async def _forget_url(self, account: UUID, url: str) -> None:
        """Clears the row, unless a new avatar came meanwhile."""
        statement = update(Account).where(Account.id == account, Account.avatar_url == url).values(avatar_url=None)
        async with self.database.begin() as transaction:
            await transaction.execute(statement)

    async def _tidy(self, store: Store, account: UUID, names: set[str]) -> None:
        """Removes what a change left over; what fails here is removed by the next change."""
        try:
            async with _storage():
                await self._sweep(store, account, names)
        except Unavailable as error:
            log.warning("an old avatar could not be removed", account=str(account), reason=error.reason)

    async def _sweep(self, store: Store, account: UUID, names: set[str], *, everything: bool = False) -> None:
        """Removes the objects of these names, and leftovers; `everything` spares none."""
        old = self.clock() - LEFT_BEHIND
        for found in await store.list(str(account)).collect_async():
            if everything or found["path"].rpartition("/")[2] in names or found["last_modified"] < old:
                try:
                    await store.delete_async(found["path"])
                except FileNotFoundError:
                    continue  # somebody else removed it


def open_store(settings: Settings) -> Store | None:
    """The storage of `VESTIBULE_AVATAR_STORE`; None when it is empty. Raises `SettingsError`.

    Nothing is asked over the network yet. A bucket's region, endpoint and credentials are the usual `AWS_…` variables.
    """
    if not settings.avatar_store:
        return None
    url = urlsplit(settings.avatar_store)
    if url.query or url.fragment or url.username is not None:
        raise SettingsError("VESTIBULE_AVATAR_STORE takes no query, fragment or credentials: those are AWS_… variables")
    try:
        return _open(url.scheme, url.netloc, unquote(url.path))
    except (BaseError, ValueError, OSError) as error:
        raise SettingsError(f"VESTIBULE_AVATAR_STORE cannot be opened: {type(error).__name__}") from None


def _open(scheme: str, bucket: str, path: str) -> Store:
    if scheme == "memory":
        return MemoryStore()
    if scheme == "file":
        folder = Path(path)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return LocalStore(folder, automatic_cleanup=True)
    if scheme != "s3" or not bucket:
        raise ValueError(scheme)
    return S3Store(
        bucket,
        prefix=path.strip("/") or None,
        # Options given here put AWS_ALLOW_HTTP out of force; an endpoint without TLS is the operator's own choice.
        client_options={"connect_timeout": timedelta(seconds=1), "timeout": timedelta(seconds=2), "allow_http": True},
        retry_config={"max_retries": 2, "retry_timeout": timedelta(seconds=4)},
    )


def _own(url: str | None, account: UUID) -> str:
    """The name of the object behind a URL; nothing for another site's."""
    head, _, name = (url or "").rpartition("/")
    return name if head.endswith(f"/avatars/{account}") and NAME.fullmatch(name) else ""


@asynccontextmanager
async def _storage() -> AsyncIterator[None]:
    """Steps of the storage, within five seconds: any failure becomes `Unavailable`."""
    try:
        async with asyncio.timeout(STORAGE_SECONDS):
            yield
    except (BaseError, OSError, ValueError, RuntimeError) as error:
        raise Unavailable(f"avatars: {type(error).__name__}") from None
