"""What argon2 alone allows on these cores, and a flood of sign-ins."""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from argon2 import PasswordHasher, Type

from deploy.bench.house import PASSWORD
from deploy.bench.load import Answers, Load, finished, run, start
from deploy.bench.measure import Meter, Sample
from deploy.bench.rounds import NOTHING, WARM_UP, Step
from service.settings import Settings

LONGER = 2
"""Sign-ins are few: they are counted for so many times longer than anything else."""
RISES = 1.0
"""Seconds of a flood before anything is measured in it."""


CALM = 2.0
"""Seconds in which the hashes are computed that still stand in line: the next figure must not pay for them."""


@dataclass
class Alone(Step):
    """Verifies the password in as many threads as there are slots, with the cost of the settings."""

    name: str
    settings: Settings
    slots: int

    def prepare(self, rounds: int, seconds: float) -> None:
        """Makes the hash."""
        given = self.settings
        self._hasher = PasswordHasher(
            given.argon2_time_cost, given.argon2_memory_kib, given.argon2_parallelism, type=Type.ID
        )
        self._hash = self._hasher.hash(PASSWORD)

    def sample(self, seconds: float) -> Sample:
        """Counts until the last thread is done."""
        began = time.perf_counter()
        with ThreadPoolExecutor(self.slots) as threads:
            done = sum(threads.map(self._verify, [began + seconds * LONGER] * self.slots))
        return Sample(rate=done / (time.perf_counter() - began))

    def _verify(self, until: float) -> int:
        done = 0
        while time.perf_counter() < until:
            self._hasher.verify(self._hash, PASSWORD)
            done += 1
        return done


@dataclass
class SignIns(Step):
    """People sign in, of whom the service knows the device."""

    name: str
    meter: Meter
    load: Load
    checked: Answers = NOTHING

    def prepare(self, rounds: int, seconds: float) -> None:
        """Everybody signs in for the first time, which mails them."""
        run(self.load, max(seconds, WARM_UP), check=True)
        self.checked = run(self.load, max(seconds, WARM_UP), check=True)

    def sample(self, seconds: float) -> Sample:
        """The load for longer."""
        try:
            return self.meter.sample(self.load, seconds * LONGER, self.checked)
        finally:
            time.sleep(CALM)


@dataclass
class Flooded(Step):
    """A load while sign-ins keep every slot busy and wait in line."""

    name: str
    meter: Meter
    load: Load
    flood: Load
    checked: Answers = NOTHING

    def prepare(self, rounds: int, seconds: float) -> None:
        """Both by themselves."""
        run(replace(self.flood, connections=1), WARM_UP, check=True)
        self.checked = run(self.load, min(seconds, WARM_UP), check=True)

    def sample(self, seconds: float) -> Sample:
        """The load, while the flood goes on around it."""
        lasts = seconds + 2 * RISES
        flood = start(self.flood, lasts)
        time.sleep(RISES)
        try:
            return self.meter.sample(self.load, seconds, self.checked)
        finally:
            finished(flood, lasts)
            time.sleep(CALM)
