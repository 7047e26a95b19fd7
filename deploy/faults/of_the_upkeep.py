"""Keys that turn over, a file of secrets that is broken, a log that nobody reads."""

import fcntl
import os
import threading
import time
from collections import Counter
from contextlib import suppress

import httpx

from deploy.faults.judging import is_active, recovery
from deploy.faults.load import Crowd, Load, header, signed_in
from deploy.faults.table import Fault, Finding
from deploy.faults.vestibule import DidNotStart, command, instance
from deploy.faults.world import House, World

SMALLEST_PIPE = 4096
NOISE = 150
LONGEST_SILENCE = 60.0
BLOCKED = 1.0
TURNS = 2


def keys_turn(world: World) -> Finding:
    with world.house(settings={"jwks_max_age": "1", "key_refresh": "0.5"}) as house, house.http() as http:
        with Load(house, Crowd.gather(house)) as load, load.fault():
            verifier, end = Verifier(http), threading.Event()
            turning = threading.Thread(target=_turn, args=(house, end))
            turning.start()
            while not end.is_set():
                verifier.look(load.crowd.renew[0].access)
                time.sleep(0.1)
            turning.join()
        finding = everything_after(load)
    finding.seen.append(
        f"{len(verifier.signed_by)} keys signed, {verifier.looks} looks, {verifier.unknown} unverifiable"
    )
    finding.expect(len(verifier.signed_by) > 1, "no key took over")
    finding.expect(verifier.unknown == 0, f"{verifier.unknown} unverifiable tokens")
    return finding


def everything_after(load: Load) -> Finding:
    """The examination of a load that has ended."""
    finding = Finding([load.answers.told()])
    wrong = Counter(answer.wrong for answer in load.answers.all if answer.wrong)
    failed = sum(n for status, n in load.answers.statuses().items() if status in {0, 503})
    finding.expect(not wrong and not failed, f"{failed} failed, {dict(wrong)}")
    return finding


class Verifier:
    """Somebody who verifies without asking, with a JWKS that is kept for its second."""

    def __init__(self, http: httpx.Client) -> None:
        self.looks, self.unknown, self.signed_by = 0, 0, set[str]()
        self._http, self._known, self._fetched = http, set[str](), 0.0

    def look(self, token: str) -> None:
        """Whether the key of a token is known."""
        kid = str(header(token)["kid"])
        if time.monotonic() > self._fetched + 1:
            self._fetched = time.monotonic()
            self._known = {key["kid"] for key in self._http.get("/.well-known/jwks.json").json()["keys"]}
        self.looks += 1
        self.unknown += kid not in self._known
        self.signed_by.add(kid)


def broken_secret_file(world: World) -> Finding:
    finding = Finding()
    file = world.home / "keys"
    file.write_text(world.keys)
    with world.house() as house:
        given = {name: value for name, value in house.environ.items() if name != "VESTIBULE_KEYS"}
        given["VESTIBULE_KEYS_FILE"] = str(file)
        log = house.folder / "file.log"
        with instance(given, log) as other:
            (person,) = signed_in(house, 1)
            file.write_text(world.keys[:10])
            with httpx.Client(base_url=other.url, timeout=10) as http:
                still = is_active(house, http, person.access)
        refused = _refusal(given, house)
        file.write_text(world.keys)
        with instance(given, log) as other, httpx.Client(base_url=other.url, timeout=10) as http:
            again = is_active(house, http, person.access)
    finding.seen.append(f"running on: {still}; a start with half a file: {refused[:80]!r}; with the whole one: {again}")
    finding.expect(still, "the running service noticed")
    finding.expect("VESTIBULE_KEYS" in refused, "a start with half a file was not refused by name")
    finding.expect(again, "the whole file did not help")
    return finding


def blocked_log(world: World) -> Finding:
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, SMALLEST_PIPE)
    listening = threading.Event()
    listening.set()
    threading.Thread(target=_listen, args=(reader, listening), daemon=True).start()
    try:
        with world.house(output=writer) as house, Load(house, Crowd.gather(house, leave=0)) as load:
            with load.fault():
                listening.clear()
                slowest = _noise(house)
                time.sleep(2)
            listening.set()
            recovered = recovery(house, load.crowd, load.ended, 15)
    finally:
        listening.set()
        os.close(writer)
    slowest = max(slowest, load.answers.slowest())
    finding = Finding([load.answers.told(), f"slowest {slowest:.1f} s, again after {recovered:.1f} s"])
    finding.expect(slowest < BLOCKED * load.slowness, f"a request waited {slowest:.1f} s for the log")
    return finding


def _noise(house: House) -> float:
    """Seconds of the slowest of some requests that are worth a line in the log."""
    slowest = 0.0
    with httpx.Client(base_url=house.service.url, timeout=3) as http:
        for number in range(NOISE):
            started = time.monotonic()
            with suppress(httpx.HTTPError):
                http.get(f"/nowhere/{number}")
            slowest = max(slowest, time.monotonic() - started)
            if slowest > BLOCKED:
                break
    return slowest


def _listen(reader: int, listening: threading.Event) -> None:
    """Reads while it listens, to the end."""
    while listening.wait(LONGEST_SILENCE) and os.read(reader, SMALLEST_PIPE):
        pass
    os.close(reader)


def _turn(house: House, end: threading.Event) -> None:
    for _ in range(TURNS):
        command(house.environ, "keys", "rotate")
        time.sleep(1.5)
    time.sleep(3)
    end.set()


def _refusal(environ: dict[str, str], house: House) -> str:
    try:
        with instance(environ, house.folder / "refused.log"):
            return ""
    except DidNotStart as reason:
        return str(reason)


FAULTS = (
    Fault(49, "keys turn over", f"{TURNS} rotations under load, JWKS kept 1 s", "0 unverifiable", keys_turn),
    Fault(
        50,
        "secret file broken",
        "half of VESTIBULE_KEYS_FILE",
        "runs on; a start is refused by name",
        broken_secret_file,
    ),
    Fault(55, "log blocked", "stdout is a full pipe", "no request waits 1 s", blocked_log),
)
