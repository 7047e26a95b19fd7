"""Both instances replaced one after the other, under load, behind proxies that retry nothing: nobody notices.

HAProxy finds out by itself, from `/readyz`. nginx does not look: whoever rolls tells it, a moment after the SIGTERM, as
Kubernetes tells its nodes. Each of its clients connects anew, since a reload of nginx closes idle connections.
"""

import asyncio
import json
import signal
import subprocess
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
from litestar import Litestar

from service.wiring import Services
from tests.cli.test_production import comes_true
from tests.conftest import Introspector, Outbox, Person, browser, sign_up
from tests.deploy.instances import Instance, instance
from tests.deploy.proxies import NGINX_MAIN, binary, free_port, running

HAPROXY, NGINX = binary("haproxy"), binary("nginx")
if HAPROXY is None or NGINX is None:
    pytest.skip("haproxy and nginx (nginx-light) are not both installed", allow_module_level=True)

DRAIN, GRACE, LAG = 4.0, 5.0, 0.3
"""Seconds; the lag is that between a SIGTERM and the news of it at nginx."""
CLIENTS = 3
THINKING = 0.01
NAMES = ("old one", "old two", "new one", "new two")

HAPROXY_CONFIG = """
defaults
    mode http
    retries 0
    timeout connect 2s
    timeout client 30s
    timeout server 30s
    timeout check 2s
frontend door
    bind 127.0.0.1:{port}
    default_backend vestibule
backend vestibule
    option httpchk
    http-check send meth GET uri /readyz ver HTTP/1.1 hdr Host auth.test
    default-server check inter 200ms fall 1 rise 1
    {servers}
listen told
    bind 127.0.0.1:{told}
    stats enable
    stats uri /
"""
NGINX_CONFIG = """
pid {folder}/nginx.pid;
error_log {folder}/nginx.log;
events {{ }}
http {{
    access_log off;
    client_body_temp_path {folder}/bodies;
    proxy_temp_path {folder}/proxied;
    fastcgi_temp_path {folder}/f;
    uwsgi_temp_path {folder}/u;
    scgi_temp_path {folder}/s;
    upstream vestibule {{ {servers} keepalive 16; }}
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://vestibule;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_next_upstream off;
        }}
    }}
}}
"""


class Nginx:
    """In front of the instances that it is told of."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.port = free_port()
        self.config = folder / "nginx.conf"
        self._master: subprocess.Popen[bytes] | None = None

    @contextmanager
    def before(self, *ports: int) -> Iterator[None]:
        self._write(ports)
        command = [str(NGINX), "-p", str(self._folder), "-c", str(self.config), "-g", NGINX_MAIN]
        with running(command, self.port, self._folder / "nginx.out", {}) as self._master:
            yield

    def tell(self, *ports: int) -> None:
        """From now on these; requests under way end where they are."""
        self._write(ports)
        assert self._master is not None
        self._master.send_signal(signal.SIGHUP)

    def _write(self, ports: tuple[int, ...]) -> None:
        servers = " ".join(f"server 127.0.0.1:{port} max_fails=0;" for port in ports)
        self.config.write_text(NGINX_CONFIG.format(folder=self._folder, port=self.port, servers=servers))


class Haproxy:
    """In front of whichever instances say that they are ready."""

    def __init__(self, folder: Path, ports: Mapping[str, int]) -> None:
        self.port, self._told = free_port(), free_port()
        self._folder = folder
        servers = "\n    ".join(f"server {name.replace(' ', '-')} 127.0.0.1:{port}" for name, port in ports.items())
        self.config = folder / "haproxy.cfg"
        self.config.write_text(HAPROXY_CONFIG.format(port=self.port, told=self._told, servers=servers))

    @contextmanager
    def started(self) -> Iterator[None]:
        with running([str(HAPROXY), "-db", "-f", str(self.config)], self.port, self._folder / "haproxy.out", {}):
            yield

    async def takes(self, *wanted: str) -> None:
        """Waits until exactly these are in use."""
        expected = {name.replace(" ", "-") for name in wanted}
        assert await asyncio.to_thread(comes_true, lambda: self._used() == expected)

    def _used(self) -> set[str]:
        table = httpx.get(f"http://127.0.0.1:{self._told}/;csv").text.splitlines()
        header = table[0].removeprefix("# ").split(",")
        rows = [dict(zip(header, line.split(","), strict=False)) for line in table[1:]]
        return {row["svname"] for row in rows if row["pxname"] == "vestibule" and row["status"] == "UP"} - {"BACKEND"}


@dataclass
class Load:
    """Introspections and refreshes through one proxy, until it is stopped."""

    url: str
    introspector: Introspector
    keep_alive: bool
    answers: Counter[tuple[str, int]] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    _stopped: bool = False

    @asynccontextmanager
    async def by(self, people: list[Person]) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as tasks:
            for person in people:
                tasks.create_task(self._again(self._refresh, person))
                tasks.create_task(self._again(self._introspect, person))
            try:
                yield
            finally:
                self._stopped = True

    async def _again(self, ask: Callable[..., object], person: Person) -> None:
        headers = {} if self.keep_alive else {"Connection": "close"}
        async with httpx.AsyncClient(base_url=self.url, headers=headers, timeout=20) as http:
            while not self._stopped:
                try:
                    await ask(http, person)  # type: ignore[misc]
                except httpx.TransportError as error:
                    self.failures.append(repr(error))
                await asyncio.sleep(THINKING)

    async def _introspect(self, http: httpx.AsyncClient, person: Person) -> None:
        auth = (self.introspector.client_id, self.introspector.secret)
        answer = await http.post("/introspect", data={"token": person.access_token}, auth=auth)
        self.answers["introspect", answer.status_code] += 1
        if answer.status_code != 200 or answer.json()["active"] is not True:
            self.failures.append(answer.text)

    async def _refresh(self, http: httpx.AsyncClient, person: Person) -> None:
        answer = await http.post("/auth/refresh", json={"refresh_token": person.refresh_token})
        self.answers["refresh", answer.status_code] += 1
        if answer.status_code != 200:
            self.failures.append(answer.text)
            return
        person.access_token, person.refresh_token = answer.json()["access_token"], answer.json()["refresh_token"]


@dataclass(frozen=True)
class Roll:
    """What came of it."""

    loads: dict[str, Load]
    ended: dict[str, tuple[int | None, float]]
    stuck: bytes
    logs: dict[str, str]


@pytest.fixture(scope="module")
async def people(anyio_backend: str, app: Litestar, services: Services, outbox: Outbox) -> list[Person]:
    async with browser(app) as http:
        return [await sign_up(http, services, outbox) for _ in range(2 * CLIENTS)]


@pytest.fixture(scope="module")
async def rolled(
    anyio_backend: str,
    environ: dict[str, str],
    people: list[Person],
    introspector: Introspector,
    tmp_path_factory: pytest.TempPathFactory,
) -> Roll:
    folder = tmp_path_factory.mktemp("rolled")
    folder.chmod(0o755)
    settings = {
        **environ,
        "PATH": "/usr/bin:/bin",
        "VESTIBULE_DRAIN": str(DRAIN),
        "VESTIBULE_METRICS_PORT": "0",
        "VESTIBULE_SHUTDOWN_GRACE": str(GRACE),
        "VESTIBULE_BODY_TIMEOUT": "300",
        "VESTIBULE_SMTP_URL": "smtp://127.0.0.1:9",
        "VESTIBULE_MAIL_FROM": "vestibule@example.com",
    }
    ports = {name: free_port() for name in NAMES}
    haproxy, nginx = Haproxy(folder, ports), Nginx(folder)
    ended: dict[str, tuple[int | None, float]] = {}
    made: dict[str, Instance] = {}
    async with AsyncExitStack() as stack:

        async def start(*names: str) -> None:
            for name in names:
                log = folder / f"{name}.log"
                made[name] = stack.enter_context(instance(settings, ports[name], log))
            for name in names:
                await made[name].ready()

        async def replace(old: str, *left: str) -> None:
            made[old].process.send_signal(signal.SIGTERM)
            await asyncio.sleep(LAG)
            nginx.tell(*(ports[name] for name in left))
            took = await made[old].end()
            ended[old] = (made[old].process.returncode, took + LAG)

        await start("old one", "old two")
        stack.enter_context(haproxy.started())
        stack.enter_context(nginx.before(ports["old one"], ports["old two"]))
        await haproxy.takes("old one", "old two")
        loads = {
            "haproxy": Load(f"http://127.0.0.1:{haproxy.port}", introspector, keep_alive=True),
            "nginx": Load(f"http://127.0.0.1:{nginx.port}", introspector, keep_alive=False),
        }
        async with loads["haproxy"].by(people[:CLIENTS]), loads["nginx"].by(people[CLIENTS:]):
            await start("new one")
            await haproxy.takes("old one", "old two", "new one")
            await replace("old one", "old two", "new one")
            await start("new two")
            await haproxy.takes("old two", "new one", "new two")
            stuck = await stack.enter_async_context(half_a_body(ports["old two"]))
            await replace("old two", "new one", "new two")
            told_at_the_end = await stuck.read()
            await haproxy.takes("new one", "new two")
    return Roll(loads, ended, told_at_the_end, {name: one.log.read_text() for name, one in made.items()})


@asynccontextmanager
async def half_a_body(port: int) -> AsyncIterator[asyncio.StreamReader]:
    """A request that is never complete."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(
        b"POST /auth/refresh HTTP/1.1\r\nHost: auth.test\r\n"
        b"Content-Type: application/json\r\nContent-Length: 9\r\n\r\n{"
    )
    await writer.drain()
    yield reader
    writer.close()


@pytest.mark.parametrize("proxy", ["haproxy", "nginx"])
def test_no_request_fails_while_both_instances_are_replaced(proxy: str, rolled: Roll) -> None:
    load = rolled.loads[proxy]
    assert load.failures == []
    assert {status for _, status in load.answers} == {200}
    assert all(load.answers[kind, 200] > 100 for kind in ("introspect", "refresh"))


def test_an_instance_with_nothing_to_do_ends_when_its_drain_is_over(rolled: Roll) -> None:
    code, seconds = rolled.ended["old one"]
    assert code == 0
    assert seconds >= DRAIN


def test_a_body_that_never_ends_is_told_so_and_does_not_hold_an_instance_beyond_its_grace(rolled: Roll) -> None:
    code, seconds = rolled.ended["old two"]
    assert code == 0
    assert DRAIN <= seconds < DRAIN + GRACE + 10
    assert rolled.stuck.startswith(b"HTTP/1.1 408 ")


def test_the_logs_of_the_old_tell_of_no_error(rolled: Roll) -> None:
    lines = [json.loads(line) for name in ("old one", "old two") for line in rolled.logs[name].splitlines()]
    assert lines
    assert [line for line in lines if line["level"] == "error"] == []
    assert {line["route"] for line in lines if line.get("status", 200) >= 500} <= {"/readyz"}
