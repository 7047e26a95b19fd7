"""What is counted and measured, in the words of Prometheus. Who serves it: `cli/metrics_port.py`.

Labels have few values, all of them ours: routes are templates, outcomes are constants, and nothing that a person or a
client sent is ever one. Requests are counted when they end; what asks a dependency is set by `operations/vitals.py`.

With several workers each keeps its own numbers in a file, and the scrape puts them together: counters and histograms
are summed, gauges as their `multiprocess_mode` says.
"""

import platform
from bisect import bisect_left
from collections.abc import Mapping, Sequence

from prometheus_client import Counter, Gauge, Histogram, disable_created_metrics

from service import __version__

disable_created_metrics()  # type: ignore[no-untyped-call]

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
OTHER_METHOD = "<other>"
REFRESHED = ("rotated", "repeated", "healed", "reused", "expired", "revoked", "unknown", "foreign", "unavailable")
INTROSPECTED = ("active", "inactive", "unavailable")
SIGN_UP_STEPS = {"account.register": "begun", "account.verify": "proved"}
LATENCIES = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
HASH_LATENCIES = (0.01, 0.025, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2)


class Latencies(Histogram):
    """A histogram that also takes what others have sorted into its buckets."""

    def take(self, counts: Sequence[int], seconds: float) -> None:
        """So many more in each bucket, which took so many seconds together."""
        self._sum.inc(seconds)
        for bucket, count in zip(self._buckets, counts, strict=True):
            if count:
                bucket.inc(count)


requests = Counter("vestibule_requests", "Requests that were answered.", ("method", "route", "status"))
request_seconds = Latencies("vestibule_request_seconds", "How long an answer took.", ("route",), buckets=LATENCIES)
refreshes = Counter("vestibule_refreshes", "Refresh tokens that were presented.", ("outcome",))
introspections = Counter("vestibule_introspections", "Tokens that were asked about.", ("outcome",))
token_cache = Counter("vestibule_token_cache", "Whether an access token had been verified before.", ("cache",))
sign_ins = Counter("vestibule_sign_ins", "Sign-ins that were decided, by password or provider.", ("way", "outcome"))
sign_ups = Counter("vestibule_sign_ups", "Steps of sign-ups that were decided.", ("step", "outcome"))

mails = Counter("vestibule_mails", "Attempts to hand a mail over.", ("outcome",))
mails_waiting = Gauge("vestibule_mails_waiting", "Mails in the outbox.", multiprocess_mode="livemax")
mails_dead = Gauge("vestibule_mails_dead", "Mails that were given up.", multiprocess_mode="livemax")
oldest_mail = Gauge(
    "vestibule_oldest_mail_seconds", "How long the oldest mail of the outbox waits.", multiprocess_mode="livemax"
)

hashes = Gauge("vestibule_hashes", "Password hashes at this moment.", ("state",), multiprocess_mode="livesum")
hashes_refused = Counter("vestibule_hashes_refused", "Password hashes that found the queue full.")
hash_seconds = Histogram("vestibule_hash_seconds", "How long a password hash took, once begun.", buckets=HASH_LATENCIES)

redis_up = Gauge("vestibule_redis_up", "Whether Redis answered the last look.", multiprocess_mode="livemin")
redis_seconds = Gauge(
    "vestibule_redis_round_trip_seconds", "Round trip of the last look at Redis.", multiprocess_mode="livemax"
)
redis_reconnects = Counter("vestibule_redis_reconnects", "Connections to Redis that were made.")
redis_evicted = Gauge(
    "vestibule_redis_evicted_keys", "Keys that Redis threw away since its start.", multiprocess_mode="livemax"
)
redis_policy_wrong = Gauge(
    "vestibule_redis_policy_wrong", "Whether Redis may throw keys away.", multiprocess_mode="livemax"
)
breaker_open = Gauge("vestibule_redis_breaker_open", "Whether Redis is not asked now.", multiprocess_mode="livemax")
losses = Counter("vestibule_redis_losses", "Times that Redis was given up for a while.")
from_journal = Counter("vestibule_answers_from_journal", "Introspections that PostgreSQL answered.")
sessions_restored = Counter("vestibule_sessions_restored", "Sessions that the journal brought back to Redis.")
replayed_rows = Counter("vestibule_replayed_revocations", "Revocations of the journal that were told to Redis again.")
lag = Gauge("vestibule_replay_lag_seconds", "How long ago the journal was last replayed.", multiprocess_mode="livemax")

postgres_up = Gauge("vestibule_postgres_up", "Whether PostgreSQL answered the last look.", multiprocess_mode="livemin")
postgres_seconds = Gauge(
    "vestibule_postgres_check_seconds", "How long the last look at PostgreSQL took.", multiprocess_mode="livemax"
)
pool = Gauge(
    "vestibule_postgres_pool", "Connections to PostgreSQL, and who waits.", ("state",), multiprocess_mode="livesum"
)
schema_current = Gauge("vestibule_schema_current", "Whether every migration is there.", multiprocess_mode="livemin")

key_active = Gauge("vestibule_signing_key_active", "Whether tokens can be signed.", multiprocess_mode="livemin")
key_age = Gauge("vestibule_signing_key_age_seconds", "How long the active key has signed.", multiprocess_mode="livemax")
key_turn = Gauge(
    "vestibule_signing_key_turn_seconds", "Until the next key takes over; +Inf: never.", multiprocess_mode="livemin"
)
keys_unreadable = Gauge(
    "vestibule_signing_keys_unreadable", "Keys whose root key is missing.", multiprocess_mode="livemax"
)

clock_skew = Gauge(
    "vestibule_clock_skew_seconds", "By how much a store's clock differs.", ("store",), multiprocess_mode="livemax"
)
draining = Gauge("vestibule_draining", "Whether this instance is on its way out.", multiprocess_mode="livemax")
audit_waiting = Gauge("vestibule_audit_events_waiting", "Audit events not written yet.", multiprocess_mode="livesum")
audit_dropped = Counter("vestibule_audit_events_dropped", "Audit events that are in the log alone.")
log_lines_dropped = Counter("vestibule_log_lines_dropped", "Log lines that nobody read in time.")
build_info = Gauge("vestibule_build_info", "What runs.", ("version", "python"), multiprocess_mode="livemax")

_ended: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}
_refreshed = {outcome: refreshes.labels(outcome) for outcome in REFRESHED}
_alike: list["Alike"] = []
_asked = dict.fromkeys(INTROSPECTED, 0)
_looked_up = {"hit": 0, "miss": 0}


def requested(method: str, route: str, status: int, seconds: float) -> None:
    """One request that was answered. `route` is a template of ours, never a path."""
    key = (method if method in METHODS else OTHER_METHOD, route, status)
    found = _ended.get(key)
    if found is None:
        found = _ended[key] = (requests.labels(key[0], route, status), request_seconds.labels(route))
    found[0].inc()
    found[1].observe(seconds)


class Alike:
    """Requests that all end alike: plain numbers, which `flush` takes. For the thread of the event loop alone."""

    def __init__(self, method: str, route: str, status: int) -> None:
        self._requests, self._latencies = requests.labels(method, route, status), request_seconds.labels(route)
        self._counts, self._seconds = [0] * (len(LATENCIES) + 1), 0.0
        _alike.append(self)

    def ended(self, seconds: float) -> None:
        """One that took so long."""
        self._counts[bisect_left(LATENCIES, seconds)] += 1
        self._seconds += seconds

    def flush(self) -> None:
        """Brings them to the metrics."""
        counts, seconds = self._counts, self._seconds
        self._counts, self._seconds = [0] * len(counts), 0.0
        self._requests.inc(sum(counts))
        self._latencies.take(counts, seconds)


def refreshed(outcome: str) -> None:
    """One refresh token that was presented, and what became of it (`REFRESHED`)."""
    _refreshed[outcome].inc()


def introspected(outcome: str) -> None:
    """One token that was asked about (`INTROSPECTED`): a plain number, as with `Alike`."""
    _asked[outcome] += 1


def looked_up(result: str) -> None:
    """One access token whose signature was verified before (`hit`) or had to be now (`miss`); likewise."""
    _looked_up[result] += 1


def flush() -> None:
    """Brings what was noted in plain numbers to the metrics. In the same thread."""
    for requests_alike in _alike:
        requests_alike.flush()
    for counted, counter in ((_asked, introspections), (_looked_up, token_cache)):
        for label, count in counted.items():
            if count:
                counted[label] = 0
                counter.labels(label).inc(count)


def decided(event: str, outcome: str, detail: Mapping[str, object]) -> None:
    """One decision of the audit trail: sign-ins and steps of sign-ups are counted, others are not."""
    if event == "login":
        sign_ins.labels("password", outcome).inc()
    elif event == "login.social":
        sign_ins.labels(str(detail.get("provider")), outcome).inc()
    elif event in SIGN_UP_STEPS:
        sign_ups.labels(SIGN_UP_STEPS[event], outcome).inc()


def redis_lost() -> None:
    """Redis is away: it is not asked any more until it is probed well."""
    losses.inc()
    breaker_open.set(1)


def redis_found() -> None:
    """Redis is asked again."""
    breaker_open.set(0)


def answered_from_journal() -> None:
    """One introspection that PostgreSQL answered."""
    from_journal.inc()


def restored() -> None:
    """One session that Redis had lost and the journal knew."""
    sessions_restored.inc()


def replayed(revocations: int) -> None:
    """So many revocations of the journal were told to Redis again."""
    replayed_rows.inc(revocations)


def replay_lag(seconds: float) -> None:
    """How long ago the journal was last replayed."""
    lag.set(seconds)


def _begin() -> None:
    """What can happen stands there as 0 from the start: an alert sees the step from 0 to 1, and none from nothing."""
    build_info.labels(__version__, platform.python_version()).set(1)
    for outcome in INTROSPECTED:
        introspections.labels(outcome)
    for result in ("hit", "miss"):
        token_cache.labels(result)
    for outcome in ("sent", "postponed", "dead"):
        mails.labels(outcome)


_begin()
