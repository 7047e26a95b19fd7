"""openid-client and oauth4webapi, the libraries of Node applications: each reads every answer of ours strictly.

Their versions are those of `node/package-lock.json`. Each script runs every scenario and tells what became of it.
"""

import asyncio
import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.clients.packages import IS_THERE, RUNS, with_packages
from tests.clients.server import KeyPair, Running
from tests.oauth.acting import Software, new_api, new_backend, new_front_end, new_service, session_through

LIBRARIES = ("openid-client", "oauth4webapi")
Told = dict[str, dict[str, str | None]]
"""What went wrong, if anything, by library and scenario."""

if not IS_THERE:
    pytest.skip("the clients of Node need `node` and `npm`", allow_module_level=True)


@pytest.fixture(scope="session")
async def told(at: Running, tmp_path_factory: pytest.TempPathFactory) -> Told:
    """What became of each scenario, by library."""
    folder = with_packages(tmp_path_factory.mktemp("node"))
    keys = [KeyPair.new("EC"), KeyPair.new("RSA")]
    errands = [json.dumps(await errand(at, keys)) for _ in LIBRARIES]
    said = await asyncio.gather(*map(partial(ran, folder), LIBRARIES, errands))
    return dict(zip(LIBRARIES, said, strict=True))


async def ran(folder: Path, library: str, errand: str) -> dict[str, str | None]:
    """Sends one script on its errand."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        "node", f"{library}.mjs", cwd=folder, stdin=pipe, stdout=pipe, stderr=pipe
    )
    try:
        async with asyncio.timeout(RUNS):
            said, complained = await process.communicate(errand.encode())
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, (library, complained.decode())
    told: dict[str, str | None] = json.loads(said)
    return told


async def errand(at: Running, keys: list[KeyPair]) -> dict[str, Any]:
    """Everything that one script needs to know, and tokens that are nobody else's."""
    api = await new_api(at.services)
    granted = {"scopes": api.scopes, "audiences": [api.identifier]}
    service = await new_service(at.services, **granted, serves=[api.identifier])
    backend, front_end = await new_backend(at.services), await new_front_end(at.services)
    holders = [await new_service(at.services, auth_methods=["private_key_jwt"], jwks=key.jwks) for key in keys]
    (_, revoked), (_, foreign) = [await session_through(at.services, backend) for _ in range(2)]
    return {
        "issuer": at.issuer,
        "api": {"identifier": api.identifier, "read": api.read},
        "service": _named(service),
        "backend": {
            **await _with_session(at, backend),
            "revoked": revoked.refresh_token,
            "orphaned": revoked.access_token,
            "foreign": foreign.refresh_token,
            "alive": foreign.access_token,
        },
        "frontEnd": await _with_session(at, front_end),
        "holders": [{**_named(holder), "jwk": key.secret} for holder, key in zip(holders, keys, strict=True)],
    }


async def _with_session(at: Running, client: Software) -> dict[str, str]:
    person, grant = await session_through(at.services, client)
    return {**_named(client), "nickname": person.nickname, "refreshed": grant.refresh_token}


def _named(client: Software) -> dict[str, str]:
    return {"id": client.client_id, "secret": client.secret}


def assert_agreed(told: Told, scenario: str, *libraries: str) -> None:
    """Whether a scenario went well in these libraries."""
    for library in libraries or LIBRARIES:
        assert told[library][scenario] is None, f"{library}: {told[library][scenario]}"


@pytest.mark.standard("OP-14", "OP-15", "OP-16")
async def test_they_find_every_endpoint_by_the_issuer_alone(told: Told) -> None:
    assert_agreed(told, "discovery")


@pytest.mark.standard("AT-37", "AT-39", "AT-40", "AT-42")
async def test_they_get_tokens_with_a_secret_in_the_header_or_in_the_body(told: Told) -> None:
    assert_agreed(told, "secrets")


@pytest.mark.standard("AT-18", "AT-51", "IN-02", "RV-04")
async def test_they_prove_themselves_at_every_endpoint_by_a_key_of_either_kind(told: Told) -> None:
    assert_agreed(told, "keys")


@pytest.mark.standard("AT-39", "AT-43", "SE-28")
async def test_they_refresh_for_a_front_end_and_for_a_backend_and_act_with_what_they_get(told: Told) -> None:
    assert_agreed(told, "refresh")


@pytest.mark.standard("AT-15", "AT-41", "AT-44")
async def test_they_read_our_refusals_and_challenges_by_their_names(told: Told) -> None:
    assert_agreed(told, "refusals")


@pytest.mark.standard("RV-01", "RV-05", "RV-06", "RV-10")
async def test_they_give_tokens_up_and_hear_that_everything_of_the_session_is_over(told: Told) -> None:
    assert_agreed(told, "revocation")


@pytest.mark.standard("IN-05", "IN-10", "IN-17", "IN-18")
async def test_they_are_told_the_same_in_plain_json_and_signed(told: Told) -> None:
    assert_agreed(told, "introspection")


@pytest.mark.standard("AT-19", "AT-20", "AT-26", "IN-18", "KY-23")
async def test_oauth4webapi_validates_what_people_and_services_hold_by_rfc_9068(told: Told) -> None:
    assert_agreed(told, "validation", "oauth4webapi")


async def test_every_scenario_that_ran_is_one_that_a_test_asks_about(told: Told) -> None:
    asked = {"discovery", "secrets", "keys", "refresh", "refusals", "revocation", "introspection"}
    assert {library: set(ran) for library, ran in told.items()} == {
        "openid-client": asked,
        "oauth4webapi": {*asked, "validation"},
    }
