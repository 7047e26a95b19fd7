"""How many mails an address may get because somebody names it."""

from dataclasses import dataclass
from typing import Literal

from service.device import Device
from service.limits import Limits
from service.settings import Settings

Kind = Literal["sign-up", "reset", "address"]


@dataclass(frozen=True, slots=True)
class MailBudget:
    """Keeps strangers from filling a mailbox. What is beyond is not mailed, which does not show."""

    limits: Limits
    settings: Settings

    async def allows(self, kind: Kind, email: str, device: Device) -> bool:
        """Counts one mail. A network has a budget within that of the address: strangers do not spend the owner's.

        Each kind has its own, or sign-ups with somebody's address would keep their reset links from them.
        """
        rate = self.settings.limit_mail_address_network
        return await self.limits.allows("mail-address-network", rate, kind, email, device.network) and (
            await self.limits.allows("mail-address", self.settings.limit_mail_address, kind, email)
        )
