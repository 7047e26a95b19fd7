"""The image, really built and run as in production. `just image-test` runs this, the suite does not: it takes minutes.

Where the engine needs more said, variables say it: IMAGE_TEST_BASE (another base image), IMAGE_TEST_BUILD and
IMAGE_TEST_RUN (options of `build` and of `run`).
"""

import json
import os
import shlex
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.cli.test_production import comes_true
from tests.conftest import root_key
from tests.deploy.proxies import binary, free_port
from tests.deploy.test_images import ROOT, everything


def answers(program: str | None) -> bool:
    """Whether this is an engine that works, and not a client without one."""
    if program is None:
        return False
    return subprocess.run([program, "info"], capture_output=True, check=False, timeout=60).returncode == 0


ENGINE = next(filter(answers, (binary("docker"), binary("podman"))), None)
if ENGINE is None:
    pytest.skip("neither docker nor podman answers", allow_module_level=True)

BASE = os.environ.get("IMAGE_TEST_BASE", "")
BUILD, RUN = (shlex.split(os.environ.get(f"IMAGE_TEST_{what}", "")) for what in ("BUILD", "RUN"))
TAG = "vestibule:image-test"
AS_IN_PRODUCTION = [
    *("--read-only", "--tmpfs", "/tmp:size=16m,mode=1777", "--cap-drop", "ALL"),
    *("--security-opt", "no-new-privileges", "--memory", "640m", "--network", "host"),
]
LONGEST_BUILD = 900
NOWHERE = "postgresql://nobody@127.0.0.1:1/nothing"
SETTINGS = {
    "DATABASE_URL": NOWHERE,
    "REDIS_URL": "redis://127.0.0.1:1",
    "VESTIBULE_ISSUER": "https://auth.test",
    "VESTIBULE_KEYS": root_key(),
    "VESTIBULE_SMTP_URL": "smtp://127.0.0.1:1",
    "VESTIBULE_MAIL_FROM": "vestibule@example.com",
    "VESTIBULE_DRAIN": "0",
}
WHO = """
import json, os, pathlib
lines = pathlib.Path("/proc/self/status").read_text().splitlines()
status = dict(line.split(":\\t", 1) for line in lines if ":\\t" in line)
def is_writable(folder):
    try:
        pathlib.Path(folder, "probe").write_text("")
    except OSError:
        return False
    return True
print(json.dumps({
    "uid": os.getuid(), "capabilities": int(status["CapEff"], 16), "no new privileges": status["NoNewPrivs"],
    "writable": [folder for folder in ("/", "/opt/vestibule", "/tmp", "/etc") if is_writable(folder)],
    "sources": pathlib.Path("/src").exists(),
}))
"""


def engine(*arguments: str, seconds: float = 60) -> "subprocess.CompletedProcess[str]":
    command = [str(ENGINE), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds)


@pytest.fixture(scope="module")
def image() -> Iterator[str]:
    [default] = [rest.partition("=")[2] for word, rest in everything_before_the_stages() if word == "ARG"]
    base = BASE or default
    if engine("image", "inspect", base).returncode != 0 and engine("pull", base, seconds=300).returncode != 0:
        pytest.skip(f"the base image {base} cannot be had")
    options = ["--file", str(ROOT / "Containerfile"), "--build-arg", f"PYTHON_IMAGE={base}", "--tag", TAG, *BUILD]
    built = engine("build", *options, str(ROOT), seconds=LONGEST_BUILD)
    assert built.returncode == 0, built.stdout[-4000:] + built.stderr[-4000:]
    yield TAG
    engine("image", "rm", TAG)


def everything_before_the_stages() -> list[tuple[str, str]]:
    first = next(everything())
    text = (ROOT / "Containerfile").read_text().partition(" ".join(first))[0]
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in lines)]


@contextmanager
def served(image: str, folder: Path) -> Iterator[tuple[str, int]]:
    """A container that serves; its name and its port."""
    name, port = f"vestibule-image-test-{os.getpid()}", free_port()
    environ = folder / "environ"
    environ.write_text("".join(f"{key}={value}\n" for key, value in SETTINGS.items()))
    started = ["--detach", "--name", name, "--env-file", str(environ), *AS_IN_PRODUCTION, *RUN]
    ran = engine("run", *started, image, "serve", "--host", "127.0.0.1", "--port", str(port))
    assert ran.returncode == 0, ran.stderr
    try:
        yield name, port
    finally:
        engine("rm", "--force", name)


def test_the_image_is_nobody_and_can_write_to_tmp_alone(image: str) -> None:
    ran = engine("run", "--rm", *AS_IN_PRODUCTION, *RUN, "--entrypoint", "python", image, "-c", WHO)
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout) == {
        "uid": 10001,
        "capabilities": 0,
        "no new privileges": "1",
        "writable": ["/tmp"],
        "sources": False,
    }


def test_a_container_serves_without_its_stores_and_ends_well_on_sigterm(image: str, tmp_path: Path) -> None:
    with served(image, tmp_path) as (name, port):

        def status(path: str) -> int:
            try:
                return httpx.get(f"http://127.0.0.1:{port}{path}", timeout=5).status_code
            except httpx.TransportError:
                return 0

        assert comes_true(lambda: status("/livez") == 200, 30), engine("logs", name).stdout
        assert status("/readyz") == 503
        assert engine("stop", "--time", "30", name).returncode == 0
        assert engine("inspect", "--format", "{{.State.ExitCode}}", name).stdout.strip() == "0"


def test_a_missing_setting_ends_the_container_in_one_line(image: str) -> None:
    ran = engine("run", "--rm", *AS_IN_PRODUCTION, *RUN, image)
    assert ran.returncode == 2
    assert len(ran.stderr.strip().splitlines()) == 1
