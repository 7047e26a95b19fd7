"""Signs access tokens (RFC 9068) and answers of introspection (RFC 9701); verifies access tokens and nothing else.

The order of the checks is the security (RFC 8725): shape, header, key by its id, signature, and only then a look at
any claim. The algorithm is the key's, never the token's; header members that could name another key are refused.
"""

from collections.abc import Collection
from datetime import datetime, timedelta
from typing import Annotated

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from jwt.algorithms import ECAlgorithm

from service import strict_json
from service.crypto.keyring import ALGORITHM, COORDINATE_BYTES, Keyring, SigningKey
from service.crypto.opaque import base64url, from_base64url
from service.errors import Unavailable

TYPE = "at+jwt"
ACCEPTED_TYPES = {"at+jwt", "application/at+jwt"}
MAX_TOKEN_LENGTH = 4096
TAIL = 86
"""Signs of an ES256 signature."""
ES256 = ec.ECDSA(SHA256())
MOST_HEADS = 64

Text = Annotated[str, msgspec.Meta(min_length=1)]
NumericDate = Annotated[int, msgspec.Meta(ge=0, le=2**43)]


class Claims(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """The claims of every access token (RFC 9068 section 2.2), times in seconds; no personal data.

    `scope` is left out when it is empty; `nbf` is read where a token has it, and never written.
    """

    iss: Text
    sub: Text
    aud: Text | tuple[Text, ...]
    exp: NumericDate
    iat: NumericDate
    jti: Text
    client_id: Text
    scope: str = ""
    nbf: NumericDate = 0


class PersonClaims(Claims, frozen=True, kw_only=True, gc=False):
    """A person speaks, through a session: `sub` is their account."""

    sid: Text
    auth_time: NumericDate
    amr: tuple[str, ...]
    roles: tuple[str, ...]


class ServiceClaims(Claims, frozen=True, kw_only=True, forbid_unknown_fields=True, gc=False):
    """A client speaks for itself: `sub` is its id (RFC 9068 section 2.2), and nothing of a person is in it."""


class Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    alg: str
    kid: Text
    typ: str


class Signer:
    """Speaks for one issuer to one audience, with `leeway` for clocks that differ."""

    def __init__(self, issuer: str, audience: str, leeway: timedelta) -> None:
        self.issuer = issuer
        self.audience = audience
        self._leeway = int(leeway.total_seconds())
        self._ecdsa = ECAlgorithm(ECAlgorithm.SHA256)
        self._heads: dict[str, str] = {}
        self._written: dict[tuple[str, str], str] = {}

    def sign(self, claims: Claims, keyring: Keyring, now: datetime) -> str | None:
        """The compact token, or None when no key may sign at this moment."""
        key = keyring.current(now)
        if key is None:
            return None
        return self._signed(msgspec.json.encode(claims), TYPE, key)

    def sign_document(self, document: bytes, kind: str, keyring: Keyring, now: datetime) -> str | None:
        """The compact form of another JSON document; `kind` is its `typ`, never that of an access token."""
        key = keyring.current(now)
        if key is None:
            return None
        return self._signed(document, kind, key)

    def _signed(self, payload: bytes, kind: str, key: SigningKey) -> str:
        """The compact serialization (RFC 7515 section 3.1); what PyJWT would make, without writing the header anew."""
        head = self._written.get((kind, key.kid))
        if head is None:
            header = msgspec.json.encode(Header(ALGORITHM, key.kid, kind))
            head = self._written[kind, key.kid] = base64url(header)
        signing_input = f"{head}.{base64url(payload)}"
        return f"{signing_input}.{base64url(self._ecdsa.sign(signing_input.encode(), key.private))}"

    def verify(
        self, token: str, keyring: Keyring, now: datetime, audiences: Collection[str] = ()
    ) -> PersonClaims | ServiceClaims | None:
        """The claims of a token that is ours, whole, for one of these audiences (our own by default) and in its time;
        None for every doubt. Raises `Unavailable` for a key that is there and cannot be read."""
        claims = self.authentic(token, keyring, now)
        is_good = claims is not None and self.in_force(claims, now) and self.is_for(claims, audiences)
        return claims if is_good else None

    def verify_ours(
        self, token: str, keyring: Keyring, now: datetime, late: int
    ) -> PersonClaims | ServiceClaims | None:
        """The claims of a token that we issued, for whichever audience, until so many seconds after its end: another
        worker, whose clock is behind, may still believe it."""
        claims = self.authentic(token, keyring, now)
        is_ours = claims is not None and claims.iss == self.issuer and claims.exp + late > now.timestamp()
        return claims if is_ours else None

    def authentic(self, token: str, keyring: Keyring, now: datetime) -> PersonClaims | ServiceClaims | None:
        """The claims of whatever a key of ours has signed as an access token. Raises `Unavailable`."""
        if len(token) > MAX_TOKEN_LENGTH or not token.isascii():
            return None
        signed, _, tail = token.rpartition(".")
        head, _, body = signed.partition(".")
        signature = from_base64url(tail) if len(tail) == TAIL else None
        if signature is None:
            return None
        kid = self._heads.get(head) or self._kid_of(head)
        key = keyring.find(kid, now) if kid is not None else None
        if key is not None and len(self._heads) < MOST_HEADS:
            self._heads[head] = key.kid  # every token of a key has the same: it is not read again
        if kid is not None and key is None and kid in keyring.unreadable:
            raise Unavailable(f"the signing key {kid} cannot be unsealed here")
        if key is None or not _is_signed(signed.encode(), key, signature):
            return None
        payload = from_base64url(body)
        return _read_claims(payload) if payload is not None else None

    def in_force(self, claims: Claims, now: datetime) -> bool:
        """Whether claims are ours, and in their time."""
        moment = int(now.timestamp())
        return (
            claims.iss == self.issuer
            and claims.exp > moment
            and claims.iat <= moment + self._leeway
            and claims.nbf <= moment + self._leeway
        )

    def is_for(self, claims: Claims, audiences: Collection[str] = ()) -> bool:
        """Whether claims are for one of these audiences, our own by default."""
        wanted, aud = audiences or (self.audience,), claims.aud
        return aud in wanted if isinstance(aud, str) else any(audience in wanted for audience in aud)

    def _kid_of(self, head: str) -> str | None:
        """The key that a header names, None for a header of anything but our access tokens."""
        header = _read_header(from_base64url(head))
        if header is None or header.alg != ALGORITHM or header.typ.lower() not in ACCEPTED_TYPES:
            return None
        return header.kid


def _is_signed(signing_input: bytes, key: SigningKey, signature: bytes) -> bool:
    """ES256 (RFC 7518 section 3.4): r and s, 32 bytes each. Without the detours of PyJWT, which cost a tenth of it."""
    r, s = int.from_bytes(signature[:COORDINATE_BYTES]), int.from_bytes(signature[COORDINATE_BYTES:])
    try:
        key.public.verify(encode_dss_signature(r, s), signing_input, ES256)
    except InvalidSignature:
        return False
    return True


def _read_claims(payload: bytes) -> PersonClaims | ServiceClaims | None:
    kind: type[PersonClaims | ServiceClaims] = PersonClaims if b'"sid":' in payload else ServiceClaims
    try:
        claims = msgspec.json.decode(payload, type=kind)
        if msgspec.json.encode(claims) == payload and b"\\u0000" not in payload:
            return claims  # byte for byte as we write it: there is no second way to read it
        document = strict_json.loads(payload)
        if isinstance(document, dict) and "sid" in document:
            return msgspec.json.decode(payload, type=PersonClaims)
        return msgspec.json.decode(payload, type=ServiceClaims)
    except (ValueError, msgspec.ValidationError):
        return None


def _read_header(raw: bytes | None) -> Header | None:
    try:
        return msgspec.convert(strict_json.loads(raw or b""), Header)
    except (ValueError, msgspec.ValidationError):
        return None
