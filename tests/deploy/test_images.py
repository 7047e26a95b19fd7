"""The image and the compose file: nothing unpinned, nothing privileged, nothing secret."""

import ast
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from service.settings import load

ROOT = Path(__file__).parents[2]
GENERATED = {"requirements.lock"}
"""Made by `just lock`."""
STORES_CLOSE = 5
"""Seconds the service may need to close its stores after the last request."""
ENVIRONMENT = {
    "POSTGRES_PASSWORD": "p" * 32,
    "VALKEY_PASSWORD": "v" * 32,
    "VESTIBULE_KEYS": "1:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8",
}
"""What `just compose-env` writes."""

Instruction = tuple[str, str]


@cache
def stages() -> tuple[tuple[Instruction, ...], ...]:
    """The instructions of each stage, without comments and with continued lines joined."""
    text = re.sub(r"^\s*#.*\n", "", (ROOT / "Containerfile").read_text(), flags=re.MULTILINE)
    lines = [line for line in re.sub(r"\\\n\s*", "", text).splitlines() if line.strip()]
    instructions = [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in lines)]
    starts = [at for at, (word, _) in enumerate(instructions) if word == "FROM"]
    return tuple(
        tuple(instructions[start:end]) for start, end in zip(starts, [*starts[1:], len(instructions)], strict=True)
    )


def everything() -> Iterator[Instruction]:
    for stage in stages():
        yield from stage


def final(word: str) -> list[str]:
    return [rest for instruction, rest in stages()[-1] if instruction == word]


def compose() -> dict[str, Any]:
    return dict(yaml.safe_load((ROOT / "compose.yaml").read_text()))


def the(name: str) -> dict[str, Any]:
    return dict(compose()["services"][name])


def option(command: list[str], name: str) -> str:
    return command[command.index(name) + 1]


def filled(text: str) -> str:
    """What compose makes of a value with the variables of `.env`."""
    return re.sub(r"\$\{(\w+):\?[^}]*\}", lambda match: ENVIRONMENT[match[1]], text)


# The image


def test_the_image_is_built_in_one_stage_and_runs_in_another() -> None:
    builder, last = stages()
    assert builder[0] == ("FROM", "${PYTHON_IMAGE} AS builder")
    assert last[0] == ("FROM", "${PYTHON_IMAGE}")


def test_the_python_of_the_image_is_pinned_to_a_minor_version_and_a_distribution() -> None:
    [base] = re.findall(r"^ARG PYTHON_IMAGE=(\S+)$", (ROOT / "Containerfile").read_text(), flags=re.MULTILINE)
    assert re.fullmatch(r"docker\.io/library/python:3\.\d+-slim-[a-z]+", base)


def test_the_image_runs_as_a_number_that_is_not_root() -> None:
    [user] = final("USER")
    assert re.fullmatch(r"[1-9]\d{3,}:[1-9]\d{3,}", user)


def test_the_final_stage_copies_the_virtualenv_and_runs_nothing() -> None:
    assert final("COPY") == ["--from=builder /opt/vestibule /opt/vestibule"]
    assert final("RUN") == []


def test_pip_takes_what_the_lock_names_by_hash_and_else_only_the_project() -> None:
    [steps] = ["&&".join(rest for word, rest in stages()[0] if word == "RUN").split("&&")]
    dependencies, project = [step.split() for step in steps if " install " in step]
    assert {"--require-hashes", "--no-deps", "--only-binary", "-r", "requirements.lock"} <= set(dependencies)
    assert option(dependencies, "--only-binary") == ":all:"
    assert "--no-deps" in project
    assert project[-1] == "."


def test_nothing_is_fetched_by_url() -> None:
    assert not [rest for word, rest in everything() if word == "ADD"]
    assert not [rest for word, rest in everything() if word == "RUN" and re.search(r"https?://|curl|wget|apt", rest)]


def test_everything_that_is_copied_exists_and_is_let_into_the_build() -> None:
    allowed = (ROOT / ".dockerignore").read_text().splitlines()
    copied = [rest.split()[:-1] for word, rest in stages()[0] if word == "COPY"]
    for source in [name for names in copied for name in names]:
        assert source in GENERATED or (ROOT / source).exists()
        assert f"!{source}" in allowed


def test_the_build_sees_only_what_is_named() -> None:
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert rules[0] == "*"
    assert not [rule for rule in rules if rule.startswith("!") and re.search(r"env|git|\*", rule)]


def test_the_health_check_is_python_that_asks_for_liveness() -> None:
    [check] = final("HEALTHCHECK")
    command = ast.literal_eval(check.partition("CMD ")[2])
    compile(command[2], "healthcheck", "exec")
    assert command[:2] == ["python", "-c"]
    assert "http://127.0.0.1:8000/livez" in command[2]


def test_the_image_serves_on_the_port_it_names_and_hears_sigterm() -> None:
    assert final("EXPOSE") == ["8000"]
    assert final("STOPSIGNAL") == ["SIGTERM"]
    assert final("ENTRYPOINT") == ['["vestibule"]'], "in a shell's place no signal would arrive"
    assert final("CMD") == ['["serve"]']


def test_the_image_needs_nothing_but_tmp_to_write_to() -> None:
    [environment] = final("ENV")
    assert {"PYTHONDONTWRITEBYTECODE=1", "HOME=/tmp"} <= set(environment.split())


def test_the_linter_of_images_is_content() -> None:
    linted = subprocess.run(
        [Path(sys.executable).with_name("hadolint"), ROOT / "Containerfile"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (linted.returncode, linted.stdout) == (0, "")


def test_the_lock_of_the_image_has_every_dependency_with_its_hashes() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lock = (ROOT / "requirements.lock").read_text()
    locked = dict(
        re.findall(r"^([\w.-]+)==[^\\]*\\\n((?:    --hash=sha256:[0-9a-f]{64}[ \\]*\n)+)", lock, flags=re.MULTILINE)
    )
    for wanted in project["dependencies"]:
        assert re.split(r"[\[<>=;]", wanted)[0] in locked
    assert len(locked) == len(re.findall(r"^[\w.-]+==", lock, flags=re.MULTILINE))


def test_what_the_image_gets_starts_by_itself_and_writes_nothing(tmp_path: Path) -> None:
    """The steps of the Containerfile without its base and its downloads: the dependencies are those of the tests."""
    made = tmp_path / "opt"
    venv.create(made, symlinks=True)
    packages = made / "lib" / f"python{sysconfig.get_python_version()}" / "site-packages"
    shutil.copytree(ROOT / "service", packages / "service", ignore=shutil.ignore_patterns("__pycache__"))
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    compiling = ["-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash", str(packages / "service")]
    subprocess.run([made / "bin/python", *compiling], check=True, timeout=60)
    before = sorted(tmp_path.rglob("*"))
    where = f"import service; assert service.__file__.startswith({str(packages)!r})"
    start = f"{where}; from service.cli.main import main; main()"
    ran = subprocess.run(
        [made / "bin/python", "-c", start, "keys", "generate"],
        cwd="/",
        env={"PATH": os.defpath, "PYTHONDONTWRITEBYTECODE": "1", "HOME": "/nowhere"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    assert sorted(tmp_path.rglob("*")) == before
    missing = {path.suffix for path in (ROOT / "service").rglob("*") if path.is_file()} - {".pyc"}
    assert missing <= {path.suffix for path in (packages / "service").rglob("*")}


# Compose


WORDS = {"type": "array", "items": {"type": "string"}}
TEXTS = {"type": "object", "additionalProperties": {"type": "string"}}
DURATION = {"type": "string", "pattern": r"^(\d+(ms|s|m|h))+$"}
CONDITIONS = ["service_started", "service_healthy", "service_completed_successfully"]
PART = {
    "type": "object",
    "required": ["image"],
    "additionalProperties": False,
    "properties": {
        "image": {"type": "string"},
        "build": {
            "type": "object",
            "additionalProperties": False,
            "properties": {"context": {"type": "string"}, "dockerfile": {"type": "string"}},
        },
        "command": WORDS,
        "environment": TEXTS,
        "depends_on": {
            "type": "object",
            "additionalProperties": {
                "type": "object",
                "required": ["condition"],
                "additionalProperties": False,
                "properties": {"condition": {"enum": CONDITIONS}},
            },
        },
        "ports": WORDS,
        "volumes": WORDS,
        "tmpfs": WORDS,
        "cap_drop": WORDS,
        "security_opt": WORDS,
        "read_only": {"type": "boolean"},
        "restart": {"enum": ["no", "always", "on-failure", "unless-stopped"]},
        "stop_grace_period": DURATION,
        "healthcheck": {
            "type": "object",
            "required": ["test"],
            "additionalProperties": False,
            "properties": {
                "test": {**WORDS, "prefixItems": [{"enum": ["CMD", "CMD-SHELL"]}]},
                "interval": DURATION,
                "timeout": DURATION,
                "retries": {"type": "integer"},
            },
        },
    },
}
COMPOSE = {
    "type": "object",
    "required": ["services"],
    "additionalProperties": False,
    "patternProperties": {"^x-": {}},
    "properties": {
        "name": {"type": "string"},
        "services": {"type": "object", "additionalProperties": PART},
        "volumes": {"type": "object", "additionalProperties": {"type": "null"}},
    },
}
"""As much of the Compose Specification as the file uses: a new word is looked up there before it is added here."""


def test_compose_says_nothing_that_the_specification_does_not_know() -> None:
    jsonschema.Draft202012Validator(COMPOSE).validate(compose())


def test_everything_that_compose_waits_for_or_mounts_exists() -> None:
    for part in compose()["services"].values():
        assert set(part.get("depends_on", {})) <= compose()["services"].keys()
        assert {volume.partition(":")[0] for volume in part.get("volumes", [])} <= compose()["volumes"].keys()


@pytest.mark.parametrize("name", compose()["services"])
def test_every_image_of_compose_is_pinned(name: str) -> None:
    image = the(name)["image"]
    assert image == "vestibule:local" or re.fullmatch(r"docker\.io/[a-z/]+:v?\d+[\w.-]*", image)


def test_compose_holds_no_secret() -> None:
    """Every word that opens something comes from `.env`, and a missing one stops compose with the way to make it."""
    for used in re.findall(r"\$\{([^}]*)\}", (ROOT / "compose.yaml").read_text()):
        assert re.fullmatch(rf"({'|'.join(ENVIRONMENT)}):\?run just compose-env", used)
    settings = the("vestibule")["environment"]
    assert the("postgres")["environment"]["POSTGRES_PASSWORD"].startswith("${POSTGRES_PASSWORD:?")
    assert option(the("valkey")["command"], "--requirepass").startswith("${VALKEY_PASSWORD:?")
    assert settings["VESTIBULE_KEYS"].startswith("${VESTIBULE_KEYS:?")
    assert "vestibule:${POSTGRES_PASSWORD:?" in settings["DATABASE_URL"]
    assert "redis://:${VALKEY_PASSWORD:?" in settings["REDIS_URL"]


def test_git_and_images_never_see_the_env_file() -> None:
    assert ".env" in (ROOT / ".gitignore").read_text().splitlines()


@pytest.mark.parametrize("name", ["vestibule", "migrate"])
def test_the_service_understands_every_setting_of_compose(name: str) -> None:
    settings = load({key: filled(value) for key, value in the(name)["environment"].items()})
    assert settings.issuer == "http://localhost:8000"
    assert settings.database_url.endswith("@postgres:5432/vestibule")


def test_valkey_never_evicts_a_session_and_keeps_its_journal() -> None:
    command = the("valkey")["command"]
    assert option(command, "--maxmemory-policy") == "noeviction"
    assert option(command, "--maxmemory")
    assert option(command, "--appendonly") == "yes"
    assert option(command, "--appendfsync") == "everysec"


def test_the_stores_keep_their_data_in_volumes() -> None:
    """PostgreSQL's image keeps it one folder higher since version 18, and starts empty with the old mount."""
    assert the("postgres")["volumes"] == ["postgres:/var/lib/postgresql"]
    assert the("valkey")["volumes"] == ["valkey:/data"]
    assert compose()["volumes"].keys() == {"postgres", "valkey"}


@pytest.mark.parametrize("name", ["vestibule", "migrate", "mailpit"])
def test_the_containers_can_write_nothing_and_gain_nothing(name: str) -> None:
    container = the(name)
    assert container["read_only"] is True
    assert container["cap_drop"] == ["ALL"]
    assert container["tmpfs"][0].startswith("/tmp:size=")


@pytest.mark.parametrize("name", compose()["services"])
def test_no_container_gains_privileges_or_listens_to_the_world(name: str) -> None:
    container = the(name)
    assert container["security_opt"] == ["no-new-privileges:true"]
    assert not {"privileged", "cap_add", "network_mode", "pid", "ipc"} & container.keys()
    assert all(port.startswith("127.0.0.1:") for port in container.get("ports", []))


def test_the_service_starts_when_the_stores_are_well_and_the_schema_is_current() -> None:
    waits = {name: one["condition"] for name, one in the("vestibule")["depends_on"].items()}
    assert waits["postgres"] == waits["valkey"] == the("migrate")["depends_on"]["postgres"]["condition"]
    assert waits["postgres"] == "service_healthy"
    assert waits["migrate"] == "service_completed_successfully"
    assert the("migrate")["command"] == ["migrate"]
    assert {"healthcheck"} <= the("postgres").keys() & the("valkey").keys()


def test_compose_lets_the_service_end_its_requests() -> None:
    container = the("vestibule")
    settings = load({key: filled(value) for key, value in container["environment"].items()})
    needed = settings.drain.total_seconds() + settings.shutdown_grace.total_seconds() + STORES_CLOSE
    assert needed <= int(container["stop_grace_period"].removesuffix("s"))


# What CI does with it


def test_ci_has_no_rights_beyond_reading_and_pins_its_actions() -> None:
    text = (ROOT / ".github" / "workflows" / "ci.yaml").read_text()
    workflow = yaml.safe_load(text)
    actions = [step["uses"] for job in workflow["jobs"].values() for step in job["steps"] if "uses" in step]
    assert workflow["permissions"] == {"contents": "read"}
    assert all(re.search(r"@v\d+(\.\d+)*$", action) for action in actions)
    assert "secrets." not in text


def test_ci_runs_the_oldest_python_that_is_promised_and_the_one_of_the_image() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yaml").read_text())
    oldest = re.search(r'requires-python = ">=([\d.]+)"', (ROOT / "pyproject.toml").read_text())
    shipped = re.search(r"python:(3\.\d+)-", (ROOT / "Containerfile").read_text())
    assert oldest is not None
    assert shipped is not None
    assert set(workflow["jobs"]["test"]["strategy"]["matrix"]["python"]) == {oldest[1], shipped[1]}
