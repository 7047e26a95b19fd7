"""The port of the metrics: never the public one, and served by a thread, so that a busy event loop is seen as well."""

import multiprocessing
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prometheus_client import REGISTRY, CollectorRegistry, Metric, start_http_server
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.registry import Collector

from service.settings import Settings

SHARED = "PROMETHEUS_MULTIPROC_DIR"
"""Where the client library of a worker looks for the folder, when it is imported."""
OF_A_PROCESS = re.compile(r"gauge_live\w*_(\d+)\.db")


class PortTaken(Exception):
    """Nobody can listen there; the text is for the operator."""


class Workers(Collector):
    """The numbers of all worker processes; what only the living can say leaves with them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files = MultiProcessCollector(None, str(folder))  # type: ignore[no-untyped-call]

    def collect(self) -> Iterator[Metric]:
        """Everything, put together."""
        seen = {int(found[1]) for path in self._folder.iterdir() if (found := OF_A_PROCESS.fullmatch(path.name))}
        for dead in seen - {child.pid for child in multiprocessing.active_children()}:
            mark_process_dead(dead, str(self._folder))  # type: ignore[no-untyped-call]
        yield from self._files.collect()  # type: ignore[no-untyped-call]


@contextmanager
def metrics_served(settings: Settings, workers: int) -> Iterator[None]:
    """Serves `/metrics` while the block runs, in which this process, or so many children of it, do the work.

    Raises `PortTaken`.
    """
    if not settings.metrics_port:
        yield
    elif workers == 1:
        _listen(settings, REGISTRY)
        yield
    else:
        with tempfile.TemporaryDirectory(prefix="vestibule-metrics-", ignore_cleanup_errors=True) as folder:
            registry = CollectorRegistry()
            registry.register(Workers(Path(folder)))
            _listen(settings, registry)
            os.environ[SHARED] = folder
            yield


def _listen(settings: Settings, registry: CollectorRegistry) -> None:
    """The thread ends with the process: what drains is still looked at."""
    try:
        start_http_server(settings.metrics_port, settings.metrics_host, registry)
    except OSError as error:
        place = f"{settings.metrics_host}:{settings.metrics_port}"
        advice = "choose another VESTIBULE_METRICS_PORT, or 0 for no metrics"
        raise PortTaken(f"cannot listen on {place} for metrics ({error.strerror}): {advice}") from None
