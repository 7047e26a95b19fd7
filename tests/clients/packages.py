"""The packages of Node that the tests of this folder run, installed once into a folder of the user's cache."""

import hashlib
import re
import secrets
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path

import platformdirs
import pytest

HERE = Path(__file__).parent / "node"
DESCRIBED = ("package.json", "package-lock.json")
OLDEST = 20
INSTALLS = 120
RUNS = 60
"""Seconds, as the one above."""
NO_REGISTRY = "the registry of npm, from which the packages of Node come, cannot be reached"
UNREACHABLE = re.compile(r"\b(ENOTFOUND|EAI_AGAIN|ECONN[A-Z]+|E(NET|HOST)UNREACH|E[A-Z]*TIMED?OUT|E5\d\d)\b")
IS_THERE = shutil.which("node") is not None and shutil.which("npm") is not None


def with_packages(folder: Path) -> Path:
    """The folder with the scripts of this one in it, and what they import; skips the test where that cannot be had."""
    (folder / "node_modules").symlink_to(_modules())
    for each in HERE.glob("*.mjs"):
        shutil.copy(each, folder)
    return folder


def _modules() -> Path:
    version = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True, timeout=RUNS).stdout
    if int(version.lstrip("v").partition(".")[0]) < OLDEST:
        pytest.skip(f"the packages of Node need version {OLDEST}, and this is {version.strip()}")
    digest = hashlib.sha256(b"".join((HERE / name).read_bytes() for name in DESCRIBED)).hexdigest()[:16]
    folder = platformdirs.user_cache_path("vestibule-tests") / f"node-{digest}"
    if not folder.exists():
        _install(folder)
    return folder / "node_modules"


def _install(folder: Path) -> None:
    """All or nothing: another run may be at it in the same moment."""
    making = folder.with_name(f"{folder.name}-{secrets.token_hex(4)}")
    making.mkdir(parents=True)
    try:
        for name in DESCRIBED:
            shutil.copy(HERE / name, making)
        npm = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--fetch-retries=1", "--fetch-timeout=30000"]
        try:
            done = subprocess.run(npm, cwd=making, capture_output=True, text=True, check=False, timeout=INSTALLS)
        except subprocess.TimeoutExpired:
            pytest.skip(NO_REGISTRY)
        if done.returncode and UNREACHABLE.search(done.stderr):
            pytest.skip(NO_REGISTRY)
        assert done.returncode == 0, done.stderr
        with suppress(OSError):  # whoever was quicker has made the same
            making.rename(folder)
        assert folder.exists()
    finally:
        shutil.rmtree(making, ignore_errors=True)
