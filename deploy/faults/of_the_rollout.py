"""Two instances behind a proxy, replaced one after the other."""

import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deploy.faults.judging import everything
from deploy.faults.load import Crowd, Load
from deploy.faults.servers import free_port
from deploy.faults.table import Fault, Finding, NotHere
from deploy.faults.vestibule import Instance, instance
from deploy.faults.world import World

DRAIN = {"drain": "2"}
LONGEST_REQUEST = 10.0
"""Seconds: two more processes start meanwhile, on the same cores."""
PROXY = """
defaults
  mode http
  retries 0
  timeout connect 1s
  timeout client 30s
  timeout server 30s
  timeout check 2s
frontend front
  bind 127.0.0.1:{port}
  default_backend vestibule
backend vestibule
  option httpchk
  http-check send meth GET uri /readyz ver HTTP/1.1 hdr Host auth.test
  default-server inter 200ms fall 2 rise 2 check
{servers}
"""


def replaced(world: World) -> Finding:
    with (
        world.house(settings=DRAIN) as house,
        instance(house.environ, house.folder / "second.log") as second,
        _proxy(house.folder, [house.service, second]) as url,
        Load(house, Crowd.gather(house), url) as load,
    ):
        with load.fault():
            for one in (house.service, second):
                one.end()
                one.start()
                one.await_answer("/readyz")
                time.sleep(1)
        return everything(load, slowest=LONGEST_REQUEST)


@contextmanager
def _proxy(folder: Path, instances: list[Instance]) -> Iterator[str]:
    program = shutil.which("haproxy", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
    if program is None:
        raise NotHere("haproxy is not installed")
    port, file = free_port(), folder / "haproxy.cfg"
    servers = "\n".join(f"  server s{number} 127.0.0.1:{one.port}" for number, one in enumerate(instances))
    file.write_text(PROXY.format(port=port, servers=servers))
    with (folder / "haproxy.log").open("wb") as log:
        running = subprocess.Popen([program, "-db", "-f", str(file)], stdout=log, stderr=log)
    try:
        time.sleep(1)
        if running.poll() is not None:
            raise NotHere((folder / "haproxy.log").read_text()[-200:])
        yield f"http://127.0.0.1:{port}"
    finally:
        running.terminate()
        running.wait(10)


FAULTS = (Fault(30, "rolling restart", "two instances behind HAProxy, both replaced under load", "0 failed", replaced),)
