"""Settings: whatever is missing, weak or misspelt stops the start with one line that names the variable."""

import base64
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from service.mail.message import NoTransport
from service.setting_values import Rate, Secret, SettingsError
from service.settings import Settings, load
from service.wiring import build

KEY = base64.urlsafe_b64encode(bytes(range(100, 132))).decode().rstrip("=")
GIVEN = {
    "DATABASE_URL": "postgresql://vestibule:canary-one@localhost/vestibule",
    "REDIS_URL": "redis://:canary-two@localhost/0",
    "VESTIBULE_KEYS": f"1:{KEY}",
    "VESTIBULE_ISSUER": "https://auth.example.com",
    "VESTIBULE_SMTP_URL": "smtps://mailer:canary-three@mail.example.com",
    "VESTIBULE_MAIL_FROM": "no-reply@example.com",
}
CANARIES = ("canary-one", "canary-two", "canary-three", KEY)


def given(**changes: str | None) -> dict[str, str]:
    merged = {**GIVEN, **changes}
    return {name: value for name, value in merged.items() if value is not None}


def refusal(environ: dict[str, str]) -> str:
    """The one line with which these settings stop the start."""
    with pytest.raises(SettingsError) as error:
        build(load(environ))
    told = str(error.value)
    assert told
    assert "\n" not in told
    for canary in CANARIES:
        assert canary not in told
    return told


def test_the_least_that_must_be_given_is_enough() -> None:
    settings = load(given(VESTIBULE_SMTP_URL=None, VESTIBULE_MAIL_FROM=None))

    assert settings.issuer == "https://auth.example.com"
    assert settings.token_audience == settings.issuer
    assert settings.password_min_length == 15
    assert settings.code_life == timedelta(minutes=10)
    rate = settings.limit_mail_address_network
    assert (rate.attempts, rate.seconds) == (5, 3600)
    assert settings.allowed_origins == ()


@pytest.mark.standard("PW-23")
@pytest.mark.parametrize("name", ["DATABASE_URL", "REDIS_URL", "VESTIBULE_KEYS", "VESTIBULE_ISSUER"])
def test_what_is_missing_is_named(name: str) -> None:
    assert refusal(given(**{name: None})) == f"missing setting {name}"


@pytest.mark.parametrize("name", ["DATABASE_URL", "REDIS_URL", "VESTIBULE_KEYS", "VESTIBULE_ISSUER"])
def test_what_is_empty_is_named(name: str) -> None:
    assert name in refusal(given(**{name: ""}))


def test_a_mail_server_must_be_named() -> None:
    assert "VESTIBULE_SMTP_URL" in refusal(given(VESTIBULE_SMTP_URL=None))


@pytest.mark.parametrize("name", ["VESTIBULE_PASSWORD_MINIMUM", "VESTIBULE_CODE_LIFETIME", "VESTIBULE_POOL_SIZ"])
def test_a_name_that_is_no_setting_stops_the_start(name: str) -> None:
    assert name in refusal(given(**{name: "1"}))


def test_what_is_not_ours_is_nobodys_business() -> None:
    others = {"PATH": "/bin", "HOME": "/root", "password_min_length": "3", "MY_VESTIBULE_X": "1", "REDIS_HOST": "x"}
    shell = {"VESTIBULE_URL": "http://x", "VESTIBULE_CLIENT_SECRET": "s", "VESTIBULE_ADMIN_PASSWORD": "p"}

    assert load(given(**others, **shell)).password_min_length == 15


WEAK = {
    "VESTIBULE_ISSUER": [
        "http://auth.example.com",
        "https://auth.example.com/",
        "https://auth.example.com?x=1",
        "https://auth.example.com#x",
        "https://",
        "auth.example.com",
        "ftp://auth.example.com",
        "javascript:alert(1)",
        "https://auth.example.com:99999",
    ],
    "VESTIBULE_KEYS": ["1:", "1:AAAA", f"1:{'A' * 43}", KEY, f"x:{KEY}", f"300:{KEY}", f"1:{KEY},1:{KEY}", "1:!!!"],
    "VESTIBULE_PASSWORD_MIN_LENGTH": ["7", "0", "-1", "long", "8.5", ""],
    "VESTIBULE_CODE_LIFE": ["601", "PT11M", "0", "-1", "ten", ""],
    "VESTIBULE_CODE_TRIES": ["0", "11", "-1"],
    "VESTIBULE_METRICS_PORT": ["-1", "65536", "http", ""],
    "VESTIBULE_REGISTRATION_LIFE": ["86401", "0", "P2D"],
    "VESTIBULE_ACCESS_TOKEN_LIFE": ["3601", "0", "-5"],
    "VESTIBULE_SESSION_ABSOLUTE": ["P31D"],
    "VESTIBULE_SESSION_IDLE": ["P31D", "0"],
    "VESTIBULE_ROTATION_GRACE": ["61", "-1"],
    "VESTIBULE_LOST_ANSWER_WINDOW": ["P2D"],
    "VESTIBULE_LEEWAY": ["61", "-1"],
    "VESTIBULE_JWKS_MAX_AGE": ["901"],
    "VESTIBULE_SESSIONS_PER_ACCOUNT": ["0"],
    "VESTIBULE_VERIFY_LINK_LIFE": ["86401", "P2D", "0", "-1", "0.5", "ten", ""],
    "VESTIBULE_RESET_LINK_LIFE": ["86401", "P2D", "0", "-1"],
    "VESTIBULE_EMAIL_LINK_LIFE": ["86401", "P2D", "0", "-1"],
    "VESTIBULE_UNDO_LINK_LIFE": ["86401", "P2D", "0", "-1"],
    "VESTIBULE_FRESH_LIFE": ["3601", "PT61M", "0", "-1"],
    "VESTIBULE_PASSWORD_FAILURES": ["101", "0", "-1", "many"],
    "VESTIBULE_KNOWN_DEVICE_LIFE": ["0", "-1", "0.5"],
    "VESTIBULE_MAIL_LIFE": ["0", "-1"],
    "VESTIBULE_AUDIT_LIFE": ["0", "-1"],
    "VESTIBULE_SESSION_HISTORY_LIFE": ["0", "-1"],
    "VESTIBULE_PLACE_HEADER": ["CF-IPCountry"],
    "VESTIBULE_LINK_URL": [
        "http://app.example.com/confirm",
        "https://app.example.com/confirm#x",
        "https://app.example.com/confirm#",
        "https:///confirm",
        "https://",
        "app.example.com/confirm",
        "/confirm",
        "javascript:alert(1)",
        "https://app.example.com:99999/confirm",
        "ftp://app.example.com/confirm",
    ],
    "VESTIBULE_AVATAR_STORE": [
        "/var/lib/avatars",
        "file://var/lib",
        "file:",
        "gs://bucket",
        "http://x/y",
        "memory:",
        "s3://",
    ],
    "VESTIBULE_LIMIT_GUESS_ACCOUNT": ["100", "0/h"],
    "VESTIBULE_LIMIT_GUESS_ACCOUNT_NETWORK": ["10", "0/h"],
    "VESTIBULE_LIMIT_MAIL_NETWORK": ["60", "0/h"],
    "VESTIBULE_LIMIT_CHANGE_ACCOUNT": ["60", "0/h"],
    "VESTIBULE_LIMIT_GUESS_NETWORK": ["10", "0/m", "10/0s", "10/", "/m", "ten/m", "10/15w", "-1/m", "1.5/m", ""],
    "VESTIBULE_ARGON2_MEMORY_KIB": ["1024"],
    "VESTIBULE_ARGON2_PARALLELISM": ["0"],
    "VESTIBULE_HASH_SLOTS": ["many", "-1"],
    "VESTIBULE_HASH_QUEUE": ["-1"],
    "VESTIBULE_DATABASE_POOL": ["0", "-1"],
    "VESTIBULE_DATABASE_TIMEOUT": ["0", "-1"],
    "VESTIBULE_REDIS_TIMEOUT": ["0", "-1"],
    "VESTIBULE_MAIL_TIMEOUT": ["0"],
    "VESTIBULE_ALLOWED_ORIGINS": ["*", "null", "https://app.example.com/", "app.example.com"],
    "VESTIBULE_TRUSTED_PROXIES": ["*", "everybody", "10.0.0.0/33", "10.0.0.1/8"],
    "DATABASE_URL": ["nonsense", "mysql://u:canary-one@localhost/x", "postgresql://u:canary-one@localhost:port/x"],
    "REDIS_URL": ["nonsense", "http://:canary-two@localhost", "redis://:canary-two@localhost:port"],
}


@pytest.mark.standard("PW-01", "PW-20", "CL-05", "CL-06", "RL-05", "RL-09", "CK-34", "SE-19")
@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in WEAK.items() for value in values])
def test_what_is_weak_or_makes_no_sense_is_named(name: str, value: str) -> None:
    told = refusal(given(**{name: value}))

    assert name in told or (name.startswith("VESTIBULE_ARGON2_") and "VESTIBULE_ARGON2_" in told)


@pytest.mark.standard("PW-20")
@pytest.mark.parametrize(
    ("passes", "memory", "enough"),
    [(1, 47104, True), (2, 19456, True), (3, 12288, True), (1, 47103, False), (2, 19455, False), (9, 12287, False)],
)
def test_a_hash_reaches_one_row_of_the_appendix(passes: int, memory: int, enough: bool) -> None:
    environ = given(VESTIBULE_ARGON2_TIME_COST=str(passes), VESTIBULE_ARGON2_MEMORY_KIB=str(memory))
    if enough:
        assert load(environ).argon2_memory_kib == memory
    else:
        assert "VESTIBULE_ARGON2_" in refusal(environ)


@pytest.mark.standard("CL-06", "SE-19", "RL-05")
def test_what_is_not_set_is_as_strict_as_the_standards() -> None:
    settings = load(GIVEN)

    assert settings.verify_link_life == timedelta(hours=1)
    assert settings.reset_link_life == timedelta(minutes=30)
    assert settings.email_link_life == timedelta(hours=1)
    assert settings.undo_link_life == timedelta(hours=24)
    assert settings.fresh_life == timedelta(seconds=300)
    assert settings.password_failures == 100
    rates = (settings.limit_guess_network, settings.limit_guess_account_network, settings.limit_guess_account)
    assert [(rate.attempts, rate.seconds) for rate in rates] == [(60, 60), (10, 900), (100, 3600)]


@pytest.mark.parametrize(
    ("name", "most"),
    [
        *((f"{kind}_LINK_LIFE", 86400) for kind in ("VERIFY", "RESET", "EMAIL", "UNDO")),
        ("FRESH_LIFE", 3600),
        ("PASSWORD_FAILURES", 100),
    ],
)
@pytest.mark.standard("CL-06", "SE-19", "RL-05")
def test_the_most_that_is_allowed_is_allowed(name: str, most: int) -> None:
    value = getattr(load(given(**{f"VESTIBULE_{name}": str(most)})), name.lower())

    assert value == most or value == timedelta(seconds=most)


@pytest.mark.standard("RL-09", "RL-10")
def test_a_header_that_tells_the_place_needs_a_proxy_that_sets_it() -> None:
    told = refusal(given(VESTIBULE_PLACE_HEADER="CF-IPCountry"))
    assert "VESTIBULE_PLACE_HEADER" in told
    assert "VESTIBULE_TRUSTED_PROXIES" in told

    behind = given(VESTIBULE_PLACE_HEADER="CF-IPCountry", VESTIBULE_TRUSTED_PROXIES="10.0.0.0/8")
    assert load(behind).place_header == "CF-IPCountry"


@pytest.mark.standard("CL-15")
def test_mailed_links_open_our_own_page_unless_a_front_end_has_one() -> None:
    assert load(GIVEN).link_page == "https://auth.example.com/auth/confirm"
    for page in ("https://app.example.com/confirm", "https://app.example.com/x?y=z", "http://localhost:3000/confirm"):
        assert load(given(VESTIBULE_LINK_URL=page)).link_page == page


@pytest.mark.parametrize(
    "place", ["", "file:///var/lib/vestibule/avatars", "s3://bucket/prefix", "s3://bucket", "memory:///"]
)
def test_avatars_are_kept_in_a_folder_a_bucket_or_memory_or_nowhere(place: str) -> None:
    assert load(given(VESTIBULE_AVATAR_STORE=place)).avatar_store == place


@pytest.mark.parametrize(
    "issuer", ["http://localhost:8000", "http://127.0.0.1", "http://[::1]:8080", "https://a.example/auth"]
)
def test_http_is_for_this_machine_alone(issuer: str) -> None:
    assert load(given(VESTIBULE_ISSUER=issuer)).issuer == issuer


@pytest.mark.parametrize(
    ("text", "seconds"), [("600", 600), ("PT10M", 600), ("PT0.5S", 0.5), ("90", 90), ("0.25", 0.25), ("PT1M30S", 90)]
)
def test_durations_are_seconds_or_iso_8601(text: str, seconds: float) -> None:
    assert load(given(VESTIBULE_MAIL_TIMEOUT=text)).mail_timeout == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    ("text", "attempts", "seconds"),
    [("10/15m", 10, 900), ("10/m", 10, 60), ("1/s", 1, 1), ("20/1d", 20, 86400), ("5/2h", 5, 7200), ("007/30s", 7, 30)],
)
def test_rates_are_attempts_in_a_time(text: str, attempts: int, seconds: int) -> None:
    rate = load(given(VESTIBULE_LIMIT_CODE_ADDRESS=text)).limit_code_address

    assert (rate.attempts, rate.seconds) == (attempts, seconds)
    assert (Rate.parse(text).attempts, Rate.parse(text).seconds) == (attempts, seconds)


def test_lists_are_separated_by_commas() -> None:
    settings = load(given(VESTIBULE_ALLOWED_ORIGINS=" https://a.example , https://b.example,, "))

    assert settings.allowed_origins == ("https://a.example", "https://b.example")


# Files


@pytest.mark.parametrize("name", GIVEN)
def test_every_setting_may_stand_in_a_file(tmp_path: Path, name: str) -> None:
    file = tmp_path / "secret"
    file.write_text(GIVEN[name] + "\n", encoding="utf-8")

    field = name.removeprefix("VESTIBULE_").lower()
    assert getattr(load(given(**{name: None, f"{name}_FILE": str(file)})), field) == GIVEN[name]


@pytest.mark.parametrize("name", ["DATABASE_URL", "VESTIBULE_KEYS"])
@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00", b"", b"\n"])
def test_a_file_that_cannot_be_read_or_is_empty_is_named(tmp_path: Path, name: str, content: bytes | None) -> None:
    file = tmp_path / "secret"
    if content is not None:
        file.write_bytes(content)

    assert name in refusal(given(**{name: None, f"{name}_FILE": str(file)}))
    assert name in refusal(given(**{name: None, f"{name}_FILE": str(tmp_path)}))


def test_a_setting_that_is_given_twice_is_no_guess(tmp_path: Path) -> None:
    file = tmp_path / "issuer"
    file.write_text("https://other.example.com", encoding="utf-8")

    for environ in (
        {**GIVEN, "VESTIBULE_ISSUER_FILE": str(file)},
        {"VESTIBULE_ISSUER_FILE": str(file), **GIVEN},
    ):
        assert "VESTIBULE_ISSUER" in refusal(environ)


def test_a_file_for_a_setting_that_does_not_exist_stops_the_start(tmp_path: Path) -> None:
    file = tmp_path / "x"
    file.write_text("1", encoding="utf-8")

    assert "VESTIBULE_PASSWORD_MINIMUM" in refusal(given(VESTIBULE_PASSWORD_MINIMUM_FILE=str(file)))
    assert load(given(SOMETHING_FILE="/nonexistent", LOG_FILE="/x")).password_min_length == 15


# Secrets


def test_no_secret_shows_in_a_representation() -> None:
    settings = load(GIVEN)
    shown = [repr(settings), str(settings), f"{settings!r}", repr([settings]), repr(settings.keys)]
    shown += [repr(getattr(settings, field)) for field in Settings.__struct_fields__ if secret_in(settings, field)]

    for canary in CANARIES:
        assert not [text for text in shown if canary in text]
    assert repr(Secret("canary-one")) == "Secret(…)"
    assert str(Secret("canary-one")) == "canary-one"


def secret_in(settings: Settings, field: str) -> bool:
    value: Any = getattr(settings, field)
    return any(canary in str(value) for canary in CANARIES)


def test_no_secret_shows_in_the_representation_of_the_wired_service() -> None:
    shown = repr(build(load(GIVEN)))

    for canary in CANARIES:
        assert canary not in shown


def test_secrets_of_the_settings_are_marked_as_such() -> None:
    settings = load(GIVEN)

    for field in ("database_url", "redis_url", "keys", "smtp_url"):
        assert type(getattr(settings, field)) is Secret


def test_settings_do_not_change_once_read() -> None:
    settings = load(GIVEN)
    with pytest.raises(AttributeError):
        settings.issuer = "https://evil.example"  # type: ignore[misc]


def test_commands_that_send_no_mail_need_no_mail_server() -> None:
    services = build(load(given(VESTIBULE_SMTP_URL=None)), mail=lambda _: NoTransport())
    services.passwords.close()
