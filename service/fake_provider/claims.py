"""What the OpenID provider tells of a person: the claims of userinfo and of the ID token, and how these go wrong."""

from datetime import datetime
from hashlib import sha256
from typing import Any

from service.crypto.opaque import base64url, mint
from service.fake_provider.backstage import ANOTHER_ISSUER, Backstage
from service.fake_provider.grants import Grant
from service.fake_provider.people import Person
from service.fake_provider.reading import is_number

ID_TOKEN_LIFE = 600
HOUR = 3600
ANOTHER = "another-client"


def picture_of(person: Person, url: str) -> str:
    """An absolute URL; pictures of people who are ready are served here."""
    return f"{url}{person.picture}" if person.picture.startswith("/") else person.picture


def claims_of(grant: Grant, url: str) -> dict[str, Any]:
    """The claims of the scopes `profile` and `email`; what the person does not have is left out."""
    person, told = grant.person, dict[str, Any]()
    if "profile" in grant.scopes:
        told |= {"name": person.name, "preferred_username": person.username, "locale": person.locale}
        told["picture"] = picture_of(person, url)
    if "email" in grant.scopes and person.email:
        told |= {"email": person.email, "email_verified": person.email_verified}
    return {name: value for name, value in told.items() if value not in (None, "")}


def another(subject: str) -> str:
    """Somebody else's id, of the same shape."""
    return str(int(subject) + 1) if is_number(subject) else f"{subject}-2"


def id_token(backstage: Backstage, grant: Grant, issuer: str, access_token: str) -> str | None:
    """The signed token as the grant's fault has it; None without the scope `openid`, and where the fault says so."""
    if "openid" not in grant.scopes or grant.fault == "no_id_token":
        return None
    now = backstage.clock()
    claims = _claims(grant, now, issuer, access_token) | claims_of(grant, backstage.url)
    claims |= _flaw(grant, int(now.timestamp()))
    return backstage.keys.sign({name: value for name, value in claims.items() if value is not None}, grant.fault)


def _claims(grant: Grant, now: datetime, issuer: str, access_token: str) -> dict[str, Any]:
    return {
        "iss": issuer,
        "sub": grant.subject,
        "aud": grant.client_id,
        "iat": int(now.timestamp()),
        "exp": int(now.timestamp()) + ID_TOKEN_LIFE,
        "nonce": grant.nonce or None,
        "auth_time": None if grant.auth_time is None else int(grant.auth_time.timestamp()),
        "at_hash": _at_hash(access_token),
    }


def _flaw(grant: Grant, now: int) -> dict[str, Any]:
    """What the fault puts in the place of claims; None leaves one out."""
    flaws: dict[str, dict[str, Any]] = {
        "wrong_nonce": {"nonce": mint("nonce")},
        "no_nonce": {"nonce": None},
        "wrong_audience": {"aud": ANOTHER},
        "extra_audience": {"aud": [grant.client_id, ANOTHER]},
        "wrong_issuer": {"iss": ANOTHER_ISSUER},
        "expired": {"iat": now - 2 * HOUR, "exp": now - HOUR},
        "issued_in_future": {"iat": now + HOUR, "exp": now + 2 * HOUR},
        "wrong_at_hash": {"at_hash": _at_hash("another access token")},
        "no_subject": {"sub": None},
        "profile_only": {"email": None, "email_verified": None},
    }
    return flaws.get(grant.fault, {})


def _at_hash(access_token: str) -> str:
    """The left half of its SHA-256 (OpenID Connect Core section 3.1.3.6)."""
    return base64url(sha256(access_token.encode("ascii")).digest()[:16])
