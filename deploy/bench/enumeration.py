"""Does the time of an answer tell who has an account? Measured against `vestibule dev`, known beside unknown.

Requests of both kinds alternate in random order, so that whatever the machine does happens to both. Their times are
compared by the Mann-Whitney U test: `p` is how likely such a difference is by chance, `AUC` how often a stranger who
bets on the slower one of two answers would win (0.50 is a coin). Two controls show that the instrument works: one
that must see nothing, and one that must see something.

Usage: uv run deploy/bench/enumeration.py [samples per kind, 200 by default]
"""

import os
import re
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from statistics import NormalDist, median

import httpx

PASSWORD = "rain over the quiet harbour"
LONGEST_START = 60.0
PEOPLE = 20
WARM_UP = 10
LIKELY_BY_CHANCE = 0.001
COIN = 0.10
"""How far from 0.50 the AUC may be: less is of no use to anybody who is not let in thousands of times."""

Request = Callable[[], tuple[str, dict[str, object]]]


@dataclass(frozen=True)
class Comparison:
    """Two kinds of requests that must not be told apart; a control that must be has `differs`."""

    name: str
    known: Request
    unknown: Request
    differs: bool = False


@dataclass(frozen=True)
class Finding:
    """What was seen, times in milliseconds."""

    known: float
    unknown: float
    auc: float
    p: float

    @property
    def tells(self) -> bool:
        return self.p < LIKELY_BY_CHANCE and abs(self.auc - 0.5) > COIN


def main() -> None:
    samples = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    with service() as url, httpx.Client(base_url=url, timeout=30) as http:
        print(f"signing up {PEOPLE} people …", flush=True)
        people = [sign_up(http) for _ in range(PEOPLE)]
        http.headers["Authorization"] = f"Bearer {access_token(http, people[0])}"
        print(f"{'':<34}{'known':>9}{'unknown':>9}{'AUC':>7}{'p':>9}", flush=True)
        wrong = [show(comparison, measured(http, comparison, samples)) for comparison in comparisons(http, people)]
    sys.exit(any(wrong))


@contextmanager
def service() -> Iterator[str]:
    """`vestibule dev` in a folder of its own, with limits that nobody meets."""
    port = free_port()
    names = "REGISTER_NETWORK GUESS_NETWORK GUESS_ACCOUNT GUESS_ACCOUNT_NETWORK MAIL_NETWORK CHANGE_ACCOUNT"
    names += " MAIL_ADDRESS MAIL_ADDRESS_NETWORK CODE_ADDRESS CODE_ADDRESS_NETWORK"
    limits = {f"VESTIBULE_LIMIT_{name}": "1000000/s" for name in names.split()}
    url = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryDirectory() as folder, Path(folder, "log").open("w+") as log:
        command = [sys.executable, "-m", "service", "dev", "--port", str(port), "--data", f"{folder}/data"]
        running = subprocess.Popen(command, env={**os.environ, **limits}, stdout=log, stderr=log)
        try:
            wait_for(url, running, Path(folder, "log"))
            yield url
        finally:
            running.terminate()
            running.wait(timeout=30)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(url: str, running: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + LONGEST_START
    while time.monotonic() < until and running.poll() is None:
        try:
            if httpx.get(f"{url}/readyz").status_code == httpx.codes.OK:
                return
        except httpx.TransportError:
            time.sleep(0.1)
    sys.exit(f"the service did not start:\n{log.read_text()}")


def sign_up(http: httpx.Client) -> str:
    """A new account; answers its address."""
    address, body = new_address(), {"password": PASSWORD, "nickname": f"n{secrets.token_hex(6)}"}
    handle = http.post("/auth/register", json={"email": address, **body}).json()["registration"]
    for _ in range(100):
        mails = http.get("/dev/mailbox", headers={"accept": "application/json"}).json()
        code = next((re.search(r"\b\d{6}\b", mail["text"]) for mail in mails if mail["to"] == address), None)
        if code is not None:
            answer = http.post("/auth/verify", json={"registration": handle, "code": code[0]})
            answer.raise_for_status()
            return address
        time.sleep(0.05)
    sys.exit("no mail arrived")


def access_token(http: httpx.Client, address: str) -> str:
    answer = http.post("/auth/login", json={"email": address, "password": PASSWORD})
    token: str = answer.json()["access_token"]
    return token


def new_address() -> str:
    return f"p{secrets.token_hex(6)}@example.com"


def comparisons(http: httpx.Client, people: list[str]) -> list[Comparison]:
    def known() -> str:
        return secrets.choice(people)

    def others() -> str:
        return secrets.choice(people[1:])

    def login(address: Callable[[], str], password: str = "not the one that was chosen") -> Request:
        return lambda: ("/auth/login", {"email": address(), "password": password})

    def register(address: Callable[[], str]) -> Request:
        nickname: Callable[[], str] = lambda: f"n{secrets.token_hex(6)}"  # noqa: E731
        return lambda: ("/auth/register", {"email": address(), "password": PASSWORD, "nickname": nickname()})

    def forgot(address: Callable[[], str]) -> Request:
        return lambda: ("/auth/password/forgot", {"email": address()})

    def other_address(address: Callable[[], str]) -> Request:
        return lambda: ("/me/email", {"email": address(), "password": PASSWORD})

    def resend(address: Callable[[], str]) -> Request:
        handles = [posted(register(address)).json()["registration"] for _ in range(PEOPLE)]
        return lambda: ("/auth/verify/resend", {"registration": secrets.choice(handles)})

    def posted(request: Request) -> httpx.Response:
        path, body = request()
        return http.post(path, json=body)

    return [
        Comparison("control: both unknown", login(new_address), login(new_address)),
        Comparison("control: hashed, not hashed", login(known), login(known, "x" * 4097), differs=True),
        Comparison("sign-in, wrong password", login(known), login(new_address)),
        Comparison("sign-up", register(known), register(new_address)),
        Comparison("forgotten password", forgot(known), forgot(new_address)),
        Comparison("new code", resend(known), resend(new_address)),
        Comparison("another address for oneself", other_address(others), other_address(new_address)),
    ]


def measured(http: httpx.Client, comparison: Comparison, samples: int) -> Finding:
    times: dict[bool, list[float]] = {True: [], False: []}
    kinds = [True, False] * (samples + WARM_UP)
    for i in range(0, len(kinds), 2):
        for is_known in secrets.SystemRandom().sample(kinds[i : i + 2], 2):
            path, body = (comparison.known if is_known else comparison.unknown)()
            started = time.perf_counter()
            http.post(path, json=body)
            times[is_known].append((time.perf_counter() - started) * 1000)
    known, unknown = times[True][WARM_UP:], times[False][WARM_UP:]
    return Finding(median(known), median(unknown), *mann_whitney(known, unknown))


def mann_whitney(first: list[float], second: list[float]) -> tuple[float, float]:
    """The AUC, and the two-sided p of the normal approximation; times are never tied."""
    ranked = sorted([(value, 0) for value in first] + [(value, 1) for value in second])
    ranks = sum(rank for rank, (_, kind) in enumerate(ranked, start=1) if kind == 0)
    n, m = len(first), len(second)
    u = ranks - n * (n + 1) / 2
    z = (u - n * m / 2) / sqrt(n * m * (n + m + 1) / 12)
    return u / (n * m), 2 * (1 - NormalDist().cdf(abs(z)))


def show(comparison: Comparison, finding: Finding) -> bool:
    """Prints one line, and says whether it is not as it should be."""
    is_wrong = finding.tells != comparison.differs
    verdict = {(False, False): "", (True, True): "seen, as it must be"}.get(
        (finding.tells, comparison.differs), "THE TIME TELLS" if finding.tells else "THE INSTRUMENT IS BLIND"
    )
    numbers = f"{finding.known:>7.2f}ms{finding.unknown:>7.2f}ms{finding.auc:>7.2f}{finding.p:>9.4f}"
    print(f"{comparison.name:<34}{numbers}  {verdict}", flush=True)
    return is_wrong


if __name__ == "__main__":
    main()
