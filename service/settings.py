"""Every knob of the service: read once from the environment, checked once, passed down, never global.

A setting `password_min_length` is the variable `VESTIBULE_PASSWORD_MIN_LENGTH`; the two addresses of the stores are
`DATABASE_URL` and `REDIS_URL`. Each may be given as `<NAME>_FILE`, a path whose content is the value (ASVS 13.3.1).
Durations are seconds (`600`) or ISO 8601 (`PT10M`), lists are separated by commas, rates are `10/15m`.
"""

import re
from collections.abc import Mapping
from datetime import timedelta
from ipaddress import ip_network
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from service import provider_settings
from service.provider_settings import ProviderSettings
from service.redis_url import RedisUrl
from service.setting_values import LOOPBACK, Rate, Secret, SettingsError, odd_origins, parts_of, weak_origin

PREFIX = "VESTIBULE_"
UNPREFIXED = {"DATABASE_URL": "database_url", "REDIS_URL": "redis_url"}
NOT_SETTINGS = {"url", "client_id", "client_secret", "admin_email", "admin_password"}
"""What `dev.env` holds for the shell; exported, it must not disturb a command."""

OF_ALL_PROVIDERS = {"VESTIBULE_PROVIDER_TIMEOUT", "VESTIBULE_PROVIDER_TRANSACTION_LIFE"}
"""Settings that begin like those of one provider."""
PASSWORD_FLOOR = 8
ARGON2_FLOORS = ((1, 47104), (2, 19456), (3, 12288))
"""Time cost and memory in KiB, one of which must be reached (ASVS appendix C)."""
MOST_CODE_TRIES = 10
MOST_PASSWORD_FAILURES = 100
AVATAR_SCHEMES = ("file:///", "s3://", "memory:///")
DATABASE_SCHEMES = ("postgresql://", "postgres://", "postgresql+asyncpg://")
NOT_NOTHING = ("_life", "_timeout", "_idle", "_absolute", "_refresh")
"""Endings of durations that cannot be zero."""
WHOLE_SECONDS = ("_life", "_idle", "_absolute")
"""Endings of durations that cross the wire, where they are whole seconds."""
LEAST = {"hash_slots": 0, "hash_queue": 0, "metrics_port": 0}
"""The least value of numbers that may be less than 1."""
MOST = {"metrics_port": 65535}


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All settings. A field without a default must be given."""

    # The stores and the root keys
    database_url: Secret
    redis_url: Secret
    keys: Secret
    """Root keys, newest first: `2:<base64url of 32 bytes>,1:…`. All keyed material derives from them."""

    # Who we are
    issuer: str
    """The public origin, byte-identical in every token and document; https except on loopback."""
    audience: str = ""
    """`aud` of access tokens; the issuer when empty."""
    allowed_origins: tuple[str, ...] = ()
    """Origins of front ends that may use cookie transport, besides our own."""
    trusted_proxies: tuple[str, ...] = ()
    """Addresses or networks whose `X-Forwarded-For` and `-Proto` are believed; nobody's when empty."""

    place_header: str = ""
    """A header in which a trusted proxy says where somebody is, such as `CF-IPCountry`; nobody's when empty."""
    link_url: str = ""
    """The front end's page that mailed links open (`https://app.example.com/confirm`); our own page when empty."""
    service_name: str = ""
    """How mails call the product; the issuer's host when empty."""
    avatar_store: str = ""
    """Where avatars are kept: `file:///var/lib/vestibule/avatars`, `s3://bucket/prefix`; not offered when empty."""

    # Mail
    smtp_url: Secret | None = None
    """`smtps://user:pass@host:465`, `smtp+starttls://…:587`, or `smtp://host:25` without encryption."""
    mail_from: str = ""
    """The sender, `no-reply@example.com` or `Example <no-reply@example.com>`."""
    mail_timeout: timedelta = timedelta(seconds=10)
    mail_life: timedelta = timedelta(days=3)
    """How long a mail is tried again before it becomes a dead letter."""

    # Passwords
    password_min_length: int = 15
    password_context_words: tuple[str, ...] = ()
    breached_passwords_url: str = ""
    """A range service such as `https://api.pwnedpasswords.com/range/`; leaks are not looked up when empty."""
    breached_passwords_timeout: timedelta = timedelta(seconds=1)
    argon2_time_cost: int = 1
    argon2_memory_kib: int = 47104
    argon2_parallelism: int = 1
    hash_slots: int = 0
    """Hashes computed at once; the number of cores when 0."""
    hash_queue: int = 64
    """Hashes that may wait for a slot; beyond it the answer is 503."""

    # Sign-in through other providers
    providers: dict[str, ProviderSettings] = {}
    """By their ids; each is a block of variables, see `provider_settings.py`."""
    provider_timeout: timedelta = timedelta(seconds=5)
    """How long one call of a provider may take as a whole."""
    provider_transaction_life: timedelta = timedelta(minutes=10)
    """How long somebody may take at a provider."""

    # Lifetimes
    access_token_life: timedelta = timedelta(minutes=10)
    session_idle: timedelta = timedelta(days=14)
    session_absolute: timedelta = timedelta(days=30)
    rotation_grace: timedelta = timedelta(seconds=10)
    lost_answer_window: timedelta = timedelta(hours=1)
    sessions_per_account: int = 50
    registration_life: timedelta = timedelta(hours=24)
    code_life: timedelta = timedelta(minutes=10)
    code_tries: int = 5
    verify_link_life: timedelta = timedelta(hours=1)
    reset_link_life: timedelta = timedelta(minutes=30)
    email_link_life: timedelta = timedelta(hours=1)
    undo_link_life: timedelta = timedelta(hours=24)
    fresh_life: timedelta = timedelta(minutes=5)
    """How long after giving the password a person may do what is dangerous."""
    known_device_life: timedelta = timedelta(days=90)
    password_failures: int = 100
    """Wrong passwords in a row after which strangers need a reset (NIST SP 800-63B-4 3.2.2)."""
    dead_letter_life: timedelta = timedelta(days=30)
    audit_life: timedelta = timedelta(days=400)
    session_history_life: timedelta = timedelta(days=90)
    leeway: timedelta = timedelta(seconds=30)
    jwks_max_age: timedelta = timedelta(minutes=10)
    key_refresh: timedelta = timedelta(seconds=5)
    """How often each worker looks for new signing keys and changed clients, if nothing told it before."""
    key_rotation: timedelta = timedelta(days=90)
    """How long a signing key signs before the next takes over by itself; only on demand when 0."""

    # Limits
    limit_guess_network: Rate = Rate(60, 60)
    limit_guess_account: Rate = Rate(100, 3600)
    limit_guess_account_network: Rate = Rate(10, 900)
    limit_register_network: Rate = Rate(30, 3600)
    limit_mail_network: Rate = Rate(60, 3600)
    limit_change_account: Rate = Rate(60, 3600)
    limit_code_address_network: Rate = Rate(20, 86400)
    limit_code_address: Rate = Rate(100, 86400)
    limit_mail_address_network: Rate = Rate(5, 3600)
    limit_mail_address: Rate = Rate(20, 3600)
    limit_export_account: Rate = Rate(5, 3600)
    limit_social_network: Rate = Rate(60, 600)
    limit_guilds_account: Rate = Rate(30, 60)
    limit_client_secret: Rate = Rate(20, 600)
    limit_client_network: Rate = Rate(200, 600)
    limit_token_client: Rate = Rate(3000, 60)
    most_clients: int = 1000
    """Clients that may be registered: every worker keeps them all in memory."""

    # Metrics
    metrics_host: str = "0.0.0.0"  # noqa: S104  in a container
    metrics_port: int = 9090
    """Where Prometheus finds the metrics, beside the public port and never on it; none when 0."""

    # How long a dependency may take
    database_timeout: timedelta = timedelta(seconds=1)
    database_pool: int = 10
    database_pool_wait: timedelta = timedelta(milliseconds=300)
    redis_timeout: timedelta = timedelta(milliseconds=250)

    # How long a client may take
    head_timeout: timedelta = timedelta(seconds=10)
    """From connecting, or from the first byte on a kept connection, to the end of the head; then 408."""
    body_timeout: timedelta = timedelta(seconds=20)
    """From the end of the head to the end of the body; then 408. At most half of `shutdown_grace` while stopping."""

    # How an instance ends
    drain: timedelta = timedelta(seconds=5)
    """How long to keep serving after SIGTERM with readiness down, so that load balancers let go first."""
    shutdown_grace: timedelta = timedelta(seconds=20)

    def __post_init__(self) -> None:
        problems = [
            *weak_origin(self.issuer),
            *odd_origins(self.allowed_origins),
            *_doubled_providers(self.providers),
            *_weak_passwords(self),
            *_weak_lifetimes(self),
            *_impossible(self),
        ]
        if problems:
            raise ValueError(problems[0])

    @property
    def own_origin(self) -> str:
        """The origin that browsers name when our own pages call us."""
        parts = urlsplit(self.issuer)
        return f"{parts.scheme}://{parts.netloc}"

    @property
    def link_page(self) -> str:
        """The page that mailed links open; the secret follows in the fragment, which no server ever sees."""
        return self.link_url or f"{self.issuer}/auth/confirm"

    @property
    def name(self) -> str:
        """How mails call the product."""
        return self.service_name or str(urlsplit(self.issuer).hostname)

    @property
    def token_audience(self) -> str:
        """The `aud` that access tokens carry and must carry."""
        return self.audience or self.issuer

    def __repr__(self) -> str:
        return f"Settings(issuer={self.issuer!r}, …)"


def load(environ: Mapping[str, str]) -> Settings:
    """Reads the settings. Raises `SettingsError` with one line that names the variable."""
    try:
        return msgspec.convert(_given(environ), Settings, strict=False, dec_hook=_decode)
    except msgspec.ValidationError as error:
        raise SettingsError(_in_variables(str(error))) from None


def _given(environ: Mapping[str, str]) -> dict[str, object]:
    given: dict[str, object] = {}
    providers: dict[str, dict[str, str]] = {}
    for variable, value in environ.items():
        name, text = _from_file(variable, value)
        if name.startswith(provider_settings.PREFIX) and name not in OF_ALL_PROVIDERS:
            provider, _, provider_field = name.removeprefix(provider_settings.PREFIX).lower().partition("_")
            block = providers.setdefault(provider, {})
            if provider_field in block:
                raise SettingsError(f"{name} is given twice, by itself and as {name}_FILE")
            block[provider_field] = text
            continue
        field = UNPREFIXED.get(name) or (name.removeprefix(PREFIX).lower() if name.startswith(PREFIX) else None)
        if field in given:
            raise SettingsError(f"{name} is given twice, by itself and as {name}_FILE")
        if field == "providers":
            raise SettingsError(f"there is no setting {name}: each provider has variables of its own")
        if field is not None and field not in NOT_SETTINGS:
            given[field] = _split(field, text)
    given["providers"] = {name: provider_settings.configured(name, block) for name, block in providers.items()}
    return given


def _from_file(variable: str, value: str) -> tuple[str, str]:
    name = variable.removesuffix("_FILE")
    if name == variable or not (name in UNPREFIXED or name.startswith(PREFIX)):
        return variable, value
    try:
        return name, Path(value).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{variable} names a file that cannot be read: {type(error).__name__}") from None


def _split(field: str, text: str) -> object:
    if field in {"allowed_origins", "trusted_proxies", "password_context_words"}:
        return tuple(part.strip() for part in text.split(",") if part.strip())
    return text


def _decode(kind: type, value: Any) -> Any:
    if kind is Secret:
        return Secret(value)
    if kind is Rate:
        return Rate.parse(value)
    raise NotImplementedError(kind)


def _in_variables(message: str) -> str:
    for field in Settings.__struct_fields__:
        variable = next((v for v, f in UNPREFIXED.items() if f == field), PREFIX + field.upper())
        message = message.replace(f"`$.{field}`", variable).replace(f"`{field}`", variable)
    unknown = re.fullmatch(r"Object contains unknown field `(.*)`", message)
    if unknown:
        return f"there is no setting {PREFIX}{unknown[1].upper()}"
    return message.replace("Object missing required field", "missing setting")


def _doubled_providers(providers: Mapping[str, ProviderSettings]) -> list[str]:
    """An identity belongs to one issuer: two names for the same one would be the same people."""
    sites = [provider.identity_issuer for provider in providers.values()]
    doubled = [name for name, site in zip(providers, sites, strict=True) if sites.count(site) > 1]
    return [f"two providers are the same one: {', '.join(doubled)}"] if doubled else []


def _weak_passwords(given: Settings) -> list[str]:
    if given.password_min_length < PASSWORD_FLOOR:
        return [f"VESTIBULE_PASSWORD_MIN_LENGTH must be at least {PASSWORD_FLOOR} (ASVS 6.2.1)"]
    cost = (given.argon2_time_cost, given.argon2_memory_kib)
    strong_enough = any(cost[0] >= time and cost[1] >= memory for time, memory in ARGON2_FLOORS)
    if not strong_enough or given.argon2_parallelism < 1:
        rows = ", ".join(f"t={time} m={memory}" for time, memory in ARGON2_FLOORS)
        return [f"VESTIBULE_ARGON2_* are below every row of ASVS appendix C: {rows}"]
    return []


def _weak_lifetimes(given: Settings) -> list[str]:
    rules = (
        (
            given.access_token_life <= timedelta(hours=1),
            "VESTIBULE_ACCESS_TOKEN_LIFE must be at most an hour",
        ),
        (given.session_absolute <= timedelta(days=30), "VESTIBULE_SESSION_ABSOLUTE must be at most 30 days"),
        (
            given.session_idle <= given.session_absolute,
            "VESTIBULE_SESSION_IDLE must not exceed SESSION_ABSOLUTE",
        ),
        (
            given.rotation_grace <= timedelta(seconds=60),
            "VESTIBULE_ROTATION_GRACE must be at most 60 seconds",
        ),
        (given.lost_answer_window <= timedelta(days=1), "VESTIBULE_LOST_ANSWER_WINDOW must be at most a day"),
        (
            given.code_life <= timedelta(minutes=10),
            "VESTIBULE_CODE_LIFE must be at most 10 minutes (ASVS 6.5.5)",
        ),
        (
            given.registration_life <= timedelta(hours=24),
            "VESTIBULE_REGISTRATION_LIFE must be at most 24 hours",
        ),
        *(
            (getattr(given, name) <= timedelta(hours=24), f"{PREFIX}{name.upper()} must be at most 24 hours")
            for name in ("verify_link_life", "reset_link_life", "email_link_life", "undo_link_life")
        ),
        (
            given.provider_transaction_life <= timedelta(minutes=10),
            "VESTIBULE_PROVIDER_TRANSACTION_LIFE must be at most 10 minutes",
        ),
        (given.fresh_life <= timedelta(hours=1), "VESTIBULE_FRESH_LIFE must be at most an hour"),
        (
            given.password_failures <= MOST_PASSWORD_FAILURES,
            "VESTIBULE_PASSWORD_FAILURES must be at most 100 (NIST SP 800-63B-4 3.2.2)",
        ),
        (1 <= given.code_tries <= MOST_CODE_TRIES, "VESTIBULE_CODE_TRIES must be between 1 and 10"),
        (given.leeway <= timedelta(seconds=60), "VESTIBULE_LEEWAY must be at most 60 seconds (ASVS 9.2.1)"),
        (given.jwks_max_age <= timedelta(minutes=15), "VESTIBULE_JWKS_MAX_AGE must be at most 15 minutes"),
        (given.sessions_per_account >= 1, "VESTIBULE_SESSIONS_PER_ACCOUNT must be at least 1"),
    )
    return [problem for holds, problem in rules if not holds]


def _impossible(given: Settings) -> list[str]:
    problems = []
    if not str(given.database_url).startswith(DATABASE_SCHEMES) or parts_of(str(given.database_url)) is None:
        problems.append("DATABASE_URL must look like postgresql://user:password@host/database")
    try:
        RedisUrl.parse(str(given.redis_url))
    except ValueError:
        problems.append(
            "REDIS_URL must look like redis://host:6379/0, redis+sentinel://host:26379,host:26379/primary, "
            "redis+cluster://host:6379,host:6379 (each also as rediss) or unix:///path"
        )
    for network in given.trusted_proxies:
        try:
            ip_network(network)
        except ValueError:
            problems.append(f"VESTIBULE_TRUSTED_PROXIES takes addresses and networks, not {network!r}")
    if given.place_header and not given.trusted_proxies:
        problems.append("VESTIBULE_PLACE_HEADER needs VESTIBULE_TRUSTED_PROXIES: anybody can send a header")
    link = parts_of(given.link_page)
    if link is None or link.scheme not in {"http", "https"} or not link.hostname or "#" in given.link_page:
        problems.append("VESTIBULE_LINK_URL must be an http(s) URL without a fragment")
    elif link.scheme == "http" and link.hostname not in LOOPBACK:
        problems.append("VESTIBULE_LINK_URL must be https (http is for loopback only)")
    if given.avatar_store and not given.avatar_store.startswith(AVATAR_SCHEMES):
        problems.append(f"VESTIBULE_AVATAR_STORE must begin with one of {', '.join(AVATAR_SCHEMES)}")
    if given.breached_passwords_url and not given.breached_passwords_url.startswith("https://"):
        problems.append("VESTIBULE_BREACHED_PASSWORDS_URL must be https")
    return [*problems, *_out_of_bounds(given)]


def _out_of_bounds(given: Settings) -> list[str]:
    problems = []
    for field in msgspec.structs.fields(Settings):
        value, least = getattr(given, field.name), LEAST.get(field.name, 1)
        if isinstance(value, timedelta) and value < timedelta(0):
            problems.append(f"{PREFIX}{field.name.upper()} must not be negative")
        if value == timedelta(0) and field.name.endswith(NOT_NOTHING):
            problems.append(f"{PREFIX}{field.name.upper()} must be longer than nothing")
        if isinstance(value, timedelta) and field.name.endswith(WHOLE_SECONDS) and value < timedelta(seconds=1):
            problems.append(f"{PREFIX}{field.name.upper()} must be at least a second")
        if isinstance(value, int) and value < least:
            problems.append(f"{PREFIX}{field.name.upper()} must be at least {least}")
        if isinstance(value, int) and value > MOST.get(field.name, value):
            problems.append(f"{PREFIX}{field.name.upper()} must be at most {MOST[field.name]}")
    return problems
