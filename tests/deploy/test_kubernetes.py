"""The manifests hold together: every name leads somewhere, every limit adds up, and nothing runs with rights."""

import base64
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

import service
from service.connections import SWEEP
from service.server import KEEP_ALIVE
from service.settings import Settings, load

Resource = dict[str, Any]

KUBERNETES = Path(__file__).parents[2] / "deploy" / "kubernetes"
BASE = KUBERNETES / "base"
OVERLAY = KUBERNETES / "overlays" / "example"
SCHEMA = "1.34"
CLUSTER_WIDE = {"Namespace"}
DNS, POSTGRES, REDIS, SENTINEL, SUBMISSION = 53, 5432, 6379, 26379, {465, 587}
POSTGRES_CONNECTIONS = 100 - 3
"""PostgreSQL's default `max_connections`, less the ones kept for its administrator."""
INGRESS_KEEPS = 60
"""Seconds that ingress-nginx and HAProxy keep idle connections to servers, or less, unless told otherwise."""
STORES_CLOSE = 5
"""Seconds the service may need to close its stores after the last request."""

needs_kubectl = pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl renders the overlay")


@cache
def base() -> tuple[Resource, ...]:
    """The base as Kustomize renders it; knows `resources` and `namespace`, and refuses to guess about more."""
    kustomization = yaml.safe_load((BASE / "kustomization.yaml").read_text())
    assert set(kustomization) == {"apiVersion", "kind", "namespace", "resources"}
    resources = [document for name in kustomization["resources"] for document in documents(BASE / name)]
    for resource in resources:
        if resource["kind"] not in CLUSTER_WIDE:
            resource["metadata"]["namespace"] = kustomization["namespace"]
    return tuple(resources)


def documents(path: Path) -> list[Resource]:
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


def kustomize(directory: Path) -> list[Resource]:
    rendered = subprocess.run(["kubectl", "kustomize", directory], check=True, capture_output=True, text=True)
    return list(yaml.safe_load_all(rendered.stdout))


def the(kind: str, name: str = "vestibule") -> Resource:
    found = [one for one in base() if one["kind"] == kind and one["metadata"]["name"] == name]
    assert len(found) == 1, f"{len(found)} of {kind}/{name}"
    return found[0]


def title(resource: Resource) -> str:
    return f"{resource['kind']}/{resource['metadata']['name']}"


def workloads() -> list[Resource]:
    return [one for one in base() if "template" in one.get("spec", {})]


def containers(workload: Resource) -> list[Resource]:
    pod = workload["spec"]["template"]["spec"]
    return [*pod.get("initContainers", []), *pod["containers"]]


def server() -> Resource:
    [container] = containers(the("Deployment"))
    return container


def labels(workload: Resource) -> dict[str, str]:
    return dict(workload["spec"]["template"]["metadata"]["labels"])


def selects(selector: dict[str, Any], workload: Resource) -> bool:
    assert set(selector) <= {"matchLabels"}, "a selector this test cannot read"
    wanted: dict[str, str] = selector.get("matchLabels", {})
    return wanted.items() <= labels(workload).items()


def everything_in(node: Any) -> Iterator[dict[str, Any]]:
    if isinstance(node, dict):
        yield node
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from everything_in(child)


def ports(rule: dict[str, Any]) -> set[tuple[str, Any]]:
    return {(port["protocol"], port["port"]) for port in rule["ports"]}


def running() -> Settings:
    """The settings that the pods will run with; what the Secret holds is made up."""
    given = dict(the("ConfigMap")["data"])
    for variable in [name for name in given if name.endswith("_FILE")]:
        given[variable.removesuffix("_FILE")] = given.pop(variable)
    given |= {"DATABASE_URL": "postgresql://database/vestibule", "REDIS_URL": "redis://redis/0"}
    given["VESTIBULE_KEYS"] = "1:" + base64.urlsafe_b64encode(bytes(range(32))).decode()
    return load(given)


# What is valid


@pytest.mark.parametrize("resource", base(), ids=title)
def test_each_resource_fits_the_schema_of_kubernetes(resource: Resource) -> None:
    kubernetes_validate.validate(resource, SCHEMA, strict=True)


def test_the_example_secret_fits_the_schema_of_kubernetes() -> None:
    [secret] = documents(KUBERNETES / "secret.example.yaml")
    kubernetes_validate.validate(secret, SCHEMA, strict=True)


@needs_kubectl
def test_these_tests_see_the_base_as_kustomize_renders_it() -> None:
    assert sorted(kustomize(BASE), key=title) == sorted(base(), key=title)


@needs_kubectl
def test_the_example_overlay_renders_and_fits_the_schema() -> None:
    for resource in kustomize(OVERLAY):
        kubernetes_validate.validate(resource, SCHEMA, strict=True)


@needs_kubectl
def test_the_example_overlay_replaces_every_image() -> None:
    images = {node["image"] for one in kustomize(OVERLAY) for node in everything_in(one) if "image" in node}
    assert len(images) == 1
    assert images.pop().startswith("registry.example.com/vestibule:")


@needs_kubectl
def test_the_example_ingress_leads_to_the_named_port_of_the_service() -> None:
    [ingress] = [one for one in kustomize(OVERLAY) if one["kind"] == "Ingress"]
    [path] = ingress["spec"]["rules"][0]["http"]["paths"]
    [port] = the("Service")["spec"]["ports"]
    assert path["backend"]["service"] == {"name": "vestibule", "port": {"name": port["name"]}}


def test_no_manifest_is_forgotten_by_the_kustomization() -> None:
    listed = yaml.safe_load((BASE / "kustomization.yaml").read_text())["resources"]
    assert {*listed, "kustomization.yaml"} == {path.name for path in BASE.iterdir()}


def test_every_resource_has_a_version_that_stays() -> None:
    """The schemas do not know what a cluster has removed."""
    assert {resource["apiVersion"] for resource in base()} == {
        "v1",
        "apps/v1",
        "batch/v1",
        "policy/v1",
        "autoscaling/v2",
        "networking.k8s.io/v1",
    }


def test_a_misspelt_field_does_not_fit_the_schema() -> None:
    misspelt = yaml.safe_load(yaml.safe_dump(the("Deployment")))
    misspelt["spec"]["minReadySecond"] = misspelt["spec"].pop("minReadySeconds")
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(misspelt, SCHEMA, strict=True)


# What leads where


@pytest.mark.parametrize(
    "selector",
    [
        lambda: {"matchLabels": the("Service")["spec"]["selector"]},
        lambda: the("PodDisruptionBudget")["spec"]["selector"],
        lambda: the("Deployment")["spec"]["selector"],
        lambda: the("NetworkPolicy", "callers")["spec"]["podSelector"],
    ],
    ids=["service", "disruption budget", "deployment", "callers"],
)
def test_what_means_the_servers_takes_them_and_leaves_the_migration_alone(
    selector: Callable[[], dict[str, Any]],
) -> None:
    assert selects(selector(), the("Deployment"))
    assert not selects(selector(), the("Job", "vestibule-migrate"))


def test_servers_spread_over_zones_and_nodes_each_release_by_itself() -> None:
    spread = the("Deployment")["spec"]["template"]["spec"]["topologySpreadConstraints"]
    assert {one["topologyKey"] for one in spread} == {"topology.kubernetes.io/zone", "kubernetes.io/hostname"}
    for one in spread:
        assert selects(one["labelSelector"], the("Deployment"))
        assert one["matchLabelKeys"] == ["pod-template-hash"]


def test_every_port_that_is_named_exists() -> None:
    [port] = server()["ports"]
    named = [
        the("Service")["spec"]["ports"][0]["targetPort"],
        the("NetworkPolicy", "callers")["spec"]["ingress"][0]["ports"][0]["port"],
        *(server()[probe]["httpGet"]["port"] for probe in ("startupProbe", "livenessProbe", "readinessProbe")),
    ]
    assert port["containerPort"] == 8000
    assert set(named) == {port["name"]}


def test_the_autoscaler_drives_the_deployment_and_nothing_else_does() -> None:
    target = the("HorizontalPodAutoscaler")["spec"]["scaleTargetRef"]
    deployment = the("Deployment")
    assert target == {"apiVersion": deployment["apiVersion"], "kind": "Deployment", "name": "vestibule"}
    assert "replicas" not in deployment["spec"]


@pytest.mark.parametrize("workload", workloads(), ids=title)
def test_every_configmap_secret_and_account_that_a_pod_names_exists(workload: Resource) -> None:
    pod = workload["spec"]["template"]["spec"]
    [secret] = documents(KUBERNETES / "secret.example.yaml")
    the("ServiceAccount", pod["serviceAccountName"])
    for node in everything_in(pod):
        if "configMapRef" in node:
            the("ConfigMap", node["configMapRef"]["name"])
        if "secretName" in node:
            assert node["secretName"] == secret["metadata"]["name"]
        assert not {"secretRef", "secretKeyRef", "configMapKeyRef"} & node.keys()


@pytest.mark.parametrize("workload", workloads(), ids=title)
def test_every_file_that_the_settings_name_is_a_mounted_key_of_the_secret(workload: Resource) -> None:
    [secret] = documents(KUBERNETES / "secret.example.yaml")
    [mount] = [one for one in containers(workload)[0]["volumeMounts"] if one["name"] == "secrets"]
    files = {name: value for name, value in the("ConfigMap")["data"].items() if name.endswith("_FILE")}
    expected = {f"{key}_FILE": f"{mount['mountPath']}/{key}" for key in secret["stringData"]}
    assert files == expected


@pytest.mark.parametrize("workload", workloads(), ids=title)
def test_every_mount_has_its_volume_and_only_a_small_tmp_can_be_written(workload: Resource) -> None:
    volumes = {one["name"]: one for one in workload["spec"]["template"]["spec"]["volumes"]}
    for mount in [mount for container in containers(workload) for mount in container["volumeMounts"]]:
        assert "subPath" not in mount, "a subPath never sees a rotated secret"
        volume = volumes[mount["name"]]
        assert "secret" in volume or volume["emptyDir"] == {"medium": "Memory", "sizeLimit": "16Mi"}
        assert mount.get("readOnly", False) or mount["mountPath"] == "/tmp"


def test_the_service_understands_every_setting_of_the_configmap() -> None:
    assert running().issuer.startswith("https://")


# What adds up


def test_the_drain_the_open_requests_and_the_end_fit_into_the_grace_period() -> None:
    pod = the("Deployment")["spec"]["template"]["spec"]
    needed = running().drain.total_seconds() + running().shutdown_grace.total_seconds() + STORES_CLOSE
    waits = server().get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
    assert needed + waits <= pod["terminationGracePeriodSeconds"]


def test_the_drain_outlasts_two_failed_readiness_probes() -> None:
    """Also balancers that look at readiness, and not at the endpoints, must have let go when the listener closes."""
    probe = server()["readinessProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] < running().drain.total_seconds()


def test_idle_connections_outlive_those_that_an_ingress_keeps() -> None:
    """Else a request meets a connection that is just being closed, and its client reads 502."""
    assert KEEP_ALIVE > INGRESS_KEEPS


def test_a_body_that_stops_ends_before_its_request_is_cancelled() -> None:
    """`connections.py` gives it half of the grace, and counts to within two seconds."""
    grace = running().shutdown_grace.total_seconds()
    assert grace / 2 + 2 * SWEEP < grace


def test_the_autoscaler_adds_at_once_and_takes_away_one_at_a_time() -> None:
    behavior = the("HorizontalPodAutoscaler")["spec"]["behavior"]
    assert behavior["scaleUp"].get("stabilizationWindowSeconds", 0) == 0
    assert behavior["scaleDown"]["stabilizationWindowSeconds"] >= 300
    assert behavior["scaleDown"]["policies"] == [{"type": "Pods", "value": 1, "periodSeconds": 60}]


def test_all_servers_together_stay_below_the_connections_of_postgresql() -> None:
    most = the("HorizontalPodAutoscaler")["spec"]["maxReplicas"]
    surge = the("Deployment")["spec"]["strategy"]["rollingUpdate"]["maxSurge"]
    assert (most + surge) * running().database_pool <= POSTGRES_CONNECTIONS


def test_the_hash_slots_are_counted_and_not_taken_from_the_node() -> None:
    limit = int(server()["resources"]["limits"]["memory"].removesuffix("Mi"))
    assert 0 < running().hash_slots * running().argon2_memory_kib / 1024 < limit / 2


def test_memory_is_guaranteed_and_the_cpu_is_never_throttled() -> None:
    for workload in workloads():
        for container in containers(workload):
            resources = container["resources"]
            assert resources["limits"] == {"memory": resources["requests"]["memory"]}
            assert "cpu" in resources["requests"]


def test_a_rollout_never_goes_below_full_strength() -> None:
    spec = the("Deployment")["spec"]
    assert spec["strategy"] == {
        "type": "RollingUpdate",
        "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1},
    }
    assert spec["minReadySeconds"] >= 10


def test_a_drained_node_takes_one_server_at_a_time_and_never_waits_for_a_broken_one() -> None:
    budget = the("PodDisruptionBudget")["spec"]
    assert budget["maxUnavailable"] == 1
    assert budget["unhealthyPodEvictionPolicy"] == "AlwaysAllow"
    assert the("HorizontalPodAutoscaler")["spec"]["minReplicas"] >= 3


def test_each_probe_asks_its_own_question() -> None:
    paths = {probe: server()[probe]["httpGet"]["path"] for probe in server() if probe.endswith("Probe")}
    assert paths == {"startupProbe": "/startupz", "livenessProbe": "/livez", "readinessProbe": "/readyz"}


def test_a_server_is_killed_late_and_taken_out_early() -> None:
    def patience(probe: dict[str, int]) -> int:
        return probe["periodSeconds"] * probe["failureThreshold"]

    assert patience(server()["livenessProbe"]) >= 60
    assert patience(server()["readinessProbe"]) <= 10


def test_the_migration_ends_and_cleans_up_behind_itself() -> None:
    job = the("Job", "vestibule-migrate")
    [container] = containers(job)
    assert container["args"] == ["migrate"]
    assert server()["args"] == ["serve"]
    assert job["spec"]["template"]["spec"]["restartPolicy"] == "Never"
    assert {"backoffLimit", "activeDeadlineSeconds", "ttlSecondsAfterFinished"} <= job["spec"].keys()


def test_the_migration_can_be_applied_before_the_servers() -> None:
    """`kubectl apply -l app.kubernetes.io/component!=server` is the first step of a release (deploy/README.md)."""
    component = {title(one): one["metadata"].get("labels", {}).get("app.kubernetes.io/component") for one in base()}
    later = {name for name, value in component.items() if value == "server"}
    assert later == {
        "Deployment/vestibule",
        "Service/vestibule",
        "PodDisruptionBudget/vestibule",
        "HorizontalPodAutoscaler/vestibule",
    }


# What an intruder finds


@pytest.mark.parametrize("workload", workloads(), ids=title)
def test_every_pod_obeys_the_restricted_standard(workload: Resource) -> None:
    pod = workload["spec"]["template"]["spec"]
    context = pod["securityContext"]
    assert context["runAsNonRoot"] is True
    assert context["runAsUser"] >= 10000
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
    for container in containers(workload):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }


@pytest.mark.parametrize("workload", workloads(), ids=title)
def test_no_pod_gets_a_token_of_the_cluster_or_foreign_variables(workload: Resource) -> None:
    pod = workload["spec"]["template"]["spec"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["enableServiceLinks"] is False, "VESTIBULE_PORT=tcp://… would be refused as an unknown setting"


def test_the_namespace_admits_restricted_pods_only() -> None:
    assert the("Namespace")["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


def test_no_secret_is_deployed_and_the_example_holds_none() -> None:
    assert not [one for one in base() if one["kind"] == "Secret"]
    [example] = documents(KUBERNETES / "secret.example.yaml")
    for value in example["stringData"].values():
        hidden = re.sub(r"<[^>]*>", "", value)
        assert re.fullmatch(r"(1:|[a-z+]+://:{0,2}@:\d+(/\w+)?)", hidden), "only placeholders may stand for a secret"


def test_every_image_is_this_version() -> None:
    images = {container["image"] for workload in workloads() for container in containers(workload)}
    assert images == {f"vestibule:{service.__version__}"}


def test_nothing_comes_in_or_goes_out_by_default() -> None:
    spec = the("NetworkPolicy", "deny-all")["spec"]
    assert spec == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}


def test_only_labelled_namespaces_reach_the_servers() -> None:
    spec = the("NetworkPolicy", "callers")["spec"]
    [rule] = spec["ingress"]
    [source] = rule["from"]
    assert spec["policyTypes"] == ["Ingress"]
    assert source["namespaceSelector"]["matchLabels"]
    assert ports(rule) == {("TCP", "http")}


def test_servers_and_migration_reach_dns_the_stores_and_the_mail_relay_only() -> None:
    spec = the("NetworkPolicy", "dependencies")["spec"]
    dns, stores, mail = spec["egress"]
    assert all(selects(spec["podSelector"], workload) for workload in workloads())
    assert spec["policyTypes"] == ["Egress"]
    assert ports(dns) == {("UDP", DNS), ("TCP", DNS)}
    assert ports(stores) == {("TCP", POSTGRES), ("TCP", REDIS), ("TCP", SENTINEL)}
    assert ports(mail) == {("TCP", port) for port in SUBMISSION}
    assert all(rule["to"][0]["namespaceSelector"]["matchLabels"] for rule in (dns, stores))
