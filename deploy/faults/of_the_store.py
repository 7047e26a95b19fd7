"""Valkey hangs, dies, comes back empty or old, is full, or is set up wrongly."""

import shutil
import time

from deploy.faults.judging import SETTLE, everything
from deploy.faults.load import Crowd, Load
from deploy.faults.servers import FORGETFUL, stopped
from deploy.faults.table import Fault, Finding
from deploy.faults.vestibule import command
from deploy.faults.world import World

NO_STORE = ("login", "refresh", "logout")
"""What may answer 503 while the store is away; introspection may not."""
P99 = 0.5


def hung(world: World) -> Finding:
    with world.house() as house, Load(house, Crowd.gather(house)) as load:
        with load.fault(), stopped(house.store.child):
            time.sleep(6)
        finding = everything(load, may_fail=("logout",), must_fail=("login", "refresh"), settle=SETTLE, ends_later=True)
        p99 = load.meanwhile.of("introspect").slowest(0.99)
    finding.seen.append(f"introspect p99 {p99 * 1000:.0f} ms")
    finding.expect(p99 < P99 * load.slowness, f"introspect p99 {p99 * 1000:.0f} ms")
    return finding


def killed(world: World) -> Finding:
    with world.house() as house, Load(house, Crowd.gather(house)) as load:
        with load.fault():
            house.store.kill()
            time.sleep(3)
            house.store.start()
        return everything(
            load, may_fail=("logout",), must_fail=("login", "refresh"), again=2, settle=SETTLE, ends_later=True
        )


def flushed(world: World) -> Finding:
    with world.house() as house, Load(house, Crowd.gather(house)) as load:
        with load.fault():
            time.sleep(2)
            house.store.say("FLUSHALL")
            time.sleep(2)
            house.store.kill()
            house.store.forget()
            house.store.start(**FORGETFUL)
            time.sleep(1)
        return everything(load, may_fail=NO_STORE, settle=SETTLE)


def turned_back(world: World) -> Finding:
    with world.house() as house, Load(house, Crowd.gather(house)) as load:
        old = house.store.folder.with_name("old")
        shutil.copytree(house.store.folder, old)
        with load.fault():
            time.sleep(4)
            house.store.kill()
            house.store.forget()
            shutil.copytree(old, house.store.folder)
            house.store.start()
        return everything(load, may_fail=NO_STORE, settle=SETTLE)


def full(world: World) -> Finding:
    with world.house() as house, Load(house, Crowd.gather(house)) as load:
        with load.fault():
            house.store.say("CONFIG", "SET", "maxmemory", 1)
            time.sleep(4)
            house.store.say("CONFIG", "SET", "maxmemory", 0)
        return everything(load, must_fail=("login",))


def evicting(world: World) -> Finding:
    finding = Finding()
    with world.house() as house:
        house.store.say("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
        told = command(house.environ, "doctor")
    finding.seen.append(next((line.strip() for line in told.stdout.splitlines() if "allkeys-lru" in line), "nothing"))
    finding.expect(told.returncode != 0 and "noeviction" in told.stdout, "the doctor is content")
    return finding


def forgotten_scripts(world: World) -> Finding:
    with world.house() as house, Load(house, Crowd.gather(house)) as load:
        with load.fault():
            for _ in range(60):
                house.store.say("SCRIPT", "FLUSH")
                time.sleep(0.05)
        return everything(load)


REBUILT = "nobody thrown out, no acknowledged sign-out undone"
FAULTS = (
    Fault(
        1,
        "store hung",
        "SIGSTOP Valkey for 6 s",
        "introspect 0 x 503, p99 < 500 ms; login, refresh 503; sign-out 503, and done later",
        hung,
    ),
    Fault(2, "store refused", "kill -9 Valkey, back after 3 s", "as 1; well again within 2 s", killed),
    Fault(5, "store empty", "FLUSHALL; restart without its data", f"sessions rebuilt: {REBUILT}", flushed),
    Fault(7, "old data restored", "the AOF of 4 s ago copied back", REBUILT, turned_back),
    Fault(8, "store full", "maxmemory 1", "login 503; sign-out, refresh, introspect work", full),
    Fault(9, "wrong eviction", "maxmemory-policy allkeys-lru", "`vestibule doctor` says so", evicting),
    Fault(14, "scripts forgotten", "SCRIPT FLUSH 20 times a second", "0 failures", forgotten_scripts),
)
