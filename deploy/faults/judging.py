"""What is looked at after a fault: the answers meanwhile, the way back, and who lives."""

import math
import time
from collections import Counter

import httpx

from deploy.faults.load import Answers, Crowd, Load, Person, claims, login_body, wrong_introspection
from deploy.faults.table import Finding
from deploy.faults.world import House

SLOWEST = 3.0
"""Seconds that any answer may take."""
AGAIN = 5.0
"""Seconds until everything works again."""
SETTLE = 6.0
"""One tick of the journal, and a little more."""
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
) -> Finding:
    """The whole examination, with the load still running.

    While the fault lasts (and until it has recovered), `may_fail` and `must_fail` may answer 503, the others may not;
    `must_fail` may answer nothing else. Nobody alive is ever told otherwise, no acknowledged sign-out is undone, nobody
    is thrown out, and everything works again within `again` seconds.
    """
    finding = Finding()
    recovered = recovery(load.house, load.crowd, load.ended, again + 5)
    finding.seen.append(load.meanwhile.told())
    finding.seen.append(f"slowest {load.meanwhile.slowest():.2f} s")
    finding.seen.append(f"again after {recovered:.1f} s")
    finding.expect(recovered <= again, f"not well again within {again:.0f} s")
    time.sleep(settle)
    end = min(load.ended + max(recovered, 0.0) + SLACK, time.monotonic())
    _statuses(load, finding, may_fail, must_fail, end)
    finding.expect(load.meanwhile.slowest() <= slowest, f"an answer took {load.meanwhile.slowest():.1f} s")
    finding.broken.extend(_wrong(load))
    aftermath(load.house, load.crowd, finding)
    return finding


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


def aftermath(house: House, crowd: Crowd, finding: Finding) -> None:
    """Who lives although they went, and who was thrown out."""
    with house.http() as http:
        alive = sum(is_active(house, http, person.access) for person in crowd.gone)
        out = sum(not is_active(house, http, person.access) for person in crowd.stay)
        lost = 0
        for person in crowd.renew:
            answer = http.post("/auth/refresh", json={"refresh_token": person.refresh})
            lost += not answer.is_success
    finding.seen.append(f"signed out {len(crowd.gone)}, alive of them {alive}, thrown out {out + lost}")
    finding.expect(alive == 0, f"{alive} acknowledged sign-outs undone")
    finding.expect(out == 0, f"{out} live sessions inactive")
    finding.expect(lost == 0, f"{lost} refresh tokens lost")


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
