"""Who is asking: the network address and the software at the other end of a request."""

import ipaddress
from dataclasses import dataclass

from ua_parser import parse

USER_AGENT_LIMIT = 256
PLACE_LIMIT = 64


@dataclass(frozen=True, slots=True)
class Device:
    """One requester, as far as the transport tells.

    `address` comes from the peer or, when the peer is a trusted proxy, from what that proxy says (ASVS 15.3.4), and
    so does `place`, a coarse one, empty when nobody says. `mark` is the random value of the device cookie, if there
    is one, and `new_mark` one that may take its place. `language` is the one of ours that the person reads best.
    """

    address: str
    user_agent: str
    place: str = ""
    mark: str = ""
    new_mark: str = ""
    language: str = "en"

    @classmethod
    def seen(cls, address: str, user_agent: str, place: str = "", language: str = "en") -> "Device":
        """Cuts what the client says about itself and drops what is not printable (ASVS 1.3.3)."""
        return cls(
            address=address,
            user_agent=_printable(user_agent, USER_AGENT_LIMIT),
            place=_printable(place, PLACE_LIMIT),
            language=language,
        )

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


def device_name(user_agent: str) -> str:
    """What people call it, in no language: `Firefox, Linux`, or the beginning of what it says about itself."""
    told = parse(user_agent)
    names = [part.family for part in (told.user_agent, told.os) if part is not None and part.family != "Other"]
    return ", ".join(names) or user_agent[:PLACE_LIMIT]


def _printable(text: str, limit: int) -> str:
    text = text[:limit]
    return text if text.isprintable() else "".join(c for c in text if c.isprintable())
