"""Processes of `vestibule serve`, of this version or another."""

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from tests.cli.test_production import PROJECT, comes_true


@dataclass(frozen=True)
class Instance:
    """A process of `vestibule serve`."""

    process: "subprocess.Popen[bytes]"
    port: int
    log: Path

    async def ready(self) -> None:
        """Waits for it."""
        await asyncio.to_thread(comes_true, lambda: self.process.poll() is not None or self._is_ready())
        assert self.process.poll() is None, self.log.read_text()
        assert self._is_ready()

    def _is_ready(self) -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{self.port}/readyz", timeout=5).status_code == 200
        except httpx.TransportError:
            return False

    async def end(self) -> float:
        """Waits for it; how many seconds it took."""
        started = time.monotonic()
        await asyncio.to_thread(self.process.wait, 60)
        return time.monotonic() - started


@contextmanager
def instance(environ: Mapping[str, str], port: int, log: Path, code: Path = PROJECT) -> Iterator[Instance]:
    """Starts one; whatever happens, it is gone behind the block."""
    command = [sys.executable, "-m", "service", "serve", "--host", "127.0.0.1", "--port", str(port)]
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=code, env=dict(environ), stdout=output, stderr=output)
    try:
        yield Instance(process, port, log)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
