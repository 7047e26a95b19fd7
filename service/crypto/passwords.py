"""Password hashes: argon2id over a keyed digest, off the event loop, a bounded number at a time.

The pepper (NIST SP 800-63B-4 section 3.1.1.2) is an HMAC under a key of the environment: a stolen database alone
cannot be guessed against. A stored hash reads `<root key id>:<PHC string>`.
"""

import asyncio
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Lock, get_native_id
from typing import TypeVar

from argon2 import PasswordHasher, Type
from argon2.exceptions import InvalidHashError, VerificationError
from argon2.profiles import RFC_9106_LOW_MEMORY

from service.crypto.opaque import base64url
from service.crypto.roots import RootKeys
from service.errors import Unavailable

PEPPER = "password pepper"
RETRY_AFTER = 2

GIVING_WAY = 19
"""The niceness of threads that hash: on a busy machine every other request goes first."""

R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Cost:
    """What one hash costs; `memory` in KiB. The floor is ASVS appendix C, checked by the settings."""

    time: int
    memory: int
    parallelism: int


class Passwords:
    """Hashes and checks passwords in its own threads.

    At most `slots` hashes run at once (the number of cores when 0) and at most `queue` wait; whoever comes then is
    told to come back, because a longer queue would only hold answers that nobody waits for any more. `took` is told
    the seconds of each hash, in its thread, and `refused` of each that found the queue full.
    """

    def __init__(
        self,
        roots: RootKeys,
        cost: Cost,
        *,
        slots: int = 0,
        queue: int = 64,
        took: Callable[[float], None] = lambda _: None,
        refused: Callable[[], None] = lambda: None,
    ) -> None:
        self._roots, self._took, self._refused = roots, took, refused
        self._hasher = PasswordHasher(
            time_cost=cost.time,
            memory_cost=cost.memory,
            parallelism=cost.parallelism,
            hash_len=RFC_9106_LOW_MEMORY.hash_len,
            salt_len=RFC_9106_LOW_MEMORY.salt_len,
            type=Type.ID,
        )
        self._slots = slots or _cores()
        self._threads = ThreadPoolExecutor(self._slots, thread_name_prefix="argon2", initializer=_give_way)
        self._capacity = self._slots + queue
        self._busy = 0
        self._lock = Lock()
        self._decoy = self._hash_now(base64url(os.urandom(16)))

    @property
    def running(self) -> int:
        """Hashes that are computed at this moment."""
        return min(self._busy, self._slots)

    @property
    def waiting(self) -> int:
        """Hashes that wait for a slot."""
        return max(self._busy - self._slots, 0)

    async def hash(self, password: str) -> str:
        """A new salted hash. Raises `Unavailable` when too many wait."""
        return await self._in_thread(self._hash_now, password)

    async def verify(self, stored: str | None, password: str) -> bool:
        """Whether the password is the one behind `stored`.

        None (nobody, or an account without a password) takes as long as a wrong password: otherwise time would tell
        who exists. Raises `Unavailable` when too many wait.
        """
        matches = await self._in_thread(self._verify_now, stored or self._decoy, password)
        return matches and stored is not None

    def is_stale(self, stored: str) -> bool:
        """Whether `stored` was made with other parameters or an older pepper than today's."""
        key_id, _, phc = stored.partition(":")
        return key_id != str(self._roots.current) or self._hasher.check_needs_rehash(phc)

    def close(self) -> None:
        """Lets go of the threads; hashes under way are finished, waiting ones are dropped."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def ensure_room(self) -> None:
        """Raises `Unavailable` when too many wait: for who must not count an attempt that nobody will look at."""
        if self._busy >= self._capacity:
            self._refused()
            raise Unavailable("too many password hashes wait", retry_after=RETRY_AFTER)

    async def _in_thread(self, work: Callable[..., R], *args: object) -> R:
        self.ensure_room()
        with self._lock:
            self._busy += 1
        future = self._threads.submit(self._timed, work, *args)
        future.add_done_callback(lambda _: self._done())
        return await asyncio.wrap_future(future)

    def _timed(self, work: Callable[..., R], *args: object) -> R:
        started = time.perf_counter()
        try:
            return work(*args)
        finally:
            self._took(time.perf_counter() - started)

    def _done(self) -> None:
        with self._lock:
            self._busy -= 1

    def _hash_now(self, password: str) -> str:
        key_id = self._roots.current
        return f"{key_id}:{self._hasher.hash(self._peppered(password, key_id))}"

    def _verify_now(self, stored: str, password: str) -> bool:
        key_id, _, phc = stored.partition(":")
        try:
            return self._hasher.verify(phc, self._peppered(password, int(key_id)))
        except (VerificationError, InvalidHashError):
            return False
        except KeyError:  # the pepper is gone; that must take as long as everything else
            self._verify_now(self._decoy, password)
            return False

    def _peppered(self, password: str, key_id: int) -> bytes:
        return self._roots.mac(PEPPER, password.encode(), key_id)


def _cores() -> int:
    """The cores this process may run on, where the system tells."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def _give_way() -> None:
    """Linux alone has a priority for each thread."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, get_native_id(), GIVING_WAY)
