"""Folders only we can enter, and names for them that others cannot take from us unnoticed."""

import os
import stat
from hashlib import sha256
from pathlib import Path

from service.embedded.errors import EmbeddedError

SHORT_LIVED = Path("/tmp")  # noqa: S108 - a socket's path has 104 bytes at most; `ours` refuses a planted folder


def key_of(folder: Path) -> str:
    """Sixteen hex digits that stand for a (resolved) data folder wherever its path is too long."""
    return sha256(os.fsencode(folder)).hexdigest()[:16]


def sockets_of(folder: Path) -> Path:
    """Where the sockets of a data folder live: one place for all its runs, so that crashes leave no heap."""
    return SHORT_LIVED / f"vestibule-{key_of(folder)}"


def ours(folder: Path) -> Path:
    """Makes `folder` or checks that it is a real folder of our own, then closes it to everybody else (0700).

    Raises EmbeddedError for a link or a stranger's folder: in /tmp anybody could have put it there before us,
    to read along or to make us write elsewhere.
    """
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode):
        raise EmbeddedError(f"{folder} should be a folder, but something else is there")
    if found.st_uid != os.geteuid():
        raise EmbeddedError(f"{folder} belongs to uid {found.st_uid}, and we are uid {os.geteuid()}")
    folder.chmod(0o700)
    return folder
