"""The pool: warm workers that answer, share arrays, and are replaced when they die. On a real Ray."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster_workers import HELD

from autoprune.cluster import Pool
from autoprune.errors import BadInput, SearchFailed, SpecError, TaskError
from autoprune.record import Evaluation, Request


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """One Ray with room for two pools: starting it is what takes the time."""
    import ray

    ray.init(address="local", num_cpus=3, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def pool(cluster: None) -> Iterator[Pool]:
    with Pool(HELD, {"factor": 3.0}, workers=2) as made:
        yield made


def collect(pool: Pool, count: int) -> dict[int, Evaluation]:
    """The next `count` evaluations, by trial."""
    found: dict[int, Evaluation] = {}
    end = time.monotonic() + 60
    while len(found) < count and time.monotonic() < end:
        found.update({request.trial: evaluation for request, evaluation in pool.wait(1.0)})
    return found


def test_answers_every_request(pool: Pool) -> None:
    pool.submit(Request(0, 0, {"x": 1.0}))
    pool.submit(Request(1, 0, {"x": 2.0}))
    assert pool.running == 2 and pool.room(0) == 0
    found = collect(pool, 2)
    assert {trial: evaluation.metrics["y"] for trial, evaluation in found.items()} == {0: 3.0, 1: 6.0}
    assert pool.running == 0 and pool.room(0) == pool.size == 2


def test_maps_a_method_over_all_workers_and_keeps_the_order(pool: Pool) -> None:
    assert pool.map("times", [(float(x), 2) for x in range(9)]) == [6.0 * x for x in range(9)]
    assert len(set(pool.map("where", [()] * 12))) == 2
    assert pool.map("times", []) == []
    with pytest.raises(TypeError):
        pool.map("times", [(1.0,)])


def test_refuses_more_than_it_has_room_for(pool: Pool) -> None:
    for trial in range(2):
        pool.submit(Request(trial, 0, {}))
    with pytest.raises(BadInput, match="all 2 workers are busy"):
        pool.submit(Request(2, 0, {}))
    assert len(collect(pool, 2)) == 2


def test_waits_no_longer_than_asked(pool: Pool) -> None:
    start = time.monotonic()
    assert pool.wait(5.0) == []  # nothing is under way
    assert time.monotonic() - start < 1.0


def test_arguments_of_ours_come_back_as_themselves(pool: Pool) -> None:
    with pytest.raises(SpecError) as caught:
        pool.call("complain")
    assert caught.value.problems == ("first problem", "second problem")


def test_what_evaluate_raises_is_a_failed_evaluation(pool: Pool) -> None:
    pool.submit(Request(7, 1, {"how": "raise"}))
    found = collect(pool, 1)[7]
    assert (found.state, found.rung) == ("failed", 1)
    assert found.reason == "ValueError: an odd choice"


def test_shared_arrays_reach_workers_read_only(pool: Pool) -> None:
    pool.share("shareable", "attach")
    assert pool.call("is_writable") is False
    assert pool.call("seen")[-1][0].sum() == sum(range(100_000))


def test_a_replaced_worker_gets_the_broadcasts_again_in_order(cluster: None) -> None:
    with Pool(HELD, {}, workers=1) as pool:
        pool.broadcast("attach", "first", 1)
        pool.broadcast("attach", "second", 2)
        process = pool.call("process")
        with pytest.raises(SearchFailed, match="a worker died"):
            pool.call("die")
        pool.submit(Request(0, 0, {"x": 1.0}))
        assert collect(pool, 1)[0].state == "finished"
        assert pool.call("seen") == [("first", 1), ("second", 2)]
        assert pool.call("process") != process


def test_a_worker_that_dies_while_it_is_set_up_is_replaced_once(cluster: None, tmp_path: Path) -> None:
    with Pool(HELD, {}, workers=1) as pool:
        pool.broadcast("attach", "first", 1)
        pool.broadcast("die_once", str(tmp_path / "flag"))
        assert (tmp_path / "flag").exists() and pool.call("seen") == [("first", 1)]
        with pytest.raises(SearchFailed, match="a worker died"):
            pool.broadcast("die")


def test_a_request_is_tried_again_after_a_crash(pool: Pool, tmp_path: Path) -> None:
    pool.submit(Request(3, 0, {"how": "die_once", "flag": str(tmp_path / "flag"), "x": 2.0}))
    found = collect(pool, 1)[3]
    assert found.state == "finished" and found.metrics["y"] == 6.0


def test_only_the_crashing_request_of_a_queue_fails_and_time_is_limited(cluster: None) -> None:
    with Pool(HELD, {}, workers=1, depth=3, trial_minutes=1 / 60) as pool:
        pool.submit(Request(0, 0, {"how": "sleep"}))
        pool.submit(Request(1, 0, {"x": 1.0}))
        pool.submit(Request(2, 0, {"how": "die"}))
        found = collect(pool, 3)
    assert {trial: e.state for trial, e in found.items()} == {0: "failed", 1: "finished", 2: "failed"}
    assert found[0].reason == "took longer than 1 s"
    assert found[0].seconds["total"] >= 1.0


def test_what_the_factory_raises_reaches_the_user(cluster: None) -> None:
    with pytest.raises(TaskError, match="the task has no data"):
        Pool(HELD, {"refuse": True}, workers=1)


def test_more_than_the_cluster_has_is_refused(cluster: None) -> None:
    with pytest.raises(BadInput, match="needs 1 CPU, 64 GPU, which no node has; there is 3 CPU"):
        Pool(HELD, {}, workers=1, gpus_per_worker=64)


def test_a_pool_starts_a_ray_of_its_own_and_ends_it() -> None:
    script = f"""
import ray
from autoprune.cluster import Pool
from autoprune.errors import BadInput

with Pool({HELD!r}, {{"factor": 5.0}}, workers=1) as pool:
    assert pool.size == 1 and pool.call("factor_twice") == 10.0
assert not ray.is_initialized()
try:
    Pool({HELD!r}, {{}}, address="127.0.0.1:1")
except BadInput as error:
    print(error)
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("cluster.address: got '127.0.0.1:1', no Ray cluster answers there")
