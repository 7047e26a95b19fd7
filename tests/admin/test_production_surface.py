"""What a production service shows to strangers, and what it does not (ASVS 13.4.5)."""

import re

import httpx
import pytest

from service.wiring import Services

HIDDEN = (
    *("/schema", "/schema/openapi.json", "/metrics", "/console", "/graphql", "/debug", "/dev/mailbox", "/admin"),
    *("/admin/", "/.env", "/.git/config", "/server-status", "/actuator", "/actuator/env", "/docs/../pyproject.toml"),
)


@pytest.mark.standard("AD-19")
async def test_no_page_of_the_framework_of_operators_or_of_developers_answers(http: httpx.AsyncClient) -> None:
    for path in HIDDEN:
        answer = await http.get(path)
        assert answer.status_code == 404, path
        assert answer.json()["code"] == "not_found"


@pytest.mark.standard("AD-19")
async def test_probes_tell_states_and_no_addresses_versions_or_errors(
    http: httpx.AsyncClient, services: Services
) -> None:
    """The description of the API and its page are served on purpose (service/README.md); probes are for machines."""
    database, redis = str(services.settings.database_url), str(services.settings.redis_url)
    for path in ("/livez", "/readyz", "/startupz", "/healthz"):
        text = (await http.get(path)).text
        assert not re.search(r"postgresql\+|unix:|redis:|://|password|traceback|\.py\b|\d+\.\d+\.\d+", text, re.I), path
        assert database not in text
        assert redis not in text


@pytest.mark.standard("AD-19")
async def test_the_description_tells_nothing_that_is_somebodys(http: httpx.AsyncClient, services: Services) -> None:
    text = (await http.get("/openapi.json")).text

    assert str(services.settings.keys) not in text
    assert not re.search(r"localhost|127\.0\.0\.1|/home/|/root/|/tmp/|postgresql\+", text)
