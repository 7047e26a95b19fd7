"""The service is killed, stopped, flooded, short of descriptors."""

import json
import resource
import signal
import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import cycle

import httpx

from deploy.faults.judging import AGAIN, everything, recovery, share_of_strangers, work
from deploy.faults.load import Crowd, Load, Person, login_body, signed_in
from deploy.faults.table import Fault, Finding
from deploy.faults.world import GUESTS, STRONG_HASHES, House, World

ROUNDS, PEOPLE = 3, 8
DRAIN, GRACE = 1, 3
LOGINS = 200
MOST_MEMORY = 500 * 1024 * 1024
LEAST_P99 = 0.1
MOST_STRANGE = 0.2
"""The share of the cores that others may take before a time says nothing about the service."""
DESCRIPTORS = 64


def killed_in_rotations(world: World) -> Finding:
    finding, lost, rotations = Finding(), 0, 0
    with world.house() as house:
        people = signed_in(house, PEOPLE)
        for _ in range(ROUNDS):
            with ThreadPoolExecutor(PEOPLE) as threads:
                rotating = [threads.submit(_rotate, house, person) for person in people]
                time.sleep(1)
                house.service.kill()
            rotations += sum(one.result() for one in rotating)
            house.service.start()
            house.service.await_answer()
            with house.http() as http:
                lost += sum(not _refreshed(http, person) for person in people)
    finding.seen.append(f"{ROUNDS} kills in {rotations} rotations, {lost} of {PEOPLE} sessions lost")
    finding.expect(lost == 0, f"{lost} sessions lost")
    finding.expect(rotations > PEOPLE, "nobody rotated")
    return finding


def stopped_with_a_slow_body(world: World) -> Finding:
    finding = Finding()
    head = b"POST /introspect HTTP/1.1\r\nHost: auth.test\r\nContent-Length: 100\r\n\r\ntoken="
    with world.house(settings={"drain": str(DRAIN), "shutdown_grace": str(GRACE)}) as house:
        with socket.create_connection(("127.0.0.1", house.service.port), timeout=10) as line:
            line.sendall(head)
            time.sleep(0.3)
            started = time.monotonic()
            house.service.process.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                house.service.process.wait(DRAIN + GRACE + 10)
        code, seconds = house.service.process.poll(), time.monotonic() - started
    finding.seen.append(f"ended after {seconds:.1f} s with {code}")
    finding.expect(seconds < DRAIN + GRACE + 3, f"took {seconds:.1f} s")
    finding.expect(code == 0, f"ended with {code}")
    return finding


def login_flood(world: World) -> Finding:
    with world.house(settings=STRONG_HASHES) as house, Load(house, Crowd.gather(house), logins=False) as load:
        time.sleep(3)
        before = work()
        with load.fault(), _watched(house) as memory:
            statuses = _flood(house)
        strangers = share_of_strangers(before, work())
        idle = load.answers.of("introspect").between(0, load.began).slowest(0.99)
        busy = load.meanwhile.of("introspect").slowest(0.99)
        finding = everything(load, again=15, slowest=10)
    times = f"introspect p99 {idle * 1000:.0f} -> {busy * 1000:.0f} ms"
    finding.seen.append(f"logins {dict(statuses)}, {times}")
    if strangers > MOST_STRANGE:
        finding.seen.append(f"not judged: {strangers:.0%} of the cores' work was for strangers")
    finding.seen.append(f"{max(memory) / 1024 / 1024:.0f} MB")
    finding.expect(set(statuses) <= {200, 429, 503}, f"logins answered {dict(statuses)}")
    finding.expect(busy <= max(3 * idle, LEAST_P99) or strangers > MOST_STRANGE, times)
    finding.expect(max(memory) < MOST_MEMORY, f"{max(memory) / 1024 / 1024:.0f} MB")
    return finding


def no_descriptors(world: World) -> Finding:
    finding = Finding()

    def few() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, DESCRIPTORS))

    with world.house(become=few) as house:
        crowd = Crowd.gather(house, leave=0)
        lines = [_opened(house) for _ in range(2 * DESCRIPTORS)]
        time.sleep(2)
        for line in lines:
            line.close()
        since = time.monotonic()
        again = recovery(house, crowd, since, 20)
        code = house.service.process.poll()
    finding.seen.append(f"{len(lines)} connections at {DESCRIPTORS} descriptors; well again after {again:.1f} s")
    finding.expect(code is None, f"the service ended with {code}")
    finding.expect(again < AGAIN, "not well again within 5 s")
    return finding


def _rotate(house: House, person: Person) -> int:
    """Rotations until the service is gone."""
    done = 0
    with house.http() as http, suppress(httpx.TransportError):
        while _refreshed(http, person):
            done += 1
    return done


def _refreshed(http: httpx.Client, person: Person) -> bool:
    answer = http.post("/auth/refresh", json={"refresh_token": person.refresh})
    if answer.is_success:
        person.refresh = answer.json()["refresh_token"]
    return answer.is_success


def _flood(house: House) -> Counter[int]:
    """So many sign-ins at the same moment, by plain sockets: the one who asks must not take the cores."""
    head = b"POST /auth/login HTTP/1.1\r\nHost: auth.test\r\nContent-Type: application/json\r\nConnection: close\r\n"
    bodies = [json.dumps(login_body(guest)).encode() for guest in GUESTS]
    requests = [head + b"Content-Length: %d\r\n\r\n%s" % (len(body), body) for body in bodies]
    lines = [socket.create_connection(("127.0.0.1", house.service.port), timeout=60) for _ in range(LOGINS)]
    for line, request in zip(lines, cycle(requests)):
        line.sendall(request)
    statuses = Counter(int(line.recv(4096)[9:12] or b"0") for line in lines)
    for line in lines:
        line.close()
    return statuses


@contextmanager
def _watched(house: House) -> Iterator[list[int]]:
    """What memory the service takes meanwhile."""
    seen, end = [house.service.memory], threading.Event()

    def look() -> None:
        while not end.wait(0.1):
            seen.append(house.service.memory)

    thread = threading.Thread(target=look)
    thread.start()
    yield seen
    end.set()
    thread.join()


def _opened(house: House) -> socket.socket:
    line = socket.socket()
    line.settimeout(0.2)
    with suppress(OSError):
        line.connect(("127.0.0.1", house.service.port))
    return line


FAULTS = (
    Fault(
        23,
        "killed in rotations",
        f"kill -9 {ROUNDS} times while {PEOPLE} refresh without a pause",
        "0 sessions lost",
        killed_in_rotations,
    ),
    Fault(
        31,
        "SIGTERM, slow body",
        "a body that does not end",
        "ended within drain and grace, with 0",
        stopped_with_a_slow_body,
    ),
    Fault(
        45,
        "login flood",
        f"{LOGINS} sign-ins at once",
        "introspect 0 x 503, p99 within 3x; memory bounded",
        login_flood,
    ),
    Fault(52, "no descriptors", f"ulimit -n {DESCRIPTORS}, twice as many lines", "no crash, recovers", no_descriptors),
    Fault(
        53,
        "small container",
        "",
        "runs with 128 MB, read-only, no capabilities",
        elsewhere="the image is built where an engine is; tests/deploy/test_images.py replays its steps",
    ),
)
