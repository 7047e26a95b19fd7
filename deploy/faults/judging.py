"""What is looked at after a fault: the answers meanwhile, the way back, and who lives."""

import math
import time
from collections import Counter
from contextlib import suppress

import httpx
import psutil

from deploy.faults.load import Answers, Crowd, Load, Person, claims, login_body, wrong_introspection
from deploy.faults.table import Finding
from deploy.faults.world import House

SLOWEST = 3.0
"""Seconds that any answer may take."""
AGAIN = 5.0
"""Seconds until everything works again."""
SETTLE = 6.0
"""Seconds until the journal was replayed: one tick, and a little more."""
SLACK = 0.3
"""Seconds at the beginning and the end of a fault that belong to neither side."""


def everything(
    load: Load,
    *,
    may_fail: tuple[str, ...] = (),
    must_fail: tuple[str, ...] = (),
    slowest: float = SLOWEST,
    again: float = AGAIN,
    settle: float = 0.0,
    ends_later: bool = False,
) -> Finding:
    """The whole examination, with the load still running.

    While the fault lasts (and until it has recovered), `may_fail` and `must_fail` may answer 503, the others may not;
    `must_fail` may answer nothing else. Nobody alive is ever told otherwise, no acknowledged sign-out is undone, nobody
    is thrown out, and everything works again within `again` seconds. Whoever signed out is out within `settle` seconds,
    and if it `ends_later`, also who was told 503. All times are those of a machine that does nothing else.
    """
    finding, slowest, again = Finding(), slowest * load.slowness, again * load.slowness
    recovered = recovery(load.house, load.crowd, load.ended, again + 5)
    finding.seen.append(load.meanwhile.told())
    finding.seen.append(f"slowest {load.meanwhile.slowest():.2f} s")
    finding.seen.append(f"again after {recovered:.1f} s")
    finding.expect(recovered <= again, f"not well again within {again:.0f} s")
    _settle(load, settle, ends_later)
    end = min(load.ended + max(recovered, 0.0) + SLACK, time.monotonic())
    _statuses(load, finding, may_fail, must_fail, end)
    finding.expect(load.meanwhile.slowest() <= slowest, f"an answer took {load.meanwhile.slowest():.1f} s")
    finding.broken.extend(_wrong(load))
    aftermath(load.house, load.crowd, finding, ends_later)
    return finding


def _settle(load: Load, longest: float, ends_later: bool) -> None:
    """Waits until who is to be out is out."""
    until = time.monotonic() + longest * load.slowness
    leaving = load.crowd.gone + (load.crowd.put_off if ends_later else [])
    with load.house.http() as http:
        while any(is_active(load.house, http, person.access) for person in leaving) and time.monotonic() < until:
            time.sleep(0.1)


def recovery(house: House, crowd: Crowd, since: float, limit: float) -> float:
    """Seconds since the end of a fault until everything is served; infinity when it takes longer than the limit."""
    with house.http() as http:
        while time.monotonic() < since + limit:
            try:
                if _is_served(house, http, crowd.stay[0]):
                    return time.monotonic() - since
            except httpx.HTTPError:
                pass
            time.sleep(0.05)
    return math.inf


def aftermath(house: House, crowd: Crowd, finding: Finding, ends_later: bool) -> None:
    """Who lives although they went, and who was thrown out."""
    with house.http() as http:
        alive = sum(lives(house, http, person) for person in crowd.gone)
        late = sum(lives(house, http, person) for person in crowd.put_off) if ends_later else 0
        out = sum(not is_active(house, http, person.access) for person in crowd.stay)
        lost = 0
        for person in crowd.renew:
            answer = http.post("/auth/refresh", json={"refresh_token": person.refresh})
            lost += not answer.is_success
    finding.seen.append(f"signed out {len(crowd.gone)}, alive of them {alive}, thrown out {out + lost}")
    if ends_later:
        finding.seen.append(f"put off {len(crowd.put_off)}, alive of them {late}")
    finding.expect(late == 0, f"{late} sign-outs that were put off never came")
    finding.expect(alive == 0, f"{alive} acknowledged sign-outs undone")
    finding.expect(out == 0, f"{out} live sessions inactive")
    finding.expect(lost == 0, f"{lost} refresh tokens lost")


def lives(house: House, http: httpx.Client, person: Person) -> bool:
    """Whether either token of a session is good; its refresh token is used up by the question."""
    refreshed = http.post("/auth/refresh", json={"refresh_token": person.refresh})
    return refreshed.is_success or is_active(house, http, person.access)


def work() -> tuple[float, float]:
    """Seconds for which the cores have worked so far, and for which they did so for us and what we started."""
    times, ours = psutil.cpu_times(), 0.0
    for process in (me := psutil.Process(), *me.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            ours += sum(process.cpu_times()[:2])
    return times.user + times.nice + times.system, ours


def share_of_strangers(before: tuple[float, float], after: tuple[float, float]) -> float:
    """Which part of their work the cores did for others between two looks."""
    everybody, ours = after[0] - before[0], after[1] - before[1]
    return max(0.0, 1 - ours / everybody) if everybody else 0.0


def is_active(house: House, http: httpx.Client, token: str) -> bool:
    """What introspection says; True too for an answer that says neither, so that no judge takes it for an end."""
    answer = http.post("/introspect", data={"token": token}, headers={"Authorization": house.basic})
    return answer.status_code == httpx.codes.OK and bool(answer.json()["active"])


def _is_served(house: House, http: httpx.Client, person: Person) -> bool:
    answer = http.post("/introspect", data={"token": person.access}, headers={"Authorization": house.basic})
    if answer.status_code != httpx.codes.OK or wrong_introspection(answer, str(claims(person.access)["jti"])):
        return False
    login = http.post("/auth/login", json=login_body())
    if not login.is_success:
        return False
    return http.post("/auth/refresh", json={"refresh_token": login.json()["refresh_token"]}).is_success


def _statuses(
    load: Load, finding: Finding, may_fail: tuple[str, ...], must_fail: tuple[str, ...], recovered: float
) -> None:
    whole = load.answers
    for kind in ("introspect", "refresh", "login", "logout"):
        spared = whole.of(kind) if kind not in (*may_fail, *must_fail) else _outside(load, kind, recovered)
        failed = sum(n for status, n in spared.statuses().items() if status in {0, 503})
        finding.expect(failed == 0, f"{kind}: {failed} failed")
    for kind in must_fail:
        told = whole.of(kind).within(load.began + SLACK, load.ended).statuses()
        finding.expect(set(told) == {503}, f"{kind}: {dict(told) or 'nobody asked'} where 503 was promised")


def _outside(load: Load, kind: str, recovered: float) -> Answers:
    """Those that came before the fault, and to requests that were sent when it was over."""
    of_kind = load.answers.of(kind)
    return Answers(of_kind.within(0, load.began).all + of_kind.between(recovered + SLACK, math.inf).all)


def _wrong(load: Load) -> list[str]:
    counted = Counter(answer.wrong for answer in load.answers.all if answer.wrong)
    return [f"{what} ({n})" for what, n in counted.items()]
