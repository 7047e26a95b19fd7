"""The policy page tells the truth: its numbers are the defaults, its lists are what the code has."""

import ast
import re
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest
from litestar import Litestar

from service.accounts.names import EMAIL_LIMIT, NICKNAME_MAX, NICKNAME_MIN
from service.accounts.password_rules import MAX_BYTES
from service.app import MAX_BODY
from service.crypto.blocklist import CONTEXT_WORDS
from service.crypto.signer import PersonClaims
from service.oauth.form import MOST_FIELDS
from service.setting_values import Rate
from service.settings import Settings
from service.store.postgres import Table
from service.strict_json import MAX_DEPTH

ROOT = Path(__file__).parents[2]
POLICY = (ROOT / "deploy" / "policy.md").read_text(encoding="utf-8")
UNITS = {"s": "seconds", "min": "minutes", "h": "hours", "d": "days"}


def defaults() -> dict[str, object]:
    return {field.name: field.default for field in msgspec.structs.fields(Settings)}


def rows(heading: str) -> list[list[str]]:
    section = POLICY.split(f"\n## {heading}", 1)[1].split("\n## ", 1)[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


@pytest.mark.standard("SE-01", "CL-06")
def test_the_lifetimes_on_the_page_are_the_defaults() -> None:
    told = {row[0].strip("`"): row[1] for row in rows("Lifetimes")}
    for name, text in told.items():
        number, unit = text.split()
        assert defaults()[name] == timedelta(**{UNITS[unit]: int(number)}), name
    assert {name for name in defaults() if name.endswith(("_life", "_idle", "_absolute"))} <= set(told)


@pytest.mark.standard("RL-01")
def test_the_limits_on_the_page_are_the_defaults_and_all_of_them() -> None:
    told = {row[0].strip("`"): row[1] for row in rows("Limits")}
    for name, text in told.items():
        attempts, count, unit = re.fullmatch(r"(\d+) in (\d+) (\w+)", text).groups()  # type: ignore[union-attr]
        rate = defaults()[name]
        assert isinstance(rate, Rate)
        seconds = timedelta(**{UNITS[unit]: int(count)}).total_seconds()
        assert (rate.attempts, rate.seconds) == (int(attempts), seconds), name
    assert set(told) == {name for name in defaults() if name.startswith("limit_")}


@pytest.mark.standard("SE-02", "SE-03", "RL-11", "PW-16", "KY-22")
def test_numbers_within_sentences_are_the_defaults() -> None:
    told = re.findall(r"`(\w+)`(?: is)? (\d+)(?: (ms|s) then| (ms|s)\b|)", POLICY)
    checked = set()
    for name, number, *unit in told:
        default = defaults().get(name)
        if isinstance(default, timedelta):
            scale = 1 if "ms" in unit else 1000
            assert default == timedelta(milliseconds=int(number) * scale), name
            checked.add(name)
        elif isinstance(default, int):
            assert default == int(number), name
            checked.add(name)
    assert {"hash_queue", "argon2_memory_kib", "redis_timeout", "database_timeout", "code_tries"} <= checked
    assert rows("Sessions")[0][:2] == ["`sessions_per_account`", str(defaults()["sessions_per_account"])]
    assert CONTEXT_WORDS.relative_to(ROOT).as_posix() in POLICY


@pytest.mark.standard("LG-05", "RL-11")
def test_the_rules_for_what_may_be_typed_are_those_of_the_code() -> None:
    told = {row[0]: row[1] for row in rows("What may be typed")}
    assert f"at most {EMAIL_LIMIT} characters" in told["e-mail"]
    assert f"{NICKNAME_MIN} to {NICKNAME_MAX} letters" in told["nickname"]
    assert f"`password_min_length` {defaults()['password_min_length']} code points" in told["password"]
    assert f"at most {MAX_BYTES} bytes" in told["password"]
    bodies = dict(row[:2] for row in rows("Expensive work"))["bodies"]
    assert bodies == f"{MAX_BODY // 1024} KiB, JSON at most {MAX_DEPTH} levels deep, forms at most {MOST_FIELDS} fields"


@pytest.mark.standard("LG-06", "LG-07")
async def test_the_ways_to_get_tokens_are_those_of_the_api(app: Litestar) -> None:
    told = {row[0].strip("`").split()[1] for row in rows("Ways to get tokens")}
    paths = app.openapi_schema.to_schema()["paths"]
    answering = {
        path
        for path, methods in paths.items()
        for operation in methods.values()
        if "TokenAnswer" in str(operation.get("responses", {}).get("200", ""))
    }
    with_cookies = {"/auth/social/{provider}/callback"}
    assert told == answering | with_cookies


@pytest.mark.standard("LO-01", "LO-09")
def test_the_page_names_every_event_that_the_code_records() -> None:
    calls = [
        node
        for path in (ROOT / "service").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    ]
    recording = [call for call in calls if isinstance(call.func, ast.Attribute) and "record" in call.func.attr]
    names = [call.args[0].value for call in recording if call.args and isinstance(call.args[0], ast.Constant)]
    listed = POLICY.split("| event | when |", 1)[1].split("\n\n", 1)[0]
    assert set(re.findall(r"`([a-z_]+(?:\.[a-z_]+)?)`", listed)) - {"reused"} == set(names)
    assert len(set(names)) > 20


@pytest.mark.standard("LO-14", "LO-17")
def test_everything_that_is_kept_about_people_has_a_place_and_an_end() -> None:
    kept = rows("What is kept about people, and for how long")
    assert all(len(row) == 3 and all(row) for row in kept)
    places = " ".join(row[1] for row in kept)
    about_people = {
        table.name
        for table in Table.metadata.tables.values()
        if table.name == "accounts" or {"account_id", "sealed", "subject"} & set(table.columns.keys())
    }
    assert about_people == set(re.findall(r"`([a-z_]+)`", places))


@pytest.mark.standard("AT-27", "AT-28")
def test_every_claim_of_a_token_is_on_the_page() -> None:
    named = re.search(r"claims are `([^`]*)`", POLICY.replace("\n", " "))
    assert named is not None
    assert set(named[1].split()) == set(PersonClaims.__struct_fields__) - {"nbf"}


@pytest.mark.standard("KY-01", "KY-02", "KY-04")
def test_every_key_has_an_algorithm_a_place_and_a_rotation() -> None:
    keys = rows("Keys and algorithms")
    assert len(keys) >= 6
    assert all(len(row) == 4 and all(row) for row in keys)


@pytest.mark.standard("KY-03", "KY-05")
def test_hashes_and_primitives_are_used_where_the_page_says() -> None:
    """`crypto/` holds the cryptography; outside of it are digests that protect nothing, and key files."""
    allowed = {
        "service/tokens/refresh.py",  # the public session id, and a MAC's comparison
        "service/tokens/keys.py",  # makes and reads key pairs
        "service/oauth/discovery.py",  # an ETag
        "service/accounts/breaches.py",  # SHA-1, because its protocol wants it
        "service/accounts/pending.py",  # a MAC's comparison
        "service/login/transactions.py",  # the same
        "service/embedded/folders.py",  # a folder's name
        "service/store/redis.py",  # SHA-1, by which Redis knows scripts
        "service/tokens/verified.py",  # under which a token is remembered, instead of the token
        "service/oauth/callers.py",  # the same for a caller's proof
    }
    users = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "service").rglob("*.py")
        if re.search(r"^(?:from|import) (?:hashlib|hmac|cryptography|jwt|argon2)\b", path.read_text(), re.MULTILINE)
    }
    elsewhere = ("service/crypto/", "service/fake_provider/")
    assert {path for path in users if not path.startswith(elsewhere)} == allowed
