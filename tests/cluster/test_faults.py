"""Workers that hang, leak, leave or die, and pools that grow and shrink. On a real Ray."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cluster_workers import HELD

from autoprune.cluster import Pool
from autoprune.cluster import crew as crew_module
from autoprune.cluster import pool as pool_module
from autoprune.record import LOST, Evaluation, Request


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    import ray

    ray.init(address="local", num_cpus=3, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(autouse=True)
def looked_after_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "PULSE_SECONDS", 0.2)
    monkeypatch.setattr(crew_module, "IDLE_SECONDS", 0.5)


def answered(pool: Pool, *requests: Request) -> list[Evaluation]:
    """The evaluations of requests that are submitted together; answers to others may come in between."""
    for request in requests:
        pool.submit(request)
    found: dict[int, Evaluation] = {}
    end = time.monotonic() + 60
    while not {request.trial for request in requests} <= set(found) and time.monotonic() < end:
        found.update({request.trial: evaluation for request, evaluation in pool.wait(1.0)})
    return [found[request.trial] for request in requests]


def test_what_a_worker_that_hangs_or_leaves_was_at_work_on_is_done_by_another_one(
    cluster: None, tmp_path: Path
) -> None:
    with Pool(HELD, {}, workers=1, heartbeat_seconds=1.0) as pool:
        for number, how in enumerate(("hang_once", "leave_once")):
            choices: dict[str, Any] = {"how": how, "flag": str(tmp_path / how), "x": 2.0}
            before = pool.call("process")
            (found,) = answered(pool, Request(number, 0, choices))
            assert (found.state, found.metrics) == ("finished", {"y": 4.0})
            assert found.structure["process"] != before
            assert found.seconds[LOST] > 0
            assert (pool.size, pool.running, pool.room(0)) == (1, 0, 1)


def test_a_worker_that_leaks_is_replaced_between_requests(cluster: None) -> None:
    with Pool(HELD, {}, workers=1, memory="400MB") as pool:
        first, second = (answered(pool, Request(n, 0, {"how": "leak"}))[0] for n in range(2))
        assert first.state == second.state == "finished"
        end = time.monotonic() + 20
        while pool.call("process") == first.structure["process"] and time.monotonic() < end:
            pool.wait(0.1)
        assert answered(pool, Request(2, 0, {}))[0].structure["process"] != first.structure["process"]


def test_a_candidate_that_kills_every_worker_is_poison(cluster: None) -> None:
    with Pool(HELD, {}, workers=1) as pool:
        (found,) = answered(pool, Request(0, 0, {"how": "die"}))
        assert found.state == "failed" and found.is_poison and "the worker died" in found.reason
        assert (pool.size, pool.running) == (1, 0)
        (raised,) = answered(pool, Request(1, 0, {"how": "raise"}))
        assert raised.state == "failed" and not raised.is_poison


def test_a_pool_grows_with_the_queue_and_gives_back_what_idles(cluster: None) -> None:
    with Pool(HELD, {}, workers={"min": 1, "max": 3}) as pool:
        assert (pool.size, pool.room(0)) == (1, 1)
        pool.submit(Request(0, 0, {"how": "sleep", "seconds": 280}))
        end = time.monotonic() + 250  # a worker takes seconds to start, and many on a busy machine
        while pool.room(0) < 2 and time.monotonic() < end:
            pool.wait(0.2)
        assert (pool.size, pool.room(0)) == (3, 2)
        assert sorted(one["state"] for one in pool.workers()) == ["busy", "idle", "idle"]
        while pool.size > 1 and time.monotonic() < end:
            pool.wait(0.2)
        assert pool.size == 1 and pool.workers()[0]["trials"] == [0]


def test_each_rung_has_workers_of_its_own_shape(cluster: None) -> None:
    shapes = {"small": {"workers": 1}, "large": {"workers": 1, "cpus_per_worker": 2}}
    with Pool(HELD, {}, shapes=shapes, rungs=["small", "large"]) as pool:
        pool.submit(Request(0, 0, {"x": 1.0}))
        assert (pool.room(0), pool.room(1)) == (0, 1)
        (found,) = answered(pool, Request(1, 1, {"x": 1.0}))
        processes = {one["shape"]: one["process"] for one in pool.workers()}
        assert found.structure["process"] == processes["large"]


def test_two_pools_on_one_cluster_share_nothing(cluster: None) -> None:
    with Pool(HELD, {"factor": 3.0}, workers=1) as other:
        with Pool(HELD, {"factor": 5.0}, workers=1) as pool:
            pool.broadcast("attach", "mine")
            (found,) = answered(pool, Request(0, 0, {"x": 1.0}))
            (others,) = answered(other, Request(0, 0, {"x": 1.0}))
            assert (found.metrics, others.metrics) == ({"y": 5.0}, {"y": 3.0})
            assert (pool.call("seen"), other.call("seen")) == ([("mine",)], [])
        (after,) = answered(other, Request(1, 0, {"x": 1.0}))
        assert after.metrics == {"y": 3.0}
