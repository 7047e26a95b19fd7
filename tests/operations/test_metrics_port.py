"""The port of the metrics: all workers at once, an answer whatever hangs; and the log of the same requests."""

import asyncio
import json
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from click.testing import CliRunner

from service.cli.main import main
from service.cli.metrics_port import metrics_served
from service.cli.running import prepare
from service.embedded.packages import valkey_program
from service.mail.message import NoTransport
from service.settings import load
from service.wiring import build
from tests.operations.scraped import Page, free_port

PROJECT = Path(__file__).parents[2]


def comes_true(condition: Callable[[], bool], seconds: float = 60) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.05)
    return False


@dataclass
class Served:
    """`vestibule serve` with two workers, and a Redis of its own."""

    process: "subprocess.Popen[bytes]"
    redis: "subprocess.Popen[bytes]"
    port: int
    metrics_port: int
    folder: Path

    def scrape(self) -> Page:
        return Page(httpx.get(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=10).text)

    def is_ready(self) -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{self.port}/readyz", timeout=5).status_code == 200
        except httpx.TransportError:
            return False

    def workers(self) -> set[int]:
        family = psutil.Process(self.process.pid).children()
        return {one.pid for one in family if "spawn_main" in " ".join(one.cmdline())}

    def told_of(self) -> set[int]:
        """The workers whose gauges a scrape would tell."""
        return {int(path.stem.rpartition("_")[2]) for path in self.folder.glob("vestibule-metrics-*/gauge_live*.db")}

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / "out").read_text().splitlines()]


async def furnish(environ: dict[str, str]) -> None:
    services = build(load(environ), mail=lambda _: NoTransport())
    await prepare(services)
    await services.close()


@pytest.fixture(scope="module")
def served(environ: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    asyncio.run(furnish(environ))
    folder = tmp_path_factory.mktemp("metrics")
    port, metrics_port, redis_port = free_port(), free_port(), free_port()
    own = {
        **environ,
        "PATH": os.defpath,
        "TMPDIR": str(folder),
        "REDIS_URL": f"redis://127.0.0.1:{redis_port}",
        "VESTIBULE_SMTP_URL": "smtp://127.0.0.1:1",
        "VESTIBULE_MAIL_FROM": "vestibule@example.com",
        "VESTIBULE_DRAIN": "0",
        "VESTIBULE_METRICS_HOST": "127.0.0.1",
        "VESTIBULE_METRICS_PORT": str(metrics_port),
    }
    store = [str(valkey_program()), "--bind", "127.0.0.1", "--port", str(redis_port), "--save", ""]
    serve = [sys.executable, "-m", "service", "serve", "--host", "127.0.0.1", "--port", str(port), "--workers", "2"]
    with (
        (folder / "out").open("wb") as out,
        subprocess.Popen(store, cwd=folder, stdout=subprocess.DEVNULL) as redis,
        subprocess.Popen(serve, cwd=PROJECT, env=own, stdout=out, stderr=out) as process,
    ):
        one = Served(process, redis, port, metrics_port, folder)
        try:
            assert comes_true(lambda: one.is_ready() and len(one.told_of()) == 2), (folder / "out").read_text()
            yield one
        finally:
            redis.send_signal(signal.SIGCONT)
            process.terminate()
            redis.terminate()


def test_one_port_tells_of_all_workers_together(served: Served) -> None:
    for _ in range(30):
        assert httpx.get(f"http://127.0.0.1:{served.port}/me").status_code == 401
    # A request is counted when its answer is out already; a gauge is there after the first look of each worker.
    assert comes_true(lambda: served.scrape().value("vestibule_requests_total", route="/me", status="401") == 30)
    assert comes_true(lambda: served.scrape().value("vestibule_request_seconds_count", route="/me") == 30)
    assert served.scrape().value("vestibule_request_seconds_bucket", route="/me", le="+Inf") == 30
    assert comes_true(lambda: served.scrape().value("vestibule_postgres_pool", state="size") == 2 * 10)
    assert comes_true(lambda: served.scrape().value("vestibule_redis_up") == 1)
    assert served.scrape().value("vestibule_build_info") == 1
    assert "pid=" not in served.scrape().text
    assert httpx.get(f"http://127.0.0.1:{served.port}/metrics").status_code == 404


def test_a_scrape_answers_while_redis_hangs_and_says_so(served: Served) -> None:
    assert comes_true(lambda: served.scrape().value("vestibule_redis_up") == 1)
    served.redis.send_signal(signal.SIGSTOP)
    try:
        assert comes_true(lambda: served.scrape().value("vestibule_redis_up") == 0)
        assert served.scrape().value("vestibule_postgres_up") == 1
    finally:
        served.redis.send_signal(signal.SIGCONT)


def test_a_dead_worker_leaves_its_counts_and_takes_its_gauges(served: Served) -> None:
    counted = served.scrape().value("vestibule_requests_total", route="/me") + 1
    httpx.get(f"http://127.0.0.1:{served.port}/me")
    assert comes_true(lambda: served.scrape().value("vestibule_requests_total", route="/me") == counted)
    killed = min(served.workers())
    os.kill(killed, signal.SIGKILL)

    def is_replaced() -> bool:
        served.scrape()
        return killed not in served.told_of() and len(served.told_of()) == 2

    assert comes_true(is_replaced)
    assert served.told_of() == served.workers()
    assert served.scrape().value("vestibule_requests_total", route="/me") == counted


def test_a_port_that_is_taken_stops_the_start_with_one_line(environ: dict[str, str]) -> None:
    mail = {"VESTIBULE_SMTP_URL": "smtp://127.0.0.1:1", "VESTIBULE_MAIL_FROM": "vestibule@example.com"}
    with socket.create_server(("127.0.0.1", 0)) as somebody:
        port = somebody.getsockname()[1]
        taken = {"VESTIBULE_METRICS_HOST": "127.0.0.1", "VESTIBULE_METRICS_PORT": str(port)}
        runner = CliRunner(env={**environ, **mail, **taken})
        for workers in ("1", "2"):
            ran = runner.invoke(main, ["serve", "--workers", workers])
            assert (ran.exit_code, ran.stdout) == (1, "")
            [line] = ran.stderr.splitlines()
            assert f"127.0.0.1:{port}" in line
            assert "VESTIBULE_METRICS_PORT" in line


def test_without_a_port_nobody_listens(environ: dict[str, str]) -> None:
    settings = load({**environ, "VESTIBULE_METRICS_PORT": "0"})
    before = threading.active_count()
    with metrics_served(settings, workers=2):
        assert threading.active_count() == before


# The log beside it


def test_each_line_of_a_request_carries_its_id(served: Served) -> None:
    ids = [secrets.token_hex(12) for _ in range(6)]

    def ask(request_id: str) -> str:
        body = {"email": "nobody@example.com", "password": "wind over the noisy harbour"}
        url, headers = f"http://127.0.0.1:{served.port}/auth/login", {"X-Request-ID": request_id}
        return httpx.post(url, json=body, headers=headers, timeout=20).headers["x-request-id"]

    with ThreadPoolExecutor() as threads:
        assert list(threads.map(ask, ids)) == ids

    def told() -> dict[str, list[str]]:
        lines = served.lines()
        return {one: sorted(line["event"] for line in lines if line.get("request_id") == one) for one in ids}

    # The last line is written when the answer is out already.
    assert comes_true(lambda: told() == {one: ["login", "request"] for one in ids}), told()
    at_work = [line for line in served.lines() if line["logger"] == "vestibule.request"]
    assert all(re.fullmatch("[0-9a-f]{16,24}", line["request_id"]) for line in at_work)
