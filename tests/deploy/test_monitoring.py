"""Alerts and dashboard ask for what the metrics have, and the manifests for Prometheus lead to the right pods."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import msgspec
import pytest
import yaml
from prometheus_client import REGISTRY, Counter, Gauge, Histogram

from service import metrics
from service.settings import Settings

DEPLOY = Path(__file__).parents[2] / "deploy"
COMPONENT = DEPLOY / "kubernetes" / "components" / "monitoring"
GROUPS: list[dict[str, Any]] = yaml.safe_load((DEPLOY / "monitoring" / "alerts.yaml").read_text())["groups"]
RULES: list[dict[str, Any]] = [rule for group in GROUPS for rule in group["rules"]]
DASHBOARD: dict[str, Any] = json.loads((DEPLOY / "monitoring" / "dashboard.json").read_text())
SCRAPE = {"instance", "job"}
"""Labels that Prometheus itself puts to each sample."""
FUNCTIONS = {"absent", "count", "delta", "histogram_quantile", "increase", "max", "min", "rate", "sum"}
WORDS = {"and", "or", "by"}
SELECTOR = re.compile(r"(vestibule_\w+)(?:\{([^}]*)\})?(\[[^\]]*\])?")
MATCHER = re.compile(r'(\w+)(?:=~|!~|!=|=)"([^"]*)"')
ALERTED = {
    "vestibule_refreshes_total",
    "vestibule_replay_lag_seconds",
    "vestibule_redis_breaker_open",
    "vestibule_answers_from_journal_total",
    "vestibule_requests_total",
    "vestibule_request_seconds_bucket",
    "vestibule_hashes",
    "vestibule_oldest_mail_seconds",
    "vestibule_signing_key_age_seconds",
    "vestibule_signing_keys_unreadable",
    "vestibule_clock_skew_seconds",
    "vestibule_redis_evicted_keys",
    "vestibule_redis_policy_wrong",
    "vestibule_schema_current",
    "vestibule_audit_events_dropped_total",
}


def samples() -> dict[str, tuple[str, set[str]]]:
    """Every name that a scrape may bring, with its type and its labels."""
    found = {}
    collectors = [one for one in vars(metrics).values() if isinstance(one, Counter | Gauge | Histogram)]
    for collector in collectors:
        for family in collector.describe():
            labels = set(collector._labelnames)
            endings = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}.get(family.type, ("",))
            for ending in endings:
                found[family.name + ending] = (family.type, labels | ({"le"} if ending == "_bucket" else set()))
    return found


SAMPLES = samples()


def selectors(expression: str) -> Iterator[tuple[str, list[tuple[str, str]], bool]]:
    """Each metric that an expression asks for: its name, its matchers, and whether it asks for a range."""
    for name, inside, span in SELECTOR.findall(expression):
        matchers = MATCHER.findall(inside)
        assert ",".join(found[0] for found in MATCHER.finditer(inside)) == inside, inside
        yield name, matchers, bool(span)


def ensure_sense(expression: str) -> None:
    """What can be known without a Prometheus: names, labels, brackets, functions, and ranges where they belong."""
    assert expression.count("(") == expression.count(")")
    for name, matchers, is_range in selectors(expression):
        kind, labels = SAMPLES[name]
        assert {label for label, _ in matchers} <= labels | SCRAPE, name
        assert is_range or kind == "gauge", f"{name} only ever grows: ask for its rate"
        for label, value in matchers:
            if label == "outcome" and name == "vestibule_refreshes_total":
                assert value in metrics.REFRESHED
    around = SELECTOR.sub("0", expression)
    for by in re.findall(r"\bby \(([^)]*)\)", around):
        assert set(by.split(", ")) <= {label for _, labels in SAMPLES.values() for label in labels} | SCRAPE
    words = set(re.findall(r"[a-z_]+", re.sub(r"\bby \([^)]*\)", "by", around)))
    assert words <= FUNCTIONS | WORDS, words
    assert not re.search(r"[^\w\s().,/<>=*+-]", around), around


def test_the_names_are_those_of_the_registry() -> None:
    ours = {family.name for family in REGISTRY.collect() if family.name.startswith("vestibule_")}
    assert ours == {re.sub("_(total|bucket|sum|count)$", "", name) for name in SAMPLES}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_each_alert_asks_for_what_there_is_and_says_what_to_do(rule: dict[str, Any]) -> None:
    ensure_sense(rule["expr"])
    assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
    assert re.fullmatch(r"Vestibule[A-Z]\w+", rule["alert"])
    assert re.fullmatch(r"\d+[smh]", rule.get("for", "1m"))
    assert rule["labels"]["severity"] in {"page", "ticket"}
    assert rule["annotations"]["summary"].endswith(".")


def test_what_must_not_go_unseen_has_an_alert() -> None:
    assert len({rule["alert"] for rule in RULES}) == len(RULES)
    assert {name for rule in RULES for name, *_ in selectors(rule["expr"])} >= ALERTED


@pytest.mark.parametrize(
    "broken",
    [
        "vestibule_nothing > 0",
        'vestibule_redis_up{route="x"} == 0',
        "sum(vestibule_requests_total) > 0",
        "sum(rate(vestibule_requests_total[5m]) > 0",
        'sum(rate(vestibule_refreshes_total{outcome="healeded"}[5m])) > 0',
        "avarage(vestibule_redis_up) > 0",
        "sum by (rout) (vestibule_redis_up) > 0",
        "vestibule_redis_up; 1",
    ],
)
def test_expressions_without_sense_are_seen(broken: str) -> None:
    with pytest.raises((AssertionError, KeyError)):
        ensure_sense(broken)


def test_the_dashboard_asks_for_what_there_is_and_shows_all_of_it() -> None:
    panels = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
    expressions = [target["expr"] for panel in panels for target in panel["targets"]]
    for expression in expressions:
        ensure_sense(expression)
    shown = {re.sub("_(total|bucket)$", "", name) for one in expressions for name, *_ in selectors(one)}
    assert shown == {re.sub("_(total|bucket|sum|count)$", "", name) for name in SAMPLES}


def test_the_dashboard_can_be_provisioned() -> None:
    names = [variable["name"] for variable in DASHBOARD["templating"]["list"]]
    assert names == ["datasource", "instance"]
    sources = re.findall(r'"uid": "([^"]*)"', json.dumps(DASHBOARD["panels"]))
    assert set(sources) == {"${datasource}"}
    assert "id" not in DASHBOARD
    numbers = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(numbers)) == len(numbers)


def test_no_panel_lies_over_another() -> None:
    taken = [
        (x, y)
        for panel in DASHBOARD["panels"]
        for place in [panel["gridPos"]]
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(set(taken)) == len(taken)
    assert max(x for x, _ in taken) < 24


# Kubernetes


def manifest(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((COMPONENT / name).read_text())
    return found


def test_the_operator_gets_the_same_rules() -> None:
    rules = manifest("rules.yaml")
    assert (rules["apiVersion"], rules["kind"]) == ("monitoring.coreos.com/v1", "PrometheusRule")
    assert rules["spec"]["groups"] == GROUPS


def test_no_manifest_is_forgotten_by_the_component() -> None:
    listed = manifest("kustomization.yaml")["resources"]
    assert {*listed, "kustomization.yaml"} == {path.name for path in COMPONENT.iterdir()}


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl renders the component")
def test_with_the_component_prometheus_finds_the_port_of_each_pod(tmp_path: Path) -> None:
    overlay = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "namespace": "vestibule",
        "resources": [os.path.relpath(DEPLOY / "kubernetes" / "base", tmp_path)],
        "components": [os.path.relpath(COMPONENT, tmp_path)],
    }
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(overlay))
    rendered = subprocess.run(
        ["kubectl", "kustomize", tmp_path], check=True, capture_output=True, text=True, timeout=60
    )
    resources = {(one["kind"], one["metadata"]["name"]): one for one in yaml.safe_load_all(rendered.stdout)}
    deployment = resources["Deployment", "vestibule"]
    kubernetes_validate.validate(deployment, "1.34", strict=True)
    pod = deployment["spec"]["template"]
    ports = {port["name"]: port["containerPort"] for port in pod["spec"]["containers"][0]["ports"]}
    default = next(field.default for field in msgspec.structs.fields(Settings) if field.name == "metrics_port")
    assert ports == {"http": 8000, "metrics": default}
    monitor, policy = resources["PodMonitor", "vestibule"], resources["NetworkPolicy", "scrapers"]
    kubernetes_validate.validate(policy, "1.34", strict=True)
    [endpoint] = monitor["spec"]["podMetricsEndpoints"]
    [way_in] = policy["spec"]["ingress"]
    assert endpoint["port"] == way_in["ports"][0]["port"] == "metrics"
    for selector in (monitor["spec"]["selector"], policy["spec"]["podSelector"]):
        assert selector["matchLabels"].items() <= pod["metadata"]["labels"].items()
    assert {one["metadata"]["namespace"] for one in (monitor, policy)} == {"vestibule"}
