"""Pending sign-ups: they live in Redis alone, until their address is proved or a day has passed.

The `registration` handle is the pending id with a MAC, so that whoever proves the chosen password at sign-in can be
given it again although no store holds it. A mailed link names the sign-up too, and alone opens nothing: it takes the
handle of the browser that signed up, or the password that was chosen there.
"""

import hmac
import secrets
from dataclasses import dataclass, field
from typing import Literal, cast

from service.crypto import opaque
from service.crypto.roots import RootKeys
from service.settings import Settings
from service.store.redis import RedisStore

HANDLE_PREFIX = "vrg"
LINK_PREFIX = "vlk"
HANDLE_PURPOSE = "registration handle"
ADDRESS_PURPOSE = "pending address"
CHOSEN_PURPOSE = "pending password"
ID_BYTES = 16
MAC_BYTES = 16
SECRET_BYTES = 32
CODE_SPACE = 1_000_000

CLAIM_MS = 10_000

Proof = Literal["code", "link"]
PROOF_PURPOSES: dict[Proof, str] = {"code": "verification code", "link": "verification link"}
Outcome = Literal["right", "claimed", "wrong", "burnt", "unknown"]


@dataclass(frozen=True, slots=True)
class PendingSignUp:
    """Somebody who chose a password and a nickname, and says to own an address.

    `address_known`: an account with the address exists; no code can ever prove this one. `tries` is how many were
    spent on its code when it was read.
    """

    id: str
    email: str
    nickname: str
    password_hash: str
    address_known: bool
    language: str
    tries: int = 0
    chosen_digest: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Proofs:
    """What a mail carries: six digits, and the token of a link."""

    code: str
    link: str


@dataclass(frozen=True, slots=True)
class PendingSignUps:
    """Keeps sign-ups until they are proved. Raises `Unavailable` when Redis is away."""

    store: RedisStore
    roots: RootKeys
    settings: Settings

    async def hold(
        self, email: str, nickname: str, password: str, password_hash: str, *, address_known: bool, language: str
    ) -> PendingSignUp:
        """Keeps a new sign-up, without a code yet; of the password its hash, and a keyed digest for `chosen`."""
        pending = PendingSignUp(secrets.token_hex(ID_BYTES), email, nickname, password_hash, address_known, language)
        seconds = int(self.settings.registration_life.total_seconds())
        fields = {
            "email": email,
            "nickname": nickname,
            "hash": password_hash,
            "known": str(int(address_known)),
            "language": language,
            "tries": "0",
            "chosen": self._chosen_digest(pending.id, password),
        }
        flat = [part for pair in fields.items() for part in pair]
        await self.store.run("hold", _key(pending.id), seconds * 1000, *flat)
        await self.store.put(self._address_key(email), pending.id, seconds)
        await self.store.add(self._all_key(email), pending.id, seconds)
        return pending

    async def new_proofs(self, pending: PendingSignUp) -> Proofs:
        """Puts a fresh code and link in the place of the last ones; the spent tries stay spent."""
        code = f"{secrets.randbelow(CODE_SPACE):06d}"
        link = opaque.encode(LINK_PREFIX, bytes.fromhex(pending.id) + secrets.token_bytes(SECRET_BYTES))
        # For a known address the digests are of something else: no guess can be right, and the work is the same.
        provable = [secrets.token_hex(ID_BYTES) if pending.address_known else proof for proof in (code, link)]
        await self.store.run(
            "renew",
            _key(pending.id),
            self._proof_digest(pending.id, "code", provable[0]),
            int(self.settings.code_life.total_seconds() * 1000),
            self._proof_digest(pending.id, "link", provable[1]),
            int(self.settings.verify_link_life.total_seconds() * 1000),
        )
        return Proofs(code, link)

    async def redeem(self, pending: PendingSignUp, kind: Proof, presented: str) -> Outcome:
        """Counts one try and compares. What is right is claimed for ten seconds: `release` it or `forget` all."""
        digest = self._proof_digest(pending.id, kind, presented)
        answer = await self.store.run("redeem", _key(pending.id), kind, digest, self.settings.code_tries, CLAIM_MS)
        return cast("Outcome", answer.decode())

    def chose(self, pending: PendingSignUp, password: str) -> bool:
        """Whether this is the password of the sign-up, in no time: sign-in must not take longer for a pending one.

        See deploy/decisions/0005: the digest is keyed by the environment and lives as long as the sign-up.
        """
        return hmac.compare_digest(self._chosen_digest(pending.id, password), pending.chosen_digest)

    async def release(self, pending: PendingSignUp) -> None:
        """Gives back what was claimed, since nothing came of it."""
        await self.store.drop_field(_key(pending.id), "claimed")

    async def find(self, handle: str) -> PendingSignUp | None:
        """The sign-up behind a handle."""
        body = opaque.decode(HANDLE_PREFIX, handle)
        if body is None or len(body) != ID_BYTES + MAC_BYTES:
            return None
        pending_id = body[:ID_BYTES].hex()
        return await self._read(pending_id) if hmac.compare_digest(self._mac(pending_id), body[ID_BYTES:]) else None

    async def find_by_link(self, token: str) -> PendingSignUp | None:
        """The sign-up that a link names; whether the link is good is for `redeem` to say."""
        body = opaque.decode(LINK_PREFIX, token)
        if body is None or len(body) != ID_BYTES + SECRET_BYTES:
            return None
        return await self._read(body[:ID_BYTES].hex())

    async def latest_of(self, email: str) -> PendingSignUp | None:
        """The newest sign-up for an address."""
        found = await self.store.get(self._address_key(email))
        return await self._read(found.decode() if found else "")  # the same work when there is none

    async def forget_all(self, email: str) -> None:
        """Ends every sign-up for an address, whoever began it: it was proved, or its person is being forgotten."""
        held = [_key(pending_id.decode()) for pending_id in await self.store.members(self._all_key(email))]
        await self.store.delete(*held)
        await self.store.delete(self._all_key(email), self._address_key(email))  # by these what is left would be found

    def handle(self, pending: PendingSignUp) -> str:
        """The `vrg_…` that its holder presents together with the code."""
        return opaque.encode(HANDLE_PREFIX, bytes.fromhex(pending.id) + self._mac(pending.id))

    async def _read(self, pending_id: str) -> PendingSignUp | None:
        fields = await self.store.fields(_key(pending_id))
        if not fields:
            return None
        return PendingSignUp(
            id=pending_id,
            email=fields["email"].decode(),
            nickname=fields["nickname"].decode(),
            password_hash=fields["hash"].decode(),
            address_known=fields["known"] == b"1",
            language=fields["language"].decode(),
            tries=int(fields["tries"]),
            chosen_digest=fields["chosen"].decode(),
        )

    def _mac(self, pending_id: str) -> bytes:
        return self.roots.mac(HANDLE_PURPOSE, bytes.fromhex(pending_id), self.roots.oldest)[:MAC_BYTES]

    def _chosen_digest(self, pending_id: str, password: str) -> str:
        return self.roots.mac(CHOSEN_PURPOSE, f"{pending_id}:{password}".encode(), self.roots.oldest).hex()

    def _proof_digest(self, pending_id: str, kind: Proof, presented: str) -> str:
        return self.roots.mac(PROOF_PURPOSES[kind], f"{pending_id}:{presented}".encode(), self.roots.oldest).hex()

    def _all_key(self, email: str) -> str:
        return f"signups-of:{self.roots.mac(ADDRESS_PURPOSE, email.encode(), self.roots.oldest).hex()}"

    def _address_key(self, email: str) -> str:
        return f"signup-of:{self.roots.mac(ADDRESS_PURPOSE, email.encode(), self.roots.oldest).hex()}"


def _key(pending_id: str) -> str:
    return f"signup:{pending_id}"
