"""What was decided at each authorization, and the codes and tokens that carry it. In memory, the newest of each."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Generic, TypeVar

from service.clock import Clock
from service.crypto.opaque import base64url, mint
from service.fake_provider.people import Person
from service.fake_provider.reading import Refused

KEPT = 1000
CODE_LIFE = timedelta(seconds=60)
VERIFIER = re.compile(r"[A-Za-z0-9._~-]{43,128}", re.ASCII)
Thing = TypeVar("Thing")


class Newest(Generic[Thing]):
    """The newest 1000 things by their names."""

    def __init__(self) -> None:
        self._things: dict[str, Thing] = {}

    def put(self, name: str, thing: Thing) -> None:
        """Keeps a thing, and forgets the oldest one when there are too many."""
        self._things[name] = thing
        if len(self._things) > KEPT:
            del self._things[next(iter(self._things))]

    def get(self, name: str) -> Thing | None:
        """The thing, if it is still here."""
        return self._things.get(name)

    def take(self, name: str) -> Thing | None:
        """The thing, for the last time."""
        return self._things.pop(name, None)


@dataclass(frozen=True, slots=True)
class Grant:
    """One decision. Its fault goes with its code and with every token that comes of it, and with no other.

    `auth_time` is when the person signed in at the provider, where the ID token is to say so.
    """

    site: str
    client_id: str
    redirect_uri: str
    scopes: tuple[str, ...]
    person: Person
    fault: str
    nonce: str
    challenge: str
    auth_time: datetime | None
    made_at: datetime

    @property
    def subject(self) -> str:
        """Who it is about, by their lasting id."""
        return self.person.subject_at(self.site)


@dataclass(frozen=True, slots=True)
class Access:
    """What an access token opens, and until when; None is for ever."""

    grant: Grant
    ends_at: datetime | None


class Grants:
    """Codes, access tokens and refresh tokens."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._codes = Newest[Grant]()
        self._access = Newest[Access]()
        self._refresh = Newest[Grant]()

    def new_code(self, grant: Grant) -> str:
        """A code, good once and for 60 seconds."""
        code = mint("fpc")
        self._codes.put(code, grant)
        return code

    def spend_code(self, site: str, client_id: str, form: Mapping[str, str]) -> Grant:
        """What the code in the form stands for; whatever comes of it, the code is used up. Raises `Refused`."""
        grant = self._codes.take(form.get("code", ""))
        if grant is None or (grant.site, grant.client_id) != (site, client_id):
            raise Refused("invalid_grant", "The code is unknown, was used before, or is another client's.")
        if self._clock() >= grant.made_at + CODE_LIFE:
            raise Refused("invalid_grant", "The code is over.")
        if form.get("redirect_uri") != grant.redirect_uri:
            raise Refused("invalid_grant", "redirect_uri is another one than at the authorization.")
        if not _proves(form.get("code_verifier", ""), grant.challenge):
            raise Refused("invalid_grant", "code_verifier does not fit code_challenge.")
        return grant

    def new_access_token(self, grant: Grant, life: float | None) -> str:
        """An access token for so many seconds; None is for ever."""
        token = mint("fpa")
        self._access.put(token, Access(grant, None if life is None else self._clock() + timedelta(seconds=life)))
        return token

    def opened_by(self, token: str, site: str) -> Grant | None:
        """What an access token stands for, while it lives and where it was issued."""
        access = self._access.get(token)
        if access is None or access.grant.site != site:
            return None
        return access.grant if access.ends_at is None or self._clock() < access.ends_at else None

    def new_refresh_token(self, grant: Grant) -> str:
        """A refresh token, good once."""
        token = mint("fpr")
        self._refresh.put(token, grant)
        return token

    def find_refresh_token(self, token: str, site: str, client_id: str) -> Grant:
        """What a refresh token stands for. Raises `Refused`."""
        grant = self._refresh.get(token)
        if grant is None or (grant.site, grant.client_id) != (site, client_id):
            raise Refused("invalid_grant", "The refresh token is unknown, was used before, or is another client's.")
        return grant

    def forget_refresh_token(self, token: str) -> None:
        """It was used."""
        self._refresh.take(token)


def _proves(verifier: str, challenge: str) -> bool:
    """S256 (RFC 7636). A verifier without a challenge is refused as well: somebody took the challenge away."""
    if not challenge:
        return not verifier
    return bool(VERIFIER.fullmatch(verifier)) and base64url(sha256(verifier.encode()).digest()) == challenge
