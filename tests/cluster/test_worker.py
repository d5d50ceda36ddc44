"""What a worker process holds, without the process."""

from __future__ import annotations

import pytest
import torch
from cluster_workers import HELD

from autoprune.cluster.worker import Worker
from autoprune.errors import TaskError


def test_it_makes_one_object_and_calls_its_methods() -> None:
    worker = Worker()
    worker.hold(HELD, {"factor": 4.0}, 1)
    worker.run("attach", "a", "b")
    assert worker.run("seen") == [("a", "b")] and worker.run("factor_twice") == 8.0
    assert torch.get_num_threads() == 1


def test_what_the_factory_raises_is_raised() -> None:
    with pytest.raises(TaskError, match="the task has no data"):
        Worker().hold(HELD, {"refuse": True}, 1)
