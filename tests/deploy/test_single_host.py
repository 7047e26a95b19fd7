"""One machine as in `deploy/single-host`: a unit that systemd understands, and an nginx that runs."""

import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.server import KEEP_ALIVE
from service.settings import Settings, load
from tests.conftest import root_key
from tests.deploy.proxies import (
    CERTIFICATE,
    KEY,
    NGINX_MAIN,
    VESTIBULE,
    Application,
    Identity,
    binary,
    client,
    free_port,
    identity,
    listening,
    running,
)

FOLDER = Path(__file__).parents[2] / "deploy" / "single-host"
STORES_CLOSE = 5
"""Seconds the service may need to close its stores after the last request."""
MOST_EXPOSED = 1.5
"""Of 10, in what `systemd-analyze security` counts."""
NGINX, SYSTEMD = binary("nginx"), binary("systemd-analyze")

needs_nginx = pytest.mark.skipif(NGINX is None, reason="nginx is not installed")
needs_systemd = pytest.mark.skipif(SYSTEMD is None, reason="systemd-analyze is not installed")


def unit() -> list[tuple[str, str]]:
    """Every assignment of the unit."""
    lines = (FOLDER / "vestibule.service").read_text().splitlines()
    found = [line.partition("=") for line in lines if line and line[0] not in "#["]
    return [(name, value) for name, _, value in found]


def given(name: str) -> list[str]:
    return [value for key, value in unit() if key == name]


def settings() -> Settings:
    """What the unit runs with; the secrets are made up."""
    lines = [line for line in (FOLDER / "settings.example").read_text().splitlines() if line and line[0] != "#"]
    plain = dict(shlex.split(line)[0].split("=", 1) for line in lines)
    secrets = {
        "VESTIBULE_KEYS": root_key(),
        "DATABASE_URL": "postgresql://127.0.0.1/vestibule",
        "REDIS_URL": "redis://127.0.0.1/0",
        "VESTIBULE_SMTP_URL": "smtp://127.0.0.1:25",
    }
    files = [word.partition("=") for line in given("Environment") for word in line.split()]
    assert {name.removesuffix("_FILE") for name, _, _ in files} == secrets.keys()
    credentials = {line.partition(":")[0] for line in given("LoadCredential")}
    assert {path.removeprefix("%d/") for _, _, path in files} == credentials
    return load({**plain, **secrets})


@needs_systemd
def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    text = (FOLDER / "vestibule.service").read_text()
    (tmp_path / "vestibule.service").write_text(text.replace("/opt/vestibule/bin/vestibule", "/bin/true"))
    said = subprocess.run(
        [str(SYSTEMD), "verify", tmp_path / "vestibule.service"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    ours = [line for line in said.stderr.splitlines() if "vestibule" in line]
    assert (said.returncode, ours) == (0, []), said.stderr


@needs_systemd
def test_the_unit_can_do_little_beyond_its_work() -> None:
    command = [str(SYSTEMD), "security", "--offline=true", str(FOLDER / "vestibule.service")]
    said = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    level = re.search(r"Overall exposure level for \S+: ([\d.]+)", said.stdout)
    assert level is not None, said.stdout + said.stderr
    assert float(level[1]) <= MOST_EXPOSED


def test_the_service_understands_the_settings_of_the_unit() -> None:
    assert settings().issuer == "https://auth.example.com"
    assert settings().trusted_proxies == ("127.0.0.1",)
    assert settings().avatar_store.removeprefix("file://") == f"/var/lib/{given('StateDirectory')[0]}/avatars"


def test_the_unit_waits_until_the_service_has_ended_its_requests() -> None:
    needed = settings().drain.total_seconds() + settings().shutdown_grace.total_seconds() + STORES_CLOSE
    assert needed < int(given("TimeoutStopSec")[0])
    assert given("KillMode") == ["mixed"], "the parent tells its workers; a SIGTERM to each would come twice"


def test_the_unit_holds_no_secret_and_listens_to_this_machine_only() -> None:
    assert not re.search(r"password|://[^/]*:[^/]*@", (FOLDER / "vestibule.service").read_text(), re.IGNORECASE)
    [serve] = given("ExecStart")
    assert "--host 127.0.0.1" in serve


# nginx


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Identity:
    return identity(tmp_path_factory.mktemp("identity"))


@pytest.fixture
def front(certificate: Identity, tmp_path: Path) -> Iterator[tuple[int, Application]]:
    """nginx as in the example, and what stands behind it."""
    port, application = free_port(), Application()
    with listening(application, settings()) as behind:
        elsewhere = {
            "listen 443": f"listen 127.0.0.1:{port}",
            "listen 80": f"listen 127.0.0.1:{free_port()}",
            CERTIFICATE: str(certificate.certificate),
            KEY: str(certificate.key),
            VESTIBULE: behind,
            "/run/nginx.pid": str(tmp_path / "nginx.pid"),
            "/var/log/nginx": str(tmp_path),
        }
        text = (FOLDER / "nginx.conf").read_text()
        for place, other in elsewhere.items():
            assert place in text, f"nginx.conf no longer says {place}"
            text = text.replace(place, other)
        (tmp_path / "nginx.conf").write_text(text)
        command = [
            str(NGINX),
            "-p",
            str(tmp_path),
            "-e",
            "stderr",
            "-c",
            str(tmp_path / "nginx.conf"),
            "-g",
            NGINX_MAIN,
        ]
        subprocess.run([*command, "-t"], check=True, capture_output=True, timeout=60)
        with running(command, port, tmp_path / "nginx.out", {}):
            yield port, application


@needs_nginx
async def test_nginx_tells_vestibule_who_asks_and_believes_nobody_else(
    front: tuple[int, Application], certificate: Identity, tmp_path: Path
) -> None:
    port, application = front
    async with client(port, "auth.example.com", certificate) as http:
        forged = {"X-Forwarded-For": "203.0.113.9", "X-Forwarded-Proto": "http"}
        answer = await http.get("/me?token=secret", headers=forged)
        told = dict(answer.json())
        assert (answer.status_code, application.reached) == (200, 1)
        assert (told["x-forwarded-for"], told["x-forwarded-proto"]) == ("127.0.0.1", "https")
        assert told["host"] == "auth.example.com"
    assert "secret" not in (tmp_path / "access.log").read_text()


@needs_nginx
async def test_nginx_refuses_what_is_too_large(front: tuple[int, Application], certificate: Identity) -> None:
    port, application = front
    async with client(port, "auth.example.com", certificate) as http:
        answer = await http.post("/me/avatar", content=bytes(4 * 1024 * 1024))
    assert (answer.status_code, application.reached) == (413, 0)


def test_nginx_gives_up_idle_connections_before_vestibule_does() -> None:
    kept = re.findall(r"keepalive_timeout (\d+)s", (FOLDER / "nginx.conf").read_text())
    assert len(kept) == 2
    assert all(int(seconds) < KEEP_ALIVE for seconds in kept)
