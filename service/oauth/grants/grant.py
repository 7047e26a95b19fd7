"""What every grant of `POST /token` has in common."""

from dataclasses import dataclass
from typing import Protocol

from service.device import Device
from service.tokens.clients import Client
from service.tokens.transport import TokenAnswer


@dataclass(frozen=True, slots=True)
class TokenRequest:
    """A request of an authenticated client that is registered for the grant."""

    client: Client
    form: dict[str, str]
    device: Device


class GrantType(Protocol):
    """One `grant_type`. Another one is another file, named in `wiring.py` and in `client_rules.py`."""

    async def __call__(self, request: TokenRequest) -> TokenAnswer:
        """The tokens. Raises the refusals of RFC 6749 section 5.2."""
