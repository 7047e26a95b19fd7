"""A page of metrics, as Prometheus reads it."""

from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from service import metrics
from tests.topologies import free_ports


class Page:
    """What a scrape brought."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.families = {one.name: one for one in text_string_to_metric_families(text) if one.name.startswith("vest")}

    @classmethod
    def now(cls) -> "Page":
        """That of this process."""
        metrics.flush()
        return cls(generate_latest().decode())

    def value(self, sample: str, **labels: str) -> float:
        """The sum of all samples of a name that have these labels."""
        assert any(sample.startswith(name) for name in self.families), sample
        samples = [one for family in self.families.values() for one in family.samples if one.name == sample]
        return sum(one.value for one in samples if labels.items() <= one.labels.items())

    def labels(self, family: str) -> set[tuple[tuple[str, str], ...]]:
        return {tuple(sorted(one.labels.items())) for one in self.families[family].samples}


def free_port() -> int:
    """Where nobody listens at this moment."""
    [port] = free_ports(1)
    return port
