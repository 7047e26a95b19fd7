"""The root keys, which open the private keys, are where tokens are signed, and nowhere else."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.test_kubernetes import base

ROOT = Path(__file__).parents[2]
SECRETS = ("VESTIBULE_KEYS", "DATABASE_URL", "REDIS_URL")
OURS = {"vestibule", "migrate"}


def pods() -> dict[str, dict[str, Any]]:
    """Every pod of the manifests, by the name of what makes it."""
    return {
        resource["metadata"]["name"]: resource["spec"]["template"]["spec"]
        for resource in base()
        if "template" in resource.get("spec", {})
    }


@pytest.mark.standard("KY-19")
def test_in_kubernetes_only_the_service_and_its_migration_get_the_secret() -> None:
    with_secret = {
        name
        for name, pod in pods().items()
        if any("secret" in volume for volume in pod.get("volumes", [])) or "secretKeyRef" in str(pod)
    }
    assert with_secret == {"vestibule", "vestibule-migrate"}
    for pod in pods().values():
        (volume,) = (volume["name"] for volume in pod["volumes"] if "secret" in volume)
        holders = [*pod.get("initContainers", []), *pod["containers"]]
        mounting = [each["name"] for each in holders if volume in [mount["name"] for mount in each["volumeMounts"]]]
        assert len(mounting) == 1, mounting
        mounts = [mount for each in holders for mount in each["volumeMounts"] if mount["name"] == volume]
        assert all(mount["readOnly"] for mount in mounts)


@pytest.mark.standard("KY-19")
def test_in_compose_the_stores_and_the_mail_server_get_none_of_our_secrets() -> None:
    services = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]

    assert {name for name, each in services.items() if any(secret in str(each) for secret in SECRETS)} == OURS


@pytest.mark.standard("KY-19")
def test_who_verifies_tokens_or_asks_us_needs_nothing_of_ours_but_a_client_secret() -> None:
    guard = (ROOT / "examples" / "guard.py").read_text(encoding="utf-8")

    assert not [secret for secret in SECRETS if secret in guard]
    assert "/.well-known/jwks.json" in guard or "jwks_uri" in guard
