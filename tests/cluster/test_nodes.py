"""Nodes and heads that are lost and come back: several Ray nodes on this machine."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from cluster_workers import HELD

import autoprune
from autoprune.cluster import Pool
from autoprune.errors import BadInput
from autoprune.record import Evaluation, Request

pytestmark = pytest.mark.slow  # starting nodes takes a while

PORT = 26000 + os.getpid() % 500
HEAD = {
    "num_cpus": 0,
    "include_dashboard": False,
    "node_ip_address": "127.0.0.1",
    "gcs_server_port": PORT,
}


def started(*nodes: dict[str, Any]) -> Any:
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args=HEAD)
    for node in nodes:
        made.add_node(node_ip_address="127.0.0.1", **node)
    return made


@pytest.fixture
def cluster() -> Iterator[Any]:
    made = started({"num_cpus": 1}, {"num_cpus": 1})
    yield made
    made.shutdown()


def answered(pool: Pool, *requests: Request) -> list[Evaluation]:
    for request in requests:
        pool.submit(request)
    return collected(pool, len(requests))


def collected(pool: Pool, count: int) -> list[Evaluation]:
    found: list[Evaluation] = []
    end = time.monotonic() + 90
    while len(found) < count and time.monotonic() < end:
        found += [evaluation for _, evaluation in pool.wait(1.0)]
    return sorted(found, key=lambda evaluation: evaluation.trial)


def test_another_node_tries_first_and_a_lost_one_is_done_without(cluster: Any, tmp_path: Path) -> None:
    with Pool(HELD, {}, workers=2, address=cluster.address) as pool:
        pool.share("shareable", "attach")
        choices: dict[str, Any] = {"how": "die_once", "flag": str(tmp_path / "flag")}
        (found,) = answered(pool, Request(0, 0, choices))
        assert found.structure["node"] != (tmp_path / "flag").read_text()

        pool.submit(Request(1, 0, {"how": "node"}))
        pool.submit(Request(2, 0, {"how": "node"}))
        cluster.remove_node(cluster.list_all_nodes()[-1], allow_graceful=False)
        assert [one.state for one in collected(pool, 2)] == ["finished"] * 2
        joined = cluster.add_node(num_cpus=1, node_ip_address="127.0.0.1")
        end = time.monotonic() + 60
        while time.monotonic() < end and not any(
            one["node"] == joined.node_id and one["state"] == "idle" for one in pool.workers()
        ):
            pool.wait(0.5)
            time.sleep(0.1)
        found = answered(pool, *(Request(n, 0, {"how": "node"}) for n in (3, 4)))
        assert joined.node_id in {one.structure["node"] for one in found}


APART = f"""
import sys
from ray.cluster_utils import Cluster
made = Cluster(initialize_head=True, head_node_args={{**{HEAD!r}, "num_cpus": 1}})
print("up", flush=True)
sys.stdin.read()
made.shutdown()
"""


def started_apart() -> subprocess.Popen[str]:
    """A head of another process: Ray ends a process that holds one which is killed."""
    return subprocess.Popen(
        [sys.executable, "-c", APART], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def test_a_head_that_comes_back_is_joined_again() -> None:
    said: list[str] = []
    first, another = started_apart(), None
    assert first.stdout is not None and any(line == "up\n" for line in first.stdout)
    try:
        with Pool(HELD, {"factor": 3.0}, workers=1, address=f"127.0.0.1:{PORT}", warn=said.append) as pool:
            pool.broadcast("attach", "kept")
            pool.submit(Request(0, 0, {"how": "sleep", "seconds": 5.0, "x": 1.0}))
            for process in [*psutil.Process(first.pid).children(recursive=True), first]:
                process.kill()
            another = started_apart()
            (found,) = collected(pool, 1)
            assert found.metrics == {"y": 3.0} and pool.call("seen") == [("kept",)]
    finally:
        if another is not None:
            another.communicate("", timeout=60)
    assert "is gone; waiting" in said[-2] and "is back; 1 evaluations begin anew" in said[-1]


def test_what_no_node_has_is_refused_with_what_there_is(cluster: Any) -> None:
    with pytest.raises(BadInput, match="needs 1 CPU, 1 pi, which no node has; there is .*1 CPU"):
        Pool(HELD, {}, workers=1, resources={"pi": 1}, address=cluster.address)
    with pytest.raises(BadInput, match="3 workers need 3 CPU, 2 are free"):
        Pool(HELD, {}, workers=3, address=cluster.address)
    with pytest.raises(BadInput, match="which no node has"):
        Pool(HELD, {}, workers=1, cpus_per_worker=2, address=cluster.address)


def test_latency_is_measured_where_the_device_is_and_modelled_where_no_node_has_it(
    tmp_path: Path, tiny_spec: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUTOPRUNE_CACHE", str(tmp_path / "cache"))
    made = started({"num_cpus": 1}, {"num_cpus": 1, "resources": {"pi4": 1}})
    target = {**tiny_spec["target"], "resource": "pi4"}
    tiny_spec |= {"target": target, "train": {"epochs": 0}, "search": {"rungs": [0], "profile": "costs"}}
    tiny_spec |= {"space": {"prune": {"ratio": [0.0, 0.5]}}, "budget": {"trials": 3}}
    said: list[str] = []

    def listen(kind: str, payload: dict[str, Any]) -> None:
        said.extend([payload["what"]] if kind == "warning" else [])

    def sources(study: Any) -> set[str]:
        return {trial.latest.measurement["sources"]["latency_ms"] for trial in study.results}

    try:
        tiny_spec["cluster"] = {"address": made.address, "workers": 2}
        with pytest.raises(BadInput, match="2 workers need 2 CPU, 1 are free"):
            autoprune.search(tiny_spec, run=tmp_path / "a")
        tiny_spec["cluster"]["workers"] = 1
        study = autoprune.search(tiny_spec, run=tmp_path / "a", on_event=listen)
        assert sources(study) == {"measured on a node with pi4"} and "modelled" not in study.status()
        assert not any("pi4" in line for line in said)
        target["resource"] = "pi5"
        study = autoprune.search(tiny_spec, run=tmp_path / "b", on_event=listen)
        assert sources(study) == {
            "modelled: of pi5 0 networks measured there before; the worker's processor stands in"
        }
        assert study.status()["modelled"]["latency_ms"]["trials"] == 3
        assert "no node has pi5: latency there is modelled, not measured" in said
    finally:
        made.shutdown()
