# The one door to everything: `uv run just` lists what there is.

set positional-arguments

# list the recipes
default:
    @just --list --unsorted

# run the service on bundled servers
dev *arguments:
    uv run vestibule dev "$@"

# run the tests
test *arguments:
    uv run pytest "$@"

# lint, types, architecture, pins
check:
    uv run ruff check .
    uv run ruff format --check .
    uv run mypy
    uv run lint-imports
    uv run deploy/pin.py --check

# mend what can be mended by machine
fix:
    uv run ruff check --fix .
    uv run ruff format .

# measure the service beside a bare route of its framework (a few minutes; --quick: one)
bench *arguments:
    uv run -m deploy.bench "$@"

# measure whether answer times tell who has an account (a few minutes)
bench-enumeration *arguments:
    uv run deploy/bench/enumeration.py "$@"

# inject faults into real processes and print what came of them (some minutes): just faults --only 1,17
faults *arguments:
    uv run python -m deploy.faults "$@"

# what the continuous integration runs
ci:
    .ci/run

# draft a migration from what the tables have and the migrations have not: just migration "what it does"
migration message:
    uv run deploy/new_migration.py "$1"

# pin the newest versions that the ranges allow, in pyproject.toml and requirements.lock
upgrade:
    uv run deploy/pin.py --clear
    uv lock --upgrade
    uv run deploy/pin.py
    just lock

# write the hashed lock of the production dependencies, which the Containerfile installs from
lock:
    uv export --quiet --no-dev --extra otel --no-emit-project --no-annotate --no-header --format requirements-txt -o requirements.lock

# write .env with the secrets that compose.yaml asks for
compose-env:
    uv run deploy/compose_env.py

# build the container image and run it as in production (minutes, with docker or podman)
image-test *arguments:
    uv run pytest -n 0 tests/deploy/image_check.py "$@"

# build the container image
image tag="vestibule:dev":
    docker build -f Containerfile -t {{ tag }} .
