"""Disks that are full, and a power failure: on small file systems of their own, which only root can make."""

import errno
import fcntl
import os
import shutil
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import asyncpg

from deploy.faults.judging import SETTLE, everything
from deploy.faults.load import Crowd, Load
from deploy.faults.servers import PERSISTENT, Valkey, is_root
from deploy.faults.table import Fault, Finding, NotHere
from deploy.faults.world import World

EXT4_SHUTDOWN, NO_LAST_WRITES = 0x8004587D, 2
"""The ioctl that ends an ext4 as a power failure does: nothing that is not on the disk gets there."""
DISK = 32
WAL_DISK = 128
SEGMENTS = 12
"""More changes of the write-ahead file than the small disk has room for."""


def lost_power(world: World) -> Finding:
    place = world.home / "power"
    with _image(place) as mount:
        store = Valkey(mount.path / "valkey").start()
        try:
            with world.house(store) as house, Load(house, Crowd.gather(house)) as load:
                with load.fault():
                    time.sleep(3)
                    mount.cut_power()
                    store.kill()
                    mount.again()
                    store.start()
                    time.sleep(0.5)
                return everything(load, may_fail=("login", "refresh", "logout"), settle=SETTLE)
        finally:
            store.stop()


def full_under_the_store(world: World) -> Finding:
    with _memory_disk(world.home / "full", DISK) as place:
        store = Valkey(place / "valkey", {**PERSISTENT, "auto-aof-rewrite-percentage": "0"}).start()
        try:
            with world.house(store) as house, Load(house, Crowd.gather(house)) as load:
                with load.fault(), _filled(place):
                    _until_refused(store)
                    load.began = time.monotonic()
                    time.sleep(4)
                return everything(load, may_fail=("logout", "refresh"), must_fail=("login",), settle=SETTLE)
        finally:
            store.stop()


def full_under_postgres(world: World) -> Finding:
    """In a PostgreSQL of its own, started again when it gave up, as a supervisor does."""
    home = world.home / "full-postgres"
    home.mkdir()
    with _memory_disk(world.home / "wal", WAL_DISK) as place, World(home) as other:
        _move_wal(other, place)
        with other.house() as house, Load(house, Crowd.gather(house)) as load:
            with load.fault():
                with _filled(place):
                    _until_gone(other)
                    load.began = time.monotonic()
                    time.sleep(4)
                other.postgres.stop()
                other.start_postgres()
            return everything(load, may_fail=("logout",), must_fail=("login",), settle=1)


class Image:
    """An ext4 in a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def again(self) -> None:
        """Mounts it after a power failure; its journal is replayed."""
        _run("umount", str(self.path))
        _run("mount", "-o", "loop", str(self.path.with_suffix(".img")), str(self.path))

    def cut_power(self) -> None:
        """From now on nothing reaches the disk."""
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.ioctl(descriptor, EXT4_SHUTDOWN, struct.pack("I", NO_LAST_WRITES))
        finally:
            os.close(descriptor)


@contextmanager
def _image(path: Path) -> Iterator[Image]:
    if not is_root() or shutil.which("mkfs.ext4", path="/sbin:/usr/sbin:/usr/bin") is None:
        raise NotHere("needs root and mkfs.ext4")
    path.mkdir()
    file = path.with_suffix(".img")
    with file.open("wb") as empty:
        empty.truncate(DISK * 1024 * 1024)
    _run("mkfs.ext4", "-q", str(file))
    _run("mount", "-o", "loop", str(file), str(path))
    try:
        yield Image(path)
    finally:
        _run("umount", str(path))


@contextmanager
def _memory_disk(path: Path, megabytes: int) -> Iterator[Path]:
    if not is_root():
        raise NotHere("needs root, to mount a small disk")
    path.mkdir()
    _run("mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "none", str(path))
    try:
        yield path
    finally:
        _run("umount", str(path))


def _run(*words: str) -> None:
    """Raises `NotHere` when root may not do it either, as in containers."""
    environ = {"PATH": "/sbin:/usr/sbin:/bin:/usr/bin"}
    done = subprocess.run(words, env=environ, capture_output=True, text=True, check=False, timeout=30)
    if done.returncode:
        raise NotHere(f"{words[0]}: {done.stderr.strip()[:100]}")


@contextmanager
def _filled(place: Path) -> Iterator[None]:
    filler = place / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
    yield
    filler.unlink()


def _until_refused(store: Valkey) -> None:
    """Writes until the append-only file cannot take more."""
    for _ in range(200):
        if "MISCONF" in _answer(store):
            return
        time.sleep(0.02)
    raise NotHere("the store did not notice that its disk is full")


def _answer(store: Valkey) -> str:
    try:
        return str(store.say("SET", "filling", "x" * 1000, "EX", 60))
    except Exception as error:  # noqa: BLE001  whichever way it says no
        return f"{error} MISCONF" if "MISCONF" in str(error) else str(error)


def _move_wal(world: World, place: Path) -> None:
    data = world.home / "postgres"
    if not (data / "pg_wal").is_dir():
        raise NotHere("PostgreSQL's data are not where its run is")
    world.postgres.stop()
    owner = (data / "pg_wal").stat()
    os.chown(place, owner.st_uid, owner.st_gid)
    place.chmod(0o700)
    _run("cp", "-a", f"{data}/pg_wal", f"{place}/pg_wal")
    shutil.rmtree(data / "pg_wal")
    (data / "pg_wal").symlink_to(place / "pg_wal")
    world.start_postgres()


def _until_gone(world: World) -> None:
    """Fills one file of the log after the other until PostgreSQL gives up."""
    with suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
        world.sql("CREATE TABLE filling (text text)", database="postgres")
        for _ in range(SEGMENTS):
            world.sql("INSERT INTO filling VALUES ('x')", database="postgres")
            world.sql("SELECT pg_switch_wal()", database="postgres")
        raise NotHere("the small disk was not small enough")


FAULTS = (
    Fault(
        6,
        "power lost",
        "ext4 shut down under Valkey, kill -9, mounted again",
        "as 3: 0 acknowledged sign-outs undone",
        lost_power,
    ),
    Fault(
        10,
        "disk full, store",
        "Valkey's append-only file on a full disk",
        "writes 503, introspect works, heals by itself",
        full_under_the_store,
    ),
    Fault(
        11,
        "disk full, PostgreSQL",
        "pg_wal on a full disk",
        "login, sign-out 503; introspect and refresh work",
        full_under_postgres,
    ),
)
