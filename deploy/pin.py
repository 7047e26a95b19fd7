"""Keeps the pins: every version of uv.lock, written into `[tool.uv] constraint-dependencies` of pyproject.toml.

uv.lock itself stays out of the repository, since it records where each file was downloaded from.
Usage: uv run deploy/pin.py [--clear | --check] (see `just upgrade` and `just check`).
"""

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
PROJECT = ROOT / "pyproject.toml"
BLOCK = re.compile(r"\n\[tool\.uv\]\nconstraint-dependencies = \[\n(?:.*\n)*?\]\n")


def main() -> None:
    without_pins = BLOCK.sub("", PROJECT.read_text(encoding="utf-8"))
    if "--clear" in sys.argv:
        PROJECT.write_text(without_pins, encoding="utf-8")
        return
    pinned = f"{without_pins}\n[tool.uv]\nconstraint-dependencies = [\n{pins()}]\n"
    if "--check" not in sys.argv:
        PROJECT.write_text(pinned, encoding="utf-8")
    elif pinned != PROJECT.read_text(encoding="utf-8"):
        sys.exit("the pins in pyproject.toml are not those of uv.lock: run `uv run just upgrade`")


def pins() -> str:
    lock = tomllib.loads((ROOT / "uv.lock").read_text(encoding="utf-8"))
    locked = [(package["name"], package["version"]) for package in lock["package"] if "registry" in package["source"]]
    if len(dict(locked)) != len(locked):
        sys.exit("a package is locked in several versions: pin it by hand, with markers")
    return "".join(f'    "{name}=={version}",\n' for name, version in sorted(locked))


if __name__ == "__main__":
    main()
