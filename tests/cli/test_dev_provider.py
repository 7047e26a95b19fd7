"""The fake provider beside `vestibule dev`, as a developer meets it: printed addresses, real curl, real processes."""

import json
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import psutil
import pytest

from tests.cli.test_dev import Dev, comes_true, free_port, is_active
from tests.conftest import Servers, _own_database
from tests.deploy import proxies

USUAL_DISTANCE = 10_000
NAMES = ("openid", "discord", "github")
REAL = {"VESTIBULE_PROVIDER_GITHUB_CLIENT_ID": "ours-at-github", "VESTIBULE_PROVIDER_GITHUB_CLIENT_SECRET": "canary"}
WRONG = {"VESTIBULE_PROVIDER_ACME_CLIENT_ID": "x", "VESTIBULE_PROVIDER_ACME_CLIENT_SECRET": "canary"}
SIGNED_IN = "You are signed in"


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("logs")


@pytest.fixture(scope="module")
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture(scope="module")
def runs(logs: Path, servers: Servers, stack: ExitStack) -> dict[str, Dev]:
    """Three at once on servers that run already, each over a database of its own.

    An ordinary one; one with keys of GitHub, where the provider's usual port is taken; one that cannot start.
    """
    port = port_with_room()
    stack.enter_context(socket.create_server(("127.0.0.1", port + USUAL_DISTANCE)))
    given: dict[str, tuple[int, dict[str, str]]] = {
        "plain": (port_with_room(), {"VESTIBULE_PROVIDER_TIMEOUT": "2"}),
        "keys": (port, REAL),
        "wrong": (port_with_room(), WRONG),
    }
    made = {}
    for name, (own_port, environ) in given.items():
        url = stack.enter_context(_own_database(servers.database_url))
        own = {"DATABASE_URL": url, "REDIS_URL": servers.redis_url, **environ}
        made[name] = Dev(logs / f"{name} data", logs / name, port=own_port, environ=own)
        stack.callback(made[name].stop)
    return {name: one if name == "wrong" else one.ready() for name, one in made.items()}


@pytest.fixture(scope="module")
def plain(runs: dict[str, Dev]) -> Dev:
    return runs["plain"]


def port_with_room() -> int:
    """A free port below which the provider's usual one is free as well."""
    while True:
        port = free_port()
        with suppress(OSError, OverflowError):
            proxies.free_port(port + USUAL_DISTANCE)
            return port


def sent_to(url: str) -> str:
    """Where a way in sends a browser."""
    answer = httpx.get(url, timeout=20)
    assert answer.status_code == 303, answer.text
    return answer.headers["location"]


def provider_of(dev: Dev, name: str = "openid") -> str:
    """The origin of a provider that a run leads to."""
    parts = urlsplit(sent_to(f"{dev.url}/auth/social/{name}"))
    return f"{parts.scheme}://{parts.netloc}"


def curl(jar: Path, *arguments: str) -> str:
    """What curl writes, with the cookies of a jar."""
    command = ["curl", "-sS", "--max-time", "20", "-b", str(jar), "-c", str(jar), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def begun(jar: Path, url: str) -> str:
    """The provider's page that a way in leads to."""
    return curl(jar, "-o", "/dev/null", "-w", "%{redirect_url}", url)


def signed_in(jar: Path, dev: Dev, name: str, *choice: str) -> str:
    """The last page of a whole sign-in."""
    fields = [part for field in choice for part in ("-d", field)]
    return curl(jar, "-L", *fields, begun(jar, f"{dev.url}/auth/social/{name}"))


def somebody(name: str) -> tuple[str, ...]:
    """A person of one's own at each provider, so that no address meets itself."""
    return ("person=other", f"subject=77{NAMES.index(name)}", f"username={name}", f"email={name}@example.net")


def test_three_ways_in_are_offered_and_printed(plain: Dev) -> None:
    offered = httpx.get(f"{plain.url}/auth/social", timeout=20).json()
    assert [one["provider"] for one in offered] == list(NAMES)
    assert len({one["name"] for one in offered}) == 3
    for one in offered:
        assert one["authorize_url"] == f"{plain.url}/auth/social/{one['provider']}"
        assert one["authorize_url"] in plain.said


def test_the_provider_stands_beside_it_on_the_usual_port(plain: Dev) -> None:
    usual = f"http://127.0.0.1:{plain.port + USUAL_DISTANCE}"
    assert {provider_of(plain, name) for name in NAMES} == {usual}
    page = httpx.get(f"{usual}/", timeout=20)
    assert page.status_code == 200
    assert f"{usual}/openid" in page.text


def test_the_address_of_the_provider_is_printed(runs: dict[str, Dev]) -> None:
    """Its first page, on which discovery goes wrong, is found nowhere else."""
    for dev in (runs["plain"], runs["keys"]):
        assert provider_of(dev) in dev.said


@pytest.mark.parametrize("name", NAMES)
def test_curl_goes_the_whole_way(plain: Dev, tmp_path: Path, name: str) -> None:
    jar = tmp_path / "jar"
    assert SIGNED_IN in signed_in(jar, plain, name, *somebody(name))
    headers = ("-H", "content-type: application/json", "-H", "x-vestibule-csrf: 1", "-H", f"origin: {plain.url}")
    renewed = json.loads(curl(jar, *headers, "-d", "{}", f"{plain.url}/auth/refresh"))
    bearer = ("-H", f"authorization: Bearer {renewed['access_token']}")
    account = json.loads(curl(jar, *bearer, f"{plain.url}/me"))
    assert account["email"] == f"{name}@example.net"
    client = f"{plain.env['VESTIBULE_CLIENT_ID']}:{plain.env['VESTIBULE_CLIENT_SECRET']}"
    asked = ("-u", client, "-d", f"token={renewed['access_token']}")
    told: dict[str, Any] = json.loads(curl(tmp_path / "service", *asked, f"{plain.url}/introspect"))
    assert (told["active"], told["sub"], told["amr"]) == (True, account["id"], ["fed"])
    if name == "discord":
        guilds = json.loads(curl(jar, *bearer, f"{plain.url}/me/identities/discord/guilds"))
        assert [set(guild) for guild in guilds] == [{"id", "name", "icon_url", "owner", "permissions"}]


def test_whoever_cancels_lands_on_a_page_that_says_so(plain: Dev, tmp_path: Path) -> None:
    page = signed_in(tmp_path / "jar", plain, "discord", "person=dai", "decision=cancel")
    assert "You cancelled" in page
    assert SIGNED_IN not in page


def test_the_administrators_address_lets_nobody_in(plain: Dev, tmp_path: Path) -> None:
    assert plain.env["VESTIBULE_ADMIN_EMAIL"] == "admin@example.com"
    page = signed_in(tmp_path / "jar", plain, "openid", "person=eve")
    assert "There is an account with your e-mail address already" in page
    assert "vestibule-refresh" not in (tmp_path / "jar").read_text()


def test_without_its_cookie_nobody_comes_back(plain: Dev, tmp_path: Path) -> None:
    page = begun(tmp_path / "jar", f"{plain.url}/auth/social/openid")
    assert SIGNED_IN not in curl(tmp_path / "another jar", "-L", "-d", "person=dai", page)


def test_whoever_types_localhost_gets_in_as_well(plain: Dev, tmp_path: Path) -> None:
    """Callback and cookie are of the printed host, and people type either."""
    jar, typed = tmp_path / "jar", f"http://localhost:{plain.port}/auth/social/openid"
    at_provider = curl(jar, "-L", "-o", "/dev/null", "-w", "%{url_effective}", typed)
    fields = [part for field in ("person=other", "email=localhost@example.net") for part in ("-d", field)]
    assert SIGNED_IN in curl(jar, "-L", *fields, at_provider)


def test_keys_of_ones_own_replace_that_provider_alone(runs: dict[str, Dev], tmp_path: Path) -> None:
    keys = runs["keys"]
    place = urlsplit(sent_to(f"{keys.url}/auth/social/github"))
    assert f"{place.scheme}://{place.netloc}{place.path}" == "https://github.com/login/oauth/authorize"
    assert "client_id=ours-at-github" in place.query
    assert "canary" not in keys.said
    offered = {one["provider"]: one["name"] for one in httpx.get(f"{keys.url}/auth/social", timeout=20).json()}
    assert (list(offered), offered["github"]) == (list(NAMES), "GitHub")
    assert SIGNED_IN in signed_in(tmp_path / "jar", keys, "discord", *somebody("discord"))


def test_where_the_usual_port_is_taken_another_one_is_found(runs: dict[str, Dev], tmp_path: Path) -> None:
    keys = runs["keys"]
    assert provider_of(keys) != f"http://127.0.0.1:{keys.port + USUAL_DISTANCE}"
    for name in ("openid", "discord"):
        assert SIGNED_IN in signed_in(tmp_path / name, keys, name, *somebody(name))


def test_a_provider_that_is_set_up_wrongly_is_told_in_one_line(runs: dict[str, Dev]) -> None:
    wrong = runs["wrong"]
    assert wrong.process.wait(60) == 2
    _, line = wrong.said.splitlines()
    assert line.startswith("vestibule: VESTIBULE_PROVIDER_ACME_ISSUER ")
    assert "canary" not in line


def test_one_ctrl_c_ends_both_and_leaves_nothing(runs: dict[str, Dev]) -> None:
    keys = runs["keys"]
    provider, family = provider_of(keys), keys.family()
    assert keys.end(signal.SIGINT) == 0
    assert comes_true(lambda: not any(map(is_active, family)), 30)
    assert keys.said.splitlines()[-1] == "stopped"
    assert "Traceback" not in keys.said
    for url in (provider, keys.url):
        with pytest.raises(httpx.ConnectError):
            httpx.get(url, timeout=5)


def test_ctrl_c_in_the_middle_of_a_slow_sign_in_leaves_no_traceback(plain: Dev, tmp_path: Path) -> None:
    jar, port = tmp_path / "jar", urlsplit(provider_of(plain)).port
    page = begun(jar, f"{plain.url}/auth/social/discord")
    callback = curl(jar, "-o", "/dev/null", "-w", "%{redirect_url}", "-d", "person=dai", "-d", "fault=token_slow", page)
    with subprocess.Popen(["curl", "-sS", "-b", str(jar), callback], stdout=subprocess.DEVNULL) as waiting:
        assert comes_true(lambda: is_calling(plain, port), 20)
        assert plain.end(signal.SIGINT) == 0
        waiting.wait(30)
    assert plain.said.splitlines()[-1] == "stopped"
    assert "Traceback" not in plain.said


def is_calling(dev: Dev, port: int | None) -> bool:
    """Whether a run has a connection to its provider."""
    connections = psutil.Process(dev.process.pid).net_connections("tcp")
    return any(one.raddr and one.raddr.port == port for one in connections)
