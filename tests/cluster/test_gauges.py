"""Where a search stands, as Prometheus reads it from a node."""

from __future__ import annotations

import time
import urllib.request

import pytest

from autoprune.cluster import session
from autoprune.cluster.gauges import Gauges, figures_of

STATUS = {
    "trials": {"finished": 4, "failed": 1},
    "front_size": 2,
    "hypervolume": 0.25,
    "budget": {"minutes": {"spent": 1.5, "limit": 3.0}},
    "live": {"workers": {"small": {"busy": 3}, "large": {"busy": 1, "idle": 2}}, "utilisation": 0.9},
}


def test_workers_of_all_shapes_add_up() -> None:
    found = {(name, label): value for name, label, value in figures_of(STATUS)}
    assert (found["workers", "busy"], found["workers", "idle"]) == (4.0, 2.0)
    assert (found["trials", "failed"], found["spent", "minutes"], found["front_size", ""]) == (1.0, 1.5, 2.0)
    assert not any(name == "workers" for name, *_ in figures_of({**STATUS, "live": None}))


@pytest.mark.slow
def test_prometheus_reads_them() -> None:
    pytest.importorskip("opentelemetry")
    import ray

    session.start(1)
    try:
        gauges = Gauges("mine")
        (node,) = ray.nodes()
        url, end, text = f"http://127.0.0.1:{node['MetricsExportPort']}/metrics", time.monotonic() + 60, ""
        while "autoprune_hypervolume" not in text and time.monotonic() < end:
            gauges("evaluated", {"status": STATUS})
            time.sleep(1)
            try:
                text = urllib.request.urlopen(url, timeout=5).read().decode()
            except OSError:
                continue
        lines = [line for line in text.splitlines() if "autoprune_trials{" in line]
        assert any('run="mine"' in line and 'state="finished"' in line and "4.0" in line for line in lines)
    finally:
        ray.shutdown()
