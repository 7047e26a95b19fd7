"""One budget of guesses for everything that proves a person: passwords, codes, links.

Every guess counts before the secret is looked at. A network has a budget, a name has one for each network, and a
wider one for all of them together; asking for another code or link refills none. A device from which somebody signed
in before has a budget of its own, so that strangers neither lock an owner out nor slow them down (ASVS 6.1.1).

Besides, wrong passwords in a row are counted for as long as it takes (NIST SP 800-63B-4 3.2.2): at the limit the
password is refused to strangers until it is reset, while the owner's devices go on, each with a row of its own.
"""

import asyncio
from dataclasses import dataclass
from datetime import timedelta

from service.accounts.models import Account
from service.device import Device
from service.limits import Limits
from service.settings import Settings

REMEMBERED = timedelta(days=180)
FROM_ANYWHERE = "anywhere"


@dataclass(frozen=True, slots=True)
class Attempt:
    """A password that is about to be looked at. `failures` came before it in a row, from the same `origin`.

    The origin is the mark or the network of a device that signed in before, else `FROM_ANYWHERE`.
    """

    origin: str
    failures: int
    is_refused: bool
    is_last: bool

    @property
    def is_known_device(self) -> bool:
        return self.origin != FROM_ANYWHERE


@dataclass(frozen=True, slots=True)
class Guesses:
    """Counts them. Each method raises `Unavailable` when Redis is away; counting raises `TooManyRequests`."""

    limits: Limits
    settings: Settings

    async def count_network(self, device: Device) -> None:
        """One guess from a network, at whatever it may be."""
        await self.limits.take("guess-network", self.settings.limit_guess_network, device.network)

    async def count(self, name: str, account: Account | None, device: Device) -> None:
        """One guess at the secrets of a name, from a network that was counted."""
        if await self._has_known_mark(name, account, device):
            await self._count_mark(name, account, device)
        else:
            await self._count_name(name, account, device)

    async def attempt(self, name: str, account: Account | None, device: Device) -> Attempt:
        """Counts one password, in the budget and in the row of failures; `forgive` it when it was right.

        The network of a device with a mark is counted here, and not at all when the mark is known: a neighbour who
        uses up the network must not keep the owner out.
        """
        if await self._has_known_mark(name, account, device):
            origin = await self._count_mark(name, account, device)
        else:
            if device.mark:
                await self.count_network(device)
            origin = await self._count_name(name, account, device)
        who = _credentials(name, account)
        attempt = await self._failing(who, origin)
        if attempt.is_refused and origin == device.network:
            # A neighbour may have done that: from now on the network is one like any other.
            return await self._failing(who, FROM_ANYWHERE)
        return attempt

    async def knows(self, account: Account, device: Device) -> bool:
        """Whether the account was signed in to from this device or its network before."""
        who, origins = _credentials("", account), filter(None, (device.mark, device.network))
        return any([await self.limits.is_vouched("device", who, origin) for origin in origins])

    async def attempt_within(self, account: Account, session: str) -> Attempt:
        """The same for somebody who is signed in: their session is what makes the device known."""
        who = _credentials("", account)
        await self.limits.take("guess-session", self.settings.limit_guess_account_network, who, session)
        return await self._failing(who, session)

    async def forgive(self, name: str, account: Account | None, device: Device, origin: str) -> None:
        """Forgets the guesses at a name after a success that proves them honest.

        What strangers were refused stays refused: an owner who goes on at a device of theirs has not recovered it.
        """
        who = _credentials(name, account)
        strangers, _ = await asyncio.gather(
            self.limits.counted("password-failures", who, FROM_ANYWHERE),
            self.limits.forgive(
                ("guess-account-network", name, device.network),
                ("guess-account", name),
                ("guess-device", who, device.mark),
                ("password-failures", who, origin),
            ),
        )
        if strangers < self.settings.password_failures and origin != FROM_ANYWHERE:
            await self.limits.forgive(("password-failures", who, FROM_ANYWHERE))

    async def forgive_within(self, account: Account, session: str) -> None:
        """The same for somebody who is signed in."""
        who = _credentials("", account)
        await self.limits.forgive(("guess-session", who, session), ("password-failures", who, session))

    async def remember(self, account: Account, device: Device, before: Account | None = None) -> str:
        """Makes the device known from now on, and answers its mark: the one it has, unless that may be a stranger's.

        A reset or change of the password forgets every device but the one that made it; `before` is the account as it
        was until then.
        """
        who, life = _credentials("", account), self.settings.known_device_life
        mark = device.mark if await self._has_known_mark("", before or account, device) else device.new_mark
        origins = filter(None, (device.network, mark))
        await asyncio.gather(*(self.limits.vouch("device", life, who, origin) for origin in origins))
        return mark

    async def _has_known_mark(self, name: str, account: Account | None, device: Device) -> bool:
        return bool(device.mark) and await self.limits.is_vouched("device", _credentials(name, account), device.mark)

    async def _count_mark(self, name: str, account: Account | None, device: Device) -> str:
        rate = self.settings.limit_guess_account_network
        await self.limits.take("guess-device", rate, _credentials(name, account), device.mark)
        return device.mark

    async def _count_name(self, name: str, account: Account | None, device: Device) -> str:
        """The budget is that of the name as it was given, so that it tells nothing about whose name it is."""
        rate = self.settings.limit_guess_account_network
        await self.limits.take("guess-account-network", rate, name, device.network)
        if await self.limits.is_vouched("device", _credentials(name, account), device.network):
            return device.network
        await self.limits.take("guess-account", self.settings.limit_guess_account, name)
        return FROM_ANYWHERE

    async def _failing(self, who: str, origin: str) -> Attempt:
        """Counts before the password is looked at, so that parallel guesses cannot pass the limit."""
        times = await self.limits.count("password-failures", REMEMBERED, who, origin)
        most = self.settings.password_failures
        return Attempt(origin, times - 1, is_refused=times > most, is_last=times == most)


def _credentials(name: str, account: Account | None) -> str:
    """An account with the password it has now; a name that nobody has stands for itself."""
    return name if account is None else f"{account.id} {account.password_changed_at.timestamp()}"
