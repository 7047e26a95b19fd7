"""Who is asking: the network address and the software at the other end of a request."""

import ipaddress
from dataclasses import dataclass

USER_AGENT_LIMIT = 256


@dataclass(frozen=True, slots=True)
class Device:
    """One requester, as far as the transport tells.

    `address` comes from the peer or, when the peer is a trusted proxy, from what that proxy says (ASVS 15.3.4).
    """

    address: str
    user_agent: str

    @classmethod
    def seen(cls, address: str, user_agent: str) -> "Device":
        """Cuts the user agent to 256 characters and drops what is not printable (ASVS 1.3.3)."""
        printable = "".join(c for c in user_agent[:USER_AGENT_LIMIT] if c.isprintable())
        return cls(address=address, user_agent=printable)

    @property
    def network(self) -> str:
        """What limits count: the IPv4 address, or the /64 that one IPv6 customer owns whole."""
        try:
            parsed = ipaddress.ip_address(self.address)
        except ValueError:
            return self.address
        if isinstance(parsed, ipaddress.IPv4Address):
            return str(parsed)
        if parsed.ipv4_mapped:
            return str(parsed.ipv4_mapped)
        return str(ipaddress.ip_network((parsed, 64), strict=False))
