"""Clients that are slow, cut off, many, or send too much."""

import asyncio
import base64
import secrets
import select
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import httpx

from deploy.faults.judging import everything, is_active
from deploy.faults.load import Crowd, Load, Person, signed_in
from deploy.faults.table import Fault, Finding
from deploy.faults.world import House, World

AT_ONCE, RACES, GIVEN_UP, FORGED = 16, 20, 300, 1000
SOCKETS = 300
IMPATIENT = {"head_timeout": "3", "body_timeout": "6"}
"""Seconds; by default 10 and 20."""
CLOSED_AFTER = 10.0
"""Seconds after which no slow client may hold a connection: two sweeps later, and a little more."""
PROBE = 1.0
MOST_COMMANDS, MOST_MEMORY = 100, 40 * 1024 * 1024
MEGABYTE = b"a" * 1024 * 1024
ROW = b"POST /introspect HTTP/1.1\r\nHost: auth.test\r\nContent-Type: application/x-www-form-urlencoded\r\n"


def lost_answer(world: World) -> Finding:
    finding = Finding()
    with world.house() as house, house.http() as http:
        for person in signed_in(house, 5):
            _refresh_unheard(house, person)
            first = http.post("/auth/refresh", json={"refresh_token": person.refresh})
            time.sleep(1)
            second = http.post("/auth/refresh", json={"refresh_token": person.refresh})
            finding.seen.append(f"{first.status_code} {second.status_code}")
            finding.expect(first.is_success and second.is_success, "a retry was refused")
            alike = first.json().get("refresh_token") == second.json().get("refresh_token")
            finding.expect(alike, "two successors of one token")
            third = http.post("/auth/refresh", json={"refresh_token": second.json().get("refresh_token")})
            finding.expect(third.is_success, "the successor was refused")
    return finding


def concurrent_refreshes(world: World) -> Finding:
    finding = Finding()
    with world.house() as house:
        for person in signed_in(house, 5):
            answers = asyncio.run(_at_once(house, [person.refresh] * AT_ONCE))
            successors = {answer.json().get("refresh_token") for answer in answers}
            finding.seen.append(f"{sum(answer.is_success for answer in answers)} x 200, {len(successors)} successor")
            finding.expect(all(answer.is_success for answer in answers), "one of them was refused")
            finding.expect(len(successors) == 1, f"{len(successors)} successors")
    return finding


def refresh_and_sign_out(world: World) -> Finding:
    finding, alive = Finding(), 0
    with world.house() as house, house.http() as http, ThreadPoolExecutor(4) as threads:
        for number, person in enumerate(signed_in(house, RACES)):
            refreshing = [
                threads.submit(http.post, "/auth/refresh", json={"refresh_token": person.refresh}) for _ in range(3)
            ]
            time.sleep(number / 2000)
            http.post("/auth/logout", json={"refresh_token": person.refresh}).raise_for_status()
            given = [answer.json()["access_token"] for one in refreshing if (answer := one.result()).is_success]
            alive += sum(is_active(house, http, token) for token in (person.access, *given))
    finding.seen.append(f"{RACES} races, alive after the sign-out {alive}")
    finding.expect(alive == 0, f"{alive} tokens alive after their sign-out")
    return finding


def given_up(world: World) -> Finding:
    with world.house() as house, Load(house, Crowd.gather(house)) as load:
        others = signed_in(house, 3)
        with load.fault():
            for number in range(GIVEN_UP):
                with _connected(house) as line:
                    line.sendall(_introspection(house, others[number % len(others)].access))
                    time.sleep(secrets.randbelow(4000) / 1e6)
        finding = everything(load)
    finding.seen.append(f"{GIVEN_UP} given up")
    return finding


def slow_clients(world: World) -> Finding:
    with (
        world.house(settings=IMPATIENT) as house,
        Load(house, Crowd.gather(house)) as load,
        house.http() as http,
    ):
        lines: list[socket.socket] = []
        try:
            with load.fault():
                for beginning in (b"", b"GET /livez HTTP/1.1\r\nHost: au", ROW + b"Content-Length: 600\r\n\r\nt"):
                    lines += [_slow_line(house, beginning) for _ in range(SOCKETS)]
                slowest, left = _hold(http, lines)
            finding = everything(load)
        finally:
            for line in lines:
                line.close()
    finding.seen.append(f"probes within {slowest:.2f} s, {left} of {3 * SOCKETS} held after {CLOSED_AFTER:.0f} s")
    finding.expect(slowest < PROBE * load.slowness, f"a probe waited {slowest:.1f} s")
    finding.expect(left == 0, f"{left} connections still held")
    return finding


def large_bodies(world: World) -> Finding:
    finding = Finding()
    with world.house() as house, Load(house, Crowd.gather(house)) as load:
        before = house.service.memory
        with load.fault():
            told = {
                "10 MB": _sent(house, ROW + b"Content-Length: 10485760\r\n\r\n", MEGABYTE, 10),
                "99 GB": _sent(house, ROW + b"Content-Length: 99000000000\r\n\r\n", MEGABYTE, 1),
                "chunked": _sent(
                    house, ROW + b"Transfer-Encoding: chunked\r\n\r\n", b"100000\r\n" + MEGABYTE + b"\r\n", 11
                ),
            }
        grown = house.service.memory - before
        finding = everything(load)
    finding.seen.append(f"{told}, {grown / 1024 / 1024:.0f} MB more")
    finding.expect(set(told.values()) == {"413"}, f"{told}")
    finding.expect(grown < MOST_MEMORY, f"{grown / 1024 / 1024:.0f} MB more memory")
    return finding


def forged_flood(world: World) -> Finding:
    finding = Finding()
    with world.house() as house:
        (person,) = signed_in(house, 1)
        before = _commands(house)
        statuses, active = asyncio.run(_forge(house, person))
        commands = _commands(house) - before
    finding.seen.append(f"{statuses}, active {active}, {commands} commands of Redis")
    finding.expect(statuses == {200} and active == 0, f"{statuses}, {active} active")
    finding.expect(commands < MOST_COMMANDS, f"{commands} commands for {FORGED} forged tokens")
    return finding


async def _forge(house: House, person: Person) -> tuple[set[int], int]:
    head, body, _ = person.access.split(".")
    answers: list[httpx.Response] = []
    async with httpx.AsyncClient(base_url=house.service.url, timeout=30) as http:
        gate = asyncio.Semaphore(20)

        async def one() -> None:
            signature = base64.urlsafe_b64encode(secrets.token_bytes(64)).rstrip(b"=").decode()
            form = {"token": f"{head}.{body}.{signature}"}
            async with gate:
                answers.append(await http.post("/introspect", data=form, headers={"Authorization": house.basic}))

        await asyncio.gather(*(one() for _ in range(FORGED)))
    return {answer.status_code for answer in answers}, sum(answer.json()["active"] for answer in answers)


async def _at_once(house: House, tokens: list[str]) -> list[httpx.Response]:
    async with httpx.AsyncClient(base_url=house.service.url, timeout=30) as http:
        asking = (http.post("/auth/refresh", json={"refresh_token": token}) for token in tokens)
        return list(await asyncio.gather(*asking))


def _commands(house: House) -> int:
    return int(house.store.say("INFO", "stats")["total_commands_processed"])


def _refresh_unheard(house: House, person: Person) -> None:
    """A refresh whose answer is on its way when the connection is cut."""
    body = b'{"refresh_token":"%s"}' % person.refresh.encode()
    head = b"POST /auth/refresh HTTP/1.1\r\nHost: auth.test\r\nContent-Type: application/json\r\n"
    with _connected(house) as line:
        line.sendall(head + b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
        select.select([line], [], [], 10)


def _introspection(house: House, token: str) -> bytes:
    body = f"token={token}".encode()
    return ROW + b"Authorization: %s\r\nContent-Length: %d\r\n\r\n%s" % (house.basic.encode(), len(body), body)


@contextmanager
def _connected(house: House) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", house.service.port), timeout=10) as line:
        yield line


def _slow_line(house: House, beginning: bytes) -> socket.socket:
    line = socket.create_connection(("127.0.0.1", house.service.port), timeout=10)
    line.sendall(beginning)
    line.setblocking(False)
    return line


def _hold(http: httpx.Client, lines: list[socket.socket]) -> tuple[float, int]:
    """The slowest probe meanwhile, and how many lines are open in the end."""
    slowest, left, until = 0.0, list(lines), time.monotonic() + CLOSED_AFTER
    while left and time.monotonic() < until:
        started = time.monotonic()
        http.get("/livez").raise_for_status()
        slowest = max(slowest, time.monotonic() - started)
        for line in left[2 * len(left) // 3 :]:
            with suppress(OSError):
                line.send(b"x")
        left = [line for line in left if _is_open(line)]
        time.sleep(0.5)
    return slowest, len(left)


def _is_open(line: socket.socket) -> bool:
    try:
        return bool(line.recv(4096))
    except BlockingIOError:
        return True
    except OSError:
        return False


def _sent(house: House, head: bytes, piece: bytes, times: int) -> str:
    """The status that a body in pieces meets."""
    with _connected(house) as line:
        with suppress(OSError):
            line.sendall(head)
            for _ in range(times):
                line.sendall(piece)
        with suppress(OSError):
            return line.recv(4096)[9:12].decode()
    return "closed"


FAULTS = (
    Fault(24, "response lost", "cut while the answer to a refresh comes; retries", "the same successor", lost_answer),
    Fault(25, "16 refreshes at once", "one token, 16 times", "one rotation, 16 equal answers", concurrent_refreshes),
    Fault(26, "refresh and sign-out", f"{RACES} races", "nothing alive after the answer", refresh_and_sign_out),
    Fault(29, "given up", f"{GIVEN_UP} introspections cut off under load", "0 answers of somebody else", given_up),
    Fault(
        32,
        "slow clients",
        "3 x 300 sockets: nothing, half a head, a slow body",
        "the others unaffected; closed within 10 s (limits of 3 and 6 s)",
        slow_clients,
    ),
    Fault(33, "large bodies", "10 MB, 99 GB announced, 11 MB in chunks", "413, memory flat", large_bodies),
    Fault(46, "forged flood", f"{FORGED} tokens with random signatures", "inactive, no command of Redis", forged_flood),
)
