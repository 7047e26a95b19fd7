"""Clocks that are wrong, by libfaketime."""

import time
from pathlib import Path

import httpx

from deploy.faults.judging import SETTLE, everything
from deploy.faults.load import Crowd, Load
from deploy.faults.servers import PERSISTENT, Valkey
from deploy.faults.table import Fault, Finding, NotHere
from deploy.faults.world import House, World

LIBRARIES = ("/usr/lib/*/faketime/libfaketime.so.1", "/usr/local/lib/faketime/libfaketime.so.1")
MONTH, HOUR = "+2678400", "-3600"
STEADY = {"FAKETIME_NO_CACHE": "1", "DONT_FAKE_MONOTONIC": "1"}
LOOKS = 20


def of_the_store(world: World) -> Finding:
    step = world.home / "clock"
    step.write_text("+0")
    preload = {"LD_PRELOAD": _library(), "FAKETIME_TIMESTAMP_FILE": str(step), **STEADY}
    store = Valkey(world.home / "wrong-clock", PERSISTENT, preload).start()
    try:
        with world.house(store) as house, Load(house, Crowd.gather(house)) as load:
            with load.fault():
                step.write_text(MONTH)
                alarmed = _comes_true(house, "/healthz", "clock_skew", "failing")
                step.write_text(HOUR)
                time.sleep(3)
                step.write_text("+0")
            finding = everything(load, may_fail=("refresh",), settle=SETTLE)
    finally:
        store.stop()
    finding.expect(alarmed, "no alarm for the clock of the store")
    return finding


def of_the_service(world: World) -> Finding:
    finding = Finding()
    skewed = ["/usr/bin/env", f"LD_PRELOAD={_library()}", "FAKETIME=+600", *(f"{k}={v}" for k, v in STEADY.items())]
    with world.house(prefix=skewed, wait=False) as house:
        house.service.await_answer("/livez")
        alarmed = _comes_true(house, "/healthz", "clock_skew", "failing")
        ready = httpx.get(f"{house.service.url}/readyz", timeout=5).status_code
    finding.seen.append(f"readyz {ready}, healthz {'names the clock' if alarmed else 'does not name the clock'}")
    finding.expect(ready == 503, f"readyz {ready}")
    finding.expect(alarmed, "no alarm for its own clock")
    return finding


def _comes_true(house: House, path: str, check: str, state: str) -> bool:
    with house.http() as http:
        for _ in range(LOOKS):
            if http.get(path).json()["checks"].get(check) == state:
                return True
            time.sleep(0.3)
    return False


def _library() -> str:
    found = [path for pattern in LIBRARIES for path in Path("/").glob(pattern.lstrip("/"))]
    if not found:
        raise NotHere("libfaketime is not installed")
    return str(found[0])


FAULTS = (
    Fault(
        12,
        "clock of the store",
        "Valkey +31 d, then -1 h",
        "nobody thrown out, refresh 503 at most; an alarm",
        of_the_store,
    ),
    Fault(13, "clock of a pod", "the service +10 min", "not ready; an alarm", of_the_service),
)
